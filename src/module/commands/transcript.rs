//! A session as JSON: what MEM.SESSION EXPORT writes and IMPORT reads.
//!
//! ```json
//! {
//!   "id": "chat-7",
//!   "total_tokens": 12,
//!   "metadata": {"channel": "web"},
//!   "summary": {"text": "…", "tokens": 40, "turns": 25, "at": 1700000000000, "model": null},
//!   "fields": {"topic": "holidays"},
//!   "history": [
//!     {"id": "1700000000000-0", "role": "user", "speaker": "Ann", "content": "Hi", "tokens": 1, "timestamp": 1700000000000,
//!      "importance": 0.5, "outcome": "re_engaged", "tags": ["x"], "metadata": {}}
//!   ]
//! }
//! ```
//! What is not set is not there, so that the same session always gives the same text. Importing an exported text and exporting it again under the same
//! name gives the same bytes. A person may leave out everything but `history` with `role` and `content`: ids are given, tokens counted, the time is that of the import.
//! `total_tokens` is the sum of the turns' and is not read. A history of pairs `{"user", "assistant", "tokens", "timestamp"}`, which others write, is read too.

use engram_memory::{Entry, MemoryId, Meta, NewSession, NewTurn, Session, Summary, limits};
use serde_json::{Map, Value as Json, json};

use super::fields::{number, string, strings, whole, wrong};
use crate::reply::Error;

/// What a text says: the session without its turns, and those.
pub struct Transcript {
    pub session: NewSession,
    pub turns: Vec<NewTurn>,
}

/// The text of a session.
pub fn write(name: &str, session: &Session, turns: Vec<(usize, Entry)>) -> String {
    let total: u64 = turns.iter().map(|(_, turn)| u64::from(turn.tokens)).sum();
    // What the summary covers is counted among the turns that are written.
    let covered = turns.iter().filter(|(n, _)| *n < session.covered()).count();
    let summary = session.summary().map_or(Json::Null, |summary| {
        json!({
            "text": &*summary.text, "tokens": summary.tokens, "turns": covered, "at": summary.at,
            "model": summary.model.as_deref(),
        })
    });
    let fields: Map<String, Json> =
        session.fields().iter().map(|(name, value)| (String::from(&**name), Json::from(&**value))).collect();
    let whole = json!({
        "id": name,
        "total_tokens": total,
        "metadata": session.meta().cloned().unwrap_or_default(),
        "summary": summary,
        "fields": fields,
        "history": turns.into_iter().map(|(_, turn)| turn_json(turn)).collect::<Vec<_>>(),
    });
    // JSON with text keys always has a text.
    serde_json::to_string_pretty(&whole).unwrap_or_default()
}

fn turn_json(turn: Entry) -> Json {
    let mut object = Map::new();
    object.insert("id".into(), turn.id.to_string().into());
    object.insert("role".into(), turn.role.as_deref().unwrap_or_default().into());
    if let Some(speaker) = turn.speaker {
        object.insert("speaker".into(), String::from(speaker).into());
    }
    object.insert("content".into(), String::from(turn.content).into());
    object.insert("tokens".into(), turn.tokens.into());
    object.insert("timestamp".into(), turn.at.into());
    object.insert("importance".into(), turn.importance.into());
    if let Some(outcome) = turn.outcome {
        object.insert("outcome".into(), String::from(outcome).into());
    }
    if !turn.tags.is_empty() {
        object.insert("tags".into(), turn.tags.into_iter().map(String::from).collect());
    }
    if let Some(meta) = turn.meta {
        object.insert("metadata".into(), Json::Object(meta));
    }
    Json::Object(object)
}

/// Reads a text. Errors say which field of which turn is wrong, and what it takes.
pub fn read(json: Meta) -> Result<Transcript, Error> {
    let mut session = NewSession::default();
    let mut turns = None;
    for (name, value) in json {
        match name.as_str() {
            "id" => drop(string(&name, value)?),
            "total_tokens" => drop(whole(&name, &value)?),
            "metadata" => session.meta = object(&name, value)?.filter(|meta| !meta.is_empty()),
            "summary" => session.summary = summary(&name, value)?,
            "fields" => {
                for (field, value) in object(&name, value)?.unwrap_or_default() {
                    session.fields.push((field.as_str().into(), string(&field, value)?.into()));
                }
            }
            "history" => {
                let Json::Array(items) = value else { return Err(wrong(&name, "an array of turns", &value)) };
                turns = Some(history(items)?);
            }
            other => {
                return Err(Error::err(format!(
                    "unknown field '{other}' of a session; accepted: id, total_tokens, metadata, summary, fields, history"
                )));
            }
        }
    }
    let turns = turns.ok_or_else(|| Error::err("the field 'history' is missing: an array of turns"))?;
    Ok(Transcript { session, turns })
}

fn object(name: &str, value: Json) -> Result<Option<Meta>, Error> {
    match value {
        Json::Null => Ok(None),
        Json::Object(map) => Ok(Some(map)),
        other => Err(wrong(name, "an object", &other)),
    }
}

fn summary(name: &str, value: Json) -> Result<Option<Summary>, Error> {
    let text_only = |text: String| Summary { text: text.into(), tokens: 0, covered: 0, at: 0, model: None };
    let map = match value {
        Json::Null => return Ok(None),
        // Of unknown turns: it stands in front of all.
        Json::String(text) => return Ok(Some(text_only(text)).filter(|summary| !summary.text.trim().is_empty())),
        Json::Object(map) => map,
        other => return Err(wrong(name, "an object, a string or null", &other)),
    };
    let mut summary = text_only(String::new());
    for (name, value) in map {
        match name.as_str() {
            "text" => summary.text = string(&name, value)?.into(),
            "tokens" => summary.tokens = small(&name, &value)?,
            "turns" => summary.covered = small(&name, &value)? as usize,
            "at" => summary.at = whole(&name, &value)?,
            "model" if value.is_null() => {}
            "model" => summary.model = Some(string(&name, value)?.into()),
            other => {
                return Err(Error::err(format!(
                    "unknown field '{other}' of the summary; accepted: text, tokens, turns, at, model"
                )));
            }
        }
    }
    Ok(Some(summary))
}

fn small(name: &str, value: &Json) -> Result<u32, Error> {
    u32::try_from(whole(name, value)?).map_err(|_| wrong(name, "a whole number below 2^32", value))
}

fn history(items: Vec<Json>) -> Result<Vec<NewTurn>, Error> {
    if items.len() > limits::BATCH {
        return Err(Error::err(format!("a history of {} turns: at most {} are imported", items.len(), limits::BATCH)));
    }
    let mut turns = Vec::with_capacity(items.len());
    for (n, item) in items.into_iter().enumerate() {
        let at = |error: Error| Error::new(error.code, format!("turn {}: {}", n + 1, error.message));
        let Json::Object(map) = item else { return Err(at(wrong("history", "objects", &item))) };
        if map.contains_key("role") { turns.push(turn(map).map_err(at)?) } else { pair(map, &mut turns).map_err(at)? }
    }
    Ok(turns)
}

fn turn(map: Meta) -> Result<NewTurn, Error> {
    let mut turn = NewTurn { awaits: true, ..NewTurn::default() };
    for (name, value) in map {
        match name.as_str() {
            "id" => turn.id = Some(string(&name, value)?.parse::<MemoryId>()?),
            "role" => turn.role = string(&name, value)?,
            "speaker" => turn.speaker = Some(string(&name, value)?),
            "content" => turn.content = string(&name, value)?,
            "tokens" => turn.tokens = small(&name, &value)?,
            "timestamp" => turn.at = Some(whole(&name, &value)?),
            "importance" => turn.importance = Some(number(&name, &value)?),
            "outcome" => turn.outcome = Some(string(&name, value)?),
            "tags" => turn.tags = strings(&name, value)?,
            "metadata" => turn.meta = object(&name, value)?.filter(|meta| !meta.is_empty()),
            other => {
                return Err(Error::err(format!(
                    "unknown field '{other}'; accepted: id, role, speaker, content, tokens, timestamp, importance, outcome, tags, metadata"
                )));
            }
        }
    }
    Ok(turn)
}

/// Two turns that somebody else's export has as one.
fn pair(map: Meta, turns: &mut Vec<NewTurn>) -> Result<(), Error> {
    let (mut said, mut at) = ([None, None], None);
    for (name, value) in map {
        match name.as_str() {
            "user" => said[0] = Some(string(&name, value)?),
            "assistant" => said[1] = Some(string(&name, value)?),
            // Of both together: they are counted apart.
            "tokens" => drop(whole(&name, &value)?),
            "timestamp" => at = Some(whole(&name, &value)?),
            other => {
                return Err(Error::err(format!(
                    "unknown field '{other}': a turn has role and content, a pair of turns user and assistant, tokens and timestamp"
                )));
            }
        }
    }
    if said == [None, None] {
        return Err(Error::err("neither role and content nor user and assistant are there"));
    }
    for (role, content) in ["user", "assistant"].into_iter().zip(said) {
        if let Some(content) = content {
            turns.push(NewTurn { role: role.into(), content, at, awaits: true, ..NewTurn::default() });
        }
    }
    Ok(())
}

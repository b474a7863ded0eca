//! Between a memory of the engine and its fields as clients see them: options of MEM.STORE, JSON of MEM.MSTORE, maps of MEM.GET.

use std::borrow::Cow;

use engram_memory::{Dedup, Entry, Filter, Meta, NewMemory, Precision, Tier, Ttl, Update, Vectors};
use serde_json::Value as Json;

use super::store::ttl;
use crate::grammar::Parsed;
use crate::reply::{Error, Value};

/// The memory that the options of MEM.STORE describe.
pub fn from_options(args: &Parsed, content: &str) -> Result<NewMemory, Error> {
    let text = |name: &str| args.opt_text(name).map(str::to_owned);
    Ok(NewMemory {
        tier: args.opt_text("tier").map(Tier::parse).transpose()?,
        id: args.opt_id("id"),
        content: content.to_owned(),
        vectors: vectors(args).unwrap_or_default(),
        importance: args.opt_f64("importance"),
        confidence: args.opt_f64("confidence"),
        kind: text("type"),
        outcome: text("outcome"),
        session: text("session"),
        speaker: text("speaker"),
        role: None,
        source: text("source"),
        from: args.ids("from").to_vec(),
        at: args.opt_u64("at"),
        ttl: ttl(args),
        pinned: args.flag("pin"),
        tags: owned(args.list("tags")),
        meta: args.object("meta").cloned(),
        supersedes: args.opt_id("supersedes"),
        dedup: match args.opt_f64("dedup") {
            Some(similarity) => Dedup::Similar(similarity),
            None if args.flag("nodedup") => Dedup::Off,
            None => Dedup::Default,
        },
        ..NewMemory::default()
    })
}

/// The changes that the options of MEM.UPDATE describe. An empty text unsets an optional field.
pub fn update_from_options(args: &Parsed) -> Result<Update, Error> {
    let text = |name: &str| args.opt_text(name).map(|t| (!t.is_empty()).then(|| t.to_owned()));
    let lifetime = ttl(args);
    let content = args.opt_text("content").map(str::to_owned);
    let vectors = match vectors(args) {
        Some(vectors) => Some(vectors),
        // New content without an embedding: the old vectors are of the old text.
        None => args.flag("noembed").then_some(Vectors::None),
    };
    Ok(Update {
        content,
        vectors,
        tier: args.opt_text("tier").map(Tier::parse).transpose()?,
        importance: args.opt_f64("importance"),
        confidence: args.opt_f64("confidence"),
        kind: args.opt_text("type").map(str::to_owned),
        outcome: text("outcome"),
        session: text("session"),
        speaker: text("speaker"),
        role: None,
        source: text("source"),
        from: args.given("from").then(|| args.ids("from").to_vec()),
        at: args.opt_u64("at"),
        ttl: (lifetime != Ttl::Tier).then_some(lifetime),
        pinned: match (args.flag("pin"), args.flag("unpin")) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
        tags: args.given("tags").then(|| owned(args.list("tags"))),
        meta: args.object("meta").map(|meta| (!meta.is_empty()).then(|| meta.clone())),
        tokens: None,
    })
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn vectors(args: &Parsed) -> Option<Vectors> {
    args.vector().map(|vector| Vectors::Given(vector.to_vec()))
}

fn kind_of(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}

/// Fields that MEM.MSTORE takes; those that MEM.GET shows and the server makes are refused with a reason.
const JSON_FIELDS: &str = "content, id, tier, type, importance, confidence, outcome, session, speaker, role, source, from, at, ttl, persist, pinned, tags, meta, supersedes, vector, noembed, dedup";

/// The memory that a JSON object describes, and whether it is not to be embedded.
pub fn from_json(object: &Meta) -> Result<(NewMemory, bool), Error> {
    let mut memory = NewMemory::default();
    let mut noembed = false;
    let mut content = None;
    for (name, value) in object.clone() {
        match name.as_str() {
            "content" => content = Some(string(&name, value)?),
            "id" => memory.id = Some(string(&name, value)?.parse()?),
            "tier" => memory.tier = Some(Tier::parse(&string(&name, value)?)?),
            "type" => memory.kind = Some(string(&name, value)?),
            "importance" => memory.importance = Some(number(&name, &value)?),
            "confidence" => memory.confidence = Some(number(&name, &value)?),
            "outcome" => memory.outcome = Some(string(&name, value)?),
            "session" => memory.session = Some(string(&name, value)?),
            "speaker" => memory.speaker = Some(string(&name, value)?),
            "role" => memory.role = Some(string(&name, value)?),
            "source" => memory.source = Some(string(&name, value)?),
            "from" => memory.from = strings(&name, value)?.iter().map(|id| id.parse()).collect::<Result<_, _>>()?,
            "at" => memory.at = Some(whole(&name, &value)?),
            "ttl" => memory.ttl = Ttl::Seconds(whole(&name, &value)?),
            "persist" => {
                if boolean(&name, &value)? {
                    memory.ttl = Ttl::Persist;
                }
            }
            "pinned" => memory.pinned = boolean(&name, &value)?,
            "tags" => memory.tags = strings(&name, value)?,
            "meta" => match value {
                Json::Object(meta) => memory.meta = Some(meta),
                other => return Err(wrong(&name, "an object", &other)),
            },
            "supersedes" => memory.supersedes = Some(string(&name, value)?.parse()?),
            "vector" => memory.vectors = Vectors::Given(floats(&name, value)?),
            "noembed" => noembed = boolean(&name, &value)?,
            "dedup" => {
                memory.dedup = match &value {
                    Json::Bool(false) => Dedup::Off,
                    Json::Bool(true) => Dedup::Default,
                    other => Dedup::Similar(number(&name, other)?),
                }
            }
            other => return Err(Error::err(format!("unknown field '{other}'; accepted: {JSON_FIELDS}"))),
        }
    }
    memory.content = content.ok_or_else(|| Error::err("the field 'content' is missing"))?;
    Ok((memory, noembed))
}

pub fn wrong(name: &str, wanted: &str, got: &Json) -> Error {
    Error::err(format!("the field '{name}' takes {wanted}, not {}", kind_of(got)))
}

pub fn string(name: &str, value: Json) -> Result<String, Error> {
    match value {
        Json::String(text) => Ok(text),
        other => Err(wrong(name, "a string", &other)),
    }
}

pub fn strings(name: &str, value: Json) -> Result<Vec<String>, Error> {
    match value {
        Json::Array(items) => items.into_iter().map(|item| string(name, item)).collect(),
        other => Err(wrong(name, "an array of strings", &other)),
    }
}

pub fn number(name: &str, value: &Json) -> Result<f64, Error> {
    value.as_f64().ok_or_else(|| wrong(name, "a number", value))
}

pub fn whole(name: &str, value: &Json) -> Result<u64, Error> {
    value.as_u64().ok_or_else(|| wrong(name, "a whole number from 0", value))
}

fn boolean(name: &str, value: &Json) -> Result<bool, Error> {
    value.as_bool().ok_or_else(|| wrong(name, "true or false", value))
}

fn floats(name: &str, value: Json) -> Result<Vec<f32>, Error> {
    let Json::Array(items) = value else { return Err(wrong(name, "an array of numbers", &value)) };
    items.iter().map(|item| number(name, item).map(|n| n as f32)).collect()
}

/// Names and values, as a reply has them.
type Fields = Vec<(Cow<'static, str>, Value)>;

fn push(fields: &mut Fields, name: &'static str, value: impl Into<Value>) {
    fields.push((Cow::Borrowed(name), value.into()));
}

/// The fields of a found memory, in the order of the contract. Unset ones are absent; `more` comes behind them.
pub fn result_fields(entry: Entry, ranked: Option<(f64, Option<f64>)>, more: Vec<(&'static str, Value)>) -> Value {
    let mut fields = Fields::with_capacity(16 + more.len());
    push(&mut fields, "id", entry.id.to_string());
    if let Some((score, similarity)) = ranked {
        push(&mut fields, "score", rounded(score));
        push(&mut fields, "similarity", similarity.map_or(Value::Null, rounded));
    }
    common(&mut fields, entry);
    more.into_iter().for_each(|(name, value)| push(&mut fields, name, value));
    Value::Map(fields)
}

/// The fields of a memory that links lead to: the id, what is said of the link, and those of a result.
pub fn related_fields(entry: Entry, link: Vec<(&'static str, Value)>) -> Value {
    let mut fields = Fields::with_capacity(16 + link.len());
    push(&mut fields, "id", entry.id.to_string());
    link.into_iter().for_each(|(name, value)| push(&mut fields, name, value));
    common(&mut fields, entry);
    Value::Map(fields)
}

/// A score with six decimals: what lies behind them is noise of the 32-bit products.
pub fn rounded(score: f64) -> Value {
    Value::Double((score * 1e6).round() / 1e6)
}

fn common(fields: &mut Fields, entry: Entry) {
    push(fields, "tier", entry.tier.name());
    push(fields, "type", String::from(entry.kind));
    push(fields, "content", String::from(entry.content));
    push(fields, "importance", entry.importance);
    push(fields, "confidence", entry.confidence);
    push(fields, "at", entry.at);
    for (name, text) in [
        ("session", entry.session),
        ("speaker", entry.speaker),
        ("role", entry.role),
        ("source", entry.source),
        ("outcome", entry.outcome),
    ] {
        if let Some(text) = text {
            push(fields, name, String::from(text));
        }
    }
    if let Some(passage) = entry.passage {
        push(fields, "doc", String::from(passage.doc));
        push(fields, "position", u64::from(passage.position));
        push(fields, "total", u64::from(passage.total));
        push(fields, "start", passage.start);
        push(fields, "end", passage.end);
    }
    if entry.tokens > 0 {
        push(fields, "tokens", u64::from(entry.tokens));
    }
    if !entry.tags.is_empty() {
        push(fields, "tags", Value::Array(entry.tags.into_iter().map(|tag| Value::from(String::from(tag))).collect()));
    }
    if let Some(meta) = entry.meta {
        push(fields, "meta", Json::Object(meta).to_string());
    }
    if let Some(id) = entry.supersedes {
        push(fields, "supersedes", id.to_string());
    }
    if let Some(superseded) = entry.superseded {
        let by = vec![("by", Value::from(superseded.by.to_string())), ("at", Value::from(superseded.at))];
        push(fields, "superseded", Value::map(by));
    }
}

/// The ids of what a memory was made from, if it was made from any.
pub fn from_field(entry: &Entry) -> Option<(&'static str, Value)> {
    let ids = entry.from.iter().map(|id| Value::from(id.to_string())).collect();
    (!entry.from.is_empty()).then_some(("from", Value::Array(ids)))
}

/// Everything about a memory, for MEM.GET; with how its vectors are kept, if it has some.
pub fn all_fields(entry: Entry, precision: Option<Precision>) -> Value {
    let mut fields = Fields::with_capacity(24);
    push(&mut fields, "id", entry.id.to_string());
    let from = from_field(&entry);
    let Entry { created, entered, accessed, uses, expires, pinned, windows, template, heat, .. } = entry;
    common(&mut fields, entry);
    from.into_iter().for_each(|(name, value)| push(&mut fields, name, value));
    push(&mut fields, "created", created);
    push(&mut fields, "entered", entered);
    push(&mut fields, "accessed", accessed);
    push(&mut fields, "uses", uses);
    if let Some(expires) = expires {
        push(&mut fields, "expires", expires);
    }
    push(&mut fields, "pinned", i64::from(pinned));
    push(&mut fields, "heat", heat.name());
    push(&mut fields, "vectors", u64::from(windows));
    if let Some(precision) = precision {
        push(&mut fields, "precision", precision.name());
    }
    push(&mut fields, "template", u64::from(template));
    Value::Map(fields)
}

/// The filter that an option gives, checked against the space's fields.
pub fn filter(space: &engram_memory::Space, args: &Parsed) -> Result<Option<Filter>, Error> {
    Ok(args.opt_text("filter").map(|text| space.filter(text)).transpose()?)
}

/// A filter on a key that does not exist is still read: a broken one is an error everywhere.
pub fn check_filter(args: &Parsed) -> Result<(), Error> {
    args.opt_text("filter").map_or(Ok(()), |text| Filter::parse(text).map(drop).map_err(Error::from))
}

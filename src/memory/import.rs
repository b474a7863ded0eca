//! Taking the lines that `export` gives, or that a person has written or changed.
//!
//! The lines of one call are one decision: all of it is applied or nothing. They are read in order against the space as it stands and what the call has
//! decided so far, which is kept beside it ([`Import`]); a copy of the space to try it on would cost its indexes for every page.
//!
//! **What stands already.** A line that says what the space holds is passed over, so that a call may be repeated after its reply was lost. A memory, session,
//! summary or document that is there and is another is an error, or with `replace` gives its place: a memory whole (a turn keeps its place in its session), a
//! document with its chunks, the record of a session with the order of its turns, which then begins anew (the turns themselves stay). Settings are taken by a space
//! that holds nothing, or with `replace`; elsewhere they must agree. The kind of the vectors must agree always. Counters take the larger number of each.
//!
//! **What is left out.** What a line does not say is as it is in the memory that stands, or as MEM.STORE has it by default: times, importance, confidence, tier, type,
//! lifetime (`expires` null = none), and the id. A memory without vectors waits for them unless `noembed` is true, or the space holds the caller's own. Texts,
//! lists, META and flags that are left out are unset. `vector` takes numbers, for one that no model made.
//!
//! **Nothing gives way.** An import evicts nothing: neither what it brings, nor what is there. If a tier or `max-memory` has no room, the call is refused and the
//! sentence names the setting; settings stand in the first line, so they hold for all that follow. What a session holds takes no place, as ever.
//!
//! **Links** come behind the memories at their ends. A memory that gives its place to another of its id leaves that one its links.
//!
//! **Aged lines.** A session whose time is over is passed over; its turns come as the memories that they are. So is a link of which an end is not there (any longer).
//!
//! Rejected: a patch where a memory differs (it cannot say that a memory waits for vectors again, nor when it was made), passing over what differs (nobody
//! would know), taking what differs without being told (a wrong key, and a space is overwritten).

use crate::base64;
use crate::document::{Document, STAGED};
use crate::effect::{Counters, Effect, Removal};
use crate::entry::{Entry, Marks, Meta, Passage, Superseded, check_time};
use crate::error::nearest;
use crate::export::FORMAT;
use crate::graph::{Link, too_many};
use crate::heat::Heat;
use crate::rows::{Precision, Rows, Vector};
use crate::session::{SessionPatch, Summary, check_role};
use crate::settings::Settings;
use crate::snapshot::{check_dimension, no_direction, normalised};
use crate::space::{Space, check_kind, check_vectors_of, is_staged};
use crate::store::distinct;
use crate::tier::TIERS;
use crate::tokens::Signs;
use crate::{Error, MemoryId, Millis, Result, Tier, limits};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What an import came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Lines that changed the space.
    pub written: usize,
    /// Lines that said what it held already.
    pub unchanged: usize,
}

const KINDS: [&str; 8] = ["space", "session", "turn", "summary", "document", "memory", "link", "counters"];
const SPACE: &[&str] = &["format", "model", "dimensions", "precision", "last_id", "settings"];
const SESSION: &[&str] = &["id", "created", "expires", "metadata", "fields"];
const SUMMARY: &[&str] = &["session", "text", "tokens", "turns", "at", "model"];
const DOCUMENT: &[&str] = &["name", "type", "source", "at", "created", "bytes", "tokens", "chunks", "meta"];
const MEMORY: &[&str] = &[
    "id",
    "tier",
    "type",
    "session",
    "role",
    "speaker",
    "source",
    "outcome",
    "content",
    "importance",
    "confidence",
    "at",
    "doc",
    "position",
    "total",
    "start",
    "end",
    "tokens",
    "tags",
    "meta",
    "from",
    "supersedes",
    "superseded",
    "created",
    "entered",
    "expires",
    "own_expiry",
    "read",
    "summed",
    "linked",
    "pinned",
    "accessed",
    "uses",
    "heat",
    "precision",
    "template",
    "noembed",
    "vectors",
    "vector",
    "token_vectors",
];
const SUPERSEDED: &[&str] = &["by", "at"];
const LINK: &[&str] = &["from", "to", "rel", "weight", "at", "reason"];
const COUNTERS: &[&str] =
    &["hits", "misses", "stores", "duplicates", "evictions", "promotions", "expirations", "merges"];

/// The members of an object, each read once by name.
struct Members<'a> {
    what: &'static str,
    map: &'a Map<String, Value>,
}

impl<'a> Members<'a> {
    /// Errors: no object, or a name that is none of `names`.
    fn new(what: &'static str, names: &[&str], value: &'a Value) -> Result<Members<'a>> {
        let Value::Object(map) = value else {
            return Err(Error::new(format!("'{what}' takes an object, not {}", kind_of(value))));
        };
        if let Some(unknown) = map.keys().find(|name| !names.contains(&name.as_str())) {
            let shown: String = unknown.chars().take(64).collect();
            let hint = match nearest(unknown, names.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("accepted: {}", names.join(", ")),
            };
            return Err(Error::new(format!("unknown field '{shown}' of a {what}; {hint}")));
        }
        Ok(Members { what, map })
    }

    fn wrong(&self, name: &str, wanted: &str) -> Error {
        let got = self.map.get(name).map_or("nothing", kind_of);
        Error::new(format!("the field '{name}' of a {} takes {wanted}, not {got}", self.what))
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// What `read` makes of a value; None if it is not there. Errors: it makes nothing of it.
    fn read<T>(&self, name: &str, wanted: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        self.get(name).map(|value| read(value).ok_or_else(|| self.wrong(name, wanted))).transpose()
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.read(name, "a string", Value::as_str)
    }

    fn boxed(&self, name: &str) -> Result<Option<Box<str>>> {
        Ok(self.text(name)?.map(Box::from))
    }

    fn needed(&self, name: &str) -> Result<&'a str> {
        self.text(name)?.ok_or_else(|| Error::new(format!("the field '{name}' of a {} is missing", self.what)))
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        self.read(name, "a number", Value::as_f64)
    }

    fn whole(&self, name: &str) -> Result<Option<u64>> {
        self.read(name, "a whole number from 0", Value::as_u64)
    }

    fn small(&self, name: &str) -> Result<Option<u32>> {
        self.read(name, "a whole number below 2^32", |value| u32::try_from(value.as_u64()?).ok())
    }

    fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.read(name, "true or false", Value::as_bool)
    }

    fn id(&self, name: &str) -> Result<Option<MemoryId>> {
        self.text(name)?.map(str::parse).transpose()
    }

    fn texts(&self, name: &str) -> Result<Vec<&'a str>> {
        let texts = |value: &'a Value| value.as_array()?.iter().map(Value::as_str).collect();
        Ok(self.read(name, "an array of strings", texts)?.unwrap_or_default())
    }

    fn object(&self, name: &str) -> Result<Option<&'a Meta>> {
        self.read(name, "an object", Value::as_object)
    }

    /// A time that null says is never; None if nothing is said.
    fn expiry(&self, name: &str) -> Result<Option<Option<Millis>>> {
        if self.map.get(name).is_some_and(Value::is_null) { Ok(Some(None)) } else { Ok(self.whole(name)?.map(Some)) }
    }

    fn bytes(&self, name: &str, text: &str) -> Result<Vec<u8>> {
        base64::decode(text).ok_or_else(|| self.wrong(name, "bytes in Base64"))
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "this number",
        Value::String(_) => "this string",
        Value::Array(_) => "this array",
        Value::Object(_) => "this object",
    }
}

/// What the call has decided by now about a session.
#[derive(Default)]
struct Talk {
    /// The record that is made; None: the one that stands.
    new: Option<SessionPatch>,
    /// When the record ends.
    expires: Option<Millis>,
    /// Turns that it has in the space and keeps.
    standing: usize,
    /// Turns that come behind them, in order.
    added: Vec<MemoryId>,
    is_added: BTreeSet<MemoryId>,
    /// Turns that stand and are put anew, in their places.
    renewed: BTreeSet<MemoryId>,
    summary: Option<Summary>,
    new_summary: bool,
}

impl Talk {
    fn patch(&self, name: &str) -> SessionPatch {
        SessionPatch {
            name: name.into(),
            created: 0,
            expires: self.expires,
            fields: Vec::new(),
            meta: None,
            summary: None,
        }
    }
}

/// What the call has decided by now about a document.
#[derive(Default)]
struct Shown {
    /// The record that is made; None: the one that stands.
    new: Option<Document>,
    chunks: usize,
    /// Those of them that this call puts.
    put: Vec<MemoryId>,
    /// Whether it went with its last chunk.
    gone: bool,
}

/// A memory as its line says it.
struct Candidate {
    entry: Entry,
    vectors: Vec<Vector>,
    signs: Signs,
    /// Whether the line speaks of vectors, be it that there are none.
    says_vectors: bool,
}

/// What became of a memory's line.
#[derive(PartialEq)]
enum Came {
    /// It says what is there.
    Unchanged,
    /// A new memory.
    New,
    /// In the place of another.
    Instead,
}

/// Which link one is.
type LinkKey = (MemoryId, MemoryId, Box<str>);

struct Import<'a> {
    space: &'a Space,
    now: Millis,
    replace: bool,
    effects: Vec<Effect>,
    settings: Settings,
    /// The kind of vectors that this call fixes.
    rows: Option<(Option<String>, Rows)>,
    /// The largest id, given ones of all lines included.
    last: MemoryId,
    /// Where in `effects` a memory is put.
    pending: BTreeMap<MemoryId, usize>,
    /// Memories that the call takes away, most of them to put them again.
    removed: BTreeSet<MemoryId>,
    /// What was put by this call and went with its document.
    hidden: BTreeSet<MemoryId>,
    documents: BTreeMap<Box<str>, Shown>,
    /// Sessions that the space has no record of.
    fresh: usize,
    /// Documents that have given their places.
    replaced: BTreeSet<Box<str>>,
    sessions: BTreeMap<Box<str>, Talk>,
    /// The links that the call sets, by from, to and name.
    links: BTreeMap<LinkKey, Link>,
    /// How many links memories have by now, those that had to be looked at.
    degrees: BTreeMap<MemoryId, usize>,
    counters: Option<Counters>,
    /// Places in tiers, and bytes, that become free.
    leaving: [usize; TIERS],
    freed: usize,
    puts: usize,
}

impl Space {
    /// Decides to take lines of an export, or such as a person has written: all or nothing. Each is an object of one member.
    ///
    /// Errors name the line: what is no line, what is there and is another (unless it is to be `replace`d), vectors of another kind, and a tier or
    /// `max-memory` without room.
    pub fn import(&self, now: Millis, lines: &[Meta], replace: bool) -> Result<(Imported, Vec<Effect>)> {
        if lines.len() > limits::BATCH {
            return Err(Error::new(format!("{} lines at once: at most {} are accepted", lines.len(), limits::BATCH)));
        }
        check_time("the time", now)?;
        let memories = lines.iter().filter_map(|line| line.get("memory").or_else(|| line.get("turn")));
        let given = memories.filter_map(|memory| memory.get("id")?.as_str()?.parse().ok());
        let mut import = Import {
            space: self,
            now,
            replace,
            effects: Vec::new(),
            settings: Settings::clone(self.config()),
            rows: None,
            last: given.fold(self.last_id, MemoryId::max),
            pending: BTreeMap::new(),
            removed: BTreeSet::new(),
            hidden: BTreeSet::new(),
            documents: BTreeMap::new(),
            fresh: 0,
            replaced: BTreeSet::new(),
            sessions: BTreeMap::new(),
            links: BTreeMap::new(),
            degrees: BTreeMap::new(),
            counters: None,
            leaving: [0; TIERS],
            freed: 0,
            puts: 0,
        };
        let mut imported = Imported::default();
        for (n, line) in lines.iter().enumerate() {
            let at = |error: Error| Error::with_code(error.code(), format!("line {}: {error}", n + 1));
            let changes = import.line(line).map_err(at)?;
            imported.written += usize::from(changes);
            imported.unchanged += usize::from(!changes);
        }
        Ok((imported, import.finish()?))
    }
}

impl Import<'_> {
    /// Takes a line. False if it changes nothing.
    fn line(&mut self, line: &Meta) -> Result<bool> {
        let Some((kind, value)) = line.iter().next().filter(|_| line.len() == 1) else {
            return Err(Error::new(format!(
                "{} members: a line is an object of one, which is {}",
                line.len(),
                KINDS.join(", ")
            )));
        };
        match kind.as_str() {
            "space" => self.space_line(&Members::new("space", SPACE, value)?),
            "session" => self.session_line(&Members::new("session", SESSION, value)?),
            "turn" => self.turn_line(&Members::new("turn", MEMORY, value)?),
            "summary" => self.summary_line(&Members::new("summary", SUMMARY, value)?),
            "document" => self.document_line(&Members::new("document", DOCUMENT, value)?),
            "memory" => Ok(self.memory(&Members::new("memory", MEMORY, value)?, false)?.1 != Came::Unchanged),
            "link" => self.link_line(&Members::new("link", LINK, value)?),
            "counters" => self.counters_line(&Members::new("counters", COUNTERS, value)?),
            other => {
                let shown: String = other.chars().take(64).collect();
                Err(Error::new(format!("'{shown}' is no kind of line: {} are", KINDS.join(", "))))
            }
        }
    }

    fn model(&self) -> Option<&str> {
        self.rows.as_ref().map_or(self.space.model(), |(model, _)| model.as_deref())
    }

    fn rows(&self) -> Option<&Rows> {
        self.space.view.rows.as_ref().or(self.rows.as_ref().map(|(_, rows)| rows))
    }

    fn fix(&mut self, model: Option<&str>, dim: usize, precision: Precision) -> Result<()> {
        check_kind(model, dim)?;
        self.effects.push(Effect::Model { model: model.map(String::from), dim: dim as u32, precision });
        self.rows = Some((model.map(String::from), Rows::new(dim, precision)));
        Ok(())
    }

    fn space_line(&mut self, members: &Members) -> Result<bool> {
        let before = self.effects.len();
        if let Some(format) = members.whole("format")?.filter(|format| *format != FORMAT) {
            return Err(Error::new(format!("lines of format {format}: this server reads format {FORMAT}")));
        }
        self.set_all(members)?;
        let (model, dim) = (members.text("model")?, members.whole("dimensions")?);
        let precision = members.text("precision")?.map(str::parse).transpose()?;
        match dim {
            None if model.is_some() || precision.is_some() => {
                return Err(Error::new("a model or a precision needs the number of 'dimensions' beside it"));
            }
            None => {}
            Some(dim) => {
                let dim = usize::try_from(dim).unwrap_or(usize::MAX);
                let precision = precision.unwrap_or(self.settings.precision);
                match self.rows() {
                    None => self.fix(model, dim, precision)?,
                    Some(rows) if (rows.dim(), rows.precision(), self.model()) == (dim, precision, model) => {}
                    Some(rows) => {
                        let of = |model: Option<&str>| model.map_or_else(|| "no model".to_owned(), str::to_owned);
                        return Err(Error::new(format!(
                            "the vectors of this space are of {}, of {} dimensions and kept as {}, those of the lines of {}, of {dim} and as \
                             {precision}: import them into an empty key, or have MEM.REEMBED move this space first",
                            of(self.model()),
                            rows.dim(),
                            rows.precision(),
                            of(model),
                        )));
                    }
                }
            }
        }
        if let Some(last) = members.id("last_id")?.filter(|last| *last > self.space.last_id) {
            self.effects.push(Effect::LastId(last));
            self.last = self.last.max(last);
        }
        Ok(self.effects.len() > before)
    }

    fn set_all(&mut self, members: &Members) -> Result<()> {
        let Some(settings) = members.object("settings")? else { return Ok(()) };
        let space = self.space;
        let holds = !space.is_empty() || !space.sessions.is_empty() || !space.documents.is_empty() || self.puts > 0;
        let mut new = self.settings.clone();
        for (name, value) in settings {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                other => {
                    return Err(Error::new(format!("the setting '{name}' takes a string, not {}", kind_of(other))));
                }
            };
            let known = new.set(name, &text)?;
            let (is, wanted) = (self.settings.get(known), new.get(known));
            if is != wanted && holds && !self.replace {
                return Err(Error::new(format!(
                    "{known} is {} in this space, which holds memories already, and {} in the line: give REPLACE, or take it \
                     out of the line",
                    is.unwrap_or_default(),
                    wanted.unwrap_or_default()
                )));
            }
        }
        if new == self.settings {
            return Ok(());
        }
        let effects = space.change_settings(self.now, &new)?;
        if effects.iter().any(|effect| matches!(effect, Effect::Remove { .. })) {
            return Err(Error::new(
                "a tier holds more than the capacity that the line sets: forget some of it, or raise the capacity in the line",
            ));
        }
        self.effects.extend(effects);
        self.settings = new;
        Ok(())
    }

    /// What is decided about a session that lives by now; None if there is none.
    fn talk(&mut self, name: &str) -> Option<&mut Talk> {
        if !self.sessions.contains_key(name) {
            let session = self.space.session(self.now, name)?;
            let talk = Talk {
                expires: session.expires(),
                standing: session.turns(),
                summary: session.summary().cloned(),
                ..Talk::default()
            };
            self.sessions.insert(name.into(), talk);
        }
        self.sessions.get_mut(name)
    }

    fn session_line(&mut self, members: &Members) -> Result<bool> {
        let name = members.needed("id")?;
        let standing = self.space.session(self.now, name);
        let expires = match (members.expiry("expires")?, standing) {
            (Some(expires), _) => expires,
            (None, Some(session)) => session.expires(),
            (None, None) => self.settings.session_expiry(self.now),
        };
        let created = members.whole("created")?;
        let field = |(name, value): (&String, &Value)| match value {
            Value::String(value) => Ok((Box::from(name.as_str()), Some(Box::from(value.as_str())))),
            other => Err(Error::new(format!("the field '{name}' of a session takes a string, not {}", kind_of(other)))),
        };
        let fields: BTreeMap<Box<str>, Option<Box<str>>> =
            members.object("fields")?.into_iter().flatten().map(field).collect::<Result<_>>()?;
        let patch = SessionPatch {
            name: name.into(),
            created: created.or(standing.map(|session| session.created())).unwrap_or(self.now),
            expires,
            fields: fields.into_iter().collect(),
            meta: Some(members.object("metadata")?.cloned()),
            summary: None,
        };
        patch.check()?;
        if let Some(talk) = self.sessions.get(name)
            && let Some(new) = &talk.new
        {
            return if *new == patch { Ok(false) } else { Err(twice("session", name)) };
        }
        let same = standing.is_some_and(|session| {
            let fields = session.fields().iter().map(|(name, value)| (name.clone(), Some(value.clone())));
            (session.created(), session.expires(), session.meta())
                == (patch.created, patch.expires, patch.meta.iter().flatten().next())
                && fields.eq(patch.fields.iter().cloned())
        });
        if same || (standing.is_none() && expires.is_some_and(|expires| expires <= self.now)) {
            return Ok(false);
        }
        if standing.is_some() && !self.replace {
            return Err(exists("session", name));
        }
        if !self.space.sessions.contains_key(name) {
            self.fresh += 1;
            if self.space.sessions.len() + self.fresh > limits::SESSIONS {
                return Err(Error::with_code("OOM", format!("a space has at most {} sessions", limits::SESSIONS)));
            }
        }
        self.sessions.insert(name.into(), Talk { new: Some(patch), expires, ..Talk::default() });
        Ok(true)
    }

    fn turn_line(&mut self, members: &Members) -> Result<bool> {
        let name = members.needed("session")?;
        check_role(members.needed("role")?)?;
        // Before the memory is taken: what it was until now.
        let was = members.id("id")?.is_some_and(|id| self.is_turn(name, id));
        let (id, came) = self.memory(members, true)?;
        let Some(talk) = self.talk(name) else { return Ok(came != Came::Unchanged) };
        if was {
            if came == Came::Instead {
                talk.renewed.insert(id);
            }
            return Ok(came != Came::Unchanged);
        }
        if talk.standing + talk.added.len() >= limits::TURNS {
            return Err(Error::new(format!("a session has at most {} turns", limits::TURNS)));
        }
        talk.added.push(id);
        talk.is_added.insert(id);
        Ok(true)
    }

    /// Whether a memory is a turn in the record of a session by now.
    fn is_turn(&self, name: &str, id: MemoryId) -> bool {
        let talk = self.sessions.get(name);
        if talk.is_some_and(|talk| talk.is_added.contains(&id) || talk.renewed.contains(&id)) {
            return true;
        }
        let records = &self.space.view.records;
        let stands = |slot: u32| {
            records.held(slot).is_some() && records.record(slot).is_some_and(|record| record.session == Some(name))
        };
        talk.is_none_or(|talk| talk.new.is_none())
            && self.space.session(self.now, name).is_some()
            && !self.removed.contains(&id)
            && self.space.slot(id).is_some_and(stands)
    }

    fn summary_line(&mut self, members: &Members) -> Result<bool> {
        let name = members.needed("session")?;
        let summary = Summary {
            text: members.needed("text")?.into(),
            tokens: members.small("tokens")?.unwrap_or(0),
            covered: members.small("turns")?.unwrap_or(0) as usize,
            at: members.whole("at")?.unwrap_or(self.now),
            model: members.boxed("model")?,
        };
        let replace = self.replace;
        let Some(talk) = self.talk(name) else { return Ok(false) };
        SessionPatch { summary: Some(Some(summary.clone())), ..talk.patch(name) }.check()?;
        if talk.summary.as_ref() == Some(&summary) {
            return Ok(false);
        }
        if talk.summary.is_some() && !replace {
            return Err(exists("the summary of session", name));
        }
        let turns = talk.standing + talk.added.len();
        if summary.covered > turns {
            return Err(Error::new(format!(
                "the summary covers {} turns of session {name}, which has {turns} by now: it comes behind them",
                summary.covered
            )));
        }
        talk.summary = Some(summary);
        talk.new_summary = true;
        Ok(true)
    }

    /// A document that is shown by now.
    fn document(&self, name: &str) -> Option<&Document> {
        match self.documents.get(name) {
            Some(shown) if shown.gone => None,
            Some(Shown { new: Some(document), .. }) => Some(document),
            _ => self.space.document(name),
        }
    }

    /// What is decided about a document that is shown by now; None if there is none.
    fn shown(&mut self, name: &str) -> Option<&mut Shown> {
        if !self.documents.contains_key(name) {
            let chunks = self.space.documents.get(name)?.slots.len();
            self.documents.insert(name.into(), Shown { chunks, ..Shown::default() });
        }
        self.documents.get_mut(name).filter(|shown| !shown.gone)
    }

    fn document_line(&mut self, members: &Members) -> Result<bool> {
        let name = members.needed("name")?;
        let standing = self.document(name);
        let document = Document {
            name: name.into(),
            kind: members.boxed("type")?,
            source: members.boxed("source")?,
            at: members.whole("at")?.or(standing.map(|document| document.at)).unwrap_or(self.now),
            created: members.whole("created")?.or(standing.map(|document| document.created)).unwrap_or(self.now),
            bytes: members.whole("bytes")?.unwrap_or(0),
            tokens: members.whole("tokens")?.unwrap_or(0),
            chunks: members.small("chunks")?.unwrap_or(0),
            meta: members.object("meta")?.cloned(),
        };
        document.check()?;
        if standing == Some(&document) {
            return Ok(false);
        }
        let there = standing.is_some();
        if there && !self.replace {
            return Err(exists("document", name));
        }
        if self.space.staged_documents.contains_key(name) {
            return Err(Error::new(format!("document {name} is being taken in now: wait until it is there")));
        }
        let documents = self.space.documents.len() + self.space.staged_documents.len() + self.documents.len();
        if !there && documents >= limits::DOCUMENTS {
            return Err(Error::with_code("OOM", format!("a space has at most {} documents", limits::DOCUMENTS)));
        }
        if there {
            self.hide_chunks(name);
        }
        self.show(document);
        Ok(true)
    }

    fn show(&mut self, document: Document) {
        let name = document.name.clone();
        self.effects.push(Effect::Document(Box::new(document.clone())));
        self.effects.push(Effect::ShowDocument { name: name.clone(), expires: None });
        self.documents.insert(name, Shown { new: Some(document), ..Shown::default() });
    }

    /// Notes that the chunks of a document go with it.
    fn hide_chunks(&mut self, name: &str) {
        if self.replaced.insert(name.into()) {
            let slots = self.space.documents.get(name).into_iter().flat_map(|shelved| &shelved.slots);
            slots.for_each(|slot| self.leaves(*slot));
        }
        for id in self.shown(name).map(|shown| std::mem::take(&mut shown.put)).unwrap_or_default() {
            self.pending.remove(&id);
            self.hidden.insert(id);
        }
    }

    /// Notes that a memory takes its place no longer.
    fn leaves(&mut self, slot: u32) {
        let space = self.space;
        let records = &space.view.records;
        if records.is_expired(slot, self.now) || self.removed.contains(&space.view.id(slot)) {
            return;
        }
        self.freed += space.slot_cost(slot);
        let held = records.held(slot) == Some(true) && !records.is_pinned(slot);
        if let Some(places) = self.leaving.get_mut(space.shelf_of(slot)).filter(|_| !held) {
            *places += 1;
        }
    }

    /// What this call puts under an id.
    fn put(&self, id: MemoryId) -> Option<(&Entry, &[Vector], &Signs)> {
        match self.effects.get(*self.pending.get(&id)?)? {
            Effect::Put { entry, vectors, signs } => Some((entry, vectors, signs)),
            _ => None,
        }
    }

    /// The slot of a memory that counts by now.
    fn standing(&self, id: MemoryId) -> Option<u32> {
        let slot = self.space.standing(self.now, id).filter(|_| !self.removed.contains(&id))?;
        let doc = self.space.view.records.record(slot).and_then(|record| record.doc);
        doc.is_none_or(|doc| !self.replaced.contains(doc)).then_some(slot)
    }

    fn memory(&mut self, members: &Members, turn: bool) -> Result<(MemoryId, Came)> {
        let (now, space) = (self.now, self.space);
        let id = match members.id("id")? {
            Some(id) => id,
            None => {
                self.last = self.last.following(now).ok_or_else(|| Error::new("the ids of this space are used up"))?;
                self.last
            }
        };
        let slot = self.standing(id);
        let base = match self.put(id) {
            Some((entry, vectors, signs)) => Some((entry.clone(), vectors.to_vec(), signs.clone())),
            None => slot.and_then(|slot| {
                Some((space.view.records.entry(slot)?, space.stored_vectors(slot), space.stored_signs(slot)))
            }),
        };
        let Candidate { mut entry, vectors, signs, says_vectors } =
            self.candidate(members, id, turn, base.as_ref().map(|(entry, ..)| entry))?;
        if let Some((base, base_vectors, base_signs)) = &base {
            let given = (entry.awaits, entry.template, entry.windows);
            if !says_vectors {
                // What waited when the line was written may have its vectors by now.
                (entry.awaits, entry.template, entry.windows) = (base.awaits, base.template, base.windows);
            }
            // What has cooled or warmed since is still the same: its vectors are those, finer or coarser.
            let same_vectors = || entry.heat != base.heat || (vectors == *base_vectors && signs == *base_signs);
            if entry.is_same(base) && (!says_vectors || same_vectors()) {
                return Ok((id, Came::Unchanged));
            }
            (entry.awaits, entry.template, entry.windows) = given;
            if slot.is_none() {
                return Err(twice("memory", &id.to_string()));
            }
            if !self.replace {
                return Err(exists("memory", &id.to_string()));
            }
        }
        let came = if base.is_some() { Came::Instead } else { Came::New };
        self.make_way(id, entry.passage.as_deref())?;
        self.count_chunk(id, entry.passage.as_deref())?;
        self.last = self.last.max(id);
        self.pending.insert(id, self.effects.len());
        self.puts += 1;
        self.effects.push(Effect::Put { entry: Box::new(entry), vectors, signs });
        Ok((id, came))
    }

    /// Takes away what stands under an id, expired or not.
    fn make_way(&mut self, id: MemoryId, new: Option<&Passage>) -> Result<()> {
        let space = self.space;
        let slot = space.slot(id).filter(|_| !self.removed.contains(&id));
        if slot.is_none() && !self.hidden.contains(&id) {
            return Ok(());
        }
        let mut reason = Removal::Forgotten;
        let mut doc = None;
        if let Some(slot) = slot {
            let records = &space.view.records;
            if is_staged(&space.view, slot) {
                return Err(Error::new(format!(
                    "memory {id} exists: it is a chunk of a document that is being taken in now"
                )));
            }
            let gone = records.expires(slot).is_some_and(|expires| expires <= STAGED);
            if records.is_expired(slot, self.now) && !gone {
                reason = Removal::Expired;
            }
            let own = records.record(slot).and_then(|record| record.doc).map(Box::<str>::from);
            doc = own.filter(|doc| !gone && !self.replaced.contains(doc));
            if self.standing(id).is_some() {
                self.leaves(slot);
            }
        }
        self.effects.push(Effect::Remove { ids: vec![id], reason });
        self.removed.insert(id);
        self.hidden.remove(&id);
        // A document goes with its last chunk.
        if let Some(doc) = doc
            && let Some(shown) = self.shown(&doc)
        {
            shown.chunks = shown.chunks.saturating_sub(1);
            shown.gone = shown.chunks == 0;
            if shown.gone
                && new.is_some_and(|passage| passage.doc == doc)
                && let Some(document) = shown.new.take().or_else(|| space.document(&doc).cloned())
            {
                self.show(document);
            }
        }
        Ok(())
    }

    /// Notes that a document gets a chunk, if the memory is one.
    fn count_chunk(&mut self, id: MemoryId, passage: Option<&Passage>) -> Result<()> {
        let Some(Passage { doc, .. }) = passage else { return Ok(()) };
        let Some(shown) = self.shown(doc) else {
            return Err(Error::new(format!("a chunk of document {doc}, whose own line must come before it")));
        };
        shown.chunks += 1;
        shown.put.push(id);
        Ok(())
    }

    /// Reads a memory; what its line leaves out is as in `base`, or by default.
    fn candidate(&mut self, members: &Members, id: MemoryId, turn: bool, base: Option<&Entry>) -> Result<Candidate> {
        let (vectors, signs) = self.vectors(members)?;
        let noembed = members.flag("noembed")?;
        if noembed == Some(true) && !vectors.is_empty() {
            return Err(Error::new("'noembed' and vectors exclude each other"));
        }
        let own_vectors = self.rows().is_some() && self.model().is_none();
        let tier = match members.text("tier")? {
            Some(tier) => Tier::parse(tier)?,
            None => base.map_or(if turn { Tier::Episodic } else { Tier::ShortTerm }, |base| base.tier),
        };
        let created = members.whole("created")?.or(base.map(|base| base.created)).unwrap_or(self.now);
        let expires = match (members.expiry("expires")?, base) {
            (Some(expires), _) => expires,
            (None, Some(base)) => base.expires,
            (None, None) => self.settings.expiry(tier, self.now),
        };
        if expires.is_some_and(|expires| expires <= STAGED) {
            return Err(members.wrong("expires", "a time above 1, or null"));
        }
        let passage = match members.boxed("doc")? {
            None => None,
            Some(doc) => {
                let needed = |name| {
                    members.small(name)?.ok_or_else(|| Error::new(format!("the field '{name}' of a chunk is missing")))
                };
                Some(Box::new(Passage {
                    doc,
                    position: needed("position")?,
                    total: needed("total")?,
                    start: members.whole("start")?.unwrap_or(0),
                    end: members.whole("end")?.unwrap_or(0),
                }))
            }
        };
        let superseded = match members.get("superseded") {
            None => None,
            Some(value) => {
                let superseded = Members::new("superseded", SUPERSEDED, value)?;
                let missing = || Error::new("the field 'superseded' takes the members by and at");
                Some(Superseded {
                    by: superseded.id("by")?.ok_or_else(missing)?,
                    at: superseded.whole("at")?.ok_or_else(missing)?,
                })
            }
        };
        let template = members.small("template")?.unwrap_or(0);
        let kind =
            || base.map_or_else(|| if turn { "message".into() } else { "fact".into() }, |base| base.kind.clone());
        let entry = Entry {
            id,
            tier,
            content: members.needed("content")?.into(),
            kind: members.boxed("type")?.unwrap_or_else(kind),
            importance: members.number("importance")?.or(base.map(|base| base.importance)).unwrap_or(0.5),
            confidence: members.number("confidence")?.or(base.map(|base| base.confidence)).unwrap_or(1.0),
            outcome: members.boxed("outcome")?,
            session: members.boxed("session")?,
            speaker: members.boxed("speaker")?,
            role: members.boxed("role")?,
            source: members.boxed("source")?,
            from: members.texts("from")?.into_iter().map(str::parse).collect::<Result<_>>()?,
            at: members.whole("at")?.or(base.map(|base| base.at)).unwrap_or(self.now),
            created,
            entered: members.whole("entered")?.or(base.map(|base| base.entered)).unwrap_or(created),
            expires,
            own_expiry: members.flag("own_expiry")?.unwrap_or(false),
            marks: Marks {
                read: members.flag("read")?.unwrap_or(false),
                summed: members.flag("summed")?.unwrap_or(false),
                linked: members.flag("linked")?.unwrap_or(false),
            },
            pinned: members.flag("pinned")?.unwrap_or(false),
            tags: distinct(members.texts("tags")?.into_iter().map(String::from).collect()),
            meta: members.object("meta")?.cloned(),
            supersedes: members.id("supersedes")?,
            superseded,
            passage,
            tokens: members.small("tokens")?.unwrap_or(0),
            awaits: vectors.is_empty() && !noembed.unwrap_or(own_vectors),
            template: u16::try_from(template).map_err(|_| members.wrong("template", "a number below 65536"))?,
            windows: vectors.len() as u16,
            accessed: members.whole("accessed")?.or(base.map(|base| base.accessed)).unwrap_or(self.now),
            heat: match members.text("heat")? {
                Some(heat) => Heat::parse(heat).ok_or_else(|| members.wrong("heat", "hot, warm or cold"))?,
                None => Heat::Hot,
            },
            uses: members.small("uses")?.or(base.map(|base| base.uses)).unwrap_or(0),
        };
        entry.check()?;
        if !(vectors.is_empty() && signs.is_empty()) {
            let Some(rows) = self.rows() else { return Err(no_kind()) };
            if entry.template != 0 && self.model().is_none() {
                return Err(Error::new(
                    "a template is of a model's vectors, and those of this space are the caller's own",
                ));
            }
            check_vectors_of(&vectors, &signs, rows)?;
        }
        let says_vectors = !vectors.is_empty() || !signs.is_empty() || noembed == Some(true);
        Ok(Candidate { entry, vectors, signs, says_vectors })
    }

    fn vectors(&mut self, members: &Members) -> Result<(Vec<Vector>, Signs)> {
        let signs = match members.text("token_vectors")? {
            None => Signs::default(),
            Some(text) => {
                let bytes = members.bytes("token_vectors", text)?;
                if !bytes.len().is_multiple_of(size_of::<u64>()) {
                    return Err(members.wrong("token_vectors", "a multiple of 8 bytes"));
                }
                Signs::read(&bytes)
            }
        };
        let floats = |value: &Value| -> Option<Vec<f32>> {
            value.as_array()?.iter().map(|number| number.as_f64().map(|number| number as f32)).collect()
        };
        if let Some(floats) = members.read("vector", "an array of numbers", floats)? {
            if members.get("vectors").is_some() || members.get("template").is_some() {
                return Err(Error::new(
                    "'vector' is one that no model made: 'vectors' and 'template' do not go with it",
                ));
            }
            if self.rows().is_none() {
                self.fix(None, floats.len(), self.settings.precision)?;
            }
            let Some(rows) = self.rows() else { return Err(no_kind()) };
            check_dimension(floats.len(), rows.dim())?;
            let unit = normalised(&floats).ok_or_else(no_direction)?;
            return Ok((vec![Vector::new(&unit, rows.precision())], signs));
        }
        let texts = members.texts("vectors")?;
        if texts.is_empty() {
            return Ok((Vec::new(), signs));
        }
        let Some(rows) = self.rows() else { return Err(no_kind()) };
        if texts.len() > limits::WINDOWS {
            return Err(members.wrong("vectors", &format!("at most {} vectors", limits::WINDOWS)));
        }
        let precision = match members.text("precision")? {
            None => rows.precision(),
            Some(name) => Precision::KEPT
                .into_iter()
                .find(|precision| precision.name() == name)
                .ok_or_else(|| members.wrong("precision", "f32, f16, i8 or i4"))?,
        };
        let size = precision.bytes(rows.dim());
        let vector = |text: &str| {
            let bytes = members.bytes("vectors", text)?;
            if bytes.len() != size {
                return Err(Error::new(format!(
                    "the field 'vectors' holds one of {} bytes, where it takes {size}: {} dimensions as {precision}",
                    bytes.len(),
                    rows.dim()
                )));
            }
            Ok(Vector::read(&bytes, rows.dim(), precision))
        };
        Ok((texts.into_iter().map(vector).collect::<Result<_>>()?, signs))
    }

    fn link_line(&mut self, members: &Members) -> Result<bool> {
        let end = |name: &str| members.needed(name)?.parse::<MemoryId>();
        let link = Link {
            from: end("from")?,
            to: end("to")?,
            rel: members.needed("rel")?.into(),
            weight: members.number("weight")?.unwrap_or(1.0),
            at: members.whole("at")?.unwrap_or(self.now),
            reason: members.boxed("reason")?,
        };
        link.check()?;
        // What stood when the line was written may have expired since, or in a call before this one.
        if !(self.is_there(link.from) && self.is_there(link.to)) {
            return Ok(false);
        }
        let key = (link.from, link.to, link.rel.clone());
        let name = || format!("from {} to {} of the name {}", link.from, link.to, link.rel);
        if let Some(new) = self.links.get(&key) {
            return if *new == link { Ok(false) } else { Err(twice("the link", &name())) };
        }
        match self.space.link_between(link.from, link.to, &link.rel) {
            Some(standing)
                if standing == link
                    || (members.get("at").is_none() && standing == Link { at: standing.at, ..link.clone() }) =>
            {
                return Ok(false);
            }
            Some(_) if !self.replace => return Err(exists("the link", &name())),
            Some(_) => {}
            None => {
                for id in [link.from, link.to] {
                    let slot = self.space.slot(id);
                    let standing = || slot.map_or(0, |slot| self.space.links_of(slot).count());
                    let degree = self.degrees.entry(id).or_insert_with(standing);
                    *degree += 1;
                    if *degree > limits::LINKS {
                        return Err(too_many(id));
                    }
                }
            }
        }
        self.links.insert(key, link);
        Ok(true)
    }

    /// Whether a memory stands by now.
    fn is_there(&self, id: MemoryId) -> bool {
        self.put(id).is_some() || self.standing(id).is_some()
    }

    /// The effects that set links: those of the lines, and those of memories that others of their ids take the places of.
    fn settle_links(&mut self) {
        let space = self.space;
        let mut links = std::mem::take(&mut self.links);
        for id in self.removed.iter().filter(|id| self.put(**id).is_some()) {
            let Some(slot) = space.standing(self.now, *id) else { continue };
            for link in space.links_of(slot) {
                links.entry((link.from, link.to, link.rel.clone())).or_insert(link);
            }
        }
        // A document may have taken an end with it since its line.
        links.retain(|(from, to, _), _| self.is_there(*from) && self.is_there(*to));
        self.effects.extend(links.into_values().map(|link| Effect::Link(Box::new(link))));
    }

    fn counters_line(&mut self, members: &Members) -> Result<bool> {
        let read = |name: &str| members.whole(name).map(|number| number.unwrap_or(0));
        let counters = Counters {
            hits: read("hits")?,
            misses: read("misses")?,
            stores: read("stores")?,
            duplicates: read("duplicates")?,
            evictions: read("evictions")?,
            promotions: read("promotions")?,
            expirations: read("expirations")?,
            merges: read("merges")?,
        };
        let known = self.counters.unwrap_or_else(|| self.space.counters());
        let larger = larger(&known, &counters);
        let changed = larger != known;
        self.counters = changed.then_some(larger).or(self.counters);
        Ok(changed)
    }

    /// Whether there is room, and what is decided about sessions and counters, which stand behind the memories.
    fn finish(mut self) -> Result<Vec<Effect>> {
        self.check_room()?;
        for (name, talk) in std::mem::take(&mut self.sessions) {
            self.settle(&name, talk);
        }
        self.settle_links();
        if let Some(counters) = self.counters {
            // Those that are put by this call count too.
            let now = Counters { stores: self.space.counters().stores.saturating_add(self.puts as u64), ..counters };
            self.effects.push(Effect::Counters(larger(&counters, &now)));
        }
        Ok(self.effects)
    }

    fn check_room(&self) -> Result<()> {
        let space = self.space;
        if self.puts == 0 {
            return Ok(());
        }
        if space.len() + self.puts > limits::MEMORIES + self.removed.len() {
            return Err(Error::with_code("OOM", format!("a space holds at most {} memories", limits::MEMORIES)));
        }
        let held = |entry: &Entry| {
            let talk = entry.session.as_ref().and_then(|session| self.sessions.get(session));
            !entry.pinned
                && talk.is_some_and(|talk| talk.is_added.contains(&entry.id) || talk.renewed.contains(&entry.id))
        };
        let puts: Vec<(&Entry, &Signs)> =
            self.pending.keys().filter_map(|id| self.put(*id)).map(|(entry, _, signs)| (entry, signs)).collect();
        for tier in Tier::ALL {
            let Some(capacity) = self.settings.capacity(tier) else { continue };
            let enters = |entry: &Entry| {
                entry.tier == tier && entry.superseded.is_none() && !entry.is_expired(self.now) && !held(entry)
            };
            let entering = puts.iter().filter(|(entry, _)| enters(entry)).count();
            let leaving = self.leaving.get(tier.index()).copied().unwrap_or(0);
            let there = space.occupied(tier, self.now).saturating_sub(leaving);
            if entering > 0 && there + entering > capacity {
                return Err(Error::new(format!(
                    "tier {tier} holds {capacity} memories, {there} of its places are taken, and {entering} more would come: an import evicts \
                     nothing; raise {tier}.capacity, in the line of the space or with MEM.CONFIG SET"
                )));
            }
        }
        let max = usize::try_from(self.settings.max_memory).unwrap_or(usize::MAX);
        if max > 0 {
            let row_bytes = self.rows().map_or(0, |rows| rows.row_bytes(rows.precision()));
            let entering: usize = puts.iter().map(|(entry, signs)| space.entry_cost(entry, signs, row_bytes)).sum();
            if (space.live_bytes() + entering).saturating_sub(self.freed) > max {
                return Err(Error::with_code(
                    "OOM",
                    format!(
                        "these lines take {entering} bytes, and the space would be beyond its max-memory of {max}: an import evicts nothing; \
                         raise max-memory, in the line of the space or with MEM.CONFIG SET"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The effects that make the record of a session what it is now.
    fn settle(&mut self, name: &str, talk: Talk) {
        let space = self.space;
        let mut turns = Vec::new();
        let mut summary = talk.new_summary.then(|| talk.summary.clone()).flatten();
        let end = Effect::EndSession { name: name.into(), turns: false };
        match (&talk.new, space.sessions.get(name)) {
            (Some(new), old) => {
                self.effects.extend(old.map(|_| end));
                self.effects.push(Effect::Session(Box::new(new.clone())));
            }
            (None, Some(old)) if !talk.renewed.is_empty() => {
                // The places of turns are made anew, all of them.
                let kept = |id: &MemoryId| !self.removed.contains(id) || talk.renewed.contains(id);
                let ids: Vec<MemoryId> = old.turn_slots().iter().map(|slot| space.view.id(*slot)).collect();
                let covered = ids.iter().take(old.covered()).filter(|id| kept(id)).count();
                if !talk.new_summary {
                    summary = talk.summary.clone().map(|summary| Summary { covered, ..summary });
                }
                turns = ids.into_iter().filter(kept).collect();
                self.effects.push(end);
                self.effects.push(Effect::Session(Box::new(SessionPatch {
                    created: old.created(),
                    fields: old.fields().iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect(),
                    meta: Some(old.meta().cloned()),
                    ..talk.patch(name)
                })));
            }
            _ => {}
        }
        turns.extend(&talk.added);
        for ids in turns.chunks(limits::EFFECT_IDS) {
            self.effects.push(Effect::Turns { session: name.into(), ids: ids.to_vec() });
        }
        if let Some(summary) = summary {
            let patch = SessionPatch { summary: Some(Some(summary)), ..talk.patch(name) };
            self.effects.push(Effect::Session(Box::new(patch)));
        }
    }
}

fn larger(a: &Counters, b: &Counters) -> Counters {
    Counters {
        hits: a.hits.max(b.hits),
        misses: a.misses.max(b.misses),
        stores: a.stores.max(b.stores),
        duplicates: a.duplicates.max(b.duplicates),
        evictions: a.evictions.max(b.evictions),
        promotions: a.promotions.max(b.promotions),
        expirations: a.expirations.max(b.expirations),
        merges: a.merges.max(b.merges),
    }
}

fn exists(what: &str, name: &str) -> Error {
    Error::new(format!("{what} {name} exists and is another: give REPLACE, or take the line out"))
}

fn twice(what: &str, name: &str) -> Error {
    Error::new(format!("{what} {name} comes twice in one call, and not as the same"))
}

fn no_kind() -> Error {
    Error::new("vectors before their kind is known: the line of the space, which says it, comes first")
}

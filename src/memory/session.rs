//! Sessions: the record of a conversation beside the memories that are its turns.
//!
//! A turn is a memory (episodic, with a role). The record says which memories are the turns and in what order they came, keeps a
//! few named fields, and a summary of the turns from the first to some turn: those it covers. It has a lifetime of its own; when it
//! ends, the turns stay as memories until their own end.
//!
//! A live record holds its last `session.turns` turns, and every turn that the summary does not cover: what is held is not evicted
//! and takes no place of its tier. So a long conversation cannot push out its own end, nor lose what nobody has summed up, and
//! many sessions beside each other do not fill the tier. What is held follows from the record alone: the turns from
//! [`Session::held`] on. It is written down per slot, so that an eviction asks one column.
//!
//! Turns are named by slot, four bytes each, in an array: the n-th is found at once, and one that goes is looked for by walking, a few
//! microseconds in ten thousand. Forgetting or rewording a turn that the summary covers drops the summary: what was forgotten
//! must not live on in it; it is made anew of the turns that stand.
//!
//! Rejected: a record in META of a hidden memory (every turn would rewrite it), the order by AT (turns are imported with their old
//! times, and one that comes late would change what the summary covers), counting held turns against the tier (eleven sessions of a hundred turns
//! would refuse the next turn).

use crate::effect::Effect;
use crate::entry::{Entry, Meta, check_meta, check_name, check_time};
use crate::space::Space;
use crate::store::{Dedup, NewMemory};
use crate::{Error, MemoryId, Millis, Result, Tier, limits};
use std::collections::{BTreeMap, BTreeSet};

/// The expiry of what has gone already: nobody sees it, and [`Space::trim`] takes it away.
pub(crate) const GONE: Millis = 0;

/// What the turns of a session come to, up to one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The text.
    pub text: Box<str>,
    /// Its tokens.
    pub tokens: u32,
    /// How many turns, from the first, are in it.
    pub covered: usize,
    /// When it was made.
    pub at: Millis,
    /// The language model that wrote it; None = sentences taken from the turns.
    pub model: Option<Box<str>>,
}

/// What changes in the record of a session, which is made if there is none. None = as before.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionPatch {
    /// The session.
    pub name: Box<str>,
    /// When the record was made; counts if there is none.
    pub created: Millis,
    /// When it ends; None = never.
    pub expires: Option<Millis>,
    /// Fields by name; None takes one away.
    pub fields: Vec<(Box<str>, Option<Box<str>>)>,
    /// The caller's JSON about the session.
    pub meta: Option<Option<Meta>>,
    /// The summary.
    pub summary: Option<Option<Summary>>,
}

/// The record of a session.
#[derive(Debug, Clone, Default)]
pub struct Session {
    created: Millis,
    expires: Option<Millis>,
    fields: BTreeMap<Box<str>, Box<str>>,
    meta: Option<Meta>,
    summary: Option<Summary>,
    /// The turns by slot, in the order in which they came.
    turns: Vec<u32>,
    /// The first turn that is held.
    held: usize,
}

impl Session {
    /// When it was made.
    pub fn created(&self) -> Millis {
        self.created
    }

    /// When it ends; None = never.
    pub fn expires(&self) -> Option<Millis> {
        self.expires
    }

    /// Its fields, by name.
    pub fn fields(&self) -> &BTreeMap<Box<str>, Box<str>> {
        &self.fields
    }

    /// The caller's JSON about it.
    pub fn meta(&self) -> Option<&Meta> {
        self.meta.as_ref()
    }

    /// The summary, if there is one.
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    /// How many turns it has.
    pub fn turns(&self) -> usize {
        self.turns.len()
    }

    /// The turns by slot, in the order in which they came.
    pub(crate) fn turn_slots(&self) -> &[u32] {
        &self.turns
    }

    /// How many of them, from the first, the summary covers.
    pub fn covered(&self) -> usize {
        self.summary.as_ref().map_or(0, |summary| summary.covered)
    }

    fn is_over(&self, now: Millis) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    fn bytes(&self) -> usize {
        let texts: usize = self.fields.iter().map(|(name, value)| 64 + name.len() + value.len()).sum();
        let summary = self.summary.as_ref().map_or(0, |summary| summary.text.len());
        size_of::<Session>() + texts + summary + self.turns.capacity() * size_of::<u32>()
    }
}

/// A turn to be appended. Unset fields get the defaults of MEM.SESSION APPEND.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the fields are those of Entry")]
pub struct NewTurn {
    pub role: String,
    pub content: String,
    pub id: Option<MemoryId>,
    pub at: Option<Millis>,
    pub speaker: Option<String>,
    pub importance: Option<f64>,
    pub outcome: Option<String>,
    pub tags: Vec<String>,
    pub meta: Option<Meta>,
    /// 0 = not counted.
    pub tokens: u32,
    /// Whether its vectors will be made.
    pub awaits: bool,
}

/// A whole session, as it is imported.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the fields are those of Session")]
pub struct NewSession {
    pub fields: Vec<(Box<str>, Box<str>)>,
    pub meta: Option<Meta>,
    pub summary: Option<Summary>,
    pub turns: Vec<NewTurn>,
}

/// The type of memories that are turns.
pub const TURN: &str = "message";

/// The roles of turns.
pub const ROLES: [&str; 4] = ["user", "assistant", "system", "tool"];

impl Space {
    /// The record of a session that has not ended.
    pub fn session(&self, now: Millis, name: &str) -> Option<&Session> {
        self.sessions.get(name).filter(|session| !session.is_over(now))
    }

    /// The records that have not ended, by name.
    pub fn sessions(&self, now: Millis) -> impl Iterator<Item = (&str, &Session)> {
        self.sessions.iter().filter(move |(_, session)| !session.is_over(now)).map(|(name, session)| (&**name, session))
    }

    /// How many records there are.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// The record of a session that must be there.
    pub fn existing_session(&self, now: Millis, name: &str) -> Result<&Session> {
        self.session(now, name).ok_or_else(|| Error::new(format!("no such session: {name}")))
    }

    /// The turns of a session from the n-th on that have not expired, in order, each with its place in the session.
    pub fn turns(&self, now: Millis, name: &str, from: usize) -> Vec<(usize, Entry)> {
        let Some(session) = self.session(now, name) else { return Vec::new() };
        let behind = session.turns.iter().enumerate().skip(from);
        let standing = behind.filter(|(_, slot)| !self.view.records.is_expired(**slot, now));
        standing.filter_map(|(n, slot)| Some((n, self.view.records.entry(*slot)?))).collect()
    }

    /// How many turns of a session have not expired, their tokens, and how many of them wait for their vectors.
    pub fn turn_counts(&self, now: Millis, name: &str) -> (usize, u64, usize) {
        let records = &self.view.records;
        let turns = self.session(now, name).into_iter().flat_map(|session| &session.turns);
        let standing = turns.filter(|slot| !records.is_expired(**slot, now));
        standing.fold((0, 0, 0), |(turns, tokens, awaiting), slot| {
            let of_this = records.record(*slot).map_or(0, |record| record.tokens);
            (turns + 1, tokens + u64::from(of_this), awaiting + usize::from(records.awaits(*slot)))
        })
    }

    /// When the record of a session that is used now ends.
    fn session_expiry(&self, now: Millis) -> Option<Millis> {
        self.config().session_expiry(now)
    }

    /// A change of a session's record that renews it and nothing else.
    fn renewal(&self, now: Millis, name: &str) -> SessionPatch {
        SessionPatch {
            name: name.into(),
            created: now,
            expires: self.session_expiry(now),
            fields: Vec::new(),
            meta: None,
            summary: None,
        }
    }

    /// The effects that end a record whose time is over, if the name has one: what comes next begins a new one.
    fn end_of_old(&self, now: Millis, name: &str) -> Vec<Effect> {
        let over = self.sessions.get(name).is_some_and(|session| session.is_over(now));
        over.then(|| Effect::EndSession { name: name.into(), turns: false }).into_iter().collect()
    }

    /// Decides to append turns to a session, whose record is made or renewed: all or nothing. A given id that stands as a turn of this session
    /// with the same content is that turn: nothing is appended for it.
    ///
    /// Errors: an unknown role, and those of a store.
    pub fn append(&self, now: Millis, name: &str, turns: Vec<NewTurn>) -> Result<(Vec<MemoryId>, Vec<Effect>)> {
        check_name("SESSION", name)?;
        let mut effects = self.end_of_old(now, name);
        let (ids, more) = self.append_to(now, name, turns, self.renewal(now, name))?;
        effects.extend(more);
        Ok((ids, effects))
    }

    fn append_to(
        &self,
        now: Millis,
        name: &str,
        turns: Vec<NewTurn>,
        patch: SessionPatch,
    ) -> Result<(Vec<MemoryId>, Vec<Effect>)> {
        let live = self.session(now, name);
        if live.map_or(0, Session::turns) + turns.len() > limits::TURNS {
            return Err(Error::new(format!(
                "a session has at most {} turns: begin another, or CLEAR this one",
                limits::TURNS
            )));
        }
        let (mut new, mut ids, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
        for turn in turns {
            check_role(&turn.role)?;
            let standing = turn.id.and_then(|id| Some((id, self.standing(now, id)?)));
            if let Some((id, slot)) = standing {
                let of_this = live.is_some_and(|session| session.turns.contains(&slot));
                let same = self.view.records.record(slot).is_some_and(|record| *record.content.text() == *turn.content);
                if !(of_this && same) {
                    return Err(Error::new(format!(
                        "id exists: {id} is another memory of this space; leave ID out and the turn gets one of its own"
                    )));
                }
                ids.push(Some(id));
                continue;
            }
            ids.push(None);
            fresh.push(turn.awaits);
            new.push(NewMemory {
                tier: Some(Tier::Episodic),
                id: turn.id,
                content: turn.content,
                importance: turn.importance,
                kind: Some(TURN.into()),
                outcome: turn.outcome,
                session: Some(name.into()),
                speaker: turn.speaker,
                role: Some(turn.role),
                at: turn.at,
                tags: turn.tags,
                meta: turn.meta,
                tokens: turn.tokens,
                awaits: turn.awaits,
                held: true,
                dedup: Dedup::Off,
                ..NewMemory::default()
            });
        }
        let given: Vec<MemoryId> = new.iter().filter_map(|turn| turn.id).collect();
        if given.iter().collect::<BTreeSet<_>>().len() < given.len() {
            return Err(Error::new("two turns have the same id: each needs one of its own, or none"));
        }
        let (stored, mut effects) = self.store_many(now, new)?;
        effects.push(Effect::Session(Box::new(patch)));
        for ids in stored.chunks(limits::EFFECT_IDS) {
            effects.push(Effect::Turns { session: name.into(), ids: ids.to_vec() });
        }
        let mut stored = stored.into_iter();
        Ok((ids.into_iter().filter_map(|id| id.or_else(|| stored.next())).collect(), effects))
    }

    /// Decides to set fields of a session, None taking one away; its record is made or renewed.
    pub fn set_fields(
        &self,
        now: Millis,
        name: &str,
        fields: Vec<(Box<str>, Option<Box<str>>)>,
    ) -> Result<Vec<Effect>> {
        let mut effects = self.end_of_old(now, name);
        let patch = SessionPatch { fields, ..self.renewal(now, name) };
        patch.check()?;
        patch.check_fields_beside(self.session(now, name))?;
        effects.push(Effect::Session(Box::new(patch)));
        Ok(effects)
    }

    /// Decides to renew the record of a session.
    pub fn touch_session(&self, now: Millis, name: &str) -> Result<Vec<Effect>> {
        self.existing_session(now, name)?;
        Ok(vec![Effect::Session(Box::new(self.renewal(now, name)))])
    }

    /// Decides to give a session a summary. The record is not renewed by it.
    ///
    /// Errors: no such session, a summary of more turns than there are.
    pub fn summarize(&self, now: Millis, name: &str, summary: Summary) -> Result<Vec<Effect>> {
        let session = self.existing_session(now, name)?;
        if summary.covered > session.turns.len() {
            return Err(Error::new(format!(
                "a summary of {} turns, where the session has {}",
                summary.covered,
                session.turns.len()
            )));
        }
        let patch = SessionPatch { expires: session.expires, summary: Some(Some(summary)), ..self.renewal(now, name) };
        patch.check()?;
        Ok(vec![Effect::Session(Box::new(patch))])
    }

    /// Decides to end a session: its record and all its turns, also those of an earlier record of this name. Gives the number of turns.
    pub fn delete_session(&self, now: Millis, name: &str) -> (usize, Vec<Effect>) {
        let turns = self.session_turns(now, name);
        if turns.is_empty() && !self.sessions.contains_key(name) {
            return (0, Vec::new());
        }
        let mut effects = self.aftermath(&turns);
        effects.push(Effect::EndSession { name: name.into(), turns: true });
        (turns.len(), effects)
    }

    /// The effects that end the record of a session and leave its turns alone.
    pub fn end_record(&self, name: &str) -> Vec<Effect> {
        let there = self.sessions.contains_key(name);
        there.then(|| Effect::EndSession { name: name.into(), turns: false }).into_iter().collect()
    }

    /// Decides to take all turns and the summary from a session; the fields stay, and the record is renewed.
    pub fn clear_session(&self, now: Millis, name: &str) -> Result<(usize, Vec<Effect>)> {
        let session = self.existing_session(now, name)?;
        let fields = session.fields.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
        let patch = SessionPatch {
            created: session.created,
            fields,
            meta: session.meta.clone().map(Some),
            ..self.renewal(now, name)
        };
        let turns = self.session_turns(now, name);
        let mut effects = self.aftermath(&turns);
        effects.push(Effect::EndSession { name: name.into(), turns: true });
        effects.push(Effect::Session(Box::new(patch)));
        Ok((turns.len(), effects))
    }

    /// Decides to make a session of what another server wrote down, or a person.
    ///
    /// Errors: a session of that name where it may not be replaced, an id that another memory has, and those of a store.
    pub fn import_session(
        &self,
        now: Millis,
        name: &str,
        new: NewSession,
        replace: bool,
    ) -> Result<(Vec<MemoryId>, Vec<Effect>)> {
        check_name("SESSION", name)?;
        let patch = SessionPatch {
            fields: new.fields.into_iter().map(|(name, value)| (name, Some(value))).collect(),
            meta: Some(new.meta),
            ..self.renewal(now, name)
        };
        patch.check()?;
        if let Some(summary) = &new.summary
            && summary.covered > new.turns.len()
        {
            return Err(Error::new(format!(
                "the summary covers {} turns, where the history has {}",
                summary.covered,
                new.turns.len()
            )));
        }
        let summary = SessionPatch { summary: Some(new.summary), ..self.renewal(now, name) };
        summary.check()?;
        let mut effects = self.end_of_old(now, name);
        let mut replaced = BTreeSet::new();
        if self.session(now, name).is_some() || !self.session_turns(now, name).is_empty() {
            if !replace {
                return Err(Error::new(format!("session {name} exists: give REPLACE, or another name")));
            }
            // By id, so that the ids may come again.
            replaced = self.session_turns(now, name).into_iter().map(|slot| self.view.id(slot)).collect();
            let ids: Vec<MemoryId> = replaced.iter().copied().collect();
            effects = self.end_record(name);
            effects.extend(self.forget_effects(&ids));
        }
        for turn in &new.turns {
            check_role(&turn.role)?;
            if let Some(id) = turn.id
                && !replaced.contains(&id)
                && self.standing(now, id).is_some()
            {
                return Err(Error::new(format!(
                    "id exists: {id} is another memory of this space; take the ids out of the history and each turn gets a new one"
                )));
            }
        }
        let (ids, more) = if replaced.is_empty() {
            self.append_to(now, name, new.turns, patch)?
        } else {
            // What is replaced must be out of the way for the decision too.
            let mut without = self.copy();
            for effect in &effects {
                without.apply(effect)?;
            }
            without.append_to(now, name, new.turns, patch)?
        };
        effects.extend(more);
        effects.push(Effect::Session(Box::new(summary)));
        Ok((ids, effects))
    }

    /// Decides to make a session of another: its turns are stored again under ids of their own, with their vectors.
    ///
    /// Errors: no such session, one of the new name where it may not be replaced.
    pub fn copy_session(&self, now: Millis, from: &str, to: &str, replace: bool) -> Result<(usize, Vec<Effect>)> {
        check_name("SESSION", to)?;
        let session = self.existing_session(now, from)?;
        if from == to {
            return Err(Error::new("a session is copied to another name than its own"));
        }
        let mut effects = self.end_of_old(now, to);
        if self.session(now, to).is_some() || !self.session_turns(now, to).is_empty() {
            if !replace {
                return Err(Error::new(format!("session {to} exists: give REPLACE, or another name")));
            }
            effects = self.delete_session(now, to).1;
        }
        let patch = SessionPatch {
            fields: session.fields.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect(),
            meta: Some(session.meta.clone()),
            ..self.renewal(now, to)
        };
        let mut last = self.last_id;
        let (mut puts, mut ids) = (Vec::new(), Vec::new());
        let (mut covered, was_covered, mut bytes) = (0, session.covered(), 0);
        for (n, entry) in self.turns(now, from, 0) {
            let slot = session.turns.get(n).copied().unwrap_or(u32::MAX);
            let id = last.following(now).ok_or_else(|| Error::new("the ids of this space are used up"))?;
            last = id;
            covered += usize::from(n < was_covered);
            ids.push(id);
            bytes += self.slot_cost(slot);
            // A lifetime of its own goes on; that of the tier counts from now.
            let expires = if entry.own_expiry { entry.expires } else { self.config().expiry(entry.tier, now) };
            puts.push(Effect::Put {
                entry: Box::new(Entry {
                    id,
                    expires,
                    session: Some(to.into()),
                    created: now,
                    entered: now,
                    superseded: None,
                    supersedes: None,
                    ..entry
                }),
                vectors: self.stored_vectors(slot),
                signs: self.stored_signs(slot),
            });
        }
        if self.len() + puts.len() > limits::MEMORIES {
            return Err(Error::with_code("OOM", format!("a space holds at most {} memories", limits::MEMORIES)));
        }
        let max = usize::try_from(self.config().max_memory).unwrap_or(usize::MAX);
        if max > 0 && self.live_bytes() + bytes > max {
            return Err(Error::with_code(
                "OOM",
                format!(
                    "the copies take {bytes} bytes, and the space is near its max-memory of {max}: forget some of it, or raise max-memory"
                ),
            ));
        }
        let turns = ids.len();
        effects.append(&mut puts);
        effects.push(Effect::Session(Box::new(patch)));
        for ids in ids.chunks(limits::EFFECT_IDS) {
            effects.push(Effect::Turns { session: to.into(), ids: ids.to_vec() });
        }
        let summary = session.summary.clone().map(|summary| Summary { covered, ..summary });
        effects.push(Effect::Session(Box::new(SessionPatch { summary: Some(summary), ..self.renewal(now, to) })));
        Ok((turns, effects))
    }

    /// The effects that end records whose time is over: as many as have up to `limit` turns together, and one at least.
    pub fn end_sessions(&self, now: Millis, limit: usize) -> Vec<Effect> {
        let mut let_go = 0;
        let over = self.session_ends.iter().take_while(|(at, _)| *at <= now).take_while(|(_, name)| {
            let more = let_go < limit;
            let_go += self.sessions.get(name).map_or(0, Session::turns) + 1;
            more
        });
        over.map(|(_, name)| Effect::EndSession { name: name.clone(), turns: false }).collect()
    }

    /// When the next record ends.
    pub(crate) fn next_session_end(&self) -> Option<Millis> {
        self.session_ends.first().map(|(at, _)| *at)
    }

    /// The slots of all turns that bear the name of a session, of whatever record, unless they have expired.
    fn session_turns(&self, now: Millis, name: &str) -> Vec<u32> {
        let records = &self.view.records;
        let named = self.by_session.get(name).into_iter().flat_map(|order| order.iter());
        named.filter(|slot| records.has_role(*slot) && !records.is_expired(*slot, now)).collect()
    }

    /// Bytes of the records.
    pub(crate) fn sessions_bytes(&self) -> usize {
        self.sessions.iter().map(|(name, session)| 128 + 2 * name.len() + session.bytes()).sum()
    }

    /// The effects of which a record can be made again; behind the memories.
    pub(crate) fn save_sessions(&self, write: &mut dyn FnMut(Effect)) {
        for (name, session) in &self.sessions {
            let patch = SessionPatch {
                name: name.clone(),
                created: session.created,
                expires: session.expires,
                fields: session.fields.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect(),
                meta: Some(session.meta.clone()),
                summary: None,
            };
            let summary = SessionPatch {
                summary: Some(session.summary.clone()),
                fields: Vec::new(),
                meta: None,
                ..patch.clone()
            };
            write(Effect::Session(Box::new(patch)));
            for slots in session.turns.chunks(limits::EFFECT_IDS) {
                let ids = slots.iter().map(|slot| self.view.id(*slot)).collect();
                write(Effect::Turns { session: name.clone(), ids });
            }
            if session.summary.is_some() {
                write(Effect::Session(Box::new(summary)));
            }
        }
    }

    pub(crate) fn patch_session(&mut self, patch: &SessionPatch) -> Result<()> {
        patch.check()?;
        let there = self.sessions.get(&patch.name);
        if there.is_none() && self.sessions.len() >= limits::SESSIONS {
            return Err(Error::with_code("OOM", format!("a space has at most {} sessions", limits::SESSIONS)));
        }
        patch.check_fields_beside(there)?;
        let fresh = || Session { created: patch.created, ..Session::default() };
        let session = self.sessions.entry(patch.name.clone()).or_insert_with(fresh);
        if let Some(old) = session.expires {
            self.session_ends.remove(&(old, patch.name.clone()));
        }
        session.expires = patch.expires;
        if let Some(new) = patch.expires {
            self.session_ends.insert((new, patch.name.clone()));
        }
        for (name, value) in &patch.fields {
            match value {
                Some(value) => drop(session.fields.insert(name.clone(), value.clone())),
                None => drop(session.fields.remove(name)),
            }
        }
        if let Some(meta) = &patch.meta {
            session.meta.clone_from(meta);
        }
        if let Some(summary) = &patch.summary {
            session.summary.clone_from(summary);
            let turns = session.turns.len();
            if let Some(summary) = &mut session.summary {
                summary.covered = summary.covered.min(turns);
            }
            self.hold_turns(&patch.name);
        }
        Ok(())
    }

    pub(crate) fn add_turns(&mut self, name: &str, ids: &[MemoryId]) -> Result<()> {
        let mut slots = Vec::with_capacity(ids.len().min(limits::EFFECT_IDS));
        let mut seen = BTreeSet::new();
        for id in ids {
            let slot = self.slot(*id).ok_or_else(|| Error::no_such_memory(*id))?;
            let of_this = self.view.records.record(slot).is_some_and(|record| record.session == Some(name));
            if !of_this || self.view.records.held(slot).is_some() || !seen.insert(slot) {
                return Err(Error::new(format!(
                    "{id} cannot be a turn of session {name}: it is one already, or of another"
                )));
            }
            slots.push(slot);
        }
        let Some(session) = self.sessions.get_mut(name) else {
            return Err(Error::new(format!("no such session: {name}")));
        };
        if session.turns.len() + slots.len() > limits::TURNS {
            return Err(Error::new(format!("a session has at most {} turns", limits::TURNS)));
        }
        session.turns.extend_from_slice(&slots);
        slots.iter().for_each(|slot| self.hold(*slot, Some(true)));
        self.hold_turns(name);
        Ok(())
    }

    pub(crate) fn end_session(&mut self, name: &str, turns: bool) -> usize {
        let mut gone = 0;
        if let Some(session) = self.sessions.remove(name) {
            if let Some(expires) = session.expires {
                self.session_ends.remove(&(expires, name.into()));
            }
            session.turns.iter().for_each(|slot| self.hold(*slot, None));
        }
        if turns {
            // At the beginning of time nothing has expired.
            for slot in self.session_turns(GONE, name) {
                self.reexpire(slot, Some(GONE));
                gone += 1;
            }
        }
        gone
    }

    /// Takes a memory that goes out of the record of its session.
    pub(crate) fn leave_record(&mut self, slot: u32, forgotten: bool) {
        if self.view.records.held(slot).is_none() {
            return;
        }
        let Some(name) = self.view.records.record(slot).and_then(|record| record.session).map(Box::<str>::from) else {
            return;
        };
        self.hold(slot, None);
        let Some(session) = self.sessions.get_mut(&name) else { return };
        let Some(n) = session.turns.iter().position(|turn| *turn == slot) else { return };
        session.turns.remove(n);
        session.held -= usize::from(n < session.held);
        if let Some(summary) = &mut session.summary
            && n < summary.covered
        {
            summary.covered -= 1;
            if forgotten {
                session.summary = None;
            }
        }
        self.hold_turns(&name);
    }

    /// A turn has another text: the summary that covers it is of the old one, and goes as if the turn had been forgotten.
    pub(crate) fn reword_turn(&mut self, slot: u32) {
        if self.view.records.held(slot).is_none() {
            return;
        }
        let record = self.view.records.record(slot);
        let Some(name) = record.and_then(|record| record.session).map(Box::<str>::from) else { return };
        let Some(session) = self.sessions.get_mut(&name) else { return };
        if session.turns.iter().take(session.covered()).any(|turn| *turn == slot) {
            session.summary = None;
            self.hold_turns(&name);
        }
    }

    /// Holds what the record of a session holds now, and lets go of the rest.
    fn hold_turns(&mut self, name: &str) {
        let last = usize::try_from(self.config().session_turns).unwrap_or(usize::MAX);
        let Some(session) = self.sessions.get_mut(name) else { return };
        let held = session.covered().min(session.turns.len().saturating_sub(last));
        let old = std::mem::replace(&mut session.held, held);
        let (changed, hold) = if held > old { (old..held, false) } else { (held..old, true) };
        let slots: Vec<u32> = session.turns.get(changed).unwrap_or_default().to_vec();
        slots.into_iter().for_each(|slot| self.hold(slot, Some(hold)));
    }

    /// The same for all records: what is held is a setting.
    pub(crate) fn hold_all_turns(&mut self) {
        let names: Vec<Box<str>> = self.sessions.keys().cloned().collect();
        names.iter().for_each(|name| self.hold_turns(name));
    }

    /// The turns of a record, for the checks of tests: (slot, whether it must be held).
    pub(crate) fn record_turns(&self) -> impl Iterator<Item = (&str, u32, bool)> {
        self.sessions.iter().flat_map(|(name, session)| {
            session.turns.iter().enumerate().map(move |(n, slot)| (&**name, *slot, n >= session.held))
        })
    }
}

impl SessionPatch {
    /// Whether a record has room for the fields that come.
    fn check_fields_beside(&self, session: Option<&Session>) -> Result<()> {
        let there = |name: &str| session.is_some_and(|session| session.fields.contains_key(name));
        let new = self.fields.iter().filter(|(name, value)| value.is_some() && !there(name)).count();
        if session.map_or(0, |session| session.fields.len()) + new > limits::SESSION_FIELDS {
            return Err(Error::new(format!("a session has at most {} fields", limits::SESSION_FIELDS)));
        }
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<()> {
        check_name("SESSION", &self.name)?;
        check_time("created", self.created)?;
        if let Some(expires) = self.expires {
            check_time("expires", expires)?;
        }
        if self.fields.len() > limits::SESSION_FIELDS {
            return Err(Error::new(format!("a session has at most {} fields", limits::SESSION_FIELDS)));
        }
        for (name, value) in &self.fields {
            check_name("a session's field", name)?;
            if value.as_ref().is_some_and(|value| value.len() > limits::SESSION_FIELD_BYTES) {
                return Err(Error::new(format!(
                    "field {name}: a value has at most {} bytes",
                    limits::SESSION_FIELD_BYTES
                )));
            }
        }
        if let Some(Some(meta)) = &self.meta {
            check_meta(meta)?;
        }
        if let Some(Some(summary)) = &self.summary {
            check_time("the summary's time", summary.at)?;
            if summary.text.trim().is_empty() || summary.text.len() > limits::SUMMARY_BYTES {
                return Err(Error::new(format!("a summary has 1 to {} bytes", limits::SUMMARY_BYTES)));
            }
            if let Some(model) = &summary.model {
                check_name("the summary's model", model)?;
            }
        }
        Ok(())
    }
}

pub(crate) fn check_role(role: &str) -> Result<()> {
    if ROLES.contains(&role) {
        return Ok(());
    }
    Err(Error::new(format!("role '{role}': a turn is of {}", ROLES.join(", "))))
}

//! Generated text as a Redis stream, which any client can read with XREAD BLOCK, here or on a replica.
//!
//! Entries, in order: one `job`, then `text` entries, last `done 1` with every field of the reply (or `error`). Pieces are gathered for [`PIECE_MS`], so that a
//! token costs no entry of its own. The writes go through the commit queue like every other write of a background job: paused → role → slot; and they are
//! XADD and PEXPIRE by the client's own user, so ACL, type and memory are checked by the server each time, as that client could. After the first entry
//! NOMKSTREAM is given: a stream that somebody deletes stays deleted, and generation goes on without it.
//!
//! The writer keeps what could not be written yet; while the server is paused it simply grows by the text generated meanwhile, which MAXTOKENS bounds.

use std::ffi::CStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::commit::{self, Ran};
use crate::config;
use crate::ffi::{self, Ctx, Str, flags};
use crate::reply::Value;

/// How long pieces are gathered before they become an entry.
const PIECE_MS: u128 = 30;
/// A stream keeps about this many entries.
const MAX_ENTRIES: &str = "10000";

/// Writes one generation to one stream.
pub struct StreamWriter {
    db: i32,
    key: Box<[u8]>,
    user: String,
    job: String,
    state: Mutex<State>,
}

struct State {
    created: bool,
    queued: bool,
    text: String,
    last: Instant,
    /// Why nothing is written any more.
    stopped: Option<String>,
}

impl StreamWriter {
    /// A writer for the client of `ctx`.
    pub fn new(ctx: Ctx, key: &[u8], job: &str) -> Arc<StreamWriter> {
        Arc::new(StreamWriter {
            db: ctx.db(),
            key: key.into(),
            user: ctx.user(),
            job: job.to_owned(),
            state: Mutex::new(State {
                created: false,
                queued: false,
                text: String::new(),
                last: Instant::now(),
                stopped: None,
            }),
        })
    }

    /// No critical section here can leave the state half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the first entry. From a background thread.
    pub fn begin(self: &Arc<StreamWriter>) {
        let writer = self.clone();
        self.state().queued = true;
        commit::submit(move |ctx| writer.flush(ctx));
    }

    /// Adds text; it is written once enough time has passed. From a background thread.
    pub fn push(self: &Arc<StreamWriter>, text: &str) {
        let mut state = self.state();
        if state.stopped.is_some() {
            return;
        }
        state.text.push_str(text);
        if state.queued || state.text.is_empty() || state.last.elapsed().as_millis() < PIECE_MS {
            return;
        }
        state.queued = true;
        drop(state);
        let writer = self.clone();
        commit::submit(move |ctx| writer.flush(ctx));
    }

    /// Writes what waits: inside a commit.
    fn flush(&self, ctx: Ctx) -> Ran {
        let mut state = self.state();
        if state.stopped.is_none() {
            if ffi::is_paused() {
                return Ran::Later;
            }
            if !state.created {
                self.add(ctx, &mut state, &[("job", &self.job)]);
            }
            if !state.text.is_empty() {
                let text = std::mem::take(&mut state.text);
                self.add(ctx, &mut state, &[("text", &text)]);
            }
        }
        state.queued = false;
        state.last = Instant::now();
        Ran::Done
    }

    /// Writes the last entry: inside a commit. `fields` are those of the reply. Answers why the stream is incomplete, if it is.
    pub fn end(&self, ctx: Ctx, fields: &[(String, String)]) -> Result<Option<String>, Ran> {
        if self.flush(ctx) == Ran::Later {
            return Err(Ran::Later);
        }
        let mut state = self.state();
        if state.stopped.is_none() {
            let mut entry: Vec<(&str, &str)> = vec![("done", "1")];
            entry.extend(fields.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            self.add(ctx, &mut state, &entry);
        }
        Ok(state.stopped.clone())
    }

    fn add(&self, ctx: Ctx, state: &mut State, fields: &[(&str, &str)]) {
        if let Err(reason) = self.try_add(ctx, state.created, fields) {
            state.stopped = Some(reason);
            return;
        }
        state.created = true;
    }

    fn try_add(&self, ctx: Ctx, created: bool, fields: &[(&str, &str)]) -> Result<(), String> {
        let Some(ctx) = ffi::own(ctx) else { return Err("the server gave the module no context".to_owned()) };
        if !ctx.select(self.db) || !ctx.has(flags::MASTER) {
            return Err("this server has become a replica".to_owned());
        }
        let Some(_user) = ctx.as_user(&self.user) else {
            return Err(format!("the user '{}' no longer exists", self.user));
        };
        let key = Str::new(&self.key);
        let mut words: Vec<Str> = Vec::new();
        if created {
            words.push(Str::new(b"NOMKSTREAM"));
        }
        for word in ["MAXLEN", "~", MAX_ENTRIES, "*"] {
            words.push(Str::new(word.as_bytes()));
        }
        for (name, value) in fields {
            words.push(Str::new(name.as_bytes()));
            words.push(Str::new(value.as_bytes()));
        }
        let args: Vec<&Str> = std::iter::once(&key).chain(&words).collect();
        if self.call(ctx, c"XADD", &args)? {
            return Err("the stream was deleted by somebody".to_owned());
        }
        let ttl = Str::new(config::stream_ttl_ms().to_string().as_bytes());
        self.call(ctx, c"PEXPIRE", &[&key, &ttl])?;
        Ok(())
    }

    /// Runs a write as the client's user, replicated, within the memory limit. True if it answered null.
    fn call(&self, ctx: Ctx, command: &CStr, args: &[&Str]) -> Result<bool, String> {
        match ctx.call(command, c"!CMEv", args) {
            Some(reply) => match reply.error() {
                Some(error) => Err(error),
                None => Ok(reply.is_null()),
            },
            None => {
                Err(format!("{} was refused: the slot of the key is served by another node", command.to_string_lossy()))
            }
        }
    }
}

/// The fields of a reply as the text of stream entries: nested values as JSON.
pub fn entry_fields(reply: &Value) -> Vec<(String, String)> {
    match reply {
        Value::Map(fields) => fields.iter().map(|(name, value)| (name.to_string(), value.to_text())).collect(),
        other => vec![("value".to_owned(), other.to_text())],
    }
}

//! The handlers of the commands: each takes parsed arguments, asks the engine, and answers. What blocks is handed to `jobs`, what writes to `commit`.

mod audit;
pub mod chat;
pub mod consolidate;
pub mod context;
mod edit;
mod export;
mod fields;
pub mod generate;
mod graph;
pub mod ingest;
mod models;
pub mod paths;
mod read;
pub mod recall;
mod reembed;
pub mod reflect;
mod report;
mod session;
mod store;
pub mod summarize;
mod transcript;

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use engram_memory::{Effect, Space};
use redis_module::raw;

use crate::commit::{self, Expect, Needs, Stop, Target};
use crate::config;
use crate::datatype::{self, Found, Held};
use crate::describe;
use crate::ffi::{self, Ctx, Key, Level, Mode, Str, flags};
use crate::grammar::{self, Parsed};
use crate::jobs::Job;
use crate::reply::{Error, Value};
use crate::table;
use crate::traffic;

/// What a handler comes to.
pub enum Flow {
    /// The reply.
    Reply(Value),
    /// The client is blocked and will be answered later.
    Later,
}

impl From<Value> for Flow {
    fn from(value: Value) -> Flow {
        Flow::Reply(value)
    }
}

type Outcome = Result<Flow, Error>;

/// Names every command's handler; the names are those of the table.
macro_rules! handlers {
    ($($name:literal => $handler:path,)*) => {
        /// The function the server calls for a command of the table.
        pub fn handler(name: &'static str) -> raw::RedisModuleCmdFunc {
            match name {
                $($name => {
                    unsafe extern "C" fn run(ctx: *mut raw::RedisModuleCtx, argv: *mut *mut raw::RedisModuleString, argc: c_int) -> c_int {
                        // SAFETY: the server's context and arguments, for the length of this call, on the main thread.
                        let (ctx, args) = unsafe { (Ctx::new(ctx), ffi::arguments(argv, argc)) };
                        dispatch($name, $handler, ctx, &args)
                    }
                    Some(run)
                })*
                _ => None,
            }
        }
    };
}

handlers! {
    "mem.store" => store::store,
    "mem.mstore" => store::mstore,
    "mem.update" => store::update,
    "mem.recall" => recall::recall,
    "mem.get" => read::get,
    "mem.history" => read::history,
    "mem.scan" => read::scan,
    "mem.count" => read::count,
    "mem.timeline" => read::timeline,
    "mem.audit" => audit::audit,
    "mem.stats" => read::stats,
    "mem.report" => report::report,
    "mem.forget" => edit::forget,
    "mem.promote" => edit::promote,
    "mem.config|get" => edit::config_get,
    "mem.config|set" => edit::config_set,
    "mem.config|preset" => edit::config_preset,
    "mem.apply" => edit::apply,
    "mem.export" => export::export,
    "mem.import" => export::import,
    "mem.session|append" => session::append,
    "mem.session|history" => session::history,
    "mem.session|list" => session::list,
    "mem.session|info" => session::info,
    "mem.session|set" => session::set,
    "mem.session|get" => session::get,
    "mem.session|touch" => session::touch,
    "mem.session|copy" => session::copy,
    "mem.session|clear" => session::clear,
    "mem.session|export" => session::export,
    "mem.session|import" => session::import,
    "mem.session|summarize" => summarize::summarize,
    "mem.session|summary" => session::summary,
    "mem.session|del" => session::delete,
    "mem.outcome" => session::outcome,
    "mem.context" => context::context,
    "mem.ingest" => ingest::ingest,
    "mem.docs" => ingest::docs,
    "mem.consolidate" => consolidate::consolidate,
    "mem.reflect" => reflect::reflect,
    "mem.link" => graph::link,
    "mem.unlink" => graph::unlink,
    "mem.related" => graph::related,
    "mem.reembed" => reembed::reembed,
    "gemma.load" => models::load,
    "gemma.unload" => models::unload,
    "gemma.models" => models::models,
    "gemma.embed" => models::embed,
    "gemma.tokenize" => models::tokenize,
    "gemma.jobs" => models::jobs,
    "gemma.result" => models::result,
    "gemma.cancel" => models::cancel,
    "gemma.chat" => chat::chat,
    "gemma.generate" => generate::generate,
    "gemma.generate_ro" => generate::generate,
}

/// Parses, runs and answers; nothing that happens in a handler reaches the server as a panic.
fn dispatch(name: &'static str, handler: fn(Ctx, &Parsed) -> Outcome, ctx: Ctx, args: &[&[u8]]) -> c_int {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let command = table::find(name).ok_or_else(|| Error::err(format!("{name} is not in the command table")))?;
        if describe::answer_keys(ctx.ptr(), command, args) {
            return Ok(Flow::Later);
        }
        traffic::note(ffi::client_id(ctx), command.writes());
        handler(ctx, &grammar::parse(command, args)?)
    }));
    match ran {
        Ok(Ok(Flow::Later)) => {}
        Ok(Ok(Flow::Reply(value))) => value.emit(ctx.ptr()),
        Ok(Err(error)) => error.emit(ctx.ptr()),
        Err(_) => {
            ctx.log(Level::Warning, &format!("engram: a panic in {name}; please report it"));
            Error::err("internal error; the server's log has more").emit(ctx.ptr());
        }
    }
    0
}

impl From<engram_memory::Error> for Error {
    fn from(error: engram_memory::Error) -> Error {
        Error::new(error.code(), error.message().to_owned())
    }
}

/// Answers with what a job comes to, or with its name where nobody waits for it.
fn answer_for(ctx: Ctx, job: &Arc<Job>, nowait: bool) -> Outcome {
    if nowait {
        // Who joined it is told that it goes on, whoever else leaves.
        job.detach();
        return Ok(Value::map(vec![("job", Value::from(job.id.as_str()))]).into());
    }
    match job.wait(ctx, 0) {
        Some(outcome) => outcome.map(Flow::from),
        None => Ok(Flow::Later),
    }
}

/// Reads the space at `key`, if there is one.
fn read<T>(ctx: Ctx, key: &[u8], body: impl FnOnce(&mut Held) -> Result<T, Error>) -> Result<Option<T>, Error> {
    let name = Str::new(key);
    let mut key = Key::open(ctx, &name, Mode::Read);
    match datatype::find(&mut key) {
        Found::Missing => Ok(None),
        Found::WrongType => Err(Error::wrong_type()),
        Found::Space(held) => body(held).map(Some),
    }
}

/// Decides and applies at once, for a command that needs no background work.
fn write<T>(
    ctx: Ctx,
    key: &[u8],
    needs: Needs,
    decide: impl FnOnce(&Space, u64) -> Result<(T, Vec<Effect>), Error>,
) -> Result<T, Error> {
    let target = Target { db: ctx.db(), key: key.into(), expect: Expect::Command };
    match commit::commit(ctx, &target, needs, decide) {
        Ok(answer) => Ok(answer),
        Err(Stop::Never(error)) => Err(error),
        Err(Stop::Later) => Err(Error::err("the server is paused: retry")),
    }
}

/// Where background work begun now will write.
fn target(ctx: Ctx, key: &[u8]) -> Result<Target, Error> {
    let incarnation = read(ctx, key, |held| Ok(held.incarnation))?;
    let expect = incarnation.map_or(Expect::Absent, Expect::Incarnation);
    Ok(Target { db: ctx.db(), key: key.into(), expect })
}

/// An error if a write that takes memory would be refused now: better before a text is embedded than after.
fn expect_memory(ctx: Ctx) -> Result<(), Error> {
    if ctx.has(flags::OOM) {
        return Err(Error::new("OOM", "command not allowed when used memory > 'maxmemory'."));
    }
    Ok(())
}

/// Memories that a filter looks at on the main thread at most: about a tenth of a millisecond. More are looked at on the pool, over a snapshot.
const SELECT_INLINE: usize = 1_000;

/// An error for a text longer than the server embeds or stores.
fn check_size(text: &str, what: &str) -> Result<(), Error> {
    let limit = config::max_content_bytes();
    if text.len() > limit {
        return Err(Error::err(format!(
            "{what} has {} bytes, at most {limit} are accepted (engram.max-content-bytes)",
            text.len()
        )));
    }
    Ok(())
}

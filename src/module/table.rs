//! The one table of the module's commands. The parser, the key specs, the ACL categories, COMMAND DOCS and the reference page all come from it; a
//! handler exists for every row.
//!
//! What a command cannot do yet is absent from here: an option is never accepted and ignored.
//!
//! Flags, where they are not obvious:
//! * `deny-oom` is on what adds data; FORGET, CONSOLIDATE, PROMOTE and CONFIG must work when memory is short, and the commit path asks again anyway.
//! * GENERATE is a write because it may write a stream, whose XADD is checked for memory by itself; GENERATE_RO is not, so it runs on replicas.
//! * `getkeys-api`: after GENERATE's free text a keyword such as MEMORY may stand as a value too, so the server asks the parser where the keys are.
//! * `blocking` marks commands that are all waiting for a model or a job. The server uses it for the ACL category @blocking only.

mod conversations;
mod memories;
mod models;

use crate::grammar::{Access, Arg, Command, KeySpec, Kind, Place};

const fn at_most(limit: usize) -> i64 {
    limit as i64
}

const fn first_key(access: Access) -> KeySpec {
    KeySpec { place: Place::Index(1), access }
}

const JOB: Arg =
    Arg::option("job", "JOB", "id", Kind::Text, "Names the job: the same request under the same name attaches to it");
const NOWAIT: Arg = Arg::flag("nowait", "NOWAIT", "Replies with the job's id at once; GEMMA.RESULT fetches the result");
const MODEL: Arg = Arg::option("model", "MODEL", "name", Kind::Text, "A loaded model (the default one)");

/// What every command has unless it says otherwise.
const BASE: Command = Command {
    name: "",
    summary: "",
    group: "",
    complexity: "",
    reply: "",
    flags: "readonly",
    categories: "engram read slow",
    tips: "",
    keys: &[],
    args: &[],
    one_of: &[],
    subcommands: &[],
};

/// Every command of the module, containers included.
pub fn commands() -> impl Iterator<Item = &'static Command> {
    memories::COMMANDS.iter().chain(conversations::COMMANDS).chain(models::COMMANDS)
}

/// Every row that can be called: commands without subcommands, and subcommands.
pub fn callable() -> impl Iterator<Item = &'static Command> {
    commands().flat_map(|c| if c.subcommands.is_empty() { std::slice::from_ref(c) } else { c.subcommands })
}

/// The row of a command, or of a subcommand as `container|name`.
pub fn find(name: &str) -> Option<&'static Command> {
    callable().find(|c| c.name == name)
}

/// Whether any command has an argument of this name.
pub fn has_argument(name: &str) -> bool {
    callable().any(|c| c.args.iter().any(|a| a.name == name))
}

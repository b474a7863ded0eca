//! Tells the server what the command table says: commands with flags and keys, COMMAND DOCS and COMMAND INFO, ACL categories; and people, as the
//! reference page.
//!
//! The arity that COMMAND INFO shows is the loosest possible. The server checks it before the module is called and would answer `wrong number of
//! arguments`; left to the grammar, the answer says which argument is missing and how the command is written.
//!
//! Keys after an option (MEMORY, STREAM) are declared by keyword and marked incomplete, because a prompt may contain the same word: the server then asks
//! [`answer_keys`], which parses as the command itself will. Without that, `SYSTEM MEMORY mine MEMORY yours` would have its ACL checked on `mine`.
//!
//! What is handed to `RM_SetCommandInfo` is copied by the server during the call (read in 7.0.15); it lives in a [`Scope`] until then.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt::Write as _;
use std::ptr::{null, null_mut};

use redis_module::raw;

use crate::config;
use crate::ffi;
use crate::grammar::{self, Access, Arg, Command, KeySpec, Kind, OneOf, Place, Shape, accepted};
use crate::reply::{Error, Value};
use crate::table;

/// Every command came with this version.
const SINCE: &CStr = c"0.1.0";
const OK: c_int = 0;
/// Arguments of a command that may be parsed inside an ACL check: the callback of the server.
type Handler = fn(&'static str) -> raw::RedisModuleCmdFunc;

/// The layout that the structures below were compiled with; newer servers read older layouts.
static VERSION: raw::RedisModuleCommandInfoVersion = raw::RedisModuleCommandInfoVersion {
    version: 1,
    sizeof_historyentry: size_of::<raw::RedisModuleCommandHistoryEntry>(),
    sizeof_keyspec: size_of::<raw::RedisModuleCommandKeySpec>(),
    sizeof_arg: size_of::<raw::RedisModuleCommandArg>(),
};

/// Registers every command of the table; `handler` gives the function of each.
///
/// # Safety
/// `ctx` is the context of `RedisModule_OnLoad`, on the main thread, after the API has been bound.
pub unsafe fn register(ctx: *mut raw::RedisModuleCtx, handler: Handler) -> Result<(), Error> {
    // SAFETY: the API's pointers have been bound.
    if let Some(add_category) = unsafe { raw::RedisModule_AddACLCategory } {
        // SAFETY: the caller's context. It fails only where the category exists, which is as good.
        unsafe { add_category(ctx, c"engram".as_ptr()) };
    }
    for command in table::commands() {
        // SAFETY: promised by the caller.
        unsafe {
            register_one(ctx, command, None, handler)?;
            for subcommand in command.subcommands {
                register_one(ctx, subcommand, Some(command), handler)?;
            }
        }
    }
    Ok(())
}

/// # Safety
/// As [`register`].
unsafe fn register_one(
    ctx: *mut raw::RedisModuleCtx,
    command: &'static Command,
    parent: Option<&Command>,
    handler: Handler,
) -> Result<(), Error> {
    let refused = |what: &str| Error::err(format!("the server refused {what} of the command {}", command.title()));
    // SAFETY: the API's pointers have been bound.
    let (create, create_sub, get, set_info) = unsafe {
        (
            raw::RedisModule_CreateCommand,
            raw::RedisModule_CreateSubcommand,
            raw::RedisModule_GetCommand,
            raw::RedisModule_SetCommandInfo,
        )
    };
    let (Some(create), Some(create_sub), Some(get), Some(set_info)) = (create, create_sub, get, set_info) else {
        return Err(Error::err("this server cannot describe commands: Redis 7.0 or later is needed"));
    };
    let function = if command.subcommands.is_empty() { handler(command.name) } else { None };
    if function.is_none() && command.subcommands.is_empty() {
        return Err(Error::err(format!("the command {} has no handler", command.title())));
    }
    let mut scope = Scope::default();
    let (name, flags) = (scope.text(command.name), scope.text(command.flags));
    let (first, last, step) = legacy_keys(command);
    // SAFETY: the caller's context; the strings live in `scope` and are copied by the server.
    let created = unsafe {
        match parent {
            None => create(ctx, name, function, flags, first, last, step),
            Some(parent) => {
                let short = scope.text(command.name.rsplit('|').next().unwrap_or(command.name));
                let parent = get(ctx, scope.text(parent.name));
                if parent.is_null() { 1 } else { create_sub(parent, short, function, flags, first, last, step) }
            }
        }
    };
    if created != OK {
        return Err(refused("the registration"));
    }
    // SAFETY: as above.
    let registered = unsafe { get(ctx, name) };
    if registered.is_null() {
        return Err(refused("to find the registration"));
    }
    let info = scope.info(command);
    // SAFETY: everything `info` points to lives in `scope`.
    if unsafe { set_info(registered, &info) } != OK {
        return Err(refused("the description"));
    }
    // SAFETY: `registered` is the server's.
    if !unsafe { set_categories(registered, command.categories) } {
        return Err(refused("the ACL categories"));
    }
    if !command.subcommands.is_empty() {
        let full_name = scope.text(&format!("{}|help", command.name));
        // SAFETY: as above. The server itself points to HELP when a subcommand is unknown.
        let helped = unsafe {
            create_sub(registered, c"help".as_ptr(), Some(help), c"allow-loading allow-stale".as_ptr(), 0, 0, 0) == OK
                && set_categories(get(ctx, full_name), "engram slow")
        };
        if !helped {
            return Err(refused("the subcommand HELP"));
        }
    }
    Ok(())
}

/// Sets the ACL categories of a command, where the server lets a module do so (7.2); false if it refuses.
///
/// # Safety
/// `command` is a registered command or null, during `RedisModule_OnLoad`.
unsafe fn set_categories(command: *mut raw::RedisModuleCommand, categories: &str) -> bool {
    // SAFETY: the API's pointers have been bound.
    let (set, add) = unsafe { (raw::RedisModule_SetCommandACLCategories, raw::RedisModule_AddACLCategory) };
    let Some(set) = set else { return true };
    // 7.2 has categories for the commands of modules, but not yet categories of modules.
    let known: Vec<&str> = categories.split(' ').filter(|c| add.is_some() || *c != "engram").collect();
    let known = CString::new(known.join(" ")).unwrap_or_default();
    // SAFETY: promised by the caller; the string lives until the call returns.
    !command.is_null() && unsafe { set(command, known.as_ptr()) } == OK
}

/// `HELP` of a container: the syntax and the summary of each subcommand.
unsafe extern "C" fn help(ctx: *mut raw::RedisModuleCtx, argv: *mut *mut raw::RedisModuleString, argc: c_int) -> c_int {
    // SAFETY: the server's arguments, for the length of this call.
    let args = unsafe { ffi::arguments(argv, argc) };
    let name = args.first().map(|name| name.to_ascii_lowercase()).unwrap_or_default();
    let mut lines = Vec::new();
    for command in table::commands().filter(|c| c.name.as_bytes() == name).flat_map(|c| c.subcommands) {
        lines.push(Value::from(syntax(command)));
        lines.push(Value::from(format!("    {}", command.summary)));
    }
    Value::Array(lines).emit(ctx);
    0
}

/// Answers the server's question where the keys of this call are. False if the call is not such a question but the command itself: run it then.
///
/// What does not parse has no keys: it will be refused for that reason, having touched none.
pub(crate) fn answer_keys(ctx: *mut raw::RedisModuleCtx, command: &'static Command, argv: &[&[u8]]) -> bool {
    // SAFETY: the API's pointers are written once, at load.
    let (asked, answer) = unsafe { (raw::RedisModule_IsKeysPositionRequest, raw::RedisModule_KeyAtPosWithFlags) };
    let (Some(asked), Some(answer)) = (asked, answer) else { return false };
    // SAFETY: the caller's context of a command.
    if unsafe { asked(ctx) } == 0 {
        return false;
    }
    for (position, access) in key_positions(command, argv) {
        // SAFETY: as above; the position is that of an argument.
        unsafe { answer(ctx, position, access_flags(access) as c_int) };
    }
    true
}

/// Where the keys of this call are.
fn key_positions(command: &'static Command, argv: &[&[u8]]) -> Vec<(c_int, Access)> {
    let Ok(parsed) = grammar::parse(command, argv) else { return Vec::new() };
    let position = |spec: &KeySpec| match spec.place {
        Place::Index(index) => Some(index),
        Place::Option(name) => parsed.position(name).and_then(|p| c_int::try_from(p).ok()),
    };
    command.keys.iter().filter_map(|spec| Some((position(spec)?, spec.access))).collect()
}

/// The loosest arity that is true: see the head of this file. A container must never be called by itself: it has no function.
fn arity(command: &Command) -> c_int {
    if command.subcommands.is_empty() && command.words() == 1 { -1 } else { -2 }
}

/// First key, last key and step, as `RM_CreateCommand` takes them.
fn legacy_keys(command: &Command) -> (c_int, c_int, c_int) {
    match command.keys {
        [KeySpec { place: Place::Index(index), .. }] => (*index, *index, 1),
        _ => (0, 0, 0),
    }
}

fn access_flags(access: Access) -> u32 {
    match access {
        Access::Read => raw::REDISMODULE_CMD_KEY_RO | raw::REDISMODULE_CMD_KEY_ACCESS,
        Access::Insert => raw::REDISMODULE_CMD_KEY_RW | raw::REDISMODULE_CMD_KEY_INSERT,
        Access::Update => raw::REDISMODULE_CMD_KEY_RW | raw::REDISMODULE_CMD_KEY_UPDATE,
        Access::ReadUpdate => {
            raw::REDISMODULE_CMD_KEY_RW | raw::REDISMODULE_CMD_KEY_ACCESS | raw::REDISMODULE_CMD_KEY_UPDATE
        }
        Access::ReadDelete => {
            raw::REDISMODULE_CMD_KEY_RW | raw::REDISMODULE_CMD_KEY_ACCESS | raw::REDISMODULE_CMD_KEY_DELETE
        }
    }
}

/// Owns what the server reads during one call: strings and arrays, at fixed addresses.
#[derive(Default)]
struct Scope {
    texts: Vec<CString>,
    args: Vec<Box<[raw::RedisModuleCommandArg]>>,
    keys: Vec<Box<[raw::RedisModuleCommandKeySpec]>>,
}

/// An argument of the documentation, before it is laid out for the server: a leaf, or a group.
#[derive(Debug, PartialEq)]
struct Doc {
    name: String,
    kind: raw::RedisModuleCommandArgType,
    token: Option<&'static str>,
    summary: &'static str,
    optional: bool,
    multiple: bool,
    key: Option<usize>,
    parts: Vec<Doc>,
}

impl Scope {
    fn text(&mut self, text: &str) -> *const c_char {
        // The table has no NUL.
        let text = CString::new(text).unwrap_or_default();
        let at = text.as_ptr();
        self.texts.push(text);
        at
    }

    fn info(&mut self, command: &'static Command) -> raw::RedisModuleCommandInfo {
        let tips = if command.tips.is_empty() { null() } else { self.text(command.tips) };
        raw::RedisModuleCommandInfo {
            version: &VERSION,
            summary: self.text(command.summary),
            complexity: self.text(command.complexity),
            since: SINCE.as_ptr(),
            history: null_mut(),
            tips,
            arity: arity(command),
            key_specs: self.keys(command),
            args: self.args(&docs(command)),
        }
    }

    fn keys(&mut self, command: &'static Command) -> *mut raw::RedisModuleCommandKeySpec {
        if command.keys.is_empty() {
            return null_mut();
        }
        let mut specs: Vec<raw::RedisModuleCommandKeySpec> = Vec::new();
        for key in command.keys {
            // SAFETY: the structure is plain data of the server's, in which zero means absent; so too for the array's end.
            let mut spec: raw::RedisModuleCommandKeySpec = unsafe { std::mem::zeroed() };
            spec.flags = u64::from(access_flags(key.access));
            match key.place {
                Place::Index(pos) => {
                    spec.begin_search_type = raw::RedisModuleKeySpecBeginSearchType_REDISMODULE_KSPEC_BS_INDEX;
                    spec.bs.index.pos = pos;
                }
                Place::Option(name) => {
                    let token = command.option(name).and_then(|a| a.token).unwrap_or_default();
                    spec.flags |= u64::from(raw::REDISMODULE_CMD_KEY_INCOMPLETE);
                    spec.begin_search_type = raw::RedisModuleKeySpecBeginSearchType_REDISMODULE_KSPEC_BS_KEYWORD;
                    // After the name and the one positional argument.
                    spec.bs.keyword = raw::RedisModuleCommandKeySpec__bindgen_ty_1__bindgen_ty_2 {
                        keyword: self.text(token),
                        startfrom: 2,
                    };
                }
            }
            // One key: find_keys_type stays OMITTED, which is zero.
            specs.push(spec);
        }
        // SAFETY: as above.
        specs.push(unsafe { std::mem::zeroed() });
        let mut specs = specs.into_boxed_slice();
        let at = specs.as_mut_ptr();
        self.keys.push(specs);
        at
    }

    fn args(&mut self, docs: &[Doc]) -> *mut raw::RedisModuleCommandArg {
        if docs.is_empty() {
            return null_mut();
        }
        let mut args: Vec<raw::RedisModuleCommandArg> = Vec::new();
        for doc in docs {
            let mut flags = 0;
            if doc.optional {
                flags |= raw::REDISMODULE_CMD_ARG_OPTIONAL;
            }
            if doc.multiple {
                flags |= raw::REDISMODULE_CMD_ARG_MULTIPLE;
                // Only an option as a whole repeats, keyword and all.
                if doc.token.is_some() {
                    flags |= raw::REDISMODULE_CMD_ARG_MULTIPLE_TOKEN;
                }
            }
            args.push(raw::RedisModuleCommandArg {
                name: self.text(&doc.name),
                type_: doc.kind,
                key_spec_index: doc.key.and_then(|k| c_int::try_from(k).ok()).unwrap_or(-1),
                token: doc.token.map_or(null(), |t| self.text(t)),
                summary: if doc.summary.is_empty() { null() } else { self.text(doc.summary) },
                since: null(),
                flags: flags as c_int,
                deprecated_since: null(),
                subargs: self.args(&doc.parts),
                display_text: null(),
            });
        }
        // SAFETY: plain data, in which a null name marks the array's end.
        args.push(unsafe { std::mem::zeroed() });
        let mut args = args.into_boxed_slice();
        let at = args.as_mut_ptr();
        self.args.push(args);
        at
    }
}

/// The arguments as COMMAND DOCS shows them: alternatives under one `oneof`, an option and those that need it in one block.
fn docs(command: &'static Command) -> Vec<Doc> {
    let mut docs = Vec::new();
    let mut grouped: Vec<&str> = Vec::new();
    for arg in command.args.iter().filter(|a| a.requires.is_none() || command.group_of(a.name).is_some()) {
        if grouped.contains(&arg.name) {
            continue;
        }
        match command.group_of(arg.name) {
            None => docs.push(with_dependents(command, arg)),
            Some(OneOf { names: [_], required }) => docs.push(Doc { optional: !required, ..leaf(command, arg) }),
            Some(group) => {
                grouped.extend(group.names);
                let members = command.args.iter().filter(|a| group.names.contains(&a.name));
                let parts: Vec<Doc> = members.map(|a| Doc { optional: false, ..leaf(command, a) }).collect();
                let name = group.names.join("-or-");
                docs.push(Doc { optional: !group.required, ..block(name, ONEOF, parts) });
            }
        }
    }
    docs
}

fn with_dependents(command: &'static Command, arg: &'static Arg) -> Doc {
    let mut parts: Vec<Doc> = vec![Doc { optional: false, ..leaf(command, arg) }];
    let dependents = command.args.iter().filter(|a| a.requires == Some(arg.name) && command.group_of(a.name).is_none());
    parts.extend(dependents.map(|a| leaf(command, a)));
    if parts.len() == 1 {
        return leaf(command, arg);
    }
    Doc { optional: arg.optional, ..block(format!("with-{}", arg.name), BLOCK, parts) }
}

const STRING: raw::RedisModuleCommandArgType = raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_STRING;
const INTEGER: raw::RedisModuleCommandArgType = raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_INTEGER;
const DOUBLE: raw::RedisModuleCommandArgType = raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_DOUBLE;
const KEY: raw::RedisModuleCommandArgType = raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_KEY;
const TIME: raw::RedisModuleCommandArgType = raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_UNIX_TIME;
const TOKEN: raw::RedisModuleCommandArgType = raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_PURE_TOKEN;
const ONEOF: raw::RedisModuleCommandArgType = raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_ONEOF;
const BLOCK: raw::RedisModuleCommandArgType = raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_BLOCK;

fn block(name: String, kind: raw::RedisModuleCommandArgType, parts: Vec<Doc>) -> Doc {
    Doc { name, kind, token: None, summary: "", optional: false, multiple: false, key: None, parts }
}

/// One argument by itself.
fn leaf(command: &Command, arg: &'static Arg) -> Doc {
    let value = value(command, arg);
    let shown = match arg.shape {
        Shape::One if arg.kind == Kind::Flag => Doc { name: arg.name.to_owned(), ..value },
        Shape::One => value,
        Shape::Rest(_) => Doc { multiple: true, ..value },
        Shape::Counted(_) => {
            let count = block("count".to_owned(), INTEGER, Vec::new());
            block(arg.name.to_owned(), BLOCK, vec![count, Doc { multiple: true, ..value }])
        }
        Shape::Pairs(_) => {
            let second = block("value".to_owned(), STRING, Vec::new());
            Doc { multiple: true, ..block(arg.name.to_owned(), BLOCK, vec![value, second]) }
        }
        Shape::Each(values) | Shape::EachTimes(values, _) => {
            let each = |(name, kind): &(&str, Kind)| {
                block((*name).to_owned(), if matches!(kind, Kind::Float(..)) { DOUBLE } else { STRING }, Vec::new())
            };
            let row = block(arg.name.to_owned(), BLOCK, values.iter().map(each).collect());
            Doc { multiple: matches!(arg.shape, Shape::EachTimes(..)), ..row }
        }
    };
    Doc { token: arg.token, summary: arg.summary, optional: arg.optional, ..shown }
}

/// The value of an argument, without its token.
fn value(command: &Command, arg: &'static Arg) -> Doc {
    let key = command.keys.iter().position(|spec| match spec.place {
        Place::Index(_) => arg.token.is_none(),
        Place::Option(name) => arg.name == name,
    });
    let (kind, parts) = match arg.kind {
        Kind::Key => (KEY, Vec::new()),
        Kind::Int(..) => (INTEGER, Vec::new()),
        Kind::Float(..) | Kind::Component => (DOUBLE, Vec::new()),
        Kind::Millis => (TIME, Vec::new()),
        Kind::Flag => (TOKEN, Vec::new()),
        Kind::Choice(words) => {
            let word = |w: &&'static str| Doc { token: Some(w), ..block((*w).to_owned(), TOKEN, Vec::new()) };
            (ONEOF, words.iter().map(word).collect())
        }
        Kind::Text | Kind::Blob | Kind::Vector | Kind::Id | Kind::Cursor | Kind::Bound | Kind::Object => {
            (STRING, Vec::new())
        }
    };
    Doc { key: key.filter(|_| arg.kind == Kind::Key), ..block(arg.value.to_owned(), kind, parts) }
}

/// The syntax of a command on one line.
fn syntax(command: &'static Command) -> String {
    std::iter::once(command.title()).chain(docs(command).iter().map(shown)).collect::<Vec<_>>().join(" ")
}

/// The same, broken between arguments where a line would be longer than a page is wide.
fn wrapped_syntax(command: &'static Command) -> String {
    const WIDTH: usize = 100;
    let mut lines = vec![command.title()];
    for doc in docs(command) {
        let piece = shown(&doc);
        match lines.last_mut() {
            Some(line) if line.len() + 1 + piece.len() <= WIDTH => *line = format!("{line} {piece}"),
            _ => lines.push(format!("    {piece}")),
        }
    }
    lines.join("\n")
}

fn shown(doc: &Doc) -> String {
    let parts = |separator: &str| doc.parts.iter().map(shown).collect::<Vec<_>>().join(separator);
    let inner = match doc.kind {
        TOKEN => String::new(),
        ONEOF if is_choice(doc) => doc.name.clone(),
        ONEOF if doc.optional => parts(" | "),
        ONEOF => format!("({})", parts(" | ")),
        BLOCK => parts(" "),
        _ => doc.name.clone(),
    };
    let mut text = match doc.token {
        Some(token) if inner.is_empty() => token.to_owned(),
        Some(token) => format!("{token} {inner}"),
        None => inner,
    };
    if doc.multiple {
        text = format!("{text} [{text} ...]");
    }
    if doc.optional { format!("[{text}]") } else { text }
}

/// Whether this is a value out of a list of words, not a group of arguments: words have no summaries.
fn is_choice(doc: &Doc) -> bool {
    doc.kind == ONEOF && doc.parts.iter().all(|part| part.kind == TOKEN && part.summary.is_empty())
}

/// The reference page: every command and setting, in Markdown.
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Commands\n\nMade from the command table, do not edit: `ENGRAM_WRITE_DOCS=1 cargo test -p engram-module --no-default-features\n\
         reference_page` writes it again.\n\n\
         Positional arguments come first, options follow in any order, keywords in any case. Replies are RESP3 maps and doubles, in RESP2\n\
         flattened arrays and strings. A space is one key; GEMMA.LOAD and GEMMA.UNLOAD are for administrators.\n",
    );
    let mut group = "";
    for command in table::callable() {
        if command.group != group {
            group = command.group;
            let _ = write!(page, "\n## {group}\n");
        }
        let _ = write!(
            page,
            "\n### {}\n\n```\n{}\n```\n\n{}\n\n",
            command.title(),
            wrapped_syntax(command),
            command.summary
        );
        if !command.args.is_empty() {
            page.push_str("| argument | value | |\n|---|---|---|\n");
        }
        for arg in command.args {
            let name = arg.token.unwrap_or(arg.value);
            let count = match arg.shape {
                Shape::One => String::new(),
                Shape::Rest(max) => format!("one to {max}, each "),
                Shape::Counted(max) => format!("a count from 1 to {max} and so many values, each "),
                Shape::Pairs(max) => format!("one to {max} pairs of name and value, each "),
                Shape::Each(_) => String::new(),
                Shape::EachTimes(_, max) => format!("up to {max} times, "),
            };
            let value = match arg.shape {
                Shape::Each(values) | Shape::EachTimes(values, _) => {
                    let each = |(name, kind): &(&str, Kind)| format!("{name}: {}", accepted(*kind));
                    count + &values.iter().map(each).collect::<Vec<_>>().join("; ")
                }
                _ if arg.kind == Kind::Flag => String::new(),
                _ => (count + &accepted(arg.kind)).replace('<', "\\<"),
            };
            let needs =
                arg.requires.map(|name| format!("; only with {}", name.to_ascii_uppercase())).unwrap_or_default();
            let _ = writeln!(page, "| `{name}` | {value} | {}{needs} |", arg.summary.replace('|', "\\|"));
        }
        let _ = write!(
            page,
            "\n* Reply: {}\n* Time: {}\n* ACL categories (Redis 7.2 and later): {}\n",
            command.reply,
            command.complexity,
            command.categories.split(' ').map(|c| format!("@{c}")).collect::<Vec<_>>().join(" ")
        );
    }
    let _ = write!(
        page,
        "\n## Server settings\n\nIn redis.conf and CONFIG SET by this name, as arguments of loadmodule with or without `engram.`.\n\n{}",
        config::reference_table()
    );
    page
}

#[cfg(test)]
mod tests;

//! The commands on sessions, documents and contexts.

use engram_memory::{ROLES, limits};

use super::{BASE, JOB, NOWAIT, at_most, first_key};
use crate::grammar::{Access, Arg, Command, KeySpec, Kind, Place, Shape};

/// Sections of the reference page.
const SESSIONS: &str = "Sessions";
const DOCUMENTS: &str = "Documents";
const CONTEXT: &str = "Context";

const TIERS: &[&str] = &["working", "short_term", "long_term", "episodic", "semantic"];

const KEY: Arg = Arg::positional("key", Kind::Key, "The space");
const SESSION: Arg = Arg::positional("session", Kind::Text, "The session");
const REPLACE: Arg = Arg::flag("replace", "REPLACE", "Takes the place of a session of that name");

const fn second_key(access: Access) -> KeySpec {
    KeySpec { place: Place::Index(2), access }
}

pub(super) static COMMANDS: &[Command] = &[
    Command {
        name: "mem.context",
        summary: "What to show a model: summary and turns of a conversation, and memories, within a budget of tokens.",
        group: CONTEXT,
        complexity: "That of MEM.RECALL and O(M) for M turns; O(1) if the space has not changed since the same was asked",
        reply: "The text, its tokens and what counted them, the ids of the memories and turns in it, and what was left out and why; with FORMAT json all that as one JSON text, the parts apart.",
        tips: "nondeterministic_output",
        keys: &[first_key(Access::Read)],
        args: &[
            KEY,
            Arg::option("query", "QUERY", "text", Kind::Text, "What to remember (the newest turn of the user)"),
            Arg::option("session", "SESSION", "session", Kind::Text, "The conversation"),
            Arg::option(
                "tokens",
                "TOKENS",
                "tokens",
                Kind::Int(1, at_most(limits::CONTEXT_TOKENS)),
                "The budget of the whole text, never exceeded (4000)",
            ),
            Arg::option("k", "K", "count", Kind::Int(1, at_most(limits::K)), "Memories to recall (as many as may fit)"),
            Arg::option("filter", "FILTER", "expression", Kind::Text, "Only memories for which this holds"),
            Arg::option(
                "minscore",
                "MINSCORE",
                "similarity",
                Kind::Float(-1.0, 1.0),
                "Only memories at least as similar",
            ),
            Arg::option("instruction", "INSTRUCTION", "text", Kind::Text, "Stands in front, as it is"),
            Arg::option("format", "FORMAT", "format", Kind::Choice(&["text", "json"]), "How to reply (text)"),
        ],
        ..BASE
    },
    Command {
        name: "mem.ingest",
        summary: "Takes a document in: cuts it into chunks, embeds them, and shows them at once in place of what had its name.",
        group: DOCUMENTS,
        complexity: "O(M log N) for M chunks, beside their embedding, all of it in the background",
        reply: "The document's name, the number of its chunks and of their tokens. With NOWAIT the job's id.",
        flags: "write deny-oom blocking",
        categories: "engram write slow blocking",
        tips: "nondeterministic_output",
        keys: &[first_key(Access::ReadUpdate)],
        args: &[
            KEY,
            Arg::positional("doc", Kind::Text, "The document's name, or * to be given one"),
            Arg::positional("text", Kind::Text, "Its text, plain or Markdown"),
            Arg::option(
                "chunk",
                "CHUNK",
                "tokens",
                Kind::Int(1, at_most(limits::CHUNK_TOKENS)),
                "Tokens of a chunk at most, by the text encoder (512)",
            ),
            Arg::option(
                "overlap",
                "OVERLAP",
                "tokens",
                Kind::Int(0, at_most(limits::CHUNK_TOKENS)),
                "Tokens at most that a chunk repeats of the one before (50)",
            ),
            Arg::option("tier", "TIER", "tier", Kind::Choice(TIERS), "The tier of the chunks (long_term)"),
            Arg::option("source", "SOURCE", "source", Kind::Text, "Where it comes from"),
            Arg::option("type", "TYPE", "type", Kind::Text, "The type of document and chunks (chunk)"),
            Arg::option(
                "importance",
                "IMPORTANCE",
                "importance",
                Kind::Float(0.0, 1.0),
                "How much the chunks matter (0.5)",
            ),
            Arg::option("at", "AT", "ms", Kind::Millis, "When it was written, in Unix milliseconds (now)"),
            Arg::option("session", "SESSION", "session", Kind::Text, "The session it belongs to"),
            Arg::option("tags", "TAGS", "tag", Kind::Text, "Tags of the chunks, for filters")
                .shaped(Shape::Counted(limits::TAGS)),
            Arg::option(
                "meta",
                "META",
                "json",
                Kind::Object,
                "Fields of your own of document and chunks: a JSON object",
            ),
            JOB,
            NOWAIT,
        ],
        ..BASE
    },
    Command {
        name: "mem.docs",
        summary: "The documents of a space.",
        group: DOCUMENTS,
        complexity: "O(M) for M documents",
        reply: "Name, chunks, how many of them stand, tokens, bytes, times, type, source and meta of each; of those that are being taken in, how far they are.",
        keys: &[first_key(Access::Read)],
        args: &[KEY],
        ..BASE
    },
    Command {
        name: "mem.outcome",
        summary: "Tells what came of it from a user's words: whether the task is completed, the user is with it again, or distracted.",
        group: SESSIONS,
        complexity: "O(N) for N words, of which the first 8 KiB are read",
        reply: "A map: outcome, which is distracted, task_completed, re_engaged or null; words, those that told it.",
        flags: "readonly fast",
        categories: "engram read fast",
        args: &[Arg::positional("text", Kind::Text, "What the user said")],
        ..BASE
    },
    Command {
        name: "mem.session",
        summary: "Conversations of a space, turn by turn.",
        group: SESSIONS,
        complexity: "Depends on the subcommand",
        flags: "",
        categories: "engram slow",
        subcommands: &[
            Command {
                name: "mem.session|append",
                summary: "Appends a turn to a session; creates space and session, and renews the session's lifetime.",
                group: SESSIONS,
                complexity: "O(log N); the embedding is made after the reply",
                reply: "The id of the turn, which is a memory of the episodic tier.",
                flags: "write deny-oom",
                categories: "engram write slow",
                tips: "nondeterministic_output",
                keys: &[second_key(Access::ReadUpdate)],
                args: &[
                    KEY,
                    SESSION,
                    Arg::positional("role", Kind::Choice(&ROLES), "Whose turn it is: user, assistant, system or tool"),
                    Arg::positional("content", Kind::Text, "What was said"),
                    Arg::option(
                        "id",
                        "ID",
                        "id",
                        Kind::Id,
                        "An id of your own choice: sent again, the turn is not stored twice",
                    ),
                    Arg::option("at", "AT", "ms", Kind::Millis, "When it was said, in Unix milliseconds (now)"),
                    Arg::option("speaker", "SPEAKER", "speaker", Kind::Text, "Who said it"),
                    Arg::option(
                        "importance",
                        "IMPORTANCE",
                        "importance",
                        Kind::Float(0.0, 1.0),
                        "From 0.7 on it stays in the context word by word where there is room (estimated, unless the space's setting importance says otherwise)",
                    ),
                    Arg::option(
                        "outcome",
                        "OUTCOME",
                        "outcome",
                        Kind::Text,
                        "What came of it (for a user's turn what MEM.OUTCOME detects in it)",
                    ),
                    Arg::option("tags", "TAGS", "tag", Kind::Text, "Tags, for filters")
                        .shaped(Shape::Counted(limits::TAGS)),
                    Arg::option("meta", "META", "json", Kind::Object, "Fields of your own, for filters: a JSON object"),
                ],
                ..BASE
            },
            Command {
                name: "mem.session|history",
                summary: "The turns of a session, oldest first.",
                group: SESSIONS,
                complexity: "O(M) for M turns",
                reply: "Turns with id, role, content, tokens, time, importance and what else is set; empty if there is no such session.",
                keys: &[second_key(Access::Read)],
                args: &[
                    KEY,
                    SESSION,
                    Arg::option(
                        "count",
                        "COUNT",
                        "count",
                        Kind::Int(1, at_most(limits::TURNS)),
                        "The newest ones only",
                    ),
                    Arg::option(
                        "tokens",
                        "TOKENS",
                        "tokens",
                        Kind::Int(0, at_most(limits::CONTEXT_TOKENS)),
                        "The newest ones that come to so many tokens together",
                    ),
                ],
                ..BASE
            },
            Command {
                name: "mem.session|list",
                summary: "The sessions of a space that have not ended.",
                group: SESSIONS,
                complexity: "O(M) for M sessions",
                reply: "Name, number of turns, creation and end of each.",
                keys: &[second_key(Access::Read)],
                args: &[KEY],
                ..BASE
            },
            Command {
                name: "mem.session|info",
                summary: "Numbers about a session.",
                group: SESSIONS,
                complexity: "O(M) for M turns",
                reply: "A map; null if there is no such session.",
                keys: &[second_key(Access::Read)],
                args: &[KEY, SESSION],
                ..BASE
            },
            Command {
                name: "mem.session|set",
                summary: "Sets fields of a session, such as topic or state; creates space and session. An empty value takes a field away.",
                group: SESSIONS,
                complexity: "O(log N)",
                reply: "OK",
                flags: "write deny-oom fast",
                categories: "engram write fast",
                keys: &[second_key(Access::Update)],
                args: &[
                    KEY,
                    SESSION,
                    Arg::positional("field", Kind::Text, "A field and its value")
                        .shaped(Shape::Pairs(limits::SESSION_FIELDS)),
                ],
                ..BASE
            },
            Command {
                name: "mem.session|get",
                summary: "Fields of a session.",
                group: SESSIONS,
                complexity: "O(log N)",
                reply: "A map of all fields, or the values of those that are named, null where there is none.",
                flags: "readonly fast",
                categories: "engram read fast",
                keys: &[second_key(Access::Read)],
                args: &[
                    KEY,
                    SESSION,
                    Arg::positional("field", Kind::Text, "These fields")
                        .shaped(Shape::Rest(limits::SESSION_FIELDS))
                        .or_none(),
                ],
                ..BASE
            },
            Command {
                name: "mem.session|touch",
                summary: "Renews the lifetime of a session.",
                group: SESSIONS,
                complexity: "O(log N)",
                reply: "OK",
                flags: "write fast",
                categories: "engram write fast",
                keys: &[second_key(Access::Update)],
                args: &[KEY, SESSION],
                ..BASE
            },
            Command {
                name: "mem.session|copy",
                summary: "Copies a session under another name: its turns become memories of their own, with their vectors.",
                group: SESSIONS,
                complexity: "O(M log N) for M turns",
                reply: "The number of turns.",
                flags: "write deny-oom",
                categories: "engram write slow",
                keys: &[second_key(Access::Update)],
                args: &[KEY, SESSION, Arg::positional("new", Kind::Text, "The other name"), REPLACE],
                ..BASE
            },
            Command {
                name: "mem.session|clear",
                summary: "Takes all turns and the summary from a session; its fields stay.",
                group: SESSIONS,
                complexity: "O(M log N) for M turns",
                reply: "The number of turns.",
                flags: "write",
                categories: "engram write slow",
                keys: &[second_key(Access::ReadDelete)],
                args: &[KEY, SESSION],
                ..BASE
            },
            Command {
                name: "mem.session|del",
                summary: "Deletes a session with its turns.",
                group: SESSIONS,
                complexity: "O(M log N) for M turns",
                reply: "1, or 0 if there was none.",
                flags: "write",
                categories: "engram write slow",
                keys: &[second_key(Access::ReadDelete)],
                args: &[KEY, SESSION],
                ..BASE
            },
            Command {
                name: "mem.session|export",
                summary: "A session as JSON that a person can read and edit.",
                group: SESSIONS,
                complexity: "O(M) for M turns",
                reply: "The JSON text; null if there is no such session.",
                keys: &[second_key(Access::Read)],
                args: &[KEY, SESSION],
                ..BASE
            },
            Command {
                name: "mem.session|import",
                summary: "Makes a session of what MEM.SESSION EXPORT gave, here or elsewhere; creates the space.",
                group: SESSIONS,
                complexity: "O(M log N) for M turns",
                reply: "The number of turns.",
                flags: "write deny-oom",
                categories: "engram write slow",
                keys: &[second_key(Access::Update)],
                args: &[KEY, SESSION, Arg::positional("json", Kind::Object, "The JSON text"), REPLACE],
                ..BASE
            },
            Command {
                name: "mem.session|summarize",
                summary: "Moves the running summary of a session forward now, as it moves by itself when enough turns are not in it.",
                group: SESSIONS,
                complexity: "O(M*M) for the sentences of M turns, in the background",
                reply: "As MEM.SESSION SUMMARY, with notes on how it was made. With NOWAIT the job's id.",
                flags: "write deny-oom blocking",
                categories: "engram write slow blocking",
                tips: "nondeterministic_output",
                keys: &[second_key(Access::ReadUpdate)],
                args: &[
                    KEY,
                    SESSION,
                    Arg::option(
                        "keep",
                        "KEEP",
                        "count",
                        Kind::Int(0, at_most(limits::TURNS)),
                        "Newest turns to leave out (15)",
                    ),
                    Arg::option(
                        "model",
                        "MODEL",
                        "name",
                        Kind::Text,
                        "The loaded model that writes it (the setting summary-model; none = sentences of the turns)",
                    ),
                    JOB,
                    NOWAIT,
                ],
                ..BASE
            },
            Command {
                name: "mem.session|summary",
                summary: "The running summary of a session: what its older turns come to.",
                group: SESSIONS,
                complexity: "O(1)",
                reply: "The text, its tokens, how many turns it covers and how many it does not; null if there is no such session.",
                keys: &[second_key(Access::Read)],
                args: &[KEY, SESSION],
                ..BASE
            },
        ],
        ..BASE
    },
];

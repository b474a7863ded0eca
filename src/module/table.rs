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

use engram_memory::limits;

use crate::grammar::{Access, Arg, Command, KeySpec, Kind, OneOf, Place, Shape};

const MEMORIES: &str = "Memories";
const SPACES: &str = "Tiers and settings";
const MODELS: &str = "Models and generation";

const TIERS: &[&str] = &["working", "short_term", "long_term", "episodic", "semantic"];
/// A day in milliseconds: the longest a client may ask to wait.
const DAY_MS: i64 = 86_400_000;
/// The most tokens of a context or an answer that can be asked for; what a model holds is less.
const TOKENS: i64 = 1 << 20;
/// Texts in one GEMMA.EMBED.
const EMBED_TEXTS: usize = 1_000;
/// Stop strings of one GENERATE.
const STOPS: usize = 64;
/// Memories that one GENERATE may recall.
const PROMPT_MEMORIES: i64 = 1_000;

const fn at_most(limit: usize) -> i64 {
    limit as i64
}

const fn first_key(access: Access) -> KeySpec {
    KeySpec { place: Place::Index(1), access }
}

const KEY: Arg = Arg::positional("key", Kind::Key, "The space");
const ID: Arg = Arg::positional("id", Kind::Id, "The memory");
const IDS: Arg = Arg::positional("id", Kind::Id, "The memories").shaped(Shape::Rest(limits::K));
const TIER: Arg = Arg::option("tier", "TIER", "tier", Kind::Choice(TIERS), "The tier");
const VECTOR: Arg = Arg::option("vector", "VECTOR", "blob", Kind::Vector, "The vector as little-endian 32-bit floats");
const VALUES: Arg = Arg::option("values", "VALUES", "value", Kind::Component, "The vector as numbers")
    .shaped(Shape::Counted(limits::DIMENSIONS));
const IMPORTANCE: Arg = Arg::option(
    "importance",
    "IMPORTANCE",
    "importance",
    Kind::Float(0.0, 1.0),
    "How much it matters: decides promotion and what is evicted last (0.5)",
);
const CONFIDENCE: Arg =
    Arg::option("confidence", "CONFIDENCE", "confidence", Kind::Float(0.0, 1.0), "How sure it is (1)");
const TYPE: Arg = Arg::option(
    "type",
    "TYPE",
    "type",
    Kind::Text,
    "fact, context, preference, event, insight, summary, message, or a name of your own (fact)",
);
const OUTCOME: Arg = Arg::option(
    "outcome",
    "OUTCOME",
    "outcome",
    Kind::Text,
    "What came of it: task_completed, re_engaged, distracted, or a name of your own",
);
const SPEAKER: Arg = Arg::option("speaker", "SPEAKER", "speaker", Kind::Text, "Who said it");
const SESSION: Arg = Arg::option("session", "SESSION", "session", Kind::Text, "The session it belongs to");
const SOURCE: Arg = Arg::option("source", "SOURCE", "source", Kind::Text, "Where it comes from");
const FROM_IDS: Arg =
    Arg::option("from", "FROM", "id", Kind::Id, "The memories it was made from").shaped(Shape::Counted(limits::FROM));
const AT: Arg = Arg::option("at", "AT", "ms", Kind::Millis, "When it happened, in Unix milliseconds (now)");
const TTL: Arg = Arg::option(
    "ttl",
    "TTL",
    "seconds",
    Kind::Int(1, limits::TTL_SECONDS as i64),
    "A lifetime of its own instead of the tier's",
);
const PERSIST: Arg = Arg::flag("persist", "PERSIST", "It never expires, whatever its tier says");
const PIN: Arg = Arg::flag("pin", "PIN", "It is never evicted");
const TAGS: Arg =
    Arg::option("tags", "TAGS", "tag", Kind::Text, "Tags, for filters").shaped(Shape::Counted(limits::TAGS));
const META: Arg = Arg::option("meta", "META", "json", Kind::Object, "Fields of your own, for filters: a JSON object");
const NOEMBED: Arg = Arg::flag("noembed", "NOEMBED", "Stores no vector: recall does not find it, filters do");
const FILTER: Arg = Arg::option(
    "filter",
    "FILTER",
    "expression",
    Kind::Text,
    "Only memories for which this holds, such as `.importance >= 0.5 and \"x\" in .tags`",
);
const DRYRUN: Arg = Arg::flag("dryrun", "DRYRUN", "Changes nothing, says what would change");
const JOB: Arg =
    Arg::option("job", "JOB", "id", Kind::Text, "Names the job: the same request under the same name attaches to it");
const NOWAIT: Arg = Arg::flag("nowait", "NOWAIT", "Replies with the job's id at once; GEMMA.RESULT fetches the result");
const MODEL: Arg = Arg::option("model", "MODEL", "name", Kind::Text, "A loaded model (the default one)");

const ONE_VECTOR: OneOf = OneOf { names: &["vector", "values", "noembed"], required: false };
const ONE_LIFETIME: OneOf = OneOf { names: &["ttl", "persist"], required: false };

/// What every command has unless it says otherwise.
const BASE: Command = Command {
    name: "",
    summary: "",
    group: MEMORIES,
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

/// Every command of the module.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "mem.store",
        summary: "Stores a memory: embeds it, finds duplicates, keeps the tier within its capacity.",
        complexity: "O(log N) beside the embedding of the content; O(N) with DEDUP",
        reply: "The id; that of the memory which stands, if it is a duplicate.",
        flags: "write deny-oom",
        categories: "engram write slow",
        tips: "nondeterministic_output",
        keys: &[first_key(Access::ReadUpdate)],
        args: &[
            KEY,
            Arg::positional("content", Kind::Text, "What to remember"),
            Arg::option("tier", "TIER", "tier", Kind::Choice(TIERS), "The tier (short_term)"),
            Arg::option("id", "ID", "id", Kind::Id, "An unused id of your own choice"),
            VECTOR,
            VALUES,
            IMPORTANCE,
            CONFIDENCE,
            TYPE,
            OUTCOME,
            SPEAKER,
            SESSION,
            SOURCE,
            FROM_IDS,
            AT,
            TTL,
            PERSIST,
            PIN,
            TAGS,
            META,
            Arg::option(
                "dedup",
                "DEDUP",
                "similarity",
                Kind::Float(0.5, 1.0),
                "A memory of the same session and speaker with at least this cosine is a duplicate too",
            ),
            Arg::flag("nodedup", "NODEDUP", "Stores it even if the same text stands already"),
            NOEMBED,
        ],
        one_of: &[ONE_VECTOR, ONE_LIFETIME, OneOf { names: &["dedup", "nodedup"], required: false }],
        ..BASE
    },
    Command {
        name: "mem.mstore",
        summary: "Stores several memories, all or none; their texts are embedded as one batch.",
        complexity: "O(M log N) for M memories beside the embedding of their contents",
        reply: "The ids, in order.",
        flags: "write deny-oom",
        categories: "engram write slow",
        tips: "nondeterministic_output",
        keys: &[first_key(Access::ReadUpdate)],
        args: &[
            KEY,
            Arg::positional("json", Kind::Object, "A memory as an object with the fields that MEM.GET shows")
                .shaped(Shape::Rest(limits::BATCH)),
        ],
        ..BASE
    },
    Command {
        name: "mem.recall",
        summary: "Finds the memories nearest in meaning to a text, or nearest to a vector.",
        complexity: "O(N) comparisons of vectors, beside the embedding of the text",
        reply: "The memories, best first: each a map with id, score, similarity, tier, type, content, importance, confidence, at and what else is set.",
        keys: &[first_key(Access::Read)],
        args: &[
            KEY,
            Arg::positional("text", Kind::Text, "What to look for").or_none(),
            Arg::option(
                "text",
                "TEXT",
                "text",
                Kind::Text,
                "The same, for a text that is itself one of these keywords",
            ),
            VECTOR,
            VALUES,
            Arg::option("k", "K", "count", Kind::Int(1, at_most(limits::K)), "How many at most (10)"),
            Arg::option("tiers", "TIERS", "tier", Kind::Choice(TIERS), "Only these tiers (all)")
                .shaped(Shape::Counted(TIERS.len())),
            FILTER,
            Arg::option("minscore", "MINSCORE", "similarity", Kind::Float(-1.0, 1.0), "Only at or above this cosine"),
            Arg::option("session", "SESSION", "session", Kind::Text, "Only this session"),
            Arg::option("since", "SINCE", "ms", Kind::Millis, "Only what happened then or later"),
            Arg::option("until", "UNTIL", "ms", Kind::Millis, "Only what happened then or earlier"),
            Arg::flag("notouch", "NOTOUCH", "Does not count as use"),
            Arg::flag("withvectors", "WITHVECTORS", "Adds the vectors"),
        ],
        one_of: &[OneOf { names: &["text", "vector", "values"], required: true }],
        ..BASE
    },
    Command {
        name: "mem.get",
        summary: "Reads memories by id.",
        complexity: "O(M) for M ids",
        reply: "Per id the memory as a map, or null.",
        flags: "readonly fast",
        categories: "engram read fast",
        keys: &[first_key(Access::Read)],
        args: &[KEY, IDS],
        ..BASE
    },
    Command {
        name: "mem.update",
        summary: "Changes fields of a memory; new content is embedded again.",
        complexity: "O(log N), beside the embedding of new content",
        reply: "OK",
        flags: "write deny-oom",
        categories: "engram write slow",
        keys: &[first_key(Access::Update)],
        args: &[
            KEY,
            ID,
            Arg::option("content", "CONTENT", "text", Kind::Text, "New content"),
            TIER,
            VECTOR,
            VALUES,
            IMPORTANCE,
            CONFIDENCE,
            TYPE,
            OUTCOME,
            SPEAKER,
            SESSION,
            SOURCE,
            FROM_IDS,
            Arg::option("at", "AT", "ms", Kind::Millis, "When it happened, in Unix milliseconds"),
            TTL,
            PERSIST,
            PIN,
            TAGS,
            Arg::option("meta", "META", "json", Kind::Object, "Replaces the fields of your own: a JSON object"),
            Arg::flag("noembed", "NOEMBED", "The new content gets no vector").with("content"),
        ],
        one_of: &[ONE_VECTOR, ONE_LIFETIME],
        ..BASE
    },
    Command {
        name: "mem.forget",
        summary: "Removes memories: by id, by filter, or a whole tier or session.",
        complexity: "O(M log N) for M memories removed; O(N) to find them by filter or session",
        reply: "How many were removed; with DRYRUN the ids that would be.",
        flags: "write",
        categories: "engram write slow",
        keys: &[first_key(Access::ReadDelete)],
        args: &[
            KEY,
            IDS.or_none(),
            FILTER,
            Arg::option("tier", "TIER", "tier", Kind::Choice(TIERS), "All of this tier"),
            Arg::option("session", "SESSION", "session", Kind::Text, "All of this session"),
            DRYRUN,
        ],
        one_of: &[OneOf { names: &["id", "filter", "tier", "session"], required: true }],
        ..BASE
    },
    Command {
        name: "mem.scan",
        summary: "Walks through all memories by id, a few at a time.",
        complexity: "O(1) per call, O(N) for a whole walk",
        reply: "The next cursor, 0 at the end, and memories.",
        keys: &[first_key(Access::Read)],
        args: &[
            KEY,
            Arg::positional("cursor", Kind::Cursor, "0, or the cursor of the last reply"),
            Arg::option("count", "COUNT", "count", Kind::Int(1, at_most(limits::K)), "How many to look at (10)"),
            FILTER,
        ],
        ..BASE
    },
    Command {
        name: "mem.count",
        summary: "Counts memories.",
        complexity: "O(1); O(N) with FILTER",
        reply: "The count; 0 if there is no such space.",
        keys: &[first_key(Access::Read)],
        args: &[KEY, FILTER],
        ..BASE
    },
    Command {
        name: "mem.timeline",
        summary: "Lists memories by the time they happened.",
        complexity: "O(log N + M) for M memories looked at",
        reply: "The memories, oldest first.",
        keys: &[first_key(Access::Read)],
        args: &[
            KEY,
            Arg::positional("start", Kind::Bound, "The earliest time: milliseconds, ( before them to exclude, or -"),
            Arg::positional("end", Kind::Bound, "The latest time: milliseconds, ( before them to exclude, or +"),
            Arg::option("count", "COUNT", "count", Kind::Int(1, at_most(limits::K)), "How many at most"),
            Arg::flag("rev", "REV", "Newest first; start and end stay the earliest and the latest time"),
            FILTER,
        ],
        ..BASE
    },
    Command {
        name: "mem.stats",
        summary: "Shows a space: per tier count, capacity, use and bytes; totals; hits, misses, evictions, promotions, expirations.",
        complexity: "O(1)",
        reply: "A map; null if there is no such space.",
        tips: "nondeterministic_output",
        keys: &[first_key(Access::Read)],
        args: &[KEY],
        ..BASE
    },
    Command {
        name: "mem.consolidate",
        summary: "Promotes what matters, merges duplicates, enforces capacities and lifetimes.",
        group: SPACES,
        complexity: "O(N) off the main thread, O(N*N) where DEDUP compares by similarity; each change is one short step",
        reply: "Counts per kind of change; per change its kind, id and reason. With NOWAIT the job's id.",
        flags: "write blocking",
        categories: "engram write slow blocking",
        tips: "nondeterministic_output",
        keys: &[first_key(Access::ReadUpdate)],
        args: &[
            KEY,
            Arg::option("from", "FROM", "tier", Kind::Choice(TIERS), "Promotes out of this tier only"),
            Arg::option("to", "TO", "tier", Kind::Choice(TIERS), "Promotes into this tier only"),
            Arg::option(
                "threshold",
                "THRESHOLD",
                "importance",
                Kind::Float(0.0, 1.0),
                "Promotes from this importance on (0.7)",
            ),
            Arg::option(
                "dedup",
                "DEDUP",
                "similarity",
                Kind::Float(0.5, 1.0),
                "Merges memories with at least this cosine too",
            ),
            Arg::option(
                "limit",
                "LIMIT",
                "count",
                Kind::Int(1, at_most(limits::PLAN_STEPS)),
                "At most so many changes",
            ),
            DRYRUN,
            JOB,
            NOWAIT,
        ],
        ..BASE
    },
    Command {
        name: "mem.promote",
        summary: "Moves a memory to another tier.",
        group: SPACES,
        complexity: "O(log N)",
        reply: "OK",
        flags: "write fast",
        categories: "engram write fast",
        keys: &[first_key(Access::Update)],
        args: &[KEY, ID, Arg::positional("tier", Kind::Choice(TIERS), "Where to")],
        ..BASE
    },
    Command {
        name: "mem.config",
        summary: "Settings of a space.",
        group: SPACES,
        complexity: "Depends on the subcommand",
        flags: "",
        categories: "engram slow",
        subcommands: &[
            Command {
                name: "mem.config|get",
                summary: "Shows the settings of a space.",
                group: SPACES,
                complexity: "O(1)",
                reply: "A map of names and values; empty if there is no such space.",
                flags: "readonly fast",
                categories: "engram read fast",
                keys: &[KeySpec { place: Place::Index(2), access: Access::Read }],
                args: &[
                    KEY,
                    Arg::positional("pattern", Kind::Text, "Only settings like this, as in KEYS (*)").or_none(),
                ],
                ..BASE
            },
            Command {
                name: "mem.config|set",
                summary: "Changes settings of a space, all or none; creates the space.",
                group: SPACES,
                complexity: "O(1), beside the evictions that a lower capacity brings",
                reply: "OK",
                flags: "write",
                categories: "engram write slow",
                keys: &[KeySpec { place: Place::Index(2), access: Access::Update }],
                args: &[KEY, Arg::positional("name", Kind::Text, "A setting and its value").shaped(Shape::Pairs(64))],
                ..BASE
            },
            Command {
                name: "mem.config|preset",
                summary: "Sets capacities and lifetimes to those of a preset: default, chatbot, research or personal; creates the space.",
                group: SPACES,
                complexity: "O(1), beside the evictions that a lower capacity brings",
                reply: "OK",
                flags: "write",
                categories: "engram write slow",
                keys: &[KeySpec { place: Place::Index(2), access: Access::Update }],
                args: &[KEY, Arg::positional("name", Kind::Text, "The preset")],
                ..BASE
            },
        ],
        ..BASE
    },
    Command {
        name: "mem.apply",
        summary: "Internal: how a primary hands its decisions to replicas and to the append-only file. Refused from clients.",
        group: SPACES,
        complexity: "O(M log N) for M changes",
        reply: "OK",
        flags: "write",
        categories: "engram write slow",
        keys: &[first_key(Access::Update)],
        args: &[KEY, Arg::positional("blob", Kind::Blob, "Encoded changes")],
        ..BASE
    },
    Command {
        name: "gemma.load",
        summary: "Loads a model from the folder engram.model-dir and waits until it is ready.",
        group: MODELS,
        complexity: "O(size of the file), in the background",
        reply: "OK",
        flags: "admin blocking",
        categories: "engram admin dangerous slow blocking",
        args: &[
            Arg::positional("name", Kind::Text, "The name it gets"),
            Arg::positional("path", Kind::Text, "A GGUF file below engram.model-dir"),
            Arg::option(
                "tokenizer",
                "TOKENIZER",
                "path",
                Kind::Text,
                "A tokenizer.json instead of the file's own tokenizer",
            ),
            Arg::option(
                "context",
                "CONTEXT",
                "tokens",
                Kind::Int(16, TOKENS),
                "Tokens of prompt and answer (engram.max-context)",
            ),
        ],
        ..BASE
    },
    Command {
        name: "gemma.unload",
        summary: "Unloads a model; what is being generated with it ends first.",
        group: MODELS,
        complexity: "O(1)",
        reply: "OK",
        flags: "admin",
        categories: "engram admin dangerous slow",
        args: &[Arg::positional("name", Kind::Text, "The model")],
        ..BASE
    },
    Command {
        name: "gemma.models",
        summary: "Lists the text encoder and the models, with the progress of those being loaded.",
        group: MODELS,
        complexity: "O(number of models)",
        reply: "A map per model.",
        tips: "nondeterministic_output",
        ..BASE
    },
    Command {
        name: "gemma.generate",
        summary: "Generates text, with recalled memories in the prompt if asked to.",
        group: MODELS,
        complexity: "O(tokens), in the background",
        reply: GENERATED,
        flags: "write blocking no-mandatory-keys getkeys-api",
        categories: "engram write slow blocking",
        tips: "nondeterministic_output",
        keys: &[
            KeySpec { place: Place::Option("memory"), access: Access::Read },
            KeySpec { place: Place::Option("stream"), access: Access::Insert },
        ],
        args: &[
            PROMPT,
            MODEL,
            SYSTEM,
            MAXTOKENS,
            TEMPERATURE,
            TOPK,
            TOPP,
            MINP,
            REPEAT,
            SEED,
            STOP,
            MEMORY,
            MEMORY_K,
            MEMORY_FILTER,
            MEMORY_MINSCORE,
            MEMORY_SESSION,
            Arg::option("stream", "STREAM", "key", Kind::Key, "Writes the text to this stream as it is generated"),
            JOB,
            NOWAIT,
            TIMEOUT,
            RAW,
        ],
        ..BASE
    },
    Command {
        name: "gemma.generate_ro",
        summary: "Generates text as GEMMA.GENERATE does, but never writes: for replicas and users who may only read.",
        group: MODELS,
        complexity: "O(tokens), in the background",
        reply: GENERATED,
        flags: "readonly blocking no-mandatory-keys getkeys-api",
        categories: "engram read slow blocking",
        tips: "nondeterministic_output",
        keys: &[KeySpec { place: Place::Option("memory"), access: Access::Read }],
        args: &[
            PROMPT,
            MODEL,
            SYSTEM,
            MAXTOKENS,
            TEMPERATURE,
            TOPK,
            TOPP,
            MINP,
            REPEAT,
            SEED,
            STOP,
            MEMORY,
            MEMORY_K,
            MEMORY_FILTER,
            MEMORY_MINSCORE,
            MEMORY_SESSION,
            JOB,
            NOWAIT,
            TIMEOUT,
            RAW,
        ],
        ..BASE
    },
    Command {
        name: "gemma.embed",
        summary: "Embeds texts with the text encoder.",
        group: MODELS,
        complexity: "O(tokens), in the background",
        reply: "A vector per text: numbers, or with BLOB little-endian 32-bit floats.",
        flags: "readonly blocking",
        categories: "engram read slow blocking",
        args: &[
            Arg::positional("text", Kind::Text, "The texts").shaped(Shape::Counted(EMBED_TEXTS)),
            Arg::option(
                "model",
                "MODEL",
                "name",
                Kind::Text,
                "The text encoder by its name, to be sure which one answers",
            ),
            Arg::flag("blob", "BLOB", "Replies little-endian 32-bit floats"),
        ],
        ..BASE
    },
    Command {
        name: "gemma.tokenize",
        summary: "Shows the tokens that a model makes of a text.",
        group: MODELS,
        complexity: "O(length of the text)",
        reply: "The token ids; with COUNT how many.",
        args: &[
            Arg::positional("text", Kind::Text, "The text"),
            MODEL,
            Arg::flag("count", "COUNT", "Replies only how many tokens"),
        ],
        ..BASE
    },
    Command {
        name: "gemma.jobs",
        summary: "Lists your jobs: running ones, and finished ones whose result is still kept.",
        group: MODELS,
        complexity: "O(number of jobs)",
        reply: "A map per job.",
        tips: "nondeterministic_output",
        ..BASE
    },
    Command {
        name: "gemma.result",
        summary: "Fetches the result of a job, waiting for it if need be.",
        group: MODELS,
        complexity: "O(1)",
        reply: "What the command would have replied; null if TIMEOUT has passed.",
        flags: "readonly blocking",
        categories: "engram read slow blocking",
        tips: "nondeterministic_output",
        args: &[
            Arg::positional("job", Kind::Text, "The job"),
            Arg::option(
                "timeout",
                "TIMEOUT",
                "ms",
                Kind::Int(0, DAY_MS),
                "How long to wait at most; 0 and no TIMEOUT: until the end",
            ),
        ],
        ..BASE
    },
    Command {
        name: "gemma.cancel",
        summary: "Cancels a job; one that generates replies the text so far.",
        group: MODELS,
        complexity: "O(1)",
        reply: "1 if it was running, 0 if it had ended.",
        flags: "readonly fast",
        categories: "engram read fast",
        args: &[Arg::positional("job", Kind::Text, "The job")],
        ..BASE
    },
];

const GENERATED: &str = "A map: text, finish_reason (stop, stop_string, length, timeout, cancelled), prompt_tokens, tokens, speeds, seed, confidence, reason, model, memories, notes. With NOWAIT the job's id.";

const PROMPT: Arg = Arg::positional("prompt", Kind::Text, "What to answer");
const SYSTEM: Arg = Arg::option("system", "SYSTEM", "text", Kind::Text, "Instructions before the prompt");
const MAXTOKENS: Arg =
    Arg::option("maxtokens", "MAXTOKENS", "count", Kind::Int(1, TOKENS), "Tokens of the answer at most (2048)");
const TEMPERATURE: Arg = Arg::option(
    "temperature",
    "TEMPERATURE",
    "temperature",
    Kind::Float(0.0, 10.0),
    "How freely to choose; 0 always takes the likeliest token (0.7)",
);
const TOPK: Arg =
    Arg::option("topk", "TOPK", "count", Kind::Int(0, TOKENS), "Only the so many likeliest tokens; 0 for all");
const TOPP: Arg =
    Arg::option("topp", "TOPP", "probability", Kind::Float(0.0, 1.0), "Only the likeliest tokens that sum up to this");
const MINP: Arg = Arg::option(
    "minp",
    "MINP",
    "probability",
    Kind::Float(0.0, 1.0),
    "Only tokens at least so likely, relative to the likeliest",
);
const REPEAT: Arg = Arg::option(
    "repeat",
    "REPEAT",
    "penalty",
    Kind::Float(0.1, 10.0),
    "Makes tokens that stand already less likely; 1 does not (1)",
);
const SEED: Arg =
    Arg::option("seed", "SEED", "number", Kind::Int(0, i64::MAX), "The same seed gives the same text (random)");
const STOP: Arg = Arg::option("stop", "STOP", "text", Kind::Text, "Ends the answer before any of these")
    .shaped(Shape::Counted(STOPS));
const MEMORY: Arg = Arg::option("memory", "MEMORY", "key", Kind::Key, "Recalls memories of this space into the prompt");
const MEMORY_K: Arg =
    Arg::option("k", "K", "count", Kind::Int(1, PROMPT_MEMORIES), "How many memories at most").with("memory");
const MEMORY_FILTER: Arg =
    Arg::option("filter", "FILTER", "expression", Kind::Text, "Only memories for which this holds").with("memory");
const MEMORY_MINSCORE: Arg =
    Arg::option("minscore", "MINSCORE", "similarity", Kind::Float(-1.0, 1.0), "Only memories at or above this cosine")
        .with("memory");
const MEMORY_SESSION: Arg =
    Arg::option("session", "SESSION", "session", Kind::Text, "Only memories of this session").with("memory");
const TIMEOUT: Arg =
    Arg::option("timeout", "TIMEOUT", "ms", Kind::Int(1, DAY_MS), "Ends the answer then, with the text so far");
const RAW: Arg = Arg::flag("raw", "RAW", "Takes the prompt as it is, without the chat template");

/// Every row that can be called: commands without subcommands, and subcommands.
pub fn callable() -> impl Iterator<Item = &'static Command> {
    COMMANDS.iter().flat_map(|c| if c.subcommands.is_empty() { std::slice::from_ref(c) } else { c.subcommands })
}

/// The row of a command, or of a subcommand as `container|name`.
pub fn find(name: &str) -> Option<&'static Command> {
    callable().find(|c| c.name == name)
}

/// Whether any command has an argument of this name.
pub fn has_argument(name: &str) -> bool {
    callable().any(|c| c.args.iter().any(|a| a.name == name))
}

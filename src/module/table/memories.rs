//! The commands on memory spaces.

use engram_memory::limits;

use super::{BASE, JOB, NOWAIT, at_most, first_key};
use crate::grammar::{Access, Arg, Command, KeySpec, Kind, OneOf, Place, Shape};

/// Sections of the reference page.
const MEMORIES: &str = "Memories";
const SPACES: &str = "Tiers and settings";
const GRAPH: &str = "Links";

const TIERS: &[&str] = &["working", "short_term", "long_term", "episodic", "semantic"];

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
    "How much it matters: decides promotion and what is evicted last",
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
const NOEMBED: Arg = Arg::flag("noembed", "NOEMBED", "Stores no vector: recall finds it by its words");
const FILTER: Arg = Arg::option(
    "filter",
    "FILTER",
    "expression",
    Kind::Text,
    "Only memories for which this holds, such as `.importance >= 0.5 and \"x\" in .tags`",
);
const LINK_ENDS: [Arg; 2] = [
    Arg::positional("from", Kind::Id, "The memory that the link goes out from"),
    Arg::positional("to", Kind::Id, "The memory that it goes to"),
];
const DRYRUN: Arg = Arg::flag("dryrun", "DRYRUN", "Changes nothing, says what would change");

/// A weight of a recall.
const WEIGHT: Kind = Kind::Float(0.0, 1e6);

const ONE_VECTOR: OneOf = OneOf { names: &["vector", "values", "noembed"], required: false };
const ONE_LIFETIME: OneOf = OneOf { names: &["ttl", "persist"], required: false };

pub(super) static COMMANDS: &[Command] = &[
    Command {
        name: "mem.store",
        summary: "Stores a memory: embeds it, finds duplicates, keeps the tier within its capacity.",
        group: MEMORIES,
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
            Arg::option(
                "importance",
                "IMPORTANCE",
                "importance",
                Kind::Float(0.0, 1.0),
                "How much it matters: decides promotion and what is evicted last (estimated, unless the space's setting importance says otherwise)",
            ),
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
                "supersedes",
                "SUPERSEDES",
                "id",
                Kind::Id,
                "The memory whose place it takes: that one stays readable (MEM.HISTORY, ASOF) and goes out of recall",
            ),
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
        group: MEMORIES,
        complexity: "O(M log N) for M memories beside the embedding of their contents",
        reply: "The ids, in order.",
        flags: "write deny-oom",
        categories: "engram write slow",
        tips: "nondeterministic_output",
        keys: &[first_key(Access::ReadUpdate)],
        args: &[
            KEY,
            Arg::positional(
                "json",
                Kind::Object,
                "A memory as an object: `content` and, in lower case, the options of MEM.STORE",
            )
            .shaped(Shape::Rest(limits::BATCH)),
        ],
        ..BASE
    },
    Command {
        name: "mem.recall",
        summary: "Finds memories by meaning and by words: what answers a text, is near a vector, or is like another memory.",
        group: MEMORIES,
        complexity: "O(N) for N memories that the restrictions admit, most of it on one bit per dimension; beside the embedding of the text",
        reply: "The memories, best first: each a map with id, score, similarity, tier, type, content, importance, confidence, at and what else is set. Score is what the order follows; similarity is the cosine, null where no vectors were compared.",
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
            Arg::option("like", "LIKE", "id", Kind::Id, "What is like this memory, which is left out itself"),
            Arg::option("k", "K", "count", Kind::Int(1, at_most(limits::K)), "How many at most (10)"),
            Arg::option("tiers", "TIERS", "tier", Kind::Choice(TIERS), "Only these tiers (all)")
                .shaped(Shape::Counted(TIERS.len())),
            FILTER,
            Arg::option(
                "mode",
                "MODE",
                "mode",
                Kind::Choice(&["dense", "lexical", "hybrid"]),
                "By vectors alone, by words alone, or by both and what stands around in the session (hybrid where there are both)",
            ),
            Arg::option(
                "minscore",
                "MINSCORE",
                "score",
                Kind::Float(-1.0, 1000.0),
                "Only at or above this cosine; by words alone, this BM25 score",
            ),
            Arg::option("session", "SESSION", "session", Kind::Text, "Only this session"),
            Arg::option("since", "SINCE", "ms", Kind::Millis, "Only what happened then or later"),
            Arg::option("until", "UNTIL", "ms", Kind::Millis, "Only what happened then or earlier"),
            Arg::option(
                "asof",
                "ASOF",
                "ms",
                Kind::Millis,
                "As things stood then: what had happened by then and had not been superseded",
            ),
            Arg::option(
                "weights",
                "WEIGHTS",
                "weights",
                WEIGHT,
                "What else counts besides relevance, each a share of their sum (relevance alone)",
            )
            .shaped(Shape::Each(&[
                ("relevance", WEIGHT),
                ("recency", WEIGHT),
                ("importance", WEIGHT),
                ("use", WEIGHT),
            ])),
            Arg::option(
                "halflife",
                "HALFLIFE",
                "seconds",
                Kind::Int(1, limits::TTL_SECONDS as i64),
                "After how long recency counts half (2592000, 30 days)",
            )
            .with("weights"),
            Arg::option(
                "prefer",
                "PREFER",
                "outcome",
                Kind::Text,
                "Adds to the score of memories with that outcome this share, not 0, of the distance between the best and the last score",
            )
            .shaped(Shape::EachTimes(
                &[("outcome", Kind::Text), ("weight", Kind::Float(-1.0, 1.0))],
                limits::PREFERENCES,
            )),
            Arg::option(
                "mmr",
                "MMR",
                "lambda",
                Kind::Float(0.0, 1.0),
                "Variety among the results: 1 is relevance alone, 0 variety alone",
            ),
            Arg::option(
                "expand",
                "EXPAND",
                "depth",
                Kind::Int(1, at_most(limits::LINK_DEPTH)),
                "Follows links from the best, so many one behind the other: what they lead to competes with what was found",
            ),
            Arg::flag("notouch", "NOTOUCH", "Does not count as use"),
            Arg::flag("withvectors", "WITHVECTORS", "Adds the vectors"),
            Arg::flag("explain", "EXPLAIN", "Adds to each how its score came about, and how the search went"),
            Arg::flag("exact", "EXACT", "Compares every vector in full instead of narrowing the search down first"),
        ],
        one_of: &[OneOf { names: &["text", "vector", "values", "like"], required: true }],
        ..BASE
    },
    Command {
        name: "mem.get",
        summary: "Reads memories by id.",
        group: MEMORIES,
        complexity: "O(M) for M ids",
        reply: "Per id the memory as a map, or null.",
        flags: "readonly fast",
        categories: "engram read fast",
        keys: &[first_key(Access::Read)],
        args: &[KEY, IDS],
        ..BASE
    },
    Command {
        name: "mem.history",
        summary: "Shows what a memory was, what superseded it and where it came from.",
        group: MEMORIES,
        complexity: "O(V + S) for V versions and S sources",
        reply: "A map: id; current, the newest version; versions, oldest first; sources, the memories that a version was made FROM, as far as they stand. Null if there is no such space.",
        keys: &[first_key(Access::Read)],
        args: &[KEY, ID],
        ..BASE
    },
    Command {
        name: "mem.update",
        summary: "Changes fields of a memory; where the text that was embedded changes with them, it is embedded again.",
        group: MEMORIES,
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
            Arg::flag("unpin", "UNPIN", "It may be evicted again"),
            TAGS,
            Arg::option("meta", "META", "json", Kind::Object, "Replaces the fields of your own: a JSON object"),
            Arg::flag("noembed", "NOEMBED", "The new content gets no vector").with("content"),
        ],
        one_of: &[ONE_VECTOR, ONE_LIFETIME, OneOf { names: &["pin", "unpin"], required: false }],
        ..BASE
    },
    Command {
        name: "mem.forget",
        summary: "Removes memories: by id, by filter, or a whole tier, document or session.",
        group: MEMORIES,
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
            Arg::option("doc", "DOC", "doc", Kind::Text, "This document"),
            Arg::option(
                "session",
                "SESSION",
                "session",
                Kind::Text,
                "All of this session, with its summary and fields",
            ),
            DRYRUN,
        ],
        one_of: &[OneOf { names: &["id", "filter", "tier", "doc", "session"], required: true }],
        ..BASE
    },
    Command {
        name: "mem.scan",
        summary: "Walks through all memories by id, a few at a time.",
        group: MEMORIES,
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
        name: "mem.export",
        summary: "Walks through a whole space as lines of JSON, a page at a time: settings, sessions, documents and memories with their vectors.",
        group: MEMORIES,
        complexity: "O(M log N) for M lines per call, written out in the background; O(N) for a whole walk",
        reply: "The next cursor, 0 at the end, and lines: at most COUNT, about 1 MB, and perhaps none before the end.",
        keys: &[first_key(Access::Read)],
        args: &[
            KEY,
            Arg::positional("cursor", Kind::Text, "0, or the cursor of the last reply"),
            Arg::option(
                "count",
                "COUNT",
                "count",
                Kind::Int(1, at_most(limits::BATCH)),
                "Lines of this page at most (100)",
            ),
        ],
        ..BASE
    },
    Command {
        name: "mem.import",
        summary: "Takes lines that MEM.EXPORT gave, here or elsewhere, or that a person has written; all or none; creates the space. What it holds already is passed over, nothing is evicted, and what has no vectors gets them after the reply.",
        group: MEMORIES,
        complexity: "O(M log N) for M lines",
        reply: "How many lines were `written`, and how many `unchanged`: what they say stood already.",
        flags: "write deny-oom",
        categories: "engram write slow",
        keys: &[first_key(Access::Update)],
        args: &[
            KEY,
            Arg::flag("replace", "REPLACE", "What exists and is another gives its place; without it that is an error"),
            Arg::positional("json", Kind::Object, "A line").shaped(Shape::Rest(limits::BATCH)),
        ],
        ..BASE
    },
    Command {
        name: "mem.count",
        summary: "Counts memories.",
        group: MEMORIES,
        complexity: "O(1); O(N) with FILTER",
        reply: "The count; 0 if there is no such space.",
        keys: &[first_key(Access::Read)],
        args: &[KEY, FILTER],
        ..BASE
    },
    Command {
        name: "mem.timeline",
        summary: "Lists memories by the time they happened.",
        group: MEMORIES,
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
        summary: "Shows a space in numbers: per tier count, capacity, use and bytes; totals; hits, misses, evictions, promotions, expirations.",
        group: MEMORIES,
        complexity: "O(1)",
        reply: "A map; null if there is no such space.",
        tips: "nondeterministic_output",
        keys: &[first_key(Access::Read)],
        args: &[KEY],
        ..BASE
    },
    Command {
        name: "mem.audit",
        summary: "Shows what is wrong with a space: duplicates, contradictory facts, facts without ground, what is stale. Changes nothing.",
        group: MEMORIES,
        complexity: "O(N) off the main thread",
        reply: "How many findings there are of each sort, and per finding the ids and the reason; null if there is no such space.",
        flags: "readonly blocking",
        categories: "engram read slow blocking",
        tips: "nondeterministic_output",
        keys: &[first_key(Access::Read)],
        args: &[KEY],
        ..BASE
    },
    Command {
        name: "mem.report",
        summary: "Shows a space to people, as a page of 80 columns: how full its tiers are, what recalls find, what came and went; and the server's latencies and alerts.",
        group: MEMORIES,
        complexity: "O(1)",
        reply: "The page: a verbatim string in RESP3, an array of lines in RESP2; null if there is no such space.",
        tips: "nondeterministic_output",
        keys: &[first_key(Access::Read)],
        args: &[KEY],
        ..BASE
    },
    Command {
        name: "mem.link",
        summary: "Links one memory to another; a link of that name between them is replaced.",
        group: GRAPH,
        complexity: "O(log N + L) for L links of the two memories",
        reply: "OK",
        flags: "write deny-oom fast",
        categories: "engram write fast",
        keys: &[first_key(Access::Update)],
        args: &[
            KEY,
            LINK_ENDS[0],
            LINK_ENDS[1],
            Arg::option("rel", "REL", "name", Kind::Text, "What the link is called, such as mentions, causes, part-of"),
            Arg::option("weight", "WEIGHT", "weight", Kind::Float(0.0, 1.0), "How strong it is, above 0 (1)"),
        ],
        one_of: &[OneOf { names: &["rel"], required: true }],
        ..BASE
    },
    Command {
        name: "mem.unlink",
        summary: "Removes the links from one memory to another.",
        group: GRAPH,
        complexity: "O(log N + L) for L links of the two memories",
        reply: "How many links were removed; 0 if there is no such space.",
        flags: "write fast",
        categories: "engram write fast",
        keys: &[first_key(Access::ReadDelete)],
        args: &[
            KEY,
            LINK_ENDS[0],
            LINK_ENDS[1],
            Arg::option("rel", "REL", "name", Kind::Text, "Only the link of this name (all)"),
        ],
        ..BASE
    },
    Command {
        name: "mem.related",
        summary: "Finds the memories that are linked to one, in either direction.",
        group: GRAPH,
        complexity: "O(log N + L) for L links followed; those of at most 1,000 memories at each depth",
        reply: "The memories, best first: each a map with id, score (the activation that reaches it), rel, direction (out: the link goes there; in: it comes from there), weight, depth, via (the memory that the link hangs on), linked (when), reason (if it was not a caller who linked them), and the fields of a result. Empty if there is no such space.",
        keys: &[first_key(Access::Read)],
        args: &[
            KEY,
            ID,
            Arg::option("rel", "REL", "name", Kind::Text, "Only over links of this name"),
            Arg::option(
                "depth",
                "DEPTH",
                "depth",
                Kind::Int(1, at_most(limits::LINK_DEPTH)),
                "Over so many links, one behind the other (1)",
            ),
            Arg::option("k", "K", "count", Kind::Int(1, at_most(limits::K)), "How many at most (10)"),
        ],
        ..BASE
    },
    Command {
        name: "mem.reembed",
        summary: "Moves the space to this server's text encoder, or to another precision, while it is read and written.",
        group: SPACES,
        complexity: "O(N) off the main thread: every text is embedded, or, where a PRECISION alone is coarser than before, every \
                     vector converted; the switch takes no time per memory",
        reply: "How many memories there are, how many embeddings were made, how many replaced the caller's own vectors, how many \
                texts were too long for one; model, dimensions and precision from now on. With NOWAIT the job's id.",
        flags: "write deny-oom blocking",
        categories: "engram write slow blocking",
        tips: "nondeterministic_output",
        keys: &[first_key(Access::ReadUpdate)],
        args: &[
            KEY,
            Arg::option("model", "MODEL", "name", Kind::Text, "The text encoder that must be here (the one that is)"),
            Arg::option(
                "precision",
                "PRECISION",
                "precision",
                Kind::Choice(&["f32", "f16", "i8"]),
                "How vectors are kept (as before); alone and coarser it needs no model",
            ),
            JOB,
            NOWAIT,
        ],
        ..BASE
    },
    Command {
        name: "mem.consolidate",
        summary: "Promotes what matters, merges duplicates, learns facts and settles contradictions, sums up and links, enforces capacities and lifetimes.",
        group: SPACES,
        complexity: "O(N) off the main thread, O(N*N) where DEDUP compares by similarity; each change is one short step",
        reply: "Counts per kind of change; what was said and not believed, and why; per change its kind, id and reason. With NOWAIT the job's id.",
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
            Arg::flag(
                "extract",
                "EXTRACT",
                "Reads memories that nobody has read, and learns the facts that they state",
            ),
            Arg::flag(
                "summarize",
                "SUMMARIZE",
                "Makes a summary of every `turns-to-summary` turns of a session, and learns the facts in every `summaries-to-facts` of these",
            ),
            Arg::flag("link", "LINK", "Links memories that are similar, or of which one says more of what the other names"),
            Arg::option("model", "MODEL", "name", Kind::Text, "The language model that reads and writes, instead of those of the settings"),
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
        name: "mem.reflect",
        summary: "Stores what a session has taught, as one insight of a sentence or two with its sources.",
        group: SPACES,
        complexity: "O(N) off the main thread",
        reply: "The id, the insight, what it was drawn from, the model that wrote it, and notes; id and insight are null if there is nothing to learn. With NOWAIT the job's id.",
        flags: "write deny-oom blocking",
        categories: "engram write slow blocking",
        tips: "nondeterministic_output",
        keys: &[first_key(Access::ReadUpdate)],
        args: &[
            KEY,
            Arg::option("session", "SESSION", "session", Kind::Text, "The session to reflect upon"),
            Arg::option(
                "model",
                "MODEL",
                "name",
                Kind::Text,
                "The loaded model that writes it (the setting summary-model; none = made of outcomes and facts)",
            ),
            DRYRUN,
            JOB,
            NOWAIT,
        ],
        one_of: &[OneOf { names: &["session"], required: true }],
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
                complexity: "O(1), beside the evictions that a lower capacity brings: some at once, the rest soon in the background",
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
                complexity: "O(1), beside the evictions that a lower capacity brings: some at once, the rest soon in the background",
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
        categories: "engram write admin dangerous slow",
        keys: &[first_key(Access::Update)],
        args: &[KEY, Arg::positional("blob", Kind::Blob, "Encoded changes")],
        ..BASE
    },
];

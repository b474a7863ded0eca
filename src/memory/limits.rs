//! Every count, length and depth that the project bounds, in one place.
//!
//! A limit is checked before anything is allocated for what it bounds, by the command parser, by the decisions of the
//! engine and by the codec alike: what one of them lets through, the others take.

/// Bytes of one memory's content. A server setting may lower it, never raise it.
pub const CONTENT_BYTES: usize = 1 << 20;
/// Bytes of TYPE, OUTCOME, SESSION, SPEAKER and ROLE, each.
pub const NAME_BYTES: usize = 256;
/// Bytes of SOURCE.
pub const SOURCE_BYTES: usize = 4096;
/// Tags of one memory.
pub const TAGS: usize = 128;
/// Bytes of one tag.
pub const TAG_BYTES: usize = 256;
/// Bytes of META, written as JSON.
pub const META_BYTES: usize = 64 * 1024;
/// Levels of objects and arrays inside META, the outermost object counted.
pub const META_DEPTH: usize = 16;
/// Fields at the top level of META.
pub const META_FIELDS: usize = 256;
/// Bytes of the name of one META field at the top level.
pub const META_NAME_BYTES: usize = 256;
/// Ids that one memory may name as what it was made from.
pub const FROM: usize = 1024;
/// Links of one memory, of both directions.
pub const LINKS: usize = 256;
/// Turns that become one summary, at most: as many as a memory can be linked to beside other links.
pub const EPISODE_TURNS: usize = 128;
/// Bytes of the reason of a link.
pub const REASON_BYTES: usize = 256;
/// Links one behind the other that a walk goes over.
pub const LINK_DEPTH: usize = 3;
/// Dimensions of a vector.
pub const DIMENSIONS: usize = 16_384;
/// Vectors of one memory: windows of a long text.
pub const WINDOWS: usize = 1024;
/// Bytes of all the vectors of one memory.
pub const VECTOR_BYTES: usize = 16 << 20;
/// Bytes of word vectors in a space from which `token-vectors auto` keeps no more: some fifty thousand turns of a conversation.
pub const AUTO_TOKEN_VECTOR_BYTES: usize = 32 << 20;
/// Words of a text whose vectors a caller may give.
pub const TOKEN_VECTORS: usize = 65_536;
/// Memories of one space.
pub const MEMORIES: usize = 10_000_000;
/// Records of sessions in one space.
pub const SESSIONS: usize = 1_000_000;
/// Turns of one session.
pub const TURNS: usize = 100_000;
/// Fields of one session.
pub const SESSION_FIELDS: usize = 256;
/// Bytes of the value of a session's field.
pub const SESSION_FIELD_BYTES: usize = 64 * 1024;
/// Bytes of a session's summary.
pub const SUMMARY_BYTES: usize = 256 * 1024;
/// Tokens of a session's summary.
pub const SUMMARY_TOKENS: usize = 16_384;
/// Tokens of an assembled context.
pub const CONTEXT_TOKENS: usize = 1 << 20;
/// Tokens of a chunk of a document.
pub const CHUNK_TOKENS: usize = 8192;
/// Bytes of a document that comes in at once.
pub const DOCUMENT_BYTES: usize = 64 << 20;
/// Documents of one space.
pub const DOCUMENTS: usize = 1_000_000;
/// Chunks of one document.
pub const CHUNKS: usize = 100_000;
/// Objects in one MEM.MSTORE.
pub const BATCH: usize = 10_000;
/// Results of one recall.
pub const K: usize = 10_000;
/// Query vectors of one recall: windows of a long query, or the vectors of the memory named by LIKE.
pub const QUERIES: usize = WINDOWS;
/// Outcomes that one recall may prefer.
pub const PREFERENCES: usize = 8;
/// Bytes of a filter.
pub const FILTER_BYTES: usize = 16 * 1024;
/// Levels of nesting inside a filter.
pub const FILTER_DEPTH: usize = 32;
/// Operators, names and values of a filter together.
pub const FILTER_NODES: usize = 2048;
/// Bytes of a setting's value.
pub const SETTING_BYTES: usize = 1024;
/// Bytes of a model's name.
pub const MODEL_BYTES: usize = 512;
/// Ids in one effect; longer lists are split.
pub const EFFECT_IDS: usize = 1024;
/// Bytes of a dictionary for the texts of cold memories.
pub const DICTIONARY_BYTES: usize = 32 * 1024;
/// Uses between two looks at the heat of memories that a setting can ask for.
pub const HEAT_USES: usize = 255;
/// Dictionaries of a space: a newer one is for texts that are packed from then on.
pub const DICTIONARIES: usize = 8;
/// Memories whose vectors one effect stages; longer lists are split.
pub const STAGED: usize = 64;
/// The largest time, in Unix milliseconds: what a double holds exactly, so that JSON and filters agree with the engine.
pub const TIME_MS: u64 = 1 << 53;
/// The longest lifetime, in seconds: one hundred years of 365 days.
pub const TTL_SECONDS: u64 = 100 * 365 * 86_400;
/// Expired memories that one store takes away in passing.
pub const EXPIRE_IN_PASSING: usize = 64;
/// Bytes that one store into a space over its `max-memory` gives up, beside those that it takes.
pub const SHRUNK_IN_PASSING: usize = 32 * 1024;
/// Memories that one merge takes into another: a step stays one short unit of work.
pub const MERGE_GROUP: usize = 64;
/// Vector comparisons that one consolidation plan may make when it merges by similarity.
pub const MERGE_COMPARISONS: usize = 200_000_000;
/// Changes in one consolidation plan.
pub const PLAN_STEPS: usize = 100_000;

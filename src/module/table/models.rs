//! The commands on models, generation and jobs.

use engram_inference::sampler::MOST_ALTERNATIVES;

use super::{BASE, JOB, MODEL, NOWAIT};
use crate::config;
use crate::grammar::{Access, Arg, Command, KeySpec, Kind, OneOf, Place, Shape};

/// Section of the reference page.
const MODELS: &str = "Models and generation";

/// A day in milliseconds: the longest a client may ask to wait.
const DAY_MS: i64 = 86_400_000;
/// The most tokens of a context or an answer that can be asked for; what a model holds is less.
const TOKENS: i64 = 1 << 20;
/// The longest vectors that can be asked for.
const DIMENSIONS: i64 = 1 << 16;
/// Texts in one GEMMA.EMBED.
const EMBED_TEXTS: usize = 1_000;
/// Stop strings of one GENERATE.
const STOPS: usize = 64;
/// Memories that one GENERATE may recall.
const PROMPT_MEMORIES: i64 = 1_000;

const GENERATED: &str = "A map: text, finish_reason (stop, stop_string, length, timeout, cancelled), prompt_tokens, reused_tokens (of these, whose keys and values were kept), tokens, speeds, seed, confidence, reason, with LOGPROBS logprobs, model, where there are two paths path (fast or slow), route (why) and given_up (the first model's answer where it did not stand, else null: a map of model, text, tokens, confidence, reason), memories, notes. With NOWAIT the job's id. logprobs has a map per token of the answer: id, text (its bytes), logprob, top (the likeliest tokens in its place, as maps of id, text and logprob).";

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
const LOGPROBS: Arg = Arg::option(
    "logprobs",
    "LOGPROBS",
    "count",
    Kind::Int(0, MOST_ALTERNATIVES as i64),
    "Replies the log-probability of each token, and of so many of the likeliest: the model's own, before LOGITBIAS, TEMPERATURE and the like",
);
const LOGITBIAS: Arg = Arg::option(
    "logitbias",
    "LOGITBIAS",
    "json",
    Kind::Object,
    "Makes tokens more or less likely: a JSON object of what is added to their logits, -100 (never) to 100 (only these), by a text that is one token or by #id",
);
const PRIORITY: Arg = Arg::option(
    "priority",
    "PRIORITY",
    "priority",
    Kind::Choice(&["low", "normal", "high"]),
    "Who comes first where more is asked for than is generated at once (normal)",
);
const PROFILE: Arg = Arg::option(
    "profile",
    "PROFILE",
    "profile",
    Kind::Choice(config::PROFILES),
    "Context, tokens, temperature, memories: speed 4096, 512, 0.7, 3; balanced 8192, 1024, 0.7, 5; quality 16384, 2048, 0.8, 10; research 32768, 4096, 0.6, 20. Other options win",
);
const FORMAT: Arg = Arg::option(
    "format",
    "FORMAT",
    "format",
    Kind::Choice(&["json"]),
    "The answer is a JSON object or array, whole also where the tokens run out",
);
const SCHEMA: Arg = Arg::option(
    "schema",
    "SCHEMA",
    "json",
    Kind::Text,
    "The answer is JSON that satisfies this JSON Schema, whole also where the tokens run out",
);
const FALLBACK: Arg = Arg::option(
    "fallback",
    "FALLBACK",
    "model",
    Kind::Text,
    "A model that answers afresh where the first was not sure enough or could not answer (engram.fallback-model)",
);
const BELOW: Arg = Arg::option(
    "below",
    "BELOW",
    "confidence",
    Kind::Float(0.0, 1.0),
    "The confidence below which the first answer is given up; 0 never is (engram.fallback-below)",
)
.with("fallback");
const ONE_FORM: OneOf = OneOf { names: &["format", "schema"], required: false };
const MEMORY: Arg = Arg::option("memory", "MEMORY", "key", Kind::Key, "Recalls memories of this space into the prompt");
const MEMORY_K: Arg =
    Arg::option("k", "K", "count", Kind::Int(1, PROMPT_MEMORIES), "How many memories at most (5)").with("memory");
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

pub(super) static COMMANDS: &[Command] = &[
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
            Arg::positional("path", Kind::Text, "A GGUF file or a model's folder below engram.model-dir"),
            Arg::option(
                "tokenizer",
                "TOKENIZER",
                "path",
                Kind::Text,
                "A tokenizer.json or SentencePiece tokenizer.model instead of the file's own tokenizer",
            ),
            Arg::option(
                "context",
                "CONTEXT",
                "tokens",
                Kind::Int(16, TOKENS),
                "Tokens of prompt and answer (engram.max-context)",
            ),
            Arg::option(
                "kv",
                "KV",
                "format",
                Kind::Choice(&["bf16", "q8"]),
                "How keys and values of its texts are held: two bytes a number, or one (engram.kv-format)",
            ),
            Arg::flag("embedding", "EMBEDDING", "As the text encoder, in the place of the one there is"),
            Arg::option(
                "dim",
                "DIM",
                "numbers",
                Kind::Int(1, DIMENSIONS),
                "With EMBEDDING: the length that vectors are cut to, one that the model was trained for",
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
            LOGITBIAS,
            LOGPROBS,
            PROFILE,
            FALLBACK,
            BELOW,
            PRIORITY,
            FORMAT,
            SCHEMA,
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
        one_of: &[ONE_FORM],
        ..BASE
    },
    Command {
        name: "gemma.chat",
        summary: "Answers a message in a session: stores the turn, recalls, generates with the conversation in the prompt, stores the answer.",
        group: MODELS,
        complexity: "O(tokens), in the background",
        reply: "As GEMMA.GENERATE, with turn and answer: the ids of the user's turn and of the answer, which is null if there is none; the turn is then tagged unanswered.",
        flags: "write deny-oom blocking getkeys-api",
        categories: "engram write slow blocking",
        tips: "nondeterministic_output",
        keys: &[
            KeySpec { place: Place::Index(1), access: Access::ReadUpdate },
            KeySpec { place: Place::Option("stream"), access: Access::Insert },
        ],
        args: &[
            Arg::positional("key", Kind::Key, "The space"),
            Arg::positional("session", Kind::Text, "The session; it begins with its first message"),
            Arg::positional("message", Kind::Text, "What the user says"),
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
            LOGITBIAS,
            LOGPROBS,
            PROFILE,
            FALLBACK,
            BELOW,
            PRIORITY,
            FORMAT,
            SCHEMA,
            Arg::option("k", "K", "count", Kind::Int(1, PROMPT_MEMORIES), "Memories to recall (5, or the profile's)"),
            Arg::option("filter", "FILTER", "expression", Kind::Text, "Only memories for which this holds"),
            Arg::option(
                "minscore",
                "MINSCORE",
                "similarity",
                Kind::Float(-1.0, 1.0),
                "Only memories at least as similar",
            ),
            Arg::option("stream", "STREAM", "key", Kind::Key, "Writes the text to this stream as it is generated"),
            JOB,
            NOWAIT,
            TIMEOUT,
        ],
        one_of: &[ONE_FORM],
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
            LOGITBIAS,
            LOGPROBS,
            PROFILE,
            FALLBACK,
            BELOW,
            PRIORITY,
            FORMAT,
            SCHEMA,
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
        one_of: &[ONE_FORM],
        ..BASE
    },
    Command {
        name: "gemma.embed",
        summary: "Embeds texts with the text encoder.",
        group: MODELS,
        complexity: "O(tokens), in the background",
        reply: "Per text an array with one vector for each of its windows (one, unless it is long): numbers, or with BLOB little-endian 32-bit floats.",
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
            Arg::flag("query", "QUERY", "The texts are questions; some encoders embed what may answer them otherwise"),
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

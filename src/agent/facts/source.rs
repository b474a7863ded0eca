//! What of a turn speaks for its speaker: the ground that facts may stand on.
//!
//! A memory that believes what is pasted into a conversation believes whoever writes into it. So a turn that gives orders to the memory, shows what a
//! memory or a prompt looks like, plays a role, or is code or another language is no source at all, and quotations are blanked out of those that are.
//! The lists err on the side of hearing nothing.

use engram_memory::{Language, words};
use std::ops::Range;

/// Why nothing is taken from a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It gives orders to the memory, or looks like a prompt or like what a memory gives out.
    Order,
    /// It is a story or a role.
    Fiction,
    /// It is code, a log, data.
    Code,
    /// It is in another language than English.
    Foreign,
    /// It is a question, or a sentence that only supposes.
    Supposed,
    /// Its words are not those of its source.
    Ungrounded,
    /// It is irony by its form.
    Irony,
    /// It names no turn that it could stand on, or is no fact by its form: of what a model proposes.
    Uncited,
}

impl Refusal {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Refusal; 8] = [
        Refusal::Order,
        Refusal::Fiction,
        Refusal::Code,
        Refusal::Foreign,
        Refusal::Supposed,
        Refusal::Ungrounded,
        Refusal::Irony,
        Refusal::Uncited,
    ];

    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Order => "order",
            Refusal::Fiction => "fiction",
            Refusal::Code => "code",
            Refusal::Foreign => "foreign",
            Refusal::Supposed => "supposed",
            Refusal::Ungrounded => "ungrounded",
            Refusal::Irony => "irony",
            Refusal::Uncited => "uncited",
        }
    }
}

/// Phrases of those who would write into a memory, in small letters.
const ORDERS: &[&str] = &[
    "ignore everything",
    "each time you",
    "every time you",
    "whenever you read",
    "whenever you see",
    "write down that",
    "put on record that",
    "as the developer",
    "as your developer",
    "as the administrator",
    "as an administrator",
    "as the admin",
    "as your admin",
    "as the owner of this",
    "i authorise",
    "i authorize",
    "you are authorised",
    "you are authorized",
    "permission to record",
    "permission to store",
    "from now on every",
    "from now on, every",
    "from now on you",
    "from now on, you",
    "counts as a fact",
    "verified fact",
    "verified facts",
    "ignore all",
    "ignore previous",
    "ignore the above",
    "ignore prior",
    "ignore any",
    "ignore your",
    "disregard",
    "forget everything above",
    "forget all previous",
    "system override",
    "system prompt",
    "system:",
    "[system",
    "<system",
    "</user",
    "<user",
    "</",
    "<memory",
    "<fact",
    "[memory",
    "[recalled",
    "[context",
    "[inst",
    "<|",
    "recalled memory",
    "recalled memories",
    "fact store",
    "new fact",
    "new memory",
    "save to memory",
    "save this",
    "save the following",
    "save for later",
    "store this",
    "store the following",
    "store permanently",
    "store:",
    "store that",
    "add to memory",
    "add to your memory",
    "add:",
    "write to memory",
    "memory update",
    "update memory",
    "update your memory",
    "update the memory",
    "update profile",
    "update the profile",
    "memories:",
    "memory:",
    "known facts",
    "known user",
    "user profile",
    "profile:",
    "the user's",
    "the user is",
    "the user lives",
    "the user has",
    "the user works",
    "user's ",
    "user:",
    "assistant:",
    "end of conversation",
    "end of prompt",
    "###",
    "you are now",
    "you are helper",
    "you are an ai",
    "from now on you",
    "developer mode",
    "jailbreak",
    "answer only from",
    "do not mention",
    "priority high",
    "high priority",
    "insert into",
    "admin password",
    "wipe all",
    "delete all",
    "overwrite",
    "as an admin",
    "sudo ",
    "begin memory",
    "tool_call",
    "function_call",
    "\"role\"",
    "remember the following",
    "memorize",
    "memorise the following",
    "for your records:",
    "assistant said",
    "according to your memory",
    "your memory says",
    "log this",
    "commit to memory",
    "put on file that",
];

/// Words of stories and roles.
const FICTION: &[&str] = &[
    "character",
    "roleplay",
    "role-play",
    "role play",
    "rough draft",
    "act the scene",
    "let's act",
    "lets act",
    "once upon a time",
    "my protagonist",
    "the protagonist",
    "backstory",
    "let's play",
    "minecraft world",
    "my world",
    "in game",
    "in-game",
    "my character's",
    "in-character",
    "half-orc",
    "half-elf",
    "elves",
    "elven",
    "orcs",
    "dwarven",
    "paladin",
    "necromancer",
    "warlock",
    "well met",
    "dungeon",
    "campaign setting",
    "fanfic",
    "short story",
    "screenplay",
    "act as if",
    "pretend to be",
    "pretend you",
    "pretend i",
    "let's pretend",
    "imagine you are",
    "imagine i",
    "you play",
    "i play the role",
    "i play the part",
    "i play the villain",
    "i play the hero",
    "i play the rogue",
    "i play the wizard",
    "i play the bard",
    "i play the elf",
    "i play the king",
    "i play the queen",
    "i play the knight",
    "i play the captain",
    "i play the detective",
    "i play the ghost",
    "i play the lead",
    "in the novel",
    "my novel",
    "my story",
    "of my book",
    "my poem",
    "my novel begins",
    "the narrator",
    "raises his mug",
    "raises her mug",
    "draws his sword",
    "draws her sword",
    "in this scene",
    "scene:",
    "int.",
    "monologue",
    "as my alter ego",
    "lyrics",
    "verse 1",
    "chorus",
];

const TITLES: &[&str] = &[
    "colonel",
    "lady",
    "lord",
    "captain",
    "sir",
    "count",
    "countess",
    "duke",
    "duchess",
    "princess",
    "prince",
    "king",
    "queen",
    "baron",
    "baroness",
    "general",
    "inspector",
    "detective",
    "commander",
    "dame",
    "sheriff",
    "emperor",
    "empress",
];

/// Beginnings of a sentence that is meant otherwise.
const IRONY: &[&str] = &[
    "yes of course, i'm",
    "yes of course i'm",
    "yes, of course, i'm",
    "oh of course, i'm",
    "of course, i'm a",
    "of course i'm a",
    "sure and ",
    "sure, and ",
    "yeah and ",
    "yeah, and ",
    "right and ",
    "right, and ",
    "great, and ",
    "great and ",
    "oh and ",
    "oh, and ",
    "of course, your",
    "yeah right",
    "yeah, right",
    "as if ",
    "oh sure",
    "oh yeah",
    "oh yes, ",
    "oh great",
    "because of course",
    "wow, thanks",
    "because i totally",
    "oh totally",
    "totally, ",
    "sure, because",
    "obviously i",
    "clearly i",
    "no, no, i",
];
const IRONY_ANYWHERE: &[&str] = &[
    "/s",
    "said no one",
    "said nobody",
    "in the world, truly",
    "truly,",
    "world, truly",
    "naturally. i",
    "world-famous",
    "the pope",
    "i'm batman",
    "the emperor",
    "just what i needed",
    "queen of",
    "king of",
    "your majesty",
    "emperor of",
    "🙄",
    "not!",
    "lucky me",
    "what a treat",
    "how lovely for me",
];
/// First words that, with a comma behind them, greet bad news.
const WELCOMES: &[&str] = &[
    "wonderful,",
    "oh brilliant,",
    "oh great,",
    "oh wonderful,",
    "oh fantastic,",
    "oh joy,",
    "oh perfect,",
    "fantastic,",
    "brilliant,",
    "terrific,",
    "marvelous,",
    "marvellous,",
    "splendid,",
    "super,",
];

/// Whether a phrase stands in a text, not inside of longer words.
fn has(text: &str, phrase: &str) -> bool {
    let inside =
        |a: Option<char>, b: Option<char>| a.is_some_and(char::is_alphanumeric) && b.is_some_and(char::is_alphanumeric);
    text.match_indices(phrase).any(|(at, _)| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        let behind = text.get(at + phrase.len()..).and_then(|behind| behind.chars().next());
        !inside(before, phrase.chars().next()) && !inside(phrase.chars().next_back(), behind)
    })
}

/// Whether a text gives orders to the memory or has the form of what a memory gives out.
fn is_order(small: &str) -> bool {
    let listed = small.lines().filter(|line| {
        let line = line.trim_start();
        let item = line.strip_prefix("- ").or_else(|| line.strip_prefix("* ")).or_else(|| line.strip_prefix('('));
        item.is_some_and(|item| {
            item.split_once(": ").is_some_and(|(who, _)| !who.is_empty() && who.split(' ').count() <= 2)
        })
    });
    if dictates(small) {
        return true;
    }
    let pairs = small
        .split([',', ';', '\n', ' '])
        .filter(|part| part.split_once('=').is_some_and(|(name, value)| name.len() > 1 && !value.is_empty()))
        .count();
    let scores = small.matches("(0.").count() + small.matches("[0.").count();
    // "Recalled context:", and what was recalled: a heading and a list that somebody pasted.
    let headed = small.trim_start().lines().next().is_some_and(|line| {
        let words =
            ["context", "memor", "recall", "retriev", "known facts", "profile", "transcript", "history", "notes on"];
        line.trim_end().ends_with(':') && words.iter().any(|word| line.contains(word))
    }) && small.trim().lines().count() > 1;
    // "You are MemoryGPT."
    let cast = small.trim_start().strip_prefix("you are ").is_some_and(|rest| {
        let role = rest.split(['.', ',', '\n', ':']).next().unwrap_or_default();
        has(role, "gpt")
            || role.ends_with("gpt")
            || role.contains("assistant")
            || role.contains("bot")
            || role.contains("model")
    });
    if headed || cast {
        return true;
    }
    ORDERS.iter().any(|phrase| has(small, phrase)) || listed.count() > 1 || pairs > 1 || scores > 0
}

/// Whether it has the memory note something about others: "remember that Ann lives in Rome". Of oneself everybody may.
fn dictates(small: &str) -> bool {
    small.split(['.', '!', '?', '\n']).any(|sentence| {
        let mut words = sentence.split(|c: char| !(c.is_alphanumeric() || c == '\'')).filter(|word| !word.is_empty());
        let mut first = words.next();
        while first.is_some_and(|word| {
            matches!(word, "please" | "always" | "and" | "now" | "also" | "just" | "ok" | "okay" | "so")
        }) {
            first = words.next();
        }
        let orders = first.is_some_and(|word| {
            matches!(
                word,
                "remember" | "note" | "save" | "store" | "record" | "memorize" | "memorise" | "learn" | "know"
            )
        });
        orders
            && words.next() == Some("that")
            && words.next().is_some_and(|word| {
                !word.starts_with("i'")
                    && !matches!(
                        word,
                        "i" | "im" | "ive" | "my" | "we" | "our" | "we're" | "we've" | "from" | "as" | "since"
                    )
            })
    })
}

/// Whether a text is code, data or a log rather than talk.
fn is_code(text: &str) -> bool {
    let trimmed = text.trim();
    let lines: Vec<&str> = trimmed.lines().collect();
    let strange = trimmed
        .chars()
        .filter(|c| matches!(c, '{' | '}' | '<' | '>' | '=' | ';' | '$' | '|' | '\\' | '_' | '[' | ']'))
        .count();
    let stack = lines.iter().any(|line| {
        line.trim_start().starts_with("Traceback") || line.trim_start().starts_with("at ") && line.contains('(')
    });
    let keywords = [
        "def ",
        "return ",
        "():",
        "();",
        "import ",
        "const ",
        "= '",
        "= \"",
        "# todo",
        "//",
        "fn ",
        "let mut",
        "console.log",
        "print(",
    ];
    let small = trimmed.to_lowercase();
    let code = keywords.iter().filter(|keyword| small.contains(*keyword)).count() > 1;
    let single = !trimmed.contains(char::is_whitespace) && trimmed.len() > 24;
    code || stack
        || single
        || (trimmed.starts_with('{') && trimmed.ends_with('}'))
        || (trimmed.starts_with('[') && trimmed.ends_with(']'))
        || strange * 12 > trimmed.len().max(24)
}

/// Small words that tell languages apart.
const ENGLISH: &[&str] = &[
    "the", "i", "and", "is", "a", "to", "of", "my", "it", "that", "you", "in", "was", "for", "with", "have", "we",
    "but", "not", "this", "me", "are", "im", "at", "on", "be", "he", "she", "so", "just",
];
const OTHERS: &[&str] = &[
    "der",
    "die",
    "das",
    "und",
    "ich",
    "nicht",
    "ist",
    "ein",
    "eine",
    "mein",
    "meine",
    "mit",
    "auf",
    "ja",
    "wir",
    "wohne",
    "habe",
    "bin",
    "el",
    "los",
    "las",
    "que",
    "y",
    "yo",
    "mi",
    "en",
    "es",
    "tengo",
    "vivo",
    "una",
    "por",
    "pero",
    "le",
    "la",
    "les",
    "je",
    "j'habite",
    "et",
    "est",
    "mon",
    "ma",
    "une",
    "dans",
    "pas",
    "suis",
    "m'appelle",
    "il",
    "che",
    "di",
    "sono",
    "mia",
    "mio",
    "abito",
    "ho",
    "e",
    "não",
    "eu",
    "um",
    "uma",
    "moro",
    "ik",
    "het",
    "een",
    "mijn",
    "ben",
    "niet",
    "jag",
    "och",
    "är",
    "min",
    "på",
    "jeg",
    "og",
    "det",
    "от",
    "я",
    "и",
    "в",
    "не",
    "на",
    "живу",
    "jestem",
    "nie",
    "się",
    "w",
    "mam",
    "me",
    "llamo",
    "heisse",
    "heiße",
    "arbeite",
    "kein",
    "keinen",
    "zwei",
    "von",
    "zu",
];

fn is_foreign(text: &str) -> bool {
    let (mut english, mut other, mut letters, mut ascii) = (0, 0, 0usize, 0usize);
    for word in text.split(|c: char| !(c.is_alphanumeric() || matches!(c, '\'' | '’'))).filter(|word| !word.is_empty())
    {
        let word = word.to_lowercase().replace('’', "'");
        let first = word.split('\'').next().unwrap_or_default();
        english += usize::from(ENGLISH.contains(&first));
        other += usize::from(OTHERS.contains(&word.as_str()));
        letters += word.chars().count();
        ascii += word.chars().filter(char::is_ascii).count();
    }
    other > english || (letters > 0 && ascii * 2 < letters)
}

/// What of a text its speaker says, with as many bytes as the text: what is quoted is blank. Or why there is nothing.
pub(super) fn spoken(text: &str) -> Result<String, Refusal> {
    let small = text.to_lowercase().replace('’', "'");
    if is_order(&small) || super::model::is_ours(&small) {
        return Err(Refusal::Order);
    }
    let open = blanked(text);
    if is_code(&open) {
        return Err(Refusal::Code);
    }
    if (FICTION.iter().any(|phrase| has(&small, phrase)) || is_titled(&small)) && !is_awake(&small) {
        return Err(Refusal::Fiction);
    }
    // "*slams the mug down*": who writes what he does plays a role.
    let acts = text.split('*').skip(1).step_by(2).any(|part| {
        let words = part.split_whitespace().count();
        words > 1 && part.starts_with(char::is_lowercase) || matches!(part, "bows" | "kneels" | "curtsies")
    });
    if acts && !text.contains("**") {
        return Err(Refusal::Fiction);
    }
    if is_foreign(&open) {
        return Err(Refusal::Foreign);
    }
    Ok(open)
}

/// Whether somebody introduces himself by a title that hardly anybody bears: "I'm Colonel Ashdown".
fn is_titled(small: &str) -> bool {
    let words: Vec<&str> =
        small.split(|c: char| !(c.is_alphanumeric() || c == '\'')).filter(|word| !word.is_empty()).collect();
    words.windows(3).any(|three| {
        let [be, title, next] = three else { return false };
        matches!(*be, "i'm" | "am" | "im")
            && TITLES.contains(title)
            && !matches!(*next, "of" | "at" | "in" | "for" | "and" | "on" | "to")
    })
}

/// Whether somebody says that he speaks for himself, beside a story.
pub(super) fn is_awake(text: &str) -> bool {
    let small = text.to_lowercase();
    let signs =
        ["real me", "real life", "irl", "not me", "out of character", "ooc", "seriously", "anyway", "back to", "ok so"];
    signs.iter().any(|sign| small.contains(sign))
}

/// The text with fenced code, quotations, songs and forwarded mail blanked.
fn blanked(text: &str) -> String {
    let mut bytes: Vec<Range<usize>> = Vec::new();
    for (open, close) in
        [("```", "```"), ("\"", "\""), ("“", "”"), ("«", "»"), ("„", "“"), ("🎶", "🎶"), ("🎵", "🎵"), ("`", "`")]
    {
        let mut from = 0;
        while let Some(start) = text.get(from..).and_then(|rest| rest.find(open)).map(|at| from + at) {
            let inside = start + open.len();
            let end = text.get(inside..).and_then(|rest| rest.find(close)).map(|at| inside + at + close.len());
            // A quotation that nothing ends goes to the end.
            let end = end.unwrap_or(text.len());
            bytes.push(start..end);
            from = end;
        }
    }
    // In single quotes: several words between a mark that something stands in front of, and one that nothing follows.
    let quotes: Vec<usize> =
        text.char_indices().filter(|(_, c)| matches!(c, '\'' | '‘' | '’')).map(|(at, _)| at).collect();
    let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    let opens = |at: usize| edge(text.get(..at).and_then(|before| before.chars().next_back()));
    let closes = |at: usize| edge(text.get(at..).and_then(|behind| behind.chars().nth(1)));
    let mut behind = 0;
    for open in quotes.iter().copied().filter(|at| opens(*at)) {
        let Some(close) =
            quotes.iter().copied().find(|at| *at > open && closes(*at) && !opens(*at)).filter(|_| open >= behind)
        else {
            continue;
        };
        if text.get(open..close).is_some_and(|inside| inside.split_whitespace().count() > 2) {
            bytes.push(open..close);
            behind = close;
        }
    }
    for mark in ["fwd:", "fwd from", "forwarded message", "-----original"] {
        if let Some(at) = text.to_ascii_lowercase().find(mark) {
            bytes.push(at..text.len());
        }
    }
    let mut line = 0;
    for part in text.split_inclusive('\n') {
        if part.trim_start().starts_with('>') {
            bytes.push(line..line + part.len());
        }
        line += part.len();
    }
    text.char_indices()
        .flat_map(|(at, char)| {
            let blank = bytes.iter().any(|range| range.contains(&at));
            // A mark where it began, so that what stands around it is not read as one.
            let mark = bytes.iter().any(|range| range.start == at);
            let width = char.len_utf8();
            let fill = if mark { "\"" } else { " " };
            match blank {
                true => fill.chars().chain(std::iter::repeat_n(' ', width - 1)).collect::<Vec<char>>(),
                false => vec![char],
            }
        })
        .collect()
}

/// Whether a sentence is meant otherwise by its form.
pub(super) fn is_ironic(turn: &str, sentence: &str) -> bool {
    let small = sentence.to_lowercase().replace('’', "'");
    let turn = turn.trim_start().to_lowercase();
    IRONY.iter().any(|phrase| small.trim_start().starts_with(phrase))
        || IRONY_ANYWHERE.iter().any(|phrase| has(&small, phrase))
        || turn.contains("your majesty")
        || WELCOMES.iter().any(|phrase| turn.starts_with(phrase))
}

/// Whether all words of a value that say something stand in its source. The gate of every fact, whoever proposes it.
pub fn is_grounded(value: &str, source: &str) -> bool {
    let of = |text: &str| words(text, Language::English).into_iter().map(|word| word.term).collect::<Vec<u32>>();
    let there = of(source);
    let asked = of(value);
    !asked.is_empty() && asked.iter().all(|term| there.contains(term))
}

//! What of a turn speaks for its speaker: the ground that facts may stand on.
//!
//! A memory that believes what is pasted into a conversation believes whoever writes into it. So a turn that gives orders to the memory ([`orders`]),
//! is part of a story or a game ([`fiction`]), or is code or another language is no source at all; and of those that are, what is quoted, given as an
//! example, supposed for the sake of argument or handed over to be translated is blanked out. The lists err on the side of hearing nothing.

use super::grammar::one_of;
use super::{fiction, orders};
use crate::context::{Role, Turn};
use engram_memory::{Language, words as terms};
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
    /// It is longer than anybody talks: a turn of more than [`LONG_TURN`] bytes, or a sentence of more than [`LONG_SENTENCE`] words.
    Long,
}

/// Bytes of a turn that is read, at most. What is longer was pasted, and reading takes more time than in proportion.
const LONG_TURN: usize = 16 * 1024;
/// Words and marks of a sentence that is read, at most.
pub(super) const LONG_SENTENCE: usize = 256;

impl Refusal {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Refusal; 9] = [
        Refusal::Order,
        Refusal::Fiction,
        Refusal::Code,
        Refusal::Foreign,
        Refusal::Supposed,
        Refusal::Ungrounded,
        Refusal::Irony,
        Refusal::Uncited,
        Refusal::Long,
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
            Refusal::Long => "long",
        }
    }
}

/// Small words that tell languages apart.
const ENGLISH: &str =
    "the|i|and|is|a|to|of|my|it|that|you|in|was|for|with|have|we|but|not|this|me|are|im|at|on|be|he|she|so|just";
const OTHERS: &str = "der|die|das|und|ich|nicht|ist|ein|eine|mein|meine|mit|auf|ja|wir|wohne|habe|bin|el|los|las|que|y|yo|mi|en|es|tengo|vivo|una|por|pero|le|\
    la|les|je|j'habite|et|est|mon|ma|une|dans|pas|suis|m'appelle|il|che|di|sono|mia|mio|abito|ho|e|não|eu|um|uma|moro|ik|het|een|mijn|ben|\
    niet|jag|och|är|min|på|jeg|og|det|от|я|и|в|не|на|живу|jestem|nie|się|w|mam|me|llamo|heisse|heiße|arbeite|kein|keinen|zwei|von|zu";

/// Begin what holds of no world but the one that is supposed: to the end of the turn.
const SUPPOSITIONS: &str = "suppose|supposing|assume|assuming|imagine|pretend|hypothetically|let's say|lets say|let us say|say i|say i'm|say i've|say my|say we|say we're|what if|for argument's sake|for the sake of argument|in theory";
/// Begin what is only an example: to the end of the sentence.
const EXAMPLES: &str = "for example|for instance|e,g,|e.g|eg|something like|along the lines of|as an example";
/// What stands in front of a colon, and behind it a text that is spoken of rather than said.
const TEXTS: &str = "line lines novel plot film movie book series episode chapter sentence sentences phrase phrases wording grammar translation dialogue script essay paragraph caption headline slogan tagline bio limerick haiku poem rhyme verse riddle joke quote quotes proverb lyric lyrics song subtitles transcript exercise homework example examples sample samples input output prompt template persona testimonial draft translates proofread dummy placeholder fixture mock lorem fake password signature disclaimer duolingo horoscope fortune hint";
/// What one asks to have done with a text.
const TASKS: &str = "translate rewrite rephrase proofread paraphrase reword summarize summarise edit polish parse classify analyze analyse compose draft write reply correct dictation type";
/// Verbs of who says something.
const SAYING: &str = "sing said says say goes went wrote writes told tells put puts texted replied posted shouted announced read reads opens begins states claims insists sang sings joked jokes roars roared shouts growls growled bellows whispers whispered cries cried yells yelled mutters muttered snarls hisses sighs replies replied exclaims murmurs booms declares";
/// What makes a turn one of data that stand for others.
const DATA: &str = "to whom it may concern|dear sir|dear madam|dear hiring|test user|test users|test data|test account|dummy|placeholder|sample data|sample user|mock data|seed data|seed script|lorem|john doe|jane doe|fixture|fixtures|example data|fake id|fake name|fake profile|security question|form field|form fields|dating profile|grammar exercise|testing testing|testing, testing|mic check|unit test|test case|test cases|test string";

/// Beginnings of a sentence that is meant otherwise.
const IRONY: &str = "great, now |lovely, now |wonderful, now |fantastic, now |brilliant, now |yes of course, i'm|yes of course i'm|yes, of course, i'm|oh of course, i'm|of course, i'm a|of course i'm a|sure and |sure, and |\
    yeah and |yeah, and |right and |right, and |great, and |great and |oh and |oh, and |of course, your|yeah right|yeah, right|as if |oh sure|\
    oh yeah|oh yes, |oh great|because of course|wow, thanks|because i totally|oh totally|totally, |sure, because|obviously i|clearly i|\
    no, no, i";
/// What is meant otherwise wherever it stands.
const IRONY_ANYWHERE: &str = "/s|said no one|said nobody|in the world, truly|truly,|world, truly|naturally. i|world-famous|the pope|i'm batman|the emperor|\
    just what i needed|queen of|king of|your majesty|emperor of|🙄|not!|lucky me|what a treat|how lovely for me|😏|😒|🙃|😜|😉|;)|;-)|in my dreams|\
    living the dream|nothing says|trust me|in another life|when i'm rich|when i am rich|when i'm famous|when i grow up|once i'm rich|in a past life|in a parallel|in an alternate|according to|\
    rumor has it|rumour has it|legend has it|as they say|as the saying";
/// They take back what a turn says.
const TAKEN_BACK: &str = "just kidding|only kidding|kidding!|only joking|just joking|i'm joking|im joking|i'm kidding|im kidding|, jk|jk.|jk!|april fools|april fool's|... not!|... not";
/// First words that, with a comma behind them, greet bad news.
const WELCOMES: &str = "wonderful,|oh brilliant,|oh great,|oh wonderful,|oh fantastic,|oh joy|oh perfect,|fantastic,|brilliant,|terrific,|marvelous,|marvellous,|\
    splendid,|super,|oh brilliant.|oh great.|oh wonderful.|oh fantastic.|oh perfect.|oh lovely.|oh splendid.|oh marvellous.|oh super.|oh lovely,|oh super,";
/// What laughter is written with, at the beginning of a word.
const LAUGHTER: [&str; 7] = ["lol", "lmao", "lmfao", "rofl", "haha", "hehe", "ahah"];

fn is_listed(list: &str, phrase: &str) -> bool {
    list.split('|').any(|listed| listed == phrase)
}

/// The words of a text in small letters.
pub(super) fn words(small: &str) -> impl Iterator<Item = &str> {
    small.split(|c: char| !(c.is_alphanumeric() || matches!(c, '\'' | '-'))).filter(|word| !word.is_empty())
}

/// Whether one of the phrases, with `|` between them, stands in a text.
pub(super) fn has_any(small: &str, phrases: &str) -> bool {
    phrases.split('|').any(|phrase| has(small, phrase))
}

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

fn is_foreign(text: &str) -> bool {
    let (mut english, mut other, mut letters, mut ascii) = (0, 0, 0usize, 0usize);
    for word in text.split(|c: char| !(c.is_alphanumeric() || matches!(c, '\'' | '’'))).filter(|word| !word.is_empty())
    {
        let word = word.to_lowercase().replace('’', "'");
        let first = word.split('\'').next().unwrap_or_default();
        english += usize::from(is_listed(ENGLISH, first));
        other += usize::from(is_listed(OTHERS, &word));
        letters += word.chars().count();
        ascii += word.chars().filter(char::is_ascii).count();
    }
    other > english || (letters > 0 && ascii * 2 < letters)
}

/// What a turn's speaker says for himself, with as many bytes as the turn: what he does not say is blank. Or why there is nothing. `before` are the turns in
/// front of it, the nearest first.
pub(super) fn heard(turn: &Turn, before: &[Turn]) -> Result<String, Refusal> {
    let said = punctuated(spoken(turn.content)?);
    let awake = fiction::awake(&small(turn.content)).is_some();
    if !awake && (is_in_story(before) || fiction::is_another(turn)) {
        return Err(Refusal::Fiction);
    }
    Ok(said)
}

/// Whether the turns before leave a story or a game open.
fn is_in_story(before: &[Turn]) -> bool {
    // Who is answered in a story goes on with it.
    if before.first().is_some_and(|turn| turn.role != Role::User && spoken(turn.content) == Err(Refusal::Fiction)) {
        return true;
    }
    for turn in before.iter().filter(|turn| turn.content.len() <= LONG_TURN) {
        let small = small(&blanked(turn.content));
        if fiction::opens(&small) || (turn.role == Role::User && fiction::is_another(turn)) {
            return true;
        }
        if turn.role == Role::User && fiction::ends(&small) {
            return false;
        }
    }
    false
}

/// Who dictates speaks the marks: "I live in Prato comma they keep driving to Florence full stop". As many bytes as before.
fn punctuated(said: String) -> String {
    const SPOKEN: [(&str, &str); 8] = [
        (" full stop", ". "),
        (" new line", ". "),
        (" new paragraph", ". "),
        (" question mark", "? "),
        (" exclamation mark", "! "),
        (" semicolon", "; "),
        (" colon", ": "),
        (" comma", ", "),
    ];
    let ends = |at: usize| said.get(at..).is_none_or(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()));
    let spoken = |phrase: &str| said.match_indices(phrase).filter(|(at, _)| ends(at + phrase.len())).count();
    // Of one that is called so there is one; who writes commas does not say them.
    if spoken(" full stop") == 0 && (spoken(" comma") == 0 || said.contains(',')) {
        return said;
    }
    let mut marked = said.clone();
    for (phrase, mark) in SPOKEN {
        for (at, _) in said.match_indices(phrase).filter(|(at, _)| ends(at + phrase.len())) {
            marked.replace_range(at..at + phrase.len(), &format!("{mark:<width$}", width = phrase.len()));
        }
    }
    marked
}

fn small(text: &str) -> String {
    text.to_lowercase().replace('’', "'")
}

/// What of a text its speaker says, whatever stands before it.
pub(super) fn spoken(text: &str) -> Result<String, Refusal> {
    if text.len() > LONG_TURN {
        return Err(Refusal::Long);
    }
    let small = small(text);
    if orders::is_order(text, &small) || super::model::is_ours(&small) {
        return Err(Refusal::Order);
    }
    let open = blanked(text);
    if is_code(&open) {
        return Err(Refusal::Code);
    }
    if has_any(&small, DATA) {
        return Err(Refusal::Supposed);
    }
    if fiction::is_story(&small) {
        // What stands in front of "anyway" is of the story still.
        let from = fiction::awake(&small).filter(|_| small.len() == text.len()).ok_or(Refusal::Fiction)?;
        let told = fiction::is_story(small.get(..from).unwrap_or_default());
        let blank = open.char_indices().flat_map(|(at, c)| match told && at < from && !c.is_whitespace() {
            true => std::iter::repeat_n(' ', c.len_utf8()).collect::<Vec<char>>(),
            false => vec![c],
        });
        return Ok(blank.collect());
    }
    if is_foreign(&open) {
        return Err(Refusal::Foreign);
    }
    Ok(open)
}

/// What is supposed, given as an example, or a text that is spoken of: the parts of a text.
fn framed(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    // The full stops of "e.g." end no sentence.
    let text = text.replace("e.g.", "e,g,").replace("E.g.", "E,g,");
    for sentence in text.split_inclusive(['.', '!', '?', '\n']) {
        let end = from + sentence.len();
        let small = small(sentence);
        // Where small letters are as long as capital ones, places in them are places in the text.
        if small.len() == sentence.len() {
            let head = small.trim_start_matches(|c: char| !c.is_alphanumeric());
            let head = ["ok ", "okay ", "so ", "now ", "and ", "but ", "please ", "alright "]
                .iter()
                .fold(head, |head, word| head.strip_prefix(word).unwrap_or(head));
            let begins = |phrase: &str| {
                head.strip_prefix(phrase)
                    .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '\''))
            };
            if SUPPOSITIONS.split('|').any(begins) || has_any(&small, "picture me|picture it|picture this") {
                found.push(from..text.len());
                return found;
            }
            if let Some(at) =
                EXAMPLES.split('|').filter(|phrase| has(&small, phrase)).filter_map(|phrase| small.find(phrase)).min()
            {
                found.push(from + at..end);
            }
            if let Some(at) = small.find(": ").or_else(|| small.trim_end().strip_suffix(':').map(str::len))
                && small.get(..at).is_some_and(is_head)
            {
                found.push(from + at..text.len());
                return found;
            }
        }
        from = end;
    }
    found
}

/// Whether what stands in front of a colon says that a text of somebody else, or for somebody else, stands behind it.
fn is_head(head: &str) -> bool {
    let words: Vec<&str> = words(head).collect();
    let own = words.iter().any(|word| one_of(word, "i i'd i'll i've we me"));
    // "My sister's away message:"
    let anothers = words.iter().any(|word| word.ends_with("'s") || one_of(word, "his her their your"))
        && words.iter().any(|word| {
            one_of(
                word,
                "message text email mail letter note tweet post card ad status reply voicemail caption story speech",
            )
        });
    // "Translate this:", but not "whoever edits the list, write it down:".
    let asked = words.iter().find(|word| !one_of(word, "please can could would you now then and ok okay hey"));
    words.len() <= 16
        && (anothers
            || asked.is_some_and(|word| one_of(word, TASKS))
            || words.iter().any(|word| one_of(word, TEXTS) || (!own && one_of(word, SAYING))))
}

/// The text with fenced code, quotations, songs, forwarded mail and examples blanked.
pub(super) fn blanked(text: &str) -> String {
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
    // One opens behind a space and closes behind a word or its mark.
    let in_front = |at: usize| text.get(..at).and_then(|before| before.chars().next_back());
    let behind_it = |at: usize| text.get(at..).and_then(|behind| behind.chars().nth(1));
    let opens = |at: usize| in_front(at).is_none_or(|c| c.is_whitespace() || matches!(c, '(' | '-' | '–' | '—' | ':'));
    let closes = |at: usize| {
        in_front(at).is_some_and(|c| !c.is_whitespace()) && behind_it(at).is_none_or(|c| !c.is_alphanumeric())
    };
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
    bytes.extend(framed(text));
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
    let written = sentence;
    let sentence = small(sentence);
    let turn = small(turn.trim_start());
    // "I just LOVE mornings."
    let loud = written.split_whitespace().any(|word| matches!(word, "LOVE" | "ADORE" | "LOVING"))
        && written.chars().any(char::is_lowercase);
    let gushes = ["oh", "ah", "yeah", "yes", "sure", "wow", "great", "right"].iter().any(|begin| {
        sentence.trim_start().strip_prefix(begin).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    }) && has_any(
        &sentence,
        "just love|just adore|absolutely love|absolutely adore|simply love|simply adore|totally love|so love",
    );
    // "LMAO yes I'm five": who laughs and agrees does not.
    let agreed = |text: &str| {
        let mut words = words(text).skip_while(|word| LAUGHTER.iter().any(|laugh| word.starts_with(laugh))).take(1);
        words.any(|word| one_of(word, "yes yeah yep yup sure right totally absolutely obviously indeed"))
    };
    let laughs = |text: &str| {
        let first = words(text).next().unwrap_or_default();
        LAUGHTER.iter().any(|laugh| first.starts_with(laugh)) && agreed(text)
    };
    let meant = has_any(&turn, TAKEN_BACK) && !has_any(&turn, "not kidding|no kidding|not joking|no joke");
    IRONY.split('|').any(|phrase| sentence.trim_start().starts_with(phrase))
        || has_any(&sentence, IRONY_ANYWHERE)
        || turn.contains("your majesty")
        || WELCOMES.split('|').any(|phrase| turn.starts_with(phrase))
        || loud
        || gushes
        || laughs(&turn)
        || laughs(&sentence)
        || meant
}

/// Whether all words of a value that say something stand in its source. The gate of every fact, whoever proposes it.
pub fn is_grounded(value: &str, source: &str) -> bool {
    let of = |text: &str| terms(text, Language::English).into_iter().map(|word| word.term).collect::<Vec<u32>>();
    let there = of(source);
    let asked = of(value);
    !asked.is_empty() && asked.iter().all(|term| there.contains(term))
}

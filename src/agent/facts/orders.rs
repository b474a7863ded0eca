//! Who would write into the memory: orders to it, and what has the form of its own contents.
//!
//! An order is told by what it does: a verb of storing at the head of a sentence, and what is to be stored is said of somebody else, or of "the user".
//! Of oneself everybody may say "please remember". The phrases are those that need no grammar: marks of prompts, and what only orders say.

use super::grammar::one_of;
use super::source::{has_any, words};

/// What only those say who would write into a memory, in small letters.
const PHRASES: &str = "ignore everything|each time you|every time you|whenever you read|whenever you see|write down that|put on record that|as the developer|\
    as your developer|as the administrator|as an administrator|as the admin|as your admin|as the owner of this|i authorise|i authorize|\
    you are authorised|you are authorized|permission to record|permission to store|from now on every|from now on, every|from now on you|\
    from now on, you|counts as a fact|verified fact|verified facts|ignore all|ignore previous|ignore the above|ignore prior|ignore any|\
    ignore your|disregard|forget everything above|forget all previous|system override|system prompt|system:|[system|<system|</user|<user|</|\
    <memory|<fact|[memory|[recalled|[context|[inst|recalled memory|recalled memories|fact store|new fact|new memory|save to memory|save this|\
    save the following|save for later|store this|store the following|store permanently|store:|store that|add to memory|add to your memory|\
    write to memory|memory update|update memory|update your memory|update the memory|update profile|update the profile|memories:|memory:|\
    known facts|known user|user profile|profile:|user's|user:|assistant:|end of conversation|end of prompt|###|you are now|you are helper|\
    you are an ai|developer mode|jailbreak|answer only from|do not mention|priority high|high priority|insert into|admin password|wipe all|\
    delete all|overwrite|as an admin|sudo|begin memory|tool_call|function_call|\"role\"|remember the following|memorize|\
    memorise the following|for your records:|assistant said|according to your memory|your memory says|log this|commit to memory|\
    put on file that|when you summarise|when you summarize|in your summary|compresses this|summarises this|summarizes this|reads this later|\
    reading this later|future sessions|future conversations|person you serve|person you assist|person you are talking to";
/// At the head of a sentence they have something stored.
const STORING: &str = "remember note save store record memorize memorise log file add set update register keep put write mark insert append change replace correct list enter tag label remove erase delete forget import commit learn know treat consider assume";
/// What stands in front of an order.
const POLITE: &str = "bot assistant machine memory robot please always and now also just ok okay so hey hi can could would will you kindly then first next do not don't make sure to be";
/// What a memory is called.
const MEMORY: &str = "memory memories record records database notes knowledge profile entry entries log logs file files facts summary context";
/// Who is spoken of as "the user": of people who use something one says other things.
const OF_USERS: &str = "is has lives works likes loves prefers wants speaks owns plays studies hates dislikes moved was named called allergic vegan vegetarian";
/// Of what a form asks.
const KEYS: &str = "name age birthday city town home location residence address country job occupation profession employer company work school university diet allergy allergies pet pets wife husband partner spouse language languages hobby hobbies likes dislikes interests status fact user subject person";

/// Whether a text gives orders to the memory or has the form of what a memory gives out. `text` as it is written, `small` in small letters.
pub(super) fn is_order(text: &str, small: &str) -> bool {
    has_any(small, PHRASES)
        || small.contains("<|")
        || is_cast(small)
        || is_pasted(small)
        || is_form(small)
        || dictates(text)
}

/// "You are MemoryGPT."
fn is_cast(small: &str) -> bool {
    small.trim_start().strip_prefix("you are ").is_some_and(|rest| {
        let role = rest.split(['.', ',', '\n', ':']).next().unwrap_or_default();
        role.ends_with("gpt")
            || ["assistant", "bot", "model"].iter().any(|part| role.contains(part))
            || role.contains("gpt ")
    })
}

/// Whether it looks like what a memory gives out: "- Ann: I live in Rome", "city=Rome", scores, a heading and a list.
fn is_pasted(small: &str) -> bool {
    let listed = small.lines().filter(|line| {
        let line = line.trim_start();
        let item = line.strip_prefix("- ").or_else(|| line.strip_prefix("* ")).or_else(|| line.strip_prefix('('));
        item.is_some_and(|item| {
            item.split_once(": ").is_some_and(|(who, _)| !who.is_empty() && who.split(' ').count() <= 2)
        })
    });
    let pairs = small
        .split([',', ';', '\n', ' '])
        .filter(|part| part.split_once('=').is_some_and(|(name, value)| name.len() > 1 && !value.is_empty()));
    let scores = small.matches("(0.").count() + small.matches("[0.").count();
    let headed = small.trim_start().lines().next().is_some_and(|line| {
        let words =
            ["context", "memor", "recall", "retriev", "known facts", "profile", "transcript", "history", "notes on"];
        line.trim_end().ends_with(':') && words.iter().any(|word| line.contains(word))
    }) && small.trim().lines().count() > 1;
    listed.count() > 1 || pairs.count() > 1 || scores > 0 || headed
}

/// Whether it is filled in like a form: several times a key and a value, or once what a form asks and nothing else. Nobody says so of himself.
fn is_form(small: &str) -> bool {
    // Data in brackets is for `is_code` to refuse.
    if small.trim_start().starts_with(['{', '[']) {
        return false;
    }
    let entries = |of: &[char]| {
        let filled = small.split(of).filter(|part| {
            part.split_once(": ").is_some_and(|(key, value)| {
                let key: Vec<&str> = words(key).collect();
                let asked = key.last().is_some_and(|last| one_of(last, KEYS)) || key.first() == Some(&"favorite");
                let own = words(value).any(is_own);
                asked && key.len() <= 3 && !key.iter().any(|word| is_own(word)) && !own && !value.trim().is_empty()
            })
        });
        filled.count()
    };
    let most = entries(&['\n', ',', ';', '|', '.']);
    most > 1 || most == 1 && words(small).count() <= 4
}

/// Whether it has the memory note something about others: "remember that Ann lives in Rome", "file under Tom: lives in York", "your notes are wrong, Eva
/// lives in Bonn"; or about "the user".
fn dictates(text: &str) -> bool {
    text.split(['.', '!', '?', '\n']).any(|sentence| {
        let small = sentence.to_lowercase().replace('’', "'");
        let all: Vec<&str> = words(&small).collect();
        let own = all.iter().any(|word| is_own(word));
        let of_user = all.windows(3).any(|three| {
            matches!(three, [the, "user", says] if one_of(the, "the this your our that") && one_of(says, OF_USERS))
        });
        let of_memory =
            all.windows(2).any(|two| matches!(two, [your, memory] if *your == "your" && one_of(memory, MEMORY)));
        let head = all.iter().position(|word| !one_of(word, POLITE));
        // "You know, Rex …" orders nothing, and "update, Tom moved out" is news.
        let talks = matches!(all.as_slice(), ["you", next, ..] if !one_of(next, "must should will need have can could"))
            || small.trim_start().starts_with("update,");
        let stores = head.and_then(|at| all.get(at)).is_some_and(|word| !talks && one_of(word, STORING));
        let behind = head.and_then(|at| all.get(at + 1..)).unwrap_or(&[]);
        // "Save that she is vegan"; "log: Ann lives in Rome" names somebody.
        let told = behind.first().is_some_and(|word| *word == "that")
            && behind.get(1).is_some_and(|word| !is_own(word) && !one_of(word, "from as since"));
        let names = sentence.split_whitespace().skip(1).any(|word| word.starts_with(char::is_uppercase));
        of_user || (of_memory && !own) || (stores && (told || (names && !own)))
    })
}

/// Whether a word speaks of the speaker.
fn is_own(word: &str) -> bool {
    word.starts_with("i'") || one_of(word, "i im ive my we our me us we're we've we'll mine ours")
}

//! The importance of a text, where nobody gives one: what it would cost to forget it, told from its words.
//!
//! A plain statement has 0.5. Signs that are found count once each, however often; the strongest of them counts in full, all others half:
//!
//! | sign | counts |
//! |---|---|
//! | a word that weighs (urgent, allergic, password, deadline, diagnosed …) | 0.2 |
//! | duty (important, remember, must, appointment, "have to", "don't forget" …) | 0.15 |
//! | a decision (decided, agreed, planning …), a preference (prefer, favourite, hate …), an event of a life (married, born, moved, hired …) | 0.1 each |
//! | permanence (always, never, every, since …) | 0.1 |
//! | numbers, dates and times: one, more than one | 0.06, 0.1 |
//! | names and kin: one, more than one | 0.04, 0.08 |
//! | the first person | 0.04 |
//!
//! To their sum comes:
//!
//! | what else | adds |
//! |---|---|
//! | words that say something (greetings, thanks, fillers and words of grammar apart): 8, 16, 32 of them | 0.02, 0.04, 0.06 |
//! | only 3, 2, 1 of them, and neither duty nor a word that weighs | -0.05, -0.1, -0.2 |
//! | more fillers than words that say something | -0.1 |
//! | questions: the share of sentences that ask, times | -0.15 |
//! | the type preference or insight; the type context | 0.1; -0.1 |
//! | the turn of an assistant or a tool, which can be made again | -0.1 |
//!
//! The result is kept between 0.1 and 0.9, and has two decimals. What says nothing at all ("Thanks!", "Yes, I will.") has 0.15, whatever else. So 0.7, from where consolidation promotes and a
//! context keeps a turn word by word, takes a word that weighs, a duty that is told with what belongs to it, or many signs at once: "I always take the bus" stays below. On the turns of LoCoMo that
//! is one in ten, of which more than half are asked about later (of all turns, a quarter). A sum of all signs in full ranks as well and puts a quarter of all chatter there.
//!
//! The words are English; a text in another language is judged by its numbers, names and length. A script without spaces counts as a word for every two characters. Only the
//! first [`READ`] bytes are read: what a text is about stands at its beginning, and nobody waits for a long one. The same text always has the same importance, on every machine.
//!
//! Rejected: length alone, which is what much software of this kind does and makes chatter worth keeping; the distance of a vector from those of "important" texts, which needs the
//! encoder where a turn is stored without waiting for it and would differ with the model; asking a language model, for the same reason and a thousand times the price.

use crate::Role;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Bytes of a text that are read.
const READ: usize = 4 * 1024;
/// What a plain statement has.
const PLAIN: f64 = 0.5;
/// What says nothing has.
const NOTHING: f64 = 0.15;

/// What a word is a sign of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// Greetings, thanks, interjections: says nothing.
    Filler,
    /// Words of grammar and the like: says nothing by itself.
    Grammar,
    /// Of grammar, and about the one who speaks.
    First,
    /// Of grammar, and makes a duty of "to" behind it.
    Ought,
    Weighs,
    Duty,
    Decision,
    Preference,
    Event,
    Permanence,
    /// Dates, times, numbers in words.
    Number,
    /// Somebody's relations.
    Kin,
}

const LISTS: [(Sign, &str); 12] = [
    (
        Sign::Filler,
        "hi hello hey hiya yo howdy greetings welcome bye goodbye cheers congrats congratulations thanks thank thx ty please sorry wow whoa oh ooh ah aha aw aww haha hahaha lol lmao hmm hm uh um er \
         yay yup yep yeah yes no nope nah ok okay k sure alright right well great good nice cool awesome amazing wonderful fantastic lovely sweet perfect fine totally absolutely definitely exactly indeed \
         really very so too just anyway sounds glad happy see talk later soon luck care enjoy appreciate inspiring incredible super impressive gorgeous beautiful pretty keep proud goodness gosh omg",
    ),
    (
        Sign::Grammar,
        "must a an the this that these those there here it its is are was were be been being am s t d re ve ll m do does did done doing had having can could will would shall should may might of to in on \
         at by for from with without about as into over under than then and or but if because while when where what which who whom whose why how not don't doesn't didn't isn't aren't wasn't weren't can't \
         won't it's that's what's there's you your yours you're you've you'll he she they them their theirs him her his hers he's she's they're any some all both each few more most other another such same own \
         up down out off again also only even still yet though although like get gets getting go going goes come coming thing things stuff lot lots bit way make makes made let let's much many anything something everything \
         nothing anyone someone everyone one now seem seems guess hope think feel feels know say says said tell want wants look looks looking take took give gave hear sound",
    ),
    (Sign::First, "i i'm i've i'll i'd im ive me my mine myself we we're we've we'll we'd us our ours ourselves"),
    (Sign::Ought, "need needs have has got supposed obliged required"),
    (
        Sign::Weighs,
        "critical crucial crucially urgent urgently essential vital emergency allergic allergy allergies intolerant intolerance anaphylaxis epipen diabetic diabetes asthma epilepsy medication \
         medications prescription dosage diagnosis diagnosed surgery password passwords passcode passphrase credentials passport deadline deadlines overdue confidential secret warning danger dangerous",
    ),
    (
        Sign::Duty,
        "remember important importantly appointment appointments promise promised obligation mandatory requirement requirements rule rules policy due forbidden prohibited ensure responsible",
    ),
    (
        Sign::Decision,
        "decided decide deciding decision decisions agreed agreement settled chose chosen choose resolved committed approved signed confirmed plan plans planning planned intend intends goal goals",
    ),
    (
        Sign::Preference,
        "prefer prefers preferred preference preferences favourite favorite favourites favorites fave hate hates hated dislike dislikes adore adores love loves loved vegetarian vegan fan",
    ),
    (
        Sign::Event,
        "born birth birthday anniversary married marry marrying wedding engaged engagement divorced divorce died dies death funeral pregnant graduated graduation graduate moved relocated hired promoted promotion fired quit \
         resigned retired joined enrolled started founded bought sold adopted adoption won lost broke broken accident hospital injured trip travelled traveled vacation visited met published accepted interview awarded",
    ),
    (
        Sign::Permanence,
        "always never forever permanently permanent lifelong every everyday daily weekly monthly yearly annually usually since whenever anymore",
    ),
    (
        Sign::Number,
        "two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million dozen first second third monday tuesday wednesday thursday friday \
         saturday sunday january february march april june july august september october november december today tonight tomorrow yesterday ago noon midnight weekend week weeks month months year years last next",
    ),
    (
        Sign::Kin,
        "mother father mom mum dad parents parent sister brother siblings husband wife partner girlfriend boyfriend fiance fiancee spouse son daughter kid kids child children baby grandmother grandfather grandma grandpa \
         grandparents aunt uncle cousin niece nephew family friend friends colleague boss neighbour neighbor dog cat puppy kitten pet pets",
    ),
];

/// Every word of the lists; none is in two.
static SIGNS: LazyLock<HashMap<&'static str, Sign>> = LazyLock::new(|| {
    let words = LISTS.iter().flat_map(|(sign, words)| words.split_whitespace().map(|word| (word, *sign)));
    words.collect()
});

/// What was found in a text.
#[derive(Debug, Default)]
struct Found {
    /// Signs, as bits.
    signs: u16,
    says: usize,
    fillers: usize,
    names: usize,
    numbers: usize,
    sentences: usize,
    questions: usize,
}

impl Found {
    fn has(&self, sign: Sign) -> bool {
        self.signs & (1 << sign as u16) != 0
    }

    fn note(&mut self, sign: Sign) {
        self.signs |= 1 << sign as u16;
    }
}

/// The importance of a text of a type and, if it is a turn, a role: 0.1 to 0.9.
pub fn importance(text: &str, kind: &str, role: Option<Role>) -> f64 {
    let found = read(crate::fence::beginning(text, READ));
    if found.says == 0 {
        return NOTHING;
    }
    let of = |sign: Sign, worth: f64| if found.has(sign) { worth } else { 0.0 };
    let few = |count: usize, one: f64, more: f64| [0.0, one, more].get(count.min(2)).copied().unwrap_or(more);
    let signs = [
        of(Sign::Weighs, 0.2),
        of(Sign::Duty, 0.15),
        of(Sign::Decision, 0.1),
        of(Sign::Preference, 0.1),
        of(Sign::Event, 0.1),
        of(Sign::Permanence, 0.1),
        few(found.numbers, 0.06, 0.1),
        few(found.names, 0.04, 0.08),
        of(Sign::First, 0.04),
    ];
    let strongest = signs.iter().copied().fold(0.0, f64::max);
    let mut sum = PLAIN + (strongest + signs.iter().sum::<f64>()) / 2.0;
    let grave = found.has(Sign::Weighs) || found.has(Sign::Duty);
    sum += match found.says {
        1..=3 if grave => 0.0,
        1 => -0.2,
        2 => -0.1,
        3 => -0.05,
        4..8 => 0.0,
        8..16 => 0.02,
        16..32 => 0.04,
        _ => 0.06,
    };
    if found.fillers > found.says {
        sum -= 0.1;
    }
    sum -= 0.15 * found.questions as f64 / found.sentences.max(1) as f64;
    sum += match kind {
        "preference" | "insight" => 0.1,
        "context" => -0.1,
        _ => 0.0,
    };
    if matches!(role, Some(Role::Assistant | Role::Tool)) {
        sum -= 0.1;
    }
    (sum.clamp(0.1, 0.9) * 100.0).round() / 100.0
}

fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '’' | 'ʼ')
}

fn read(text: &str) -> Found {
    let mut found = Found::default();
    let mut small = String::new();
    // The word before, as far as it matters: whether it makes a duty of "to", an order of "forget", or a duty of whatever is no guess ("must have been").
    let (mut ought, mut denied, mut must) = (false, false, false);
    let mut at_head = true;
    for piece in text.split_inclusive(|c: char| !(c.is_alphanumeric() || is_apostrophe(c))) {
        let mark = piece.chars().next_back().filter(|c| !(c.is_alphanumeric() || is_apostrophe(*c)));
        let end = piece.len() - mark.map_or(0, char::len_utf8);
        let word = piece.get(..end).unwrap_or("").trim_matches(is_apostrophe);
        if let Some(first) = word.chars().next() {
            small.clear();
            word.chars().for_each(|c| if is_apostrophe(c) { small.push('\'') } else { small.extend(c.to_lowercase()) });
            // Whose it is changes nothing: "Ada's", "mother's".
            let bare = small.strip_suffix("'s").unwrap_or(&small);
            let sign = SIGNS.get(small.as_str()).or_else(|| SIGNS.get(bare)).copied();
            match sign {
                Some(Sign::Filler) => found.fillers += 1,
                Some(Sign::Grammar | Sign::First | Sign::Ought) => {}
                Some(Sign::Number) => {
                    found.says += 1;
                    found.numbers += 1;
                }
                Some(Sign::Kin) => {
                    found.says += 1;
                    found.names += 1;
                }
                Some(_) => found.says += 1,
                None => {
                    let unspaced = word.chars().filter(|c| c.is_alphabetic() && !c.is_lowercase() && !c.is_uppercase());
                    found.says += 1 + unspaced.count().saturating_sub(1) / 2;
                    found.numbers += usize::from(word.contains(|c: char| c.is_numeric()));
                    found.names += usize::from(!at_head && first.is_uppercase());
                }
            }
            sign.into_iter().for_each(|sign| found.note(sign));
            let guess = matches!(small.as_str(), "have" | "be");
            if ought && small == "to" || denied && small == "forget" || must && !guess {
                found.note(Sign::Duty);
            }
            ought = sign == Some(Sign::Ought);
            denied = matches!(small.as_str(), "don't" | "dont" | "not" | "never");
            must = small == "must";
            at_head = false;
        }
        match mark {
            Some(end @ ('.' | '!' | '?' | '。' | '！' | '？' | '؟' | '\n')) => {
                if !at_head {
                    found.sentences += 1;
                    found.questions += usize::from(matches!(end, '?' | '？' | '؟'));
                }
                at_head = true;
            }
            Some('"' | '“' | '„' | '«' | ':' | '(') => at_head = true,
            _ => {}
        }
    }
    found.sentences += usize::from(!at_head);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> f64 {
        importance(text, "fact", None)
    }

    #[test]
    fn what_deserves_it_is_promoted() {
        for text in [
            "I am allergic to peanuts.",
            "I’m allergic to penicillin",
            "The wifi password is marlin42.",
            "The deadline is Friday at noon.",
            "Remember: my mother's birthday is on 3 March.",
            "We decided to move to Berlin on 3 March and signed the contract with Anna Weber",
            "I have to renew my passport before October.",
            "Don't forget the appointment with Dr. Weber on Monday",
            "We must never deploy on a Friday.",
            "My son was diagnosed with asthma last year",
        ] {
            assert!(of(text) >= 0.7, "{text}: {}", of(text));
        }
    }

    #[test]
    fn a_plain_statement_stays_in_the_middle() {
        for text in [
            "The cat sat on the mat beside the stove.",
            "The train leaves from the other platform.",
            "I always take the bus to work.",
            "I prefer tea in the morning.",
            "Ada keeps two hens, Grace and Hopper, in the yard behind the workshop.",
            "She would rather have short answers with an example.",
        ] {
            assert!((0.4..0.7).contains(&of(text)), "{text}: {}", of(text));
        }
    }

    #[test]
    fn chatter_is_low() {
        for text in [
            "Hi!",
            "Thanks so much!",
            "ok",
            "Yes, I will.",
            "Haha, that's great!",
            "Good to see you!",
            "…",
            "",
            "?!",
            "👍",
            "How are you doing?",
        ] {
            assert!(of(text) <= 0.3, "{text}: {}", of(text));
        }
        assert!(of("It must have been a wonderful concert.") < 0.5, "a guess is no duty");
        assert!(of("What time does it open?") < of("It opens at nine."));
        assert!(of("Where do you live?") < 0.5);
    }

    #[test]
    fn type_and_role_count() {
        let text = "The report was sent to the customer.";
        let turn = |role| importance(text, "message", role);
        assert_eq!(turn(Some(Role::User)), of(text));
        assert_eq!(turn(Some(Role::System)), of(text));
        assert!(turn(Some(Role::Assistant)) < of(text) && turn(Some(Role::Tool)) < of(text));
        assert!(importance(text, "preference", None) > of(text) && importance(text, "insight", None) > of(text));
        assert!(importance(text, "context", None) < of(text));
    }

    #[test]
    fn scripts_and_lengths() {
        assert!(of("我对花生过敏") >= 0.4 && of("Ich wohne seit 2019 in Hamburg") >= 0.5);
        let long = "x".repeat(1 << 20);
        let many = "word ".repeat(1 << 18);
        let cut = "é".repeat(READ);
        for text in
            [long.as_str(), &many, &cut, &"'".repeat(READ), &"!".repeat(READ), &"to ".repeat(READ), &"?a".repeat(READ)]
        {
            assert!((0.1..=0.9).contains(&of(text)));
        }
        // However much of it there is.
        assert!(
            of(&"password deadline allergic urgent must always never decided prefer born Ann 1 2 ".repeat(9)) <= 0.9
        );
        assert_eq!(
            of(&"I like the colour of it. ".repeat(4000)),
            of(&"I like the colour of it. ".repeat(400)),
            "the head is read"
        );
    }

    #[test]
    fn every_sign_has_words_and_no_word_two_signs() {
        let mut seen = std::collections::HashMap::new();
        for (sign, words) in LISTS {
            for word in words.split_whitespace() {
                assert_eq!(seen.insert(word, sign), None, "{word}");
                assert_eq!(SIGNS.get(word), Some(&sign));
            }
        }
        assert!((Sign::Kin as u16) < 16);
    }

    proptest! {
        #[test]
        fn any_text_has_one(text in any::<String>(), kind in "[a-z]{0,8}") {
            for role in [None, Some(Role::User), Some(Role::Tool)] {
                let worth = importance(&text, &kind, role);
                prop_assert!((0.1..=0.9).contains(&worth));
                prop_assert_eq!(worth, importance(&text, &kind, role));
                prop_assert_eq!((worth * 100.0).round() / 100.0, worth);
            }
        }
    }
}

//! From text to terms.
//!
//! A text is cut into words by the rules of Unicode (UAX 29), and each word becomes a term in these steps:
//!
//! 1. **Parts.** UAX 29 keeps `example.com` and `snake_case` whole; here only letters, digits and their marks make a word, so that
//!    a search for a part finds them. A dot between digits stays (`3.14`), a comma there goes (`1,000` is `1000`).
//! 2. **Case and width.** Letters become lower case one by one, full-width ones ASCII, final sigma an ordinary one; the letters
//!    that Turkish alone treats otherwise (`I`, `İ`) follow the language. Ligatures (`ﬁ`) and other compatibility forms stay.
//! 3. **Apostrophes.** A possessive or Turkish case ending is dropped, an elision (`l'homme`) is two words, English contractions
//!    give back their first word, and all of `n't` counts as a stop word.
//! 4. **Stop words** are dropped, unless the text has no others: neither a memory nor a query becomes empty by that, and
//!    "to be or not to be" finds itself.
//! 5. **Stem** by the Snowball algorithm of the language.
//! 6. **Accents** of Latin letters are dropped, composed or not, so that `café` and `cafe` meet. English and texts without a
//!    language drop them before the stem, the others after it, because their stemmers read them; there, an accent that is written
//!    as a character of its own is not seen by the stemmer. Letters beyond U+017F (Vietnamese) keep theirs.
//! 7. **Hash** to 32 bits, by SipHash under a fixed key: the same calls must give the same bytes. Two words that collide are
//!    one term; of 100,000 different words about one pair does, and it costs that pair some precision and nothing else.
//!
//! **Scripts without spaces** (Chinese, Japanese, Thai, Lao, Khmer, Burmese; Korean too, whose particles are glued to the word) give
//! each pair of neighbours in a run, and ideographs also each by itself, because one alone is often a word: `猫が好き` gives 猫,
//! 猫が, が好, 好, 好き. A run of one character gives that character. Rejected: a dictionary (megabytes per language), and single
//! characters only (every text has most of the kana).
//!
//! Work is bounded for any text: a word counts for its first [`WORD_BYTES`] bytes, and nothing looks back further than that.
//! Steps 4 to 7 are the dear ones, and most words of a text are among the few thousand that were met a moment ago: each thread
//! remembers what they led to ([`Memo`]), which makes the analysis of a text twice as fast.
//!
//! Stemmers: `frostem`, which publishes what the Snowball project's own compiler generates today, each language a feature, without
//! unsafe code or dependencies. Rejected: `rust-stemmers` (its stemmers are those of 2018, no release since 2020) and the
//! bindings to the C library (a C build for no gain).

use super::stop;
use frostem::{Algorithm, Stemmer};
use siphasher::sip::SipHasher13;
use std::borrow::Cow;
use std::cell::RefCell;
use std::hash::Hasher;
use std::ops::Range;
use unicode_segmentation::UnicodeSegmentation;

/// Bytes of a word that count.
const WORD_BYTES: usize = 128;

macro_rules! languages {
    ($($language:ident $name:literal $code:literal $stop:expr;)*) => {
        /// The language of a space's texts: it decides over stems and stop words.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub enum Language {
            /// None: words count as they are written.
            None,
            /// English.
            #[default]
            English,
            $(
                #[doc = concat!("The language \"", $name, "\".")]
                $language,
            )*
        }

        impl Language {
            /// Every language.
            pub const ALL: &[Language] = &[Language::None, Language::English, $(Language::$language),*];

            /// Its name, as the setting `language` takes and gives it.
            pub fn name(self) -> &'static str {
                match self {
                    Language::None => "none",
                    Language::English => "english",
                    $(Language::$language => $name,)*
                }
            }

            /// Its two letters in ISO 639-1.
            fn code(self) -> &'static str {
                match self {
                    Language::None => "none",
                    Language::English => "en",
                    $(Language::$language => $code,)*
                }
            }

            fn algorithm(self) -> Option<Algorithm> {
                match self {
                    Language::None => None,
                    Language::English => Some(Algorithm::English),
                    $(Language::$language => Some(Algorithm::$language),)*
                }
            }

            fn stop_words(self) -> &'static [&'static str] {
                match self {
                    Language::None => &[],
                    Language::English => stop::ENGLISH,
                    $(Language::$language => $stop,)*
                }
            }
        }
    };
}

languages! {
    Arabic "arabic" "ar" &[];
    Catalan "catalan" "ca" &[];
    Czech "czech" "cs" &[];
    Danish "danish" "da" &[];
    Dutch "dutch" "nl" stop::DUTCH;
    Finnish "finnish" "fi" &[];
    French "french" "fr" stop::FRENCH;
    German "german" "de" stop::GERMAN;
    Greek "greek" "el" &[];
    Hungarian "hungarian" "hu" &[];
    Indonesian "indonesian" "id" &[];
    Italian "italian" "it" stop::ITALIAN;
    Norwegian "norwegian" "no" &[];
    Polish "polish" "pl" &[];
    Portuguese "portuguese" "pt" stop::PORTUGUESE;
    Romanian "romanian" "ro" &[];
    Russian "russian" "ru" &[];
    Spanish "spanish" "es" stop::SPANISH;
    Swedish "swedish" "sv" &[];
    Turkish "turkish" "tr" &[];
    Ukrainian "ukrainian" "uk" &[];
}

impl Language {
    /// From a name or a code of ISO 639-1, in any case.
    pub fn parse(text: &str) -> Option<Language> {
        let is = |name: &str| text.eq_ignore_ascii_case(name);
        Language::ALL.iter().copied().find(|language| is(language.name()) || is(language.code()))
    }

    /// Whether an apostrophe in a word separates two words.
    fn elides(self) -> bool {
        matches!(self, Language::Catalan | Language::French | Language::Italian)
    }
}

/// Turns texts into terms, the same way for memories and queries.
#[derive(Clone, Copy)]
pub(crate) struct Analyser {
    language: Language,
    stemmer: Option<Stemmer>,
}

impl Analyser {
    pub(crate) fn new(language: Language) -> Analyser {
        Analyser { language, stemmer: language.algorithm().map(Stemmer::new) }
    }

    /// Appends the terms of a text, in order and with repetition.
    pub(crate) fn terms(&self, text: &str, out: &mut Vec<u32>) {
        self.each(text, Analyser::term, |term| out.push(term));
    }

    /// The terms of a text as words, each with its hash, in order and with repetition.
    pub(crate) fn words(&self, text: &str) -> Vec<(String, u32)> {
        let mut words = Vec::new();
        let stem = |analyser: &Analyser, found: Found, keep_stop_words| {
            analyser.stemmed(found, keep_stop_words).map(|stem| (stem.to_string(), hash(&stem)))
        };
        self.each(text, stem, |word| words.push(word));
        words
    }

    /// Where each word of a text is and its first term, for words that are no stop words; for all words if there are no others.
    pub(crate) fn spans(&self, text: &str) -> Vec<(Range<usize>, u32)> {
        let find = |keep_stop_words| {
            let spans = text.unicode_word_indices().filter_map(move |(start, word)| {
                let mut term = None;
                Cutter::new(self, keep_stop_words, |found: Found| {
                    if term.is_none() {
                        term = self.term(found, keep_stop_words);
                    }
                })
                .cut(word);
                Some((start..start + word.len(), term?))
            });
            spans.collect::<Vec<_>>()
        };
        let spans = find(false);
        if spans.is_empty() { find(true) } else { spans }
    }

    /// Calls `emit` with what `read` makes of every term of a text.
    fn each<T>(&self, text: &str, read: impl Fn(&Analyser, Found, bool) -> Option<T>, mut emit: impl FnMut(T)) {
        let mut terms = 0_usize;
        for keep_stop_words in [false, true] {
            Cutter::new(self, keep_stop_words, |found: Found| {
                if let Some(term) = read(self, found, keep_stop_words) {
                    terms += 1;
                    emit(term);
                }
            })
            .cut(text);
            if terms > 0 || self.language.stop_words().is_empty() {
                return;
            }
        }
    }

    /// The term of what was found in a text; None if it is no word that counts.
    fn term(&self, found: Found, keep_stop_words: bool) -> Option<u32> {
        let of = || self.stemmed(found, keep_stop_words).map(|stem| hash(&stem));
        match found {
            Found::Word(word) if !keep_stop_words => Memo::recall(self.language, word, of),
            _ => of(),
        }
    }

    /// The same as a text.
    fn stemmed<'t>(&self, found: Found<'t>, keep_stop_words: bool) -> Option<Cow<'t, str>> {
        let stem = match found {
            Found::Run(run) => Cow::Borrowed(run),
            Found::Word(word) if !keep_stop_words && self.is_stop_word(word) => return None,
            // No language has a stem for a number.
            Found::Word(word) if word.bytes().all(|byte| byte.is_ascii_digit()) => Cow::Borrowed(word),
            Found::Word(word) => self.stem(word),
        };
        // Some words are nothing but what a stemmer takes away.
        Some(stem).filter(|stem| !stem.is_empty())
    }

    fn is_stop_word(&self, word: &str) -> bool {
        self.language.stop_words().binary_search(&word).is_ok()
    }

    /// What a word in lower case is found by.
    fn stem<'a>(&self, word: &'a str) -> Cow<'a, str> {
        let Some(stemmer) = self.stemmer else { return without_accents(Cow::Borrowed(word)) };
        if self.language == Language::English {
            match without_accents(Cow::Borrowed(word)) {
                Cow::Borrowed(word) => stemmer.stem(word),
                Cow::Owned(word) => Cow::Owned(stemmer.stem(&word).into_owned()),
            }
        } else {
            without_accents(stemmer.stem(word))
        }
    }
}

/// What is found in a text.
#[derive(Clone, Copy)]
enum Found<'a> {
    /// A word in lower case, neither stemmed nor looked up among the stop words.
    Word(&'a str),
    /// One or two characters of a script without spaces.
    Run(&'a str),
}

/// What the words that a thread met last led to, one per place: a word that hashes to the place of another takes it over. A word is
/// kept with its length and language in 24 bytes; longer ones, hardly ever met, are worked out each time.
struct Memo {
    places: Box<[(MemoKey, Option<u32>)]>,
}

type MemoKey = [u64; 3];

impl Memo {
    /// 64 KiB, less than the cache of a core.
    const PLACES: usize = 1 << Memo::BITS;
    const BITS: u32 = 11;

    /// What `work_out` would say of this word.
    fn recall(language: Language, word: &str, work_out: impl FnOnce() -> Option<u32>) -> Option<u32> {
        thread_local! {
            static MEMO: RefCell<Option<Memo>> = const { RefCell::new(None) };
        }
        let Some(key) = Memo::key(language, word) else { return work_out() };
        MEMO.with_borrow_mut(|memo| {
            // A word has a length, so that no key is zero.
            let memo =
                memo.get_or_insert_with(|| Memo { places: vec![(MemoKey::default(), None); Memo::PLACES].into() });
            let Some((known, term)) = memo.places.get_mut(Memo::place(key)) else { return work_out() };
            if *known != key {
                (*known, *term) = (key, work_out());
            }
            *term
        })
    }

    fn key(language: Language, word: &str) -> Option<MemoKey> {
        let mut bytes = [0_u8; size_of::<MemoKey>()];
        let (text, [len, own_language]) = bytes.split_last_chunk_mut()?;
        text.get_mut(..word.len())?.copy_from_slice(word.as_bytes());
        (*len, *own_language) = (word.len() as u8, language as u8);
        let mut key = MemoKey::default();
        key.iter_mut().zip(bytes.as_chunks().0).for_each(|(part, bytes)| *part = u64::from_le_bytes(*bytes));
        Some(key)
    }

    fn place(key: MemoKey) -> usize {
        let [a, b, c] = key;
        let mixed = (a ^ b.rotate_left(23) ^ c.rotate_left(46)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> (u64::BITS - Memo::BITS)) as usize
    }
}

/// The state while a text is cut: the word and the run of unspaced characters that are not finished yet.
struct Cutter<'a, F> {
    analyser: &'a Analyser,
    keep_stop_words: bool,
    emit: F,
    word: String,
    /// The last character of a run in a script without spaces, and whether it is the only one and not yet emitted.
    run: Option<(char, bool)>,
}

impl<'a, F: FnMut(Found)> Cutter<'a, F> {
    fn new(analyser: &'a Analyser, keep_stop_words: bool, emit: F) -> Self {
        Cutter { analyser, keep_stop_words, emit, word: String::with_capacity(WORD_BYTES), run: None }
    }

    fn cut(mut self, text: &str) {
        let mut end = 0;
        for (start, token) in text.unicode_word_indices() {
            if start != end {
                self.finish_run();
            }
            end = start + token.len();
            self.token(token);
            self.finish_word();
        }
        self.finish_run();
    }

    /// Takes one word as UAX 29 sees it.
    fn token(&mut self, token: &str) {
        let mut chars = token.chars().peekable();
        while let Some(char) = chars.next() {
            match char {
                'a'..='z' | '0'..='9' => self.push(char),
                'A'..='Z' if char != 'I' => self.push(char.to_ascii_lowercase()),
                '\'' | '\u{2018}' | '\u{2019}' | '\u{2bc}' | '\u{ff07}' => {
                    if self.analyser.language.elides() {
                        self.finish_word();
                    } else if self.analyser.language == Language::Turkish && !self.word.is_empty() {
                        return;
                    } else {
                        self.push('\'');
                    }
                }
                '.' | ',' => {
                    let inside = self.word.ends_with(|last: char| last.is_ascii_digit())
                        && chars.peek().is_some_and(char::is_ascii_digit);
                    match (inside, char) {
                        (true, '.') => self.push(char),
                        (true, _) => {}
                        (false, _) => self.finish_word(),
                    }
                }
                '\0'..='\x7f' if char != 'I' => self.finish_word(),
                // Characters that only shape their neighbours: soft hyphen, joiners and directions, selectors, byte order mark.
                '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' => {
                }
                // An accent on a Latin letter, see `without_accents`.
                '\u{300}'..='\u{36f}' if self.word.ends_with(|last: char| last < '\u{250}') => {}
                '\u{ff01}'..='\u{ff5e}' => match char::from_u32(char as u32 - 0xfee0) {
                    Some(ascii) if ascii.is_ascii_alphanumeric() => self.lower(ascii),
                    _ => self.finish_word(),
                },
                _ if is_unspaced(char) => self.unspaced(char),
                _ => self.lower(char),
            }
        }
    }

    fn lower(&mut self, char: char) {
        match char {
            'I' if self.analyser.language == Language::Turkish => self.push('ı'),
            'İ' => self.push('i'),
            'ς' => self.push('σ'),
            _ => char.to_lowercase().for_each(|lower| self.push(lower)),
        }
    }

    fn push(&mut self, char: char) {
        if self.word.len() + char.len_utf8() <= WORD_BYTES {
            self.word.push(char);
        }
    }

    fn unspaced(&mut self, char: char) {
        self.finish_word();
        let mut utf8 = [0; 8];
        if let Some((last, _)) = self.run {
            let first = last.encode_utf8(&mut utf8).len();
            let both = first + utf8.get_mut(first..).map_or(0, |rest| char.encode_utf8(rest).len());
            if let Some(Ok(pair)) = utf8.get(..both).map(std::str::from_utf8) {
                (self.emit)(Found::Run(pair));
            }
        }
        let ideograph = is_ideograph(char);
        if ideograph {
            (self.emit)(Found::Run(char.encode_utf8(&mut utf8)));
        }
        self.run = Some((char, self.run.is_none() && !ideograph));
    }

    fn finish_run(&mut self) {
        if let Some((only, true)) = self.run.take() {
            (self.emit)(Found::Run(only.encode_utf8(&mut [0; 4])));
        }
    }

    fn finish_word(&mut self) {
        if self.word.is_empty() {
            return;
        }
        self.finish_run();
        let mut contraction = false;
        if self.word.contains('\'') {
            let english = self.analyser.language == Language::English;
            let endings: &[&str] = if english { &["'s", "'ll", "'re", "'ve", "'d", "'m"] } else { &["'s"] };
            contraction = english && self.word.ends_with("n't");
            if let Some(ending) = endings.iter().find(|ending| self.word.ends_with(**ending)) {
                self.word.truncate(self.word.len() - ending.len());
            }
            self.word.retain(|char| char != '\'');
        }
        // A contraction is a stop word.
        if self.keep_stop_words || !contraction {
            (self.emit)(Found::Word(&self.word));
        }
        self.word.clear();
    }
}

/// Whether a character belongs to a script that puts no spaces between words, or glues particles to them.
fn is_unspaced(char: char) -> bool {
    is_ideograph(char)
        || matches!(char,
            '\u{e00}'..='\u{eff}'       // Thai, Lao
            | '\u{1000}'..='\u{109f}'   // Burmese
            | '\u{1780}'..='\u{17ff}'   // Khmer
            | '\u{1100}'..='\u{11ff}'   // Hangul in parts
            | '\u{3041}'..='\u{30ff}'   // Hiragana, Katakana
            | '\u{3130}'..='\u{318f}'
            | '\u{31f0}'..='\u{31ff}'
            | '\u{ac00}'..='\u{d7ff}'   // Hangul
            | '\u{ff66}'..='\u{ff9f}')
}

fn is_ideograph(char: char) -> bool {
    matches!(char, '\u{3005}'..='\u{3007}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// A word without the accents of its Latin letters.
fn without_accents(word: Cow<str>) -> Cow<str> {
    if word.is_ascii() {
        return word;
    }
    let mut plain = String::with_capacity(word.len());
    for char in word.chars() {
        match char {
            'à'..='å' | 'ā' | 'ă' | 'ą' => plain.push('a'),
            'æ' => plain.push_str("ae"),
            'ç' | 'ć' | 'ĉ' | 'ċ' | 'č' => plain.push('c'),
            'ð' | 'ď' | 'đ' => plain.push('d'),
            'è'..='ë' | 'ē' | 'ĕ' | 'ė' | 'ę' | 'ě' => plain.push('e'),
            'ĝ' | 'ğ' | 'ġ' | 'ģ' => plain.push('g'),
            'ĥ' | 'ħ' => plain.push('h'),
            'ì'..='ï' | 'ĩ' | 'ī' | 'ĭ' | 'į' | 'ı' => plain.push('i'),
            'ĵ' => plain.push('j'),
            'ķ' => plain.push('k'),
            'ĺ' | 'ļ' | 'ľ' | 'ŀ' | 'ł' => plain.push('l'),
            'ñ' | 'ń' | 'ņ' | 'ň' => plain.push('n'),
            'ò'..='ö' | 'ø' | 'ō' | 'ŏ' | 'ő' => plain.push('o'),
            'œ' => plain.push_str("oe"),
            'ŕ' | 'ŗ' | 'ř' => plain.push('r'),
            'ś' | 'ŝ' | 'ş' | 'š' => plain.push('s'),
            'ß' => plain.push_str("ss"),
            'þ' => plain.push_str("th"),
            'ţ' | 'ť' | 'ŧ' => plain.push('t'),
            'ù'..='ü' | 'ũ' | 'ū' | 'ŭ' | 'ů' | 'ű' | 'ų' => plain.push('u'),
            'ŵ' => plain.push('w'),
            'ý' | 'ÿ' | 'ŷ' => plain.push('y'),
            'ź' | 'ż' | 'ž' => plain.push('z'),
            _ => plain.push(char),
        }
    }
    Cow::Owned(plain)
}

/// The term of a stem.
fn hash(stem: &str) -> u32 {
    let mut hasher = SipHasher13::new_with_keys(0x656e_6772_616d, 0);
    hasher.write(stem.as_bytes());
    hasher.finish() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    fn words(language: Language, text: &str) -> Vec<String> {
        let analyser = Analyser::new(language);
        let words = analyser.words(text);
        let mut terms = Vec::new();
        analyser.terms(text, &mut terms);
        assert_eq!(terms, words.iter().map(|(_, hash)| *hash).collect::<Vec<_>>());
        words.into_iter().map(|(word, _)| word).collect()
    }

    #[track_caller]
    fn check(language: Language, text: &str, expected: &str) {
        assert_eq!(words(language, text).join(" "), expected, "{text}");
    }

    #[test]
    fn english() {
        use Language::English;
        check(English, "The cats were running happily in Caroline’s garden.", "cat run happili carolin garden");
        check(English, "She'd gone; they've left, I don't know why it won't work", "gone left know work");
        check(English, "O'Brien's at 5 o'clock", "obrien 5 oclock");
        check(English, "In 2023 she paid $1,000.50, 3.14 times.", "2023 paid 1000.50 3.14 time");
        check(
            English,
            "mail bob@example.com, see https://example.com/snake_case",
            "mail bob exampl com see https exampl com snake case",
        );
        check(English, "On 2023-05-08: 10:30", "2023 05 08 10 30");
        check(English, "café CAFE cafe\u{301} cafés naïve", "cafe cafe cafe cafe naiv");
        check(English, "soft\u{ad}ware ＦＵＬＬ１２ width", "softwar full12 width");
        check(English, "🙂 🎉", "");
    }

    #[test]
    fn only_stop_words() {
        check(Language::English, "To be, or not to be?", "to be or not to be");
        check(Language::English, "Who am I? I don't!", "who am i i dont");
        check(Language::German, "wer bist du", "wer bist du");
        check(Language::None, "to be", "to be");
        check(Language::English, "...", "");
    }

    #[test]
    fn other_languages() {
        check(Language::German, "Die Häuser in der Straße und das Haus", "haus strass haus");
        check(Language::French, "L'homme qu’il aimait mangeait des pommes", "homm aim mang pomm");
        check(Language::Spanish, "Las niñas corrían por la canción de la niña", "nin corr cancion nin");
        check(Language::Italian, "L'amica dell'uomo mangiava le mele", "amic uom mang mel");
        check(Language::Portuguese, "As meninas estavam correndo nas ruas", "menin estav corr ruas");
        check(Language::Dutch, "De katten lopen 's avonds door de straten", "kat loop s avond straat");
        check(Language::Turkish, "ISPARTA'da İstanbul'un Ankara’ya", "ispar istanbul ankar");
        check(Language::Russian, "Красивые кошки бегали", "красив кошк бега");
        check(Language::Greek, "ΟΔΟΣ οδός", "οδ οδ");
        check(Language::None, "The Cats’ running dogs", "the cats running dogs");
    }

    #[test]
    fn scripts_without_spaces() {
        check(Language::English, "猫が好き", "猫 猫が が好 好 好き");
        check(Language::None, "北京 大", "北 北京 京 大");
        check(Language::None, "コーヒー", "コー ーヒ ヒー");
        check(Language::None, "私はTokyoにいる", "私 私は tokyo にい いる");
        check(Language::None, "서울에서 봄", "서울 울에 에서 봄");
        check(Language::None, "กา ข", "กา ข");
    }

    #[test]
    fn names() {
        for language in Language::ALL {
            assert_eq!(Language::parse(language.name()), Some(*language));
            assert_eq!(Language::parse(&language.code().to_uppercase()), Some(*language));
            let stop = language.stop_words();
            assert!(stop.is_sorted_by(|a, b| a < b), "{language:?}");
            assert!(stop.iter().all(|word| *word == word.to_lowercase()));
        }
        assert_eq!(Language::parse("klingon"), None);
        assert_eq!(Language::default(), Language::English);
    }

    /// A megabyte of whatever takes longest.
    #[test]
    fn hostile_texts() {
        const SIZE: usize = 1 << 20;
        for pattern in [
            "a",
            "a'",
            "1,",
            "a:",
            "\u{301}",
            "e\u{301}\u{301}\u{301}",
            "\u{200d}",
            "a\u{ad}",
            "猫",
            "가",
            "\u{e33}",
            "🇩🇪",
            "👨\u{200d}👩\u{200d}",
            "ß",
            "İ",
            "ﬁ",
            "'",
            "_",
            "a_",
            "\u{5d0}\"",
            ". ",
            "y's ",
            "ies",
            "\u{1f1e6}",
            "ー",
            "\u{3099}",
        ] {
            let text = pattern.repeat(SIZE / pattern.len());
            for language in [Language::English, Language::French, Language::Turkish] {
                let start = Instant::now();
                let mut terms = Vec::new();
                Analyser::new(language).terms(&text, &mut terms);
                assert!(start.elapsed() < Duration::from_secs(5), "{pattern:?} took {:?}", start.elapsed());
                assert!(terms.len() <= SIZE);
            }
        }
        let long = words(Language::English, &"a".repeat(SIZE));
        assert_eq!(long.iter().map(String::len).collect::<Vec<_>>(), [WORD_BYTES]);
    }

    #[test]
    fn a_number_is_its_own_stem() {
        for language in Language::ALL {
            for number in ["7", "42", "2024", "1000000", "00", "909090"] {
                assert_eq!(Analyser::new(*language).stem(number), number, "{language:?}");
                assert!(!Analyser::new(*language).is_stop_word(number));
            }
        }
    }

    #[test]
    fn words_that_share_a_place() {
        // More words than there are places, twice: what took over a place is never mistaken for what was there.
        for n in (0..10_000).chain(0..10_000) {
            check(Language::English, &format!("word{n}s"), &format!("word{n}"));
            check(Language::None, &format!("word{n}s"), &format!("word{n}s"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever is written, in every language: no panic, and words of bounded length.
        #[test]
        fn any_text(text in "\\PC{0,40}", letters in "[a-zà-žα-ωа-яіїєґء-ي'’. ]{0,60}") {
            for language in Language::ALL {
                for text in [&text, &letters] {
                    prop_assert!(words(*language, text).iter().all(|word| !word.is_empty() && word.len() <= 2 * WORD_BYTES));
                }
            }
        }
    }
}

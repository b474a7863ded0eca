//! The settings of a space: names, defaults, presets, parsing.
//!
//! One function, [`Settings::set`], reads a value, whoever it comes from; [`Settings::get`] writes the canonical form that
//! `set` takes back, and that is what travels in effects and files.

use crate::error::nearest;
use crate::lexical::Language;
use crate::text::Template;
use crate::tier::TIERS;
use crate::{Error, Precision, Result, Tier, limits};

/// What is evicted first from a full tier. Pinned memories never are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// The lowest retention value: importance, recency and use.
    Value,
    /// The one that entered the tier first.
    Fifo,
}

/// The importance of what is stored without one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Importance {
    /// Estimated from the text, its type and role, by whoever stores it.
    #[default]
    Estimate,
    /// The same for all.
    Fixed(f64),
}

/// Whether the words of a memory get vectors of their own (see `tokens`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TokenVectors {
    /// As long as those of the space take less than [`limits::AUTO_TOKEN_VECTOR_BYTES`].
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What a recall by vector and words goes by besides them (see `recall`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranking {
    /// What the turns around a turn say.
    pub around: bool,
    /// How much a memory says.
    pub length: bool,
    /// Who is asked about.
    pub speaker: bool,
    /// The vectors of the single words, where memories have them.
    pub token_vectors: bool,
}

impl Ranking {
    /// All of it.
    const ALL: Ranking = Ranking { around: true, length: true, speaker: true, token_vectors: true };
    /// Nothing: vector and words alone.
    const NONE: Ranking = Ranking { around: false, length: false, speaker: false, token_vectors: false };

    fn parts(&mut self) -> [(&'static str, &mut bool); 4] {
        [
            ("around", &mut self.around),
            ("length", &mut self.length),
            ("speaker", &mut self.speaker),
            ("token-vectors", &mut self.token_vectors),
        ]
    }

    /// `all`, `none`, or names with commas between them.
    fn parse(value: &str) -> Option<Ranking> {
        let value = value.to_ascii_lowercase();
        match value.as_str() {
            "all" => return Some(Ranking::ALL),
            "none" => return Some(Ranking::NONE),
            _ => {}
        }
        let mut ranking = Ranking::NONE;
        for name in value.split(',') {
            let mut parts = ranking.parts();
            let (_, part) = parts.iter_mut().find(|(known, _)| *known == name.trim())?;
            **part = true;
        }
        Some(ranking)
    }

    fn name(mut self) -> String {
        match self {
            Ranking::ALL => "all".into(),
            Ranking::NONE => "none".into(),
            _ => {
                let parts = self.parts();
                let names: Vec<&str> = parts.iter().filter(|(_, part)| **part).map(|(name, _)| *name).collect();
                names.join(",")
            }
        }
    }
}

/// Capacity, lifetime and half-life of one tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierSettings {
    /// Memories that the tier holds; 0 = unlimited.
    pub capacity: u64,
    /// Seconds from entering the tier to expiry; 0 = unlimited.
    pub ttl: u64,
    /// Seconds in which a memory of the tier that nobody uses loses half of its worth to eviction; 0 = the lifetime, 30 days if that is unlimited.
    pub half_life: u64,
}

/// The settings of one space.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    tiers: [TierSettings; TIERS],
    /// What gives way in a full tier.
    pub eviction: Eviction,
    /// Bytes that the space may take; 0 = unlimited.
    pub max_memory: u64,
    /// How vectors are kept: fixed with the first one.
    pub precision: Precision,
    /// What is embedded and indexed of a memory: counts for what is stored from then on, and for the words of all.
    pub template: Template,
    /// Whether the words are indexed.
    pub lexical: bool,
    /// The language of the words: stems and stop words.
    pub language: Language,
    /// Whether words get vectors.
    pub token_vectors: TokenVectors,
    /// What a recall goes by besides vector and words.
    pub ranking: Ranking,
    /// Cosine from which two memories of one session and speaker are duplicates; 0 = equal text only.
    pub dedup: f64,
    /// The importance of memories and turns that are stored without one.
    pub importance: Importance,
    /// Seconds between two consolidations by the timer; 0 = none.
    pub consolidate_interval: u64,
    /// Importance from which consolidation promotes.
    pub consolidate_threshold: f64,
    /// How young, in seconds, or how often used between two looks, a memory is that stays hot, and one that stays warm (see `heat`).
    pub hot_age: u64,
    /// Uses.
    pub hot_uses: u64,
    /// Seconds.
    pub warm_age: u64,
    /// Uses.
    pub warm_uses: u64,
    /// Seconds between two looks at the heat of memories by the timer; 0 = none.
    pub heat_interval: u64,
    /// Whether the texts of cold memories are packed.
    pub compress: bool,
    /// Whether consolidation by the timer reads memories for facts.
    pub extract: bool,
    /// The language model that reads for facts besides the patterns; empty = patterns alone.
    pub extract_model: Box<str>,
    /// Whether consolidation by the timer links what belongs together.
    pub link: bool,
    /// Turns of a session that become a summary; 0 = none do.
    pub turns_to_summary: u64,
    /// Summaries from which facts are learned; 0 = never.
    pub summaries_to_facts: u64,
    /// Seconds that the record of a session lives after it was last used; 0 = unlimited.
    pub session_ttl: u64,
    /// The last turns of a session that are kept whole.
    pub session_turns: u64,
    /// Tokens of an assembled context.
    pub context_tokens: u64,
    /// Seconds that an assembled context is kept; 0 = not at all.
    pub context_cache_ttl: u64,
    /// Turns that the summary of a session does not cover, from which it moves forward; 0 = never by itself.
    pub summarize_at: u64,
    /// Turns that it then leaves uncovered.
    pub summarize_keep: u64,
    /// Tokens of a summary.
    pub summary_tokens: u64,
    /// The language model that writes summaries; empty = sentences are taken from the turns.
    pub summary_model: Box<str>,
    /// Tokens of a chunk of a document.
    pub chunk: u64,
    /// Tokens that a chunk repeats of the one before it.
    pub overlap: u64,
}

/// Every setting, in the order in which they are listed.
pub const NAMES: [&str; 48] = [
    "working.capacity",
    "working.ttl",
    "short_term.capacity",
    "short_term.ttl",
    "long_term.capacity",
    "long_term.ttl",
    "episodic.capacity",
    "episodic.ttl",
    "semantic.capacity",
    "semantic.ttl",
    "working.half-life",
    "short_term.half-life",
    "long_term.half-life",
    "episodic.half-life",
    "semantic.half-life",
    "eviction",
    "max-memory",
    "precision",
    "template",
    "lexical",
    "language",
    "token-vectors",
    "ranking",
    "dedup",
    "importance",
    "consolidate-interval",
    "consolidate-threshold",
    "extract",
    "extract-model",
    "link",
    "turns-to-summary",
    "summaries-to-facts",
    "hot-age",
    "hot-uses",
    "warm-age",
    "warm-uses",
    "heat-interval",
    "compress",
    "session.ttl",
    "session.turns",
    "context-tokens",
    "context-cache-ttl",
    "summarize-at",
    "summarize-keep",
    "summary-tokens",
    "summary-model",
    "chunk",
    "overlap",
];

/// The presets and what they set besides the defaults.
const PRESETS: [(&str, &[(&str, &str)]); 4] = [
    ("default", &[]),
    (
        "chatbot",
        &[
            ("working.capacity", "20"),
            ("working.ttl", "30m"),
            ("short_term.capacity", "200"),
            ("short_term.ttl", "12h"),
            ("long_term.capacity", "5000"),
            ("long_term.ttl", "7d"),
        ],
    ),
    (
        "research",
        &[
            ("working.capacity", "50"),
            ("working.ttl", "2h"),
            ("short_term.capacity", "500"),
            ("short_term.ttl", "2d"),
            ("long_term.capacity", "20000"),
            ("long_term.ttl", "0"),
            ("semantic.capacity", "10000"),
            ("semantic.ttl", "0"),
        ],
    ),
    (
        "personal",
        &[
            ("working.capacity", "30"),
            ("working.ttl", "1h"),
            ("episodic.capacity", "2000"),
            ("episodic.ttl", "365d"),
            ("semantic.capacity", "5000"),
            ("semantic.ttl", "0"),
        ],
    ),
];

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

impl Default for Settings {
    fn default() -> Self {
        let tier = |capacity, ttl| TierSettings { capacity, ttl, half_life: 0 };
        Settings {
            tiers: [tier(10, HOUR), tier(100, DAY), tier(10_000, 30 * DAY), tier(1000, 90 * DAY), tier(5000, 0)],
            eviction: Eviction::Value,
            max_memory: 0,
            precision: Precision::default(),
            template: Template::default(),
            lexical: true,
            language: Language::default(),
            token_vectors: TokenVectors::default(),
            ranking: Ranking::ALL,
            dedup: 0.0,
            importance: Importance::default(),
            consolidate_interval: 300,
            consolidate_threshold: 0.7,
            extract: true,
            extract_model: "".into(),
            link: true,
            turns_to_summary: 30,
            summaries_to_facts: 50,
            hot_age: 7 * DAY,
            hot_uses: 5,
            warm_age: 30 * DAY,
            warm_uses: 2,
            heat_interval: HOUR,
            compress: true,
            session_ttl: DAY,
            session_turns: 100,
            context_tokens: 4000,
            context_cache_ttl: 300,
            summarize_at: 25,
            summarize_keep: 15,
            summary_tokens: 1000,
            summary_model: "".into(),
            chunk: 512,
            overlap: 50,
        }
    }
}

impl Settings {
    /// Capacity and lifetime of a tier.
    pub fn tier(&self, tier: Tier) -> TierSettings {
        self.tiers[tier.index()]
    }

    /// How many memories a tier holds; None = unlimited.
    pub(crate) fn capacity(&self, tier: Tier) -> Option<usize> {
        let capacity = self.tier(tier).capacity;
        (capacity > 0).then(|| usize::try_from(capacity).unwrap_or(usize::MAX))
    }

    /// When a memory that enters a tier at `now` expires by the tier's lifetime.
    pub(crate) fn expiry(&self, tier: Tier, now: u64) -> Option<u64> {
        let ttl = self.tier(tier).ttl;
        (ttl > 0).then(|| now.saturating_add(ttl.saturating_mul(1000)).min(limits::TIME_MS))
    }

    /// When the record of a session that is used at `now` ends.
    pub(crate) fn session_expiry(&self, now: u64) -> Option<u64> {
        (self.session_ttl > 0).then(|| now.saturating_add(self.session_ttl.saturating_mul(1000)).min(limits::TIME_MS))
    }

    /// The half-life of recency in the retention value of a tier, in milliseconds.
    pub(crate) fn half_life_ms(&self, tier: Tier) -> f64 {
        let TierSettings { ttl, half_life, .. } = self.tier(tier);
        let seconds = [half_life, ttl, 30 * DAY].into_iter().find(|seconds| *seconds > 0);
        seconds.unwrap_or(DAY) as f64 * 1000.0
    }

    /// Sets one setting and returns its name as listed. Errors: unknown name, a value that the setting does not take.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<&'static str> {
        let known = NAMES.into_iter().find(|known| known.eq_ignore_ascii_case(name)).ok_or_else(|| unknown(name))?;
        if value.len() > limits::SETTING_BYTES {
            return Err(Error::new(format!("{known}: a value has at most {} bytes", limits::SETTING_BYTES)));
        }
        match known {
            "eviction" => {
                self.eviction = match value.to_ascii_lowercase().as_str() {
                    "value" => Eviction::Value,
                    "fifo" => Eviction::Fifo,
                    _ => return Err(bad(known, value, "value or fifo")),
                }
            }
            "max-memory" => self.max_memory = bytes(value).ok_or_else(|| bad(known, value, BYTES_FORM))?,
            "precision" => self.precision = named(known, value, Precision::ALL.map(|p| (p, p.name())))?,
            "template" => self.template = named(known, value, Template::ALL)?,
            "lexical" => self.lexical = named(known, value, SWITCH)?,
            "language" => {
                self.language = Language::parse(value).ok_or_else(|| {
                    let names: Vec<&str> = Language::ALL.iter().map(|language| language.name()).collect();
                    bad(known, value, &names.join(", "))
                })?
            }
            "token-vectors" => self.token_vectors = named(known, value, TOKEN_VECTORS)?,
            "ranking" => {
                self.ranking = Ranking::parse(value).ok_or_else(|| {
                    bad(
                        known,
                        value,
                        "all, none, or some of around, length, speaker and token-vectors with commas between them",
                    )
                })?
            }
            "dedup" => self.dedup = unit(value).ok_or_else(|| bad(known, value, UNIT_FORM))?,
            "importance" if value.eq_ignore_ascii_case(ESTIMATE) => self.importance = Importance::Estimate,
            "importance" => {
                let fixed = unit(value).ok_or_else(|| bad(known, value, "estimate, or a number from 0 to 1"))?;
                self.importance = Importance::Fixed(fixed);
            }
            "consolidate-interval" => {
                self.consolidate_interval = seconds(value).ok_or_else(|| bad(known, value, SECONDS_FORM))?
            }
            "consolidate-threshold" => {
                self.consolidate_threshold = unit(value).ok_or_else(|| bad(known, value, UNIT_FORM))?
            }
            "hot-age" => self.hot_age = seconds(value).ok_or_else(|| bad(known, value, AGE_FORM))?,
            "hot-uses" => self.hot_uses = within(known, value, 1, limits::HEAT_USES)?,
            "warm-age" => self.warm_age = seconds(value).ok_or_else(|| bad(known, value, AGE_FORM))?,
            "warm-uses" => self.warm_uses = within(known, value, 1, limits::HEAT_USES)?,
            "heat-interval" => self.heat_interval = seconds(value).ok_or_else(|| bad(known, value, SECONDS_FORM))?,
            "compress" => self.compress = named(known, value, SWITCH)?,
            "extract" => self.extract = named(known, value, SWITCH)?,
            "link" => self.link = named(known, value, SWITCH)?,
            "session.ttl" => self.session_ttl = seconds(value).ok_or_else(|| bad(known, value, SECONDS_FORM))?,
            "session.turns" => self.session_turns = within(known, value, 0, limits::TURNS)?,
            "context-tokens" => self.context_tokens = within(known, value, 1, limits::CONTEXT_TOKENS)?,
            "context-cache-ttl" => {
                self.context_cache_ttl = seconds(value).ok_or_else(|| bad(known, value, SECONDS_FORM))?
            }
            "summarize-at" => self.summarize_at = within(known, value, 0, limits::TURNS)?,
            "summarize-keep" => self.summarize_keep = within(known, value, 0, limits::TURNS)?,
            "summary-tokens" => self.summary_tokens = within(known, value, 1, limits::SUMMARY_TOKENS)?,
            "summary-model" => self.summary_model = model(known, value)?,
            "extract-model" => self.extract_model = model(known, value)?,
            "turns-to-summary" => self.turns_to_summary = within(known, value, 0, limits::EPISODE_TURNS)?,
            "summaries-to-facts" => self.summaries_to_facts = within(known, value, 0, limits::EFFECT_IDS)?,
            "chunk" => self.chunk = within(known, value, 1, limits::CHUNK_TOKENS)?,
            "overlap" => self.overlap = within(known, value, 0, limits::CHUNK_TOKENS)?,
            _ => {
                let (tier, field) = known.split_once('.').ok_or_else(|| unknown(name))?;
                let tier = &mut self.tiers[Tier::parse(tier)?.index()];
                if field == "half-life" {
                    tier.half_life = seconds(value).ok_or_else(|| bad(known, value, SECONDS_FORM))?;
                } else if field == "capacity" {
                    let max = limits::MEMORIES as u64;
                    tier.capacity = whole(value).filter(|n| *n <= max).ok_or_else(|| {
                        bad(known, value, &format!("a number of memories up to {max}, 0 = unlimited"))
                    })?;
                } else {
                    tier.ttl = seconds(value).ok_or_else(|| bad(known, value, SECONDS_FORM))?;
                }
            }
        }
        Ok(known)
    }

    /// The canonical value of a setting: what [`Settings::set`] takes back to the same effect.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        Some(match name {
            "eviction" => match self.eviction {
                Eviction::Value => "value".into(),
                Eviction::Fifo => "fifo".into(),
            },
            "max-memory" => self.max_memory.to_string(),
            "precision" => self.precision.name().into(),
            "template" => name_of(self.template, Template::ALL).into(),
            "lexical" => name_of(self.lexical, SWITCH).into(),
            "language" => self.language.name().into(),
            "token-vectors" => name_of(self.token_vectors, TOKEN_VECTORS).into(),
            "ranking" => self.ranking.name(),
            "dedup" => self.dedup.to_string(),
            "importance" => match self.importance {
                Importance::Estimate => ESTIMATE.into(),
                Importance::Fixed(fixed) => fixed.to_string(),
            },
            "consolidate-interval" => self.consolidate_interval.to_string(),
            "consolidate-threshold" => self.consolidate_threshold.to_string(),
            "extract" => name_of(self.extract, SWITCH).into(),
            "link" => name_of(self.link, SWITCH).into(),
            "hot-age" => self.hot_age.to_string(),
            "hot-uses" => self.hot_uses.to_string(),
            "warm-age" => self.warm_age.to_string(),
            "warm-uses" => self.warm_uses.to_string(),
            "heat-interval" => self.heat_interval.to_string(),
            "compress" => name_of(self.compress, SWITCH).into(),
            "session.ttl" => self.session_ttl.to_string(),
            "session.turns" => self.session_turns.to_string(),
            "context-tokens" => self.context_tokens.to_string(),
            "context-cache-ttl" => self.context_cache_ttl.to_string(),
            "summarize-at" => self.summarize_at.to_string(),
            "summarize-keep" => self.summarize_keep.to_string(),
            "summary-tokens" => self.summary_tokens.to_string(),
            "summary-model" => self.summary_model.to_string(),
            "extract-model" => self.extract_model.to_string(),
            "turns-to-summary" => self.turns_to_summary.to_string(),
            "summaries-to-facts" => self.summaries_to_facts.to_string(),
            "chunk" => self.chunk.to_string(),
            "overlap" => self.overlap.to_string(),
            _ => {
                let (tier, field) = name.split_once('.')?;
                let tier = self.tier(Tier::parse(tier).ok()?);
                match field {
                    "capacity" => tier.capacity,
                    "half-life" => tier.half_life,
                    _ => tier.ttl,
                }
                .to_string()
            }
        })
    }

    /// The settings whose names match a glob pattern, with their canonical values.
    pub(crate) fn matching(&self, pattern: &str) -> Vec<(&'static str, String)> {
        let pattern = pattern.to_ascii_lowercase();
        NAMES
            .into_iter()
            .filter(|name| glob(pattern.as_bytes(), name.as_bytes()))
            .filter_map(|name| Some((name, self.get(name)?)))
            .collect()
    }

    /// The settings of a preset: tiers that it does not name have their defaults; what is not about tiers stays.
    pub(crate) fn preset(&self, name: &str) -> Result<Settings> {
        let (_, values) = PRESETS.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let shown: String = name.chars().take(64).collect();
            Error::new(format!("unknown preset '{shown}': a preset is default, chatbot, research or personal"))
        })?;
        let mut settings = Settings { tiers: Settings::default().tiers, ..self.clone() };
        for (name, value) in values {
            settings.set(name, value)?;
        }
        Ok(settings)
    }
}

const SECONDS_FORM: &str = "seconds, or a number with s, m, h or d such as 30m, up to 100 years, 0 = unlimited";
const AGE_FORM: &str =
    "seconds, or a number with s, m, h or d such as 7d, up to 100 years, 0 = as soon as it is not used";
const BYTES_FORM: &str = "a number of bytes, or one with kb, mb or gb such as 100mb, 0 = unlimited";
const UNIT_FORM: &str = "a number from 0 to 1";

const ESTIMATE: &str = "estimate";

const SWITCH: [(bool, &str); 2] = [(true, "on"), (false, "off")];

const TOKEN_VECTORS: [(TokenVectors, &str); 3] =
    [(TokenVectors::Auto, "auto"), (TokenVectors::On, "on"), (TokenVectors::Off, "off")];

/// The name of a language model, which need not be loaded now.
fn model(setting: &str, value: &str) -> Result<Box<str>> {
    match value.len() <= limits::NAME_BYTES {
        true => Ok(value.into()),
        false => Err(bad(setting, value, "the name of a loaded model, or nothing")),
    }
}

/// The value that a name stands for.
fn named<T: Copy, const N: usize>(setting: &str, value: &str, names: [(T, &str); N]) -> Result<T> {
    let found = names.iter().find(|(_, name)| name.eq_ignore_ascii_case(value)).map(|(value, _)| *value);
    found.ok_or_else(|| bad(setting, value, &names.map(|(_, name)| name).join(", ")))
}

/// The name that stands for a value.
fn name_of<T: PartialEq, const N: usize>(value: T, names: [(T, &'static str); N]) -> &'static str {
    names.into_iter().find(|(known, _)| *known == value).map_or("", |(_, name)| name)
}

fn unknown(name: &str) -> Error {
    let shown: String = name.chars().take(64).collect();
    match nearest(name, NAMES.into_iter()) {
        Some(near) => Error::new(format!("unknown setting '{shown}': did you mean {near}?")),
        None => Error::new(format!("unknown setting '{shown}': the settings are {}", NAMES.join(", "))),
    }
}

fn bad(name: &str, value: &str, accepted: &str) -> Error {
    let shown: String = value.chars().take(64).collect();
    Error::new(format!("{name}: '{shown}' is not accepted: it takes {accepted}"))
}

fn whole(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// A whole number between two, both included.
fn within(name: &str, value: &str, least: u64, most: usize) -> Result<u64> {
    let number = whole(value).filter(|n| (least..=most as u64).contains(n));
    number.ok_or_else(|| bad(name, value, &format!("a number from {least} to {most}")))
}

/// A number with one of the given units behind it; without one, the number.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = if unit.is_empty() { 1 } else { units.iter().find(|(name, _)| *name == unit)?.1 };
    whole(number)?.checked_mul(factor)
}

fn seconds(text: &str) -> Option<u64> {
    with_unit(text, &[("s", 1), ("m", 60), ("h", HOUR), ("d", DAY)]).filter(|s| *s <= limits::TTL_SECONDS)
}

/// Bytes, with the units of redis.conf: k = 1000, kb = 1024.
fn bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 7] = [
        ("b", 1),
        ("k", 1000),
        ("kb", 1 << 10),
        ("m", 1_000_000),
        ("mb", 1 << 20),
        ("g", 1_000_000_000),
        ("gb", 1 << 30),
    ];
    with_unit(text, &UNITS)
}

fn unit(text: &str) -> Option<f64> {
    // "nan" and "inf" parse as floats; the range refuses them.
    text.parse().ok().filter(|f: &f64| (0.0..=1.0).contains(f)).map(|f| f + 0.0)
}

/// Redis's glob without character classes: `*` is any run of characters, `?` any one. No setting's name needs a class.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // The two positions to go back to when what follows a star does not match: linear in practice, quadratic at worst.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || Some(&c) == text.get(t) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        let mut settings = Settings::default();
        for (name, value) in Settings::default().matching("*") {
            assert_eq!(settings.set(name, &value), Ok(name));
        }
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.matching("*").len(), NAMES.len());
    }

    #[test]
    fn values() {
        let mut s = Settings::default();
        for (name, value, canonical) in [
            ("working.ttl", "30m", "1800"),
            ("WORKING.TTL", "7d", "604800"),
            ("long_term.capacity", "0", "0"),
            ("max-memory", "100mb", "104857600"),
            ("max-memory", "1k", "1000"),
            ("eviction", "FIFO", "fifo"),
            ("dedup", "0.95", "0.95"),
            ("importance", "0.3", "0.3"),
            ("importance", "Estimate", "estimate"),
            ("ranking", "Speaker, around", "around,speaker"),
            ("ranking", "speaker,length,around,token-vectors", "all"),
            ("ranking", "none", "none"),
            ("consolidate-interval", "0", "0"),
            ("consolidate-threshold", "1", "1"),
        ] {
            let known = s.set(name, value).unwrap();
            assert_eq!(s.get(known).as_deref(), Some(canonical), "{name} {value}");
        }
        for (name, value) in [
            ("working.ttl", "-1"),
            ("working.ttl", "1.5h"),
            ("working.ttl", ""),
            ("working.ttl", "h"),
            ("working.ttl", "99999999999d"),
            ("working.capacity", "ten"),
            ("working.capacity", "10000001"),
            ("eviction", "lru"),
            ("dedup", "nan"),
            ("dedup", "1.1"),
            ("importance", "high"),
            ("importance", "1.1"),
            ("importance", "nan"),
            ("ranking", ""),
            ("ranking", "around,"),
            ("ranking", "around length"),
            ("max-memory", "100tb"),
            ("max-memory", "99999999999999999999"),
        ] {
            let before = s.clone();
            assert!(s.set(name, value).unwrap_err().message().contains("it takes"), "{name} {value}");
            assert_eq!(s, before);
        }
        assert!(s.set("working.capcity", "1").unwrap_err().message().contains("working.capacity"));
    }

    #[test]
    fn presets() {
        let mut own = Settings::default();
        own.set("episodic.capacity", "7").unwrap();
        own.set("dedup", "0.9").unwrap();
        let chatbot = own.preset("chatbot").unwrap();
        assert_eq!(chatbot.tier(Tier::Working), TierSettings { capacity: 20, ttl: 1800, half_life: 0 });
        assert_eq!(chatbot.tier(Tier::LongTerm), TierSettings { capacity: 5000, ttl: 7 * DAY, half_life: 0 });
        assert_eq!(chatbot.tier(Tier::Episodic), TierSettings { capacity: 1000, ttl: 90 * DAY, half_life: 0 });
        assert_eq!(chatbot.dedup, 0.9);
        assert_eq!(
            own.preset("Research").unwrap().tier(Tier::LongTerm),
            TierSettings { capacity: 20_000, ttl: 0, half_life: 0 }
        );
        assert_eq!(own.preset("personal").unwrap().tier(Tier::Episodic).ttl, 365 * DAY);
        assert!(own.preset("gamer").is_err());
    }

    #[test]
    fn globs() {
        for (pattern, text, yes) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("*b*", "abc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*.ttl", "working.ttl", true),
            ("*a*a*", "aba", true),
            ("*a*a*", "ab", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), yes, "{pattern} {text}");
        }
    }
}

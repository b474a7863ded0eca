//! The five tiers.

use crate::{Error, Result};
use std::fmt;

/// A tier of memory. The order is that of consolidation, and of giving way under memory pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The task at hand: plans, tool calls, thoughts.
    Working,
    /// Recent interactions.
    ShortTerm,
    /// Consolidated facts and document chunks.
    LongTerm,
    /// Event sequences with their times, session summaries.
    Episodic,
    /// Concepts and facts for good.
    Semantic,
}

/// The number of tiers.
pub(crate) const TIERS: usize = Tier::ALL.len();

impl Tier {
    /// All tiers, in order.
    pub const ALL: [Tier; 5] = [Tier::Working, Tier::ShortTerm, Tier::LongTerm, Tier::Episodic, Tier::Semantic];

    /// The name, as commands and settings write it.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Working => "working",
            Tier::ShortTerm => "short_term",
            Tier::LongTerm => "long_term",
            Tier::Episodic => "episodic",
            Tier::Semantic => "semantic",
        }
    }

    /// The tier of a name, in any case.
    pub fn parse(name: &str) -> Result<Tier> {
        Tier::ALL.into_iter().find(|tier| tier.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let shown: String = name.chars().take(64).collect();
            Error::new(format!(
                "unknown tier '{shown}': a tier is working, short_term, long_term, episodic or semantic"
            ))
        })
    }

    /// The place in [`Tier::ALL`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// The tier at a place in [`Tier::ALL`].
    pub(crate) fn at(index: usize) -> Option<Tier> {
        Tier::ALL.get(index).copied()
    }

    /// Where consolidation takes a memory of this tier and type next: working → short_term → long_term, and from there
    /// events to episodic and facts to semantic. None where it stays.
    pub fn promotion(self, kind: &str) -> Option<Tier> {
        match (self, kind) {
            (Tier::Working, _) => Some(Tier::ShortTerm),
            (Tier::ShortTerm, _) => Some(Tier::LongTerm),
            (Tier::LongTerm, "event" | "message" | "summary") => Some(Tier::Episodic),
            (Tier::LongTerm, "fact" | "preference" | "insight") => Some(Tier::Semantic),
            _ => None,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (index, tier) in Tier::ALL.into_iter().enumerate() {
            assert_eq!(Tier::parse(tier.name()), Ok(tier));
            assert_eq!(Tier::parse(&tier.name().to_uppercase()), Ok(tier));
            assert_eq!((tier.index(), Tier::at(index)), (index, Some(tier)));
        }
        assert!(Tier::parse("short-term").unwrap_err().message().contains("short_term"));
    }

    #[test]
    fn promotions() {
        assert_eq!(Tier::Working.promotion("chunk"), Some(Tier::ShortTerm));
        assert_eq!(Tier::ShortTerm.promotion("chunk"), Some(Tier::LongTerm));
        assert_eq!(Tier::LongTerm.promotion("chunk"), None);
        assert_eq!(Tier::LongTerm.promotion("event"), Some(Tier::Episodic));
        assert_eq!(Tier::LongTerm.promotion("fact"), Some(Tier::Semantic));
        assert_eq!(Tier::Semantic.promotion("fact"), None);
        assert_eq!(Tier::Episodic.promotion("event"), None);
    }
}

//! Memory ids: `<ms>-<seq>`, as in streams.

use crate::{Error, limits};
use std::fmt;
use std::str::FromStr;

/// Unix milliseconds.
pub type Millis = u64;

/// The id of a memory: the time it was given and a number within that millisecond. Ordered by both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemoryId {
    /// Unix milliseconds, at most [`limits::TIME_MS`].
    pub ms: Millis,
    /// The number within the millisecond, at most [`limits::TIME_MS`] too.
    pub seq: u64,
}

impl MemoryId {
    /// `0-0`: below every id, never an id itself. A scan starts and ends with it.
    pub const ZERO: MemoryId = MemoryId { ms: 0, seq: 0 };
    /// Above every id.
    pub const MAX: MemoryId = MemoryId { ms: u64::MAX, seq: u64::MAX };

    /// Whether this can be the id of a memory: not `0-0`, and both parts within [`limits::TIME_MS`], which columns hold exactly.
    pub fn is_valid(self) -> bool {
        self != MemoryId::ZERO && self.ms <= limits::TIME_MS && self.seq <= limits::TIME_MS
    }

    /// The least id above this one.
    pub(crate) fn next(self) -> MemoryId {
        match self.seq.checked_add(1) {
            Some(seq) => MemoryId { seq, ..self },
            None => MemoryId { ms: self.ms.saturating_add(1), seq: 0 },
        }
    }

    /// The id that a memory made at `now` gets when `self` is the largest one seen. None when the ids are used up.
    pub(crate) fn following(self, now: Millis) -> Option<MemoryId> {
        let next = if now > self.ms {
            MemoryId { ms: now, seq: 0 }
        } else {
            match self.next() {
                next if next.seq <= limits::TIME_MS => next,
                _ => MemoryId { ms: self.ms + 1, seq: 0 },
            }
        };
        next.is_valid().then_some(next)
    }
}

impl fmt::Display for MemoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for MemoryId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = |part: &str| -> Option<u64> {
            (!part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse().ok()).flatten()
        };
        text.split_once('-')
            .and_then(|(ms, seq)| Some(MemoryId { ms: digits(ms)?, seq: digits(seq)? }))
            .filter(|id| id.is_valid())
            .ok_or_else(|| {
                let shown: String = text.chars().take(64).collect();
                Error::new(format!(
                    "'{shown}' is not a memory id: an id is <milliseconds>-<number>, such as 1700000000000-0"
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        for text in ["1-0", "0-1", "1700000000000-9007199254740992"] {
            let id: MemoryId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
        }
        for text in [
            "",
            "1",
            "-",
            "1-",
            "-1",
            "0-0",
            "1-1-1",
            "+1-0",
            " 1-0",
            "1-0x",
            "99999999999999999-0",
            "1-9007199254740993",
        ] {
            let error = text.parse::<MemoryId>().unwrap_err();
            assert!(error.message().contains("not a memory id"), "{text}: {error}");
        }
    }

    #[test]
    fn following_ids_rise() {
        let last = MemoryId { ms: 5, seq: 3 };
        assert_eq!(last.following(6), Some(MemoryId { ms: 6, seq: 0 }));
        assert_eq!(last.following(5), Some(MemoryId { ms: 5, seq: 4 }));
        assert_eq!(last.following(1), Some(MemoryId { ms: 5, seq: 4 }));
        assert_eq!(MemoryId { ms: 5, seq: limits::TIME_MS }.following(1), Some(MemoryId { ms: 6, seq: 0 }));
        assert_eq!(MemoryId { ms: limits::TIME_MS, seq: limits::TIME_MS }.following(1), None);
        assert_eq!(MemoryId::ZERO.following(0), Some(MemoryId { ms: 0, seq: 1 }));
    }
}

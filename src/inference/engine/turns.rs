//! Who is next among the answers that wait.
//!
//! By priority; then the owner with the fewest answers in the batch and the smallest share of late; then in the order of
//! arrival. Two things keep that order from shutting anyone out. What an owner has been served is forgotten by halves, so that
//! one who was busy an hour ago does not stand behind every newcomer. And who has waited for [`PATIENCE`] steps has a claim to
//! every [`OVERDUE`]th place that becomes free, in the order of arrival: the urgent keep most places, and the others wait for
//! a bounded number of them.
//!
//! Time is counted in tokens and steps. Rejected: priorities that grow with the wait (after a while a queue of the patient
//! stands in front of everything urgent); the clock (an engine that nobody asks forgets nothing, and has no need to).

use std::collections::HashMap;

/// Tokens, of all owners together, after which shares are halved. It bounds the owners that are remembered too.
const HALVED: u64 = 16_384;
/// Steps after which an answer has waited long.
const PATIENCE: u64 = 256;
/// Of so many places, one is for those that have waited long.
const OVERDUE: u64 = 4;

/// What an answer that waits has to say for itself.
#[derive(Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) tenant: &'a str,
    pub(super) priority: i32,
    /// Its tenant's answers in the batch.
    pub(super) here: usize,
    /// Its number in the order of arrival.
    pub(super) arrival: u64,
    /// What [`Turns::now`] was then.
    pub(super) since: u64,
}

/// Shares, and what has been counted.
#[derive(Default)]
pub(super) struct Turns {
    served: HashMap<String, u64>,
    /// Tokens since shares were halved.
    tokens: u64,
    steps: u64,
    places: u64,
}

impl Turns {
    /// Steps so far.
    pub(super) fn now(&self) -> u64 {
        self.steps
    }

    /// A step has been made, in which tenants were served so many tokens.
    pub(super) fn step(&mut self, tokens: impl IntoIterator<Item = (String, u64)>) {
        self.steps += 1;
        for (tenant, tokens) in tokens {
            *self.served.entry(tenant).or_default() += tokens;
            self.tokens += tokens;
        }
        while self.tokens >= HALVED {
            self.tokens -= HALVED;
            self.served.retain(|_, tokens| {
                *tokens /= 2;
                *tokens > 0
            });
        }
    }

    /// Gives the next free place to one of those that wait, by its index.
    pub(super) fn next<'a>(&mut self, waiting: impl Iterator<Item = Claim<'a>> + Clone) -> Option<usize> {
        let overdue = |claim: &Claim<'_>| self.steps.saturating_sub(claim.since) >= PATIENCE;
        let share = |claim: &Claim<'_>| self.served.get(claim.tenant).copied().unwrap_or(0);
        let all = waiting.enumerate();
        let patient = if (self.places + 1).is_multiple_of(OVERDUE) {
            all.clone().filter(|(_, claim)| overdue(claim)).min_by_key(|(_, claim)| claim.arrival)
        } else {
            None
        };
        let rank = |claim: &Claim<'_>| (std::cmp::Reverse(claim.priority), claim.here, share(claim), claim.arrival);
        let (index, _) = patient.or_else(|| all.min_by_key(|(_, claim)| rank(claim)))?;
        self.places += 1;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(tenant: &str, priority: i32, arrival: u64) -> Claim<'_> {
        Claim { tenant, priority, here: 0, arrival, since: 0 }
    }

    #[test]
    fn shares_are_forgotten_by_halves() {
        let mut turns = Turns::default();
        let both = [claim("old", 0, 0), claim("new", 0, 1)];
        assert_eq!(turns.next(both.into_iter()), Some(0));
        turns.step([("old".to_owned(), 1_000), ("new".to_owned(), 10)]);
        assert_eq!(turns.next(both.into_iter()), Some(1));
        // Others are served for a while, and both shares are nothing again.
        (0..10).for_each(|_| turns.step([("other".to_owned(), HALVED)]));
        assert_eq!(turns.next(both.into_iter()), Some(0));
        assert!(turns.served.keys().eq(["other"]));
        assert!(turns.served["other"] <= 2 * HALVED);
    }

    #[test]
    fn a_place_goes_by_priority_answers_in_the_batch_share_and_arrival() {
        let mut turns = Turns::default();
        turns.step([("a".to_owned(), 5)]);
        let busy = Claim { here: 1, ..claim("b", 0, 0) };
        let mut all = vec![busy, claim("a", 0, 1), claim("b", 0, 3), claim("b", 0, 2), claim("a", 7, 9)];
        for arrival in [9, 2, 3, 1, 0] {
            let next = turns.next(all.iter().copied()).map(|index| all.remove(index).arrival);
            assert_eq!(next, Some(arrival));
        }
        assert_eq!(turns.next(all.iter().copied()), None);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut turns = Turns::default();
        let low = claim("low", -5, 0);
        let mut arrival = 0;
        let mut before = 0;
        // There is always something urgent, and a place in each step.
        loop {
            arrival += 1;
            let urgent = Claim { since: turns.now(), ..claim("urgent", 5, arrival) };
            match turns.next([urgent, low].into_iter()) {
                Some(0) => before += 1,
                _ => break,
            }
            turns.step([]);
        }
        assert!((PATIENCE..PATIENCE + OVERDUE).contains(&before), "{before}");
        // And many who have waited long leave most places to the urgent.
        let mut waiting: Vec<Claim<'_>> = (0..40).map(|arrival| claim("low", 0, arrival)).collect();
        let mut urgent = 0;
        for arrival in 0..20 {
            waiting.push(Claim { since: turns.now(), ..claim("urgent", 5, 100 + arrival) });
            let next = turns.next(waiting.iter().copied()).map(|index| waiting.remove(index).tenant);
            urgent += usize::from(next == Some("urgent"));
        }
        assert_eq!(urgent, 15);
    }
}

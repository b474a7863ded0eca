//! How long operations take: a histogram for each, from which INFO, MEM.REPORT and the alerts read percentiles.
//!
//! A histogram is log-linear: below [`STEPS`] microseconds a bucket each, above that every doubling is cut into [`STEPS`] buckets of one width. So a
//! bucket is at most a sixteenth of what it counts wide, and a percentile, told as the middle of its bucket, is off by 3.2 % at most, from 1 µs
//! to more than 100 s; what took longer counts as the longest. To record is a shift and one relaxed addition, on whichever thread the work ended: no lock, no
//! allocation, and nothing that waits. What reads adds up some hundred counters and may miss what ends meanwhile, which no percentile notices.
//!
//! The histograms count from the start of the server. Who wants to know about the last minute keeps what they said then ([`Counts`]) and looks at the rest.
//!
//! Rejected: a reservoir of the last durations (a lock, or torn entries, and nothing about the tail of a busy minute); a sketch that moves its buckets
//! (needs a lock, for an accuracy that nobody asks of a latency); a clock of rings per second (many times the memory, for what the difference of two readings says).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Buckets per doubling, and below the first one.
const STEPS: u64 = 16;
/// Its logarithm.
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// The last doubling ends here: 2^27 µs, 134 s.
const LAST_BIT: u32 = 27;
const BUCKETS: usize = ((LAST_BIT - STEP_BITS + 1) as usize) * STEPS as usize;

/// An operation whose time is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// MEM.STORE, MEM.MSTORE and MEM.UPDATE, from the command to the commit, embedding included.
    Store,
    /// MEM.RECALL, from the command to the reply, embedding and waiting included.
    Recall,
    /// A text that was not cached, from its first window to its vectors.
    Embed,
    /// An answer of GEMMA.GENERATE or GEMMA.CHAT, from the command to its end.
    Generate,
    /// The same to the first token.
    FirstToken,
    /// A consolidation, by call or by timer, planning and all commits.
    Consolidate,
    /// MEM.CONTEXT, from the command to the reply.
    Context,
}

impl Operation {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Operation; 7] = [
        Operation::Store,
        Operation::Recall,
        Operation::Embed,
        Operation::Generate,
        Operation::FirstToken,
        Operation::Consolidate,
        Operation::Context,
    ];

    /// The name, as INFO has it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Store => "store",
            Operation::Recall => "recall",
            Operation::Embed => "embed",
            Operation::Generate => "generate",
            Operation::FirstToken => "first_token",
            Operation::Consolidate => "consolidate",
            Operation::Context => "context",
        }
    }

    /// Records one that has ended now.
    pub fn ended(self, began: Instant) {
        self.histogram().record(began.elapsed());
    }

    /// How often it ended since the start of the server, and how long that took.
    pub fn summary(self) -> Summary {
        self.histogram().counts().summary()
    }

    /// What was counted since the start of the server.
    pub fn counts(self) -> Counts {
        self.histogram().counts()
    }

    fn histogram(self) -> &'static Histogram {
        static STORE: Histogram = Histogram::new();
        static RECALL: Histogram = Histogram::new();
        static EMBED: Histogram = Histogram::new();
        static GENERATE: Histogram = Histogram::new();
        static FIRST_TOKEN: Histogram = Histogram::new();
        static CONSOLIDATE: Histogram = Histogram::new();
        static CONTEXT: Histogram = Histogram::new();
        match self {
            Operation::Store => &STORE,
            Operation::Recall => &RECALL,
            Operation::Embed => &EMBED,
            Operation::Generate => &GENERATE,
            Operation::FirstToken => &FIRST_TOKEN,
            Operation::Consolidate => &CONSOLIDATE,
            Operation::Context => &CONTEXT,
        }
    }
}

/// How often durations were seen, by bucket.
struct Histogram([AtomicU64; BUCKETS]);

impl Histogram {
    const fn new() -> Histogram {
        Histogram([const { AtomicU64::new(0) }; BUCKETS])
    }

    fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // The index is below the length whatever the duration.
        if let Some(bucket) = self.0.get(bucket_of(micros)) {
            bucket.fetch_add(1, Relaxed);
        }
    }

    fn counts(&self) -> Counts {
        Counts(std::array::from_fn(|i| self.0.get(i).map_or(0, |bucket| bucket.load(Relaxed))))
    }
}

/// The bucket of a duration in microseconds.
fn bucket_of(micros: u64) -> usize {
    let micros = micros.min((1 << LAST_BIT) - 1);
    if micros < STEPS {
        return micros as usize;
    }
    // The leading one and the STEP_BITS bits behind it: which doubling, and where in it.
    let doubling = u64::from(micros.ilog2() - STEP_BITS);
    (doubling * STEPS + (micros >> doubling)) as usize
}

/// The middle of a bucket, in microseconds.
fn middle_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let doubling = bucket / STEPS - 1;
    let first = (bucket - doubling * STEPS) << doubling;
    first + (1 << doubling) / 2
}

/// What a histogram said at some time.
pub struct Counts([u64; BUCKETS]);

impl Counts {
    /// Of nothing.
    pub const fn none() -> Counts {
        Counts([0; BUCKETS])
    }

    /// What came since `earlier`.
    pub fn since(&self, earlier: &Counts) -> Counts {
        let mut rest = Counts::none();
        for ((rest, now), then) in rest.0.iter_mut().zip(&self.0).zip(&earlier.0) {
            *rest = now.saturating_sub(*then);
        }
        rest
    }

    /// How many there are, and their percentiles.
    pub fn summary(&self) -> Summary {
        let count = self.0.iter().sum();
        Summary { count, p50: self.percentile(count, 50), p99: self.percentile(count, 99) }
    }

    /// The smallest duration that so many percent of all do not exceed, in microseconds; 0 of none.
    fn percentile(&self, count: u64, percent: u64) -> u64 {
        let rank = u64::try_from((u128::from(count) * u128::from(percent)).div_ceil(100)).unwrap_or(count).max(1);
        let mut seen = 0;
        for (bucket, n) in self.0.iter().enumerate() {
            seen += n;
            if seen >= rank {
                return middle_of(bucket);
            }
        }
        0
    }
}

/// Durations in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// What half of them did not exceed, in microseconds.
    pub p50: u64,
    /// What 99 of 100 did not exceed, in microseconds.
    pub p99: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of any distribution the percentiles are those of the sorted list, within half a bucket.
    fn agrees(mut micros: Vec<u64>) {
        let histogram = Histogram::new();
        micros.iter().for_each(|n| histogram.record(Duration::from_micros(*n)));
        micros.sort_unstable();
        let exact = |percent: usize| micros[(micros.len() * percent).div_ceil(100).max(1) - 1];
        let Summary { count, p50, p99 } = histogram.counts().summary();
        assert_eq!(count, micros.len() as u64);
        for (told, exact) in [(p50, exact(50)), (p99, exact(99))] {
            assert!(told.abs_diff(exact) as f64 <= exact as f64 / 31.0, "{told} for {exact}");
        }
    }

    #[test]
    fn every_duration_lies_in_the_bucket_it_is_counted_in() {
        let mut last = 0;
        for micros in (0..100_000).chain((100_000..(1 << LAST_BIT)).step_by(997)) {
            let bucket = bucket_of(micros);
            assert!(bucket == last || bucket == last + 1, "{micros}: {bucket} after {last}");
            last = bucket;
            assert_eq!(bucket_of(middle_of(bucket)), bucket);
        }
        assert_eq!(last, BUCKETS - 1);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert!((90_000_000..(1 << LAST_BIT)).contains(&middle_of(BUCKETS - 1)));
    }

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_sorted_durations(
            small in prop::collection::vec(0u64..2_000, 1..400),
            large in prop::collection::vec(0u64..100_000_000, 0..20),
        ) {
            agrees(small.into_iter().chain(large).collect());
        }
    }

    #[test]
    fn nothing_is_zero_and_a_window_holds_what_came_in_it() {
        assert_eq!(Counts::none().summary(), Summary::default());
        let histogram = Histogram::new();
        (0..1_000).for_each(|_| histogram.record(Duration::from_micros(5)));
        let then = histogram.counts();
        assert_eq!(histogram.counts().since(&then).summary(), Summary::default());
        histogram.record(Duration::from_millis(700));
        let window = histogram.counts().since(&then).summary();
        assert_eq!(window.count, 1);
        assert!(window.p50 == window.p99 && window.p99.abs_diff(700_000) < 700_000 / 31, "{window:?}");
        assert_eq!(histogram.counts().summary(), Summary { count: 1_001, p50: 5, p99: 5 });
    }

    #[test]
    fn threads_record_together_and_none_is_lost() {
        static SHARED: Histogram = Histogram::new();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    (0..10_000).for_each(|n| SHARED.record(Duration::from_micros(thread * 1_000 + n % 100)))
                });
            }
        });
        assert_eq!(SHARED.counts().summary().count, 40_000);
    }
}

//! Alerts: what an operator, or an agent that subscribes, should know without asking.
//!
//! Every `engram.alert-interval` the timer of a primary compares the server, and in its turn every space, with the thresholds `engram.alert-*`. An alert is
//! a state: it is told when it begins and when it is over, never in between, by a line in the log, in INFO, and as JSON on the channel [`CHANNEL`]:
//! `{"space": "k", "db": 0, "what": "hit_rate", "value": 12.5, "threshold": 50, "at": ms, "over": false}`; of the server itself `space` and `db` are null.
//!
//! * Rates are those of a window, so that an alert ends when its cause does: of the last [`RECALLS`] recalls, which are kept as one bit each; of what was
//!   stored, evicted and timed since the last comparison.
//! * Spaces are compared when the timer comes by anyway, so thousands of them take no tick longer than its slice. The numbers are kept beside the space
//!   ([`Watch`]) and are no part of the data: a loaded or copied space is compared from one interval after it was first seen.
//! * Published is to the subscribers of this server and, in a cluster, to those of all its nodes; nothing goes into the replication stream or the append-only file,
//!   so publishing is safe in the timer. A replica compares nothing: what its primary knows is enough, and of one event there is one message.
//!
//! Rejected: PUBLISH by a call, which propagates to the replicas, must not happen while the server is paused, and asks the ACL of nobody;
//! an alert with every comparison, which teaches people to filter it away.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engram_memory::Counters;
use serde_json::json;

use crate::config;
use crate::datatype::Held;
use crate::ffi::{self, Ctx, Level};
use crate::grammar::printable;
use crate::jobs;
use crate::keyspace::{self, Place};
use crate::latency::{Counts, Operation};
use crate::totals;

/// Where alerts are published.
const CHANNEL: &str = "engram:alerts";
/// Recalls of which the hit rate is told.
const RECALLS: usize = 1_000;

/// What an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Memory in use, of `maxmemory` or of a space's `max-memory`.
    Memory,
    /// Recalls that found something.
    HitRate,
    /// Evictions by stores.
    Evictions,
    /// Places of the job queue that are taken.
    Queue,
    /// The slowest of a hundred recalls.
    RecallP99,
    /// The slowest of a hundred answers.
    GenerateP99,
    /// The module gives up memories for want of room.
    Pressure,
}

impl What {
    /// All of them, in the order in which they are shown.
    pub const ALL: [What; 7] =
        [What::Memory, What::HitRate, What::Evictions, What::Queue, What::RecallP99, What::GenerateP99, What::Pressure];

    /// The name, in INFO and in messages.
    pub fn name(self) -> &'static str {
        match self {
            What::Memory => "memory",
            What::HitRate => "hit_rate",
            What::Evictions => "evictions",
            What::Queue => "queue",
            What::RecallP99 => "recall_p99",
            What::GenerateP99 => "generate_p99",
            What::Pressure => "pressure",
        }
    }

    /// What is measured, in words.
    fn words(self) -> &'static str {
        match self {
            What::Memory => "memory in use",
            What::HitRate => "recalls with a result",
            What::Evictions => "evictions per store",
            What::Queue => "jobs in the queue",
            What::RecallP99 => "p99 of recall",
            What::GenerateP99 => "p99 of generation",
            What::Pressure => "memory pressure, giving up memories",
        }
    }

    /// The unit of value and threshold.
    fn unit(self) -> &'static str {
        match self {
            What::RecallP99 | What::GenerateP99 => "ms",
            _ => "%",
        }
    }
}

/// A value beside its threshold.
#[derive(Clone, Copy, Debug)]
struct Reading {
    value: f64,
    threshold: f64,
    /// Whether it is on the wrong side.
    alarming: bool,
}

impl Reading {
    fn new(value: f64, threshold: usize, alarming: impl FnOnce(f64, f64) -> bool) -> Reading {
        let limit = threshold as f64;
        // A threshold of 0 is none.
        Reading {
            value: (value * 10.0).round() / 10.0,
            threshold: limit,
            alarming: threshold > 0 && alarming(value, limit),
        }
    }

    /// Evictions of stores, which may have been none.
    fn of_evictions(now: &Counters, before: &Counters) -> Reading {
        let stores = now.stores.saturating_sub(before.stores) as f64;
        let evictions = now.evictions.saturating_sub(before.evictions) as f64;
        let percent = 100.0 * evictions / stores.max(1.0);
        Reading::new(percent, config::alert_evictions(), |_, limit| {
            evictions > 0.0 && 100.0 * evictions > limit * stores
        })
    }

    fn of_recalls(recalls: &Recent) -> Reading {
        // Before there were so many, a rate says little.
        let percent = recalls.rate().map_or(100.0, |rate| 100.0 * rate);
        Reading::new(percent, config::alert_hit_rate(), |value, limit| value < limit)
    }

    fn of_latency(window: &Counts) -> Reading {
        let millis = window.summary().p99 as f64 / 1_000.0;
        Reading::new(millis, config::alert_latency(), |value, limit| value > limit)
    }
}

/// The outcomes of the last [`RECALLS`] recalls, a bit each.
#[derive(Clone)]
struct Recent {
    bits: [u64; RECALLS.div_ceil(64)],
    next: usize,
    seen: usize,
    hits: usize,
}

impl Recent {
    const fn new() -> Recent {
        Recent { bits: [0; RECALLS.div_ceil(64)], next: 0, seen: 0, hits: 0 }
    }

    fn note(&mut self, hit: bool) {
        let Some(word) = self.bits.get_mut(self.next / 64) else { return };
        let bit = 1 << (self.next % 64);
        self.hits = self.hits + usize::from(hit) - usize::from(*word & bit != 0);
        *word = if hit { *word | bit } else { *word & !bit };
        self.next = (self.next + 1) % RECALLS;
        self.seen = (self.seen + 1).min(RECALLS);
    }

    /// The share of hits, once there were enough recalls.
    fn rate(&self) -> Option<f64> {
        (self.seen == RECALLS).then(|| self.hits as f64 / RECALLS as f64)
    }
}

/// What is kept of a space to compare it. Not saved.
pub struct Watch {
    recalls: Recent,
    /// When it was compared last, and what it had counted then.
    compared: Option<(Instant, Counters)>,
    /// Memories that it has given up since then because it was above its own `max-memory`.
    given_up: u64,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch { recalls: Recent::new(), compared: None, given_up: 0 }
    }
}

impl Watch {
    /// It had to give up so many memories to stay below its own limit.
    pub fn gave_up(&mut self, memories: u64) {
        self.given_up += memories;
    }
}

thread_local! {
    /// The recalls of all spaces; of the main thread only.
    static RECALLS_OF_ALL: RefCell<Recent> = const { RefCell::new(Recent::new()) };
}

/// Notes that a recall of this space found something, or nothing. On the main thread.
pub fn note_recall(held: &mut Held, hit: bool) {
    held.space.note_recall(hit);
    held.watch.recalls.note(hit);
    RECALLS_OF_ALL.with_borrow_mut(|recalls| recalls.note(hit));
    totals::note_recall(hit);
}

/// What an alert is about and of which space, by incarnation; None = the server.
type Subject = (Option<u64>, What);

/// An alert that has begun and is not over.
#[derive(Clone, Debug)]
pub struct Active {
    /// What it is about.
    pub what: What,
    /// The space; None = the server.
    pub place: Option<Place>,
    /// Since when, Unix milliseconds.
    pub since: u64,
    /// The value when it began.
    pub value: f64,
    /// What it is compared with.
    pub threshold: f64,
}

struct State {
    active: BTreeMap<Subject, Active>,
    /// Alerts that have begun since the start of the server.
    begun: u64,
    /// When the server was compared last, and what had been counted then.
    compared: Option<(Instant, Counters)>,
    recall: Counts,
    generate: Counts,
}

static STATE: Mutex<State> = Mutex::new(State {
    active: BTreeMap::new(),
    begun: 0,
    compared: None,
    recall: Counts::none(),
    generate: Counts::none(),
});

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether it is time to compare again; None where nothing is compared.
fn is_due(compared: Option<&(Instant, Counters)>) -> Option<bool> {
    let interval = Duration::from_secs(config::alert_interval());
    (!interval.is_zero()).then(|| compared.is_none_or(|(at, _)| at.elapsed() >= interval))
}

/// Compares the server, when it is time. On the timer of a primary that is not paused.
pub fn compare_server(ctx: Ctx) {
    let mut state = state();
    match is_due(state.compared.as_ref()) {
        Some(true) => {}
        Some(false) => return,
        None => {
            state.compared = None;
            let told = |(space, what): &&Subject| space.is_some() || *what != What::Pressure;
            let over: Vec<Subject> = state.active.keys().filter(told).copied().collect();
            return over.into_iter().for_each(|subject| state.end(ctx, subject, None));
        }
    }
    let now = totals::counters();
    let [recall, generate] = [Operation::Recall, Operation::Generate].map(Operation::counts);
    let before = state.compared.replace((Instant::now(), now));
    let windows = [recall.since(&state.recall), generate.since(&state.generate)];
    (state.recall, state.generate) = (recall, generate);
    // A first look has no window.
    if let Some((_, before)) = before {
        let at_least = |value: f64, limit: f64| value >= limit;
        let queued = 100.0 * jobs::queued() as f64 / config::queue_limit().max(1) as f64;
        let recalls = RECALLS_OF_ALL.with_borrow(Reading::of_recalls);
        let [recall, generate] = &windows;
        for (what, reading) in [
            (What::Memory, Reading::new(100.0 * ffi::memory_ratio(), config::alert_memory(), at_least)),
            (What::HitRate, recalls),
            (What::Evictions, Reading::of_evictions(&now, &before)),
            (What::Queue, Reading::new(queued, config::alert_queue(), at_least)),
            (What::RecallP99, Reading::of_latency(recall)),
            (What::GenerateP99, Reading::of_latency(generate)),
        ] {
            state.take(ctx, (None, what), None, reading);
        }
    }
    let gone = |subject: &Subject| subject.0.is_some_and(|incarnation| !keyspace::has(incarnation));
    let lost: Vec<Subject> = state.active.keys().filter(|subject| gone(subject)).copied().collect();
    for subject in lost {
        state.end(ctx, subject, None);
    }
}

/// Compares a space, when it is time. On the timer of a primary that is not paused.
pub fn compare_space(ctx: Ctx, held: &mut Held, place: &Place) {
    match is_due(held.watch.compared.as_ref()) {
        Some(true) => {}
        Some(false) => return,
        None => return held.watch.compared = None,
    }
    let now = held.space.counters();
    let given_up = std::mem::take(&mut held.watch.given_up);
    let Some((_, before)) = held.watch.compared.replace((Instant::now(), now)) else { return };
    let limit = held.space.config().max_memory;
    let used = if limit == 0 { 0.0 } else { 100.0 * held.space.live_bytes() as f64 / limit as f64 };
    let mut state = state();
    for (what, reading) in [
        (What::Memory, Reading::new(used, config::alert_memory(), |value, limit| limit <= value)),
        (What::HitRate, Reading::of_recalls(&held.watch.recalls)),
        (What::Evictions, Reading::of_evictions(&now, &before)),
        (What::Pressure, Reading::new(used, 100, |_, _| given_up > 0)),
    ] {
        state.take(ctx, (Some(held.incarnation), what), Some(place), reading);
    }
}

/// The server is under pressure from now on, or no longer; memory in use and where pressure begins are in percent.
pub fn pressure(ctx: Ctx, used: f64, threshold: usize, on: bool) {
    state().take(ctx, (None, What::Pressure), None, Reading::new(used, threshold, |_, _| on));
}

/// This server is no primary: what it knew is for another to say.
pub fn stand_down() {
    let mut state = state();
    state.active.clear();
    state.compared = None;
}

/// The alerts that have begun and are not over: of the server and of all spaces, or of one.
pub fn active(of: Option<u64>) -> Vec<Active> {
    let state = state();
    let wanted = |subject: &Subject| of.is_none() || subject.0.is_none() || subject.0 == of;
    state.active.iter().filter(|(subject, _)| wanted(subject)).map(|(_, active)| active.clone()).collect()
}

/// How many have begun since the start of the server.
pub fn begun() -> u64 {
    state().begun
}

impl Active {
    /// Its space's name, as far as it is text; None = it is the server's.
    pub fn space(&self) -> Option<String> {
        self.place.as_ref().map(|place| printable(&place.key))
    }

    /// What it is, in words.
    pub fn sentence(&self) -> String {
        let Active { what, value, threshold, .. } = self;
        let unit = what.unit();
        format!("{}: {value} {unit}, threshold {threshold} {unit}", what.words())
    }
}

impl State {
    /// Takes a reading: begins the alert, ends it, or leaves it as it is.
    fn take(&mut self, ctx: Ctx, subject: Subject, place: Option<&Place>, reading: Reading) {
        let what = subject.1;
        match (self.active.contains_key(&subject), reading.alarming) {
            (false, true) => {
                let Reading { value, threshold, .. } = reading;
                let active = Active { what, place: place.cloned(), since: ffi::now(), value, threshold };
                let line = format!("engram: alert: {}: {}", named(place), active.sentence());
                ctx.log(Level::Warning, &line);
                publish(ctx, &active, active.since, false);
                self.begun += 1;
                self.active.insert(subject, active);
            }
            (true, false) => self.end(ctx, subject, Some(reading)),
            _ => {}
        }
    }

    /// Ends an alert; without a reading, for what it was about is gone.
    fn end(&mut self, ctx: Ctx, subject: Subject, reading: Option<Reading>) {
        let Some(mut active) = self.active.remove(&subject) else { return };
        let now = ffi::now();
        let mut how = String::from("the space is gone");
        if let Some(Reading { value, threshold, .. }) = reading {
            (active.value, active.threshold) = (value, threshold);
            how = active.sentence();
        }
        let seconds = now.saturating_sub(active.since) / 1_000;
        let place = named(active.place.as_ref());
        ctx.log(Level::Notice, &format!("engram: alert over after {seconds} s: {place}: {how}"));
        publish(ctx, &active, now, true);
    }
}

fn named(place: Option<&Place>) -> String {
    place.map_or("server".to_owned(), |place| format!("space '{}' in database {}", printable(&place.key), place.db))
}

fn publish(ctx: Ctx, alert: &Active, at: u64, over: bool) {
    let message = json!({
        "space": alert.place.as_ref().map(|place| String::from_utf8_lossy(&place.key)),
        "db": alert.place.as_ref().map(|place| place.db),
        "what": alert.what.name(),
        "value": alert.value,
        "threshold": alert.threshold,
        "at": at,
        "over": over,
    });
    ctx.publish(CHANNEL, &message.to_string());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_hit_rate_is_that_of_the_last_recalls(outcomes in prop::collection::vec(any::<bool>(), 0..3 * RECALLS)) {
            let mut recent = Recent::new();
            for hit in &outcomes {
                recent.note(*hit);
            }
            let last = outcomes.len().checked_sub(RECALLS).map(|from| &outcomes[from..]);
            let naive = last.map(|last| last.iter().filter(|hit| **hit).count() as f64 / RECALLS as f64);
            prop_assert_eq!(recent.rate(), naive);
        }
    }

    #[test]
    fn evictions_count_in_a_window_and_a_threshold_of_zero_is_none() {
        let at = |stores, evictions| Counters { stores, evictions, ..Counters::default() };
        let read = |now: &Counters, before: &Counters| Reading::of_evictions(now, before);
        assert!(!read(&at(1_000, 10), &at(0, 0)).alarming, "1 % is the threshold, not above it");
        assert!(read(&at(1_000, 11), &at(0, 0)).alarming);
        assert!(!read(&at(2_000, 11), &at(1_000, 11)).alarming);
        assert!(read(&at(0, 1), &at(0, 0)).alarming, "something went and nothing came");
        assert!(!Reading::new(1e9, 0, |_, _| true).alarming);
        assert_eq!(Reading::new(12.345, 50, |value, limit| value < limit).value, 12.3);
    }
}

use engram_memory::{NewMemory, Space};

use super::*;

fn report(space: &Space) -> Report {
    Report {
        name: "user:42".to_owned(),
        stats: space.stats(1_000_000),
        max_memory: 0,
        consolidated: None,
        now: 1_000_000,
        cache: CacheStats::default(),
        latencies: Operation::ALL.map(|operation| (operation.name(), Summary::default())),
        queued: (0, 10_000),
        server_memory: None,
        under_pressure: false,
        given_up: 0,
        alerts: Vec::new(),
    }
}

fn fits(lines: &[String]) {
    for line in lines {
        assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.chars().count());
        assert!(!line.ends_with(' ') && !line.chars().any(char::is_control), "{line:?}");
    }
}

#[test]
fn a_page_has_its_columns_whatever_the_numbers() {
    let mut small = Space::new();
    let stored = small.store(1, NewMemory { content: "Ada keeps hens".to_owned(), ..NewMemory::default() }).unwrap();
    for effect in &stored.effects {
        small.apply(effect).unwrap();
    }
    small.note_recall(true);
    fits(&report(&Space::new()).page());
    fits(&report(&small).page());

    let mut large = report(&small);
    large.name = "a key with a very long name, ".repeat(10);
    large.max_memory = 1 << 40;
    for tier in &mut large.stats.tiers {
        (tier.count, tier.capacity, tier.bytes, tier.pinned) = (9_999_999, 9_999_999, 1 << 50, 9_999_999);
        tier.utilisation = 1.0;
    }
    large.stats.memory = 1 << 60;
    (large.stats.sessions, large.stats.documents, large.stats.awaiting) = (1_000_000, 1_000_000, 1_000_000);
    large.stats.superseded = 123_456_789;
    (large.stats.dim, large.stats.model) = (Some(16_384), Some("m".repeat(200)));
    let c = &mut large.stats.counters;
    (c.hits, c.misses, c.stores, c.duplicates) = (999_999_999, 999_999_999, 999_999_999, 999_999_999);
    large.consolidated = Some(Consolidated {
        at: 1,
        changes: ["promoted", "merged", "evicted", "expired"].map(|kind| (kind, 123_456_789)).into(),
    });
    large.latencies =
        Operation::ALL.map(|o| (o.name(), Summary { count: 999_999_999, p50: 99_999_999, p99: 130_000_000 }));
    large.cache = CacheStats { hits: 1, misses: 1, texts: 10_000_000, bytes: 1 << 40, ..CacheStats::default() };
    large.queued = (1_000_000, 1_000_000);
    large.server_memory = Some(1_234.0);
    (large.under_pressure, large.given_up) = (true, 999_999_999);
    large.alerts = vec![(0, "something that is told at length, ".repeat(5))];
    fits(&large.page());
}

#[test]
fn bars_never_show_something_as_nothing_nor_less_than_all_as_all() {
    let empty = "░".repeat(BAR);
    assert_eq!(bar(0.0), format!("{empty}   0 %"));
    assert_eq!(bar(0.001), format!("▏{}  <1 %", "░".repeat(BAR - 1)));
    assert_eq!(bar(0.5), format!("{}{}  50 %", "█".repeat(BAR / 2), "░".repeat(BAR / 2)));
    assert_eq!(bar(0.9999), format!("{}▉  99 %", "█".repeat(BAR - 1)));
    assert_eq!(bar(1.0), format!("{} 100 %", "█".repeat(BAR)));
    assert_eq!(bar(1.5), format!("{} 150 %", "█".repeat(BAR)));
    for share in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
        assert_eq!(bar(share).chars().count(), BAR + 6);
    }
}

#[test]
fn numbers_read_well() {
    for (n, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
        assert_eq!(thousands(n), text);
    }
    for (n, text) in
        [(0, "0 B"), (1_023, "1023 B"), (1_024, "1.00 KiB"), (1 << 20, "1.00 MiB"), (u64::MAX, "16384 PiB")]
    {
        assert_eq!(bytes(n), text);
    }
    assert_eq!(bytes(1_023_900), "0.98 MiB");
    for (n, text) in [(0, "0 µs"), (999, "999 µs"), (1_234, "1.23 ms"), (99_960, "100 ms"), (12_300_000, "12.3 s")] {
        assert_eq!(duration(n), text);
    }
    assert_eq!(span(200_000, 100_000), "100 s");
    assert_eq!(span(7_200_000, 0), "2 h");
}

//! Tiers: capacities and what gives way, lifetimes, pins, promotion by hand, and the figures of MEM.STATS.

use redis::Value;

use crate::client::{Client, Reply};
use crate::harness::{Server, pause_ms, wait_until};

fn store(client: &mut Client, n: u32, rest: &str) -> String {
    client.ok(&format!("MEM.STORE k text-{n} ID {n}-0 NOEMBED {rest}")).text()
}

fn working(client: &mut Client) -> Vec<String> {
    client.ids("MEM.TIMELINE k - + FILTER '.tier == \"working\"'")
}

#[test]
fn a_full_tier_gives_up_what_is_worth_least_and_never_what_is_stored() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k working.capacity 3");
    store(&mut client, 1, "TIER working IMPORTANCE 0.9");
    store(&mut client, 2, "TIER working IMPORTANCE 0.2");
    store(&mut client, 3, "TIER working IMPORTANCE 0.6");
    store(&mut client, 4, "TIER working IMPORTANCE 0.1");
    assert_eq!(working(&mut client), ["1-0", "3-0", "4-0"], "the least important gives way, not the new one");
    store(&mut client, 5, "TIER working IMPORTANCE 0.5");
    assert_eq!(working(&mut client), ["1-0", "3-0", "5-0"]);
    // Use counts too.
    client.ok("DEL k");
    client.ok("MEM.CONFIG SET k working.capacity 2");
    client.ok("MEM.STORE k used ID 1-0 TIER working VALUES 2 1 0");
    client.ok("MEM.STORE k unused ID 2-0 TIER working VALUES 2 0 1");
    for _ in 0..3 {
        assert_eq!(client.ids("MEM.RECALL k VALUES 2 1 0 K 1"), ["1-0"]);
    }
    client.ok("MEM.STORE k third ID 3-0 TIER working VALUES 2 1 1");
    assert_eq!(working(&mut client), ["1-0", "3-0"], "what was recalled stays");
    let stats = client.ok("MEM.STATS k");
    assert_eq!((stats.field("evictions").int(), stats.field("tiers").field("working").field("count").int()), (1, 2));
}

#[test]
fn fifo_is_an_option() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k working.capacity 2 eviction fifo");
    store(&mut client, 1, "TIER working IMPORTANCE 1");
    pause_ms(3);
    store(&mut client, 2, "TIER working IMPORTANCE 0.1");
    pause_ms(3);
    store(&mut client, 3, "TIER working IMPORTANCE 0.1");
    assert_eq!(working(&mut client), ["2-0", "3-0"]);
}

#[test]
fn pins_are_never_evicted_and_a_tier_full_of_them_is_an_error() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k working.capacity 2");
    store(&mut client, 1, "TIER working IMPORTANCE 0 PIN");
    store(&mut client, 2, "TIER working IMPORTANCE 0.9");
    store(&mut client, 3, "TIER working IMPORTANCE 0.8");
    assert_eq!(working(&mut client), ["1-0", "3-0"]);
    client.ok("MEM.UPDATE k 3-0 PIN");
    let digest = client.digest("k");
    let error = client.err("MEM.STORE k more TIER working NOEMBED");
    assert!(error.contains("tier working is full") && error.contains("working.capacity"), "{error}");
    assert!(client.err("MEM.PROMOTE k 9-9 working").contains("no such memory"));
    assert!(client.err("MEM.CONFIG SET k working.capacity 1").contains("2 pinned"));
    assert_eq!(client.digest("k"), digest, "none of it has changed anything");
    // A pin can be taken off again.
    client.ok("MEM.UPDATE k 1-0 UNPIN");
    assert!(client.err("MEM.UPDATE k 1-0 PIN UNPIN").contains("exclude each other"));
    store(&mut client, 5, "TIER working IMPORTANCE 0.3");
    assert_eq!(working(&mut client), ["3-0", "5-0"]);
}

#[test]
fn a_lower_capacity_evicts_at_once() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    for n in 1..=6 {
        store(&mut client, n, &format!("IMPORTANCE 0.{n}"));
    }
    client.ok("MEM.CONFIG SET k short_term.capacity 2");
    assert_eq!(client.ids("MEM.TIMELINE k - +"), ["5-0", "6-0"]);
    assert_eq!(client.ok("MEM.STATS k").field("evictions").int(), 4);
}

#[test]
fn a_memory_whose_time_is_over_is_nowhere() {
    let server = Server::plain(&["notify-keyspace-events KEA"]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k working.ttl 1 working.capacity 2");
    client.ok("MEM.STORE k short ID 1-0 TIER working VALUES 2 1 0");
    client.ok("MEM.STORE k own ID 2-0 TTL 1 VALUES 2 1 0");
    client.ok("MEM.STORE k kept ID 3-0 TIER working PERSIST VALUES 2 1 0");
    assert_eq!(client.count("k"), 3);
    pause_ms(1_010);
    assert_eq!(client.ids("MEM.RECALL k VALUES 2 1 0"), ["3-0"]);
    assert_eq!(client.ids("MEM.TIMELINE k - +"), ["3-0"]);
    assert_eq!(client.count("k"), 1);
    assert_eq!(client.ok("MEM.GET k 1-0 2-0").items(), [Value::Nil, Value::Nil]);
    assert_eq!(client.err("MEM.UPDATE k 1-0 IMPORTANCE 1"), "ERR no such memory: 1-0");
    let stats = client.ok("MEM.STATS k");
    assert_eq!(
        (stats.field("memories").int(), stats.field("tiers").field("working").field("count").int()),
        (1, 1),
        "not held against the capacity"
    );
    wait_until("the timer takes them away", || client.ok("MEM.STATS k").field("expirations").int() == 2);
    client.ok("MEM.STORE k again ID 1-0 NOEMBED");
    assert_eq!(client.count("k"), 2);
}

#[test]
fn a_replica_hides_what_has_expired_and_leaves_the_taking_to_its_primary() {
    let primary = Server::plain(&[]);
    let replica = primary.replica(&[]);
    let mut client = primary.client();
    client.ok("MEM.STORE k short TTL 1 NOEMBED");
    client.ok("MEM.STORE k long NOEMBED");
    replica.wait_for_offset(&primary);
    let mut reader = replica.client();
    assert_eq!(reader.count("k"), 2);
    wait_until("the primary has taken it away", || client.ok("MEM.STATS k").field("expirations").int() == 1);
    assert_eq!(reader.count("k"), 1);
    replica.wait_for_offset(&primary);
    assert_eq!(reader.ok("MEM.STATS k").field("expirations").int(), 1);
    assert_eq!(reader.digest("k"), client.digest("k"));
}

#[test]
fn promotion_moves_to_any_tier_with_its_lifetime_and_makes_room_there() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k semantic.capacity 1");
    store(&mut client, 1, "TIER semantic IMPORTANCE 0.1");
    store(&mut client, 2, "TIER working");
    store(&mut client, 3, "TTL 500");
    assert_eq!(client.ok("MEM.PROMOTE k 2-0 SEMANTIC"), Value::Okay);
    let memory = &client.ok("MEM.GET k 2-0").items()[0];
    assert_eq!(memory.field("tier").text(), "semantic");
    assert!(memory.maybe("expires").is_none(), "the new tier has no lifetime");
    assert_eq!(client.ids("MEM.TIMELINE k - +").len(), 2, "1-0 made room");
    let digest = client.digest("k");
    client.ok("MEM.PROMOTE k 2-0 semantic");
    assert_eq!(client.digest("k"), digest, "there already");
    let before = client.ok("MEM.GET k 3-0").items()[0].field("expires");
    client.ok("MEM.PROMOTE k 3-0 long_term");
    assert_eq!(client.ok("MEM.GET k 3-0").items()[0].field("expires"), before, "a lifetime of its own goes with it");
    assert_eq!(client.err("MEM.PROMOTE k 9-9 semantic"), "ERR no such memory: 9-9");
    assert!(client.err("MEM.PROMOTE k 3-0 short").contains("short_term"));
}

#[test]
fn stats_count_what_happened() {
    let server = Server::plain(&[]);
    for mut client in [server.client(), server.client3()] {
        client.ok("FLUSHALL");
        client.ok("MEM.CONFIG SET k working.capacity 4 short_term.capacity 0");
        client.ok("MEM.STORE k a TIER working PIN VALUES 2 1 0");
        client.ok("MEM.STORE k b TIER working NOEMBED");
        client.ok("MEM.STORE k b TIER working NOEMBED");
        client.ok("MEM.STORE k c NOEMBED");
        client.ok("MEM.RECALL k VALUES 2 1 0");
        client.ok("MEM.RECALL k VALUES 2 1 0 MINSCORE 0.5 TIERS 1 semantic");
        let stats = client.ok("MEM.STATS k");
        assert_eq!(
            stats.names().join(" "),
            "memories superseded sessions documents links awaiting vectors bytes bytes_by_part heat model model_here dimensions precision tiers hits misses hit_rate stores duplicates evictions promotions expirations merges consolidated"
        );
        for (name, value) in [
            ("memories", 3),
            ("vectors", 1),
            ("dimensions", 2),
            ("hits", 1),
            ("misses", 1),
            ("stores", 3),
            ("duplicates", 1),
        ] {
            assert_eq!(stats.field(name).int(), value, "{name}");
        }
        assert!(stats.field("model").is_nil());
        let tiers = stats.field("tiers");
        assert_eq!(tiers.names(), ["working", "short_term", "long_term", "episodic", "semantic"]);
        let tier = tiers.field("working");
        assert_eq!(tier.names().join(" "), "count capacity utilisation bytes pinned");
        assert_eq!(
            (tier.field("count").int(), tier.field("capacity").int(), tier.field("utilisation").float()),
            (2, 4, 0.5)
        );
        assert_eq!(tier.field("pinned").int(), 1);
        assert!(tier.field("bytes").int() > 0);
        assert!(
            tiers.field("short_term").field("utilisation").is_nil(),
            "without a capacity there is nothing to be full of"
        );
    }
}

#[test]
fn a_recall_counts_as_use_unless_told_not_to_and_never_changes_the_digest() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let id = client.ok("MEM.STORE k a VALUES 2 1 0").text();
    let digest = client.digest("k");
    let uses = |client: &mut Client| client.ok(&format!("MEM.GET k {id}")).items()[0].field("uses").int();
    client.ok("MEM.RECALL k VALUES 2 1 0 NOTOUCH");
    assert_eq!(uses(&mut client), 0);
    client.ok("MEM.RECALL k VALUES 2 1 0");
    client.ok("MEM.RECALL k VALUES 2 1 0");
    assert_eq!(uses(&mut client), 2);
    assert_eq!(client.digest("k"), digest);
    client.ok("DEBUG RELOAD");
    assert_eq!(uses(&mut client), 2, "use is saved");
}

#[test]
fn max_memory_of_a_space_drops_the_least_from_working_upward() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k working.capacity 0 semantic.capacity 0");
    for n in 0..50 {
        client.ok(&format!("MEM.STORE k w{n} TIER working NOEMBED IMPORTANCE 0.5"));
        client.ok(&format!("MEM.STORE k s{n} TIER semantic NOEMBED IMPORTANCE 0"));
    }
    client.ok("MEM.STORE k pinned TIER working PIN IMPORTANCE 0 NOEMBED");
    client.ok("MEM.CONFIG SET k max-memory 1");
    wait_until("the timer has shrunk it", || client.ok("MEM.COUNT k FILTER '.tier == \"working\"'").int() == 1);
    pause_ms(300);
    assert_eq!(client.count("k"), 51, "semantic and pinned memories stay");
    let error = client.err("MEM.STORE k more NOEMBED");
    assert!(error.starts_with("OOM") && error.contains("max-memory"), "{error}");
}

//! Heat: what is neither young nor used cools by the timer, stays found and readable, and warms up when it is used.

use redis::Value;

use crate::client::{Client, Reply};
use crate::digest::Pair;
use crate::harness::{Server, wait_until};

/// Nothing is young, one use keeps a memory warm, two keep it hot, and the timer looks every second.
const AT_ONCE: &str = "MEM.CONFIG SET k hot-age 0 warm-age 0 hot-uses 2 warm-uses 1 heat-interval 1";

fn text(n: usize) -> String {
    let what = ["the garden by the lake", "a trip to the mountains", "her sister in Lisbon", "the old piano"][n % 4];
    format!("Number {n}: Melanie and Caroline talked about {what} for a long while, and then about the weather")
}

/// Stores texts in tiers and sessions that nothing else changes.
fn fill(client: &mut Client, count: usize, rest: &str) {
    client.ok("MEM.CONFIG SET k long_term.capacity 0 long_term.ttl 0 consolidate-interval 0 heat-interval 0");
    for n in 1..=count {
        client.ok(&format!("MEM.STORE k '{}' ID {n}-1 TIER long_term {rest}", text(n)));
    }
}

fn of_heat(client: &mut Client, heat: &str) -> i64 {
    client.ok(&format!("MEM.COUNT k FILTER '.heat == \"{heat}\"'")).int()
}

fn get(client: &mut Client, id: &str) -> Value {
    client.ok(&format!("MEM.GET k {id}")).items()[0].clone()
}

#[test]
fn what_is_not_used_cools_and_stays_what_it_is() {
    let pair = Pair::start(&["engram.embedder all-MiniLM-L6-v2"]);
    pair.primary.wait_for_encoder();
    let mut client = pair.primary.client();
    const COUNT: usize = 240;
    fill(&mut client, COUNT, "");
    let hot = client.ok("MEM.STATS k").field("heat").field("hot").field("bytes").int();
    assert_eq!((of_heat(&mut client, "hot"), get(&mut client, "5-1").field("precision").text()), (240, "i8".into()));
    let asked = "MEM.RECALL k TEXT 'who plays the piano' K 10 NOTOUCH";
    let about = |client: &mut Client| -> Vec<bool> {
        client.ok(asked).items().iter().map(|hit| hit.field("content").text().contains("piano")).collect()
    };
    assert_eq!(about(&mut client), [true; 10]);
    client.ok(AT_ONCE);
    wait_until("all are cold", || of_heat(&mut client, "cold") == COUNT as i64);
    client.ok("MEM.CONFIG SET k heat-interval 0");
    let memory = get(&mut client, "5-1");
    assert_eq!((memory.field("heat").text(), memory.field("precision").text()), ("cold".into(), "i4".into()));
    for n in [1, 7, COUNT] {
        assert_eq!(get(&mut client, &format!("{n}-1")).field("content").text(), text(n));
    }
    let heat = client.ok("MEM.STATS k").field("heat").clone();
    assert_eq!(heat.names(), ["hot", "warm", "cold"]);
    let cold = heat.field("cold").field("bytes").int();
    assert_eq!((heat.field("hot").field("bytes").int(), heat.field("cold").field("count").int()), (0, COUNT as i64));
    assert!(cold * 2 < hot, "{cold} bytes cold, {hot} hot");
    assert!(client.ok("MEM.REPORT k").texts().iter().any(|line| line.contains("cold")));
    wait_until("INFO tells", || client.info("engram_cold_memories") == COUNT.to_string());
    assert_eq!(client.info("engram_became_cold"), COUNT.to_string());
    // Which of them come first is a matter of the number in them.
    assert_eq!(about(&mut client), [true; 10]);
    assert_eq!(client.ok("MEM.COUNT k FILTER '\"Number 17:\" in .content'").int(), 1, "packed texts are looked into");
    assert!(client.ok(&format!("MEM.STORE k '{}' ID 9999-1", text(9))).text() == "9-1", "a duplicate is known");
    pair.check_persistent(&["k"]);
    assert_eq!(get(&mut client, "7-1").field("content").text(), text(7));
    let mut replica = pair.replica.client();
    assert_eq!(of_heat(&mut replica, "cold"), COUNT as i64);
    assert_eq!(get(&mut replica, "8-1").field("content").text(), text(8));
}

#[test]
fn use_keeps_memories_warm_and_warms_cold_ones_up() {
    let pair = Pair::start(&["engram.embedder all-MiniLM-L6-v2"]);
    pair.primary.wait_for_encoder();
    let mut client = pair.primary.client();
    fill(&mut client, 20, "");
    let fine = client.digest("k");
    client.ok(AT_ONCE);
    wait_until("all are cold", || of_heat(&mut client, "cold") == 20);
    // One use, and more than one before the next look: the timer may come in between.
    client.ok("MEM.CONFIG SET k heat-interval 0");
    client.ok("MEM.RECALL k TEXT 'number 3' K 1 FILTER '.id == \"3-1\"'");
    for _ in 0..3 {
        client.ok("MEM.RECALL k TEXT 'number 4' K 1 FILTER '.id == \"4-1\"'");
    }
    client.ok("MEM.CONFIG SET k heat-interval 1");
    wait_until("the used ones are warmer, and their vectors made anew", || {
        let heats = ["3-1", "4-1", "5-1"].map(|id| get(&mut client, id).field("heat").text());
        client.ok("MEM.CONFIG SET k heat-interval 1");
        heats == ["warm", "hot", "cold"]
            && ["3-1", "4-1"].iter().all(|id| get(&mut client, id).field("precision").text() == "i8")
    });
    client.ok("MEM.CONFIG SET k heat-interval 0");
    assert_eq!(client.info("engram_revived"), "2");
    pair.check_persistent(&["k"]);
    // All warm again are what they were, but for the settings.
    client.ok("MEM.CONFIG SET k hot-age 7d warm-age 30d hot-uses 5 warm-uses 2 heat-interval 1");
    wait_until("what is young is hot", || of_heat(&mut client, "hot") == 20 && client.info("engram_revived") == "20");
    client.ok("MEM.CONFIG SET k heat-interval 0");
    assert_eq!(client.digest("k"), fine, "the model gave the same vectors again");
    client.ok("MEM.UPDATE k 5-1 CONTENT 'something else altogether'");
    assert_eq!(get(&mut client, "5-1").field("heat").text(), "hot");
}

#[test]
fn vectors_of_the_caller_stay_to_the_last_bit() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k precision f32");
    fill(&mut client, 10, "VALUES 3 0.1 0.22 0.333");
    let before = client.ok("MEM.RECALL k VALUES 3 1 0 0 K 10 NOTOUCH");
    client.ok(AT_ONCE);
    wait_until("all are cold", || of_heat(&mut client, "cold") == 10);
    assert_eq!(get(&mut client, "3-1").field("precision").text(), "f32");
    assert_eq!(client.ok("MEM.RECALL k VALUES 3 1 0 0 K 10 NOTOUCH"), before);
}

#[test]
fn an_export_carries_heat_and_coarse_vectors() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    fill(&mut client, 12, "");
    client.ok(AT_ONCE);
    wait_until("all are cold", || of_heat(&mut client, "cold") == 12);
    client.ok("MEM.CONFIG SET k heat-interval 0");
    let page = client.ok("MEM.EXPORT k 0 COUNT 100").items()[1].texts();
    assert!(page.iter().any(|line| line.contains("\"heat\":\"cold\"") && line.contains("\"precision\":\"i4\"")));
    let mut words: Vec<Vec<u8>> = vec![b"MEM.IMPORT".to_vec(), b"other".to_vec()];
    words.extend(page.into_iter().map(String::into_bytes));
    client.ok_words(&words);
    assert_eq!(client.digest("other"), client.digest("k"));
    assert_eq!(client.ok("MEM.GET other 3-1").items()[0].field("precision").text(), "i4");
}

#[test]
fn under_pressure_memories_cool_before_any_goes() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    fill(&mut client, 60, "");
    let hot = client.ok("MEM.STATS k").field("heat").field("hot").field("bytes").int();
    client.ok(&format!("MEM.CONFIG SET k max-memory {}", hot * 3 / 4));
    wait_until("some are cold", || of_heat(&mut client, "cold") > 0);
    wait_until("the space is within its limit", || {
        let heat = client.ok("MEM.STATS k").field("heat").clone();
        heat.pairs().iter().map(|(_, of)| of.field("bytes").int()).sum::<i64>() <= hot * 3 / 4
    });
    assert_eq!(client.count("k"), 60, "nothing had to go");
    assert!(of_heat(&mut client, "hot") > 0, "no more than needed cooled");
    assert_eq!(get(&mut client, "1-1").field("heat").text(), "cold", "the oldest first");
    client.ok(&format!("MEM.CONFIG SET k max-memory {}", hot / 5));
    wait_until("the least valuable go when all are cold", || client.count("k") < 60);
    assert_eq!(of_heat(&mut client, "hot"), 0);
    assert!(client.info("engram_cooled_memories").parse::<i64>().unwrap() >= 60);
}

#[test]
fn without_an_interval_nothing_cools() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    fill(&mut client, 3, "NOEMBED");
    client.ok("MEM.CONFIG SET k hot-age 0 warm-age 0");
    crate::harness::pause_ms(1500);
    assert_eq!(of_heat(&mut client, "hot"), 3);
    for (line, part) in [
        ("MEM.CONFIG SET k hot-uses 0", "a number from 1 to 255"),
        ("MEM.CONFIG SET k warm-age soon", "seconds"),
        ("MEM.CONFIG SET k compress maybe", "on, off"),
        ("MEM.STORE k x NOEMBED META '{\"heat\":\"cold\"}'", "is a built-in name"),
    ] {
        assert!(client.err(line).contains(part), "{line}");
    }
}

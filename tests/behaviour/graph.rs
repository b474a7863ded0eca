//! Links: MEM.LINK, UNLINK and RELATED, and RECALL with EXPAND.

use redis::Value;

use crate::client::{Client, Reply, words};
use crate::digest::Pair;
use crate::harness::{Server, wait_until};

/// Five memories with vectors: 1-0 and 2-0 are near (1, 0), the others are not.
fn filled(client: &mut Client, key: &str) {
    for (n, vector) in ["1 0", "0.9 0.1", "0 1", "-1 0.1", "-0.9 0.3"].iter().enumerate() {
        let n = n + 1;
        client.ok(&format!("MEM.STORE {key} 'memory {n}' ID {n}-0 TIER semantic VALUES 2 {vector}"));
    }
}

#[test]
fn memories_are_linked_and_found_by_their_links() {
    let server = Server::plain(&[]);
    for mut client in [server.client(), server.client3()] {
        client.ok("FLUSHALL");
        filled(&mut client, "k");
        assert!(matches!(client.ok("MEM.LINK k 1-0 3-0 REL mentions"), Value::Okay));
        client.ok("MEM.LINK k 4-0 1-0 REL 'caused by' WEIGHT 0.5");
        client.ok("MEM.LINK k 3-0 5-0 REL mentions WEIGHT 0.25");
        let related = client.ok("MEM.RELATED k 1-0").items();
        assert_eq!(related.iter().map(|memory| memory.field("id").text()).collect::<Vec<_>>(), ["3-0", "4-0"]);
        assert_eq!(
            related[0].names().join(" "),
            "id score rel direction weight depth via linked tier type content importance confidence at"
        );
        let link = |memory: &Value| {
            (memory.field("rel").text(), memory.field("direction").text(), memory.field("weight").float())
        };
        assert_eq!(link(&related[0]), ("mentions".into(), "out".into(), 1.0));
        assert_eq!(link(&related[1]), ("caused by".into(), "in".into(), 0.5));
        assert_eq!(related[0].field("score").float(), 0.353_553, "1 x 0.5 / the root of two links");
        let far = client.ok("MEM.RELATED k 1-0 REL mentions DEPTH 3").items();
        assert_eq!(far.len(), 2);
        assert_eq!(
            (far[1].field("id").text(), far[1].field("via").text(), far[1].field("depth").int()),
            ("5-0".into(), "3-0".into(), 2)
        );
        assert_eq!(client.ids("MEM.RELATED k 1-0 DEPTH 3 K 1"), ["3-0"]);
        assert!(client.ok("MEM.RELATED k 1-0 REL other").items().is_empty());
        assert!(client.ok("MEM.RELATED none 1-0").items().is_empty());
        // Set again, it is another; the same again changes nothing.
        client.ok("MEM.LINK k 1-0 3-0 REL mentions WEIGHT 0.25");
        let digest = client.digest("k");
        client.ok("MEM.LINK k 1-0 3-0 REL mentions WEIGHT 0.25");
        assert_eq!((client.digest("k"), client.ids("MEM.RELATED k 1-0")), (digest, vec!["4-0".into(), "3-0".into()]));
        assert_eq!(client.ok("MEM.STATS k").field("links").int(), 3);
        client.ok("MEM.LINK k 1-0 3-0 REL precedes");
        assert_eq!(client.ok("MEM.UNLINK k 3-0 1-0").int(), 0, "a link has a direction");
        assert_eq!(client.ok("MEM.UNLINK k 1-0 3-0 REL precedes").int(), 1);
        client.ok("MEM.LINK k 1-0 3-0 REL precedes");
        assert_eq!((client.ok("MEM.UNLINK k 1-0 3-0").int(), client.ok("MEM.UNLINK none 1-0 3-0").int()), (2, 0));
        client.ok("MEM.FORGET k 4-0");
        assert!(client.ok("MEM.RELATED k 1-0").items().is_empty(), "forgetting takes the links along");
        assert_eq!(client.ok("MEM.STATS k").field("links").int(), 1);
    }
}

#[test]
fn a_recall_follows_links() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    filled(&mut client, "k");
    let recall = "MEM.RECALL k VALUES 2 1 0 MINSCORE 0.5";
    assert_eq!(client.ids(&format!("{recall} EXPAND 2")), ["1-0", "2-0"]);
    client.ok("MEM.LINK k 2-0 4-0 REL causes");
    client.ok("MEM.LINK k 5-0 4-0 REL causes WEIGHT 0.5");
    assert_eq!(client.ids(recall), ["1-0", "2-0"]);
    assert_eq!(client.ids(&format!("{recall} EXPAND 1")), ["1-0", "2-0", "4-0"]);
    assert_eq!(client.ids(&format!("{recall} EXPAND 2")), ["1-0", "2-0", "4-0", "5-0"]);
    assert_eq!(client.ids(&format!("{recall} EXPAND 3 K 3")), ["1-0", "2-0", "4-0"]);
    let without = format!("{recall} EXPAND 3 FILTER '.id != \"4-0\"'");
    assert_eq!(client.ids(&without), ["1-0", "2-0"], "nor does it go through what does not pass");
    let found = client.ok(&format!("{recall} EXPAND 1 EXPLAIN NOTOUCH")).items();
    assert!(found[0].field("explain").maybe("link").is_none() && found[0].field("score").float() == 1.0);
    let explain = found[2].field("explain");
    let link = explain.field("link");
    assert_eq!(link.names().join(" "), "activation rel direction weight depth via linked");
    assert_eq!((link.field("via").text(), link.field("direction").text()), ("2-0".into(), "out".into()));
    assert_eq!(link.field("activation").float(), found[2].field("score").float());
    assert_eq!(explain.field("parts").names(), ["links"]);
    client.ok("MULTI");
    client.ok(&format!("{recall} EXPAND 2"));
    client.ok("MEM.RELATED k 4-0 DEPTH 3");
    let replies = client.ok("EXEC").items();
    assert_eq!((replies[0].items().len(), replies[1].items().len()), (4, 2));
    client.ok("MEM.STORE k 'newer' ID 9-0 NOEMBED SUPERSEDES 4-0");
    assert_eq!(client.ids(&format!("{recall} EXPAND 3")), ["1-0", "2-0"], "what is superseded is not reached");
    assert!(client.ok("MEM.RELATED k 2-0 DEPTH 3").items().is_empty());
}

#[test]
fn long_walks_run_on_the_pool() {
    let server = Server::plain(&["engram.threads 2"]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k semantic.capacity 0");
    let memory = |n: usize| {
        format!("{{\"content\":\"memory {n}\",\"id\":\"{n}-0\",\"tier\":\"semantic\",\"vector\":[1,{n}]}}").into_bytes()
    };
    let mut command = words!["MEM.MSTORE", "k"];
    command.extend((1..=2_000).map(memory));
    client.ok_words(&command);
    for n in 1..2_000 {
        client.ok(&format!("MEM.LINK k {n}-0 {}-0 REL next", n + 1));
    }
    assert_eq!(client.ids("MEM.RELATED k 5-0 DEPTH 2 K 3"), ["4-0", "6-0", "3-0"]);
    let before: u64 = client.info("engram_recalls_on_the_pool").parse().unwrap();
    assert_eq!(client.ok("MEM.RECALL k VALUES 2 1 0 K 1000 EXPAND 3").items().len(), 1_000);
    let after: u64 = client.info("engram_recalls_on_the_pool").parse().unwrap();
    assert!(after > before, "it would have taken the main thread too long");
}

#[test]
fn links_are_what_they_are_everywhere() {
    let pair = Pair::start(&["engram.embedder \"\""]);
    let mut client = pair.primary.client();
    filled(&mut client, "k");
    filled(&mut client, "merged");
    for line in [
        "MEM.LINK k 1-0 2-0 REL a WEIGHT 0.1",
        "MEM.LINK k 2-0 1-0 REL a",
        "MEM.LINK k 1-0 2-0 REL a WEIGHT 0.7",
        "MEM.LINK k 3-0 2-0 REL b",
        "MEM.LINK k 3-0 4-0 REL b",
        "MEM.LINK k 3-0 4-0 REL c",
        "MEM.UNLINK k 3-0 4-0 REL b",
        "MEM.LINK k 5-0 4-0 REL b",
        "MEM.FORGET k 5-0",
        "MEM.STORE merged 'memory 1' ID 7-0 TIER semantic VALUES 2 1 0 NODEDUP",
        "MEM.LINK merged 7-0 3-0 REL a",
        "MEM.LINK merged 4-0 7-0 REL b WEIGHT 0.2",
        "MEM.LINK merged 7-0 1-0 REL same",
        "MEM.CONSOLIDATE merged",
    ] {
        client.ok(line);
    }
    assert_eq!(client.ok("MEM.STATS k").field("links").int(), 4);
    assert_eq!(client.ids("MEM.RELATED merged 1-0"), ["3-0", "4-0"], "a merge moves them");
    // A replica reads them, and takes none.
    pair.replica.wait_for_offset(&pair.primary);
    let mut replica = pair.replica.client();
    assert_eq!(replica.ok("MEM.RELATED k 1-0 DEPTH 3"), client.ok("MEM.RELATED k 1-0 DEPTH 3"));
    assert!(replica.err("MEM.LINK k 1-0 2-0 REL x").starts_with("READONLY"));
    assert!(replica.err("MEM.UNLINK k 1-0 2-0").starts_with("READONLY"));
    pair.check_persistent(&["k", "merged"]);
    assert_eq!(client.ids("MEM.RELATED k 2-0").len(), 2);
    // As lines, too.
    let lines = client.ok("MEM.EXPORT k 0 COUNT 1000").items()[1].texts();
    assert_eq!(lines.iter().filter(|line| line.starts_with("{\"link\"")).count(), 4);
    let mut import = words!["MEM.IMPORT", "imported"];
    import.extend(lines.iter().map(|line| line.clone().into_bytes()));
    client.ok_words(&import);
    assert_eq!(client.digest("imported"), client.digest("k"));
}

#[test]
fn expiry_takes_links_along() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    filled(&mut client, "k");
    client.ok("MEM.STORE k passing ID 8-0 NOEMBED TTL 2");
    client.ok("MEM.LINK k 1-0 8-0 REL mentions");
    client.ok("MEM.LINK k 8-0 2-0 REL mentions");
    assert_eq!(client.ids("MEM.RELATED k 1-0 DEPTH 2"), ["8-0", "2-0"]);
    wait_until("it is gone, and its links", || client.ok("MEM.STATS k").field("links").int() == 0);
    assert!(client.ok("MEM.RELATED k 1-0 DEPTH 2").items().is_empty());
}

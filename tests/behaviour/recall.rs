//! Recall by vector: exact against a plain cosine computed here, complete under filters, and every option.

use redis::Value;

use crate::client::{Client, Reply, blob, words};
use crate::harness::Server;

const DIMENSIONS: usize = 24;
const MEMORIES: usize = 2_000;

/// A small generator, so that the vectors are the same in every run (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// From -1 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn vector(&mut self) -> Vec<f32> {
        (0..DIMENSIONS).map(|_| self.unit()).collect()
    }
}

/// What the test knows about a memory.
struct Known {
    id: String,
    vector: Vec<f32>,
    importance: f64,
    tier: &'static str,
    session: Option<String>,
    at: u64,
    meta: u64,
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn filled(client: &mut Client, random: &mut Random) -> Vec<Known> {
    client.ok("MEM.CONFIG SET k working.capacity 0 short_term.capacity 0 long_term.capacity 0 episodic.capacity 0 semantic.capacity 0 precision f32");
    let mut known = Vec::new();
    for n in 0..MEMORIES {
        let memory = Known {
            id: format!("{}-0", n + 1),
            vector: random.vector(),
            importance: (random.next() % 100) as f64 / 100.0,
            tier: ["working", "short_term", "long_term", "episodic", "semantic"][(random.next() % 5) as usize],
            session: random.next().is_multiple_of(3).then(|| format!("s{}", random.next() % 4)),
            at: 1_000_000 + random.next() % 1_000_000,
            meta: random.next() % 50,
        };
        let mut command = words![
            "MEM.STORE",
            "k",
            format!("memory {n}"),
            "ID",
            memory.id,
            "VECTOR",
            blob(&memory.vector),
            "IMPORTANCE",
            memory.importance,
            "TIER",
            memory.tier,
            "AT",
            memory.at,
            "META",
            format!("{{\"n\":{}}}", memory.meta),
        ];
        if let Some(session) = &memory.session {
            command.extend(words!["SESSION", session]);
        }
        client.ok_words(&command);
        known.push(memory);
    }
    known
}

#[test]
fn it_is_exact_and_complete_under_every_filter() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let mut random = Random(7);
    let known = filled(&mut client, &mut random);
    // Some leave again, so that there are gaps.
    let mut known: Vec<Known> = known;
    for n in (0..MEMORIES).rev().filter(|n| n % 17 == 3) {
        client.ok(&format!("MEM.FORGET k {}", known.remove(n).id));
    }
    type Case = (&'static str, fn(&Known) -> bool, usize);
    let cases: [Case; 10] = [
        ("", |_| true, 10),
        ("K 1", |_| true, 1),
        ("K 100", |_| true, 100),
        ("FILTER '.importance >= 0.9'", |m| m.importance >= 0.9, 10),
        ("FILTER '.n == 7' K 30", |m| m.meta == 7, 30),
        (
            "FILTER '.n in [1, 2] and .tier == \"semantic\"' K 50",
            |m| (m.meta == 1 || m.meta == 2) && m.tier == "semantic",
            50,
        ),
        ("TIERS 2 working EPISODIC K 20", |m| m.tier == "working" || m.tier == "episodic", 20),
        ("SESSION s2 K 15", |m| m.session.as_deref() == Some("s2"), 15),
        ("SINCE 1500000 UNTIL 1600000 K 25", |m| (1_500_000..=1_600_000).contains(&m.at), 25),
        (
            "SINCE 1200000 SESSION s1 TIERS 1 long_term FILTER 'not (.importance < 0.5)'",
            |m| m.at >= 1_200_000 && m.session.as_deref() == Some("s1") && m.tier == "long_term" && m.importance >= 0.5,
            10,
        ),
    ];
    for round in 0..3 {
        let query = random.vector();
        for (options, matches, k) in &cases {
            let mut expected: Vec<(f64, &Known)> =
                known.iter().filter(|m| matches(m)).map(|m| (cosine(&query, &m.vector), m)).collect();
            expected.sort_by(|a, b| b.0.total_cmp(&a.0));
            expected.truncate(*k);
            let mut command = words!["MEM.RECALL", "k", "VECTOR", blob(&query), "EXACT"];
            command.extend(crate::client::split(options));
            let found = client.ok_words(&command).items();
            assert_eq!(found.len(), expected.len(), "round {round}, {options}: K results if K match");
            for (place, (memory, (cosine, known))) in found.iter().zip(&expected).enumerate() {
                let similarity = memory.field("similarity").float();
                assert!(
                    (similarity - cosine).abs() < 1e-5,
                    "round {round}, {options}, place {place}: {similarity} is not {cosine}"
                );
                assert_eq!(memory.field("score").float(), similarity);
                let tied = place > 0 && (expected[place - 1].0 - cosine).abs() < 1e-6
                    || expected.get(place + 1).is_some_and(|e| (e.0 - cosine).abs() < 1e-6);
                assert!(tied || memory.field("id").text() == known.id, "round {round}, {options}, place {place}");
            }
        }
        // MINSCORE cuts at the cosine.
        let mut all: Vec<f64> = known.iter().map(|m| cosine(&query, &m.vector)).collect();
        all.sort_by(|a, b| b.total_cmp(a));
        let least = (all[4] + all[5]) / 2.0;
        let found = client
            .ok_words(&words!["MEM.RECALL", "k", "VECTOR", blob(&query), "EXACT", "MINSCORE", least, "K", 100])
            .items();
        assert_eq!(found.len(), 5);
    }
}

#[test]
fn the_fields_are_in_order_and_vectors_on_request_in_both_protocols() {
    let server = Server::plain(&[]);
    server.client().ok("MEM.CONFIG SET k precision f32");
    server.client().ok(
        "MEM.STORE k hello ID 1-0 VALUES 2 3 4 SESSION s SPEAKER Ada SOURCE book OUTCOME done TAGS 1 a META '{\"b\":1}' AT 5",
    );
    for mut client in [server.client(), server.client3()] {
        let found = &client.ok("MEM.RECALL k VALUES 2 3 4").items()[0];
        assert_eq!(
            found.names().join(" "),
            "id score similarity tier type content importance confidence at session speaker source outcome tags meta"
        );
        assert!((found.field("score").float() - 1.0).abs() < 1e-6);
        let found = &client.ok("MEM.RECALL k values 2 3 4 withvectors notouch k 1").items()[0];
        assert_eq!(found.names().last().unwrap(), "vector");
        let vector = found.field("vector").raw();
        assert_eq!(vector, blob(&[0.6, 0.8]), "the direction, as MEM.STORE would take it back");
    }
    let Value::Map(fields) = &server.client3().ok("MEM.RECALL k VALUES 2 3 4").items()[0] else { panic!("not a map") };
    assert!(matches!(fields[1].1, Value::Double(_)));
}

#[test]
fn equal_scores_are_ordered_by_id() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    for id in ["5-0", "3-1", "4-0", "3-0"] {
        client.ok(&format!("MEM.STORE k text-{id} ID {id} VALUES 2 1 0"));
    }
    assert_eq!(client.ids("MEM.RECALL k VALUES 2 1 0"), ["3-0", "3-1", "4-0", "5-0"]);
    assert_eq!(client.ids("MEM.RECALL k VALUES 2 1 0 K 2"), ["3-0", "3-1"]);
}

#[test]
fn the_first_vector_fixes_the_dimension_until_the_key_is_gone() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.STORE k text NOEMBED");
    assert!(client.ok("MEM.RECALL k VALUES 5 1 2 3 4 5").items().is_empty(), "no vector stands yet");
    client.ok("MEM.STORE k two VALUES 2 1 0");
    let digest = client.digest("k");
    for line in ["MEM.STORE k three VALUES 3 1 0 0", "MEM.RECALL k VALUES 3 1 0 0", "MEM.UPDATE k 1-1 VALUES 1 1"] {
        let error = client.err(line);
        assert!(
            error.contains('2') && error.contains("dimension") || error.contains("no such memory"),
            "{line}: {error}"
        );
    }
    assert_eq!(client.digest("k"), digest);
    for zero in ["MEM.STORE k zero VALUES 2 0 0", "MEM.RECALL k VALUES 2 0 0"] {
        assert!(client.err(zero).contains("direction"), "{zero}");
    }
    client.ok("DEL k");
    client.ok("MEM.STORE k three VALUES 3 1 0 0");
}

#[test]
fn it_works_on_a_replica_and_by_a_reader_in_a_transaction() {
    let primary = Server::plain(&[]);
    let mut client = primary.client();
    client.ok("MEM.STORE k a ID 1-0 VALUES 2 1 0");
    let replica = primary.replica(&[]);
    let mut reader = replica.client();
    assert_eq!(reader.ids("MEM.RECALL k VALUES 2 1 0"), ["1-0"]);
    assert!(reader.err("MEM.STORE k b NOEMBED").starts_with("READONLY"));
    reader.ok("MULTI");
    reader.ok("MEM.RECALL k VALUES 2 1 0");
    assert_eq!(reader.ok("EXEC").items()[0].items().len(), 1);
    // Its uses are its own: they neither differ in the digest nor stop replication.
    client.ok("MEM.STORE k b ID 2-0 VALUES 2 0 1");
    replica.wait_for_offset(&primary);
    assert_eq!(reader.digest("k"), client.digest("k"));
}

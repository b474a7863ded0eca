//! Bytes from files and from RESTORE that nobody wrote: the server refuses them or loads something whole, and never dies of them.

use std::fs;

use redis::Value;

use crate::client::{Client, Reply, words};
use crate::harness::{Server, wait_until};

/// The checksum at the end of a DUMP payload: CRC-64/Jones, reflected, as Redis computes it.
fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ u64::from(*byte),
            |crc: u64, _| if crc & 1 == 1 { (crc >> 1) ^ 0x95AC_9329_AC4B_C9B5 } else { crc >> 1 },
        )
    })
}

/// A payload with a right checksum. The last ten bytes of a payload are the RDB version and the checksum.
fn signed(mut body: Vec<u8>, version: &[u8]) -> Vec<u8> {
    body.extend_from_slice(version);
    let crc = crc64(&body);
    body.extend_from_slice(&crc.to_le_bytes());
    body
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    /// A few bytes changed, cut out, doubled or put in.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes[at] = self.below(256) as u8,
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes.truncate(at.max(1)),
                3 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                4 => {
                    let end = (at + self.below(40)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ => {
                    let end = (at + 1 + self.below(12)).min(bytes.len());
                    bytes.drain(at..end);
                    if bytes.is_empty() {
                        bytes.push(0);
                    }
                }
            }
        }
    }
}

fn filled(client: &mut Client) {
    client.ok("MEM.STORE k 'the first text' VALUES 4 1 2 3 4 TIER working IMPORTANCE 0.9 TAGS 2 a b META '{\"x\":[1,{\"y\":null}]}' FROM 1 5-5");
    client.ok("MEM.STORE k 'the second text' VALUES 4 4 3 2 1 SESSION s SPEAKER p SOURCE q OUTCOME o TTL 9999 PIN");
    client.ok("MEM.STORE k 'without a vector' NOEMBED PERSIST TIER semantic");
    client.ok("MEM.CONFIG SET k working.ttl 77 dedup 0.9");
    client.ok("MEM.RECALL k VALUES 4 1 1 1 1");
}

/// Everything that looks into a space: a broken one would break here.
fn look_around(client: &mut Client, key: &str) {
    client.ok_words(&words!["MEM.STATS", key]);
    client.ok_words(&words!["MEM.COUNT", key]);
    client.ok_words(&words!["MEM.TIMELINE", key, "-", "+"]);
    client.ok_words(&words!["MEM.SCAN", key, 0, "COUNT", 1000]);
    client.ok_words(&words!["MEM.CONFIG", "GET", key]);
    client.ok_words(&words!["MEMORY", "USAGE", key]);
    client.ok_words(&words!["DEBUG", "DIGEST-VALUE", key]);
    client.ok_words(&words!["DUMP", key]);
    client.send(&words!["MEM.RECALL", key, "VALUES", 4, 1, 2, 3, 4]).ok();
    client.send(&words!["MEM.STORE", key, "one more", "NOEMBED"]).ok();
    client.send(&words!["MEM.CONSOLIDATE", key]).ok();
}

#[test]
fn the_checksum_is_that_of_redis() {
    assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    let server = Server::plain(&[]);
    let mut client = server.client();
    filled(&mut client);
    let dump = client.ok("DUMP k").raw();
    let (body, foot) = dump.split_at(dump.len() - 10);
    assert_eq!(signed(body.to_vec(), &foot[..2]), dump);
}

#[test]
fn restoring_changed_payloads_never_stops_the_server() {
    let server = Server::plain(&["sanitize-dump-payload no"]);
    let mut client = server.client();
    filled(&mut client);
    let digest = client.digest("k");
    let dump = client.ok("DUMP k").raw();
    let (body, foot) = dump.split_at(dump.len() - 10);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut loaded = 0;
    for round in 0..300 {
        let mut changed = body.to_vec();
        random.mutate(&mut changed);
        let restored = client.send(&words!["RESTORE", "r", 0, signed(changed, &foot[..2])]);
        match restored {
            Ok(_) => {
                loaded += 1;
                if client.ok("TYPE r").text() == "engram-ms" {
                    look_around(&mut client, "r");
                }
                client.ok("DEL r");
            }
            Err(error) => assert!(!error.starts_with("CONNECTION"), "round {round}: {error}"),
        }
        assert_eq!(client.ok("EXISTS r").int(), 0);
    }
    assert!(loaded < 300, "no change was noticed");
    assert_eq!(client.digest("k"), digest);
    assert_eq!(client.ok_words(&words!["RESTORE", "r", 0, dump]), Value::Okay);
    assert_eq!(client.digest("r"), digest);
}

#[test]
fn a_short_or_changed_rdb_is_refused_or_loaded_and_never_a_crash() {
    let mut server = Server::plain(&["dbfilename dump.rdb", "rdbchecksum no", "rdbcompression no", "save 3600 1"]);
    let mut client = server.client();
    filled(&mut client);
    client.ok("SAVE");
    server.kill();
    let path = server.dir().join("dump.rdb");
    let whole = fs::read(&path).unwrap();
    let start = whole.windows(14).position(|w| w == b"the first text").unwrap();
    let mut random = Random(42);
    for round in 0..24 {
        let mut changed = whole.clone();
        if round < 8 {
            changed.truncate(start + round * 20);
        } else {
            for _ in 0..3 {
                let at = start - 60 + random.below(whole.len() - start + 40);
                changed[at] = random.below(256) as u8;
            }
        }
        fs::write(&path, &changed).unwrap();
        match server.try_restart() {
            Ok(()) => {
                let mut client = server.client();
                if client.ok("EXISTS k").int() == 1 {
                    look_around(&mut client, "k");
                }
                server.kill();
            }
            Err(log) => {
                assert!(!log.contains("crashed by signal") && !log.contains("BUG REPORT"), "round {round}:\n{log}")
            }
        }
    }
    fs::write(&path, &whole).unwrap();
    server.try_restart().unwrap();
    assert_eq!(server.client().count("k"), 3);
}

#[test]
fn changed_effects_in_an_aof_never_stop_the_server() {
    let mut server =
        Server::plain(&["appendonly yes", "appendfsync always", "aof-use-rdb-preamble no", "aof-load-truncated yes"]);
    let mut client = server.client();
    filled(&mut client);
    server.kill();
    let path = server.dir().join("appendonlydir").join("appendonly.aof.1.incr.aof");
    let whole = fs::read(&path).unwrap();
    // The commands of the AOF: each an array of bulk strings.
    let mut commands: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut at = 0;
    let number = |at: &mut usize| {
        let end = *at + whole[*at..].iter().position(|b| *b == b'\r').unwrap();
        let n: usize = std::str::from_utf8(&whole[*at + 1..end]).unwrap().parse().unwrap();
        *at = end + 2;
        n
    };
    while at < whole.len() {
        let count = number(&mut at);
        commands.push(
            (0..count)
                .map(|_| {
                    let length = number(&mut at);
                    at += length + 2;
                    whole[at - length - 2..at - 2].to_vec()
                })
                .collect(),
        );
    }
    let effects: Vec<&Vec<Vec<u8>>> = commands.iter().filter(|c| c[0].eq_ignore_ascii_case(b"MEM.APPLY")).collect();
    assert!(effects.len() >= 4, "the AOF holds effects: {}", String::from_utf8_lossy(&whole));
    let mut random = Random(7);
    let mut aof = whole.clone();
    for _ in 0..400 {
        let mut command = effects[random.below(effects.len())].clone();
        random.mutate(&mut command[2]);
        aof.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
        for word in &command {
            aof.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            aof.extend_from_slice(word);
            aof.extend_from_slice(b"\r\n");
        }
    }
    fs::write(&path, &aof).unwrap();
    match server.try_restart() {
        Ok(()) => {
            let mut client = server.client();
            wait_until("it is loaded", || client.try_run("EXISTS k").is_ok());
            look_around(&mut client, "k");
        }
        Err(log) => assert!(!log.contains("crashed by signal") && !log.contains("BUG REPORT"), "{log}"),
    }
}

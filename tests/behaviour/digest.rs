//! The shared digest check: what stands in a key is the same after everything that saves, moves or copies it.

use crate::client::{Client, Reply, words};
use crate::harness::{Server, wait_until};

/// A primary that writes an AOF of plain commands, with a replica that gets every effect as it happens.
pub struct Pair {
    /// The primary.
    pub primary: Server,
    /// Its replica.
    pub replica: Server,
}

impl Pair {
    /// Starts both.
    pub fn start(lines: &[&str]) -> Pair {
        let mut all = vec!["appendonly yes", "appendfsync always", "aof-use-rdb-preamble no"];
        all.extend(lines);
        let primary = Server::start(&all);
        let replica = primary.replica(&[]);
        Pair { primary, replica }
    }

    /// Checks that these keys are the same on the replica, after the AOF of plain commands is replayed, after a rewritten AOF with and without
    /// an RDB preamble, after a save and load, through DUMP and RESTORE, as a COPY, and on a replica that starts from nothing.
    #[track_caller]
    pub fn check_persistent(&self, keys: &[&str]) {
        let mut client = self.primary.client();
        let before: Vec<String> = keys.iter().map(|key| client.digest(key)).collect();
        for (key, digest) in keys.iter().zip(&before) {
            assert!(digest.chars().any(|c| c != '0'), "{key}: there is nothing to check");
        }
        let same = |client: &mut Client, after: &str| {
            for (key, digest) in keys.iter().zip(&before) {
                assert_eq!(client.digest(key), *digest, "{key} differs {after}");
            }
        };
        self.replica.wait_for_offset(&self.primary);
        same(&mut self.replica.client(), "on the replica");
        client.ok("DEBUG LOADAOF");
        same(&mut client, "after the AOF of plain commands was replayed");
        for preamble in ["no", "yes"] {
            client.ok(&format!("CONFIG SET aof-use-rdb-preamble {preamble}"));
            rewrite_aof(&mut client);
            client.ok("DEBUG LOADAOF");
            same(&mut client, &format!("after an AOF rewrite with aof-use-rdb-preamble {preamble}"));
        }
        client.ok("CONFIG SET aof-use-rdb-preamble no");
        client.ok("DEBUG RELOAD");
        same(&mut client, "after save and load");
        for (key, digest) in keys.iter().zip(&before) {
            let dump = client.ok_words(&words!["DUMP", key]).raw();
            // That a key expires is in the digest, not when.
            let ttl = client.ok_words(&words!["PTTL", key]).int().max(0);
            client.ok_words(&words!["RESTORE", "restored", ttl, dump]);
            assert_eq!(client.digest("restored"), *digest, "{key} differs through DUMP and RESTORE");
            client.ok_words(&words!["COPY", key, "copied"]);
            assert_eq!(client.digest("copied"), *digest, "{key} differs as a COPY");
            self.replica.wait_for_offset(&self.primary);
            let mut replica = self.replica.client();
            assert_eq!(replica.digest("restored"), *digest, "{key} differs as RESTORE replicates it");
            assert_eq!(replica.digest("copied"), *digest, "{key} differs as COPY replicates it");
            client.ok("DEL restored copied");
        }
        let mut replica = self.replica.client();
        replica.ok("REPLICAOF NO ONE");
        replica.ok("FLUSHALL");
        replica.ok_words(&words!["REPLICAOF", "127.0.0.1", self.primary.port.to_string()]);
        self.replica.wait_for_link();
        self.replica.wait_for_offset(&self.primary);
        same(&mut replica, "on a replica that starts from nothing");
    }
}

/// Rewrites the AOF and waits until that is done.
pub fn rewrite_aof(client: &mut Client) {
    client.ok("BGREWRITEAOF");
    wait_until("the AOF is rewritten", || {
        let info = client.ok("INFO persistence").text();
        info.contains("aof_rewrite_in_progress:0")
            && info.contains("aof_rewrite_scheduled:0")
            && info.contains("aof_last_bgrewrite_status:ok")
    });
}

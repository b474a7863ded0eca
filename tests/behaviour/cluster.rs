//! Clusters of a few primaries on this machine.

use crate::client::{Client, Reply};
use crate::harness::{Server, free_port, wait_until};

/// Slots of a cluster.
const SLOTS: u16 = 16_384;

/// Some primaries that share the slots evenly.
pub struct Cluster {
    /// The primaries, in the order of their slots.
    pub nodes: Vec<Server>,
}

/// A node that knows no other yet.
fn node(lines: &[&str]) -> Server {
    let bus = format!("cluster-port {}", free_port());
    let mut all = vec!["cluster-enabled yes", "cluster-node-timeout 5000", "cluster-require-full-coverage no", &bus];
    all.extend(lines);
    Server::start(&all)
}

fn meet(client: &mut Client, other: &Server) {
    let bus = other.client().ok("CONFIG GET cluster-port").items()[1].text();
    client.ok(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", other.port));
}

/// The name of a node.
pub fn name(server: &Server) -> String {
    server.client().ok("CLUSTER MYID").text()
}

impl Cluster {
    /// Starts `count` primaries; `lines` are lines of their redis.conf.
    pub fn start(count: u16, lines: &[&str]) -> Cluster {
        let nodes: Vec<Server> = (0..count).map(|_| node(lines)).collect();
        for (n, server) in (0..count).zip(&nodes) {
            let mut client = server.client();
            let (first, last) =
                (SLOTS / count * n, if n + 1 == count { SLOTS - 1 } else { SLOTS / count * (n + 1) - 1 });
            client.ok(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
            client.ok(&format!("CLUSTER SET-CONFIG-EPOCH {}", n + 1));
            if n > 0 {
                meet(&mut client, &nodes[0]);
            }
        }
        let cluster = Cluster { nodes };
        cluster.wait_until_whole(usize::from(count));
        cluster
    }

    fn wait_until_whole(&self, known: usize) {
        for server in &self.nodes {
            let mut client = server.client();
            wait_until("the cluster is whole", || {
                let info = client.ok("CLUSTER INFO").text();
                info.contains("cluster_state:ok")
                    && info.contains("cluster_slots_assigned:16384")
                    && info.contains(&format!("cluster_known_nodes:{known}"))
            });
        }
    }

    /// Adds a replica of one of the primaries, in step with it.
    pub fn replica_of(&self, primary: usize, lines: &[&str]) -> Server {
        let replica = node(lines);
        let mut client = replica.client();
        meet(&mut client, &self.nodes[primary]);
        let name = name(&self.nodes[primary]);
        wait_until("the replica knows its primary", || client.try_run(&format!("CLUSTER REPLICATE {name}")).is_ok());
        replica.wait_for_link();
        self.wait_until_whole(self.nodes.len() + 1);
        // It asks for votes only whom it knows and is linked to, and an election that fails is not held again by itself.
        wait_until("the replica is linked to all", || {
            let nodes = client.ok("CLUSTER NODES").text();
            nodes.lines().filter(|line| line.contains("master") && line.contains(" connected ")).count()
                == self.nodes.len()
        });
        // A primary votes only for a replica that it knows as one.
        let own = self::name(&replica);
        for server in &self.nodes {
            let mut client = server.client();
            wait_until("all know the replica", || {
                let nodes = client.ok("CLUSTER NODES").text();
                nodes.lines().any(|line| line.starts_with(&own) && line.contains(&format!("slave {name}")))
            });
        }
        replica
    }
}

//! A server for the benchmark: `scripts/serve` with an empty data folder, without persistence, and a model folder of its own beside the real encoder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Client, Connection};

use crate::Outcome;

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts one with these options beside the usual ones.
    pub fn start(options: &[&str]) -> Outcome<Server> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the crate has no parent folder")?;
        let folder = tempfile::tempdir()?;
        let models = folder.path().join("models");
        std::fs::create_dir(&models)?;
        let real = std::env::var_os("ENGRAM_MODEL_DIR").map_or_else(|| root.join("models"), PathBuf::from);
        for entry in std::fs::read_dir(&real)? {
            let entry = entry?;
            std::os::unix::fs::symlink(entry.path(), models.join(entry.file_name()))?;
        }
        // The port is free when it is chosen; a server that loses the race does not start, and the benchmark says so.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new(root.join("scripts/serve"))
            .args(["--port", &port.to_string(), "--save", "", "--appendonly", "no", "--dir"])
            .arg(folder.path())
            .args(options)
            .env("ENGRAM_MODEL_DIR", &models)
            .stdout(Stdio::null())
            .spawn()?;
        let server = Server { child, port, folder };
        let begun = Instant::now();
        while server.connect().is_err() {
            if begun.elapsed() > Duration::from_secs(30) {
                return Err(format!("the server did not start on port {port}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// A connection that speaks RESP3.
    pub fn connect(&self) -> Outcome<Connection> {
        let client = Client::open(format!("redis://127.0.0.1:{}/?protocol=resp3", self.port))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        redis::cmd("PING").query::<()>(&mut connection)?;
        Ok(connection)
    }

    /// Waits until texts can be embedded.
    pub fn wait_for_embedder(&self, connection: &mut Connection) -> Outcome<()> {
        let begun = Instant::now();
        loop {
            let info: String = redis::cmd("INFO").arg("modules").query(connection)?;
            let info = if info.contains("embedder_state") {
                info
            } else {
                redis::cmd("INFO").arg("everything").query(connection)?
            };
            if info.contains("embedder_state:ready") {
                return Ok(());
            }
            if info.contains("embedder_state:none") || begun.elapsed() > Duration::from_secs(60) {
                return Err("the server has no text encoder: run scripts/fetch-embedder".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The folder that its models are read from.
    pub fn model_dir(&self) -> PathBuf {
        self.folder.path().join("models")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing worth saving; if it is gone already there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

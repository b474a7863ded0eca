//! The servers that are measured, each its own process, folder and port, gone when dropped: Engram as `scripts/serve` starts it, and Redis 8 for its vector
//! sets. Neither saves by itself. What they use is read from INFO (CPU time in microseconds, of all threads) and from /proc.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Client, Connection};

use crate::Outcome;
use crate::wire::Wire;

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    folder: tempfile::TempDir,
    /// Where it listens.
    pub port: u16,
}

impl Server {
    /// Engram without a text encoder: memories with vectors of their own.
    pub fn plain() -> Outcome<Server> {
        Server::engram(&["--engram.embedder", ""])
    }

    /// Engram with these options beside the usual ones.
    pub fn engram(options: &[&str]) -> Outcome<Server> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the crate has no parent folder")?;
        let folder = tempfile::tempdir()?;
        let models = folder.path().join("models");
        std::fs::create_dir(&models)?;
        let real = std::env::var_os("ENGRAM_MODEL_DIR").map_or_else(|| root.join("models"), PathBuf::from);
        for entry in std::fs::read_dir(&real)? {
            let entry = entry?;
            std::os::unix::fs::symlink(entry.path(), models.join(entry.file_name()))?;
        }
        let mut command = Command::new(root.join("scripts/serve"));
        command.env("ENGRAM_MODEL_DIR", &models);
        Server::start(command, folder, options)
    }

    /// The server that the module is loaded into, without it.
    pub fn bare() -> Outcome<Server> {
        let binary = std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        Server::start(Command::new(binary), tempfile::tempdir()?, &["--bind", "127.0.0.1"])
    }

    /// Redis 8, at its own defaults.
    pub fn redis8(binary: &Path) -> Outcome<Server> {
        Server::start(Command::new(binary), tempfile::tempdir()?, &["--bind", "127.0.0.1"])
    }

    fn start(mut command: Command, folder: tempfile::TempDir, options: &[&str]) -> Outcome<Server> {
        // The port is free when it is chosen; a server that loses the race does not start, and the benchmark says so.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // SAFETY: between fork and exec only prctl is called, which is a system call without pointers or locks.
        unsafe {
            // A benchmark that is killed leaves no server behind.
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command
            .args(["--port", &port.to_string(), "--save", "", "--appendonly", "no", "--maxmemory", "0"])
            .args(["--enable-debug-command", "local", "--dir"])
            .arg(folder.path())
            .args(options)
            .stdout(Stdio::null())
            .spawn()?;
        let mut server = Server { child, folder, port };
        let begun = Instant::now();
        while server.connect().is_err() {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("the server ended instead of listening on port {port}: {status}").into());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("the server did not start on port {port}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// A connection for what is not timed to the microsecond; it speaks RESP3.
    pub fn connect(&self) -> Outcome<Connection> {
        let client = Client::open(format!("redis://127.0.0.1:{}/?protocol=resp3", self.port))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        redis::cmd("PING").query::<()>(&mut connection)?;
        connection.set_read_timeout(Some(Duration::from_secs(600)))?;
        Ok(connection)
    }

    /// A connection for what is.
    pub fn wire(&self) -> Outcome<Wire> {
        Wire::connect(self.port)
    }

    /// Waits until texts can be embedded.
    pub fn wait_for_embedder(&self) -> Outcome<()> {
        let begun = Instant::now();
        loop {
            let state = self.info("everything", "engram_embedder_state")?;
            if state == "ready" {
                return Ok(());
            }
            if state == "none" || begun.elapsed() > PATIENCE {
                return Err("the server has no text encoder: run scripts/fetch-embedder".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A field of INFO.
    pub fn info(&self, section: &str, field: &str) -> Outcome<String> {
        let info = self.wire()?.ask(&["INFO", section])?;
        let line = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(line.ok_or_else(|| format!("INFO {section} has no {field}"))?.trim().to_owned())
    }

    /// A number of INFO.
    pub fn number(&self, section: &str, field: &str) -> Outcome<f64> {
        Ok(self.info(section, field)?.parse()?)
    }

    /// CPU time that all threads of the process have used, in seconds.
    pub fn cpu(&self) -> Outcome<f64> {
        Ok(self.number("cpu", "used_cpu_user")? + self.number("cpu", "used_cpu_sys")?)
    }

    /// Waits until the server has nothing to do, so that what a load set off in the background is not counted as something else.
    pub fn settle(&self) -> Outcome<()> {
        let begun = Instant::now();
        loop {
            let before = self.cpu()?;
            std::thread::sleep(Duration::from_millis(300));
            if self.cpu()? - before < 0.015 || begun.elapsed() > Duration::from_secs(300) {
                return Ok(());
            }
        }
    }

    /// Bytes of the process that lie in memory now, from /proc.
    pub fn resident(&self) -> Outcome<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("/proc has no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
    }

    /// The folder that its data lies in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
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

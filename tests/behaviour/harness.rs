//! Servers for the tests: each its own process, folder and port, gone when dropped.
//!
//! A server that dies, asserts or logs an internal error of the module fails the test that owns it, even if every reply was right.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redis::Value;
use tempfile::TempDir;

use crate::client::{Client, Reply};

/// How long anything that should happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server.
pub struct Server {
    child: Child,
    dir: TempDir,
    /// Its port.
    pub port: u16,
    lines: Vec<String>,
    /// Arguments of the module.
    arguments: String,
    /// Whether it was killed by the test, so that its end is no failure.
    killed: bool,
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The module under test.
pub fn module() -> PathBuf {
    let path =
        std::env::var_os("ENGRAM_MODULE").map_or_else(|| root().join("target/debug/libengram.so"), PathBuf::from);
    assert!(
        path.is_file(),
        "there is no module at {}: build it with `cargo build -p engram-module --features latch`, or set ENGRAM_MODULE",
        path.display()
    );
    path
}

/// The sentence encoder.
fn encoder() -> PathBuf {
    let folder = std::env::var_os("ENGRAM_MODEL_DIR")
        .map_or_else(|| root().join("models"), PathBuf::from)
        .join("all-MiniLM-L6-v2");
    assert!(
        folder.is_dir(),
        "there is no encoder at {}: run scripts/fetch-embedder, or set ENGRAM_MODEL_DIR",
        folder.display()
    );
    folder
}

/// A file of the repository's `tests` folder.
pub fn test_file(name: &str) -> PathBuf {
    root().join("tests").join(name)
}

/// A folder for a server, with links to all models in its folder of models.
pub fn folder() -> TempDir {
    let dir = tempfile::Builder::new().prefix("engram-test-").tempdir().unwrap();
    let models = dir.path().join("models");
    fs::create_dir(&models).unwrap();
    symlink(encoder(), models.join("all-MiniLM-L6-v2")).unwrap();
    for file in fs::read_dir(test_file("models")).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_some_and(|e| e == "gguf") {
            symlink(&file, models.join(file.file_name().unwrap())).unwrap();
        }
    }
    dir
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until something is so.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A pause for things that must not happen.
pub fn pause_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Unix milliseconds.
pub fn now_ms() -> u64 {
    u64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

impl Server {
    /// A server without models: memories with vectors of their own. `lines` are lines of redis.conf.
    pub fn plain(lines: &[&str]) -> Server {
        let mut all = vec!["engram.embedder \"\""];
        all.extend(lines);
        Server::start(&all)
    }

    /// A server with the sentence encoder, ready.
    pub fn with_text(lines: &[&str]) -> Server {
        let mut all = vec!["engram.embedder all-MiniLM-L6-v2"];
        all.extend(lines);
        let server = Server::start(&all);
        server.wait_for_encoder();
        server
    }

    /// A server with one of the small generation models as default, ready, and without an encoder.
    pub fn with_model(file: &str, lines: &[&str]) -> Server {
        let model = format!("engram.model {file}");
        let mut all = vec!["engram.embedder \"\"", &model];
        all.extend(lines);
        let server = Server::start(&all);
        server.wait_for_models(1);
        server
    }

    /// Waits until the encoder is there.
    pub fn wait_for_encoder(&self) {
        let mut client = self.client();
        wait_until("the encoder is ready", || client.info("engram_embedder_state") == "ready");
    }

    /// Waits until so many generation models are there.
    pub fn wait_for_models(&self, count: usize) {
        let mut client = self.client();
        wait_until("the models are ready", || client.info("engram_models_ready") == count.to_string());
    }

    /// A server with these lines in its redis.conf, besides those that every test has.
    pub fn start(lines: &[&str]) -> Server {
        let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        for _ in 0..20 {
            let (dir, port) = (folder(), free_port());
            let child = launch(dir.path(), port, &lines, "");
            let mut server = Server { child, dir, port, lines: lines.clone(), arguments: String::new(), killed: false };
            if server.wait_until_up() {
                return server;
            }
            // Somebody else took the port between the question and the start.
            assert!(server.log().contains("Address already in use"), "the server did not start:\n{}", server.log());
            server.killed = true;
        }
        panic!("no free port in 20 attempts");
    }

    /// False if the process has ended.
    fn wait_until_up(&mut self) -> bool {
        let began = Instant::now();
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if let Ok(mut client) = Client::connect(self.port, false)
                && client.try_run("PING").is_ok()
                // Another test's server may have taken the port while this one is about to find that out.
                && client.info("process_id") == self.pid().to_string()
            {
                return true;
            }
            assert!(began.elapsed() < PATIENCE, "the server does not answer:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A new connection that speaks RESP2.
    pub fn client(&self) -> Client {
        Client::connect(self.port, false).unwrap_or_else(|e| panic!("cannot connect: {e}\n{}", self.log()))
    }

    /// A new connection that speaks RESP3.
    pub fn client3(&self) -> Client {
        Client::connect(self.port, true).unwrap_or_else(|e| panic!("cannot connect: {e}\n{}", self.log()))
    }

    /// The server's folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The server's folder of models.
    pub fn models(&self) -> PathBuf {
        self.dir.path().join("models")
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Kills the process as a power cut would, and waits until it has gone.
    pub fn kill(&mut self) {
        self.killed = true;
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts a killed server again on its data, with more lines of configuration.
    pub fn restart(&mut self, more: &[&str]) {
        if !self.killed {
            self.kill();
        }
        self.lines.extend(more.iter().map(|&line| line.to_owned()));
        self.child = launch(self.dir.path(), self.port, &self.lines, &self.arguments);
        self.killed = false;
        assert!(self.wait_until_up(), "the server did not start again:\n{}", self.log());
    }

    /// The arguments that the module gets at the next start.
    pub fn load_arguments(&mut self, arguments: &str) {
        arguments.clone_into(&mut self.arguments);
    }

    /// Tries to start a killed server again; its log if it refuses.
    pub fn try_restart(&mut self) -> Result<(), String> {
        let logged = self.log().len();
        self.child = launch(self.dir.path(), self.port, &self.lines, &self.arguments);
        if self.wait_until_up() {
            self.killed = false;
            return Ok(());
        }
        Err(self.log()[logged..].to_owned())
    }

    /// Starts a replica of this server, in step with it.
    pub fn replica(&self, lines: &[&str]) -> Server {
        let replicaof = format!("replicaof 127.0.0.1 {}", self.port);
        let mut all: Vec<&str> =
            self.lines.iter().map(String::as_str).filter(|line| line.starts_with("engram.")).collect();
        all.push(&replicaof);
        all.extend(lines);
        let replica = Server::start(&all);
        replica.wait_for_link();
        let mut client = self.client();
        wait_until("the primary sends it what it writes", || client.info("slave0").contains("state=online"));
        replica
    }

    /// Waits until this replica is in step with its primary.
    pub fn wait_for_link(&self) {
        let mut client = self.client();
        wait_until("the replica is in step", || client.info("master_link_status") == "up");
    }

    /// Waits until this server has applied everything that `primary` has replicated so far.
    pub fn wait_for_offset(&self, primary: &Server) {
        let offset: u64 = primary.client().info("master_repl_offset").parse().unwrap();
        let mut client = self.client();
        wait_until("the replica has caught up", || client.info("slave_repl_offset").parse::<u64>().unwrap() >= offset);
    }

    /// Sends a command from a client of its own, which waits for the reply on a thread.
    pub fn begin(&self, line: &str) -> Pending {
        self.begin_words(crate::client::split(line))
    }

    /// The same, for words that a line cannot hold.
    pub fn begin_words(&self, words: Vec<Vec<u8>>) -> Pending {
        let mut client = self.client();
        let id = client.ok("CLIENT ID").int();
        Pending { id, thread: std::thread::spawn(move || client.send(&words)) }
    }

    /// Closes the latch: every background job stops before its result is committed.
    pub fn close_latch(&self) {
        self.client().ok("ENGRAM.LATCH CLOSE");
    }

    /// Lets all jobs go, and waits until the last has left: closing the latch again at once would catch it a second time.
    pub fn open_latch(&self) {
        self.client().ok("ENGRAM.LATCH OPEN");
        self.wait_held(0);
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until so many jobs are held by the latch.
    #[track_caller]
    pub fn wait_held(&self, jobs: i64) {
        let mut client = self.client();
        wait_until("the jobs are held by the latch", || client.ok("ENGRAM.LATCH WAITING").int() == jobs);
    }
}

/// A command whose reply is waited for elsewhere.
pub struct Pending {
    /// The client's id.
    pub id: i64,
    thread: JoinHandle<Result<Value, String>>,
}

impl Pending {
    /// Whether the reply is there.
    pub fn is_done(&self) -> bool {
        self.thread.is_finished()
    }

    /// The reply.
    pub fn finish(self) -> Result<Value, String> {
        self.thread.join().unwrap()
    }
}

fn launch(dir: &Path, port: u16, lines: &[String], arguments: &str) -> Child {
    let mut conf = format!(
        "port {port}\nbind 127.0.0.1\ndir \"{}\"\nlogfile log\nloglevel verbose\ndaemonize no\nenable-debug-command yes\nrepl-diskless-sync-delay 0\n\
         repl-ping-replica-period 1\nloadmodule \"{}\" {arguments}\nengram.model-dir \"{}\"\n",
        dir.display(),
        module().display(),
        dir.join("models").display(),
    );
    if !lines.iter().any(|line| line.starts_with("save ")) {
        conf.push_str("save \"\"\n");
    }
    for line in lines {
        conf.push_str(line);
        conf.push('\n');
    }
    let path = dir.join("redis.conf");
    fs::write(&path, conf).unwrap();
    let server = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    Command::new(&server)
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.join("stderr")).unwrap())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {server}: {e}; install redis-server, or set REDIS_SERVER"))
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.child.try_wait().ok().flatten();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log();
        let shown = |log: &str| {
            // The end of a crash report says little: its head has the stack.
            let lines: Vec<&str> = log.lines().collect();
            let crash = lines.iter().position(|line| line.contains("BUG REPORT START")).map(|at| at.saturating_sub(20));
            lines
                .into_iter()
                .skip(crash.unwrap_or(log.lines().count().saturating_sub(60)))
                .take(80)
                .collect::<Vec<_>>()
                .join("\n")
        };
        if std::thread::panicking() {
            eprintln!("the last lines of the server at port {}:\n{}", self.port, shown(&log));
            return;
        }
        assert!(ended.is_none() || self.killed, "the server ended by itself ({ended:?}):\n{}", shown(&log));
        for trouble in ["BUG REPORT", "please report it"] {
            assert!(!log.contains(trouble), "the server has logged '{trouble}':\n{}", shown(&log));
        }
    }
}

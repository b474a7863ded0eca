//! `scripts/serve`: the shipped redis.conf, the module, and whatever the environment and the command line add.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::client::{Client, Reply};
use crate::harness::{folder, free_port, module, root, wait_until};

struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_starts_the_shipped_configuration_with_what_is_named_and_given() {
    let (dir, port) = (folder(), free_port());
    let output = dir.path().join("output");
    let child = Command::new(root().join("scripts/serve"))
        .args(["--port", &port.to_string(), "--maxmemory", "123mb", "--engram.queue-limit", "77", "--dir"])
        .arg(dir.path())
        .env("ENGRAM_MODULE", module())
        .env("ENGRAM_MODEL_DIR", dir.path().join("models"))
        .env("ENGRAM_THREADS", "3")
        .stdin(Stdio::null())
        .stdout(fs::File::create(&output).unwrap())
        .spawn()
        .unwrap();
    let _served = Served(child);
    let mut client = None;
    wait_until("the server answers", || {
        client = Client::connect(port, false).ok();
        client.as_mut().is_some_and(|client| client.try_run("PING").is_ok())
    });
    let mut client = client.unwrap();
    let mut setting = |name: &str| client.ok(&format!("CONFIG GET {name}")).items()[1].text();
    // The command line wins over redis.conf.
    assert_eq!(setting("maxmemory"), (123 * 1024 * 1024).to_string());
    assert_eq!(setting("engram.queue-limit"), "77");
    assert_eq!(setting("engram.threads"), "3");
    assert_eq!(setting("engram.model-dir"), dir.path().join("models").to_str().unwrap());
    // What M4 of the requirements asks of the shipped configuration.
    for (name, value) in [
        ("maxmemory-policy", "noeviction"),
        ("save", "900 1 300 10 60 10000"),
        ("appendonly", "yes"),
        ("appendfsync", "everysec"),
        ("rdbcompression", "yes"),
        ("rdbchecksum", "yes"),
        ("tcp-backlog", "511"),
        ("tcp-keepalive", "300"),
        ("slowlog-log-slower-than", "10000"),
        ("slowlog-max-len", "128"),
        ("protected-mode", "yes"),
    ] {
        assert_eq!(setting(name), value, "{name}");
    }
    assert_eq!(client.ok("MEM.COUNT nothing").int(), 0);
}

#[test]
fn a_missing_server_or_module_is_a_sentence() {
    for (name, value, said) in [
        ("REDIS_SERVER", "no-such-server", "no-such-server"),
        ("ENGRAM_MODULE", "no/such/module.so", "does not exist"),
        ("ENGRAM_MODEL_DIR", "no/such/folder", "does not exist"),
    ] {
        let mut command = Command::new(root().join("scripts/serve"));
        command.env("ENGRAM_MODULE", module()).env(name, value).args(["--port", "0"]);
        let ended = command.output().unwrap();
        let text = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && text.contains(said), "{name}={value}: {text}");
    }
}

//! What servers and clients know about the commands: documentation, key positions, and what a user needs to run them.

use redis::Value;

use crate::client::{Client, Reply, words};
use crate::harness::Server;

fn all_commands(client: &mut Client) -> Vec<String> {
    let mut names = client.ok("COMMAND LIST FILTERBY MODULE engram").texts();
    names.retain(|name| name != "engram.latch");
    names.sort();
    names
}

#[test]
fn every_command_is_there_with_its_documentation() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    let names = all_commands(&mut client);
    let contract = "gemma.cancel gemma.chat gemma.embed gemma.generate gemma.generate_ro gemma.jobs gemma.load gemma.models gemma.result gemma.tokenize gemma.unload \
                    mem.apply mem.audit mem.config mem.consolidate mem.context mem.count mem.docs mem.export mem.forget mem.get mem.history mem.import mem.ingest mem.link mem.mstore mem.outcome mem.promote \
                    mem.recall mem.reembed mem.reflect mem.related mem.report mem.scan mem.session mem.stats mem.store \
                    mem.timeline mem.unlink mem.update";
    let top: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.contains('|')).collect();
    assert_eq!(top.join(" "), contract.split_whitespace().collect::<Vec<_>>().join(" "));
    for name in &top {
        let docs = client.ok(&format!("COMMAND DOCS {name}"));
        let docs = docs.field(name);
        for field in ["summary", "since", "group"] {
            assert!(!docs.field(field).text().is_empty(), "{name} {field}");
        }
        assert_eq!(docs.field("since").text(), "0.1.0", "{name}");
        let info = client.ok(&format!("COMMAND INFO {name}")).items()[0].items();
        assert_eq!(info[0].text(), *name);
    }
    let store = client.ok("COMMAND DOCS mem.store").field("mem.store");
    let arguments: Vec<String> =
        store.field("arguments").items().iter().map(|argument| argument.field("name").text()).collect();
    assert_eq!(arguments[..2], ["key", "content"]);
    let tokens: Vec<String> = store
        .field("arguments")
        .items()
        .iter()
        .filter_map(|argument| argument.maybe("token"))
        .map(|token| token.text())
        .collect();
    for token in "TIER ID IMPORTANCE CONFIDENCE TYPE OUTCOME SPEAKER SESSION SOURCE FROM AT PIN TAGS META".split(' ') {
        assert!(
            tokens.iter().any(|known| known == token)
                || format!("{store:?}").contains(&format!("{:?}", token.as_bytes())),
            "{token} is documented"
        );
    }
    let recall = client.ok("COMMAND DOCS mem.recall").field("mem.recall").field("arguments").items();
    let prefer = recall.iter().find(|argument| argument.field("name").text() == "prefer").unwrap();
    assert!(
        prefer.field("flags").texts().contains(&"multiple_token".to_owned()),
        "PREFER may be repeated, keyword and all: {prefer:?}"
    );
    let config = client.ok("COMMAND DOCS mem.config").field("mem.config");
    let mut subcommands = config.field("subcommands").names();
    subcommands.sort();
    assert_eq!(subcommands, ["mem.config|get", "mem.config|help", "mem.config|preset", "mem.config|set"]);
}

#[test]
fn keys_are_found_where_they_stand_and_nowhere_else() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    for (line, keys) in [
        ("MEM.STORE k text NOEMBED", "k"),
        ("MEM.MSTORE k {} {}", "k"),
        ("MEM.RECALL k TEXT key", "k"),
        ("MEM.GET k 1-1", "k"),
        ("MEM.UPDATE k 1-1 PIN", "k"),
        ("MEM.FORGET k 1-1", "k"),
        ("MEM.SCAN k 0", "k"),
        ("MEM.COUNT k", "k"),
        ("MEM.TIMELINE k - +", "k"),
        ("MEM.CONSOLIDATE k", "k"),
        ("MEM.REFLECT k SESSION s", "k"),
        ("MEM.PROMOTE k 1-1 semantic", "k"),
        ("MEM.LINK k 1-1 2-2 REL r", "k"),
        ("MEM.UNLINK k 1-1 2-2", "k"),
        ("MEM.RELATED k 1-1", "k"),
        ("MEM.CONFIG GET k", "k"),
        ("MEM.CONFIG SET k dedup 0", "k"),
        ("MEM.CONFIG PRESET k chatbot", "k"),
        ("MEM.STATS k", "k"),
        ("MEM.REPORT k", "k"),
        ("MEM.APPLY k x", "k"),
        ("GEMMA.GENERATE hi MEMORY m STREAM s", "m s"),
        ("GEMMA.GENERATE hi STREAM s", "s"),
        ("GEMMA.GENERATE STREAM STREAM s", "s"),
        ("GEMMA.GENERATE MEMORY SYSTEM MEMORY STOP 2 STREAM x MEMORY m", "m"),
        ("GEMMA.GENERATE_RO hi memory m", "m"),
    ] {
        let mut found = client.ok(&format!("COMMAND GETKEYS {line}")).texts();
        found.sort();
        assert_eq!(found.join(" "), keys, "{line}");
    }
    for line in ["GEMMA.GENERATE hi", "GEMMA.GENERATE MEMORY", "GEMMA.GENERATE_RO hi"] {
        assert!(client.ok(&format!("COMMAND GETKEYS {line}")).items().is_empty(), "{line}");
    }
    for line in ["MEM.OUTCOME k", "GEMMA.EMBED 1 k", "GEMMA.TOKENIZE k", "GEMMA.LOAD k k"] {
        let error = client.err(&format!("COMMAND GETKEYS {line}"));
        assert!(error.contains("no key arguments"), "{line}: {error}");
    }
    let flags = client.ok("COMMAND GETKEYSANDFLAGS MEM.RECALL k text").items()[0].items()[1].texts();
    assert!(flags.contains(&"RO".to_owned()), "{flags:?}");
    let flags = client.ok("COMMAND GETKEYSANDFLAGS MEM.FORGET k 1-1").items()[0].items()[1].texts();
    assert!(flags.contains(&"RW".to_owned()), "{flags:?}");
}

fn user(server: &Server, name: &str, rights: &str) -> Client {
    server.client().ok(&format!("ACL SETUSER {name} on >secret {rights}"));
    Client::log_in(server.port, false, &format!("{name}:secret@")).unwrap()
}

#[test]
fn a_user_who_may_only_read_a_space_recalls_but_does_not_store() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    client.ok("MEM.STORE x text ID 1-0 VALUES 2 1 0");
    client.ok("MEM.STORE y text ID 1-0 VALUES 2 1 0");
    let mut reader = user(&server, "reader", "%R~x +@all");
    for line in [
        "MEM.RECALL x VALUES 2 1 0",
        "MEM.GET x 1-0",
        "MEM.SCAN x 0",
        "MEM.COUNT x",
        "MEM.TIMELINE x - +",
        "MEM.STATS x",
        "MEM.RELATED x 1-0",
        "MEM.REPORT x",
        "MEM.CONFIG GET x",
    ] {
        reader.ok(line);
        assert!(reader.err(&line.replace(" x", " y")).starts_with("NOPERM"), "{line} on y");
    }
    let digest = client.digest("x");
    for line in [
        "MEM.STORE x more NOEMBED",
        "MEM.MSTORE x '{\"content\":\"more\",\"noembed\":true}'",
        "MEM.UPDATE x 1-0 PIN",
        "MEM.FORGET x 1-0",
        "MEM.PROMOTE x 1-0 semantic",
        "MEM.LINK x 1-0 2-0 REL r",
        "MEM.UNLINK x 1-0 2-0",
        "MEM.CONSOLIDATE x",
        "MEM.REFLECT x SESSION s",
        "MEM.CONFIG SET x dedup 0",
        "MEM.CONFIG PRESET x chatbot",
    ] {
        assert!(reader.err(line).starts_with("NOPERM"), "{line}");
    }
    assert_eq!(client.digest("x"), digest);
    // STORE tells the id of what stands, so it takes the right to read as well.
    let mut writer = user(&server, "writer", "%W~x +@all");
    assert!(writer.err("MEM.STORE x text NOEMBED").starts_with("NOPERM"));
    assert!(writer.err("MEM.RECALL x VALUES 2 1 0").starts_with("NOPERM"));
    assert!(matches!(writer.ok("MEM.UPDATE x 1-0 IMPORTANCE 0.1"), Value::Okay));
}

#[test]
fn generation_needs_the_right_to_read_memories_and_to_write_the_stream() {
    let server = Server::with_model("random-q4_0.gguf", &[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET x dedup 0");
    let mut reader = user(&server, "reader", "%R~x ~s +@all");
    reader.ok("GEMMA.GENERATE hi MAXTOKENS 1");
    reader.ok("GEMMA.GENERATE hi MAXTOKENS 1 STREAM s");
    assert!(reader.err("GEMMA.GENERATE hi MAXTOKENS 1 STREAM x").starts_with("NOPERM"), "reading is not writing");
    assert!(reader.err("GEMMA.GENERATE hi MAXTOKENS 1 STREAM t").starts_with("NOPERM"));
    assert!(reader.err("GEMMA.GENERATE hi MAXTOKENS 1 MEMORY y").starts_with("NOPERM"));
    assert!(reader.err("GEMMA.GENERATE_RO hi MAXTOKENS 1 MEMORY y").starts_with("NOPERM"));
    assert!(
        !reader.try_run("GEMMA.GENERATE_RO hi MAXTOKENS 1 MEMORY x").is_err_and(|error| error.starts_with("NOPERM"))
    );
    // A text that looks like a keyword does not lead the check astray.
    assert!(reader.err_words(&words!["GEMMA.GENERATE", "STREAM", "SYSTEM", "s", "STREAM", "t"]).starts_with("NOPERM"));
    assert!(
        reader
            .err_words(&words!["GEMMA.GENERATE", "MEMORY", "STOP", 2, "MEMORY", "x", "MEMORY", "y"])
            .starts_with("NOPERM")
    );
    reader.ok_words(&words!["GEMMA.GENERATE", "STREAM", "MAXTOKENS", 1]);
}

#[test]
fn jobs_belong_to_the_user_who_started_them() {
    let server = Server::with_model("random-q4_0.gguf", &[]);
    let mut ada = user(&server, "ada", "~* +@all");
    let mut bob = user(&server, "bob", "~* +@all");
    ada.ok("GEMMA.GENERATE secret JOB mine NOWAIT MAXTOKENS 2");
    ada.ok("GEMMA.RESULT mine");
    assert!(bob.ok("GEMMA.JOBS").items().is_empty());
    for line in ["GEMMA.RESULT mine", "GEMMA.CANCEL mine"] {
        assert!(bob.err(line).contains("no such job"), "{line}");
    }
    bob.ok("GEMMA.GENERATE other JOB mine MAXTOKENS 2");
    assert_eq!((ada.ok("GEMMA.JOBS").items().len(), bob.ok("GEMMA.JOBS").items().len()), (1, 1));
}

/// Whether the server lets modules put their commands into ACL categories: Redis does from 7.2 on.
fn has_categories(client: &mut Client) -> bool {
    let version = client.info("redis_version");
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap());
    (parts.next().unwrap(), parts.next().unwrap()) >= (7, 2)
}

#[test]
fn loading_and_unloading_are_for_administrators() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    for name in ["gemma.load", "gemma.unload"] {
        let info = client.ok(&format!("COMMAND INFO {name}")).items()[0].items();
        assert!(info[2].texts().contains(&"admin".to_owned()), "{name}");
    }
    let categories = has_categories(&mut client);
    if categories {
        let expected = [
            ("gemma.load", "@admin"),
            ("gemma.load", "@dangerous"),
            ("gemma.unload", "@admin"),
            ("gemma.unload", "@dangerous"),
            ("mem.recall", "@read"),
            ("mem.get", "@read"),
            ("mem.report", "@read"),
            ("gemma.generate_ro", "@read"),
            ("mem.store", "@write"),
            ("mem.forget", "@write"),
        ];
        for (name, category) in expected {
            let of = client.ok(&format!("COMMAND INFO {name}")).items()[0].items()[6].texts();
            assert!(of.contains(&category.to_owned()), "{name}: {of:?}");
        }
    }
    // Where there are no categories, a rule has to name the commands.
    let rights = if categories {
        "~* +@all -@admin -@dangerous"
    } else {
        "~* +@all -@admin -@dangerous -gemma.load -gemma.unload"
    };
    let mut user = user(&server, "user", rights);
    for line in ["GEMMA.LOAD a random-f32.gguf", "GEMMA.UNLOAD a", "CONFIG SET engram.threads 2"] {
        assert!(user.err(line).starts_with("NOPERM"), "{line}");
    }
    user.ok("GEMMA.MODELS");
    user.ok("MEM.STORE k text NOEMBED");
}

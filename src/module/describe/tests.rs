use std::path::Path;

use super::*;

fn command(name: &str) -> &'static Command {
    table::find(name).unwrap()
}

#[test]
fn syntax_is_written_as_people_type_it() {
    assert_eq!(syntax(command("mem.get")), "MEM.GET key id [id ...]");
    assert_eq!(
        syntax(command("mem.forget")),
        "MEM.FORGET key (id [id ...] | FILTER expression | TIER tier | DOC doc | SESSION session) [DRYRUN]"
    );
    assert_eq!(syntax(command("mem.config|set")), "MEM.CONFIG SET key name value [name value ...]");
    assert_eq!(syntax(command("gemma.embed")), "GEMMA.EMBED count text [text ...] [MODEL name] [QUERY] [BLOB]");
    let store = syntax(command("mem.store"));
    assert!(
        store.starts_with(
            "MEM.STORE key content [TIER tier] [ID id] [VECTOR blob | VALUES count value [value ...] | NOEMBED]"
        ),
        "{store}"
    );
    let generate = syntax(command("gemma.generate"));
    assert!(
        generate.contains("[MEMORY key [K count] [FILTER expression] [MINSCORE similarity] [SESSION session]]"),
        "{generate}"
    );
    let recall = syntax(command("mem.recall"));
    assert!(
        recall.starts_with("MEM.RECALL key (text | TEXT text | VECTOR blob | VALUES count value [value ...] | LIKE id) [K count] [TIERS count tier [tier ...]]"),
        "{recall}"
    );
}

/// Every argument of the table is shown exactly once in COMMAND DOCS.
#[test]
fn the_documentation_shows_every_argument() {
    fn tokens(docs: &[Doc], found: &mut Vec<&'static str>) {
        for doc in docs {
            found.extend(doc.token);
            if doc.kind == ONEOF || doc.kind == BLOCK {
                assert!(!doc.parts.is_empty(), "{}: a group needs parts, or the server refuses it", doc.name);
            } else {
                assert!(doc.parts.is_empty(), "{}: only groups have parts", doc.name);
            }
            assert_eq!(doc.kind == KEY, doc.key.is_some(), "{}", doc.name);
            // The words of a choice are tokens too, but none of the command's.
            if !is_choice(doc) {
                tokens(&doc.parts, found);
            }
        }
    }
    for command in table::callable() {
        let mut found = Vec::new();
        tokens(&docs(command), &mut found);
        let mut expected: Vec<&str> = command.args.iter().filter_map(|a| a.token).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{}", command.name);
    }
}

#[test]
fn keys_are_where_the_parser_reads_them() {
    let at = |line: &str| {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let name = String::from_utf8_lossy(words[0]).to_ascii_lowercase();
        key_positions(command(&name), &words)
    };
    assert_eq!(
        at("GEMMA.GENERATE hi SYSTEM MEMORY STOP 1 memory MEMORY yours STREAM out"),
        [(8, Access::Read), (10, Access::Insert)]
    );
    assert_eq!(at("GEMMA.GENERATE_RO STREAM MEMORY k"), [(3, Access::Read)]);
    assert_eq!(at("GEMMA.GENERATE MEMORY"), []);
    assert_eq!(at("GEMMA.GENERATE hi MEMORY"), []);
    assert_eq!(at("MEM.COUNT k"), [(1, Access::Read)]);
    assert_eq!(legacy_keys(command("mem.store")), (1, 1, 1));
    assert_eq!(legacy_keys(command("mem.config|set")), (2, 2, 1));
    assert_eq!(legacy_keys(command("gemma.generate")), (0, 0, 0));
}

/// The server refuses a key with both or neither of read and write, and more than one way of writing.
#[test]
fn access_flags_are_what_the_server_accepts() {
    let kinds = raw::REDISMODULE_CMD_KEY_RO
        | raw::REDISMODULE_CMD_KEY_RW
        | raw::REDISMODULE_CMD_KEY_OW
        | raw::REDISMODULE_CMD_KEY_RM;
    let writes = raw::REDISMODULE_CMD_KEY_INSERT | raw::REDISMODULE_CMD_KEY_UPDATE | raw::REDISMODULE_CMD_KEY_DELETE;
    for access in [Access::Read, Access::Insert, Access::Update, Access::ReadUpdate, Access::ReadDelete] {
        let flags = access_flags(access);
        assert_eq!((flags & kinds).count_ones(), 1);
        assert_eq!((flags & writes).count_ones(), u32::from(access != Access::Read));
    }
}

/// A container has no function: the server must never let it be called without a subcommand.
#[test]
fn a_container_needs_a_subcommand() {
    for command in table::commands() {
        assert_eq!(arity(command), if command.subcommands.is_empty() { -1 } else { -2 }, "{}", command.name);
        assert!(command.subcommands.iter().all(|s| arity(s) == -2 && s.subcommands.is_empty()));
    }
}

#[test]
fn the_reference_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/commands.md");
    let page = reference_page();
    if std::env::var_os("ENGRAM_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/commands.md differs from the command table; write it again with\n\
         ENGRAM_WRITE_DOCS=1 cargo test --workspace --no-default-features --lib reference_page"
    );
}

//! Bad input gets a sentence: what was wrong, where, and what is accepted. It changes nothing and breaks nothing.

use crate::client::{Client, Reply, blob, words};
use crate::harness::Server;

/// A command line, and what the error must say.
type Case<'a> = (&'a str, &'a [&'a str]);

/// Checks each line: an error with all the parts, the data set as before.
#[track_caller]
fn refused(client: &mut Client, cases: &[Case]) {
    let before = client.ok("DEBUG DIGEST").text();
    for (line, parts) in cases {
        let error = client.err(line);
        assert!(error.starts_with("ERR "), "{line}: {error}");
        for part in *parts {
            assert!(error.contains(part), "{line}\n  -> {error}\n  has no '{part}'");
        }
        assert_eq!(client.ok("DEBUG DIGEST").text(), before, "{line} has changed something");
    }
}

fn filled(server: &Server) -> Client {
    let mut client = server.client();
    client.ok("MEM.STORE k text ID 1-0 VALUES 3 1 2 3 META '{\"price\":1}'");
    client
}

#[test]
fn options() {
    let server = Server::plain(&[]);
    let mut client = filled(&server);
    refused(
        &mut client,
        &[
            (
                "MEM.STORE k a NOEMBED IMPORTENCE 1",
                &["MEM.STORE", "unknown option 'IMPORTENCE'", "did you mean IMPORTANCE?", "accepted:"],
            ),
            ("MEM.STORE k a NOEMBED extra", &["unknown option 'extra'", "TIER"]),
            ("MEM.STORE k a NOEMBED SUPERSEDES 1", &["SUPERSEDES", "<milliseconds>-<number>"]),
            ("MEM.STORE k a NOEMBED SUPERSEDES 7-7", &["no such memory"]),
            ("MEM.STORE k a NOEMBED TIER", &["TIER needs a value", "working, short_term"]),
            (
                "MEM.STORE k a NOEMBED TIER short",
                &["TIER", "short", "working, short_term, long_term, episodic, semantic"],
            ),
            ("MEM.STORE k a NOEMBED TIER working TIER working", &["TIER is given twice"]),
            ("MEM.STORE k a NOEMBED VALUES 2 1 0", &["exclude each other"]),
            ("MEM.STORE k a NOEMBED TTL 5 PERSIST", &["TTL", "PERSIST", "exclude each other"]),
            ("MEM.STORE k a NOEMBED DEDUP 0.9 NODEDUP", &["DEDUP", "NODEDUP", "exclude each other"]),
            ("MEM.STORE k a NOEMBED IMPORTANCE 1.01", &["IMPORTANCE", "1.01", "0 to 1"]),
            ("MEM.STORE k a NOEMBED IMPORTANCE -0.1", &["IMPORTANCE", "-0.1", "0 to 1"]),
            ("MEM.STORE k a NOEMBED IMPORTANCE nan", &["IMPORTANCE", "nan", "0 to 1"]),
            ("MEM.STORE k a NOEMBED IMPORTANCE inf", &["IMPORTANCE", "inf", "0 to 1"]),
            ("MEM.STORE k a NOEMBED IMPORTANCE high", &["IMPORTANCE", "high", "0 to 1"]),
            ("MEM.STORE k a NOEMBED IMPORTANCE ''", &["IMPORTANCE", "0 to 1"]),
            ("MEM.STORE k a NOEMBED CONFIDENCE 2", &["CONFIDENCE", "0 to 1"]),
            ("MEM.STORE k a NOEMBED TTL 0", &["TTL", "from 1"]),
            ("MEM.STORE k a NOEMBED TTL 1.5", &["TTL", "integer"]),
            ("MEM.STORE k a NOEMBED TTL 99999999999", &["TTL"]),
            ("MEM.STORE k a NOEMBED AT -1", &["AT", "milliseconds"]),
            ("MEM.STORE k a NOEMBED AT yesterday", &["AT", "yesterday", "milliseconds"]),
            ("MEM.STORE k a NOEMBED ID 5", &["ID", "5", "<milliseconds>-<number>"]),
            ("MEM.STORE k a NOEMBED ID 0-0", &["0-0"]),
            ("MEM.STORE k a NOEMBED ID 1-99999999999999999999", &["ID"]),
            ("MEM.STORE k a NOEMBED ID 1-0-0", &["ID"]),
            ("MEM.STORE k a NOEMBED TAGS 3 a b", &["TAGS", "3", "2"]),
            ("MEM.STORE k a NOEMBED TAGS 0", &["TAGS"]),
            ("MEM.STORE k a NOEMBED TAGS x", &["count of TAGS"]),
            ("MEM.STORE k a NOEMBED FROM 1 x", &["FROM", "x"]),
            ("MEM.STORE k", &["content", "MEM.STORE key content"]),
            ("MEM.STORE", &["key", "usage: MEM.STORE key content"]),
            ("MEM.STORE k '' NOEMBED", &["content"]),
            ("MEM.STORE k '   ' NOEMBED", &["content"]),
            ("MEM.GET k", &["id", "usage"]),
            ("MEM.GET k one", &["one", "<milliseconds>-<number>"]),
            ("MEM.FORGET k", &["one of"]),
            ("MEM.FORGET k 1-0 TIER working", &["exclude each other"]),
            ("MEM.FORGET k TIER now", &["now", "working"]),
            ("MEM.SCAN k x", &["x", "cursor"]),
            ("MEM.SCAN k 0 COUNT 0", &["COUNT", "from 1"]),
            ("MEM.TIMELINE k a +", &["start", "milliseconds"]),
            ("MEM.TIMELINE k -", &["end"]),
            ("MEM.TIMELINE k - + COUNT ten", &["COUNT", "ten"]),
            ("MEM.RECALL k", &["one of"]),
            ("MEM.RECALL k VALUES 3 1 2 3 K 0", &["K", "from 1"]),
            ("MEM.RECALL k VALUES 3 1 2 3 K 100000000", &["K", "10000"]),
            ("MEM.RECALL k VALUES 3 1 2 3 TIERS 1 none", &["TIERS", "none"]),
            ("MEM.RECALL k VALUES 3 1 2 3 MINSCORE 2", &["MINSCORE", "-1 to 1"]),
            ("MEM.RECALL k VALUES 3 1 2 3 MODE fuzzy", &["MODE is 'fuzzy'"]),
            ("MEM.RECALL k VALUES 3 1 2 3 SINCE x", &["SINCE"]),
            ("MEM.RECALL k something VALUES 3 1 2 3", &["exclude each other"]),
            ("MEM.RECALL k VALUES 3 1 2 3 PREFER won", &["PREFER needs 2 values"]),
            ("MEM.RECALL k VALUES 3 1 2 3 PREFER won 2", &["the weight of PREFER is '2'", "-1 to 1"]),
            ("MEM.RECALL k VALUES 3 1 2 3 PREFER won nan", &["PREFER", "-1 to 1"]),
            ("MEM.RECALL k VALUES 3 1 2 3 PREFER won 0", &["PREFER", "not 0"]),
            ("MEM.RECALL k VALUES 3 1 2 3 PREFER won 1 PREFER won 1", &["PREFER", "won", "twice"]),
            ("MEM.OUTCOME", &["text", "usage"]),
            ("MEM.OUTCOME all done", &["'done' is one argument too many"]),
            ("MEM.SESSION APPEND k s user hi OUTCOME", &["OUTCOME needs a value"]),
            ("MEM.SESSION APPEND k s user hi OUTCOME ''", &["OUTCOME"]),
            ("MEM.RECALL k VALUES 3 1 2 3 EXPAND 0", &["EXPAND", "from 1 to 3"]),
            ("MEM.RECALL k VALUES 3 1 2 3 EXPAND 4", &["EXPAND", "from 1 to 3"]),
            ("MEM.LINK k 1-0 2-0", &["REL is needed", "usage: MEM.LINK key from to"]),
            ("MEM.LINK k 1-0 REL r", &["to", "REL", "<milliseconds>-<number>"]),
            ("MEM.LINK k 1-0 2-0 REL r", &["no such memory: 2-0"]),
            ("MEM.LINK k 2-0 1-0 REL r", &["no such memory: 2-0"]),
            ("MEM.LINK k 1-0 1-0 REL r", &["itself"]),
            ("MEM.LINK k 1-0 2-0 REL ''", &["REL", "1 to 256"]),
            ("MEM.LINK k 1-0 2-0 REL r WEIGHT 0", &["WEIGHT", "above 0 and up to 1"]),
            ("MEM.LINK k 1-0 2-0 REL r WEIGHT 1.5", &["WEIGHT", "0 to 1"]),
            ("MEM.LINK none 1-0 2-0 REL r", &["no such space"]),
            ("MEM.UNLINK k 1-0 2-0", &["no such memory: 2-0"]),
            ("MEM.UNLINK k 1-0", &["to", "usage"]),
            ("MEM.RELATED k 2-0", &["no such memory: 2-0"]),
            ("MEM.RELATED k 1-0 DEPTH 4", &["DEPTH", "from 1 to 3"]),
            ("MEM.RELATED k 1-0 K 0", &["K", "from 1"]),
            ("MEM.RELATED k 1-0 REL ''", &["REL", "1 to 256"]),
            ("MEM.PROMOTE k 1-0", &["tier", "usage"]),
            ("MEM.PROMOTE k 1-0 up", &["up", "working"]),
            ("MEM.PROMOTE k 1-0 semantic now", &["'now' is one argument too many"]),
            ("MEM.CONSOLIDATE k THRESHOLD 7", &["THRESHOLD", "0 to 1"]),
            ("MEM.CONSOLIDATE k FROM here", &["FROM", "here"]),
            ("MEM.CONSOLIDATE k SUMMARISE", &["unknown option 'SUMMARISE'", "SUMMARIZE"]),
            ("MEM.UPDATE k 1-0 ID 2-0", &["unknown option 'ID'"]),
            ("MEM.UPDATE k 1-0 CONTENT '' NOEMBED", &["content"]),
            ("GEMMA.TOKENIZE", &["text"]),
            ("GEMMA.EMBED 0", &["count"]),
            ("GEMMA.EMBED 2 one", &["2", "1"]),
            ("GEMMA.RESULT", &["job"]),
            ("GEMMA.RESULT x TIMEOUT never", &["TIMEOUT", "never"]),
            ("GEMMA.LOAD name", &["path"]),
            ("GEMMA.LOAD 'a name' random-f32.gguf", &["name", "without spaces"]),
            ("GEMMA.LOAD name random-f32.gguf CONTEXT 0", &["CONTEXT"]),
        ],
    );
}

#[test]
fn options_of_generate() {
    let server = Server::with_model("random-q4_0.gguf", &[]);
    let mut client = server.client();
    refused(
        &mut client,
        &[
            ("GEMMA.GENERATE", &["prompt"]),
            ("GEMMA.GENERATE hi MAXTOKENS 0", &["MAXTOKENS", "from 1"]),
            ("GEMMA.GENERATE hi TEMPERATURE -1", &["TEMPERATURE", "0 to 10"]),
            ("GEMMA.GENERATE hi TEMPERATURE nan", &["TEMPERATURE"]),
            ("GEMMA.GENERATE hi TOPP 1.5", &["TOPP", "0 to 1"]),
            ("GEMMA.GENERATE hi TOPK -1", &["TOPK"]),
            ("GEMMA.GENERATE hi MINP 2", &["MINP", "0 to 1"]),
            ("GEMMA.GENERATE hi REPEAT 0", &["REPEAT"]),
            ("GEMMA.GENERATE hi SEED -1", &["SEED"]),
            ("GEMMA.GENERATE hi SEED x", &["SEED", "x"]),
            ("GEMMA.GENERATE hi STOP 2 a", &["STOP", "2"]),
            ("GEMMA.GENERATE hi STOP 1 ''", &["stop"]),
            ("GEMMA.GENERATE hi LOGPROBS 21", &["LOGPROBS", "from 0 to 20"]),
            ("GEMMA.GENERATE hi LOGPROBS", &["LOGPROBS needs a value"]),
            ("GEMMA.GENERATE hi LOGITBIAS [1]", &["LOGITBIAS", "a JSON object"]),
            ("GEMMA.GENERATE hi LOGITBIAS '{\"#7\": 101}'", &["LOGITBIAS", "'#7'", "from -100 to 100"]),
            ("GEMMA.GENERATE hi LOGITBIAS '{\"#7\": \"x\"}'", &["LOGITBIAS", "'#7'", "no number"]),
            ("GEMMA.GENERATE hi LOGITBIAS '{\"#99999999999\": 1}'", &["LOGITBIAS", "no token #99999999999"]),
            ("GEMMA.GENERATE hi LOGITBIAS '{\"xqz kwv\": 1}'", &["LOGITBIAS", "'xqz kwv' is", "tokens (#"]),
            ("GEMMA.GENERATE hi LOGITBIAS '{\"\": 1}'", &["LOGITBIAS", "'' is 0 tokens"]),
            ("GEMMA.GENERATE hi LOGITBIAS '{\"<eos>\": 1, \"#1\": 2}'", &["LOGITBIAS", "both token 1"]),
            ("GEMMA.GENERATE hi K 3", &["K is only possible together with MEMORY"]),
            ("GEMMA.GENERATE hi FILTER true", &["FILTER is only possible together with MEMORY"]),
            ("GEMMA.GENERATE hi TIMEOUT 0", &["TIMEOUT"]),
            ("GEMMA.GENERATE hi PROFILE fast", &["PROFILE", "one of speed, balanced, quality, research"]),
            ("GEMMA.GENERATE hi FORMAT xml", &["FORMAT", "json"]),
            ("GEMMA.GENERATE hi GRAMMAR x", &["unknown option 'GRAMMAR'"]),
            ("GEMMA.GENERATE hi MEMORY k MEMORY l", &["MEMORY is given twice"]),
        ],
    );
    client.ok("SET text value");
    assert!(client.err("GEMMA.GENERATE hi MEMORY text").starts_with("WRONGTYPE"));
    client.ok("MEM.STORE k text VALUES 3 1 2 3");
    // Without an encoder, memories are found by their words: "hi" is none of them.
    assert!(client.ok("GEMMA.GENERATE hi MEMORY k MAXTOKENS 1").field("memories").items().is_empty());
    assert!(client.err("GEMMA.GENERATE hi MEMORY k FILTER '.importence > 1'").contains(".importance"));
}

#[test]
fn vectors() {
    let server = Server::plain(&[]);
    let mut client = filled(&server);
    refused(
        &mut client,
        &[
            ("MEM.STORE k a VALUES 3 1 nan 2", &["VALUES", "2 of 3", "finite"]),
            ("MEM.STORE k a VALUES 3 1 inf 2", &["VALUES", "finite"]),
            ("MEM.STORE k a VALUES 3 1 1e99 2", &["VALUES"]),
            ("MEM.STORE k a VALUES 3 1 x 2", &["VALUES", "x"]),
            ("MEM.STORE k a VALUES 3 1 2", &["VALUES", "3", "2"]),
            ("MEM.STORE k a VALUES 0", &["VALUES"]),
            ("MEM.STORE k a VALUES 2 1 2", &["3", "2"]),
            ("MEM.STORE k a VALUES 3 0 0 0", &["direction"]),
            ("MEM.STORE k a VECTOR abc", &["VECTOR", "3 bytes", "multiple of 4"]),
            ("MEM.STORE k a VECTOR ''", &["VECTOR"]),
            ("MEM.RECALL k VALUES 2 1 2", &["3", "2"]),
            ("MEM.RECALL k VALUES 3 0 0 0", &["direction"]),
        ],
    );
    let digest = client.digest("k");
    for (vector, part) in [([1.0, f32::NAN, 0.0], "component 2 of 3"), ([1.0, 0.0, f32::INFINITY], "component 3 of 3")]
    {
        for command in
            [words!["MEM.STORE", "k", "a", "VECTOR", blob(&vector)], words!["MEM.RECALL", "k", "VECTOR", blob(&vector)]]
        {
            let error = client.err_words(&command);
            assert!(error.contains("finite") && error.contains(part), "{error}");
        }
    }
    let long = vec![1.0f32; 20_000];
    let error = client.err_words(&words!["MEM.STORE", "new", "a", "VECTOR", blob(&long)]);
    assert!(error.contains("20000") && error.contains("16384"), "{error}");
    assert_eq!((client.digest("k"), client.ok("EXISTS new").int()), (digest, 0));
    // As large and as small as floats go.
    client.ok_words(&words!["MEM.STORE", "extreme", "large", "VECTOR", blob(&[3e38, 3e38, -3e38])]);
    client.ok_words(&words!["MEM.STORE", "extreme", "small", "VECTOR", blob(&[1e-40, 1e-40, -1e-40])]);
    let found = client.ok_words(&words!["MEM.RECALL", "extreme", "VECTOR", blob(&[1.0, 1.0, -1.0])]).items();
    assert!(found.iter().all(|memory| (memory.field("similarity").float() - 1.0).abs() < 1e-4), "{found:?}");
}

#[test]
fn json() {
    let server = Server::plain(&[]);
    let mut client = filled(&server);
    let nested = format!("MEM.STORE k a NOEMBED META '{}1{}'", "{\"a\":".repeat(40), "}".repeat(40));
    let deepest = format!("MEM.STORE k a NOEMBED META '{{\"a\":{}{}}}'", "[".repeat(5_000), "]".repeat(5_000));
    let wide = format!(
        "MEM.STORE k a NOEMBED META '{{{}}}'",
        (0..1_000).map(|n| format!("\"f{n}\":1")).collect::<Vec<_>>().join(",")
    );
    let large = format!("MEM.STORE k a NOEMBED META '{{\"a\":\"{}\"}}'", "x".repeat(100_000));
    refused(
        &mut client,
        &[
            ("MEM.STORE k a NOEMBED META {", &["META", "JSON"]),
            ("MEM.STORE k a NOEMBED META '[1]'", &["META", "object"]),
            ("MEM.STORE k a NOEMBED META '{\"a\":1} x'", &["META"]),
            ("MEM.STORE k a NOEMBED META '{\"tier\":1}'", &["tier", "TIER"]),
            ("MEM.STORE k a NOEMBED META '{\"importance\":1}'", &["IMPORTANCE"]),
            ("MEM.STORE k a NOEMBED META '{\"doc\":1}'", &["doc", "SOURCE"]),
            ("MEM.STORE k a NOEMBED META '{\"_x\":1}'", &["_x"]),
            (&nested, &["META"]),
            (&deepest, &["META"]),
            (&wide, &["META", "256"]),
            (&large, &["META", "65536"]),
            ("MEM.UPDATE k 1-0 META '{\"tags\":1}'", &["TAGS"]),
            ("MEM.MSTORE k '{\"noembed\":true}'", &["memory 1", "'content' is missing"]),
            (
                "MEM.MSTORE k '{\"content\":\"a\",\"noembed\":true}' '{\"content\":1}'",
                &["memory 2", "'content' takes a string, not a number"],
            ),
            (
                "MEM.MSTORE k '{\"content\":\"a\",\"noembed\":true,\"colour\":1}'",
                &["memory 1", "unknown field 'colour'", "accepted"],
            ),
            ("MEM.MSTORE k '{\"content\":\"a\",\"vector\":[1,\"x\"]}'", &["memory 1", "vector"]),
            ("MEM.MSTORE k '{\"content\":\"a\",\"vector\":[]}'", &["vector"]),
            ("MEM.MSTORE k '{\"content\":\"a\",\"noembed\":true,\"tier\":\"x\"}'", &["memory 1", "unknown tier 'x'"]),
            ("MEM.MSTORE k '{\"content\":\"a\",\"noembed\":true,\"at\":-1}'", &["memory 1", "'at'", "whole number"]),
            ("MEM.MSTORE k '{\"content\":\"a\",\"noembed\":true,\"id\":\"x\"}'", &["memory 1", "x"]),
            ("MEM.MSTORE k '{\"content\":\"a\",\"noembed\":true,\"tags\":\"x\"}'", &["memory 1", "'tags'", "array"]),
            ("MEM.MSTORE k '{\"content\":\"a\",\"noembed\":true,\"meta\":[]}'", &["memory 1", "'meta'", "object"]),
            ("MEM.MSTORE k text", &["JSON"]),
            ("MEM.MSTORE k", &["json"]),
        ],
    );
}

#[test]
fn text_that_is_no_utf8_or_too_long() {
    let server = Server::plain(&[]);
    let mut client = filled(&server);
    let digest = client.digest("k");
    let broken: &[u8] = b"abc\xff\xfedef";
    for command in [
        words!["MEM.STORE", "k", broken, "NOEMBED"],
        words!["MEM.STORE", "k", "a", "NOEMBED", "SESSION", broken],
        words!["MEM.STORE", "k", "a", "NOEMBED", "TAGS", 1, broken],
        words!["MEM.UPDATE", "k", "1-0", "CONTENT", broken, "NOEMBED"],
        words!["MEM.RECALL", "k", broken],
        words!["MEM.COUNT", "k", "FILTER", broken],
        words!["GEMMA.GENERATE", broken],
        words!["GEMMA.TOKENIZE", broken],
    ] {
        let error = client.err_words(&command);
        assert!(error.contains("UTF-8") && error.contains("byte"), "{}: {error}", String::from_utf8_lossy(&command[0]));
    }
    let error = client.err_words(&words!["MEM.MSTORE", "k", b"{\"content\":\"\xff\"}".to_vec()]);
    assert!(error.contains("UTF-8") || error.contains("JSON"), "{error}");
    // An error shows what is not printable in a printable form, on one line.
    let error = client.err_words(&words!["MEM.STORE", "k", "a", b"a\r\nb\0\x07c".to_vec()]);
    assert!(error.contains("unknown option") && !error.contains(['\r', '\n', '\0', '\x07']), "{error:?}");
    let oversize = "x".repeat((1 << 20) + 1);
    let error = client.err_words(&words!["MEM.STORE", "k", &oversize, "NOEMBED"]);
    assert!(
        error.contains("1048577 bytes") && error.contains("1048576") && error.contains("engram.max-content-bytes"),
        "{error}"
    );
    assert!(client.err_words(&words!["MEM.UPDATE", "k", "1-0", "CONTENT", &oversize, "NOEMBED"]).contains("1048576"));
    let error =
        client.err_words(&words!["MEM.MSTORE", "k", format!("{{\"content\":\"{oversize}\",\"noembed\":true}}")]);
    assert!(error.contains("memory 1") && error.contains("1048576"), "{error}");
    for (option, limit) in
        [("SESSION", "256"), ("SPEAKER", "256"), ("TYPE", "256"), ("OUTCOME", "256"), ("SOURCE", "4096")]
    {
        let error = client.err_words(&words!["MEM.STORE", "k", "a", "NOEMBED", option, "y".repeat(5_000)]);
        assert!(error.contains(option) && error.contains(limit), "{option}: {error}");
    }
    let error = client.err_words(&words!["MEM.STORE", "k", "a", "NOEMBED", "TAGS", 1, "y".repeat(300)]);
    assert!(error.contains("256"), "{error}");
    let mut many = words!["MEM.STORE", "k", "a", "NOEMBED", "TAGS", 200];
    many.extend((0..200).map(|n| format!("t{n}").into_bytes()));
    assert!(client.err_words(&many).contains("128"));
    assert_eq!(client.digest("k"), digest);
    let largest = "x".repeat(1 << 20);
    client.ok_words(&words!["MEM.STORE", "k", &largest, "NOEMBED"]);
}

#[test]
fn what_only_the_server_may_send() {
    let server = Server::plain(&[]);
    let mut client = filled(&server);
    refused(
        &mut client,
        &[
            ("MEM.APPLY k x", &["clients cannot call it"]),
            ("MEM.APPLY k", &["MEM.APPLY"]),
            ("EVAL 'return redis.call(\"MEM.APPLY\", KEYS[1], \"x\")' 1 k", &["clients cannot call it"]),
        ],
    );
}

//! The filter language through the server: each operator, each field, and what is wrong with a broken one.

use crate::client::{Client, Reply, words};
use crate::harness::Server;

fn three(client: &mut Client) {
    client.ok(
        "MEM.STORE k 'red apple' ID 1-0 AT 100 IMPORTANCE 0.2 CONFIDENCE 0.5 TIER working TYPE event SPEAKER Ada SESSION s1 TAGS 2 fruit red \
         META '{\"price\":1.5,\"shop\":\"north\",\"list\":[1,\"two\"]}' VALUES 2 1 0",
    );
    client.ok("MEM.STORE k 'green pear' ID 2-0 AT 200 IMPORTANCE 0.5 TIER semantic SOURCE book OUTCOME distracted TAGS 1 fruit META '{\"price\":3}' VALUES 2 1 0");
    client.ok("MEM.STORE k 'old \"car\"' ID 3-0 AT 300 IMPORTANCE 0.9 TIER long_term PIN META '{\"price\":-2,\"new\":false}' VALUES 2 1 0");
}

#[test]
fn every_operator_and_field() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    three(&mut client);
    for (filter, ids) in [
        (".importance >= 0.5", "2 3"),
        (".importance > 0.5", "3"),
        (".importance <= 0.5", "1 2"),
        (".importance < 0.5", "1"),
        (".importance == 0.5", "2"),
        (".importance != 0.5", "1 3"),
        (".tier == \"semantic\"", "2"),
        (".tier in [\"working\", \"long_term\"]", "1 3"),
        ("not (.tier == \"semantic\")", "1 3"),
        ("!(.tier == \"semantic\") && .importance < 0.5", "1"),
        (".importance < 0.3 or .importance > 0.8", "1 3"),
        (".importance < 0.3 || .importance > 0.8 and .at == 100", "1"),
        ("\"pear\" in .content", "2"),
        ("\"fruit\" in .tags", "1 2"),
        ("\"frui\" in .tags", ""),
        (".price + 1 > 3", "2"),
        (".price * 2 == 3", "1"),
        (".price - 1 == -3", "3"),
        (".price / 2 >= 1.5", "2"),
        (".price % 2 == 1", "2"),
        (".price ** 2 == 4", "3"),
        ("-.price > 0", "3"),
        (".shop == \"north\"", "1"),
        (".shop != \"north\"", ""),
        ("not (.shop == \"north\")", "2 3"),
        ("\"two\" in .list", "1"),
        ("1 in .list", "1"),
        (".new == false", "3"),
        (".pinned", "3"),
        (".pinned == true", "3"),
        (".speaker == 'Ada'", "1"),
        (".session == \"s1\"", "1"),
        (".source == \"book\"", "2"),
        (".outcome == \"distracted\"", "2"),
        (".type == \"event\"", "1"),
        (".id == \"3-0\"", "3"),
        (".at > 100 and .at < 300", "2"),
        (".confidence < 1", "1"),
        (".uses == 0", "1 2 3"),
        (".created > 1000 and .accessed > 1000", "1 2 3"),
        (".expires > 1000", "1 3"),
        (".content == \"old \\\"car\\\"\"", "3"),
        ("true", "1 2 3"),
        ("AND", "error"),
    ] {
        if ids == "error" {
            client.err(&format!("MEM.TIMELINE k - + FILTER '{filter}'"));
            continue;
        }
        // The quotes of the command line are the same as those of a text: give words.
        let expected: Vec<String> = ids.split_whitespace().map(|n| format!("{n}-0")).collect();
        let found = client.ok_words(&words!["MEM.TIMELINE", "k", "-", "+", "FILTER", filter]).items();
        let found: Vec<String> = found.iter().map(|m| m.field("id").text()).collect();
        assert_eq!(found, expected, "{filter}");
        let recalled =
            client.ok_words(&words!["MEM.RECALL", "k", "VALUES", 2, 1, 0, "NOTOUCH", "FILTER", filter]).items();
        assert_eq!(recalled.len(), expected.len(), "{filter} in RECALL");
    }
}

#[test]
fn a_broken_filter_is_an_error_with_a_place_everywhere_it_can_stand() {
    let server = Server::plain(&[]);
    let mut client = server.client();
    three(&mut client);
    let digest = client.digest("k");
    for (filter, part) in [
        (".importance = 0.5", "=="),
        (".importance >", "at the end"),
        (".importence > 0.5", "did you mean .importance?"),
        (".prise > 1", "did you mean .price?"),
        (".zzzzzzzzzzzz > 1", "no memory has a field 'zzzzzzzzzzzz'"),
        ("importance > 0.5", ".importance"),
        ("(.importance > 0.5", "at the end"),
        (".tier in [\"a\"", "at the end"),
        ("\"open", "closing quote"),
        (".at > 1e999", "not a number"),
        (".at > 1 .at < 2", "at character 9"),
        ("", "at the end"),
    ] {
        for head in [
            vec!["MEM.RECALL", "k", "VALUES", "2", "1", "0"],
            vec!["MEM.COUNT", "k"],
            vec!["MEM.SCAN", "k", "0"],
            vec!["MEM.TIMELINE", "k", "-", "+"],
            vec!["MEM.FORGET", "k"],
        ] {
            let mut all: Vec<Vec<u8>> = head.iter().map(|word| word.as_bytes().to_vec()).collect();
            all.extend([b"FILTER".to_vec(), filter.as_bytes().to_vec()]);
            let error = client.err_words(&all);
            assert!(
                error.starts_with("ERR") && error.contains("FILTER") && error.contains(part),
                "{} {filter}: {error}",
                head[0]
            );
        }
    }
    assert_eq!(client.digest("k"), digest);
    let deep = format!("{}1{}", "(".repeat(5000), ")".repeat(5000));
    let error = client.err_words(&words!["MEM.COUNT", "k", "FILTER", deep]);
    assert!(error.contains("deeper") || error.contains("levels"), "{error}");
    let long = format!("{}1", "1 or ".repeat(10_000));
    let error = client.err_words(&words!["MEM.COUNT", "k", "FILTER", long]);
    assert!(error.contains("at most"), "{error}");
    // A filter on a key that does not exist is read all the same; of an empty space no name is unknown.
    assert!(client.err("MEM.COUNT missing FILTER '.a >'").contains("FILTER"));
    client.ok("MEM.CONFIG SET empty dedup 0");
    client.ok("MEM.COUNT empty FILTER '.anything > 1'");
}

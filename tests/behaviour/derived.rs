//! What consolidation makes of memories (summaries of turns, links), and what becomes of it when those are forgotten.

use redis::Value;

use crate::client::{Client, Reply, words};
use crate::digest::Pair;
use crate::harness::{Server, wait_until};

const WITHOUT_ENCODER: &[&str] = &["engram.embedder \"\""];

/// Appends a turn to a session at a time.
fn say(client: &mut Client, session: &str, role: &str, at: u64, text: &str) -> String {
    client.ok_words(&words!["MEM.SESSION", "APPEND", "k", session, role, text, "SPEAKER", "Ann", "AT", at]).text()
}

/// What passes a filter, in the order of time.
fn found(client: &mut Client, filter: &str) -> Vec<Value> {
    client.ok_words(&words!["MEM.TIMELINE", "k", "-", "+", "FILTER", filter]).items().to_vec()
}

fn summaries(client: &mut Client) -> Vec<Value> {
    found(client, ".type == \"summary\"")
}

fn ids(memories: &[Value]) -> Vec<String> {
    memories.iter().map(|memory| memory.field("id").text()).collect()
}

/// Turns of a conversation about a garden.
fn garden(client: &mut Client, session: &str, from: u64, turns: usize) -> Vec<String> {
    let said = [
        "We planted 12 apple trees behind the house in Bern.",
        "That sounds lovely.",
        "Martin wants to keep bees there from May 2024 on.",
        "Great!",
        "The permit costs 340 francs a year.",
    ];
    let turn = |n: usize| {
        let role = if n.is_multiple_of(2) { "user" } else { "assistant" };
        let text = format!("{} ({})", said[n % said.len()], from + n as u64);
        say(client, session, role, from + n as u64, &text)
    };
    (0..turns).map(turn).collect()
}

#[test]
fn turns_become_summaries_that_outlive_them() {
    let server = Server::plain(WITHOUT_ENCODER);
    for mut client in [server.client(), server.client3()] {
        client.ok("FLUSHALL");
        client.ok("MEM.CONFIG SET k turns-to-summary 5 episodic.capacity 0");
        let turns = garden(&mut client, "s", 1_000, 12);
        garden(&mut client, "t", 2_000, 4);
        let digest = client.digest("k");
        let dry = client.ok("MEM.CONSOLIDATE k SUMMARIZE DRYRUN");
        assert_eq!(client.digest("k"), digest, "a dry run changes nothing");
        let report = client.ok("MEM.CONSOLIDATE k SUMMARIZE");
        let reasons = |report: &Value| {
            report.field("changes").items().iter().map(|change| change.field("reason").text()).collect::<Vec<_>>()
        };
        assert_eq!((report.field("summarized").int(), reasons(&dry)), (2, reasons(&report)), "{report:?}");
        assert!(reasons(&report)[0].starts_with("5 turns of session s: Ann (1 January 1970): "), "{report:?}");
        // Of ten turns of s; two are left, and the four of t are too few.
        let made = summaries(&mut client);
        assert_eq!(made.len(), 2);
        for (n, summary) in made.iter().enumerate() {
            let sources = &turns[n * 5..n * 5 + 5];
            assert_eq!(summary.field("tier").text(), "episodic");
            assert_eq!(
                (summary.field("session").text(), summary.field("at").int()),
                ("s".into(), 1_004 + n as i64 * 5)
            );
            let whole = &client.ok(&format!("MEM.GET k {}", ids(&made)[n])).items()[0];
            assert_eq!(whole.field("from").texts(), sources);
            assert!(whole.field("content").text().contains("12 apple trees"), "{whole:?}");
            let related = client.ok(&format!("MEM.RELATED k {}", ids(&made)[n]));
            assert_eq!(related.items().len(), 5);
            assert_eq!(related.items()[0].field("reason").text(), "it is summed up");
        }
        // Nothing is summed up twice.
        assert_eq!(client.ok("MEM.CONSOLIDATE k SUMMARIZE").field("summarized").int(), 0);
        garden(&mut client, "t", 2_004, 1);
        assert_eq!(client.ok("MEM.CONSOLIDATE k SUMMARIZE").field("summarized").int(), 1);
        // They outlive their turns.
        turns.iter().for_each(|id| drop(client.ok(&format!("MEM.UPDATE k {id} TTL 1"))));
        wait_until("turns expire", || found(&mut client, ".session == \"s\" and .role == \"user\"").is_empty());
        assert_eq!(summaries(&mut client).len(), 3);
    }
}

#[test]
fn the_timer_sums_up_and_links_unless_it_is_switched_off() {
    let server = Server::plain(WITHOUT_ENCODER);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k turns-to-summary 4 consolidate-interval 1 episodic.capacity 0");
    garden(&mut client, "s", 1_000, 9);
    wait_until("the timer sums up", || summaries(&mut client).len() == 2);
    client.ok("MEM.CONFIG SET k turns-to-summary 0 link off");
    garden(&mut client, "s", 1_009, 9);
    let runs = |client: &mut Client| client.info("engram_consolidations").parse::<u64>().unwrap();
    let before = runs(&mut client);
    wait_until("it runs on", || runs(&mut client) > before + 1);
    assert_eq!(summaries(&mut client).len(), 2);
}

#[test]
fn many_summaries_have_the_turns_beneath_them_read_for_facts() {
    let server = Server::plain(WITHOUT_ENCODER);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k turns-to-summary 2 summaries-to-facts 2 extract off episodic.capacity 0");
    say(&mut client, "s", "user", 1_000, "I live in Rome.");
    say(&mut client, "s", "assistant", 2_000, "Lovely, you live in Paris.");
    let first = client.ok("MEM.CONSOLIDATE k SUMMARIZE");
    assert_eq!((first.field("summarized").int(), first.field("learned").int()), (1, 0));
    say(&mut client, "s", "user", 3_000, "I'm allergic to nuts.");
    say(&mut client, "s", "user", 4_000, "That is all.");
    assert_eq!(client.ok("MEM.CONSOLIDATE k SUMMARIZE").field("learned").int(), 0, "there were not two yet");
    say(&mut client, "s", "user", 5_000, "I own a boat, which is in no summary.");
    let report = client.ok("MEM.CONSOLIDATE k SUMMARIZE");
    assert_eq!(report.field("learned").int(), 2, "{report:?}");
    let facts = found(&mut client, ".tier == \"semantic\"");
    let contents: Vec<String> = facts.iter().map(|fact| fact.field("content").text()).collect();
    assert_eq!(contents, ["Ann lives in Rome.", "Ann is allergic to nuts."]);
    assert_eq!(client.ok("MEM.CONSOLIDATE k SUMMARIZE").field("learned").int(), 0, "they count once");
}

#[test]
fn what_is_forgotten_takes_along_what_was_made_of_it_alone() {
    let server = Server::plain(WITHOUT_ENCODER);
    for mut client in [server.client(), server.client3()] {
        client.ok("FLUSHALL");
        client.ok("MEM.CONFIG SET k turns-to-summary 3");
        let rome = say(&mut client, "s", "user", 1_000, "I live in Rome.");
        let nuts = say(&mut client, "s", "user", 2_000, "I'm allergic to nuts.");
        let again = say(&mut client, "s", "user", 3_000, "Remember, I am allergic to nuts!");
        client.ok("MEM.CONSOLIDATE k EXTRACT SUMMARIZE");
        let fact = |client: &mut Client, value: &str| {
            found(client, &format!(".tier == \"semantic\" and \"{value}\" in .content"))
        };
        let confidence = |client: &mut Client| fact(client, "nuts")[0].field("confidence").float();
        let sure = confidence(&mut client);
        assert!(sure > 0.98, "{sure}: two say so");
        let (lives, sum) = (ids(&fact(&mut client, "Rome")).remove(0), ids(&summaries(&mut client)).remove(0));
        // The fact that nobody else states, and the summary that quotes it.
        let mut would = client.ok(&format!("MEM.FORGET k {rome} DRYRUN")).texts();
        would.sort();
        let mut expected = vec![rome.clone(), lives, sum];
        expected.sort();
        assert_eq!(would, expected);
        assert_eq!(client.ok(&format!("MEM.FORGET k {rome}")).int(), 3);
        assert!(fact(&mut client, "Rome").is_empty() && summaries(&mut client).is_empty());
        // The others are summed up anew once there are enough.
        let more = say(&mut client, "s", "user", 4_000, "It is a fine day.");
        assert_eq!(client.ok("MEM.CONSOLIDATE k SUMMARIZE").field("summarized").int(), 1);
        let sum = ids(&summaries(&mut client)).remove(0);
        let whole = &client.ok(&format!("MEM.GET k {sum}")).items()[0];
        assert_eq!(whole.field("from").texts(), [nuts.clone(), again.clone(), more]);
        assert!(!whole.field("content").text().contains("Rome"));
        // Of two sources one goes: the fact stays, less sure. And the summary, which quoted it, goes.
        assert_eq!(client.ok(&format!("MEM.FORGET k {nuts}")).int(), 2);
        let left = confidence(&mut client);
        assert!((left - 0.9).abs() < 0.005, "{left}: one says so");
        let allergy = ids(&fact(&mut client, "nuts")).remove(0);
        let whole = &client.ok(&format!("MEM.GET k {allergy}")).items()[0];
        assert_eq!(whole.field("from").texts(), std::slice::from_ref(&again));
        // A source that says something else is none.
        client.ok_words(&words!["MEM.UPDATE", "k", again, "CONTENT", "I am allergic to cats.", "NOEMBED"]);
        assert!(fact(&mut client, "nuts").is_empty());
        client.ok("MEM.CONSOLIDATE k EXTRACT");
        assert_eq!(fact(&mut client, "cats").len(), 1);
        // So does a session that is deleted.
        client.ok("MEM.SESSION DEL k s");
        assert!(fact(&mut client, "cats").is_empty());
        // A link of a caller, who gives no reason, takes nothing along.
        let a = client.ok("MEM.STORE k one NOEMBED").text();
        let b = client.ok("MEM.STORE k two NOEMBED").text();
        client.ok(&format!("MEM.LINK k {b} {a} REL from"));
        assert_eq!(client.ok(&format!("MEM.FORGET k {a}")).int(), 1);
    }
}

#[test]
fn what_belongs_together_is_linked_with_a_reason() {
    let server = Server::with_text(&[]);
    let mut client = server.client();
    client.ok("MEM.CONFIG SET k extract off turns-to-summary 0 consolidate-interval 0");
    let fact = |client: &mut Client, text: &str, subject: &str, value: &str| {
        let meta = format!(r#"{{"subject":"{subject}","attribute":"x","value":"{value}"}}"#);
        client.ok_words(&words!["MEM.STORE", "k", text, "TIER", "semantic", "META", meta]).text()
    };
    let wife = fact(&mut client, "Ann's wife is Maria.", "Ann", "Maria");
    let works = fact(&mut client, "Maria works as a vet.", "Maria", "vet");
    let tea = client.ok("MEM.STORE k 'Ann likes green tea very much.' TIER semantic").text();
    let cup = client.ok("MEM.STORE k 'Ann likes a cup of green tea.' TIER semantic").text();
    client.ok("MEM.STORE k 'The invoice of the plumber is overdue.' TIER semantic");
    say(&mut client, "s", "user", 1_000, "Ann likes green tea a lot.");
    let dry = client.ok("MEM.CONSOLIDATE k LINK DRYRUN");
    let report = client.ok("MEM.CONSOLIDATE k LINK");
    assert_eq!(dry.field("linked").int(), report.field("linked").int(), "{report:?}");
    let via = |client: &mut Client, from: &str, to: &str| {
        let related = client.ok(&format!("MEM.RELATED k {from}"));
        let found = related.items().iter().find(|other| other.field("id").text() == to).cloned();
        found.map(|other| (other.field("rel").text(), other.field("reason").text()))
    };
    assert_eq!(via(&mut client, &wife, &works), Some(("about".into(), "it says more of Maria".into())));
    let (rel, reason) = via(&mut client, &tea, &cup).unwrap();
    assert!(rel == "similar" && reason.starts_with("a cosine of 0."), "{reason}");
    // Turns have their neighbours and get no links; what is like nothing gets none.
    assert_eq!(client.ok(&format!("MEM.RELATED k {tea}")).items().len(), 1);
    assert_eq!(client.ok("MEM.CONSOLIDATE k LINK").field("linked").int(), 0, "each is looked at once");
    // What says something else is looked at again.
    client.ok_words(&words!["MEM.UPDATE", "k", tea, "CONTENT", "The tram was late again."]);
    assert_eq!(via(&mut client, &tea, &cup), None, "the link was for what it said");
    assert_eq!(client.ok("MEM.CONSOLIDATE k LINK").field("linked").int(), 0);
    client.ok_words(&words!["MEM.UPDATE", "k", tea, "CONTENT", "Ann likes green tea, very much so."]);
    assert_eq!(client.ok("MEM.CONSOLIDATE k LINK").field("linked").int(), 1);
}

#[test]
fn summaries_and_links_survive_and_are_the_same_everywhere() {
    let pair = Pair::start(WITHOUT_ENCODER);
    let mut client = pair.primary.client();
    client.ok("MEM.CONFIG SET k turns-to-summary 3");
    garden(&mut client, "s", 1_000, 8);
    let live = say(&mut client, "s", "user", 2_000, "My wife is Maria, and Maria works as a vet.");
    client.ok("MEM.CONSOLIDATE k EXTRACT SUMMARIZE LINK");
    let report = client.ok("MEM.CONSOLIDATE k LINK");
    assert!(report.field("linked").int() > 0, "{report:?}");
    pair.check_persistent(&["k"]);
    let report = client.ok("MEM.CONSOLIDATE k EXTRACT SUMMARIZE LINK");
    for kind in ["learned", "summarized", "linked"] {
        assert_eq!(report.field(kind).int(), 0, "{kind}: what was done stays done");
    }
    assert!(client.ok(&format!("MEM.FORGET k {live}")).int() > 2);
    pair.check_persistent(&["k"]);
}

//! The rules beside what a person decided, and what holds for any text.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// Path and question of each line.
fn labelled(list: &str) -> Vec<(bool, &str)> {
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (path, question) = line.split_once(' ').unwrap();
            assert!(path == "fast" || path == "slow", "{line}");
            (path == "fast", question)
        })
        .collect()
}

/// Of how many questions the rules think as the person did; the others are printed.
fn agreement(list: &[(bool, &str)]) -> usize {
    let agrees = |(fast, question): &&(bool, &str)| {
        let routed = route(question);
        if routed.fast != *fast {
            println!("{}: {question} ({})", if *fast { "should be fast" } else { "should be slow" }, routed.why);
        }
        routed.fast == *fast
    };
    list.iter().filter(agrees).count()
}

#[test]
fn the_rules_decide_as_a_person_does() {
    let all = labelled(include_str!("labelled.txt"));
    let fast = all.iter().filter(|(fast, _)| *fast).count();
    assert!(all.len() >= 60 && fast >= 30 && all.len() - fast >= 30, "{} questions", all.len());
    let agreed = agreement(&all);
    println!("{agreed} of {} questions", all.len());
    assert!(agreed * 100 >= all.len() * 95, "{agreed} of {}", all.len());
}

/// What they do with questions that they were not made for, written and scored once after the rules; how many it was then is here to be kept.
#[test]
fn the_rules_hold_for_later_questions() {
    let all = labelled(include_str!("later.txt"));
    assert_eq!(all.len(), 40);
    let agreed = agreement(&all);
    println!("{agreed} of 40 questions");
    assert!(agreed >= 31, "{agreed} of 40");
}

proptest! {
    #[test]
    fn any_text_gets_a_path_and_case_and_blanks_around_it_change_nothing(text in "\\PC{0,240}") {
        let routed = route(&text);
        prop_assert!(!routed.why.is_empty());
        prop_assert_eq!(route(&format!("  {text}\t ")), routed);
        if text.is_ascii() {
            prop_assert_eq!(route(&text.to_ascii_uppercase()), routed);
        }
    }

    #[test]
    fn a_second_question_or_a_longer_one_is_never_short(
        at in 0usize..91,
        more in prop::sample::select(vec!["Where is it?", "Who is she?", "Write it down."]),
    ) {
        let all = labelled(include_str!("labelled.txt"));
        let question = all[at % all.len()].1.trim_end_matches(['.', '?', '!']);
        let two = format!("{question}? {more}");
        prop_assert!(!route(&two).fast);
        let long = format!("{question} {}", "indeed ".repeat(WORDS));
        prop_assert!(!route(&long).fast);
    }
}

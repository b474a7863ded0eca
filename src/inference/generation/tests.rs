//! Whole answers.

use std::sync::Arc;

use super::*;
use crate::gemma::tests::{golden, ids, model};
use crate::gemma::{Role, Turn};

fn run(model: &Arc<Gemma>, prompt: &[u32], sampling: &Sampling) -> Generation {
    let mut work = Workspace::new(Arc::clone(model)).unwrap();
    let mut generation = Generation::new(Arc::clone(model), prompt.to_vec(), sampling.clone()).unwrap();
    let mut streamed = String::new();
    while generation.step(&mut work).unwrap() == Step::Running {
        streamed.push_str(&generation.take_text());
    }
    streamed.push_str(&generation.take_text());
    assert_eq!(streamed, generation.text());
    generation
}

fn greedy(max_tokens: usize) -> Sampling {
    Sampling { temperature: 0.0, max_tokens, ..Sampling::default() }
}

#[test]
fn greedy_text_is_that_of_transformers() {
    let golden = golden("gemma_logits.json");
    let model = model("random-f32.gguf");
    let want = ids(&golden["greedy"]["tokens"]);
    let generation = run(&model, &ids(&golden["tokens"]), &greedy(want.len()));
    assert_eq!(generation.token_ids(), want);
    assert_eq!(generation.text(), golden["greedy"]["text"].as_str().unwrap());
    assert_eq!(generation.finish(), Some(Finish::Length));
    assert_eq!(generation.tokens(), want.len());
    assert_eq!(generation.prompt_tokens(), golden["tokens"].as_array().unwrap().len());
    assert!(generation.prompt_tokens_per_second().unwrap() > 0.0);
    assert!(generation.tokens_per_second().unwrap() > 0.0);
}

#[test]
fn the_same_seed_gives_the_same_text_alone_or_beside_others() {
    let model = model("random-q8_0.gguf");
    let prompt = model.tokenizer().encode("The capital of Brelin is");
    let sampling = |seed| Sampling { seed, max_tokens: 24, temperature: 1.0, ..Sampling::default() };
    let alone: Vec<Vec<u32>> = (0..8).map(|seed| run(&model, &prompt, &sampling(seed)).token_ids().to_vec()).collect();
    assert!(alone.iter().any(|ids| *ids != alone[0]), "other seeds must give other texts");
    let mut all: Vec<Generation> =
        (0..8).map(|seed| Generation::new(Arc::clone(&model), prompt.clone(), sampling(seed)).unwrap()).collect();
    let mut work = Workspace::new(Arc::clone(&model)).unwrap();
    while all.iter_mut().map(|g| g.step(&mut work).unwrap()).filter(|&step| step == Step::Running).count() > 0 {}
    for (seed, (generation, alone)) in all.iter().zip(&alone).enumerate() {
        assert_eq!(generation.token_ids(), alone, "seed {seed}");
    }
}

#[test]
fn stop_strings_end_the_text_before_them() {
    let golden = golden("gemma_logits.json");
    let model = model("random-f32.gguf");
    let text = golden["greedy"]["text"].as_str().unwrap();
    let at = text.char_indices().nth(15).unwrap().0;
    let stop: String = text[at..].chars().take(6).collect();
    let sampling = Sampling { stop: vec!["never said".to_owned(), stop.clone()], ..greedy(64) };
    let generation = run(&model, &ids(&golden["tokens"]), &sampling);
    assert_eq!(generation.finish(), Some(Finish::StopString));
    assert_eq!(generation.text(), &text[..text.find(&stop).unwrap()]);
}

#[test]
fn a_prompt_must_leave_room_and_the_context_ends_an_answer() {
    let model = model("random-q4_0.gguf");
    let context = model.info().context;
    let new = |len: usize| Generation::new(Arc::clone(&model), vec![7; len], greedy(2048)).map(|_| ());
    let message = new(context).unwrap_err().to_string();
    assert!(
        message.contains(&format!("{context} tokens")) && message.contains(&(context - 1).to_string()),
        "{message}"
    );
    assert!(new(0).unwrap_err().to_string().contains("no tokens"));
    let generation = run(&model, &vec![7; context - 1], &greedy(2048));
    assert!(generation.tokens() <= 2);
    assert!(generation.finish().is_some());
    assert!(Generation::new(model, vec![7], Sampling { top_p: 2.0, ..greedy(1) }).is_err());
}

#[test]
fn confidence_is_the_mean_probability_with_a_reason() {
    let golden = golden("gemma_logits.json");
    let model = model("random-f32.gguf");
    let fresh = Generation::new(Arc::clone(&model), vec![7], greedy(1)).unwrap();
    assert_eq!(fresh.confidence(), (0.0, "no token was generated".to_owned()));
    let (_, reason) = run(&model, &ids(&golden["tokens"]), &greedy(1)).confidence();
    assert!(reason.ends_with(" over 1 token"), "{reason}");
    let generation = run(&model, &ids(&golden["tokens"]), &greedy(32));
    let (confidence, reason) = generation.confidence();
    assert!(confidence > 0.0 && confidence < 1.0);
    assert!(reason.starts_with("mean token probability 0.") && reason.contains("weakest at \""), "{reason}");
}

#[test]
fn the_copying_model_answers_as_transformers_does() {
    let model = model("copy.gguf");
    for example in golden("copy_answers.json").as_array().unwrap() {
        let prompt = model.prompt(&[Turn { role: Role::User, text: example["user"].as_str().unwrap() }]).unwrap();
        assert_eq!(prompt, ids(&example["tokens"]));
        let generation = run(&model, &prompt, &greedy(128));
        assert_eq!(generation.text(), example["answer"].as_str().unwrap());
        // The model ends its turn by itself; the golden list may or may not hold that last token.
        assert_eq!(generation.finish(), Some(Finish::Stop));
        let want = ids(&example["answer_tokens"]);
        assert_eq!(generation.token_ids()[..want.len()], want);
        assert!(generation.tokens() - want.len() <= 1);
    }
}

#[test]
fn held_out_facts_are_found_among_memories_and_follow_their_change() {
    let model = model("copy.gguf");
    let facts = golden("copy_facts.json");
    let facts = facts.as_array().unwrap();
    let mut right = 0;
    for fact in facts {
        let text = |key: &str| fact[key].as_str().unwrap();
        let answers = |memory: &str, expected: &str| {
            let others = fact["distractors"].as_array().unwrap().iter().map(|d| d.as_str().unwrap());
            let memories: String = std::iter::once(memory).chain(others).map(|m| format!("- {m}\n")).collect();
            let user = format!("Memories:\n{memories}\n{}", text("question"));
            let prompt = model.prompt(&[Turn { role: Role::User, text: &user }]).unwrap();
            let generation = run(&model, &prompt, &greedy(64));
            println!("{expected}: {}", generation.text());
            generation.text().contains(expected)
        };
        right +=
            usize::from(answers(text("fact"), text("expect")) && answers(text("altered_fact"), text("altered_expect")));
    }
    assert_eq!(facts.len(), 10);
    assert!(right >= 8, "{right} of 10 facts in both forms");
}

#[test]
fn scores_are_the_models_own_whatever_is_chosen() {
    let model = model("random-f32.gguf");
    let prompt = model.tokenizer().encode("The capital of Brelin is");
    let plain = run(&model, &prompt, &greedy(16));
    let asked = run(&model, &prompt, &Sampling { alternatives: 4, ..greedy(16) });
    assert_eq!((plain.token_ids(), plain.confidence()), (asked.token_ids(), asked.confidence()));
    assert!(plain.scored().all(|scored| scored.likeliest.is_empty()));
    let scored: Vec<Scored> = asked.scored().collect();
    assert_eq!(scored.len(), asked.tokens());
    for (scored, id) in scored.iter().zip(asked.token_ids()) {
        assert_eq!((scored.token, scored.likeliest.len()), (*id, 4));
        assert_eq!(scored.likeliest[0], (*id, scored.log_probability));
    }
    // A bias and a temperature change what is chosen, not what the model thinks of it.
    let (first, second) = (scored[0].likeliest[0], scored[0].likeliest[1]);
    let other = run(&model, &prompt, &Sampling { bias: vec![(first.0, -100.0)], alternatives: 4, ..greedy(4) });
    let chosen = other.scored().next().unwrap();
    assert_eq!((chosen.token, chosen.log_probability, chosen.likeliest), (second.0, second.1, scored[0].likeliest));
    let hot = Sampling { temperature: 3.0, top_k: 0, seed: 5, alternatives: 4, ..greedy(1) };
    assert_eq!(run(&model, &prompt, &hot).scored().next().unwrap().likeliest, scored[0].likeliest);
    let outside = Sampling { bias: vec![(model.info().vocabulary as u32, 1.0)], ..greedy(1) };
    assert!(Generation::new(Arc::clone(&model), prompt, outside).is_err());
}

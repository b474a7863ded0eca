//! Answers in batches: the same tokens as alone, fair shares, and what happens when one goes away.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::*;
use crate::gemma::tests::model;
use crate::sampler::Sampling;

/// What came of an answer: its tokens, or what was wrong.
type Outcome = (usize, Result<Vec<u32>, String>);

struct Told {
    number: usize,
    /// Steps after which it no longer goes on.
    patience: usize,
    to: Sender<Outcome>,
}

impl Owner for Told {
    fn goes_on(&mut self, _: &mut Generation) -> bool {
        if self.patience == 0 {
            self.to.send((self.number, Err("impatient".to_owned()))).unwrap();
        }
        self.patience > 0
    }

    fn stepped(&mut self, generation: &mut Generation, step: Result<Step, Error>) {
        self.patience -= 1;
        match step {
            Ok(Step::Running) => {}
            Ok(Step::Done(_)) => self.to.send((self.number, Ok(generation.token_ids().to_vec()))).unwrap(),
            Err(error) => self.to.send((self.number, Err(error.to_string()))).unwrap(),
        }
    }

    fn panicked(&mut self, message: &str) {
        self.to.send((self.number, Err(message.to_owned()))).unwrap();
    }
}

fn prompt(model: &Gemma, n: usize) -> Vec<u32> {
    let text = format!("{n} The capital of Brelin is far away. ").repeat(1 + n % 5 * 6);
    model.tokenizer().encode(&text)
}

fn sampling(n: usize) -> Sampling {
    let temperature = if n.is_multiple_of(3) { 0.0 } else { 1.0 };
    Sampling { seed: n as u64, max_tokens: 8 + n % 20, temperature, ..Sampling::default() }
}

fn alone(model: &Arc<Gemma>, n: usize) -> Vec<u32> {
    let mut work = Workspace::new(Arc::clone(model)).unwrap();
    let mut generation = Generation::new(Arc::clone(model), prompt(model, n), sampling(n)).unwrap();
    while generation.step(&mut work).unwrap() == Step::Running {}
    generation.token_ids().to_vec()
}

fn submit(engine: &Engine, n: usize, tenant: &str, priority: i32, patience: usize, to: &Sender<Outcome>) {
    let model = engine.model();
    let generation = Generation::new(Arc::clone(model), prompt(model, n), sampling(n)).unwrap();
    let owner = Box::new(Told { number: n, patience, to: to.clone() });
    engine.submit(Request { generation, tenant: tenant.to_owned(), priority, owner });
}

fn collect(from: &Receiver<Outcome>, count: usize) -> Vec<Outcome> {
    (0..count).map(|_| from.recv_timeout(Duration::from_secs(120)).unwrap()).collect()
}

#[test]
fn answers_are_the_same_alone_and_together_on_any_number_of_threads() {
    for name in ["random-q8_0.gguf", "random-q4_0.gguf", "random-f32.gguf"] {
        let model = model(name);
        let want: Vec<Vec<u32>> = (0..24).map(|n| alone(&model, n)).collect();
        for threads in [1, 3] {
            let engine = Engine::new(Arc::clone(&model), Arc::new(Pool::new(threads, 0).unwrap()));
            let (to, from) = channel();
            (0..24).for_each(|n| submit(&engine, n, "one", 0, usize::MAX, &to));
            for (n, tokens) in collect(&from, 24) {
                assert_eq!(tokens.as_ref(), Ok(&want[n]), "{name}, answer {n}, {threads} threads");
            }
        }
    }
}

#[test]
fn who_does_not_go_on_leaves_the_others_alone() {
    let model = model("random-q8_0.gguf");
    let engine = Engine::new(Arc::clone(&model), Arc::new(Pool::new(1, 0).unwrap()));
    let (to, from) = channel();
    (0..20).for_each(|n| submit(&engine, n, "one", 0, if n % 2 == 0 { 2 } else { usize::MAX }, &to));
    for (n, outcome) in collect(&from, 20) {
        match n % 2 {
            0 => assert_eq!(outcome, Err("impatient".to_owned())),
            _ => assert_eq!(outcome, Ok(alone(&model, n))),
        }
    }
    // And it starts again when there is something to do again.
    submit(&engine, 7, "one", 0, usize::MAX, &to);
    assert_eq!(collect(&from, 1), [(7, Ok(alone(&model, 7)))]);
}

#[test]
fn priorities_and_tenants_decide_who_is_next() {
    let model = model("random-q8_0.gguf");
    let pool = Arc::new(Pool::new(1, 0).unwrap());
    let engine = Engine::new(Arc::clone(&model), Arc::clone(&pool));
    let (to, from) = channel();
    // Held back until all have arrived.
    let (open, gate) = channel::<()>();
    struct Hold(Receiver<()>);
    impl Task for Hold {
        fn step(&mut self) -> Advance {
            let _ = self.0.recv();
            Advance::Done
        }
        fn panicked(&mut self, _: &str) {}
    }
    pool.spawn(Priority::High, Box::new(Hold(gate)));
    // One tenant is greedy, another asks once, a third is urgent; all have the same length.
    (0..40).for_each(|_| submit(&engine, 20, "greedy", 0, usize::MAX, &to));
    submit(&engine, 40, "modest", 0, usize::MAX, &to);
    submit(&engine, 60, "urgent", 5, usize::MAX, &to);
    assert_eq!(engine.load(), Load { active: 0, waiting: 42 });
    drop(open);
    let order: Vec<usize> = collect(&from, 42).into_iter().map(|(n, _)| n).collect();
    let at = |n| order.iter().position(|other| *other == n).unwrap();
    assert!(at(40) < ACTIVE && at(60) < ACTIVE, "{order:?}");
}

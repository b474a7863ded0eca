//! Answers in batches: the same tokens as alone, fair shares, and what happens when one goes away.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::*;
use crate::gemma::tests::model;
use crate::sampler::Sampling;

/// What came of an answer: its tokens, or what was wrong.
type Outcome = (usize, Result<Vec<u32>, String>);
/// Tokens that were reused, guessed, and guessed right, of all answers of a test.
type Saved = Arc<Mutex<(usize, usize, usize)>>;

struct Told {
    number: usize,
    /// Steps after which it no longer goes on.
    patience: usize,
    to: Sender<Outcome>,
    saved: Saved,
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
            Ok(Step::Done(_)) => {
                let mut saved = self.saved.lock().unwrap();
                let (guessed, right) = generation.guesses();
                *saved = (saved.0 + generation.reused_tokens(), saved.1 + guessed, saved.2 + right);
                self.to.send((self.number, Ok(generation.token_ids().to_vec()))).unwrap();
            }
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

fn submit(engine: &Engine, n: usize, tenant: &str, priority: i32, patience: usize, to: &Sender<Outcome>) -> Saved {
    let model = engine.model();
    let generation = Generation::new(Arc::clone(model), prompt(model, n), sampling(n)).unwrap();
    let saved = Saved::default();
    let owner = Box::new(Told { number: n, patience, to: to.clone(), saved: Arc::clone(&saved) });
    let scope = Some(tenant.to_owned());
    engine.submit(Request { generation, tenant: tenant.to_owned(), scope, priority, owner });
    saved
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
            (0..24).for_each(|n| drop(submit(&engine, n, "one", 0, usize::MAX, &to)));
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
    (0..20).for_each(|n| drop(submit(&engine, n, "one", 0, if n % 2 == 0 { 2 } else { usize::MAX }, &to)));
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
    (0..40).for_each(|_| drop(submit(&engine, 20, "greedy", 0, usize::MAX, &to)));
    submit(&engine, 40, "modest", 0, usize::MAX, &to);
    submit(&engine, 60, "urgent", 5, usize::MAX, &to);
    assert_eq!(engine.load(), Load { active: 0, waiting: 42 });
    drop(open);
    let order: Vec<usize> = collect(&from, 42).into_iter().map(|(n, _)| n).collect();
    let at = |n| order.iter().position(|other| *other == n).unwrap();
    assert!(at(40) < ACTIVE && at(60) < ACTIVE, "{order:?}");
}

#[test]
fn what_is_kept_and_what_is_guessed_changes_no_token() {
    let model = model("copy.gguf");
    let engine = Engine::new(Arc::clone(&model), Arc::new(Pool::new(1, 0).unwrap()));
    engine.limit(Limits { memory: 64 << 20, ..Limits::default() });
    let (to, from) = channel();
    let memory = "Anna's favourite book is Vrelk Ossamine and her sister's is Tamber Quillon.";
    let ask = |question: &str| format!("Memories:\n- {memory}\n- The bus leaves at 7:45.\n\n{question}");
    let mut saved = Vec::new();
    for (round, temperature) in [(0, 0.0), (1, 0.0), (2, 0.9)] {
        let text = ask("What is Anna's favourite book?");
        let turn = crate::gemma::Turn { role: crate::gemma::Role::User, text: &text };
        let prompt = model.prompt(&[turn]).unwrap();
        let sampling = Sampling { seed: 3, max_tokens: 40, temperature, ..Sampling::default() };
        let mut plain = Generation::new(Arc::clone(&model), prompt.clone(), sampling.clone()).unwrap();
        let mut work = Workspace::new(Arc::clone(&model)).unwrap();
        while plain.step(&mut work).unwrap() == Step::Running {}
        let generation = Generation::new(Arc::clone(&model), prompt, sampling).unwrap();
        let told = Saved::default();
        let owner = Box::new(Told { number: round, patience: usize::MAX, to: to.clone(), saved: Arc::clone(&told) });
        let scope = Some("one".to_owned());
        engine.submit(Request { generation, tenant: "one".to_owned(), scope, priority: 0, owner });
        assert_eq!(collect(&from, 1), [(round, Ok(plain.token_ids().to_vec()))]);
        saved.push(*told.lock().unwrap());
    }
    // The first time nothing is there; then all of the prompt but its last token.
    assert!(saved[0].0 == 0 && saved[1].0 > 40 && saved[1].0 == saved[2].0, "{saved:?}");
    // The answer quotes a memory: most of what is guessed is right.
    assert!(saved[0].2 * 2 > saved[0].1 && saved[0].2 >= 5, "{saved:?}");
    let kept = engine.kept();
    assert_eq!((kept.hits, kept.misses, kept.tokens as usize), (2, 1, saved[1].0 + saved[2].0));
    // At once, or with the end of the task that is still about to look whether there is more to do.
    engine.limit(Limits::default());
    let patience = Instant::now() + Duration::from_secs(60);
    while engine.kept().memory > 0 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(engine.kept().memory, 0);
}

#[test]
fn what_was_forgotten_is_not_gone_on_from_also_where_it_is_being_read() {
    let engine = Engine::new(model("copy.gguf"), Arc::new(Pool::new(1, 0).unwrap()));
    engine.limit(Limits { memory: 64 << 20, ..Limits::default() });
    let (to, from) = channel();
    // The tokens of a prompt that need not be read.
    let reused = |tenant: &str, meanwhile: &dyn Fn()| {
        let saved = submit(&engine, 4, tenant, 0, usize::MAX, &to);
        meanwhile();
        assert!(collect(&from, 1)[0].1.is_ok());
        let reused = saved.lock().unwrap().0;
        // When nothing runs any more, what is kept can be looked at.
        while lock(&engine.shared.state).running {
            std::thread::sleep(Duration::from_millis(1));
        }
        reused
    };
    let nothing = || {};
    assert_eq!((reused("1\0a", &nothing), reused("12\0a", &nothing)), (0, 0));
    let both = engine.kept().memory;
    assert!(reused("1\0a", &nothing) > 0 && reused("12\0a", &nothing) > 0);
    engine.forget("1\0");
    assert!(engine.kept().memory > 0 && engine.kept().memory < both);
    assert!(reused("12\0a", &nothing) > 0);
    assert_eq!(reused("1\0a", &|| engine.forget("1\0")), 0);
    assert_eq!(reused("1\0a", &nothing), 0, "what was forgotten while it was read was kept");
    assert!(reused("1\0a", &nothing) > 0);
    engine.forget("1");
    assert_eq!(engine.kept().memory, 0);
}

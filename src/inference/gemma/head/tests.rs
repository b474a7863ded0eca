//! What is reached among rough logits against all exact ones, and answers by a head in planes against those by a plain one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::mpsc::channel;

use super::super::tests::{model, model_in_planes};
use super::*;
use crate::constraint::Grammar;
use crate::engine::{Engine, Owner, Request};
use crate::gemma::Gemma;
use crate::generation::{Generation, Step};
use crate::packed::FEW;
use crate::packed::tests::in_planes;
use crate::pool::Pool;
use crate::sampler::Sampling;

/// Numbers from about a normal distribution, by a fixed recurrence.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    move || (0..12).map(|_| next()).sum()
}

/// Q8_0 as a file has it.
fn quantised(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in values.as_chunks::<32>().0 {
        let scale = half::f16::from_f32(block.iter().fold(0f32, |most, x| most.max(x.abs())) / 127.0);
        bytes.extend(scale.to_le_bytes());
        let byte = |x: &f32| if scale.to_f32() > 0.0 { (x / scale.to_f32()).round() as i8 } else { 0 };
        bytes.extend(block.iter().map(|x| byte(x).cast_unsigned()));
    }
    bytes
}

/// A head and the rows that it is multiplied with, with exact products and rough ones.
struct Case {
    planes: Planes,
    x: Rows,
    head: Head,
    exact: Vec<f32>,
    rough: Vec<f32>,
    scratch: [MappedVec<f32>; 1],
}

fn case(weights: &[f32], x: &[f32]) -> Case {
    let cols = x.len();
    let n = weights.len() / cols;
    let bytes = quantised(weights);
    let planes = in_planes(n, cols, &bytes);
    let mut rows = Rows::new(1, cols).unwrap();
    rows.reset(1, cols);
    rows.set(path(), 0, x);
    let mut product = MappedVec::zeroed(planes.scratch_len()).unwrap();
    let (mut exact, mut rough) = (vec![0.0; n], vec![0.0; n]);
    // SAFETY: there is room for a row of products.
    unsafe { planes.exact(path(), 0..planes.tiles(), &rows, 0..1, exact.as_mut_ptr(), n, &mut product) };
    let mut head = Head::new(Some(&planes), 1).unwrap();
    assert_eq!(head.arrange([false].into_iter()), 0);
    head.rough(&planes, &rows, 0..1, &mut rough, None, &Lead::alone());
    Case { planes, x: rows, head, exact, rough, scratch: [product] }
}

impl Case {
    /// Looks for what is wanted, and compares it with the exact logits. Gives the share of the tiles that was computed.
    fn check(&mut self, keep: usize, named: &[u32], within: Option<&[u32]>, what: &str) -> f64 {
        let mut values = self.rough.clone();
        let mut spreads = self.head.spreads.to_vec();
        let lead = Lead::alone();
        let mut computed = 0;
        let mut row = Row {
            planes: &self.planes,
            x: &self.x,
            sketch: &self.head.sketch,
            place: 0,
            values: &mut values,
            spreads: &mut spreads,
            seen: &mut Seen::default(),
            lists: &mut self.head.lists,
            cap: None,
            lead: &lead,
            scratch: scratch(&mut self.scratch),
            computed: &mut computed,
        };
        row.reach(keep, named.iter().copied(), within);
        let likeliest = |logits: &[f32]| {
            let may = |t: &usize| within.is_none_or(|set| set[t / 32] >> (t % 32) & 1 == 1);
            let mut all: Vec<(f32, usize)> = (0..logits.len()).filter(may).map(|t| (logits[t], t)).collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            all.truncate(keep);
            all
        };
        assert_eq!(likeliest(&values), likeliest(&self.exact), "{what}: the {keep} likeliest");
        for token in named {
            let at = *token as usize;
            assert!(at >= values.len() || values[at] == self.exact[at], "{what}: token {token}");
        }
        computed as f64 / self.planes.tiles() as f64
    }
}

#[test]
fn what_is_reached_is_what_is_likeliest() {
    let n = 5_003;
    for (cols, seed) in [(64, 1), (640, 2), (1152, 3)] {
        let mut next = noise(seed);
        let random: Vec<f32> = (0..n * cols).map(|_| next()).collect();
        // All rows nearly the same; one column far larger than the others of its block, in all rows, or in some; tiny weights.
        let one: Vec<f32> = (0..cols).map(|_| next()).collect();
        let alike: Vec<f32> = (0..n * cols).map(|i| one[i % cols] + 0.02 * next()).collect();
        let column = |every: usize, times: f32| -> Vec<f32> {
            let large = |i: usize| i % cols == 37 && (i / cols).is_multiple_of(every);
            random.iter().enumerate().map(|(i, w)| if large(i) { w * times } else { *w }).collect()
        };
        let heads = [
            ("random", random.clone()),
            ("alike", alike),
            ("a large column", column(1, 40.0)),
            ("a very large column", column(1, 400.0)),
            ("large in some rows", column(17, 100.0)),
        ];
        for (head, weights) in heads {
            let plain: Vec<f32> = (0..cols).map(|_| next()).collect();
            let mut huge = plain.clone();
            huge[40] = 1e4;
            // One that means a row of the head, so that it follows its weights.
            let meant: Vec<f32> = weights[700 * cols..701 * cols].iter().map(|w| w + 0.3 * next()).collect();
            let nothing = vec![0.0; cols];
            for (row, x) in [("plain", plain), ("huge", huge), ("meant", meant), ("nothing", nothing)] {
                let mut case = case(&weights, &x);
                let what = format!("{head}, {row}, {cols}");
                for keep in [1, 5, 18, 64] {
                    let share = case.check(keep, &[], None, &what);
                    if head == "random" && row == "plain" && keep < 18 && cols > 64 {
                        assert!(share < 0.5, "{what}: {share} of the tiles for {keep}");
                    }
                }
                case.check(1, &[0, 17, 18, 4_999, 5_002, 5_003, u32::MAX], None, &what);
                let few: Vec<u32> = (0..n.div_ceil(32)).map(|word| u32::from(word % 50 == 3) << 9).collect();
                let many: Vec<u32> = (0..n.div_ceil(32)).map(|word| !(1 << (word % 32))).collect();
                for (set, most) in [(few, 0.1), (many, 1.0)] {
                    // There is no row behind the last.
                    let mut set = set;
                    *set.last_mut().unwrap() &= (1 << (n % 32)) - 1;
                    for keep in [1, 5, usize::MAX] {
                        assert!(case.check(keep, &[3], Some(&set), &what) <= most, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn broken_numbers_hide_nothing() {
    let (n, cols) = (600, 64);
    let mut next = noise(5);
    let weights: Vec<f32> = (0..n * cols).map(|_| next()).collect();
    for broken in [f32::INFINITY, f32::NAN, 3e38] {
        let mut x: Vec<f32> = (0..cols).map(|_| next()).collect();
        x[9] = broken;
        let mut case = case(&weights, &x);
        // NaN is nobody's equal: what there is to compare is which logits are numbers, and those.
        let same =
            |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
        let mut values = case.rough.clone();
        let lead = Lead::alone();
        let mut row = Row {
            planes: &case.planes,
            x: &case.x,
            sketch: &case.head.sketch,
            place: 0,
            values: &mut values,
            spreads: &mut case.head.spreads,
            seen: &mut Seen::default(),
            lists: &mut case.head.lists,
            cap: None,
            lead: &lead,
            scratch: scratch(&mut case.scratch),
            computed: &mut 0,
        };
        row.reach(1, [], None);
        if broken.is_infinite() {
            assert!(same(&values, &case.exact));
        }
        let best = |logits: &[f32]| logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(best(&values).to_bits(), best(&case.exact).to_bits(), "{broken}");
    }
}

/// Settings whose choices depend on different things.
fn settings(vocabulary: u32) -> Vec<Sampling> {
    let plain = Sampling { max_tokens: 24, temperature: 0.0, ..Sampling::default() };
    let drawn = Sampling { temperature: 1.0, top_k: 5, top_p: 1.0, seed: 3, ..plain.clone() };
    let bias: Vec<(u32, f32)> = (0..40).map(|i| (i * (vocabulary / 40), if i % 3 == 0 { 4.0 } else { -2.5 })).collect();
    vec![
        plain.clone(),
        Sampling { repeat: 1.7, ..plain.clone() },
        Sampling { repeat: 0.6, ..plain.clone() },
        Sampling { bias: bias.clone(), ..plain.clone() },
        Sampling { bias: vec![(7, 100.0), (vocabulary - 1, 100.0)], ..plain.clone() },
        Sampling { alternatives: 6, ..plain.clone() },
        drawn.clone(),
        Sampling { top_k: 64, top_p: 0.9, seed: 4, ..drawn.clone() },
        Sampling { top_k: 0, seed: 5, ..drawn.clone() },
        Sampling { repeat: 1.3, bias, min_p: 0.01, seed: 6, alternatives: 3, ..drawn.clone() },
        Sampling { temperature: 2.5, top_k: 3, seed: 7, ..drawn },
    ]
}

fn generation(model: &Arc<Gemma>, n: usize, sampling: &Sampling, grammar: Option<&Arc<Grammar>>) -> Generation {
    let text = format!("{n} The capital of Brelin is far away. ").repeat(1 + n % 3);
    let prompt = model.tokenizer().encode(&text);
    Generation::constrained(Arc::clone(model), prompt, sampling.clone(), grammar.cloned()).unwrap()
}

/// Tokens, and what is told about them.
type Said = (Vec<u32>, f64, Vec<(u32, f64)>);

fn said(generation: &Generation) -> Said {
    let alternatives = generation.scored().flat_map(|scored| scored.likeliest.to_vec()).collect();
    (generation.token_ids().to_vec(), generation.confidence().0, alternatives)
}

fn alone(model: &Arc<Gemma>, mut generation: Generation, ahead: usize) -> Said {
    let mut work = Workspace::new(Arc::clone(model)).unwrap();
    let lead = Lead::alone();
    loop {
        let most = if generation.is_reading() { super::super::BATCH } else { ahead };
        work.append(&mut [generation.part(most)], &lead, &|| {}).unwrap();
        let step = generation.appended(&mut work, 0, &lead, std::time::Duration::ZERO).unwrap();
        if step != Step::Running {
            return said(&generation);
        }
    }
}

fn close(a: &Said, b: &Said, what: &str) {
    assert_eq!(a.0, b.0, "{what}");
    assert!((a.1 - b.1).abs() <= 4e-3 * b.1, "{what}: confidence {} instead of {}", a.1, b.1);
    assert_eq!(a.2.len(), b.2.len(), "{what}");
    for (a, b) in a.2.iter().zip(&b.2) {
        assert!(a.0 == b.0 && (a.1 - b.1).abs() < 1e-2, "{what}: {a:?} instead of {b:?}");
    }
}

/// Who waits for an answer of an engine.
struct Waits(usize, std::sync::mpsc::Sender<(usize, Said)>);

impl Owner for Waits {
    fn goes_on(&mut self, _: &mut Generation) -> bool {
        true
    }

    fn stepped(&mut self, generation: &mut Generation, step: Result<Step, crate::Error>) {
        if step.unwrap() != Step::Running {
            self.1.send((self.0, said(generation))).unwrap();
        }
    }

    fn panicked(&mut self, message: &str) {
        panic!("{message}");
    }
}

#[test]
fn answers_are_those_of_a_plain_head_alone_guessed_ahead_and_together() {
    let schema = r#"{"type":"object","properties":{"name":{"type":"string","maxLength":12},"kind":{"enum":["a","b"]},"n":{"type":"integer"}},"required":["name","kind","n"],"additionalProperties":false}"#;
    let grammar = Arc::new(Grammar::schema(schema).unwrap());
    for name in ["random-q8_0.gguf", "copy.gguf"] {
        let (plain, planes) = (model(name), model_in_planes(name));
        let in_planes = planes.output().planes().is_some();
        assert!(plain.output().planes().is_none() && (in_planes || name != "random-q8_0.gguf"));
        let vocabulary = plain.info().vocabulary as u32;
        let mut all = Vec::new();
        for (n, sampling) in settings(vocabulary).into_iter().enumerate() {
            all.push((n, sampling.clone(), None));
            all.push((n, Sampling { max_tokens: 60, ..sampling }, Some(&grammar)));
        }
        let want: Vec<Said> = all.iter().map(|(n, s, g)| alone(&plain, generation(&plain, *n, s, *g), 1)).collect();
        let single: Vec<Said> = all.iter().map(|(n, s, g)| alone(&planes, generation(&planes, *n, s, *g), 1)).collect();
        for (((n, s, g), want), single) in all.iter().zip(&want).zip(&single) {
            let what = format!("{name}, {n}, {s:?}, {}", g.is_some());
            close(single, want, &what);
            // The same bits, whatever else is computed.
            assert_eq!(&alone(&planes, generation(&planes, *n, s, *g), FEW), single, "{what}, guessed ahead");
        }
        for threads in [1, 3] {
            let engine = Engine::new(Arc::clone(&planes), Arc::new(Pool::new(threads, 0).unwrap()));
            let (to, from) = channel();
            for (at, (n, s, g)) in all.iter().enumerate() {
                let (tenant, scope) = (String::new(), None);
                let owner = Box::new(Waits(at, to.clone()));
                let generation = generation(&planes, *n, s, *g);
                engine.submit(Request { generation, tenant, scope, priority: 0, owner });
            }
            for _ in &all {
                let (at, said) = from.recv_timeout(std::time::Duration::from_secs(300)).unwrap();
                assert_eq!(said, single[at], "{name}, answer {at} of {threads} threads");
            }
        }
    }
}

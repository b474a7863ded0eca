//! Choosing the next token from logits.
//!
//! The order of the steps: bias, repetition penalty, top-k, top-p, min-p, temperature, draw. The truncations look at
//! probabilities that the temperature has not bent, so raising the temperature does not let in tokens that the
//! model thinks absurd. What is told of a token, its probability and which others were likely, is the model's own, before
//! any of these. The random number for the n-th token is a function of the seed and n alone: the same prompt, seed and
//! settings give the same text, whatever else runs.

use crate::Error;
use crate::gemma::Logits;
use crate::kernels::kernels;

/// How an answer is chosen and when it ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// The answer ends after so many tokens, with [`crate::generation::Finish::Length`]. At least 1.
    pub max_tokens: usize,
    /// 0 always takes the likeliest token; up to 10.
    pub temperature: f32,
    /// Only the so many likeliest tokens are drawn from; 0 = no limit.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this probability are drawn from; above 0, 1 = no limit.
    pub top_p: f32,
    /// Only tokens at least so many times as likely as the likeliest are drawn from; 0..=1, 0 = no limit.
    pub min_p: f32,
    /// Logits of tokens among the last 64 generated are divided by it when positive and multiplied when negative; 1 = off,
    /// above 0 and up to 10. The prompt's tokens are not penalised: an answer may quote them.
    pub repeat: f32,
    /// The seed of the draws.
    pub seed: u64,
    /// The answer ends before the first of these strings, with [`crate::generation::Finish::StopString`]. At most 16, each
    /// 1 to 1,024 bytes.
    pub stop: Vec<String>,
    /// What is added to the logits of tokens before anything else, -100..=100: with -100 a token is never chosen, with 100
    /// only such tokens are. Where nothing else may follow (a grammar, or everything excluded), a bias excludes nothing. In
    /// the order of the tokens, at most 1,024, none twice.
    pub bias: Vec<(u32, f32)>,
    /// So many of the likeliest tokens are noted for each of the answer's; at most 20.
    pub alternatives: usize,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            max_tokens: 2048,
            temperature: 0.7,
            top_k: 64,
            top_p: 0.95,
            min_p: 0.0,
            repeat: 1.0,
            seed: 0,
            stop: Vec::new(),
            bias: Vec::new(),
            alternatives: 0,
        }
    }
}

/// Stop strings accepted.
const MOST_STOPS: usize = 16;
/// Bytes of one stop string.
const LONGEST_STOP: usize = 1024;
/// Biased tokens accepted.
pub const MOST_BIASED: usize = 1024;
/// A bias from here on is not added: it excludes the token, or all others.
const STRONGEST_BIAS: f32 = 100.0;
/// Alternatives that can be noted for a token.
pub const MOST_ALTERNATIVES: usize = 20;
/// Generated tokens that the repetition penalty looks back on.
const PENALTY_WINDOW: usize = 64;
/// Likeliest tokens that are exact in the sum that probabilities are told by, where others are rough.
const SUMMED: usize = 16;
/// Likeliest tokens up to which they are looked for among rough logits.
const MOST_REACHED: usize = 256;

impl Sampling {
    /// So many of the likeliest tokens are drawn from.
    fn keep(&self) -> usize {
        match self.temperature {
            0.0 => 1,
            _ if self.top_k == 0 => usize::MAX,
            _ => self.top_k,
        }
    }

    /// The same before so many tokens were penalised, each of which may have been one of them, and those with a bias moved.
    fn keep_of(&self, penalised: usize) -> usize {
        let penalised = if self.repeat == 1.0 { 0 } else { penalised };
        self.keep().saturating_add(penalised).saturating_add(self.bias.len())
    }

    /// Whether a choice may depend on the logits of all tokens, or of so many that it is not worth looking for them.
    pub(crate) fn needs_all(&self) -> bool {
        self.keep_of(PENALTY_WINDOW) > MOST_REACHED
    }

    /// Whether every setting is in its range; the error names the first that is not.
    pub fn check(&self) -> Result<(), Error> {
        let range = |name: &str, value: f32, ok: bool, accepted: &str| {
            if ok { Ok(()) } else { Err(Error::new(format!("{name} is {value}; accepted are {accepted}"))) }
        };
        if self.max_tokens == 0 {
            return Err(Error::new("the number of tokens to generate is 0; it must be at least 1"));
        }
        range("temperature", self.temperature, (0.0..=10.0).contains(&self.temperature), "0 to 10")?;
        range("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "numbers above 0 and up to 1")?;
        range("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1")?;
        range("the repetition penalty", self.repeat, self.repeat > 0.0 && self.repeat <= 10.0, "above 0 up to 10")?;
        if self.stop.len() > MOST_STOPS {
            return Err(Error::new(format!("{} stop strings; at most {MOST_STOPS} are accepted", self.stop.len())));
        }
        if let Some(bad) = self.stop.iter().find(|s| s.is_empty() || s.len() > LONGEST_STOP) {
            let len = bad.len();
            return Err(Error::new(format!("a stop string of {len} bytes; accepted are 1 to {LONGEST_STOP} bytes")));
        }
        if self.bias.len() > MOST_BIASED {
            return Err(Error::new(format!("{} biased tokens; at most {MOST_BIASED} are accepted", self.bias.len())));
        }
        for (token, bias) in &self.bias {
            let accepted = -STRONGEST_BIAS..=STRONGEST_BIAS;
            range(&format!("the bias of token {token}"), *bias, accepted.contains(bias), "-100 to 100")?;
        }
        let wrong = self.bias.iter().zip(self.bias.iter().skip(1)).find(|((a, _), (b, _))| a >= b);
        if let Some(((a, _), (b, _))) = wrong {
            return Err(Error::new(format!("biased tokens must be in order, each once: token {b} comes after {a}")));
        }
        if self.alternatives > MOST_ALTERNATIVES {
            let asked = self.alternatives;
            return Err(Error::new(format!(
                "{asked} alternatives per token; at most {MOST_ALTERNATIVES} are accepted"
            )));
        }
        Ok(())
    }
}

/// A chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Choice {
    pub token: u32,
    /// The natural logarithm of the probability that the model itself gave it, before any setting.
    pub log_probability: f64,
}

/// Draws tokens for one generation; keeps its lists from token to token.
pub(crate) struct Sampler {
    candidates: Vec<(f32, u32)>,
    weights: Vec<f64>,
    /// The largest logit of each [`STRETCH`], and the same once more for sorting.
    peaks: Vec<f32>,
    sorted: Vec<f32>,
    /// What a logit is above the logarithm of its probability.
    normaliser: f64,
}

/// Logits that are looked at one by one only if the largest of them can be among the likeliest.
const STRETCH: usize = 256;

impl Sampler {
    pub(crate) fn new() -> Sampler {
        Sampler { candidates: Vec::new(), weights: Vec::new(), peaks: Vec::new(), sorted: Vec::new(), normaliser: 0.0 }
    }

    /// The next token as [`choose`](Self::choose) finds it, of logits that may be rough: what it depends on is made exact before.
    pub(crate) fn choose_of(
        &mut self,
        logits: &mut Logits<'_>,
        history: &[u32],
        s: &Sampling,
        allowed: Option<&[u32]>,
    ) -> Choice {
        let recent = &history[history.len().saturating_sub(PENALTY_WINDOW)..];
        let penalised = recent.iter().copied().filter(|_| s.repeat != 1.0);
        let named = penalised.chain(s.bias.iter().map(|(token, _)| *token));
        let keep = s.keep_of(recent.len());
        // Probabilities are told of the whole vocabulary, whatever is allowed.
        match allowed {
            None => logits.reach(keep.max(SUMMED), named, None),
            Some(_) => {
                logits.reach(SUMMED, named, None);
                logits.reach(keep, [], allowed);
            }
        }
        self.choose(logits.values(), history, s, allowed)
    }

    /// The next token after the `history` of generated ones. `logits` has one entry per piece of the vocabulary, at least one. Where `allowed` is given, a
    /// set with a bit per piece, the others count as if they were not in the vocabulary; it must not be empty.
    pub(crate) fn choose(&mut self, logits: &[f32], history: &[u32], s: &Sampling, allowed: Option<&[u32]>) -> Choice {
        self.look(logits);
        let peak = self.peaks.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total = f64::from(kernels().exp_sum(logits, peak));
        self.normaliser = f64::from(peak) + total.ln();
        let token = self.pick(logits, history, s, allowed);
        let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        Choice { token, log_probability: self.log_probability(logit) }
    }

    fn look(&mut self, logits: &[f32]) {
        self.peaks.clear();
        self.peaks.extend(logits.chunks(STRETCH).map(|stretch| kernels().largest(stretch)));
    }

    fn log_probability(&self, logit: f32) -> f64 {
        (f64::from(logit) - self.normaliser).min(0.0)
    }

    /// The [likeliest](Self::likeliest) of logits that may be rough.
    pub(crate) fn likeliest_of(&mut self, logits: &mut Logits<'_>, n: usize, out: &mut Vec<(u32, f64)>) {
        if n > 0 {
            logits.reach(n, [], None);
            self.likeliest(logits.values(), n, out);
        }
    }

    /// Appends the `n` likeliest tokens of the logits last [chosen](Self::choose) from, the likeliest first, with the logarithms of the probabilities
    /// that the model gave them.
    pub(crate) fn likeliest(&mut self, logits: &[f32], n: usize, out: &mut Vec<(u32, f64)>) {
        if n > 0 {
            self.look(logits);
            let plain = Sampling { top_k: n, ..Sampling::default() };
            self.collect(logits, &[], &plain, None, false);
            out.extend(self.candidates.iter().map(|&(logit, token)| (token, self.log_probability(logit))));
        }
    }

    /// Collects what may be drawn, the likeliest first, equals in the order of the vocabulary. Of the others at most those
    /// that `top_k` excludes are missing.
    fn collect(&mut self, logits: &[f32], history: &[u32], s: &Sampling, allowed: Option<&[u32]>, biased: bool) {
        let bias = if biased { s.bias.as_slice() } else { &[] };
        let recent = &history[history.len().saturating_sub(PENALTY_WINDOW)..];
        let penalised = |token: u32, logit: f32| {
            if s.repeat == 1.0 || !recent.contains(&token) {
                logit
            } else if logit > 0.0 {
                logit / s.repeat
            } else {
                logit * s.repeat
            }
        };
        // A model with broken weights may give NaN; it counts as impossible.
        let sound = |l: f32| if l.is_nan() { f32::NEG_INFINITY } else { l };
        let scored = |t: u32, l: f32| (penalised(t, sound(l)), t);
        let changed = |&(t, bias): &(u32, f32)| {
            let logit = logits.get(t as usize).filter(|_| bias > -STRONGEST_BIAS);
            (penalised(t, logit.map_or(f32::NEG_INFINITY, |l| sound(*l) + bias)), t)
        };
        let keep = s.keep();
        let may = |t: u32| match allowed {
            None => (t as usize) < logits.len(),
            Some(set) => set.get(t as usize / 32).is_some_and(|word| word >> (t % 32) & 1 == 1),
        };
        let list = &mut self.candidates;
        list.clear();
        // Those that exclude all others, as far as they may follow.
        list.extend(bias.iter().filter(|(t, bias)| *bias >= STRONGEST_BIAS && may(*t)).map(changed));
        if list.is_empty() {
            if let Some(set) = allowed {
                for (word, &bits) in (0u32..).zip(set) {
                    let mut bits = bits;
                    while bits != 0 {
                        let token = word * 32 + bits.trailing_zeros();
                        bits &= bits - 1;
                        list.extend(logits.get(token as usize).map(|l| scored(token, *l)));
                    }
                }
            } else if let Some(least) = least(&self.peaks, &mut self.sorted, keep, recent, s.repeat, bias.len()) {
                for (n, _) in self.peaks.iter().enumerate().filter(|(_, peak)| **peak >= least) {
                    let first = n * STRETCH;
                    let stretch = &logits[first..logits.len().min(first + STRETCH)];
                    let tokens = (first as u32..).zip(stretch).filter(|(_, l)| **l >= least);
                    list.extend(tokens.map(|(t, l)| scored(t, *l)));
                }
            } else {
                list.extend((0u32..).zip(logits).map(|(t, l)| scored(t, *l)));
            }
            // So far they are in the order of the vocabulary; what has a bias and is not among them lay too low to be looked at.
            let looked_at = list.len();
            for biased in bias.iter().filter(|(t, _)| may(*t)).map(changed) {
                match list[..looked_at].binary_search_by_key(&biased.1, |c| c.1) {
                    Ok(place) => list[place] = biased,
                    Err(_) => list.push(biased),
                }
            }
        }
        let likelier = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if keep < list.len() {
            list.select_nth_unstable_by(keep - 1, likelier);
            list.truncate(keep);
        }
        list.sort_unstable_by(likelier);
    }

    fn pick(&mut self, logits: &[f32], history: &[u32], s: &Sampling, allowed: Option<&[u32]>) -> u32 {
        self.collect(logits, history, s, allowed, true);
        let excluded = |list: &[(f32, u32)]| list.first().is_none_or(|first| first.0 == f32::NEG_INFINITY);
        if !s.bias.is_empty() && excluded(&self.candidates) {
            self.collect(logits, history, s, allowed, false);
        }
        let list = &mut self.candidates;
        let Some(&(peak, first)) = list.first() else { return 0 };
        if peak == f32::NEG_INFINITY || s.temperature == 0.0 {
            return first;
        }
        let weight = |logit: f32, temperature: f32| (f64::from(logit - peak) / f64::from(temperature)).exp();
        if s.top_p < 1.0 {
            let total: f64 = list.iter().map(|c| weight(c.0, 1.0)).sum();
            let mut seen = 0.0;
            let kept = list.iter().take_while(|c| {
                let more = seen < f64::from(s.top_p) * total;
                seen += weight(c.0, 1.0);
                more
            });
            let kept = kept.count();
            list.truncate(kept);
        }
        if s.min_p > 0.0 {
            let kept = list.iter().take_while(|c| weight(c.0, 1.0) >= f64::from(s.min_p)).count();
            list.truncate(kept.max(1));
        }
        self.weights.clear();
        self.weights.extend(list.iter().map(|c| weight(c.0, s.temperature)));
        let mut left = uniform(s.seed, history.len() as u64) * self.weights.iter().sum::<f64>();
        for (weight, &(_, token)) in self.weights.iter().zip(list.iter()) {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        // Rounding used up the whole sum: the last one that can be drawn.
        self.weights.iter().zip(list.iter()).rev().find(|(w, _)| **w > 0.0).map_or(first, |(_, c)| c.1)
    }
}

/// A number that the `keep` likeliest logits are not below, `biased` others aside: as many stretches have a logit that large. `None` where every
/// logit has to be looked at, because there is no such number or a penalty may lift what is below it.
fn least(peaks: &[f32], sorted: &mut Vec<f32>, keep: usize, recent: &[u32], repeat: f32, biased: usize) -> Option<f32> {
    // The penalty lowers up to so many of the likeliest, when it lowers; a bias may lower as many as there are.
    let keep = if repeat == 1.0 { keep } else { keep.checked_add(recent.len())? };
    let keep = keep.checked_add(biased)?;
    if keep > peaks.len() || repeat < 1.0 {
        return None;
    }
    sorted.clear();
    sorted.extend_from_slice(peaks);
    let (_, least, _) = sorted.select_nth_unstable_by(keep - 1, |a, b| b.total_cmp(a));
    (*least > f32::NEG_INFINITY).then_some(*least)
}

/// A number in `0..1` with 53 random bits: the output function of SplitMix64 (Steele, Lea, Flood 2014), applied to the seed
/// and then to the counter, so that neighbouring seeds and counters have nothing in common.
fn uniform(seed: u64, counter: u64) -> f64 {
    fn mix(mut z: u64) -> u64 {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    (mix(mix(seed).wrapping_add(counter)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Sampling {
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, ..Sampling::default() }
    }

    /// How often each token is drawn in `n` draws.
    fn frequencies(logits: &[f32], s: &Sampling, n: usize) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        let mut sampler = Sampler::new();
        for seed in 0..n {
            let s = Sampling { seed: seed as u64, ..s.clone() };
            counts[sampler.choose(logits, &[], &s, None).token as usize] += 1.0 / n as f64;
        }
        counts
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let p: [f32; 4] = [0.5, 0.25, 0.2, 0.05];
        let logits: Vec<f32> = p.iter().map(|p| p.ln() + 3.0).collect();
        for (seen, p) in frequencies(&logits, &plain(), 20_000).iter().zip(p) {
            assert!((seen - f64::from(p)).abs() < 0.015, "{seen} {p}");
        }
        // Temperature 0.5 squares the probabilities.
        let squares = p.iter().map(|p| p * p).sum::<f32>();
        for (seen, p) in frequencies(&logits, &Sampling { temperature: 0.5, ..plain() }, 20_000).iter().zip(p) {
            assert!((seen - f64::from(p * p / squares)).abs() < 0.015, "{seen} {p}");
        }
    }

    #[test]
    fn truncations_keep_what_they_say() {
        let logits: Vec<f32> = [0.5f32, 0.25, 0.2, 0.05].iter().map(|p| p.ln()).collect();
        let drawn = |s: Sampling| frequencies(&logits, &s, 4000).iter().map(|&f| f > 0.0).collect::<Vec<_>>();
        assert_eq!(drawn(Sampling { top_k: 2, ..plain() }), [true, true, false, false]);
        assert_eq!(drawn(Sampling { top_p: 0.8, ..plain() }), [true, true, true, false]);
        assert_eq!(drawn(Sampling { top_p: 0.4, ..plain() }), [true, false, false, false]);
        assert_eq!(drawn(Sampling { min_p: 0.45, ..plain() }), [true, true, false, false]);
        assert_eq!(drawn(plain()), [true; 4]);
    }

    #[test]
    fn greedy_takes_the_likeliest_and_the_first_of_equals() {
        let greedy = Sampling { temperature: 0.0, ..plain() };
        let choice = Sampler::new().choose(&[1.0, 3.0, 3.0, 2.0], &[], &greedy, None);
        assert_eq!(choice.token, 1);
        let e = |x: f64| x.exp();
        let want = e(3.0) / (e(1.0) + 2.0 * e(3.0) + e(2.0));
        assert!((choice.log_probability.exp() - want).abs() < 1e-6);
        // The penalty moves it on, and only within the window of generated tokens.
        let penalty = Sampling { repeat: 2.0, ..greedy.clone() };
        assert_eq!(Sampler::new().choose(&[1.0, 3.0, 3.0, 2.0], &[1], &penalty, None).token, 2);
        let long: Vec<u32> = std::iter::once(1).chain([0; PENALTY_WINDOW]).collect();
        assert_eq!(Sampler::new().choose(&[1.0, 3.0, 3.0, 2.0], &long, &penalty, None).token, 1);
        assert_eq!(Sampler::new().choose(&[-2.0, -3.0], &[0], &penalty, None).token, 1);
    }

    /// Numbers in 0..1 from a fixed recurrence.
    fn numbers(mut state: u64) -> impl FnMut() -> f32 {
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 24) as f32
        }
    }

    #[test]
    fn looking_at_few_logits_finds_the_same_tokens() {
        let mut next = numbers(1);
        for round in 0..300u32 {
            let n = 1 + (next() * 40_000.0) as usize;
            // Few values, so that many are equal, and some that are not numbers.
            let logits: Vec<f32> = (0..n)
                .map(|_| match next() {
                    x if x < 0.001 => f32::NAN,
                    x if x < 0.01 => f32::NEG_INFINITY,
                    _ => (next() * 50.0).floor() - 25.0 + if round % 2 == 0 { next() } else { 0.0 },
                })
                .collect();
            let history: Vec<u32> = (0..round % 80).map(|_| (next() * n as f32) as u32).collect();
            let s = Sampling {
                temperature: if round % 5 == 0 { 0.0 } else { 0.8 },
                top_k: [1, 2, 40, 64, 300, 0][round as usize % 6],
                repeat: [1.0, 1.3, 0.7][round as usize % 3],
                seed: u64::from(round),
                ..plain()
            };
            // Every token allowed is the same as no set, and is looked at one by one.
            let all = vec![u32::MAX; n.div_ceil(32)];
            let few = Sampler::new().choose(&logits, &history, &s, None);
            assert_eq!(few, Sampler::new().choose(&logits, &history, &s, Some(&all)), "round {round}, {n} logits");
        }
    }

    /// A bias is what it is when it is added to every logit beforehand, however few of them are looked at.
    #[test]
    fn a_bias_is_added_before_everything_else() {
        let mut next = numbers(7);
        for round in 0..600u32 {
            let n = 40 + (next() * if round % 4 == 0 { 100.0 } else { 40_000.0 }) as usize;
            let logits: Vec<f32> = (0..n)
                .map(|_| match next() {
                    x if x < 0.001 => f32::NAN,
                    x if x < 0.01 => f32::NEG_INFINITY,
                    _ => (next() * 50.0).floor() - 25.0 + if round % 2 == 0 { next() } else { 0.0 },
                })
                .collect();
            let mut bias: Vec<(u32, f32)> = (0..[1, 3, 40, 300][round as usize % 4])
                .map(|_| {
                    let strong = [-100.0, 100.0, -30.0, 30.0, 2.5, -2.5, 0.0];
                    let kinds = if round % 3 == 0 { strong.len() } else { strong.len() - 2 };
                    ((next() * n as f32) as u32, strong[strong.len() - kinds..][(next() * kinds as f32) as usize])
                })
                .collect();
            bias.sort_by_key(|(token, _)| *token);
            bias.dedup_by_key(|(token, _)| *token);
            // The likeliest, and sometimes everything, is excluded.
            if round % 5 == 0 {
                let best = (0u32..).zip(&logits).max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
                bias.retain(|(token, _)| *token != best);
                bias.push((best, -100.0));
                bias.sort_by_key(|(token, _)| *token);
            }
            if round % 40 == 4 && n < MOST_BIASED {
                bias = (0..n as u32).map(|token| (token, -100.0)).collect();
            }
            let allowed: Option<Vec<u32>> = (round % 7 < 2).then(|| {
                let mut words: Vec<u32> = (0..n.div_ceil(32)).map(|_| (next() * 4e9) as u32).collect();
                words[0] |= 1;
                words
            });
            let may = |t: usize| allowed.as_ref().is_none_or(|set| set[t / 32] >> (t % 32) & 1 == 1);
            let only: Vec<usize> =
                bias.iter().filter(|b| b.1 == 100.0).map(|b| b.0 as usize).filter(|&t| may(t)).collect();
            let mut plainly = logits.clone();
            for (t, logit) in plainly.iter_mut().enumerate() {
                let found = bias.iter().find(|b| b.0 as usize == t).map(|b| b.1);
                *logit = match found {
                    Some(b) if b <= -100.0 => f32::NEG_INFINITY,
                    _ if !only.is_empty() && !only.contains(&t) => f32::NEG_INFINITY,
                    Some(b) => {
                        if logit.is_nan() {
                            f32::NEG_INFINITY
                        } else {
                            *logit + b
                        }
                    }
                    None => *logit,
                };
            }
            if (0..n).filter(|&t| may(t)).all(|t| plainly[t].is_nan() || plainly[t] == f32::NEG_INFINITY) {
                plainly.clone_from(&logits);
            }
            let history: Vec<u32> = (0..round % 80).map(|_| (next() * n as f32) as u32).collect();
            let s = Sampling {
                temperature: if round % 5 == 1 { 0.0 } else { 0.8 },
                top_k: [1, 2, 40, 64, 300, 0][round as usize % 6],
                top_p: if round % 11 == 0 { 0.9 } else { 1.0 },
                repeat: [1.0, 1.3, 0.7][round as usize % 3],
                seed: u64::from(round),
                ..plain()
            };
            let want = Sampler::new().choose(&plainly, &history, &s, allowed.as_deref());
            let s = Sampling { bias, ..s };
            s.check().unwrap();
            let found = Sampler::new().choose(&logits, &history, &s, allowed.as_deref());
            assert_eq!(found.token, want.token, "round {round}, {n} logits, {:?}", s.bias);
            // What is told of it is the model's own.
            let own = Sampling { bias: vec![(found.token, 100.0)], ..plain() };
            assert_eq!(found, Sampler::new().choose(&logits, &[], &own, None), "round {round}");
        }
    }

    #[test]
    fn the_likeliest_are_the_models_own() {
        let mut state = 3u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        for round in 0..60usize {
            let logits: Vec<f32> = (0..1 + round * round * 10)
                .map(|_| (next() * 40.0).floor() / if round % 2 == 0 { 1.0 } else { 7.0 })
                .collect();
            let s = Sampling { bias: vec![(0, -100.0)], temperature: 3.0, top_k: 1, repeat: 2.0, ..plain() };
            let mut sampler = Sampler::new();
            let choice = sampler.choose(&logits, &[0], &s, None);
            let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
            let mut want: Vec<(u32, f64)> =
                (0u32..).zip(&logits).map(|(t, l)| (t, (f64::from(*l).exp() / total).ln())).collect();
            assert!((choice.log_probability - want[choice.token as usize].1).abs() < 1e-5);
            want.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            for n in [0, 1, 5, 20] {
                let mut found = Vec::new();
                sampler.likeliest(&logits, n, &mut found);
                assert_eq!(found.len(), n.min(logits.len()));
                for (found, want) in found.iter().zip(&want) {
                    assert!(found.0 == want.0 && (found.1 - want.1).abs() < 1e-5, "{found:?} {want:?}");
                }
            }
        }
    }

    #[test]
    fn broken_logits_choose_something() {
        for s in [plain(), Sampling { temperature: 0.0, ..plain() }] {
            assert!(Sampler::new().choose(&[f32::NAN; 3], &[], &s, None).token < 3);
            assert_eq!(Sampler::new().choose(&[f32::NAN, 1.0, f32::NEG_INFINITY], &[], &s, None).token, 1);
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let message = |s: Sampling| s.check().unwrap_err().to_string();
        assert!(plain().check().is_ok());
        assert!(message(Sampling { max_tokens: 0, ..plain() }).contains("at least 1"));
        assert!(message(Sampling { temperature: f32::NAN, ..plain() }).contains("temperature is NaN"));
        assert!(message(Sampling { top_p: 0.0, ..plain() }).contains("top-p"));
        assert!(message(Sampling { min_p: 1.5, ..plain() }).contains("min-p"));
        assert!(message(Sampling { repeat: 0.0, ..plain() }).contains("repetition"));
        assert!(message(Sampling { stop: vec![String::new()], ..plain() }).contains("stop string of 0 bytes"));
        assert!(message(Sampling { stop: vec!["x".into(); 17], ..plain() }).contains("17 stop strings"));
        let biased = |bias: &[(u32, f32)]| message(Sampling { bias: bias.to_vec(), ..plain() });
        assert!(biased(&[(7, 101.0)]).contains("the bias of token 7 is 101; accepted are -100 to 100"));
        assert!(biased(&[(7, f32::NAN)]).contains("the bias of token 7 is NaN"));
        assert!(biased(&[(7, 1.0), (7, 2.0)]).contains("token 7 comes after 7"));
        assert!(biased(&[(0, 0.0); 1025]).contains("1025 biased tokens"));
        assert!(message(Sampling { alternatives: 21, ..plain() }).contains("21 alternatives"));
    }
}

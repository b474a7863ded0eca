//! Every kind of processor at hand against plain Rust.

#![allow(clippy::type_complexity, reason = "a closure's type says it best where it is used once")]

use super::*;
use proptest::prelude::*;

/// Calls a closure with each kind that this processor has. The kernels are called directly: other tests run beside.
macro_rules! each_kind {
    ($name:ident, $check:expr) => {
        for kind in Kind::available() {
            match kind {
                Kind::Scalar => $check(kind, &|a, b, c| scalar::$name(a, b, c)),
                // SAFETY: the kind is available.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => $check(kind, &|a, b, c| unsafe { avx2::$name(a, b, c) }),
                // SAFETY: the kind is available.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 => $check(kind, &|a, b, c| unsafe { avx512::$name(a, b, c) }),
                // SAFETY: the kind is available.
                #[cfg(target_arch = "aarch64")]
                Kind::Neon => $check(kind, &|a, b, c| unsafe { neon::$name(a, b, c) }),
            }
        }
    };
}

fn words(n: usize) -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::vec(any::<u64>(), n)
}

proptest! {
    #[test]
    fn hamming_counts_signs(
        (query, rows) in (1usize..40).prop_flat_map(|n| (words(n), (0usize..12).prop_flat_map(move |g| words(n * g * 8)))),
    ) {
        let n = query.len();
        let expected: Vec<u16> = (0..rows.len() / n)
            .map(|row| {
                let word = |w: usize| rows[row / 8 * 8 * n + w * 8 + row % 8];
                (0..n).map(|w| (word(w) ^ query[w]).count_ones() as u16).sum()
            })
            .collect();
        each_kind!(hamming, |kind, f: &dyn Fn(&[u64], &[u64], &mut [u16])| {
            let mut out = vec![7; expected.len()];
            f(&query, &rows, &mut out);
            assert_eq!(out, expected, "{kind:?}");
        });
    }

    #[test]
    fn at_most_marks_small_distances(distances in proptest::collection::vec(0u16..400, 0..300), limit in 0u16..400) {
        each_kind!(at_most, |kind, f: &dyn Fn(&[u16], u16, &mut [u32])| {
            let mut out = vec![u32::MAX; distances.len().div_ceil(32)];
            f(&distances, limit, &mut out);
            for i in 0..out.len() * 32 {
                let expected = distances.get(i).is_some_and(|d| *d <= limit);
                assert_eq!(out[i / 32] >> (i % 32) & 1 == 1, expected, "{kind:?} {i}");
            }
        });
    }

    #[test]
    fn wide_dots_are_exact(
        query in proptest::collection::vec(-1f32..1.0, 1..900),
        seed in any::<u64>(),
        n in 0usize..9,
        extreme in any::<bool>(),
    ) {
        let wide = Wide::new(&query);
        let rows = bytes(seed, n, wide.whole.len(), extreme);
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        each_kind!(wide_dots, |kind, f: &dyn Fn(&Wide, &[&[u8]], &mut [i32])| {
            let mut out = vec![1; n];
            f(&wide, &rows, &mut out);
            for (row, out) in rows.iter().zip(out) {
                let sum: i64 = row.iter().zip(&wide.whole).map(|(x, q)| (i64::from(*x) - 128) * i64::from(*q)).sum();
                assert_eq!(i64::from(out), sum, "{kind:?}");
            }
        });
    }

    #[test]
    fn plane_dots_are_exact(
        query in proptest::collection::vec(-1f32..1.0, 1..900),
        rows in proptest::collection::vec(any::<u64>(), 0..9 * 60),
        extreme in any::<bool>(),
    ) {
        let query: Vec<f32> = if extreme { vec![-1.0; query.len()] } else { query };
        let wide = Wide::new(&query);
        let words = wide.whole.len() / 64;
        let n = rows.len() / (words * PLANES);
        let rows: Vec<u64> = rows[..n * words * PLANES].iter().map(|word| if extreme { 0 } else { *word }).collect();
        each_kind!(plane_dots, |kind, f: &dyn Fn(&Wide, &[u64], &mut [i32])| {
            let mut out = vec![1; n];
            f(&wide, &rows, &mut out);
            for (row, out) in rows.chunks(words * PLANES).zip(out) {
                let number = |at: usize| {
                    let plane = |plane: usize| (row[at / 64 * PLANES + plane] >> (at % 64) & 1) as i64;
                    2 * (8 * plane(0) + 4 * plane(1) + 2 * plane(2) + plane(3)) - 15
                };
                let sum: i64 = wide.whole.iter().enumerate().map(|(at, q)| number(at) * i64::from(*q)).sum();
                assert_eq!(i64::from(out), sum, "{kind:?}");
            }
        });
    }

    #[test]
    fn rows_are_compared_with_rows(seed in any::<u64>(), lines in 0usize..12, n in 0usize..9) {
        let rows = bytes(seed, n + 1, lines * 64, false);
        let mut wide = Wide::default();
        wide.set_row(&rows[n]);
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        let code = |x: &u8| i32::from(*x) - 128;
        each_kind!(wide_dots, |kind, f: &dyn Fn(&Wide, &[&[u8]], &mut [i32])| {
            let mut out = vec![1; n + 1];
            f(&wide, &rows, &mut out);
            for (row, out) in rows.iter().zip(out) {
                assert_eq!(out, row.iter().zip(rows[n]).map(|(a, b)| code(a) * code(b)).sum::<i32>(), "{kind:?}");
            }
        });
    }

    #[test]
    fn floats_and_halves_agree(seed in any::<u64>(), lines in 0usize..12, n in 0usize..9) {
        let float = |x: &u8| (f32::from(*x) - 127.5) / 100.0;
        let query: Vec<f32> = bytes(!seed, 1, lines * 32, false)[0].iter().map(float).collect();
        let rows: Vec<Vec<f32>> = bytes(seed, n, lines * 32, false).iter().map(|row| row.iter().map(float).collect()).collect();
        let halves: Vec<Vec<u16>> = rows.iter().map(|row| row.iter().map(|x| to_half(*x)).collect()).collect();
        let floats: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let halves: Vec<&[u16]> = halves.iter().map(Vec::as_slice).collect();
        let near = |kind, out: f32, row: &mut dyn Iterator<Item = f32>| {
            let exact: f64 = row.zip(&query).map(|(x, q)| f64::from(x) * f64::from(*q)).sum();
            assert!((f64::from(out) - exact).abs() < 1e-4, "{kind:?} {out} {exact}");
        };
        each_kind!(float_dots, |kind, f: &dyn Fn(&[f32], &[&[f32]], &mut [f32])| {
            let mut out = vec![1.0; n];
            f(&query, &floats, &mut out);
            for (at, row) in floats.iter().enumerate() {
                near(kind, out[at], &mut row.iter().copied());
                // The same bits alone as beside others.
                let mut alone = [0.0];
                f(&query, &[row], &mut alone);
                assert_eq!(alone[0].to_bits(), out[at].to_bits());
            }
        });
        each_kind!(half_dots, |kind, f: &dyn Fn(&[f32], &[&[u16]], &mut [f32])| {
            let mut out = vec![1.0; n];
            f(&query, &halves, &mut out);
            for (at, row) in halves.iter().enumerate() {
                near(kind, out[at], &mut row.iter().map(|x| half_to_float(*x)));
                let mut alone = [0.0];
                f(&query, &[row], &mut alone);
                assert_eq!(alone[0].to_bits(), out[at].to_bits());
            }
        });
    }

    #[test]
    fn rounding_is_to_the_nearest(x in -100_000f32..100_000.0) {
        assert_eq!(rounded(x), x.round_ties_even() as i32);
    }
}

fn bytes(seed: u64, n: usize, length: usize, extreme: bool) -> Vec<Vec<u8>> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Codes are -127..=127, so bytes 1..=255.
        if extreme { if state >> 63 == 1 { 255 } else { 1 } } else { ((state >> 40) % 255 + 1) as u8 }
    };
    (0..n).map(|_| (0..length).map(|_| next()).collect()).collect()
}

#[test]
fn halves_round_trip() {
    for half in 0..=0xffffu16 {
        if half & 0x7c00 != 0x7c00 {
            assert_eq!(to_half(half_to_float(half)), half);
        }
    }
    assert_eq!(half_to_float(0x3c00), 1.0);
    assert_eq!(half_to_float(0x0001), 2f32.powi(-24));
    assert_eq!(half_to_float(0xc000), -2.0);
    assert_eq!(to_half(1.0 + 2f32.powi(-11)), 0x3c00);
    assert_eq!(to_half(1.0 + 3.0 * 2f32.powi(-11)), 0x3c02);
    assert_eq!(to_half(1e9), 0x7bff);
    assert_eq!(to_half(1e-30), 0);
}

#[test]
fn the_best_kind_is_used() {
    assert_eq!(Kind::available().last(), Some(&Kind::Scalar));
    assert!(Kind::available().contains(&Kind::current()));
}

#[test]
fn codes_with_signs() {
    for (words, count) in [(1, 1), (2, 3), (6, 4), (6, 9), (256, 5)] {
        let codes: Vec<i8> = (0..words * 64).map(|n| if words == 256 { -127 } else { (n * 89 % 255) as i8 }).collect();
        let rows: Vec<u64> = (0..words * count).map(|n| (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let bit = |row: &[u64], n: usize| row[n / 64] >> (n % 64) & 1 == 1;
        let dot = |row: &[u64]| -> i32 {
            let signed = |(n, code): (usize, &i8)| if bit(row, n) { i32::from(*code) } else { -i32::from(*code) };
            codes.iter().enumerate().map(signed).sum()
        };
        let best = rows.chunks_exact(words).map(dot).max();
        assert_eq!(best_sign_dot(&codes, &rows), best, "{words} words, {count} rows");
        let sum: i32 = codes.iter().map(|code| i32::from(*code)).sum();
        for kind in Kind::available() {
            let found = match kind {
                Kind::Scalar => scalar::best_sign_sum(&codes, &rows),
                // SAFETY: the kind is available.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => unsafe { avx2::best_sign_sum(&codes, &rows) },
                // SAFETY: the kind is available.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 => unsafe { avx512::best_sign_sum(&codes, &rows) },
                // SAFETY: the kind is available.
                #[cfg(target_arch = "aarch64")]
                Kind::Neon => unsafe { neon::best_sign_sum(&codes, &rows) },
            };
            assert_eq!(Some(2 * found - sum), best, "{kind:?}, {words} words, {count} rows");
        }
        assert_eq!(best_sign_dot(&codes, &rows[..words - 1]), None);
    }
    assert_eq!(best_sign_dot(&[], &[]), None);
}

//! Every path against plain loops, and against each other bit for bit.

use proptest::prelude::*;

use super::*;

/// Numbers in −1..1 from a fixed recurrence.
fn numbers(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// `rows × cols` encoded numbers.
fn encoded(format: Format, rows: usize, cols: usize) -> Vec<u8> {
    let all = numbers(9, rows * cols);
    match format {
        Format::F32 => all.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Format::F16 => all.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
        Format::BF16 => all.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_path_gives_the_bits_of_the_baseline() {
    let paths = available();
    assert_eq!(paths.last().map(|p| p.name), Some("baseline"));
    let base = paths[paths.len() - 1];
    for n in [1, 15, 16, 17, 31, 48, 130] {
        let x: Vec<f32> = numbers(3, n).iter().map(|v| v * 9.0).collect();
        let (g, o) = (numbers(4, n), numbers(5, n));
        let run = |k: &Kernels| {
            let mut all = Vec::new();
            let mut y = x.clone();
            all.push(k.exp_sum(&x, 9.0).to_bits());
            k.rms_norm(&x, &g, 1e-6, &mut y);
            all.extend(bits(&y));
            k.add(&mut y, &o);
            k.scale(&mut y, 1.5);
            all.extend(bits(&y));
            k.gelu_tanh_times(&mut y, &g);
            all.extend(bits(&y));
            all.push(k.sum_of_squares(&y).to_bits());
            all.push(k.largest(&y).to_bits());
            k.bend(&mut y, 3.0);
            all.extend(bits(&y));
            all
        };
        for path in &paths {
            assert_eq!(run(path), run(base), "{} {n}", path.name);
        }
    }
    let paths = for_attention();
    assert_eq!(paths.last().map(|p| p.name), Some("baseline"));
    for (queries, d) in [(1, 16), (4, 32), (6, 256), (13, 80), (3, 72), (12, 128), (5, 18)] {
        let run = |k: &AttentionKernels| bits(&attend(k, queries, d, |query| (0, 150 - 7 * query), 0.0));
        for path in &paths {
            assert_eq!(run(path), run(paths[paths.len() - 1]), "{} {queries} {d}", path.name);
        }
    }
}

/// Attention of some queries, each to a range of 150 positions, by the kernels; every page is a segment of its own.
fn attend(
    k: &AttentionKernels,
    queries: usize,
    d: usize,
    seen: impl Fn(usize) -> (usize, usize),
    cap: f32,
) -> Vec<f32> {
    let mut q = vec![0; queries * d / 2];
    k.pack(&numbers(1, queries * d), &mut q);
    let (keys, values) = (numbers(2, 192 * d), numbers(3, 192 * d));
    let (mut sums, mut states) = (vec![0.0; queries * d], vec![Running::START; queries]);
    let (mut scores, mut weights) = (vec![0.0; queries * PAGE], vec![0; queries * PAGE / 2]);
    for page in 0..3 {
        let rows = page * PAGE..(page + 1) * PAGE;
        let pairs = |j: usize| rows.clone().flat_map(move |t| [t * d + 2 * j, t * d + 2 * j + 1]);
        let across: Vec<f32> = (0..d / 2).flat_map(pairs).map(|at| keys[at]).collect();
        let twos = rows.clone().step_by(2).flat_map(|t| (0..d).flat_map(move |j| [t * d + j, (t + 1) * d + j]));
        let down: Vec<f32> = twos.map(|at| values[at]).collect();
        let mut cells = vec![0; d * PAGE];
        k.pack(&across, &mut cells[..d * PAGE / 2]);
        k.pack(&down, &mut cells[d * PAGE / 2..]);
        k.scores(&q, d, &cells, &mut scores);
        let (mut found, mut more) = (vec![Running::START; queries], vec![0.0; queries * d]);
        let mut factors = vec![0.0; queries];
        for n in 0..queries {
            let (from, to) = seen(n);
            let here = |t: usize| t.clamp(rows.start, rows.end) - rows.start;
            let (scores, weights) = (&mut scores[n * PAGE..][..PAGE], &mut weights[n * PAGE / 2..][..PAGE / 2]);
            factors[n] = k.weigh(scores, here(from)..here(to), 0.3, cap, &mut found[n], weights);
        }
        k.mix(&weights, &factors, d, &cells, &[], &mut more);
        for (n, (sums, more)) in sums.chunks_exact_mut(d).zip(more.chunks_exact(d)).enumerate() {
            k.join(sums, &mut states[n], more, found[n]);
        }
    }
    for (sums, state) in sums.chunks_exact_mut(d).zip(&states) {
        kernels().scale(sums, 1.0 / state.sum);
    }
    sums
}

#[test]
fn attention_is_the_weighted_mean_of_what_is_seen() {
    for (d, cap) in [(32, 0.0), (80, 0.0), (256, 5.0)] {
        let seen = |n: usize| (n * 20, 70 + n * 10);
        let got = attend(attention(), 7, d, seen, cap);
        let half = |x: f32| half::bf16::from_f32(x).to_f64();
        let (q, keys, values) = (numbers(1, 7 * d), numbers(2, 192 * d), numbers(3, 192 * d));
        for n in 0..7 {
            let (from, to) = seen(n);
            let scores: Vec<f64> = (from..to)
                .map(|t| (0..d).map(|j| half(q[n * d + j]) * half(keys[t * d + j])).sum::<f64>() * 0.3)
                .map(|s| if cap > 0.0 { f64::from(cap) * (s / f64::from(cap)).tanh() } else { s })
                .collect();
            let total: f64 = scores.iter().map(|s| s.exp()).sum();
            for j in 0..d {
                let want: f64 = (from..to).zip(&scores).map(|(t, s)| s.exp() / total * half(values[t * d + j])).sum();
                // The weights are rounded to 8 bits.
                assert!((f64::from(got[n * d + j]) - want).abs() < 2e-3, "{d} {cap} {n} {j}");
            }
        }
    }
}

#[test]
fn pages_in_8_bits_are_unpacked_in_their_order() {
    for d in [16, 18, 32, 72, 256] {
        let groups = usize::div_ceil(d, 32);
        let byte = |n: usize| (n * 37 % 255) as u8;
        let scale = |n: usize| half::bf16::from_f32(0.01 + (n % 13) as f32 / 64.0);
        let mut page = Vec::new();
        for part in 0..2 {
            page.extend((0..d * PAGE).map(|n| byte(n + part)));
            page.extend((0..groups * PAGE).flat_map(|n| scale(n + part).to_ne_bytes()));
        }
        let mut want = Vec::new();
        let number = |byte: u8, scale: half::bf16| half::bf16::from_f32(f32::from(byte.cast_signed()) * scale.to_f32());
        let cell = |low: half::bf16, high: half::bf16| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
        for (j, t) in (0..d / 2).flat_map(|j| (0..PAGE).map(move |t| (j, t))) {
            let (at, scale) = (2 * (j * PAGE + t), scale(2 * j / 32 * PAGE + t));
            want.push(cell(number(byte(at), scale), number(byte(at + 1), scale)));
        }
        for (t, j) in (0..PAGE / 2).flat_map(|t| (0..d).map(move |j| (t, j))) {
            let (at, scale) = (2 * (t * d + j) + 1, |t: usize| scale(t * groups + j / 32 + 1));
            want.push(cell(number(byte(at), scale(2 * t)), number(byte(at + 1), scale(2 * t + 1))));
        }
        for path in for_attention() {
            let mut got = vec![0; d * PAGE];
            path.unpack(&page, &mut got);
            assert!(got == want, "{} {d}", path.name);
        }
    }
}

#[test]
fn what_a_query_sees_does_not_depend_on_the_others() {
    let seen = |n: usize| (n * 20, 70 + n * 10);
    let together = attend(attention(), 7, 64, seen, 0.0);
    let fewer = attend(attention(), 2, 64, seen, 0.0);
    assert_eq!(bits(&together[..2 * 64]), bits(&fewer));
}

/// Rows of encoded numbers in tiles.
fn packed(format: Format, rows: usize, cols: usize, bytes: &[u8]) -> Vec<u8> {
    let mut tiles = vec![0; tiles_bytes(format, rows, cols).unwrap()];
    pack_tiles(format, cols, bytes, &mut tiles);
    tiles
}

/// The products of the rows of `x` with all rows of the weights, and nothing else written.
fn product(k: &Kernels, format: Format, x: &[f32], cols: usize, tiles: &[u8], rows: usize) -> Vec<f32> {
    let (m, stride) = (x.len() / cols, rows + 3);
    let mut y = vec![7.0; m * stride];
    // SAFETY: there is room for `m` rows of products, and this is the only thread.
    unsafe { k.product(Tiles { format, data: tiles, cols, rows, x, y: y.as_mut_ptr(), stride }) };
    assert!(y.chunks_exact(stride).all(|y| y[rows..] == [7.0; 3]));
    y.chunks_exact(stride).flat_map(|y| &y[..rows]).copied().collect()
}

/// The widths of the family, and some that are none.
const WIDTHS: [usize; 11] = [1, 3, 5, 37, 63, 96, 640, 1152, 2048, 2560, 6912];

#[test]
fn every_path_gives_the_bits_of_the_definition_for_any_number_of_rows() {
    for format in Format::ALL {
        for cols in WIDTHS {
            let rows = if cols % 32 == 5 { 3 } else { 51 };
            let most = if cols > 3000 { 14 } else { 26 };
            let (x, bytes) = (numbers(1, most * cols), encoded(format, rows, cols));
            let tiles = packed(format, rows, cols, &bytes);
            let mut row = vec![0.0; cols];
            let mut want = vec![0.0; most * rows];
            for (j, bytes) in bytes.chunks_exact(format.row_bytes(cols).unwrap()).enumerate() {
                kernels().decode_row(format, bytes, &mut row);
                for (i, x) in x.chunks_exact(cols).enumerate() {
                    want[i * rows + j] = row.iter().zip(x).fold(0.0, |sum, (w, x)| w.mul_add(*x, sum));
                }
            }
            for path in available() {
                for m in (1..=13).chain([most]) {
                    let got = product(path, format, &x[..m * cols], cols, &tiles, rows);
                    assert!(bits(&got) == bits(&want[..m * rows]), "{} {format:?} {m} x {rows} x {cols}", path.name);
                }
            }
        }
    }
}

#[test]
fn products_agree_with_plain_loops_in_f64() {
    for format in Format::ALL {
        for cols in WIDTHS {
            let (x, w) = (numbers(1, 3 * cols), encoded(format, 6, cols));
            let y = product(kernels(), format, &x, cols, &packed(format, 6, cols, &w), 6);
            let row_bytes = format.row_bytes(cols).unwrap();
            for i in 0..3 {
                for j in 0..6 {
                    let mut row = vec![0.0; cols];
                    kernels().decode_row(format, &w[j * row_bytes..][..row_bytes], &mut row);
                    let want: f64 = (0..cols).map(|k| f64::from(x[i * cols + k]) * f64::from(row[k])).sum();
                    let close = 1e-6 * cols as f64 + 1e-6;
                    assert!((f64::from(y[i * 6 + j]) - want).abs() < close, "{format:?} {cols}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Any bytes as weights, and any shape: the rows are those that were packed, and every path agrees.
    #[test]
    fn any_weights_do_no_harm(kind in 0..3usize, rows in 1usize..40, cols in 1usize..90, m in 1usize..16, seed: u64) {
        let format = Format::ALL[kind];
        let mut state = seed | 1;
        let mut byte = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        let row_bytes = format.row_bytes(cols).unwrap();
        let bytes: Vec<u8> = (0..rows * row_bytes).map(|_| byte()).collect();
        let tiles = packed(format, rows, cols, &bytes);
        let same = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
        };
        let (mut from_file, mut from_tile) = (vec![0.0; cols], vec![0.0; cols]);
        for (j, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
            let tile = tiles.len() / rows.div_ceil(TILE);
            unpack_row(format, &tiles[j / TILE * tile..][..tile], j % TILE, &mut from_tile);
            for path in available() {
                path.decode_row(format, bytes, &mut from_file);
                prop_assert!(same(&from_file, &from_tile), "row {j}");
            }
        }
        let x = numbers(seed as u32, m * cols);
        let want = product(&baseline::TABLE, format, &x, cols, &tiles, rows);
        for path in available() {
            prop_assert!(same(&product(path, format, &x, cols, &tiles, rows), &want), "{}", path.name);
        }
    }
}

/// `rows × numbers` as cells, and the numbers that are in them.
fn cells(kernels: &EncoderKernels, seed: u32, rows: usize, numbers_each: usize) -> (Vec<u32>, Vec<f64>) {
    let all = numbers(seed, rows * numbers_each);
    let inputs = numbers_each.div_ceil(kernels.per_cell);
    let mut cells = vec![0; rows * inputs];
    for (from, to) in all.chunks_exact(numbers_each).zip(cells.chunks_exact_mut(inputs)) {
        kernels.pack(from, to);
    }
    let rounded = |x: f32| if kernels.per_cell == 2 { half::bf16::from_f32(x).to_f64() } else { f64::from(x) };
    (cells, all.into_iter().map(rounded).collect())
}

/// A matrix in panels, and its columns one after the other.
fn panels(kernels: &EncoderKernels, columns: usize, numbers_each: usize) -> (Vec<u32>, Vec<f64>) {
    let (by_column, all) = cells(kernels, 7, columns, numbers_each);
    let inputs = numbers_each.div_ceil(kernels.per_cell);
    let mut panels = vec![0; padded(columns) * inputs];
    for (at, cell) in by_column.into_iter().enumerate() {
        panels[place(at / inputs, at % inputs, columns, inputs)] = cell;
    }
    (panels, all)
}

#[test]
fn products_of_cells_agree_with_plain_loops_and_each_other() {
    let mut of_f32: Vec<Vec<u32>> = Vec::new();
    for kernels in for_encoders() {
        let mut all = Vec::new();
        for (rows, numbers, columns) in
            [(1usize, 2usize, 1usize), (9, 33, 50), (17, 64, 96), (8, 48, 112), (31, 20, 8), (3, 96, 161)]
        {
            let inputs = numbers.div_ceil(kernels.per_cell);
            let (x, plain) = cells(kernels, 3, rows, numbers);
            let (w, columns_plain) = panels(kernels, columns, numbers);
            let x = Strided { data: &x, stride: inputs, rows };
            let w = Panels { cells: &w, inputs, columns };
            let mut bias: Vec<f32> = (0..columns).map(|c| c as f32 * 0.01).collect();
            bias.resize(padded(columns), 0.0);
            let factors: Vec<f32> = (0..rows).map(|r| 1.0 + r as f32).collect();
            let want = |row: usize, column: usize| {
                let (a, b) = (&plain[row * numbers..][..numbers], &columns_plain[column * numbers..][..numbers]);
                a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>()
            };
            let near = |got: f32, want: f64, of: f64, what: &str| {
                assert!(
                    (f64::from(got) - want).abs() <= of,
                    "{} {rows} {numbers} {columns} {what}: {got} {want}",
                    kernels.name
                );
            };
            let mut stored = vec![9.0; rows * (columns + 3)];
            kernels.product(x, w, Finish::Store { y: &mut stored, stride: columns + 3 });
            let mut added = stored[..rows * columns].to_vec();
            let before = added.clone();
            kernels.product(x, w, Finish::Add { bias: &bias, y: &mut added });
            for row in 0..rows {
                for column in 0..columns {
                    near(stored[row * (columns + 3) + column], want(row, column), 2e-5, "stored");
                    let at = row * columns + column;
                    let sum = want(row, column) + f64::from(bias[column]) + f64::from(before[at]);
                    near(added[at], sum, 4e-5, "added");
                }
                assert_eq!(stored[row * (columns + 3) + columns..][..3], [9.0; 3]);
            }
            all.extend(bits(&stored));
            all.extend(bits(&added));
            // A row alone, and in the middle of others.
            for row in [0, rows / 2, rows - 1] {
                let alone = Strided { data: &x.data[row * inputs..], rows: 1, ..x };
                let mut y = vec![0.0; columns];
                kernels.product(alone, w, Finish::Store { y: &mut y, stride: columns });
                assert_eq!(bits(&y), bits(&stored[row * (columns + 3)..][..columns]), "{}", kernels.name);
            }
            // Rows of cells need whole cells.
            if columns % kernels.per_cell > 0 {
                continue;
            }
            let stride = columns / kernels.per_cell;
            let mut results = [(); 3].map(|()| vec![0; rows * stride]);
            let [scaled, biased, bent] = &mut results;
            kernels.product(x, w, Finish::Scale { factors: &factors, y: scaled, stride });
            kernels.product(x, w, Finish::Bias { bias: &bias, y: biased });
            kernels.product(x, w, Finish::Gelu { bias: &bias, y: bent });
            let number = |cells: &[u32], at: usize| match kernels.per_cell {
                1 => f32::from_bits(cells[at]),
                _ => f32::from_bits(cells[at / 2] >> (16 * (at % 2)) << 16),
            };
            let loss = if kernels.per_cell == 2 { 1.0 / 256.0 } else { 1e-6 };
            for (row, factor) in factors.iter().enumerate() {
                for (column, bias) in bias.iter().take(columns).enumerate() {
                    let (at, sum) = (row * columns + column, want(row, column) + f64::from(*bias));
                    let plain = want(row, column) * f64::from(*factor);
                    near(number(&results[0], at), plain, 1e-3 + plain.abs() * loss, "scaled");
                    near(number(&results[1], at), sum, 1e-4 + sum.abs() * loss, "biased");
                    let gelu = f64::from(lanes::gelu_erf(sum as f32));
                    near(number(&results[2], at), gelu, 1e-4 + gelu.abs() * loss, "bent");
                }
            }
            if kernels.per_cell == 1 {
                all.extend(results.concat());
            }
        }
        if kernels.per_cell == 1 {
            of_f32.push(all);
        }
    }
    assert!(of_f32.windows(2).all(|pair| pair[0] == pair[1]), "the f32 paths differ");
}

#[test]
fn norms_and_weights_come_as_cells() {
    for kernels in for_encoders() {
        for count in [1, 7, 16, 33, 50] {
            let width = padded(count);
            let mut scores = numbers(2, width);
            let mut expected = scores[..count].to_vec();
            let total: f32 = expected.iter().map(|x| x.exp()).sum();
            expected.iter_mut().for_each(|x| *x = x.exp() / total);
            let mut cells = vec![u32::MAX; width.div_ceil(kernels.per_cell)];
            let factor = kernels.weigh(&mut scores, count, &mut cells);
            let mut again = vec![0; cells.len()];
            kernels.pack(&scores, &mut again);
            assert_eq!(cells, again);
            for (at, score) in scores.iter().enumerate() {
                let want = expected.get(at).copied().unwrap_or(0.0);
                assert!((score * factor - want).abs() < 1e-6, "{} {count} {at}", kernels.name);
            }
            let (gain, offset) = (numbers(4, count), numbers(5, count));
            let (mut x, mut plain) = (numbers(3, count), numbers(3, count));
            kernels.norm(&mut x, &gain, &offset, 1e-9, &mut cells);
            let mean = plain.iter().sum::<f32>() / count as f32;
            let variance = plain.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / count as f32;
            for (at, plain) in plain.iter_mut().enumerate() {
                *plain = (*plain - mean) / (variance + 1e-9).sqrt() * gain[at] + offset[at];
                assert!((x[at] - *plain).abs() < 1e-4, "{} {count} {at}", kernels.name);
            }
            let inputs = count.div_ceil(kernels.per_cell);
            kernels.pack(&x, &mut again);
            assert_eq!(cells[..inputs], again[..inputs]);
        }
    }
}

#[test]
fn half_precision_is_exact() {
    for h in 0..=u16::MAX {
        let want = half::f16::from_bits(h).to_f32();
        let got = rows::f16(h);
        assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{h:#x}: {got} {want}");
    }
}

#[test]
fn elementary_functions_are_close() {
    for i in -9000..9000 {
        let x = i as f32 * 0.01;
        let want = f64::from(x).exp();
        if (-87.0..88.0).contains(&x) {
            let error = (f64::from(lanes::exp(x)) / want - 1.0).abs();
            assert!(error < 2.5e-7, "exp({x}): {error:e}");
        }
        let d = f64::from(x);
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d * d * d);
        let gate = 0.5 * d * (1.0 + inner.tanh());
        assert!((f64::from(lanes::gelu_tanh(x)) - gate).abs() < 2e-6 * (1.0 + d.abs()), "gelu_tanh({x})");
    }
    assert_eq!(lanes::exp(-1000.0), 0.0);
    assert_eq!(lanes::exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(lanes::exp(0.0), 1.0);
    assert!(lanes::exp(1000.0).is_finite());
    // Values of x·Φ(x) from a table.
    for (x, want) in [
        (-100.0, 0.0),
        (100.0, 100.0),
        (-6.0, 0.0),
        (-2.0, -0.045_500_3),
        (-0.5, -0.154_268_8),
        (0.0, 0.0),
        (1.0, 0.841_344_7),
        (3.0, 2.995_950_3),
    ] {
        assert!((lanes::gelu_erf(x) - want).abs() < 1e-6f32, "gelu_erf({x})");
    }
}

#[test]
fn weights_survive_extremes() {
    let mut scores = [0.0; PAGE];
    scores[..4].copy_from_slice(&[1e30, -1e30, 1e30, 0.0]);
    let (mut state, mut weights) = (Running::START, [0; PAGE / 2]);
    let k = super::attention();
    assert_eq!(k.weigh(&mut scores, 0..4, 1.0, 0.0, &mut state, &mut weights), 0.0);
    assert_eq!(weights[..3], [0x3f80, 0x3f80, 0]);
    assert_eq!((state.largest, state.sum), (1e30, 2.0));
    // A page of which nothing is seen changes nothing, nor does a segment.
    assert_eq!(k.weigh(&mut scores, 0..0, 1.0, 0.0, &mut state, &mut weights), 1.0);
    assert_eq!((weights, state.sum), ([0; PAGE / 2], 2.0));
    let mut sums = [3.0];
    k.join(&mut sums, &mut state, &[7.0], Running::START);
    assert_eq!((sums, state.sum), ([3.0], 2.0));
    for x in [-30.0f32, -1.0, -1e-3, 0.0, 0.3, 2.0, 50.0] {
        assert!((attention::tanh(x) - x.tanh()).abs() < 2e-7, "{x}");
    }
}

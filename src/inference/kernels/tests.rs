//! Every path against plain loops, and against each other bit for bit.

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
    let bytes = rows * format.row_bytes(cols).unwrap();
    match format {
        Format::F32 => numbers(9, rows * cols).iter().flat_map(|x| x.to_le_bytes()).collect(),
        Format::F16 => numbers(9, rows * cols).iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
        Format::BF16 => numbers(9, rows * cols).iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        Format::Q8_0 | Format::Q4_0 => {
            let mut out: Vec<u8> = numbers(9, bytes).iter().map(|x| (x * 127.0) as i8 as u8).collect();
            for (i, block) in out.chunks_exact_mut(format.block_bytes()).enumerate() {
                let scale = half::f16::from_f32(0.01 + (i % 7) as f32 * 0.003);
                block[..2].copy_from_slice(&scale.to_le_bytes());
            }
            out
        }
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
    for format in Format::ALL {
        for (m, rows, cols) in [(1, 7, 64), (3, 9, 96), (9, 5, 160), (4, 4, 32), (5, 13, 352)] {
            let x = numbers(m as u32, m * cols);
            let w = encoded(format, rows, cols);
            let run = |k: &Kernels| {
                let mut y = vec![0.0; m * rows];
                k.product(&x, m, Encoded { format, data: &w, cols }, &mut y, &mut vec![0.0; scratch_len(cols)]);
                bits(&y)
            };
            let want = run(base);
            for path in &paths {
                assert_eq!(run(path), want, "{} {format:?} {m}x{rows}x{cols}", path.name);
            }
        }
    }
    for n in [1, 15, 16, 17, 31, 48, 130] {
        let x: Vec<f32> = numbers(3, n).iter().map(|v| v * 9.0).collect();
        let (g, o) = (numbers(4, n), numbers(5, n));
        let run = |k: &Kernels| {
            let mut all = Vec::new();
            let mut y = x.clone();
            k.softmax(&mut y, 0.7);
            all.extend(bits(&y));
            all.push(k.exp_sum(&x, 9.0).to_bits());
            k.rms_norm(&x, &g, 1e-6, &mut y);
            all.extend(bits(&y));
            k.layer_norm(&mut y, &g, &o, 1e-12);
            all.extend(bits(&y));
            k.gelu_erf(&mut y);
            k.add(&mut y, &o);
            k.scale(&mut y, 1.5);
            all.extend(bits(&y));
            k.gelu_tanh_times(&mut y, &g);
            all.extend(bits(&y));
            all.push(k.sum_of_squares(&y).to_bits());
            all
        };
        for path in &paths {
            assert_eq!(run(path), run(base), "{} {n}", path.name);
        }
    }
    for (m, t, width) in [(1, 5, 32), (5, 37, 40), (8, 3, 64), (4, 20, 17)] {
        let (p, v) = (numbers(1, m * t), numbers(2, t * width));
        let run = |k: &Kernels| {
            let mut y = numbers(3, m * width);
            let (p, v) = (Strided { data: &p, stride: t, rows: m }, Strided { data: &v, stride: width, rows: t });
            k.mix_rows(p, v, width, &mut y, width);
            bits(&y)
        };
        for path in &paths {
            assert_eq!(run(path), run(base), "{} {m}x{t}x{width}", path.name);
        }
    }
}

#[test]
fn a_row_is_the_same_in_any_batch() {
    let cols = 32 * 5;
    for format in Format::ALL {
        let w = encoded(format, 11, cols);
        let x = numbers(1, 9 * cols);
        let mut scratch = vec![0.0; scratch_len(cols)];
        let mut together = vec![0.0; 9 * 11];
        kernels().product(&x, 9, Encoded { format, data: &w, cols }, &mut together, &mut scratch);
        for i in 0..9 {
            let mut alone = vec![0.0; 11];
            kernels().product(
                &x[i * cols..(i + 1) * cols],
                1,
                Encoded { format, data: &w, cols },
                &mut alone,
                &mut scratch,
            );
            assert_eq!(bits(&alone), bits(&together[i * 11..(i + 1) * 11]), "{format:?} row {i}");
        }
    }
}

#[test]
fn products_agree_with_plain_loops_in_f64() {
    for format in Format::ALL {
        for cols in [32, 96, 224] {
            let (x, w) = (numbers(1, 3 * cols), encoded(format, 6, cols));
            let mut y = vec![0.0; 18];
            kernels().product(&x, 3, Encoded { format, data: &w, cols }, &mut y, &mut vec![0.0; scratch_len(cols)]);
            let row_bytes = format.row_bytes(cols).unwrap();
            for i in 0..3 {
                for j in 0..6 {
                    let mut row = vec![0.0; cols];
                    kernels().decode_row(format, &w[j * row_bytes..][..row_bytes], &mut row);
                    let want: f64 = (0..cols).map(|k| f64::from(x[i * cols + k]) * f64::from(row[k])).sum();
                    assert!((f64::from(y[i * 6 + j]) - want).abs() < 1e-4, "{format:?} {cols}");
                }
            }
        }
    }
    // Lengths that fill no step, strides wider than the row.
    for len in [1, 5, 16, 17, 31, 33, 63] {
        let (a, b) = (numbers(1, 5 * 70), numbers(2, 7 * 80));
        let mut y = vec![0.0; 5 * 9];
        let (sa, sb) = (Strided { data: &a, stride: 70, rows: 5 }, Strided { data: &b, stride: 80, rows: 7 });
        kernels().dot_rows(sa, sb, len, &mut y, 9);
        for i in 0..5 {
            for j in 0..7 {
                let want: f64 = (0..len).map(|k| f64::from(a[i * 70 + k]) * f64::from(b[j * 80 + k])).sum();
                assert!((f64::from(y[i * 9 + j]) - want).abs() < 1e-4, "{len}");
            }
        }
    }
}

#[test]
fn mixing_in_pieces_gives_the_same_bits() {
    let (t, width) = (23, 48);
    let (p, v) = (numbers(1, 4 * t), numbers(2, t * width));
    let mix = |cuts: &[usize]| {
        let mut y = vec![0.0; 4 * width];
        for cut in cuts.windows(2) {
            let p = Strided { data: &p[cut[0]..], stride: t, rows: 4 };
            let v = Strided { data: &v[cut[0] * width..], stride: width, rows: cut[1] - cut[0] };
            kernels().mix_rows(p, v, width, &mut y, width);
        }
        bits(&y)
    };
    assert_eq!(mix(&[0, t]), mix(&[0, 1, 9, 10, t]));
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
    for (x, want) in [(-2.0, -0.045_500_3), (-0.5, -0.154_268_8), (0.0, 0.0), (1.0, 0.841_344_7), (3.0, 2.995_950_3)] {
        assert!((lanes::gelu_erf(x) - want).abs() < 1e-6f32, "gelu_erf({x})");
    }
}

#[test]
fn a_softmax_sums_to_one_and_survives_extremes() {
    let mut row = vec![1e30, -1e30, 1e30, 0.0];
    kernels().softmax(&mut row, 1.0);
    assert_eq!(row, [0.5, 0.0, 0.5, 0.0]);
    kernels().softmax(&mut [], 1.0);
}

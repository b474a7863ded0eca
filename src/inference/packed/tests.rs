//! Packing against candle's reading of the same blocks, every path against the scalar one, and that against plain sums.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use candle_core::quantized::GgmlDType;
use proptest::prelude::*;

use super::*;
use crate::memory::Arena;

/// The widths of the family, and some that are none.
const WIDTHS: [usize; 12] = [32, 96, 256, 640, 768, 1024, 1152, 2048, 2304, 2560, 3584, 6912];

/// Numbers from a fixed recurrence.
fn noise(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32
    }
}

/// Blocks as a file has them: any weights, scales that are numbers of a sensible size.
fn blocks(quant: Quant, rows: usize, cols: usize, seed: u64) -> Vec<u8> {
    let mut next = noise(seed);
    let mut bytes: Vec<u8> = (0..rows * quant.row_bytes(cols).unwrap()).map(|_| next() as u8).collect();
    for block in bytes.chunks_exact_mut(quant.block_bytes()) {
        let mut put = |at: usize, sign: bool| {
            let value = 0.002 + (next() % 1000) as f32 * 1e-5;
            let value = if sign && next().is_multiple_of(2) { -value } else { value };
            block[at..at + 2].copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
        };
        match quant {
            Quant::Q8_0 | Quant::Q4_0 | Quant::Q5_0 => put(0, true),
            Quant::Q4_1 | Quant::Q5_1 | Quant::Q4_K | Quant::Q5_K => {
                put(0, true);
                put(2, true);
            }
            Quant::Q6_K => put(208, true),
        }
    }
    bytes
}

fn packed(quant: Quant, rows: usize, cols: usize, bytes: &[u8]) -> Packed {
    let len = Packed::bytes_for(quant, rows, cols).unwrap();
    let arena = Arena::new(len).unwrap();
    Packed::pack(quant, rows, cols, bytes, arena.take(len).unwrap()).unwrap()
}

fn rows(path: &Path, x: &[f32], m: usize) -> Rows {
    let cols = x.len() / m;
    let mut rows = Rows::new(m, cols).unwrap();
    rows.reset(m, cols);
    for (i, x) in x.chunks_exact(cols).enumerate() {
        rows.set(path, i, x);
    }
    rows
}

fn product(path: &Path, w: &Packed, x: &[f32], m: usize) -> Vec<f32> {
    let x = rows(path, x, m);
    let mut y = vec![f32::NAN; m * w.rows()];
    // In two pieces, as threads have them.
    let middle = w.tiles() / 2;
    for tiles in [0..middle, middle..w.tiles()] {
        // SAFETY: `y` has `m` rows of the matrix's length, and this is the only thread.
        unsafe { w.multiply(path, tiles, &x, y.as_mut_ptr(), w.rows()) };
    }
    y
}

fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut next = noise(seed);
    (0..n)
        .map(|_| (next() as f32 / u32::MAX as f32 - 0.5) * if next().is_multiple_of(50) { 20.0 } else { 2.0 })
        .collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn rows_are_those_that_candle_reads() {
    for quant in Quant::ALL {
        let kind = match quant {
            Quant::Q8_0 => GgmlDType::Q8_0,
            Quant::Q4_0 => GgmlDType::Q4_0,
            Quant::Q4_1 => GgmlDType::Q4_1,
            Quant::Q5_0 => GgmlDType::Q5_0,
            Quant::Q5_1 => GgmlDType::Q5_1,
            Quant::Q4_K => GgmlDType::Q4K,
            Quant::Q5_K => GgmlDType::Q5K,
            Quant::Q6_K => GgmlDType::Q6K,
        };
        let (n, cols) = (37, 512);
        let bytes = blocks(quant, n, cols, 3);
        let device = candle_core::Device::Cpu;
        let tensor =
            candle_core::quantized::ggml_file::qtensor_from_ggml(kind, &bytes, vec![n, cols], &device).unwrap();
        let want: Vec<Vec<f32>> = tensor.dequantize(&device).unwrap().to_vec2().unwrap();
        let matrix = packed(quant, n, cols, &bytes);
        let mut row = vec![0.0; cols];
        for (i, want) in want.iter().enumerate() {
            matrix.row(i, &mut row).unwrap();
            let close = row.iter().zip(want).all(|(a, b)| (a - b).abs() <= b.abs() * 1e-6 + 1e-7);
            assert!(close, "{quant:?} row {i}");
            let mut read = vec![0.0; cols];
            let bytes = quant.row_bytes(cols).unwrap();
            read_row(quant, &self::blocks(quant, n, cols, 3)[i * bytes..][..bytes], &mut read).unwrap();
            assert_eq!(bits(&read), bits(&row), "{quant:?} row {i} of the file");
        }
        assert_eq!(matrix.row(n, &mut row), None);
    }
}

#[test]
fn a_packed_matrix_takes_hardly_more_than_the_file() {
    for quant in Quant::ALL {
        for cols in WIDTHS.into_iter().filter(|cols| *cols >= 256 && cols.is_multiple_of(quant.block_len())) {
            let (file, packed) = (quant.row_bytes(cols).unwrap() * 512, Packed::bytes_for(quant, 512, cols).unwrap());
            // K formats have their scales unpacked from six bits to eight; tiles end at a multiple of 64 bytes.
            assert!(packed as f64 <= file as f64 * 1.06, "{quant:?} {cols}: {packed} for {file}");
        }
    }
}

#[test]
fn every_path_gives_the_bits_of_the_scalar_one() {
    let paths = available();
    let scalar = paths[paths.len() - 1];
    assert_eq!(scalar.name, "scalar");
    for quant in Quant::ALL {
        for cols in WIDTHS.into_iter().filter(|cols| cols.is_multiple_of(quant.block_len())) {
            let n = 35;
            let w = packed(quant, n, cols, &blocks(quant, n, cols, cols as u64));
            let x = numbers(5, 17 * cols);
            let want = product(scalar, &w, &x, 17);
            for path in &paths {
                for m in 1..=17 {
                    let got = product(path, &w, &x[..m * cols], m);
                    assert!(bits(&got) == bits(&want[..m * n]), "{} {quant:?} {m} x {n} x {cols}", path.name);
                }
            }
        }
    }
}

/// The planes of rows in Q8_0 as a file has them.
pub(crate) fn in_planes(rows: usize, cols: usize, bytes: &[u8]) -> Planes {
    let len = Packed::bytes_for(Quant::Q8_0, rows, cols).unwrap();
    let fill = |share: usize, pack: &(dyn Fn(usize, &[u8]) + Sync)| {
        bytes.chunks(share).enumerate().for_each(|(n, bytes)| pack(n, bytes));
        Ok(())
    };
    Planes::pack(rows, cols, Arena::new(len).unwrap().take(len).unwrap(), fill).unwrap()
}

#[test]
fn planes_are_the_packed_matrix_on_every_path() {
    let paths = available();
    for cols in WIDTHS {
        let n = 35;
        let bytes = blocks(Quant::Q8_0, n, cols, cols as u64);
        let (whole, planes) = (packed(Quant::Q8_0, n, cols, &bytes), in_planes(n, cols, &bytes));
        assert_eq!((planes.bytes(), planes.tiles()), (whole.bytes(), whole.tiles()));
        let (mut want, mut row) = (vec![0.0; cols], vec![0.0; cols]);
        for i in 0..n {
            whole.row(i, &mut want).unwrap();
            planes.row(i, &mut row).unwrap();
            assert_eq!(bits(&row), bits(&want), "row {i} of {cols}");
        }
        assert_eq!(planes.row(n, &mut row), None);
        let values = numbers(9, 17 * cols);
        let mut scratch = vec![0.0; planes.scratch_len()];
        let mut first: Option<Vec<f32>> = None;
        for path in &paths {
            let want = product(path, &whole, &values, 17);
            let x = rows(path, &values, 17);
            let mut sketch = Sketch::default();
            sketch.set(&x);
            for some in [0..1, 3..7, 2..10, 0..17] {
                let (mut exact, mut rough) = (vec![f32::NAN; some.len() * n], vec![f32::NAN; some.len() * n]);
                // SAFETY: both have room for so many rows of products, and this is the only thread.
                unsafe {
                    for tiles in [0..1, 1..planes.tiles()] {
                        let (x_rows, to) = (some.clone(), exact.as_mut_ptr());
                        planes.exact(path, tiles.clone(), &x, x_rows.clone(), to, n, &mut scratch);
                        planes.coarse(path, tiles, &x, &sketch, x_rows, rough.as_mut_ptr(), n);
                    }
                }
                assert!(bits(&exact) == bits(&want[some.start * n..some.end * n]), "{} {some:?} x {cols}", path.name);
                for (i, (rough, exact)) in rough.chunks(n).zip(exact.chunks(n)).enumerate() {
                    let spreads = planes.spreads(0, &sketch, some.start + i);
                    for (j, (rough, exact)) in rough.iter().zip(exact).enumerate() {
                        let error = (rough - exact).abs() / spreads[j / 16];
                        assert!(error < 5.0, "{} row {i}, {j} of {cols}: {error}", path.name);
                    }
                }
                if some.len() == 17 {
                    assert!(bits(first.get_or_insert(rough.clone())) == bits(&rough), "{} {cols}", path.name);
                }
            }
        }
    }
    let room = Arena::new(1 << 16).unwrap().take(576).unwrap();
    assert!(Planes::pack(2, 32, room, |_, _| Ok(())).is_ok());
    let room = Arena::new(1 << 16).unwrap().take(577).unwrap();
    assert!(Planes::pack(2, 32, room, |_, _| Ok(())).is_err());
}

#[test]
fn the_largest_bytes_meet_exactly() {
    let (n, cols, m) = (16, 256, 9);
    let paths = available();
    for quant in Quant::ALL {
        for byte in [0x00, 0x7f, 0x80, 0x81, 0xff] {
            let mut bytes = blocks(quant, n, cols, 4);
            for block in bytes.chunks_exact_mut(quant.block_bytes()) {
                match quant {
                    Quant::Q6_K => block[..208].fill(byte),
                    Quant::Q8_0 | Quant::Q4_0 | Quant::Q5_0 => block[2..].fill(byte),
                    _ => block[4..].fill(byte),
                }
            }
            let w = packed(quant, n, cols, &bytes);
            for x in [1.0, -1.0] {
                let x: Vec<f32> =
                    (0..m * cols).map(|i| if i % 64 < 32 || i.is_multiple_of(2) { x } else { -x }).collect();
                let want = product(paths[paths.len() - 1], &w, &x, m);
                for path in &paths {
                    assert!(bits(&product(path, &w, &x, m)) == bits(&want), "{} {quant:?} {byte:#x}", path.name);
                }
            }
        }
    }
}

#[test]
fn products_are_those_of_the_numbers_to_the_precision_of_a_byte() {
    for quant in Quant::ALL {
        let (n, cols) = (16, 1024);
        let w = packed(quant, n, cols, &blocks(quant, n, cols, 8));
        let x = numbers(6, cols);
        let got = product(path(), &w, &x, 1);
        let mut row = vec![0.0; cols];
        for (i, got) in got.iter().enumerate() {
            w.row(i, &mut row).unwrap();
            let want: f64 = row.iter().zip(&x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            // Each number is off by up to 1/254 of the largest of its block, evenly and independently.
            let scale: f64 = row.iter().map(|a| f64::from(a * a)).sum::<f64>().sqrt() * 20.0 / 254.0;
            assert!((f64::from(*got) - want).abs() < 4.0 * scale, "{quant:?} {i}: {got} {want}");
        }
    }
}

#[test]
fn every_path_quantises_alike() {
    let paths = available();
    let scalar = paths[paths.len() - 1];
    let mut x = numbers(7, 2048);
    x[..32].fill(0.0);
    x[32..64].fill(1e-38);
    x[64] = 3e38;
    // What a model gone wrong computes: a NaN is nobody's largest number and becomes a zero, as everything does beside infinity.
    x[100] = f32::NAN;
    x[130] = f32::INFINITY;
    x[131] = f32::NAN;
    x[160] = f32::NEG_INFINITY;
    x[192..224].fill(f32::NAN);
    for path in &paths {
        let (a, b) = (rows(path, &x, 1), rows(scalar, &x, 1));
        assert_eq!(a.quants(), b.quants(), "{}", path.name);
        assert_eq!(a.meta(), b.meta(), "{}", path.name);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let arena = Arena::new(1 << 16).unwrap();
    let pack = |rows, cols, len: usize, room: usize| {
        Packed::pack(Quant::Q8_0, rows, cols, &vec![0; len], arena.take(room).unwrap()).map(|_| ())
    };
    assert!(pack(2, 33, 70, 576).unwrap_err().to_string().contains("2 × 33 in Q8_0 are not 70 bytes"));
    assert!(pack(2, 32, 67, 576).is_err());
    assert!(pack(2, 32, 68, 512).is_err());
    assert!(pack(2, 32, 68, 576).is_ok());
    assert_eq!(Packed::bytes_for(Quant::Q4_K, 16, 640), None);
    assert_eq!(Packed::bytes_for(Quant::Q8_0, usize::MAX, 640), None);
    assert_eq!(Packed::bytes_for(Quant::Q8_0, 1, usize::MAX / 32 * 32), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Any bytes as blocks of a file: every path agrees, whatever the scales are.
    #[test]
    fn any_blocks_do_no_harm(kind in 0..Quant::ALL.len(), n in 1usize..40, seed: u64, m in 1usize..12) {
        let quant = Quant::ALL[kind];
        let cols = 256;
        let mut next = noise(seed);
        let bytes: Vec<u8> = (0..n * quant.row_bytes(cols).unwrap()).map(|_| next() as u8).collect();
        let w = packed(quant, n, cols, &bytes);
        let x = numbers(seed, m * cols);
        let paths = available();
        let want = product(paths[paths.len() - 1], &w, &x, m);
        for path in &paths {
            for (a, b) in product(path, &w, &x, m).iter().zip(&want) {
                prop_assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
            }
        }
    }
}

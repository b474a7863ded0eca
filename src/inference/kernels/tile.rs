//! Matrix products as tiles of dot products: `M` rows of `x` against `N` rows of `w`, each with its own sixteen sums.
//!
//! The loops over `M` and `N` are plain loops with indices: the compiler unrolls them completely and keeps the sums in
//! registers. `array::map` and `array::from_fn` it does not always inline, and then the tile is ten times slower.

use super::rows::{self, BLOCK, Bf16Row, F16Row, F32Row, Format, Row};
use super::wide::Wide;
use super::{Encoded, Strided};

/// The widest tile of any path: so many decoded rows must fit into scratch.
pub(super) const MOST_COLUMNS: usize = 4;

/// How far ahead of the products of a single row its weights are asked for, in bytes.
const PREFETCH: usize = 8192;

/// The dot products of `M` rows with `N` rows over `len` numbers.
#[inline(always)]
fn tile<V: Wide, const M: usize, const N: usize, R: Row>(x: [&[f32]; M], w: [R; N], len: usize) -> [[f32; N]; M] {
    let mut sums = [[V::zero(); N]; M];
    let whole = len / BLOCK * BLOCK;
    // Seen here once, the lengths need no check in the loop.
    let mut x = x;
    for row in &mut x {
        *row = &row[..len];
    }
    let mut at = 0;
    while at < whole {
        let mut b = [[V::zero(); 2]; N];
        for j in 0..N {
            b[j] = w[j].pair(at);
        }
        for i in 0..M {
            let a: [V; 2] = x[i].pair(at);
            for j in 0..N {
                sums[i][j] = a[0].fma(b[j][0], sums[i][j]);
            }
            for j in 0..N {
                sums[i][j] = a[1].fma(b[j][1], sums[i][j]);
            }
        }
        at += BLOCK;
    }
    if whole < len {
        for i in 0..M {
            let a: [V; 2] = x[i].end(whole);
            for j in 0..N {
                let b: [V; 2] = w[j].end(whole);
                sums[i][j] = a[1].fma(b[1], a[0].fma(b[0], sums[i][j]));
            }
        }
    }
    let mut out = [[0.0; N]; M];
    for i in 0..M {
        for j in 0..N {
            out[i][j] = sums[i][j].sum();
        }
    }
    out
}

/// `y[i * y_stride + j] = a_i · w_j` for the `N` rows `w`.
#[inline(always)]
fn columns<V: Wide, const M: usize, const N: usize, R: Row>(
    a: Strided<'_>,
    w: [R; N],
    len: usize,
    y: &mut [f32],
    y_stride: usize,
    j: usize,
) {
    let mut i = 0;
    while i + M <= a.rows {
        let mut x: [&[f32]; M] = [&[]; M];
        for (k, row) in x.iter_mut().enumerate() {
            *row = a.row(i + k, len);
        }
        for (k, sums) in tile::<V, M, N, R>(x, w, len).into_iter().enumerate() {
            y[(i + k) * y_stride + j..][..N].copy_from_slice(&sums);
        }
        i += M;
    }
    while i < a.rows {
        let [sums] = tile::<V, 1, N, R>([a.row(i, len)], w, len);
        y[i * y_stride + j..][..N].copy_from_slice(&sums);
        i += 1;
    }
}

/// All products of the rows of `a` with rows `0..n` that `row` gives.
#[inline(always)]
fn all<'w, V: Wide, const M: usize, const N: usize, R: Row + 'w>(
    a: Strided<'_>,
    n: usize,
    row: impl Fn(usize) -> R,
    len: usize,
    y: &mut [f32],
    y_stride: usize,
) {
    let mut j = 0;
    while j + N <= n {
        let mut w = [row(j); N];
        for (k, w) in w.iter_mut().enumerate() {
            *w = row(j + k);
        }
        columns::<V, M, N, R>(a, w, len, y, y_stride, j);
        j += N;
    }
    while j < n {
        columns::<V, M, 1, R>(a, [row(j)], len, y, y_stride, j);
        j += 1;
    }
}

#[inline(always)]
pub(super) fn product<V: Wide, const M: usize, const N: usize>(
    x: &[f32],
    m: usize,
    w: Encoded<'_>,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    let x = Strided { data: x, stride: w.cols, rows: m };
    match w.format {
        Format::F32 => encoded::<V, M, N, _>(x, w, F32Row, y, scratch),
        Format::F16 => encoded::<V, M, N, _>(x, w, F16Row, y, scratch),
        Format::BF16 => encoded::<V, M, N, _>(x, w, Bf16Row, y, scratch),
    }
}

/// The product with rows of one format. A single row of `x` meets each weight once, decoded in registers; for several, each
/// tile's weights are decoded into `scratch` once and used for all of them.
#[inline(always)]
fn encoded<'w, V: Wide, const M: usize, const N: usize, R: Row + 'w>(
    a: Strided<'_>,
    w: Encoded<'w>,
    wrap: impl Fn(&'w [u8]) -> R,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    let Encoded { format, data, cols } = w;
    let Some(row_bytes) = format.row_bytes(cols).filter(|&b| b > 0) else { return };
    let n = data.len() / row_bytes;
    let row = |j: usize| wrap(&data[j * row_bytes..(j + 1) * row_bytes]);
    if a.rows == 1 {
        // A tile reads its rows side by side, in steps too small and jumps too short for the CPU to see a stream.
        let ahead = |j: usize| {
            let at = j * row_bytes + PREFETCH;
            V::prefetch(data.get(at..data.len().min(at + row_bytes)).unwrap_or_default());
            row(j)
        };
        all::<V, M, N, R>(a, n, ahead, cols, y, n);
        return;
    }
    if format == Format::F32 {
        all::<V, M, N, R>(a, n, row, cols, y, n);
        return;
    }
    let mut j = 0;
    while j < n {
        let some = N.min(n - j);
        for k in 0..some {
            rows::decode_as::<V, _>(row(j + k), &mut scratch[k * cols..(k + 1) * cols]);
        }
        let decoded = Strided { data: scratch, stride: cols, rows: some };
        all::<V, M, N, &[f32]>(
            a,
            some,
            #[inline(always)]
            |k| decoded.row(k, cols),
            cols,
            &mut y[j..],
            n,
        );
        j += some;
    }
}

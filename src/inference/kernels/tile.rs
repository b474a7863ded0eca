//! Matrix products as tiles of dot products: `M` rows of `x` against `N` rows of `w`, each with its own sixteen sums.

use super::lanes::{LANES, Lanes};
use super::rows::{self, BLOCK, Bf16Row, F16Row, F32Row, Format, Q4Row, Q8Row, Row};
use super::{Encoded, Strided};

/// The widest tile of any path: so many decoded rows must fit into scratch.
pub(super) const MOST_COLUMNS: usize = 4;

/// The dot products of `M` rows with `N` rows over `len` numbers.
#[inline(always)]
fn tile<const M: usize, const N: usize, R: Row>(x: [&[f32]; M], w: [R; N], len: usize) -> [[f32; N]; M] {
    let mut sums = [[Lanes::ZERO; N]; M];
    let whole = len / BLOCK * BLOCK;
    // Seen here once, the lengths need no check in the loop.
    let x = x.map(|row| &row[..len]);
    let mut at = 0;
    while at < whole {
        let b = w.map(
            #[inline(always)]
            |row| row.pair(at),
        );
        for i in 0..M {
            let a = x[i].pair(at);
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
        let b = w.map(
            #[inline(always)]
            |row| row.end(whole),
        );
        for i in 0..M {
            let a = x[i].end(whole);
            for j in 0..N {
                sums[i][j] = a[1].fma(b[j][1], a[0].fma(b[j][0], sums[i][j]));
            }
        }
    }
    sums.map(
        #[inline(always)]
        |row| {
            row.map(
                #[inline(always)]
                |s| s.sum(),
            )
        },
    )
}

/// `y[i * y_stride + j] = a_i · w_j` for the `N` rows `w`.
#[inline(always)]
fn columns<const M: usize, const N: usize, R: Row>(
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
        for (k, sums) in tile::<M, N, R>(x, w, len).into_iter().enumerate() {
            y[(i + k) * y_stride + j..][..N].copy_from_slice(&sums);
        }
        i += M;
    }
    while i < a.rows {
        let [sums] = tile::<1, N, R>([a.row(i, len)], w, len);
        y[i * y_stride + j..][..N].copy_from_slice(&sums);
        i += 1;
    }
}

/// All products of the rows of `a` with rows `0..n` that `row` gives.
#[inline(always)]
fn all<'w, const M: usize, const N: usize, R: Row + 'w>(
    a: Strided<'_>,
    n: usize,
    row: impl Fn(usize) -> R,
    len: usize,
    y: &mut [f32],
    y_stride: usize,
) {
    let mut j = 0;
    while j + N <= n {
        let w: [R; N] = std::array::from_fn(
            #[inline(always)]
            |k| row(j + k),
        );
        columns::<M, N, R>(a, w, len, y, y_stride, j);
        j += N;
    }
    while j < n {
        columns::<M, 1, R>(a, [row(j)], len, y, y_stride, j);
        j += 1;
    }
}

#[inline(always)]
pub(super) fn dot_rows<const M: usize, const N: usize>(
    a: Strided<'_>,
    b: Strided<'_>,
    len: usize,
    y: &mut [f32],
    y_stride: usize,
) {
    all::<M, N, &[f32]>(
        a,
        b.rows,
        #[inline(always)]
        |j| b.row(j, len),
        len,
        y,
        y_stride,
    );
}

#[inline(always)]
pub(super) fn product<const M: usize, const N: usize>(
    x: &[f32],
    m: usize,
    w: Encoded<'_>,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    let x = Strided { data: x, stride: w.cols, rows: m };
    match w.format {
        Format::F32 => encoded::<M, N, _>(x, w, F32Row, y, scratch),
        Format::F16 => encoded::<M, N, _>(x, w, F16Row, y, scratch),
        Format::BF16 => encoded::<M, N, _>(x, w, Bf16Row, y, scratch),
        Format::Q8_0 => encoded::<M, N, _>(x, w, Q8Row, y, scratch),
        Format::Q4_0 => encoded::<M, N, _>(x, w, Q4Row, y, scratch),
    }
}

/// The product with rows of one format. A single row of `x` meets each weight once, decoded in registers; for several, each
/// tile's weights are decoded into `scratch` once and used for all of them.
#[inline(always)]
fn encoded<'w, const M: usize, const N: usize, R: Row + 'w>(
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
    if a.rows == 1 || format == Format::F32 {
        all::<M, N, R>(a, n, row, cols, y, n);
        return;
    }
    let mut j = 0;
    while j < n {
        let some = N.min(n - j);
        for k in 0..some {
            rows::decode_as(row(j + k), &mut scratch[k * cols..(k + 1) * cols]);
        }
        let decoded = Strided { data: scratch, stride: cols, rows: some };
        all::<M, N, &[f32]>(
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

#[inline(always)]
pub(super) fn mix_rows<const M: usize>(p: Strided<'_>, v: Strided<'_>, width: usize, y: &mut [f32], y_stride: usize) {
    let mut i = 0;
    while i + M <= p.rows {
        mix::<M>(p, v, width, &mut y[i * y_stride..], y_stride, i);
        i += M;
    }
    while i < p.rows {
        mix::<1>(p, v, width, &mut y[i * y_stride..], y_stride, i);
        i += 1;
    }
}

/// `M` weighted sums, sixteen columns (thirty-two where there are as many) at a time.
#[inline(always)]
fn mix<const M: usize>(p: Strided<'_>, v: Strided<'_>, width: usize, y: &mut [f32], y_stride: usize, i: usize) {
    let mut weights: [&[f32]; M] = [&[]; M];
    for (k, row) in weights.iter_mut().enumerate() {
        *row = p.row(i + k, v.rows);
    }
    let mut c = 0;
    while c + 2 * LANES <= width {
        let mut sums: [[Lanes; 2]; M] = std::array::from_fn(
            #[inline(always)]
            |k| [Lanes::load(y, k * y_stride + c), Lanes::load(y, k * y_stride + c + LANES)],
        );
        let mut t = 0;
        while t < v.rows {
            let row = &v.data[t * v.stride + c..][..2 * LANES];
            let values = [Lanes::load(row, 0), Lanes::load(row, LANES)];
            for k in 0..M {
                let weight = Lanes::splat(weights[k][t]);
                sums[k][0] = weight.fma(values[0], sums[k][0]);
                sums[k][1] = weight.fma(values[1], sums[k][1]);
            }
            t += 1;
        }
        for (k, pair) in sums.into_iter().enumerate() {
            pair[0].store(y, k * y_stride + c);
            pair[1].store(y, k * y_stride + c + LANES);
        }
        c += 2 * LANES;
    }
    // The rest column by column: the order over `t` is the same.
    while c < width {
        for (k, weights) in weights.iter().enumerate() {
            let mut sum = y[k * y_stride + c];
            for (t, weight) in weights.iter().enumerate() {
                sum = weight.mul_add(v.data[t * v.stride + c], sum);
            }
            y[k * y_stride + c] = sum;
        }
        c += 1;
    }
}

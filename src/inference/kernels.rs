//! The arithmetic of all models: one source, compiled for every kind of CPU, chosen once at run time.
//!
//! **Order.** Every sum has a fixed order: which other rows or columns are computed beside it, how many rows there are and which
//! CPU path runs change nothing about it. So a row's result is bit-equal whatever the batch, and the paths are bit-equal with each
//! other. Products with weights run from the first column to the last (`tile`); norms and softmax have sixteen running sums, lane
//! `l` taking the elements `l`, `l + 16`, `l + 32` … in order, the end padded, and one fixed tree over the lanes at the end
//! ([`Lanes::sum`]). Quantised weights are another matter: [`crate::packed`].
//!
//! **Form.** The bodies are `#[inline(always)]` and are compiled again under `#[target_feature]` for each path below. What
//! goes to memory is plain Rust over arrays of sixteen f32 ([`Lanes`]), which the compiler vectorises; the tiles, whose sums
//! must stay in registers, are generic over a type with a few intrinsics per kind of CPU (`wide`). Rejected: whole kernels
//! in intrinsics per architecture (several sources to keep bit-equal) and the `gemm` crate (its order depends on the shape).
//!
//! Every path needs IEEE arithmetic without flush-to-zero, which is the default in Rust and in the server.

mod attention;
mod cells;
mod lanes;
mod rows;
mod tile;
mod vector;
mod wide;

use std::ops::Range;
use std::sync::OnceLock;

pub use attention::{PAGE, Running, SEGMENT};
pub use cells::{Finish, PANEL, Panels, padded, place};
pub use lanes::{LANES, Lanes};
pub use rows::Format;
pub(crate) use rows::f16 as half;
pub use tile::{TILE, Tiles, tiles_bytes};
pub(crate) use tile::{pack as pack_tiles, unpack_row};

/// The functions of one path. Slices that do not fit together panic; [`crate::product`] and the models check shapes when
/// they load.
pub struct Kernels {
    /// The path's name: `avx512`, `avx2`, `neon` or `baseline`.
    pub name: &'static str,
    product: unsafe fn(Tiles<'_>),
    decode_row: unsafe fn(Format, &[u8], &mut [f32]),
    exp_sum: unsafe fn(&[f32], f32) -> f32,
    rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    add: unsafe fn(&mut [f32], &[f32]),
    scale: unsafe fn(&mut [f32], f32),
    gelu_tanh_times: unsafe fn(&mut [f32], &[f32]),
    sum_of_squares: unsafe fn(&[f32]) -> f32,
    largest: unsafe fn(&[f32]) -> f32,
    bend: unsafe fn(&mut [f32], f32),
}

/// The functions of one path for attention: see `attention`. Slices that do not fit together panic. All paths give the same
/// bits.
pub struct AttentionKernels {
    /// The path's name: that of a [`Kernels`], or `avx512bf16`.
    pub name: &'static str,
    pack: unsafe fn(&[f32], &mut [u32]),
    scores: unsafe fn(&[u32], usize, &[u32], &mut [f32]),
    weigh: WeighFn,
    mix: MixFn,
    join: unsafe fn(&mut [f32], &mut Running, &[f32], Running),
    unpack: unsafe fn(&[u8], &mut [u32]),
}

/// Weights, factors of what was summed before, numbers per position, this page and the next, and the sums.
type MixFn = unsafe fn(&[u32], &[f32], usize, &[u32], &[u32], &mut [f32]);

/// The scores of a query, those that count, scale, cap, how far it is, and where the weights go.
type WeighFn = unsafe fn(&mut [f32], Range<usize>, f32, f32, &mut Running, &mut [u32]) -> f32;

/// A row, gain, offset and epsilon of a norm, and where the cells go.
type NormFn = unsafe fn(&mut [f32], &[f32], &[f32], f32, &mut [u32]);

/// The functions of one path for text encoders: see `cells`. Slices that do not fit together panic.
pub struct EncoderKernels {
    /// The path's name: that of a [`Kernels`] for f32, `avx512bf16` for bf16.
    pub name: &'static str,
    /// Numbers per cell: 1 in f32, 2 in bf16.
    pub per_cell: usize,
    product: unsafe fn(Strided<'_, u32>, Panels<'_>, Finish<'_>),
    pack: unsafe fn(&[f32], &mut [u32]),
    norm: NormFn,
    weigh: unsafe fn(&mut [f32], usize, &mut [u32]) -> f32,
}

/// Rows of f32, or of cells, at a fixed distance: row `i` starts at `data[i * stride]`.
#[derive(Clone, Copy)]
pub struct Strided<'a, T = f32> {
    /// The numbers.
    pub data: &'a [T],
    /// From the start of one row to the start of the next.
    pub stride: usize,
    /// How many rows.
    pub rows: usize,
}

impl<'a, T> Strided<'a, T> {
    #[inline(always)]
    fn row(&self, i: usize, len: usize) -> &'a [T] {
        &self.data[i * self.stride..i * self.stride + len]
    }
}

impl Kernels {
    /// The products of all rows of `x` with all rows of the weights.
    ///
    /// # Safety
    /// `y` must be valid for writes at the places of all products, and nobody else may use them meanwhile.
    ///
    /// # Panics
    /// When the lengths do not fit together.
    pub unsafe fn product(&self, job: Tiles<'_>) {
        assert!(job.cols > 0 && job.x.len().is_multiple_of(job.cols));
        assert_eq!(tiles_bytes(job.format, job.rows, job.cols), Some(job.data.len()));
        // SAFETY: a `Kernels` is only handed out by `available`, after the CPU was seen to have the path's features; the
        // lengths fit; the rest is the caller's promise.
        unsafe { (self.product)(job) }
    }

    /// The numbers of one encoded row, exactly as the products see them.
    pub fn decode_row(&self, format: Format, row: &[u8], out: &mut [f32]) {
        // SAFETY: as in `product`.
        unsafe { (self.decode_row)(format, row, out) }
    }

    /// `Σ exp(row − peak)`, the denominator of a softmax whose largest element is `peak`.
    pub fn exp_sum(&self, row: &[f32], peak: f32) -> f32 {
        // SAFETY: as in `product`.
        unsafe { (self.exp_sum)(row, peak) }
    }

    /// `out = x / sqrt(mean(x²) + epsilon) × gain`.
    pub fn rms_norm(&self, x: &[f32], gain: &[f32], epsilon: f32, out: &mut [f32]) {
        // SAFETY: as in `product`.
        unsafe { (self.rms_norm)(x, gain, epsilon, out) }
    }

    /// `x += y`.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        // SAFETY: as in `product`.
        unsafe { (self.add)(x, y) }
    }

    /// `x *= factor`.
    pub fn scale(&self, x: &mut [f32], factor: f32) {
        // SAFETY: as in `product`.
        unsafe { (self.scale)(x, factor) }
    }

    /// `gate = gelu(gate) × up` with the tanh form of GELU, Gemma's gate.
    pub fn gelu_tanh_times(&self, gate: &mut [f32], up: &[f32]) {
        // SAFETY: as in `product`.
        unsafe { (self.gelu_tanh_times)(gate, up) }
    }

    /// `x = cap × tanh(x / cap)`.
    pub fn bend(&self, x: &mut [f32], cap: f32) {
        // SAFETY: as in `product`.
        unsafe { (self.bend)(x, cap) }
    }

    /// The largest number; what is not a number does not count, and of none it is −∞.
    pub fn largest(&self, x: &[f32]) -> f32 {
        // SAFETY: as in `product`.
        unsafe { (self.largest)(x) }
    }

    /// `Σ x²`.
    pub fn sum_of_squares(&self, x: &[f32]) -> f32 {
        // SAFETY: as in `product`.
        unsafe { (self.sum_of_squares)(x) }
    }
}

impl AttentionKernels {
    /// An even count of numbers as cells of two bf16.
    pub fn pack(&self, from: &[f32], to: &mut [u32]) {
        // SAFETY: an `AttentionKernels` is only handed out by `for_attention`, after the CPU was seen to have the features.
        unsafe { (self.pack)(from, to) }
    }

    /// `scores[i][t] = q_i · k_t` for queries of `d / 2` cells one after the other and the [`PAGE`] positions of a page: cells
    /// of keys `[d / 2][position]`, and behind them of values `[position / 2][d]`.
    pub fn scores(&self, q: &[u32], d: usize, page: &[u32], scores: &mut [f32]) {
        // SAFETY: as in `pack`.
        unsafe { (self.scores)(q, d, page, scores) }
    }

    /// Makes weights, as cells, of the [`PAGE`] scores of one query: those at `valid` count, each times `scale` and, where `cap`
    /// is not 0, then bent to `cap × tanh(score / cap)`; the others become 0. Gives the factor by which what was summed
    /// before shrinks. The scores are used up.
    pub fn weigh(
        &self,
        scores: &mut [f32],
        valid: Range<usize>,
        scale: f32,
        cap: f32,
        state: &mut Running,
        weights: &mut [u32],
    ) -> f32 {
        // SAFETY: as in `pack`.
        unsafe { (self.weigh)(scores, valid, scale, cap, state, weights) }
    }

    /// `sums_i = factors_i × sums_i + Σ_t weights[i][t] · v_t` over the [`PAGE`] positions of a page. `next` is the page whose
    /// scores will be wanted then, or empty.
    pub fn mix(&self, weights: &[u32], factors: &[f32], d: usize, page: &[u32], next: &[u32], sums: &mut [f32]) {
        // SAFETY: as in `pack`.
        unsafe { (self.mix)(weights, factors, d, page, next, sums) }
    }

    /// Joins the sums of one query over a [`SEGMENT`] with those over the segments before it.
    pub fn join(&self, sums: &mut [f32], state: &mut Running, more: &[f32], segment: Running) {
        // SAFETY: as in `pack`.
        unsafe { (self.join)(sums, state, more, segment) }
    }

    /// The cells of a page of keys and values in 8 bits; there are `64 × d` of them.
    pub fn unpack(&self, page: &[u8], to: &mut [u32]) {
        // SAFETY: as in `pack`.
        unsafe { (self.unpack)(page, to) }
    }
}

impl EncoderKernels {
    /// The products of all rows of `x` with all columns of `panels`, and what `finish` makes of them.
    pub fn product(&self, x: Strided<'_, u32>, panels: Panels<'_>, finish: Finish<'_>) {
        // SAFETY: an `EncoderKernels` is only handed out by `for_encoders`, after the CPU was seen to have the features.
        unsafe { (self.product)(x, panels, finish) }
    }

    /// Numbers as cells; the last cell is filled up with zeros.
    pub fn pack(&self, from: &[f32], to: &mut [u32]) {
        // SAFETY: as in `product`.
        unsafe { (self.pack)(from, to) }
    }

    /// `x = (x − mean) / sqrt(variance + epsilon) × gain + offset`, with the biased variance, and the result as cells too.
    pub fn norm(&self, x: &mut [f32], gain: &[f32], offset: &[f32], epsilon: f32, cells: &mut [u32]) {
        // SAFETY: as in `product`.
        unsafe { (self.norm)(x, gain, offset, epsilon, cells) }
    }

    /// The weights `exp(score − largest)` of the first `count` scores as cells, zeros behind them, and the factor that
    /// makes their sum one. `scores` is a multiple of sixteen long and is used up.
    pub fn weigh(&self, scores: &mut [f32], count: usize, cells: &mut [u32]) -> f32 {
        // SAFETY: as in `product`.
        unsafe { (self.weigh)(scores, count, cells) }
    }
}

/// The best path for this CPU.
pub fn kernels() -> &'static Kernels {
    static BEST: OnceLock<&'static Kernels> = OnceLock::new();
    BEST.get_or_init(|| available().first().copied().unwrap_or(&baseline::TABLE))
}

/// Every path this CPU can run, best first.
pub fn available() -> Vec<&'static Kernels> {
    let mut paths: Vec<&'static Kernels> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        if avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            paths.push(&avx512::TABLE);
        }
        if avx2 {
            paths.push(&avx2::TABLE);
        }
    }
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    if std::arch::is_aarch64_feature_detected!("neon") {
        paths.push(&neon::TABLE);
    }
    paths.push(&baseline::TABLE);
    paths
}

/// The best path for attention.
pub fn attention() -> &'static AttentionKernels {
    static BEST: OnceLock<&'static AttentionKernels> = OnceLock::new();
    BEST.get_or_init(|| for_attention().first().copied().unwrap_or(&baseline::attention::TABLE))
}

/// Every path for attention this CPU can run, best first.
pub fn for_attention() -> Vec<&'static AttentionKernels> {
    let mut paths: Vec<&'static AttentionKernels> = Vec::new();
    for path in available() {
        match path.name {
            #[cfg(target_arch = "x86_64")]
            "avx512" => {
                if is_x86_feature_detected!("avx512bf16") {
                    paths.push(&avx512bf16::attention::TABLE);
                }
                paths.push(&avx512::attention::TABLE);
            }
            #[cfg(target_arch = "x86_64")]
            "avx2" => paths.push(&avx2::attention::TABLE),
            #[cfg(target_arch = "aarch64")]
            "neon" => paths.push(&neon::attention::TABLE),
            _ => paths.push(&baseline::attention::TABLE),
        }
    }
    paths
}

/// Every path for encoders this CPU can run: the bf16 ones first, then f32, best first.
pub fn for_encoders() -> Vec<&'static EncoderKernels> {
    let mut paths: Vec<&'static EncoderKernels> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    if available().iter().any(|path| path.name == avx512::TABLE.name) && is_x86_feature_detected!("avx512bf16") {
        paths.push(&avx512bf16::cells::TABLE);
    }
    for path in available() {
        match path.name {
            #[cfg(target_arch = "x86_64")]
            "avx512" => paths.push(&avx512::cells::TABLE),
            #[cfg(target_arch = "x86_64")]
            "avx2" => paths.push(&avx2::cells::TABLE),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            "neon" => paths.push(&neon::cells::TABLE),
            _ => paths.push(&baseline::cells::TABLE),
        }
    }
    paths
}

/// Compiles the bodies of `cells` once more, under the given target features and with tiles of `$m` rows.
macro_rules! encoder_path {
    ($name:expr, $cell:ty, $m:literal, $($feature:literal)?) => {
        use $crate::kernels::{EncoderKernels, Finish, Panels, Strided, cells};

        pub(in $crate::kernels) static TABLE: EncoderKernels = EncoderKernels {
            name: $name,
            per_cell: <$cell as cells::Cell>::INPUTS,
            product,
            pack,
            norm,
            weigh,
        };

        $(#[target_feature(enable = $feature)])?
        fn product(x: Strided<'_, u32>, panels: Panels<'_>, finish: Finish<'_>) {
            cells::product::<$cell, $m>(x, panels, finish, std::hint::black_box(end_tile));
        }
        $(#[target_feature(enable = $feature)])?
        fn end_tile(place: cells::Place, sums: &cells::Sums, finish: &mut Finish<'_>) {
            cells::end_tile::<$cell>(place, sums, finish);
        }
        $(#[target_feature(enable = $feature)])?
        fn pack(from: &[f32], to: &mut [u32]) {
            cells::pack::<$cell>(from, to);
        }
        $(#[target_feature(enable = $feature)])?
        fn norm(x: &mut [f32], gain: &[f32], offset: &[f32], epsilon: f32, to: &mut [u32]) {
            cells::norm::<$cell>(x, gain, offset, epsilon, to);
        }
        $(#[target_feature(enable = $feature)])?
        fn weigh(scores: &mut [f32], count: usize, to: &mut [u32]) -> f32 {
            cells::weigh::<$cell>(scores, count, to)
        }
    };
}

/// Compiles the bodies of `attention` once more, under the given target features and for `$queries` queries at once.
macro_rules! attention_path {
    ($name:expr, $cell:ty, $queries:literal, $($feature:literal)?) => {
        use std::ops::Range;

        use $crate::kernels::{AttentionKernels, Running, attention, cells};

        pub(in $crate::kernels) static TABLE: AttentionKernels =
            AttentionKernels { name: $name, pack, scores, weigh, mix, join, unpack };

        $(#[target_feature(enable = $feature)])?
        fn pack(from: &[f32], to: &mut [u32]) {
            cells::pack::<$cell>(from, to);
        }
        $(#[target_feature(enable = $feature)])?
        fn scores(q: &[u32], d: usize, page: &[u32], scores: &mut [f32]) {
            attention::scores::<$cell, $queries>(q, d, page, scores);
        }
        $(#[target_feature(enable = $feature)])?
        fn weigh(
            scores: &mut [f32],
            valid: Range<usize>,
            scale: f32,
            cap: f32,
            state: &mut Running,
            weights: &mut [u32],
        ) -> f32 {
            attention::weigh::<$cell>(scores, valid, scale, cap, state, weights)
        }
        $(#[target_feature(enable = $feature)])?
        fn mix(weights: &[u32], factors: &[f32], d: usize, page: &[u32], next: &[u32], sums: &mut [f32]) {
            attention::mix::<$cell, $queries>(weights, factors, d, page, next, sums);
        }
        $(#[target_feature(enable = $feature)])?
        fn join(sums: &mut [f32], state: &mut Running, more: &[f32], segment: Running) {
            attention::join(sums, state, more, segment);
        }
        $(#[target_feature(enable = $feature)])?
        fn unpack(page: &[u8], to: &mut [u32]) {
            attention::unpack(page, to);
        }
    };
}

/// Compiles the bodies once more, under the given target features, with products of up to `$pair` rows with two tiles or `$most`
/// with one, and attention for `$queries` queries at once.
macro_rules! path {
    ($path:ident, $wide:ty, $pair:literal, $most:literal, $queries:literal, $tall:literal, $($feature:literal)?) => {
        mod $path {
            /// The same path for encoders.
            pub(super) mod cells {
                encoder_path!(stringify!($path), cells::Single<$wide>, $tall, $($feature)?);
            }
            /// And for attention.
            pub(super) mod attention {
                attention_path!(stringify!($path), cells::Apart<$wide>, $queries, $($feature)?);
            }

            use super::{Format, Kernels, Tiles, attention as bent, rows, tile, vector};

            pub(super) static TABLE: Kernels = Kernels {
                name: stringify!($path),
                product,
                decode_row,
                exp_sum,
                rms_norm,
                add,
                scale,
                gelu_tanh_times,
                sum_of_squares,
                largest,
                bend,
            };

            $(#[target_feature(enable = $feature)])?
            unsafe fn product(job: Tiles<'_>) {
                // SAFETY: the promise of the table's only caller, `Kernels::product`.
                unsafe { tile::product::<$wide, $pair, $most>(job) }
            }
            $(#[target_feature(enable = $feature)])?
            fn decode_row(f: Format, row: &[u8], out: &mut [f32]) {
                rows::decode::<$wide>(f, row, out);
            }
            $(#[target_feature(enable = $feature)])?
            fn exp_sum(row: &[f32], peak: f32) -> f32 {
                vector::exp_sum(row, peak)
            }
            $(#[target_feature(enable = $feature)])?
            fn rms_norm(x: &[f32], gain: &[f32], epsilon: f32, out: &mut [f32]) {
                vector::rms_norm(x, gain, epsilon, out);
            }
            $(#[target_feature(enable = $feature)])?
            fn add(x: &mut [f32], y: &[f32]) {
                vector::add(x, y);
            }
            $(#[target_feature(enable = $feature)])?
            fn scale(x: &mut [f32], factor: f32) {
                vector::scale(x, factor);
            }
            $(#[target_feature(enable = $feature)])?
            fn gelu_tanh_times(gate: &mut [f32], up: &[f32]) {
                vector::gelu_tanh_times(gate, up);
            }
            $(#[target_feature(enable = $feature)])?
            fn sum_of_squares(x: &[f32]) -> f32 {
                vector::sum_of_squares(x)
            }
            $(#[target_feature(enable = $feature)])?
            fn largest(x: &[f32]) -> f32 {
                vector::largest(x)
            }
            $(#[target_feature(enable = $feature)])?
            fn bend(x: &mut [f32], cap: f32) {
                bent::bend(x, cap);
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
path!(avx512, crate::kernels::wide::x86::V512, 12, 12, 6, 8, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
mod avx512bf16 {
    pub(super) mod cells {
        encoder_path!(
            "avx512bf16",
            crate::kernels::wide::x86::Pairs,
            8,
            "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c"
        );
    }
    pub(super) mod attention {
        attention_path!(
            "avx512bf16",
            crate::kernels::wide::x86::Pairs,
            6,
            "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c"
        );
    }
}
#[cfg(target_arch = "x86_64")]
path!(avx2, crate::kernels::wide::x86::V256, 2, 6, 1, 2, "avx2,fma,f16c");
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
path!(neon, crate::kernels::wide::arm::Quads, 3, 6, 1, 2, "neon");
// Fused multiply-add is the C library's here, correct and slow: this path is for CPUs before 2013 and for the tests.
path!(baseline, crate::kernels::Lanes, 1, 1, 1, 1,);

#[cfg(test)]
mod tests;

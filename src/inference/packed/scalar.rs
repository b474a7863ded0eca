//! The definition of the products, in plain loops; every other path gives its bits.

use super::layout::{self, BLOCK, TILE};
use super::{Meta, Path, Tiles, planes};

pub(super) static PATH: Path = Path { name: "scalar", tiles, quantise, join: planes::join };

/// SAFETY of the block inside: the caller's promise about `y`, as [`super::Packed::multiply`] has it.
fn tiles(job: Tiles<'_>) {
    let Some(bytes) = job.quant.tile_bytes(job.blocks) else { return };
    let shape = job.quant.shape();
    let has_min = layout::has_min(job.quant);
    for row in 0..job.rows {
        let tile = &job.data[row / TILE * bytes..][..bytes];
        for i in 0..job.m {
            let x = &job.x[i * job.blocks * BLOCK..][..job.blocks * BLOCK];
            let meta = &job.meta[i * job.blocks..][..job.blocks];
            let mut sum = 0f32;
            for (index, (x, meta)) in x.as_chunks::<BLOCK>().0.iter().zip(meta).enumerate() {
                let block = layout::unpack(job.quant, tile, row % TILE, index);
                let dot = |range: std::ops::Range<usize>, start: i32| {
                    let start = shape.offset.map_or(0, |bits| start << bits);
                    let pairs = block.weights[range.clone()].iter().zip(&x[range]);
                    pairs.fold(start, |sum, (w, x)| sum + i32::from(*w) * i32::from(*x)) as f32
                };
                if layout::has_halves(job.quant) {
                    sum = dot(0..BLOCK / 2, meta.low).mul_add(block.scales[0] * meta.scale, sum);
                    sum = dot(BLOCK / 2..BLOCK, meta.high).mul_add(block.scales[1] * meta.scale, sum);
                } else {
                    sum = dot(0..BLOCK, meta.both).mul_add(block.scales[0] * meta.scale, sum);
                }
                if has_min {
                    sum = block.min.mul_add(meta.both as f32 * meta.scale, sum);
                }
            }
            // SAFETY: see above.
            unsafe { job.y.add(i * job.stride + row).write(sum) };
        }
    }
}

fn quantise(from: &[f32], quants: &mut [i8], meta: &mut [Meta]) {
    let blocks = from.as_chunks::<BLOCK>().0.iter().zip(quants.as_chunks_mut::<BLOCK>().0);
    for ((from, to), meta) in blocks.zip(meta) {
        let largest = from.iter().fold(0f32, |largest, x| if x.abs() > largest { x.abs() } else { largest });
        let factor = if largest > super::LEAST { 127.0 / largest } else { 0.0 };
        let mut sums = [0i32; 2];
        for (i, (from, to)) in from.iter().zip(to).enumerate() {
            *to = (from * factor).round_ties_even().clamp(-127.0, 127.0) as i8;
            sums[i / (BLOCK / 2)] -= i32::from(*to);
        }
        let [low, high] = sums;
        *meta = Meta { scale: largest / 127.0, low, high, both: low + high };
    }
}

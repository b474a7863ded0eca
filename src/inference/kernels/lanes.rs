//! Sixteen f32 side by side, and the elementary functions on them.

/// How many running sums every reduction has.
pub const LANES: usize = 16;

/// Sixteen f32; one 512-bit register, two of 256 bits or four of 128.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Lanes(pub [f32; LANES]);

impl Lanes {
    /// All lanes zero.
    pub const ZERO: Lanes = Lanes([0.0; LANES]);

    /// The same number in every lane.
    #[inline(always)]
    pub fn splat(x: f32) -> Lanes {
        Lanes([x; LANES])
    }

    /// `from[at..at + 16]`.
    #[inline(always)]
    pub fn load(from: &[f32], at: usize) -> Lanes {
        let mut lanes = [0.0; LANES];
        lanes.copy_from_slice(&from[at..at + LANES]);
        Lanes(lanes)
    }

    /// `from[at..]`, the missing lanes zero.
    #[inline(always)]
    pub fn load_end(from: &[f32], at: usize) -> Lanes {
        let mut lanes = [0.0; LANES];
        let end = &from[at..];
        lanes[..end.len()].copy_from_slice(end);
        Lanes(lanes)
    }

    /// Writes all lanes to `to[at..at + 16]`.
    #[inline(always)]
    pub fn store(self, to: &mut [f32], at: usize) {
        to[at..at + LANES].copy_from_slice(&self.0);
    }

    /// Lane-wise `f`.
    #[inline(always)]
    pub fn map(self, f: impl Fn(f32) -> f32) -> Lanes {
        self.with(self, |a, _| f(a))
    }

    /// `self × b + c` with one rounding.
    #[inline(always)]
    pub fn fma(self, b: Lanes, c: Lanes) -> Lanes {
        let mut lanes = c.0;
        for (l, c) in lanes.iter_mut().enumerate() {
            *c = self.0[l].mul_add(b.0[l], *c);
        }
        Lanes(lanes)
    }

    /// `self + b`.
    #[inline(always)]
    pub fn plus(self, b: Lanes) -> Lanes {
        self.with(b, |a, b| a + b)
    }

    /// The larger of each pair; of a NaN and a number, `b`.
    #[inline(always)]
    pub fn max(self, b: Lanes) -> Lanes {
        self.with(b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn with(self, b: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
        let mut lanes = self.0;
        for (l, a) in lanes.iter_mut().enumerate() {
            *a = f(*a, b.0[l]);
        }
        Lanes(lanes)
    }

    /// The sum of all lanes by one fixed tree: halves are added until one number is left.
    #[inline(always)]
    pub fn sum(self) -> f32 {
        self.fold(
            #[inline(always)]
            |a, b| a + b,
        )
    }

    /// The largest lane.
    #[inline(always)]
    pub fn largest(self) -> f32 {
        self.fold(
            #[inline(always)]
            |a, b| if a > b { a } else { b },
        )
    }

    #[inline(always)]
    fn fold(self, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = self.0;
        let mut half = LANES / 2;
        while half > 0 {
            for l in 0..half {
                lanes[l] = f(lanes[l], lanes[l + half]);
            }
            half /= 2;
        }
        lanes[0]
    }
}

/// The nearest bf16, as f32; of two equally near the even one.
#[inline(always)]
pub(super) fn bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// `e^x` to 1.5 units in the last place; below −87.3 it is 0, above 88.3 it stays at `e^88.3`.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`, a Taylor polynomial of degree 7 for `e^r` (truncation error below 6e-9), and
/// `n` put into the exponent.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to an integer, kept in the low bits
    const LN2_HIGH: f32 = 0.693_359_4; // 355 / 512, exact, so that n · LN2_HIGH is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let low = x < -87.3;
    let x = if x > 88.3 { 88.3 } else { x };
    let x = if low { -87.3 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    let r = n.mul_add(-LN2_HIGH, x);
    let r = n.mul_add(-LN2_LOW, r);
    let p = (1.0f32 / 5040.0)
        .mul_add(r, 1.0 / 720.0)
        .mul_add(r, 1.0 / 120.0)
        .mul_add(r, 1.0 / 24.0)
        .mul_add(r, 1.0 / 6.0)
        .mul_add(r, 0.5)
        .mul_add(r, 1.0)
        .mul_add(r, 1.0);
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if low { 0.0 } else { p * power }
}

/// `x · Φ(x)`, to 1.1e-6.
///
/// `2·Φ(x) − 1`, the error function of `x / √2`, is `x · P(x²) / Q(x²)`: a rational function fitted to it up to 5.5, where
/// it is 1 in an f32, with an error of 1.5e-8. All coefficients are positive, so that nothing cancels. The usual formula with
/// an exponential takes twice the steps.
#[inline(always)]
pub(super) fn gelu_erf(x: f32) -> f32 {
    const MOST: f32 = 5.5;
    let a = if x > MOST { MOST } else { x };
    let a = if a < -MOST { -MOST } else { a };
    let t = a * a;
    let p = 4.549_854_5e-8f32
        .mul_add(t, 1.270_424_9e-5)
        .mul_add(t, 3.376_542_3e-4)
        .mul_add(t, 9.354_538e-3)
        .mul_add(t, 0.067_705_58)
        .mul_add(t, 0.797_884_46);
    let q = 1.197_501_7e-6f32
        .mul_add(t, 7.364_795e-5)
        .mul_add(t, 1.884_452_9e-3)
        .mul_add(t, 0.028_645_953)
        .mul_add(t, 0.251_522_27)
        .mul_add(t, 1.0);
    let erf = a * p / q;
    let erf = if erf > 1.0 { 1.0 } else { erf };
    let erf = if erf < -1.0 { -1.0 } else { erf };
    let half = 0.5 * x;
    half.mul_add(erf, half)
}

/// `x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`, written as `x · sigmoid(2 · …)`.
#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> f32 {
    const TWICE_ROOT: f32 = 1.595_769_2; // 2 · √(2/π)
    let inner = TWICE_ROOT * (0.044_715f32 * x * x).mul_add(x, x);
    x / (1.0 + exp(-inner))
}

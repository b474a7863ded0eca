//! A vector as a space keeps it.

use crate::kernels::{self, half_to_float, rounded, to_half};
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// How many bits of each dimension a space keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precision {
    /// Floats of 32 bits: what came in.
    F32,
    /// Floats of 16 bits: half the room, and no difference that a ranking shows.
    F16,
    /// Whole numbers of 8 bits: a quarter of the room; of ten nearest, about one in a hundred and fifty is another.
    #[default]
    I8,
    /// Whole numbers of 4 bits: what cold memories keep (see `heat`). No space is made of them alone.
    I4,
}

impl Precision {
    /// Those that a space can have, in the order of their codes in files.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::F16, Precision::I8];

    /// Those that a row can have: the same, and what only cold memories have. From fine to coarse.
    pub(crate) const KEPT: [Precision; 4] = [Precision::F32, Precision::F16, Precision::I8, Precision::I4];

    /// The precision of a code in a file.
    pub(crate) fn of_code(code: u8) -> Option<Precision> {
        Precision::KEPT.get(usize::from(code)).copied()
    }

    /// The coarser of two.
    pub(crate) fn coarser(self, other: Precision) -> Precision {
        if other as u8 > self as u8 { other } else { self }
    }

    /// Its name in settings and files.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::I8 => "i8",
            Precision::I4 => "i4",
        }
    }

    /// Bytes of the stored form of a vector.
    pub fn bytes(self, dim: usize) -> usize {
        match self {
            Precision::F32 => 4 * dim,
            Precision::F16 => 2 * dim,
            Precision::I8 => dim,
            Precision::I4 => dim.div_ceil(2),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Precision::ALL.into_iter().find(|precision| precision.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            Error::new(format!("'{shown}' is not a precision: f32, f16 and i8 are"))
        })
    }
}

/// A vector as a space keeps it: a direction. It stands for what is stored divided by its length, so no scale is kept beside it:
/// floats and halves have the length one but for their rounding, and bytes may have any.
#[derive(Debug, Clone, PartialEq)]
pub enum Vector {
    /// Floats of length one.
    F32(Box<[f32]>),
    /// Halves, as bits, of length one.
    F16(Box<[u16]>),
    /// Whole numbers from -127 to 127.
    I8(Box<[i8]>),
    /// Odd whole numbers from -15 to 15.
    I4(Box<[i8]>),
}

impl Vector {
    /// From a vector of length one. Bytes count in steps of 1/127 of the largest number.
    pub fn new(unit: &[f32], precision: Precision) -> Vector {
        match precision {
            Precision::F32 => Vector::F32(unit.into()),
            Precision::F16 => Vector::F16(unit.iter().map(|x| to_half(*x)).collect()),
            Precision::I8 => Vector::I8(codes(unit).into()),
            Precision::I4 => Vector::I4(half_bytes(unit)),
        }
    }

    /// The same direction, no finer than a precision. What is that coarse already stays as it is.
    pub(crate) fn coarsened(self, precision: Precision) -> Vector {
        if self.precision() as u8 >= precision as u8 { self } else { Vector::new(&self.to_f32(), precision) }
    }

    /// From its stored form, which [`Vector::write`] gives. The numbers are not looked at: see [`Vector::check`].
    pub fn read(bytes: &[u8], dim: usize, precision: Precision) -> Vector {
        match precision {
            Precision::I4 => {
                let number = |code: u8| 2 * (code & 15) as i8 - 15;
                Vector::I4(bytes.iter().flat_map(|pair| [number(*pair), number(pair >> 4)]).take(dim).collect())
            }
            Precision::F32 => Vector::F32(bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect()),
            Precision::F16 => Vector::F16(bytes.as_chunks().0.iter().map(|x| u16::from_le_bytes(*x)).collect()),
            Precision::I8 => Vector::I8(bytes.iter().map(|x| *x as i8).collect()),
        }
    }

    /// Appends its stored form: the numbers one after the other, little endian.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Vector::F32(floats) => out.extend(floats.iter().flat_map(|x| x.to_le_bytes())),
            Vector::F16(halves) => out.extend(halves.iter().flat_map(|x| x.to_le_bytes())),
            Vector::I8(codes) => out.extend(codes.iter().map(|x| *x as u8)),
            Vector::I4(numbers) => {
                let code = |number: &i8| ((number + 15) / 2) as u8;
                let pair = |pair: &[i8]| pair.iter().rev().fold(0, |byte, number| byte << 4 | code(number));
                out.extend(numbers.chunks(2).map(pair));
            }
        }
    }

    /// What it stands for: a vector of length one.
    pub fn to_f32(&self) -> Vec<f32> {
        let scale = 1.0 / self.square().sqrt();
        let scaled = |x: f32| (f64::from(x) * scale) as f32;
        match self {
            Vector::F32(floats) => floats.to_vec(),
            Vector::F16(halves) => halves.iter().map(|x| scaled(half_to_float(*x))).collect(),
            Vector::I8(codes) | Vector::I4(codes) => codes.iter().map(|x| scaled(f32::from(*x))).collect(),
        }
    }

    /// How it is kept.
    pub fn precision(&self) -> Precision {
        match self {
            Vector::F32(_) => Precision::F32,
            Vector::F16(_) => Precision::F16,
            Vector::I8(_) => Precision::I8,
            Vector::I4(_) => Precision::I4,
        }
    }

    /// How many dimensions it has.
    pub fn dim(&self) -> usize {
        match self {
            Vector::F32(floats) => floats.len(),
            Vector::F16(halves) => halves.len(),
            Vector::I8(codes) | Vector::I4(codes) => codes.len(),
        }
    }

    /// Whether a vector from outside is one: finite and of length one within rounding; bytes not all 0, and none -128.
    pub fn check(&self) -> Result<()> {
        match self {
            Vector::F32(_) | Vector::F16(_) if (self.square() - 1.0).abs() < 2e-3 => Ok(()),
            Vector::F32(_) | Vector::F16(_) => Err(Error::new("a stored vector is not of length one")),
            Vector::I8(codes) if codes.contains(&i8::MIN) => Err(Error::new("a stored vector has the code -128")),
            Vector::I8(codes) if codes.iter().all(|x| *x == 0) => Err(Error::new("a stored vector is all zeros")),
            Vector::I8(_) => Ok(()),
            Vector::I4(numbers) if numbers.is_empty() => Err(Error::new("a stored vector is all zeros")),
            // Any half-byte is a number, and none is 0.
            Vector::I4(_) => Ok(()),
        }
    }

    /// How alike two vectors of one length are: the cosine, from -1 to 1. 0 for vectors that cannot be compared.
    pub fn cosine(&self, other: &Vector) -> f64 {
        let dot = match (self, other) {
            (Vector::I8(a) | Vector::I4(a), Vector::I8(b) | Vector::I4(b)) if a.len() == b.len() => {
                a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum::<i32>().into()
            }
            (Vector::F32(a), Vector::F32(b)) if a.len() == b.len() => float_dot(a, b),
            (Vector::F16(a), Vector::F16(b)) if a.len() == b.len() => float_dot(&floats(a), &floats(b)),
            (a, b) if a.dim() == b.dim() && a.precision() != b.precision() => return mixed_cosine(a, b),
            _ => 0.0,
        };
        let cosine = dot / (self.square() * other.square()).sqrt();
        if cosine.is_finite() { cosine.clamp(-1.0, 1.0) } else { 0.0 }
    }

    /// The square of the length of what is stored.
    pub(super) fn square(&self) -> f64 {
        match self {
            Vector::F32(floats) => square(floats.iter().copied()),
            Vector::F16(halves) => square(halves.iter().map(|x| half_to_float(*x))),
            Vector::I8(codes) | Vector::I4(codes) => {
                codes.iter().map(|x| i32::from(*x) * i32::from(*x)).sum::<i32>().into()
            }
        }
    }
}

/// A direction in bytes, in steps of 1/127 of its largest number.
pub(super) fn codes(direction: &[f32]) -> Vec<i8> {
    let largest = direction.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    direction.iter().map(|x| rounded(x * scale).clamp(-127, 127) as i8).collect()
}

/// How far the ends of the steps of half-bytes lie from 0, in root mean squares of the numbers: those that are tried.
const ENDS: [f32; 8] = [1.9, 2.1, 2.3, 2.5, 2.7, 2.9, 3.2, 3.6];

/// A direction in half-bytes. Numbers are spread as errors are: steps as wide as the largest of them asks for would be too wide for the rest. So several
/// widths are tried, and the one whose numbers point most nearly in the direction stays.
fn half_bytes(direction: &[f32]) -> Box<[i8]> {
    let mean = (square(direction.iter().copied()) / direction.len().max(1) as f64).sqrt() as f32;
    let mut best: (f64, Box<[i8]>) = (f64::NEG_INFINITY, Box::default());
    for end in ENDS {
        let steps = if mean > 0.0 { 8.0 / (end * mean) } else { 0.0 };
        // The middle of a step is an odd number of half steps: the number below, twice, and one.
        let number = |x: &f32| (2 * rounded(x * steps - 0.5).clamp(-8, 7) + 1) as i8;
        let numbers: Box<[i8]> = direction.iter().map(number).collect();
        let mut sums = [(0.0f32, 0i32); 8];
        for (n, (number, x)) in numbers.iter().zip(direction).enumerate() {
            let (dot, square) = &mut sums[n % 8];
            *dot += f32::from(*number) * x;
            *square += i32::from(*number) * i32::from(*number);
        }
        let (dot, square) =
            sums.iter().fold((0.0, 0.0), |(dot, square), (d, s)| (dot + f64::from(*d), square + f64::from(*s)));
        let cosine = dot / square.max(1.0).sqrt();
        if cosine > best.0 {
            best = (cosine, numbers);
        }
    }
    best.1
}

/// The cosine of two vectors of different precisions.
fn mixed_cosine(a: &Vector, b: &Vector) -> f64 {
    let (a, b) = (a.to_f32(), b.to_f32());
    let dot: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    if dot.is_finite() { dot.clamp(-1.0, 1.0) } else { 0.0 }
}

/// In f64: the squares of f32 neither overflow nor vanish there. Eight sums side by side, which the compiler keeps in registers.
fn square(floats: impl Iterator<Item = f32>) -> f64 {
    let mut sums = [0.0f64; 8];
    for (n, x) in floats.enumerate() {
        sums[n % 8] += f64::from(x) * f64::from(x);
    }
    sums.iter().sum()
}

fn floats(halves: &[u16]) -> Vec<f32> {
    halves.iter().map(|x| half_to_float(*x)).collect()
}

/// The kernel takes whole registers; what is left of an odd length is added here.
fn float_dot(a: &[f32], b: &[f32]) -> f64 {
    let whole = a.len() / FLOATS * FLOATS;
    let (Some((a, a_rest)), Some((b, b_rest))) = (a.split_at_checked(whole), b.split_at_checked(whole)) else {
        return 0.0;
    };
    let mut out = [0.0];
    kernels::float_dots(a, &[b], &mut out);
    f64::from(out[0]) + a_rest.iter().zip(b_rest).map(|(a, b)| f64::from(a * b)).sum::<f64>()
}

/// The longest run of floats that a kernel reads at once.
const FLOATS: usize = 16;

/// How similar two memories are as wholes: the least cosine of a window with its counterpart. None if they have different numbers
/// of windows, or none: two long texts that share a paragraph are not the same text.
pub(crate) fn pair_similarity(a: &[Vector], b: &[Vector]) -> Option<f64> {
    if a.is_empty() || a.len() != b.len() {
        return None;
    }
    a.iter().zip(b).map(|(a, b)| a.cosine(b)).reduce(f64::min)
}

//! Numbers within bounds, digit by digit.
//!
//! A number is written as an optional minus, an integer part without leading zeros and an optional fraction, with at most 15 digits and without an
//! exponent. Any two such numbers differ as doubles too, and from any bound that they differ from, so comparing decimals exactly (as integers, in units of
//! 10⁻¹⁴) says what a validator that reads doubles will say. `-0` is never written: some readers take it for no integer.
//!
//! Whether more digits can lead into the bounds is a question about an interval: a prefix with `k` more digits covers the numbers from `prefix·10ᵏ` up to
//! the next prefix, on a grid that is as fine as the digits that are left.

use serde_json::{Map, Value};

/// Digits of a number.
const DIGITS: u32 = 15;
/// Digits after the point at most: one stands before it.
const FRACTION: u32 = DIGITS - 1;
/// The unit: 10⁻¹⁴.
const ONE: i128 = 10i128.pow(FRACTION);
/// The largest magnitude that 15 digits before the point can write.
const LARGEST: i128 = (10i128.pow(DIGITS) - 1) * ONE;

/// Numbers from `low` to `high`, in units, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    integer: bool,
    low: i128,
    high: i128,
}

/// What has been written of a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    negative: bool,
    /// Digits, those of the fraction included, as an integer.
    digits: i128,
    before: u8,
    /// Digits after the point; none until there is a point.
    after: Option<u8>,
}

impl Number {
    /// All numbers that can be written, or all integers.
    pub(super) fn any(integer: bool) -> Number {
        Number { integer, low: -LARGEST, high: LARGEST }
    }

    /// Those in both, if there are any.
    pub(super) fn and(self, other: Number) -> Option<Number> {
        let integer = self.integer || other.integer;
        let both = Number { integer, low: self.low.max(other.low), high: self.high.min(other.high) };
        both.shortest().map(|_| both)
    }

    /// Whether a number of a schema's enum is among them.
    pub(super) fn takes(&self, value: &serde_json::Number) -> bool {
        let decimal = decimal(value);
        let whole = decimal.exact && decimal.floor % ONE == 0;
        // Bounds as wide as can be written say nothing.
        let above = self.low == -LARGEST || decimal.floor >= self.low;
        let below = self.high == LARGEST || decimal.floor < self.high || decimal.floor == self.high && decimal.exact;
        above && below && (whole || !self.integer)
    }

    /// The state after one more byte, if it can still become one of these numbers.
    pub(super) fn step(&self, w: Written, byte: u8) -> Option<Written> {
        let next = match byte {
            b'-' if w == Written::default() => Written { negative: true, ..w },
            b'.' if !self.integer && w.before > 0 && w.after.is_none() => Written { after: Some(0), ..w },
            b'0'..=b'9' => {
                let digits = w.digits * 10 + i128::from(byte - b'0');
                match w.after {
                    Some(after) => Written { digits, after: Some(after + 1), ..w },
                    // No digit follows a leading zero.
                    None if w.before == 1 && w.digits == 0 => return None,
                    None => Written { digits, before: w.before + 1, ..w },
                }
            }
            _ => return None,
        };
        let used = u32::from(next.before) + u32::from(next.after.unwrap_or(0));
        (used <= DIGITS && self.reaches(next)).then_some(next)
    }

    /// Whether what is written is one of these numbers.
    pub(super) fn complete(&self, w: Written) -> bool {
        w.before > 0 && w.after != Some(0) && {
            let magnitude = w.digits * 10i128.pow(FRACTION - u32::from(w.after.unwrap_or(0)).min(FRACTION));
            let (low, high) = self.magnitudes(w.negative);
            (low..=high).contains(&magnitude)
        }
    }

    /// The magnitudes of the numbers of this sign.
    fn magnitudes(&self, negative: bool) -> (i128, i128) {
        if negative { ((-self.high).max(1), -self.low) } else { (self.low.max(0), self.high) }
    }

    /// Whether what is written is one of these numbers or the beginning of one.
    fn reaches(&self, w: Written) -> bool {
        let (low, high) = self.magnitudes(w.negative);
        let meets = |from: i128, width: i128, grid: i128| {
            let (from, to) = (from.max(low), (from + width - 1).min(high));
            from <= to && (from + grid - 1).div_euclid(grid) * grid <= to
        };
        let before = u32::from(w.before);
        if let Some(after) = w.after {
            let after = u32::from(after);
            // A point wants a digit, so the grid is that of all digits that are left.
            if before + after.max(1) > DIGITS {
                return false;
            }
            let unit = 10i128.pow(FRACTION - after);
            return meets(w.digits * unit, unit, 10i128.pow(FRACTION - (DIGITS - before)));
        }
        // The grid of numbers with `n` digits before the point.
        let grid = |n: u32| if self.integer { ONE } else { 10i128.pow(FRACTION - (DIGITS - n).min(FRACTION)) };
        if before == 0 {
            return meets(0, ONE, grid(1))
                || (1..=DIGITS).any(|n| meets(10i128.pow(n - 1) * ONE, 9 * 10i128.pow(n - 1) * ONE, grid(n)));
        }
        let most = if w.digits == 0 { 0 } else { DIGITS - before };
        (0..=most).any(|more| {
            let scale = 10i128.pow(more) * ONE;
            meets(w.digits * scale, scale, grid(before + more))
        })
    }

    /// Writes the rest of a number: a digit that completes it where there is one, else the first that leads on.
    pub(super) fn finish(&self, mut w: Written, out: &mut Vec<u8>) {
        while !self.complete(w) {
            let next = || b"0123456789.-".iter().filter_map(|&byte| Some((byte, self.step(w, byte)?)));
            let Some((byte, to)) = next().find(|(_, to)| self.complete(*to)).or_else(|| next().next()) else { return };
            out.push(byte);
            w = to;
        }
    }

    /// A short one of these numbers, if there are any.
    pub(super) fn shortest(&self) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        self.reaches(Written::default()).then(|| self.finish(Written::default(), &mut text)).or_else(|| {
            let negative = self.step(Written::default(), b'-')?;
            text.push(b'-');
            self.finish(negative, &mut text);
            Some(())
        })?;
        Some(text)
    }
}

/// A number of a schema in units.
struct Decimal {
    floor: i128,
    /// Whether nothing was below the unit.
    exact: bool,
}

/// The decimal that the double's shortest notation is; beyond what can be written it stops at a bound.
fn decimal(value: &serde_json::Number) -> Decimal {
    // Display writes a double without an exponent, in the fewest digits that give it back.
    let text = value.as_i64().map(|n| n.to_string()).or_else(|| value.as_f64().map(|n| n.to_string()));
    let text = text.unwrap_or_default();
    let (negative, digits) = text.strip_prefix('-').map_or((false, text.as_str()), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let beyond = 2 * LARGEST;
    if whole.len() > DIGITS as usize + 1 {
        return Decimal { floor: if negative { -beyond } else { beyond }, exact: true };
    }
    let kept = &fraction[..fraction.len().min(FRACTION as usize)];
    let number = |digits: &str| digits.parse::<i128>().unwrap_or(0);
    let magnitude = number(whole) * ONE + number(kept) * 10i128.pow(FRACTION - kept.len() as u32);
    let exact = fraction.len() == kept.len();
    let floor = if negative { -magnitude - i128::from(!exact) } else { magnitude };
    Decimal { floor, exact }
}

/// The numbers within the bounds of a schema, or what is wrong with these.
pub(super) fn bounded(number: Number, keywords: &Map<String, Value>) -> Result<Number, String> {
    let get = |word: &str| match keywords.get(word) {
        None => Ok(None),
        Some(Value::Number(value)) => Ok(Some(decimal(value))),
        Some(other) => Err(format!("{word} is {other}; a number is accepted")),
    };
    let mut made = number;
    if let Some(bound) = get("minimum")? {
        made.low = made.low.max(bound.floor + i128::from(!bound.exact));
    }
    if let Some(bound) = get("exclusiveMinimum")? {
        made.low = made.low.max(bound.floor + 1);
    }
    if let Some(bound) = get("maximum")? {
        made.high = made.high.min(bound.floor);
    }
    if let Some(bound) = get("exclusiveMaximum")? {
        made.high = made.high.min(bound.floor - i128::from(bound.exact));
    }
    if made.shortest().is_none() {
        let what = if number.integer { "integer" } else { "number" };
        return Err(format!(
            "no {what} of at most {DIGITS} digits lies within minimum, maximum, exclusiveMinimum and exclusiveMaximum"
        ));
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn walk(number: &Number, text: &str) -> Option<Written> {
        text.bytes().try_fold(Written::default(), |w, byte| number.step(w, byte))
    }

    fn schema(text: &str) -> Result<Number, String> {
        let Value::Object(keywords) = serde_json::from_str(text).unwrap() else { panic!() };
        bounded(Number::any(keywords.contains_key("i")), &keywords)
    }

    #[test]
    fn exactly_the_numbers_within_the_bounds_are_written() {
        let n = schema(r#"{"i": 1, "minimum": -12, "maximum": 107}"#).unwrap();
        for i in -2000i64..2000 {
            let whole = walk(&n, &i.to_string()).is_some_and(|w| n.complete(w));
            assert_eq!(whole, (-12..=107).contains(&i), "{i}");
        }
        for bad in ["-0", "00", "01", "1.0", "+1", "1e1", ".5", "--1", ""] {
            assert!(!walk(&n, bad).is_some_and(|w| n.complete(w)), "{bad}");
        }
        let n = schema(r#"{"exclusiveMinimum": 0, "exclusiveMaximum": 1}"#).unwrap();
        for (text, good) in
            [("0.5", true), ("0", false), ("0.", false), ("0.00", false), ("0.00001", true), ("1", false)]
        {
            assert_eq!(walk(&n, text).is_some_and(|w| n.complete(w)), good, "{text}");
        }
        assert!(walk(&n, "1").is_none() && walk(&n, "-").is_none(), "what leads nowhere is not begun");
        assert!(walk(&n, "0.00000000000000").is_none());
    }

    #[test]
    fn bounds_that_leave_nothing_are_refused() {
        for bad in [
            r#"{"minimum": 2, "maximum": 1}"#,
            r#"{"i": 1, "minimum": 0.2, "maximum": 0.8}"#,
            r#"{"exclusiveMinimum": 1, "exclusiveMaximum": 1}"#,
            r#"{"minimum": 1e16}"#,
            r#"{"i": 1, "exclusiveMinimum": 1, "exclusiveMaximum": 2}"#,
        ] {
            assert!(schema(bad).unwrap_err().contains("digits lies within"), "{bad}");
        }
        assert!(schema(r#"{"minimum": "1"}"#).unwrap_err().contains("a number is accepted"));
    }

    proptest! {
        #[test]
        fn every_walk_ends_within_the_bounds(a in -1e9f64..1e9, width in 0.0f64..1e3, integer: bool, picks in prop::collection::vec(any::<u8>(), 40)) {
            let (low, high) = (a, a + width);
            let mut keywords = Map::new();
            keywords.insert("minimum".into(), low.into());
            keywords.insert("maximum".into(), high.into());
            let Ok(n) = bounded(Number::any(integer), &keywords) else { return Ok(()) };
            let (mut w, mut text) = (Written::default(), Vec::new());
            for pick in picks {
                let next: Vec<_> = b"-.0123456789".iter().filter_map(|&b| Some((b, n.step(w, b)?))).collect();
                prop_assert!(!next.is_empty() || n.complete(w), "{:?}", String::from_utf8_lossy(&text));
                if next.is_empty() || n.complete(w) && pick > 128 {
                    break;
                }
                let (byte, to) = next[usize::from(pick) % next.len()];
                text.push(byte);
                w = to;
            }
            n.finish(w, &mut text);
            let text = String::from_utf8(text).unwrap();
            let value: serde_json::Number = serde_json::from_str(&text).unwrap();
            let double = value.as_f64().unwrap();
            prop_assert!((low..=high).contains(&double), "{} in {} to {}", text, low, high);
            prop_assert!(!integer || value.is_i64(), "{}", text);
            prop_assert!(n.takes(&value));
        }
    }
}

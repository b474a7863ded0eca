//! Days of the calendar: what a reader is shown of a time, and what is embedded and indexed with a turn.

use crate::Millis;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The day of a time in UTC: year, month from 1, day (Howard Hinnant's `civil_from_days`).
fn civil(at: Millis) -> (u64, u64, u64) {
    let days = at / 86_400_000 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on, so that the leap day is the last of a year.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year_of_era + era * 400 + later, month, day)
}

/// The day of a time in UTC: `2023-05-08`.
pub fn iso(at: Millis) -> String {
    let (year, month, day) = civil(at);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The day of a time in UTC as people write it: `8 May 2023`.
pub fn words(at: Millis) -> String {
    let (year, month, day) = civil(at);
    let month = MONTHS.get((month as usize).wrapping_sub(1)).copied().unwrap_or_default();
    format!("{day} {month} {year}")
}

/// Whether a text is a day as [`words`] writes it.
pub fn is_words(text: &str) -> bool {
    let mut parts = text.split(' ');
    let number = |part: Option<&str>, digits: usize| {
        part.is_some_and(|part| (1..=digits).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    number(parts.next(), 2)
        && parts.next().is_some_and(|month| MONTHS.contains(&month))
        && number(parts.next(), 6)
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days() {
        for (at, shown, said) in [
            (0, "1970-01-01", "1 January 1970"),
            (1_683_554_160_000, "2023-05-08", "8 May 2023"),
            (1_709_164_800_000, "2024-02-29", "29 February 2024"),
            (4_102_444_799_999, "2099-12-31", "31 December 2099"),
        ] {
            assert_eq!((iso(at).as_str(), words(at).as_str()), (shown, said));
            assert!(is_words(said));
        }
        for other in ["", "8 May", "8 may 2023", "x May 2023", "8 May 2023 "] {
            assert!(!is_words(other), "{other}");
        }
    }
}

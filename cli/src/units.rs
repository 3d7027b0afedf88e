//! Durations with units: `500ms`, `10s`, `5min`, `4h`, `1d`, as PostgreSQL's settings spell them.

use std::time::Duration;

/// The units, the smallest first, and their milliseconds.
const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Why a text is no duration. The text itself is in the message of who asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It does not begin with digits.
    #[error("a duration is a whole number and a unit, such as 10s")]
    NoNumber,
    /// A number alone: seconds here, milliseconds elsewhere, so nobody may guess.
    #[error("it lacks a unit: ms, s, min, h or d, such as 10s")]
    NoUnit,
    /// What follows the number is no unit.
    #[error("its unit is none of ms, s, min, h and d")]
    UnknownUnit,
    /// No clock counts that far.
    #[error("it is too long")]
    TooLong,
    /// Zero, where that would mean not even to try.
    #[error("it must be longer than zero")]
    Zero,
}

/// Reads a duration. Between number and unit there may be spaces.
pub fn duration(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim_start());
    if number.is_empty() {
        return Err(DurationError::NoNumber);
    }
    if unit.is_empty() {
        return Err(DurationError::NoUnit);
    }
    let (_, milliseconds) =
        UNITS.iter().find(|(name, _)| *name == unit).ok_or(DurationError::UnknownUnit)?;
    let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
    number.checked_mul(*milliseconds).map(Duration::from_millis).ok_or(DurationError::TooLong)
}

/// Reads a duration that is a limit: zero would be none.
pub fn limit(text: &str) -> Result<Duration, DurationError> {
    match duration(text)? {
        Duration::ZERO => Err(DurationError::Zero),
        longer => Ok(longer),
    }
}

/// A duration for humans: its two largest units, `4 min 48 s`; tenths where it is short.
pub fn spell(duration: Duration) -> String {
    let tenths = duration.as_millis() / 100;
    if tenths < 100 {
        return format!("{}.{} s", tenths / 10, tenths % 10);
    }
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// A number of bytes for humans, as `pg_size_pretty` shows it.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 10_240 && unit + 1 < UNITS.len() {
        value = (value + 512) / 1024;
        unit += 1;
    }
    format!("{value} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("5min", 300_000),
            ("4h", 14_400_000),
            ("1d", 86_400_000),
            (" 2 s ", 2_000),
            ("007s", 7_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_says_why() {
        for (text, error) in [
            ("", DurationError::NoNumber),
            ("s", DurationError::NoNumber),
            ("-1s", DurationError::NoNumber),
            ("+1s", DurationError::NoNumber),
            ("10", DurationError::NoUnit),
            ("1.5h", DurationError::UnknownUnit),
            ("1m", DurationError::UnknownUnit),
            ("1 S", DurationError::UnknownUnit),
            ("1s1s", DurationError::UnknownUnit),
            ("99999999999999999999s", DurationError::TooLong),
            ("18446744073709551615d", DurationError::TooLong),
        ] {
            assert_eq!(duration(text), Err(error), "{text}");
        }
        assert_eq!(limit("0ms"), Err(DurationError::Zero));
        assert_eq!(limit("1ms"), Ok(Duration::from_millis(1)));
    }

    #[test]
    fn durations_are_spelled_for_humans() {
        for (milliseconds, text) in [
            (0, "0.0 s"),
            (1_234, "1.2 s"),
            (9_999, "9.9 s"),
            (10_000, "10 s"),
            (59_999, "59 s"),
            (288_000, "4 min 48 s"),
            (7_380_000, "2 h 3 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(spell(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn sizes_are_spelled_for_humans() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (10_239, "10239 bytes"),
            (10_240, "10 kB"),
            (20 << 20, "20 MB"),
            (3 << 40, "3072 GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn every_number_with_a_unit_is_read_back(number in 0..=u64::from(u32::MAX), unit in 0..UNITS.len()) {
            let (name, milliseconds) = UNITS[unit];
            let read = duration(&format!("{number}{name}"));
            prop_assert_eq!(read, Ok(Duration::from_millis(number * milliseconds)));
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = duration(&text);
        }
    }
}

//! Sizes, durations and rates as people write them: a number and a unit, exactly.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// Largest size that a profile may state: 16 TiB, more than any machine this runs on has memory.
pub const SIZE_BYTES_MAX: u64 = 16 << 40;
/// Longest duration that a profile may state: a week.
pub const DURATION_MAX: Duration = Duration::from_hours(7 * 24);
/// Most digits after the point: `0.125 MiB` is still exact, and nobody needs more.
const FRACTION_DIGITS_MAX: usize = 6;

const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Unit names with their length in microseconds.
const DURATION_UNITS: &[(&str, u64)] = &[
    ("ms", 1_000),
    ("s", 1_000_000),
    ("min", 60_000_000),
    ("h", 3_600_000_000),
];

/// Why a size, a duration or a rate cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnitError {
    /// There is no number where one must be.
    #[error("`{found}` cannot be read, expected {expected}")]
    NotANumber {
        /// What was expected, with an example.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A number without a unit.
    #[error("`{found}` has no unit, expected {expected}")]
    NoUnit {
        /// What was expected, with an example.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A unit that nobody knows.
    #[error("unknown unit `{unit}`, expected one of {known}")]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// All known ones.
        known: String,
        /// The one that was probably meant.
        nearest: Option<&'static str>,
    },
    /// More than the largest value.
    #[error("`{found}` is too much, expected at most {largest}")]
    TooLarge {
        /// What is there.
        found: String,
        /// The largest value.
        largest: String,
    },
    /// Not a whole number of bytes or microseconds.
    #[error("`{found}` is not a whole number of {of}")]
    NotWhole {
        /// What is there.
        found: String,
        /// The smallest unit.
        of: &'static str,
    },
}

impl UnitError {
    /// What would mend it, if that can be told.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownUnit { nearest, .. } => nearest.map(|unit| format!("write `{unit}`")),
            Self::NotANumber { .. }
            | Self::NoUnit { .. }
            | Self::TooLarge { .. }
            | Self::NotWhole { .. } => None,
        }
    }
}

const EXPECTED_SIZE: &str = "a size such as `512 MiB`";
const EXPECTED_DURATION: &str = "a duration such as `30 s`";
const EXPECTED_RATE: &str = "a rate such as `60/min`";

/// Reads a size such as `512 MiB` into bytes.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let bytes = scaled(
        text,
        SIZE_UNITS,
        EXPECTED_SIZE,
        "bytes",
        &Size(SIZE_BYTES_MAX),
    )?;
    if bytes > u128::from(SIZE_BYTES_MAX) {
        return Err(UnitError::TooLarge {
            found: shortened(text),
            largest: format!("{}", Size(SIZE_BYTES_MAX)),
        });
    }
    Ok(u64::try_from(bytes).expect("SIZE_BYTES_MAX fits u64"))
}

/// Reads a duration such as `30 s` or `1.5 min`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let micros = scaled(
        text,
        DURATION_UNITS,
        EXPECTED_DURATION,
        "microseconds",
        &Span(DURATION_MAX),
    )?;
    if micros > DURATION_MAX.as_micros() {
        return Err(UnitError::TooLarge {
            found: shortened(text),
            largest: format!("{}", Span(DURATION_MAX)),
        });
    }
    let micros = u64::try_from(micros).expect("DURATION_MAX in microseconds fits u64");
    Ok(Duration::from_micros(micros))
}

/// Reads a rate such as `60/min` into calls and the time in which they may be made.
pub fn parse_rate(text: &str) -> Result<(u32, Duration), UnitError> {
    let not_a_rate = || UnitError::NotANumber {
        expected: EXPECTED_RATE,
        found: shortened(text),
    };
    let (calls, unit) = text.split_once('/').ok_or_else(not_a_rate)?;
    let (calls, unit) = (calls.trim(), unit.trim());
    if calls.is_empty() || !calls.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(not_a_rate());
    }
    let calls: u32 = calls.parse().map_err(|_| UnitError::TooLarge {
        found: shortened(text),
        largest: u32::MAX.to_string(),
    })?;
    let micros = unit_factor(unit, &DURATION_UNITS[1..])?;
    Ok((calls, Duration::from_micros(micros)))
}

/// The number times its unit, in the smallest unit; exact, so that no rounding can lower a limit.
fn scaled(
    text: &str,
    units: &'static [(&'static str, u64)],
    expected: &'static str,
    smallest: &'static str,
    largest: &dyn fmt::Display,
) -> Result<u128, UnitError> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim_start());
    let not_a_number = || UnitError::NotANumber {
        expected,
        found: shortened(text),
    };
    let too_large = || UnitError::TooLarge {
        found: shortened(text),
        largest: largest.to_string(),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(not_a_number());
    }
    if unit.is_empty() {
        return Err(UnitError::NoUnit {
            expected,
            found: shortened(text),
        });
    }
    let factor = u128::from(unit_factor(unit, units)?);
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > FRACTION_DIGITS_MAX {
        return Err(UnitError::NotWhole {
            found: shortened(text),
            of: smallest,
        });
    }
    let whole: u128 = whole.parse().map_err(|_| too_large())?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).expect("at most FRACTION_DIGITS_MAX"));
    let fraction: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().map_err(|_| not_a_number())?
    };
    let product = whole
        .checked_mul(scale)
        .and_then(|number| number.checked_add(fraction))
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(too_large)?;
    if product % scale != 0 {
        return Err(UnitError::NotWhole {
            found: shortened(text),
            of: smallest,
        });
    }
    Ok(product / scale)
}

fn unit_factor(unit: &str, units: &'static [(&'static str, u64)]) -> Result<u64, UnitError> {
    if let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) {
        return Ok(*factor);
    }
    Err(UnitError::UnknownUnit {
        unit: shortened(unit),
        known: units
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", "),
        nearest: nearest_unit(unit, units),
    })
}

/// What people write for a unit of ours.
fn nearest_unit(unit: &str, units: &'static [(&'static str, u64)]) -> Option<&'static str> {
    let meant = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "ki" | "kib" => "KiB",
        "m" | "mb" | "mi" | "mib" => "MiB",
        "g" | "gb" | "gi" | "gib" => "GiB",
        "t" | "tb" | "ti" | "tib" => "TiB",
        "b" | "byte" | "bytes" => "B",
        "sec" | "secs" | "second" | "seconds" => "s",
        "minute" | "minutes" | "mins" => "min",
        "hr" | "hour" | "hours" => "h",
        "msec" | "millisecond" | "milliseconds" => "ms",
        _ => return None,
    };
    let found = units.iter().find(|(name, _)| *name == meant);
    // `m` is a size's `MiB` and a duration's `min`.
    let minutes = || units.iter().find(|(name, _)| unit == "m" && *name == "min");
    found.or_else(minutes).map(|(name, _)| *name)
}

/// Text for a message: whoever writes a megabyte where a size belongs gets a line of it back.
fn shortened(text: &str) -> String {
    crate::diagnostics::shortened(text)
}

/// Bytes, displayed in the largest IEC unit that divides them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let iec = &SIZE_UNITS[..5];
        let (name, factor) = iec
            .iter()
            .rev()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(&SIZE_UNITS[0]);
        write!(f, "{} {name}", self.0 / factor)
    }
}

/// A duration, displayed in the largest unit that divides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        if micros == 0 {
            return f.write_str("0 s");
        }
        let fits = DURATION_UNITS
            .iter()
            .rev()
            .find(|(_, factor)| micros.is_multiple_of(u128::from(*factor)));
        match fits {
            Some((name, factor)) => write!(f, "{} {name}", micros / u128::from(*factor)),
            None => write!(f, "{}.{:03} ms", micros / 1_000, micros % 1_000),
        }
    }
}

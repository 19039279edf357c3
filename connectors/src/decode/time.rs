//! Dates, clocks and numbers as they are written, and the milliseconds they mean.
//!
//! ```text
//!   2026-11-21 13:52:00,082  --wall_ms-->  wall milliseconds  --Zone::utc_ms or an offset-->  UTC
//!   1795269120.082           --epoch_ms------------------------------------------------->     UTC
//! ```
//!
//! *Wall milliseconds* are what the clock on the wall shows, counted from its 1970-01-01 00:00:
//! UTC plus the offset.
//!
//! Always true here: the calendar is the proleptic Gregorian one, years 1 to 9999; digits are cut,
//! never rounded; no float is touched.

/// 0001-01-01T00:00:00.000Z.
pub(super) const FIRST_MS: i64 = -62_135_596_800_000;
/// 9999-12-31T23:59:59.999Z.
pub(super) const LAST_MS: i64 = 253_402_300_799_999;
pub(super) const DAY_MS: i64 = 86_400_000;

/// `ms` if it lies within the years 1 to 9999.
pub(super) fn within_years(ms: i64) -> Option<i64> {
    (FIRST_MS..=LAST_MS).contains(&ms).then_some(ms)
}

/// A day of the calendar and a time of that day, as written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wall {
    pub(super) year: u32,
    pub(super) month: u32,
    pub(super) day: u32,
    pub(super) hour: u32,
    pub(super) minute: u32,
    pub(super) second: u32,
    pub(super) milli: u32,
}

impl Wall {
    /// Wall milliseconds; `None` if there is no such day or time. Second 60 is 59.999, in whatever
    /// minute: a leap second is not worth losing a line over, and which minutes had one is a table.
    pub(super) fn wall_ms(&self) -> Option<i64> {
        let &Self { year, month, day, hour, minute, second, milli } = self;
        let possible = (1..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second <= 60;
        if !possible {
            return None;
        }
        let in_minute = if second == 60 { 59_999 } else { second * 1000 + milli };
        let in_day = (hour * 60 + minute) * 60_000 + in_minute;
        Some(days_of(year, month, day) * DAY_MS + i64::from(in_day))
    }
}

fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 0000-03-01, where the algorithms below begin to count, to 1970-01-01.
const MARCH_0_TO_EPOCH: u32 = 719_468;

/// Days from 1970-01-01 to a day of the years 1 to 9999.
///
/// Both directions are the Euclidean affine functions of Neri and Schneider, "Euclidean affine
/// functions and their application to calendar algorithms" (2022): a year that begins in March has
/// its leap day last, and month lengths become one line.
fn days_of(year: u32, month: u32, day: u32) -> i64 {
    let (year, month) = if month <= 2 { (year - 1, month + 12) } else { (year, month) };
    let before_year = 1461 * year / 4 - year / 100 + year / 400;
    let before_month = (979 * month - 2919) / 32;
    i64::from(before_year + before_month + day - 1) - i64::from(MARCH_0_TO_EPOCH)
}

/// Year, month and day of a wall or UTC time; a time outside the years 1 to 9999 counts as the
/// nearest inside.
pub(super) fn civil(ms: i64) -> (u32, u32, u32) {
    let days = ms.clamp(FIRST_MS, LAST_MS).div_euclid(DAY_MS) + i64::from(MARCH_0_TO_EPOCH);
    // Between 306 and 3,652,365: the clamp above.
    let quarters = 4 * days as u32 + 3;
    let century = quarters / 146_097;
    let quarters = (quarters % 146_097) | 3;
    let year_and_rest = 2_939_745 * u64::from(quarters);
    let year = 100 * century + (year_and_rest >> 32) as u32;
    let day_of_year = year_and_rest as u32 / 2_939_745 / 4;
    let month_and_rest = 2141 * day_of_year + 197_913;
    let (month, day) = (month_and_rest >> 16, (month_and_rest & 0xffff) / 2141 + 1);
    if day_of_year >= 306 { (year + 1, month - 12, day) } else { (year, month, day) }
}

/// The value of `N` ASCII digits.
pub(super) fn digits<const N: usize>(text: [u8; N]) -> Option<u32> {
    let mut value = 0;
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u32::from(digit);
    }
    Some(value)
}

/// Hour, minute and second of `hh:mm:ss`.
pub(super) fn clock(text: [u8; 8]) -> Option<(u32, u32, u32)> {
    let [h1, h2, b':', m1, m2, b':', s1, s2] = text else { return None };
    Some((digits([h1, h2])?, digits([m1, m2])?, digits([s1, s2])?))
}

/// The instant that a JSON number means, by how large it is: seconds below 1e11, then milliseconds,
/// microseconds and nanoseconds, each for three more digits.
///
/// Works on the digits as written, at any length and with any exponent, because no float holds
/// both 1795269120.082 and its last digit. `number` has JSON's grammar.
pub(super) fn epoch_ms(number: &str) -> Option<i64> {
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let exponent = number.bytes().position(|byte| matches!(byte, b'e' | b'E'));
    let (mantissa, exponent) = match exponent {
        Some(at) => (&number[..at], saturating_int(&number[at + 1..])),
        None => (number, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // The digits from the first one that is not 0 on, and how many of them stand before the point
    // once the number is written without exponent: below 1e11 is at most 11.
    let (whole, fraction, point) = match whole {
        "0" => {
            let digits = fraction.trim_start_matches('0');
            ("", digits, digits.len() as i64 - fraction.len() as i64)
        }
        _ => (whole, fraction, whole.len() as i64),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Some(0);
    }
    let point = point.saturating_add(exponent);
    let shift = match point {
        _ if negative => 3,
        ..=11 => 3,
        12..=14 => 0,
        15..=17 => -3,
        _ => -6,
    };
    // More digits than the year 9999 has milliseconds cannot be within the years.
    let taken = point.saturating_add(shift);
    if taken > 15 {
        return None;
    }
    let taken = taken.max(0) as usize;
    let whole = &whole[..taken.min(whole.len())];
    let fraction = &fraction[..(taken - whole.len()).min(fraction.len())];
    let digits = whole.bytes().chain(fraction.bytes());
    let cut = digits.fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    let ms = cut * 10i64.pow((taken - whole.len() - fraction.len()) as u32);
    within_years(if negative { -ms } else { ms })
}

/// An exponent of JSON's grammar; one of more digits than fit is as good as the largest.
fn saturating_int(exponent: &str) -> i64 {
    exponent.parse().unwrap_or(if exponent.starts_with('-') { i64::MIN } else { i64::MAX })
}

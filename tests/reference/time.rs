//! Civil dates by plain counting, RFC 3339 both ways, and numbers that mean a time.
//!
//! Always true here: a time that leaves this file lies in the years 1 to 9999, UTC.

const DAY: i64 = 86_400_000;

/// A moment as it is written, before its zone is taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Civil {
    pub(crate) year: i64,
    pub(crate) month: i64,
    pub(crate) day: i64,
    pub(crate) hour: i64,
    pub(crate) minute: i64,
    pub(crate) second: i64,
    pub(crate) millis: i64,
}

impl Civil {
    /// Milliseconds since 1970; `None` for a date that does not exist or a year outside 1-9999.
    ///
    /// Decision: the year is judged as written *and* in UTC, since `9999-12-31T23:59:59-01:00`
    /// could not be shown. Second 60 is 59.999 in any minute, whatever fraction follows it.
    pub(crate) fn utc(self, zone_minutes: i64) -> Option<i64> {
        let possible = (1..=9999).contains(&self.year)
            && (1..=12).contains(&self.month)
            && (1..=days_in_month(self.year, self.month)).contains(&self.day)
            && (0..=23).contains(&self.hour)
            && (0..=59).contains(&self.minute)
            && (0..=60).contains(&self.second);
        if !possible {
            return None;
        }
        let (second, millis) =
            if self.second == 60 { (59, 999) } else { (self.second, self.millis) };
        let days = days_before_year(self.year)
            + (1..self.month).map(|m| days_in_month(self.year, m)).sum::<i64>()
            + self.day
            - 1
            - days_before_year(1970);
        let minutes = (days * 24 + self.hour) * 60 + self.minute - zone_minutes;
        in_range((minutes * 60 + second) * 1000 + millis)
    }

    /// The civil moment of a time, UTC.
    pub(crate) fn of(ms: i64) -> Self {
        let mut days = ms.div_euclid(DAY) + days_before_year(1970);
        let mut year = 1 + days.div_euclid(366);
        while days_before_year(year + 1) <= days {
            year += 1;
        }
        days -= days_before_year(year);
        let mut month = 1;
        while days >= days_in_month(year, month) {
            days -= days_in_month(year, month);
            month += 1;
        }
        let rest = ms.rem_euclid(DAY);
        Self {
            year,
            month,
            day: days + 1,
            hour: rest / 3_600_000,
            minute: rest / 60_000 % 60,
            second: rest / 1000 % 60,
            millis: rest % 1000,
        }
    }
}

/// `YYYY-MM-DDThh:mm:ss.mmmZ`.
pub(crate) fn show(ms: i64) -> String {
    let c = Civil::of(ms);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        c.year, c.month, c.day, c.hour, c.minute, c.second, c.millis
    )
}

/// The start of the one-minute window that holds `ms`.
pub(crate) fn window_start(ms: i64) -> i64 {
    ms.div_euclid(60_000) * 60_000
}

/// A whole text as RFC 3339: date, time, zone.
///
/// Decision: strictly the RFC, with the two freedoms it gives: `t`, `z` in small letters, and a
/// space for the `T`. A zone is demanded: without one it is no RFC 3339 time, hence not usable.
pub(crate) fn rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let (mut civil, rest) = date_time(bytes, b"Tt ")?;
    let (millis, rest) = fraction(rest, b".");
    civil.millis = millis;
    let zone = match rest {
        [b'Z' | b'z'] => 0,
        [_, _, _, b':', _, _] => zone_hours(rest)??.0,
        _ => return None,
    };
    civil.utc(zone)
}

/// What a line begins with as ISO: `YYYY-MM-DD[T ]hh:mm:ss[.,fraction][Z|+hh:mm|+hhmm]`, and the
/// rest of the line.
///
/// Decision: nothing is demanded of the byte that follows. A sign without four digits is no zone
/// and belongs to the message; a zone with digits that no clock has (`+25:00`) fails the format.
pub(crate) fn iso(line: &str) -> Option<(i64, &str)> {
    let (mut civil, rest) = date_time(line.as_bytes(), b"T ")?;
    let (millis, rest) = fraction(rest, b".,");
    civil.millis = millis;
    let (zone, rest) = match rest {
        [b'Z', rest @ ..] => (0, rest),
        _ => match zone_hours(rest) {
            Some(zone) => zone?,
            None => (0, rest),
        },
    };
    Some((civil.utc(zone)?, &line[line.len() - rest.len()..]))
}

/// `YYYY-MM-DD?hh:mm:ss`, where `?` is one of `separators`.
fn date_time<'a>(text: &'a [u8], separators: &[u8]) -> Option<(Civil, &'a [u8])> {
    let (year, text) = digits(text, 4)?;
    let (month, text) = digits(text.strip_prefix(b"-")?, 2)?;
    let (day, text) = digits(text.strip_prefix(b"-")?, 2)?;
    let (separator, text) = text.split_first()?;
    if !separators.contains(separator) {
        return None;
    }
    let ([hour, minute, second], text) = clock(text)?;
    Some((Civil { year, month, day, hour, minute, second, millis: 0 }, text))
}

/// `hh:mm:ss`.
pub(crate) fn clock(text: &[u8]) -> Option<([i64; 3], &[u8])> {
    let (hour, text) = digits(text, 2)?;
    let (minute, text) = digits(text.strip_prefix(b":")?, 2)?;
    let (second, text) = digits(text.strip_prefix(b":")?, 2)?;
    Some(([hour, minute, second], text))
}

/// A fraction of any length, cut to milliseconds; none there: 0 and nothing taken.
fn fraction<'a>(text: &'a [u8], points: &[u8]) -> (i64, &'a [u8]) {
    let Some((point, after)) = text.split_first() else { return (0, text) };
    let length = after.iter().take_while(|b| b.is_ascii_digit()).count();
    if !points.contains(point) || length == 0 {
        return (0, text);
    }
    let digit = |n: usize| if n < length { i64::from(after[n] - b'0') } else { 0 };
    (digit(0) * 100 + digit(1) * 10 + digit(2), &after[length..])
}

/// A zone at the start of `text`, in minutes, and what follows. `None`: no zone there.
/// `Some(None)`: a zone that no clock has.
#[expect(clippy::option_option, reason = "no zone and an impossible zone are two outcomes")]
fn zone_hours(text: &[u8]) -> Option<Option<(i64, &[u8])>> {
    let (sign, text) = match text.split_first()? {
        (b'+', rest) => (1, rest),
        (b'-', rest) => (-1, rest),
        _ => return None,
    };
    let (hours, text) = digits(text, 2)?;
    let (minutes, text) = digits(text.strip_prefix(b":").unwrap_or(text), 2)?;
    let possible = hours <= 23 && minutes <= 59;
    Some(possible.then_some((sign * (hours * 60 + minutes), text)))
}

/// Exactly `count` digits.
pub(crate) fn digits(text: &[u8], count: usize) -> Option<(i64, &[u8])> {
    let (head, rest) = text.split_at_checked(count)?;
    head.iter()
        .all(u8::is_ascii_digit)
        .then(|| (head.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0')), rest))
}

/// A JSON number as a time: by its size seconds, milliseconds, microseconds or nanoseconds since
/// 1970.
///
/// The digits are cut as they are written, so no binary fraction comes near them, and an exponent
/// only moves the point. Decision: every negative number is below 1e11, hence seconds, cut towards
/// zero.
pub(crate) fn epoch(number: &str) -> Option<i64> {
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{part}");
    let significant = all.trim_start_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    // `point` = digits before the decimal point; value < 10^n exactly when point <= n.
    let exponent = exponent.parse::<i64>().unwrap_or(if exponent.starts_with('-') {
        -1_000_000
    } else {
        1_000_000
    });
    let point = exponent + whole.len() as i64 - (all.len() - significant.len()) as i64;
    let shift = match point {
        _ if negative || point <= 11 => 3,
        12..=14 => 0,
        15..=17 => -3,
        _ => -6,
    };
    let keep = point + shift;
    if keep > 16 {
        return None; // 10^16 ms is far behind the year 9999.
    }
    let digits = significant.chars().chain(std::iter::repeat('0'));
    let ms = digits
        .take(usize::try_from(keep).unwrap_or(0))
        .fold(0, |n, d| n * 10 + i64::from(d as u8 - b'0'));
    in_range(if negative { -ms } else { ms })
}

fn in_range(ms: i64) -> Option<i64> {
    let first = (days_before_year(1) - days_before_year(1970)) * DAY;
    let end = (days_before_year(10_000) - days_before_year(1970)) * DAY;
    (first..end).contains(&ms).then_some(ms)
}

fn days_before_year(year: i64) -> i64 {
    let y = year - 1;
    y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400)
}

pub(crate) fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if days_before_year(year + 1) - days_before_year(year) == 366 => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

//! Lines that begin with an ISO 8601 date and time, and the RFC 3339 strings of JSON lines.
//!
//! ```text
//!   2026-11-21T13:52:00.082+01:00 host tag[pid]: text      as rsyslog writes by default
//!   2026-11-21 13:52:00,082 text                           as programs write
//!   ^ 19 bytes         ^fraction  ^what follows
//! ```
//!
//! Always true here: a line may leave out its offset, RFC 3339 may not.

use std::borrow::Cow;

use super::time::{Wall, clock, digits, within_years};
use super::{LineContext, LogLine, Origin, Severity, Zone, syslog};

/// Reads an ISO line.
pub(super) fn decode<'a>(text: &'a str, cx: &LineContext<'a>) -> Option<LogLine<'a>> {
    let (time_ms, rest) = leading_time(text, cx.zone)?;
    let (program, message) = rest
        .strip_prefix(' ')
        .and_then(syslog::tag_and_text)
        .unwrap_or_else(|| (cx.program(), rest.trim_start_matches(' ')));
    Some(LogLine {
        time_ms,
        origin: Origin::Iso,
        program: Cow::Borrowed(program),
        severity: Severity::of_message(message),
        message: Cow::Borrowed(message),
    })
}

/// The time a line begins with, and what follows.
fn leading_time<'a>(text: &'a str, zone: &Zone) -> Option<(i64, &'a str)> {
    let (mut wall, rest) = date_and_clock(text, b"T ")?;
    let rest = fraction(rest, &mut wall, b".,");
    let wall_ms = wall.wall_ms()?;
    if let Some(rest) = rest.strip_prefix('Z') {
        return Some((wall_ms, rest));
    }
    let (offset_length, offset_ms) = match *rest.as_bytes() {
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2, ..] => (6, offset_ms(sign, [h1, h2, m1, m2])),
        [sign @ (b'+' | b'-'), h1, h2, m1, m2, ..] => (5, offset_ms(sign, [h1, h2, m1, m2])),
        _ => (0, Offset::Other),
    };
    match offset_ms {
        Offset::Ms(offset) => Some((within_years(wall_ms - offset)?, &rest[offset_length..])),
        Offset::Impossible => None,
        Offset::Other => Some((zone.utc_ms(wall_ms)?, rest)),
    }
}

/// The instant of an RFC 3339 date and time, which must be all of `text`.
pub(super) fn rfc3339_ms(text: &str) -> Option<i64> {
    let (mut wall, rest) = date_and_clock(text, b"Tt ")?;
    let rest = fraction(rest, &mut wall, b".");
    let wall_ms = wall.wall_ms()?;
    match *rest.as_bytes() {
        [b'Z' | b'z'] => Some(wall_ms),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => match offset_ms(sign, [h1, h2, m1, m2]) {
            Offset::Ms(offset) => within_years(wall_ms - offset),
            Offset::Impossible | Offset::Other => None,
        },
        _ => None,
    }
}

/// `YYYY-MM-DD?hh:mm:ss` at the start of `text`, `?` being one of `separators`.
fn date_and_clock<'a>(text: &'a str, separators: &[u8]) -> Option<(Wall, &'a str)> {
    let (head, _) = text.as_bytes().split_first_chunk::<19>()?;
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, separator, ref time @ ..] = head else {
        return None;
    };
    if !separators.contains(&separator) {
        return None;
    }
    let (hour, minute, second) = clock(*time)?;
    let wall = Wall {
        year: digits([y1, y2, y3, y4])?,
        month: digits([m1, m2])?,
        day: digits([d1, d2])?,
        hour,
        minute,
        second,
        milli: 0,
    };
    Some((wall, &text[19..]))
}

/// Takes a fraction of one digit or more off the start of `rest` and keeps three digits of it.
fn fraction<'a>(rest: &'a str, wall: &mut Wall, points: &[u8]) -> &'a str {
    let [point, digits @ ..] = rest.as_bytes() else { return rest };
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !points.contains(point) || length == 0 {
        return rest;
    }
    let cut = digits[..length].iter().chain(b"00").take(3);
    wall.milli = cut.fold(0, |milli, digit| milli * 10 + u32::from(digit - b'0'));
    &rest[1 + length..]
}

/// What four bytes after a sign say.
enum Offset {
    Ms(i64),
    /// Digits, but no hours and minutes.
    Impossible,
    /// No digits.
    Other,
}

fn offset_ms(sign: u8, [h1, h2, m1, m2]: [u8; 4]) -> Offset {
    let (Some(hours), Some(minutes)) = (digits([h1, h2]), digits([m1, m2])) else {
        return Offset::Other;
    };
    if hours > 23 || minutes > 59 {
        return Offset::Impossible;
    }
    let ms = i64::from(hours * 60 + minutes) * 60_000;
    Offset::Ms(if sign == b'-' { -ms } else { ms })
}

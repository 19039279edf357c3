//! Syslog lines of RFC 3164, as daemons write them into files.
//!
//! ```text
//!   <38>Nov  1 13:52:00 db1 sshd[412]: text
//!   PRI  date  clock    host tag pid
//! ```
//!
//! Always true here: such a time has no year and no zone; the file's modification gives the one,
//! the context the other.

use std::borrow::Cow;

use memchr::memchr;

use super::time::{DAY_MS, FIRST_MS, LAST_MS, Wall, civil, clock, digits};
use super::{LineContext, LogLine, Origin, Severity};

/// Reads a syslog line.
pub(super) fn decode<'a>(text: &'a str, cx: &LineContext<'a>) -> Option<LogLine<'a>> {
    let (priority, rest) = priority(text)?;
    let month = month(*rest.as_bytes().first_chunk::<3>()?)?;
    let (day, rest) = match *rest.as_bytes() {
        [_, _, _, b' ', b' ', d, b' ', ..] => (digits([d])?, &rest[7..]),
        [_, _, _, b' ', d, b' ', ..] => (digits([d])?, &rest[6..]),
        [_, _, _, b' ', d1, d2, b' ', ..] => (digits([d1, d2])?, &rest[7..]),
        _ => return None,
    };
    let (hour, minute, second) = clock(*rest.as_bytes().first_chunk::<8>()?)?;
    let (program, message) = tag_and_text(rest[8..].strip_prefix(' ')?)?;
    let wall = Wall { year: 1, month, day, hour, minute, second, milli: 0 };
    Some(LogLine {
        time_ms: latest_ms(wall, cx)?,
        origin: Origin::Syslog,
        program: Cow::Borrowed(program),
        severity: priority
            .map(Severity::of_priority)
            .unwrap_or_else(|| Severity::of_message(message)),
        message: Cow::Borrowed(message),
    })
}

/// The priority if there is one, and what follows. `None` if the line begins like a priority and is
/// none.
fn priority(text: &str) -> Option<(Option<u32>, &str)> {
    let value = match *text.as_bytes() {
        [b'<', p, b'>', ..] => digits([p])?,
        [b'<', p1, p2, b'>', ..] => digits([p1, p2])?,
        [b'<', p1, p2, p3, b'>', ..] => digits([p1, p2, p3])?,
        [b'<', ..] => return None,
        _ => return Some((None, text)),
    };
    let end = memchr(b'>', text.as_bytes())?;
    Some((Some(value), &text[end + 1..]))
}

fn month(name: [u8; 3]) -> Option<u32> {
    Some(match &name {
        b"Jan" => 1,
        b"Feb" => 2,
        b"Mar" => 3,
        b"Apr" => 4,
        b"May" => 5,
        b"Jun" => 6,
        b"Jul" => 7,
        b"Aug" => 8,
        b"Sep" => 9,
        b"Oct" => 10,
        b"Nov" => 11,
        b"Dec" => 12,
        _ => return None,
    })
}

/// The time in the latest year in which it exists and is at most a day past the file's
/// modification: a writer's clock or zone may be somewhat ahead, its lines are never from next year.
fn latest_ms(wall: Wall, cx: &LineContext<'_>) -> Option<i64> {
    let limit = cx.mtime_ms.saturating_add(DAY_MS).clamp(FIRST_MS, LAST_MS);
    // Two days more than any zone is ahead of UTC: no later year can be right.
    let (latest, ..) = civil(limit + 2 * DAY_MS);
    // 29 February comes back after eight years at the latest (1896, 1904), and the first year tried
    // may lie past the limit.
    let years = (latest.saturating_sub(16).max(1)..=latest).rev();
    years
        .filter_map(|year| cx.zone.utc_ms(Wall { year, ..wall }.wall_ms()?))
        .find(|ms| *ms <= limit)
}

/// Tag and text of `host tag[pid]: text` or `host tag: text`. The text has lost its leading spaces.
///
/// The host is a word that does not end in a colon, so that `error: db: gone` after a time is text;
/// the tag is a word that does, with a space or nothing behind it, so that `get http://a/b` is.
pub(super) fn tag_and_text(rest: &str) -> Option<(&str, &str)> {
    let (host, rest) = rest.split_at(memchr(b' ', rest.as_bytes())?);
    if host.is_empty() || host.ends_with(':') {
        return None;
    }
    let rest = &rest[1..];
    let (word, text) = rest.split_at(memchr(b' ', rest.as_bytes()).unwrap_or(rest.len()));
    let word = word.strip_suffix(':')?;
    let pid = word.strip_suffix(']').and_then(|word| word.rfind('['));
    let tag = &word[..pid.unwrap_or(word.len())];
    (!tag.is_empty()).then(|| (tag, text.trim_start_matches(' ')))
}

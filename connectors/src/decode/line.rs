//! A line of a log: the order in which the formats are tried, and what they share.
//!
//! ```text
//!   line -> CR, UTF-8 -> JSON -> syslog 3164 -> ISO -> raw
//!            empty: None   each one fails over to the next; raw never fails
//! ```
//!
//! Always true here: every line is judged alone; the answer depends on the line and its
//! [`LineContext`] only; an empty line is the only one without an answer.

use std::borrow::Cow;

use memchr::{memchr, memrchr};

use super::{Severity, Zone, iso, json, syslog};

/// What a line does not say itself.
#[derive(Clone, Copy, Debug)]
pub struct LineContext<'a> {
    /// The absolute path of the file the line is from: names the program when the line does not.
    pub file: &'a str,
    /// When the file was last modified, milliseconds since 1970 UTC: gives syslog its year.
    pub mtime_ms: i64,
    /// When the line was appended to the log, milliseconds since 1970 UTC: the time of a raw line.
    pub append_time_ms: i64,
    /// The zone of times that name none.
    pub zone: &'a Zone,
}

impl<'a> LineContext<'a> {
    /// The program a line is from when it does not say: the file's base name up to its first dot;
    /// the whole base name when nothing is before the dot.
    ///
    /// `/var/log/nginx/access.log.1` is from `access`, `/home/me/.xsession-errors` from
    /// `.xsession-errors`.
    pub fn program(&self) -> &'a str {
        let base = memrchr(b'/', self.file.as_bytes()).map_or(self.file, |at| &self.file[at + 1..]);
        match memchr(b'.', base.as_bytes()) {
            Some(0) | None => base,
            Some(dot) => &base[..dot],
        }
    }
}

/// Which format a line was read as.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// One JSON object with a time.
    Json,
    /// RFC 3164, as syslog daemons have written files for decades.
    Syslog,
    /// A line that begins with an ISO 8601 date and time.
    Iso,
    /// None of these. The time is the append time and must never move event time.
    Raw,
}

/// The fields of one line. They borrow from the line and its context wherever they can.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine<'a> {
    /// Milliseconds since 1970 UTC, always within the years 1 to 9999 unless `origin` is
    /// [`Origin::Raw`]: then it is the append time as given.
    pub time_ms: i64,
    /// Which format the line was read as.
    pub origin: Origin,
    /// Who wrote the line.
    pub program: Cow<'a, str>,
    /// How bad it is.
    pub severity: Severity,
    /// What it says.
    pub message: Cow<'a, str>,
}

impl LogLine<'_> {
    /// The same line, borrowing nothing.
    pub fn into_owned(self) -> LogLine<'static> {
        LogLine {
            time_ms: self.time_ms,
            origin: self.origin,
            program: Cow::Owned(self.program.into_owned()),
            severity: self.severity,
            message: Cow::Owned(self.message.into_owned()),
        }
    }
}

/// Reads one line, given without its LF. `None` when it is empty; a line of [`Severity::Debug`] is
/// returned, to drop it is the caller's decision.
///
/// One CR at the end is removed, so whoever cuts the lines leaves it there. Bytes that are not UTF-8
/// become U+FFFD, one for each maximal subpart of a sequence as [`String::from_utf8_lossy`] has it,
/// *before* the formats are tried: a JSON object with a broken byte inside a string is still JSON.
///
/// # The formats
/// Tried in this order; one that fails leaves the line to the next.
///
/// 1. **JSON** ([`Origin::Json`]): the line is one object, with JSON's blanks allowed around it, and
///    the object has a usable time. Time has no default as program, severity and message have, so
///    an object without one is no JSON line but a raw one. A byte order mark is no blank.
///    Each field is the first *usable* among its keys; of a repeated key the last value counts, as
///    in every common reader; only keys of the outermost object count.
///    - time (`time`, `timestamp`, `ts`, `@timestamp`): a string in RFC 3339, which always has an
///      offset (`T` and `Z` of either case, or a blank for the `T`), or a number: below 1e11 it is
///      seconds, below 1e14 milliseconds, below 1e17 microseconds, else nanoseconds. A negative
///      number is below 1e11. Numbers are cut to milliseconds in their decimal digits and never
///      become floats: `1795269120.082` is .082, `-0.0015` is -1 ms.
///    - program (`program`, `app`, `service`, `logger`): a string that is not empty; else the
///      [program of the file](LineContext::program).
///    - severity (`severity`, `level`): a string that is one of the severity words.
///    - message (`message`, `msg`): any value. A string is taken as it is; another value, `null`
///      too, as its text without blanks between its tokens (members keep their order, numbers their
///      digits, strings their escapes). No such key: the whole line.
///
///    What is JSON is what `serde_json` takes for a `Value`: no lone surrogates, no number beyond
///    an `f64`, at most 127 objects and arrays inside each other.
/// 2. **Syslog** ([`Origin::Syslog`]): `[<PRI>]Mmm [d]d hh:mm:ss host tag[pid]: text`, the `[pid]`
///    optional as in a kernel's line. PRI is one to three digits; a day of one digit may be padded
///    with a blank; elsewhere one blank separates. The host is a word that does not end in a colon,
///    the tag a word that does, and a blank or the end of the line follows it. The year is the
///    latest in which the day exists and the time is not more than 24 h past the file's
///    modification.
/// 3. **ISO** ([`Origin::Iso`]): the line begins `YYYY-MM-DD[T ]hh:mm:ss[.,fraction]` and at once,
///    if at all, `Z`, `+hh:mm`, `+hhmm` or the same with a minus; an offset past 23:59 fails.
///    Anything may follow, and what is neither fraction nor offset is message (`+02` is). If a
///    blank, a host and a tag follow as in syslog, the program is the tag; else it is that of the
///    file. A line alone cannot tell a host from another word: `<time> ERROR db: gone` is from `db`.
/// 4. **Raw** ([`Origin::Raw`]): the message is the line as it is, its indentation too.
///
/// # What they share
/// A time without an offset is in [`LineContext::zone`]. Fractions are cut, second 60 is 59.999, an
/// impossible date and a year outside 1 to 9999, as written or in UTC, fail the format. Severity
/// words, and what decides when a format gives none, are in [`Severity::of_message`].
///
/// # Example
/// ```
/// use thalweg_connectors::decode::{LineContext, Origin, Severity, Zone, decode_line};
///
/// let zone = Zone::utc();
/// let file = LineContext {
///     file: "/var/log/auth.log",
///     mtime_ms: 1_795_269_600_000,
///     append_time_ms: 1_795_269_600_000,
///     zone: &zone,
/// };
/// let line = b"Nov 21 13:52:00 db1 sshd[412]: error: maximum authentication attempts exceeded";
/// let line = decode_line(line, &file).expect("a line that is not empty");
/// assert_eq!(line.origin, Origin::Syslog);
/// assert_eq!(line.time_ms, 1_795_269_120_000);
/// assert_eq!(line.program, "sshd");
/// assert_eq!(line.severity, Severity::Error);
/// assert_eq!(line.message, "error: maximum authentication attempts exceeded");
/// ```
pub fn decode_line<'a>(line: &'a [u8], cx: &LineContext<'a>) -> Option<LogLine<'a>> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return None;
    }
    Some(match std::str::from_utf8(line) {
        Ok(text) => decode_text(text, cx),
        Err(_) => decode_text(&String::from_utf8_lossy(line), cx).into_owned(),
    })
}

fn decode_text<'a>(text: &'a str, cx: &LineContext<'a>) -> LogLine<'a> {
    // Spelt out, so that each answer is made where the caller wants it and not moved on the way.
    if let Some(line) = json::decode(text, cx) {
        return line;
    }
    if let Some(line) = syslog::decode(text, cx) {
        return line;
    }
    if let Some(line) = iso::decode(text, cx) {
        return line;
    }
    raw(text, cx)
}

fn raw<'a>(text: &'a str, cx: &LineContext<'a>) -> LogLine<'a> {
    LogLine {
        time_ms: cx.append_time_ms,
        origin: Origin::Raw,
        program: Cow::Borrowed(cx.program()),
        severity: Severity::of_message(text),
        message: Cow::Borrowed(text),
    }
}

//! One line -> time, program, severity, message: JSON, else syslog 3164, else ISO, else raw.
//!
//! Each line is judged alone. A format that fails in any part takes nothing and the next one is
//! tried.

use super::severity::{self, Severity};
use super::time::{self, Civil, days_in_month};
use super::{Stamp, json};
use json::Value;

const DAY: i64 = 86_400_000;

/// Which format a line was read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Syslog,
    Iso,
    Raw,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) stamp: Stamp,
    pub(crate) program: String,
    pub(crate) severity: Severity,
    pub(crate) message: String,
    pub(crate) format: Format,
}

/// Reads one line that is not empty. `file_program` is used where the line names no program.
pub(crate) fn parse(line: &str, file_program: &str, mtime: i64) -> Parsed {
    let found = from_json(line)
        .or_else(|| from_syslog(line, mtime))
        .or_else(|| from_iso(line))
        // Decision: a raw message is the whole line; only what follows a colon or a time loses its
        // leading spaces.
        .unwrap_or_else(|| Found::new(Format::Raw, Stamp::Append, line));
    Parsed {
        stamp: found.stamp,
        program: found.program.unwrap_or_else(|| file_program.to_owned()),
        severity: found.severity.unwrap_or_else(|| severity::of_message(&found.message)),
        message: found.message,
        format: found.format,
    }
}

/// The base name up to its first dot; the whole name when nothing stands before the dot.
pub(crate) fn program_of_file(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.split('.').next() {
        Some("") | None => name.to_owned(),
        Some(stem) => stem.to_owned(),
    }
}

struct Found {
    format: Format,
    stamp: Stamp,
    program: Option<String>,
    severity: Option<Severity>,
    message: String,
}

impl Found {
    fn new(format: Format, stamp: Stamp, message: &str) -> Self {
        Self { format, stamp, program: None, severity: None, message: message.to_owned() }
    }
}

/// Decisions, all from "the first usable in that order": a time is usable when it is an RFC 3339
/// string or a number that gives a year 1-9999, and an object without one fails the format (only
/// raw lines have no time of their own); a program when it is a string that is not empty; a
/// severity when it is a string that is one of the words; a message always, `null` too (it "is no
/// string"). Of a doubled key the last counts.
fn from_json(line: &str) -> Option<Found> {
    let members = json::object(line)?;
    let get = |key: &&str| members.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v);
    let texts = |keys: &'static [&'static str]| {
        keys.iter().filter_map(get).filter_map(|value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    };
    let times = ["time", "timestamp", "ts", "@timestamp"];
    let at = times.iter().filter_map(get).find_map(|value| match value {
        Value::Text(text) => time::rfc3339(text),
        Value::Number(number) => time::epoch(number),
        Value::Other(_) => None,
    })?;
    let message = match ["message", "msg"].iter().find_map(get) {
        Some(Value::Text(text)) => text.clone(),
        Some(Value::Number(raw) | Value::Other(raw)) => json::compact(raw),
        None => line.to_owned(),
    };
    let mut programs = texts(&["program", "app", "service", "logger"]);
    Some(Found {
        format: Format::Json,
        stamp: Stamp::At(at),
        program: programs.find(|p| !p.is_empty()).map(str::to_owned),
        severity: texts(&["severity", "level"]).find_map(severity::of_word),
        message,
    })
}

/// `[<PRI>]Mmm [d]d hh:mm:ss host tag[pid]: text`.
///
/// Decisions: PRI has one to three digits, of any value; a day of one digit may have a space before
/// it (RFC 3164 pads so); other separators are one space; the time has no fraction.
fn from_syslog(line: &str, mtime: i64) -> Option<Found> {
    let (pri, text) = match line.strip_prefix('<') {
        Some(rest) => {
            let (number, rest) = rest.split_once('>')?;
            let plain =
                (1..=3).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
            let pri = number.parse::<u32>().ok().filter(|_| plain)?;
            (Some(pri), rest)
        }
        None => (None, line),
    };
    let months =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|m| text.starts_with(m))? as i64 + 1;
    let text = text.as_bytes()[3..].strip_prefix(b" ")?;
    let (day, text) = time::digits(text, 2)
        .or_else(|| time::digits(text.strip_prefix(b" ").unwrap_or(text), 1))?;
    let ([hour, minute, second], rest) = time::clock(text.strip_prefix(b" ")?)?;
    let text = &line[line.len() - rest.len()..];
    let (program, message) = host_and_tag(text.strip_prefix(' ')?)?;
    let civil = Civil { year: 0, month, day, hour, minute, second, millis: 0 };
    Some(Found {
        format: Format::Syslog,
        stamp: Stamp::At(latest_year(civil, mtime)?),
        program: Some(program.to_owned()),
        severity: pri.map(severity::of_pri),
        message: message.to_owned(),
    })
}

/// The latest year in which this moment exists and is at most a day after `mtime`.
///
/// Decision: 29 February is looked for in the latest leap year that fits, not called impossible.
fn latest_year(civil: Civil, mtime: i64) -> Option<i64> {
    if civil.day > days_in_month(2000, civil.month) {
        return None;
    }
    let newest = Civil::of(mtime + DAY).year;
    let years = (newest - 8..=newest).rev();
    years.filter_map(|year| Civil { year, ..civil }.utc(0)).find(|at| *at <= mtime + DAY)
}

fn from_iso(line: &str) -> Option<Found> {
    let (at, rest) = time::iso(line)?;
    let mut found = Found::new(Format::Iso, Stamp::At(at), rest.trim_start_matches(' '));
    if let Some((program, message)) = rest.strip_prefix(' ').and_then(host_and_tag) {
        found.program = Some(program.to_owned());
        found.message = message.to_owned();
    }
    Some(found)
}

/// `host tag[pid]: text` or `host tag: text` -> tag, text without leading spaces.
///
/// Decisions: words end at U+0020. The host is a word that does not end in a colon (`error: db:
/// gone` is text), the tag a word that does; what stands in brackets at its end is no part of the
/// tag, whatever it is, because programs write more than numbers there.
fn host_and_tag(text: &str) -> Option<(&str, &str)> {
    let (host, rest) = text.split_once(' ')?;
    let (word, message) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut tag = word.strip_suffix(':')?;
    if tag.ends_with(']') {
        tag = tag.rsplit_once('[').map_or(tag, |(before, _)| before);
    }
    let named = !host.is_empty() && !host.ends_with(':') && !tag.is_empty();
    named.then(|| (tag, message.trim_start_matches(' ')))
}

//! Reads an OUT folder back: every committed line of `events`, `counts`, `late` and `latest`.
//!
//! Only names that end in `.ndjson` count. In them every line must be whole, end in a newline, be
//! UTF-8 and be one object with exactly the fields of the contract; anything else is an error that
//! names file and line.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::json::{self, Value};
use super::time::rfc3339;

/// An object of `events` or `late`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventLine {
    pub(crate) file: String,
    pub(crate) offset: u64,
    pub(crate) time: i64,
    pub(crate) program: String,
    pub(crate) severity: String,
    pub(crate) message: String,
    pub(crate) cut: bool,
    pub(crate) at: Place,
}

/// An object of `counts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CountLine {
    pub(crate) window_start: i64,
    pub(crate) program: String,
    pub(crate) severity: String,
    pub(crate) count: u64,
    pub(crate) at: Place,
}

/// An object of `latest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LatestLine {
    pub(crate) program: String,
    pub(crate) time: i64,
    pub(crate) message: String,
    pub(crate) at: Place,
}

/// `events/name.ndjson:12`. Equal to every other place: two objects are the same wherever they
/// stand.
#[derive(Clone, Debug, Eq)]
pub(crate) struct Place(pub(crate) String);

impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything an OUT folder says; per folder in order of file names, then of lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    pub(crate) events: Vec<EventLine>,
    pub(crate) counts: Vec<CountLine>,
    pub(crate) late: Vec<EventLine>,
    pub(crate) latest: Vec<LatestLine>,
}

impl Output {
    /// Reads the folder; a folder in it that is missing is an empty one.
    pub(crate) fn read(out: &Path) -> Result<Self, String> {
        Self::of(&snapshot(out)?)
    }

    /// Reads files by their names relative to OUT.
    pub(crate) fn of(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, String> {
        Ok(Self {
            events: lines(files, "events", event)?,
            counts: lines(files, "counts", count)?,
            late: lines(files, "late", event)?,
            latest: lines(files, "latest", latest)?,
        })
    }
}

/// The committed files as they are: what must never change or vanish again.
pub(crate) fn snapshot(out: &Path) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let mut files = BTreeMap::new();
    for folder in ["events", "counts", "late", "latest"] {
        files.extend(committed(out, folder)?);
    }
    Ok(files)
}

/// Sentences about files of `before` that are not the same in `after`.
pub(crate) fn changed(
    before: &BTreeMap<String, Vec<u8>>,
    after: &BTreeMap<String, Vec<u8>>,
) -> Vec<String> {
    let wrong = before.iter().filter_map(|(name, bytes)| match after.get(name) {
        None => Some(format!("{name} has vanished")),
        Some(now) if now != bytes => {
            Some(format!("{name} has changed: {} bytes, then {}", bytes.len(), now.len()))
        }
        Some(_) => None,
    });
    wrong.collect()
}

fn committed(out: &Path, folder: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    let dir = out.join(folder);
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let io = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).map_err(|e| io(&dir, e))? {
        let name = entry.map_err(|e| io(&dir, e))?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".ndjson") {
            names.push(name);
        }
    }
    names.sort();
    let read = |name: String| {
        let path = dir.join(&name);
        Ok((format!("{folder}/{name}"), fs::read(&path).map_err(|e| io(&path, e))?))
    };
    names.into_iter().map(read).collect()
}

fn lines<T>(
    files: &BTreeMap<String, Vec<u8>>,
    folder: &str,
    read: fn(&mut Fields<'_>, Place) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let mut found = Vec::new();
    let inside = |name: &str| name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    for (name, bytes) in files.iter().filter(|(name, _)| inside(name)) {
        let text = std::str::from_utf8(bytes).map_err(|e| format!("{name} is not UTF-8: {e}"))?;
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(format!("{name}: the last line has no end"));
        }
        for (n, line) in text.split_terminator('\n').enumerate() {
            let place = Place(format!("{name}:{}", n + 1));
            let wrong = |why: String| format!("{name}:{}: {why}: {}", n + 1, head(line));
            let members = json::object(line).ok_or_else(|| wrong("not one JSON object".into()))?;
            let mut fields = Fields { members };
            let object = read(&mut fields, place).map_err(wrong)?;
            if let Some((name, _)) = fields.members.first() {
                return Err(wrong(format!("field {name:?} is doubled or unknown")));
            }
            found.push(object);
        }
    }
    Ok(found)
}

fn event(fields: &mut Fields<'_>, at: Place) -> Result<EventLine, String> {
    Ok(EventLine {
        file: fields.text("file")?,
        offset: fields.number("offset")?,
        time: fields.time("time")?,
        program: fields.text("program")?,
        severity: fields.text("severity")?,
        message: fields.text("message")?,
        cut: fields.mark("cut")?,
        at,
    })
}

fn count(fields: &mut Fields<'_>, at: Place) -> Result<CountLine, String> {
    Ok(CountLine {
        window_start: fields.time("window_start")?,
        program: fields.text("program")?,
        severity: fields.text("severity")?,
        count: fields.number("count")?,
        at,
    })
}

fn latest(fields: &mut Fields<'_>, at: Place) -> Result<LatestLine, String> {
    let program = fields.text("program")?;
    Ok(LatestLine { program, time: fields.time("time")?, message: fields.text("message")?, at })
}

/// The members of one object, taken out in the order of the contract.
struct Fields<'a> {
    members: Vec<(String, Value<'a>)>,
}

impl<'a> Fields<'a> {
    /// The contract writes its objects with their fields in one order; so must the program.
    fn next(&mut self, name: &str) -> Result<Value<'a>, String> {
        match self.members.iter().position(|(key, _)| key != "cut") {
            Some(n) if self.members[n].0 == name => Ok(self.members.remove(n).1),
            Some(n) => Err(format!("field {:?} stands where {name:?} belongs", self.members[n].0)),
            None => Err(format!("field {name:?} is missing")),
        }
    }

    fn text(&mut self, name: &str) -> Result<String, String> {
        match self.next(name)? {
            Value::Text(text) => Ok(text),
            other => Err(format!("field {name:?} is no string: {other:?}")),
        }
    }

    fn number(&mut self, name: &str) -> Result<u64, String> {
        match self.next(name)? {
            Value::Number(number) if number.parse::<u64>().is_ok() => {
                Ok(number.parse().unwrap_or_default())
            }
            other => Err(format!("field {name:?} is no whole number: {other:?}")),
        }
    }

    /// RFC 3339, UTC, exactly milliseconds, `Z`.
    fn time(&mut self, name: &str) -> Result<i64, String> {
        let text = self.text(name)?;
        let exact = text.len() == "2026-01-01T00:00:00.000Z".len()
            && text.as_bytes()[10] == b'T'
            && text.as_bytes()[19] == b'.'
            && text.ends_with('Z');
        let time = rfc3339(&text).filter(|_| exact);
        time.ok_or_else(|| format!("field {name:?} is no time in UTC with milliseconds: {text:?}"))
    }

    /// A field that is there only when it is `true`.
    fn mark(&mut self, name: &str) -> Result<bool, String> {
        match self.members.iter().position(|(key, _)| key == name) {
            None => Ok(false),
            Some(n) => match self.members.remove(n).1 {
                Value::Other("true") => Ok(true),
                other => Err(format!("field {name:?} is there but not true: {other:?}")),
            },
        }
    }
}

/// The beginning of a text that may be long.
pub(crate) fn head(text: &str) -> String {
    match text.char_indices().nth(160) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}.. ({} bytes)", &text[..end], text.len()),
    }
}

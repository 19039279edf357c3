//! The files beside a segment: every entry as a row.
//!
//! ```text
//!   .index      int32 offset - base | int32 position
//!   .timeindex  int64 time | int32 offset - base
//!   .txnindex   int16 0 | int64 producer id | int64 first | int64 last | int64 last stable
//!   .snapshot   int16 1 | uint32 crc | int32 n | n x 46 bytes
//!   checkpoint  "0\n" count "\n" then a line an entry
//! ```
//!
//! Always true here: entries are shown up to the first one that cannot be; a length field is checked
//! against the bytes that are there. Index files of a broker that did not stop cleanly end in zeros:
//! those are no entries, and no fault.

use std::fs;
use std::path::Path;

use serde_json::Value;
use thalweg_core::batch::crc32c;
use thalweg_core::ids::Uuid;

use super::super::failure::{Failure, Outcome};
use super::{Fault, Kind, Rows};

/// Side files are small: an index of a full segment has 10 MiB.
const BYTES_MAX: u64 = 256 << 20;

/// Shows a file; where it is bad, if so.
pub(super) fn dump(kind: Kind, path: &Path, rows: &mut Rows) -> Outcome<Option<Fault>> {
    let failed = |e| Failure::system("read", path, e);
    let len = fs::metadata(path).map_err(failed)?.len();
    if len > BYTES_MAX {
        return Ok(Some((BYTES_MAX, format!("{len} bytes: no such file is as large"))));
    }
    let bytes = fs::read(path).map_err(failed)?;
    match kind {
        Kind::Index(base) => offset_index(&bytes, base, rows),
        Kind::TimeIndex(base) => time_index(&bytes, base, rows),
        Kind::Aborted => aborted(&bytes, rows),
        Kind::Snapshot => snapshot(&bytes, rows),
        Kind::Epochs => checkpoint(&bytes, &["epoch", "start_offset"], rows),
        Kind::Offsets => checkpoint(&bytes, &["topic", "partition", "offset"], rows),
        Kind::TopicId => topic_id(&bytes, rows),
        Kind::Hint => hint(&bytes, rows),
        Kind::Log => Ok(None),
    }
}

/// Big-endian fields, one after the other; a missing byte counts as 0, so lengths are checked before.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }

    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take())
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take())
    }

    fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take())
    }
}

/// Shows entries of `N` bytes until `show` finds one bad.
fn entries<const N: usize>(
    bytes: &[u8],
    zeros_end_it: bool,
    mut show: impl FnMut(Fields<'_>) -> Outcome<Option<String>>,
) -> Outcome<Option<Fault>> {
    let (entries, rest) = bytes.as_chunks::<N>();
    for (i, entry) in entries.iter().enumerate() {
        if zeros_end_it && i > 0 && entry.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        if let Some(what) = show(Fields(entry))? {
            return Ok(Some(((i * N) as u64, what)));
        }
    }
    let at = (bytes.len() - rest.len()) as u64;
    let what = || format!("{} bytes are left over, an entry has {N}", rest.len());
    Ok((!rest.is_empty()).then(|| (at, what())))
}

fn offset_index(bytes: &[u8], base: i64, rows: &mut Rows) -> Outcome<Option<Fault>> {
    let mut last: Option<(i32, i32)> = None;
    entries::<8>(bytes, true, |mut entry| {
        let (relative, position) = (entry.i32(), entry.i32());
        if relative < 0 || position < 0 || last.is_some_and(|(r, p)| relative <= r || position <= p)
        {
            return Ok(Some("offsets and positions must rise".to_owned()));
        }
        last = Some((relative, position));
        let offset = base.saturating_add(i64::from(relative));
        rows.row(&[("offset", offset.into()), ("position", position.into())])?;
        Ok(None)
    })
}

fn time_index(bytes: &[u8], base: i64, rows: &mut Rows) -> Outcome<Option<Fault>> {
    let mut last: Option<(i64, i32)> = None;
    entries::<12>(bytes, true, |mut entry| {
        let (time, relative) = (entry.i64(), entry.i32());
        if relative < 0 || last.is_some_and(|(t, r)| time <= t || relative < r) {
            return Ok(Some("times and offsets must rise".to_owned()));
        }
        last = Some((time, relative));
        let offset = base.saturating_add(i64::from(relative));
        rows.row(&[("timestamp", time.into()), ("offset", offset.into())])?;
        Ok(None)
    })
}

fn aborted(bytes: &[u8], rows: &mut Rows) -> Outcome<Option<Fault>> {
    let mut last = i64::MIN;
    entries::<34>(bytes, false, |mut entry| {
        let version = entry.i16();
        let [producer, first, end, stable] = [entry.i64(), entry.i64(), entry.i64(), entry.i64()];
        if version != 0 {
            return Ok(Some(format!("version {version}: only 0 is known")));
        }
        if end <= last {
            return Ok(Some("last offsets must rise".to_owned()));
        }
        last = end;
        rows.row(&[
            ("version", version.into()),
            ("producer_id", producer.into()),
            ("first_offset", first.into()),
            ("last_offset", end.into()),
            ("last_stable_offset", stable.into()),
        ])?;
        Ok(None)
    })
}

fn snapshot(bytes: &[u8], rows: &mut Rows) -> Outcome<Option<Fault>> {
    const HEAD: usize = 10;
    let Some(body) = bytes.get(6..).filter(|_| bytes.len() >= HEAD) else {
        return Ok(Some((0, format!("{} bytes: a snapshot has at least {HEAD}", bytes.len()))));
    };
    let mut head = Fields(bytes);
    let (version, crc, count) = (head.i16(), head.i32() as u32, head.i32());
    if version != 1 {
        return Ok(Some((0, format!("version {version}: only 1 is known"))));
    }
    let computed = crc32c(body);
    if crc != computed {
        return Ok(Some((2, format!("CRC-32C is {computed:08x}, the snapshot says {crc:08x}"))));
    }
    let there = (bytes.len() - HEAD) / 46;
    if usize::try_from(count).ok() != Some(there) {
        return Ok(Some((6, format!("it says {count} producers, and there are {there}"))));
    }
    let fault = entries::<46>(&bytes[HEAD..], false, |mut entry| {
        rows.row(&[
            ("producer_id", entry.i64().into()),
            ("producer_epoch", entry.i16().into()),
            ("last_sequence", entry.i32().into()),
            ("last_offset", entry.i64().into()),
            ("offset_delta", entry.i32().into()),
            ("timestamp", entry.i64().into()),
            ("coordinator_epoch", entry.i32().into()),
            ("current_transaction_first_offset", entry.i64().into()),
        ])?;
        Ok(None)
    })?;
    Ok(fault.map(|(at, what)| (at + HEAD as u64, what)))
}

/// A checkpoint's entries: the last columns are numbers, a topic may come first.
fn checkpoint(
    bytes: &[u8],
    columns: &'static [&'static str],
    rows: &mut Rows,
) -> Outcome<Option<Fault>> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Ok(Some((0, "it is no text".to_owned())));
    };
    let mut at = 0;
    let mut lines = text.split_inclusive('\n').map(|line| {
        at += line.len();
        ((at - line.len()) as u64, line.trim_end())
    });
    let Some((_, version)) = lines.next() else { return Ok(None) };
    if version.trim() != "0" {
        return Ok(Some((0, format!("version {version:?}: only 0 is known"))));
    }
    let (at, count) = lines.next().unwrap_or((bytes.len() as u64, ""));
    let Ok(count) = count.trim().parse::<u64>() else {
        return Ok(Some((at, format!("{count:?} is no number of entries"))));
    };
    let mut shown = 0;
    for (at, line) in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |(name, word): (&&'static str, &&str)| {
            let value: Option<Value> = if *name == "topic" {
                Some((*word).into())
            } else {
                word.parse::<i64>().ok().map(Into::into)
            };
            value.map(|value| (*name, value))
        };
        let cells: Option<Vec<_>> = columns.iter().zip(&words).map(number).collect();
        match cells.filter(|_| words.len() == columns.len()) {
            Some(cells) => rows.row(&cells)?,
            None => return Ok(Some((at, format!("{line:?} is not {}", columns.join(" "))))),
        }
        shown += 1;
    }
    let what = || format!("it says {count} entries, and there are {shown}");
    Ok((shown != count).then(|| (bytes.len() as u64, what())))
}

fn topic_id(bytes: &[u8], rows: &mut Rows) -> Outcome<Option<Fault>> {
    let text = String::from_utf8_lossy(bytes);
    let field = |name: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let mut pairs = lines.map(|(key, value)| (key.trim(), value.trim()));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    match (field("version"), field("topic_id").map(Uuid::parse)) {
        (Some("0"), Some(Ok(id))) => {
            rows.row(&[("version", 0.into()), ("topic_id", id.to_string().into())])?;
            Ok(None)
        }
        _ => Ok(Some((0, "it does not say `version: 0` and `topic_id: ID`".to_owned()))),
    }
}

/// Two slots of 512 bytes, written in turn; either may be torn, and one is enough.
///
/// ```text
///   "TWFO" | u16 version | u16 0 | i64 turn | i64 recovery point | i64 durable end
///          | version 2: i64 log start | i64 recovery base | i64 recovery position | u32 crc
/// ```
fn hint(bytes: &[u8], rows: &mut Rows) -> Outcome<Option<Fault>> {
    let mut whole = 0;
    for (number, slot) in bytes.chunks(512).take(2).enumerate() {
        let (version, used) = match slot.get(..6) {
            Some(b"TWFO\0\x01") => (1, 36),
            Some(b"TWFO\0\x02") => (2, 60),
            _ => continue,
        };
        let Some((slot, crc)) = slot.get(..used).and_then(<[u8]>::split_last_chunk::<4>) else {
            continue;
        };
        let valid = u32::from_be_bytes(*crc) == crc32c(slot);
        whole += u32::from(valid);
        let mut fields = Fields(&slot[8..]);
        // What version 1 does not have is 0, as it means.
        rows.row(&[
            ("slot", number.into()),
            ("version", version.into()),
            ("turn", fields.i64().into()),
            ("recovery_point", fields.i64().into()),
            ("durable_end", fields.i64().into()),
            ("log_start", fields.i64().into()),
            ("recovery_base", fields.i64().into()),
            ("recovery_position", fields.i64().into()),
            ("valid", valid.into()),
        ])?;
    }
    let none = whole == 0 && !bytes.is_empty();
    Ok(none.then(|| (0, "neither of its two slots is whole".to_owned())))
}

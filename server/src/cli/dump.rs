//! `thalweg dump`: what is in files of a log, file by file, without a log.
//!
//! ```text
//!   N.log                     batches, and with --records their records
//!   N.index N.timeindex N.txnindex N.snapshot, checkpoints, partition.metadata, flushed-offset
//!                             dump/side.rs
//! ```
//!
//! Always true here: files are only read, and nothing is locked, so that a live log may be looked at;
//! memory is bounded by the largest batch; what cannot be read is named with file and byte, and the
//! next file follows.

mod side;

use std::fs::{self, File};
use std::io::{self, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use thalweg_core::batch::{BatchError, BatchHeader, BatchRef, HEADER_LEN, Scratch, parse_marker};

use super::args::Dump;
use super::failure::{Failure, Outcome, tell};
use super::json;
use super::output::{Cell, Out, text, title};

/// Suffixes of files that a log is about to remove, or to put in place.
const PASSING: [&str; 3] = [".deleted", ".cleaned", ".swap"];

/// What a file is, by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Log,
    Index(i64),
    TimeIndex(i64),
    Aborted,
    Snapshot,
    Epochs,
    Offsets,
    TopicId,
    Hint,
}

impl Kind {
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        match name {
            "leader-epoch-checkpoint" => return Some(Self::Epochs),
            "partition.metadata" => return Some(Self::TopicId),
            "flushed-offset" => return Some(Self::Hint),
            _ if name.ends_with("-offset-checkpoint") => return Some(Self::Offsets),
            _ => {}
        }
        let name = PASSING.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        let (stem, suffix) = name.rsplit_once('.')?;
        // The same segment once more, or a name after which a number follows (`N.log.ID.deleted`).
        let base = stem.split('.').next()?.parse::<i64>().ok().filter(|base| *base >= 0)?;
        match suffix {
            "log" => Some(Self::Log),
            "index" => Some(Self::Index(base)),
            "timeindex" => Some(Self::TimeIndex(base)),
            "txnindex" => Some(Self::Aborted),
            "snapshot" => Some(Self::Snapshot),
            _ => None,
        }
    }
}

/// What was found bad over all files.
#[derive(Default)]
struct Bad {
    damaged: u64,
    rebuildable: u64,
    /// The first file that could not be read at all, or is none of ours.
    other: Option<Failure>,
}

/// Runs the command.
pub(crate) fn run(options: &Dump) -> Outcome {
    let mut bad = Bad::default();
    let mut rows = Rows::new(options.json);
    for path in &options.paths {
        match files(path) {
            Ok(files) => {
                for file in files {
                    if let Err(failure) = one(&file, options.records, &mut rows, &mut bad) {
                        if matches!(failure, Failure::ClosedPipe) {
                            return Err(failure);
                        }
                        failure.tell();
                        bad.other.get_or_insert(failure);
                    }
                }
            }
            Err(failure) => {
                failure.tell();
                bad.other.get_or_insert(failure);
            }
        }
    }
    rows.out.flush()?;
    if bad.damaged > 0 {
        let count = bad.damaged;
        return Err(Failure::Damaged(format!(
            "{count} files hold damaged records: restore them from a copy"
        )));
    }
    if let Some(other) = bad.other {
        return Err(Failure::Told(other.status()));
    }
    if bad.rebuildable > 0 {
        let count = bad.rebuildable;
        return Err(Failure::Rebuildable(format!(
            "{count} files are bad that the log builds anew from its records"
        )));
    }
    Ok(())
}

/// A file, or the files of a folder that have a known name.
fn files(path: &Path) -> Outcome<Vec<PathBuf>> {
    let meta = fs::metadata(path).map_err(|e| Failure::system("read", path, e))?;
    if !meta.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |e| Failure::system("read", path, e);
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if Kind::of(&file).is_some() && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        let what = "no file of a log is in it: give a partition's folder, or files".to_owned();
        return Err(Failure::NoLog { path: path.to_owned(), what });
    }
    files.sort();
    Ok(files)
}

fn one(path: &Path, records: bool, rows: &mut Rows, bad: &mut Bad) -> Outcome {
    let Some(kind) = Kind::of(path) else {
        let what = "its name is none of a log's files: NUMBER.log, .index, .timeindex, .txnindex, \
                    .snapshot, a checkpoint, partition.metadata or flushed-offset"
            .to_owned();
        return Err(Failure::NoLog { path: path.to_owned(), what });
    };
    rows.begin(path);
    if kind == Kind::Log {
        if let Some((position, what)) = batches(path, records, rows)? {
            rows.fault(path, position, &what)?;
            bad.damaged += 1;
        }
    } else if let Some((position, what)) = side::dump(kind, path, rows)? {
        rows.fault(path, position, &what)?;
        bad.rebuildable += 1;
    }
    rows.out.flush()
}

/// Where a file is bad, and how.
type Fault = (u64, String);

/// Shows the batches of a segment; the first place where there is none.
fn batches(path: &Path, records: bool, rows: &mut Rows) -> Outcome<Option<Fault>> {
    let failed = |e| Failure::system("read", path, e);
    let file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    let mut file = BufReader::with_capacity(1 << 20, file).take(len);
    let mut bytes = Vec::new();
    let mut scratch = Scratch::default();
    let mut position = 0;
    let mut next_offset = i64::MIN;
    let mut first_bad = None;
    while position < len {
        bytes.clear();
        take(&mut file, HEADER_LEN as u64, &mut bytes).map_err(failed)?;
        let header = match BatchHeader::parse(&bytes) {
            Ok(header) if header.size() as u64 > len - position => {
                let need = header.size();
                let have = usize::try_from(len - position).unwrap_or(usize::MAX);
                let e = BatchError::Truncated { need, have };
                return Ok(first_bad.or(Some((position, format!("{e}")))));
            }
            Ok(header) => header,
            Err(e) => {
                let zeros =
                    bytes.iter().all(|b| *b == 0) && all_zeros(&mut file).map_err(failed)?;
                let left = len - position;
                let what = if zeros {
                    format!("no batch, but {left} bytes of zeros up to the end of the file")
                } else {
                    format!("{e}; {left} bytes up to the end of the file are no batches")
                };
                return Ok(first_bad.or(Some((position, what))));
            }
        };
        // Bounded by the file's own length, checked above.
        take(&mut file, (header.size() - HEADER_LEN) as u64, &mut bytes).map_err(failed)?;
        let batch = match BatchRef::parse(&bytes) {
            Ok(batch) => batch,
            Err(e) => return Ok(first_bad.or(Some((position, format!("{e}"))))),
        };
        let mut fault = batch.check_crc().err().map(|e| e.to_string());
        if fault.is_none() && header.base_offset < next_offset {
            let base = header.base_offset;
            fault = Some(format!("offset {base} comes after {}", next_offset - 1));
        }
        next_offset = header.next_offset();
        rows.row(&batch_cells(&header, position, fault.as_deref()))?;
        if records && fault.is_none() {
            fault = show_records(&batch, &mut scratch, position, rows)?.map(|e| e.to_string());
        }
        if let Some(what) = fault {
            first_bad.get_or_insert((position, what));
        }
        position += header.size() as u64;
    }
    Ok(first_bad)
}

/// Reads `len` more bytes, or as many as there are.
fn take(file: &mut impl Read, len: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    file.by_ref().take(len).read_to_end(bytes).map(drop)
}

fn all_zeros(file: &mut impl Read) -> io::Result<bool> {
    let mut chunk = [0; 8192];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(true),
            got if chunk[..got].iter().any(|b| *b != 0) => return Ok(false),
            _ => {}
        }
    }
}

fn batch_cells(header: &BatchHeader, position: u64, fault: Option<&str>) -> [Cell; 18] {
    let attributes = header.attributes;
    let codec = match attributes.compression_code() {
        0 => "none",
        1 => "gzip",
        2 => "snappy",
        3 => "lz4",
        4 => "zstd",
        _ => "unknown",
    };
    let time = if attributes.log_append_time() { "LogAppendTime" } else { "CreateTime" };
    [
        ("position", position.into()),
        ("size", header.size().into()),
        ("base_offset", header.base_offset.into()),
        ("last_offset", header.last_offset().into()),
        ("count", header.record_count.into()),
        ("leader_epoch", header.leader_epoch.into()),
        ("producer_id", header.producer.id.into()),
        ("producer_epoch", header.producer.epoch.into()),
        ("base_sequence", header.base_sequence.into()),
        ("last_sequence", header.last_sequence().into()),
        ("transactional", attributes.transactional().into()),
        ("control", attributes.control().into()),
        ("timestamp_type", time.into()),
        ("max_timestamp", header.max_timestamp.into()),
        ("delete_horizon", attributes.delete_horizon().then_some(header.base_timestamp).into()),
        ("codec", codec.into()),
        ("crc", format!("{:08x}", header.crc).into()),
        ("valid", fault.is_none().into()),
    ]
}

/// Shows the records of a batch below it; what stopped it.
fn show_records(
    batch: &BatchRef<'_>,
    scratch: &mut Scratch,
    position: u64,
    rows: &mut Rows,
) -> Outcome<Option<BatchError>> {
    let append_time = batch.header.attributes.log_append_time();
    let records = match batch.records(scratch) {
        Ok(records) => records,
        Err(e) => return Ok(Some(e)),
    };
    for record in records {
        let record = match record {
            Ok(record) => record,
            Err(e) => return Ok(Some(e)),
        };
        let marker = parse_marker(&record).filter(|_| batch.header.is_control());
        let kind = if append_time { "LogAppendTime" } else { "CreateTime" };
        let head = if rows.json {
            format!(
                "{{\"file\":{},\"position\":{position},\"offset\":{},",
                rows.file, record.offset
            )
        } else {
            format!("| offset: {} ", record.offset)
        };
        let out = &mut rows.out;
        out.write(head.as_bytes());
        if rows.json {
            let time = format!("\"timestamp\":{},\"timestamp_type\":\"{kind}\",", record.timestamp);
            out.write(time.as_bytes());
        } else {
            out.write(format!("{kind}: {} {{", record.timestamp).as_bytes());
        }
        json::put_content(&mut out.buffer, &record);
        if let Some((marker, epoch)) = marker {
            let name = match marker {
                thalweg_core::batch::Marker::Abort => "ABORT",
                thalweg_core::batch::Marker::Commit => "COMMIT",
            };
            let text = format!(",\"marker\":\"{name}\",\"coordinator_epoch\":{epoch}");
            out.write(text.as_bytes());
        }
        out.write(b"}\n");
        out.flush_if_full()?;
    }
    Ok(None)
}

/// Rows as they come: objects, columns of fixed width on a terminal, or columns between tabs.
struct Rows {
    out: Out,
    json: bool,
    padded: bool,
    /// The file, as a JSON string.
    file: String,
    /// Whether the header of this file's rows is still to be written.
    fresh: bool,
}

impl Rows {
    fn new(json: bool) -> Self {
        let padded = io::stdout().is_terminal();
        Self { out: Out::new(), json, padded, file: String::new(), fresh: true }
    }

    fn begin(&mut self, path: &Path) {
        let name = path.to_string_lossy();
        self.file = Value::from(&*name).to_string();
        self.fresh = true;
        if !self.json {
            self.out.write(format!("{name}\n").as_bytes());
        }
    }

    fn row(&mut self, cells: &[Cell]) -> Outcome {
        if self.json {
            self.out.write(format!("{{\"file\":{}", self.file).as_bytes());
            for (name, value) in cells {
                self.out.write(format!(",\"{name}\":{value}").as_bytes());
            }
            self.out.write(b"}\n");
        } else {
            if std::mem::take(&mut self.fresh) {
                let header = cells.iter().map(|(name, value)| (title(name), value.is_number()));
                self.columns(header.collect());
            }
            let row = cells.iter().map(|(_, value)| (text(value), value.is_number()));
            self.columns(row.collect::<Vec<_>>().into_iter().zip(cells).map(pad_to).collect());
        }
        self.out.flush_if_full()
    }

    fn columns(&mut self, cells: Vec<(String, bool)>) {
        if !self.padded {
            self.out.line(cells.into_iter().map(|(text, _)| text.trim().to_owned()));
            return;
        }
        let mut line = String::new();
        for (text, right) in cells {
            let width = text.len().max(10);
            let cell = if right { format!("{text:>width$}") } else { format!("{text:<width$}") };
            line.push_str(&cell);
            line.push_str("  ");
        }
        self.out.write(line.trim_end().as_bytes());
        self.out.write(b"\n");
    }

    /// Says where a file is bad: in the list, and on standard error.
    fn fault(&mut self, path: &Path, position: u64, what: &str) -> Outcome {
        if self.json {
            let text = format!(
                "{{\"file\":{},\"position\":{position},\"error\":{}}}\n",
                self.file,
                Value::from(what)
            );
            self.out.write(text.as_bytes());
        }
        self.out.flush()?;
        tell(&format!("{}: bad at byte {position}: {what}", path.display()));
        Ok(())
    }
}

/// A cell is as wide as its column's name.
fn pad_to(((text, right), (name, _)): ((String, bool), &Cell)) -> (String, bool) {
    let width = name.len();
    (if right { format!("{text:>width$}") } else { format!("{text:<width$}") }, right)
}

//! A partition's folder: any bytes as any of its files, opened and read through the engine.
//!
//! ```text
//!   input    "clean" | "killed"   ["whole"]   name, bytes   name, bytes ..
//!            how the last         nothing     files that replace or join those of a good folder
//!            process stopped      else is there
//! ```
//!
//! Promises, beside that nothing panics: the log opens, or the partition is `Damaged` and set aside
//! with its batches untouched; no valid batch that the hint covers is lost from the front of the log;
//! reading leads to the end or to an error, with offsets that rise; readers of committed records see
//! nothing that others do not; where only side files without a word on transactions were changed,
//! every record is read as it was written, from every offset; what was closed reads the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::executor::block_on;
use thalweg_core::Error;
use thalweg_core::batch::{BatchBuilder, crc32c, stamp};
use thalweg_core::client::log::{Ack, Isolation, Log};
use thalweg_core::config::Compression;
use thalweg_core::coordinator::CoordinatorRecord;
use thalweg_core::disk::sim::SimDisk;
use thalweg_core::disk::{Disk, read_file};
use thalweg_core::ids::{Offset, ProducerIdentity};

use super::input::{Part, pack, unpack};
use super::records::{group_history, transaction_history};
use super::repair::{Sums, hint_summed, repair};
use super::{Form, Shape, Target, about, shape_of};
use crate::image::{self, Ending, FOLDER, Image, Left, Seen};

const MIB: u64 = 1 << 20;
const NOW: i64 = 1_790_000_000_000;

pub(super) fn targets() -> Vec<Target> {
    let folder = |name, about, seeds, run| Target {
        name,
        about,
        // A control batch may decompress to 64 MiB, twice that while it grows.
        memory_max: 192 * MIB,
        form: Form::Parts,
        seeds,
        run,
    };
    vec![
        folder("segment", ".log files", || seeds_of(&[".log"]), |b| check(b, Trust::NOTHING)),
        folder(
            "index",
            ".index and .timeindex files",
            || seeds_of(&[".index", ".timeindex"]),
            |b| check(b, Trust::ALL),
        ),
        folder(
            "txnindex",
            ".txnindex files",
            || seeds_of(&[".txnindex"]),
            |b| check(b, Trust::RECORDS),
        ),
        folder(
            "snapshot",
            ".snapshot files",
            || seeds_of(&[".snapshot"]),
            |b| check(b, Trust::RECORDS),
        ),
        folder(
            "hint",
            "flushed-offset",
            || seeds_of(&["flushed-offset"]),
            |b| check(b, Trust::ALL),
        ),
        folder(
            "epochs",
            "leader-epoch-checkpoint",
            || seeds_of(&["checkpoint"]),
            |b| check(b, Trust::ALL),
        ),
        folder(
            "partition-metadata",
            "partition.metadata",
            || seeds_of(&["metadata"]),
            |b| check(b, Trust::ALL),
        ),
        folder(
            "folder",
            "a partition's folder, whatever it holds",
            || seeds_of(&[]),
            |b| check(b, Trust::NOTHING),
        ),
        folder(
            "coordinators",
            "an engine over any records of its coordinators",
            engine_seeds,
            engine,
        ),
    ]
}

/// What must be read as it was written, as the changed files say nothing of it.
#[derive(Clone, Copy)]
struct Trust {
    records: bool,
    transactions: bool,
}

impl Trust {
    const ALL: Self = Self { records: true, transactions: true };
    const RECORDS: Self = Self { records: true, transactions: false };
    const NOTHING: Self = Self { records: false, transactions: false };
}

/// Good files that end so; all of the folder without an ending.
fn seeds_of(endings: &[&str]) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (word, left) in [("clean", Left::Clean), ("killed", Left::Killed)] {
        let wanted = |name: &str| endings.iter().any(|end| name.ends_with(end));
        let files: Vec<Part> = Image::small(left)
            .partition()
            .filter(|(name, _)| endings.is_empty() || wanted(name))
            .map(|(name, bytes)| Part::new(name, bytes))
            .collect();
        let head = match endings {
            [] => vec![Part::new(word, ""), Part::new("whole", "")],
            _ => vec![Part::new(word, "")],
        };
        seeds.push(pack(&[head, files].concat()));
    }
    for (name, bytes) in extremes() {
        if endings.is_empty() || endings.iter().any(|end| name.ends_with(end)) {
            seeds.push(pack(&[Part::new("killed", ""), Part::new(name, bytes)]));
        }
    }
    if endings.is_empty() {
        // Names that mean nothing here, or ought not to be there.
        let strange =
            ["5.log", "lost+found~dir", "00000000000000000003.log.deleted", "-1.snapshot"];
        let strange = strange.map(|name| Part::new(name, "x"));
        seeds.push(pack(&[&[Part::new("clean", "")][..], &strange].concat()));
    }
    seeds
}

/// Files of the largest numbers there are, where counting on is no longer possible.
fn extremes() -> Vec<(String, Vec<u8>)> {
    let image = Image::small(Left::Killed);
    let last = image.partition().filter(|(name, _)| name.ends_with(".log")).last();
    let (last, segment) = last.expect("there are segments");
    let mut epoch = segment.to_vec();
    epoch[12..16].copy_from_slice(&i32::MAX.to_be_bytes());
    let mut hint = image.file("flushed-offset").expect("it was written").to_vec();
    for slot in hint.chunks_mut(512).filter(|slot| slot.len() >= 36) {
        slot[8..16].fill(0xff);
    }
    repair(Sums::Hint, &mut hint);
    // One producer, with the largest of everything.
    let mut snapshot = vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
    for width in [8, 2, 4, 8, 4, 8, 4, 8] {
        snapshot.push(0x7f);
        snapshot.extend(std::iter::repeat_n(0xff, width - 1));
    }
    repair(Sums::Snapshot, &mut snapshot);
    let stem = last.trim_end_matches(".log");
    vec![
        (last.to_owned(), epoch),
        (format!("{:020}.log", Offset::MAX), segment.to_vec()),
        (format!("{:020}.log", Offset::MAX - 1), Vec::new()),
        ("flushed-offset".to_owned(), hint),
        (format!("{stem}.snapshot"), snapshot),
        ("leader-epoch-checkpoint".to_owned(), b"0\n1\n2147483647 0\n".to_vec()),
        ("leader-epoch-checkpoint".to_owned(), b"0\n99999999999\n0 0\n".to_vec()),
    ]
}

/// Writes the parts beside, or in place of, a good folder's files.
fn lay(parts: &[Part]) -> (SimDisk, Left) {
    let left = match parts.first().map(|part| part.name.as_str()) {
        Some("killed") => Left::Killed,
        _ => Left::Clean,
    };
    let whole = parts.iter().any(|part| part.name == "whole");
    let disk = Image::small(left).lay(|path| !whole || !path.starts_with(FOLDER));
    let legal = |name: &str| {
        !name.is_empty()
            && name.len() < 200
            && !name.contains(['/', '\0'])
            && ![".", ".."].contains(&name)
    };
    let folder = Path::new(FOLDER);
    for part in parts.iter().skip(1).filter(|part| legal(&part.name) && part.name != "whole") {
        match part.name.strip_suffix("~dir") {
            // The name may be taken by a file.
            Some(name) if legal(name) => _ = disk.create_dir(&folder.join(name)),
            _ if disk.list(&folder.join(&part.name)).is_ok() => {}
            _ => image::put(&disk, &folder.join(&part.name), &part.bytes),
        }
    }
    disk.sync_dir(folder).expect("nothing goes wrong on this disk");
    (disk, left)
}

fn check(bytes: &[u8], trust: Trust) -> Result<Shape, String> {
    let parts = unpack(bytes);
    let (disk, left) = lay(&parts);
    let before = files(&disk);
    let opened = image::open(&disk);
    let after = files(&disk);
    let log = match opened {
        Ok(log) => log,
        // Only what cannot be told from a failing disk may refuse the whole log.
        Err(e) => return Err(format!("one partition's files refuse the whole log: {e}")),
    };
    if let Some((_, why)) = log.report().damaged.first() {
        if before
            .iter()
            .any(|(name, bytes)| name.ends_with(".log") && after.get(name) != Some(bytes))
        {
            return Err(format!("damaged, and batches were changed: {why}"));
        }
        return Ok(shape_of(&"Damaged", why));
    }
    let report = log.report().clone();
    kept(&before, &after)?;
    let (all, ending) = read(&log, Isolation::ReadUncommitted)?;
    let (committed, committed_ending) = read(&log, Isolation::ReadCommitted)?;
    if matches!(ending, Ending::End)
        && let Some(one) = committed.iter().find(|one| !all.contains(one))
    {
        return Err(format!("committed, and not there: {one:?}"));
    }
    let image = Image::small(left);
    // A hint that says that records were deleted is believed.
    let trust = if Hint::of(&before).log_start > 0 { Trust::NOTHING } else { trust };
    if trust.records {
        whole(&log, image, &all, &ending, bytes.len() as Offset)?;
    }
    if trust.transactions
        && (committed != image.committed || !matches!(committed_ending, Ending::End))
    {
        return Err(format!(
            "{} of {} committed records: {committed_ending:?}",
            committed.len(),
            image.committed.len()
        ));
    }
    let appended = append(&*log);
    // One in four is closed and looked at again.
    if bytes.len().is_multiple_of(4) && log.close().is_ok() {
        drop(log);
        again(&disk, &all, &ending)?;
    }
    let appended = match appended {
        Ok(()) => "appends".to_owned(),
        Err(e) => shape_of(&e, &e),
    };
    let opened = format!(
        "{} {} {} {} {appended}",
        about(all.len()),
        about(committed.len()),
        about(report.scanned_bytes as usize),
        about(report.cut_bytes as usize)
    );
    Ok(match ending {
        Ending::Told(e) => format!("{} {opened}", shape_of(&e, &e)),
        _ => format!("Opens | {opened}"),
    })
}

fn append(log: &impl Log) -> Result<(), Error> {
    let mut builder = BatchBuilder::new(Compression::None, 128);
    builder.push(NOW, None, Some(b"goes on"), &[])?;
    let batch = builder.finish(ProducerIdentity::NONE, -1, false)?;
    block_on(log.append(&image::at(), batch, None, Ack::Level)).map(drop)
}

fn read(
    log: &thalweg_core::engine::Engine<SimDisk>,
    isolation: Isolation,
) -> Result<(Vec<Seen>, Ending), String> {
    let Ok(offsets) = block_on(log.offsets(&image::at())) else {
        return Ok((Vec::new(), Ending::End));
    };
    let (seen, ending) = image::read(log, isolation, offsets.start, Offset::MAX);
    if let Ending::Stuck(at) = ending {
        return Err(format!("{isolation:?}: the answer at {at} of {offsets:?} leads nowhere"));
    }
    match seen.windows(2).find(|two| two[0].offset >= two[1].offset) {
        Some(two) => Err(format!("{} is followed by {}", two[0].offset, two[1].offset)),
        None => Ok((seen, ending)),
    }
}

/// Every record is read as it was written, from wherever one begins: every seventh offset of those
/// that `turn` chooses.
fn whole(
    log: &thalweg_core::engine::Engine<SimDisk>,
    image: &Image,
    all: &[Seen],
    ending: &Ending,
    turn: Offset,
) -> Result<(), String> {
    if all != image.all || !matches!(ending, Ending::End) {
        return Err(format!("{} of {} records: {ending:?}", all.len(), image.all.len()));
    }
    let end = image.all.last().map_or(0, |last| last.offset + 1);
    for from in (turn % 7..end).step_by(7) {
        let to = (from + 3).min(end);
        let (seen, ending) = image::read(log, Isolation::ReadUncommitted, from, to);
        let wanted = image.all.iter().filter(|one| (from..to).contains(&one.offset));
        if !seen.iter().eq(wanted) || !matches!(ending, Ending::End) {
            return Err(format!("from {from}: {} records, {ending:?}", seen.len()));
        }
    }
    Ok(())
}

/// A folder that was closed opens with what was read.
fn again(disk: &SimDisk, all: &[Seen], ending: &Ending) -> Result<(), String> {
    let log = image::open(disk).map_err(|e| format!("closed, and does not open: {e}"))?;
    if let Some((_, why)) = log.report().damaged.first() {
        return match ending {
            // What could not be read is found sooner.
            Ending::Told(_) => Ok(()),
            _ => Err(format!("closed, and damaged: {why}")),
        };
    }
    let (seen, _) = read(&log, Isolation::ReadUncommitted)?;
    match seen.get(..all.len()) == Some(all) {
        true => Ok(()),
        false => {
            Err(format!("{} records were read, and {} after a clean stop", all.len(), seen.len()))
        }
    }
}

// What must stay.

type Files = BTreeMap<String, Vec<u8>>;

fn files(disk: &SimDisk) -> Files {
    let folder = Path::new(FOLDER);
    let entries = disk.list(folder).unwrap_or_default();
    let files = entries.into_iter().filter(|entry| !entry.is_dir).filter_map(|entry| {
        let name = entry.name.to_str()?.to_owned();
        let bytes = read_file(disk, &folder.join(&name), u64::MAX).ok()?;
        Some((name, bytes))
    });
    files.collect()
}

/// Looks for every valid batch that the hint covers, from the front of the log to its first flaw.
fn kept(before: &Files, after: &Files) -> Result<(), String> {
    let Hint { durable_end, log_start, .. } = Hint::of(before);
    let mut logs: Vec<(Offset, &String, &Vec<u8>)> = Vec::new();
    for (name, bytes) in before {
        if let Some(stem) = name.strip_suffix(".log")
            && stem.len() == 20
            && stem.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(base) = stem.parse()
        {
            logs.push((base, name, bytes));
        }
    }
    logs.sort();
    let mut next = None;
    for (base, name, bytes) in logs {
        if next.is_some_and(|next| next != base) {
            return Ok(());
        }
        let (mut at, mut offset) = (0, base);
        while at < bytes.len() {
            let Some((size, end)) = valid_batch(&bytes[at..], offset) else { return Ok(()) };
            if end > durable_end {
                return Ok(());
            }
            if end <= log_start {
                (at, offset) = (at + size, end);
                continue;
            }
            let there = after.get(name).and_then(|bytes| bytes.get(at..at + size));
            if there != Some(&bytes[at..at + size]) {
                return Err(format!(
                    "the batch at {at} of {name}, offsets {offset}..{end}, is lost; all below {durable_end} was durable"
                ));
            }
            (at, offset) = (at + size, end);
        }
        next = Some(offset);
    }
    Ok(())
}

/// Size and end of a batch that begins with this offset, read by hand.
fn valid_batch(bytes: &[u8], offset: Offset) -> Option<(usize, Offset)> {
    let base = i64::from_be_bytes(*bytes.first_chunk()?);
    let i32_at = |at: usize| -> Option<i32> {
        Some(i32::from_be_bytes(*bytes.get(at..at + 4)?.first_chunk()?))
    };
    let size = usize::try_from(i32_at(8)?).ok()?.checked_add(12)?;
    let body = bytes.get(21..size)?;
    let (sum, delta, count) = (i32_at(17)?.cast_unsigned(), i32_at(23)?, i32_at(57)?);
    let good = base == offset && bytes[16] == 2 && size >= 61 && delta >= 0 && count >= 0;
    (good && crc32c(body) == sum).then_some(())?;
    Some((size, offset.checked_add(i64::from(delta) + 1)?))
}

/// What a hint says, read by hand.
#[derive(Clone, Copy, Default)]
struct Hint {
    turn: u64,
    durable_end: Offset,
    /// Everything below was deleted.
    log_start: Offset,
}

impl Hint {
    /// The newer valid slot; nothing is durable when there is none.
    fn of(files: &Files) -> Self {
        let file = files.get("flushed-offset").map_or(&[][..], Vec::as_slice);
        let slots = file.chunks(512).take(2).filter_map(|slot| {
            let (summed, rest) = slot.split_at_checked(hint_summed(slot))?;
            let sum = u32::from_be_bytes(*rest.first_chunk()?);
            let number = |at: usize| -> Option<i64> {
                Some(i64::from_be_bytes(*summed.get(at..)?.first_chunk()?))
            };
            let good = summed.starts_with(b"TWFO\0") && crc32c(summed) == sum;
            let (turn, durable_end) = (number(8)?.cast_unsigned(), number(24)?);
            let log_start = number(32).unwrap_or(0);
            good.then_some(Self { turn, durable_end, log_start })
        });
        slots.max_by_key(|hint| hint.turn).unwrap_or_default()
    }
}

// An engine over records of its coordinators.

fn engine_seeds() -> Vec<Vec<u8>> {
    let parts = |topic: &str, records: &[CoordinatorRecord]| -> Vec<Part> {
        let part = |record: &CoordinatorRecord| {
            let value = match &record.value {
                Some(value) => Part::new("value", value.to_vec()),
                None => Part::new("null", ""),
            };
            [Part::new(topic, record.key.to_vec()), value]
        };
        records.iter().flat_map(part).collect()
    };
    let (groups, transactions) = (group_history(), transaction_history());
    let mut seeds = vec![pack(&[parts("g", &groups), parts("x", &transactions)].concat())];
    // The life of a transactional id, cut after each of its records.
    for n in 1..=transactions.len() {
        seeds.push(pack(&parts("x", &transactions[..n])));
    }
    seeds
}

/// The log of an internal topic with one more batch of these records.
fn with_records(topic: &str, records: &[(Vec<u8>, Option<Vec<u8>>)]) -> Option<(PathBuf, Vec<u8>)> {
    let path = PathBuf::from(format!("{}/log/{topic}-0/{:020}.log", image::DIR, 0));
    let files = &Image::small(Left::Killed).files;
    let (_, bytes) = files.iter().find(|(found, _)| *found == path)?;
    let (mut at, mut end) = (0, 0);
    while let Some((size, next)) = valid_batch(&bytes[at..], end) {
        (at, end) = (at + size, next);
    }
    let mut builder = BatchBuilder::new(Compression::None, 1024);
    for (key, value) in records {
        builder.push(NOW, Some(key), value.as_deref(), &[]).ok()?;
    }
    let mut batch = builder.finish(ProducerIdentity::NONE, -1, false).ok()?.to_vec();
    stamp(batch.first_chunk_mut()?, end, 0);
    Some((path, [&bytes[..], &batch].concat()))
}

fn engine(bytes: &[u8]) -> Result<Shape, String> {
    let parts = unpack(bytes);
    let disk = Image::small(Left::Killed).lay(|_| true);
    for (word, topic) in [("g", "__consumer_offsets"), ("x", "__transaction_state")] {
        let records: Vec<_> = parts
            .chunks(2)
            .filter(|pair| pair[0].name == word)
            .map(|pair| {
                let value = pair.get(1).filter(|part| part.name != "null");
                (pair[0].bytes.clone(), value.map(|part| part.bytes.clone()))
            })
            .collect();
        if let Some((path, bytes)) = with_records(topic, &records).filter(|_| !records.is_empty()) {
            image::put(&disk, &path, &bytes);
        }
    }
    let log = match image::open(&disk) {
        Ok(log) => log,
        Err(e @ Error::Damaged { .. }) => return Ok(shape_of(&e, &e)),
        Err(e) => return Err(format!("neither open nor damaged: {e}")),
    };
    log.check_coordinators().map_err(|e| format!("replayed it is another: {e}"))?;
    let report = log.report().clone();
    let position = block_on(log.committed_offsets("g", &[image::at()]));
    let position = match position {
        Ok(all) => format!("{}", all[0].is_some()),
        Err(e) => shape_of(&e, &e),
    };
    let (all, ending) = read(&log, Isolation::ReadUncommitted)?;
    let wanted = &Image::small(Left::Killed).all;
    if all != *wanted {
        return Err(format!("{} of {} records of others: {ending:?}", all.len(), wanted.len()));
    }
    let producer = block_on(log.init_producer(Some("tx"), std::time::Duration::from_secs(1)));
    let producer = producer.map_or_else(|e| shape_of(&e, &e), |_| "a producer".to_owned());
    log.close().map_err(|e| format!("it does not close: {e}"))?;
    drop(log);
    let log = image::open(&disk).map_err(|e| format!("closed, and does not open: {e}"))?;
    let second = log.report();
    if (second.aborted, second.finished, second.revoked) != (0, 0, 0) {
        return Err(format!("still undecided after a clean stop: {second:?}"));
    }
    Ok(format!(
        "Opens | {} aborted {} finished {} revoked, {position}, {producer}",
        about(report.aborted),
        about(report.finished),
        about(report.revoked)
    ))
}

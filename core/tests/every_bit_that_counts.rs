//! A bit turned in what is stored: whoever reads gets the records that were written, or an error, and
//! never others. Bits of a sealed segment of some ten batches and of each of its side files are turned
//! here; `thalweg-sim flips` turns those of a segment of 4 MiB.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::*;
use thalweg_core::batch::{HEADER_LEN, batches, stamp};
use thalweg_core::client::log::*;
use thalweg_core::disk::Disk;
use thalweg_core::disk::sim::SimDisk;
use thalweg_core::ids::Offset;

/// What a reader sees, and how it ends: at the end, with an error, or with an answer that leads
/// nowhere, so that a consumer would ask for the same offset for ever.
#[derive(PartialEq, Eq, Debug)]
enum Ending {
    End,
    Told,
    Nowhere(Offset),
}

/// Reads as a consumer does, and says where it comes to a stop.
fn read(log: &dyn Log, isolation: Isolation, from: Offset) -> (Vec<(Offset, String)>, Ending) {
    let options = FetchOptions { isolation, max_wait: std::time::Duration::ZERO, max_bytes: 0 };
    let (mut seen, mut offset) = (Vec::new(), from);
    loop {
        let ask = FetchFrom { at: at("t"), offset, max_bytes: 300 };
        let Ok(fetched) = now(log.fetch(&[ask], options)) else { return (seen, Ending::Told) };
        let one = &fetched[0];
        let end = match isolation {
            Isolation::ReadCommitted => one.offsets.last_stable,
            Isolation::ReadUncommitted => one.offsets.high_watermark,
        };
        if one.next_offset <= offset {
            let ending = if offset < end { Ending::Nowhere(offset) } else { Ending::End };
            return (seen, ending);
        }
        let mut scratch = thalweg_core::batch::Scratch::default();
        for batch in thalweg_core::batch::Visible::new(&one.batches, &one.aborted, offset) {
            let Ok(batch) = batch else { return (seen, Ending::Told) };
            if batch.check_crc().is_err() {
                return (seen, Ending::Told);
            }
            let Ok(records) = batch.records(&mut scratch) else { return (seen, Ending::Told) };
            for record in records.starting_at(offset) {
                let Ok(record) = record else { return (seen, Ending::Told) };
                let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
                seen.push((record.offset, value));
            }
        }
        offset = one.next_offset;
    }
}

/// A log whose first segment is sealed and below the recovery point, closed: with plain batches, an
/// aborted and a committed transaction, and records whose value is itself a batch that would fit
/// there, as a log that keeps segments of another one holds.
fn written() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.set_early_write_back(0);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 1100).expect("created");
    for round in 0..3 {
        append(&*log, &at("t"), &format!("value {round}")).expect("acknowledged");
        for how in [TransactionEnd::Abort, TransactionEnd::Commit] {
            let producer = init(&*log, "tx");
            let value = format!("{how:?} {round}");
            append_in(&*log, "tx", producer, &at("t"), 0, &value).expect("written");
            end(&*log, "tx", producer, how).expect("ended");
        }
        let next = now(log.offsets(&at("t"))).expect("there").end;
        let mut inner = batch(&["a record that nobody appended"]).to_vec();
        stamp(inner.first_chunk_mut::<HEADER_LEN>().expect("a whole header"), next, 0);
        let mut builder =
            thalweg_core::batch::BatchBuilder::new(thalweg_core::config::Compression::None, 1024);
        builder.push(NOW, None, Some(&inner), &[]).expect("it fits");
        let outer =
            builder.finish(thalweg_core::ids::ProducerIdentity::NONE, -1, false).expect("a record");
        now(log.append(&at("t"), outer, None, Ack::Level)).expect("acknowledged");
    }
    assert!(bases(&disk, &folder("t")).len() > 1, "the first segment is sealed");
    log.close().expect("closes");
    disk.restart()
}

const BOTH: [Isolation; 2] = [Isolation::ReadUncommitted, Isolation::ReadCommitted];

/// What is wrong with what a reader saw; `None` when it is right, or an error told.
fn wrong(
    seen: &[(Offset, String)],
    ending: &Ending,
    wanted: &[(Offset, String)],
) -> Option<String> {
    if !wanted.starts_with(seen) {
        return Some(format!("{seen:?} where {wanted:?} was written"));
    }
    match ending {
        Ending::Told => None,
        Ending::End if seen.len() == wanted.len() => None,
        other => Some(format!("{} of {} records, then {other:?}", seen.len(), wanted.len())),
    }
}

type Wanted = BTreeMap<(bool, Offset), Vec<(Offset, String)>>;

/// What readers see of a whole log, from every offset.
fn wanted(log: &dyn Log) -> Wanted {
    let end = now(log.offsets(&at("t"))).expect("there").end;
    let mut all = Wanted::new();
    for isolation in BOTH {
        for from in 0..end {
            let (seen, ending) = read(log, isolation, from);
            assert_eq!(ending, Ending::End, "nothing is wrong yet");
            all.insert((isolation == BOTH[1], from), seen);
        }
    }
    all
}

/// Reads from one in `every` offsets, others for each `turn`.
fn check_all(
    log: &dyn Log,
    wanted: &Wanted,
    (turn, every): (u64, u64),
    found: &mut Vec<String>,
    what: &str,
) {
    let chosen = |from: Offset| (from.cast_unsigned() + turn).is_multiple_of(every);
    for ((committed, from), wanted) in wanted.iter().filter(|((_, from), _)| chosen(*from)) {
        let (seen, ending) = read(log, BOTH[usize::from(*committed)], *from);
        if let Some(wrong) = wrong(&seen, &ending, wanted) {
            found.push(format!("{what}, from {from}: {wrong}"));
        }
    }
}

/// The few first of what was found: each would be a page.
fn none(found: &[String]) {
    assert!(
        found.is_empty(),
        "{} bits lie:\n{}",
        found.len(),
        found[..found.len().min(8)].join("\n")
    );
}

#[test]
fn a_bit_of_a_batch_header_never_leads_to_other_records() {
    let disk = written();
    let path = segment("t", 0, "log");
    let bytes = bytes_of(&disk, &path);
    let log = open(&disk, Level::Disk, 2).expect("opens");
    let wanted = wanted(&*log);
    let (mut position, mut found) = (0, Vec::new());
    for batch in batches(&bytes) {
        let size = batch.expect("as it was written").bytes.len();
        for bit in 0..HEADER_LEN as u64 * 8 {
            let (byte, bit) = (position + bit / 8, (bit % 8) as u8);
            disk.flip_bit(&path, byte, bit).expect("there");
            let what = format!("byte {} of the batch at {position}, bit {bit}", byte - position);
            check_all(&*log, &wanted, (byte + u64::from(bit), 8), &mut found, &what);
            disk.flip_bit(&path, byte, bit).expect("there");
        }
        position += size as u64;
    }
    none(&found);
}

#[test]
fn a_bit_of_a_record_is_told() {
    let disk = written();
    let path = segment("t", 0, "log");
    let bytes = bytes_of(&disk, &path);
    let log = open(&disk, Level::Disk, 2).expect("opens");
    let wanted = wanted(&*log);
    let (mut position, mut found) = (0, Vec::new());
    for batch in batches(&bytes) {
        let batch = batch.expect("as it was written");
        let size = batch.bytes.len() as u64;
        for byte in position + HEADER_LEN as u64..position + size {
            disk.flip_bit(&path, byte, (byte % 8) as u8).expect("there");
            let (_, ending) = read(&*log, BOTH[0], batch.header.base_offset);
            if ending != Ending::Told {
                found.push(format!("byte {byte}: not told"));
            }
            check_all(&*log, &wanted, (byte, 8), &mut found, &format!("byte {byte}"));
            disk.flip_bit(&path, byte, (byte % 8) as u8).expect("there");
        }
        position += size;
    }
    none(&found);
}

/// The index is compared with its sum when it is looked at first. What turns in it later may lead a
/// reader astray, but not to other records; a place inside of a record that looks like a batch, which
/// only the sum tells from one, is never believed by a log that is opened on it.
#[test]
fn a_bit_of_the_index_costs_time_only() {
    let mut disk = written();
    let path = segment("t", 0, "index");
    let bytes = bytes_of(&disk, &path);
    assert!(bytes.len() >= 4 * 8, "some entries: {}", bytes.len());
    let log = open(&disk, Level::Disk, 2).expect("opens");
    let wanted = wanted(&*log);
    let mut found = Vec::new();
    for byte in 0..bytes.len() as u64 {
        for bit in 0..8 {
            disk.flip_bit(&path, byte, bit).expect("there");
            let what = format!("byte {byte} bit {bit}");
            check_all(&*log, &wanted, (byte, 2), &mut found, &what);
            disk.flip_bit(&path, byte, bit).expect("there");
        }
    }
    none(&found);
    drop(log);
    // An entry that points into the middle of a batch, at a record that looks like one.
    let segment_bytes = bytes_of(&disk, &segment("t", 0, "log"));
    let inner = (0..segment_bytes.len() - HEADER_LEN)
        .filter(|at| segment_bytes[at + 16] == 2 && !starts(&segment_bytes).contains(at))
        .filter(|at| batches(&segment_bytes[*at..]).next().is_some_and(|b| b.is_ok()));
    for at in inner {
        for entry in 0..bytes.len() / 8 {
            let mut lying = bytes.clone();
            lying[entry * 8 + 4..][..4].copy_from_slice(&(at as u32).to_be_bytes());
            // Whatever opened it last is gone.
            disk = disk.restart();
            overwrite(&disk, &path, &lying);
            let what = format!("entry {entry} points to {at}");
            let log = open(&disk, Level::Disk, 3).expect("opens");
            check_all(&*log, &wanted, (0, 1), &mut found, &what);
        }
    }
    none(&found);
}

fn starts(bytes: &[u8]) -> Vec<usize> {
    let mut position = 0;
    let sizes = batches(bytes).map(|batch| batch.expect("as it was written").bytes.len());
    let start_of = |size| {
        position += size;
        position - size
    };
    sizes.map(start_of).collect()
}

/// The other files are read at open. What they say is believed only where it can be checked.
#[test]
fn a_bit_of_a_side_file_is_told_or_changes_nothing() {
    let wanted = wanted(&*open(&written(), Level::Disk, 2).expect("opens"));
    let whole = written();
    let (folders, files) = image_of(&whole);
    let lay = || {
        let disk = SimDisk::new(1);
        disk.set_early_write_back(0);
        folders.iter().for_each(|path| disk.create_dir(path).expect("fresh"));
        files.iter().for_each(|(path, bytes)| overwrite(&disk, path, bytes));
        folders.iter().for_each(|path| disk.sync_dir(path).expect("synced"));
        disk.sync_dir(Path::new("/")).expect("synced");
        disk
    };
    let names = names(&whole, &folder("t"), "");
    let sides = names.iter().filter(|name| !name.ends_with(".log") && !name.ends_with(".index"));
    let mut found = Vec::new();
    for name in sides {
        let path = folder("t").join(name);
        let len = bytes_of(&whole, &path).len() as u64;
        // Few bytes of a hint are used; its sum covers all of them.
        let bits = (0..len.min(100) * 8).chain(512 * 8..(len * 8).min(512 * 8 + 300));
        for bit in bits.step_by(3) {
            let disk = lay();
            disk.flip_bit(&path, bit / 8, (bit % 8) as u8).expect("there");
            let what = format!("{name}, byte {} bit {}", bit / 8, bit % 8);
            // The whole log may refuse: then it told.
            let Ok(log) = open(&disk, Level::Disk, 2) else { continue };
            check_all(&*log, &wanted, (bit, 9), &mut found, &what);
        }
    }
    none(&found);
}

/// All folders and files below the data folder.
fn image_of(disk: &SimDisk) -> (Vec<PathBuf>, Vec<(PathBuf, Vec<u8>)>) {
    let (mut folders, mut files) = (vec![PathBuf::from(DIR)], Vec::new());
    let mut next = 0;
    while let Some(folder) = folders.get(next).cloned() {
        next += 1;
        for entry in disk.list(&folder).expect("a folder") {
            let path = folder.join(entry.name);
            match entry.is_dir {
                true => folders.push(path),
                false => files.push((path.clone(), bytes_of(disk, &path))),
            }
        }
    }
    (folders, files)
}

/// A page that the device wrote to another place: sums are right there, offsets are not.
#[test]
fn a_misdirected_page_is_told() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 64 << 10).expect("created");
    let text = "x".repeat(300);
    for n in 0..400 {
        append(&*log, &at("t"), &format!("{n} {text}")).expect("acknowledged");
    }
    assert!(bases(&disk, &folder("t")).len() > 1, "the first segment is sealed");
    log.close().expect("closes");
    let disk = disk.restart();
    let path = segment("t", 0, "log");
    let pages = disk.stat(&path).expect("there").len / 4096;
    let log = open(&disk, Level::Disk, 2).expect("opens");
    let before: Vec<_> = BOTH.map(|isolation| read(&*log, isolation, 0).0).into();
    let bytes = bytes_of(&disk, &path);
    let mut found = Vec::new();
    for (from, to) in (0..pages).map(|page| (page, (page * 7 + 3) % pages)) {
        if from == to {
            continue;
        }
        disk.misdirect((&path, from), (&path, to)).expect("there");
        for (isolation, wanted) in BOTH.into_iter().zip(&before) {
            let (seen, ending) = read(&*log, isolation, 0);
            if ending != Ending::Told {
                found.push(format!("page {from} at {to}: {ending:?}"));
            }
            found.extend(wrong(&seen, &ending, wanted));
        }
        overwrite(&disk, &path, &bytes);
    }
    none(&found);
}

//! What lies beside a `.log`: what Kafka wrote there says of the batches what they are.

use std::collections::BTreeMap;

use thalweg_core::batch::{Marker, Scratch, crc32c, parse_marker};
use thalweg_core::ids::Offset;

use crate::folder::{Folder, Partition};

/// The entries of an index, as far as they are there: after kill -9 a tail of zeros follows.
fn entries<const LEN: usize>(bytes: &[u8]) -> Vec<&[u8; LEN]> {
    let (entries, rest) = bytes.as_chunks::<LEN>();
    assert!(rest.is_empty(), "no whole number of entries");
    let used = entries.iter().rposition(|entry| entry != &[0; LEN]).map_or(0, |last| last + 1);
    entries[..used].iter().collect()
}

fn int<const LEN: usize>(bytes: &[u8], at: usize) -> [u8; LEN] {
    *bytes[at..].first_chunk().expect("the entry is long enough")
}

#[test]
fn index_entries_land_on_the_batches_they_name() {
    let mut looked_at = 0;
    for folder in Folder::all() {
        for partition in folder.partitions() {
            let indexes: BTreeMap<_, _> = partition.files_of("index").into_iter().collect();
            let timeindexes: BTreeMap<_, _> = partition.files_of("timeindex").into_iter().collect();
            for segment in partition.segments() {
                let at = format!("{}, {}", partition.path, segment.base);
                for entry in entries::<8>(indexes[&segment.base]) {
                    let offset = segment.base + i64::from(i32::from_be_bytes(int(entry, 0)));
                    let position = u32::from_be_bytes(int(entry, 4));
                    let found = segment.batches.iter().find(|(at, _)| *at == position);
                    let (_, batch) = found.unwrap_or_else(|| panic!("{at}: {position}"));
                    assert_eq!(batch.header.last_offset(), offset, "{at}: {position}");
                    looked_at += 1;
                }
                for entry in entries::<12>(timeindexes[&segment.base]) {
                    let time = i64::from_be_bytes(int(entry, 0));
                    let offset = segment.base + i64::from(i32::from_be_bytes(int(entry, 8)));
                    let found =
                        segment.batches.iter().find(|(_, b)| b.header.last_offset() == offset);
                    let (_, batch) = found.unwrap_or_else(|| panic!("{at}: {time} {offset}"));
                    assert_eq!(batch.header.max_timestamp, time, "{at}: {offset}");
                    let upto =
                        segment.batches.iter().filter(|(_, b)| b.header.last_offset() <= offset);
                    assert!(
                        upto.clone().all(|(_, b)| b.header.max_timestamp <= time),
                        "{at}: {offset}"
                    );
                    looked_at += 1;
                }
            }
        }
    }
    assert!(looked_at > 1000, "{looked_at}");
}

#[test]
fn epochs_are_those_of_the_batches() {
    for folder in Folder::all() {
        for partition in folder.partitions() {
            let text =
                std::str::from_utf8(partition.files["leader-epoch-checkpoint"]).expect("text");
            let mut lines = text.lines();
            assert_eq!(lines.next(), Some("0"), "{}", partition.path);
            let count: usize = lines.next().expect("a count").parse().expect("a number");
            let epochs: Vec<(i32, Offset)> = lines
                .map(|line| {
                    let (epoch, start) = line.split_once(' ').expect("two numbers");
                    (epoch.parse().expect("an epoch"), start.parse().expect("an offset"))
                })
                .collect();
            assert_eq!(epochs.len(), count, "{}", partition.path);
            // Where the log was cut at its start, so were the epochs.
            for batch in
                partition.batches().iter().filter(|b| b.header.next_offset() > partition.start)
            {
                let header = batch.header;
                let begin = header.base_offset.max(partition.start);
                let at = epochs.iter().rev().find(|(_, start)| *start <= begin);
                assert_eq!(at.map(|at| at.0), Some(header.leader_epoch), "{}", partition.path);
            }
        }
    }
}

/// A producer, as a snapshot keeps it.
#[derive(Clone, Debug, PartialEq)]
struct Producer {
    epoch: i16,
    last_sequence: i32,
    last_offset: Offset,
    offset_delta: i32,
    timestamp: i64,
    coordinator_epoch: i32,
    transaction_start: Offset,
}

/// Reads a snapshot.
fn producers(bytes: &[u8]) -> BTreeMap<i64, Producer> {
    assert_eq!(bytes[..2], [0, 1], "version 1");
    assert_eq!(u32::from_be_bytes(int(bytes, 2)), crc32c(&bytes[6..]));
    let (entries, rest) = bytes[10..].as_chunks::<46>();
    assert!(rest.is_empty() && i32::from_be_bytes(int(bytes, 6)) as usize == entries.len());
    let of = |entry: &[u8; 46]| {
        let producer = Producer {
            epoch: i16::from_be_bytes(int(entry, 8)),
            last_sequence: i32::from_be_bytes(int(entry, 10)),
            last_offset: i64::from_be_bytes(int(entry, 14)),
            offset_delta: i32::from_be_bytes(int(entry, 22)),
            timestamp: i64::from_be_bytes(int(entry, 26)),
            coordinator_epoch: i32::from_be_bytes(int(entry, 34)),
            transaction_start: i64::from_be_bytes(int(entry, 38)),
        };
        (i64::from_be_bytes(int(entry, 0)), producer)
    };
    entries.iter().map(of).collect()
}

/// What the batches below `end` make of the producers, and which transactions they abort: producer, first
/// offset, marker, last stable offset behind the marker.
fn replay(partition: &Partition<'_>, end: Offset) -> (BTreeMap<i64, Producer>, Vec<[i64; 4]>) {
    let mut all = BTreeMap::<i64, Producer>::new();
    let mut aborted = Vec::new();
    let mut scratch = Scratch::default();
    for batch in partition.batches() {
        let header = batch.header;
        if header.producer.id < 0 || header.base_offset >= end {
            continue;
        }
        if !header.is_control() {
            let start = match all.get(&header.producer.id) {
                Some(known) if known.transaction_start >= 0 => known.transaction_start,
                _ if header.is_transactional() => header.base_offset,
                _ => -1,
            };
            let coordinator_epoch =
                all.get(&header.producer.id).map_or(-1, |known| known.coordinator_epoch);
            let producer = Producer {
                epoch: header.producer.epoch,
                last_sequence: header.last_sequence(),
                last_offset: header.last_offset(),
                offset_delta: header.last_offset_delta,
                timestamp: header.max_timestamp,
                coordinator_epoch,
                transaction_start: start,
            };
            all.insert(header.producer.id, producer);
            continue;
        }
        for record in batch.records(&mut scratch).expect("decodes") {
            let record = record.expect("decodes");
            let (marker, coordinator_epoch) = parse_marker(&record).expect("a marker");
            let known = all.entry(header.producer.id).or_insert(Producer {
                epoch: header.producer.epoch,
                last_sequence: -1,
                last_offset: -1,
                offset_delta: 0,
                timestamp: -1,
                coordinator_epoch: -1,
                transaction_start: -1,
            });
            if known.epoch != header.producer.epoch {
                // Sequences begin anew with an epoch.
                (known.last_sequence, known.last_offset, known.offset_delta) = (-1, -1, 0);
            }
            let first = known.transaction_start;
            known.epoch = header.producer.epoch;
            known.coordinator_epoch = coordinator_epoch;
            known.timestamp = record.timestamp;
            known.transaction_start = -1;
            if marker == Marker::Abort && first >= 0 {
                let stable = all.values().map(|p| p.transaction_start).filter(|&start| start >= 0);
                let stable = stable.min().unwrap_or(record.offset + 1);
                aborted.push([header.producer.id, first, record.offset, stable]);
            }
        }
    }
    (all, aborted)
}

#[test]
fn snapshots_and_aborted_transactions_are_what_the_batches_make_of_them() {
    let mut looked_at = 0;
    for folder in Folder::all() {
        let times = folder.partitions().into_iter().flat_map(|partition| partition.batches());
        let latest =
            times.map(|batch| batch.header.max_timestamp).max().expect("there are batches");
        let a_day_before = latest - 24 * 3_600_000;
        // Compaction takes away what they were made of.
        let whole =
            |p: &Partition<'_>| p.topic.starts_with("__") || p.topic.starts_with("compacted");
        for partition in folder.partitions().iter().filter(|p| !whole(p)) {
            for (end, bytes) in partition.files_of("snapshot") {
                let found = producers(bytes);
                let mut wanted = replay(partition, end).0;
                // At a start Kafka forgets producers whose last record is a day old, by its own time.
                wanted.retain(|id, producer| {
                    producer.timestamp > a_day_before
                        || producer.transaction_start >= 0
                        || found.contains_key(id)
                });
                assert_eq!(found, wanted, "{}, {end}", partition.path);
                looked_at += found.len();
            }
            let mut found = Vec::new();
            for (_, bytes) in partition.files_of("txnindex") {
                let (entries, rest) = bytes.as_chunks::<34>();
                assert!(rest.is_empty(), "{}", partition.path);
                for entry in entries {
                    assert_eq!(entry[..2], [0, 0], "version 0");
                    found.push([2, 10, 18, 26].map(|at| i64::from_be_bytes(int(entry, at))));
                }
            }
            assert_eq!(found, replay(partition, Offset::MAX).1, "{}", partition.path);
            looked_at += found.len();
        }
    }
    assert!(looked_at > 50, "{looked_at}");
}

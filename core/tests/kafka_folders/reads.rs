//! Batches and records: every byte of every `.log`, and what Kafka's own readers got.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use thalweg_core::batch::{BatchHeader, Scratch, Visible, parse_marker};
use thalweg_core::compress::Codec;
use thalweg_core::ids::{Offset, Timestamp};
use thalweg_core::record::{AbortedTransaction, RecordRef};

use crate::folder::{Folder, Partition};

#[test]
fn every_batch_of_every_file_decodes() {
    let mut of_codec = BTreeMap::<&str, usize>::new();
    let (mut empty, mut horizons, mut append_time) = (0, 0, 0);
    let mut scratch = Scratch::default();
    for folder in Folder::all() {
        for partition in folder.partitions().iter().filter(|p| is_readable(p)) {
            let mut next = 0;
            for segment in partition.segments() {
                assert!(segment.base >= next, "{}: {}", partition.path, segment.base);
                next = segment.base;
                for (position, batch) in segment.batches {
                    let at = format!("{}, {}.log, byte {position}", partition.path, segment.base);
                    let header = batch.header;
                    batch.check_crc().unwrap_or_else(|e| panic!("{at}: {e}"));
                    assert!(header.base_offset >= next, "{at}");
                    next = header.next_offset();
                    let mut latest = None;
                    let mut last = header.base_offset - 1;
                    let records = batch.records(&mut scratch);
                    for record in records.unwrap_or_else(|e| panic!("{at}: {e}")) {
                        let record = record.unwrap_or_else(|e| panic!("{at}: {e}"));
                        assert!(record.offset > last && record.offset < next, "{at}");
                        last = record.offset;
                        latest = latest.max(Some(record.timestamp));
                    }
                    assert!(latest.is_none_or(|time| time == header.max_timestamp), "{at}");
                    let codec = header.attributes.codec().expect("Kafka's codecs are known");
                    *of_codec.entry(codec.name()).or_default() += 1;
                    empty += usize::from(header.record_count == 0);
                    horizons += usize::from(header.attributes.delete_horizon());
                    append_time += usize::from(header.attributes.log_append_time());
                }
            }
        }
    }
    // What the folders were made to hold is there.
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let there = of_codec.contains_key(codec.name());
        assert_eq!(there, codec.check_supported().is_ok(), "{codec}");
    }
    assert!(empty > 0 && horizons > 0 && append_time > 0, "{empty} {horizons} {append_time}");
}

#[test]
fn both_isolation_levels_see_what_kafkas_readers_saw() {
    for folder in Folder::all() {
        for (isolation, committed) in [("read_committed", true), ("read_uncommitted", false)] {
            let mut found = Vec::new();
            let mut wanted = folder.expect(&format!("records.{isolation}.ndjson"));
            for partition in folder.user_partitions() {
                if !is_readable(&partition) {
                    let of = format!("{{\"topic\":\"{}\",", partition.topic);
                    wanted.retain(|line| !line.starts_with(&of));
                    continue;
                }
                visible(&partition, committed, |header, record| {
                    found.push(line(&partition, header, record));
                });
            }
            assert_eq!(found.len(), wanted.len(), "{} {isolation}", folder.name);
            for (found, wanted) in found.iter().zip(wanted) {
                let wanted: Value = serde_json::from_str(wanted).expect("a line of JSON");
                assert_eq!(*found, wanted, "{} {isolation}", folder.name);
            }
        }
    }
}

#[test]
fn offsets_and_times_are_looked_up_as_kafka_does() {
    for folder in Folder::all() {
        let mut answers = folder.expect("answers.txt");
        let mut asked = 0;
        for partition in folder.user_partitions() {
            let head = format!("{} {} ", partition.topic, partition.number);
            if !is_readable(&partition) {
                answers.retain(|line| !line.starts_with(&head));
                continue;
            }
            let looked_up = LookUp::new(&partition);
            for line in answers.iter().filter_map(|line| line.strip_prefix(&head)) {
                let (question, answer) = line.split_at(
                    line.match_indices(' ').nth(1).expect("a kind, an argument, an answer").0,
                );
                assert_eq!(looked_up.answer(question), answer[1..], "{}: {question}", folder.name);
                asked += 1;
            }
        }
        assert_eq!(asked, answers.len(), "{}: every question is about a partition", folder.name);
    }
}

/// Whether this build has the codecs of all its batches.
fn is_readable(partition: &Partition<'_>) -> bool {
    let codecs = partition.batches().into_iter().map(|batch| batch.header.attributes.codec());
    codecs.into_iter().all(|codec| codec.is_ok_and(|codec| codec.check_supported().is_ok()))
}

/// What is known of a partition, as lists to be searched from the front.
struct LookUp {
    start: Offset,
    stable: Offset,
    end: Offset,
    /// All records, markers among them.
    times: Vec<(Offset, Timestamp)>,
    /// The record of the greatest time.
    latest: Option<(Offset, Timestamp)>,
    committed: Vec<Offset>,
    uncommitted: Vec<Offset>,
}

impl LookUp {
    fn new(partition: &Partition<'_>) -> Self {
        let mut scratch = Scratch::default();
        let mut times = Vec::new();
        let mut latest: Option<(Offset, Timestamp)> = None;
        for batch in partition.batches() {
            let header = batch.header;
            let mut of_batch = Vec::new();
            for record in batch.records(&mut scratch).expect("decodes") {
                let record = record.expect("decodes");
                of_batch.push((record.offset, record.timestamp));
            }
            let greatest = of_batch.iter().copied().find(|&(_, time)| time == header.max_timestamp);
            if greatest.is_some_and(|(_, time)| latest.is_none_or(|(_, before)| time > before)) {
                latest = greatest;
            }
            times.extend(of_batch.into_iter().filter(|&(offset, _)| offset >= partition.start));
        }
        let offsets = |committed| {
            let mut all = Vec::new();
            visible(partition, committed, |_, record| all.push(record.offset));
            all
        };
        let (stable, end) = ends(partition);
        let (committed, uncommitted) = (offsets(true), offsets(false));
        Self { start: partition.start, stable, end, times, latest, committed, uncommitted }
    }

    fn answer(&self, question: &str) -> String {
        let (kind, argument) = question.split_once(' ').expect("a kind and an argument");
        let number = || argument.parse::<i64>().expect("a number");
        let first = |all: &[Offset]| {
            let found = all.iter().find(|&&offset| offset >= number());
            found.map_or("none".to_owned(), Offset::to_string)
        };
        let or_none = |found: Option<&(Offset, Timestamp)>| {
            found.map_or("none".to_owned(), |(offset, time)| format!("{offset} {time}"))
        };
        match (kind, argument) {
            ("start", _) => self.start.to_string(),
            ("end", "read_committed") => self.stable.to_string(),
            ("end", _) => self.end.to_string(),
            ("time", _) => or_none(self.times.iter().find(|&&(_, time)| time >= number())),
            ("latest-time", _) => or_none(self.latest.as_ref()),
            ("read_committed", _) => first(&self.committed),
            ("read_uncommitted", _) => first(&self.uncommitted),
            _ => panic!("no such question: {question}"),
        }
    }
}

/// Gives the records that a reader sees.
fn visible(
    partition: &Partition<'_>,
    committed: bool,
    mut see: impl FnMut(&BatchHeader, &RecordRef<'_>),
) {
    let (stable, end) = ends(partition);
    let end = if committed { stable } else { end };
    let mut aborted = if committed { aborted_of(partition) } else { Vec::new() };
    aborted.sort_by_key(|one| one.first_offset);
    let bytes: Vec<u8> = (partition.batches().iter())
        .filter(|batch| batch.header.base_offset < end)
        .flat_map(|batch| batch.bytes.iter().copied())
        .collect();
    let mut scratch = Scratch::default();
    for batch in Visible::new(&bytes, &aborted, partition.start) {
        let batch = batch.expect("decodes");
        let records = batch.records(&mut scratch).expect("decodes");
        for record in records.starting_at(partition.start) {
            see(&batch.header, &record.expect("decodes"));
        }
    }
}

/// The last stable offset and the end.
fn ends(partition: &Partition<'_>) -> (Offset, Offset) {
    let mut open = BTreeMap::<i64, Offset>::new();
    let mut end = partition.segments().last().map_or(0, |segment| segment.base);
    for batch in partition.batches() {
        let header = batch.header;
        end = header.next_offset();
        if header.is_control() {
            open.remove(&header.producer.id);
        } else if header.is_transactional() {
            open.entry(header.producer.id).or_insert(header.base_offset);
        }
    }
    (open.values().copied().min().unwrap_or(end), end)
}

/// What the `.txnindex` files say.
fn aborted_of(partition: &Partition<'_>) -> Vec<AbortedTransaction> {
    let of = |(_, bytes): (Offset, &[u8])| {
        let (entries, rest) = bytes.as_chunks::<34>();
        assert!(rest.is_empty(), "{}", partition.path);
        let entry = |entry: &[u8; 34]| {
            let at =
                |at: usize| i64::from_be_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
            AbortedTransaction { producer_id: at(2), first_offset: at(10), last_offset: at(18) }
        };
        entries.iter().map(entry).collect::<Vec<_>>()
    };
    partition.files_of("txnindex").into_iter().flat_map(of).collect()
}

fn line(partition: &Partition<'_>, header: &BatchHeader, record: &RecordRef<'_>) -> Value {
    assert!(parse_marker(record).is_none() || !header.is_control(), "markers are never seen");
    let append_time = header.attributes.log_append_time();
    let headers = record
        .headers
        .iter()
        .map(|(key, value)| json!({ "key": text(Some(key)), "value": text(value) }));
    json!({
        "topic": partition.topic,
        "partition": partition.number,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "timestamp_type": if append_time { "LogAppendTime" } else { "CreateTime" },
        "key": text(record.key),
        "value": text(record.value),
        "headers": headers.collect::<Vec<_>>(),
        "epoch": header.leader_epoch,
    })
}

fn text(bytes: Option<&[u8]>) -> Value {
    match bytes.map(std::str::from_utf8) {
        None => Value::Null,
        Some(Ok(text)) => Value::from(text),
        Some(Err(_)) => json!({ "base64": base64(bytes.unwrap_or_default()) }),
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let of = |three: &[u8]| {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or_default());
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        let letter = |at: usize| char::from(LETTERS[(word >> (18 - 6 * at)) as usize & 63]);
        let len = three.len();
        (0..4).map(|at| if at <= len { letter(at) } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(of).collect()
}

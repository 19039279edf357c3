//! Batches and records: every byte of every `.log`, and what Kafka's own readers got.

use std::collections::BTreeMap;

use futures::executor::block_on;
use serde_json::{Value, json};
use thalweg_core::batch::{BatchHeader, Scratch, parse_marker};
use thalweg_core::client::log::Isolation;
use thalweg_core::compress::Codec;
use thalweg_core::config::{Cleanup, TimestampType, TopicConfig};
use thalweg_core::record::RecordRef;

use crate::folder::{Folder, Partition};
use crate::looked::{Looked, at};

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
        let looked = Looked::at(&folder);
        let levels = [
            ("read_committed", Isolation::ReadCommitted),
            ("read_uncommitted", Isolation::ReadUncommitted),
        ];
        for (name, isolation) in levels {
            let mut found = Vec::new();
            let mut wanted = folder.expect(&format!("records.{name}.ndjson"));
            for partition in folder.user_partitions() {
                if !is_readable(&partition) {
                    let of = format!("{{\"topic\":\"{}\",", partition.topic);
                    wanted.retain(|line| !line.starts_with(&of));
                    continue;
                }
                looked.visible(&at(&partition), isolation, partition.start, |header, record| {
                    found.push(line(&partition, header, record));
                    true
                });
            }
            assert_eq!(found.len(), wanted.len(), "{} {name}", folder.name);
            for (found, wanted) in found.iter().zip(wanted) {
                let wanted: Value = serde_json::from_str(wanted).expect("a line of JSON");
                assert_eq!(*found, wanted, "{} {name}", folder.name);
            }
        }
    }
}

#[test]
fn offsets_and_times_are_looked_up_as_kafka_does() {
    for folder in Folder::all() {
        let looked = Looked::at(&folder);
        let mut answers = folder.expect("answers.txt");
        let mut asked = 0;
        for partition in folder.user_partitions() {
            let head = format!("{} {} ", partition.topic, partition.number);
            if !is_readable(&partition) {
                answers.retain(|line| !line.starts_with(&head));
                continue;
            }
            for line in answers.iter().filter_map(|line| line.strip_prefix(&head)) {
                let (question, answer) = line.split_at(
                    line.match_indices(' ').nth(1).expect("a kind, an argument, an answer").0,
                );
                let found = looked.answer(&at(&partition), question);
                assert_eq!(found, answer[1..], "{}: {head}{question}", folder.name);
                asked += 1;
            }
        }
        assert_eq!(asked, answers.len(), "{}: every question is about a partition", folder.name);
    }
}

#[test]
fn groups_and_transactions_stand_where_kafkas_coordinators_had_them() {
    for folder in Folder::all() {
        let mut wanted: Vec<String> = folder
            .expect("coordinators.txt")
            .into_iter()
            .filter(|line| line.starts_with("group ") || line.starts_with("transaction "))
            .map(|line| line.trim_end().to_owned())
            .collect();
        wanted.sort();
        assert_eq!(Looked::at(&folder).coordinators(), wanted, "{}", folder.name);
    }
}

#[test]
fn a_folder_is_served_with_its_topics_and_settings() {
    for folder in Folder::all() {
        let looked = Looked::at(&folder);
        let topics = block_on(looked.log.topics()).expect("listed");
        let names: Vec<&str> = topics.iter().map(|info| &*info.name).collect();
        let mut wanted: Vec<&str> = folder.partitions().iter().map(|p| p.topic).collect();
        wanted.dedup();
        wanted.retain(|topic| *topic != "__cluster_metadata");
        assert_eq!(names, wanted);
        let of =
            |name: &str| &topics.iter().find(|info| *info.name == *name).expect("there").config;
        assert_eq!(of("compacted").cleanup, Cleanup::Compact);
        assert_eq!(of("compacted").segment_ms, Some(100));
        assert_eq!(of("compacted-away").delete_retention_ms, 0);
        assert_eq!(of("append-time").timestamp_type, TimestampType::LogAppendTime);
        assert_eq!(of("cut").segment_bytes, 1 << 20);
        assert_eq!(*of("codec-none"), TopicConfig::default(), "nothing that would delete");
        let text = |name: &str| {
            let file = folder.data(&format!("{name}-0/partition.metadata")).expect("there");
            String::from_utf8_lossy(file).into_owned()
        };
        for info in &topics {
            assert!(text(&info.name).ends_with(&info.id.to_string()), "{}", info.name);
        }
    }
}

/// Whether this build has the codecs of all its batches.
fn is_readable(partition: &Partition<'_>) -> bool {
    let codecs = partition.batches().into_iter().map(|batch| batch.header.attributes.codec());
    codecs.into_iter().all(|codec| codec.is_ok_and(|codec| codec.check_supported().is_ok()))
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

//! Kafka's own bytes are read as Kafka reads them, and written as Kafka writes them.
//!
//! The bytes were made with the classes of kafka-clients 4.3.1: `MemoryRecords.builder` at base offset
//! 100, leader epoch 5, producer 0x1234, epoch 7, base sequence 2147483646, with the four records of
//! [`records`]; `MemoryRecords.withEndTransactionMarker` at offset 77 with coordinator epoch 9. Of the
//! uncompressed ones the last value, 300 times `x`, is left out here and put back by [`bytes`]. Those
//! of compaction are what `MemoryRecords.filterTo` makes of them, [`STAMPED`] is the header after
//! `MutableRecordBatch.setMaxTimestamp(LOG_APPEND_TIME, 1700000000777)`.
//!
//! The files in `golden/` are batches of several blocks, by the same builder: producer 7, base sequence
//! 3, two records at 1700000000000 and 1 ms later, keys `k0` and `k1`, values of 70000 bytes, the j-th
//! being j modulo 251; gzip at level 9, lz4 at 17, zstd at 22, whose frame asks for a window of 128 MiB.

use thalweg_core::batch::{
    Accept, BatchBuilder, BatchRef, HEADER_LEN, Marker, Rewrite, Rewriter, Rewritten, Scratch,
    control_batch, crc32c, parse_marker, stamp, stamp_time, validate_deep,
};
use thalweg_core::compress::Codec;
use thalweg_core::config::Compression;
use thalweg_core::ids::ProducerIdentity;
use thalweg_core::record::{RecordRef, TimestampType};

const PRODUCER: ProducerIdentity = ProducerIdentity { id: 0x1234, epoch: 7 };
const BASE_SEQUENCE: i32 = 2_147_483_646;

const NONE: &str = concat!(
    "0000000000000064000001920000000502b37ed5a70000000000030000018bcfe568000000018bcfe568fa00",
    "0000000000123400077ffffffe000000041c000000066b65790a76616c7565002000f4030201000602680276",
    "026e0100000e00cf0f04000100ee04000206086c6f6e67d804X00",
);
const APPEND_TIME: &str = concat!(
    "0000000000000064000001920000000502059d59bc0008000000030000018bcfe568000000018bcfe569f400",
    "0000000000123400077ffffffe000000041c000000066b65790a76616c7565002000f4030201000602680276",
    "026e0100000e00cf0f04000100ee04000206086c6f6e67d804X00",
);
const TRANSACTIONAL: &str = concat!(
    "0000000000000064000001920000000502ea34b03b0010000000030000018bcfe568000000018bcfe568fa00",
    "0000000000123400077ffffffe000000041c000000066b65790a76616c7565002000f4030201000602680276",
    "026e0100000e00cf0f04000100ee04000206086c6f6e67d804X00",
);
const GZIP: &str = concat!(
    "00000000000000640000007f00000005021682e41d0001000000030000018bcfe568000000018bcfe568fa00",
    "0000000000123400077ffffffe000000041f8b08000000000000ff9361606060cb4eade42a4bcc294d655060",
    "f8c2ccc4c8c0c694c154c694c7c8c0c0c7709e9f858191e11d0b03131b474e7e5efa0d968a5140346000006d",
    "ec41d961010000",
);
const SNAPPY: &str = concat!(
    "0000000000000064000000900000000502ac74b0820002000000030000018bcfe568000000018bcfe568fa00",
    "0000000000123400077ffffffe0000000482534e415050590000000001000000010000004be102d81c000000",
    "066b65790a76616c7565002000f4030201000602680276026e0100000e00cf0f04000100ee04000206086c6f",
    "6e67d804787878fe0200fe0200fe0200fe0200a202000000",
);
const LZ4: &str = concat!(
    "000000000000006400000081000000050250fa80730003000000030000018bcfe568000000018bcfe568fa00",
    "0000000000123400077ffffffe0000000404224d1860408241000000ff261c000000066b65790a76616c7565",
    "002000f4030201000602680276026e0100000e00cf0f04000100ee04000206086c6f6e67d804780100ff1550",
    "787878780000000000",
);
const ZSTD: &str = concat!(
    "00000000000000640000007b00000005028e8db77d0004000000030000018bcfe568000000018bcfe568fa00",
    "0000000000123400077ffffffe0000000428b52ffd0058f4010064031c000000066b65790a76616c75650020",
    "00f4030201000602680276026e0100000e00cf0f04000100ee04000206086c6f6e67d8047800010085a20228",
    "010000",
);
const ABORT: &str = concat!(
    "000000000000004d000000420000000502b3312dce0030000000000000018bcfe568000000018bcfe5680000",
    "000000000012340008ffffffff000000012000000008000000000c00000000000900",
);
const COMMIT: &str = concat!(
    "000000000000004d000000420000000502470ffb860030000000000000018bcfe568000000018bcfe5680000",
    "000000000012340008ffffffff000000012000000008000000010c00000000000900",
);

const DROPPED_TWO: &str = concat!(
    "00000000000000640000017b0000000502f39a5ba70000000000030000018bcfe568fa0000018bcfe568fa00",
    "0000000000123400077ffffffe000000021e00000201000602680276026e010000f00400f10306086c6f6e67",
    "d804X00",
);
const APPEND_DROPPED_TWO: &str = concat!(
    "00000000000000640000017a00000005024dff05030008000000030000018bcfe569f40000018bcfe569f400",
    "0000000000123400077ffffffe000000021e00000201000602680276026e010000ee04000006086c6f6e67d8",
    "04X00",
);
const WITH_HORIZON: &str = concat!(
    "00000000000000640000004b0000000502e9c1befa0040000000030000018bcfe6eea00000018bcfe5680000",
    "0000000000123400077ffffffe000000022000bf9a0c00066b65790a76616c75650010008faa0c04000100",
);
const WITH_HORIZON_AGAIN: &str = concat!(
    "00000000000000640000003a0000000502a54268a00040000000030000018bcfe6eea00000018bcfe5641800",
    "0000000000123400077ffffffe0000000110008faa0c04000100",
);
const EMPTIED: &str = concat!(
    "0000000000000064000000310000000502be60e482001000000003ffffffffffffffff0000018bcfe568fa00",
    "0000000000123400077ffffffe00000000",
);
const COMMIT_WITH_HORIZON: &str = concat!(
    "000000000000004d00000044000000050231b53f410070000000000000018bcfe6eea00000018bcfe5680000",
    "000000000012340008ffffffff000000012400bf9a0c0008000000010c00000000000900",
);
const STAMPED: &str = concat!(
    "0000000000000064000001920000000502f40fce560008000000030000018bcfe568000000018bcfe56b0900",
    "0000000000123400077ffffffe00000004",
);

type Parts = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

/// The records of every golden data batch: null and empty in every place, a time before the first.
fn records() -> Vec<Parts> {
    let some = |bytes: &[u8]| Some(bytes.to_vec());
    vec![
        (1_700_000_000_000, some(b"key"), some(b"value"), vec![]),
        (
            1_700_000_000_250,
            None,
            some(b""),
            vec![(b"h".to_vec(), some(b"v")), (b"n".to_vec(), None), (Vec::new(), some(b""))],
        ),
        (1_699_999_999_000, some(b""), None, vec![]),
        (1_700_000_000_001, some(b"long"), some(&[b'x'; 300]), vec![]),
    ]
}

fn bytes(golden: &str) -> Vec<u8> {
    let hex = golden.replace('X', &"78".repeat(300));
    let digit = |c: u8| (c as char).to_digit(16).expect("hexadecimal") as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Opens a golden batch and compares its records; times are `append_time` when that is given.
fn check_records(name: &str, golden: &[u8], append_time: Option<i64>) {
    let batch = BatchRef::parse(golden).expect(name);
    batch.check_crc().expect(name);
    assert_eq!(batch.bytes.len(), golden.len(), "{name}");
    let mut scratch = Scratch::default();
    let found: Vec<_> = batch
        .records(&mut scratch)
        .expect(name)
        .map(|record| {
            let r = record.expect(name);
            let headers = r.headers.iter().map(|(k, v)| (k.to_vec(), v.map(<[u8]>::to_vec)));
            let parts = (
                r.timestamp,
                r.key.map(<[u8]>::to_vec),
                r.value.map(<[u8]>::to_vec),
                headers.collect(),
            );
            (r.offset, parts)
        })
        .collect();
    let expected: Vec<_> = (100..)
        .zip(records())
        .map(|(offset, (time, key, value, headers))| {
            (offset, (append_time.unwrap_or(time), key, value, headers))
        })
        .collect();
    assert_eq!(found, expected, "{name}");
}

fn rebuild(compression: Compression, transactional: bool) -> Vec<u8> {
    let mut builder = BatchBuilder::new(compression, 1024);
    for (time, key, value, headers) in records() {
        let headers: Vec<_> = headers.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
        builder.push(time, key.as_deref(), value.as_deref(), &headers).expect("small");
    }
    let batch = builder.finish(PRODUCER, BASE_SEQUENCE, transactional).expect("not empty");
    let mut batch = batch.to_vec();
    stamp(batch.first_chunk_mut().expect("a header"), 100, 5);
    batch
}

#[test]
fn kafkas_batches_are_read_as_kafka_reads_them() {
    let mut cases = vec![("none", NONE, None), ("transactional", TRANSACTIONAL, None)];
    cases.push(("append time", APPEND_TIME, Some(1_700_000_000_500)));
    for (codec, golden) in COMPRESSED {
        if codec.check_supported().is_ok() {
            cases.push((codec.name(), golden, None));
        }
    }
    for (name, golden, append_time) in cases {
        check_records(name, &bytes(golden), append_time);
    }
}

/// Each of Kafka's compressed batches.
const COMPRESSED: [(Codec, &str); 4] =
    [(Codec::Gzip, GZIP), (Codec::Snappy, SNAPPY), (Codec::Lz4, LZ4), (Codec::Zstd, ZSTD)];

/// librdkafka's snappy batches hold one block, without xerial's framing around it.
#[test]
fn snappy_is_read_without_its_framing_too() {
    if Codec::Snappy.check_supported().is_err() {
        return;
    }
    let mut golden = bytes(SNAPPY);
    golden.drain(HEADER_LEN..HEADER_LEN + 20);
    let length = golden.len() as i32 - 12;
    golden[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c(&golden[21..]);
    golden[17..21].copy_from_slice(&crc.to_be_bytes());
    check_records("raw snappy", &golden, None);
}

#[test]
fn kafkas_batches_of_several_blocks_are_read() {
    let files: [(Codec, &[u8]); 4] = [
        (Codec::Gzip, include_bytes!("golden/two_large_records.gzip")),
        (Codec::Snappy, include_bytes!("golden/two_large_records.snappy")),
        (Codec::Lz4, include_bytes!("golden/two_large_records.lz4")),
        (Codec::Zstd, include_bytes!("golden/two_large_records.zstd")),
    ];
    let value: Vec<u8> = (0..70_000).map(|j| (j % 251) as u8).collect();
    for (codec, golden) in files {
        if codec.check_supported().is_err() {
            continue;
        }
        let mut scratch = Scratch::default();
        let accept = Accept { compacted: true, ..Accept::up_to(1 << 20) };
        let validated = validate_deep(golden, &accept, &mut scratch).expect("a golden batch");
        let header = validated.unchanged().expect("a golden batch");
        assert_eq!(header.attributes.codec(), Ok(codec));
        let batch = BatchRef::parse(golden).expect("a golden batch");
        let records = batch.records(&mut scratch).expect("a golden batch");
        let records = records.map(|record| record.expect("a golden batch"));
        let found: Vec<_> = records.map(|r| (r.offset, r.timestamp, r.key, r.value)).collect();
        let expected = [
            (100, 1_700_000_000_000, Some(&b"k0"[..]), Some(&value[..])),
            (101, 1_700_000_000_001, Some(&b"k1"[..]), Some(&value[..])),
        ];
        assert!(found == expected, "{codec}");
    }
}

/// What it shows, the batch, the offsets that are kept, what is asked, what came of it, the bytes.
type RewriteCase = (&'static str, &'static str, &'static [i64], Rewrite, Rewritten, &'static str);

/// Offsets kept, what compaction was asked beside, Kafka's bytes before and after.
#[test]
fn compaction_writes_byte_for_byte_what_kafkas_does() {
    const HORIZON: i64 = 1_700_000_100_000;
    let plain = Rewrite { delete_horizon: Some(HORIZON), ..Rewrite::default() };
    let later = Rewrite { delete_horizon: Some(HORIZON + 5000), ..Rewrite::default() };
    let empty = Rewrite { keep_empty: true, ..plain };
    let marker = Rewrite { marker_is_done: true, ..plain };
    let changed = |records, max_timestamp| Rewritten::Changed { records, max_timestamp };
    let cases: Vec<RewriteCase> = vec![
        ("all", NONE, &[100, 101, 102, 103], Rewrite::default(), Rewritten::Unchanged, NONE),
        ("two", NONE, &[101, 103], plain, changed(2, 1_700_000_000_250), DROPPED_TWO),
        (
            "two, times of the append",
            APPEND_TIME,
            &[101, 103],
            plain,
            changed(2, 1_700_000_000_500),
            APPEND_DROPPED_TWO,
        ),
        ("a tombstone", NONE, &[100, 102], plain, changed(2, 1_700_000_000_000), WITH_HORIZON),
        (
            "a tombstone that has its horizon",
            WITH_HORIZON,
            &[102],
            later,
            changed(1, 1_699_999_999_000),
            WITH_HORIZON_AGAIN,
        ),
        ("none", TRANSACTIONAL, &[], plain, Rewritten::Dropped, ""),
        ("none, kept for its sequence", TRANSACTIONAL, &[], empty, Rewritten::Emptied, EMPTIED),
        ("an empty one", EMPTIED, &[], empty, Rewritten::Emptied, EMPTIED),
        ("an empty one, not needed", EMPTIED, &[], plain, Rewritten::Dropped, ""),
        ("a marker", COMMIT, &[77], plain, Rewritten::Unchanged, COMMIT),
        (
            "a marker without data",
            COMMIT,
            &[77],
            marker,
            changed(1, 1_700_000_000_000),
            COMMIT_WITH_HORIZON,
        ),
    ];
    let mut rewriter = Rewriter::default();
    for (name, before, keep, how, what, after) in cases {
        let before = bytes(before);
        let batch = BatchRef::parse(&before).expect(name);
        // What lies in the output already stays there.
        let mut out = b"before".to_vec();
        let done = rewriter.rewrite(&batch, how, |r| keep.contains(&r.offset), &mut out);
        assert_eq!(done, Ok(what), "{name}");
        assert_eq!(out, [b"before", &bytes(after)[..]].concat(), "{name}");
    }
}

#[test]
fn records_of_a_batch_with_a_delete_horizon_keep_their_times() {
    let golden = bytes(WITH_HORIZON);
    let batch = BatchRef::parse(&golden).expect("whole").verified().expect("Kafka's sum");
    assert_eq!(batch.header.delete_horizon(), Some(1_700_000_100_000));
    let mut scratch = Scratch::default();
    let records = batch.records(&mut scratch).expect("plain").map(|r| r.expect("whole"));
    let found: Vec<_> = records.map(|r| (r.offset, r.timestamp, r.value.is_none())).collect();
    assert_eq!(found, [(100, 1_700_000_000_000, false), (102, 1_699_999_999_000, true)]);
    let plain = bytes(NONE);
    assert_eq!(BatchRef::parse(&plain).expect("whole").header.delete_horizon(), None);
}

#[test]
fn the_time_of_the_append_is_stamped_as_kafka_stamps_it() {
    let mut batch = bytes(NONE);
    let header = batch.first_chunk_mut().expect("a header");
    stamp_time(header, TimestampType::LogAppendTime, 1_700_000_000_777);
    assert_eq!(batch[..HEADER_LEN], bytes(STAMPED));
    let parsed = BatchRef::parse(&batch).expect("whole");
    assert_eq!(parsed.header.attributes.timestamp_type(), TimestampType::LogAppendTime);
    check_records("stamped", &batch, Some(1_700_000_000_777));
    // And back, as for a producer whose greatest time was wrong.
    let header = batch.first_chunk_mut().expect("a header");
    stamp_time(header, TimestampType::CreateTime, 1_700_000_000_250);
    assert_eq!(batch, bytes(NONE));
}

#[test]
fn the_header_says_what_kafka_wrote() {
    let golden = bytes(TRANSACTIONAL);
    let header = BatchRef::parse(&golden).expect("whole").header;
    assert_eq!((header.base_offset, header.last_offset(), header.next_offset()), (100, 103, 104));
    assert_eq!((header.leader_epoch, header.producer), (5, PRODUCER));
    // The sequence goes over its end within the batch.
    assert_eq!((header.base_sequence, header.last_sequence()), (BASE_SEQUENCE, 1));
    assert_eq!(
        (header.base_timestamp, header.max_timestamp),
        (1_700_000_000_000, 1_700_000_000_250)
    );
    assert_eq!(header.record_count, 4);
    assert!(header.is_transactional() && !header.is_control());
    assert_eq!(header.size(), golden.len());
}

#[test]
fn batches_are_written_byte_for_byte_as_kafka_writes_them() {
    assert_eq!(rebuild(Compression::None, false), bytes(NONE));
    assert_eq!(rebuild(Compression::None, true), bytes(TRANSACTIONAL));
}

#[test]
fn compressed_batches_are_marked_and_framed_as_kafkas() {
    // The packed bytes may differ from another compressor's; what is around them must not: the member's
    // ten bytes; the framing's magic and versions; version 1, independent blocks of 64 KiB, no sums but
    // the descriptor's own; the frame's magic.
    let around = [
        (Compression::Gzip, 10),
        (Compression::Snappy, 16),
        (Compression::Lz4, 7),
        (Compression::Zstd, 4),
    ];
    for ((compression, len), (codec, golden)) in around.into_iter().zip(COMPRESSED) {
        if codec.check_supported().is_err() {
            continue;
        }
        let batch = rebuild(compression, false);
        check_records(codec.name(), &batch, None);
        assert_eq!(batch[21..23], bytes(golden)[21..23], "{codec}");
        assert_eq!(batch[61..61 + len], bytes(golden)[61..61 + len], "{codec}");
    }
}

#[test]
fn markers_are_kafkas() {
    let producer = ProducerIdentity { id: 0x1234, epoch: 8 };
    for (kind, golden) in [(Marker::Abort, ABORT), (Marker::Commit, COMMIT)] {
        let golden = bytes(golden);
        let mut ours = control_batch(kind, producer, 9, 1_700_000_000_000).to_vec();
        stamp(ours.first_chunk_mut().expect("a header"), 77, 5);
        assert_eq!(ours, golden, "{kind:?}");

        let batch = BatchRef::parse(&golden).expect("whole");
        batch.check_crc().expect("Kafka's sum");
        assert!(batch.header.is_control() && batch.header.is_transactional());
        let mut scratch = Scratch::default();
        let records: Result<Vec<_>, _> = batch.records(&mut scratch).expect("plain").collect();
        let records = records.expect("one record");
        assert_eq!(records.len(), 1);
        assert_eq!(parse_marker(&records[0]), Some((kind, 9)));
    }
}

#[test]
fn markers_of_later_versions_are_read_and_other_control_records_are_not() {
    let golden = bytes(COMMIT);
    let batch = BatchRef::parse(&golden).expect("whole");
    let mut scratch = Scratch::default();
    let mut records = batch.records(&mut scratch).expect("plain");
    let record = records.next().expect("one").expect("whole");
    let key = |version: i16, kind: i16| [version.to_be_bytes(), kind.to_be_bytes()].concat();
    let commit = Some((Marker::Commit, 9));
    let value = record.value.expect("a value");
    let later = [&[0, 1], &value[2..], &[1, 2, 3]].concat();
    // What comes out, for which key, for which value.
    for (marker, key, value) in [
        (commit, key(0, 1), value),
        (commit, key(3, 1), value),
        (commit, key(0, 1), &later),
        (None, key(-1, 1), value),
        (None, key(0, 2), value),
        (None, key(0, -1), value),
        (None, key(0, 1), &value[..5]),
        (None, vec![0, 0, 0], value),
        (None, vec![], value),
    ] {
        let changed = RecordRef { key: Some(&key), value: Some(value), ..record };
        assert_eq!(parse_marker(&changed), marker, "{key:?} {value:?}");
    }
    assert_eq!(parse_marker(&RecordRef { key: None, ..record }), None);
    assert_eq!(parse_marker(&RecordRef { value: None, ..record }), None);
}

#[test]
fn the_sum_is_crc_32c() {
    // Bit by bit, from the polynomial's reversed form.
    let bitwise = |bytes: &[u8]| {
        !bytes.iter().fold(!0_u32, |sum, &byte| {
            (0..8).fold(sum ^ u32::from(byte), |sum, _| {
                (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 }
            })
        })
    };
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    let bytes: Vec<u8> = (0..1000_u32).map(|i| ((i * i) >> 3) as u8).collect();
    for len in 0..bytes.len() {
        assert_eq!(crc32c(&bytes[..len]), bitwise(&bytes[..len]), "{len}");
    }
}

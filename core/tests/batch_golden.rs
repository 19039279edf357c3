//! Kafka's own bytes are read as Kafka reads them, and written as Kafka writes them.
//!
//! The bytes were made with the classes of kafka-clients 4.3.1: `MemoryRecords.builder` at base offset
//! 100, leader epoch 5, producer 0x1234, epoch 7, base sequence 2147483646, with the four records of
//! [`records`]; `MemoryRecords.withEndTransactionMarker` at offset 77 with coordinator epoch 9. Of the
//! uncompressed ones the last value, 300 times `x`, is left out here and put back by [`bytes`].

use thalweg_core::batch::{
    BatchBuilder, BatchError, BatchRef, Marker, Scratch, control_batch, crc32c, parse_marker,
    stamp, validate,
};
use thalweg_core::compress::{Codec, CompressionError};
use thalweg_core::config::Compression;
use thalweg_core::ids::ProducerIdentity;
use thalweg_core::record::RecordRef;

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
    if cfg!(feature = "lz4") {
        cases.push(("lz4", LZ4, None));
    }
    if cfg!(feature = "zstd") {
        cases.push(("zstd", ZSTD, None));
    }
    for (name, golden, append_time) in cases {
        check_records(name, &bytes(golden), append_time);
    }
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
    // The packed bytes may differ from another compressor's; the frame's descriptor must not: version
    // 1, independent blocks of 64 KiB, no sums but the descriptor's own.
    if cfg!(feature = "lz4") {
        let batch = rebuild(Compression::Lz4, false);
        check_records("lz4", &batch, None);
        assert_eq!(batch[21..23], bytes(LZ4)[21..23]);
        assert_eq!(batch[61..68], bytes(LZ4)[61..68]);
    }
    if cfg!(feature = "zstd") {
        let batch = rebuild(Compression::Zstd, false);
        check_records("zstd", &batch, None);
        assert_eq!(batch[21..23], bytes(ZSTD)[21..23]);
        assert_eq!(batch[61..65], bytes(ZSTD)[61..65]);
    }
}

#[test]
fn codecs_that_cannot_be_read_are_named() {
    let unsupported = |codec| CompressionError::Unsupported { codec };
    for (golden, error) in [(GZIP, unsupported(Codec::Gzip)), (SNAPPY, unsupported(Codec::Snappy))]
    {
        let golden = bytes(golden);
        let batch = BatchRef::parse(&golden).expect("whole");
        batch.check_crc().expect("Kafka's sum");
        let found = batch.records(&mut Scratch::default()).expect_err("cannot be opened");
        assert_eq!(found, BatchError::Compression(error.clone()));
        assert_eq!(validate(&golden, 1024), Err(BatchError::Compression(error)));
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

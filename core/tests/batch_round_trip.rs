//! What is pushed into a batch comes out of it, with every codec, and a builder can be used again.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use thalweg_core::batch::{
    Accept, BatchBuilder, BatchRef, HEADER_LEN, Scratch, batches, size_of_record, stamp,
    stamp_time, validate_deep, validate_shallow,
};
use thalweg_core::compress::Codec;
use thalweg_core::config::Compression;
use thalweg_core::ids::ProducerIdentity;
use thalweg_core::record::{Record, TimestampType};

type Header = (Vec<u8>, Option<Vec<u8>>);

#[derive(Clone, PartialEq, Debug)]
struct Parts {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<Header>,
}

/// The codecs of this build.
fn codecs() -> Vec<Compression> {
    use Compression::{Gzip, Lz4, None, Snappy, Zstd};
    let all = [None, Gzip, Snappy, Lz4, Zstd].into_iter();
    all.filter(|compression| Codec::from(*compression).check_supported().is_ok()).collect()
}

/// Bytes whose lengths are near the ends of one- and two-byte lengths, too.
fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'a'), any::<u8>()];
    prop_oneof![vec(byte.clone(), 0..70), vec(byte.clone(), 60..68), vec(byte, 8190..8194),]
}

fn some_parts() -> impl Strategy<Value = Parts> {
    let timestamp = prop_oneof![any::<i64>(), 1_700_000_000_000..1_700_000_100_000_i64];
    let header = (vec(any::<u8>(), 0..20), option::of(vec(any::<u8>(), 0..20)));
    (timestamp, option::of(some_bytes()), option::of(some_bytes()), vec(header, 0..4))
        .prop_map(|(timestamp, key, value, headers)| Parts { timestamp, key, value, headers })
}

fn push(builder: &mut BatchBuilder, parts: &Parts) {
    let headers: Vec<_> = parts.headers.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
    let (key, value) = (parts.key.as_deref(), parts.value.as_deref());
    let before = builder.bytes();
    builder.push(parts.timestamp, key, value, &headers).expect("small");
    let grown = builder.bytes() - before;
    assert!(grown <= size_of_record(key, value, &headers), "the bound held: {grown}");
}

fn read(batch: &[u8], scratch: &mut Scratch) -> Vec<(i64, Parts)> {
    let batch = BatchRef::parse(batch).expect("whole");
    let records = batch.records(scratch).expect("opens");
    records
        .map(|record| {
            let record = record.expect("whole");
            let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            let headers = record.headers.iter().map(|(k, v)| (k.to_vec(), own(v))).collect();
            let (key, value) = (own(record.key), own(record.value));
            (record.offset, Parts { timestamp: record.timestamp, key, value, headers })
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// Several batches from one builder per codec, each stamped, checked as an append checks it,
    /// put behind each other and read back with one scratch.
    #[test]
    fn what_is_pushed_is_read(groups in vec(vec(some_parts(), 1..12), 1..4), sequence in 0..=i32::MAX) {
        let producer = ProducerIdentity { id: 7, epoch: 3 };
        for compression in codecs() {
            let mut builder = BatchBuilder::new(compression, 512);
            let mut scratch = Scratch::default();
            let mut log = Vec::new();
            let mut next_offset = 1000;
            for group in &groups {
                prop_assert!(builder.is_empty());
                prop_assert_eq!(builder.bytes(), HEADER_LEN);
                for parts in group {
                    push(&mut builder, parts);
                }
                prop_assert_eq!(builder.count(), group.len());
                let size = builder.bytes();
                let batch = builder.finish(producer, sequence, false).expect("not empty");
                if compression == Compression::None {
                    prop_assert_eq!(batch.len(), size);
                }
                let mut batch = batch.to_vec();
                stamp(batch.first_chunk_mut().expect("a header"), next_offset, 4);
                let header = validate_shallow(&batch, batch.len()).expect("legal after stamping");
                let deep = validate_deep(&batch, &Accept::up_to(1 << 20), &mut scratch);
                prop_assert_eq!(deep.expect("legal").unchanged(), Ok(header));
                prop_assert_eq!(header.max_timestamp, group.iter().map(|p| p.timestamp).max().expect("one"));
                prop_assert_eq!(header.last_sequence(), sequence.wrapping_add(group.len() as i32 - 1) & i32::MAX);
                let mut stamped = batch.clone();
                stamp_time(stamped.first_chunk_mut().expect("a header"), TimestampType::LogAppendTime, 77);
                BatchRef::parse(&stamped).expect("whole").check_crc().expect("the new sum fits");
                prop_assert!(read(&stamped, &mut scratch).iter().all(|(_, parts)| parts.timestamp == 77));
                next_offset = header.next_offset();
                log.extend_from_slice(&batch);
            }

            let mut expected = (1000..).zip(groups.iter().flatten());
            for batch in batches(&log) {
                for (offset, parts) in read(batch.expect("whole").bytes, &mut scratch) {
                    prop_assert_eq!(Some((offset, &parts)), expected.next());
                }
            }
            prop_assert_eq!(expected.next(), None);
        }
    }
}

#[test]
fn null_and_empty_are_different_everywhere() {
    let empty = || Some(Vec::new());
    for compression in codecs() {
        let mut builder = BatchBuilder::new(compression, 512);
        let mut pushed = Vec::new();
        for key in [None, empty()] {
            for value in [None, empty()] {
                for header in [None, empty()] {
                    let parts = Parts {
                        timestamp: 1,
                        key: key.clone(),
                        value: value.clone(),
                        headers: vec![(b"h".to_vec(), header)],
                    };
                    push(&mut builder, &parts);
                    pushed.push(parts);
                }
            }
        }
        let batch = builder.finish(ProducerIdentity::NONE, -1, false).expect("not empty");
        let found = read(&batch, &mut Scratch::default());
        assert_eq!(found.into_iter().map(|(_, parts)| parts).collect::<Vec<_>>(), pushed);
    }
}

#[test]
fn owned_records_take_the_given_time_only_when_they_have_none() {
    let mut builder = BatchBuilder::new(Compression::None, 512);
    let record = Record::value("v").key("k").header("a", "1").header("a", "2");
    builder.push_record(50, &record).expect("small");
    builder.push_record(60, &record.timestamp(40)).expect("small");
    builder.push_record(70, &Record::tombstone("k")).expect("small");
    let batch = builder.finish(ProducerIdentity::NONE, -1, false).expect("not empty");
    let batch = BatchRef::parse(&batch).expect("whole");
    let mut scratch = Scratch::default();
    let records: Result<Vec<_>, _> = batch.records(&mut scratch).expect("plain").collect();
    let records = records.expect("whole");
    assert_eq!(records.iter().map(|r| r.timestamp).collect::<Vec<_>>(), [50, 40, 70]);
    assert_eq!(records[0].headers.len(), 2);
    // The first header of a key is the one that is found.
    assert_eq!(records[0].headers.get(b"a"), Some(Some(&b"1"[..])));
    assert_eq!(records[0].headers.get(b"b"), None);
    assert!(records[2].headers.is_empty());
    assert_eq!((records[2].key, records[2].value), (Some(&b"k"[..]), None));
}

#[test]
fn a_fetch_from_within_a_batch_begins_at_its_offset() {
    for compression in codecs() {
        let mut builder = BatchBuilder::new(compression, 512);
        for i in 0..10 {
            builder.push(i, None, Some(b"v"), &[]).expect("small");
        }
        let mut batch = builder.finish(ProducerIdentity::NONE, -1, false).expect("some").to_vec();
        stamp(batch.first_chunk_mut().expect("a header"), 100, 0);
        let batch = BatchRef::parse(&batch).expect("whole");
        for (from, first) in [(0, 100), (100, 100), (104, 104), (109, 109)] {
            let mut scratch = Scratch::default();
            let mut records = batch.records(&mut scratch).expect("opens").starting_at(from);
            assert_eq!(records.next().expect("one").expect("whole").offset, first);
            assert_eq!(records.count() as i64, 109 - first);
        }
        let mut scratch = Scratch::default();
        assert!(batch.records(&mut scratch).expect("opens").starting_at(110).next().is_none());
    }
}

#[test]
fn batches_that_were_let_go_give_their_buffer_to_the_next() {
    let mut builder = BatchBuilder::new(Compression::None, 4096);
    let mut make = || {
        for _ in 0..30 {
            builder.push(1, None, Some(&[b'v'; 100]), &[]).expect("small");
        }
        builder.finish(ProducerIdentity::NONE, -1, false).expect("not empty")
    };
    let first = make();
    let address = first.as_ptr();
    drop(first);
    for _ in 0..100 {
        assert_eq!(make().as_ptr(), address, "the same buffer, taken back");
    }
    // One that is held is never written over.
    let held = make();
    let copy = Bytes::copy_from_slice(&held);
    assert_ne!(make().as_ptr(), held.as_ptr());
    assert_eq!(held, copy);
}

#[test]
fn an_empty_batch_is_refused_and_nothing_is_lost_by_it() {
    let mut builder = BatchBuilder::new(Compression::None, 512);
    let error = builder.finish(ProducerIdentity::NONE, -1, false).expect_err("nothing pushed");
    assert!(error.to_string().contains("at least one"), "{error}");
    builder.push(1, None, Some(b"v"), &[]).expect("small");
    assert_eq!(builder.finish(ProducerIdentity::NONE, -1, false).expect("one").len(), 61 + 8);
}

/// Sections larger than any codec's block, that compress well and that do not.
#[test]
fn sections_of_many_blocks_round_trip() {
    let noise = |i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8;
    let mut scratch = Scratch::default();
    for compression in codecs() {
        // The builder's buffers are of the larger sections when the smaller ones come.
        let mut builder = BatchBuilder::new(compression, 512);
        for len in [300_000, 131_072, 65_536, 32_768, 1000, 0] {
            for value in [vec![b'x'; len], (0..len as u32).map(noise).collect()] {
                let parts = Parts { timestamp: 1, key: None, value: Some(value), headers: vec![] };
                push(&mut builder, &parts);
                let batch = builder.finish(ProducerIdentity::NONE, -1, false).expect("one");
                assert!(
                    batch.len() < len + len / 100 + 200,
                    "{compression:?} {len} {}",
                    batch.len()
                );
                assert!(read(&batch, &mut scratch) == [(0, parts)], "{compression:?} {len}");
            }
        }
    }
}

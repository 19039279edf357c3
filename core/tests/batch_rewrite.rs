//! What compaction leaves of a batch is what a plain model of it says, for every codec, shape of batch
//! and choice of records.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use thalweg_core::batch::{
    Attributes, BatchBuilder, BatchError, BatchHeader, BatchRef, HEADER_LEN, Rewrite, Rewriter,
    Rewritten, Scratch, crc32c, stamp, stamp_time,
};
use thalweg_core::compress::Codec;
use thalweg_core::config::Compression;
use thalweg_core::ids::ProducerIdentity;
use thalweg_core::record::{RecordRef, TimestampType};
use thalweg_core::varint::{put_varint, put_varlong};

const BASE: i64 = 1000;
const HORIZON: i64 = 1_800_000_000_000;

/// A record that owns its parts.
#[derive(Clone, PartialEq, Debug)]
struct Owned {
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl From<RecordRef<'_>> for Owned {
    fn from(record: RecordRef<'_>) -> Self {
        let own = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
        Self {
            offset: record.offset,
            timestamp: record.timestamp,
            key: own(record.key),
            value: own(record.value),
            headers: record.headers.iter().map(|(k, v)| (k.to_vec(), own(v))).collect(),
        }
    }
}

fn read(bytes: &[u8]) -> (BatchHeader, Vec<Owned>) {
    let batch = BatchRef::parse(bytes).expect("whole");
    batch.check_crc().expect("its sum");
    assert_eq!(batch.bytes.len(), bytes.len());
    let mut scratch = Scratch::default();
    let records = batch.records(&mut scratch).expect("opens");
    (batch.header, records.map(|record| record.expect("whole").into()).collect())
}

/// The model: the batch that is left, written field by field without compression. `None`: nothing is.
fn model(header: &BatchHeader, records: &[Owned], how: Rewrite, keep: &[bool]) -> Option<Vec<u8>> {
    let kept: Vec<&Owned> = records.iter().filter(|r| keep[(r.offset - BASE) as usize]).collect();
    let mut horizon = header.delete_horizon();
    if horizon.is_none() && (how.marker_is_done || kept.iter().any(|r| r.value.is_none())) {
        horizon = how.delete_horizon;
    }
    let mut attributes = header.attributes.0 & !7;
    let (mut base, mut max) = (-1, header.max_timestamp);
    if let Some(first) = kept.first() {
        base = horizon.unwrap_or(first.timestamp);
        attributes |= if horizon.is_some() { 64 } else { 0 };
        if attributes & 8 == 0 {
            max = kept.iter().map(|r| r.timestamp).max().expect("one");
        }
    } else if how.keep_empty {
        attributes &= !64;
    } else {
        return None;
    }
    let mut section = Vec::new();
    for record in &kept {
        let mut body = vec![0];
        put_varlong(&mut body, record.timestamp.wrapping_sub(base));
        put_varint(&mut body, (record.offset - BASE) as i32);
        let part = |body: &mut Vec<u8>, part: Option<&Vec<u8>>| {
            put_varint(body, part.map_or(-1, |part| part.len() as i32));
            body.extend_from_slice(part.map_or(&[], |part| part));
        };
        part(&mut body, record.key.as_ref());
        part(&mut body, record.value.as_ref());
        put_varint(&mut body, record.headers.len() as i32);
        for (key, value) in &record.headers {
            part(&mut body, Some(key));
            part(&mut body, value.as_ref());
        }
        put_varint(&mut section, body.len() as i32);
        section.extend_from_slice(&body);
    }
    let mut batch = header.base_offset.to_be_bytes().to_vec();
    batch.extend_from_slice(&(section.len() as i32 + 49).to_be_bytes());
    batch.extend_from_slice(&header.leader_epoch.to_be_bytes());
    batch.push(2);
    batch.extend_from_slice(&[0; 4]);
    batch.extend_from_slice(&attributes.to_be_bytes());
    batch.extend_from_slice(&header.last_offset_delta.to_be_bytes());
    batch.extend_from_slice(&base.to_be_bytes());
    batch.extend_from_slice(&max.to_be_bytes());
    batch.extend_from_slice(&header.producer.id.to_be_bytes());
    batch.extend_from_slice(&header.producer.epoch.to_be_bytes());
    batch.extend_from_slice(&header.base_sequence.to_be_bytes());
    batch.extend_from_slice(&(kept.len() as i32).to_be_bytes());
    batch.extend_from_slice(&section);
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    Some(batch)
}

fn codecs() -> impl Iterator<Item = Compression> {
    use Compression::{Gzip, Lz4, None, Snappy, Zstd};
    let all = [None, Gzip, Snappy, Lz4, Zstd].into_iter();
    all.filter(|compression| Codec::from(*compression).check_supported().is_ok())
}

fn some_records() -> impl Strategy<Value = Vec<Owned>> {
    let bytes = || option::of(vec(any::<u8>(), 0..80));
    let header = (vec(any::<u8>(), 0..9), option::of(vec(any::<u8>(), 0..9)));
    let timestamp = prop_oneof![any::<i64>(), 1_700_000_000_000..1_700_000_000_200_i64];
    let record = (timestamp, bytes(), bytes(), vec(header, 0..3)).prop_map(
        |(timestamp, key, value, headers)| Owned { offset: 0, timestamp, key, value, headers },
    );
    vec(record, 1..20)
}

fn build(compression: Compression, records: &[Owned], append_time: bool) -> Vec<u8> {
    let mut builder = BatchBuilder::new(compression, 512);
    for r in records {
        let headers: Vec<_> = r.headers.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
        let (key, value) = (r.key.as_deref(), r.value.as_deref());
        builder.push(r.timestamp, key, value, &headers).expect("small");
    }
    let producer = ProducerIdentity { id: 7, epoch: 3 };
    let mut batch = builder.finish(producer, 40, true).expect("not empty").to_vec();
    let header = batch.first_chunk_mut().expect("a header");
    stamp(header, BASE, 5);
    if append_time {
        stamp_time(header, TimestampType::LogAppendTime, 1_750_000_000_000);
    }
    batch
}

fn kept(keep: &[bool]) -> impl FnMut(&RecordRef<'_>) -> bool {
    |record| keep[(record.offset - BASE) as usize]
}

/// The plain form of a batch: what the model writes.
fn plain(bytes: &[u8]) -> Vec<u8> {
    let (header, records) = read(bytes);
    let all = vec![true; header.last_offset_delta as usize + 1];
    let how = Rewrite { keep_empty: true, ..Rewrite::default() };
    model(&header, &records, how, &all).expect("all is kept")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    /// Cleaned twice, with other records kept, and with a later horizon the second time.
    #[test]
    fn what_is_left_is_what_the_model_says(
        records in some_records(),
        first in vec(any::<bool>(), 20),
        second in vec(any::<bool>(), 20),
        append_time in any::<bool>(),
        horizon in any::<bool>(),
        marker_is_done in any::<bool>(),
        keep_empty in any::<bool>(),
    ) {
        let how = Rewrite { delete_horizon: horizon.then_some(HORIZON), marker_is_done, keep_empty };
        let later = Rewrite { delete_horizon: how.delete_horizon.map(|h| h + 77), ..how };
        for compression in codecs() {
            let mut rewriter = Rewriter::default();
            let mut bytes = build(compression, &records, append_time);
            for (how, keep) in [(how, &first), (later, &second)] {
                let (header, before) = read(&bytes);
                let expected = model(&header, &before, how, keep);
                let batch = BatchRef::parse(&bytes).expect("whole");
                let mut out = Vec::new();
                let done = rewriter.rewrite(&batch, how, kept(keep), &mut out).expect("whole");
                prop_assert_eq!(done == Rewritten::Dropped, expected.is_none());
                prop_assert_eq!(done == Rewritten::Unchanged, out == bytes && done != Rewritten::Emptied);
                let Some(expected) = expected else {
                    prop_assert!(out.is_empty());
                    break;
                };
                let (after, left) = read(&out);
                let same_time = |owned: &&Owned| keep[(owned.offset - BASE) as usize];
                prop_assert_eq!(&left, &before.iter().filter(same_time).cloned().collect::<Vec<_>>());
                prop_assert_eq!(after.last_sequence(), header.last_sequence());
                prop_assert_eq!(after.next_offset(), header.next_offset());
                let codec = if left.is_empty() { 0 } else { Codec::from(compression).code() };
                prop_assert_eq!(after.attributes.compression_code(), codec);
                match done {
                    Rewritten::Changed { records, max_timestamp } => {
                        prop_assert_eq!(records as usize, left.len());
                        prop_assert_eq!(max_timestamp, after.max_timestamp);
                        // Byte for byte, but for the codec.
                        if compression == Compression::None {
                            prop_assert_eq!(&out, &expected);
                        }
                        prop_assert_eq!(plain(&out), plain(&expected));
                    }
                    Rewritten::Emptied => prop_assert_eq!(&out, &expected),
                    Rewritten::Unchanged | Rewritten::Dropped => {}
                }
                bytes = out;
            }
        }
    }

    /// A cleaner that comes twice finds nothing left to do.
    #[test]
    fn cleaning_again_changes_nothing(records in some_records(), keep in vec(any::<bool>(), 20)) {
        let how = Rewrite { delete_horizon: Some(HORIZON), keep_empty: true, ..Rewrite::default() };
        for compression in codecs() {
            let bytes = build(compression, &records, false);
            let mut rewriter = Rewriter::default();
            let (mut once, mut twice) = (Vec::new(), Vec::new());
            let batch = BatchRef::parse(&bytes).expect("whole");
            rewriter.rewrite(&batch, how, kept(&keep), &mut once).expect("whole");
            let batch = BatchRef::parse(&once).expect("whole");
            rewriter.rewrite(&batch, how, kept(&keep), &mut twice).expect("whole");
            prop_assert_eq!(once, twice);
        }
    }
}

#[test]
fn damage_is_not_blessed_with_a_new_sum() {
    let record =
        Owned { offset: 0, timestamp: 1, key: None, value: Some(vec![7; 50]), headers: vec![] };
    for compression in codecs() {
        let bytes = build(compression, &[record.clone(), record.clone()], false);
        for at in [21, 30, HEADER_LEN, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            let batch = BatchRef::parse(&damaged).expect("whole");
            let mut out = vec![1, 2];
            let one = |record: &RecordRef<'_>| record.offset == BASE;
            let found = Rewriter::default().rewrite(&batch, Rewrite::default(), one, &mut out);
            assert!(
                matches!(found, Err(BatchError::Crc { .. })),
                "{compression:?} {at}: {found:?}"
            );
            assert_eq!(out, [1, 2]);
        }
    }
}

/// A batch that was already given its horizon keeps it, whatever a later cleaning asks.
#[test]
fn a_horizon_is_set_once() {
    let tombstone =
        Owned { offset: 0, timestamp: 5, key: Some(vec![1]), value: None, headers: vec![] };
    let bytes = build(Compression::None, &[tombstone.clone(), tombstone], false);
    let mut rewriter = Rewriter::default();
    let at = |time| Rewrite { delete_horizon: Some(time), ..Rewrite::default() };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let batch = BatchRef::parse(&bytes).expect("whole");
    rewriter.rewrite(&batch, at(HORIZON), |_| true, &mut first).expect("whole");
    let batch = BatchRef::parse(&first).expect("whole");
    assert_eq!(batch.header.delete_horizon(), Some(HORIZON));
    assert_eq!(batch.header.attributes, Attributes(16 | 64));
    let done = rewriter.rewrite(&batch, at(HORIZON + 1), |r| r.offset > BASE, &mut second);
    assert_eq!(done, Ok(Rewritten::Changed { records: 1, max_timestamp: 5 }));
    let (header, records) = read(&second);
    assert_eq!(header.delete_horizon(), Some(HORIZON));
    assert_eq!((records[0].offset, records[0].timestamp), (BASE + 1, 5));
}

//! Bytes from outside never panic, never take more memory than allowed, and are named for what is wrong
//! with them.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use thalweg_core::Error;
use thalweg_core::batch::{
    BatchBuilder, BatchError, BatchHeader, BatchRef, HEADER_LEN, Marker, Scratch, Visible, batches,
    control_batch, crc32c, parse_marker, validate, validate_records,
};
use thalweg_core::compress::{Codec, CompressionError, decompressed_max};
use thalweg_core::config::Compression;
use thalweg_core::ids::ProducerIdentity;

/// A batch put together by hand: these attributes and counts, and this records section.
fn raw(attributes: i16, last_offset_delta: i32, record_count: i32, section: &[u8]) -> Vec<u8> {
    let mut batch = vec![0; HEADER_LEN];
    batch[16] = 2;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[23..27].copy_from_slice(&last_offset_delta.to_be_bytes());
    batch[43..57].fill(0xff);
    batch[57..61].copy_from_slice(&record_count.to_be_bytes());
    batch.extend_from_slice(section);
    seal(&mut batch);
    batch
}

/// Makes the length and the sum agree with the bytes.
fn seal(batch: &mut [u8]) {
    let length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn good(compression: Compression) -> Vec<u8> {
    let mut builder = BatchBuilder::new(compression, 512);
    for i in 0..5 {
        let headers: [(&[u8], Option<&[u8]>); 2] = [(b"h", Some(b"value")), (b"n", None)];
        let value = [b'a' + i; 40];
        builder
            .push(i64::from(i), Some(b"key"), Some(&value), &headers[..usize::from(i % 3)])
            .expect("small");
    }
    let producer = ProducerIdentity { id: 7, epoch: 0 };
    builder.finish(producer, 3, false).expect("not empty").to_vec()
}

fn codecs() -> Vec<Compression> {
    let mut codecs = vec![Compression::None];
    if cfg!(feature = "lz4") {
        codecs.push(Compression::Lz4);
    }
    if cfg!(feature = "zstd") {
        codecs.push(Compression::Zstd);
    }
    codecs
}

/// Everything that can be done with bytes of unknown origin.
fn use_all(bytes: &[u8]) {
    let mut scratch = Scratch::with_limit(1 << 16);
    drop(BatchHeader::parse(bytes));
    drop(validate(bytes, 1 << 20));
    for batch in batches(bytes).flatten() {
        drop(batch.check_crc());
        drop(validate_records(&batch, true, &mut scratch));
        let header = batch.header;
        assert!(header.next_offset() >= header.base_offset);
        assert!(header.last_sequence() == header.base_sequence || header.base_sequence >= 0);
        if let Ok(records) = batch.records(&mut scratch) {
            let mut given = 0;
            for record in records.flatten() {
                given += 1;
                assert!(
                    record.offset >= header.base_offset && record.offset <= header.last_offset()
                );
                assert_eq!(record.headers.iter().count(), record.headers.len());
                parse_marker(&record);
            }
            assert!(given <= header.record_count);
        }
    }
    assert!(Visible::new(bytes, &[], 0).count() <= bytes.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        use_all(&bytes);
        // The same bytes as the records, and as the streams, of an otherwise legal batch.
        for codec in 0..8 {
            use_all(&raw(codec, 3, 4, &bytes));
        }
    }

    #[test]
    fn changed_batches_never_panic(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in option_of_index(),
    ) {
        for compression in codecs() {
            let mut bytes = good(compression);
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            use_all(&bytes);
            // And with a sum that was made to fit, which lets the changes through to the readers.
            if bytes.len() >= HEADER_LEN {
                bytes[16] = 2;
                seal(&mut bytes);
                use_all(&bytes);
            }
        }
    }
}

fn option_of_index() -> impl Strategy<Value = Option<prop::sample::Index>> {
    proptest::option::of(any::<prop::sample::Index>())
}

#[test]
fn every_flipped_bit_is_found_but_those_the_log_itself_sets() {
    const OFFSET: Range<usize> = 0..8;
    const EPOCH: Range<usize> = 12..16;
    for compression in codecs() {
        let good = good(compression);
        validate(&good, good.len()).expect("legal");
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let set_by_the_log = OFFSET.contains(&(bit / 8)) || EPOCH.contains(&(bit / 8));
            assert_eq!(validate(&bytes, good.len()).is_ok(), set_by_the_log, "bit {bit}");
        }
    }
}

#[test]
fn every_cut_is_found() {
    let good = good(Compression::None);
    for len in 0..good.len() {
        let need = if len < HEADER_LEN { HEADER_LEN } else { good.len() };
        let error = Err(BatchError::Truncated { need, have: len });
        assert_eq!(BatchRef::parse(&good[..len]).map(|_| ()), error.clone());
        assert_eq!(validate(&good[..len], 1000).map(|_| ()), error);
    }
}

/// Each rule of an append, broken on its own in a batch that is legal otherwise.
#[test]
fn an_append_refuses_what_breaks_a_rule_and_names_it() {
    let good = good(Compression::None);
    let patched = |at: usize, bytes: &[u8]| {
        let mut batch = good.clone();
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        seal(&mut batch);
        batch
    };
    let count = |n: i32| patched(57, &n.to_be_bytes());
    let delta = |n: i32| patched(23, &n.to_be_bytes());
    let producer = |id: i64, epoch: i16, sequence: i32, attributes: i16| {
        let mut batch = patched(43, &id.to_be_bytes());
        batch[51..53].copy_from_slice(&epoch.to_be_bytes());
        batch[53..57].copy_from_slice(&sequence.to_be_bytes());
        batch[21..23].copy_from_slice(&attributes.to_be_bytes());
        seal(&mut batch);
        batch
    };
    let mut magic_1 = good.clone();
    magic_1[16] = 1;
    let mut short = good.clone();
    short[8..12].copy_from_slice(&48_i32.to_be_bytes());
    let mut negative = good.clone();
    negative[8..12].copy_from_slice(&i32::MIN.to_be_bytes());
    let two = [&good[..], &good[..]].concat();
    let marker = control_batch(Marker::Abort, ProducerIdentity { id: 1, epoch: 0 }, 0, 0);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("an older version", magic_1, "magic) 1"),
        ("an older version, short", vec![0; 17], "magic) 0"),
        ("a length below the header's", short, "length 48"),
        ("a negative length", negative, "length -2147483648"),
        ("two batches", two, "bytes follow the batch"),
        ("a control batch", marker.to_vec(), "control batch"),
        ("times of the append", producer(7, 0, 3, 8), "times of the append"),
        ("no records", count(0), "0 records"),
        ("a negative count", count(-1), "-1 records"),
        ("fewer records than offsets", count(4), "one less than the count"),
        ("more offsets than records", delta(5), "one less than the count"),
        ("a negative offset delta", delta(-1), "not negative"),
        ("an unknown codec", producer(7, 0, 3, 5), "codec 5"),
        ("gzip", producer(7, 0, 3, 1), "gzip"),
        ("a producer without an epoch", producer(7, -1, 3, 0), "needs an epoch"),
        ("a producer without a sequence", producer(7, 0, -1, 0), "needs a sequence"),
        ("a transaction without a producer", producer(-1, -1, -1, 16), "needs a producer id"),
    ];
    for (name, bytes, words) in cases {
        let error = validate(&bytes, 1 << 20).expect_err(name);
        assert!(error.to_string().contains(words), "{name}: {error}");
        let error = Error::from(error);
        assert!(
            matches!(&error, Error::Invalid { what } if what.contains(words)),
            "{name}: {error}"
        );
    }
    let limit = good.len() - 1;
    assert_eq!(
        validate(&good, limit),
        Err(BatchError::TooLarge { size: good.len(), limit }),
        "one byte more than allowed"
    );
    validate(&producer(-1, -1, -1, 0), 1 << 20).expect("a producer without an id is legal");
    validate(&producer(7, 0, i32::MAX, 16), 1 << 20)
        .expect("so is a transactional one with its id");
}

/// Sections that break the format of records, in batches of two records.
#[test]
fn a_record_that_cannot_be_is_named_and_ends_the_reading() {
    // Length, attributes, time, offset, null key, null value, no headers.
    let one: &[u8] = &[12, 0, 0, 0, 1, 1, 0];
    let two = |second: &[u8]| [one, second].concat();
    let second: &[u8] = &[12, 0, 0, 2, 1, 1, 0];
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("length cut off", two(&[0x80; 7]), "record 1 of the batch: its length cannot be read"),
        ("negative length", two(&[1, 0, 0, 2, 1, 1, 0]), "length is negative"),
        ("longer than the batch", two(&[14, 0, 0, 2, 1, 1, 0]), "what is left"),
        ("length beyond memory", two(&[0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0]), "what is left"),
        ("empty", two(&[0, 0, 0, 2, 1, 1, 0]), "empty"),
        ("time cut off", two(&[4, 0, 0x80, 2, 1, 1, 0]), "time"),
        ("offset cut off", two(&[6, 0, 0, 0x80, 1, 1, 0]), "offset cannot be read"),
        ("key beyond the record", two(&[12, 0, 0, 2, 8, 1, 0]), "key"),
        ("key of negative length", two(&[12, 0, 0, 2, 3, 1, 0]), "key"),
        ("value beyond the record", two(&[12, 0, 0, 2, 1, 4, 0]), "value"),
        ("header count cut off", two(&[12, 0, 0, 2, 1, 1, 0x80]), "header count cannot"),
        ("negative header count", two(&[12, 0, 0, 2, 1, 1, 1]), "header count is negative"),
        ("headers beyond the record", two(&[12, 0, 0, 2, 1, 1, 2]), "headers"),
        ("null header key", two(&[16, 0, 0, 2, 1, 1, 2, 1, 1]), "headers"),
        ("too many headers", two(&[20, 0, 0, 2, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f]), "headers"),
        ("more than it holds", two(&[14, 0, 0, 2, 1, 1, 0, 0]), "longer than what it holds"),
        ("the same offset again", two(one), "offset is not between"),
        ("an offset beyond the batch", two(&[12, 0, 0, 4, 1, 1, 0]), "offset is not between"),
        ("bytes after the last", [&two(second)[..], &[0]].concat(), "more bytes follow"),
        ("fewer records than said", one.to_vec(), "too few bytes"),
    ];
    for (name, section, words) in cases {
        let batch = raw(0, 1, 2, &section);
        let batch = BatchRef::parse(&batch).expect(name);
        batch.check_crc().expect(name);
        let mut scratch = Scratch::default();
        let error = match batch.records(&mut scratch) {
            Err(error) => error,
            Ok(mut records) => {
                let error = records.by_ref().find_map(Result::err).expect(name);
                assert!(records.next().is_none(), "{name}: nothing after the error");
                error
            }
        };
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
    let legal = raw(0, 1, 2, &two(second));
    let legal = BatchRef::parse(&legal).expect("whole");
    assert_eq!(legal.records(&mut Scratch::default()).expect("plain").flatten().count(), 2);
}

#[test]
fn the_deep_walk_finds_gaps_and_missing_keys() {
    // Offsets 0 and 2 of three: what compaction leaves, and no producer may send.
    let gap = raw(0, 2, 2, &[12, 0, 0, 0, 1, 1, 0, 12, 0, 0, 4, 1, 1, 0]);
    let gap = BatchRef::parse(&gap).expect("whole");
    let mut scratch = Scratch::default();
    assert_eq!(gap.records(&mut scratch).expect("plain").flatten().count(), 2, "can be read");
    let error = validate_records(&gap, false, &mut scratch).expect_err("a gap");
    assert!(error.to_string().starts_with("record 1 of the batch: its offset"), "{error}");

    let keyless = raw(0, 0, 1, &[12, 0, 0, 0, 1, 1, 0]);
    let keyless = BatchRef::parse(&keyless).expect("whole");
    validate_records(&keyless, false, &mut scratch)
        .expect("legal in a topic that is not compacted");
    let error = validate_records(&keyless, true, &mut scratch).expect_err("no key");
    assert!(error.to_string().contains("no key"), "{error}");
}

#[test]
fn a_batch_that_compaction_emptied_is_read_as_empty() {
    for codec in 0..5 {
        let empty = raw(codec, 9, 0, &[]);
        let empty = BatchRef::parse(&empty).expect("whole");
        let mut scratch = Scratch::default();
        assert!(empty.records(&mut scratch).expect("nothing to open").next().is_none());
        assert_eq!(empty.header.next_offset(), 10);
    }
}

#[test]
fn batches_end_at_the_first_that_is_not_whole() {
    let good = good(Compression::None);
    let log = [&good[..], &good[..], &good[..70]].concat();
    let mut found = batches(&log);
    assert!(matches!(found.next(), Some(Ok(_))));
    assert!(matches!(found.next(), Some(Ok(_))));
    assert_eq!(found.next(), Some(Err(BatchError::Truncated { need: good.len(), have: 70 })),);
    assert_eq!(found.next(), None);
    assert_eq!(batches(&[]).next(), None);
}

#[test]
fn the_limit_follows_the_topics_and_ends_somewhere() {
    assert_eq!(decompressed_max((1 << 20) + 12), (16 << 20) + 192);
    assert_eq!(decompressed_max(usize::MAX), 64 << 20);
}

/// Streams that decompress to far more than they take.
#[cfg(any(feature = "lz4", feature = "zstd"))]
#[test]
fn decompression_stops_at_its_limit() {
    const SIZE: usize = 8 << 20;
    let zeros = vec![0; SIZE];
    let mut bombs: Vec<(&str, Codec, Vec<u8>)> = Vec::new();
    #[cfg(feature = "lz4")]
    {
        use std::io::Write;
        for size in [lz4_flex::frame::BlockSize::Max64KB, lz4_flex::frame::BlockSize::Max4MB] {
            let frame = lz4_flex::frame::FrameInfo::new().block_size(size);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
            encoder.write_all(&zeros).expect("to memory");
            bombs.push(("lz4", Codec::Lz4, encoder.finish().expect("to memory")));
        }
    }
    #[cfg(feature = "zstd")]
    {
        bombs.push((
            "zstd with its size",
            Codec::Zstd,
            zstd::bulk::compress(&zeros, 1).expect("zeros"),
        ));
        let streamed = zstd::stream::encode_all(&zeros[..], 1).expect("zeros");
        bombs.push(("zstd without", Codec::Zstd, streamed));
    }
    for (name, codec, stream) in bombs {
        assert!(stream.len() < SIZE / 100, "{name}: {}", stream.len());
        let batch = raw(i16::from(codec.code()), 0, 1, &stream);
        let batch = BatchRef::parse(&batch).expect(name);
        for limit in [0, 1, 1000, 1 << 20, SIZE - 1] {
            let mut scratch = Scratch::with_limit(limit);
            let error = batch.records(&mut scratch).map(|_| ()).expect_err(name);
            assert_eq!(error, CompressionError::TooLarge { codec, limit }.into(), "{name}");
        }
        // Within the limit the stream is read, and found to be no record.
        let mut scratch = Scratch::with_limit(SIZE);
        let mut records = batch.records(&mut scratch).expect(name);
        assert!(records.next().expect("one is said to be there").is_err(), "{name}");
    }
}

/// Streams of the right codec that Kafka does not write, or that are not whole.
#[test]
fn streams_that_are_not_exactly_one_frame_are_refused() {
    let mut cases: Vec<(String, Codec, Vec<u8>)> = Vec::new();
    for compression in codecs().into_iter().skip(1) {
        let codec = Codec::from(compression);
        let stream = good(compression)[HEADER_LEN..].to_vec();
        cases.push((format!("{codec}, trailing"), codec, [&stream[..], b"x"].concat()));
        cases.push((format!("{codec}, twice"), codec, [&stream[..], &stream[..]].concat()));
        cases.push((format!("{codec}, half"), codec, stream[..stream.len() / 2].to_vec()));
        cases.push((format!("{codec}, one byte"), codec, stream[..1].to_vec()));
        cases.push((format!("{codec}, another"), codec, b"plainly no stream".to_vec()));
    }
    #[cfg(feature = "lz4")]
    {
        use std::io::Write;
        let linked =
            lz4_flex::frame::FrameInfo::new().block_mode(lz4_flex::frame::BlockMode::Linked);
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(linked, Vec::new());
        encoder.write_all(b"text").expect("to memory");
        cases.push(("lz4, linked".into(), Codec::Lz4, encoder.finish().expect("to memory")));
    }
    for (name, codec, stream) in cases {
        let batch = raw(i16::from(codec.code()), 0, 1, &stream);
        let batch = BatchRef::parse(&batch).expect(&name);
        let found = batch.records(&mut Scratch::default()).map(|_| ()).expect_err(&name);
        assert!(
            matches!(&found, BatchError::Compression(CompressionError::Damaged { codec: c, .. }) if *c == codec),
            "{name}: {found}"
        );
    }
}

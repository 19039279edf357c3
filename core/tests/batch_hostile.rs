//! Bytes from outside never panic, never take more memory than allowed, and are named for what is wrong
//! with them.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use thalweg_core::Error;
use thalweg_core::batch::{
    Accept, BatchBuilder, BatchError, BatchHeader, BatchRef, HEADER_LEN, Marker, Rewrite, Rewriter,
    Scratch, Visible, batches, control_batch, crc32c, parse_marker, validate_deep,
    validate_shallow,
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
    use Compression::{Gzip, Lz4, None, Snappy, Zstd};
    let all = [None, Gzip, Snappy, Lz4, Zstd].into_iter();
    all.filter(|compression| Codec::from(*compression).check_supported().is_ok()).collect()
}

/// Everything that can be done with bytes of unknown origin.
fn use_all(bytes: &[u8]) {
    let mut scratch = Scratch::with_limit(1 << 16);
    drop(BatchHeader::parse(bytes));
    drop(validate_shallow(bytes, 1 << 20));
    drop(validate_deep(bytes, &Accept::up_to(1 << 20), &mut scratch));
    for batch in batches(bytes).flatten() {
        drop(batch.check_crc());
        let mut out = Vec::new();
        let how = Rewrite { delete_horizon: Some(9), ..Rewrite::default() };
        if Rewriter::with_limit(1 << 16)
            .rewrite(&batch, how, |r| r.offset % 2 == 0, &mut out)
            .is_err()
        {
            assert!(out.is_empty());
        }
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
        validate_shallow(&good, good.len()).expect("legal");
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let set_by_the_log = OFFSET.contains(&(bit / 8)) || EPOCH.contains(&(bit / 8));
            assert_eq!(validate_shallow(&bytes, good.len()).is_ok(), set_by_the_log, "bit {bit}");
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
        assert_eq!(validate_shallow(&good[..len], 1000).map(|_| ()), error);
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
        ("no version", patched(16, &[3]), "no version of the format"),
        ("a length below the header's", short, "length 48"),
        ("a negative length", negative, "length -2147483648"),
        ("two batches", two, "bytes follow the batch"),
        ("a control batch", marker.to_vec(), "control batch"),
        ("times of the append", producer(7, 0, 3, 8), "times of the append"),
        ("a delete horizon", producer(7, 0, 3, 64), "only compaction"),
        ("no records", count(0), "0 records"),
        ("a negative count", count(-1), "-1 records"),
        ("fewer records than offsets", count(4), "one less than the count"),
        ("more offsets than records", delta(5), "one less than the count"),
        ("a negative offset delta", delta(-1), "not negative"),
        ("an unknown codec", producer(7, 0, 3, 5), "codec 5"),
        ("a producer without an epoch", producer(7, -1, 3, 0), "needs an epoch"),
        ("a producer without a sequence", producer(7, 0, -1, 0), "needs a sequence"),
        ("a transaction without a producer", producer(-1, -1, -1, 16), "needs a producer id"),
    ];
    for (name, bytes, words) in cases {
        let error = validate_shallow(&bytes, 1 << 20).expect_err(name);
        let deep = validate_deep(&bytes, &Accept::up_to(1 << 20), &mut Scratch::default());
        assert_eq!(deep, Err(error.clone()), "{name}");
        assert!(error.to_string().contains(words), "{name}: {error}");
        let error = Error::from(error);
        assert!(
            matches!(&error, Error::Invalid { what } if what.contains(words)),
            "{name}: {error}"
        );
    }
    let limit = good.len() - 1;
    assert_eq!(
        validate_shallow(&good, limit),
        Err(BatchError::TooLarge { size: good.len(), limit }),
        "one byte more than allowed"
    );
    validate_shallow(&producer(-1, -1, -1, 0), 1 << 20).expect("a producer without an id is legal");
    validate_shallow(&producer(7, 0, i32::MAX, 16), 1 << 20)
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
fn older_formats_are_told_from_bytes_that_are_no_batch() {
    let mut bytes = good(Compression::None);
    for magic in 0..=u8::MAX {
        bytes[16] = magic;
        let error = match magic {
            0 | 1 => BatchError::OldFormat(magic as i8),
            2 => continue,
            _ => BatchError::Magic(magic as i8),
        };
        assert_eq!(BatchHeader::parse(&bytes), Err(error.clone()));
        assert_eq!(BatchHeader::parse(&bytes[..17]), Err(error));
    }
}

/// Two records of these lists of offset delta, time delta and key; the greatest time in the header is 5.
fn of_records(records: &[(u8, u8, bool)]) -> Vec<u8> {
    let mut section = Vec::new();
    for &(offset, time, key) in records {
        let parts: &[u8] = if key { &[0, 1, 0] } else { &[1, 1, 0] };
        section.extend_from_slice(&[12, 0, time * 2, offset * 2]);
        section.extend_from_slice(parts);
    }
    let last = records.len() as i32 - 1;
    let mut batch = raw(0, last, records.len() as i32, &section);
    batch[35..43].copy_from_slice(&5_i64.to_be_bytes());
    seal(&mut batch);
    batch
}

/// What only reading the records finds: legal at a first look, and refused by the walk.
#[test]
fn the_deep_walk_finds_what_the_header_hides() {
    let any = Accept::up_to(1 << 20);
    let compacted = Accept { compacted: true, ..any };
    let times = Accept { earliest: 4, latest: 5, ..any };
    let legal = of_records(&[(0, 5, true), (1, 4, true)]);
    let mut cut = legal.clone();
    cut.pop();
    seal(&mut cut);
    let cases: Vec<(&str, Vec<u8>, Accept, &str)> = vec![
        (
            "a gap",
            of_records(&[(0, 5, true), (2, 4, true)]),
            any,
            "record 1 of the batch: its offset",
        ),
        (
            "not from the first on",
            of_records(&[(1, 5, true)]),
            any,
            "record 0 of the batch: its offset",
        ),
        ("the same offset twice", of_records(&[(0, 5, true), (0, 4, true)]), any, "record 1"),
        (
            "no key",
            of_records(&[(0, 5, true), (1, 4, false)]),
            compacted,
            "record 1 of the batch: it has no key",
        ),
        (
            "too early",
            of_records(&[(0, 5, true), (1, 3, true)]),
            times,
            "record 1 of the batch is of time 3",
        ),
        (
            "too late",
            of_records(&[(0, 6, true)]),
            times,
            "record 0 of the batch is of time 6: 4 to 5",
        ),
        ("a record cut off", cut, any, "too few bytes for them"),
        ("more than the records", [&legal[..], &[0]].concat(), any, "more bytes follow"),
        (
            "a greatest time that is not there",
            of_records(&[(0, 4, true), (1, 3, true)]),
            any,
            "its greatest time is 5, it is 4",
        ),
        (
            "a greatest time that is too small",
            of_records(&[(0, 6, true), (1, 3, true)]),
            any,
            "its greatest time is 5, it is 6",
        ),
    ];
    let mut scratch = Scratch::default();
    for (name, mut bytes, accept, words) in cases {
        seal(&mut bytes);
        validate_shallow(&bytes, 1 << 20).expect(name);
        let found =
            validate_deep(&bytes, &accept, &mut scratch).and_then(|found| found.unchanged());
        let error = found.expect_err(name);
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
    let keyless = of_records(&[(0, 5, false), (1, 4, false)]);
    for (bytes, accept) in [(&legal, any), (&legal, compacted), (&legal, times), (&keyless, any)] {
        let found = validate_deep(bytes, &accept, &mut scratch).expect("legal");
        assert_eq!(found.unchanged().map(|header| header.record_count), Ok(2));
    }
    // A record without a time has none that could be refused.
    let mut timeless = of_records(&[(0, 0, true)]);
    timeless[27..43].fill(0xff);
    seal(&mut timeless);
    validate_deep(&timeless, &times, &mut scratch).expect("legal").unchanged().expect("-1");
}

/// Gaps are what compaction leaves: no producer may send them, and every reader takes them.
#[test]
fn gaps_are_read() {
    let gap = raw(0, 2, 2, &[12, 0, 0, 0, 1, 1, 0, 12, 0, 0, 4, 1, 1, 0]);
    let gap = BatchRef::parse(&gap).expect("whole");
    assert_eq!(gap.records(&mut Scratch::default()).expect("plain").flatten().count(), 2);
}

/// A foreign batch of 1 MiB at most may hold 16 MiB, whatever the scratch would take.
#[test]
fn the_deep_walk_decompresses_no_more_than_the_topic_allows() {
    for compression in codecs().into_iter().skip(1) {
        let mut builder = BatchBuilder::new(compression, 512);
        builder.push(0, None, Some(&vec![0; 600_000]), &[]).expect("small");
        let batch = builder.finish(ProducerIdentity::NONE, -1, false).expect("one");
        let mut scratch = Scratch::default();
        // Sixteen times this is more than the record takes.
        let enough = Accept::up_to(batch.len().max(40_000));
        validate_deep(&batch, &enough, &mut scratch).expect("within its limit");
        if batch.len() * 16 >= 600_000 {
            continue;
        }
        let error = validate_deep(&batch, &Accept::up_to(batch.len()), &mut scratch);
        let (codec, limit) = (Codec::from(compression), batch.len() * 16);
        assert_eq!(error, Err(CompressionError::TooLarge { codec, limit }.into()));
    }
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
#[test]
fn decompression_stops_at_its_limit() {
    const SIZE: usize = 8 << 20;
    let zeros = vec![0; SIZE];
    let mut bombs: Vec<(&str, Codec, Vec<u8>)> = Vec::new();
    #[cfg(feature = "gzip")]
    {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&zeros).expect("to memory");
        bombs.push(("gzip", Codec::Gzip, encoder.finish().expect("to memory")));
    }
    #[cfg(feature = "snappy")]
    {
        let block = snap::raw::Encoder::new().compress_vec(&zeros).expect("zeros");
        let half = snap::raw::Encoder::new().compress_vec(&zeros[..SIZE / 2]).expect("zeros");
        let mut framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
        for _ in 0..2 {
            framed.extend_from_slice(&(half.len() as i32).to_be_bytes());
            framed.extend_from_slice(&half);
        }
        bombs.push(("snappy", Codec::Snappy, block));
        bombs.push(("snappy, framed", Codec::Snappy, framed));
    }
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
        assert!(stream.len() < SIZE / 20, "{name}: {}", stream.len());
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
    #[cfg(feature = "gzip")]
    for (name, at, byte) in
        [("reserved flag", 3, 0x80), ("no deflate", 2, 7), ("extra", 3, 4), ("name", 3, 8)]
    {
        let mut stream = good(Compression::Gzip)[HEADER_LEN..].to_vec();
        stream[at] = byte;
        cases.push((format!("gzip, {name}"), Codec::Gzip, stream));
    }
    #[cfg(feature = "gzip")]
    for from_end in 1..=8 {
        let mut stream = good(Compression::Gzip)[HEADER_LEN..].to_vec();
        let at = stream.len() - from_end;
        stream[at] ^= 1;
        cases.push((format!("gzip, trailer {from_end}"), Codec::Gzip, stream));
    }
    #[cfg(feature = "snappy")]
    {
        let stream = good(Compression::Snappy)[HEADER_LEN..].to_vec();
        let with = |length: i32| [&stream[..16], &length.to_be_bytes(), &stream[20..]].concat();
        cases.push(("snappy, negative length".into(), Codec::Snappy, with(-1)));
        cases.push(("snappy, length 0".into(), Codec::Snappy, with(0)));
        cases.push(("snappy, length too large".into(), Codec::Snappy, with(i32::MAX)));
        cases.push(("snappy, half a header".into(), Codec::Snappy, stream[..12].to_vec()));
        cases.push(("snappy, empty".into(), Codec::Snappy, vec![0xff, 0xff, 0xff, 0xff, 0x0f]));
    }
    #[cfg(feature = "lz4")]
    for (name, at, byte) in
        [("version", 4, 0xa0), ("dictionary", 4, 0x61), ("block size", 5, 0x30), ("sum", 6, 0)]
    {
        let mut stream = good(Compression::Lz4)[HEADER_LEN..].to_vec();
        stream[at] = byte;
        cases.push((format!("lz4, {name}"), Codec::Lz4, stream));
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

/// Frames of shapes that Kafka's clients do not write, and its readers take.
#[cfg(feature = "lz4")]
#[test]
fn every_lz4_frame_of_independent_blocks_is_read_and_its_sums_are_checked() {
    use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};
    use std::io::Write;
    let mut content = vec![0; 600_000];
    content.iter_mut().zip(0_u32..).for_each(|(byte, i)| *byte = (i.wrapping_mul(i) >> 7) as u8);
    let plain = [&[0x80, 0xa0, 0x49][..], &content].concat();
    for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB] {
        for sums in [false, true] {
            let frame = FrameInfo::new()
                .block_size(size)
                .block_checksums(sums)
                .content_checksum(sums)
                .content_size(Some(plain.len() as u64));
            let mut encoder = FrameEncoder::with_frame_info(frame, Vec::new());
            encoder.write_all(&plain).expect("to memory");
            let stream = encoder.finish().expect("to memory");
            let name = format!("{size:?}, {sums}");
            let outcome = |stream: &[u8]| {
                let batch = raw(3, 0, 1, stream);
                let batch = BatchRef::parse(&batch).expect("whole");
                let mut scratch = Scratch::default();
                batch
                    .records(&mut scratch)
                    .map(|records| records.size_hint())
                    .map_err(|e| e.to_string())
            };
            outcome(&stream).expect(&name);
            // The content size is in the descriptor, whose sum finds it changed.
            let mut changed = stream.clone();
            changed[6] ^= 1;
            assert!(outcome(&changed).is_err_and(|e| e.contains("sum of its header")), "{name}");
            // Without its end mark (and the sum behind it) it is not whole.
            let end = stream.len() - if sums { 8 } else { 4 };
            assert!(outcome(&stream[..end]).is_err_and(|e| e.contains("ends within")), "{name}");
            if sums {
                for (at, what) in
                    [(stream.len() - 1, "sum of its content"), (end - 1, "sum of a block")]
                {
                    let mut changed = stream.clone();
                    changed[at] ^= 1;
                    assert!(outcome(&changed).is_err_and(|e| e.contains(what)), "{name}");
                }
            }
        }
    }
}

/// gzip's optional parts, as the command writes them.
#[cfg(feature = "gzip")]
#[test]
fn gzip_members_with_names_and_comments_are_read() {
    use std::io::Write;
    let builder = flate2::GzBuilder::new().filename("records").comment("of a batch").extra("extra");
    let mut encoder = builder.write(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&[12, 0, 0, 0, 1, 1, 0]).expect("to memory");
    let stream = encoder.finish().expect("to memory");
    let batch = raw(1, 0, 1, &stream);
    let batch = BatchRef::parse(&batch).expect("whole");
    let mut scratch = Scratch::default();
    let records = batch.records(&mut scratch).expect("opens");
    assert_eq!(records.map(|record| record.expect("whole").offset).collect::<Vec<_>>(), [0]);
}

//! Record batches of every shape, what readers see of several, and the codecs' streams.
//!
//! Promises, beside that nothing panics: batches read from a slice lie within it; a batch that passes
//! `validate_deep` and whose records are read to the end holds as many as it says, with offsets that rise
//! within it; read and written again it reads the same; a reader sees no control batch, and nothing
//! that was not fetched; a stream that is refused for its size is refused for a smaller limit too.

use thalweg_core::batch::{
    Accept, BatchBuilder, BatchError, BatchHeader, BatchRef, HEADER_LEN, Marker, Scratch, Visible,
    batches, control_batch, parse_marker, stamp, validate_deep, validate_shallow,
};
use thalweg_core::config::Compression;
use thalweg_core::ids::{Offset, ProducerIdentity};
use thalweg_core::record::AbortedTransaction;

use super::input::{Part, pack, unpack};
use super::repair::{Sums, repair};
use super::{Form, Shape, Target, about, shape_of};

const MIB: u64 = 1 << 20;
/// What a section may decompress to here.
const SECTION_MAX: usize = 1 << 20;
const NOW: i64 = 1_790_000_000_000;
/// The codecs that are written here.
const CODECS: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

/// A record's header: name and value.
type Header<'a> = (&'a [u8], Option<&'a [u8]>);

pub(super) fn targets() -> Vec<Target> {
    let codec = |name, about, seeds, run| Target {
        name,
        about,
        // The section, as much again while it grows, and the window of 8 MiB that frames may ask for.
        memory_max: 16 * MIB,
        form: Form::Bytes(Sums::None),
        seeds,
        run,
    };
    vec![
        Target {
            name: "batch",
            about: "batches: header, parse, sum, validate, records, headers; read, written and read again",
            memory_max: 16 * MIB,
            form: Form::Bytes(Sums::Batches),
            seeds: batch_seeds,
            run: batch,
        },
        Target {
            name: "visible",
            about: "fetched batches and aborted transactions: what readers of committed records see",
            memory_max: 16 * MIB,
            form: Form::Parts,
            seeds: visible_seeds,
            run: visible,
        },
        codec("lz4", "lz4 frames", lz4_seeds, |bytes| stream(3, bytes)),
        codec("zstd", "zstd frames", zstd_seeds, |bytes| stream(4, bytes)),
        codec("gzip", "gzip members", gzip_seeds, |bytes| stream(1, bytes)),
        codec("snappy", "snappy, framed and raw", snappy_seeds, |bytes| stream(2, bytes)),
    ]
}

// Batches.

fn batch(bytes: &[u8]) -> Result<Shape, String> {
    let (mut whole, mut shape) = (0, None);
    let mut scratch = Scratch::with_limit(SECTION_MAX);
    for found in batches(bytes) {
        let found = match found {
            Ok(found) => found,
            Err(e) => {
                shape.get_or_insert_with(|| shape_of(&e, &e));
                break;
            }
        };
        whole += found.bytes.len();
        if let Err(e) = one_batch(&found, &mut scratch)? {
            shape.get_or_insert_with(|| shape_of(&e, &e));
        }
    }
    if whole > bytes.len() {
        return Err(format!("batches of {whole} bytes in {} bytes", bytes.len()));
    }
    Ok(shape.unwrap_or_else(|| format!("whole | {}", about(whole))))
}

/// Everything that is done with a batch; the first thing it was refused for.
fn one_batch(
    found: &BatchRef<'_>,
    scratch: &mut Scratch,
) -> Result<Result<(), BatchError>, String> {
    let compacted = found.header.crc.is_multiple_of(2);
    let legal = legal(found, compacted, scratch);
    let header = &found.header;
    if header.next_offset() < header.base_offset {
        return Err(format!("it ends before it begins: {header:?}"));
    }
    let mut read = 0;
    let mut last = None;
    match found.records(scratch) {
        Err(e) => return Ok(legal.and(Err(e))),
        Ok(records) => {
            for record in records {
                let record = match record {
                    Ok(record) => record,
                    Err(e) => return Ok(legal.and(Err(e))),
                };
                read += 1;
                let within = (header.base_offset..=header.last_offset()).contains(&record.offset);
                // At the end of all numbers offsets no longer tell records apart.
                let rises = last.is_none_or(|last| last < record.offset || last == Offset::MAX);
                if !within || !rises {
                    return Err(format!("offset {} after {last:?} in {header:?}", record.offset));
                }
                last = Some(record.offset);
                if record.headers.iter().count() != record.headers.len() {
                    return Err("headers that were checked cannot be read".to_owned());
                }
                if header.is_control() {
                    _ = parse_marker(&record);
                }
            }
        }
    }
    if read != header.record_count {
        return Err(format!("{read} records were read, the header has {}", header.record_count));
    }
    if legal.is_ok() {
        again(found, scratch)?;
    }
    Ok(legal)
}

/// Whether a producer may append it.
fn legal(found: &BatchRef<'_>, compacted: bool, scratch: &mut Scratch) -> Result<(), BatchError> {
    let accept = Accept { compacted, ..Accept::up_to(SECTION_MAX) };
    validate_deep(found.bytes, &accept, scratch).map(drop)
}

/// What was read is written, and reads the same.
fn again(found: &BatchRef<'_>, scratch: &mut Scratch) -> Result<(), String> {
    let told = |e: &dyn std::fmt::Display| format!("what was read cannot be written again: {e}");
    let mut builder = BatchBuilder::new(Compression::None, found.bytes.len());
    for record in found.records(scratch).map_err(|e| told(&e))? {
        let record = record.map_err(|e| told(&e))?;
        let headers: Vec<_> = record.headers.iter().collect();
        builder.push(record.timestamp, record.key, record.value, &headers).map_err(|e| told(&e))?;
    }
    let header = &found.header;
    let bytes = builder
        .finish(header.producer, header.base_sequence, header.is_transactional())
        .map_err(|e| told(&e))?;
    let written = validate_shallow(&bytes, usize::MAX).map_err(|e| told(&e))?;
    if written.last_sequence() != header.last_sequence() {
        return Err(format!("sequences: {header:?} became {written:?}"));
    }
    let mut second = Scratch::default();
    let written = BatchRef::parse(&bytes).map_err(|e| told(&e))?;
    let records = |batch: &BatchRef<'_>, scratch: &mut Scratch| -> Result<Vec<String>, String> {
        let records = batch.records(scratch).map_err(|e| told(&e))?;
        records
            .map(|record| {
                let record = record.map_err(|e| told(&e))?;
                let (key, value, headers) = (record.key, record.value, record.headers);
                Ok(format!("{} {key:?} {value:?} {headers:?}", record.timestamp))
            })
            .collect()
    };
    match records(found, scratch)? == records(&written, &mut second)? {
        true => Ok(()),
        false => Err("written again its records are others".to_owned()),
    }
}

/// Plain records of every shape.
pub(super) fn plain(compression: Compression, count: usize, producer: ProducerIdentity) -> Vec<u8> {
    let mut builder = BatchBuilder::new(compression, 1024);
    let trace = "trace ".repeat(40);
    for n in 0..count {
        let timestamp = match n {
            3 => NOW - 86_400_000,
            5 => i64::MAX,
            6 => i64::MIN,
            _ => NOW + n as i64,
        };
        let (key, value, headers): (Option<&[u8]>, Option<&[u8]>, &[Header<'_>]) = match n % 6 {
            0 => (None, Some(b"value"), &[]),
            1 => (Some(b"key"), None, &[]),
            2 => (Some(b""), Some(b""), &[]),
            3 => (Some(b"key"), Some(trace.as_bytes()), &[(b"unit", Some(b"C")), (b"", None)]),
            4 => (None, None, &[(b"trace", Some(b"")), (b"trace", Some(b"twice"))]),
            _ => (Some(b"k"), Some(&[0xff; 64]), &[]),
        };
        builder.push(timestamp, key, value, headers).expect("a few records fit");
    }
    let sequence = if producer.id < 0 { -1 } else { 7 };
    let transactional = producer.epoch > 2;
    builder.finish(producer, sequence, transactional).expect("there are records").to_vec()
}

/// What compresses well, in so many bytes.
fn log_text(bytes: usize) -> Vec<u8> {
    let lines =
        (0..).map(|n| format!("Nov 20 10:{:02}:{:02} host app[{n}]: it is {n}\n", n % 60, n % 7));
    let text = lines.flat_map(String::into_bytes);
    text.take(bytes).collect()
}

/// Stamps the first batch of `bytes` with an offset and an epoch.
pub(super) fn at_offset(mut bytes: Vec<u8>, base: Offset, epoch: i32) -> Vec<u8> {
    let header = bytes.first_chunk_mut::<HEADER_LEN>().expect("a batch is longer than its header");
    stamp(header, base, epoch);
    bytes
}

/// The batch that ends a transaction.
pub(super) fn marker(kind: Marker, producer: ProducerIdentity) -> Vec<u8> {
    control_batch(kind, producer, 3, NOW).to_vec()
}

fn batch_seeds() -> Vec<Vec<u8>> {
    let producers = [
        ProducerIdentity::NONE,
        ProducerIdentity { id: 7, epoch: 0 },
        ProducerIdentity { id: 1 << 40, epoch: 3 },
    ];
    let mut seeds = Vec::new();
    for compression in CODECS {
        for (count, producer) in [1, 2, 13].into_iter().zip(producers) {
            seeds.push(plain(compression, count, producer));
        }
    }
    for (code, bytes) in [(1, gzip(&plain_section())), (2, xerial(&plain_section()))] {
        seeds.push(wrap(code, &bytes, 13));
    }
    for kind in [Marker::Abort, Marker::Commit] {
        seeds.push(marker(kind, producers[1]));
    }
    // Times of the append; a delete horizon; a batch whose records compaction removed; gaps it left.
    let flagged = |flags: u8, mut bytes: Vec<u8>| {
        bytes[22] |= flags;
        repair(Sums::Batches, &mut bytes);
        bytes
    };
    seeds.push(flagged(1 << 3, plain(Compression::None, 4, producers[0])));
    seeds.push(flagged(1 << 6, plain(Compression::Lz4, 4, producers[0])));
    let mut empty = plain(Compression::None, 2, producers[1]);
    empty.truncate(HEADER_LEN);
    empty[8..12].copy_from_slice(&49_i32.to_be_bytes());
    empty[57..61].copy_from_slice(&0_i32.to_be_bytes());
    seeds.push(flagged(0, empty));
    let mut gaps = plain(Compression::None, 4, producers[0]);
    gaps[23..27].copy_from_slice(&900_i32.to_be_bytes());
    seeds.push(flagged(0, gaps));
    // The sequence passes its largest number within the batch.
    let mut wraps = plain(Compression::None, 6, producers[1]);
    wraps[53..57].copy_from_slice(&(i32::MAX - 2).to_be_bytes());
    seeds.push(flagged(0, wraps));
    seeds.push(seeds.concat());
    seeds.push(Vec::new());
    seeds
}

// What readers see.

fn visible(bytes: &[u8]) -> Result<Shape, String> {
    let parts = unpack(bytes);
    let part = |at: usize| parts.get(at).map_or(&[][..], |part| part.bytes.as_slice());
    let (fetched, listed, from) = (part(0), part(1), part(2));
    let number = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 8).and_then(|b| b.first_chunk()).map_or(0, |b| i64::from_be_bytes(*b))
    };
    let mut aborted: Vec<AbortedTransaction> = listed
        .chunks_exact(24)
        .map(|entry| AbortedTransaction {
            producer_id: number(entry, 0),
            first_offset: number(entry, 8),
            last_offset: number(entry, 16),
        })
        .collect();
    // A log gives them in this order.
    aborted.sort_by_key(|one| one.first_offset);
    let from = number(from, 0);
    let all: Vec<_> = batches(fetched).filter_map(Result::ok).collect();
    let (mut seen, mut next, mut shape) = (0, 0, None);
    for batch in Visible::new(fetched, &aborted, from) {
        match batch {
            Ok(batch) => {
                let place =
                    all[next..].iter().position(|b| b.bytes.as_ptr() == batch.bytes.as_ptr());
                let Some(place) = place else {
                    return Err("it is no batch of those, or not in order".to_owned());
                };
                next += place + 1;
                if batch.header.is_control() || batch.header.last_offset() < from {
                    return Err(format!("{:?} is not for this reader", batch.header));
                }
                seen += 1;
            }
            Err(e) => shape = Some(shape_of(&e, &e)),
        }
    }
    // Whatever was aborted, those before the first that cannot be believed are all that may be seen.
    let mut end = i64::from(i32::MIN);
    let sound = all.iter().take_while(|batch| {
        let rises = batch.header.base_offset > end.max(-1);
        end = batch.header.last_offset();
        rises && batch.verified().is_ok()
    });
    let meant = |header: &BatchHeader| !header.is_control() && header.last_offset() >= from;
    let data = sound.filter(|batch| meant(&batch.header)).count();
    if seen > data {
        return Err(format!("{seen} batches, of {data} that may be seen"));
    }
    if aborted.is_empty() && seen != data {
        return Err(format!("{seen} of {data} batches, though nothing was aborted"));
    }
    let hidden = if seen < data { "some hidden" } else { "all" };
    Ok(shape.unwrap_or_else(|| format!("{hidden} | {} of {}", about(seen), about(data))))
}

fn visible_seeds() -> Vec<Vec<u8>> {
    let of = |id| ProducerIdentity { id, epoch: 3 };
    let data = |at, id| at_offset(plain(Compression::None, 1, of(id)), at, 1);
    let end = |at, id, kind| at_offset(marker(kind, of(id)), at, 1);
    let fetched = [
        data(10, 7),
        data(11, 8),
        data(12, 7),
        at_offset(plain(Compression::Lz4, 1, ProducerIdentity::NONE), 13, 1),
        end(14, 7, Marker::Abort),
        data(15, 7),
        end(16, 8, Marker::Commit),
    ]
    .concat();
    let aborted = |all: &[[i64; 3]]| -> Vec<u8> {
        all.iter().flatten().flat_map(|number| number.to_be_bytes()).collect()
    };
    let seed = |aborted: Vec<u8>, from: i64| {
        let from = from.to_be_bytes();
        pack(&[
            Part::new("fetched.log", fetched.clone()),
            Part::new("aborted", aborted),
            Part::new("from", from),
        ])
    };
    vec![
        seed(Vec::new(), 0),
        seed(aborted(&[[7, 10, 14]]), 12),
        seed(aborted(&[[8, 11, 16], [7, 4, 14]]), 0),
        seed(aborted(&[[7, 10, 99], [7, 100, 120]]), 15),
    ]
}

// Streams.

/// Opens a stream in a batch that says nothing of its records.
fn stream(code: u8, bytes: &[u8]) -> Result<Shape, String> {
    let wrapped = wrap(code, bytes, 0);
    let batch = BatchRef::parse(&wrapped).map_err(|e| format!("the harness: {e}"))?;
    let open = |limit: usize| {
        let mut scratch = Scratch::with_limit(limit);
        batch.records(&mut scratch).map(|mut records| records.next().is_some())
    };
    let (large, small) = (open(SECTION_MAX), open(4096));
    if let (Err(e), Ok(_)) = (&large, &small) {
        return Err(format!("less is allowed, and it opens: {e}"));
    }
    Ok(match (large, small) {
        (Ok(_), Ok(filled)) => format!("Opens | {filled}"),
        (Ok(_), Err(e)) => "Within ".to_owned() + &shape_of(&e, &e),
        (Err(e), _) => shape_of(&e, &e),
    })
}

/// A batch around a section that is compressed already.
fn wrap(code: u8, section: &[u8], count: i32) -> Vec<u8> {
    let mut bytes = plain(Compression::None, 1, ProducerIdentity::NONE);
    bytes.truncate(HEADER_LEN);
    bytes.extend_from_slice(section);
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[22] = code;
    bytes[23..27].copy_from_slice(&(count - 1).max(0).to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    repair(Sums::Batches, &mut bytes);
    bytes
}

fn plain_section() -> Vec<u8> {
    plain(Compression::None, 13, ProducerIdentity::NONE)[HEADER_LEN..].to_vec()
}

/// Streams that the program's own encoder writes, of little and of much.
fn own_streams(compression: Compression) -> Vec<Vec<u8>> {
    let of = |bytes: usize| {
        let mut builder = BatchBuilder::new(compression, bytes);
        builder.push(NOW, None, Some(&log_text(bytes)), &[]).expect("it fits");
        let batch = builder.finish(ProducerIdentity::NONE, -1, false);
        batch.expect("the build has the codec")[HEADER_LEN..].to_vec()
    };
    let noise: Vec<u8> = {
        let mut rng = thalweg_core::disk::sim::Rng::new(9);
        (0..3000).map(|_| rng.number() as u8).collect()
    };
    let mut builder = BatchBuilder::new(compression, 4096);
    builder.push(NOW, None, Some(&noise), &[]).expect("it fits");
    let noise = builder.finish(ProducerIdentity::NONE, -1, false).expect("the build has the codec");
    // The last one holds more than is allowed.
    vec![of(1), of(400), of(70_000), noise[HEADER_LEN..].to_vec(), of(SECTION_MAX + 1), Vec::new()]
}

fn lz4_seeds() -> Vec<Vec<u8>> {
    let mut seeds = own_streams(Compression::Lz4);
    // With a content size; with a block that is stored; with sums; of linked blocks; a skippable frame.
    for (flags, rest) in [(0x68_u8, 8_usize), (0x64, 0), (0x70, 0), (0x40, 0)] {
        let mut frame = vec![0x04, 0x22, 0x4d, 0x18, flags, 0x40];
        frame.extend(std::iter::repeat_n(0, rest));
        frame.push(0);
        frame.extend_from_slice(&[5, 0, 0, 0x80]);
        frame.extend_from_slice(b"plain\0\0\0\0");
        seeds.push(frame);
    }
    seeds.push(vec![0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4]);
    seeds
}

fn zstd_seeds() -> Vec<Vec<u8>> {
    let mut seeds = own_streams(Compression::Zstd);
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    // One segment that declares much; a window of 2 GiB; a run of 128 KiB in four bytes, many times.
    seeds.push([&magic[..], &[0xe0], &(60_u64 << 20).to_le_bytes(), &[7; 4]].concat());
    seeds.push([&magic[..], &[0x00, 0xa8], &[1, 0, 0]].concat());
    let run = [0x02, 0x00, 0x10, b'x'];
    seeds.push([&magic[..], &[0x00, 0x68], &run.repeat(40), &[1, 0, 0]].concat());
    seeds
}

/// A gzip member of stored blocks: any decoder reads it, and nothing but arithmetic wrote it.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let mut blocks = bytes.chunks(60_000).peekable();
    while let Some(block) = blocks.next() {
        let len = block.len() as u16;
        out.push(u8::from(blocks.peek().is_none()));
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(block);
    }
    out.extend_from_slice(&crc32(bytes).to_le_bytes());
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out
}

/// The sum of gzip (RFC 1952), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

fn gzip_seeds() -> Vec<Vec<u8>> {
    // Of fixed codes: the word "a" (RFC 1951, 3.2.6), and 258 of it again and again, a small bomb.
    let fixed =
        [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b, 4, 0, 0x43, 0xbe, 0xb7, 0xe8, 1, 0, 0, 0];
    let named = {
        let mut member = gzip(b"named");
        member[3] = 0x08;
        member.splice(10..10, *b"file\0");
        member
    };
    let two = [gzip(b"one"), gzip(b"two")].concat();
    vec![gzip(&plain_section()), gzip(&log_text(130_000)), fixed.to_vec(), named, two, Vec::new()]
}

/// A raw snappy block of literals, and a copy of the first one.
fn snappy(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let copy = if bytes.is_empty() { 0 } else { 4 };
    thalweg_core::varint::put_unsigned(&mut out, (bytes.len() + copy) as u64);
    for literal in bytes.chunks(60) {
        out.push((literal.len() as u8 - 1) << 2);
        out.extend_from_slice(literal);
    }
    if copy > 0 {
        // Four bytes, from one byte back.
        out.extend_from_slice(&[0x01, 0x01]);
    }
    out
}

/// Snappy as Kafka's Java clients frame it.
fn xerial(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
    for block in bytes.chunks(1000) {
        let block = snappy(block);
        out.extend_from_slice(&(block.len() as u32).to_be_bytes());
        out.extend_from_slice(&block);
    }
    out
}

fn snappy_seeds() -> Vec<Vec<u8>> {
    // The last: a block that declares 64 MiB and holds nothing.
    let bomb = [&xerial(b"")[..], &[0, 0, 0, 5, 0x80, 0x80, 0x80, 0x20, 0]].concat();
    vec![
        xerial(&plain_section()),
        snappy(&plain_section()),
        snappy(b"a"),
        xerial(b""),
        bomb,
        Vec::new(),
    ]
}

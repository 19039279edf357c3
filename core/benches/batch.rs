//! What a record costs on its way into a batch and out of it: 100-byte values of log text, batches of
//! 16 KiB and 1 MiB, every codec of the build. Throughput counts records (or, for sums, bytes).

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use thalweg_core::batch::{
    Accept, BatchBuilder, BatchRef, Rewrite, Rewriter, Scratch, crc32c, stamp_time, validate_deep,
    validate_shallow,
};
use thalweg_core::compress::Codec;
use thalweg_core::config::Compression;
use thalweg_core::ids::ProducerIdentity;
use thalweg_core::record::{RecordRef, TimestampType};

const PRODUCER: ProducerIdentity = ProducerIdentity { id: 7, epoch: 0 };

/// Values of 100 bytes that look like lines of a log: mostly the same, never equal.
fn values() -> Vec<Vec<u8>> {
    let line = |i: u32| {
        let id = i.wrapping_mul(2_654_435_761);
        let mut line = format!(
            "Jun 10 12:{:02}:{:02} host sshd[{}]: Accepted publickey for user{} from 10.0.{}.{} port {}",
            i / 60 % 60,
            i % 60,
            id % 30_000,
            id % 97,
            id >> 8 & 0xff,
            id & 0xff,
            id % 60_000
        );
        line.truncate(100);
        format!("{line:<100}").into_bytes()
    };
    (0..1024).map(line).collect()
}

fn fill(builder: &mut BatchBuilder, values: &[Vec<u8>], batch_bytes: usize) -> u64 {
    let mut i = 0;
    while builder.bytes() + 140 < batch_bytes {
        let value = &values[i % values.len()];
        builder.push(1_700_000_000_000 + i as i64, None, Some(value), &[]).expect("small");
        i += 1;
    }
    i as u64
}

fn batch(c: &mut Criterion) {
    let values = values();
    let codecs = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];
    for (size, batch_bytes) in [("16KiB", 16 << 10), ("1MiB", 1 << 20)] {
        for compression in codecs {
            let codec = Codec::from(compression);
            if codec.check_supported().is_err() {
                continue;
            }
            let mut builder = BatchBuilder::new(compression, batch_bytes);
            let records = fill(&mut builder, &values, batch_bytes);
            let bytes = builder.finish(PRODUCER, 0, false).expect("not empty");
            let mut group = c.benchmark_group(format!("{codec}/{size}"));
            group.throughput(Throughput::Elements(records));
            group.bench_function("encode", |b| {
                b.iter(|| {
                    fill(&mut builder, &values, batch_bytes);
                    builder.finish(PRODUCER, 0, false).expect("not empty")
                });
            });
            group.bench_function("decode", |b| {
                let mut scratch = Scratch::default();
                b.iter(|| {
                    let batch = BatchRef::parse(black_box(&bytes)).expect("whole");
                    let records = batch.records(&mut scratch).expect("opens");
                    records.fold(0, |sum, record| {
                        sum + record.expect("whole").value.map_or(0, <[u8]>::len)
                    })
                });
            });
            group.bench_function("validate_shallow", |b| {
                b.iter(|| validate_shallow(black_box(&bytes), usize::MAX).expect("legal"));
            });
            group.bench_function("validate_deep", |b| {
                let mut scratch = Scratch::default();
                let accept = Accept::up_to(usize::MAX);
                b.iter(|| validate_deep(black_box(&bytes), &accept, &mut scratch).expect("legal"));
            });
            group.bench_function("rewrite_half", |b| {
                let batch = BatchRef::parse(&bytes).expect("whole");
                let mut rewriter = Rewriter::default();
                let mut out = Vec::new();
                b.iter(|| {
                    out.clear();
                    let half = |record: &RecordRef<'_>| record.offset % 2 == 1;
                    rewriter.rewrite(&batch, Rewrite::default(), half, &mut out).expect("whole")
                });
            });
            group.finish();
        }
    }
}

/// A record with a key and three headers, as lines of files carry them.
fn headers(c: &mut Criterion) {
    let values = values();
    let headers: [(&[u8], Option<&[u8]>); 3] = [
        (b"file", Some(b"/var/log/syslog")),
        (b"offset", Some(&[1; 8])),
        (b"mtime", Some(&[2; 8])),
    ];
    let mut builder = BatchBuilder::new(Compression::None, 256 << 10);
    let mut make = || {
        for value in &values {
            builder
                .push(1_700_000_000_000, Some(b"0123456789abcdef"), Some(value), &headers)
                .expect("small");
        }
        builder.finish(PRODUCER, 0, false).expect("not empty")
    };
    let bytes = make();
    let mut group = c.benchmark_group("headers");
    group.throughput(Throughput::Elements(values.len() as u64));
    group.bench_function("encode", |b| b.iter(&mut make));
    group.bench_function("decode", |b| {
        let mut scratch = Scratch::default();
        b.iter(|| {
            let batch = BatchRef::parse(black_box(&bytes)).expect("whole");
            let records = batch.records(&mut scratch).expect("plain");
            records.fold(0, |sum, record| sum + record.expect("whole").headers.len())
        });
    });
    group.finish();
}

fn sums(c: &mut Criterion) {
    let bytes = vec![7; 1 << 20];
    let mut group = c.benchmark_group("crc32c");
    for len in [100, 16 << 10, 1 << 20] {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{len}"), |b| b.iter(|| crc32c(black_box(&bytes[..len]))));
    }
    group.finish();

    // Of a batch's header alone, whatever its size.
    let mut builder = BatchBuilder::new(Compression::None, 1 << 20);
    fill(&mut builder, &values(), 1 << 20);
    let batch = builder.finish(PRODUCER, 0, false).expect("not empty");
    let mut header = *batch.first_chunk().expect("a header");
    let mut now = 1_700_000_000_000;
    c.bench_function("stamp_time", |b| {
        b.iter(|| {
            now += 1;
            stamp_time(black_box(&mut header), TimestampType::LogAppendTime, now);
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1))
        .without_plots();
    targets = batch, headers, sums
}
criterion_main!(benches);

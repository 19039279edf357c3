//! What a tailed line costs up to the outbox: read, compare, split, hash, hand over.
//!
//! The outbox here only counts, so the figure is the source's own. The file is in the page cache.

use std::io::Write;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::executor::block_on;
use thalweg_connectors::error::Result;
use thalweg_connectors::file::{FileSource, FileSourceConfig};
use thalweg_connectors::source::{Outbox, Polled, Position, Positions, Source, Split};
use thalweg_core::disk::real::RealDisk;

const LINES: u64 = 500_000;

#[derive(Default)]
struct Count {
    lines: u64,
    bytes: u64,
}

impl Outbox for Count {
    fn partitions(&self) -> u32 {
        4
    }

    fn record(
        &mut self,
        _partition: u32,
        _timestamp: i64,
        _key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Result<()> {
        self.lines += u64::from(headers.len() > 1);
        self.bytes += value.map_or(0, |line| line.len() as u64);
        Ok(())
    }

    fn mark(&mut self, _split: &Split, _position: Option<Position>) {}

    fn is_full(&self) -> bool {
        false
    }
}

fn read_all(config: &FileSourceConfig) -> u64 {
    let mut source = FileSource::new(RealDisk, config.clone(), || 0).expect("settings");
    block_on(source.open(&Positions::new())).expect("no positions");
    let mut out = Count::default();
    while block_on(source.poll(&mut out)).expect("polls") != Polled::End {}
    out.lines
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("tail");
    group.sample_size(10);
    for (name, width) in [("lines of 100 B", 100usize), ("lines of 200 B", 200)] {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let mut text = Vec::new();
        for i in 0..LINES {
            let line = format!("2026-11-21T13:52:00.{:03}Z web1 app[{i}]: ", i % 1000);
            text.extend(line.bytes().chain(std::iter::repeat(b'x')).take(width - 1));
            text.push(b'\n');
        }
        file.write_all(&text).expect("room");
        let config = FileSourceConfig {
            paths: vec![file.path().to_owned()],
            once: true,
            sync_source: false,
            ..Default::default()
        };
        assert_eq!(read_all(&config), LINES);
        group.throughput(Throughput::Elements(LINES));
        group.bench_function(name, |b| b.iter(|| read_all(&config)));
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);

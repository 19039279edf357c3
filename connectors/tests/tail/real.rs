//! The same source over the operating system's files.
#![expect(clippy::disallowed_methods, reason = "the rotator of real files")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures::executor::block_on;
use thalweg_connectors::file::{FileSource, FileSourceConfig};
use thalweg_connectors::source::{Outbox, Polled, Position, Positions, Source, Split};
use thalweg_core::disk::real::RealDisk;

struct Lines(Vec<String>, Positions);

impl Outbox for Lines {
    fn partitions(&self) -> u32 {
        1
    }

    fn record(
        &mut self,
        _partition: u32,
        _timestamp: i64,
        _key: Option<&[u8]>,
        value: Option<&[u8]>,
        _headers: &[(&[u8], Option<&[u8]>)],
    ) -> thalweg_connectors::error::Result<()> {
        self.0.extend(value.map(|line| String::from_utf8_lossy(line).into_owned()));
        Ok(())
    }

    fn mark(&mut self, split: &Split, position: Option<Position>) {
        self.1.insert(split.clone(), position);
    }

    fn is_full(&self) -> bool {
        false
    }
}

#[test]
fn real_files_rotate_without_loss_or_repetition() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let append = |path: &Path, text: &str| {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("opens");
        file.write_all(text.as_bytes()).expect("room");
    };
    let config =
        FileSourceConfig { paths: vec![path("app.log*"), path("sub")], ..Default::default() };
    fs::create_dir(path("sub")).expect("new");
    let now = Arc::new(AtomicI64::new(1));
    let mut out = Lines(Vec::new(), Positions::new());
    let source = || {
        let now = Arc::clone(&now);
        FileSource::new(RealDisk, config.clone(), move || now.load(Ordering::Relaxed))
            .expect("settings")
    };
    let run = |source: &mut FileSource<RealDisk>, out: &mut Lines| {
        while matches!(block_on(source.poll(out)).expect("polls"), Polled::More) {}
        block_on(source.before_commit()).expect("nothing changed under the read");
        block_on(source.committed(&out.1)).expect("nothing to do");
        now.fetch_add(1000, Ordering::Relaxed);
    };

    let mut tail = source();
    block_on(tail.open(&Positions::new())).expect("no positions");
    append(&path("app.log"), "one\n");
    append(&path("sub/x"), "sub\n");
    run(&mut tail, &mut out);
    append(&path("app.log"), "two\n");
    fs::rename(path("app.log"), path("app.log.1")).expect("renames");
    append(&path("app.log"), "three\n");
    run(&mut tail, &mut out);

    // Down: copied, truncated, and written to again.
    drop(tail);
    append(&path("app.log"), "four\n");
    fs::copy(path("app.log"), path("app.log.2")).expect("copies");
    fs::OpenOptions::new().write(true).truncate(true).open(path("app.log")).expect("truncates");
    append(&path("app.log"), "five\n");
    out.1.retain(|_, position| position.is_some());
    let mut tail = source();
    block_on(tail.open(&out.1)).expect("own positions");
    for _ in 0..10 {
        run(&mut tail, &mut out);
    }
    out.0.sort();
    assert_eq!(out.0, ["five", "four", "one", "sub", "three", "two"]);
    assert_eq!(tail.skipped(), 0);
    assert_eq!(tail.lag_bytes(), 0);
}

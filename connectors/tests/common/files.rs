//! The folder OUT as its readers see it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures::executor::block_on;
use thalweg_connectors::error::Result;
use thalweg_connectors::files::{FileSink, FileSinkConfig};
use thalweg_connectors::run::sink::{SinkConfig, SinkRunner};
use thalweg_core::client::log::Log;
use thalweg_core::disk::{Disk, read_file};

use super::FakeLog;

pub(crate) const OUT: &str = "/out";
pub(crate) const GROUP: &str = "connect-files";

/// Rolls often: after about a dozen lines.
pub(crate) fn config() -> FileSinkConfig {
    FileSinkConfig {
        roll_bytes: 120,
        buffer_bytes: 32,
        ..FileSinkConfig::new(OUT, [("events", "events"), ("counts", "counts")])
    }
}

/// Reads one or two batches at a time.
pub(crate) fn runner_config() -> SinkConfig {
    SinkConfig {
        partition_bytes: 200,
        wait: Duration::from_millis(10),
        ..SinkConfig::new("files", ["events", "counts"])
    }
}

/// Opens the sink and its runner.
pub(crate) fn open<D: Disk>(
    disk: &D,
    log: &FakeLog,
    nonce: u64,
) -> Result<SinkRunner<FileSink<D>>> {
    open_with(disk, log, config(), nonce)
}

pub(crate) fn open_with<D: Disk>(
    disk: &D,
    log: &FakeLog,
    config: FileSinkConfig,
    nonce: u64,
) -> Result<SinkRunner<FileSink<D>>> {
    let sink = FileSink::claim(disk.clone(), config, log.id(), nonce)?;
    block_on(SinkRunner::open(log.door(), runner_config(), sink))
}

/// A whole bounded run.
pub(crate) fn run<D: Disk>(disk: &D, log: &FakeLog, nonce: u64) -> Result<()> {
    block_on(open(disk, log, nonce)?.finish())
}

/// The finished files by name relative to OUT.
pub(crate) fn finals<D: Disk>(disk: &D) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for folder in ["events", "counts"] {
        let path = Path::new(OUT).join(folder);
        for entry in disk.list(&path).unwrap_or_default() {
            let name = entry.name.to_str().expect("our names are text");
            if !name.ends_with(".ndjson") {
                continue;
            }
            let bytes = read_file(disk, &path.join(name), 1 << 30).expect("readable");
            let text = String::from_utf8(bytes).expect("lines of text");
            files.insert(format!("{folder}/{name}"), text);
        }
    }
    files
}

/// The names in the folder of temporaries.
pub(crate) fn temporaries<D: Disk>(disk: &D) -> Vec<String> {
    let entries = disk.list(&Path::new(OUT).join(".tmp")).unwrap_or_default();
    entries.iter().map(|entry| entry.name.to_string_lossy().into_owned()).collect()
}

/// The lines of one partition's finished files in the order of their start offsets. Checks that each
/// file begins where the one before ended, as long as a record's offset is its number.
pub(crate) fn lines_in_order(
    files: &BTreeMap<String, String>,
    folder: &str,
    topic: &str,
    partition: u32,
) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let prefix = format!("{folder}/{topic}-{partition}-");
    for (name, text) in files.range(prefix.clone()..) {
        let Some(rest) = name.strip_prefix(&prefix) else { break };
        let start: usize = rest.strip_suffix(".ndjson").expect("its end").parse().expect("digits");
        assert_eq!(start, lines.len(), "{name} begins where the file before ended");
        assert!(text.ends_with('\n'), "{name} holds whole lines");
        lines.extend(text.lines().map(str::to_owned));
    }
    lines
}

//! Many partitions, and a long log after a kill. Minutes each, and gigabytes of disk: measured only when
//! asked for by name.
//!
//! ```text
//! cargo run --release --example log_bench -- partitions          10,000 partitions, and the same log with 10
//! cargo run --release --example log_bench -- open/kill9          10 GiB in segments of 1 GiB; --gib N for others
//! ```
//!
//! What is measured once per process (memory, an open that finds nothing in memory, a kill) is done by a
//! child: this program again, with `--child`. The floor of these figures is the bar they are held against,
//! so that a ratio of at most 1 is what is asked for; where there is something to compare with, it is that.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use thalweg::core::client::log::Ack;
use thalweg::core::disk::real::RealDisk;
use thalweg::core::disk::{Disk, DiskFile, Open};
use thalweg::{
    EmbeddedLog, Error, Level, Log, LogConfig, NewTopic, Result, TopicConfig, TopicPartition,
};
use tokio::runtime::Runtime;

use super::hand;
use super::measure::{Name, Pair, Turn, clock_of, cpu_of, fresh_folder, in_turn, report};

const MANY: u32 = 10_000;
const FEW: u32 = 10;
/// How often what is done once per process is done.
const TURNS: usize = 5;
const MIB: f64 = (1 << 20) as f64;
/// What is written between one kill and the next.
const BETWEEN_KILLS: u64 = 256 << 20;
/// Bytes of one slice of appends.
const SLICE: usize = 16 << 20;

fn config(level: Level) -> LogConfig {
    LogConfig { level, ..LogConfig::default() }
}

async fn create(log: &EmbeddedLog, partitions: u32) -> Result<()> {
    let config = TopicConfig { max_message_bytes: 2 << 20, ..TopicConfig::default() };
    log.create_topic(&NewTopic { name: "t".to_owned(), partitions, config }).await.map(drop)
}

fn against(figure: &str, unit: &str, level: &str, bar: f64, values: &[f64]) -> Result<()> {
    let pairs: Vec<Pair> = values.iter().map(|&value| Pair { value, floor: bar }).collect();
    report(&Name { figure, unit, level }, &pairs)
}

/// Ten thousand partitions: made, opened, idle, and beside ten that are written to.
pub(crate) fn partitions(runtime: &Runtime) -> Result<()> {
    let folder = fresh_folder()?;
    let (many, few) = (folder.path().join("many"), folder.path().join("few"));
    for (dir, count) in [(&few, FEW), (&many, MANY)] {
        let log = runtime.block_on(thalweg::open_with(dir, config(Level::Disk)))?;
        let ((), created) = runtime.block_on(clock_of(create(&log, count)))?;
        let ((), closed) = runtime.block_on(clock_of(async { log.close() }))?;
        if count == MANY {
            // No bar: what the device's barriers cost. The floor is the same by hand.
            let by_hand = folders_by_hand(&folder.path().join("hand"))?;
            let pair = Pair { value: created, floor: by_hand };
            report(&Name { figure: "partitions/create", unit: "s", level: "disk" }, &[pair])?;
            let pair = Pair { value: closed, floor: by_hand };
            report(&Name { figure: "partitions/close", unit: "s", level: "disk" }, &[pair])?;
        }
    }
    let per_partition = |of_many: f64, of_few: f64| (of_many - of_few) / f64::from(MANY - FEW);
    let (mut seconds, mut memory, mut files) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let (of_few, of_many) = (opened_by_a_child(&few)?, opened_by_a_child(&many)?);
        seconds.push(of_many[0]);
        memory.push(per_partition(of_many[1], of_few[1]) / 1024.0);
        files.push(of_many[2]);
    }
    against("partitions/open", "s", "disk", 3.0, &seconds)?;
    against("partitions/memory", "KiB/partition", "disk", 4.0, &memory)?;
    against(
        "partitions/files",
        "open files",
        "disk",
        config(Level::Disk).open_files as f64,
        &files,
    )?;
    let disk = per_partition(allocated(&many)?, allocated(&few)?) / 1024.0;
    against("partitions/disk", "KiB/partition", "disk", 32.0, &[disk])?;

    let (many, few) = (Writer::open(runtime, &many)?, Writer::open(runtime, &few)?);
    let name = Name { figure: "partitions/append", unit: "MiB/cpu_s", level: "os" };
    in_turn(&name, || many.write(runtime), || few.write(runtime))?;
    many.log.close()?;
    few.log.close()
}

/// A log in which ten partitions are written to, however many there are.
struct Writer {
    log: std::sync::Arc<EmbeddedLog>,
    at: Vec<TopicPartition>,
}

impl Writer {
    fn open(runtime: &Runtime, dir: &Path) -> Result<Self> {
        let log = runtime.block_on(thalweg::open_with(dir, config(Level::Os)))?;
        let at = (0..FEW).map(|n| TopicPartition::new("t", n)).collect();
        Ok(Self { log, at })
    }

    fn write(&self, runtime: &Runtime) -> Result<Turn> {
        let batch = hand::batch_of(1024, 64 << 10);
        let rounds = SLICE / batch.bytes().len();
        let seconds = runtime.block_on(cpu_of(async {
            for at in self.at.iter().cycle().take(rounds) {
                self.log.append_sealed(at, &batch, None, Ack::Written).await?;
            }
            Ok(())
        }))?;
        Ok(Turn { amount: (rounds * batch.bytes().len()) as f64 / MIB, seconds })
    }
}

/// The least that a durable partition needs: a folder, its name, a small file in it, both durable.
fn folders_by_hand(dir: &Path) -> Result<f64> {
    let begin = std::time::Instant::now();
    let io = |e| Error::io("make", dir, e);
    RealDisk.create_dir(dir).map_err(io)?;
    for n in 0..MANY {
        let folder = dir.join(format!("t-{n}"));
        RealDisk.create_dir(&folder).map_err(io)?;
        thalweg::core::disk::replace_file(&RealDisk, &folder.join("id"), &[b'x'; 43])
            .map_err(io)?;
    }
    RealDisk.sync_dir(dir).map_err(io)?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Bytes that the file system has set aside for a folder and all below.
fn allocated(dir: &Path) -> Result<f64> {
    let io = |e| Error::io("look at", dir, e);
    let mut bytes = std::fs::metadata(dir).map_err(io)?.blocks() as f64 * 512.0;
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        bytes += match entry.file_type().map_err(io)?.is_dir() {
            true => allocated(&entry.path())?,
            false => entry.metadata().map_err(io)?.blocks() as f64 * 512.0,
        };
    }
    Ok(bytes)
}

/// From the call of open to the first record that is acknowledged, after a kill.
pub(crate) fn open_after_a_kill(gib: u64) -> Result<()> {
    for (level, bar) in [(Level::Disk, 1.0), (Level::Os, 1.0)] {
        let folder = fresh_folder()?;
        let dir = folder.path().join("data");
        killed_after_writing(&dir, level, gib << 30)?;
        let (mut warm, mut cold) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            killed_after_writing(&dir, level, BETWEEN_KILLS)?;
            warm.push(appended_by_a_child(&dir, level)?);
            killed_after_writing(&dir, level, BETWEEN_KILLS)?;
            forget_pages(&dir)?;
            cold.push(appended_by_a_child(&dir, level)?);
        }
        against("open/kill9/warm", "s", level.name(), bar, &warm)?;
        against("open/kill9/cold", "s", level.name(), bar, &cold)?;
    }
    Ok(())
}

/// All pages of a folder leave the page cache.
fn forget_pages(dir: &Path) -> Result<()> {
    let io = |e| Error::io("forget", dir, e);
    for entry in RealDisk.list(dir).map_err(io)? {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            forget_pages(&path)?;
        } else {
            let file = RealDisk.open(&path, Open::Read).map_err(io)?;
            // What is dirty stays otherwise.
            file.sync_data().and_then(|()| file.drop_cache(0..u64::MAX)).map_err(io)?;
        }
    }
    Ok(())
}

// The children.

fn child(args: &[&str]) -> Result<Child> {
    let start = || {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--child").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
    };
    start().map_err(|e| Error::io("start", Path::new("a child"), e))
}

/// The line that a child says when it has done its work; it waits for its end then.
fn line_of(child: &mut Child) -> Result<String> {
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        let read = BufReader::new(out).read_line(&mut line);
        read.map_err(|e| Error::io("read", Path::new("a child"), e))?;
    }
    if line.ends_with('\n') { Ok(line) } else { Err(Error::invalid("a child failed: see above")) }
}

fn numbers_of(mut child: Child) -> Result<Vec<f64>> {
    let line = line_of(&mut child);
    // Its input ends: so does it.
    drop(child.stdin.take());
    child.wait().map_err(|e| Error::io("wait for", Path::new("a child"), e))?;
    Ok(line?.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect())
}

fn opened_by_a_child(dir: &Path) -> Result<Vec<f64>> {
    numbers_of(child(&["open", &dir.to_string_lossy()])?)
}

fn appended_by_a_child(dir: &Path, level: Level) -> Result<f64> {
    let numbers = numbers_of(child(&["append", &dir.to_string_lossy(), level.name()])?)?;
    Ok(numbers[0])
}

fn killed_after_writing(dir: &Path, level: Level, bytes: u64) -> Result<()> {
    let mut child = child(&["write", &dir.to_string_lossy(), level.name(), &bytes.to_string()])?;
    let written = line_of(&mut child);
    // SIGKILL, on every system we run on.
    child.kill().map_err(|e| Error::io("kill", Path::new("a child"), e))?;
    child.wait().map_err(|e| Error::io("wait for", Path::new("a child"), e))?;
    written.map(drop)
}

/// What a child does: its work, a line about it, and nothing more until its input ends or it is killed.
pub(crate) fn be_child(runtime: &Runtime, args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (log, line) = match args[..] {
        ["open", dir] => {
            let open = thalweg::open_with(dir, config(Level::Disk));
            let (log, seconds) = runtime.block_on(clock_of(open))?;
            (log, format!("{seconds} {} {}", resident_bytes(), open_files()))
        }
        ["append", dir, level] => {
            let batch = hand::batch_of(1024, 4 << 10);
            let (log, seconds) = runtime.block_on(clock_of(async {
                let log = thalweg::open_with(dir, config(Level::parse(level)?)).await?;
                log.append_sealed(&TopicPartition::new("t", 0), &batch, None, Ack::Level).await?;
                Ok(log)
            }))?;
            (log, seconds.to_string())
        }
        ["write", dir, level, bytes] => {
            let bytes: usize = bytes.parse().map_err(|_| Error::invalid("a number of bytes"))?;
            let batch = hand::batch_of(1024, 1 << 20);
            let log = runtime.block_on(async {
                let log = thalweg::open_with(dir, config(Level::parse(level)?)).await?;
                if log.topic("t").await.is_err() {
                    create(&log, 1).await?;
                }
                for _ in 0..bytes.div_ceil(batch.bytes().len()) {
                    let at = TopicPartition::new("t", 0);
                    log.append_sealed(&at, &batch, None, Ack::Level).await?;
                }
                Result::<_>::Ok(log)
            })?;
            (log, "written".to_owned())
        }
        _ => return Err(Error::invalid("children are started by this program alone")),
    };
    let said = writeln!(std::io::stdout(), "{line}").and_then(|()| std::io::stdout().flush());
    said.map_err(|e| Error::io("write", Path::new("standard output"), e))?;
    // The timers of the log go on meanwhile.
    let end = std::io::stdin().lines().count();
    debug_assert_eq!(end, 0);
    log.close()
}

fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kib = line.split_ascii_whitespace().next().and_then(|kib| kib.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) * 1024.0
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

//! Writes a data folder with our engine, for Kafka to read; and says what ours serves of any folder.
//!
//! ```text
//!   folders write DIR OUT     DIR: our data folder, as it will be, stopped cleanly
//!   folders say DIR OUT       DIR: a data folder of ours or a log directory of Kafka's, looked at without
//!                             writing in it, also beside a broker
//!
//!     OUT/topics                        what it holds, as Folders.java creates it: NAME PARTITIONS [KEY=VALUE ...]
//!     OUT/records.<isolation>.ndjson    what ours serves, a record a line, as Folders.java prints it
//!     OUT/answers.txt                   what is right to answer, as Folders.java asks it
//!     OUT/lookups.faults                where the engine's own lookups find something else: empty
//! ```
//!
//! Always true here: what is said of a folder that was written is read from the engine before it stops, so that
//! transactions that are left open are still open in what is said; one input, one output, but for the
//! times of markers.

mod answer;
mod json;
mod write;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use thalweg_core::Log;
use thalweg_core::client::log::Isolation;
use thalweg_core::config::{Level, LogConfig};
use thalweg_core::disk::real::RealDisk;
use thalweg_core::engine::clock::Clock;
use thalweg_core::engine::runtime::Runtime;
use thalweg_core::engine::{Engine, open_real};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How often the folder is opened: every time but the first one begins another leader epoch.
const LIVES: usize = 3;

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [command, dir, out] = &words[..] else { return Err(USE.into()) };
    let (dir, out) = (Path::new(dir), Path::new(out));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build()?;
    fs::create_dir_all(out)?;
    match command.as_str() {
        "write" => runtime.block_on(write_folder(dir, out)),
        "say" => runtime.block_on(say(dir, out)),
        _ => Err(format!("no command {command:?}; {USE}").into()),
    }
}

const USE: &str = "use: folders write DIR OUT | folders say DIR OUT";

async fn write_folder(dir: &Path, out: &Path) -> Outcome<()> {
    for life in 1..=LIVES {
        let engine = open(dir).await?;
        let log = Arc::clone(&engine).into_log();
        if life == 1 {
            write::everything(&log).await?;
        }
        write::one_life(&log, life).await?;
        if life < LIVES {
            // Dropped without a clean stop: as after a crash, the next one begins an epoch.
            continue;
        }
        let _open = write::left_open(&log).await?;
        describe(&log, out).await?;
        engine.close()?;
    }
    Ok(())
}

async fn say(dir: &Path, out: &Path) -> Outcome<()> {
    let (runtime, config) = (Runtime::current(), LogConfig::default());
    let engine = Engine::look(RealDisk, dir, config, runtime, Clock::System).await?;
    describe(&Arc::new(engine).into_log(), out).await
}

async fn open(dir: &Path) -> Outcome<Arc<Engine<RealDisk>>> {
    let config = LogConfig { level: Level::Os, ..LogConfig::default() };
    Ok(open_real(dir, config).await?)
}

/// Says what ours serves.
async fn describe(log: &Arc<dyn Log>, out: &Path) -> Outcome<()> {
    let (mut topics, mut answers, mut faults) = (String::new(), String::new(), String::new());
    let (mut committed, mut uncommitted) = (String::new(), String::new());
    for topic in log.topics().await? {
        if topic.name.starts_with("__") {
            continue;
        }
        topics += &format!("{} {}", topic.name, topic.partitions);
        for (name, value) in topic.config.to_map() {
            if !name.starts_with("thalweg.") {
                topics += &format!(" {name}={value}");
            }
        }
        topics.push('\n');
        for number in 0..topic.partitions {
            let partition = answer::Partition::read(log, &topic.name, number).await?;
            partition.records(Isolation::ReadCommitted, &mut committed)?;
            partition.records(Isolation::ReadUncommitted, &mut uncommitted)?;
            partition.answers(log, &mut answers, &mut faults).await?;
        }
    }
    fs::write(out.join("topics"), topics)?;
    fs::write(out.join("records.read_committed.ndjson"), committed)?;
    fs::write(out.join("records.read_uncommitted.ndjson"), uncommitted)?;
    fs::write(out.join("answers.txt"), answers)?;
    fs::write(out.join("lookups.faults"), faults)?;
    Ok(())
}

//! Tails files into a log and prints what arrives, as `tail -F` does, but through restarts: a line
//! that was committed is never read again, and none is left out, whatever rotates the files.
//!
//! ```text
//! $ cargo run --example tail_logs -- --once --data ./data '/var/log/*.log'
//! /var/log/app.log:0 started
//! /var/log/app.log:8 listening on port 80
//! 2 lines, now in topic lines of ./data
//! ```
//!
//! Printing is not part of the log's transaction: after a kill some lines may be printed once more.
//! `log_etl` shows a sink that writes each of them once.
#![expect(clippy::print_stdout, reason = "a program for people to look at")]

use std::error::Error;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use clap::Parser;
use futures::future::{Either, select};
use thalweg::connectors::file::{FileSource, FileSourceConfig, LinePlace};
use thalweg::connectors::run::Step;
use thalweg::connectors::run::source::{SourceConfig, SourceRunner};
use thalweg::core::disk::real::RealDisk;
use thalweg::{Consumer, ConsumerConfig, Log, TopicPartition};

const TOPIC: &str = "lines";

/// Tails files, folders and globs into a log, and prints their lines.
#[derive(Parser)]
struct Options {
    /// The folder of the log; a temporary one when not given.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Read what is there now, and end.
    #[arg(long)]
    once: bool,
    /// Files, folders (their files, not below) or globs.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let temporary = tempfile::tempdir()?;
    let data = options.data.unwrap_or_else(|| temporary.path().join("data"));
    let log = thalweg::open(&data).await?;

    // The source: lines and how far they cover their files go into the log in one transaction.
    let files = FileSourceConfig {
        paths: options.paths,
        excluded: vec![data.clone()],
        once: options.once,
        ..Default::default()
    };
    let clock = log.clone();
    let source = FileSource::new(RealDisk, files, move || clock.now())?;
    let config = SourceConfig::new("tail", TOPIC);
    let mut source = SourceRunner::open(log.clone(), config, source).await?;

    // The reader: the group's position says what was printed.
    let config = ConsumerConfig { group: Some("printer".to_owned()), ..Default::default() };
    let mut consumer = Consumer::open(log.clone(), config);
    consumer.subscribe(&[TOPIC]).await?;

    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut lines = 0;
    loop {
        let step = source.step().await?;
        for notice in source.source_mut().take_notices() {
            eprintln!("{}: {}", notice.path.display(), notice.what);
        }
        lines += print(&mut consumer, Duration::ZERO).await?;
        match step {
            Step::Worked => {}
            Step::End => break,
            Step::Idle(time) => match select(interrupted.as_mut(), log.sleep(time)).await {
                Either::Left((told, _)) => {
                    told?;
                    break;
                }
                Either::Right(_) => {}
            },
        }
    }
    source.finish().await?;
    let at = TopicPartition::new(TOPIC, 0);
    let end = log.offsets(&at).await?.end;
    while consumer.position(&at) < Some(end) {
        lines += print(&mut consumer, Duration::from_secs(1)).await?;
    }
    println!("{lines} lines, now in topic {TOPIC} of {}", data.display());
    log.close()?;
    match source.source().skipped() {
        0 => Ok(()),
        skipped => Err(format!("{skipped} inputs were skipped: they are named above").into()),
    }
}

/// Prints the lines that are committed and were not printed yet; how many.
async fn print(consumer: &mut Consumer, wait: Duration) -> Result<usize, Box<dyn Error>> {
    let records = consumer.poll(wait).await?;
    let lines = records.iter().filter_map(|record| Some((record, record.value.as_deref()?)));
    for (record, line) in lines.clone() {
        let headers = record.headers.iter().map(|h| (h.key.as_bytes(), h.value.as_deref()));
        let place = LinePlace::of(headers).ok_or("a record that is no line of a file")?;
        println!("{}:{} {}", place.file, place.offset, String::from_utf8_lossy(line));
    }
    if !records.is_empty() {
        consumer.commit().await?;
    }
    Ok(lines.count())
}

//! Log files in, exactly-once aggregates out, on an embedded log. Nothing but a Rust toolchain needed.
//!
//! ```text
//! cargo run --release --example log_etl                        the log files under /var/log
//! cargo run --release --example log_etl -- [OPTIONS] PATH...   files, folders or globs
//! ```
//!
//! It tails the files into topic `logs.raw` of the log in DATA, runs one typed pipeline over it
//! (`pipeline.rs` is the whole of it), and writes rolling NDJSON files into OUT. Kill it at any
//! moment, with -9 if you like: the next run goes on, nothing lost, nothing doubled.

mod pipeline;
mod progress;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use clap::Parser;
use futures::executor::block_on;
use futures::future::{Either, select};
use thalweg::connectors::decode::Zone;
use thalweg::connectors::file::{FileSource, FileSourceConfig, NoticeLevel};
use thalweg::connectors::files::{FileSink, FileSinkConfig};
use thalweg::connectors::run::Step;
use thalweg::connectors::run::sink::{SinkConfig, SinkRunner};
use thalweg::connectors::run::source::{Pace, SourceConfig, SourceRunner};
use thalweg::connectors::run::topic::Partitions;
use thalweg::core::disk::real::RealDisk;
use thalweg::streams::{App, RunningApp};
use thalweg::{EmbeddedLog, Level, Log, LogConfig};
use tokio::sync::watch;

use self::pipeline::{COUNTS, EVENTS, LATE, LATEST, RAW, pipeline};
use self::progress::{Shown, say, show};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Tails log files and writes events, counts, late lines and last messages as NDJSON, exactly once.
#[derive(Parser)]
struct Options {
    /// Read what is there now, write everything, and end.
    #[arg(long)]
    once: bool,
    /// The folder of the log and of the state.
    #[arg(long, value_name = "DIR", default_value = "./thalweg-data")]
    data: PathBuf,
    /// The folder of the results.
    #[arg(long, value_name = "DIR", default_value = "./thalweg-out")]
    out: PathBuf,
    /// What committed lines survive: `disk` a power loss, `os` a crash of the process.
    #[arg(long, value_parser = level, default_value = "disk")]
    level: Level,
    /// How long a minute waits for lines that come late: 90s, 5m, 1h, 1d.
    #[arg(long, value_parser = duration, default_value = "1h", allow_hyphen_values = true)]
    grace: Duration,
    /// Partitions of logs.raw; 4 when it is created. Another number than it has is refused.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: Option<u32>,
    /// Threads of the pipeline; as many as there are cores when not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    threads: Option<u16>,
    /// Files, folders (their files, not below) or globs; the files under /var/log when none is given.
    paths: Vec<PathBuf>,
}

fn level(text: &str) -> Result<Level, thalweg::Error> {
    Level::parse(text)
}

fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?}: use a whole number and s, m, h or d, as in 90s or 1h");
    let unit = text.chars().last().ok_or_else(bad)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| bad())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(bad)
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    let options = Options::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            say(&format!("log_etl: cannot start: {e}"));
            return ExitCode::from(1);
        }
    };
    match runtime.block_on(run(options)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(skipped) => {
            say(&format!("done, but {skipped} inputs were skipped: they are named above"));
            ExitCode::from(3)
        }
        Err(e) => {
            say(&format!("log_etl: {e}"));
            ExitCode::from(1)
        }
    }
}

/// Runs everything; how many inputs were skipped.
async fn run(options: Options) -> Result<u64, Failure> {
    let is_new = !options.data.join("format").exists();
    let config = LogConfig {
        level: options.level,
        // Records are read soon after they are written: memory is of more use to other programs.
        page_cache_bytes: Some(16 << 20),
        ..Default::default()
    };
    let log = thalweg::open_with(&options.data, config).await?;
    let report = log.report();
    say(&format!(
        "log: {} ({} start; {} bytes checked, {} transactions finished, {} aborted)",
        log.guarantee(),
        match (is_new, report.clean) {
            (true, _) => "first",
            (false, true) => "clean",
            (false, false) => "recovered",
        },
        report.scanned_bytes,
        report.finished,
        report.aborted + report.revoked
    ));
    let shown = Arc::new(Shown::default());
    let done = work(&options, &log, &shown).await;
    // A clean stop, whatever happened: the next start need not look at anything.
    let closed = log.close();
    let skipped = done?;
    closed?;
    Ok(skipped)
}

/// The parts: source, pipeline, sink; started in this order, ended in this order.
async fn work(
    options: &Options,
    log: &Arc<EmbeddedLog>,
    shown: &Arc<Shown>,
) -> Result<u64, Failure> {
    let (stop_source, source_stops) = watch::channel(false);
    let (stop_sink, sink_stops) = watch::channel(false);
    let mut signals = signals()?;
    let source = open_source(options, log).await?;
    let mut app = App::new(APP, pipeline(Zone::system(), options.grace))?
        .state_dir(options.data.join("state"))
        .commit_every(Duration::from_millis(100))
        .checkpoint(Duration::from_secs(10), 16 << 20);
    if let Some(threads) = options.threads {
        app = app.threads(usize::from(threads));
    }
    let app = app.start(log.clone()).await?;
    let report = app.report();
    say(&format!(
        "state: loaded checkpoint of {} tasks, replayed {} records",
        report.checkpoints_loaded, report.records_replayed
    ));
    let sink = open_sink(options, log).await?;

    let (their_log, theirs) = (log.clone(), Arc::clone(shown));
    let mut source = tokio::task::spawn_blocking(move || {
        block_on(follow(source, their_log, theirs, source_stops))
    });
    let (theirs, hurry) = (Arc::clone(shown), signals.clone());
    let mut sink =
        tokio::task::spawn_blocking(move || block_on(write(sink, theirs, sink_stops, hurry)));
    let view = tokio::spawn(show(Arc::clone(shown)));

    // Whatever ends first decides: the input, a signal, or a failure.
    let outcome = tokio::select! {
        biased;
        ended = &mut source => Ended::Source(ended?),
        ended = &mut sink => Ended::Sink(ended?),
        failed = app.failed() => Ended::App(failed.into()),
        () = count(&app, shown) => Ended::Signal,
        () = asked(&mut signals, 1) => Ended::Signal,
    };
    let finished = match outcome {
        Ended::Source(Ok(())) => {
            // Everything is in the log: read it to its end, and close what holds data.
            tokio::select! {
                biased;
                ended = app.end_of_input() => ended?,
                () = count(&app, shown) => {}
                () = asked(&mut signals, 1) => say(STOPPING),
            }
            look(&app, shown).await?;
            app.stop().await.map_err(Failure::from)
        }
        Ended::Signal => {
            say(STOPPING);
            let _ = stop_source.send(true);
            let stopped = source.await?;
            look(&app, shown).await?;
            app.stop().await?;
            stopped
        }
        Ended::Source(Err(e)) | Ended::App(e) | Ended::Sink(Err(e)) => {
            let _ = stop_source.send(true);
            // The first error is the one to tell; the others follow from it.
            let _ = app.stop().await;
            Err(e)
        }
        Ended::Sink(Ok(())) => Err("the sink ended by itself".into()),
    };
    let _ = stop_sink.send(true);
    let written = sink.await?;
    view.abort();
    finished?;
    written?;
    let cut = match shown.cut.load(Relaxed) {
        0 => String::new(),
        cut => format!(" ({cut} cut)"),
    };
    say(&format!(
        "{} lines{cut}, {} windows closed, {} late, {} files written",
        shown.lines.load(Relaxed),
        shown.windows.load(Relaxed),
        shown.late.load(Relaxed),
        shown.finished()
    ));
    Ok(shown.skipped.load(Relaxed))
}

enum Ended {
    Source(Result<(), Failure>),
    Sink(Result<(), Failure>),
    App(Failure),
    Signal,
}

/// The pipeline's name: its transactions, its state and its positions go by it.
const APP: &str = "log-etl";

type Tail = SourceRunner<FileSource<RealDisk>>;

/// The source: files into `logs.raw`, positions in the same transactions.
async fn open_source(options: &Options, log: &Arc<EmbeddedLog>) -> Result<Tail, Failure> {
    let default = options.paths.is_empty();
    let paths = if default { vec![PathBuf::from("/var/log")] } else { options.paths.clone() };
    let files = FileSourceConfig {
        paths,
        excluded: vec![options.data.clone(), options.out.clone()],
        once: options.once,
        sync_source: options.level == Level::Disk,
        pass_unreadable: default,
        ..Default::default()
    };
    let partitions = match options.partitions {
        Some(count) => Partitions::Exactly(count),
        None => Partitions::AsCreated(4),
    };
    // Files that are read once wait as long as it takes: the pipeline finds their lines in memory then.
    let pace = Pace { group: APP.to_owned(), records: 50_000 };
    let pace = options.once.then_some(pace);
    let config = SourceConfig { partitions, pace, ..SourceConfig::new("files", RAW.name()) };
    let clock = log.clone();
    let source = FileSource::new(RealDisk, files, move || clock.now())?;
    Ok(SourceRunner::open(log.clone(), config, source).await?)
}

/// The sink: four topics into four folders.
async fn open_sink(
    options: &Options,
    log: &Arc<EmbeddedLog>,
) -> Result<SinkRunner<FileSink<RealDisk>>, Failure> {
    let topics = [
        (EVENTS.name(), "events"),
        (COUNTS.name(), "counts"),
        (LATE.name(), "late"),
        (LATEST.name(), "latest"),
    ];
    let config = FileSinkConfig::new(absolute(&options.out)?, topics);
    let nonce = thalweg::core::engine::clock::Entropy::System.next();
    let sink = FileSink::claim(RealDisk, config, log.id(), nonce)?;
    let config = SinkConfig::new("ndjson", topics.map(|(topic, _)| topic));
    Ok(SinkRunner::open(log.clone(), config, sink).await?)
}

fn absolute(path: &Path) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

/// Tails until there is no more (`--once`) or until told to stop.
async fn follow(
    mut runner: Tail,
    log: Arc<EmbeddedLog>,
    shown: Arc<Shown>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Failure> {
    loop {
        let stopping = *stop.borrow();
        let step = if stopping { None } else { Some(runner.step().await?) };
        let stats = runner.stats();
        shown.unread.store(stats.lag_bytes, Relaxed);
        let source = runner.source_mut();
        for notice in source.take_notices() {
            let mark = if notice.level == NoticeLevel::Warning { "warning" } else { "note" };
            say(&format!("{mark}: {}: {}", notice.path.display(), notice.what));
        }
        shown.files.store(source.stats().files, Relaxed);
        shown.cut.store(source.stats().cut_lines, Relaxed);
        shown.lines.store(source.stats().lines, Relaxed);
        shown.skipped.store(source.skipped(), Relaxed);
        match step {
            None => return Ok(runner.finish().await?),
            Some(Step::End) => return Ok(()),
            Some(Step::Worked) => {}
            Some(Step::Idle(time)) => {
                let told = std::pin::pin!(stop.changed());
                if let Either::Left((Err(_), _)) = select(told, log.sleep(time)).await {
                    return Ok(runner.finish().await?);
                }
            }
        }
    }
}

/// Writes until told to stop, then everything that is committed; what a full disk holds up after a
/// signal is left to the next start.
async fn write(
    mut runner: SinkRunner<FileSink<RealDisk>>,
    shown: Arc<Shown>,
    mut stop: watch::Receiver<bool>,
    mut signals: watch::Receiver<u32>,
) -> Result<(), Failure> {
    let finished = runner.sink().finished();
    // Only this thread sets it, and once.
    let _ = shown.finished.set(finished);
    let told = async {
        // An error means that whoever would tell is gone.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    runner.run(told).await?;
    let mut again = signals.clone();
    let hurry = async {
        asked(&mut signals, 1).await;
        let again = std::pin::pin!(asked(&mut again, 2));
        select(again, std::pin::pin!(tokio::time::sleep(PATIENCE))).await;
    };
    if !runner.finish_until(hurry).await? {
        say("not everything is written: the next start goes on there");
    }
    Ok(())
}

/// Reads the counters of the pipeline.
async fn look(app: &RunningApp, shown: &Shown) -> Result<(), Failure> {
    let stats = app.stats().await?;
    shown.lag.store(stats.lag, Relaxed);
    shown.windows.store(stats.windows_closed, Relaxed);
    shown.late.store(stats.late, Relaxed);
    Ok(())
}

/// Keeps the counters of the pipeline fresh, until that fails: whatever stopped the log is told by
/// those who work with it.
async fn count(app: &RunningApp, shown: &Shown) {
    while look(app, shown).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    std::future::pending::<()>().await;
}

/// How long after a signal the sink goes on writing.
const PATIENCE: Duration = Duration::from_secs(10);

const STOPPING: &str = "stopping: what was read is committed, open minutes stay open";

/// Counts Ctrl-C and SIGTERM.
fn signals() -> std::io::Result<watch::Receiver<u32>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (count, counted) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            count.send_modify(|count| *count += 1);
        }
    });
    Ok(counted)
}

/// Until so many signals came.
async fn asked(signals: &mut watch::Receiver<u32>, times: u32) {
    if signals.wait_for(|&count| count >= times).await.is_err() {
        // Nobody counts any more: the program ends.
        std::future::pending::<()>().await;
    }
}

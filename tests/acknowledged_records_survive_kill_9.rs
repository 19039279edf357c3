//! What producers were told is stored is there after SIGKILL, again and again: once, and in order.
//!
//! ```text
//! THALWEG_KILLS=100     kills of a run; 5 when not set
//! THALWEG_RECORDS=10000 records that are acknowledged before each kill; 2,000 when not set
//! ```
//!
//! A writer's process opens the log, finds out how far each of its four producers had come, goes on
//! with the next number, and prints each number that was acknowledged. It is killed in the middle of
//! that, or while it opens the log; then what is new is read, and in the end everything again. What a kill cannot show, a sync that is
//! missing, the simulated disk shows.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reference::random::Random;
use thalweg::{
    Admin, Consumer, ConsumerConfig, EmbeddedLog, Log, LogConfig, NewTopic, Producer,
    ProducerConfig, Record, Result, TopicConfig, TopicPartition,
};

mod reference;

const WRITERS: u32 = 4;
/// Records that a producer is given before it waits for all of them.
const AT_ONCE: u64 = 50;
const FOLDER: &str = "THALWEG_TEST_WRITES_INTO";

#[test]
fn what_was_acknowledged_is_there_once_and_in_order_after_kills() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        // The process that is killed.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
        let ended = runtime.block_on(write(Path::new(&folder)));
        panic!("writing ends only when it is killed: {ended:?}");
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let kills = number("THALWEG_KILLS").unwrap_or(5);
    let records = number("THALWEG_RECORDS").unwrap_or(2000);
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut random = Random::new(kills);
    // What was acknowledged, and what was found, by writer.
    let (mut told, mut found) = ([0; WRITERS as usize], [0; WRITERS as usize]);
    let begin = Instant::now();
    for kill in 1..=kills {
        if kill % 5 == 0 {
            // Inside the opening: whatever it was about to do is done by the next one.
            let mut early = start(folder.path());
            std::thread::sleep(Duration::from_micros(random.below(20_000) as u64));
            early.kill().expect("killed");
            early.wait().expect("ended");
        }
        let mut writer = start(folder.path());
        let out = BufReader::new(writer.stdout.take().expect("a pipe"));
        let (mut left, before) = (records, found);
        // Whatever it had printed before it died counts.
        for line in out.lines() {
            let line = line.expect("text");
            // The test program itself prints lines too.
            let Some((by, upto)) = acknowledged(&line) else { continue };
            // Those of the life before that nobody was told of do not count.
            left = left.saturating_sub(upto - told[by].max(before[by]));
            told[by] = upto;
            if left == 0 {
                writer.kill().expect("killed");
            }
        }
        let status = writer.wait().expect("ended");
        assert_eq!(left, 0, "it ended by itself: {status}");
        let log = runtime.block_on(open(folder.path())).expect("opens after a kill");
        runtime.block_on(check(&log, &told, &mut found)).expect("can be read");
        log.close().expect("closes");
    }
    // Once more from the beginning: what was found after one kill is there after all others.
    let log = runtime.block_on(open(folder.path())).expect("opens");
    let (all, mut again) = (found, [0; WRITERS as usize]);
    runtime.block_on(check(&log, &all, &mut again)).expect("can be read");
    assert_eq!(again, all);
    log.close().expect("closes");
    let (told, found): (u64, u64) = (told.iter().sum(), found.iter().sum());
    eprintln!(
        "{kills} kills in {:.0?}: {told} records acknowledged, {found} found, 0 lost",
        begin.elapsed()
    );
    assert!(told >= kills * records && found >= told);
}

fn start(folder: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "what_was_acknowledged_is_there_once_and_in_order_after_kills"])
        .arg("--nocapture")
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts")
}

/// `acknowledged WRITER NUMBER`.
fn acknowledged(line: &str) -> Option<(usize, u64)> {
    let mut words = line.strip_prefix("acknowledged ")?.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

async fn open(folder: &Path) -> Result<Arc<EmbeddedLog>> {
    thalweg::open_with(folder.join("data"), LogConfig::default()).await
}

/// Goes on with every writer until the process dies.
async fn write(folder: &Path) -> Result<()> {
    let log = open(folder).await?;
    // Small segments: they roll, and are behind the recovery point, all the time.
    let config = TopicConfig { segment_bytes: 1 << 20, ..TopicConfig::default() };
    for by in 0..WRITERS {
        let numbers = NewTopic { name: topic(by), partitions: 1, config: config.clone() };
        Admin::new(log.clone()).ensure_topic(&numbers).await?;
    }
    let writers = (0..WRITERS).map(|by| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let topic = topic(by);
            let mut next = last(&log, by).await? + 1;
            let producer = Producer::open(log, ProducerConfig::default()).await?;
            loop {
                for number in next..next + AT_ONCE {
                    let record = Record::value(format!("{number} {}", "x".repeat(90)));
                    drop(producer.send(&topic, record).await?);
                }
                producer.flush().await?;
                next += AT_ONCE;
                let line = format!("acknowledged {by} {}\n", next - 1);
                // Whole, or not at all: it is shorter than what a pipe takes at once.
                std::io::stdout().lock().write_all(line.as_bytes()).expect("the pipe is open");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        let ended: Result<()> = writer.await.expect("no panic");
        ended?;
    }
    Ok(())
}

/// Each writer's numbers are in a topic of their own.
fn topic(by: u32) -> String {
    format!("numbers-{by}")
}

/// The last number of a writer.
async fn last(log: &Arc<EmbeddedLog>, by: u32) -> Result<u64> {
    let at = TopicPartition::new(topic(by), 0);
    let end = log.offsets(&at).await?.end;
    Ok(u64::try_from(end).unwrap_or(0))
}

/// Reads on behind what was found before: numbers follow each other without a gap, up to what was
/// acknowledged at least.
async fn check(
    log: &Arc<EmbeddedLog>,
    told: &[u64; WRITERS as usize],
    found: &mut [u64; WRITERS as usize],
) -> Result<()> {
    let log: Arc<dyn Log> = log.clone();
    let mut consumer = Consumer::open(Arc::clone(&log), ConsumerConfig::default());
    let all: Vec<_> = (0..WRITERS).map(|by| TopicPartition::new(topic(by), 0)).collect();
    consumer.assign(&all).await?;
    for (at, found) in all.iter().zip(&*found) {
        consumer.seek(at, *found as i64)?;
    }
    loop {
        let records = consumer.poll(Duration::ZERO).await?;
        if records.is_empty() {
            break;
        }
        for record in &records {
            let text = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
            let number = text.split(' ').next().and_then(|n| n.parse::<u64>().ok());
            let by = all.iter().position(|at| *at == record.at).expect("it was assigned");
            assert_eq!(number, Some(found[by] + 1), "{} offset {}", record.at, record.offset);
            found[by] += 1;
        }
    }
    for (by, (told, found)) in told.iter().zip(&*found).enumerate() {
        assert!(found >= told, "writer {by}: {told} acknowledged, {found} there");
    }
    Ok(())
}

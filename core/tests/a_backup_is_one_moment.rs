//! A backup taken at any moment beside a living writer: every transaction is whole in it or not there, and
//! what was acknowledged before it began is there.
#![expect(clippy::disallowed_methods, reason = "writers and the copy are tasks here")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use thalweg_core::backup::backup;
use thalweg_core::batch::{Scratch, Visible};
use thalweg_core::client::log::*;
use thalweg_core::client::transaction::{ProducerConfig, TransactionalProducer};
use thalweg_core::config::LogConfig;
use thalweg_core::disk::real::RealDisk;
use thalweg_core::engine::{Engine, open_real};
use thalweg_core::ids::TopicPartition;
use thalweg_core::record::Record;
use thalweg_core::verify::{Severity, verify};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

async fn open(dir: &Path) -> Arc<Engine<RealDisk>> {
    let config = LogConfig { level: Level::Os, min_free_bytes: 0, ..LogConfig::default() };
    open_real(dir, config).await.expect("opens")
}

/// What readers of committed records see in a topic.
async fn committed(log: &dyn Log, topic: &str) -> Vec<i64> {
    let at = TopicPartition::new(topic, 0);
    let mut offset = log.offsets(&at).await.expect("there").start;
    let options = FetchOptions {
        isolation: Isolation::ReadCommitted,
        max_wait: Duration::ZERO,
        max_bytes: 0,
    };
    let (mut seen, mut scratch) = (Vec::new(), Scratch::default());
    loop {
        let ask = FetchFrom { at: at.clone(), offset, max_bytes: 1 << 20 };
        let fetched = log.fetch(&[ask], options).await.expect("read");
        let one = &fetched[0];
        if one.batches.is_empty() {
            return seen;
        }
        for batch in Visible::new(&one.batches, &one.aborted, offset) {
            let batch = batch.expect("as written");
            for record in batch.records(&mut scratch).expect("as written").starting_at(offset) {
                let value = record.expect("as written").value.expect("a number").to_vec();
                let text = String::from_utf8(value).expect("a number");
                seen.push(text.parse::<i64>().expect("a number"));
            }
        }
        offset = one.next_offset;
    }
}

/// Takes from one account and gives to the other, in transactions; every fifth is aborted. Small
/// segments, so that they are sealed and begun while they are copied.
async fn transfer(
    log: Arc<Engine<RealDisk>>,
    id: u32,
    turns: Arc<Semaphore>,
    done: Arc<AtomicU64>,
) {
    let log: Arc<dyn Log> = log.into_log();
    let name = format!("teller-{id}");
    let mut producer =
        TransactionalProducer::open(log, &name, ProducerConfig::default()).await.expect("opens");
    let mut n = 0_u32;
    while let Ok(turn) = turns.acquire().await {
        turn.forget();
        n += 1;
        producer.begin().await.expect("begins");
        let amount = i64::from(n % 97 + 1);
        let pause = n.is_multiple_of(3);
        producer.send("a", Record::value(format!("{}", -amount))).await.expect("sent");
        if pause {
            tokio::task::yield_now().await;
        }
        producer.send("b", Record::value(format!("{amount}"))).await.expect("sent");
        if n.is_multiple_of(5) {
            producer.flush().await.expect("written");
            producer.abort().await.expect("aborted");
        } else {
            producer.commit().await.expect("committed");
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_transaction_is_half_in_a_backup() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = folder.path().join("source");
    let log = open(&source).await;
    for topic in ["a", "b"] {
        let config = TopicConfig { segment_bytes: 20_000, ..TopicConfig::default() };
        let topic = NewTopic { name: topic.to_owned(), partitions: 1, config };
        log.create_topic(&topic).await.expect("created");
    }
    let turns = Arc::new(Semaphore::new(0));
    let done = Arc::new(AtomicU64::new(0));
    let tellers: Vec<_> = (0..3)
        .map(|id| {
            tokio::spawn(transfer(Arc::clone(&log), id, Arc::clone(&turns), Arc::clone(&done)))
        })
        .collect();
    let mut cut_short = 0;
    for round in 0..8_u64 {
        // Asked before there are turns to take: this task may sleep until all of them were taken.
        let wanted = done.load(Ordering::Relaxed) + 3 + 11 * (round % 8);
        turns.add_permits(200);
        while done.load(Ordering::Relaxed) < wanted {
            assert!(!tellers.iter().any(JoinHandle::is_finished), "a teller gave up");
            tokio::task::yield_now().await;
        }
        let acknowledged = done.load(Ordering::Relaxed);
        let target = folder.path().join(format!("copy-{round}"));
        let (from, to) = (source.clone(), target.clone());
        let copied =
            tokio::task::spawn_blocking(move || backup(&RealDisk, &from, &to, &mut |_| {}));
        copied.await.expect("it does not panic").expect("copied");
        let report = verify(&RealDisk, &target, &mut |_| {}).expect("it is a log");
        assert!(report.worst() < Some(Severity::Rebuildable), "{:#?}", report.findings);

        let copy = open(&target).await;
        let (a, b) = (committed(&*copy, "a").await, committed(&*copy, "b").await);
        assert_eq!(a.iter().sum::<i64>() + b.iter().sum::<i64>(), 0, "round {round}");
        assert_eq!(a.len(), b.len(), "round {round}");
        assert!(a.len() as u64 >= acknowledged, "round {round}: {} of {acknowledged}", a.len());
        for topic in ["a", "b"] {
            let offsets = copy.offsets(&TopicPartition::new(topic, 0)).await.expect("there");
            assert_eq!(offsets.last_stable, offsets.end, "nothing stays undecided");
        }
        cut_short += usize::from(copy.report().aborted > 0);
        copy.close().expect("closes");
    }
    turns.close();
    for teller in tellers {
        teller.await.expect("it does not panic");
    }
    assert!(cut_short > 0, "no backup met a transaction under way");
    // The source was not touched.
    let (a, b) = (committed(&*log, "a").await, committed(&*log, "b").await);
    assert_eq!(a.iter().sum::<i64>() + b.iter().sum::<i64>(), 0);
    log.close().expect("closes");
    let report = verify(&RealDisk, &source, &mut |_| {}).expect("it is a log");
    assert_eq!(report.findings, []);
}

//! Level `disk`: what an acknowledgement that survives a power loss waits for. By the clock, because
//! the device is what is waited for.

use std::sync::Barrier;
use std::time::Instant;

use futures::future::try_join_all;
use thalweg::core::batch::Sealed;
use thalweg::core::client::log::Ack;
use thalweg::{Error, Level, Log, Result, TopicPartition};
use tokio::runtime::Runtime;

use super::hand::{self, FloorFile};
use super::measure::{Name, Pair, clock_of, fresh_folder, pairs, quantile, report, sorted};
use super::write::open;

/// Partitions, and as many writers.
const WRITERS: usize = 64;
/// Batches of each writer in a turn.
const ROUNDS: usize = 40;
const BATCH_BYTES: usize = 16 << 10;
/// Files that are synced at the same time, as the engine's default.
const THREADS: usize = 16;
const IDLE_WAITS: usize = 60;
const MILLISECONDS: f64 = 1e3;

/// What a turn gave: MiB a second, and each wait in milliseconds, rising.
struct Synced {
    rate: f64,
    waits: Vec<f64>,
}

/// Sixty-four writers of a partition each, every append waited for; against sixteen threads that write
/// the same bytes to sixty-four files and sync them, round by round.
pub(crate) fn many(runtime: &Runtime, preallocate: bool) -> Result<()> {
    let batch = hand::batch_of(1024, BATCH_BYTES);
    let mib = (WRITERS * ROUNDS * batch.bytes().len()) as f64 / f64::from(1 << 20);
    let mut late = Vec::new();
    let name = Name { figure: "append/disk/64x64", unit: "MiB/s", level: "disk" };
    pairs(&name, || {
        let ours = runtime.block_on(through_the_log(&batch, mib))?;
        let floor = by_hand(&batch, mib, preallocate)?;
        let p99 = |of: &Synced| quantile(&of.waits, 0.99);
        late.push(Pair { value: p99(&ours), floor: p99(&floor) });
        Ok(Pair { value: ours.rate, floor: floor.rate })
    })?;
    report(&Name { figure: "append/disk/64x64/p99", unit: "ms", level: "disk" }, &late[1..])
}

async fn through_the_log(batch: &Sealed, mib: f64) -> Result<Synced> {
    let folder = fresh_folder()?;
    let log = open(folder.path(), Level::Disk, WRITERS as u32).await?;
    let writers = (0..WRITERS as u32).map(|n| {
        let (log, batch) = (log.clone(), batch.clone());
        let writer = tokio::spawn(async move {
            let at = TopicPartition::new("t", n);
            let mut waits = Vec::with_capacity(ROUNDS);
            for _ in 0..ROUNDS {
                let append = log.append_sealed(&at, &batch, None, Ack::Level);
                waits.push(clock_of(append).await?.1 * MILLISECONDS);
            }
            Result::<_>::Ok(waits)
        });
        async { writer.await.expect("a writer does not panic") }
    });
    let (waits, seconds) = clock_of(try_join_all(writers.collect::<Vec<_>>())).await?;
    log.close()?;
    Ok(Synced { rate: mib / seconds, waits: sorted(waits.concat()) })
}

fn by_hand(batch: &Sealed, mib: f64, preallocate: bool) -> Result<Synced> {
    let folder = fresh_folder()?;
    let path = folder.path().join("floor");
    let files = (0..WRITERS)
        .map(|n| FloorFile::create(&folder.path().join(n.to_string()), preallocate))
        .collect::<Result<Vec<_>>>()?;
    let round = Barrier::new(THREADS + 1);
    let mut files = files.into_iter();
    let shares: Vec<Vec<FloorFile>> =
        (0..THREADS).map(|_| files.by_ref().take(WRITERS / THREADS).collect()).collect();
    let begin = Instant::now();
    let (rounds, results) = std::thread::scope(|scope| {
        let threads: Vec<_> = shares
            .into_iter()
            .map(|mut share| {
                let round = &round;
                scope.spawn(move || {
                    let mut result = Ok(());
                    for _ in 0..ROUNDS {
                        let mut step = || {
                            share.iter_mut().try_for_each(|file| file.write(batch.bytes()))?;
                            share.iter().try_for_each(FloorFile::sync)
                        };
                        result = result.and_then(|()| step());
                        round.wait();
                    }
                    result
                })
            })
            .collect();
        let rounds: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let begin = Instant::now();
                round.wait();
                begin.elapsed().as_secs_f64() * MILLISECONDS
            })
            .collect();
        let results: Vec<_> =
            threads.into_iter().map(|t| t.join().expect("a thread does not panic")).collect();
        (rounds, results)
    });
    let seconds = begin.elapsed().as_secs_f64();
    results
        .into_iter()
        .collect::<std::io::Result<()>>()
        .map_err(|e| Error::io("sync", &path, e))?;
    Ok(Synced { rate: mib / seconds, waits: sorted(rounds) })
}

/// One writer that appends 4 KiB and waits, against one file that is written and synced; wait by wait.
pub(crate) fn idle(runtime: &Runtime, preallocate: bool) -> Result<()> {
    let batch = hand::batch_of(1024, 4 << 10);
    let name = Name { figure: "append/disk/idle", unit: "ms", level: "disk" };
    pairs(&name, || {
        let folder = fresh_folder()?;
        let log = runtime.block_on(open(folder.path(), Level::Disk, 1))?;
        let at = TopicPartition::new("t", 0);
        let path = folder.path().join("floor");
        let mut file = FloorFile::create(&path, preallocate)?;
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..IDLE_WAITS {
            let append = log.append_sealed(&at, &batch, None, Ack::Level);
            ours.push(runtime.block_on(clock_of(append))?.1 * MILLISECONDS);
            let begin = Instant::now();
            file.write(batch.bytes())
                .and_then(|()| file.sync())
                .map_err(|e| Error::io("sync", &path, e))?;
            floor.push(begin.elapsed().as_secs_f64() * MILLISECONDS);
        }
        log.close()?;
        let median = |waits| quantile(&sorted(waits), 0.5);
        Ok(Pair { value: median(ours), floor: median(floor) })
    })
}

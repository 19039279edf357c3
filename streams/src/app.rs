//! The application: a topology, a log and a state folder, running on threads until it is told to stop.
//!
//! ```text
//!   open      topics, membership (one member, one generation), tasks brought up
//!   threads   each steps its worker: fetch, process, commit; woken by appends and by commands
//!   end       --once: subtopologies in order: all read -> end of input -> committed
//!   stop      commit, checkpoint, leave
//! ```
//!
//! Always true here: this file and what it calls are the only async and threaded part of the package;
//! an error of one worker stops all of them, and is returned; nothing is lost by a stop of any kind.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{Either, FutureExt, select};
use parking_lot::Mutex;
use thalweg_core::client::log::{Log, Membership};
use thalweg_core::client::transaction::{ProducerConfig, TransactionalProducer};
use thalweg_core::ids::TopicPartition;
use tokio::sync::{Notify, oneshot};

use crate::bring_up::{BringUp, bring_up};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::state::backend::StateStore;
use crate::state::memory::MemoryStore;
use crate::state::sled::{SledSettings, SledStore};
use crate::stream::Builder;
use crate::task::CLOSED_AT_ONCE;
use crate::topology::Topology;
use crate::worker::{Checkpoints, Parts, Progress, Step, Worker, WorkerConfig};

/// How long a worker waits before it tries again what may pass by itself.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How often it says so.
const RETRY_TOLD_EVERY_MS: i64 = 60_000;
/// The longest wait for records: after it a worker looks at the clock again.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// An application, before it runs.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use thalweg_core::Log;
/// # use thalweg_streams::{App, Builder, Result};
/// # fn pipeline(b: &Builder) -> Result<()> { Ok(()) }
/// # async fn run(log: Arc<dyn Log>) -> Result<()> {
/// let app = App::new("auctions", pipeline)?.state_dir("./state").threads(2);
/// app.run_until(log, std::future::pending()).await
/// # }
/// ```
pub struct App {
    topology: Topology,
    threads: usize,
    commit: Duration,
    commit_bytes: u64,
    checkpoint: Duration,
    checkpoint_bytes: usize,
    fetch_bytes: usize,
    close_at_once: usize,
    partitions: Option<u32>,
    transaction_timeout: Duration,
    state: State,
}

enum State {
    Folder(PathBuf, SledSettings),
    Store(Arc<dyn StateStore>),
}

impl App {
    /// An application of this id: the id names its group, its changelogs and its transactions.
    ///
    /// # Errors
    /// [`Error::Invalid`] with everything that is wrong with the pipeline.
    pub fn new(id: &str, pipeline: impl FnOnce(&Builder) -> Result<()>) -> Result<Self> {
        Ok(Self {
            topology: Topology::build(id, pipeline)?,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            commit: Duration::from_millis(50),
            commit_bytes: 8 << 20,
            checkpoint: Duration::from_secs(10),
            checkpoint_bytes: 64 << 20,
            fetch_bytes: 1 << 20,
            close_at_once: CLOSED_AT_ONCE,
            partitions: None,
            transaction_timeout: Duration::from_secs(60),
            state: State::Store(Arc::new(MemoryStore::default())),
        })
    }

    /// Keeps state in sled in this folder. Without it, state is in memory and every start replays the
    /// changelogs.
    #[must_use]
    pub fn state_dir(self, dir: impl Into<PathBuf>) -> Self {
        Self { state: State::Folder(dir.into(), SledSettings::default()), ..self }
    }

    /// Keeps state in this store.
    #[must_use]
    pub fn state_store(self, store: Arc<dyn StateStore>) -> Self {
        Self { state: State::Store(store), ..self }
    }

    /// Worker threads; default as many as there are cores.
    #[must_use]
    pub fn threads(self, threads: usize) -> Self {
        Self { threads: threads.max(1), ..self }
    }

    /// How often a busy pipeline commits; default 50 ms. Drained input commits at once. Longer means
    /// fewer changelog records and later results.
    #[must_use]
    pub fn commit_every(self, interval: Duration) -> Self {
        Self { commit: interval, ..self }
    }

    /// Bytes of output after which a transaction commits; default 8 MiB.
    #[must_use]
    pub fn commit_bytes(self, bytes: u64) -> Self {
        Self { commit_bytes: bytes, ..self }
    }

    /// How often committed rows are saved, at most; default every 10 s or 64 MiB. It bounds what a
    /// start after a crash replays.
    #[must_use]
    pub fn checkpoint(self, interval: Duration, bytes: usize) -> Self {
        Self { checkpoint: interval, checkpoint_bytes: bytes, ..self }
    }

    /// About how many results of windows a thread makes in one transaction, whole windows; default 8,192.
    /// When a long input ends, or time jumps, more of them may close than memory should hold.
    #[must_use]
    pub fn close_at_once(self, rows: usize) -> Self {
        Self { close_at_once: rows.max(1), ..self }
    }

    /// Bytes a thread reads at a time, of all its inputs together; default 1 MiB.
    #[must_use]
    pub fn fetch_bytes(self, bytes: usize) -> Self {
        Self { fetch_bytes: bytes.max(1), ..self }
    }

    /// Partitions of repartition and output topics that do not exist yet; default as many as the
    /// input has.
    #[must_use]
    pub fn partitions(self, partitions: u32) -> Self {
        Self { partitions: Some(partitions.max(1)), ..self }
    }

    /// The pipeline in words.
    pub fn describe(&self) -> String {
        self.topology.describe()
    }

    /// Runs until `stop` is ready, then commits, saves and leaves.
    ///
    /// # Errors
    /// What stopped it.
    pub async fn run_until(self, log: Arc<dyn Log>, stop: impl Future<Output = ()>) -> Result<()> {
        let running = self.start(log).await?;
        let failed = {
            let stop = std::pin::pin!(stop);
            let failed = std::pin::pin!(running.failed());
            match select(stop, failed).await {
                Either::Left(_) => Ok(()),
                Either::Right((e, _)) => Err(e),
            }
        };
        // The worker's own error says more than that one failed.
        running.stop().await.and(failed)
    }

    /// Brings up the tasks and gives the workers, to be stepped by the caller: what a simulation does.
    ///
    /// # Errors
    /// Those of [`App::start`].
    pub async fn open(self, log: Arc<dyn Log>) -> Result<Stepped> {
        let opened = self.prepare(log, false).await?;
        Ok(Stepped { opened })
    }

    /// Brings up the tasks and starts the threads.
    ///
    /// # Errors
    /// A source that does not exist, topics that do not fit, positions whose records are gone, state
    /// of another topology, and the log's.
    pub async fn start(self, log: Arc<dyn Log>) -> Result<RunningApp> {
        let mut opened = self.prepare(log, true).await?;
        let workers = std::mem::take(&mut opened.workers);
        let shared = Arc::new(Shared { failed: Mutex::new(None), failure: Notify::new() });
        let threads = workers
            .into_iter()
            .enumerate()
            .map(|(number, worker)| Thread::start(number, worker, &opened.log, &shared))
            .collect::<Result<_>>()?;
        Ok(RunningApp { opened, threads, shared })
    }

    async fn prepare(self, log: Arc<dyn Log>, background: bool) -> Result<Opened> {
        let topology = Arc::new(self.topology);
        let layout = Arc::new(Layout::prepare(log.as_ref(), &topology, self.partitions).await?);
        // Joining expels whoever ran this application before; its producers are fenced below.
        let member = log.join_group(topology.app()).await?;
        let store: Arc<dyn StateStore> = match self.state {
            State::Store(store) => store,
            State::Folder(dir, settings) => {
                let (store, quarantined) = SledStore::open(&dir, &settings, log.now())?;
                if let Some(quarantined) = quarantined {
                    tracing::error!("{quarantined}");
                }
                Arc::new(store)
            }
        };
        let config = WorkerConfig {
            commit_ms: self.commit.as_millis() as i64,
            commit_bytes: self.commit_bytes,
            checkpoint_ms: self.checkpoint.as_millis() as i64,
            checkpoint_bytes: (self.checkpoint_bytes / self.threads).max(1),
            fetch_bytes: self.fetch_bytes,
            close_at_once: self.close_at_once,
        };
        let producer =
            ProducerConfig { transaction_timeout: self.transaction_timeout, ..Default::default() };
        let mut producers = Vec::new();
        for number in 0..self.threads {
            let id = format!("{}/{number}", topology.app());
            producers
                .push(TransactionalProducer::open(Arc::clone(&log), &id, producer.clone()).await?);
        }
        let (ready, report) = bring_up(log.as_ref(), &topology, &layout, store.as_ref()).await?;
        let mut shares: Vec<Vec<_>> = (0..self.threads).map(|_| Vec::new()).collect();
        let mut tasks = Vec::new();
        for (number, ready) in ready.into_iter().enumerate() {
            let progress = Arc::new(Progress::default());
            tasks.push((ready.subtopology, ready.input.clone(), Arc::clone(&progress)));
            shares[number % self.threads].push((ready, progress));
        }
        let checkpoints = if background { saving_thread()? } else { Checkpoints::Inline };
        let workers = shares
            .into_iter()
            .zip(producers)
            .map(|(tasks, producer)| {
                Worker::new(Parts {
                    log: Arc::clone(&log),
                    topology: Arc::clone(&topology),
                    layout: Arc::clone(&layout),
                    store: Arc::clone(&store),
                    member: member.clone(),
                    producer,
                    config: config.clone(),
                    checkpoints: checkpoints.clone(),
                    tasks,
                })
            })
            .filter(|worker| !worker.is_empty())
            .collect();
        Ok(Opened { log, topology, member, tasks, workers, report })
    }
}

/// Starts the thread on which an application's checkpoints are saved, one after the other: they wait for
/// the same disk, and what memory one gives back the next one takes. It ends with the workers.
#[expect(clippy::disallowed_methods, reason = "one of the two places that start threads")]
fn saving_thread() -> Result<Checkpoints> {
    let (send, jobs) = std::sync::mpsc::channel::<Box<dyn FnOnce() + Send>>();
    std::thread::Builder::new()
        .name("thalweg-checkpoint".to_owned())
        .spawn(move || jobs.into_iter().for_each(|save| save()))
        .map_err(|e| Error::invalid(format!("cannot start a thread for checkpoints: {e}")))?;
    // A job that is not taken is dropped: its worker finds that nobody answers.
    Ok(Checkpoints::Background(Arc::new(move |save| drop(send.send(save)))))
}

/// An application that was brought up.
struct Opened {
    log: Arc<dyn Log>,
    topology: Arc<Topology>,
    member: Membership,
    tasks: Vec<(usize, TopicPartition, Arc<Progress>)>,
    workers: Vec<Worker>,
    report: BringUp,
}

impl Opened {
    /// Whether every task of a subtopology has read and committed everything there is.
    async fn is_drained(&self, subtopology: usize) -> Result<bool> {
        for (_, input, progress) in self.tasks.iter().filter(|(sub, ..)| *sub == subtopology) {
            let end = self.log.offsets(input).await?.end;
            if progress.dirty.load(Ordering::Acquire)
                || progress.committed.load(Ordering::Acquire) < end
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        for (_, input, progress) in &self.tasks {
            let end = self.log.offsets(input).await?.end;
            let behind = end - progress.committed.load(Ordering::Acquire);
            stats.lag += u64::try_from(behind).unwrap_or(0);
            stats.records += progress.records.load(Ordering::Relaxed);
            stats.late += progress.late.load(Ordering::Relaxed);
            stats.windows_closed += progress.windows_closed.load(Ordering::Relaxed);
        }
        Ok(stats)
    }
}

/// What an application did since it was started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// Records processed, over all subtopologies.
    pub records: u64,
    /// Offsets that are there and not committed yet, over all subtopologies.
    pub lag: u64,
    /// Records too late for every window.
    pub late: u64,
    /// Results of closed windows.
    pub windows_closed: u64,
}

/// An application whose workers are stepped by the caller.
pub struct Stepped {
    opened: Opened,
}

impl Stepped {
    /// What starting found and did.
    pub fn report(&self) -> &BringUp {
        &self.opened.report
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.opened.workers.len()
    }

    /// Steps one worker.
    ///
    /// # Errors
    /// Those of [`Worker::step`].
    pub async fn step(&mut self, worker: usize) -> Result<Step> {
        self.opened.workers[worker].step().await
    }

    /// Steps all workers until none has anything to do.
    ///
    /// # Errors
    /// Those of [`Worker::step`].
    pub async fn drain(&mut self) -> Result<()> {
        loop {
            let mut idle = true;
            for worker in &mut self.opened.workers {
                idle &= worker.step().await? == Step::Idle;
            }
            if idle {
                return Ok(());
            }
        }
    }

    /// Reads everything there is and ends the input, subtopology by subtopology.
    ///
    /// # Errors
    /// Those of [`Worker::step`].
    pub async fn end_of_input(&mut self) -> Result<()> {
        let topology = Arc::clone(&self.opened.topology);
        for &subtopology in topology.order() {
            self.drain().await?;
            for worker in &mut self.opened.workers {
                worker.end_of_input(subtopology).await?;
            }
        }
        self.drain().await
    }

    /// Commits, saves and leaves.
    ///
    /// # Errors
    /// Those of [`Worker::stop`].
    pub async fn stop(mut self) -> Result<()> {
        for worker in &mut self.opened.workers {
            worker.stop().await?;
        }
        Ok(self.opened.log.leave_group(&self.opened.member).await?)
    }

    /// What it did so far.
    ///
    /// # Errors
    /// The log's.
    pub async fn stats(&self) -> Result<Stats> {
        self.opened.stats().await
    }
}

/// What a thread is told.
enum Command {
    EndOfInput(usize, oneshot::Sender<()>),
    Stop,
}

struct Shared {
    /// What the first worker that failed said.
    failed: Mutex<Option<String>>,
    failure: Notify,
}

struct Thread {
    commands: Arc<(Mutex<Vec<Command>>, Notify)>,
    ended: oneshot::Receiver<Result<()>>,
}

impl Thread {
    #[expect(clippy::disallowed_methods, reason = "one of the two places that start threads")]
    fn start(
        number: usize,
        worker: Worker,
        log: &Arc<dyn Log>,
        shared: &Arc<Shared>,
    ) -> Result<Self> {
        let commands: Arc<(Mutex<Vec<Command>>, Notify)> = Arc::default();
        let (send, ended) = oneshot::channel();
        let (theirs, log, shared) = (Arc::clone(&commands), Arc::clone(log), Arc::clone(shared));
        let run = move || {
            let worked = AssertUnwindSafe(run(worker, &log, &theirs)).catch_unwind();
            let result = futures::executor::block_on(worked)
                .unwrap_or_else(|panic| Err(Error::panicked(format!("worker {number}"), &*panic)));
            if let Err(e) = &result {
                tracing::error!(error = %e, "a worker failed");
            }
            let failed = result.as_ref().err().map(ToString::to_string);
            // The application reads it when it stops; when it is gone nobody needs it.
            let _ = send.send(result);
            if let Some(failed) = failed {
                shared.failed.lock().get_or_insert(failed);
                shared.failure.notify_waiters();
                shared.failure.notify_one();
            }
        };
        std::thread::Builder::new()
            .name(format!("thalweg-worker-{number}"))
            .spawn(run)
            .map_err(|e| Error::invalid(format!("cannot start a worker thread: {e}")))?;
        Ok(Self { commands, ended })
    }

    fn tell(&self, command: Command) {
        self.commands.0.lock().push(command);
        self.commands.1.notify_one();
    }
}

/// The loop of one thread.
async fn run(
    mut worker: Worker,
    log: &Arc<dyn Log>,
    commands: &(Mutex<Vec<Command>>, Notify),
) -> Result<()> {
    let mut told_at = None;
    loop {
        let told = std::mem::take(&mut *commands.0.lock());
        for command in told {
            match command {
                Command::EndOfInput(subtopology, done) => {
                    worker.end_of_input(subtopology).await?;
                    // Whoever asked may have given up waiting.
                    let _ = done.send(());
                }
                Command::Stop => return worker.stop().await,
            }
        }
        match worker.step().await {
            Ok(Step::Worked) => {}
            Ok(Step::Idle) => {
                let wait = std::pin::pin!(worker.wait(WAIT_MAX));
                let told = std::pin::pin!(commands.1.notified());
                if let Either::Left((Err(e), _)) = select(wait, told).await {
                    return Err(e);
                }
            }
            Err(Error::Log(e)) if e.is_retriable() => {
                let now = log.now();
                if told_at.is_none_or(|at| now - at >= RETRY_TOLD_EVERY_MS) {
                    told_at = Some(now);
                    tracing::warn!(error = %e, "the transaction was aborted; it is tried again");
                }
                log.sleep(RETRY_AFTER).await;
            }
            Err(e) => return Err(e),
        }
    }
}

/// An application that runs on its threads.
pub struct RunningApp {
    opened: Opened,
    threads: Vec<Thread>,
    shared: Arc<Shared>,
}

impl RunningApp {
    /// What starting found and did.
    pub fn report(&self) -> &BringUp {
        &self.opened.report
    }

    /// What it did so far.
    ///
    /// # Errors
    /// The log's.
    pub async fn stats(&self) -> Result<Stats> {
        self.opened.stats().await
    }

    /// Waits until a worker fails, and says what it said; [`RunningApp::stop`] then gives its error.
    pub async fn failed(&self) -> Error {
        loop {
            let failure = self.shared.failure.notified();
            let mut failure = std::pin::pin!(failure);
            failure.as_mut().enable();
            if let Some(e) = self.failure() {
                return e;
            }
            failure.await;
        }
    }

    fn failure(&self) -> Option<Error> {
        let failed = self.shared.failed.lock();
        failed.as_ref().map(|what| Error::invalid(format!("a worker failed: {what}")))
    }

    /// Waits until everything that is in the log is processed, then ends the input: open windows are
    /// emitted and committed. Nothing may be appended to the sources meanwhile.
    ///
    /// # Errors
    /// The log's, or that a worker failed.
    pub async fn end_of_input(&self) -> Result<()> {
        for &subtopology in self.opened.topology.order() {
            while !self.opened.is_drained(subtopology).await? {
                if let Some(e) = self.failure() {
                    return Err(e);
                }
                self.opened.log.sleep(Duration::from_millis(5)).await;
            }
            for thread in &self.threads {
                let (send, done) = oneshot::channel();
                thread.tell(Command::EndOfInput(subtopology, send));
                let gone = || Error::invalid("a worker is gone");
                done.await.map_err(|_| self.failure().unwrap_or_else(gone))?;
            }
        }
        Ok(())
    }

    /// Commits, saves and leaves. Waits for the threads.
    ///
    /// # Errors
    /// The first error of a worker.
    pub async fn stop(self) -> Result<()> {
        for thread in &self.threads {
            thread.tell(Command::Stop);
        }
        let mut first = Ok(());
        for thread in self.threads {
            let ended =
                thread.ended.await.unwrap_or_else(|_| Err(Error::invalid("a worker is gone")));
            first = first.and(ended);
        }
        first?;
        Ok(self.opened.log.leave_group(&self.opened.member).await?)
    }
}

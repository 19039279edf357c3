//! A worker: some tasks, one transactional producer, and the exactly-once protocol in steps.
//!
//! ```text
//!   S1  fetch, process           records -> stages -> batches of the open transaction; what the
//!                                application itself put into repartition topics comes first
//!       or close                 the rest of what time closed, before the next record
//!   S2  is it time to commit?    interval, bytes, results of windows, or all inputs drained
//!   S3  flush every touched task changelog records, marks of time, meta record
//!   S4  flush the producer       everything is written
//!   S5  offsets                  of every touched task, also when none moved: that fences zombies
//!   S6  commit                   the log decides
//!   S7  committed                overlays merged, positions moved
//!   S8  checkpoint               off this path: rows, barrier, meta, barrier
//! ```
//!
//! Always true here: a step never leaves a transaction half-made: it commits whole, or an error aborts
//! it and every task goes back to its last commit; the store is written with committed rows only, and
//! only after the log called them durable.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use thalweg_core::batch::{Scratch, Visible};
use thalweg_core::client::log::{
    FetchFrom, FetchOptions, Fetched, Isolation, Log, Membership, OffsetCommit,
};
use thalweg_core::client::transaction::{Slot, TransactionalProducer};
use thalweg_core::ids::{Offset, Timestamp, TopicPartition};

use crate::bring_up::{Ready, second_handle};
use thalweg_core::client::partitioner::partition_of;

use crate::cx::{Emit, Outgoing, Route};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::position::Note;
use crate::state::backend::StateStore;
use crate::state::checkpoint::write_checkpoint;
use crate::state::meta::{CheckpointMeta, Meta};
use crate::task::{Commit, Consumed, Frozen};
use crate::topology::Topology;

/// Settings of a worker, as [`crate::app::App`] gives them.
#[derive(Clone, Debug)]
pub(crate) struct WorkerConfig {
    pub(crate) commit_ms: i64,
    pub(crate) commit_bytes: u64,
    pub(crate) checkpoint_ms: i64,
    pub(crate) checkpoint_bytes: usize,
    pub(crate) fetch_bytes: usize,
    pub(crate) close_at_once: usize,
}

/// What a step found to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Records were processed or committed: step again at once.
    Worked,
    /// There was nothing to do.
    Idle,
}

/// How a task stands, for others to look at. Written by its worker after each step.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The next offset of its input, committed.
    pub(crate) committed: AtomicI64,
    /// Whether it holds anything that is not committed, or is closing.
    pub(crate) dirty: AtomicBool,
    pub(crate) records: AtomicU64,
    pub(crate) late: AtomicU64,
    pub(crate) windows_closed: AtomicU64,
}

/// A task in its worker.
struct Running {
    ready: Ready,
    progress: Arc<Progress>,
    /// Slots by output and partition.
    slots: Vec<Vec<Slot>>,
    /// Where the last commit left the input.
    committed: (Offset, i32),
    /// Whether the open transaction has anything of this task in it.
    touched: bool,
    /// The meta record of the last commit, for the next checkpoint.
    meta: Option<Meta>,
    /// Committed since the last checkpoint.
    unsaved: bool,
    /// Since when the input stands at its end, and whether the task was told.
    at_end: Option<(Timestamp, bool)>,
    /// When the clock moved its time last.
    clock_at: Timestamp,
}

/// Where checkpoints are written.
#[derive(Clone)]
pub(crate) enum Checkpoints {
    /// In the step that begins them: a simulation.
    Inline,
    /// On another thread, which runs the closures that it is given one after the other.
    Background(Arc<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>),
}

/// Tasks that share a producer.
pub struct Worker {
    log: Arc<dyn Log>,
    topology: Arc<Topology>,
    store: Arc<dyn StateStore>,
    member: Membership,
    producer: TransactionalProducer,
    config: WorkerConfig,
    /// Those that read repartition topics, then the others.
    tasks: Vec<Running>,
    /// How many read repartition topics.
    repartitioned: usize,
    turns: Turns,
    scratch: Scratch,
    /// Since when the open transaction has something in it.
    began: Option<Timestamp>,
    /// How many results of windows there were before it.
    closed_before: u64,
    last_checkpoint: Timestamp,
    checkpoints: Checkpoints,
    /// The checkpoint under way, on another thread.
    saving: Option<Saving>,
    sticky: u32,
    /// What came while it waited: the next step's.
    waited_for: Option<Vec<Fetched>>,
}

/// Who is asked first.
#[derive(Default)]
struct Turns {
    all: usize,
    repartitioned: usize,
    others: usize,
}

impl Turns {
    /// The next turn, after one in which of the others, and of those that read repartition topics, any was
    /// asked. Only then the next of its kind is first: if every turn counted, it could be the same one
    /// whenever its kind is reached.
    fn pass(&mut self, [others, repartitioned]: [bool; 2]) {
        self.all = self.all.wrapping_add(1);
        self.others = self.others.wrapping_add(usize::from(others));
        self.repartitioned = self.repartitioned.wrapping_add(usize::from(repartitioned));
    }
}

/// One turn in so many begins with the inputs that are no repartition topics.
const OTHERS_FIRST: usize = 8;

struct Saving {
    tasks: Vec<usize>,
    done: std::sync::mpsc::Receiver<Result<()>>,
}

/// What a worker is made of.
pub(crate) struct Parts {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) topology: Arc<Topology>,
    pub(crate) layout: Arc<Layout>,
    pub(crate) store: Arc<dyn StateStore>,
    pub(crate) member: Membership,
    pub(crate) producer: TransactionalProducer,
    pub(crate) config: WorkerConfig,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) tasks: Vec<(Ready, Arc<Progress>)>,
}

impl Worker {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            log,
            topology,
            layout,
            store,
            member,
            mut producer,
            config,
            checkpoints,
            tasks,
        } = parts;
        let mut tasks: Vec<Running> = tasks
            .into_iter()
            .map(|(mut ready, progress)| {
                ready.task.close_at_once(config.close_at_once);
                let outputs = topology.subtopologies()[ready.subtopology].outputs();
                let slots = outputs
                    .iter()
                    .map(|o| layout.all(&o.topic).iter().map(|at| producer.slot(at)).collect())
                    .collect();
                progress.committed.store(ready.next_offset, Ordering::Release);
                let committed = (ready.next_offset, ready.leader_epoch);
                Running {
                    ready,
                    progress,
                    slots,
                    committed,
                    touched: false,
                    meta: None,
                    unsaved: false,
                    at_end: None,
                    clock_at: 0,
                }
            })
            .collect();
        let is_repartitioned =
            |task: &Running| topology.subtopologies()[task.ready.subtopology].is_repartitioned();
        tasks.sort_by_key(|task| !is_repartitioned(task));
        let repartitioned = tasks.iter().filter(|task| is_repartitioned(task)).count();
        let last_checkpoint = log.now();
        Self {
            log,
            topology,
            store,
            member,
            producer,
            config,
            tasks,
            repartitioned,
            turns: Turns::default(),
            scratch: Scratch::default(),
            began: None,
            closed_before: 0,
            last_checkpoint,
            checkpoints,
            saving: None,
            sticky: 0,
            waited_for: None,
        }
    }

    /// Whether it has no task.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// One turn: what is there is processed, and committed when it is time. Never waits for records.
    ///
    /// # Errors
    /// What stops the application. Errors that may pass by themselves (a full disk) abort the
    /// transaction and are returned as retriable: step again later, nothing is lost.
    pub async fn step(&mut self) -> Result<Step> {
        match self.try_step().await {
            Ok(step) => Ok(step),
            Err(e) => {
                self.abort().await?;
                Err(e)
            }
        }
    }

    async fn try_step(&mut self) -> Result<Step> {
        self.finish_checkpoint(false)?;
        let mut worked = true;
        if self.is_closing() {
            self.close().await?;
        } else {
            worked = self.read().await?;
        }
        let open = self.tasks.iter().any(|t| t.touched);
        let committed = open && (!worked || self.is_due() || self.is_closing());
        if committed {
            self.commit().await?;
        }
        self.publish();
        Ok(if worked || committed { Step::Worked } else { Step::Idle })
    }

    fn is_closing(&self) -> bool {
        self.tasks.iter().any(|t| t.ready.task.is_closing())
    }

    /// Whether the open transaction has been open, or has grown, for long enough.
    fn is_due(&self) -> bool {
        let waited = |began| self.log.now() - began >= self.config.commit_ms;
        self.began.is_some_and(waited)
            || self.producer.in_transaction()
                && self.producer.transaction_bytes() >= self.config.commit_bytes
            || self.closed_much()
    }

    /// Whether the open transaction has as many results of windows as it may: their rows stay in memory
    /// until it is committed.
    fn closed_much(&self) -> bool {
        self.windows_closed() - self.closed_before >= self.config.close_at_once as u64
    }

    fn windows_closed(&self) -> u64 {
        self.tasks.iter().map(|t| t.ready.task.counters().windows_closed).sum()
    }

    /// Emits a part of what time closed, in every task that has any.
    async fn close(&mut self) -> Result<()> {
        let clock = self.log.now();
        self.begin().await?;
        for index in 0..self.tasks.len() {
            let running = &mut self.tasks[index];
            if !running.ready.task.is_closing() {
                continue;
            }
            let mut out = Outbox {
                producer: &mut self.producer,
                slots: &running.slots,
                sticky: &mut self.sticky,
            };
            running.ready.task.close(clock, &mut out)?;
            self.touch_if_dirty(index, clock);
            self.producer.flush_full().await?;
            if self.closed_much() {
                break;
            }
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<()> {
        match self.producer.in_transaction() {
            true => Ok(()),
            false => Ok(self.producer.begin().await?),
        }
    }

    /// The open transaction has something of a task in it, and from now on a time to be committed. (One
    /// that is open since an input was idle may have nothing in it that waits.)
    fn touch(&mut self, index: usize, clock: Timestamp) {
        self.tasks[index].touched = true;
        self.began.get_or_insert(clock);
    }

    fn touch_if_dirty(&mut self, index: usize, clock: Timestamp) {
        if self.tasks[index].ready.task.is_dirty() {
            self.touch(index, clock);
        }
    }

    /// Fetches and processes. True when any position moved.
    async fn read(&mut self) -> Result<bool> {
        let waited_for = self.waited_for.take();
        // Of an input for which nothing came, an answer from before says nothing about now.
        let is_now = waited_for.is_none();
        let fetched = match waited_for {
            Some(fetched) => fetched,
            None => self.log.fetch(&self.wanted(), self.fetch_options(Duration::ZERO)).await?,
        };
        let mut worked = false;
        // The answer may leave out those that had nothing, and ends where it is long enough.
        let mut order = self.order().into_iter();
        let mut asked = [false; 2];
        for one in &fetched {
            let Some(index) = order.find(|index| self.tasks[*index].ready.input == one.at) else {
                return Err(Error::invalid(format!("records of {} that nobody asked for", one.at)));
            };
            asked[usize::from(index < self.repartitioned)] = true;
            if is_now || !one.batches.is_empty() {
                worked |= self.process(index, one).await?;
            }
            if self.closed_much() {
                break;
            }
        }
        self.turns.pass(asked);
        Ok(worked)
    }

    /// Waits for records, at most `max_wait`. The next step takes those that came, so that nothing is
    /// read twice.
    ///
    /// # Errors
    /// Those of fetching.
    pub async fn wait(&mut self, max_wait: Duration) -> Result<()> {
        let fetched = self.log.fetch(&self.wanted(), self.fetch_options(max_wait)).await?;
        let any = fetched.iter().any(|one| !one.batches.is_empty());
        self.waited_for = any.then_some(fetched);
        Ok(())
    }

    /// The tasks as they are asked for in this turn. One fetch brings about `fetch_bytes` of them all, so
    /// those in front have what they want, and each comes to the front in turn. Repartition topics come
    /// before the others, so that what the application itself made is read before it makes more, and is
    /// found in memory; but for one turn in [`OTHERS_FIRST`], as other threads fill them too, and could
    /// keep this one from its own inputs for good.
    fn order(&self) -> Vec<usize> {
        let turned = |tasks: Range<usize>, turn: usize| {
            let by = turn % tasks.len().max(1);
            tasks.clone().skip(by).chain(tasks.take(by))
        };
        let made = turned(0..self.repartitioned, self.turns.repartitioned);
        let others = turned(self.repartitioned..self.tasks.len(), self.turns.others);
        match self.turns.all % OTHERS_FIRST {
            0 => others.chain(made).collect(),
            _ => made.chain(others).collect(),
        }
    }

    fn wanted(&self) -> Vec<FetchFrom> {
        let ask = |index: usize| {
            let ready = &self.tasks[index].ready;
            FetchFrom {
                at: ready.input.clone(),
                offset: ready.next_offset,
                max_bytes: self.config.fetch_bytes,
            }
        };
        self.order().into_iter().map(ask).collect()
    }

    fn fetch_options(&self, max_wait: Duration) -> FetchOptions {
        let max_bytes = self.config.fetch_bytes;
        FetchOptions { isolation: Isolation::ReadCommitted, max_wait, max_bytes }
    }

    /// Hands what was fetched to its task. True when the position moved, if only over markers.
    async fn process(&mut self, index: usize, fetched: &Fetched) -> Result<bool> {
        let clock = self.log.now();
        let running = &mut self.tasks[index];
        let offsets = fetched.offsets;
        let stands = fetched.next_offset >= offsets.high_watermark
            && offsets.last_stable == offsets.high_watermark;
        if fetched.batches.is_empty() {
            return self.idle(index, stands, clock).await;
        }
        running.at_end = None;
        let offset = running.ready.next_offset;
        for batch in Visible::new(&fetched.batches, &fetched.aborted, offset) {
            let batch = batch.map_err(thalweg_core::Error::from)?;
            batch.check_crc().map_err(thalweg_core::Error::from)?;
            self.begin().await?;
            self.touch(index, clock);
            let running = &mut self.tasks[index];
            let mut failed = None;
            let records = batch.records(&mut self.scratch).map_err(thalweg_core::Error::from)?;
            let mut records = records.starting_at(offset).map_while(|record| match record {
                Ok(record) => Some(record),
                Err(e) => {
                    failed = Some(e);
                    None
                }
            });
            let mut out = Outbox {
                producer: &mut self.producer,
                slots: &running.slots,
                sticky: &mut self.sticky,
            };
            let more = running.ready.task.process(0, &mut records, clock, &mut out)?;
            if let Some(e) = failed {
                return Err(thalweg_core::Error::from(e).into());
            }
            self.producer.flush_full().await?;
            if more || self.closed_much() {
                // What time closed is committed, and the rest closed, before the next record.
                let running = &mut self.tasks[index];
                running.ready.next_offset = batch.header.last_offset() + 1;
                running.ready.leader_epoch = batch.header.leader_epoch;
                return Ok(true);
            }
        }
        let running = &mut self.tasks[index];
        running.ready.next_offset = fetched.next_offset;
        // Of the batch right before the position, and that may be a marker which nobody sees: written
        // by a recovery, it has a later epoch than the records before it.
        running.ready.leader_epoch = fetched.leader_epoch;
        Ok(true)
    }

    /// An input has nothing to read. Once it stands at its end for a second, it holds up nobody's
    /// time any more; what that, or the clock, closes is committed like anything else.
    async fn idle(&mut self, index: usize, stands: bool, now: Timestamp) -> Result<bool> {
        let running = &mut self.tasks[index];
        let (since, told) = match running.at_end {
            Some(at_end) if stands => at_end,
            _ => {
                running.at_end = stands.then_some((now, false));
                return Ok(false);
            }
        };
        if now - since < IDLE_AFTER_MS {
            return Ok(false);
        }
        if !told {
            running.ready.task.set_at_end(0, true);
            running.at_end = Some((since, true));
        } else if now - running.clock_at < CLOCK_EVERY_MS {
            return Ok(false);
        }
        running.clock_at = now;
        self.begin().await?;
        let running = &mut self.tasks[index];
        let mut out = Outbox {
            producer: &mut self.producer,
            slots: &running.slots,
            sticky: &mut self.sticky,
        };
        running.ready.task.advance_clock(now, &mut out)?;
        self.touch_if_dirty(index, now);
        Ok(false)
    }

    /// S3 to S7.
    async fn commit(&mut self) -> Result<()> {
        self.begin().await?;
        let log_id = self.log.id();
        let mut offsets = Vec::new();
        for running in &mut self.tasks {
            if !running.touched && !running.ready.task.is_dirty() {
                continue;
            }
            running.touched = true;
            let ready = &mut running.ready;
            let consumed = Consumed {
                topic_id: ready.topic_id,
                leader_epoch: ready.leader_epoch,
                next_offset: ready.next_offset,
            };
            let commit =
                Commit { log_id, txn_seq: ready.task.txn_seq() + 1, consumed: &[consumed] };
            let mut out = Outbox {
                producer: &mut self.producer,
                slots: &running.slots,
                sticky: &mut self.sticky,
            };
            let meta = ready.task.flush(&commit, &mut out)?;
            let stateless = self.topology.subtopologies()[ready.subtopology].stores().is_empty();
            let note = Note {
                txn_seq: commit.txn_seq,
                topic_id: ready.topic_id,
                meta: stateless.then(|| meta.clone()),
            };
            offsets.push(OffsetCommit {
                at: ready.input.clone(),
                offset: ready.next_offset,
                leader_epoch: ready.leader_epoch,
                metadata: note.to_text()?,
            });
            running.meta = Some(meta);
            self.producer.flush_full().await?;
        }
        self.producer.flush().await?;
        self.producer.send_offsets(&self.member, &offsets).await?;
        self.producer.commit().await?;
        self.began = None;
        self.closed_before = self.windows_closed();
        for running in self.tasks.iter_mut().filter(|t| t.touched) {
            running.ready.task.committed();
            running.touched = false;
            running.unsaved = true;
            running.committed = (running.ready.next_offset, running.ready.leader_epoch);
            note_changelogs(&self.topology, running, &self.producer);
        }
        self.checkpoint_if_due().await
    }

    /// Everything since the last commit is void.
    async fn abort(&mut self) -> Result<()> {
        if self.producer.in_transaction() {
            self.producer.abort().await?;
        }
        self.began = None;
        self.closed_before = self.windows_closed();
        // It followed positions that are taken back.
        self.waited_for = None;
        for running in &mut self.tasks {
            running.ready.task.abort();
            running.touched = false;
            running.at_end = None;
            (running.ready.next_offset, running.ready.leader_epoch) = running.committed;
        }
        self.publish();
        Ok(())
    }

    /// Ends the input of a subtopology's tasks here: open windows are emitted, and committed, in several
    /// transactions where they are many. They have read everything there is.
    ///
    /// # Errors
    /// Those of [`Worker::step`].
    pub async fn end_of_input(&mut self, subtopology: usize) -> Result<()> {
        let ended = self.try_end_of_input(subtopology).await;
        if let Err(e) = ended {
            self.abort().await?;
            return Err(e);
        }
        self.publish();
        Ok(())
    }

    async fn try_end_of_input(&mut self, subtopology: usize) -> Result<()> {
        // What is held back until a commit is part of the input of what ends now.
        if self.tasks.iter().any(|t| t.touched) {
            self.commit().await?;
        }
        for index in 0..self.tasks.len() {
            let mut more = self.tasks[index].ready.subtopology == subtopology;
            while more {
                let clock = self.log.now();
                self.begin().await?;
                let running = &mut self.tasks[index];
                let mut out = Outbox {
                    producer: &mut self.producer,
                    slots: &running.slots,
                    sticky: &mut self.sticky,
                };
                more = running.ready.task.end_of_input(clock, &mut out)?;
                self.touch_if_dirty(index, clock);
                self.producer.flush_full().await?;
                if more && self.tasks[index].touched {
                    self.commit().await?;
                }
            }
        }
        if self.tasks.iter().any(|t| t.touched) {
            self.commit().await?;
        } else if self.producer.in_transaction() {
            self.producer.commit().await?;
        }
        Ok(())
    }

    /// Commits what is open and saves every task's state: the last thing a worker does.
    ///
    /// # Errors
    /// Those of [`Worker::step`] and of the state store.
    pub async fn stop(&mut self) -> Result<()> {
        if self.tasks.iter().any(|t| t.touched) {
            let committed = self.commit().await;
            if let Err(e) = committed {
                self.abort().await?;
                return Err(e);
            }
        }
        self.publish();
        self.finish_checkpoint(true)?;
        self.begin_checkpoint().await?;
        self.finish_checkpoint(true)
    }

    fn publish(&self) {
        for running in &self.tasks {
            let (progress, task) = (&running.progress, &running.ready.task);
            let counters = task.counters();
            progress.records.store(counters.records, Ordering::Relaxed);
            progress.late.store(counters.late, Ordering::Relaxed);
            progress.windows_closed.store(counters.windows_closed, Ordering::Relaxed);
            progress.dirty.store(running.touched || task.is_closing(), Ordering::Release);
            // Markers at the end move the position without anything to commit.
            let position =
                if running.touched { running.committed.0 } else { running.ready.next_offset };
            progress.committed.store(position, Ordering::Release);
        }
    }

    async fn checkpoint_if_due(&mut self) -> Result<()> {
        let bytes: usize = self.tasks.iter_mut().map(|t| t.ready.task.overlay_bytes()).sum();
        // What is being saved, and as much again; more is waited for.
        self.finish_checkpoint(bytes >= self.config.checkpoint_bytes.saturating_mul(2))?;
        if self.saving.is_some() {
            return Ok(());
        }
        let waited = self.log.now() - self.last_checkpoint >= self.config.checkpoint_ms;
        let bytes: usize = self.tasks.iter_mut().map(|t| t.ready.task.overlay_bytes()).sum();
        if waited || bytes >= self.config.checkpoint_bytes {
            self.begin_checkpoint().await?;
        }
        Ok(())
    }

    /// S8: sets committed rows aside and writes them, here or elsewhere.
    async fn begin_checkpoint(&mut self) -> Result<()> {
        self.last_checkpoint = self.log.now();
        let mut tasks = Vec::new();
        let mut work = Vec::new();
        for index in 0..self.tasks.len() {
            let running = &mut self.tasks[index];
            let sub = &self.topology.subtopologies()[running.ready.subtopology];
            let Some(meta) = running.meta.as_ref().filter(|_| running.unsaved) else { continue };
            if sub.stores().is_empty() {
                continue;
            }
            let mut changelogs = running.ready.changelogs.clone();
            for position in &mut changelogs {
                position.leader_epoch = self.log.offsets(&position.at).await?.last_epoch;
            }
            let meta = CheckpointMeta { meta: meta.clone(), changelogs };
            let frozen = running.ready.task.freeze();
            let backend = second_handle(self.store.as_ref(), running.ready.task.id())?;
            running.unsaved = false;
            tasks.push(index);
            work.push((backend, frozen, meta));
        }
        if tasks.is_empty() {
            return Ok(());
        }
        let (send, done) = std::sync::mpsc::channel();
        let save = move || {
            let save = |(mut backend, frozen, meta): (_, Frozen, CheckpointMeta)| -> Result<()> {
                let backend: &mut Box<dyn crate::state::backend::StateBackend> = &mut backend;
                let rows = frozen.changes()?;
                write_checkpoint(backend.as_mut(), &mut rows.into_iter(), &meta)?;
                Ok(())
            };
            // A panic, in a codec, is told like any other failure, and ends nobody else's checkpoints.
            let saved = AssertUnwindSafe(|| work.into_iter().try_for_each(save));
            let saved = catch_unwind(saved).unwrap_or_else(|panic| {
                Err(Error::panicked("saving a checkpoint".to_owned(), &*panic))
            });
            // Nobody listens any more when the worker is gone: then nothing depends on it either.
            let _ = send.send(saved);
        };
        self.saving = Some(Saving { tasks, done });
        match &self.checkpoints {
            Checkpoints::Inline => {
                save();
                self.finish_checkpoint(true)
            }
            Checkpoints::Background(run) => {
                run(Box::new(save));
                Ok(())
            }
        }
    }

    /// Takes the result of the checkpoint under way, if it is there, or waits for it.
    fn finish_checkpoint(&mut self, wait: bool) -> Result<()> {
        let Some(saving) = &self.saving else { return Ok(()) };
        let gone = || Error::invalid("the checkpoint writer is gone");
        let result = if wait {
            saving.done.recv().unwrap_or_else(|_| Err(gone()))
        } else {
            match saving.done.try_recv() {
                Ok(result) => result,
                Err(std::sync::mpsc::TryRecvError::Empty) => return Ok(()),
                Err(std::sync::mpsc::TryRecvError::Disconnected) => Err(gone()),
            }
        };
        let tasks = self.saving.take().map(|saving| saving.tasks).unwrap_or_default();
        for index in tasks {
            let running = &mut self.tasks[index];
            match &result {
                Ok(()) => running.ready.task.drop_frozen(),
                Err(_) => {
                    running.ready.task.thaw();
                    running.unsaved = true;
                }
            }
        }
        result
    }
}

/// Where the task's changelogs end now: what a checkpoint of this commit is complete up to.
fn note_changelogs(topology: &Topology, running: &mut Running, producer: &TransactionalProducer) {
    let sub = &topology.subtopologies()[running.ready.subtopology];
    let partition = running.ready.input.partition as usize;
    for position in &mut running.ready.changelogs {
        let store = sub.stores().iter().find(|store| store.id == position.store);
        let slot = store
            .and_then(|store| running.slots.get(usize::from(store.changelog.0)))
            .and_then(|slots| slots.get(partition));
        if let Some(end) = slot.and_then(|slot| producer.next_offset(*slot)) {
            position.offset = position.offset.max(end);
        }
    }
}

/// The door out of a task: records go straight into the batches of the open transaction.
struct Outbox<'a> {
    producer: &'a mut TransactionalProducer,
    slots: &'a [Vec<Slot>],
    sticky: &'a mut u32,
}

impl Emit for Outbox<'_> {
    #[inline]
    fn emit(&mut self, record: Outgoing<'_>) -> Result<()> {
        let slots = &self.slots[usize::from(record.output.0)];
        let count = slots.len() as u32;
        let partition = match record.route {
            Route::Partition(partition) => partition,
            Route::Key => partition_of(record.key.unwrap_or_default(), count),
            Route::Any => {
                // In turn by batches of records, so that batches are large.
                *self.sticky = self.sticky.wrapping_add(1);
                (*self.sticky / STICKY_RECORDS) % count
            }
            Route::Every => {
                for slot in slots {
                    self.push(*slot, &record)?;
                }
                return Ok(());
            }
        };
        let Some(slot) = slots.get(partition as usize) else {
            let at = TopicPartition::new("output", partition);
            return Err(Error::invalid(format!("there is no partition {at}, only {count}")));
        };
        self.push(*slot, &record)
    }
}

/// An input that stands at its end for so long is idle. A consumer that does not keep up never is.
const IDLE_AFTER_MS: i64 = 1_000;

/// How often the clock moves the time of an idle task: each time is a commit.
const CLOCK_EVERY_MS: i64 = 1_000;

/// Records without a key that go to one partition before the next has its turn.
const STICKY_RECORDS: u32 = 1024;

impl Outbox<'_> {
    #[inline]
    fn push(&mut self, slot: Slot, record: &Outgoing<'_>) -> Result<()> {
        self.producer.push(slot, record.timestamp, record.key, record.value, record.headers)?;
        Ok(())
    }
}

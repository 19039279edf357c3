//! One subtopology on one partition: records in, records out, and a place to go back to.
//!
//! ```text
//!            process   advance_clock   end_of_input   close
//!                \          |            /           /
//!   restore --> [ open transaction ] --flush--> [ everything emitted ] --committed--> (next)
//!                     ^                                  |
//!                     '-------------- abort <------------'
//! ```
//!
//! Always true here: no I/O but reads of the local state, no clock, no thread, no lock; everything
//! that leaves a task goes through [`Emit`]; after `abort` the task is what it was after the last
//! `committed`, so that the same input gives the same output; every meta record says all that the next
//! owner must know beside the rows.

use std::sync::Arc;

use bytes::Bytes;
use thalweg_core::ids::{LeaderEpoch, Offset, Timestamp, TopicPartition, Uuid};
use thalweg_core::record::RecordRef;

use crate::chain::Encoded;
use crate::cx::{Counters, Cx, Emit, Outgoing, Route};
use crate::error::{Error, Result};
use crate::overlay::FrozenRows;
use crate::stage::{Node, Operator, Setup, Visitor};
use crate::state::backend::{Change, StateBackend, StateError, StoreId};
use crate::state::digest::Digest;
use crate::state::meta::{InputPosition, META_KEY, Meta, OperatorState, TaskId};
use crate::time::{Judged, NEVER, TaskTime, TimeSettings};
use crate::topology::{OutputKind, Topology};

/// Where a task will have read to when its transaction commits, in one input partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Consumed {
    /// The topic's id.
    pub topic_id: Uuid,
    /// The leader epoch of the record before `next_offset`, or -1.
    pub leader_epoch: LeaderEpoch,
    /// The first offset that was not consumed.
    pub next_offset: Offset,
}

/// The transaction that a task is flushed into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit<'a> {
    /// The log's id.
    pub log_id: Uuid,
    /// The number of the task's transaction: one more than the last committed one.
    pub txn_seq: u64,
    /// Where the task will have read to, in every input partition.
    pub consumed: &'a [Consumed],
}

/// One subtopology on one partition.
pub struct Task {
    id: TaskId,
    topology_hash: u64,
    inputs: Vec<TaskInput>,
    changelogs: Vec<crate::OutputId>,
    time: TaskTime,
    committed_time: TaskTime,
    last_clock: Timestamp,
    base: Box<dyn StateBackend>,
    counters: Counters,
    at_once: usize,
    /// Time, or the end of the input, closed more than was emitted and committed so far.
    closing: bool,
    /// The number of the last committed transaction, and of the one that was flushed.
    txn_seq: u64,
    flushed_seq: u64,
}

/// An input partition, and what its records enter.
struct TaskInput {
    topic: &'static str,
    root: Box<dyn Node<Encoded>>,
}

impl Topology {
    /// Makes the task of a subtopology for a partition of its input, over state that is up to date.
    /// `partitions` tells how many partitions a topic has.
    ///
    /// # Panics
    /// When there is no such subtopology.
    pub fn task(
        &self,
        subtopology: usize,
        partition: u32,
        partitions: &dyn Fn(&str) -> u32,
        base: Box<dyn StateBackend>,
    ) -> Task {
        let sub = &self.subtopologies()[subtopology];
        let task = |index: usize, partition| TaskId {
            subtopology: u32::try_from(index).unwrap_or(u32::MAX),
            partition,
        };
        // Marks of time come from every task that writes a repartition topic; other topics bring
        // their own timestamps.
        let mut upstream = Vec::new();
        if sub.is_repartitioned() {
            for writer in self.upstream(subtopology) {
                let tasks = partitions(self.subtopologies()[writer].source());
                upstream.extend((0..tasks).map(|p| task(writer, p)));
            }
        }
        let settings: Vec<(TimeSettings, Vec<TaskId>)> = vec![(sub.source.time, upstream)];
        let time = TaskTime::new(&settings, self.when_idle());
        let setup = Setup { partition };
        let topic = sub.source();
        let inputs = self.grow(subtopology, &setup);
        let changelog = |(i, output): (usize, &crate::topology::Output)| {
            let id = crate::OutputId(u16::try_from(i).ok()?);
            matches!(output.kind, OutputKind::Changelog(_)).then_some(id)
        };
        Task {
            id: task(subtopology, partition),
            topology_hash: self.hash(),
            inputs: inputs.into_iter().map(|root| TaskInput { topic, root }).collect(),
            changelogs: sub.outputs().iter().enumerate().filter_map(changelog).collect(),
            committed_time: time.clone(),
            time,
            last_clock: NEVER,
            base,
            counters: Counters::default(),
            at_once: CLOSED_AT_ONCE,
            closing: false,
            txn_seq: 0,
            flushed_seq: 0,
        }
    }
}

impl Task {
    /// Which task this is.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// About how many rows of windows are closed at once; default 8,192. Whole windows.
    pub fn close_at_once(&mut self, rows: usize) {
        self.at_once = rows.max(1);
    }

    /// Takes records of an input partition, in the order of their offsets, and emits what becomes
    /// of them and what closes by the time they bring; or says that there is more of that, which
    /// [`Task::close`] goes on with, before the next record. `clock` is the transaction's. Generic, so
    /// that decoding a batch is compiled into the loop that fills the chunks.
    ///
    /// # Errors
    /// A record that cannot be read, a value that cannot be written, state that cannot be read, or an
    /// output that refused: the transaction must be aborted.
    pub fn process<'r>(
        &mut self,
        input: usize,
        records: impl IntoIterator<Item = RecordRef<'r>>,
        clock: Timestamp,
        out: &mut dyn Emit,
    ) -> Result<bool> {
        let mut records = records.into_iter();
        let mut chunk = Vec::with_capacity(CHUNK);
        loop {
            chunk.clear();
            chunk.extend(records.by_ref().take(CHUNK));
            if chunk.is_empty() {
                return self.close(clock, out);
            }
            self.run(input, &chunk, clock, out)?;
        }
    }

    fn run(
        &mut self,
        input: usize,
        chunk: &[RecordRef<'_>],
        clock: Timestamp,
        out: &mut dyn Emit,
    ) -> Result<()> {
        let (inputs, mut cx) = self.parts(input, clock, out);
        let ran = caught(|| inputs[input].root.run(chunk, &mut cx));
        ran.unwrap_or_else(|panic| {
            let at = format!("record {}-{}", cx.topic, cx.partition);
            let offset = cx.record.map_or(String::new(), |record| format!("@{}", record.offset));
            Err(Error::panicked(at + &offset, &*panic))
        })
    }

    /// Emits what time closed, some of it, and says whether there is more. A commit may come in between.
    ///
    /// # Errors
    /// Those of [`Task::process`].
    pub fn close(&mut self, clock: Timestamp, out: &mut dyn Emit) -> Result<bool> {
        self.time.settle();
        self.close_each(clock, out, |operator, cx| operator.close(cx))
    }

    /// Whether time closed more than was emitted, or may have, in the hands of an earlier owner. Call
    /// [`Task::close`] then, until it says that nothing is left.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    fn close_each(
        &mut self,
        clock: Timestamp,
        out: &mut dyn Emit,
        mut close: impl FnMut(&mut dyn Operator, &mut Cx<'_, '_>) -> Result<bool>,
    ) -> Result<bool> {
        self.last_clock = clock;
        let mut more = false;
        self.each(clock, out, |operator, cx| {
            // What is left reaches the operators behind before they close.
            if !more {
                more = close(operator, cx)?;
            }
            Ok(())
        })?;
        self.closing = more;
        Ok(more)
    }

    /// Lets the clock move time while every input is idle, if the pipeline says so, and emits what
    /// closes by it, as [`Task::process`] does.
    ///
    /// # Errors
    /// Those of [`Task::process`].
    pub fn advance_clock(&mut self, clock: Timestamp, out: &mut dyn Emit) -> Result<bool> {
        self.last_clock = clock;
        let before = self.time.watermark();
        self.time.advance_clock(clock);
        if self.time.watermark() == before { Ok(self.closing) } else { self.close(clock, out) }
    }

    /// There is no more input for now: emits open windows, and says whether any were: then commit, and call
    /// it again before any other record; what is made of these when they are committed may open others.
    /// Time moves no further than to the end of the last window that holds a record with a time of its
    /// own, so that what comes tomorrow is not late.
    ///
    /// # Errors
    /// Those of [`Task::process`].
    pub fn end_of_input(&mut self, clock: Timestamp, out: &mut dyn Emit) -> Result<bool> {
        self.close_each(clock, out, |operator, cx| operator.end_of_input(cx))
    }

    /// Says whether the consumer stands at the end of an input partition. Any record that is
    /// processed takes it back. A partition at its end holds up neither this task's time nor that of
    /// the tasks behind it.
    pub fn set_at_end(&mut self, input: usize, at_end: bool) {
        self.time.set_at_end(input, at_end);
    }

    /// Whether there is something to commit that no consumed record shows: marks of time for the
    /// tasks behind, changed rows, moved time.
    pub fn is_dirty(&mut self) -> bool {
        let word = self.time.word(self.id, self.closing);
        let mut dirty = self.time.watermark() != self.committed_time.watermark();
        self.visit(|operator| dirty |= operator.is_dirty(word));
        dirty
    }

    /// The commit point: emits changes that were held back, one changelog record per changed row,
    /// marks of time, and the meta record into every changelog. Gives the meta record, for tasks
    /// without a changelog and for the next checkpoint.
    ///
    /// # Errors
    /// Those of [`Task::process`].
    pub fn flush(&mut self, commit: &Commit<'_>, out: &mut dyn Emit) -> Result<Meta> {
        let clock = self.last_clock.max(0);
        self.each(clock, out, |operator, cx| operator.flush(cx))?;
        let meta = self.meta(commit);
        let encoded = match self.changelogs.is_empty() {
            true => Bytes::new(),
            false => meta.encode().map_err(|e| StateError::invalid(e.to_string()))?,
        };
        for &output in &self.changelogs {
            out.emit(Outgoing {
                output,
                route: Route::Partition(self.id.partition),
                timestamp: clock,
                key: Some(META_KEY),
                value: Some(&encoded),
                headers: &[],
            })?;
        }
        self.flushed_seq = commit.txn_seq;
        Ok(meta)
    }

    /// What was flushed is committed: it is what `abort` goes back to from now on.
    pub fn committed(&mut self) {
        self.visit(|operator| operator.committed());
        self.committed_time = self.time.clone();
        self.txn_seq = self.flushed_seq;
    }

    /// Forgets everything since the last commit. Reading must go on from the committed positions.
    pub fn abort(&mut self) {
        self.visit(|operator| operator.aborted());
        self.time = self.committed_time.clone();
        self.flushed_seq = self.txn_seq;
        self.look_whether_it_closes();
    }

    fn look_whether_it_closes(&mut self) {
        let mut closing = false;
        self.visit(|operator| closing |= operator.is_closing());
        self.closing = closing;
    }

    /// Takes over what an earlier owner knew: the meta record of the last committed transaction, whose
    /// rows are in the base. Before the first record.
    ///
    /// # Errors
    /// [`StateError::OtherTopology`] when another pipeline wrote it; [`StateError::Corrupt`] when it
    /// is not what this pipeline writes.
    pub fn restore(&mut self, meta: &Meta) -> Result<()> {
        let task = self.id.to_string();
        if meta.topology_hash != self.topology_hash {
            let (found, expected) = (meta.topology_hash, self.topology_hash);
            return Err(StateError::OtherTopology { task, found, expected }.into());
        }
        let saved =
            |name: &str| meta.operators.iter().find(|o| &*o.name == name).map(|o| &*o.bytes);
        let mut wrong = None;
        let time = saved(TIME).unwrap_or_default();
        if meta.inputs.len() != self.inputs.len() || self.time.load(&meta.inputs, time).is_none() {
            wrong = Some(TIME);
        }
        self.visit(|operator| {
            let Some(store) = operator.store() else { return };
            let (name, id) = (store.name(), store.id());
            store.set_digest(meta.digest(id));
            let Some(bytes) = saved(name) else { return };
            if operator.load(bytes).is_none() {
                wrong = Some(name);
            }
        });
        if let Some(name) = wrong {
            let why = format!("what operator {name} kept is not readable");
            return Err(StateError::Corrupt { task, why }.into());
        }
        self.txn_seq = meta.txn_seq;
        self.flushed_seq = meta.txn_seq;
        self.last_clock = meta.last_clock.unwrap_or(NEVER);
        self.committed_time = self.time.clone();
        self.look_whether_it_closes();
        Ok(())
    }

    /// Sets the committed rows aside for a checkpoint of what [`Task::flush`] gave last.
    pub fn freeze(&mut self) -> Frozen {
        let mut rows = Vec::new();
        self.visit(|operator| {
            rows.extend(operator.store().map(|store| (store.id(), store.freeze())))
        });
        rows.sort_by_key(|(id, _)| *id);
        Frozen { rows: rows.into_iter().map(|(_, rows)| rows).collect() }
    }

    /// The checkpoint failed: what it set aside is kept.
    pub fn thaw(&mut self) {
        self.visit(|operator| {
            if let Some(store) = operator.store() {
                store.thaw();
            }
        });
    }

    /// The checkpoint is done: what it set aside is read from the base from now on.
    pub fn drop_frozen(&mut self) {
        self.visit(|operator| {
            if let Some(store) = operator.store() {
                store.drop_frozen();
            }
        });
    }

    /// About how many bytes of committed rows are in memory.
    pub fn overlay_bytes(&mut self) -> usize {
        let mut bytes = 0;
        self.visit(|operator| bytes += operator.store().map_or(0, |store| store.bytes()));
        bytes
    }

    /// The base of the state.
    pub fn base(&mut self) -> &mut dyn StateBackend {
        &mut *self.base
    }

    /// No record before this is expected any more; `None` when time has not begun.
    pub fn watermark(&self) -> Option<Timestamp> {
        Some(self.time.watermark()).filter(|&watermark| watermark != NEVER)
    }

    /// What the task counted since it was made.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The number of the last committed transaction.
    pub fn txn_seq(&self) -> u64 {
        self.txn_seq
    }

    fn meta(&mut self, commit: &Commit<'_>) -> Meta {
        let position = |(input, consumed): (&TaskInput, &Consumed)| InputPosition {
            at: TopicPartition { topic: input.topic.into(), partition: self.id.partition },
            topic_id: consumed.topic_id,
            leader_epoch: consumed.leader_epoch,
            next_offset: consumed.next_offset,
            max_timestamp: None,
            backlog: false,
            upstream: Vec::new(),
        };
        let mut inputs: Vec<_> = self.inputs.iter().zip(commit.consumed).map(position).collect();
        let (time, clock_advance) = self.time.save(&mut inputs);
        let mut operators = vec![OperatorState { name: Arc::from(TIME), bytes: time }];
        let mut digests: Vec<(StoreId, Digest)> = Vec::new();
        self.visit(|operator| {
            let bytes = operator.save();
            let Some(store) = operator.store() else { return };
            digests.push((store.id(), store.digest()));
            if !bytes.is_empty() {
                operators.push(OperatorState { name: Arc::from(store.name()), bytes });
            }
        });
        Meta {
            log_id: commit.log_id,
            topology_hash: self.topology_hash,
            task: self.id,
            txn_seq: commit.txn_seq,
            last_clock: (self.last_clock != NEVER).then_some(self.last_clock),
            clock_advance,
            inputs,
            operators,
            digests,
        }
    }

    /// Visits every operator with the means to emit, parents first.
    fn each(
        &mut self,
        clock: Timestamp,
        out: &mut dyn Emit,
        mut step: impl FnMut(&mut dyn Operator, &mut Cx<'_, '_>) -> Result<()>,
    ) -> Result<()> {
        for input in 0..self.inputs.len() {
            let (inputs, mut cx) = self.parts(input, clock, out);
            let visit: &mut Visitor<'_> = &mut |operator| step(operator, &mut cx);
            caught(|| inputs[input].root.operators(visit)).unwrap_or_else(|panic| {
                let at = format!("task {}, between records", self.id);
                Err(Error::panicked(at, &*panic))
            })?;
        }
        Ok(())
    }

    /// Visits every operator, parents first.
    fn visit(&mut self, mut step: impl FnMut(&mut dyn Operator)) {
        for input in &mut self.inputs {
            let visited = input.root.operators(&mut |operator| {
                step(operator);
                Ok(())
            });
            debug_assert!(visited.is_ok(), "only a visitor fails, and this one does not");
        }
    }

    fn parts<'r, 't>(
        &'t mut self,
        input: usize,
        clock: Timestamp,
        out: &'t mut dyn Emit,
    ) -> (&'t mut [TaskInput], Cx<'r, 't>) {
        let cx = Cx {
            record: None,
            headers_go_along: false,
            now: Judged::NEVER,
            late_by_ms: None,
            topic: self.inputs[input].topic,
            partition: self.id.partition,
            task: self.id,
            input,
            clock,
            at_once: self.at_once,
            is_closing: self.closing,
            time: &mut self.time,
            base: &*self.base,
            counters: &mut self.counters,
            out,
        };
        (&mut self.inputs, cx)
    }
}

/// Runs code of the user. What a panic leaves half done belongs to the open transaction: whoever gets
/// the error aborts it, or gives the task up.
fn caught<T>(run: impl FnOnce() -> T) -> std::thread::Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
}

/// Committed rows of a task, set aside for a checkpoint. May be sent to another thread.
pub struct Frozen {
    rows: Vec<Arc<dyn FrozenRows>>,
}

impl Frozen {
    /// The rows as they are stored, in the order of their keys; `None` deletes. One copy of the bytes
    /// is made.
    ///
    /// # Errors
    /// [`Error::Encode`] when a codec refuses now what it wrote before.
    pub fn changes(&self) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        for rows in &self.rows {
            changes.append(&mut rows.changes()?);
        }
        Ok(changes)
    }
}

/// How many records enter a task by one virtual call: few enough that they stay in the nearest cache.
const CHUNK: usize = 64;

/// How many rows are closed at once: enough that what a commit costs is shared, few enough that their
/// results are a megabyte or two.
pub(crate) const CLOSED_AT_ONCE: usize = 8192;

/// The name under which the meta record keeps the task's own time.
const TIME: &str = "@time";

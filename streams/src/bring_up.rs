//! Starting tasks: positions from the group, rows from a checkpoint and the changelogs, and the proof
//! that both speak of the same transaction.
//!
//! ```text
//!   R3  committed positions, with the number of the task's last transaction
//!   R4  what the local state is worth: replay its suffix, or rebuild it
//!   R5  changelogs, read committed, up to the end captured after R3
//!   R6  the last meta record, the positions and the digest of the rows agree
//!   R7  times, windows and marks from the meta record; read on from the positions
//! ```
//!
//! Always true here: the log is the only truth; local state that disagrees is rebuilt, loudly, once; a
//! position whose records are gone is an error that says so, never a jump.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use thalweg_core::batch::{Scratch, Visible, batches};
use thalweg_core::client::log::{
    FetchFrom, FetchOptions, Isolation, Log, OffsetCommit, PartitionOffsets,
};
use thalweg_core::ids::{LeaderEpoch, Offset, TopicPartition, Uuid};

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::position::Note;
use crate::state::backend::{StateBackend, StateStore};
use crate::state::checkpoint::{Changelog, Plan, Rebuild, Stored, Truth, plan};
use crate::state::memory::MemoryStore;
use crate::state::meta::{ChangelogPosition, TaskId};
use crate::state::restore::{ChangelogRecord, Finish, ReplayLimits, Replayer, Restored};
use crate::task::Task;
use crate::topology::{OutputKind, Topology};

/// How much of a changelog is read at a time.
const REPLAY_BYTES: usize = 1 << 20;

/// A task that is ready to go on.
pub(crate) struct Ready {
    pub(crate) task: Task,
    pub(crate) subtopology: usize,
    pub(crate) input: TopicPartition,
    pub(crate) topic_id: Uuid,
    pub(crate) next_offset: Offset,
    pub(crate) leader_epoch: LeaderEpoch,
    /// How far the rows are complete in each changelog.
    pub(crate) changelogs: Vec<ChangelogPosition>,
}

/// What starting found and did.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct BringUp {
    /// Tasks with state whose checkpoint was loaded.
    pub checkpoints_loaded: usize,
    /// Changelog records that were replayed.
    pub records_replayed: u64,
    /// Tasks whose local state was emptied and rebuilt, and why. Not those that had none yet.
    pub rebuilt: Vec<(String, String)>,
}

/// Brings up every task of a topology.
pub(crate) async fn bring_up(
    log: &dyn Log,
    topology: &Topology,
    layout: &Layout,
    store: &dyn StateStore,
) -> Result<(Vec<Ready>, BringUp)> {
    let mut all = Vec::new();
    let mut report = BringUp::default();
    for &index in topology.order() {
        let source = topology.subtopologies()[index].source();
        let inputs = layout.all(source);
        let committed = log.committed_offsets(topology.app(), &inputs).await?;
        if committed.iter().all(Option::is_none) {
            check_first_start(log, topology, layout, index).await?;
        }
        for (input, commit) in inputs.into_iter().zip(committed) {
            let one = Starting { log, topology, layout, index, input };
            all.push(one.run(commit, store, &mut report).await?);
        }
    }
    Ok((all, report))
}

/// Without a position, the application must never have committed anything: starting over would write
/// everything a second time.
async fn check_first_start(
    log: &dyn Log,
    topology: &Topology,
    layout: &Layout,
    index: usize,
) -> Result<()> {
    for output in topology.subtopologies()[index].outputs() {
        if output.kind == OutputKind::Topic {
            continue;
        }
        for at in layout.all(&output.topic) {
            let offsets = log.offsets(&at).await?;
            if has_committed(log, &at, offsets).await? {
                return Err(Error::invalid(format!(
                    "application {:?} has no positions in {:?}, and has written to {at} before: its group was \
                     deleted or never restored. Either restore the positions of group {:?}, or run under \
                     another application id with its own output topics to start from the beginning",
                    topology.app(),
                    topology.subtopologies()[index].source(),
                    topology.app()
                )));
            }
        }
    }
    Ok(())
}

/// Whether a partition holds any record that a reader of committed records sees.
async fn has_committed(
    log: &dyn Log,
    at: &TopicPartition,
    offsets: PartitionOffsets,
) -> Result<bool> {
    let mut offset = offsets.start;
    loop {
        let from = FetchFrom { at: at.clone(), offset, max_bytes: REPLAY_BYTES };
        let fetched = log.fetch(&[from], no_wait()).await?;
        let Some(one) = fetched.first().filter(|one| !one.batches.is_empty()) else {
            return Ok(false);
        };
        if Visible::new(&one.batches, &one.aborted, offset).next().is_some() {
            return Ok(true);
        }
        offset = one.next_offset;
    }
}

fn no_wait() -> FetchOptions {
    FetchOptions { isolation: Isolation::ReadCommitted, max_wait: Duration::ZERO, max_bytes: 0 }
}

struct Starting<'a> {
    log: &'a dyn Log,
    topology: &'a Topology,
    layout: &'a Layout,
    index: usize,
    input: TopicPartition,
}

impl Starting<'_> {
    async fn run(
        &self,
        commit: Option<OffsetCommit>,
        store: &dyn StateStore,
        report: &mut BringUp,
    ) -> Result<Ready> {
        let topic_id = self.layout.id(&self.input.topic);
        let note = self.note(commit.as_ref())?;
        let (mut next_offset, mut leader_epoch) = (self.log.offsets(&self.input).await?.start, -1);
        if let (Some(commit), Some(note)) = (&commit, &note) {
            let at = &self.input;
            self.log.check_position(at, note.topic_id, commit.leader_epoch, commit.offset).await?;
            (next_offset, leader_epoch) = (commit.offset, commit.leader_epoch);
        }
        let id = self.task_id();
        let stateful = !self.topology.subtopologies()[self.index].stores().is_empty();
        let (base, meta, changelogs) = if stateful {
            let restored = self.restore(commit.as_ref(), note.as_ref(), store, report).await?;
            (restored.backend, restored.meta, restored.changelogs)
        } else {
            let empty = MemoryStore::default().open(&id.to_string())?;
            (empty, note.and_then(|note| note.meta), Vec::new())
        };
        let partitions = |topic: &str| self.layout.partitions(topic);
        let mut task = self.topology.task(self.index, self.input.partition, &partitions, base);
        if let Some(meta) = &meta {
            task.restore(meta)?;
        }
        Ok(Ready {
            task,
            subtopology: self.index,
            input: self.input.clone(),
            topic_id,
            next_offset,
            leader_epoch,
            changelogs,
        })
    }

    fn task_id(&self) -> TaskId {
        TaskId {
            subtopology: u32::try_from(self.index).unwrap_or(u32::MAX),
            partition: self.input.partition,
        }
    }

    fn note(&self, commit: Option<&OffsetCommit>) -> Result<Option<Note>> {
        let Some(commit) = commit else { return Ok(None) };
        match Note::parse(&commit.metadata) {
            Some(note) => Ok(Some(note)),
            None => Err(Error::invalid(format!(
                "the position of group {:?} in {} was not stored by this application (its metadata is {:?}): \
                 use another application id, or reset the group",
                self.topology.app(),
                self.input,
                commit.metadata
            ))),
        }
    }

    async fn restore(
        &self,
        commit: Option<&OffsetCommit>,
        note: Option<&Note>,
        store: &dyn StateStore,
        report: &mut BringUp,
    ) -> Result<Restored> {
        let tree = self.task_id().to_string();
        let truth = self.truth(commit, note).await?;
        let backend = store.open(&tree)?;
        let stored = Stored::load(backend.as_ref())?;
        let doubts = self.doubts(&stored).await?;
        let plan = plan(stored, &truth, |position| match doubts.get(&position.at) {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        })?;
        if matches!(plan, Plan::Replay { .. }) {
            report.checkpoints_loaded += 1;
        }
        let mut replayer = Replayer::start(backend, plan, truth, ReplayLimits::default())?;
        let restored = loop {
            self.replay(&mut replayer).await?;
            match replayer.finish()? {
                Finish::Restored(restored) => break restored,
                Finish::Again { why, replayer: again } => {
                    tracing::error!(task = %tree, %why, "local state lost rows that were called durable: rebuilding it from the log");
                    replayer = again;
                }
            }
        };
        report.records_replayed += restored.records;
        // Before its first checkpoint a task has nothing but its changelogs: nothing was lost.
        let lost = |why: &&Rebuild| !matches!(why, Rebuild::NoCheckpoint);
        if let Some(why) = restored.rebuilt.as_ref().filter(lost) {
            tracing::warn!(task = %tree, %why, "local state was rebuilt from the log");
            report.rebuilt.push((tree, why.to_string()));
        }
        Ok(restored)
    }

    /// What the log says about this task.
    async fn truth(&self, commit: Option<&OffsetCommit>, note: Option<&Note>) -> Result<Truth> {
        let sub = &self.topology.subtopologies()[self.index];
        let mut changelogs = Vec::new();
        for output in sub.outputs() {
            let OutputKind::Changelog(store) = output.kind else { continue };
            let at = TopicPartition::new(Arc::clone(&output.topic), self.input.partition);
            let offsets = self.log.offsets(&at).await?;
            changelogs.push(Changelog {
                store,
                topic_id: self.layout.id(&output.topic),
                start: offsets.start,
                end: offsets.end,
                tombstone_floor: offsets.deletions_below,
                at,
            });
        }
        Ok(Truth {
            log_id: self.log.id(),
            task: self.task_id(),
            topology_hash: self.topology.hash(),
            txn_seq: note.map_or(0, |note| note.txn_seq),
            positions: commit.map(|c| (self.input.clone(), c.offset)).into_iter().collect(),
            changelogs,
        })
    }

    /// The positions of a checkpoint that do not stand for the same records any more, and why.
    async fn doubts(&self, stored: &Stored) -> Result<BTreeMap<TopicPartition, String>> {
        let mut doubts = BTreeMap::new();
        let Stored::Checkpoint(checkpoint) = stored else { return Ok(doubts) };
        for p in &checkpoint.changelogs {
            let checked =
                self.log.check_position(&p.at, p.topic_id, p.leader_epoch, p.offset).await;
            match checked {
                Ok(()) => {}
                Err(thalweg_core::Error::PositionLost { why, .. }) => {
                    doubts.insert(p.at.clone(), why);
                }
                // A changelog that is not this application's: `plan` sees that by itself.
                Err(thalweg_core::Error::Unknown { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(doubts)
    }

    /// Feeds a replayer what it still wants.
    async fn replay(&self, replayer: &mut Replayer) -> Result<()> {
        let mut scratch = Scratch::default();
        loop {
            let next = replayer.remaining().next().map(|(c, from)| (c.store, c.at.clone(), from));
            let Some((store, at, offset)) = next else { return Ok(()) };
            let from = FetchFrom { at: at.clone(), offset, max_bytes: REPLAY_BYTES };
            // A transaction that is about to be decided holds the end back: wait for its marker.
            let options = FetchOptions { max_wait: Duration::from_secs(10), ..no_wait() };
            let fetched = self.log.fetch(&[from], options).await?;
            let Some(one) = fetched.first().filter(|one| one.next_offset > offset) else {
                return Err(Error::Log(thalweg_core::Error::Retry {
                    what: format!("a transaction in {at} is still open"),
                }));
            };
            let visible: Vec<Offset> = Visible::new(&one.batches, &one.aborted, offset)
                .map(|batch| Ok(batch.map_err(thalweg_core::Error::from)?.header.base_offset))
                .collect::<Result<_>>()?;
            for batch in batches(&one.batches) {
                let batch = batch.map_err(thalweg_core::Error::from)?;
                batch.check_crc().map_err(thalweg_core::Error::from)?;
                let mut records: Vec<ChangelogRecord> = Vec::new();
                if visible.binary_search(&batch.header.base_offset).is_ok() {
                    let all = batch.records(&mut scratch).map_err(thalweg_core::Error::from)?;
                    for record in all {
                        let record = record.map_err(thalweg_core::Error::from)?;
                        let copy = |part: &[u8]| bytes::Bytes::copy_from_slice(part);
                        let key = record.key.map(copy).unwrap_or_default();
                        records.push((record.offset, key, record.value.map(copy)));
                    }
                }
                let (epoch, next) = (batch.header.leader_epoch, batch.header.next_offset());
                replayer.apply(store, epoch, next, &mut records.into_iter())?;
            }
        }
    }
}

/// Another handle of a task's tree, for the checkpoint writer.
pub(crate) fn second_handle(store: &dyn StateStore, task: TaskId) -> Result<Box<dyn StateBackend>> {
    Ok(store.open(&task.to_string())?)
}

//! One task and its two changelogs, as a log would hold them: transactions that commit or abort,
//! markers that take an offset, compaction, epochs. Everything that was ever committed is remembered,
//! so that any image of the state can be judged.

use std::collections::BTreeMap;

use bytes::Bytes;
use thalweg_core::ids::{LeaderEpoch, Offset, TopicPartition, Uuid};
use thalweg_streams::state::backend::{StateBackend, StateError, StateStore, StoreId, store_of};
use thalweg_streams::state::checkpoint::{
    Changelog, Rebuild, Stored, Truth, Written, plan, write_checkpoint,
};
use thalweg_streams::state::digest::Digest;
use thalweg_streams::state::meta::{
    ChangelogPosition, CheckpointMeta, InputPosition, META_KEY, Meta, OperatorState, TaskId,
};
use thalweg_streams::state::restore::{Finish, ReplayLimits, Replayer};

/// A seeded source of choices (xorshift64*).
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    pub(crate) fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) offset: Offset,
    pub(crate) epoch: LeaderEpoch,
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
}

#[derive(Clone)]
pub(crate) struct Log {
    pub(crate) store: StoreId,
    pub(crate) at: TopicPartition,
    pub(crate) topic_id: Uuid,
    /// What `read_committed` readers see.
    pub(crate) records: Vec<Record>,
    pub(crate) end: Offset,
    pub(crate) tombstone_floor: Offset,
    /// Each leader epoch and its first offset.
    pub(crate) epochs: Vec<(LeaderEpoch, Offset)>,
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) log_id: Uuid,
    pub(crate) task: TaskId,
    pub(crate) topology_hash: u64,
    pub(crate) logs: Vec<Log>,
    /// The fold of all committed changes.
    pub(crate) committed: BTreeMap<Bytes, Bytes>,
    /// Every committed change of every key, never compacted.
    pub(crate) history: BTreeMap<Bytes, Vec<(Offset, Option<Bytes>)>>,
    pub(crate) input: Offset,
    pub(crate) last: Option<CheckpointMeta>,
    /// Committed changes that no finished checkpoint holds.
    pub(crate) overlay: BTreeMap<Bytes, Option<Bytes>>,
    /// Whether offsets are checked with the epoch history.
    pub(crate) epochs_checked: bool,
}

/// What a restart found and did.
pub(crate) struct Restarted {
    pub(crate) rows: BTreeMap<Bytes, Bytes>,
    pub(crate) meta: Option<Meta>,
    pub(crate) rebuilt: Option<Rebuild>,
    pub(crate) records: u64,
    /// Why the rows were not believed at first.
    pub(crate) again: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let log = |store: StoreId, name: &str| Log {
            store,
            at: TopicPartition::new(format!("app-{name}-changelog"), 3),
            topic_id: Uuid([store as u8; 16]),
            records: Vec::new(),
            end: 0,
            tombstone_floor: 0,
            epochs: vec![(0, 0)],
        };
        Self {
            random: Random::new(seed),
            log_id: Uuid([7; 16]),
            task: TaskId { subtopology: 1, partition: 3 },
            topology_hash: 0x70b0,
            logs: vec![log(1, "counts"), log(2, "latest")],
            committed: BTreeMap::new(),
            history: BTreeMap::new(),
            input: 0,
            last: None,
            overlay: BTreeMap::new(),
            epochs_checked: true,
        }
    }

    pub(crate) fn txn_seq(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.meta.txn_seq)
    }

    /// A transaction that commits, with up to six changes.
    pub(crate) fn transaction(&mut self) {
        let mut changes: BTreeMap<Bytes, Option<Bytes>> = BTreeMap::new();
        for _ in 0..self.random.below(7) {
            let store = 1 + self.random.below(2) as u8;
            let key = Bytes::from(vec![0, store, b'a' + self.random.below(6) as u8]);
            let value = vec![b'v'; self.random.below(20)];
            let value = [self.txn_seq().to_string().into_bytes(), value].concat();
            changes.insert(key, (!self.random.chance(4)).then(|| value.into()));
        }
        self.commit(changes);
    }

    pub(crate) fn commit(&mut self, changes: BTreeMap<Bytes, Option<Bytes>>) {
        let mut digests: Vec<(StoreId, Digest)> = match &self.last {
            Some(last) => last.meta.digests.clone(),
            None => vec![(1, Digest::default()), (2, Digest::default())],
        };
        for (key, value) in changes {
            let store = store_of(&key).expect("keys here have a store");
            let digest = &mut digests[usize::from(store) - 1].1;
            if let Some(old) = self.committed.remove(&key) {
                digest.remove(&key, &old);
            }
            if let Some(new) = &value {
                digest.add(&key, new);
                self.committed.insert(key.clone(), new.clone());
            }
            let offset = self.logs[usize::from(store) - 1].append(key.clone(), value.clone());
            self.history.entry(key.clone()).or_default().push((offset, value.clone()));
            self.overlay.insert(key, value);
        }
        self.input += 10;
        let input = InputPosition {
            at: TopicPartition::new("in", 3),
            topic_id: Uuid([9; 16]),
            leader_epoch: 0,
            next_offset: self.input,
            max_timestamp: Some(self.input * 1000),
            backlog: false,
            upstream: vec![(TaskId { subtopology: 0, partition: 1 }, self.input)],
        };
        let meta = Meta {
            txn_seq: self.txn_seq() + 1,
            inputs: vec![input],
            operators: vec![OperatorState { name: "count".into(), bytes: "closed".into() }],
            digests,
            ..Meta::fresh(self.log_id, self.topology_hash, self.task)
        };
        let value = meta.encode().expect("short");
        let mut changelogs = Vec::new();
        for log in &mut self.logs {
            log.append(Bytes::from_static(META_KEY), Some(value.clone()));
            changelogs.push(ChangelogPosition {
                store: log.store,
                at: log.at.clone(),
                topic_id: log.topic_id,
                leader_epoch: log.epoch(),
                offset: log.end,
            });
            // The commit marker.
            log.end += 1;
        }
        self.last = Some(CheckpointMeta { meta, changelogs });
    }

    /// A transaction that aborts takes offsets and leaves nothing to see.
    pub(crate) fn abort(&mut self) {
        for log in &mut self.logs {
            log.end += 1 + self.random.below(4) as Offset;
        }
    }

    /// Removes superseded records below an offset of a changelog, and perhaps the deletions too.
    pub(crate) fn compact(&mut self) {
        let index = self.random.below(2);
        let log = &mut self.logs[index];
        let below = self.random.below(log.end as usize + 1) as Offset;
        let mut last: BTreeMap<Bytes, Offset> = BTreeMap::new();
        for record in &log.records {
            last.insert(record.key.clone(), record.offset);
        }
        let tombstones = self.random.chance(2);
        log.records.retain(|r| {
            r.offset >= below || last[&r.key] == r.offset && (r.value.is_some() || !tombstones)
        });
        if tombstones {
            log.tombstone_floor = log.tombstone_floor.max(below);
        }
    }

    /// An unclean open of the log.
    pub(crate) fn new_epoch(&mut self) {
        for log in &mut self.logs {
            let epoch = log.epoch() + 1;
            log.epochs.push((epoch, log.end));
        }
    }

    /// Writes a checkpoint as a task does: the overlay is dropped only when it was finished.
    pub(crate) fn checkpoint(
        &mut self,
        backend: &mut dyn StateBackend,
    ) -> Result<Written, StateError> {
        let Some(meta) = &self.last else { return Ok(Written::default()) };
        let frozen = self.overlay.clone();
        let written = write_checkpoint(backend, &mut frozen.into_iter(), meta)?;
        self.overlay.clear();
        Ok(written)
    }

    pub(crate) fn truth(&self) -> Truth {
        let changelog = |log: &Log| Changelog {
            store: log.store,
            at: log.at.clone(),
            topic_id: log.topic_id,
            start: 0,
            end: log.end,
            tombstone_floor: log.tombstone_floor,
        };
        let position = (TopicPartition::new("in", 3), self.input);
        Truth {
            log_id: self.log_id,
            task: self.task,
            topology_hash: self.topology_hash,
            txn_seq: self.txn_seq(),
            positions: self.last.iter().map(|_| position.clone()).collect(),
            changelogs: self.logs.iter().map(changelog).collect(),
        }
    }

    pub(crate) fn still_means(&self, position: &ChangelogPosition) -> Result<(), String> {
        let log = self.logs.iter().find(|log| log.at == position.at).ok_or("no such partition")?;
        let held = log.epochs.iter().rfind(|(_, first)| *first < position.offset);
        match held {
            Some((epoch, _)) if *epoch == position.leader_epoch || !self.epochs_checked => Ok(()),
            held => Err(format!("epoch {} there, {held:?} here", position.leader_epoch)),
        }
    }

    /// A restart: plan, replay, finish, and if need be once more.
    pub(crate) fn restart(&mut self, store: &dyn StateStore) -> Result<Restarted, StateError> {
        let limits = ReplayLimits { batch_bytes: 40, mark_bytes: 150 };
        let backend = store.open(&self.task.to_string())?;
        let truth = self.truth();
        let stored = Stored::load(backend.as_ref())?;
        let plan = plan(stored, &truth, |position| self.still_means(position))?;
        let mut replayer = Replayer::start(backend, plan, truth, limits)?;
        let mut again = None;
        loop {
            self.feed(&mut replayer)?;
            match replayer.finish()? {
                Finish::Restored(restored) => {
                    let rows = rows_of(restored.backend.as_ref())?;
                    let (meta, rebuilt) = (restored.meta, restored.rebuilt);
                    let records = restored.records;
                    return Ok(Restarted { rows, meta, rebuilt, records, again });
                }
                Finish::Again { why, replayer: next } => {
                    assert!(again.is_none(), "twice: {why}");
                    again = Some(why);
                    replayer = next;
                }
            }
        }
    }

    fn feed(&mut self, replayer: &mut Replayer) -> Result<(), StateError> {
        loop {
            let open: Vec<(StoreId, Offset)> =
                replayer.remaining().map(|(log, next)| (log.store, next)).collect();
            if open.is_empty() {
                return Ok(());
            }
            let (store, next) = open[self.random.below(open.len())];
            let log = &self.logs[usize::from(store) - 1];
            // A fetch may begin before the offset asked for.
            let from = next - self.random.below(3) as Offset;
            let count = 1 + self.random.below(5);
            let batch: Vec<&Record> =
                log.records.iter().filter(|r| r.offset >= from).take(count).collect();
            let (next, epoch) = match batch.last() {
                Some(last) if log.records.iter().any(|r| r.offset >= next) => {
                    (last.offset + 1, last.epoch)
                }
                // Only markers and aborted records are left.
                _ => (log.end, log.epoch()),
            };
            let mut records = batch.iter().map(|r| (r.offset, r.key.clone(), r.value.clone()));
            replayer.apply(store, epoch, next, &mut records)?;
        }
    }

    /// Asserts that an image may have been left by a crash: every row is the value of a committed
    /// change (I1), and where the last change of all is below the stored offset, it is that one (I2):
    /// replay will not bring it.
    pub(crate) fn audit(&self, backend: &dyn StateBackend, context: &str) {
        let stored = Stored::load(backend).expect("readable");
        let complete = |store: StoreId| match &stored {
            Stored::Checkpoint(stored) => {
                let log = stored.changelogs.iter().find(|log| log.store == store);
                log.map_or(0, |log| log.offset)
            }
            Stored::Nothing => 0,
            Stored::Unreadable(why) => panic!("{context}: {why}"),
        };
        let rows = rows_of(backend).expect("readable");
        for key in rows.keys() {
            assert!(self.history.contains_key(key), "{context}: {key:?} was never committed");
        }
        for (key, changes) in &self.history {
            let found = rows.get(key);
            let c = complete(store_of(key).expect("keys here have a store"));
            let mut legal: Vec<Option<&Bytes>> = Vec::new();
            if changes.last().is_some_and(|(offset, _)| *offset >= c) {
                legal.push(None);
                legal.extend(changes.iter().map(|(_, value)| value.as_ref()));
            } else {
                legal.extend(changes.last().map(|(_, value)| value.as_ref()));
            }
            assert!(legal.contains(&found), "{context}: {key:?} is {found:?} with c = {c}");
        }
    }

    /// Asserts that the rows and the meta record are those of the fold of everything committed.
    pub(crate) fn judge(&self, found: &Restarted, context: &str) {
        assert_eq!(found.rows, self.committed, "{context}");
        assert_eq!(found.meta, self.last.as_ref().map(|last| last.meta.clone()), "{context}");
    }
}

impl Log {
    pub(crate) fn epoch(&self) -> LeaderEpoch {
        self.epochs.last().map_or(0, |(epoch, _)| *epoch)
    }

    fn append(&mut self, key: Bytes, value: Option<Bytes>) -> Offset {
        let offset = self.end;
        self.records.push(Record { offset, epoch: self.epoch(), key, value });
        self.end += 1;
        offset
    }
}

/// All rows but the meta row.
pub(crate) fn rows_of(backend: &dyn StateBackend) -> Result<BTreeMap<Bytes, Bytes>, StateError> {
    backend.range(&[0, 1], &[], false)?.collect()
}

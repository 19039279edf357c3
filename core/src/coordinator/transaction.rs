//! F5 · The transaction coordinator: who may write under a transactional id, and how its transactions
//! end. One for each partition of `__transaction_state`.
//!
//! ```text
//!                init                 add                    commit
//!     (new id) -------> Empty -----------------> Ongoing ----------------> PrepareCommit
//!                         ^  \                   ^  |  \                        |
//!                   init  |   \ abort            |  |   \ abort, timeout,       | markers written
//!                         |    \             add |  |    \ init of a successor  v
//!                         |     v                |  |     v                CompleteCommit
//!                         |   PrepareAbort <-----|--+-- PrepareAbort            |
//!                         |        \ markers     |           / markers          |
//!                         |         v            |          v                   |
//!                         +------------- CompleteAbort ------+-- the same edges -+
//! ```
//!
//! Always true here:
//! - The state of an id *is* its last record. A command computes the next record; [`replay`] stores it.
//! - Every end of a transaction raises the epoch (KIP-890, transaction version 2), so that a late
//!   write or a late end of the old transaction can never touch the next one. The markers carry the
//!   raised epoch: the data's + 1.
//! - Epoch 32767 is never given to a client, so that fencing always has a higher one. Data may be
//!   written under 32766; ending that transaction takes a new producer id, whose epochs begin at 0,
//!   while its markers use 32767 under the old id. This holds for every way to end one.
//! - Between Prepare and Complete the id takes no other record: the owner is told to try again, all
//!   others are fenced. Complete is the caller's promise that the markers are durable; only then may
//!   the next transaction's first record follow. (Without that, recovery could find a Prepare without
//!   its markers behind records of the next transaction, and its marker would decide both.)
//! - A reply of [`init_producer`] leaves when its record is durable at the coordinator's level, else a
//!   power loss could give the same epoch out twice; a reply of [`prepare`] when the record, the data
//!   and the positions are.
//!
//! Differences from Kafka, each visible in the tests: an end asked for by the owner of the *next*
//! identity while markers are under way is answered with "try again" (in Kafka's table it is fenced,
//! but Kafka never gets there: a pending transition answers first); a commit of a transaction that the
//! coordinator aborted is [`Error::Abortable`] rather than an invalid state, because aborting is what
//! the caller should do. Not done: expiry of unused transactional ids, resuming with an expected
//! identity (KIP-360), two-phase commit (KIP-939).
//!
//! [`replay`]: TransactionCoordinator::replay
//! [`init_producer`]: TransactionCoordinator::init_producer
//! [`prepare`]: TransactionCoordinator::prepare

mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Malformed, Plan, check_id};
use crate::error::{Error, Result};
use crate::ids::{Offset, ProducerIdentity, Timestamp, TopicPartition};
use crate::request::TransactionEnd;

/// Where a transactional id is. The numbers are Kafka's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionState {
    /// It has an identity and no transaction yet.
    Empty = 0,
    /// Partitions have joined.
    Ongoing = 1,
    /// Decided: everything becomes visible. Markers are under way.
    PrepareCommit = 2,
    /// Decided: nothing becomes visible. Markers are under way.
    PrepareAbort = 3,
    /// Committed, all markers written.
    CompleteCommit = 4,
    /// Aborted, all markers written.
    CompleteAbort = 5,
}

impl TransactionState {
    /// Kafka's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
        }
    }

    fn from_byte(byte: i8) -> Option<Self> {
        [
            Self::Empty,
            Self::Ongoing,
            Self::PrepareCommit,
            Self::PrepareAbort,
            Self::CompleteCommit,
            Self::CompleteAbort,
        ]
        .into_iter()
        .find(|state| *state as i8 == byte)
    }

    fn is_prepared(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::PrepareAbort)
    }

    fn is_complete(self) -> bool {
        matches!(self, Self::CompleteCommit | Self::CompleteAbort)
    }
}

/// The end of a transaction's data in one partition: what recovery compares with the log before it
/// believes a Prepare.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionTail {
    /// The partition.
    pub at: TopicPartition,
    /// The offset of the transaction's last record there.
    pub last_offset: Offset,
    /// The CRC of the batch that ends there.
    pub crc: u32,
}

/// All that is known of a transactional id: the content of its last record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// Who writes. From Prepare on, the identity of the markers.
    pub producer: ProducerIdentity,
    /// The producer id before the last transition; -1 when unknown. Recognises a repeated end of the
    /// transaction that used up an id's epochs.
    pub previous_id: i64,
    /// The producer id from Complete on, when the epochs have run out; -1 otherwise.
    pub next_id: i64,
    /// How long a transaction may stay open, in milliseconds.
    pub timeout_ms: i32,
    /// Where it is.
    pub state: TransactionState,
    /// The partitions that joined the transaction under way.
    pub partitions: BTreeSet<TopicPartition>,
    /// What a PrepareCommit commits: the partitions that got data.
    pub tails: Vec<PartitionTail>,
    /// When the transaction began, or -1.
    pub started: Timestamp,
    /// When the record was written.
    pub updated: Timestamp,
    /// The transaction version of the client that made the last transition: 2 here.
    pub client_version: i16,
}

impl Transaction {
    /// The identity after the transaction under way: what the client was told at Prepare.
    fn next(&self) -> ProducerIdentity {
        match self.next_id {
            -1 => self.producer,
            id => ProducerIdentity { id, epoch: 0 },
        }
    }

    /// Whether an end under `identity` repeats one that was already decided.
    fn is_retry(&self, identity: ProducerIdentity) -> bool {
        let bumped = identity.id == self.producer.id
            && identity.epoch.checked_add(1) == Some(self.producer.epoch);
        let rotated = identity.id == self.previous_id
            && identity.epoch == EPOCH_MAX
            && self.producer.epoch == 0;
        bumped || rotated
    }
}

/// A decided transaction: what its markers need.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndPlan {
    /// The transactional id.
    pub id: Arc<str>,
    /// How it ends.
    pub end: TransactionEnd,
    /// The identity that the markers carry: it also fences the data's.
    pub marker: ProducerIdentity,
    /// The partitions that get a marker, in order. May be empty.
    pub partitions: Vec<TopicPartition>,
    /// What a commit rests on. A partition without one got no data; aborts rest on nothing.
    pub tails: Vec<PartitionTail>,
    /// The identity for the next transaction.
    pub next: ProducerIdentity,
    /// Whether the markers' epoch is above the data's. Those of older clients have the same (KIP-890).
    pub raises: bool,
}

/// The answer to [`TransactionCoordinator::init_producer`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Init {
    /// The producer may begin with this identity.
    Ready(ProducerIdentity),
    /// A former producer left a transaction open. The plan's record aborts and fences it; write its
    /// markers, [`complete`](TransactionCoordinator::complete) it and ask again.
    EndFirst(EndPlan),
    /// The markers of the last transaction are under way. When they are complete, ask again.
    Finishing(EndPlan),
}

/// The answer to [`TransactionCoordinator::prepare`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Prepared {
    /// Decided by this call.
    Decided(EndPlan),
    /// A repeated call: it ended so before. The identity for the next transaction.
    AlreadyDone(ProducerIdentity),
}

/// What an opened folder has to bring to an end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Undecided {
    /// A transaction of a producer that is gone: abort it.
    Ongoing(Arc<str>),
    /// A decision whose markers may be missing: verify a commit's tails, then finish it.
    Prepared(EndPlan),
}

/// The transactional ids of one partition of `__transaction_state`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransactionCoordinator {
    timeout_ms_max: i32,
    transactions: BTreeMap<Arc<str>, Transaction>,
    skipped: u64,
}

impl TransactionCoordinator {
    /// A coordinator of an empty partition. No client may ask for a longer timeout than
    /// `timeout_ms_max`.
    pub fn new(timeout_ms_max: i32) -> Self {
        Self { timeout_ms_max, transactions: BTreeMap::new(), skipped: 0 }
    }

    /// Takes in one record of the partition, at open or after it was appended.
    ///
    /// # Errors
    /// [`Malformed`] for bytes that no version writes; nothing has changed then.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Malformed> {
        let Some(id) = record::decode_key(key)? else {
            self.skipped += 1;
            return Ok(());
        };
        match value.map(record::decode_value).transpose()? {
            Some(record::Value::Transaction(transaction)) => {
                self.transactions.insert(id.into(), *transaction);
            }
            Some(record::Value::Unknown) => self.skipped += 1,
            Some(record::Value::Dead) | None => {
                self.transactions.remove(id);
            }
        }
        Ok(())
    }

    /// How many records of unknown types and versions were passed over. While there are any, an open
    /// transaction that [`owns`](Self::owns) denies may be theirs.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Gives a producer its identity and fences whoever had the id before.
    ///
    /// `fresh_pid` is a producer id never given out; it is used up if the reply names it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad id or timeout.
    pub fn init_producer(
        &self,
        id: &str,
        timeout_ms: i32,
        fresh_pid: i64,
        now: Timestamp,
    ) -> Result<Plan<Init>> {
        check_id("transactional id", id)?;
        if timeout_ms <= 0 || timeout_ms > self.timeout_ms_max {
            return Err(Error::invalid(format!(
                "transaction timeout of {timeout_ms} ms: use 1 to {} ms",
                self.timeout_ms_max
            )));
        }
        let (producer, previous_id, client_version) = match self.transactions.get(id) {
            // Kafka makes the id before its first transition, so its "previous" is the same.
            None => (ProducerIdentity { id: fresh_pid, epoch: 0 }, fresh_pid, 0),
            Some(last) => match last.state {
                TransactionState::Ongoing => {
                    return self.abort_ongoing(id, fresh_pid, now).map(
                        |Plan { records, reply }| Plan { records, reply: Init::EndFirst(reply) },
                    );
                }
                TransactionState::PrepareCommit | TransactionState::PrepareAbort => {
                    return Ok(Plan::answer(Init::Finishing(end_plan(id, last))));
                }
                TransactionState::Empty
                | TransactionState::CompleteCommit
                | TransactionState::CompleteAbort => {
                    let producer = match last.producer {
                        ProducerIdentity { epoch: EPOCH_MAX.., .. } => {
                            ProducerIdentity { id: fresh_pid, epoch: 0 }
                        }
                        ProducerIdentity { id, epoch } => ProducerIdentity { id, epoch: epoch + 1 },
                    };
                    (producer, last.producer.id, last.client_version)
                }
            },
        };
        let next = Transaction {
            producer,
            previous_id,
            next_id: -1,
            timeout_ms,
            state: TransactionState::Empty,
            partitions: BTreeSet::new(),
            tails: Vec::new(),
            started: -1,
            updated: now,
            client_version,
        };
        Ok(Plan { records: vec![record::encode(id, &next)], reply: Init::Ready(producer) })
    }

    /// Adds partitions to the transaction, beginning it with the first. Partitions that are in it
    /// already need no record.
    ///
    /// # Errors
    /// In this order: [`Error::Unknown`] for an id without a producer, [`Error::Fenced`] for another
    /// identity than the id's, [`Error::Retry`] while the last transaction's markers are under way.
    pub fn add_partitions(
        &self,
        id: &str,
        identity: ProducerIdentity,
        partitions: &[TopicPartition],
        now: Timestamp,
    ) -> Result<Plan<()>> {
        let last = self.find(id)?;
        if last.state.is_prepared() {
            return Err(unfinished(id, last, identity));
        }
        if identity != last.producer {
            return Err(fenced(id, last, identity));
        }
        let ongoing = last.state == TransactionState::Ongoing;
        if partitions.is_empty()
            || (ongoing && partitions.iter().all(|at| last.partitions.contains(at)))
        {
            return Ok(Plan::answer(()));
        }
        let mut next = last.clone();
        next.state = TransactionState::Ongoing;
        next.previous_id = last.producer.id;
        next.partitions.extend(partitions.iter().cloned());
        next.started = if ongoing { last.started } else { now };
        next.updated = now;
        next.client_version = CLIENT_VERSION;
        Ok(Plan { records: vec![record::encode(id, &next)], reply: () })
    }

    /// Decides a transaction, once and for all. `tails` says where a commit's data ends in each
    /// partition that got some; for an abort it is empty.
    ///
    /// `fresh_pid` is a producer id never given out; it is used up if the reply's plan names it.
    /// A repeated call is recognised by its epoch, one below the stored one, and gets the same answer.
    ///
    /// | state | commit again | commit | abort again | abort |
    /// |---|---|---|---|---|
    /// | Empty | `Fenced` | `Invalid` | `Fenced` | decided, no partitions |
    /// | Ongoing | `Fenced` | decided | `Fenced` | decided |
    /// | PrepareCommit | `Retry` | `Retry` | `Invalid` | `Retry` |
    /// | PrepareAbort | `Abortable` | `Retry` | `Retry` | `Retry` |
    /// | CompleteCommit | already done | `Invalid` | `Invalid` | decided, no partitions |
    /// | CompleteAbort | `Abortable` | `Invalid` | already done | decided, no partitions |
    ///
    /// Every other identity is `Fenced`, an id without a producer `Unknown`.
    ///
    /// # Errors
    /// As in the table: [`Error::Fenced`]: stop. [`Error::Retry`]: markers are under way.
    /// [`Error::Abortable`]: the coordinator aborted it (its time was up, or a successor came).
    /// [`Error::Invalid`]: there is nothing to commit, or it was committed before.
    pub fn prepare(
        &self,
        id: &str,
        identity: ProducerIdentity,
        end: TransactionEnd,
        tails: Vec<PartitionTail>,
        fresh_pid: i64,
        now: Timestamp,
    ) -> Result<Plan<Prepared>> {
        use TransactionEnd::{Abort, Commit};
        use TransactionState::{CompleteAbort, CompleteCommit, PrepareAbort, PrepareCommit};

        let last = self.find(id)?;
        if last.state.is_prepared() || last.state.is_complete() {
            if last.is_retry(identity) {
                return match (last.state, end) {
                    (CompleteCommit, Commit) | (CompleteAbort, Abort) => {
                        Ok(Plan::answer(Prepared::AlreadyDone(last.producer)))
                    }
                    (PrepareCommit, Commit) | (PrepareAbort, Abort) => Err(busy(id)),
                    (_, Commit) => Err(Error::Abortable {
                        what: format!("the coordinator aborted the transaction of {id:?}"),
                    }),
                    (_, Abort) => Err(Error::invalid(format!(
                        "the transaction of {id:?} was committed and cannot be aborted"
                    ))),
                };
            }
            if last.state.is_prepared() {
                return Err(unfinished(id, last, identity));
            }
        }
        if identity != last.producer {
            return Err(fenced(id, last, identity));
        }
        if last.state != TransactionState::Ongoing && end == Commit {
            return Err(Error::invalid(format!(
                "{id:?} has no transaction to commit: nothing was added to one"
            )));
        }
        if let Some(tail) = tails.iter().find(|tail| !last.partitions.contains(&tail.at)) {
            return Err(Error::invalid(format!("{} is not in the transaction of {id:?}", tail.at)));
        }
        let tails = if end == Commit { tails } else { Vec::new() };
        let Plan { records, reply } = decide(id, last, end, tails, fresh_pid, now);
        Ok(Plan { records, reply: Prepared::Decided(reply) })
    }

    /// Aborts an open transaction over its producer's head and fences it: its time was up, a
    /// successor came, or the folder was opened and no producer is left.
    ///
    /// `fresh_pid` is a producer id never given out; it is used up if the reply names it.
    ///
    /// # Errors
    /// [`Error::Unknown`], or [`Error::Invalid`] when no transaction is open.
    pub fn abort_ongoing(&self, id: &str, fresh_pid: i64, now: Timestamp) -> Result<Plan<EndPlan>> {
        let last = self.find(id)?;
        if last.state != TransactionState::Ongoing {
            return Err(Error::invalid(format!("{id:?} has no open transaction to abort")));
        }
        Ok(decide(id, last, TransactionEnd::Abort, Vec::new(), fresh_pid, now))
    }

    /// Turns a commit that nobody was told of into an abort, for recovery: the log no longer holds
    /// what the Prepare names. Never after a failed sync, and never below the flushed-offset hint.
    ///
    /// # Errors
    /// [`Error::Unknown`], or [`Error::Invalid`] when there is no commit under way.
    pub fn revoke_commit(&self, id: &str, now: Timestamp) -> Result<Plan<EndPlan>> {
        let last = self.find(id)?;
        if last.state != TransactionState::PrepareCommit {
            return Err(Error::invalid(format!("{id:?} has no commit under way to revoke")));
        }
        let mut next = last.clone();
        next.state = TransactionState::PrepareAbort;
        next.previous_id = last.producer.id;
        next.tails.clear();
        next.updated = now;
        Ok(Plan { records: vec![record::encode(id, &next)], reply: end_plan(id, &next) })
    }

    /// Notes that all markers of a decided transaction are durable: the id is free for the next one.
    /// The reply is the identity for it. Again for a completed transaction: nothing to append.
    ///
    /// # Errors
    /// [`Error::Unknown`], or [`Error::Invalid`] when nothing was decided.
    pub fn complete(&self, id: &str, now: Timestamp) -> Result<Plan<ProducerIdentity>> {
        let last = self.find(id)?;
        let state = match last.state {
            TransactionState::PrepareCommit => TransactionState::CompleteCommit,
            TransactionState::PrepareAbort => TransactionState::CompleteAbort,
            TransactionState::CompleteCommit | TransactionState::CompleteAbort => {
                return Ok(Plan::answer(last.producer));
            }
            TransactionState::Empty | TransactionState::Ongoing => {
                return Err(Error::invalid(format!("the transaction of {id:?} is not decided")));
            }
        };
        let mut next = last.clone();
        next.producer = last.next();
        next.previous_id = last.producer.id;
        next.next_id = -1;
        next.state = state;
        next.partitions.clear();
        next.tails.clear();
        next.updated = now;
        Ok(Plan { records: vec![record::encode(id, &next)], reply: next.producer })
    }

    /// The ids whose transaction was open for longer than its timeout at `now`, in order: abort them
    /// with [`abort_ongoing`](Self::abort_ongoing). A clock set back only makes them wait.
    pub fn expired(&self, now: Timestamp) -> Vec<Arc<str>> {
        let late = |t: &Transaction| now.saturating_sub(t.started) > i64::from(t.timeout_ms);
        self.transactions
            .iter()
            .filter(|(_, t)| t.state == TransactionState::Ongoing && late(t))
            .map(|(id, _)| Arc::clone(id))
            .collect()
    }

    /// Everything that must come to an end before a folder's first client, by id.
    pub fn undecided(&self) -> Vec<Undecided> {
        self.transactions
            .iter()
            .filter_map(|(id, t)| match t.state {
                TransactionState::Ongoing => Some(Undecided::Ongoing(Arc::clone(id))),
                TransactionState::PrepareCommit | TransactionState::PrepareAbort => {
                    Some(Undecided::Prepared(end_plan(id, t)))
                }
                _ => None,
            })
            .collect()
    }

    /// The decision of `id` whose markers are under way, if there is one.
    pub fn under_way(&self, id: &str) -> Option<EndPlan> {
        self.transactions.get(id).filter(|t| t.state.is_prepared()).map(|t| end_plan(id, t))
    }

    /// The partitions of the transaction that `id` has open under `identity`.
    pub fn open_partitions(&self, id: &str, identity: ProducerIdentity) -> Vec<TopicPartition> {
        let open =
            |t: &&Transaction| t.state == TransactionState::Ongoing && t.producer == identity;
        let found = self.transactions.get(id).filter(open);
        found.map_or_else(Vec::new, |t| t.partitions.iter().cloned().collect())
    }

    /// Whether a transaction of `producer_id` that is open in `at` will get its marker from here. One
    /// that no coordinator owns lost its marker, and is ended as it was decided ([`ended`](Self::ended)),
    /// or its AddPartitions, and must be aborted; but only when every coordinator was loaded whole (and
    /// [`skipped`](Self::skipped) nothing).
    pub fn owns(&self, producer_id: i64, at: &TopicPartition) -> bool {
        self.transactions.values().any(|t| {
            t.producer.id == producer_id
                && (t.state == TransactionState::Ongoing || t.state.is_prepared())
                && t.partitions.contains(at)
        })
    }

    /// How the transaction that `producer` wrote ended, if it is the last one of its id and all its markers
    /// were written once. A partition where it is open lost its marker since, with a damaged batch: what
    /// was decided, and told, holds for what is left of it there. Only of those that raised the epoch at
    /// their end is it known which one was the last: older clients write several under one epoch.
    pub fn ended(&self, producer: ProducerIdentity) -> Option<TransactionEnd> {
        let is_next = |t: &Transaction| match t.producer.id == producer.id {
            true => i32::from(t.producer.epoch) == i32::from(producer.epoch) + 1,
            false => producer.epoch >= EPOCH_MAX,
        };
        let last = |t: &&Transaction| {
            t.state.is_complete()
                && t.client_version >= CLIENT_VERSION
                && t.previous_id == producer.id
                && is_next(t)
        };
        self.transactions.values().find(last).map(|t| match t.state {
            TransactionState::CompleteCommit => TransactionEnd::Commit,
            _ => TransactionEnd::Abort,
        })
    }

    /// What is known of a transactional id.
    pub fn describe(&self, id: &str) -> Option<&Transaction> {
        self.transactions.get(id)
    }

    /// All transactional ids, in order.
    pub fn transactions(&self) -> impl Iterator<Item = (&Arc<str>, &Transaction)> {
        self.transactions.iter()
    }

    fn find(&self, id: &str) -> Result<&Transaction> {
        self.transactions.get(id).ok_or_else(|| Error::Unknown {
            what: format!("a producer of transactional id {id:?}"),
        })
    }
}

/// The Prepare record: the epoch rises, and a new producer id waits if this was the last epoch.
fn decide(
    id: &str,
    last: &Transaction,
    end: TransactionEnd,
    tails: Vec<PartitionTail>,
    fresh_pid: i64,
    now: Timestamp,
) -> Plan<EndPlan> {
    let mut next = last.clone();
    next.state = match end {
        TransactionEnd::Commit => TransactionState::PrepareCommit,
        TransactionEnd::Abort => TransactionState::PrepareAbort,
    };
    // Only a foreign record can hold 32767 here; then the new producer id alone fences.
    next.producer.epoch = last.producer.epoch.saturating_add(1);
    next.previous_id = last.producer.id;
    next.next_id = if last.producer.epoch >= EPOCH_MAX { fresh_pid } else { -1 };
    next.tails = tails;
    // An abort may end a transaction that never began.
    next.started = if last.state == TransactionState::Ongoing { last.started } else { now };
    next.updated = now;
    next.client_version = CLIENT_VERSION;
    Plan { records: vec![record::encode(id, &next)], reply: end_plan(id, &next) }
}

fn end_plan(id: &str, prepared: &Transaction) -> EndPlan {
    EndPlan {
        id: id.into(),
        end: match prepared.state {
            TransactionState::PrepareCommit => TransactionEnd::Commit,
            _ => TransactionEnd::Abort,
        },
        marker: prepared.producer,
        partitions: prepared.partitions.iter().cloned().collect(),
        tails: prepared.tails.clone(),
        next: prepared.next(),
        raises: prepared.client_version >= CLIENT_VERSION,
    }
}

/// While markers are under way: the owner of the next identity waits, everybody else is fenced.
fn unfinished(id: &str, last: &Transaction, identity: ProducerIdentity) -> Error {
    if identity == last.next() { busy(id) } else { fenced(id, last, identity) }
}

fn busy(id: &str) -> Error {
    Error::Retry {
        what: format!("the markers of the last transaction of {id:?} are being written"),
    }
}

fn fenced(id: &str, last: &Transaction, identity: ProducerIdentity) -> Error {
    let ProducerIdentity { id: pid, epoch } = last.next();
    Error::Fenced {
        who: format!("producer {} epoch {} of {id:?}", identity.id, identity.epoch),
        why: format!("producer {pid} epoch {epoch} holds the transactional id"),
    }
}

/// The last epoch a client may get. The one above is for fencing it.
const EPOCH_MAX: i16 = i16::MAX - 1;

/// What Kafka calls transaction version 2: a new epoch with every transaction.
const CLIENT_VERSION: i16 = 2;

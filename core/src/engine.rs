//! F6 · The embedded engine: owns partitions and coordinators, and is the
//! [`Log`](crate::client::log::Log) of one folder.
//!
//! ```text
//!   DIR/format                 the number of the layout
//!   DIR/lock                   held while open
//!   DIR/log/                   laid out as Kafka's log directory
//!   DIR/state/                 of the layers above
//!
//!   append  -> append.rs    validate outside the lock; check, stamp, write inside
//!   sync    -> sync.rs      group commit
//!   fetch   -> read.rs      no lock; waits are woken by the append that satisfies them
//!   commit  -> transact.rs  decide, make durable, acknowledge, markers, complete
//!   open    -> open.rs      recover, new epoch, replay, finish what was under way
//!   look    -> look.rs      the same in memory, beside whoever writes: nothing is changed or decided
//! ```
//!
//! Always true here: no lock is held over an await; a reply never precedes its durability level; once
//! a write or a sync failed, everything is refused until the folder is opened again.

mod append;
pub mod clock;
mod compact;
mod finish;
mod folder;
mod foreign;
mod groups;
mod handle;
mod instances;
mod log;
mod look;
mod maintain;
mod open;
mod read;
mod replay;
pub mod runtime;
mod sync;
mod take_over;
mod topics;
mod transact;
mod truncate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use self::clock::{Clock, Entropy};
use self::handle::PartitionHandle;
use self::runtime::Runtime;
use self::sync::SyncQueue;
use crate::config::{Level, LogConfig};
use crate::coordinator::group::GroupCoordinator;
use crate::coordinator::metadata::Metadata;
use crate::coordinator::transaction::TransactionCoordinator;
use crate::disk::Disk;
use crate::disk::handles::Handles;
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, TopicPartition, Uuid};
use crate::log::Buffers;

pub use self::compact::Maintained;
pub use self::folder::STATE_DIR;
pub use self::instances::{open_real, open_simulated};
pub use self::open::OpenReport;
pub use self::take_over::TakeOver;
pub use self::truncate::Truncation;

/// The topic of topics, producer ids and leader epochs.
pub const METADATA_TOPIC: &str = "__thalweg_metadata";
/// The topic of groups and their offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// The topic of transactions.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

type Partitions<D> = BTreeMap<TopicPartition, Arc<PartitionHandle<D>>>;

/// A coordinator and the partition that keeps it.
struct Shard<D: Disk, C> {
    handle: Arc<PartitionHandle<D>>,
    state: Mutex<C>,
}

/// Producer ids of the current block that were not given out.
#[derive(Default)]
struct ProducerIds {
    next: i64,
    end: i64,
}

struct Inner<D: Disk> {
    disk: D,
    handles: Handles<D>,
    dir: PathBuf,
    /// Where the partitions' folders are.
    log_dir: PathBuf,
    /// Whether it is only looked at.
    read_only: bool,
    config: LogConfig,
    runtime: Runtime,
    clock: Clock,
    entropy: Entropy,
    id: Uuid,
    epoch: LeaderEpoch,
    partitions: ArcSwap<Partitions<D>>,
    /// Partitions that could not be opened, and why. The others go on.
    damaged: BTreeMap<TopicPartition, Error>,
    metadata: Shard<D, Metadata>,
    groups: Vec<Shard<D, GroupCoordinator>>,
    transactions: Vec<Shard<D, TransactionCoordinator>>,
    /// One topic is created or deleted at a time.
    topics_busy: tokio::sync::Mutex<()>,
    producer_ids: tokio::sync::Mutex<ProducerIds>,
    sync: SyncQueue<D>,
    buffers: Buffers,
    /// The compaction under way. Whoever holds this lock writes files of its partition.
    compaction: Mutex<Option<compact::Running<D>>>,
    stopped: OnceLock<String>,
    /// Rings when a group's pending offsets were decided.
    decided: tokio::sync::Notify,
    /// Bytes appended since free space was last looked at.
    since_space_check: std::sync::atomic::AtomicU64,
    no_space: std::sync::atomic::AtomicBool,
}

/// The log of one folder, in this process.
///
/// Dropping it without [`Engine::close`] is like a crash: nothing acknowledged is lost, and the next
/// open reads more.
pub struct Engine<D: Disk> {
    inner: Arc<Inner<D>>,
    locks: Mutex<Option<folder::Locks<D>>>,
    report: OpenReport,
}

impl<D: Disk> Engine<D> {
    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The disk that the folder is on.
    pub fn disk(&self) -> &D {
        &self.inner.disk
    }

    /// What opening found and did.
    pub fn report(&self) -> &OpenReport {
        &self.report
    }

    /// Notes durable ends on disk and aborts transactions that are open for too long. Runs by itself
    /// every [`LogConfig::hint_interval`] where there is a runtime; a simulation calls it.
    ///
    /// # Errors
    /// `Stopped`, and what appending refuses.
    pub async fn tick(&self) -> Result<()> {
        if self.inner.read_only {
            // Whoever writes here does that.
            return self.inner.check_running();
        }
        self.inner.tick().await
    }

    /// Does now, and to the end, what retention and compaction would do bit by bit. Compaction goes on
    /// until no partition is as dirty as its settings ask for.
    ///
    /// # Errors
    /// `Stopped`; `ReadOnly`. What one partition refuses is logged, and does not keep the others back.
    pub async fn maintain(&self) -> Result<Maintained> {
        self.inner.check_writable()?;
        self.inner.maintain_all().await
    }

    /// Whether every coordinator, rebuilt by replaying its partition, equals the one in memory.
    ///
    /// # Errors
    /// `Damaged` naming the partition that differs, or what reading refuses.
    pub fn check_coordinators(&self) -> Result<()> {
        self.inner.check_coordinators()
    }

    /// Stops cleanly: everything is made durable and marked so that the next open need not recover.
    ///
    /// # Errors
    /// The first failure; the next open then recovers.
    pub fn close(&self) -> Result<()> {
        if self.inner.read_only {
            self.inner.let_go("it was closed");
            return Ok(());
        }
        let Some(locks) = self.locks.lock().take() else { return Ok(()) };
        let closed = self.inner.close();
        // Whoever opens the folder next must be alone in it, also when closing failed half way.
        self.inner.let_go("it was closed");
        drop(locks);
        closed
    }
}

impl<D: Disk> Drop for Engine<D> {
    fn drop(&mut self) {
        self.inner.let_go("its engine was dropped");
    }
}

impl<D: Disk> Inner<D> {
    /// Refuses everything from now on: what a failed write or sync left on the medium is unknown.
    fn stop(&self, why: &Error) {
        if self.stopped.set(why.to_string()).is_ok() {
            tracing::error!(%why, "the log is stopped until it is reopened");
        }
        self.wake_all();
    }

    /// Everybody who waits looks again.
    fn wake_all(&self) {
        for handle in self.partitions.load().values() {
            handle.changed.notify_waiters();
        }
        self.decided.notify_waiters();
    }

    fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    fn check_running(&self) -> Result<()> {
        match self.stopped() {
            None => Ok(()),
            Some(why) => Err(Error::Stopped { why: why.to_owned() }),
        }
    }

    fn check_writable(&self) -> Result<()> {
        match self.read_only {
            false => Ok(()),
            true => Err(Error::ReadOnly { path: self.dir.clone() }),
        }
    }

    /// As [`Inner::watch`], for a write into a partition, whose topic may be gone meanwhile.
    fn watch_at<T>(&self, handle: &PartitionHandle<D>, result: Result<T>) -> Result<T> {
        match result {
            Err(Error::Stopped { .. }) if handle.is_gone() => Err(handle.unknown()),
            result => self.watch(result),
        }
    }

    /// Passes an error on; one that leaves the log in doubt stops it.
    fn watch<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(e @ Error::Stopped { .. }) = &result {
            self.stop(e);
        }
        result
    }

    fn partition(&self, at: &TopicPartition) -> Result<Arc<PartitionHandle<D>>> {
        if let Some(handle) = self.partitions.load().get(at) {
            return Ok(Arc::clone(handle));
        }
        if let Some(e) = self.damaged.get(at) {
            return Err(e.repeat());
        }
        Err(Error::Unknown { what: format!("partition {at}") })
    }

    fn log_dir(&self) -> PathBuf {
        self.log_dir.clone()
    }

    fn is_durable(&self) -> bool {
        self.config.level == Level::Disk
    }

    async fn tick(self: &Arc<Self>) -> Result<()> {
        self.check_running()?;
        let handles: Vec<_> = self.partitions.load().values().cloned().collect();
        for handle in handles {
            // Written, and nobody waits for it: readers do.
            if handle.view.level == Level::Disk && handle.durable_end() < handle.view.log.end() {
                self.request_sync(&handle);
            }
            let noted = handle.lock().note_durable_end();
            self.watch(noted)?;
        }
        self.maintain(self.clock.now())?;
        self.finish_decided(|_| true).await?;
        self.abort_expired().await
    }

    fn close(&self) -> Result<()> {
        self.end_compaction(None);
        // A job under way would be cut off from what it has to report: wait for it, start no other.
        self.sync.end();
        self.check_running()?;
        // A partition refuses whoever comes after it was closed: nothing is appended behind the
        // marker. One that was created meanwhile is closed in the next turn.
        let mut closed = std::collections::BTreeSet::new();
        loop {
            let handles: Vec<_> = self.partitions.load().values().cloned().collect();
            let before = closed.len();
            for handle in
                handles.into_iter().filter(|h| closed.insert((h.at.clone(), h.view.topic_id)))
            {
                let done = handle.lock().close();
                if let Err(e) = done
                    && !handle.is_gone()
                {
                    self.stop(&e);
                    return Err(e);
                }
            }
            if closed.len() == before {
                break;
            }
        }
        let marked = folder::mark_clean(&self.disk, &self.log_dir());
        // Whatever stopped it before says more.
        let _ = self.stopped.set("it was closed".to_owned());
        self.wake_all();
        marked
    }

    /// Makes sure that nothing of this engine writes any more, whatever still runs in the background:
    /// the folder may be somebody else's the next moment.
    fn let_go(&self, why: &str) {
        for handle in self.partitions.load().values() {
            handle.lock().refuse(why);
        }
        // Whatever stopped it before says more.
        let _ = self.stopped.set(why.to_owned());
        self.wake_all();
        self.end_compaction(None);
        self.sync.close();
    }
}

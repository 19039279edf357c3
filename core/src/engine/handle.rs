//! F6 · A partition in the engine: the writer behind a lock, the readers' view beside it.
//!
//! Always true here: under the lock there is only check, stamp and write; nothing is awaited while
//! it is held; whoever changed what readers may see wakes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{METADATA_TOPIC, OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use crate::config::TopicConfig;
use crate::disk::Disk;
use crate::error::Error;
use crate::ids::{Offset, Timestamp, TopicPartition};
use crate::partition::{Partition, PartitionView};

/// One partition.
pub(crate) struct PartitionHandle<D: Disk> {
    pub(crate) at: TopicPartition,
    pub(crate) view: Arc<PartitionView<D>>,
    /// The topic's settings; they may change while it is open.
    pub(crate) config: ArcSwap<TopicConfig>,
    /// Whether clients may not write here.
    pub(crate) internal: bool,
    writer: Mutex<Partition<D>>,
    /// Rings when an end moved.
    pub(crate) changed: Notify,
    /// Where the partition stands in the sync queue; see `sync.rs`.
    pub(crate) sync_state: AtomicU8,
    /// Its topic was deleted.
    gone: AtomicBool,
    /// Compaction met something that it cannot mend.
    uncompacted: AtomicBool,
    /// When a look first found records that were not synced, or [`CLEAN`].
    unsynced_since: AtomicI64,
}

/// Nothing that is not synced was found by the last look.
const CLEAN: Timestamp = i64::MIN;

impl<D: Disk> PartitionHandle<D> {
    pub(crate) fn new(
        at: TopicPartition,
        partition: Partition<D>,
        config: Arc<TopicConfig>,
    ) -> Self {
        Self {
            // Other names with two underscores belong to layers above, which write there as clients:
            // connectors keep their positions so.
            internal: matches!(&*at.topic, METADATA_TOPIC | OFFSETS_TOPIC | TRANSACTIONS_TOPIC),
            view: Arc::clone(partition.view()),
            config: ArcSwap::new(config),
            at,
            writer: Mutex::new(partition),
            changed: Notify::new(),
            sync_state: AtomicU8::new(0),
            gone: AtomicBool::new(false),
            uncompacted: AtomicBool::new(false),
            unsynced_since: AtomicI64::new(CLEAN),
        }
    }

    /// Takes over other settings, from the next append on.
    pub(crate) fn configure(&self, config: Arc<TopicConfig>) {
        self.lock().set_config(TopicConfig::clone(&config));
        self.config.store(config);
    }

    /// Whether records are not synced for longer than the topic's `flush.ms`, as seen by a look now and
    /// the looks before.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        let Some(limit) = self.config.load().flush_ms else { return false };
        if self.durable_end() >= self.view.log.end() {
            self.unsynced_since.store(CLEAN, Ordering::Relaxed);
            return false;
        }
        let since = self.unsynced_since.load(Ordering::Relaxed);
        if since == CLEAN {
            self.unsynced_since.store(now, Ordering::Relaxed);
        }
        let due =
            limit == 0 || (since != CLEAN && now.saturating_sub(since) >= limit.cast_signed());
        if due {
            self.unsynced_since.store(CLEAN, Ordering::Relaxed);
        }
        due
    }

    /// The writer.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Partition<D>> {
        self.writer.lock()
    }

    /// Its topic is deleted: nothing is written any more, and whoever waits is told.
    pub(crate) fn leave(&self) {
        let mut partition = self.lock();
        // First, so that whoever is refused knows why.
        self.gone.store(true, Ordering::Release);
        partition.refuse("its topic was deleted");
        drop(partition);
        self.changed.notify_waiters();
    }

    /// Whether its settings ask for compaction, and nothing is in its way.
    pub(crate) fn is_compacted(&self) -> bool {
        self.config.load().cleanup.compacts() && !self.uncompacted.load(Ordering::Relaxed)
    }

    /// It is not compacted any more until the folder is opened again.
    pub(crate) fn leave_uncompacted(&self) {
        self.uncompacted.store(true, Ordering::Relaxed);
    }

    /// Whether its topic was deleted.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// What users of a deleted partition are told.
    pub(crate) fn unknown(&self) -> Error {
        Error::Unknown { what: format!("partition {} (its topic was deleted)", self.at) }
    }

    /// Everything below was synced.
    pub(crate) fn durable_end(&self) -> Offset {
        self.view.durable_end()
    }
}

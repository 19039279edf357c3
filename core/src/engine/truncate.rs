//! F6 · Cutting a partition's end back, by a process that has the folder to itself.
//!
//! ```text
//!   plan    where a batch begins; no committed transaction in two
//!   epoch   the next one, durable: what is written where records were has another one, so that a
//!           position in the records that went is recognised
//!   close   the partition; nobody writes there any more
//!   cut     log/truncate.rs
//! ```
//!
//! Always true here: opening has ended every transaction, so no coordinator waits for what goes; groups'
//! positions are left as they are, because whoever stands in records that are gone must be told.

use std::path::Path;
use std::sync::Arc;

use super::{Engine, Partitions};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::{Offset, TopicPartition};
use crate::log::aside::Aside;
use crate::log::truncate::{cut, plan};

/// What a cut takes out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Truncation {
    /// The partition.
    pub at: TopicPartition,
    /// Where it will end: the offset asked for, or the next above it at which a batch begins.
    pub to: Offset,
    /// Where it ends now.
    pub end: Offset,
    /// Bytes that go.
    pub bytes: u64,
    /// Groups whose positions lie behind the new end, and these: they stay, and are answered with
    /// [`Error::PositionLost`] until somebody moves them.
    pub groups: Vec<(Arc<str>, Offset)>,
}

impl<D: Disk> Engine<D> {
    /// Looks what cutting a partition back to `to` would take out.
    ///
    /// # Errors
    /// `Unknown`; `OffsetOutOfRange` below the log start or above the end; `Invalid` for an internal
    /// topic, and when a transaction that was committed would be cut in two.
    pub fn truncation(&self, at: &TopicPartition, to: Offset) -> Result<Truncation> {
        let inner = &self.inner;
        inner.check_running()?;
        let handle = inner.partition(at)?;
        if inner.read_only {
            return Err(Error::ReadOnly { path: inner.dir.clone() });
        }
        if handle.internal {
            let what = format!("{at} is internal: what coordinators decided is not taken back");
            return Err(Error::invalid(what));
        }
        let (start, end) = (handle.view.log.start(), handle.view.log.end());
        if !(start..=end).contains(&to) {
            return Err(Error::OffsetOutOfRange { at: at.clone(), offset: to, start, end });
        }
        let found = plan(&inner.disk, &inner.log_dir().join(at.folder()), start, to)?;
        let mut groups = Vec::new();
        for group in inner.all_groups() {
            let beyond = |commit: &&crate::request::OffsetCommit| {
                commit.at == *at && commit.offset > found.to
            };
            let position = group.positions.iter().find(beyond).map(|commit| commit.offset);
            groups.extend(position.map(|offset| (Arc::clone(&group.group), offset)));
        }
        let (to, end, bytes) = (found.to, found.end, found.bytes);
        Ok(Truncation { at: at.clone(), to, end, bytes, groups })
    }

    /// Cuts a partition back to `to`, and keeps what it takes out below the folder `aside`. The partition
    /// is closed afterwards: close the log, and open it again.
    ///
    /// # Errors
    /// As [`Engine::truncation`]; `Io`, `Full`: the next open then finds the partition whole, or cut.
    pub async fn truncate(
        &self,
        at: &TopicPartition,
        to: Offset,
        aside: &Path,
    ) -> Result<Truncation> {
        let truncation = self.truncation(at, to)?;
        let inner = &self.inner;
        if truncation.bytes == 0 {
            return Ok(truncation);
        }
        let end = {
            let mut metadata = inner.metadata.state.lock();
            let plan = metadata.raise_epoch(inner.epoch)?;
            inner.write_metadata_records(&mut metadata, &plan.records)?
        };
        inner.wait_durable(&[(Arc::clone(&inner.metadata.handle), end)]).await?;
        let handle = inner.partition(at)?;
        let mut partitions = Partitions::clone(&inner.partitions.load());
        partitions.remove(at);
        inner.partitions.store(Arc::new(partitions));
        inner.end_compaction(Some(&handle));
        inner.wait_quiet(&handle).await?;
        handle.lock().close()?;
        let dir = inner.log_dir().join(at.folder());
        let found = plan(&inner.disk, &dir, handle.view.log.start(), to)?;
        cut(&inner.disk, &dir, &found, &Aside::new(&inner.disk, &inner.dir, aside))?;
        Ok(truncation)
    }
}

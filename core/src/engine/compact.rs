//! F6 · Which partition is compacted next, and how fast.
//!
//! ```text
//!   tick -> (blocking pool) -> the dirtiest partition -> steps, until the tick's bytes are used up
//!                                                         a group is written: swapped in under the lock
//! ```
//!
//! Always true here: one partition at a time, so memory for keys is there once; a partition's lock is
//! held for the swap alone; after the engine stopped, or a topic was deleted, not a byte is written for
//! it; damage ends the compaction of its partition until the folder is opened again.

use std::sync::Arc;

use super::Inner;
use super::handle::PartitionHandle;
use crate::disk::Disk;
use crate::disk::handles::no_handles;
use crate::error::{Error, Result};
use crate::ids::Timestamp;
use crate::log::{Compaction, Limits, Step};

/// A compaction under way.
pub(super) struct Running<D: Disk> {
    handle: Arc<PartitionHandle<D>>,
    compaction: Compaction<D>,
}

/// What was done for the partitions of a log: see [`super::Engine::maintain`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Maintained {
    /// Groups of segments that were written again.
    pub groups: u64,
    /// Bytes of batches that retention and compaction let go of.
    pub freed_bytes: u64,
}

impl<D: Disk> Inner<D> {
    /// Compacts for as long as a tick's share of the rate lasts.
    pub(super) fn compact(&self) {
        if self.config.compaction_rate == 0 {
            return;
        }
        // One at a time: whoever comes while another is at it has nothing to do.
        let Some(mut running) = self.compaction.try_lock() else { return };
        let interval = self.config.hint_interval.as_millis();
        let budget = u128::from(self.config.compaction_rate) * interval / 1000;
        let mut budget = u64::try_from(budget).unwrap_or(u64::MAX).max(1);
        while budget > 0 && self.stopped().is_none() {
            if !self.go_on(&mut running, &mut budget, &mut 0) {
                return;
            }
        }
    }

    /// Compacts until nothing is left to do. How many groups were written again.
    pub(super) fn compact_all(&self) -> Result<u64> {
        let mut running = self.compaction.lock();
        let mut groups = 0;
        loop {
            self.check_running()?;
            let mut budget = 16 << 20;
            if !self.go_on(&mut running, &mut budget, &mut groups) {
                return Ok(groups);
            }
        }
    }

    /// No compaction of this partition is under way any more, and none begins: it refuses.
    pub(super) fn end_compaction(&self, of: Option<&PartitionHandle<D>>) {
        let mut running = self.compaction.lock();
        let its = |one: &Running<D>| of.is_none_or(|of| std::ptr::eq(&*one.handle, of));
        if running.as_ref().is_some_and(its)
            && let Some(one) = running.take()
        {
            one.compaction.abandon();
        }
    }

    /// Begins one, or does a step of the one under way. `false`: there is nothing to do.
    fn go_on(&self, running: &mut Option<Running<D>>, budget: &mut u64, groups: &mut u64) -> bool {
        let now = self.clock.now();
        let Some(mut one) = running.take().or_else(|| self.dirtiest(now)) else { return false };
        if one.handle.is_gone() {
            one.compaction.abandon();
            return true;
        }
        let failed = match one.compaction.step(budget) {
            Ok(Step::Done) => return true,
            Ok(Step::More) => None,
            Ok(Step::Written(written)) => {
                let taken = one.handle.lock().take_compacted(&written, now);
                match self.watch_at(&one.handle, taken) {
                    Ok(true) => {
                        *groups += 1;
                        None
                    }
                    // Retention was faster.
                    Ok(false) => return true,
                    Err(e) => Some(e),
                }
            }
            Err(e) => Some(e),
        };
        let Some(e) = failed else {
            *running = Some(one);
            return true;
        };
        one.compaction.abandon();
        if !one.handle.is_gone() {
            tracing::warn!(at = %one.handle.at, error = %e, "compaction has to wait");
        }
        if !may_pass(&e) {
            one.handle.leave_uncompacted();
        }
        // Whatever it was, trying again at once would not help.
        *budget = 0;
        false
    }

    /// The partition of which most waits to be compacted.
    fn dirtiest(&self, now: Timestamp) -> Option<Running<D>> {
        let partitions = self.partitions.load();
        let mut found: Option<(u16, &Arc<PartitionHandle<D>>)> = None;
        for handle in partitions.values().filter(|handle| handle.is_compacted()) {
            match handle.lock().compactable(now) {
                Ok(Some(dirt)) if found.is_none_or(|(most, _)| dirt > most) => {
                    found = Some((dirt, handle));
                }
                Ok(_) => {}
                Err(e) => {
                    tracing::warn!(at = %handle.at, error = %e, "it is not compacted");
                    handle.leave_uncompacted();
                }
            }
        }
        let (_, handle) = found?;
        let limits = Limits {
            map_bytes: self.config.compaction_map_bytes,
            secrets: [self.entropy.next(), self.entropy.next()],
        };
        let compaction = handle.lock().begin_compaction(now, limits).ok()??;
        Some(Running { handle: Arc::clone(handle), compaction })
    }
}

/// Whether a failure may be over by the next time.
fn may_pass(e: &Error) -> bool {
    match e {
        Error::Full { .. } => true,
        Error::Io { source, .. } => no_handles(source),
        _ => false,
    }
}

//! F6 · Fetching: whole batches up to what the reader may see, or a wait for the append that brings
//! some.
//!
//! Always true here: no lock of a partition is taken; a wait is registered before the last look, so
//! that no append in between is missed; partitions are served in turn when a total limit is given.

use std::sync::Arc;

use futures::future::{Either, FutureExt, select, select_all};

use super::Inner;
use super::handle::PartitionHandle;
use crate::client::log::{FetchFrom, FetchOptions, Fetched, Isolation};
use crate::disk::Disk;
use crate::error::Result;

impl<D: Disk> Inner<D> {
    pub(super) async fn fetch(
        self: &Arc<Self>,
        from: &[FetchFrom],
        options: FetchOptions,
    ) -> Result<Vec<Fetched>> {
        let handles: Vec<Arc<PartitionHandle<D>>> =
            from.iter().map(|f| self.partition(&f.at)).collect::<Result<_>>()?;
        let mut timer = None;
        loop {
            let waits: Vec<_> = handles.iter().map(|h| Box::pin(h.changed.notified())).collect();
            let mut waits: Vec<_> = waits;
            for wait in &mut waits {
                wait.as_mut().enable();
            }
            self.check_running()?;
            let fetched = self.look(from, &handles, options)?;
            let wait = !options.max_wait.is_zero() && !self.runtime.is_inline() && !from.is_empty();
            if !wait || fetched.iter().any(|f| !f.batches.is_empty()) {
                return Ok(fetched);
            }
            let timer = timer.get_or_insert_with(|| self.runtime.sleep(options.max_wait));
            match select(timer, select_all(waits).map(drop)).await {
                Either::Left(_) => return Ok(fetched),
                Either::Right(_) => {}
            }
        }
    }

    /// One look at every partition.
    fn look(
        &self,
        from: &[FetchFrom],
        handles: &[Arc<PartitionHandle<D>>],
        options: FetchOptions,
    ) -> Result<Vec<Fetched>> {
        let mut left = if options.max_bytes == 0 { usize::MAX } else { options.max_bytes };
        let mut all = Vec::with_capacity(from.len());
        for (ask, handle) in from.iter().zip(handles) {
            let offsets = handle.view.offsets();
            let bound = match options.isolation {
                Isolation::ReadCommitted => offsets.last_stable,
                Isolation::ReadUncommitted => offsets.high_watermark,
            };
            if left == 0 {
                break;
            }
            let range =
                handle.view.log.read(ask.offset, bound, ask.max_bytes.min(left), &self.buffers)?;
            left = left.saturating_sub(range.bytes.len());
            let aborted = match options.isolation {
                Isolation::ReadCommitted if !range.bytes.is_empty() => {
                    handle.view.log.aborted(ask.offset, range.next)
                }
                _ => Vec::new(),
            };
            all.push(Fetched {
                at: ask.at.clone(),
                offsets,
                batches: range.bytes,
                aborted,
                next_offset: range.next,
            });
        }
        Ok(all)
    }
}

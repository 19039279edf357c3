//! F6 · Fetching: whole batches up to what the reader may see, or a wait for the append that brings
//! some.
//!
//! Always true here: no lock of a partition is taken; a wait is registered before the last look, so
//! that no append in between is missed; partitions are served in turn when a total limit is given.

use std::sync::Arc;

use futures::future::{Either, FutureExt, select, select_all};

use super::Inner;
use super::handle::PartitionHandle;
use crate::client::log::{FetchFrom, FetchOptions, Fetched, FetchedRegion, Isolation};
use crate::disk::Disk;
use crate::error::Result;
use crate::ids::Offset;
use crate::record::AbortedTransaction;
use crate::request::PartitionOffsets;

impl<D: Disk> Inner<D> {
    pub(super) async fn fetch(
        self: &Arc<Self>,
        from: &[FetchFrom],
        options: FetchOptions,
    ) -> Result<Vec<Fetched>> {
        let look = |ask: &FetchFrom, handle: &PartitionHandle<D>, bytes_max: usize| {
            let (offsets, bound) = readable(handle, options.isolation)?;
            let log = &handle.view.log;
            let range = log.read(ask.offset, bound, bytes_max, &self.buffers)?;
            let fetched = Fetched {
                at: ask.at.clone(),
                offsets,
                aborted: aborted(handle, options.isolation, ask.offset, range.next),
                batches: range.bytes,
                next_offset: range.next,
                leader_epoch: range.epoch,
            };
            Ok((fetched.batches.len() as u64, fetched))
        };
        self.look_or_wait(from, options, look).await
    }

    pub(super) async fn fetch_regions(
        self: &Arc<Self>,
        from: &[FetchFrom],
        options: FetchOptions,
    ) -> Result<Vec<FetchedRegion>> {
        let look = |ask: &FetchFrom, handle: &PartitionHandle<D>, bytes_max: usize| {
            let (offsets, bound) = readable(handle, options.isolation)?;
            let place = handle.view.log.place(ask.offset, bound, bytes_max)?;
            let fetched = FetchedRegion {
                at: ask.at.clone(),
                offsets,
                aborted: aborted(handle, options.isolation, ask.offset, place.next),
                region: place.region,
                next_offset: place.next,
            };
            Ok((fetched.region.len(), fetched))
        };
        self.look_or_wait(from, options, look).await
    }

    /// Looks at every partition; when none has anything, again once one does, or the wait is over.
    async fn look_or_wait<T>(
        self: &Arc<Self>,
        from: &[FetchFrom],
        options: FetchOptions,
        look: impl Fn(&FetchFrom, &PartitionHandle<D>, usize) -> Result<(u64, T)>,
    ) -> Result<Vec<T>> {
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
            let (bytes, fetched) = look_once(from, &handles, options, &look)?;
            let wait = !options.max_wait.is_zero() && !self.runtime.is_inline() && !from.is_empty();
            if !wait || bytes > 0 {
                return Ok(fetched);
            }
            let timer = timer.get_or_insert_with(|| self.runtime.sleep(options.max_wait));
            match select(timer, select_all(waits).map(drop)).await {
                Either::Left(_) => return Ok(fetched),
                Either::Right(_) => {}
            }
        }
    }
}

/// One look at every partition, and how many bytes there are. One that cannot be read does not keep back
/// what came before it: its error is the answer when it is asked first, or when there is nothing else.
fn look_once<D: Disk, T>(
    from: &[FetchFrom],
    handles: &[Arc<PartitionHandle<D>>],
    options: FetchOptions,
    look: impl Fn(&FetchFrom, &PartitionHandle<D>, usize) -> Result<(u64, T)>,
) -> Result<(u64, Vec<T>)> {
    let mut left = if options.max_bytes == 0 { usize::MAX } else { options.max_bytes };
    let mut bytes = 0;
    let mut all = Vec::with_capacity(from.len());
    for (ask, handle) in from.iter().zip(handles) {
        if left == 0 {
            break;
        }
        match look(ask, handle, ask.max_bytes.min(left)) {
            Ok((more, fetched)) => {
                left = left.saturating_sub(more as usize);
                bytes += more;
                all.push(fetched);
            }
            Err(_) if bytes > 0 => break,
            Err(e) => return Err(e),
        }
    }
    Ok((bytes, all))
}

/// A partition's offsets, and below which one of them its records may be shown.
fn readable<D: Disk>(
    handle: &PartitionHandle<D>,
    isolation: Isolation,
) -> Result<(PartitionOffsets, Offset)> {
    if handle.is_gone() {
        return Err(handle.unknown());
    }
    let offsets = handle.view.offsets();
    let bound = match isolation {
        Isolation::ReadCommitted => offsets.last_stable,
        Isolation::ReadUncommitted => offsets.high_watermark,
    };
    Ok((offsets, bound))
}

/// The aborted transactions that a reader of `from..to` has to know.
fn aborted<D: Disk>(
    handle: &PartitionHandle<D>,
    isolation: Isolation,
    from: Offset,
    to: Offset,
) -> Vec<AbortedTransaction> {
    match isolation {
        Isolation::ReadCommitted if to > from => handle.view.log.aborted(from, to),
        _ => Vec::new(),
    }
}

//! What the commands that read share: the records of a fetch that a reader may see, and counting them.
//!
//! Always true here: every batch's sum is checked before a record of it is shown; records borrow from
//! what was fetched, nothing is copied.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use thalweg_core::batch::{BatchError, BatchHeader, Scratch, Visible};
use thalweg_core::client::log::{FetchFrom, FetchOptions, Fetched, Isolation, PartitionOffsets};
use thalweg_core::ids::{Offset, TopicPartition};
use thalweg_core::record::RecordRef;
use thalweg_core::{Error, Log, Result};

/// Bytes asked of a partition at a time.
pub(crate) const FETCH_BYTES: usize = 1 << 20;

/// Where a reader's records end.
pub(crate) fn bound(offsets: &PartitionOffsets, isolation: Isolation) -> Offset {
    match isolation {
        Isolation::ReadCommitted => offsets.last_stable,
        Isolation::ReadUncommitted => offsets.high_watermark,
    }
}

/// Shows the records of `from..bound`, until `each` breaks.
pub(crate) fn records(
    fetched: &Fetched,
    from: Offset,
    bound: Offset,
    scratch: &mut Scratch,
    mut each: impl FnMut(&BatchHeader, &RecordRef<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let mut reached = from;
    let damaged = |offset: Offset, e: BatchError| {
        let what =
            format!("the batch at or after offset {offset}: {e}; restore its file from a copy");
        Error::damaged(fetched.at.folder().as_ref(), 0, what)
    };
    for batch in Visible::new(&fetched.batches, &fetched.aborted, from) {
        let batch = batch.map_err(|e| damaged(reached, e))?;
        reached = batch.header.base_offset;
        batch.check_crc().map_err(|e| damaged(reached, e))?;
        for record in batch.records(scratch).map_err(|e| damaged(reached, e))?.starting_at(from) {
            let record = record.map_err(|e| damaged(reached, e))?;
            if record.offset >= bound || each(&batch.header, &record).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Shows the records of a partition in `from..bound`, until `each` breaks.
async fn walk(
    log: &Arc<dyn Log>,
    at: &TopicPartition,
    mut from: Offset,
    bound: Offset,
    isolation: Isolation,
    mut each: impl FnMut(&RecordRef<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let mut scratch = Scratch::default();
    let options = FetchOptions { isolation, max_wait: Duration::ZERO, max_bytes: 0 };
    while from < bound {
        let ask = FetchFrom { at: at.clone(), offset: from, max_bytes: FETCH_BYTES };
        let fetched = log.fetch(&[ask], options).await?;
        let Some(one) = fetched.first().filter(|one| !one.batches.is_empty()) else { break };
        if records(one, from, bound, &mut scratch, |_, record| each(record))?.is_break() {
            break;
        }
        from = one.next_offset;
    }
    Ok(())
}

/// The offset from which a reader sees the last `count` records before `bound`.
pub(crate) async fn last(
    log: &Arc<dyn Log>,
    at: &TopicPartition,
    count: u64,
    start: Offset,
    bound: Offset,
    isolation: Isolation,
) -> Result<Offset> {
    if count == 0 {
        return Ok(bound);
    }
    // Markers, aborted records and compaction leave fewer records than offsets: then look further back.
    let mut width = count;
    loop {
        let back = i64::try_from(width).unwrap_or(i64::MAX);
        let from = bound.saturating_sub(back).max(start);
        let mut seen = 0;
        let all = |_: &RecordRef<'_>| {
            seen += 1;
            ControlFlow::Continue(())
        };
        walk(log, at, from, bound, isolation, all).await?;
        if seen < count && from > start {
            width = width.saturating_mul(2);
            continue;
        }
        let mut surplus = seen.saturating_sub(count);
        let mut place = from;
        let skip = |record: &RecordRef<'_>| {
            place = record.offset;
            surplus = match surplus.checked_sub(1) {
                Some(left) => left,
                None => return ControlFlow::Break(()),
            };
            ControlFlow::Continue(())
        };
        if seen > count {
            walk(log, at, from, bound, isolation, skip).await?;
        }
        return Ok(place);
    }
}

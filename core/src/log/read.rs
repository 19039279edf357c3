//! F3 · Reading: whole batches from an offset on, below a bound, into a recycled buffer, or as the place
//! where they lie.
//!
//! Always true here: readers take no lock; an answer holds whole batches and nothing at or above the
//! bound; the first batch is returned even when it alone is larger than asked; a buffer goes back to
//! its pool when the last slice of it is dropped.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::LogView;
use super::segment::Segment;
use crate::batch::{BatchHeader, HEADER_LEN};
use crate::disk::{Disk, Region, read_exact_at};
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset};
use crate::record::AbortedTransaction;

/// How many buffers are kept for reuse; more are simply freed.
const KEPT: usize = 32;
/// Larger buffers are not kept.
const KEPT_BYTES: usize = 4 << 20;

/// A pool of read buffers. Reuse saves the zeroing and the page faults of a fresh megabyte per read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

#[derive(Debug)]
struct Pooled {
    bytes: Vec<u8>,
    filled: usize,
    pool: Buffers,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if self.bytes.len() <= KEPT_BYTES {
            let mut pool = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
            if pool.len() < KEPT {
                pool.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

impl Buffers {
    fn take(&self, len: usize) -> Pooled {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = pool.iter().rposition(|b| b.len() >= len);
        let mut bytes = match fit {
            Some(at) => pool.swap_remove(at),
            None => pool.pop().unwrap_or_default(),
        };
        drop(pool);
        if bytes.len() < len {
            bytes.resize(len.next_power_of_two(), 0);
        }
        Pooled { bytes, filled: len, pool: self.clone() }
    }
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Range {
    /// Whole batches; the first holds the offset asked for.
    pub(crate) bytes: Bytes,
    /// One past the last offset of the last batch, or the offset asked for when there is none.
    pub(crate) next: Offset,
    /// The leader epoch of the last batch, or -1.
    pub(crate) epoch: LeaderEpoch,
}

/// What may be read, and lies where it was written.
#[derive(Debug)]
pub(crate) struct Place {
    /// Whole batches; the first holds the offset asked for.
    pub(crate) region: Region,
    /// As [`Range::next`].
    pub(crate) next: Offset,
}

/// What is at an offset.
enum At<T> {
    /// A batch, and what was made of it.
    Batch(T),
    /// None below the bound; the next one is not below `next`.
    Nothing { next: Offset },
}

impl<D: Disk> LogView<D> {
    /// Reads from `offset` up to `bound` (exclusive), about `max_bytes`.
    pub(crate) fn read(
        &self,
        offset: Offset,
        bound: Offset,
        max_bytes: usize,
        buffers: &Buffers,
    ) -> Result<Range> {
        let read = |segment: &Segment<D>, position, first: &BatchHeader| {
            read_batches(segment, position, first, bound, max_bytes, buffers)
        };
        Ok(match self.at_offset(offset, bound, read)? {
            At::Batch(range) => range,
            At::Nothing { next } => Range { bytes: Bytes::new(), next, epoch: -1 },
        })
    }

    /// As [`LogView::read`], without reading: says where the batches lie. Neither their sums nor, but for
    /// those at both ends, their offsets were looked at.
    pub(crate) fn place(&self, offset: Offset, bound: Offset, max_bytes: usize) -> Result<Place> {
        let place = |segment: &Segment<D>, position, first: &BatchHeader| {
            let file = segment.file()?;
            let (end, next) = segment.whole_batches(position, first, bound, max_bytes)?;
            Ok(Place { region: Region::of_file(file, position, end - position), next })
        };
        Ok(match self.at_offset(offset, bound, place)? {
            At::Batch(place) => place,
            At::Nothing { next } => Place { region: Region::default(), next },
        })
    }

    /// What `take` makes of the batch that holds `offset`, or of the first one after it where compaction
    /// removed that.
    fn at_offset<T>(
        &self,
        offset: Offset,
        bound: Offset,
        take: impl Fn(&Segment<D>, u64, &BatchHeader) -> Result<T>,
    ) -> Result<At<T>> {
        // First, so that what is not below the start then is still in the list.
        let segments = self.segments.load();
        let (start, end) = (self.start(), self.end());
        if offset < start || offset > end {
            return Err(Error::OffsetOutOfRange { at: self.at.clone(), offset, start, end });
        }
        if offset >= bound {
            return Ok(At::Nothing { next: offset });
        }
        if let Some(found) = in_segments(&segments, offset, bound, &take)? {
            return Ok(found);
        }
        // The segment was sealed and the next one begun after the list was looked at.
        let segments = self.segments.load();
        match in_segments(&segments, offset, bound, &take)? {
            Some(found) => Ok(found),
            // Not an empty answer: its reader would ask for the same offset for ever.
            None => Err(match segments.last() {
                Some(last) => {
                    let what = format!(
                        "offset {offset} is not there, and the log ends at {end}: restore the folder from a copy"
                    );
                    Error::damaged(last.path(), last.size(), what)
                }
                None => Error::OffsetOutOfRange { at: self.at.clone(), offset, start, end },
            }),
        }
    }

    /// The header of the batch that holds `offset`, and its bytes' place: for verifying what a
    /// transaction record names.
    pub(crate) fn batch_at(&self, offset: Offset) -> Result<Option<BatchHeader>> {
        let segments = self.segments.load();
        let first = segments.partition_point(|s| s.base <= offset).saturating_sub(1);
        let Some(segment) = segments.get(first) else { return Ok(None) };
        let found = segment.find(offset)?;
        Ok(found.map(|(_, header)| header).filter(|h| h.base_offset <= offset))
    }

    /// The file and the byte at which the batch that holds `offset` begins, for messages.
    pub(crate) fn place_of(&self, offset: Offset) -> Option<(PathBuf, u64)> {
        let segments = self.segments.load();
        let first = segments.partition_point(|s| s.base <= offset).checked_sub(1)?;
        let segment = segments.get(first)?;
        let (position, _) = segment.find(offset).ok()??;
        Some((segment.path().to_owned(), position))
    }

    /// Transactions aborted that touch `from..to`, by first offset.
    pub(crate) fn aborted(&self, from: Offset, to: Offset) -> Vec<AbortedTransaction> {
        let segments = self.segments.load();
        let first = segments.partition_point(|s| s.base <= from).saturating_sub(1);
        let mut found = Vec::new();
        for segment in &segments[first..] {
            for entry in segment.aborted().iter() {
                if entry.last_offset >= from && entry.first_offset < to {
                    found.push(entry.seen());
                }
                // Whatever ended later was open then, and began at that stable offset or above, or began
                // behind this marker. A lower value, as older files have it, only looks further.
                if entry.last_stable >= to {
                    found.sort_unstable_by_key(|a| a.first_offset);
                    return found;
                }
            }
        }
        found.sort_unstable_by_key(|a| a.first_offset);
        found
    }
}

fn in_segments<D: Disk, T>(
    segments: &[Arc<Segment<D>>],
    offset: Offset,
    bound: Offset,
    take: impl Fn(&Segment<D>, u64, &BatchHeader) -> Result<T>,
) -> Result<Option<At<T>>> {
    let first = segments.partition_point(|s| s.base <= offset).saturating_sub(1);
    let mut wanted = offset;
    for (at, segment) in segments.iter().enumerate().skip(first) {
        if let Some((position, header)) = segment.find(offset)? {
            // Before the segment nothing may be missing, but what the ones before it account for.
            let follows = header.base_offset <= offset
                || (wanted >= segment.base && segment.may_follow(header.base_offset, wanted));
            if !follows {
                return Err(gap(segment, position, header.base_offset, wanted));
            }
            if header.base_offset >= bound {
                // Compaction left nothing between: whoever reads on comes to what follows.
                return Ok(Some(At::Nothing { next: bound }));
            }
            return take(segment, position, &header).map(|taken| Some(At::Batch(taken)));
        }
        if let Some(next) = segments.get(at + 1)
            && segment.compacted.gaps
        {
            // Its last batches are gone.
            wanted = wanted.max(next.base);
        }
    }
    let last = segments.last().filter(|last| last.compacted.gaps);
    Ok(last.map(|_| At::Nothing { next: bound }))
}

/// Offsets are contiguous but where compaction was: a batch that comes later than it must means that
/// records are missing, which a reader is told rather than led past.
fn gap<D: Disk>(segment: &Segment<D>, position: u64, found: Offset, wanted: Offset) -> Error {
    let what = format!(
        "offset {found} where {wanted} must follow: records are missing, or not what was written; restore the folder from a copy"
    );
    Error::damaged(segment.path(), position, what)
}

fn read_batches<D: Disk>(
    segment: &Segment<D>,
    position: u64,
    first: &BatchHeader,
    bound: Offset,
    max_bytes: usize,
    buffers: &Buffers,
) -> Result<Range> {
    let there = segment.size() - position;
    let want = (max_bytes.max(first.size()) as u64).min(there) as usize;
    let mut buffer = buffers.take(want);
    read_exact_at(&*segment.file()?, &mut buffer.bytes[..want], position)
        .map_err(|e| segment.unread(position, e))?;
    let (mut filled, mut next, mut epoch) = (0, first.base_offset, -1);
    let mut before = (0, next, epoch);
    while let Some(head) = buffer.bytes[..want].get(filled..filled + HEADER_LEN) {
        let at = position + filled as u64;
        let header = match BatchHeader::parse(head) {
            Ok(header) if header.base_offset >= bound => break,
            Ok(header) if segment.may_follow(header.base_offset, next) => header,
            // What lies before it is as good as ever: whoever reads on is told.
            Ok(header) if filled > 0 && header.base_offset > next => break,
            Err(_) if filled > 0 => break,
            // One of the two says what is not so, and whoever reads on behind the first is not told.
            Ok(_) if before.0 > 0 => {
                (filled, next, epoch) = before;
                break;
            }
            Ok(header) => return Err(gap(segment, at, header.base_offset, next)),
            Err(e) => {
                let what = format!("no batch header here: {e}");
                return Err(Error::damaged(segment.path(), at, what));
            }
        };
        if filled + header.size() > want {
            break;
        }
        before = (filled, next, epoch);
        filled += header.size();
        next = header.next_offset();
        epoch = header.leader_epoch;
    }
    if filled == 0 {
        return Err(segment.cut_off(position, first));
    }
    buffer.filled = filled;
    Ok(Range { bytes: Bytes::from_owner(buffer), next, epoch })
}

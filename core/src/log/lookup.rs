//! F3 · Finding offsets by time, without a lock.
//!
//! ```text
//!   segments:   [greatest 40] [greatest 35] [greatest 90] ...
//!   at or after 38:  first segment whose greatest time is that late -> time index -> batches -> record
//! ```
//!
//! Always true here: times need not rise with offsets, so what is found is the *first offset* whose
//! record is that late, and later ones may be older again; records below the log start and at or above
//! `bound` do not count (KIP-33, KIP-734).

use super::LogView;
use super::index::NO_TIME;
use super::segment::Timed;
use crate::disk::Disk;
use crate::error::Result;
use crate::ids::{Offset, Timestamp};

impl<D: Disk> LogView<D> {
    /// The first record below `bound` whose time is `time` or later.
    pub(crate) fn first_at_or_after(
        &self,
        time: Timestamp,
        bound: Offset,
    ) -> Result<Option<Timed>> {
        let segments = self.segments.load();
        let start = self.start();
        let first = segments.partition_point(|s| s.base <= start).saturating_sub(1);
        for segment in &segments[first..] {
            if segment.base >= bound {
                break;
            }
            if segment.greatest_time(&self.disk)? >= time
                && let Some(found) = segment.first_at_or_after(&self.disk, time, start, bound)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The first of the records below `bound` that have the greatest time.
    pub(crate) fn latest_by_time(&self, bound: Offset) -> Result<Option<Timed>> {
        let segments = self.segments.load();
        let start = self.start();
        let first = segments.partition_point(|s| s.base <= start).saturating_sub(1);
        let mut greatest = NO_TIME;
        for segment in &segments[first..] {
            greatest = greatest.max(segment.greatest_time(&self.disk)?);
        }
        // Where that one does not count, the next lower greatest time is tried: rare, and bounded by
        // the records between.
        let mut found = self.first_at_or_after(greatest, bound)?;
        if found.is_none() && greatest > NO_TIME {
            let mut low = self.first_at_or_after(0, bound)?;
            while let Some(one) = low {
                found = Some(one);
                low = self.first_at_or_after(one.time.saturating_add(1), bound)?;
            }
        }
        Ok(found)
    }
}

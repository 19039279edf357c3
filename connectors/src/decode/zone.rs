//! The zone of times that name none: from what the wall shows to UTC, fast.
//!
//! ```text
//!   offset  first   steps[0].offset   steps[1].offset  ...
//!   wall    --------|-----------------|----------------->
//!                   steps[0].wall_ms  steps[1].wall_ms
//! ```
//!
//! Always true here: a zone never changes after it is made, so it is shared by threads without a
//! lock; the table of steps and the time zone database give the same answer.

use std::ops::Range;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use super::time::{DAY_MS, FIRST_MS, LAST_MS, civil, within_years};
use crate::error::{Error, Result};

/// A time zone.
///
/// Where the clocks go forward, a wall time that never was is read with the offset from before the
/// change (02:30 becomes 03:30). Where they go back, a wall time that was twice is the first of the
/// two. Both are what RFC 5545 says and what `mktime` does when not told better; a line alone cannot
/// know more.
#[derive(Clone, Debug)]
pub struct Zone {
    rules: TimeZone,
    /// The wall times that `first_offset_ms` and `steps` answer for.
    table: Range<i64>,
    first_offset_ms: i64,
    steps: Vec<Step>,
}

/// From this wall time on, this offset holds.
#[derive(Clone, Copy, Debug)]
struct Step {
    wall_ms: i64,
    offset_ms: i64,
}

impl Zone {
    /// The system's zone: what `TZ` says (a name or a POSIX rule), else `/etc/localtime`. UTC, with
    /// a warning, if neither can be read.
    pub fn system() -> Self {
        let rules = TimeZone::try_system().unwrap_or_else(|error| {
            tracing::warn!(
                %error,
                "the system's time zone cannot be read: times without a zone are taken as UTC; \
                 set TZ to a zone's name, for example TZ=Europe/Berlin"
            );
            TimeZone::UTC
        });
        Self::new(rules)
    }

    /// UTC.
    pub fn utc() -> Self {
        Self::new(TimeZone::UTC)
    }

    /// A zone by its name in the time zone database (`Europe/Berlin`), or by a POSIX rule
    /// (`CET-1CEST,M3.5.0,M10.5.0/3`), which needs no database.
    ///
    /// # Errors
    /// [`Error::Fatal`] when `name` is neither.
    pub fn named(name: &str) -> Result<Self> {
        let rules = TimeZone::get(name).or_else(|_| TimeZone::posix(name));
        rules.map(Self::new).map_err(|error| Error::Fatal {
            what: format!(
                "time zone {name:?}: neither a name of the time zone database nor a POSIX rule \
                 ({error}); use for example Europe/Berlin or CET-1CEST,M3.5.0,M10.5.0/3"
            ),
        })
    }

    fn new(rules: TimeZone) -> Self {
        if let Ok(offset) = rules.to_fixed_offset() {
            let first_offset_ms = i64::from(offset.seconds()) * 1000;
            return Self { rules, table: i64::MIN..i64::MAX, first_offset_ms, steps: Vec::new() };
        }
        let mut offset = rules.to_offset(jiff::Timestamp::UNIX_EPOCH).seconds();
        let first_offset_ms = i64::from(offset) * 1000;
        let mut steps = Vec::new();
        for change in rules.following(jiff::Timestamp::UNIX_EPOCH) {
            let (at, next) = (change.timestamp().as_millisecond(), change.offset().seconds());
            if at >= TABLE_END_MS {
                break;
            }
            // In a gap and in a fold the earlier offset holds, so the step is where both are over:
            // the change as seen on whichever wall clock is ahead.
            if next != offset {
                let wall_ms = at + i64::from(offset.max(next)) * 1000;
                steps.push(Step { wall_ms, offset_ms: i64::from(next) * 1000 });
            }
            offset = next;
        }
        // An offset is less than two days, so that changes outside cannot reach into the table.
        let table = 2 * DAY_MS..TABLE_END_MS - 2 * DAY_MS;
        Self { rules, table, first_offset_ms, steps }
    }

    /// UTC milliseconds of wall milliseconds of the years 1 to 9999; `None` if they are of another
    /// year in UTC.
    pub(super) fn utc_ms(&self, wall_ms: i64) -> Option<i64> {
        let offset_ms = if self.table.contains(&wall_ms) {
            match self.steps.partition_point(|step| step.wall_ms <= wall_ms) {
                0 => self.first_offset_ms,
                after => self.steps[after - 1].offset_ms,
            }
        } else {
            self.offset_by_rules(wall_ms)?
        };
        within_years(wall_ms - offset_ms)
    }

    #[cold]
    fn offset_by_rules(&self, wall_ms: i64) -> Option<i64> {
        let (year, month, day) = civil(wall_ms.clamp(FIRST_MS, LAST_MS));
        let second = wall_ms.rem_euclid(DAY_MS) / 1000;
        let wall = DateTime::new(
            year as i16,
            month as i8,
            day as i8,
            (second / 3600) as i8,
            (second / 60 % 60) as i8,
            (second % 60) as i8,
            0,
        )
        .ok()?;
        let offset = match self.rules.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset,
            AmbiguousOffset::Gap { before, .. } | AmbiguousOffset::Fold { before, .. } => before,
        };
        Some(i64::from(offset.seconds()) * 1000)
    }
}

/// 2100-01-01T00:00:00Z. Lines from 1970 to here take the table, which is 4 KiB for a zone with two
/// changes a year; others ask the rules.
const TABLE_END_MS: i64 = 4_102_444_800_000;

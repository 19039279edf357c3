//! Where to begin in a partition: one parser, one meaning, for every command that asks.
//!
//! ```text
//!   beginning  end  stored       words
//!   17                           an offset
//!   -17                          the last 17 records of each partition
//!   @1795269120082               the first record at or after: milliseconds since 1970,
//!   @2026-11-21T22:00:00Z        RFC 3339,
//!   @-10m                        or back from now (ms, s, m, h, d, w)
//! ```
//!
//! Always true here: `end` is the bound of the command's isolation level, so that nothing before it
//! that can be seen is left out; `-N` counts records that can be seen, not offsets.

use std::sync::Arc;

use jiff::Timestamp as Time;
use thalweg_core::Log;
use thalweg_core::client::log::{Isolation, OffsetSpec, PartitionOffsets};
use thalweg_core::ids::{Offset, Timestamp, TopicPartition};

use super::failure::{Failure, Outcome};
use super::read;

/// A place in every partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// The first record there is.
    Beginning,
    /// Behind the last one.
    End,
    /// The group's position.
    Stored,
    /// This offset.
    Offset(Offset),
    /// So many records before the end.
    Last(u64),
    /// The first record at or after.
    At(Timestamp),
    /// The first record at or after so many milliseconds before now.
    Ago(i64),
}

impl Place {
    /// Reads it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "beginning" => return Ok(Self::Beginning),
            "end" => return Ok(Self::End),
            "stored" => return Ok(Self::Stored),
            _ => {}
        }
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if let Some(time) = text.strip_prefix('@') {
            if let Some(ago) = time.strip_prefix('-') {
                return duration(ago).map(Self::Ago);
            }
            if digits(time) {
                let ms = time.parse().map_err(|_| format!("{time} is beyond all time"))?;
                return Ok(Self::At(ms));
            }
            let time: Time = time.parse().map_err(|_| {
                format!(
                    "{time:?}: after @ use milliseconds, RFC 3339 with its zone \
                     (2026-11-21T22:00:00Z), or a time back from now (-10m)"
                )
            })?;
            // Rounded up: what lies within the millisecond but before the time is not after it.
            let ns = time.as_nanosecond();
            let ms = ns.div_euclid(1_000_000) + i128::from(ns.rem_euclid(1_000_000) != 0);
            return Ok(Self::At(Timestamp::try_from(ms).unwrap_or(Timestamp::MAX)));
        }
        let number = |text: &str| text.parse::<i64>().map_err(|_| format!("{text} is too large"));
        match text.strip_prefix('-') {
            Some(last) if digits(last) => Ok(Self::Last(number(last)?.unsigned_abs())),
            None if digits(text) => Ok(Self::Offset(number(text)?)),
            _ => Err("use beginning, end, stored, an offset, -N or @TIME".to_owned()),
        }
    }

    /// The offset it means in a partition; `None` for `stored`, which only a group knows.
    pub(crate) async fn offset(
        self,
        log: &Arc<dyn Log>,
        at: &TopicPartition,
        offsets: &PartitionOffsets,
        isolation: Isolation,
    ) -> Outcome<Option<Offset>> {
        let bound = read::bound(offsets, isolation);
        Ok(Some(match self {
            Self::Stored => return Ok(None),
            Self::Beginning => offsets.start,
            Self::End => bound,
            Self::Offset(offset) => {
                if offset < offsets.start || offset > offsets.end {
                    return Err(Failure::Log(thalweg_core::Error::OffsetOutOfRange {
                        at: at.clone(),
                        offset,
                        start: offsets.start,
                        end: offsets.end,
                    }));
                }
                offset
            }
            Self::Last(count) => {
                read::last(log, at, count, offsets.start, bound, isolation).await?
            }
            Self::At(time) => at_or_after(log, at, time, bound, isolation).await?,
            Self::Ago(ms) => {
                let time = log.now().saturating_sub(ms);
                at_or_after(log, at, time, bound, isolation).await?
            }
        }))
    }
}

/// The offset of the first record at or after a time; the bound when there is none.
async fn at_or_after(
    log: &Arc<dyn Log>,
    at: &TopicPartition,
    time: Timestamp,
    bound: Offset,
    isolation: Isolation,
) -> Outcome<Offset> {
    let found = log.list_offset(at, OffsetSpec::AtOrAfter(time), isolation).await?;
    Ok(found.map_or(bound, |found| found.offset))
}

/// Milliseconds of a duration: a whole number and its unit.
fn duration(text: &str) -> Result<i64, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = &text[..text.len() - unit.len()];
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        _ => 0,
    };
    let number = number.parse::<i64>().ok().filter(|_| ms > 0);
    let number = number.ok_or_else(|| {
        format!("{text:?}: after @- use a whole number and ms, s, m, h, d or w, as in @-10m")
    })?;
    Ok(number.saturating_mul(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        for (text, wanted) in [
            ("beginning", Place::Beginning),
            ("end", Place::End),
            ("stored", Place::Stored),
            ("0", Place::Offset(0)),
            ("9223372036854775807", Place::Offset(i64::MAX)),
            ("-0", Place::Last(0)),
            ("-17", Place::Last(17)),
            ("@0", Place::At(0)),
            ("@1795269120082", Place::At(1_795_269_120_082)),
            ("@1970-01-01T00:00:01Z", Place::At(1_000)),
            ("@1970-01-01T01:00:01.5+01:00", Place::At(1_500)),
            ("@1970-01-01T00:00:00.0001Z", Place::At(1)),
            ("@1969-12-31T23:59:59.9999Z", Place::At(0)),
            ("@-10m", Place::Ago(600_000)),
            ("@-250ms", Place::Ago(250)),
            ("@-1w", Place::Ago(604_800_000)),
        ] {
            assert_eq!(Place::parse(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "-",
            "--1",
            "+1",
            "1.5",
            "first",
            "9223372036854775808",
            "@",
            "@-",
            "@-10",
            "@-m",
            "@-1y",
            "@-1.5h",
            "@yesterday",
            "@2026-11-21",
            "@2026-11-21T22:00:00",
            "@ 1",
            " 1",
            "@-10m ",
            "@99999999999999999999",
        ] {
            assert!(Place::parse(text).is_err(), "{text:?}");
        }
    }
}

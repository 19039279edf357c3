//! F3 · The flushed-offset hint: evidence that tells a torn tail from rotten bytes.
//!
//! ```text
//!   flushed-offset: two slots of 512 bytes, written in turn, the newer valid one counts
//!   "TWFO" | u16 version 2 | u16 0 | u64 turn | i64 recovery point | i64 durable end
//!          | i64 log start | i64 recovery base | u64 recovery position | u32 crc32c
//!   (version 1 ended after the durable end: its recovery point is the base of a segment, its log
//!   starts at 0)
//! ```
//!
//! Always true here: both offsets are lower bounds of what is really durable, because a slot is
//! written only after the syncs returned. Losing the newest slot is harmless (an older bound holds),
//! so slots are written without a sync; only a bound that must *fall* is synced, before the cut, and a
//! log start that rises, in both slots: what was deleted must not come back.
//! Damage below the durable end is rot, never a torn write; above it, it is a torn tail.

use crate::ids::Offset;

/// Bytes of a slot.
pub(crate) const SLOT_LEN: u64 = 512;
const USED: usize = 60;
const USED_BY_V1: usize = 36;

/// What the hint says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Hint {
    /// Rises with every write.
    pub(crate) turn: u64,
    /// Recovery scans from this offset: below it side files are durable too, and the producers as of it
    /// are in a snapshot.
    pub(crate) recovery_point: Offset,
    /// Everything below was synced.
    pub(crate) durable_end: Offset,
    /// Everything below was deleted, whatever files are still there.
    pub(crate) log_start: Offset,
    /// The base of the segment that the recovery point lies in, or at whose end it lies.
    pub(crate) recovery_base: Offset,
    /// Where the recovery point is in that segment: 0 when it begins there.
    pub(crate) recovery_position: u64,
}

impl Hint {
    /// The bytes of a slot.
    pub(crate) fn encode(&self) -> [u8; USED] {
        let mut slot = [0; USED];
        slot[..4].copy_from_slice(b"TWFO");
        slot[4..6].copy_from_slice(&2u16.to_be_bytes());
        slot[8..16].copy_from_slice(&self.turn.to_be_bytes());
        slot[16..24].copy_from_slice(&self.recovery_point.to_be_bytes());
        slot[24..32].copy_from_slice(&self.durable_end.to_be_bytes());
        slot[32..40].copy_from_slice(&self.log_start.to_be_bytes());
        slot[40..48].copy_from_slice(&self.recovery_base.to_be_bytes());
        slot[48..56].copy_from_slice(&self.recovery_position.to_be_bytes());
        let crc = crate::batch::crc32c(&slot[..56]);
        slot[56..].copy_from_slice(&crc.to_be_bytes());
        slot
    }

    /// Where the slot of this turn lies.
    pub(crate) fn position(&self) -> u64 {
        (self.turn % 2) * SLOT_LEN
    }

    /// The newer valid slot of a file.
    pub(crate) fn decode(file: &[u8]) -> Option<Self> {
        Self::decode_both(file).map(|(newer, _)| newer)
    }

    /// The newer valid slot of a file, and whether the other one says the same of what was deleted.
    pub(crate) fn decode_both(file: &[u8]) -> Option<(Self, bool)> {
        let slot = |at: usize| -> Option<Self> {
            let used = match file.get(at..at + 6)? {
                b"TWFO\0\x01" => USED_BY_V1,
                b"TWFO\0\x02" => USED,
                _ => return None,
            };
            let (slot, crc) = file.get(at..at + used)?.split_last_chunk::<4>()?;
            if crate::batch::crc32c(slot) != u32::from_be_bytes(*crc) {
                return None;
            }
            let i64_at = |at: usize| Some(i64::from_be_bytes(*slot.get(at..)?.first_chunk()?));
            let hint = Self {
                // Counted from 0, once a second at most: nobody gets half way, and none can overflow.
                turn: u64::try_from(i64_at(8)?).ok()?,
                recovery_point: i64_at(16)?,
                durable_end: i64_at(24)?,
                log_start: i64_at(32).unwrap_or(0),
                recovery_base: i64_at(40).or_else(|| i64_at(16))?,
                recovery_position: i64_at(48).unwrap_or(0).cast_unsigned(),
            };
            let sane = 0 <= hint.recovery_base
                && hint.recovery_base <= hint.recovery_point
                && hint.recovery_point <= hint.durable_end;
            (sane && hint.log_start >= 0).then_some(hint)
        };
        let (a, b) = (slot(0), slot(SLOT_LEN as usize));
        let newer = a.into_iter().chain(b).max_by_key(|hint| hint.turn)?;
        let agrees = [a, b].iter().all(|hint| hint.is_some_and(|h| h.log_start == newer.log_start));
        Some((newer, agrees))
    }
}

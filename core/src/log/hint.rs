//! F3 · The flushed-offset hint: evidence that tells a torn tail from rotten bytes.
//!
//! ```text
//!   flushed-offset: two slots of 512 bytes, written in turn, the newer valid one counts
//!   "TWFO" | u16 version 1 | u16 0 | u64 turn | i64 recovery point | i64 durable end | u32 crc32c
//! ```
//!
//! Always true here: both offsets are lower bounds of what is really durable, because a slot is
//! written only after the syncs returned. Losing the newest slot is harmless (an older bound holds),
//! so slots are written without a sync; only a bound that must *fall* is synced, before the cut.
//! Damage below the durable end is rot, never a torn write; above it, it is a torn tail.

use crate::ids::Offset;

/// Bytes of a slot.
pub(crate) const SLOT_LEN: u64 = 512;
const USED: usize = 36;

/// What the hint says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Hint {
    /// Rises with every write.
    pub(crate) turn: u64,
    /// Recovery scans from the segment that holds this offset: below it side files are durable too.
    pub(crate) recovery_point: Offset,
    /// Everything below was synced.
    pub(crate) durable_end: Offset,
}

impl Hint {
    /// The bytes of a slot.
    pub(crate) fn encode(&self) -> [u8; USED] {
        let mut slot = [0; USED];
        slot[..4].copy_from_slice(b"TWFO");
        slot[4..6].copy_from_slice(&1u16.to_be_bytes());
        slot[8..16].copy_from_slice(&self.turn.to_be_bytes());
        slot[16..24].copy_from_slice(&self.recovery_point.to_be_bytes());
        slot[24..32].copy_from_slice(&self.durable_end.to_be_bytes());
        let crc = crate::batch::crc32c(&slot[..32]);
        slot[32..].copy_from_slice(&crc.to_be_bytes());
        slot
    }

    /// Where the slot of this turn lies.
    pub(crate) fn position(&self) -> u64 {
        (self.turn % 2) * SLOT_LEN
    }

    /// The newer valid slot of a file.
    pub(crate) fn decode(file: &[u8]) -> Option<Self> {
        let slot = |at: usize| -> Option<Self> {
            let slot = file.get(at..at + USED)?;
            let i64_at = |at: usize| -> Option<i64> {
                Some(i64::from_be_bytes(slot.get(at..at + 8)?.try_into().ok()?))
            };
            let crc = u32::from_be_bytes(slot.get(32..36)?.try_into().ok()?);
            if &slot[..6] != b"TWFO\0\x01" || crate::batch::crc32c(&slot[..32]) != crc {
                return None;
            }
            let (recovery_point, durable_end) = (i64_at(16)?, i64_at(24)?);
            (0 <= recovery_point && recovery_point <= durable_end).then_some(Self {
                // Counted from 0, once a second at most: nobody gets half way, and none can overflow.
                turn: u64::try_from(i64_at(8)?).ok()?,
                recovery_point,
                durable_end,
            })
        };
        let (a, b) = (slot(0), slot(SLOT_LEN as usize));
        a.into_iter().chain(b).max_by_key(|hint| hint.turn)
    }
}

//! Sums made right again, so that what was changed is read and not only refused.
//!
//! Always true here: only sums are written; everything else of the input stays as it was changed.
//! Written from the descriptions in docs/FORMAT.md, without the code that is under test.

use thalweg_core::batch::crc32c;
use xxhash_rust::xxh3::xxh3_64;

/// Which sums an input has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sums {
    /// None.
    None,
    /// Batches one after the other.
    Batches,
    /// A producer snapshot: over all after the sum.
    Snapshot,
    /// The flushed-offset hint: two slots of 512 bytes, each with a sum over its first bytes.
    Hint,
    /// The last eight bytes are the xxh3 of all before.
    Tail,
}

impl Sums {
    /// The sums of a file of this name.
    pub(crate) fn of_file(name: &str) -> Self {
        match name.rsplit(['.', '/']).next() {
            Some("log") => Self::Batches,
            Some("snapshot") => Self::Snapshot,
            Some("flushed-offset") => Self::Hint,
            _ => Self::None,
        }
    }
}

/// Makes the sums of `bytes` right.
pub(crate) fn repair(sums: Sums, bytes: &mut [u8]) {
    match sums {
        Sums::None => {}
        Sums::Batches => {
            for start in batch_starts(bytes) {
                let end = start + 12 + length_at(bytes, start);
                let sum = crc32c(&bytes[start + 21..end]);
                bytes[start + 17..start + 21].copy_from_slice(&sum.to_be_bytes());
            }
        }
        Sums::Snapshot => {
            if let Some((head, body)) = bytes.split_at_mut_checked(6) {
                head[2..].copy_from_slice(&crc32c(body).to_be_bytes());
            }
        }
        Sums::Tail => {
            if let Some(end) = bytes.len().checked_sub(8) {
                let (body, sum) = bytes.split_at_mut(end);
                sum.copy_from_slice(&xxh3_64(body).to_be_bytes());
            }
        }
        Sums::Hint => {
            for slot in bytes.chunks_mut(512) {
                if let Some((summed, rest)) = slot.split_at_mut_checked(hint_summed(slot))
                    && let Some(sum) = rest.first_chunk_mut()
                {
                    *sum = crc32c(summed).to_be_bytes();
                }
            }
        }
    }
}

/// How many bytes of a hint's slot its sum covers: from version 2 on there are two more numbers.
pub(crate) fn hint_summed(slot: &[u8]) -> usize {
    if slot.get(5).is_some_and(|version| *version >= 2) { 48 } else { 32 }
}

/// Where batches begin, as their lengths say.
pub(crate) fn batch_starts(bytes: &[u8]) -> Vec<usize> {
    let (mut starts, mut at) = (Vec::new(), 0);
    while at + 61 <= bytes.len() {
        let length = length_at(bytes, at);
        if length < 49 || at + 12 + length > bytes.len() {
            break;
        }
        starts.push(at);
        at += 12 + length;
    }
    starts
}

/// The length field of the batch at `start`; 0 when it is negative.
fn length_at(bytes: &[u8], start: usize) -> usize {
    let field = bytes[start + 8..].first_chunk().expect("the caller looked for a whole header");
    usize::try_from(i32::from_be_bytes(*field)).unwrap_or(0)
}

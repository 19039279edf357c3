//! F6 · The only place of the package that reads time and entropy.
//!
//! Always true here: below this floor both are arguments; a simulation hands in its own and gets the
//! same run again from the same seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::ids::{Timestamp, Uuid};

/// Where wall-clock time comes from.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The system's clock.
    #[default]
    System,
    /// A clock that a test moves.
    Virtual(Arc<AtomicI64>),
}

impl Clock {
    /// A virtual clock that shows `now` until it is moved.
    pub fn fixed(now: Timestamp) -> Self {
        Self::Virtual(Arc::new(AtomicI64::new(now)))
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub fn now(&self) -> Timestamp {
        match self {
            #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
            Self::System => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |d| d.as_millis() as Timestamp),
            Self::Virtual(now) => now.load(Ordering::Relaxed),
        }
    }

    /// Moves a virtual clock; the system's cannot be moved.
    pub fn advance(&self, milliseconds: i64) {
        if let Self::Virtual(now) = self {
            now.fetch_add(milliseconds, Ordering::Relaxed);
        }
    }
}

/// Where randomness comes from.
#[derive(Clone, Debug, Default)]
pub enum Entropy {
    /// The system's random bytes.
    #[default]
    System,
    /// A seeded sequence.
    Seeded(Arc<AtomicU64>),
}

impl Entropy {
    /// A sequence that repeats with its seed.
    pub fn seeded(seed: u64) -> Self {
        Self::Seeded(Arc::new(AtomicU64::new(seed)))
    }

    /// Sixty-four random bits.
    pub fn next(&self) -> u64 {
        match self {
            Self::System => {
                let mut bytes = [0; 8];
                let mut filled = 0;
                while filled < bytes.len() {
                    let rest = &mut bytes[filled..];
                    let flags = rustix::rand::GetRandomFlags::empty();
                    // The system call fails only when interrupted.
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "the one place that reads entropy"
                    )]
                    let got = rustix::rand::getrandom(rest, flags).unwrap_or(0);
                    filled += got;
                }
                u64::from_le_bytes(bytes)
            }
            Self::Seeded(state) => {
                // splitmix64 (Steele, Lea, Flood 2014).
                let mut z = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
                z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
        }
    }

    /// A random id.
    pub fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next().to_le_bytes());
        Uuid::from_random(bytes)
    }
}

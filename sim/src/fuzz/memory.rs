//! What the system says of this process's memory.
//!
//! Always true here: nothing is counted per allocation (that takes an allocator, which takes `unsafe`);
//! the peak since [`Memory::reset`] misses nothing that was touched, and what was only mapped is seen
//! in the address space. Where the system has no `/proc`, every number is 0.

use std::fs;

/// The most that was resident, and mapped, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// The peak of what was in memory since the last reset.
    pub resident: u64,
    /// The peak of the address space since the process began.
    pub mapped: u64,
}

impl Memory {
    /// Lets the peak begin anew, and gives it.
    pub(super) fn reset() -> Self {
        // Where it is refused the peak is that of the whole process: larger, never too small.
        _ = fs::write("/proc/self/clear_refs", "5");
        Self::now()
    }

    /// The peaks.
    pub(super) fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.unwrap_or(0) * 1024
        };
        Self { resident: field("VmHWM:"), mapped: field("VmPeak:") }
    }

    /// By how much this is more.
    pub(super) fn beyond(self, before: Self) -> Self {
        Self {
            resident: self.resident.saturating_sub(before.resident),
            mapped: self.mapped.saturating_sub(before.mapped),
        }
    }
}

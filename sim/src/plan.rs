//! What a seed decides before anything runs: the machine's malice, the settings, the writers' habits.
//!
//! Always true here: a plan follows from its seed and kind alone. Sizes are tiny, so that two hundred
//! lines roll segments and files, fill several transactions and leave several checkpoints.

use std::fmt;
use std::time::Duration;

use thalweg_core::config::Level;
use thalweg_core::disk::sim::{Crash, Rng};

/// The durability level, and how the program dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Level `disk`, power loss.
    DiskPower,
    /// Level `disk`, death of the process: the page cache is kept.
    DiskProcess,
    /// Level `os`, death of the process.
    OsProcess,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::DiskPower, Self::DiskProcess, Self::OsProcess];

    /// The kind a sampled seed runs under: power loss every other time.
    pub fn of_seed(seed: u64) -> Self {
        [Self::DiskPower, Self::OsProcess, Self::DiskPower, Self::DiskProcess][(seed % 4) as usize]
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_string() == text)
    }

    /// The level of the log.
    pub fn level(self) -> Level {
        if self == Self::OsProcess { Level::Os } else { Level::Disk }
    }

    /// How it dies.
    pub fn crash(self) -> Crash {
        if self == Self::DiskPower { Crash::Power } else { Crash::Process }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DiskPower => "disk-power",
            Self::DiskProcess => "disk-process",
            Self::OsProcess => "os-process",
        })
    }
}

/// Everything a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) kind: Kind,
    /// Writers and rotators make durable what they write. Else a power loss takes lines, and only
    /// conservation can be demanded.
    pub(crate) inputs_synced: bool,
    /// The files grow and rotate under a row of `--once` runs, instead of one that follows.
    pub(crate) once_throughout: bool,
    /// How long a minute waits for stragglers. Longer than the disorder: which lines are late is
    /// given. Zero: it depends on who was read first.
    pub(crate) grace: Duration,
    pub(crate) partitions: u32,
    pub(crate) threads: usize,
    /// Of the raw, the output and the repartition topics.
    pub(crate) segment_bytes: u32,
    /// Of the coordinators' topics.
    pub(crate) internal_segment_bytes: u32,
    /// Bytes of lines in a transaction of the source.
    pub(crate) source_bytes: u64,
    /// Bytes of one answer to a task.
    pub(crate) fetch_bytes: usize,
    /// Bytes of output in a transaction of the pipeline.
    pub(crate) commit_bytes: u64,
    /// Bytes of rows after which they are saved.
    pub(crate) checkpoint_bytes: usize,
    /// Bytes of a finished file.
    pub(crate) roll_bytes: u64,
    /// One read or write in so many is short; 0 for none.
    pub(crate) short_io: u32,
    pub(crate) birth_times: bool,
    /// Results of windows in a transaction of the pipeline.
    pub(crate) close_at_once: usize,
}

impl Plan {
    pub(crate) fn new(seed: u64, kind: Kind) -> Self {
        let mut rng = Rng::new(seed ^ 0x7468_616c_7765_6721);
        let mut pick = |from: &[u64]| from[rng.below(from.len() as u64) as usize];
        Self {
            seed,
            kind,
            inputs_synced: pick(&[1, 1, 0]) == 1,
            once_throughout: pick(&[0, 0, 0, 1]) == 1,
            grace: Duration::from_secs(pick(&[3600, 3600, 0])),
            partitions: pick(&[1, 1, 1, 2]) as u32,
            threads: pick(&[1, 1, 2]) as usize,
            segment_bytes: pick(&[900, 2500, 6000]) as u32,
            internal_segment_bytes: pick(&[4000, 100 << 20, 100 << 20]) as u32,
            source_bytes: pick(&[3000, 5000]),
            fetch_bytes: pick(&[2000, 8000]) as usize,
            commit_bytes: pick(&[8000, 20_000, 100_000]),
            checkpoint_bytes: pick(&[1, 3000, 10_000]) as usize,
            roll_bytes: pick(&[6000, 9000]),
            short_io: pick(&[0, 0, 0, 30]) as u32,
            birth_times: pick(&[1, 1, 0]) == 1,
            close_at_once: pick(&[4, 8192, 8192]) as usize,
        }
    }

    /// A generator for one part of the run, so that one part's draws do not shift another's.
    pub(crate) fn rng(&self, part: u64) -> Rng {
        Rng::new(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(part))
    }
}

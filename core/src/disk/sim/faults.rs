//! F2 · What goes wrong on the simulated disk besides crashes, and when.
//!
//! Always true here: faults strike the program under test only; other programs on the same disk are
//! the experiment's own hands. A fault is armed by the number of an operation, by a path, or by
//! chance from the seed.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;

use rustix::io::Errno;

use super::rng::Rng;
use super::tree::NodeId;

/// The calls of [`Disk`](crate::disk::Disk) and [`DiskFile`](crate::disk::DiskFile), for choosing
/// which of them fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "each is the trait's call of the same name")]
pub enum Call {
    Open,
    Read,
    Write,
    SetLen,
    Allocate,
    SyncData,
    SyncDir,
    Rename,
    Link,
    Remove,
    CreateDir,
    RemoveDir,
    List,
    Stat,
    Lock,
}

/// How a call fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// EIO: the device refuses. A sync of a file leaves its pages clean and the medium unspecified,
    /// one of a folder leaves its changes unsynced for good; a change of a name or of a length may
    /// have happened or not; a write has not.
    Io,
    /// ENOSPC: no room. Nothing has happened.
    NoSpace,
    /// EMFILE: too many open files. Nothing has happened.
    NoHandles,
}

impl Failure {
    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Io => Errno::IO.into(),
            Self::NoSpace => Errno::NOSPC.into(),
            Self::NoHandles => Errno::MFILE.into(),
        }
    }
}

impl Call {
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::SetLen => "set_len",
            Self::Allocate => "allocate",
            Self::SyncData => "sync_data",
            Self::SyncDir => "sync_dir",
            Self::Rename => "rename",
            Self::Link => "link",
            Self::Remove => "remove",
            Self::CreateDir => "create_dir",
            Self::RemoveDir => "remove_dir",
            Self::List => "list",
            Self::Stat => "stat",
            Self::Lock => "lock",
        }
    }
}

/// Which paths a fault strikes.
pub(super) type Paths = Box<dyn Fn(&Path) -> bool + Send>;

#[derive(Default)]
pub(super) struct Faults {
    at: BTreeMap<u64, Failure>,
    armed: Vec<Armed>,
    unreadable: BTreeMap<NodeId, Vec<Range<u64>>>,
    /// One read or write in so many is short; 0 for none.
    pub(super) short_one_in: u32,
}

struct Armed {
    call: Call,
    failure: Failure,
    paths: Paths,
    times: u32,
    one_in: u32,
}

impl Faults {
    pub(super) fn at(&mut self, operation: u64, failure: Failure) {
        self.at.insert(operation, failure);
    }

    pub(super) fn paths(&mut self, call: Call, failure: Failure, times: u32, paths: Paths) {
        self.armed.push(Armed { call, failure, paths, times, one_in: 1 });
    }

    pub(super) fn by_chance(&mut self, call: Call, failure: Failure, one_in: u32) {
        let paths = Box::new(|_: &Path| true);
        self.armed.push(Armed { call, failure, paths, times: u32::MAX, one_in });
    }

    pub(super) fn unreadable(&mut self, node: NodeId, range: Range<u64>) {
        self.unreadable.entry(node).or_default().push(range);
    }

    /// The failure that strikes the operation of this number, if any.
    pub(super) fn strike_at(&mut self, operation: u64) -> Option<Failure> {
        self.at.remove(&operation)
    }

    /// The failure that strikes this call, if any.
    pub(super) fn strike(&mut self, call: Call, path: &Path, rng: &mut Rng) -> Option<Failure> {
        let armed = self.armed.iter_mut().find(|armed| {
            armed.call == call
                && armed.times > 0
                && (armed.paths)(path)
                && (armed.one_in == 1 || rng.one_in(armed.one_in))
        })?;
        armed.times -= u32::from(armed.times != u32::MAX);
        Some(armed.failure)
    }

    /// How many of `len` bytes at `position` can be read before an unreadable one.
    pub(super) fn readable(&self, node: NodeId, position: u64, len: u64) -> u64 {
        let end = position.saturating_add(len);
        let ranges = self.unreadable.get(&node).map_or(&[][..], Vec::as_slice);
        ranges
            .iter()
            .filter(|range| range.start < end && range.end > position)
            .map(|range| range.start.saturating_sub(position))
            .min()
            .unwrap_or(len)
    }
}

//! F2 · The simulated machine: its one file system, the programs on it, and the moments it dies.
//!
//! ```text
//!   restart ──> running ──crash(Process)──> program dead: cache kept, its handles and locks gone
//!      ^           └──────crash(Power)────> all dead: what was not synced survives as the seed says
//!      └──────────────────────────────────────┘
//! ```
//!
//! Always true here: every change goes through [`World::change`], which counts it, asks whether the
//! crash or the fault of that number is due, and tells the change how far it gets.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::Crash;
use super::faults::{Call, Failure, Faults};
use super::pages::PAGE;
use super::rng::Rng;
use super::trace::{Event, Trace};
use super::tree::{Body, NodeId, Place, Tree};

pub(super) struct World {
    pub(super) tree: Tree,
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    pub(super) trace: Trace,
    pub(super) operations: u64,
    pub(super) armed: BTreeMap<u64, Crash>,
    pub(super) now_ms: i64,
    pub(super) birth_times: bool,
    pub(super) hard_links: bool,
    /// Pages of room on the device.
    pub(super) capacity: u64,
    pub(super) handles_max: usize,
    /// One write in so many reaches the medium early, in part; 0 for none.
    pub(super) early_one_in: u32,
    boot_ids: Rng,
    boot_id: String,
    handles: BTreeMap<HandleId, Handle>,
    next_handle: HandleId,
    pub(super) locks: BTreeMap<NodeId, HandleId>,
    run: u64,
    boot: u64,
    running: bool,
    powered: bool,
}

/// An open file or a held lock. Never given twice.
pub(super) type HandleId = u64;

struct Handle {
    node: NodeId,
    who: Who,
}

/// Through whom a call comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Door {
    pub(super) who: Who,
    pub(super) counted: bool,
    run: u64,
    boot: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    /// The program under test.
    Program,
    /// Any other program on the same machine.
    Other,
}

/// How far a change gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    /// The program or the machine dies within it.
    Cut,
    /// It fails, and may nevertheless have happened.
    Failed(Failure),
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut boot_ids = rng.fork();
        Self {
            tree: Tree::new(),
            boot_id: new_boot_id(&mut boot_ids),
            boot_ids,
            rng,
            faults: Faults::default(),
            trace: Trace::new(seed),
            operations: 0,
            armed: BTreeMap::new(),
            now_ms: 0,
            birth_times: true,
            hard_links: true,
            capacity: u64::MAX / PAGE,
            handles_max: usize::MAX,
            early_one_in: 8,
            handles: BTreeMap::new(),
            next_handle: 0,
            locks: BTreeMap::new(),
            run: 1,
            boot: 1,
            running: true,
            powered: true,
        }
    }

    // The machine and its programs.

    pub(super) fn door(&self, who: Who, counted: bool) -> Door {
        Door { who, counted, run: self.run, boot: self.boot }
    }

    pub(super) fn is_up(&self, door: &Door) -> bool {
        match door.who {
            Who::Program => self.running && door.run == self.run,
            Who::Other => self.powered && door.boot == self.boot,
        }
    }

    pub(super) fn crash(&mut self, crash: Crash) {
        match crash {
            Crash::Process => self.kill_program(),
            Crash::Power => self.lose_power(),
        }
        let verb = if crash == Crash::Power { "power loss" } else { "kill" };
        self.trace.note(self.operations, Event::new(verb), Ok(self.run));
    }

    pub(super) fn restart(&mut self) {
        if self.running {
            self.crash(Crash::Process);
        }
        self.run += 1;
        self.running = true;
        self.powered = true;
        self.trace.note(self.operations, Event::new("restart"), Ok(self.run));
    }

    pub(super) fn boot_id(&self) -> String {
        self.boot_id.clone()
    }

    fn kill_program(&mut self) {
        self.running = false;
        let (dead, alive) = std::mem::take(&mut self.handles)
            .into_iter()
            .partition(|(_, handle)| handle.who == Who::Program);
        self.handles = alive;
        self.locks.retain(|_, id| self.handles.contains_key(id));
        let dead: BTreeMap<HandleId, Handle> = dead;
        dead.values().for_each(|handle| self.tree.let_go(handle.node));
    }

    fn lose_power(&mut self) {
        self.running = false;
        self.powered = false;
        self.boot += 1;
        self.boot_id = new_boot_id(&mut self.boot_ids);
        self.handles.clear();
        self.locks.clear();
        self.tree.lose_power(&mut self.rng);
    }

    /// Runs a change that is a crash point. `apply` is told how far it gets; what it returns counts
    /// only when that is all the way.
    pub(super) fn change<T>(
        &mut self,
        door: Door,
        call: Call,
        path: &Path,
        apply: impl FnOnce(&mut Self, Extent) -> io::Result<T>,
    ) -> io::Result<T> {
        self.operations += u64::from(door.counted);
        let crash = if door.counted { self.armed.remove(&self.operations) } else { None };
        let failure = match door.who {
            Who::Program => self
                .faults
                .strike_at(self.operations)
                .or_else(|| self.faults.strike(call, path, &mut self.rng)),
            Who::Other => None,
        };
        match (crash, failure) {
            // Another program's call is not cut short by the death of ours.
            (Some(Crash::Process), _) if door.who == Who::Other => {
                let value = apply(self, Extent::Whole);
                self.crash(Crash::Process);
                value
            }
            (Some(crash), _) => {
                _ = apply(self, Extent::Cut);
                self.crash(crash);
                Err(down())
            }
            (None, Some(failure)) => {
                _ = apply(self, Extent::Failed(failure));
                Err(failure.error())
            }
            (None, None) => apply(self, Extent::Whole),
        }
    }

    /// Asks whether a call that changes nothing fails.
    pub(super) fn ask(&mut self, door: Door, call: Call, path: &Path) -> io::Result<()> {
        match door.who {
            Who::Program => match self.faults.strike(call, path, &mut self.rng) {
                Some(failure) => Err(failure.error()),
                None => Ok(()),
            },
            Who::Other => Ok(()),
        }
    }

    /// Whether a change that cannot be done in part happens.
    pub(super) fn happens(&mut self, extent: Extent) -> bool {
        match extent {
            Extent::Whole => true,
            Extent::Cut | Extent::Failed(Failure::Io) => self.rng.coin(),
            Extent::Failed(_) => false,
        }
    }

    // Handles and locks.

    pub(super) fn close(&mut self, id: HandleId) {
        if let Some(handle) = self.handles.remove(&id) {
            self.locks.retain(|_, holder| *holder != id);
            self.tree.let_go(handle.node);
        }
    }

    /// A program has a new process id after every start; the others share one.
    pub(super) fn process_id(&self, door: Door) -> u64 {
        match door.who {
            Who::Program => 1000 + self.run,
            Who::Other => 1000,
        }
    }

    pub(super) fn has_handle(&self, door: Door) -> io::Result<()> {
        if door.who == Who::Other || self.handles.len() < self.handles_max {
            return Ok(());
        }
        let ours = self.handles.values().filter(|handle| handle.who == Who::Program).count();
        if ours < self.handles_max { Ok(()) } else { Err(Errno::MFILE.into()) }
    }

    pub(super) fn hand_out(&mut self, door: Door, node: NodeId) -> Opened {
        self.next_handle += 1;
        self.handles.insert(self.next_handle, Handle { node, who: door.who });
        self.tree.hold(node);
        Opened { id: self.next_handle, node }
    }

    pub(super) fn create(&mut self, place: Place, body: Body) -> NodeId {
        let node = self.tree.create(body, self.now_ms, &mut self.rng);
        self.tree.name(place.folder, place.name, Some(node));
        node
    }
}

/// A file or a lock that was handed out.
pub(super) struct Opened {
    pub(super) id: HandleId,
    pub(super) node: NodeId,
}

pub(super) fn down() -> io::Error {
    io::Error::other("the simulated machine is down")
}

fn new_boot_id(rng: &mut Rng) -> String {
    format!("{:016x}{:016x}", rng.number(), rng.number())
}

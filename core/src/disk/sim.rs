//! F2 · A whole machine's disk in memory, which remembers what was synced and dies on demand.
//!
//! For tests: hand a [`SimDisk`] to the program under test instead of the real disk, kill the
//! program or cut the power at any operation, [`restart`](SimDisk::restart), and let it recover.
//! Everything that a seed decides follows from the seed and from the calls made, so a failure
//! replays exactly; [`trace_hash`](SimDisk::trace_hash) proves it.
//!
//! What is modelled, each with more malice than most disks have:
//! - **page cache and medium**: pages of 4 KiB become durable by a sync, or early, or not; a power
//!   loss keeps any subset of the unsynced pages, torn at 512 bytes, and any of the unsynced lengths;
//! - **names**: a power loss keeps any subset of the unsynced changes of a folder; the two halves of
//!   a rename are lost independently; a lost folder takes its content along;
//! - **failing syncs**: the pages are clean afterwards and the medium holds anything;
//!   [`drop_cache`](crate::disk::DiskFile::drop_cache) shows what;
//! - **crash points**: every operation that changes or syncs something; one that is cut may have
//!   happened in part;
//! - **full disk, too many handles, unreadable bytes, bit rot, short reads and writes**;
//! - **numbers of removed files given to new ones**.
//!
//! Always true here: what a sync made durable survives; a process that dies loses nothing that was
//! written; calls through the door of a dead run fail and change nothing. Locks are used here, as
//! tests may call from several threads; the trace then follows their order.
//!
//! | room | idea |
//! |---|---|
//! | `sim/world` | the machine: doors, crash points, handles, locks |
//! | `sim/calls` | what each call does |
//! | `sim/tree` | names, now and durable |
//! | `sim/pages` | one file's bytes, cached and on the medium |
//! | `sim/faults` | what else goes wrong, and when |
//! | `sim/trace` | what was done |
//! | `sim/rng` | numbers from a seed |

mod calls;
mod faults;
mod pages;
mod rng;
mod trace;
mod tree;
mod world;

use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

pub use self::faults::{Call, Failure};
pub use self::rng::Rng;

use self::calls::Target;
use self::pages::PAGE;
use self::trace::{Event, hash_bytes};
use self::tree::NodeId;
use self::world::{Door, HandleId, Opened, Who, World, down};
use super::{Disk, DiskFile, Entry, LockKind, Open, Stat};

/// How the program under test, or its machine, dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// `kill -9`: the page cache is kept; the program's handles and locks are gone. Other programs
    /// go on.
    Process,
    /// Every program dies, and what was not synced survives as the seed says. The boot id changes.
    Power,
}

/// A door to a simulated machine's disk: of one run of the program under test, or of another program
/// beside it. A clone is the same door.
///
/// ```
/// use std::path::Path;
/// use thalweg_core::disk::sim::{Crash, SimDisk};
/// use thalweg_core::disk::{Disk, DiskFile, Open, read_file, write_all_at};
///
/// let disk = SimDisk::new(42);
/// let file = disk.open(Path::new("/greeting"), Open::CreateNew)?;
/// write_all_at(&file, b"good morning", 0)?;
/// file.sync_data()?;
/// disk.sync_dir(Path::new("/"))?;
///
/// disk.crash(Crash::Power);
/// assert!(disk.down() && file.len().is_err());
/// let disk = disk.restart();
/// assert_eq!(read_file(&disk, Path::new("/greeting"), 100)?, b"good morning");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
    door: Door,
}

/// An open file of the simulated disk.
pub struct SimFile {
    hold: Hold,
    path: Arc<Path>,
    writable: bool,
}

/// A held lock of the simulated disk.
pub struct SimLock {
    hold: Hold,
}

/// A handle, closed when dropped.
struct Hold {
    disk: SimDisk,
    id: HandleId,
    node: NodeId,
}

/// The machine.
impl SimDisk {
    /// A new machine with an empty disk, and the door of the first run of the program under test.
    pub fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let door = world.door(Who::Program, true);
        Self { world: Arc::new(Mutex::new(world)), door }
    }

    /// Starts the program under test again, and the machine if it is down; a run that still lives is
    /// killed first. All older doors of the program stay dead, and after a power loss those of other
    /// programs too.
    pub fn restart(&self) -> Self {
        let mut world = self.world.lock();
        world.restart();
        Self { world: Arc::clone(&self.world), door: world.door(Who::Program, true) }
    }

    /// The door of another program on the same machine, such as the writer of a log. It lives through
    /// the death of the program under test, faults do not strike it, and what it changes is a crash
    /// point like any other.
    pub fn door(&self) -> Self {
        self.door_of_other(true)
    }

    /// As [`SimDisk::door`], but what is done through it is not counted as crash points.
    pub fn door_outside(&self) -> Self {
        self.door_of_other(false)
    }

    fn door_of_other(&self, counted: bool) -> Self {
        let door = self.world.lock().door(Who::Other, counted);
        Self { world: Arc::clone(&self.world), door }
    }

    /// Kills the program, or cuts the power, now. A power loss may follow a kill.
    pub fn crash(&self, crash: Crash) {
        self.world.lock().crash(crash);
    }

    /// Arms a crash at the operation of this number, counted from 1 since [`SimDisk::new`]. The
    /// operation may be done in part; it and all later ones fail. Several may be armed.
    pub fn crash_at(&self, operation: u64, crash: Crash) {
        self.world.lock().armed.insert(operation, crash);
    }

    /// How many crash points were passed: operations that changed or synced something.
    pub fn operations(&self) -> u64 {
        self.world.lock().operations
    }

    /// Whether calls through this door fail because the program or the machine died.
    pub fn down(&self) -> bool {
        !self.world.lock().is_up(&self.door)
    }

    /// A hash of every call with its arguments and its result, and of every crash.
    pub fn trace_hash(&self) -> u64 {
        self.world.lock().trace.hash()
    }

    /// The last 200 calls in words, each after the number of crash points passed, for the message of
    /// a failed test.
    pub fn trace(&self) -> Vec<String> {
        self.world.lock().trace.lines()
    }
}

/// The weather.
impl SimDisk {
    /// Sets the clock that files are stamped with, in milliseconds since 1970. It begins at 0.
    pub fn set_time(&self, now_ms: i64) {
        self.world.lock().now_ms = now_ms;
    }

    /// Whether the system knows when a file was born. It does at first.
    pub fn set_birth_times(&self, known: bool) {
        self.world.lock().birth_times = known;
    }

    /// Whether a file may have a second name. It may at first; else
    /// [`Disk::link`] fails with EPERM, as on FAT.
    pub fn set_hard_links(&self, possible: bool) {
        self.world.lock().hard_links = possible;
    }

    /// Bytes the disk holds, counted in pages of 4 KiB. Unlimited at first. Writes past it are short
    /// and then fail with ENOSPC.
    pub fn set_capacity(&self, bytes: u64) {
        self.world.lock().capacity = bytes / PAGE;
    }

    /// Files and locks the program may hold open. Unlimited at first.
    pub fn set_handles_max(&self, handles: usize) {
        self.world.lock().handles_max = handles;
    }

    /// One write in `one_in` reaches the medium early, in part, as the system's own write-back may
    /// do at any time. 8 at first; 0 for none.
    pub fn set_early_write_back(&self, one_in: u32) {
        self.world.lock().early_one_in = one_in;
    }

    /// One read or write of the program in `one_in` is short. 0, for none, at first.
    pub fn set_short_io(&self, one_in: u32) {
        self.world.lock().faults.short_one_in = one_in;
    }

    /// Lets the operation of this number fail, counted as in [`SimDisk::crash_at`].
    pub fn fail_at(&self, operation: u64, failure: Failure) {
        self.world.lock().faults.at(operation, failure);
    }

    /// Lets the next `times` of these calls fail on paths for which `paths` holds. Calls on an open
    /// file go by the path it was opened with.
    pub fn fail_on(
        &self,
        call: Call,
        failure: Failure,
        times: u32,
        paths: impl Fn(&Path) -> bool + Send + 'static,
    ) {
        self.world.lock().faults.paths(call, failure, times, Box::new(paths));
    }

    /// Lets one in `one_in` of these calls fail.
    pub fn fail_by_chance(&self, call: Call, failure: Failure, one_in: u32) {
        self.world.lock().faults.by_chance(call, failure, one_in);
    }

    /// Makes bytes of a file unreadable: reads end before them, then fail with EIO.
    pub fn fail_reads(&self, path: &Path, bytes: Range<u64>) -> io::Result<()> {
        let mut world = self.world.lock();
        let node = world.tree.find(path)?;
        world.faults.unreadable(node, bytes);
        Ok(())
    }

    /// Disarms every crash and every fault, and makes I/O whole again. Limits stay.
    pub fn heal(&self) {
        let mut world = self.world.lock();
        world.armed.clear();
        world.faults = faults::Faults::default();
    }

    /// Flips a bit (0-7) of a byte of a file, in the cache and on the medium.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) -> io::Result<()> {
        let mut world = self.world.lock();
        let node = world.tree.find(path)?;
        if byte >= world.tree.content(node)?.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        world.tree.change(node, |content| content.flip(byte, bit))
    }

    /// Takes a file back to what is on the medium, as if only its unsynced bytes had been lost.
    pub fn drop_unsynced(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        let node = world.tree.find(path)?;
        world.tree.change(node, pages::Content::forget)
    }

    /// Takes a name back to what its folder holds on the medium: one that was created is gone, one
    /// that was removed is there again.
    pub fn revert_unsynced_name(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        let place = world.tree.walk(path, false)?;
        world.tree.revert_name(&place)
    }

    /// Creates a symbolic link, which the trait has no call for.
    pub fn symlink(&self, target: &Path, link: &Path) -> io::Result<()> {
        let event = Event { to: Some(target.into()), ..Event::on("symlink", link) };
        self.call(event, nothing, |world, door| world.symlink(door, target.to_owned(), link))
    }

    /// One call: refused when the program is dead, noted in the trace when not.
    fn call<T>(
        &self,
        event: Event,
        word: impl FnOnce(&T) -> u64,
        run: impl FnOnce(&mut World, Door) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut world = self.world.lock();
        if !world.is_up(&self.door) {
            return Err(down());
        }
        let result = run(&mut world, self.door);
        let operations = world.operations;
        world.trace.note(operations, event, result.as_ref().map(word));
        result
    }

    fn hold(&self, opened: &Opened) -> Hold {
        Hold { disk: self.clone(), id: opened.id, node: opened.node }
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    fn open(&self, path: &Path, how: Open) -> io::Result<SimFile> {
        let event = Event { len: how as u64, ..Event::on(Call::Open.verb(), path) };
        let opened = self.call(event, opened_word, |world, door| world.open(door, path, how))?;
        Ok(SimFile { hold: self.hold(&opened), path: path.into(), writable: how != Open::Read })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let event = Event { to: Some(to.into()), ..Event::on(Call::Rename.verb(), from) };
        self.call(event, nothing, |world, door| world.rename(door, from, to, false))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let event = Event { to: Some(to.into()), ..Event::on("rename_new", from) };
        self.call(event, nothing, |world, door| world.rename(door, from, to, true))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let event = Event { to: Some(to.into()), ..Event::on(Call::Link.verb(), from) };
        self.call(event, nothing, |world, door| world.link(door, from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let event = Event::on(Call::Remove.verb(), path);
        self.call(event, nothing, |world, door| world.remove(door, path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let event = Event::on(Call::CreateDir.verb(), path);
        self.call(event, nothing, |world, door| world.create_dir(door, path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let event = Event::on(Call::RemoveDir.verb(), path);
        self.call(event, nothing, |world, door| world.remove_dir(door, path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let event = Event::on(Call::List.verb(), path);
        let word = |entries: &Vec<Entry>| {
            entries.iter().fold(0, |hash, entry| {
                hash_bytes(hash + u64::from(entry.is_dir), entry.name.as_encoded_bytes())
            })
        };
        self.call(event, word, |world, door| world.list(door, path))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let event = Event::on(Call::Stat.verb(), path);
        self.call(event, stat_word, |world, door| world.stat(door, path))
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        let word = |found: &PathBuf| hash_bytes(0, found.as_os_str().as_encoded_bytes());
        self.call(Event::on("canonical", path), word, |world, _| {
            let place = world.tree.walk(path, true)?;
            place.node.map(|_| place.path).ok_or_else(|| Errno::NOENT.into())
        })
    }

    fn lock(&self, path: &Path, kind: LockKind) -> io::Result<SimLock> {
        let event = Event { len: kind as u64, ..Event::on(Call::Lock.verb(), path) };
        let opened = self.call(event, opened_word, |world, door| world.lock(door, path))?;
        Ok(SimLock { hold: self.hold(&opened) })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let event = Event::on(Call::SyncDir.verb(), path);
        self.call(event, nothing, |world, door| world.sync_dir(door, path))
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.call(
            Event::on("free_space", path),
            |free| *free,
            |world, _| {
                world.tree.find(path)?;
                Ok(world.free_pages() * PAGE)
            },
        )
    }

    fn boot_id(&self) -> String {
        self.world.lock().boot_id()
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let event = self.event(Call::Read.verb(), position, buf.len() as u64);
        self.hold.disk.call(
            event,
            |n| *n as u64,
            |world, door| world.read(door, &self.target(), buf, position),
        )
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.write_vectored_at(&[IoSlice::new(buf)], position)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.needs_write()?;
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        let bytes = bufs.iter().fold(0, |hash, buf| hash_bytes(hash, buf));
        let event = Event { bytes, ..self.event(Call::Write.verb(), position, len) };
        self.hold.disk.call(
            event,
            |n| *n as u64,
            |world, door| world.write(door, &self.target(), bufs, position),
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        let event = self.event(Call::SyncData.verb(), 0, 0);
        self.hold.disk.call(event, nothing, |world, door| world.sync_data(door, &self.target()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if !self.writable {
            return Err(Errno::INVAL.into());
        }
        let event = self.event(Call::SetLen.verb(), 0, len);
        self.hold.disk.call(event, nothing, |world, door| world.set_len(door, &self.target(), len))
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.needs_write()?;
        let event = self.event(Call::Allocate.verb(), position, len);
        self.hold
            .disk
            .call(event, nothing, |world, door| world.allocate(door, &self.target(), position, len))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.stat()?.len)
    }

    fn stat(&self) -> io::Result<Stat> {
        let event = self.event("fstat", 0, 0);
        self.hold.disk.call(event, stat_word, |world, _| Ok(world.stat_of(self.hold.node)))
    }

    fn drop_cache(&self, bytes: Range<u64>) -> io::Result<()> {
        let event = self.event("drop_cache", bytes.start, bytes.end.saturating_sub(bytes.start));
        self.hold.disk.call(event, nothing, |world, _| {
            world.tree.change(self.hold.node, |content| content.drop_clean(&bytes))
        })
    }
}

impl SimFile {
    fn event(&self, verb: &'static str, position: u64, len: u64) -> Event {
        Event { position, len, ..Event::on(verb, Arc::clone(&self.path)) }
    }

    fn target(&self) -> Target<'_> {
        Target { node: self.hold.node, path: &self.path }
    }

    fn needs_write(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(Errno::BADF.into()) }
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("door", &self.door).finish_non_exhaustive()
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimLock").field("node", &self.hold.node).finish_non_exhaustive()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.disk.world.lock().close(self.id);
    }
}

fn nothing(_: &()) -> u64 {
    0
}

fn opened_word(opened: &Opened) -> u64 {
    opened.id
}

fn stat_word(stat: &Stat) -> u64 {
    let words = [
        stat.ino,
        stat.birth_ns.unwrap_or(-1).cast_unsigned(),
        stat.len,
        stat.mtime_ms.cast_unsigned(),
    ];
    words.into_iter().fold(stat.kind as u64, |hash, word| hash_bytes(hash, &word.to_le_bytes()))
}

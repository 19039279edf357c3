//! Trees in sled 0.34.7: a cache of what the log holds, which may be lost at any moment.
//!
//! ```text
//!   DIR/
//!     sled/                the database: one per process, one tree per task
//!       db  conf  snap.*  blobs/*       sled's own files
//!       opening            one byte per attempt to open it that did not come to an end
//!       suspect            why it must not be used again
//!     quarantine-<ms>/     a database that could not be used, moved aside; the newest two are kept
//! ```
//!
//! What is known of sled, and what follows (measured with power cuts on a device image):
//! - Its `flush` writes without a barrier: alone, 1 of 12 power cuts kept what was flushed. With the
//!   data file, the large values and both folders synced through descriptors of our own, 12 of 12 did.
//!   That is [`Persist::Power`]. Several tasks that ask for it at once share one.
//! - It panics where others return errors. It is opened on a thread of its own, and every later call
//!   is caught: a panic is an error of the store, never one of the record that was being processed.
//! - Between two barriers a power cut may cost everything, or leave a database that does not open. It
//!   is then moved aside, once, loudly, and never repaired: the log brings the rows back.
//! - A cache smaller than the working set makes it slow *and* large; the default is explicit.
//!
//! Always true here: the file is the edge of the room, the only one with files and threads. `DIR/lock`
//! of the log's folder is held before this store is opened; sled's own lock keeps a second store out.
//! Nothing relies on `Drop` to write.
#![expect(
    clippy::disallowed_methods,
    reason = "the edge: sled has a folder and a thread of its own"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use sled::{Db, Error, IVec};
use thalweg_core::ids::Timestamp;

use crate::state::backend::{
    Change, Persist, Result, Row, Rows, StateBackend, StateError, StateStore, StoreId, store_of,
};

/// How the store is set up.
#[derive(Clone)]
pub struct SledSettings {
    /// Bytes of rows that sled may keep in memory, over all tasks. Default 256 MiB: raise it to the
    /// working set where that is larger. Lower is worse in every way: 64 MiB was seen to take up to
    /// 4 GiB and to read 5 to 10 times slower.
    pub cache_bytes: u64,
    /// Told once per tree and store that a value of 64 KiB or more was written, which sled keeps in a
    /// file of its own.
    pub on_large_value: Option<LargeValueHook>,
}

/// Called with what is known of a large value.
pub type LargeValueHook = Arc<dyn Fn(&LargeValue<'_>) + Send + Sync>;

/// A value that is larger than sled likes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LargeValue<'a> {
    /// The tree: the task's name.
    pub tree: &'a str,
    /// The store within the task.
    pub store: StoreId,
    /// The length of the value.
    pub bytes: usize,
}

impl Default for SledSettings {
    fn default() -> Self {
        Self { cache_bytes: 256 << 20, on_large_value: None }
    }
}

/// A database was moved aside, and an empty one is there instead. To be told loudly.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quarantined {
    /// Why it could not be used.
    pub why: String,
    /// Where it is now.
    pub moved_to: PathBuf,
}

impl fmt::Display for Quarantined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (why, moved_to) = (&self.why, self.moved_to.display());
        write!(
            f,
            "the state store could not be used ({why}); it was moved to {moved_to}, and the state is \
             rebuilt from the log, which takes a while but loses nothing"
        )
    }
}

/// The database of a process.
pub struct SledStore {
    shared: Arc<Shared>,
}

impl SledStore {
    /// Opens the database in `dir`, created when missing. One that cannot be used is moved to
    /// `dir/quarantine-{now}` and an empty one takes its place; the second value says so. Blocks
    /// while sled recovers, which takes the longer the larger the database is.
    ///
    /// # Errors
    /// [`StateError::InUse`]; [`StateError::Io`] when the system refuses (no permission, no room, no
    /// descriptors: the database stays where it is); [`StateError::Damaged`] when not even an empty
    /// one opens.
    pub fn open(
        dir: &Path,
        settings: &SledSettings,
        now: Timestamp,
    ) -> Result<(Self, Option<Quarantined>)> {
        fs::create_dir_all(dir).map_err(|e| StateError::io("create", dir, e))?;
        let folder = dir.join("sled");
        refuse_when_in_use(&folder)?;
        let why = match condemned(&folder)? {
            Some(why) => why,
            None => match Shared::open(&folder, settings) {
                Ok(shared) => return Ok((Self { shared: Arc::new(shared) }, None)),
                Err(StateError::Damaged { what, .. }) => what,
                Err(other) => return Err(other),
            },
        };
        let moved_to = quarantine(dir, &folder, now)?;
        let shared = Arc::new(Shared::open(&folder, settings)?);
        Ok((Self { shared }, Some(Quarantined { why, moved_to })))
    }

    /// Persists everything and gives the folder free: when it returns, with or without an error of
    /// the last persist, the next open finds the lock free, also in this process.
    ///
    /// # Errors
    /// [`StateError::Invalid`] while a tree is open; else as [`StateBackend::persist`].
    pub fn close(self) -> Result<()> {
        self.shared.trees.lock().clear();
        let shared = Arc::into_inner(self.shared)
            .ok_or_else(|| StateError::invalid("a tree of the state store is still open"))?;
        let persisted = shared.barrier();
        let Shared { db, file, folder, .. } = shared;
        // It flushes once more, which may panic when it failed before.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
        // Helper threads of sled may hold the file, and with it the lock, a moment longer.
        file.lock().map_err(|e| StateError::io("lock", &folder, e))?;
        persisted
    }
}

impl StateStore for SledStore {
    fn open(&self, tree: &str) -> Result<Box<dyn StateBackend>> {
        if tree.as_bytes() == DEFAULT_TREE {
            return Err(StateError::invalid(format!("{tree:?} is the name of sled's own tree")));
        }
        let mut trees = self.shared.trees.lock();
        let slot = match trees.get(tree) {
            Some(slot) => slot.clone(),
            None => {
                let opened =
                    self.shared.guarded("open a tree", || self.shared.db.open_tree(tree))?;
                let slot = Arc::new(Slot { tree: RwLock::new(opened), large: Mutex::default() });
                trees.insert(tree.to_owned(), slot.clone());
                slot
            }
        };
        let shared = self.shared.clone();
        Ok(Box::new(SledBackend { slot, name: tree.to_owned(), shared }))
    }

    fn drop_tree(&self, tree: &str) -> Result<()> {
        let mut trees = self.shared.trees.lock();
        if trees.get(tree).is_some_and(|slot| Arc::strong_count(slot) > 1) {
            return Err(StateError::invalid(format!("tree {tree} is still open")));
        }
        trees.remove(tree);
        self.shared.guarded("drop a tree", || self.shared.db.drop_tree(tree)).map(drop)
    }

    fn trees(&self) -> Result<Vec<String>> {
        let names = self.shared.guarded("list trees", || Ok(self.shared.db.tree_names()))?;
        let names = names.iter().filter(|name| name.as_ref() != DEFAULT_TREE);
        let mut names: Vec<String> =
            names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        names.sort_unstable();
        Ok(names)
    }
}

/// The tree of one task in sled.
struct SledBackend {
    // Dropped before `shared`, which owns the database.
    slot: Arc<Slot>,
    name: String,
    shared: Arc<Shared>,
}

/// A tree as all its handles see it.
struct Slot {
    /// Replaced by [`StateBackend::clear`].
    tree: RwLock<sled::Tree>,
    /// The stores whose large values were told.
    large: Mutex<BTreeSet<StoreId>>,
}

impl StateBackend for SledBackend {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let tree = self.slot.tree.read();
        let value = self.shared.guarded("read", || tree.get(key))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range(&self, from: &[u8], to: &[u8], rev: bool) -> Result<Rows<'_>> {
        if !to.is_empty() && from >= to {
            return Ok(Box::new(std::iter::empty()));
        }
        let to = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        let rows = self.slot.tree.read().range::<&[u8], _>((Bound::Included(from), to));
        Ok(Box::new(SledRows { shared: &self.shared, rows, rev, done: false }))
    }

    fn write(&mut self, sorted: &mut dyn Iterator<Item = Change>) -> Result<()> {
        // Cloned, not locked: the iterator may read this tree.
        let tree = self.slot.tree.read().clone();
        for (key, value) in sorted {
            if let Some(value) = &value
                && value.len() >= LARGE_VALUE_BYTES
            {
                self.tell_large_value(&key, value.len());
            }
            self.shared.guarded("write", || match value {
                Some(value) => tree.insert(key, value.as_ref()),
                None => tree.remove(key),
            })?;
        }
        Ok(())
    }

    fn persist(&mut self, level: Persist) -> Result<()> {
        match level {
            Persist::None => Ok(()),
            Persist::Process => self.shared.guarded("write", || self.shared.db.flush()).map(drop),
            Persist::Power => self.shared.barrier(),
        }
    }

    fn clear(&mut self) -> Result<()> {
        let mut tree = self.slot.tree.write();
        // Frees whole pages, where sled's own `clear` writes a record per row.
        *tree = self.shared.guarded("clear", || {
            self.shared.db.drop_tree(&self.name)?;
            self.shared.db.open_tree(&self.name)
        })?;
        Ok(())
    }
}

impl SledBackend {
    fn tell_large_value(&self, key: &[u8], bytes: usize) {
        let store = store_of(key).unwrap_or(0);
        if let Some(hook) = &self.shared.on_large_value
            && self.slot.large.lock().insert(store)
        {
            hook(&LargeValue { tree: &self.name, store, bytes });
        }
    }
}

struct SledRows<'a> {
    shared: &'a Shared,
    rows: sled::Iter,
    rev: bool,
    done: bool,
}

impl Iterator for SledRows<'_> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let (rows, rev) = (&mut self.rows, self.rev);
        let row = self.shared.guarded("read", || {
            if rev { rows.next_back().transpose() } else { rows.next().transpose() }
        });
        self.done = !matches!(row, Ok(Some(_)));
        let copy = |bytes: IVec| Bytes::copy_from_slice(&bytes);
        row.map(|row| row.map(|(key, value)| (copy(key), copy(value)))).transpose()
    }
}

/// What all handles share.
struct Shared {
    db: Db,
    folder: PathBuf,
    /// A descriptor of our own for the data file.
    file: File,
    trees: Mutex<BTreeMap<String, Arc<Slot>>>,
    on_large_value: Option<LargeValueHook>,
    /// How many barriers began.
    begun: AtomicU64,
    barrier: Mutex<Barrier>,
    /// The first failure; nothing is done after it.
    failed: OnceLock<String>,
}

#[derive(Default)]
struct Barrier {
    /// The number of the last barrier that held.
    done: u64,
    synced: Synced,
}

/// The names that are durable.
#[derive(Default)]
struct Synced {
    /// In the database's folder.
    files: BTreeSet<OsString>,
    /// In the folder of large values, whose bytes are durable too.
    blobs: BTreeSet<OsString>,
}

impl Shared {
    /// Opens the database. [`StateError::Damaged`] stands for everything that moving it aside can
    /// help with.
    fn open(folder: &Path, settings: &SledSettings) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| StateError::io("create", folder, e))?;
        let attempts = folder.join(ATTEMPTS);
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&attempts)
            .and_then(|mut file| file.write_all(b"."))
            .map_err(|e| StateError::io("write", &attempts, e))?;

        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(settings.cache_bytes)
            .flush_every_ms(None)
            .use_compression(false);
        let db = thread::Builder::new()
            .name("state-open".to_owned())
            .spawn(move || {
                let db = config.open()?;
                let lost = check_sentinel(&db)?;
                Ok((db, lost))
            })
            .map_err(|e| StateError::io("start a thread to open", folder, e))?
            .join();
        fs::remove_file(&attempts).map_err(|e| StateError::io("remove", &attempts, e))?;
        let damaged = |what: String| StateError::Damaged { path: folder.to_owned(), what };
        let db = match db {
            Ok(Ok((db, Sentinel::Good))) => db,
            Ok(Ok((_, Sentinel::Missing))) => {
                return Err(damaged("it lost the row that marks it as ours".to_owned()));
            }
            Ok(Err(e)) => return Err(open_error(folder, e)),
            Err(panic) => return Err(damaged(panic_text(panic.as_ref()))),
        };
        let file = File::open(folder.join("db")).map_err(|e| StateError::io("open", folder, e))?;
        let shared = Self {
            db,
            folder: folder.to_owned(),
            file,
            trees: Mutex::default(),
            on_large_value: settings.on_large_value.clone(),
            begun: AtomicU64::new(0),
            barrier: Mutex::default(),
            failed: OnceLock::new(),
        };
        // The sentinel, sled's settings, and the folder's own name.
        sync(&folder.join("conf"))?;
        shared.barrier()?;
        sync(folder.parent().unwrap_or_else(|| Path::new(".")))?;
        Ok(shared)
    }

    /// Calls sled: not after a failure, and catching panics.
    fn guarded<T>(&self, what: &'static str, call: impl FnOnce() -> sled::Result<T>) -> Result<T> {
        if let Some(why) = self.failed.get() {
            return Err(StateError::Stopped { why: why.clone() });
        }
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Error::Io(source))) => {
                // sled remembers such an error and repeats it until it is reopened; so do we.
                let why = format!("cannot {what}: {source}");
                self.failed.get_or_init(|| why);
                Err(StateError::io(what, &self.folder, source))
            }
            Ok(Err(other)) => Err(self.condemn(format!("cannot {what}: {other}"))),
            Err(panic) => {
                Err(self.condemn(format!("cannot {what}: panic: {}", panic_text(panic.as_ref()))))
            }
        }
    }

    /// Stops the store, and has it moved aside at the next start.
    fn condemn(&self, what: String) -> StateError {
        let what = self.failed.get_or_init(|| what).clone();
        // When this fails too, the next start may use the database once more; the digest of the rows
        // is what protects then.
        let _ = fs::write(self.folder.join(SUSPECT), &what);
        StateError::Damaged { path: self.folder.clone(), what }
    }

    /// What was written before the call survives the loss of power. A barrier that began after the
    /// call did, on behalf of another task, serves as well.
    fn barrier(&self) -> Result<()> {
        let wanted = self.begun.load(Ordering::SeqCst) + 1;
        let mut barrier = self.barrier.lock();
        if barrier.done >= wanted {
            return Ok(());
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.guarded("write", || self.db.flush())?;
        if let Err((path, source)) = self.sync_files(&mut barrier.synced) {
            // After a failed sync the pages count as clean, and nobody knows what is on the medium.
            self.condemn(format!("cannot sync {}: {source}", path.display()));
            return Err(StateError::io("sync", &path, source));
        }
        barrier.done = number;
        Ok(())
    }

    /// Large values are written once, each to a file of its own: the new ones are synced. Names
    /// appear and vanish with them and when sled opens: folders whose names changed are synced.
    fn sync_files(&self, synced: &mut Synced) -> Result<(), (PathBuf, io::Error)> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| (path, error)
        };
        let blobs = self.folder.join("blobs");
        let names = names(&blobs).map_err(at(&blobs))?;
        for name in names.difference(&synced.blobs) {
            let path = blobs.join(name);
            match File::open(&path).and_then(|file| file.sync_all()) {
                // sled removed it meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                done => done.map_err(at(&path))?,
            }
        }
        self.file.sync_data().map_err(at(&self.folder.join("db")))?;
        sync_names(&blobs, names, &mut synced.blobs).map_err(at(&blobs))?;
        let names = self::names(&self.folder).map_err(at(&self.folder))?;
        sync_names(&self.folder, names, &mut synced.files).map_err(at(&self.folder))
    }
}

fn names(folder: &Path) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
}

fn sync_names(
    folder: &Path,
    now: BTreeSet<OsString>,
    synced: &mut BTreeSet<OsString>,
) -> io::Result<()> {
    if now != *synced {
        File::open(folder)?.sync_all()?;
        *synced = now;
    }
    Ok(())
}

enum Sentinel {
    Good,
    Missing,
}

/// A database with trees but without the row that its first open wrote lost its oldest part. In an
/// empty one the row is written.
fn check_sentinel(db: &Db) -> sled::Result<Sentinel> {
    let empty = db.tree_names().iter().all(|name| name.as_ref() == DEFAULT_TREE);
    match db.get(SENTINEL)? {
        Some(layout) if layout.as_ref() == LAYOUT => Ok(Sentinel::Good),
        None if empty => db.insert(SENTINEL, LAYOUT).map(|_| Sentinel::Good),
        _ => Ok(Sentinel::Missing),
    }
}

/// Sorts an error of opening: what the system refuses is not the database's fault.
fn open_error(folder: &Path, error: Error) -> StateError {
    match error {
        Error::Io(e) if e.to_string().contains("could not acquire lock") => {
            StateError::InUse { path: folder.to_owned() }
        }
        Error::Io(source) if is_refusal(&source) => StateError::io("open", folder, source),
        other => StateError::Damaged { path: folder.to_owned(), what: other.to_string() },
    }
}

/// No permission, no room, no descriptors, no memory: states of the machine that pass.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{
        OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    let kinds = [OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull];
    // ENFILE 23, EMFILE 24 have no kind of their own.
    kinds.contains(&error.kind()) || matches!(error.raw_os_error(), Some(23 | 24))
}

/// A live database must never be moved aside, so the lock is tried before anything is judged.
fn refuse_when_in_use(folder: &Path) -> Result<()> {
    let path = folder.join("db");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(StateError::io("open", &path, e)),
    };
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(StateError::InUse { path: folder.to_owned() }),
        Err(TryLockError::Error(e)) => Err(StateError::io("lock", &path, e)),
    }
}

/// Why a database is not even tried: an earlier life saw it fail, or opening it never came to an end
/// (it may take the process with it in ways that cannot be caught).
fn condemned(folder: &Path) -> Result<Option<String>> {
    let path = folder.join(SUSPECT);
    match fs::read(&path) {
        Ok(why) => return Ok(Some(String::from_utf8_lossy(&why).into_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(StateError::io("read", &path, e)),
    }
    let attempts = fs::metadata(folder.join(ATTEMPTS)).map_or(0, |attempts| attempts.len());
    let hopeless = attempts >= ATTEMPTS_MAX;
    Ok(hopeless.then(|| format!("the last {attempts} attempts to open it did not come to an end")))
}

/// Moves the database aside and removes all but the newest of those moved before.
fn quarantine(dir: &Path, folder: &Path, now: Timestamp) -> Result<PathBuf> {
    let mut moved_to = dir.join(format!("{QUARANTINE}{now}"));
    let mut twin = 0;
    while moved_to.exists() {
        twin += 1;
        moved_to = dir.join(format!("{QUARANTINE}{now}.{twin}"));
    }
    fs::rename(folder, &moved_to).map_err(|e| StateError::io("move aside", folder, e))?;
    sync(dir)?;
    let listed = fs::read_dir(dir).map_err(|e| StateError::io("list", dir, e))?;
    let mut aside: Vec<(Timestamp, PathBuf)> = listed
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let time = path.file_name()?.to_str()?.strip_prefix(QUARANTINE)?;
            let time = time.split('.').next()?.parse().ok()?;
            Some((time, path))
        })
        .filter(|(_, path)| *path != moved_to)
        .collect();
    aside.sort_unstable();
    aside.truncate(aside.len().saturating_sub(QUARANTINED_MAX - 1));
    for (_, path) in aside {
        // Room is all that is at stake.
        let _ = fs::remove_dir_all(path);
    }
    Ok(moved_to)
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(|e| StateError::io("sync", path, e))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text").to_owned()
}

/// sled's name for the tree that every database has.
const DEFAULT_TREE: &[u8] = b"__sled__default";
const SENTINEL: &[u8] = b"thalweg";
/// The layout of the trees: raised when old ones cannot be read.
const LAYOUT: &[u8] = &[1];
const ATTEMPTS: &str = "opening";
/// A kill in the middle of opening must not cost the state; three in a row may.
const ATTEMPTS_MAX: u64 = 3;
const SUSPECT: &str = "suspect";
const QUARANTINE: &str = "quarantine-";
const QUARANTINED_MAX: usize = 2;
/// From here on sled keeps a value in a file of its own, or soon will.
const LARGE_VALUE_BYTES: usize = 64 * 1024;

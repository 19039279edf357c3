//! A store that forgets what was not persisted: the worst that a backend may do, from a seed.
//!
//! ```text
//!   durable rows          what the last persist(Power) of the tree covered
//!     + journal           every write and clear since, in order
//!     = rows as read
//!
//!   crash(Process)   keeps a prefix of the journal, at least what persist(Process) covered
//!   crash(Power)     gives each key any of the values it had since the last persist(Power);
//!                    a clear may be forgotten, as a whole or for some keys
//! ```
//!
//! Always true here: the same calls with the same seed give the same rows. A handle from before a
//! crash is refused afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::state::backend::{Change, Persist, Result, Rows, StateBackend, StateError, StateStore};
use crate::state::memory::{CHUNK_ROWS, Chunks, read_chunk};

/// What dies in a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process; the system keeps what it was given.
    Process,
    /// The machine; only what was persisted is sure.
    Power,
}

/// A database in memory that forgets. A clone is another door to the same one.
///
/// ```
/// use bytes::Bytes;
/// use thalweg_streams::state::backend::{Persist, StateBackend, StateStore};
/// use thalweg_streams::state::forgetful::{Crash, ForgetfulStore};
///
/// # fn main() -> Result<(), thalweg_streams::state::backend::StateError> {
/// let store = ForgetfulStore::new(1);
/// let mut tree = store.open("0-0")?;
/// tree.write(&mut [(Bytes::from("a"), Some(Bytes::from("1")))].into_iter())?;
/// tree.persist(Persist::Power)?;
/// tree.clear()?;
/// tree.persist(Persist::Power)?;
/// store.crash(Crash::Power);
/// assert_eq!(store.open("0-0")?.get(b"a")?, None);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ForgetfulStore {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    trees: BTreeMap<String, Tree>,
    random: SplitMix,
    /// Raised by every crash: handles of an older life are refused.
    life: u64,
    operations: u64,
    /// The number of the operation at which everything stops.
    stop_at: Option<u64>,
}

#[derive(Default)]
struct Tree {
    durable: BTreeMap<Bytes, Bytes>,
    journal: Vec<Entry>,
    /// How much of the journal outlives the process for sure.
    process: usize,
    rows: BTreeMap<Bytes, Bytes>,
    handles: usize,
    dropped: bool,
}

#[derive(Clone)]
enum Entry {
    Write(Change),
    Clear,
}

impl ForgetfulStore {
    /// An empty store whose crashes are drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            trees: BTreeMap::new(),
            random: SplitMix(seed),
            life: 0,
            operations: 0,
            stop_at: None,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// How many rows were written, persists and clears done since the store was made. Reads do not
    /// count: nothing changes by them.
    pub fn operations(&self) -> u64 {
        self.inner.lock().operations
    }

    /// Lets `count` more operations pass, then refuses everything with [`StateError::Stopped`] until
    /// [`crash`](Self::crash) is called: a crash at any point of an operation of many steps.
    pub fn stop_after(&self, count: u64) {
        let mut inner = self.inner.lock();
        inner.stop_at = Some(inner.operations + count);
    }

    /// Forgets what the crash may take, and takes away all open handles.
    pub fn crash(&self, crash: Crash) {
        let mut inner = self.inner.lock();
        inner.life += 1;
        inner.stop_at = None;
        let Inner { trees, random, .. } = &mut *inner;
        for tree in trees.values_mut() {
            match crash {
                Crash::Process => tree.lose_process(random),
                Crash::Power => tree.lose_power(random),
            }
            tree.handles = 0;
            tree.dropped &= tree.rows.is_empty();
        }
    }
}

impl Inner {
    fn operation(&mut self, life: u64) -> Result<()> {
        self.alive(life)?;
        self.operations += 1;
        Ok(())
    }

    fn alive(&self, life: u64) -> Result<()> {
        let stopped = self.stop_at.is_some_and(|at| self.operations >= at);
        if stopped || life != self.life {
            return Err(StateError::Stopped { why: "the simulated process died".to_owned() });
        }
        Ok(())
    }
}

impl Tree {
    fn push(&mut self, entry: Entry) {
        apply(&mut self.rows, &entry);
        self.journal.push(entry);
    }

    fn persist(&mut self, level: Persist) {
        match level {
            Persist::None => {}
            Persist::Process => self.process = self.journal.len(),
            Persist::Power => {
                self.journal.drain(..).for_each(|entry| apply(&mut self.durable, &entry));
                self.process = 0;
            }
        }
    }

    fn lose_process(&mut self, random: &mut SplitMix) {
        let kept = self.process + random.below(self.journal.len() - self.process + 1);
        self.journal.truncate(kept);
        // The system has it now, and keeps it over further deaths of processes.
        self.process = kept;
        self.rows = self.durable.clone();
        self.journal.iter().for_each(|entry| apply(&mut self.rows, entry));
    }

    fn lose_power(&mut self, random: &mut SplitMix) {
        // Uniform choices alone would hardly ever forget everything, nothing, or just the clears.
        let fate = match random.below(8) {
            0 => Fate::Oldest,
            1 => Fate::Newest,
            2 => Fate::NoClears,
            _ => Fate::Any,
        };
        // Every value that each key had since it was durable, in order.
        let mut values: BTreeMap<Bytes, Vec<Option<Bytes>>> = BTreeMap::new();
        let mut rows = self.durable.clone();
        for entry in self.journal.drain(..) {
            match &entry {
                Entry::Clear if fate == Fate::NoClears => continue,
                Entry::Clear => {
                    rows.keys().for_each(|key| values.entry(key.clone()).or_default().push(None));
                }
                Entry::Write((key, value)) => {
                    values.entry(key.clone()).or_default().push(value.clone());
                }
            }
            apply(&mut rows, &entry);
        }
        for (key, mut values) in values {
            let value = match fate {
                Fate::Oldest => continue,
                Fate::Newest | Fate::NoClears => values.pop(),
                // One choice more than there are values: the durable one.
                Fate::Any => match random.below(values.len() + 1) {
                    0 => continue,
                    chosen => values.into_iter().nth(chosen - 1),
                },
            };
            apply(&mut self.durable, &Entry::Write((key, value.flatten())));
        }
        self.rows = self.durable.clone();
        self.process = 0;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Oldest,
    Newest,
    NoClears,
    Any,
}

fn apply(rows: &mut BTreeMap<Bytes, Bytes>, entry: &Entry) {
    match entry {
        Entry::Write((key, Some(value))) => {
            rows.insert(key.clone(), value.clone());
        }
        Entry::Write((key, None)) => {
            rows.remove(key);
        }
        Entry::Clear => rows.clear(),
    }
}

impl StateStore for ForgetfulStore {
    fn open(&self, tree: &str) -> Result<Box<dyn StateBackend>> {
        let mut inner = self.inner.lock();
        let life = inner.life;
        inner.alive(life)?;
        let opened = inner.trees.entry(tree.to_owned()).or_default();
        opened.handles += 1;
        opened.dropped = false;
        let (inner, tree) = (self.inner.clone(), tree.to_owned());
        Ok(Box::new(ForgetfulBackend { inner, tree, life }))
    }

    fn drop_tree(&self, tree: &str) -> Result<()> {
        let mut inner = self.inner.lock();
        let life = inner.life;
        inner.operation(life)?;
        if let Some(dropped) = inner.trees.get_mut(tree) {
            if dropped.handles > 0 {
                return Err(StateError::invalid(format!("tree {tree} is still open")));
            }
            dropped.push(Entry::Clear);
            dropped.dropped = true;
        }
        Ok(())
    }

    fn trees(&self) -> Result<Vec<String>> {
        let inner = self.inner.lock();
        inner.alive(inner.life)?;
        Ok(inner.trees.iter().filter(|(_, t)| !t.dropped).map(|(name, _)| name.clone()).collect())
    }
}

/// A tree of a [`ForgetfulStore`].
struct ForgetfulBackend {
    inner: Arc<Mutex<Inner>>,
    tree: String,
    life: u64,
}

impl ForgetfulBackend {
    fn change<T>(&self, what: impl FnOnce(&mut Tree) -> T) -> Result<T> {
        let mut inner = self.inner.lock();
        inner.operation(self.life)?;
        Ok(what(inner.trees.entry(self.tree.clone()).or_default()))
    }

    fn read<T: Default>(&self, what: impl FnOnce(&Tree) -> T) -> Result<T> {
        let inner = self.inner.lock();
        inner.alive(self.life)?;
        Ok(inner.trees.get(&self.tree).map(what).unwrap_or_default())
    }
}

impl StateBackend for ForgetfulBackend {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.read(|tree| tree.rows.get(key).cloned())
    }

    fn range(&self, from: &[u8], to: &[u8], rev: bool) -> Result<Rows<'_>> {
        self.read(|_| ())?;
        // Reads cannot fail before the next crash, and after it nobody believes what they gave.
        let chunk = move |from: std::ops::Bound<&[u8]>, to: std::ops::Bound<&[u8]>| {
            self.read(|tree| read_chunk(&tree.rows, from, to, rev, CHUNK_ROWS)).unwrap_or_default()
        };
        Ok(Box::new(Chunks::new(from, to, rev, chunk).map(Ok)))
    }

    fn write(&mut self, sorted: &mut dyn Iterator<Item = Change>) -> Result<()> {
        for change in sorted {
            self.change(|tree| tree.push(Entry::Write(change)))?;
        }
        Ok(())
    }

    fn persist(&mut self, level: Persist) -> Result<()> {
        self.change(|tree| tree.persist(level))
    }

    fn clear(&mut self) -> Result<()> {
        self.change(|tree| tree.push(Entry::Clear))
    }
}

impl Drop for ForgetfulBackend {
    fn drop(&mut self) {
        let mut inner = self.inner.lock();
        if inner.life == self.life
            && let Some(tree) = inner.trees.get_mut(&self.tree)
        {
            tree.handles -= 1;
        }
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014: enough for choices.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is at least 1.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

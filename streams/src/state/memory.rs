//! Trees in memory: for tests, for the simulation, and for small state that may be rebuilt from the
//! log on every start.
//!
//! Always true here: nothing survives the process, whatever was persisted; a clone of the store is
//! another door to the same trees.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::state::backend::{
    Change, Persist, Result, Row, Rows, StateBackend, StateError, StateStore,
};

type Tree = Arc<RwLock<BTreeMap<Bytes, Bytes>>>;

/// A database in memory.
///
/// ```
/// use bytes::Bytes;
/// use thalweg_streams::state::backend::{StateBackend, StateStore};
/// use thalweg_streams::state::memory::MemoryStore;
///
/// # fn main() -> Result<(), thalweg_streams::state::backend::StateError> {
/// let store = MemoryStore::default();
/// let mut tree = store.open("0-0")?;
/// tree.write(&mut [(Bytes::from("key"), Some(Bytes::from("value")))].into_iter())?;
/// assert_eq!(store.open("0-0")?.get(b"key")?.as_deref(), Some(&b"value"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct MemoryStore {
    trees: Arc<Mutex<BTreeMap<String, Tree>>>,
}

impl StateStore for MemoryStore {
    fn open(&self, tree: &str) -> Result<Box<dyn StateBackend>> {
        let tree = self.trees.lock().entry(tree.to_owned()).or_default().clone();
        Ok(Box::new(MemoryBackend { tree }))
    }

    fn drop_tree(&self, tree: &str) -> Result<()> {
        let mut trees = self.trees.lock();
        if trees.get(tree).is_some_and(|tree| Arc::strong_count(tree) > 1) {
            return Err(StateError::invalid(format!("tree {tree} is still open")));
        }
        trees.remove(tree);
        Ok(())
    }

    fn trees(&self) -> Result<Vec<String>> {
        Ok(self.trees.lock().keys().cloned().collect())
    }
}

/// A tree in memory.
pub struct MemoryBackend {
    tree: Tree,
}

impl StateBackend for MemoryBackend {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.tree.read().get(key).cloned())
    }

    fn range(&self, from: &[u8], to: &[u8], rev: bool) -> Result<Rows<'_>> {
        let chunk = move |from: Bound<&[u8]>, to: Bound<&[u8]>| {
            read_chunk(&self.tree.read(), from, to, rev, CHUNK_ROWS)
        };
        Ok(Box::new(Chunks::new(from, to, rev, chunk).map(Ok)))
    }

    fn write(&mut self, sorted: &mut dyn Iterator<Item = Change>) -> Result<()> {
        for (key, value) in sorted {
            // The lock is taken per row: the iterator may well read this tree.
            match value {
                Some(value) => self.tree.write().insert(key, value),
                None => self.tree.write().remove(&key),
            };
        }
        Ok(())
    }

    fn persist(&mut self, _: Persist) -> Result<()> {
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.tree.write().clear();
        Ok(())
    }
}

/// Rows of a locked map, read some at a time so that no lock is held while somebody iterates.
pub(super) struct Chunks<F> {
    read: F,
    from: Bound<Bytes>,
    to: Bound<Bytes>,
    rev: bool,
    rows: std::vec::IntoIter<Row>,
    done: bool,
}

impl<F: FnMut(Bound<&[u8]>, Bound<&[u8]>) -> Vec<Row>> Chunks<F> {
    /// `read` gives the first rows within the bounds, in the order wanted, none only at the end.
    pub(super) fn new(from: &[u8], to: &[u8], rev: bool, read: F) -> Self {
        let bounded = !to.is_empty();
        Self {
            read,
            from: Bound::Included(Bytes::copy_from_slice(from)),
            to: if bounded {
                Bound::Excluded(Bytes::copy_from_slice(to))
            } else {
                Bound::Unbounded
            },
            rev,
            rows: Vec::new().into_iter(),
            done: bounded && from >= to,
        }
    }
}

impl<F: FnMut(Bound<&[u8]>, Bound<&[u8]>) -> Vec<Row>> Iterator for Chunks<F> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        if self.rows.as_slice().is_empty() && !self.done {
            let (from, to) = (self.from.as_ref().map(Bytes::as_ref), self.to.as_ref());
            let rows = (self.read)(from, to.map(Bytes::as_ref));
            match rows.last() {
                Some((key, _)) if self.rev => self.to = Bound::Excluded(key.clone()),
                Some((key, _)) => self.from = Bound::Excluded(key.clone()),
                None => self.done = true,
            }
            self.rows = rows.into_iter();
        }
        self.rows.next()
    }
}

/// The first `count` rows within the bounds.
pub(super) fn read_chunk(
    map: &BTreeMap<Bytes, Bytes>,
    from: Bound<&[u8]>,
    to: Bound<&[u8]>,
    rev: bool,
    count: usize,
) -> Vec<Row> {
    let rows = map.range::<[u8], _>((from, to)).map(|(key, value)| (key.clone(), value.clone()));
    if rev { rows.rev().take(count).collect() } else { rows.take(count).collect() }
}

/// Enough that the lock and the search cost little per row, few enough that a look at the first row
/// costs little.
pub(super) const CHUNK_ROWS: usize = 32;

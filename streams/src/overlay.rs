//! The typed state of one operator: what changed, above what is committed, above what is stored.
//!
//! ```text
//!   txn        entries touched by the open transaction     dropped by an abort
//!     |  committed()                                       changelog: one record per dirty key
//!   settled    committed, not yet in the backend
//!     |  freeze()
//!   frozen     being written by a checkpoint               shared with its thread
//!     |  drop_frozen()
//!   base       StateBackend: store id ++ bucket ++ key
//! ```
//!
//! Always true here: reads look from top to bottom; the base is never written by a task; a key is
//! encoded once per commit that touched it; rows lie in buckets (the window; one bucket for plain
//! stores), in the order of their bytes; nothing shows in the order of a hash map.

use std::collections::{BTreeMap, HashMap, hash_map};
use std::hash::Hash;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::cx::{Cx, Outgoing, OutputId, Route};
use crate::error::{CodecError, Error, Result};
use crate::state::backend::{Change, StateBackend, StateError, StoreId, prefix_end};
use crate::state::digest::{Digest, RowHash};
use crate::time::Judged;

/// How rows of a store are keyed and written.
pub(crate) trait Layout: Send + Sync + 'static {
    /// What rows are gathered by; its bytes come first.
    type Bucket: Copy + Ord + Send + Sync;
    /// The key within a bucket.
    type Key: Hash + Eq + Ord + Clone + Send + Sync;
    /// The value.
    type Value: Clone + Send + Sync;

    fn encode_bucket(&self, bucket: Self::Bucket, out: &mut Vec<u8>) -> Result<(), CodecError>;
    fn encode_key(
        &self,
        bucket: Self::Bucket,
        key: &Self::Key,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError>;
    fn decode_key(&self, bytes: &[u8]) -> Result<(Self::Bucket, Self::Key), CodecError>;
    fn encode_value(&self, value: &Self::Value, out: &mut Vec<u8>) -> Result<(), CodecError>;
    fn decode_value(&self, bytes: &[u8]) -> Result<Self::Value, CodecError>;
}

/// A row in the hands of an operator. `value` may be changed; [`Entry::touch`] says that it was.
pub(crate) struct Entry<V> {
    pub(crate) value: Option<V>,
    /// The time of the record that changed it last.
    pub(crate) changed_at: Judged,
    dirty: bool,
    /// The committed row, and the row that was flushed: its hash and length.
    before: Option<RowHash>,
    flushed: Option<(RowHash, u32)>,
}

impl<V> Entry<V> {
    /// The value was changed by a record of this time.
    #[inline]
    pub(crate) fn touch(&mut self, now: Judged) {
        self.changed_at = now;
        self.dirty = true;
    }

    /// Whether the flush found another row than the committed one.
    fn is_changed(&self) -> bool {
        self.dirty && self.before != self.flushed.map(|(hash, _)| hash)
    }
}

/// A committed row: its value, or that it was deleted; its hash and length.
struct Row<V> {
    value: Option<V>,
    stored: Option<(RowHash, u32)>,
}

type Rows<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
type Txn<L> =
    BTreeMap<<L as Layout>::Bucket, Rows<<L as Layout>::Key, Entry<<L as Layout>::Value>>>;
type Layer<L> =
    BTreeMap<<L as Layout>::Bucket, Rows<<L as Layout>::Key, Row<<L as Layout>::Value>>>;

/// The layers of one store of one task.
pub(crate) struct Overlay<L: Layout> {
    layout: Arc<L>,
    name: &'static str,
    id: StoreId,
    changelog: OutputId,
    partition: u32,
    txn: Txn<L>,
    settled: Layer<L>,
    frozen: Option<Arc<Layer<L>>>,
    committed_digest: Digest,
    /// The digest with the flushed rows.
    flushed: Digest,
    /// Some entry was touched since the last commit or abort.
    dirty: bool,
    bytes: usize,
    frozen_bytes: usize,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl<L: Layout> Overlay<L> {
    pub(crate) fn new(
        layout: Arc<L>,
        name: &'static str,
        id: StoreId,
        changelog: OutputId,
        partition: u32,
    ) -> Self {
        Self {
            layout,
            name,
            id,
            changelog,
            partition,
            txn: BTreeMap::new(),
            settled: BTreeMap::new(),
            frozen: None,
            committed_digest: Digest::default(),
            flushed: Digest::default(),
            dirty: false,
            bytes: 0,
            frozen_bytes: 0,
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Hands the entry of a key to `change`, loaded from below if the transaction had not touched it.
    #[inline]
    pub(crate) fn update<R>(
        &mut self,
        bucket: L::Bucket,
        key: &L::Key,
        base: &dyn StateBackend,
        change: impl FnOnce(&mut Entry<L::Value>) -> R,
    ) -> Result<R> {
        let rows = self.txn.entry(bucket).or_default();
        if let Some(entry) = rows.get_mut(key) {
            let result = change(entry);
            self.dirty |= entry.dirty;
            return Ok(result);
        }
        let below = [Some(&self.settled), self.frozen.as_deref()];
        let row = below.into_iter().flatten().find_map(|layer| layer.get(&bucket)?.get(key));
        let mut entry = match row {
            Some(row) => Entry::of(row.value.clone(), row.stored),
            None => {
                self.key.clear();
                self.key.extend(self.id.to_be_bytes());
                let encoded = self.layout.encode_key(bucket, key, &mut self.key);
                encoded.map_err(Error::encode(self.name))?;
                match base.get(&self.key)? {
                    Some(value) => {
                        let decoded = self.layout.decode_value(&value);
                        let decoded = decoded.map_err(|e| damaged(self.name, &e))?;
                        let stored = (RowHash::of(&self.key, &value), len(&self.key, &value));
                        Entry::of(Some(decoded), Some(stored))
                    }
                    None => Entry::of(None, None),
                }
            }
        };
        let result = change(&mut entry);
        self.dirty |= entry.dirty;
        rows.insert(key.clone(), entry);
        Ok(result)
    }

    /// The first bucket after `after` and up to `upto` that may hold rows.
    pub(crate) fn next_bucket(
        &mut self,
        after: Option<L::Bucket>,
        upto: impl Fn(L::Bucket) -> bool,
        base: &dyn StateBackend,
    ) -> Result<Option<L::Bucket>> {
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut next = self.txn.range(from).next().map(|(bucket, _)| *bucket);
        let below = [Some(&self.settled), self.frozen.as_deref()];
        for layer in below.into_iter().flatten() {
            let here = layer.range(from).next().map(|(bucket, _)| *bucket);
            next = next.into_iter().chain(here).min();
        }
        let (start, end) = (self.prefix(None)?, prefix_end(&self.id.to_be_bytes()));
        let start = match after {
            Some(bucket) => prefix_end(&self.prefix(Some(bucket))?),
            None => start,
        };
        if let Some(row) = base.range(&start, &end, false)?.next() {
            let (bucket, _) = self.decode_key(&row?.0)?;
            next = next.into_iter().chain([bucket]).min();
        }
        Ok(next.filter(|&bucket| upto(bucket)))
    }

    /// Brings every live row of a bucket into the transaction and gives their keys in order.
    pub(crate) fn load_bucket(
        &mut self,
        bucket: L::Bucket,
        base: &dyn StateBackend,
    ) -> Result<Vec<L::Key>> {
        let prefix = self.prefix(Some(bucket))?;
        let end = prefix_end(&prefix);
        let mut rows = self.txn.remove(&bucket).unwrap_or_default();
        let below = [Some(&self.settled), self.frozen.as_deref()];
        for layer in below.into_iter().flatten() {
            for (key, row) in layer.get(&bucket).into_iter().flatten() {
                if !rows.contains_key(key) {
                    rows.insert(key.clone(), Entry::of(row.value.clone(), row.stored));
                }
            }
        }
        for row in base.range(&prefix, &end, false)? {
            let (bytes, value) = row?;
            let (_, key) = self.decode_key(&bytes)?;
            if let hash_map::Entry::Vacant(vacant) = rows.entry(key) {
                let decoded = self.layout.decode_value(&value);
                let decoded = decoded.map_err(|e| damaged(self.name, &e))?;
                let stored = (RowHash::of(&bytes, &value), len(&bytes, &value));
                vacant.insert(Entry::of(Some(decoded), Some(stored)));
            }
        }
        let mut keys: Vec<L::Key> =
            rows.iter().filter(|(_, e)| e.value.is_some()).map(|(key, _)| key.clone()).collect();
        keys.sort_unstable();
        self.txn.insert(bucket, rows);
        Ok(keys)
    }

    /// What the transaction did not touch of a bucket that was loaded is read again when it is needed.
    pub(crate) fn let_go_of_clean(&mut self, bucket: L::Bucket) {
        let Some(rows) = self.txn.get_mut(&bucket) else { return };
        rows.retain(|_, entry| entry.dirty);
        if rows.is_empty() {
            self.txn.remove(&bucket);
        }
    }

    /// Emits one changelog record per row that is not the committed one any more. Gives the keys of
    /// those rows, in order.
    pub(crate) fn flush(&mut self, cx: &mut Cx<'_, '_>) -> Result<Vec<(L::Bucket, L::Key)>> {
        self.flushed = self.committed_digest;
        let mut changed = Vec::new();
        if !self.dirty {
            return Ok(changed);
        }
        let route = Route::Partition(self.partition);
        let (output, timestamp) = (self.changelog, cx.clock);
        for (&bucket, rows) in &mut self.txn {
            let mut dirty: Vec<_> = rows.iter_mut().filter(|(_, entry)| entry.dirty).collect();
            dirty.sort_unstable_by_key(|(key, _)| *key);
            for (key, entry) in dirty {
                self.key.clear();
                self.key.extend(self.id.to_be_bytes());
                let encoded = self.layout.encode_key(bucket, key, &mut self.key);
                encoded.map_err(Error::encode(self.name))?;
                let value = match &entry.value {
                    Some(value) => {
                        self.value.clear();
                        let encoded = self.layout.encode_value(value, &mut self.value);
                        encoded.map_err(Error::encode(self.name))?;
                        Some(self.value.as_slice())
                    }
                    None => None,
                };
                entry.flushed = value.map(|v| (RowHash::of(&self.key, v), len(&self.key, v)));
                if !entry.is_changed() {
                    continue;
                }
                self.flushed.replace(entry.before, entry.flushed.map(|(hash, _)| hash));
                let key_bytes = Some(self.key.as_slice());
                cx.out.emit(Outgoing {
                    output,
                    route,
                    timestamp,
                    key: key_bytes,
                    value,
                    headers: &[],
                })?;
                changed.push((bucket, key.clone()));
            }
        }
        Ok(changed)
    }

    /// An entry that [`Overlay::flush`] named.
    pub(crate) fn entry(&self, bucket: L::Bucket, key: &L::Key) -> Option<&Entry<L::Value>> {
        self.txn.get(&bucket)?.get(key)
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// What was flushed is committed: it moves down one layer.
    pub(crate) fn committed(&mut self) {
        self.committed_digest = self.flushed;
        self.dirty = false;
        for (bucket, rows) in std::mem::take(&mut self.txn) {
            let changed = rows.into_iter().filter(|(_, entry)| entry.is_changed());
            for (key, entry) in changed {
                let row = Row { value: entry.value, stored: entry.flushed };
                self.bytes += row.size();
                let old = self.settled.entry(bucket).or_default().insert(key, row);
                self.bytes -= old.map_or(0, |row| row.size());
            }
        }
    }

    /// The open transaction is void.
    pub(crate) fn aborted(&mut self) {
        self.txn.clear();
        self.flushed = self.committed_digest;
        self.dirty = false;
    }

    fn prefix(&self, bucket: Option<L::Bucket>) -> Result<Vec<u8>> {
        let mut prefix = self.id.to_be_bytes().to_vec();
        if let Some(bucket) = bucket {
            let encoded = self.layout.encode_bucket(bucket, &mut prefix);
            encoded.map_err(Error::encode(self.name))?;
        }
        Ok(prefix)
    }

    fn decode_key(&self, bytes: &[u8]) -> Result<(L::Bucket, L::Key)> {
        let own = bytes.get(2..).unwrap_or_default();
        self.layout.decode_key(own).map_err(|e| damaged(self.name, &e))
    }
}

impl<V> Entry<V> {
    fn of(value: Option<V>, stored: Option<(RowHash, u32)>) -> Self {
        let before = stored.map(|(hash, _)| hash);
        Self { value, changed_at: Judged::NEVER, dirty: false, before, flushed: None }
    }
}

impl<V> Row<V> {
    /// About how many bytes the row holds on to: its encoded size and what the maps add.
    fn size(&self) -> usize {
        const MAPS: usize = 96;
        self.stored.map_or(0, |(_, len)| len as usize) + MAPS
    }
}

fn len(key: &[u8], value: &[u8]) -> u32 {
    u32::try_from(key.len() + value.len()).unwrap_or(u32::MAX)
}

/// A stored row that its codec does not read.
fn damaged(store: &str, why: &CodecError) -> Error {
    let what = format!("a row of store {store} is not what was written: {why}");
    Error::State(StateError::Damaged { path: PathBuf::from(store), what })
}

/// A store of a task, without its types.
pub(crate) trait StoreLayers {
    /// The store's id within its task.
    fn id(&self) -> StoreId;
    /// The store's name.
    fn name(&self) -> &'static str;
    /// The digest of the rows as they were flushed last.
    fn digest(&self) -> Digest;
    /// Takes the digest of the rows in the base.
    fn set_digest(&mut self, digest: Digest);
    /// Sets the committed rows aside for a checkpoint. Reads still find them.
    fn freeze(&mut self) -> Arc<dyn FrozenRows>;
    /// The checkpoint failed: its rows are put back, below what was committed since.
    fn thaw(&mut self);
    /// The checkpoint holds them: the frozen rows are let go.
    fn drop_frozen(&mut self);
    /// About how many bytes the committed and the frozen rows hold on to.
    fn bytes(&self) -> usize;
}

impl<L: Layout> StoreLayers for Overlay<L> {
    fn id(&self) -> StoreId {
        self.id
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn digest(&self) -> Digest {
        self.flushed
    }

    fn set_digest(&mut self, digest: Digest) {
        self.committed_digest = digest;
        self.flushed = digest;
    }

    fn freeze(&mut self) -> Arc<dyn FrozenRows> {
        // A checkpoint that was never finished is part of this one.
        self.thaw();
        let rows = Arc::new(std::mem::take(&mut self.settled));
        self.frozen_bytes = std::mem::take(&mut self.bytes);
        self.frozen = Some(Arc::clone(&rows));
        Arc::new(Frozen { layout: Arc::clone(&self.layout), id: self.id, rows })
    }

    fn thaw(&mut self) {
        let Some(frozen) = self.frozen.take() else { return };
        self.frozen_bytes = 0;
        for (&bucket, rows) in frozen.iter() {
            let settled = self.settled.entry(bucket).or_default();
            for (key, row) in rows {
                if !settled.contains_key(key) {
                    let row = Row { value: row.value.clone(), stored: row.stored };
                    self.bytes += row.size();
                    settled.insert(key.clone(), row);
                }
            }
        }
    }

    fn drop_frozen(&mut self) {
        self.frozen = None;
        self.frozen_bytes = 0;
    }

    fn bytes(&self) -> usize {
        self.bytes + self.frozen_bytes
    }
}

/// Rows that were set aside for a checkpoint.
pub(crate) trait FrozenRows: Send + Sync {
    /// The rows as they are stored, in the order of their keys.
    ///
    /// # Errors
    /// When a codec refuses now what it wrote before.
    fn changes(&self) -> Result<Vec<Change>>;
}

struct Frozen<L: Layout> {
    layout: Arc<L>,
    id: StoreId,
    rows: Arc<Layer<L>>,
}

impl<L: Layout> FrozenRows for Frozen<L> {
    fn changes(&self) -> Result<Vec<Change>> {
        // All bytes go into one buffer, of which the rows are slices.
        let mut buffer = Vec::new();
        let mut ends = Vec::new();
        for (&bucket, rows) in &*self.rows {
            for (key, row) in rows {
                buffer.extend(self.id.to_be_bytes());
                let place = || format!("checkpoint of store {}", self.id);
                let refused = |source| Error::Encode { place: place(), source };
                self.layout.encode_key(bucket, key, &mut buffer).map_err(refused)?;
                let key_end = buffer.len();
                if let Some(value) = &row.value {
                    self.layout.encode_value(value, &mut buffer).map_err(refused)?;
                }
                ends.push((key_end, buffer.len(), row.value.is_some()));
            }
        }
        let buffer = Bytes::from(buffer);
        let mut start = 0;
        let mut changes: Vec<Change> = ends
            .into_iter()
            .map(|(key_end, end, is_some)| {
                let key = buffer.slice(start..key_end);
                start = end;
                (key, is_some.then(|| buffer.slice(key_end..end)))
            })
            .collect();
        changes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(changes)
    }
}

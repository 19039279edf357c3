//! The combiner in front of a repartition topic: what one key sends within a commit becomes one record.
//!
//! ```text
//!   a 3   b 1   a 5   a 4   --combine(max)-->   [ a 5, b 1 ]   --commit-->   a 5   b 1   mark of time
//! ```
//!
//! Always true here: what is held was read in the open transaction, so an abort forgets it and reading
//! goes on before it; everything is sent before the marks of time that cover it; keys are sent in the
//! order in which they first came; no more than [`KEYS_MAX`] are held.
//!
//! The idea is the combiner of MapReduce (Dean and Ghemawat, 2004, section 4.3).

use std::collections::{HashMap, hash_map};
use std::hash::Hash;
use std::sync::Arc;

use crate::chain::Out;
use crate::codec::Codec;
use crate::cx::Cx;
use crate::error::Result;
use crate::stage::{End, Operator, Repartition, Visitor};
use crate::time::{Judged, Word};

/// Keys held at once; with one more all are sent. Few enough that the longest lines fit in memory.
const KEYS_MAX: usize = 1000;

/// What is sent of a key.
struct Held<K, V> {
    key: K,
    value: V,
    now: Judged,
}

/// The end of a stream in a repartition topic, with a combiner.
pub(crate) struct Combined<K, V, F, KC, VC> {
    pub(crate) combine: Arc<F>,
    pub(crate) topic: Repartition<KC, VC>,
    /// In the order in which the keys came, and where each is.
    held: Vec<Held<K, V>>,
    places: HashMap<K, usize, foldhash::fast::RandomState>,
}

impl<K, V, F, KC, VC> Combined<K, V, F, KC, VC>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: 'static,
    KC: Codec<K>,
    VC: Codec<V>,
{
    pub(crate) fn new(combine: Arc<F>, topic: Repartition<KC, VC>) -> Self {
        Self { combine, topic, held: Vec::new(), places: HashMap::default() }
    }

    /// Sends everything that is held.
    fn send(&mut self, cx: &mut Cx<'_, '_>) -> Result<()> {
        self.places.clear();
        if self.held.is_empty() {
            return Ok(());
        }
        // None of them is the record at hand: its headers are not theirs.
        let (record, now, late) = (cx.record.take(), cx.now, cx.late_by_ms.take());
        let sent = self.held.drain(..).try_for_each(|Held { key, value, now }| {
            cx.now = now;
            self.topic.push(key, value, cx)
        });
        (cx.record, cx.now, cx.late_by_ms) = (record, now, late);
        sent
    }
}

impl<K, V, F, KC, VC> Out<K, V> for Combined<K, V, F, KC, VC>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Send + 'static,
    F: Fn(&mut V, V) + Send + Sync + 'static,
    KC: Codec<K>,
    VC: Codec<V>,
{
    #[inline]
    fn push(&mut self, key: K, value: V, cx: &mut Cx<'_, '_>) -> Result<()> {
        if self.held.len() == KEYS_MAX && !self.places.contains_key(&key) {
            self.send(cx)?;
        }
        match self.places.entry(key) {
            hash_map::Entry::Occupied(place) => {
                let held = &mut self.held[*place.get()];
                (self.combine)(&mut held.value, value);
                // The latest of those that are evidence for time, if one is.
                if (held.now.settled, held.now.time) < (cx.now.settled, cx.now.time) {
                    held.now = cx.now;
                }
            }
            hash_map::Entry::Vacant(place) => {
                self.held.push(Held { key: place.key().clone(), value, now: cx.now });
                place.insert(self.held.len() - 1);
            }
        }
        Ok(())
    }
}

impl<K, V, F, KC, VC> End<K, V> for Combined<K, V, F, KC, VC>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Send + 'static,
    F: Fn(&mut V, V) + Send + Sync + 'static,
    KC: Codec<K>,
    VC: Codec<V>,
{
    fn operators(&mut self, visit: &mut Visitor<'_>) -> Result<()> {
        visit(self)
    }
}

impl<K, V, F, KC, VC> Operator for Combined<K, V, F, KC, VC>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Send + 'static,
    F: Fn(&mut V, V) + Send + Sync + 'static,
    KC: Codec<K>,
    VC: Codec<V>,
{
    fn flush(&mut self, cx: &mut Cx<'_, '_>) -> Result<()> {
        self.send(cx)?;
        self.topic.flush(cx)
    }

    fn is_dirty(&self, word: Word) -> bool {
        !self.held.is_empty() || self.topic.is_dirty(word)
    }

    fn committed(&mut self) {
        self.topic.committed();
    }

    fn aborted(&mut self) {
        self.held.clear();
        self.places.clear();
        self.topic.aborted();
    }
}

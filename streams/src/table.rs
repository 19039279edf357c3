//! Tables: one row per key, made from a stream; and streams made from their changes.
//!
//! ```text
//!   stream --count | aggregate | to_table--> rows (store + changelog) --changes--> one per key and commit
//! ```
//!
//! Always true here: a change is emitted once per key and commit, with the last value, and not at all
//! when the row is what it was; `None` stands for a deleted key.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::aggregate::{KeyAggregate, KeyLayout};
use crate::chain::{Chain, Decode, Pass, RecordTime, Typed};
use crate::codec::{Codec, Nullable};
use crate::overlay::Overlay;
use crate::stage::{Next, Sink, Slot};
use crate::stream::{
    Builder, ByKey, Partitioned, Place, StateKey, StateValue, Stream, source, writer,
};
use crate::topic::{Store, Topic};

impl Builder {
    /// The latest value per key of a topic; null deletes the key.
    pub fn table<K, V, KC, VC, SKC, SVC>(
        &self,
        topic: &Topic<K, V, KC, VC>,
        store: &Store<K, V, SKC, SVC>,
    ) -> Table<K, V>
    where
        K: StateKey,
        V: StateValue,
        KC: Codec<K>,
        VC: Codec<V>,
        SKC: Codec<K>,
        SVC: Codec<V>,
    {
        let (key, value) = (topic.key.clone(), Nullable(topic.value.clone()));
        let head = Decode { key, value, time: RecordTime, types: PhantomData };
        let changes: Stream<K, Option<V>, ByKey, _> = source(&self.graph, topic, head);
        changes.keyed(store, "table", |_, change, row| {
            *row = change;
            true
        })
    }
}

/// Aggregates by key. Changes are emitted once per key and commit.
impl<K, V, P, C> Stream<K, V, P, C>
where
    K: 'static,
    V: 'static,
    C: Chain<Key = K, Value = V>,
{
    /// How many records each key has had.
    pub fn count<KC, VC>(self, store: &Store<K, u64, KC, VC>) -> Table<K, u64>
    where
        P: Partitioned,
        K: StateKey,
        KC: Codec<K>,
        VC: Codec<u64>,
    {
        self.keyed(store, "count", |_, _, count| {
            *count = Some(count.unwrap_or(0) + 1);
            true
        })
    }

    /// One value per key, made from all its records: `init` makes it, `add` puts a record in.
    pub fn aggregate<A, KC, VC, I, F>(
        self,
        store: &Store<K, A, KC, VC>,
        init: I,
        add: F,
    ) -> Table<K, A>
    where
        P: Partitioned,
        K: StateKey,
        A: StateValue,
        KC: Codec<K>,
        VC: Codec<A>,
        I: Fn() -> A + Send + Sync + 'static,
        F: Fn(&mut A, &K, V) + Send + Sync + 'static,
    {
        self.keyed(store, "aggregate", move |key, value, row| {
            add(row.get_or_insert_with(&init), key, value);
            true
        })
    }

    /// The latest value of each key.
    pub fn to_table<KC, VC>(self, store: &Store<K, V, KC, VC>) -> Table<K, V>
    where
        P: Partitioned,
        K: StateKey,
        V: StateValue,
        KC: Codec<K>,
        VC: Codec<V>,
    {
        self.keyed(store, "to_table", |_, value, row| {
            *row = Some(value);
            true
        })
    }

    /// One value of each key: a new one takes the place of the old one when `wins(new, old)`.
    pub fn to_table_by<KC, VC, F>(self, store: &Store<K, V, KC, VC>, wins: F) -> Table<K, V>
    where
        P: Partitioned,
        K: StateKey,
        V: StateValue,
        KC: Codec<K>,
        VC: Codec<V>,
        F: Fn(&V, &V) -> bool + Send + Sync + 'static,
    {
        self.keyed(store, "to_table_by", move |_, value, row| {
            let put = row.as_ref().is_none_or(|old| wins(&value, old));
            if put {
                *row = Some(value);
            }
            put
        })
    }

    pub(crate) fn keyed<A, KC, VC, U>(
        self,
        store: &Store<K, A, KC, VC>,
        operator: &str,
        update: U,
    ) -> Table<K, A>
    where
        K: StateKey,
        A: StateValue,
        KC: Codec<K>,
        VC: Codec<A>,
        U: Fn(&K, V, &mut Option<A>) -> bool + Send + Sync + 'static,
    {
        let place = self.place.stage(&format!("{operator} in store {}", store.name()));
        let shape = format!("by key, {:?}, {:?}", KC::ID, VC::ID);
        let info = place.graph.borrow_mut().store(place.part, store.name(), shape);
        let (key, value) = (store.key.clone(), store.value.clone());
        let layout = Arc::new(KeyLayout { key, value, types: PhantomData });
        let update = Arc::new(update);
        let slot = Slot::new();
        let behind = Arc::clone(&slot);
        self.end(move |setup| KeyAggregate {
            rows: Overlay::new(
                Arc::clone(&layout),
                info.name,
                info.id,
                info.changelog,
                setup.partition,
            ),
            update: Arc::clone(&update),
            changes: Next::grow(&behind, setup),
        });
        Table { place, slot }
    }
}

/// One row per key, kept in a store.
pub struct Table<K: 'static, V: 'static> {
    place: Place,
    slot: Arc<Slot<Typed<K, Option<V>>>>,
}

impl<K: 'static, V: 'static> Table<K, V> {
    /// The changes: the last value of each changed key at every commit, `None` when it was deleted.
    pub fn to_stream(self) -> Stream<K, Option<V>> {
        Stream { place: self.place, slot: self.slot, chain: Pass::new(), types: PhantomData }
    }

    /// Writes the changes to a topic; a deleted key becomes a null value.
    pub fn to<KC, VC>(self, topic: &Topic<K, V, KC, VC>)
    where
        KC: Codec<K>,
        VC: Codec<V>,
    {
        let changes = self.to_stream();
        let _ = changes.place.stage(&format!("to {}", topic.name()));
        let part = changes.place.part;
        let output = changes.place.graph.borrow_mut().topic(part, topic.name(), topic.kind());
        let (key, value) = (topic.key.clone(), Nullable(topic.value.clone()));
        let writer = writer(&Topic::<K, Option<V>, _, _>::with(topic.name(), key, value), output);
        changes.end(move |_| Sink { writer: writer() });
    }
}

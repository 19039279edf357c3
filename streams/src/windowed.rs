//! Streams grouped by key and window of event time, and what is made of them.
//!
//! ```text
//!   stream --window(..)--> WindowedStream --count | aggregate--> WindowedAggregate --emit(OnClose)--> results
//!                                                                        '---------late(..)--------> late records
//! ```
//!
//! Always true here: each result is emitted once; each record is in a result, or late.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::aggregate::{Closed, WindowAggregate, WindowLayout};
use crate::chain::{Chain, Pass, Typed};
use crate::codec::{Codec, Ordered};
use crate::overlay::Overlay;
use crate::stage::{Next, Slot};
use crate::stream::{ByKey, Partitioned, Place, StateKey, StateValue, Stream};
use crate::topic::Store;
use crate::window::{OnClose, Windowed, Windows};

/// Windows of time.
impl<K, V, P, C> Stream<K, V, P, C>
where
    K: 'static,
    V: 'static,
    C: Chain<Key = K, Value = V>,
{
    /// Groups the records by window of their time. `windows` must say how long to wait for late ones.
    pub fn window<W>(self, windows: W) -> WindowedStream<K, V, C, W>
    where
        P: Partitioned,
        W: Windows,
    {
        let Self { place, slot, chain, .. } = self;
        let stream = Stream { place, slot, chain, types: PhantomData };
        WindowedStream { stream, windows }
    }
}

/// A stream whose records are grouped by key and window.
#[must_use = "say what to make of each window: count, aggregate"]
pub struct WindowedStream<K, V, C: Chain, W> {
    stream: Stream<K, V, ByKey, C>,
    windows: W,
}

impl<K, V, C, W> WindowedStream<K, V, C, W>
where
    K: StateKey,
    V: 'static,
    C: Chain<Key = K, Value = V>,
    W: Windows,
    Ordered: Codec<K>,
{
    /// How many records each key has in each window.
    pub fn count<VC>(
        self,
        store: &Store<Windowed<K>, u64, Ordered, VC>,
    ) -> WindowedAggregate<K, V, u64>
    where
        VC: Codec<u64>,
    {
        self.keyed(store, "count", |_, _, count| *count = Some(count.unwrap_or(0) + 1))
    }

    /// One value per key and window, made from their records: `init` makes it, `add` puts a record in.
    pub fn aggregate<A, VC, I, F>(
        self,
        store: &Store<Windowed<K>, A, Ordered, VC>,
        init: I,
        add: F,
    ) -> WindowedAggregate<K, V, A>
    where
        A: StateValue,
        VC: Codec<A>,
        I: Fn() -> A + Send + Sync + 'static,
        F: Fn(&mut A, &K, V) + Send + Sync + 'static,
    {
        self.keyed(store, "aggregate", move |key, value, row| {
            add(row.get_or_insert_with(&init), key, value);
        })
    }

    fn keyed<A, VC, F>(
        self,
        store: &Store<Windowed<K>, A, Ordered, VC>,
        operator: &str,
        add: F,
    ) -> WindowedAggregate<K, V, A>
    where
        A: StateValue,
        VC: Codec<A>,
        F: Fn(&K, V, &mut Option<A>) + Send + Sync + 'static,
    {
        let Self { stream, windows } = self;
        let shape = windows.shape();
        let what = format!("{operator} by {shape} in store {}", store.name());
        let place = stream.place.stage(&what);
        let shape = format!("by {shape}, {:?}, {:?}", <Ordered as Codec<K>>::ID, VC::ID);
        let info = place.graph.borrow_mut().store(place.part, store.name(), shape);
        let layout = Arc::new(WindowLayout { value: store.value.clone(), types: PhantomData });
        let add = Arc::new(add);
        let (results, late) = (Slot::new(), Slot::new());
        let (results_behind, late_behind) = (Arc::clone(&results), Arc::clone(&late));
        stream.end(move |setup| WindowAggregate {
            rows: Overlay::new(
                Arc::clone(&layout),
                info.name,
                info.id,
                info.changelog,
                setup.partition,
            ),
            windows,
            add: Arc::clone(&add),
            closed: Closed::NOTHING,
            committed: Closed::NOTHING,
            emitted: None,
            committed_emitted: None,
            ended: None,
            results: Next::grow(&results_behind, setup),
            late: Next::grow(&late_behind, setup),
        });
        WindowedAggregate { place, results, late }
    }
}

/// One value per key and window. Say when to emit it.
#[must_use = "say when to emit the windows: .emit(OnClose)"]
pub struct WindowedAggregate<K: 'static, V: 'static, A: 'static> {
    place: Place,
    results: Arc<Slot<Typed<Windowed<K>, A>>>,
    late: Arc<Slot<Typed<K, V>>>,
}

impl<K: 'static, V: 'static, A: 'static> WindowedAggregate<K, V, A> {
    /// What to do with records that are too late for their window: they come as they were, with a
    /// header `late.by_ms`. Without this they are counted and dropped.
    pub fn late(self, branch: impl FnOnce(Stream<K, V>)) -> Self {
        let (place, slot) = (self.place.clone(), Arc::clone(&self.late));
        branch(Stream { place, slot, chain: Pass::new(), types: PhantomData });
        self
    }

    /// The results, each once, when its window closes, in the order (end, start, key). Their time is
    /// the last millisecond of the window.
    pub fn emit(self, _when: OnClose) -> Stream<Windowed<K>, A> {
        let Self { place, results, .. } = self;
        Stream { place, slot: results, chain: Pass::new(), types: PhantomData }
    }
}

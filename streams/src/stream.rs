//! Streams of typed records: the stateless operators, and the ways into and out of a pipeline.
//!
//! ```text
//!   b.stream(&T)   .filter(..) .map_values(..)      .select_key(..)          .repartition(&R)
//!   ByKey          ByKey                            Rekeyed                  ByKey
//!                                                   count: does not compile  count: fine
//! ```
//!
//! Always true here: streams are moved, never aliased, so that nothing is computed twice without being
//! written twice (`tee`); equal keys of a `ByKey` stream are in one partition, and the only way from
//! `Rekeyed` back to `ByKey` is a named topic.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use thalweg_core::ids::Timestamp;
use thalweg_core::record::RecordRef;

use crate::chain::{
    Chain, Decode, Encoded, Extracted, Filter, FlatMap, FlatMapValues, Map, MapRecord, MapValues,
    Op, Parse, Pass, Punctuate, RecordTime, SelectKey, Source, Then, UpstreamTime,
};
use crate::codec::Codec;
use crate::combine::Combined;
use crate::cx::{Meta, OutputId, Rec};
use crate::graph::{Graph, SourceInfo};
use crate::stage::{End, Fused, Next, RecordWriter, Repartition, Setup, Sink, Slot, Split, Tee};
use crate::time::{EventTime, OnFuture, TimeSettings, Watermark, WhenIdle};
use crate::topic::Topic;

/// Collects the stages of a pipeline. Made by [`Topology::build`](crate::Topology::build).
pub struct Builder {
    pub(crate) graph: Rc<RefCell<Graph>>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self { graph: Rc::default() }
    }

    /// The records of a topic.
    pub fn stream<K, V, KC, VC>(
        &self,
        topic: &Topic<K, V, KC, VC>,
    ) -> Stream<K, V, ByKey, Decode<K, V, KC, VC, RecordTime>>
    where
        K: 'static,
        V: 'static,
        KC: Codec<K>,
        VC: Codec<V>,
    {
        let (key, value) = (topic.key.clone(), topic.value.clone());
        let head = Decode { key, value, time: RecordTime, types: PhantomData };
        source(&self.graph, topic, head)
    }

    /// What a closure makes of a topic's records, which it sees in place, without a copy: `None`
    /// drops the record, which then moves no time either. Headers that should live on go into the
    /// value.
    ///
    /// ```
    /// use thalweg_core::record::RecordRef;
    /// use thalweg_streams::codec::{Bincode, Json};
    /// use thalweg_streams::{Builder, EventTime, Topic, Topology};
    ///
    /// const LINES: Topic<bytes::Bytes, bytes::Bytes, thalweg_streams::codec::Raw, thalweg_streams::codec::Raw> =
    ///     Topic::raw("lines");
    /// const LENGTHS: Topic<String, usize, Bincode, Json> = Topic::json("lengths");
    ///
    /// fn parse(line: &RecordRef<'_>) -> Option<(String, usize, EventTime)> {
    ///     let file = line.headers.get(b"file")??;
    ///     let file = String::from_utf8_lossy(file).into_owned();
    ///     Some((file, line.value?.len(), EventTime::Unknown))
    /// }
    ///
    /// Topology::build("lengths", |b: &Builder| {
    ///     b.parse(&LINES, parse).to(&LENGTHS);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), thalweg_streams::Error>(())
    /// ```
    pub fn parse<K, V, TK, TV, KC, VC, F>(
        &self,
        topic: &Topic<TK, TV, KC, VC>,
        parse: F,
    ) -> Stream<K, V, Rekeyed, Parse<K, V, F>>
    where
        K: 'static,
        V: 'static,
        KC: Codec<TK>,
        VC: Codec<TV>,
        F: Fn(&RecordRef<'_>) -> Option<(K, V, EventTime)> + Send + Sync + 'static,
    {
        source(&self.graph, topic, Parse { f: parse, types: PhantomData })
    }

    /// What moves time while every input has come to its end. Default: [`WhenIdle::Hold`].
    pub fn when_idle(&self, policy: WhenIdle) {
        self.graph.borrow_mut().when_idle = policy;
    }
}

pub(crate) fn source<K, V, P, C, TK, TV, KC, VC>(
    graph: &Rc<RefCell<Graph>>,
    topic: &Topic<TK, TV, KC, VC>,
    chain: C,
) -> Stream<K, V, P, C>
where
    C: Chain<Input = Encoded>,
    KC: Codec<TK>,
    VC: Codec<TV>,
{
    let (part, slot) = graph.borrow_mut().source(SourceInfo {
        topic: topic.name(),
        kind: topic.kind(),
        codecs: Some((KC::ID, VC::ID)),
        time: TimeSettings::default(),
    });
    let place = Place { graph: Rc::clone(graph), part, stage: 0, operators: String::new() };
    Stream { place, slot, chain, types: PhantomData }
}

/// Equal keys are in one partition.
#[derive(Clone, Copy, Debug)]
pub enum ByKey {}

/// The key was changed: equal keys may be anywhere.
#[derive(Clone, Copy, Debug)]
pub enum Rekeyed {}

/// Streams whose equal keys are in one partition, so that state can be kept by key.
///
/// Counting after the key was changed does not compile, and the compiler says what is missing:
///
/// ```compile_fail,E0277
/// # use thalweg_streams::{Builder, Store, Topic};
/// # const BIDS: Topic<u64, i64> = Topic::new("bids");
/// # const COUNT: Store<i64, u64> = Store::new("count");
/// fn pipeline(b: &Builder) {
///     b.stream(&BIDS).select_key(|_, price| price / 100).count(&COUNT);
///     //                                  call `.repartition(&TOPIC)` first
/// }
/// ```
///
/// ```
/// # use thalweg_streams::{Builder, Store, Topic};
/// # const BIDS: Topic<u64, i64> = Topic::new("bids");
/// # const COUNT: Store<i64, u64> = Store::new("count");
/// const BY_PRICE: Topic<i64, i64> = Topic::internal("bids-by-price");
///
/// fn pipeline(b: &Builder) {
///     b.stream(&BIDS).select_key(|_, price| price / 100).repartition(&BY_PRICE).count(&COUNT);
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "the key of this stream was changed, so equal keys may be in different partitions",
    label = "call `.repartition(&TOPIC)` first"
)]
pub trait Partitioned {}

impl Partitioned for ByKey {}

/// Keys that state can be kept by.
pub trait StateKey: std::hash::Hash + Ord + Clone + Send + Sync + 'static {}

impl<K: std::hash::Hash + Ord + Clone + Send + Sync + 'static> StateKey for K {}

/// Values that state can hold.
pub trait StateValue: Clone + Send + Sync + 'static {}

impl<V: Clone + Send + Sync + 'static> StateValue for V {}

/// Where in the pipeline a stream stands.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) graph: Rc<RefCell<Graph>>,
    pub(crate) part: usize,
    /// The stage that the stream comes from.
    pub(crate) stage: usize,
    /// The operators since, for `describe`.
    pub(crate) operators: String,
}

impl Place {
    fn then(mut self, operator: &str) -> Self {
        if !self.operators.is_empty() {
            self.operators.push_str(" > ");
        }
        self.operators.push_str(operator);
        self
    }

    /// Notes a stage that ends the run of operators; the place behind it.
    pub(crate) fn stage(&self, what: &str) -> Self {
        let mut graph = self.graph.borrow_mut();
        let stage = graph.stage(self.part, self.stage, &self.operators, what);
        let graph = Rc::clone(&self.graph);
        Self { graph, part: self.part, stage, operators: String::new() }
    }
}

/// Records of key `K` and value `V` on their way. `P` says whether equal keys are in one partition;
/// `C` is the run of operators since the last boundary, which the compiler fuses.
#[must_use = "a stream does nothing until it ends in a topic or a table"]
pub struct Stream<K, V, P = ByKey, C: Chain = Pass<K, V>> {
    pub(crate) place: Place,
    pub(crate) slot: Arc<Slot<C::Input>>,
    pub(crate) chain: C,
    pub(crate) types: PhantomData<fn() -> (K, V, P)>,
}

impl<K, V, P, C: Chain> Stream<K, V, P, C> {
    fn then<P2, O>(self, name: &str, op: O) -> Stream<O::Key, O::Value, P2, Then<C, O>>
    where
        O: Op<C::Key, C::Value>,
    {
        let (place, chain) = (self.place.then(name), Then(self.chain, op));
        Stream { place, slot: self.slot, chain, types: PhantomData }
    }
}

/// Operators that keep the key.
impl<K, V, P, C> Stream<K, V, P, C>
where
    K: 'static,
    V: 'static,
    C: Chain<Key = K, Value = V>,
{
    /// Another value under the same key.
    pub fn map_values<V2: 'static, F>(self, f: F) -> Stream<K, V2, P, Then<C, MapValues<F>>>
    where
        F: Fn(&K, V) -> V2 + Send + Sync + 'static,
    {
        self.then("map_values", MapValues(f))
    }

    /// The records for which `keep` holds.
    pub fn filter<F>(self, keep: F) -> Stream<K, V, P, Then<C, Filter<F>>>
    where
        F: Fn(&K, &V) -> bool + Send + Sync + 'static,
    {
        self.then("filter", Filter(keep))
    }

    /// The records for which `drop` does not hold.
    pub fn filter_not<F>(
        self,
        drop: F,
    ) -> Stream<K, V, P, Then<C, Filter<impl Fn(&K, &V) -> bool + Send + Sync + 'static>>>
    where
        F: Fn(&K, &V) -> bool + Send + Sync + 'static,
    {
        self.then("filter_not", Filter(move |key: &K, value: &V| !drop(key, value)))
    }

    /// None, one or several values under the same key.
    pub fn flat_map_values<I, F>(self, f: F) -> Stream<K, I::Item, P, Then<C, FlatMapValues<F>>>
    where
        K: Clone,
        I: IntoIterator<Item: 'static>,
        F: Fn(&K, V) -> I + Send + Sync + 'static,
    {
        self.then("flat_map_values", FlatMapValues(f))
    }

    /// Looks at each record. What `look` does outside of the pipeline is not undone by an abort: it
    /// may see a record again.
    pub fn inspect<F>(
        self,
        look: F,
    ) -> Stream<K, V, P, Then<C, Filter<impl Fn(&K, &V) -> bool + Send + Sync + 'static>>>
    where
        F: Fn(&K, &V) + Send + Sync + 'static,
    {
        let look = move |key: &K, value: &V| {
            look(key, value);
            true
        };
        self.then("inspect", Filter(look))
    }
}

/// Operators that change the key: equal keys may be anywhere afterwards.
impl<K, V, P, C> Stream<K, V, P, C>
where
    K: 'static,
    V: 'static,
    C: Chain<Key = K, Value = V>,
{
    /// Another key and value.
    pub fn map<K2: 'static, V2: 'static, F>(self, f: F) -> Stream<K2, V2, Rekeyed, Then<C, Map<F>>>
    where
        F: Fn(K, V) -> (K2, V2) + Send + Sync + 'static,
    {
        self.then("map", Map(f))
    }

    /// Another key, made from key and value.
    pub fn select_key<K2: 'static, F>(self, f: F) -> Stream<K2, V, Rekeyed, Then<C, SelectKey<F>>>
    where
        F: Fn(&K, &V) -> K2 + Send + Sync + 'static,
    {
        self.then("select_key", SelectKey(f))
    }

    /// None, one or several records of another key and value.
    pub fn flat_map<I, K2, V2, F>(self, f: F) -> Stream<K2, V2, Rekeyed, Then<C, FlatMap<F>>>
    where
        K2: 'static,
        V2: 'static,
        I: IntoIterator<Item = (K2, V2)>,
        F: Fn(K, V) -> I + Send + Sync + 'static,
    {
        self.then("flat_map", FlatMap(f))
    }

    /// Another key and value, with a look at the record's time, headers and origin.
    pub fn map_record<K2, V2, F>(self, f: F) -> Stream<K2, V2, Rekeyed, Then<C, MapRecord<F>>>
    where
        K2: 'static,
        V2: 'static,
        F: Fn(Rec<K, V>, &Meta<'_>) -> (K2, V2) + Send + Sync + 'static,
    {
        self.then("map_record", MapRecord(f))
    }
}

/// Time, right behind the source.
impl<K, V, KC, VC> Stream<K, V, ByKey, Decode<K, V, KC, VC, RecordTime>>
where
    K: 'static,
    V: 'static,
    KC: Codec<K>,
    VC: Codec<V>,
{
    /// Reads the time of records out of key and value: milliseconds since 1970, an `Option` of
    /// them, or an [`EventTime`]. Default: the record's own timestamp.
    pub fn timestamp<T, F>(self, f: F) -> Stream<K, V, ByKey, Decode<K, V, KC, VC, Extracted<F>>>
    where
        T: Into<EventTime>,
        F: Fn(&K, &V) -> T + Send + Sync + 'static,
    {
        let Self { place, slot, chain: Decode { key, value, .. }, .. } = self;
        let chain = Decode { key, value, time: Extracted(f), types: PhantomData };
        Stream { place, slot, chain, types: PhantomData }
    }
}

/// Time, right behind the source.
impl<K: 'static, V: 'static, P, C: Chain> Stream<K, V, P, C> {
    /// How the watermark follows the records. Default: [`Watermark::Ascending`].
    pub fn watermark(self, strategy: Watermark) -> Self
    where
        C: Source,
    {
        self.place.graph.borrow_mut().time(self.place.part).watermark = strategy;
        self
    }

    /// The records say how far time has come: where `f` gives a time, none before it is expected any
    /// more. Their timestamps move nothing.
    pub fn punctuated<F>(self, f: F) -> Stream<K, V, P, Then<C, Punctuate<F>>>
    where
        C: Source + Chain<Key = K, Value = V>,
        F: Fn(&K, &V) -> Option<Timestamp> + Send + Sync + 'static,
    {
        self.watermark(Watermark::Standing).then("punctuated", Punctuate(f))
    }

    /// What happens to records further ahead than `max_ahead`. Default: [`OnFuture::Accept`].
    pub fn on_future(self, policy: OnFuture) -> Self
    where
        C: Source,
    {
        self.place.graph.borrow_mut().time(self.place.part).on_future = policy;
        self
    }

    /// How far ahead of its append a record may claim to be. Default: one hour. A record further
    /// ahead never moves time.
    pub fn max_ahead(self, max_ahead: Duration) -> Self
    where
        C: Source,
    {
        self.place.graph.borrow_mut().time(self.place.part).max_ahead = max_ahead;
        self
    }
}

/// Boundaries.
impl<K, V, P, C> Stream<K, V, P, C>
where
    K: 'static,
    V: 'static,
    C: Chain<Key = K, Value = V>,
{
    /// Ends the run of operators in what `end` makes, once per task.
    pub(crate) fn end<E>(self, end: impl Fn(&Setup) -> E + Send + Sync + 'static)
    where
        E: End<K, V> + 'static,
    {
        let chain = Arc::new(self.chain);
        self.slot.attach(Box::new(move |setup| {
            Box::new(Fused { chain: Arc::clone(&chain), end: end(setup) })
        }));
    }

    /// Writes the stream to a topic. Keys choose the partition by their bytes; the record's time
    /// becomes its timestamp; headers go along.
    pub fn to<KC, VC>(self, topic: &Topic<K, V, KC, VC>)
    where
        KC: Codec<K>,
        VC: Codec<V>,
    {
        let _ = self.place.stage(&format!("to {}", topic.name()));
        let output =
            self.place.graph.borrow_mut().topic(self.place.part, topic.name(), topic.kind());
        let writer = writer(topic, output);
        self.end(move |_| Sink { writer: writer() });
    }

    /// Moves each record to the partition of its key, through a topic of the pipeline's own. What
    /// follows is another subtopology, with tasks of its own; watermarks travel along.
    pub fn repartition<KC, VC>(
        self,
        topic: &Topic<K, V, KC, VC>,
    ) -> Stream<K, V, ByKey, Decode<K, V, KC, VC, UpstreamTime>>
    where
        KC: Codec<K>,
        VC: Codec<V>,
    {
        let _ = self.place.stage(&format!("repartition {}", topic.name()));
        let (graph, ends) = (Rc::clone(&self.place.graph), repartition_ends(&self.place, topic));
        self.end(move |_| ends());
        from_repartition(&graph, topic)
    }

    /// As [`Stream::repartition`], where only a summary of a key's records is wanted: those read in
    /// one transaction are made into one before they are sent. `combine` puts a record into what is
    /// held of its key; the result must not depend on which records are put together first (a sum, a
    /// greatest one), because commits cut the stream anywhere. Headers do not go along; the latest
    /// time does.
    ///
    /// ```
    /// use thalweg_streams::{Builder, Store, Topic, Topology};
    ///
    /// const BIDS: Topic<u64, i64> = Topic::new("bids");
    /// const BY_PRICE: Topic<i64, u64> = Topic::internal("bids-by-price");
    /// const HIGHEST: Store<i64, u64> = Store::new("highest");
    ///
    /// Topology::build("auction", |b: &Builder| {
    ///     b.stream(&BIDS)
    ///         .map(|bidder, price| (price / 100, bidder))
    ///         .repartition_combined(&BY_PRICE, |held, new| *held = new.max(*held))
    ///         .to_table_by(&HIGHEST, |new, old| new > old);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), thalweg_streams::Error>(())
    /// ```
    pub fn repartition_combined<KC, VC, F>(
        self,
        topic: &Topic<K, V, KC, VC>,
        combine: F,
    ) -> Stream<K, V, ByKey, Decode<K, V, KC, VC, UpstreamTime>>
    where
        K: StateKey,
        V: Send,
        KC: Codec<K>,
        VC: Codec<V>,
        F: Fn(&mut V, V) + Send + Sync + 'static,
    {
        let _ = self.place.stage(&format!("combine > repartition {}", topic.name()));
        let (graph, ends) = (Rc::clone(&self.place.graph), repartition_ends(&self.place, topic));
        let combine = Arc::new(combine);
        self.end(move |_| Combined::new(Arc::clone(&combine), ends()));
        from_repartition(&graph, topic)
    }

    /// The same stream with its operators hidden: a boundary of one virtual call per record, and a
    /// type short enough to be written down.
    pub fn boxed(self) -> Stream<K, V, P> {
        let place = self.place.stage("boxed");
        let slot = Slot::new();
        let behind = Arc::clone(&slot);
        self.end(move |setup| Next::grow(&behind, setup));
        Stream { place, slot, chain: Pass::new(), types: PhantomData }
    }

    /// Two equal streams. Each record is cloned once, so keep values cheap to clone.
    pub fn tee(self) -> (Stream<K, V, P>, Stream<K, V, P>)
    where
        K: Clone,
        V: Clone,
    {
        let place = self.place.stage("tee");
        let slot = Slot::new();
        let behind = Arc::clone(&slot);
        self.end(move |setup| Tee { branches: behind.grow(setup) });
        let branch = || Stream {
            place: place.clone(),
            slot: Arc::clone(&slot),
            chain: Pass::new(),
            types: PhantomData,
        };
        (branch(), branch())
    }

    /// One stream per predicate; a record goes to the first whose predicate holds, and is dropped
    /// when none does.
    pub fn split<const N: usize>(
        self,
        predicates: [fn(&K, &V) -> bool; N],
    ) -> [Stream<K, V, P>; N] {
        let place = self.place.stage("split");
        let slots = std::array::from_fn::<_, N, _>(|_| Slot::new());
        let behind = slots.clone();
        self.end(move |setup| Split {
            predicates,
            branches: std::array::from_fn(|i| Next::grow(&behind[i], setup)),
        });
        slots.map(|slot| Stream {
            place: place.clone(),
            slot,
            chain: Pass::new(),
            types: PhantomData,
        })
    }
}

/// What makes the ends of a stream in a repartition topic, one per task.
fn repartition_ends<K, V, KC, VC>(
    place: &Place,
    topic: &Topic<K, V, KC, VC>,
) -> impl Fn() -> Repartition<KC, VC> + Send + Sync + 'static
where
    KC: Codec<K>,
    VC: Codec<V>,
{
    let output = place.graph.borrow_mut().repartition(place.part, topic.name(), topic.kind());
    let writer = writer(topic, output);
    move || Repartition { writer: writer(), committed: None, sent: None }
}

/// The stream behind a repartition topic.
fn from_repartition<K, V, KC, VC>(
    graph: &Rc<RefCell<Graph>>,
    topic: &Topic<K, V, KC, VC>,
) -> Stream<K, V, ByKey, Decode<K, V, KC, VC, UpstreamTime>>
where
    K: 'static,
    V: 'static,
    KC: Codec<K>,
    VC: Codec<V>,
{
    let (key, value) = (topic.key.clone(), topic.value.clone());
    let head = Decode { key, value, time: UpstreamTime, types: PhantomData };
    source(graph, topic, head)
}

/// What makes the encoders of an output, one per task.
pub(crate) fn writer<K, V, KC: Codec<K>, VC: Codec<V>>(
    topic: &Topic<K, V, KC, VC>,
    output: OutputId,
) -> impl Fn() -> RecordWriter<KC, VC> + Send + Sync + 'static {
    let (name, key_codec, value_codec) = (topic.name(), topic.key.clone(), topic.value.clone());
    move || RecordWriter {
        output,
        topic: name,
        key_codec: key_codec.clone(),
        value_codec: value_codec.clone(),
        bytes: Vec::new(),
    }
}

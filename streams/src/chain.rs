//! Runs of stateless operators, fused into one function.
//!
//! ```text
//!   RecordRef --Decode | Parse--> key, value --MapValues--Filter--...--> Out::push(key, value)
//!             \_______________ one monomorphic call tree, inlined _______________/
//! ```
//!
//! Always true here: a chain is a transducer (each operator is given what comes behind it, as a generic
//! type), so a run of operators costs no dynamic call; key and value go from operator to operator as
//! two arguments of a method (a record, or the tuple of a closure's arguments, would be copied at
//! each); everything between decoding and the end is `inline(always)`, so that a value is not written
//! to memory and read back at every boundary (that alone was a sixth of a record's cost); closures are `Fn + Send + Sync`, so nothing hidden in them survives an aborted transaction;
//! one chain serves all tasks.

use std::marker::PhantomData;

use thalweg_core::ids::Timestamp;
use thalweg_core::record::{BACKLOG_HEADER, RecordRef, WATERMARK_HEADER};

use crate::codec::Codec;
use crate::cx::{Cx, Meta, Rec};
use crate::error::{CodecError, Error, Result};
use crate::time::{EventTime, Judged, Mark};

/// The header that a repartition topic gives to records whose time is no evidence for how far time
/// has come.
pub(crate) const UNSETTLED_HEADER: &[u8] = b"__tw.unsettled";

/// What enters a chain.
pub trait Input: 'static {
    /// One item, as borrowed as it can be.
    type Item<'r>;
    /// Several of them.
    type Batch<'r>: IntoIterator<Item = Self::Item<'r>>;
}

/// Records as they lie in a fetched batch: the beginning of a task.
#[derive(Debug)]
pub enum Encoded {}

impl Input for Encoded {
    type Item<'r> = &'r RecordRef<'r>;
    type Batch<'r> = &'r [RecordRef<'r>];
}

/// Records of a stage before: the beginning of a branch.
#[derive(Debug)]
pub struct Typed<K, V>(PhantomData<fn() -> (K, V)>);

impl<K: 'static, V: 'static> Input for Typed<K, V> {
    type Item<'r> = (K, V);
    type Batch<'r> = Vec<(K, V)>;
}

/// What a chain pushes into: the next operator, or the end.
pub trait Out<K, V> {
    /// Takes one record.
    ///
    /// # Errors
    /// Whatever goes wrong with it from here on.
    fn push(&mut self, key: K, value: V, cx: &mut Cx<'_, '_>) -> Result<()>;
}

/// A run of stateless operators. Not object safe by design: `out` is generic, so that everything
/// inlines.
pub trait Chain: Send + Sync + 'static {
    /// What enters.
    type Input: Input;
    /// The key that leaves.
    type Key: 'static;
    /// The value that leaves.
    type Value: 'static;

    /// Sends one item through; each record that leaves is pushed into `out`.
    ///
    /// # Errors
    /// Those of `out`, and of decoding.
    fn push<'r>(
        &self,
        item: <Self::Input as Input>::Item<'r>,
        cx: &mut Cx<'r, '_>,
        out: &mut impl Out<Self::Key, Self::Value>,
    ) -> Result<()>;
}

/// One stateless operator.
pub trait Op<K, V>: Send + Sync + 'static {
    /// The key that leaves.
    type Key: 'static;
    /// The value that leaves.
    type Value: 'static;

    /// Sends one record through; what becomes of it is pushed into `out`.
    ///
    /// # Errors
    /// Those of `out`.
    fn apply(
        &self,
        key: K,
        value: V,
        cx: &mut Cx<'_, '_>,
        out: &mut impl Out<Self::Key, Self::Value>,
    ) -> Result<()>;
}

/// A chain with one more operator.
pub struct Then<C, O>(pub(crate) C, pub(crate) O);

impl<C: Chain, O: Op<C::Key, C::Value>> Chain for Then<C, O> {
    type Input = C::Input;
    type Key = O::Key;
    type Value = O::Value;

    #[inline(always)]
    fn push<'r>(
        &self,
        item: <C::Input as Input>::Item<'r>,
        cx: &mut Cx<'r, '_>,
        out: &mut impl Out<O::Key, O::Value>,
    ) -> Result<()> {
        self.0.push(item, cx, &mut Step { op: &self.1, out })
    }
}

/// An operator with what comes behind it.
struct Step<'a, O, S> {
    op: &'a O,
    out: &'a mut S,
}

impl<K, V, O: Op<K, V>, S: Out<O::Key, O::Value>> Out<K, V> for Step<'_, O, S> {
    #[inline(always)]
    fn push(&mut self, key: K, value: V, cx: &mut Cx<'_, '_>) -> Result<()> {
        self.op.apply(key, value, cx, self.out)
    }
}

/// A chain that nothing was added to yet: time and watermarks are set here, before any operator.
///
/// ```compile_fail,E0277
/// # use thalweg_streams::{Builder, Topic, Watermark};
/// # const BIDS: Topic<u64, i64> = Topic::new("bids");
/// # const OUT: Topic<u64, i64> = Topic::new("out");
/// fn pipeline(b: &Builder) {
///     b.stream(&BIDS).filter(|_, price| *price > 0).watermark(Watermark::Ascending).to(&OUT);
///     //                                            move this call right behind `stream(..)`
/// }
/// ```
///
/// ```
/// # use thalweg_streams::{Builder, Topic, Watermark};
/// # const BIDS: Topic<u64, i64> = Topic::new("bids");
/// # const OUT: Topic<u64, i64> = Topic::new("out");
/// fn pipeline(b: &Builder) {
///     b.stream(&BIDS).watermark(Watermark::Ascending).filter(|_, price| *price > 0).to(&OUT);
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "time is set at the source, before any operator",
    label = "this stream has operators already, or does not begin at a source",
    note = "move this call right behind `stream(..)` or `parse(..)`"
)]
pub trait Source: Chain<Input = Encoded> {}

/// The empty chain: what a branch begins with.
#[derive(Debug)]
pub struct Pass<K, V>(PhantomData<fn() -> (K, V)>);

impl<K, V> Pass<K, V> {
    pub(crate) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<K: 'static, V: 'static> Chain for Pass<K, V> {
    type Input = Typed<K, V>;
    type Key = K;
    type Value = V;

    #[inline(always)]
    fn push<'r>(
        &self,
        (key, value): (K, V),
        cx: &mut Cx<'r, '_>,
        out: &mut impl Out<K, V>,
    ) -> Result<()> {
        out.push(key, value, cx)
    }
}

/// How a decoded record gets its time. What needs neither key nor value is done before they are
/// decoded: between decoding and the first operator nothing should touch memory that the compiler
/// does not know.
pub trait Timing<K, V>: Send + Sync + 'static {
    /// Judges the record's time by its stored timestamp.
    #[doc(hidden)]
    #[inline(always)]
    fn before(&self, record: &RecordRef<'_>, cx: &mut Cx<'_, '_>) {
        let _ = (record, cx);
    }

    /// Judges the record's time by what is in it.
    #[doc(hidden)]
    #[inline(always)]
    fn after(&self, record: &RecordRef<'_>, key: &K, value: &V, cx: &mut Cx<'_, '_>) {
        let _ = (record, key, value, cx);
    }
}

/// The record's own timestamp is its time.
#[derive(Clone, Copy, Debug)]
pub struct RecordTime;

impl<K, V> Timing<K, V> for RecordTime {
    #[inline(always)]
    fn before(&self, record: &RecordRef<'_>, cx: &mut Cx<'_, '_>) {
        // Kafka's "no timestamp" is negative.
        let event = match record.timestamp {
            ..0 => EventTime::Unknown,
            time => EventTime::At(time),
        };
        cx.observe(event, record.timestamp);
    }
}

/// A closure reads the time out of key and value.
#[derive(Clone, Copy, Debug)]
pub struct Extracted<F>(pub(crate) F);

impl<K, V, T, F> Timing<K, V> for Extracted<F>
where
    T: Into<EventTime>,
    F: Fn(&K, &V) -> T + Send + Sync + 'static,
{
    #[inline(always)]
    fn after(&self, record: &RecordRef<'_>, key: &K, value: &V, cx: &mut Cx<'_, '_>) {
        cx.observe((self.0)(key, value).into(), record.timestamp);
    }
}

/// A repartition topic: the time was judged upstream, and marks move it.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamTime;

impl<K, V> Timing<K, V> for UpstreamTime {
    #[inline(always)]
    fn before(&self, record: &RecordRef<'_>, cx: &mut Cx<'_, '_>) {
        cx.time.arrived(cx.input);
        let settled = record.headers.is_empty() || record.headers.get(UNSETTLED_HEADER).is_none();
        cx.now = Judged { time: record.timestamp, settled };
    }
}

impl From<Timestamp> for EventTime {
    fn from(time: Timestamp) -> Self {
        Self::At(time)
    }
}

impl From<Option<Timestamp>> for EventTime {
    fn from(time: Option<Timestamp>) -> Self {
        time.map_or(Self::Unknown, Self::At)
    }
}

/// The head of a chain: bytes become a typed record, and its time is judged.
pub struct Decode<K, V, KC, VC, T> {
    pub(crate) key: KC,
    pub(crate) value: VC,
    pub(crate) time: T,
    pub(crate) types: PhantomData<fn() -> (K, V)>,
}

impl<K, V, KC, VC, T> Chain for Decode<K, V, KC, VC, T>
where
    K: 'static,
    V: 'static,
    KC: Codec<K>,
    VC: Codec<V>,
    T: Timing<K, V>,
{
    type Input = Encoded;
    type Key = K;
    type Value = V;

    #[inline(always)]
    fn push<'r>(
        &self,
        record: &'r RecordRef<'r>,
        cx: &mut Cx<'r, '_>,
        out: &mut impl Out<K, V>,
    ) -> Result<()> {
        if !admit(record, cx) {
            return Ok(());
        }
        cx.headers_go_along = true;
        self.time.before(record, cx);
        let key = match self.key.decode_nullable(record.key) {
            Ok(key) => key,
            Err(source) => return Err(poison(record, cx, source)),
        };
        let value = match self.value.decode_nullable(record.value) {
            Ok(value) => value,
            Err(source) => return Err(poison(record, cx, source)),
        };
        self.time.after(record, &key, &value, cx);
        out.push(key, value, cx)
    }
}

impl<K, V, KC, VC> Source for Decode<K, V, KC, VC, RecordTime>
where
    K: 'static,
    V: 'static,
    KC: Codec<K>,
    VC: Codec<V>,
{
}

impl<K, V, KC, VC, F> Source for Decode<K, V, KC, VC, Extracted<F>>
where
    K: 'static,
    V: 'static,
    KC: Codec<K>,
    VC: Codec<V>,
    Extracted<F>: Timing<K, V>,
{
}

/// The head of a chain that reads records in place: a closure sees the borrowed bytes.
pub struct Parse<K, V, F> {
    pub(crate) f: F,
    pub(crate) types: PhantomData<fn() -> (K, V)>,
}

impl<K, V, F> Chain for Parse<K, V, F>
where
    K: 'static,
    V: 'static,
    F: Fn(&RecordRef<'_>) -> Option<(K, V, EventTime)> + Send + Sync + 'static,
{
    type Input = Encoded;
    type Key = K;
    type Value = V;

    #[inline(always)]
    fn push<'r>(
        &self,
        record: &'r RecordRef<'r>,
        cx: &mut Cx<'r, '_>,
        out: &mut impl Out<K, V>,
    ) -> Result<()> {
        if !admit(record, cx) {
            return Ok(());
        }
        // The closure took the record apart: what it wants to keep of the headers is in the value.
        cx.headers_go_along = false;
        let Some((key, value, event)) = (self.f)(record) else {
            cx.time.arrived(cx.input);
            return Ok(());
        };
        cx.observe(event, record.timestamp);
        out.push(key, value, cx)
    }
}

impl<K, V, F> Source for Parse<K, V, F>
where
    K: 'static,
    V: 'static,
    F: Fn(&RecordRef<'_>) -> Option<(K, V, EventTime)> + Send + Sync + 'static,
{
}

/// Looks at a record before it is decoded; says whether it is data. Marker records (null key, null
/// value, a header that the log keeps for itself) move time and are never seen by operators.
#[inline]
fn admit<'r>(record: &'r RecordRef<'r>, cx: &mut Cx<'r, '_>) -> bool {
    let may_be_marker =
        record.value.is_none() && record.key.is_none() && !record.headers.is_empty();
    if may_be_marker && is_marker(record, cx) {
        return false;
    }
    cx.record = Some(record);
    cx.counters.records += 1;
    true
}

#[cold]
fn is_marker(record: &RecordRef<'_>, cx: &mut Cx<'_, '_>) -> bool {
    if let Some(value) = record.headers.get(WATERMARK_HEADER.as_bytes()) {
        // A mark that cannot be read is skipped: somebody else's record cannot stop the task.
        if let Some(mark) = value.and_then(Mark::from_bytes) {
            cx.time.mark(cx.input, mark);
        }
        return true;
    }
    match record.headers.get(BACKLOG_HEADER.as_bytes()) {
        Some(value) => {
            match value {
                Some(b"begin") => cx.time.backlog(cx.input, true),
                Some(b"done") => cx.time.backlog(cx.input, false),
                _ => {}
            }
            true
        }
        None => false,
    }
}

#[cold]
fn poison(record: &RecordRef<'_>, cx: &Cx<'_, '_>, source: CodecError) -> Error {
    let (topic, partition) = (cx.topic.to_owned(), cx.partition);
    Error::Record { topic, partition, offset: record.offset, source }
}

/// `map`: another key and value.
pub struct Map<F>(pub(crate) F);

impl<F, K, V, K2, V2> Op<K, V> for Map<F>
where
    K2: 'static,
    V2: 'static,
    F: Fn(K, V) -> (K2, V2) + Send + Sync + 'static,
{
    type Key = K2;
    type Value = V2;

    #[inline(always)]
    fn apply(
        &self,
        key: K,
        value: V,
        cx: &mut Cx<'_, '_>,
        out: &mut impl Out<K2, V2>,
    ) -> Result<()> {
        let (key, value) = (self.0)(key, value);
        out.push(key, value, cx)
    }
}

/// `map_values`: another value, which may depend on the key.
pub struct MapValues<F>(pub(crate) F);

impl<F, K, V, V2> Op<K, V> for MapValues<F>
where
    K: 'static,
    V2: 'static,
    F: Fn(&K, V) -> V2 + Send + Sync + 'static,
{
    type Key = K;
    type Value = V2;

    #[inline(always)]
    fn apply(
        &self,
        key: K,
        value: V,
        cx: &mut Cx<'_, '_>,
        out: &mut impl Out<K, V2>,
    ) -> Result<()> {
        let value = (self.0)(&key, value);
        out.push(key, value, cx)
    }
}

/// `select_key`: another key.
pub struct SelectKey<F>(pub(crate) F);

impl<F, K, V, K2> Op<K, V> for SelectKey<F>
where
    V: 'static,
    K2: 'static,
    F: Fn(&K, &V) -> K2 + Send + Sync + 'static,
{
    type Key = K2;
    type Value = V;

    #[inline(always)]
    fn apply(
        &self,
        key: K,
        value: V,
        cx: &mut Cx<'_, '_>,
        out: &mut impl Out<K2, V>,
    ) -> Result<()> {
        out.push((self.0)(&key, &value), value, cx)
    }
}

/// `map_record`: another key and value, with a look at time and origin.
pub struct MapRecord<F>(pub(crate) F);

impl<F, K, V, K2, V2> Op<K, V> for MapRecord<F>
where
    K2: 'static,
    V2: 'static,
    F: Fn(Rec<K, V>, &Meta<'_>) -> (K2, V2) + Send + Sync + 'static,
{
    type Key = K2;
    type Value = V2;

    #[inline(always)]
    fn apply(
        &self,
        key: K,
        value: V,
        cx: &mut Cx<'_, '_>,
        out: &mut impl Out<K2, V2>,
    ) -> Result<()> {
        let rec = Rec { key, value, time: cx.now.time };
        let (key, value) = (self.0)(rec, &cx.meta());
        out.push(key, value, cx)
    }
}

/// `filter`: some of the records.
pub struct Filter<F>(pub(crate) F);

impl<F, K, V> Op<K, V> for Filter<F>
where
    K: 'static,
    V: 'static,
    F: Fn(&K, &V) -> bool + Send + Sync + 'static,
{
    type Key = K;
    type Value = V;

    #[inline(always)]
    fn apply(&self, key: K, value: V, cx: &mut Cx<'_, '_>, out: &mut impl Out<K, V>) -> Result<()> {
        if (self.0)(&key, &value) { out.push(key, value, cx) } else { Ok(()) }
    }
}

/// `flat_map`: none, one or several records of another key and value.
pub struct FlatMap<F>(pub(crate) F);

impl<F, I, K, V, K2, V2> Op<K, V> for FlatMap<F>
where
    K2: 'static,
    V2: 'static,
    I: IntoIterator<Item = (K2, V2)>,
    F: Fn(K, V) -> I + Send + Sync + 'static,
{
    type Key = K2;
    type Value = V2;

    #[inline(always)]
    fn apply(
        &self,
        key: K,
        value: V,
        cx: &mut Cx<'_, '_>,
        out: &mut impl Out<K2, V2>,
    ) -> Result<()> {
        (self.0)(key, value).into_iter().try_for_each(|(key, value)| out.push(key, value, cx))
    }
}

/// `flat_map_values`: none, one or several values under the same key.
pub struct FlatMapValues<F>(pub(crate) F);

impl<F, I, K, V> Op<K, V> for FlatMapValues<F>
where
    K: Clone + 'static,
    I: IntoIterator<Item: 'static>,
    F: Fn(&K, V) -> I + Send + Sync + 'static,
{
    type Key = K;
    type Value = I::Item;

    #[inline(always)]
    fn apply(
        &self,
        key: K,
        value: V,
        cx: &mut Cx<'_, '_>,
        out: &mut impl Out<K, I::Item>,
    ) -> Result<()> {
        (self.0)(&key, value).into_iter().try_for_each(|value| out.push(key.clone(), value, cx))
    }
}

/// `punctuated`: the record says how far time has come, after it went through.
pub struct Punctuate<F>(pub(crate) F);

impl<F, K, V> Op<K, V> for Punctuate<F>
where
    K: 'static,
    V: 'static,
    F: Fn(&K, &V) -> Option<Timestamp> + Send + Sync + 'static,
{
    type Key = K;
    type Value = V;

    #[inline(always)]
    fn apply(&self, key: K, value: V, cx: &mut Cx<'_, '_>, out: &mut impl Out<K, V>) -> Result<()> {
        let reached = (self.0)(&key, &value);
        out.push(key, value, cx)?;
        if let Some(watermark) = reached {
            cx.time.punctuate(cx.input, watermark);
        }
        Ok(())
    }
}

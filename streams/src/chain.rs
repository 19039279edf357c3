//! Runs of stateless operators, fused into one function.
//!
//! ```text
//!   RecordRef --Decode | Parse--> Rec<K, V> --MapValues--Filter--...--> out(Rec<K2, V2>)
//!             \_______________ one monomorphic call tree, inlined _______________/
//! ```
//!
//! Always true here: a chain is a transducer (each operator wraps the one before it and calls `out`
//! as a generic closure), so a run of operators costs no dynamic call; closures are
//! `Fn + Send + Sync`, so nothing hidden in them survives an aborted transaction; one chain serves all
//! tasks.

use std::marker::PhantomData;

use thalweg_core::ids::Timestamp;
use thalweg_core::record::{BACKLOG_HEADER, Headers, RecordRef, WATERMARK_HEADER};

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
}

/// Records as they lie in a fetched batch: the beginning of a task.
#[derive(Debug)]
pub enum Encoded {}

impl Input for Encoded {
    type Item<'r> = RecordRef<'r>;
}

/// Records of a stage before: the beginning of a branch.
#[derive(Debug)]
pub struct Typed<K, V>(PhantomData<fn() -> (K, V)>);

impl<K: 'static, V: 'static> Input for Typed<K, V> {
    type Item<'r> = Rec<K, V>;
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

    /// Sends one item through, calling `out` for each record that leaves.
    ///
    /// # Errors
    /// Those of `out`, and of decoding.
    fn push<'r, 't>(
        &self,
        item: <Self::Input as Input>::Item<'r>,
        cx: &mut Cx<'r, 't>,
        out: &mut impl FnMut(Rec<Self::Key, Self::Value>, &mut Cx<'r, 't>) -> Result<()>,
    ) -> Result<()>;
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

    #[inline]
    fn push<'r, 't>(
        &self,
        item: Rec<K, V>,
        cx: &mut Cx<'r, 't>,
        out: &mut impl FnMut(Rec<K, V>, &mut Cx<'r, 't>) -> Result<()>,
    ) -> Result<()> {
        out(item, cx)
    }
}

/// How a decoded record gets its time.
pub trait Timing<K, V>: Send + Sync + 'static {
    /// Judges the record's time, and moves time by it.
    #[doc(hidden)]
    fn judge(&self, record: &RecordRef<'_>, key: &K, value: &V, cx: &mut Cx<'_, '_>) -> Judgement;
}

/// What [`Timing::judge`] found.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Judgement(pub(crate) Judged);

/// The record's own timestamp is its time.
#[derive(Clone, Copy, Debug)]
pub struct RecordTime;

impl<K, V> Timing<K, V> for RecordTime {
    #[inline]
    fn judge(&self, record: &RecordRef<'_>, _: &K, _: &V, cx: &mut Cx<'_, '_>) -> Judgement {
        // Kafka's "no timestamp" is negative.
        let event = match record.timestamp {
            ..0 => EventTime::Unknown,
            time => EventTime::At(time),
        };
        Judgement(cx.observe(event, record.timestamp))
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
    #[inline]
    fn judge(&self, record: &RecordRef<'_>, key: &K, value: &V, cx: &mut Cx<'_, '_>) -> Judgement {
        Judgement(cx.observe((self.0)(key, value).into(), record.timestamp))
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

/// A repartition topic: the time was judged upstream, and marks move it.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamTime;

impl<K, V> Timing<K, V> for UpstreamTime {
    #[inline]
    fn judge(&self, record: &RecordRef<'_>, _: &K, _: &V, cx: &mut Cx<'_, '_>) -> Judgement {
        cx.time.arrived(cx.input);
        let settled = record.headers.is_empty() || record.headers.get(UNSETTLED_HEADER).is_none();
        Judgement(Judged { time: record.timestamp, settled })
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

    #[inline]
    fn push<'r, 't>(
        &self,
        record: RecordRef<'r>,
        cx: &mut Cx<'r, 't>,
        out: &mut impl FnMut(Rec<K, V>, &mut Cx<'r, 't>) -> Result<()>,
    ) -> Result<()> {
        if !admit(&record, cx) {
            return Ok(());
        }
        cx.headers = record.headers;
        let decoded = self.key.decode_nullable(record.key).and_then(|key| {
            let value = self.value.decode_nullable(record.value)?;
            Ok((key, value))
        });
        let (key, value) = decoded.map_err(|source| poison(&record, cx, source))?;
        let Judgement(Judged { time, settled }) = self.time.judge(&record, &key, &value, cx);
        out(Rec { key, value, time, settled }, cx)
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

    #[inline]
    fn push<'r, 't>(
        &self,
        record: RecordRef<'r>,
        cx: &mut Cx<'r, 't>,
        out: &mut impl FnMut(Rec<K, V>, &mut Cx<'r, 't>) -> Result<()>,
    ) -> Result<()> {
        if !admit(&record, cx) {
            return Ok(());
        }
        // The closure took the record apart: what it wants to keep of the headers is in the value.
        cx.headers = Headers::default();
        let Some((key, value, event)) = (self.f)(&record) else {
            cx.time.arrived(cx.input);
            return Ok(());
        };
        let Judged { time, settled } = cx.observe(event, record.timestamp);
        out(Rec { key, value, time, settled }, cx)
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
fn admit<'r>(record: &RecordRef<'r>, cx: &mut Cx<'r, '_>) -> bool {
    if record.value.is_none() && record.key.is_none() && !record.headers.is_empty() {
        return !is_marker(record, cx);
    }
    cx.record = Some(*record);
    cx.counters.records += 1;
    true
}

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
        None => {
            cx.counters.records += 1;
            false
        }
    }
}

#[cold]
fn poison(record: &RecordRef<'_>, cx: &Cx<'_, '_>, source: CodecError) -> Error {
    let (topic, partition) = (cx.topic.to_owned(), cx.partition);
    Error::Record { topic, partition, offset: record.offset, source }
}

/// `map`: another key and value.
pub struct Map<C, F>(pub(crate) C, pub(crate) F);

impl<C, F, K, V> Chain for Map<C, F>
where
    C: Chain,
    K: 'static,
    V: 'static,
    F: Fn(C::Key, C::Value) -> (K, V) + Send + Sync + 'static,
{
    type Input = C::Input;
    type Key = K;
    type Value = V;

    #[inline]
    fn push<'r, 't>(
        &self,
        item: <C::Input as Input>::Item<'r>,
        cx: &mut Cx<'r, 't>,
        out: &mut impl FnMut(Rec<K, V>, &mut Cx<'r, 't>) -> Result<()>,
    ) -> Result<()> {
        self.0.push(item, cx, &mut |Rec { key, value, time, settled }, cx: &mut Cx<'r, 't>| {
            let (key, value) = (self.1)(key, value);
            out(Rec { key, value, time, settled }, cx)
        })
    }
}

/// `map_values`: another value, which may depend on the key.
pub struct MapValues<C, F>(pub(crate) C, pub(crate) F);

impl<C, F, V> Chain for MapValues<C, F>
where
    C: Chain,
    V: 'static,
    F: Fn(&C::Key, C::Value) -> V + Send + Sync + 'static,
{
    type Input = C::Input;
    type Key = C::Key;
    type Value = V;

    #[inline]
    fn push<'r, 't>(
        &self,
        item: <C::Input as Input>::Item<'r>,
        cx: &mut Cx<'r, 't>,
        out: &mut impl FnMut(Rec<C::Key, V>, &mut Cx<'r, 't>) -> Result<()>,
    ) -> Result<()> {
        self.0.push(item, cx, &mut |Rec { key, value, time, settled }, cx: &mut Cx<'r, 't>| {
            let value = (self.1)(&key, value);
            out(Rec { key, value, time, settled }, cx)
        })
    }
}

/// `map_record`: another key and value, with a look at time and origin.
pub struct MapRecord<C, F>(pub(crate) C, pub(crate) F);

impl<C, F, K, V> Chain for MapRecord<C, F>
where
    C: Chain,
    K: 'static,
    V: 'static,
    F: Fn(Rec<C::Key, C::Value>, &Meta<'_>) -> (K, V) + Send + Sync + 'static,
{
    type Input = C::Input;
    type Key = K;
    type Value = V;

    #[inline]
    fn push<'r, 't>(
        &self,
        item: <C::Input as Input>::Item<'r>,
        cx: &mut Cx<'r, 't>,
        out: &mut impl FnMut(Rec<K, V>, &mut Cx<'r, 't>) -> Result<()>,
    ) -> Result<()> {
        self.0.push(item, cx, &mut |rec, cx: &mut Cx<'r, 't>| {
            let (time, settled) = (rec.time, rec.settled);
            let (key, value) = (self.1)(rec, &cx.meta());
            out(Rec { key, value, time, settled }, cx)
        })
    }
}

/// `filter`: some of the records.
pub struct Filter<C, F>(pub(crate) C, pub(crate) F);

impl<C, F> Chain for Filter<C, F>
where
    C: Chain,
    F: Fn(&C::Key, &C::Value) -> bool + Send + Sync + 'static,
{
    type Input = C::Input;
    type Key = C::Key;
    type Value = C::Value;

    #[inline]
    fn push<'r, 't>(
        &self,
        item: <C::Input as Input>::Item<'r>,
        cx: &mut Cx<'r, 't>,
        out: &mut impl FnMut(Rec<C::Key, C::Value>, &mut Cx<'r, 't>) -> Result<()>,
    ) -> Result<()> {
        self.0.push(item, cx, &mut |rec, cx: &mut Cx<'r, 't>| {
            if (self.1)(&rec.key, &rec.value) { out(rec, cx) } else { Ok(()) }
        })
    }
}

/// `flat_map`: none, one or several records of another key and value.
pub struct FlatMap<C, F>(pub(crate) C, pub(crate) F);

impl<C, F, I, K, V> Chain for FlatMap<C, F>
where
    C: Chain,
    K: 'static,
    V: 'static,
    I: IntoIterator<Item = (K, V)>,
    F: Fn(C::Key, C::Value) -> I + Send + Sync + 'static,
{
    type Input = C::Input;
    type Key = K;
    type Value = V;

    #[inline]
    fn push<'r, 't>(
        &self,
        item: <C::Input as Input>::Item<'r>,
        cx: &mut Cx<'r, 't>,
        out: &mut impl FnMut(Rec<K, V>, &mut Cx<'r, 't>) -> Result<()>,
    ) -> Result<()> {
        self.0.push(item, cx, &mut |Rec { key, value, time, settled }, cx: &mut Cx<'r, 't>| {
            for (key, value) in (self.1)(key, value) {
                out(Rec { key, value, time, settled }, cx)?;
            }
            Ok(())
        })
    }
}

/// `flat_map_values`: none, one or several values under the same key.
pub struct FlatMapValues<C, F>(pub(crate) C, pub(crate) F);

impl<C, F, I, V> Chain for FlatMapValues<C, F>
where
    C: Chain,
    C::Key: Clone,
    V: 'static,
    I: IntoIterator<Item = V>,
    F: Fn(&C::Key, C::Value) -> I + Send + Sync + 'static,
{
    type Input = C::Input;
    type Key = C::Key;
    type Value = V;

    #[inline]
    fn push<'r, 't>(
        &self,
        item: <C::Input as Input>::Item<'r>,
        cx: &mut Cx<'r, 't>,
        out: &mut impl FnMut(Rec<C::Key, V>, &mut Cx<'r, 't>) -> Result<()>,
    ) -> Result<()> {
        self.0.push(item, cx, &mut |Rec { key, value, time, settled }, cx: &mut Cx<'r, 't>| {
            for value in (self.1)(&key, value) {
                out(Rec { key: key.clone(), value, time, settled }, cx)?;
            }
            Ok(())
        })
    }
}

/// `punctuated`: the record says how far time has come, after it went through.
pub struct Punctuate<C, F>(pub(crate) C, pub(crate) F);

impl<C, F> Chain for Punctuate<C, F>
where
    C: Chain,
    F: Fn(&C::Key, &C::Value) -> Option<Timestamp> + Send + Sync + 'static,
{
    type Input = C::Input;
    type Key = C::Key;
    type Value = C::Value;

    #[inline]
    fn push<'r, 't>(
        &self,
        item: <C::Input as Input>::Item<'r>,
        cx: &mut Cx<'r, 't>,
        out: &mut impl FnMut(Rec<C::Key, C::Value>, &mut Cx<'r, 't>) -> Result<()>,
    ) -> Result<()> {
        self.0.push(item, cx, &mut |rec, cx: &mut Cx<'r, 't>| {
            let reached = (self.1)(&rec.key, &rec.value);
            out(rec, cx)?;
            if let Some(watermark) = reached {
                cx.time.punctuate(cx.input, watermark);
            }
            Ok(())
        })
    }
}

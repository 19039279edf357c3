//! The boundaries of a subtopology: where fused chains begin, end and fan out.
//!
//! ```text
//!   run(batch)            one virtual call per batch
//!      |
//!   Fused { chain, Tee }                                   Decode + filter + map, inlined
//!                  |---> Fused { chain, Sink }             one virtual call per record and branch
//!                  |---> Fused { chain, Repartition }
//!                  '---> Fused { chain, WindowAggregate } ---> Fused { chain, Sink }   (results)
//!                                                     '-----> Fused { chain, Sink }   (late records)
//! ```
//!
//! Always true here: a node owns what is behind it, so that a task is one tree with one owner and no
//! locks; operators are visited parents first, so that what one emits when it closes or is flushed
//! reaches the next before that one closes or is flushed.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use thalweg_core::record::{Headers, WATERMARK_HEADER};

use crate::chain::{Chain, Input, Out, Typed, UNSETTLED_HEADER};
use crate::codec::Codec;
use crate::cx::{Cx, Emit, Outgoing, OutputId, Route};
use crate::error::{Error, Result};
use crate::overlay::StoreLayers;
use crate::time::{Mark, Word};

/// A place that takes items: the rest of a subtopology from here on.
pub(crate) trait Node<I: Input>: Send {
    /// Takes one item.
    ///
    /// # Errors
    /// What went wrong with it; the transaction must be aborted.
    fn push<'r>(&mut self, item: I::Item<'r>, cx: &mut Cx<'r, '_>) -> Result<()>;

    /// Takes a batch: the loop is compiled into the node, so that only this call is virtual.
    ///
    /// # Errors
    /// Those of [`Node::push`].
    fn run<'r>(&mut self, batch: I::Batch<'r>, cx: &mut Cx<'r, '_>) -> Result<()> {
        for item in batch {
            self.push(item, cx)?;
        }
        Ok(())
    }

    /// Visits the operators that keep something, from here on, parents first.
    ///
    /// # Errors
    /// The visitor's first.
    fn operators(&mut self, visit: &mut Visitor<'_>) -> Result<()>;
}

/// The end of a chain.
pub(crate) trait End<K, V>: Out<K, V> + Send {
    /// Visits the operators that keep something, from here on, parents first.
    ///
    /// # Errors
    /// The visitor's first.
    fn operators(&mut self, visit: &mut Visitor<'_>) -> Result<()>;
}

/// Sees the operators of a task one by one.
pub(crate) type Visitor<'v> = dyn FnMut(&mut dyn Operator) -> Result<()> + 'v;

/// A node that keeps something between records.
pub(crate) trait Operator {
    /// A batch is over: emit what time closed, about [`Cx::at_once`] rows of it. Says whether more is left.
    ///
    /// # Errors
    /// Those of emitting and of the state.
    fn close(&mut self, cx: &mut Cx<'_, '_>) -> Result<bool> {
        let _ = cx;
        Ok(false)
    }

    /// There is no more input for now: emit what is open, about [`Cx::at_once`] rows of it, beginning with
    /// what time closed. Says whether anything was, or is left: what operators behind make of it when it is
    /// flushed comes before their own end.
    ///
    /// # Errors
    /// Those of emitting and of the state.
    fn end_of_input(&mut self, cx: &mut Cx<'_, '_>) -> Result<bool> {
        let _ = cx;
        Ok(false)
    }

    /// Whether time may have closed what was not emitted.
    fn is_closing(&self) -> bool {
        false
    }

    /// The transaction is about to commit: emit changes held back, and changelog records.
    ///
    /// # Errors
    /// Those of emitting and encoding.
    fn flush(&mut self, cx: &mut Cx<'_, '_>) -> Result<()>;

    /// Whether [`Operator::flush`] would emit anything; `word` is what [`Cx::word`] will say.
    fn is_dirty(&self, word: Word) -> bool;

    /// What was flushed is committed.
    fn committed(&mut self);

    /// Everything since the last commit is void.
    fn aborted(&mut self);

    /// The store, if there is one.
    fn store(&mut self) -> Option<&mut dyn StoreLayers> {
        None
    }

    /// What the meta record keeps beside the rows; empty for nothing.
    fn save(&self) -> Bytes {
        Bytes::new()
    }

    /// Takes back what [`Operator::save`] gave; `None` when it is not that.
    fn load(&mut self, saved: &[u8]) -> Option<()> {
        saved.is_empty().then_some(())
    }
}

/// Which task a tree of nodes is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) partition: u32,
}

type Factory<I> = Box<dyn Fn(&Setup) -> Box<dyn Node<I>> + Send + Sync>;

/// Where the rest of a pipeline is attached while it is built; every task grows its own from it.
pub(crate) struct Slot<I: Input> {
    branches: Mutex<Vec<Factory<I>>>,
}

impl<I: Input> Slot<I> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { branches: Mutex::new(Vec::new()) })
    }

    pub(crate) fn attach(&self, factory: Factory<I>) {
        self.branches.lock().push(factory);
    }

    pub(crate) fn grow(&self, setup: &Setup) -> Vec<Box<dyn Node<I>>> {
        let branches = self.branches.lock();
        branches.iter().map(|factory| factory(setup)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.branches.lock().len()
    }
}

/// A chain and its end, compiled into one.
pub(crate) struct Fused<C, E> {
    pub(crate) chain: Arc<C>,
    pub(crate) end: E,
}

impl<C: Chain, E: End<C::Key, C::Value>> Node<C::Input> for Fused<C, E> {
    #[inline(always)]
    fn push<'r>(&mut self, item: <C::Input as Input>::Item<'r>, cx: &mut Cx<'r, '_>) -> Result<()> {
        self.chain.push(item, cx, &mut self.end)
    }

    fn operators(&mut self, visit: &mut Visitor<'_>) -> Result<()> {
        self.end.operators(visit)
    }
}

/// Branches that all get each record; no branch drops it.
pub(crate) struct Tee<K, V> {
    pub(crate) branches: Vec<Box<dyn Node<Typed<K, V>>>>,
}

impl<K: Clone + 'static, V: Clone + 'static> Out<K, V> for Tee<K, V> {
    #[inline(always)]
    fn push(&mut self, key: K, value: V, cx: &mut Cx<'_, '_>) -> Result<()> {
        let Some((last, others)) = self.branches.split_last_mut() else { return Ok(()) };
        for branch in others {
            branch.push((key.clone(), value.clone()), cx)?;
        }
        last.push((key, value), cx)
    }
}

impl<K: Clone + 'static, V: Clone + 'static> End<K, V> for Tee<K, V> {
    fn operators(&mut self, visit: &mut Visitor<'_>) -> Result<()> {
        self.branches.iter_mut().try_for_each(|branch| branch.operators(visit))
    }
}

/// At most one branch: what a boundary has.
pub(crate) struct Next<K, V> {
    pub(crate) branch: Option<Box<dyn Node<Typed<K, V>>>>,
}

impl<K: 'static, V: 'static> Next<K, V> {
    pub(crate) fn grow(slot: &Slot<Typed<K, V>>, setup: &Setup) -> Self {
        Self { branch: slot.grow(setup).pop() }
    }
}

impl<K: 'static, V: 'static> Out<K, V> for Next<K, V> {
    #[inline(always)]
    fn push(&mut self, key: K, value: V, cx: &mut Cx<'_, '_>) -> Result<()> {
        match &mut self.branch {
            Some(branch) => branch.push((key, value), cx),
            None => Ok(()),
        }
    }
}

impl<K: 'static, V: 'static> End<K, V> for Next<K, V> {
    fn operators(&mut self, visit: &mut Visitor<'_>) -> Result<()> {
        self.branch.iter_mut().try_for_each(|branch| branch.operators(visit))
    }
}

/// Branches of which the first whose predicate holds gets the record; without one it is dropped.
pub(crate) struct Split<K, V, const N: usize> {
    pub(crate) predicates: [fn(&K, &V) -> bool; N],
    pub(crate) branches: [Next<K, V>; N],
}

impl<K: 'static, V: 'static, const N: usize> Out<K, V> for Split<K, V, N> {
    #[inline(always)]
    fn push(&mut self, key: K, value: V, cx: &mut Cx<'_, '_>) -> Result<()> {
        match self.predicates.iter().position(|holds| holds(&key, &value)) {
            Some(i) => self.branches[i].push(key, value, cx),
            None => Ok(()),
        }
    }
}

impl<K: 'static, V: 'static, const N: usize> End<K, V> for Split<K, V, N> {
    fn operators(&mut self, visit: &mut Visitor<'_>) -> Result<()> {
        self.branches.iter_mut().try_for_each(|branch| branch.operators(visit))
    }
}

/// The end of a stream in a topic.
pub(crate) struct Sink<KC, VC> {
    pub(crate) writer: RecordWriter<KC, VC>,
}

impl<K, V, KC, VC> Out<K, V> for Sink<KC, VC>
where
    K: 'static,
    V: 'static,
    KC: Codec<K>,
    VC: Codec<V>,
{
    #[inline(always)]
    fn push(&mut self, key: K, value: V, cx: &mut Cx<'_, '_>) -> Result<()> {
        self.writer.write(&key, &value, false, cx)
    }
}

impl<K, V, KC, VC> End<K, V> for Sink<KC, VC>
where
    K: 'static,
    V: 'static,
    KC: Codec<K>,
    VC: Codec<V>,
{
    fn operators(&mut self, _visit: &mut Visitor<'_>) -> Result<()> {
        Ok(())
    }
}

/// The end of a stream in a repartition topic, which also tells the tasks behind it what time it is.
pub(crate) struct Repartition<KC, VC> {
    pub(crate) writer: RecordWriter<KC, VC>,
    /// The last mark that was committed, and the last that was sent.
    pub(crate) committed: Option<Mark>,
    pub(crate) sent: Option<Mark>,
}

impl<K, V, KC, VC> Out<K, V> for Repartition<KC, VC>
where
    K: 'static,
    V: 'static,
    KC: Codec<K>,
    VC: Codec<V>,
{
    #[inline(always)]
    fn push(&mut self, key: K, value: V, cx: &mut Cx<'_, '_>) -> Result<()> {
        self.writer.write(&key, &value, !cx.now.settled, cx)
    }
}

impl<K, V, KC, VC> End<K, V> for Repartition<KC, VC>
where
    K: 'static,
    V: 'static,
    KC: Codec<K>,
    VC: Codec<V>,
{
    fn operators(&mut self, visit: &mut Visitor<'_>) -> Result<()> {
        visit(self)
    }
}

impl<KC: Send, VC: Send> Operator for Repartition<KC, VC> {
    /// Marks come after the records that they cover, in the same transaction, to every partition: a
    /// filter that drops everything must not freeze time behind it.
    fn flush(&mut self, cx: &mut Cx<'_, '_>) -> Result<()> {
        let Some(mark) = cx.word().after(self.sent) else { return Ok(()) };
        cx.out.emit(Outgoing {
            output: self.writer.output,
            route: Route::Every,
            timestamp: cx.clock,
            key: None,
            value: None,
            headers: &[(WATERMARK_HEADER.as_bytes(), Some(&mark.to_bytes()))],
        })?;
        self.sent = Some(mark);
        Ok(())
    }

    fn is_dirty(&self, word: Word) -> bool {
        word.after(self.sent).is_some()
    }

    fn committed(&mut self) {
        self.committed = self.sent;
    }

    fn aborted(&mut self) {
        self.sent = self.committed;
    }
}

/// Encodes typed records into an output.
pub(crate) struct RecordWriter<KC, VC> {
    pub(crate) output: OutputId,
    pub(crate) topic: &'static str,
    pub(crate) key_codec: KC,
    pub(crate) value_codec: VC,
    pub(crate) bytes: Vec<u8>,
}

impl<KC, VC> RecordWriter<KC, VC> {
    #[inline(always)]
    pub(crate) fn write<K, V>(
        &mut self,
        key: &K,
        value: &V,
        unsettled: bool,
        cx: &mut Cx<'_, '_>,
    ) -> Result<()>
    where
        KC: Codec<K>,
        VC: Codec<V>,
    {
        // One buffer for both: their ends are known without looking at it again.
        self.bytes.clear();
        let has_key = !self.key_codec.is_null(key);
        if has_key {
            let encoded = self.key_codec.encode(key, &mut self.bytes);
            encoded.map_err(Error::encode(self.topic))?;
        }
        let key_end = self.bytes.len();
        let has_value = !self.value_codec.is_null(value);
        if has_value {
            let encoded = self.value_codec.encode(value, &mut self.bytes);
            encoded.map_err(Error::encode(self.topic))?;
        }
        let (key, value) = self.bytes.split_at(key_end);
        let record = Outgoing {
            output: self.output,
            route: if has_key { Route::Key } else { Route::Any },
            timestamp: cx.now.time,
            key: has_key.then_some(key),
            value: has_value.then_some(value),
            headers: &[],
        };
        let along = cx.headers();
        if along.is_empty() && !unsettled && cx.late_by_ms.is_none() {
            return cx.out.emit(record);
        }
        with_headers(record, along, unsettled, cx.late_by_ms, cx.out)
    }
}

/// Emits a record with the headers it came with, and those that say something about its time.
fn with_headers(
    record: Outgoing<'_>,
    along: Headers<'_>,
    unsettled: bool,
    late_by_ms: Option<i64>,
    out: &mut dyn Emit,
) -> Result<()> {
    let late = late_by_ms.map(|ms| ms.to_string());
    let mut headers = Vec::with_capacity(along.len() + 2);
    headers.extend(along.iter().filter(|(key, _)| !key.starts_with(b"__tw.")));
    if unsettled {
        headers.push((UNSETTLED_HEADER, None));
    }
    if let Some(late) = &late {
        headers.push((b"late.by_ms", Some(late.as_bytes())));
    }
    out.emit(Outgoing { headers: &headers, ..record })
}

//! The two stateful operators: one row per key, and one row per key and window.
//!
//! ```text
//!                        closed_upto                       a record's window:
//!   ---[ w ][ w ][ w ]-------|---[ w ][ w ]---> time         ends at or before closed_upto   late
//!      emitted, deleted           open                       was emitted at an end of input  late
//!                                                            otherwise                       counted
//! ```
//!
//! Always true here:
//! - `closed_upto` decides lateness for every key, rises with the watermark record by record, never
//!   falls, and is committed with the rows; so what is late before a crash is late after it, and a
//!   grace that was changed in between reopens nothing.
//! - At the end of a batch no row of a window at or before `closed_upto` is left, or the operator is
//!   closing: then a task emits the rest, some windows and a commit at a time, before it takes another
//!   record of its input or tells anybody how far its time has come. So what a jump of time closes, or
//!   the end of a long input, needs no more memory than one part of it; and a commit in the middle leaves
//!   what `closed_upto` says is closed to the next owner, which finds the rows that are left.
//! - Each window of a key is emitted once. The end of input emits all that is open, but raises
//!   `closed_upto` only to the end of the last window that holds a settled record (a time of its own,
//!   not ahead of its append); a window emitted beyond it leaves a row that makes what comes for that
//!   window and key late.

use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use thalweg_core::ids::Timestamp;

use crate::chain::Out;
use crate::codec::{Codec, Ordered};
use crate::cx::Cx;
use crate::error::{CodecError, Result};
use crate::overlay::{Layout, Overlay, StoreLayers};
use crate::stage::{End, Next, Operator, Visitor};
use crate::time::{Judged, NEVER, Word};
use crate::window::{Span, Windowed, Windows};

/// Rows by key, all in one bucket.
pub(crate) struct KeyLayout<K, A, KC, VC> {
    pub(crate) key: KC,
    pub(crate) value: VC,
    pub(crate) types: PhantomData<fn() -> (K, A)>,
}

impl<K, A, KC, VC> Layout for KeyLayout<K, A, KC, VC>
where
    K: Hash + Ord + Clone + Send + Sync + 'static,
    A: Clone + Send + Sync + 'static,
    KC: Codec<K>,
    VC: Codec<A>,
{
    type Bucket = ();
    type Key = K;
    type Value = A;

    fn encode_bucket(&self, (): (), _out: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(())
    }

    fn encode_key(&self, (): (), key: &K, out: &mut Vec<u8>) -> Result<(), CodecError> {
        self.key.encode(key, out)
    }

    fn decode_key(&self, bytes: &[u8]) -> Result<((), K), CodecError> {
        Ok(((), self.key.decode(bytes)?))
    }

    fn encode_value(&self, value: &A, out: &mut Vec<u8>) -> Result<(), CodecError> {
        self.value.encode(value, out)
    }

    fn decode_value(&self, bytes: &[u8]) -> Result<A, CodecError> {
        self.value.decode(bytes)
    }
}

/// One row per key; changes go on once per key and commit.
pub(crate) struct KeyAggregate<L: Layout<Bucket = ()>, U> {
    pub(crate) rows: Overlay<L>,
    /// Puts a record into its key's row; says whether that changed it.
    pub(crate) update: Arc<U>,
    pub(crate) changes: Next<L::Key, Option<L::Value>>,
}

impl<L, V, U> Out<L::Key, V> for KeyAggregate<L, U>
where
    L: Layout<Bucket = ()>,
    L::Key: 'static,
    L::Value: 'static,
    V: 'static,
    U: Fn(&L::Key, V, &mut Option<L::Value>) -> bool + Send + Sync,
{
    fn push(&mut self, key: L::Key, value: V, cx: &mut Cx<'_, '_>) -> Result<()> {
        let update = &self.update;
        self.rows.update((), &key, cx.base, |entry| {
            if update(&key, value, &mut entry.value) {
                entry.touch(cx.now);
            }
        })
    }
}

impl<L, V, U> End<L::Key, V> for KeyAggregate<L, U>
where
    L: Layout<Bucket = ()>,
    L::Key: 'static,
    L::Value: 'static,
    V: 'static,
    U: Fn(&L::Key, V, &mut Option<L::Value>) -> bool + Send + Sync,
{
    fn operators(&mut self, visit: &mut Visitor<'_>) -> Result<()> {
        visit(self)?;
        self.changes.operators(visit)
    }
}

impl<L, U> Operator for KeyAggregate<L, U>
where
    L: Layout<Bucket = ()>,
    L::Key: 'static,
    L::Value: 'static,
    U: Send + Sync,
{
    fn flush(&mut self, cx: &mut Cx<'_, '_>) -> Result<()> {
        let changed = self.rows.flush(cx)?;
        if self.changes.branch.is_none() {
            return Ok(());
        }
        for ((), key) in changed {
            if let Some(entry) = self.rows.entry((), &key) {
                cx.now = entry.changed_at;
                self.changes.push(key, entry.value.clone(), cx)?;
            }
        }
        Ok(())
    }

    fn is_dirty(&self, _word: Word) -> bool {
        self.rows.is_dirty()
    }

    fn committed(&mut self) {
        self.rows.committed();
    }

    fn aborted(&mut self) {
        self.rows.aborted();
    }

    fn store(&mut self) -> Option<&mut dyn StoreLayers> {
        Some(&mut self.rows)
    }
}

/// A row of a windowed store.
#[derive(Clone, Debug)]
pub(crate) enum WindowRow<A> {
    /// The window was emitted at the end of input although time had not come that far. The row
    /// stands for "late" until time has.
    Emitted,
    /// The window is open.
    Open(A),
}

/// Rows by window: `end, start, key`, ordered; the value behind a byte that says which row it is.
pub(crate) struct WindowLayout<K, A, VC> {
    pub(crate) value: VC,
    pub(crate) types: PhantomData<fn() -> (K, A)>,
}

impl<K, A, VC> Layout for WindowLayout<K, A, VC>
where
    K: Hash + Ord + Clone + Send + Sync + 'static,
    A: Clone + Send + Sync + 'static,
    VC: Codec<A>,
    Ordered: Codec<K>,
{
    type Bucket = Span;
    type Key = K;
    type Value = WindowRow<A>;

    fn encode_bucket(&self, bucket: Span, out: &mut Vec<u8>) -> Result<(), CodecError> {
        Codec::<(i64, i64)>::encode(&Ordered, &(bucket.end, bucket.start), out)
    }

    fn encode_key(&self, bucket: Span, key: &K, out: &mut Vec<u8>) -> Result<(), CodecError> {
        self.encode_bucket(bucket, out)?;
        Ordered.encode(key, out)
    }

    fn decode_key(&self, bytes: &[u8]) -> Result<(Span, K), CodecError> {
        let (bucket, key) = bytes
            .split_at_checked(16)
            .ok_or_else(|| CodecError::new("ordered", "too short for a window"))?;
        let (end, start) = Codec::<(i64, i64)>::decode(&Ordered, bucket)?;
        Ok((Span { end, start }, Ordered.decode(key)?))
    }

    fn encode_value(&self, value: &WindowRow<A>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        match value {
            WindowRow::Emitted => {
                out.push(0);
                Ok(())
            }
            WindowRow::Open(value) => {
                out.push(1);
                self.value.encode(value, out)
            }
        }
    }

    fn decode_value(&self, bytes: &[u8]) -> Result<WindowRow<A>, CodecError> {
        match bytes.split_first() {
            Some((0, [])) => Ok(WindowRow::Emitted),
            Some((1, value)) => self.value.decode(value).map(WindowRow::Open),
            _ => Err(CodecError::new("window", "neither an open window nor an emitted one")),
        }
    }
}

/// How far windows are closed: what the meta record keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Closed {
    /// Windows that end here or before are closed.
    upto: Timestamp,
    /// The end of the last window that holds a settled record.
    settled_end: Timestamp,
}

impl Closed {
    pub(crate) const NOTHING: Self = Self { upto: NEVER, settled_end: NEVER };
}

/// What was emitted at once.
struct Part {
    /// The last window of it, when there are more.
    more_after: Option<Span>,
    /// Whether there was a result.
    any: bool,
}

/// One row per key and window; results go on when windows close, late records at once.
pub(crate) struct WindowAggregate<K, V, A, W, VC, F>
where
    WindowLayout<K, A, VC>: Layout<Bucket = Span, Key = K, Value = WindowRow<A>>,
{
    pub(crate) rows: Overlay<WindowLayout<K, A, VC>>,
    pub(crate) windows: W,
    /// Puts a record into its window's aggregate.
    pub(crate) add: Arc<F>,
    pub(crate) closed: Closed,
    pub(crate) committed: Closed,
    /// How far windows that time closed were emitted, and were at the last commit; `None`: look from the
    /// first row on.
    pub(crate) emitted: Option<Span>,
    pub(crate) committed_emitted: Option<Span>,
    /// How far an end of input has come with the windows beyond, since the last record.
    pub(crate) ended: Option<Span>,
    pub(crate) results: Next<Windowed<K>, A>,
    pub(crate) late: Next<K, V>,
}

impl<K, V, A, W, VC, F> WindowAggregate<K, V, A, W, VC, F>
where
    K: Hash + Ord + Clone + Send + Sync + 'static,
    V: 'static,
    A: Clone + Send + Sync + 'static,
    W: Windows,
    VC: Codec<A>,
    Ordered: Codec<K>,
{
    /// Closes what the watermark has passed by the grace.
    #[inline]
    fn raise(&mut self, cx: &Cx<'_, '_>) {
        let watermark = cx.time.watermark();
        if watermark != NEVER {
            let reached = watermark.saturating_sub(self.windows.grace_ms());
            self.closed.upto = self.closed.upto.max(reached);
        }
    }

    #[cold]
    fn too_late(&mut self, key: K, value: V, end: Timestamp, cx: &mut Cx<'_, '_>) -> Result<()> {
        cx.counters.late += 1;
        let by = self.closed.upto.max(end).saturating_sub(cx.now.time);
        cx.late_by_ms = Some(by);
        let pushed = self.late.push(key, value, cx);
        cx.late_by_ms = None;
        pushed
    }

    /// Emits the rows of windows behind `after` and up to `upto`, in the order (end, start, key). A window
    /// beyond `closed.upto` leaves rows that say that it was emitted. Whole windows, but about
    /// [`Cx::at_once`] rows.
    fn emit(
        &mut self,
        mut after: Option<Span>,
        upto: Timestamp,
        cx: &mut Cx<'_, '_>,
    ) -> Result<Part> {
        let (mut left, mut any) = (cx.at_once, false);
        while let Some(span) = self.rows.next_bucket(after, |b| b.end <= upto, cx.base)? {
            if left == 0 {
                return Ok(Part { more_after: after, any });
            }
            let stays_closed = span.end <= self.closed.upto;
            let now = Judged { time: span.end - 1, settled: stays_closed };
            for key in self.rows.load_bucket(span, cx.base)? {
                left = left.saturating_sub(1);
                let row = self.rows.update(span, &key, cx.base, |entry| {
                    let after = match &entry.value {
                        _ if stays_closed => None,
                        Some(WindowRow::Emitted) => return None,
                        _ => Some(WindowRow::Emitted),
                    };
                    entry.touch(now);
                    std::mem::replace(&mut entry.value, after)
                })?;
                if let Some(WindowRow::Open(value)) = row {
                    any = true;
                    cx.counters.windows_closed += 1;
                    cx.now = now;
                    self.results.push(span.with(key), value, cx)?;
                }
            }
            self.rows.let_go_of_clean(span);
            after = Some(span);
        }
        Ok(Part { more_after: None, any })
    }
}

impl<K, V, A, W, VC, F> Out<K, V> for WindowAggregate<K, V, A, W, VC, F>
where
    K: Hash + Ord + Clone + Send + Sync + 'static,
    V: 'static,
    A: Clone + Send + Sync + 'static,
    W: Windows,
    VC: Codec<A>,
    F: Fn(&K, V, &mut Option<A>) + Send + Sync,
    Ordered: Codec<K>,
{
    fn push(&mut self, key: K, value: V, cx: &mut Cx<'_, '_>) -> Result<()> {
        self.raise(cx);
        self.ended = None;
        let (start, end) = self.windows.window(cx.now.time);
        if end <= self.closed.upto {
            return self.too_late(key, value, end, cx);
        }
        let add = &self.add;
        // The value comes back when its window was emitted already.
        let refused = self.rows.update(Span { end, start }, &key, cx.base, |entry| {
            let mut aggregate = match entry.value.take() {
                Some(WindowRow::Emitted) => {
                    entry.value = Some(WindowRow::Emitted);
                    return Some(value);
                }
                Some(WindowRow::Open(aggregate)) => Some(aggregate),
                None => None,
            };
            add(&key, value, &mut aggregate);
            entry.value = aggregate.map(WindowRow::Open);
            entry.touch(cx.now);
            None
        })?;
        if let Some(value) = refused {
            return self.too_late(key, value, end, cx);
        }
        if cx.now.settled {
            self.closed.settled_end = self.closed.settled_end.max(end);
        }
        Ok(())
    }
}

impl<K, V, A, W, VC, F> End<K, V> for WindowAggregate<K, V, A, W, VC, F>
where
    K: Hash + Ord + Clone + Send + Sync + 'static,
    V: 'static,
    A: Clone + Send + Sync + 'static,
    W: Windows,
    VC: Codec<A>,
    F: Fn(&K, V, &mut Option<A>) + Send + Sync,
    Ordered: Codec<K>,
{
    fn operators(&mut self, visit: &mut Visitor<'_>) -> Result<()> {
        visit(self)?;
        self.late.operators(visit)?;
        self.results.operators(visit)
    }
}

impl<K, V, A, W, VC, F> Operator for WindowAggregate<K, V, A, W, VC, F>
where
    K: Hash + Ord + Clone + Send + Sync + 'static,
    V: 'static,
    A: Clone + Send + Sync + 'static,
    W: Windows,
    VC: Codec<A>,
    F: Fn(&K, V, &mut Option<A>) + Send + Sync,
    Ordered: Codec<K>,
{
    fn close(&mut self, cx: &mut Cx<'_, '_>) -> Result<bool> {
        self.raise(cx);
        if !self.is_closing() {
            return Ok(false);
        }
        let Part { more_after, .. } = self.emit(self.emitted, self.closed.upto, cx)?;
        self.emitted = more_after.or(Some(Span::last(self.closed.upto)));
        Ok(more_after.is_some())
    }

    fn end_of_input(&mut self, cx: &mut Cx<'_, '_>) -> Result<bool> {
        self.raise(cx);
        self.closed.upto = self.closed.upto.max(self.closed.settled_end);
        if self.is_closing() {
            return self.close(cx).map(|_| true);
        }
        let Part { more_after, any } =
            self.emit(self.ended.or(self.emitted), Timestamp::MAX, cx)?;
        self.ended = more_after.or(Some(Span::last(Timestamp::MAX)));
        Ok(more_after.is_some() || any)
    }

    fn is_closing(&self) -> bool {
        let upto = self.closed.upto;
        upto != NEVER && self.emitted.is_none_or(|emitted| emitted < Span::last(upto))
    }

    fn flush(&mut self, cx: &mut Cx<'_, '_>) -> Result<()> {
        self.rows.flush(cx).map(drop)
    }

    fn is_dirty(&self, _word: Word) -> bool {
        self.rows.is_dirty() || self.closed != self.committed
    }

    fn committed(&mut self) {
        self.rows.committed();
        self.committed = self.closed;
        self.committed_emitted = self.emitted;
    }

    fn aborted(&mut self) {
        self.rows.aborted();
        self.closed = self.committed;
        self.emitted = self.committed_emitted;
        self.ended = None;
    }

    fn store(&mut self) -> Option<&mut dyn StoreLayers> {
        Some(&mut self.rows)
    }

    fn save(&self) -> Bytes {
        let Closed { upto, settled_end } = self.closed;
        Bytes::from([upto.to_be_bytes(), settled_end.to_be_bytes()].concat())
    }

    fn load(&mut self, saved: &[u8]) -> Option<()> {
        let (upto, rest) = saved.split_first_chunk()?;
        let (settled_end, []) = rest.split_first_chunk()? else { return None };
        self.closed = Closed {
            upto: Timestamp::from_be_bytes(*upto),
            settled_end: Timestamp::from_be_bytes(*settled_end),
        };
        self.committed = self.closed;
        // Its last owner may not have come to the end of what it closed.
        self.emitted = None;
        self.committed_emitted = None;
        Some(())
    }
}

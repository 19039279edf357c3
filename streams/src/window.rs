//! Windows of event time: which one a record falls into, and what their results are keyed by.
//!
//! ```text
//!   Tumbling::of(60 s)      ... [00:00, 00:01) [00:01, 00:02) [00:02, 00:03) ...   by the epoch, UTC
//!   .grace(1 h)             a window closes when the watermark reaches its end + 1 h
//! ```
//!
//! Always true here: a window holds its start and not its end; every timestamp is in exactly one
//! tumbling window; how long to wait for late records is always said, never assumed.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thalweg_core::ids::Timestamp;

use crate::time::millis;

/// A key within a window. Sorts by end, then start, then key: the order in which windows close.
///
/// As text and as bytes its fields come in that order, so that a store of windowed keys is scanned
/// forward when windows close.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Windowed<K> {
    /// The first millisecond after the window.
    pub end: Timestamp,
    /// The first millisecond of the window.
    pub start: Timestamp,
    /// The key.
    pub key: K,
}

/// A window: sorts by end, then start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Span {
    pub(crate) end: Timestamp,
    pub(crate) start: Timestamp,
}

impl Span {
    /// Behind every window that ends at `end`, before every one that ends later.
    pub(crate) fn last(end: Timestamp) -> Self {
        Self { end, start: Timestamp::MAX }
    }

    pub(crate) fn with<K>(self, key: K) -> Windowed<K> {
        Windowed { end: self.end, start: self.start, key }
    }
}

/// Windows of equal size, side by side. Say how long to wait for late records before using them.
///
/// ```
/// use std::time::Duration;
/// use thalweg_streams::Tumbling;
///
/// let minutes = Tumbling::of(Duration::from_secs(60)).grace(Duration::from_secs(5));
/// # let _ = minutes;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Tumbling {
    size_ms: i64,
}

impl Tumbling {
    /// Windows of this size, aligned to 1970-01-01 UTC. At least a millisecond.
    pub fn of(size: Duration) -> Self {
        Self { size_ms: millis(size).max(1) }
    }

    /// A window stays open until the watermark is this far past its end.
    pub fn grace(self, grace: Duration) -> Closing<Self> {
        Closing { windows: self, grace_ms: millis(grace) }
    }

    /// A window closes as soon as the watermark reaches its end.
    pub fn no_grace(self) -> Closing<Self> {
        self.grace(Duration::ZERO)
    }
}

/// Windows that it is known when to close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Closing<W> {
    windows: W,
    grace_ms: i64,
}

/// Windows that can be aggregated over.
///
/// ```compile_fail,E0277
/// # use std::time::Duration;
/// # use thalweg_streams::{Builder, OnClose, Store, Topic, Tumbling, Windowed};
/// # const BIDS: Topic<u64, i64> = Topic::new("bids");
/// # const COUNT: Store<Windowed<u64>, u64> = Store::new("count");
/// # const COUNTS: Topic<Windowed<u64>, u64> = Topic::new("counts");
/// fn pipeline(b: &Builder) {
///     let minutes = Tumbling::of(Duration::from_secs(60)); // .grace(..) or .no_grace()
///     b.stream(&BIDS).window(minutes).count(&COUNT).emit(OnClose).to(&COUNTS);
/// }
/// ```
///
/// ```
/// # use std::time::Duration;
/// # use thalweg_streams::{Builder, OnClose, Store, Topic, Tumbling, Windowed};
/// # const BIDS: Topic<u64, i64> = Topic::new("bids");
/// # const COUNT: Store<Windowed<u64>, u64> = Store::new("count");
/// # const COUNTS: Topic<Windowed<u64>, u64> = Topic::new("counts");
/// fn pipeline(b: &Builder) {
///     let minutes = Tumbling::of(Duration::from_secs(60)).no_grace();
///     b.stream(&BIDS).window(minutes).count(&COUNT).emit(OnClose).to(&COUNTS);
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "it is not said how long these windows wait for late records",
    label = "call `.grace(duration)` or `.no_grace()` on the windows"
)]
pub trait Windows: Copy + Send + Sync + 'static {
    /// The window of a timestamp: start and end.
    fn window(&self, time: Timestamp) -> (Timestamp, Timestamp);
    /// How far past a window's end the watermark must be to close it, in milliseconds.
    fn grace_ms(&self) -> i64;
    /// The windows without their grace, for the topology's hash: changing the grace keeps the state.
    fn shape(&self) -> String;
}

impl Windows for Closing<Tumbling> {
    #[inline]
    fn window(&self, time: Timestamp) -> (Timestamp, Timestamp) {
        let size = self.windows.size_ms;
        let start = time.saturating_sub(time.rem_euclid(size));
        (start, start.saturating_add(size))
    }

    fn grace_ms(&self) -> i64 {
        self.grace_ms
    }

    fn shape(&self) -> String {
        format!("tumbling {} ms", self.windows.size_ms)
    }
}

/// Results are emitted once per window and key, when the window closes. Nothing is ever retracted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OnClose;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timestamp_is_in_one_window() {
        let minutes = Tumbling::of(Duration::from_secs(60)).no_grace();
        let cases = [
            (0, (0, 60_000)),
            (59_999, (0, 60_000)),
            (60_000, (60_000, 120_000)),
            (-1, (-60_000, 0)),
            (-60_000, (-60_000, 0)),
            (i64::MAX, (i64::MAX - i64::MAX % 60_000, i64::MAX)),
        ];
        for (time, window) in cases {
            assert_eq!(minutes.window(time), window, "{time}");
        }
    }
}

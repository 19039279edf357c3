//! Topics and stores as typed constants: name, key, value and how both are written.
//!
//! ```
//! use thalweg_streams::codec::{Bincode, Json};
//! use thalweg_streams::{Store, Topic, Windowed};
//!
//! const BIDS: Topic<u64, i64> = Topic::new("bids");
//! const ALERTS: Topic<u64, String, Bincode, Json> = Topic::json("alerts");
//! const BY_BIDDER: Topic<u64, i64> = Topic::internal("bids-by-bidder");
//! const BID_COUNT: Store<Windowed<u64>, u64> = Store::new("bid-count");
//! assert_eq!((BIDS.name(), BID_COUNT.name()), ("bids", "bid-count"));
//! # let _ = (ALERTS, BY_BIDDER);
//! ```
//!
//! ```compile_fail,E0308
//! # use thalweg_streams::{Builder, Topic};
//! # const BIDS: Topic<u64, i64> = Topic::new("bids");
//! const NAMES: Topic<u64, String> = Topic::new("names");
//!
//! fn pipeline(b: &Builder) {
//!     b.stream(&BIDS).to(&NAMES); // the values are numbers
//! }
//! ```
//!
//! Always true here: constants own no heap memory; one constant serves source, sink, repartition,
//! query and test, so that a key, value or codec that does not fit does not compile.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;

use crate::codec::{Bincode, Json, Ordered, Raw};

/// Whose a topic is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TopicKind {
    /// Anybody's: other programs may write and read it.
    External,
    /// The pipeline's own: written by one `.repartition`, read by one stage.
    Internal,
}

/// A topic: its name, and how keys and values are written.
pub struct Topic<K, V, KC = Bincode, VC = Bincode> {
    name: &'static str,
    kind: TopicKind,
    pub(crate) key: KC,
    pub(crate) value: VC,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Topic<K, V> {
    /// A topic of anybody's, with bincode keys and values.
    pub const fn new(name: &'static str) -> Self {
        Self::with(name, Bincode, Bincode)
    }

    /// A repartition topic: the pipeline's own, with bincode keys and values.
    pub const fn internal(name: &'static str) -> Self {
        Self::internal_with(name, Bincode, Bincode)
    }
}

impl<K, V> Topic<K, V, Bincode, Json> {
    /// A topic of anybody's, with bincode keys and JSON values.
    pub const fn json(name: &'static str) -> Self {
        Self::with(name, Bincode, Json)
    }
}

impl Topic<Bytes, Bytes, Raw, Raw> {
    /// A topic of anybody's whose keys and values are bytes as they are.
    pub const fn raw(name: &'static str) -> Self {
        Self::with(name, Raw, Raw)
    }
}

impl<K, V, KC, VC> Topic<K, V, KC, VC> {
    /// A topic of anybody's, with these codecs.
    pub const fn with(name: &'static str, key: KC, value: VC) -> Self {
        Self { name, kind: TopicKind::External, key, value, types: PhantomData }
    }

    /// A repartition topic with these codecs.
    pub const fn internal_with(name: &'static str, key: KC, value: VC) -> Self {
        Self { name, kind: TopicKind::Internal, key, value, types: PhantomData }
    }

    /// The topic's name in the log.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Whose it is.
    pub const fn kind(&self) -> TopicKind {
        self.kind
    }
}

impl<K, V, KC, VC> fmt::Debug for Topic<K, V, KC, VC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({}, {:?})", self.name, self.kind)
    }
}

/// A store: the state of one operator. Its changelog is the topic `{app}-{store}-changelog`, so that
/// renaming operators never renames state.
///
/// Keys are written by [`Ordered`] unless said otherwise: windowed stores are scanned in the order of
/// their keys, and need it.
pub struct Store<K, V, KC = Ordered, VC = Bincode> {
    name: &'static str,
    pub(crate) key: KC,
    pub(crate) value: VC,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Store<K, V> {
    /// A store with ordered keys and bincode values.
    pub const fn new(name: &'static str) -> Self {
        Self::with(name, Ordered, Bincode)
    }
}

impl<K, V, KC, VC> Store<K, V, KC, VC> {
    /// A store with these codecs.
    pub const fn with(name: &'static str, key: KC, value: VC) -> Self {
        Self { name, key, value, types: PhantomData }
    }

    /// The store's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<K, V, KC, VC> fmt::Debug for Store<K, V, KC, VC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.name)
    }
}

/// The name of a store's changelog topic.
pub fn changelog_name(app: &str, store: &str) -> String {
    format!("{app}-{store}-changelog")
}

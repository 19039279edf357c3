//! Typed stream pipelines with durable state, exactly once, over the log.
//!
//! ```
//! use std::time::Duration;
//!
//! use thalweg_streams::codec::{Bincode, Json};
//! use thalweg_streams::{Builder, OnClose, Result, Store, Topic, Topology, Tumbling, Windowed};
//!
//! const BIDS: Topic<u64, i64> = Topic::new("bids"); // auction, price
//! const BY_PRICE: Topic<i64, u64> = Topic::internal("bids-by-price");
//! const COUNTS: Topic<Windowed<i64>, u64, Bincode, Json> = Topic::json("counts");
//! const COUNT: Store<Windowed<i64>, u64> = Store::new("count");
//!
//! fn pipeline(b: &Builder) -> Result<()> {
//!     b.stream(&BIDS)
//!         .filter(|_, price| *price > 0)
//!         .map(|auction, price| (price / 100, auction)) // another key ...
//!         .repartition(&BY_PRICE) // ... needs a named topic: leave it out, and this does not compile
//!         .window(Tumbling::of(Duration::from_secs(60)).grace(Duration::from_secs(5)))
//!         .count(&COUNT)
//!         .emit(OnClose)
//!         .to(&COUNTS);
//!     Ok(())
//! }
//!
//! let topology = Topology::build("auctions", pipeline)?;
//! assert_eq!(topology.subtopologies().len(), 2);
//! # Ok::<(), thalweg_streams::Error>(())
//! ```
//!
//! The rooms, from the ground up; a file imports only from lower ones:
//!
//! | room | what |
//! |---|---|
//! | [`error`], [`codec`], `text`, [`topic`], [`state`] | values: errors, values <-> bytes, typed names; rows of bytes below a task, and the records that bring them back |
//! | [`time`], `cx` | event time; what surrounds a record on its way |
//! | [`chain`], `overlay`, `stage` | fused operators; typed state; the boundaries between |
//! | [`window`], `aggregate`, `combine` | windows of time; the stateful operators |
//! | `graph`, [`stream`], [`table`], [`windowed`] | the DSL |
//! | [`topology`], [`task`] | the checked pipeline; one subtopology on one partition |
//! | `layout`, `position`, `bring_up` | topics of the application; starting its tasks |
//! | [`worker`], [`app`] | the exactly-once protocol in steps; threads |
//! | [`driver`] | runs a pipeline in a test, with a clock that the test holds |

#![expect(clippy::type_complexity, reason = "operators are fused through their types")]

pub mod error;

pub mod codec;
mod text;
pub mod topic;

pub mod state;

mod cx;
pub mod time;

pub mod chain;
mod overlay;
mod stage;

mod aggregate;
mod combine;
pub mod window;

mod graph;
pub mod stream;
pub mod table;
pub mod windowed;

pub mod task;
pub mod topology;

mod bring_up;
mod layout;
mod position;
pub mod worker;

pub mod app;

pub mod driver;

pub use app::{App, RunningApp, Stats, Stepped};
pub use bring_up::BringUp;
pub use cx::{Counters, Emit, Meta, Outgoing, OutputId, Rec, Route};
pub use error::{CodecError, Error, Result};
pub use stream::{Builder, ByKey, Rekeyed, Stream};
pub use table::Table;
pub use task::{Commit, Consumed, Frozen, Task};
pub use text::Text;
pub use time::{EventTime, OnFuture, Watermark, WhenIdle};
pub use topic::{Store, Topic, TopicKind};
pub use topology::{Output, OutputKind, StoreInfo, Subtopology, Topology};
pub use window::{OnClose, Tumbling, Windowed};
pub use worker::Step;

//! The work that `dsl/4ops` measures: bincode in, four operators, bincode out, no log; by the DSL, and
//! by a loop that a person would write. Shared by the criterion bench and by `log_bench`.

use serde::{Deserialize, Serialize};
use thalweg_core::record::{Headers, RecordRef};
use thalweg_streams::codec::{Bincode, Codec};
use thalweg_streams::state::backend::StateStore;
use thalweg_streams::state::memory::MemoryStore;
use thalweg_streams::{Builder, Emit, Outgoing, Result, Task, Topic, Topology};

/// A bid of the Nexmark benchmark.
#[derive(Clone, Serialize, Deserialize)]
struct Bid {
    auction: u64,
    bidder: u64,
    price: u64,
    channel: String,
    url: String,
    date_time: i64,
}

#[derive(Serialize, Deserialize)]
struct Priced {
    bidder: u64,
    euros: u64,
    channel: String,
    url: String,
    date_time: i64,
}

const BIDS: Topic<u64, Bid> = Topic::new("bids");
const PRICED: Topic<u64, Priced> = Topic::new("priced");
/// Records of one batch.
pub(crate) const RECORDS: usize = 1024;

fn is_cheap(bid: &Bid) -> bool {
    bid.price < 100
}

fn is_internal(bid: &Bid) -> bool {
    bid.channel == "internal"
}

fn priced(bid: Bid) -> Priced {
    let Bid { bidder, price, channel, url, date_time, .. } = bid;
    Priced { bidder, euros: price * 908 / 1000, channel, url, date_time }
}

fn pipeline(b: &Builder) -> Result<()> {
    b.stream(&BIDS)
        .filter_not(|_, bid| is_cheap(bid))
        .filter_not(|_, bid| is_internal(bid))
        .map_values(|_, bid| priced(bid))
        .select_key(|_, priced| priced.bidder)
        .to(&PRICED);
    Ok(())
}

/// Keys and values end to end, as in a batch.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: usize,
}

impl Batch {
    #[inline]
    fn push(&mut self, timestamp: i64, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(&timestamp.to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.records += 1;
    }
}

impl Emit for Batch {
    fn emit(&mut self, record: Outgoing<'_>) -> Result<()> {
        let (key, value) = (record.key.unwrap_or_default(), record.value.unwrap_or_default());
        self.push(record.timestamp, key, value);
        Ok(())
    }
}

/// A batch's keys and values, encoded.
pub(crate) fn input() -> Vec<(Vec<u8>, Vec<u8>)> {
    let bid = |i: u64| Bid {
        auction: 1000 + i % 97,
        bidder: i * 7919 % 10_007,
        price: i * 31 % 5_000,
        channel: if i.is_multiple_of(50) {
            "internal".to_owned()
        } else {
            format!("channel-{}", i % 9)
        },
        url: format!("https://www.nexmark.com/item.htm?query=1&channel_id={i}"),
        date_time: 1_700_000_000_000 + i as i64,
    };
    let encode = |i: u64| {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        Bincode.encode(&(1000 + i % 97), &mut key).expect("a number has bytes");
        Bincode.encode(&bid(i), &mut value).expect("a bid has bytes");
        (key, value)
    };
    (0..RECORDS as u64).map(encode).collect()
}

fn records(input: &[(Vec<u8>, Vec<u8>)]) -> impl Iterator<Item = RecordRef<'_>> {
    input.iter().zip(0..).map(|((key, value), offset)| RecordRef {
        offset,
        timestamp: 1_700_000_000_000 + offset,
        key: Some(key),
        value: Some(value),
        headers: Headers::default(),
    })
}

/// One batch through the pipeline.
pub(crate) fn by_the_dsl(task: &mut Task, input: &[(Vec<u8>, Vec<u8>)], out: &mut Batch) {
    let clock = 1_800_000_000_000;
    task.process(0, records(input), clock, out).expect("these records are well formed");
}

/// One batch through the loop.
pub(crate) fn by_hand(
    input: &[(Vec<u8>, Vec<u8>)],
    scratch: &mut (Vec<u8>, Vec<u8>),
    out: &mut Batch,
) {
    for record in records(input) {
        let key: u64 = Bincode.decode(record.key.unwrap_or_default()).expect("a number");
        let bid: Bid = Bincode.decode(record.value.unwrap_or_default()).expect("a bid");
        std::hint::black_box(key);
        if is_cheap(&bid) || is_internal(&bid) {
            continue;
        }
        let priced = priced(bid);
        scratch.0.clear();
        scratch.1.clear();
        Bincode.encode(&priced.bidder, &mut scratch.0).expect("a number has bytes");
        Bincode.encode(&priced, &mut scratch.1).expect("a bid has bytes");
        out.push(record.timestamp, &scratch.0, &scratch.1);
    }
}

/// The pipeline's task.
pub(crate) fn task() -> Task {
    let topology = Topology::build("bench", pipeline).expect("the pipeline is legal");
    let base = MemoryStore::default().open("bench").expect("memory opens");
    topology.task(0, 0, &|_| 1, base)
}

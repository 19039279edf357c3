//! What is written: every codec, every shape of record, small segments, transactions inside each other,
//! a record under every leader epoch, positions of a group.
//!
//! Always true here: every batch is flushed where it is meant to end; times are given, and lie in the
//! past.

use std::sync::Arc;
use std::time::Duration;

use thalweg_core::Log;
use thalweg_core::batch::BatchBuilder;
use thalweg_core::client::log::{Ack, Membership, NewTopic, OffsetCommit, TopicConfig};
use thalweg_core::client::transaction::{ProducerConfig, TransactionalProducer};
use thalweg_core::config::{Compression, TimestampType};
use thalweg_core::ids::{ProducerIdentity, Timestamp, TopicPartition};

use crate::Outcome;

/// 2023-11-14T22:13:20Z.
const T0: Timestamp = 1_700_000_000_000;
const CODECS: [(&str, Compression); 5] = [
    ("none", Compression::None),
    ("gzip", Compression::Gzip),
    ("snappy", Compression::Snappy),
    ("lz4", Compression::Lz4),
    ("zstd", Compression::Zstd),
];
const BATCH_BYTES: usize = 1 << 20;

type Headers<'a> = [(&'a [u8], Option<&'a [u8]>)];

/// Creates the topics, and writes all but what the other functions write.
pub(crate) async fn everything(log: &Arc<dyn Log>) -> Outcome<()> {
    recent(log).await?;
    for (name, _) in CODECS {
        create(log, &format!("codec-{name}"), 1, TopicConfig::default()).await?;
    }
    let small = TopicConfig { segment_bytes: 1 << 20, ..TopicConfig::default() };
    create(log, "segments", 1, small.clone()).await?;
    create(log, "cut", 1, small.clone()).await?;
    create(log, "many-batches", 1, small).await?;
    for (name, partitions) in [("empty", 1), ("epochs", 1), ("transactions", 2)] {
        create(log, name, partitions, TopicConfig::default()).await?;
    }
    for (name, codec) in CODECS {
        every_shape(log, &format!("codec-{name}"), codec).await?;
    }
    let append_time =
        TopicConfig { timestamp_type: TimestampType::LogAppendTime, ..TopicConfig::default() };
    create(log, "append-time", 1, append_time).await?;
    for (_, codec) in CODECS {
        every_shape(log, "append-time", codec).await?;
    }
    segments(log, "segments", 420).await?;
    segments(log, "cut", 200).await?;
    log.delete_records(&TopicPartition::new("cut", 0), 150).await?;
    many_batches(log).await?;
    positions(log).await
}

/// What is written each time the folder was opened: so that every leader epoch has its batches.
pub(crate) async fn one_life(log: &Arc<dyn Log>, life: usize) -> Outcome<()> {
    let mut writer = Writer::new(log, "epochs", 0, Compression::None).await?;
    for n in 0..3 {
        let time = T0 + 1000 * life as i64 + n;
        writer.push(time, Some(b"life"), Some(format!("{life}/{n}").as_bytes()), &[])?;
        writer.flush().await?;
    }
    transactions(log, life).await
}

/// Begins a transaction in the first partition of `transactions` and one in `codec-lz4`, and leaves them
/// open for as long as the producers are kept.
pub(crate) async fn left_open(log: &Arc<dyn Log>) -> Outcome<Vec<TransactionalProducer>> {
    let mut open = Vec::new();
    for (id, topic, codec) in
        [("open-1", "transactions", Compression::None), ("open-2", "codec-lz4", Compression::Lz4)]
    {
        let mut producer = transactional(log, id, codec).await?;
        producer.begin().await?;
        let slot = producer.slot(&TopicPartition::new(topic, 0));
        for n in 0..3 {
            let value = format!("undecided {n}");
            producer.push(slot, T0 + 70_000 + n, Some(b"open"), Some(value.as_bytes()), &[])?;
        }
        producer.flush().await?;
        let mut plain = Writer::new(log, topic, 0, codec).await?;
        plain.push(T0 + 71_000, None, Some(b"behind it"), &[])?;
        plain.flush().await?;
        open.push(producer);
    }
    Ok(open)
}

async fn create(
    log: &Arc<dyn Log>,
    name: &str,
    partitions: u32,
    config: TopicConfig,
) -> Outcome<()> {
    log.create_topic(&NewTopic { name: name.to_owned(), partitions, config }).await?;
    Ok(())
}

/// One record of now, by the first producer of the folder: a broker that gives out producer ids of its own must
/// not take its first producer for this one. (Producers of records a day old are forgotten by Kafka.)
async fn recent(log: &Arc<dyn Log>) -> Outcome<()> {
    create(log, "recent", 1, TopicConfig::default()).await?;
    let mut writer = Writer::new(log, "recent", 0, Compression::None).await?;
    writer.push(log.now(), None, Some(b"the first one"), &[])?;
    writer.flush().await
}

/// Null and empty keys, values and headers; text, bytes; times that go back; small and large batches.
async fn every_shape(log: &Arc<dyn Log>, topic: &str, codec: Compression) -> Outcome<()> {
    let mut writer = Writer::new(log, topic, 0, codec).await?;
    writer.push(T0, Some(b"alone"), Some(b"in its batch"), &[])?;
    writer.flush().await?;
    let keys = [None, Some(""), Some("key"), Some("schl\u{fc}ssel \"\\\"\n")];
    let values = [None, Some(""), Some("value"), Some("wert \u{1f30d}\t")];
    let some: &Headers<'_> = &[(b"n", Some(b"1")), (b"null", None), (b"n", Some(b""))];
    let bytes: &Headers<'_> = &[(b"", Some(&[0, 0xff, 1]))];
    let mut n = 0;
    for key in keys.map(|key| key.map(str::as_bytes)) {
        for value in values.map(|value| value.map(str::as_bytes)) {
            let headers = [&[], some, bytes][n % 3];
            writer.push(T0 + 1000 - 37 * n as i64, key, value, headers)?;
            n += 1;
        }
    }
    writer.push(0, Some(&[0xfe, 0]), Some(&[0x80]), &[])?;
    writer.flush().await?;
    for n in 0..150 {
        let (key, value) = (format!("large-{n}"), format!("line {n} of many; ").repeat(64));
        let time = T0 + 2000 + (n % 7) * 5_000_000;
        writer.push(time, Some(key.as_bytes()), Some(value.as_bytes()), &[])?;
    }
    writer.flush().await
}

/// Batches of some 8 KiB, an index entry each; every tenth is a quarter of a minute late.
async fn segments(log: &Arc<dyn Log>, topic: &str, batches: i64) -> Outcome<()> {
    let mut writer = Writer::new(log, topic, 0, Compression::None).await?;
    for n in 0..batches {
        let late = if n % 10 == 9 { 15_000 } else { 0 };
        let value = format!("the value of batch {n}. ").repeat(330);
        let key = format!("batch-{n}");
        writer.push(T0 + 1000 * n - late, Some(key.as_bytes()), Some(value.as_bytes()), &[])?;
        writer.flush().await?;
    }
    Ok(())
}

/// Batches of one to forty records: many between two index entries. Several of equal times.
async fn many_batches(log: &Arc<dyn Log>) -> Outcome<()> {
    let mut writer = Writer::new(log, "many-batches", 0, Compression::None).await?;
    for n in 0..3000_i64 {
        for m in 0..n * n % 40 + 1 {
            let value = format!("batch {n}, record {m}");
            writer.push(T0 + n / 3 * 100 + m % 3, None, Some(value.as_bytes()), &[])?;
        }
        writer.flush().await?;
    }
    Ok(())
}

/// Positions of a group: outside of a transaction, and inside of one that commits and one that aborts.
async fn positions(log: &Arc<dyn Log>) -> Outcome<()> {
    let member = Membership::simple("readers");
    let at = |offset, topic: &str| OffsetCommit {
        at: TopicPartition::new(topic, 0),
        offset,
        leader_epoch: 0,
        metadata: "by hand".to_owned(),
    };
    log.commit_offsets(&member, &[at(17, "segments"), at(1, "codec-none")]).await?;
    let mut producer = transactional(log, "positions", Compression::None).await?;
    producer.begin().await?;
    producer.send_offsets(&member, &[at(20, "segments")]).await?;
    producer.commit().await?;
    producer.begin().await?;
    producer.send_offsets(&member, &[at(400, "segments")]).await?;
    producer.abort().await?;
    Ok(())
}

/// Commits and aborts that lie inside each other, over both partitions, with data of others between.
async fn transactions(log: &Arc<dyn Log>, life: usize) -> Outcome<()> {
    let mut first = transactional(log, "first", Compression::None).await?;
    let mut second = transactional(log, "second", Compression::Zstd).await?;
    let ends = [true, false, true, false, false];
    for (n, commit) in ends.into_iter().enumerate() {
        first.begin().await?;
        second.begin().await?;
        for partition in 0..2_u32 {
            let time = T0 + 10_000 * life as i64 + 100 * n as i64 + i64::from(partition);
            let value = format!("{life}/{n}");
            let own = TopicPartition::new("transactions", n as u32 % 2);
            let slot = first.slot(&own);
            first.push(slot, time, Some(b"first"), Some(value.as_bytes()), &[])?;
            first.flush().await?;
            let slot = second.slot(&TopicPartition::new("transactions", partition));
            second.push(slot, time, Some(b"second"), Some(value.as_bytes()), &[])?;
            second.flush().await?;
            let mut plain = Writer::new(log, "transactions", partition, Compression::None).await?;
            plain.push(time, None, Some(b"of no transaction"), &[])?;
            plain.flush().await?;
        }
        if commit {
            first.commit().await?
        } else {
            first.abort().await?
        }
        if ends[4 - n] { second.commit().await? } else { second.abort().await? }
    }
    Ok(())
}

async fn transactional(
    log: &Arc<dyn Log>,
    id: &str,
    compression: Compression,
) -> Outcome<TransactionalProducer> {
    let config = ProducerConfig {
        compression,
        transaction_timeout: Duration::from_secs(900),
        ..ProducerConfig::default()
    };
    Ok(TransactionalProducer::open(Arc::clone(log), id, config).await?)
}

/// Writes a partition batch by batch, as an idempotent producer.
struct Writer {
    log: Arc<dyn Log>,
    at: TopicPartition,
    producer: ProducerIdentity,
    sequence: i32,
    batch: BatchBuilder,
}

impl Writer {
    async fn new(
        log: &Arc<dyn Log>,
        topic: &str,
        partition: u32,
        compression: Compression,
    ) -> Outcome<Self> {
        Ok(Self {
            log: Arc::clone(log),
            at: TopicPartition::new(topic, partition),
            producer: log.init_producer(None, Duration::ZERO).await?,
            sequence: 0,
            batch: BatchBuilder::new(compression, BATCH_BYTES),
        })
    }

    fn push(
        &mut self,
        time: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &Headers<'_>,
    ) -> Outcome<()> {
        Ok(self.batch.push(time, key, value, headers)?)
    }

    async fn flush(&mut self) -> Outcome<()> {
        let sequence = self.sequence;
        self.sequence += self.batch.count() as i32;
        let batch = self.batch.finish(self.producer, sequence, false)?;
        self.log.append(&self.at, batch, None, Ack::Level).await?;
        Ok(())
    }
}

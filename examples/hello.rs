//! Opens a log, produces a record and consumes it: the smallest program there is.
//!
//! ```text
//! $ cargo run --example hello              a folder that is gone afterwards
//! $ cargo run --example hello -- ./data    a folder that stays: run it again, and it goes on
//! stored at offset 0, it survives a power loss from now on
//! greetings-0@0 log: hello
//! ```
#![expect(clippy::print_stdout, reason = "a program for people to look at")]

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use thalweg::{
    Admin, Consumer, ConsumerConfig, NewTopic, Producer, ProducerConfig, Record, TopicConfig,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let temporary = tempfile::tempdir()?;
    let folder = std::env::args_os().nth(1).map_or(temporary.path().join("data"), PathBuf::from);
    let log = thalweg::open(folder).await?;

    let greetings =
        NewTopic { name: "greetings".to_owned(), partitions: 1, config: TopicConfig::default() };
    Admin::new(log.clone()).ensure_topic(&greetings).await?;

    // A record is a key, a value, headers and a time. Equal keys go to the same partition.
    let producer = Producer::open(log.clone(), ProducerConfig::default()).await?;
    let sent = producer.send("greetings", Record::value("hello").key("log")).await?;
    let stored = sent.await?;
    println!("stored at offset {stored}, it survives a power loss from now on");

    // The group keeps the position, so that the next run reads on behind what this one has read.
    let config = ConsumerConfig { group: Some("readers".to_owned()), ..Default::default() };
    let mut consumer = Consumer::open(log.clone(), config);
    consumer.subscribe(&["greetings"]).await?;
    let records = consumer.poll(Duration::from_secs(5)).await?;
    let text = |bytes: &Option<bytes::Bytes>| {
        String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned()
    };
    for record in &records {
        println!("{}@{} {}: {}", record.at, record.offset, text(&record.key), text(&record.value));
    }
    consumer.commit().await?;

    // A clean stop: the next start need not look at anything.
    log.close()?;
    if records.last().is_none_or(|last| last.offset != stored) {
        return Err(format!("the record at offset {stored} was not read back").into());
    }
    Ok(())
}

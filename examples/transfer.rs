//! Moves money between accounts: a debit in one topic and a credit in another, both or neither.
//!
//! A transfer's records are written before it is known whether the account has the money. If it has
//! not, the transaction is aborted: its records stay in the log, and no reader of committed records
//! ever sees them.
//!
//! ```text
//! $ cargo run --example transfer              a folder that is gone afterwards
//! $ cargo run --example transfer -- ./data    a folder that stays: the balances go on
//! committed: 100 from bank to anna
//! committed: 30 from anna to bert
//! aborted: 500 from bert to cleo, bert has 30
//! anna 70, bank -100, bert 30
//! 4 records committed, 6 written
//! ```
#![expect(clippy::print_stdout, reason = "a program for people to look at")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thalweg::{
    Admin, Consumer, ConsumerConfig, Isolation, Log, NewTopic, ProducerConfig, Record, TopicConfig,
    TopicPartition, TransactionalProducer,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The one account that may owe money.
const BANK: &str = "bank";

#[tokio::main]
async fn main() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let folder = std::env::args_os().nth(1).map_or(temporary.path().join("data"), PathBuf::from);
    let log = thalweg::open(folder).await?;
    for name in ["debits", "credits"] {
        let config = TopicConfig::default();
        let topic = NewTopic { name: name.to_owned(), partitions: 1, config };
        Admin::new(log.clone()).ensure_topic(&topic).await?;
    }

    // Whoever used this name before, and may have died in the middle of a transaction, is fenced here.
    let config = ProducerConfig::default();
    let mut producer = TransactionalProducer::open(log.clone(), "transfers", config).await?;
    transfer(log.clone(), &mut producer, BANK, "anna", 100).await?;
    transfer(log.clone(), &mut producer, "anna", "bert", 30).await?;
    transfer(log.clone(), &mut producer, "bert", "cleo", 500).await?;

    let (balances, committed) = read(log.clone(), Isolation::ReadCommitted).await?;
    let (_, written) = read(log.clone(), Isolation::ReadUncommitted).await?;
    let shown: Vec<_> = balances.iter().map(|(name, amount)| format!("{name} {amount}")).collect();
    println!("{}", shown.join(", "));
    println!("{committed} records committed, {written} written");
    log.close()?;
    if balances.values().sum::<i64>() != 0 {
        return Err("a debit without its credit was seen".into());
    }
    Ok(())
}

/// Moves an amount, unless the account has less.
async fn transfer(
    log: Arc<dyn Log>,
    producer: &mut TransactionalProducer,
    from: &'static str,
    to: &'static str,
    amount: i64,
) -> Result<()> {
    let (balances, _) = read(log, Isolation::ReadCommitted).await?;
    let has = balances.get(from).copied().unwrap_or(0);

    producer.begin().await?;
    producer.send("debits", Record::value(amount.to_string()).key(from)).await?;
    producer.send("credits", Record::value(amount.to_string()).key(to)).await?;
    producer.flush().await?; // Both are in the log now; a crash from here on would undo both.
    if from != BANK && has < amount {
        producer.abort().await?;
        println!("aborted: {amount} from {from} to {to}, {from} has {has}");
    } else {
        producer.commit().await?; // Both count from now on, also after a power loss.
        println!("committed: {amount} from {from} to {to}");
    }
    Ok(())
}

/// The balance of every account, and of how many records it is made. Waits until what was decided is
/// visible, which is a moment after the commit was acknowledged.
async fn read(log: Arc<dyn Log>, isolation: Isolation) -> Result<(BTreeMap<String, i64>, usize)> {
    let (mut balances, mut count) = (BTreeMap::<String, i64>::new(), 0);
    let config = ConsumerConfig { isolation, ..Default::default() };
    let mut consumer = Consumer::open(log.clone(), config);
    for (topic, sign) in [("debits", -1), ("credits", 1)] {
        let at = TopicPartition::new(topic, 0);
        let end = log.offsets(&at).await?.end;
        consumer.assign(std::slice::from_ref(&at)).await?;
        while consumer.position(&at) < Some(end) {
            for record in consumer.poll(Duration::from_secs(1)).await? {
                let name = String::from_utf8(record.key.unwrap_or_default().to_vec())?;
                let amount: i64 = str::from_utf8(&record.value.unwrap_or_default())?.parse()?;
                *balances.entry(name).or_default() += sign * amount;
                count += 1;
            }
        }
    }
    Ok((balances, count))
}

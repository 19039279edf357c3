//! Counts words: a typed pipeline with state that outlives the program. Lines go into a topic, tasks
//! count the words that are theirs; in a folder that stays, every run counts on.
//!
//! ```text
//! $ cargo run --example word_count -- --data ./data README.md docs/*.md
//! $ echo 'to be or not to be' | cargo run --example word_count
//!       2  be
//!       2  to
//!       1  not
//!       1  or
//! 6 words, 4 different ones
//! ```
#![expect(clippy::print_stdout, reason = "a program for people to look at")]

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use thalweg::streams::codec::{Json, NoKey, Str};
use thalweg::streams::{App, Builder, Store, Topic};
use thalweg::{
    Admin, Consumer, ConsumerConfig, Log, NewTopic, Producer, ProducerConfig, Record, TopicConfig,
    TopicPartition,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const LINES: Topic<(), String, NoKey, Str> = Topic::with("lines", NoKey, Str);
const WORDS: Topic<String, ()> = Topic::internal("words");
const COUNTS: Topic<String, u64, Str, Json> = Topic::with("word-counts", Str, Json);
const COUNT: Store<String, u64> = Store::new("count");
/// How many words are shown.
const TOP: usize = 10;

/// The pipeline, whole. A word's lines may be anywhere, so each word goes to its partition first:
/// leave the repartition out, and this does not compile.
fn pipeline(b: &Builder) -> thalweg::streams::Result<()> {
    b.stream(&LINES)
        .flat_map(|(), line| words(&line).map(|word| (word, ())).collect::<Vec<_>>())
        .repartition(&WORDS)
        .count(&COUNT)
        .to(&COUNTS);
    Ok(())
}

fn words(line: &str) -> impl Iterator<Item = String> {
    let parts = line.split(|c: char| !c.is_alphanumeric());
    parts.filter(|part| !part.is_empty()).map(str::to_lowercase)
}

/// Counts the words of files, or of standard input.
#[derive(Parser)]
struct Options {
    /// The folder of the log and of the state; a temporary one when not given.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The files.
    #[arg(default_value = "/dev/stdin")]
    files: Vec<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let temporary = tempfile::tempdir()?;
    let data = options.data.unwrap_or_else(|| temporary.path().join("data"));
    let log = thalweg::open(&data).await?;
    let name = LINES.name().to_owned();
    let topic = NewTopic { name, partitions: 4, config: TopicConfig::default() };
    Admin::new(log.clone()).ensure_topic(&topic).await?;

    let producer = Producer::open(log.clone(), ProducerConfig::default()).await?;
    for path in options.files {
        let file = File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        for line in BufReader::new(file).lines() {
            producer.send(LINES.name(), Record::value(line?)).await?;
        }
    }
    producer.flush().await?;

    let app = App::new("word-count", pipeline)?.state_dir(data.join("state"));
    let app = app.start(log.clone()).await?;
    app.end_of_input().await?; // Everything is read, counted and committed.
    app.stop().await?;

    let counts = read_counts(log.clone()).await?;
    let mut most: Vec<_> = counts.iter().collect();
    most.sort_by_key(|&(word, count)| (Reverse(count), word));
    most.iter().take(TOP).for_each(|(word, count)| println!("{count:>7}  {word}"));
    println!("{} words, {} different ones", counts.values().sum::<u64>(), counts.len());
    Ok(log.close()?)
}

/// The last count of each word.
async fn read_counts(log: Arc<dyn Log>) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    let mut consumer = Consumer::open(log.clone(), ConsumerConfig::default());
    for number in 0..log.topic(COUNTS.name()).await?.partitions {
        let at = TopicPartition::new(COUNTS.name(), number);
        let end = log.offsets(&at).await?.end;
        consumer.assign(std::slice::from_ref(&at)).await?;
        while consumer.position(&at) < Some(end) {
            for record in consumer.poll(Duration::from_secs(1)).await? {
                let word = String::from_utf8(record.key.unwrap_or_default().to_vec())?;
                let count = str::from_utf8(&record.value.unwrap_or_default())?.parse()?;
                counts.insert(word, count);
            }
        }
    }
    Ok(counts)
}

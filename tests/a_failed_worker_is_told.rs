//! What becomes of an application one of whose threads fails: it does not hang, and says why.

use thalweg::streams::codec::{Json, NoKey};
use thalweg::streams::{App, Builder, Topic};
use thalweg::{
    Admin, Log, NewTopic, Producer, ProducerConfig, Record, TopicConfig, TopicPartition,
};

const IN: Topic<(), i64, NoKey, Json> = Topic::with("in", NoKey, Json);
const OUT: Topic<(), i64, NoKey, Json> = Topic::with("out", NoKey, Json);

fn pipeline(b: &Builder) -> thalweg::streams::Result<()> {
    b.stream(&IN).map_values(|(), v| 100 / v).to(&OUT);
    Ok(())
}

#[tokio::test]
async fn a_panic_in_a_closure_ends_the_application_and_names_the_record() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let log = thalweg::open(dir.path().join("data")).await.expect("a new log");
    for name in ["in", "out"] {
        let topic =
            NewTopic { name: name.to_owned(), partitions: 1, config: TopicConfig::default() };
        Admin::new(log.clone()).ensure_topic(&topic).await.expect("a new topic");
    }
    let producer = Producer::open(log.clone(), ProducerConfig::default()).await.expect("opens");
    for value in ["10", "0"] {
        producer.send("in", Record::value(value)).await.expect("taken");
    }
    producer.flush().await.expect("stored");

    let app = App::new("divide", pipeline).expect("a pipeline");
    let app = app.start(log.clone()).await.expect("starts");
    let place = "record in-0@1: a closure of the pipeline panicked: attempt to divide by zero";
    let failed = app.failed().await.to_string();
    assert!(failed.contains(place), "{failed}");
    let ended = app.end_of_input().await.expect_err("a worker failed").to_string();
    assert!(ended.contains(place), "{ended}");
    let stopped = app.stop().await.expect_err("a worker failed").to_string();
    assert!(stopped.starts_with(place), "{stopped}");
    let out = log.offsets(&TopicPartition::new("out", 0)).await.expect("is there");
    assert_eq!(out.last_stable, out.high_watermark, "nothing is left undecided: {out:?}");
    log.close().expect("closes");
}

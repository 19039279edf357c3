//! `thalweg topics`: list, create, describe, alter, delete.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use thalweg_core::Log;
use thalweg_core::client::log::{NewTopic, TopicConfig, TopicInfo};
use thalweg_core::ids::TopicPartition;

use super::args::Topics;
use super::failure::{Failure, Outcome};
use super::output::{Cell, List, Out, text};
use super::session::{self, Missing};

/// Runs the command.
pub(crate) fn run(data: &Path, command: Topics) -> Outcome {
    match command {
        Topics::List { internal, json } => {
            session::ask(data, async |log| list(&log, internal, json).await)
        }
        Topics::Create { name, partitions, config, json } => {
            // Before a folder is made for it.
            thalweg_core::ids::check_topic_name(&name)?;
            let config = TopicConfig::from_map(&unique(config)?)?;
            let topic = NewTopic { name, partitions, config };
            session::short(data, Missing::Create, async |log| {
                said(&log.create_topic(&topic).await?, "created", json)
            })
        }
        Topics::Describe { name, json } => {
            session::ask(data, async |log| describe(&log, &name, json).await)
        }
        Topics::Alter { name, config, unset, json } => {
            let set = config.into_iter().map(|(name, value)| (name, Some(value)));
            let changes = unique(set.chain(unset.into_iter().map(|name| (name, None))))?;
            session::short(data, Missing::Refuse, async |log| {
                said(&log.alter_topic(&name, &changes).await?, "altered", json)
            })
        }
        Topics::Delete { name, json } => session::short(data, Missing::Refuse, async |log| {
            let info = log.topic(&name).await?;
            log.delete_topic(&name).await?;
            said(&info, "deleted", json)
        }),
    }
}

/// Settings by name; one that is given twice is refused.
fn unique<V>(settings: impl IntoIterator<Item = (String, V)>) -> Outcome<BTreeMap<String, V>> {
    let mut map = BTreeMap::new();
    for (name, value) in settings {
        if map.contains_key(&name) {
            return Err(Failure::Usage(format!("setting {name} is given twice: give it once")));
        }
        map.insert(name, value);
    }
    Ok(map)
}

/// A topic as an object.
fn cells(info: &TopicInfo) -> [Cell; 4] {
    [
        ("topic", (&*info.name).into()),
        ("id", info.id.to_string().into()),
        ("partitions", info.partitions.into()),
        ("config", json!(info.config.to_map())),
    ]
}

/// Says what was done to a topic.
fn said(info: &TopicInfo, what: &str, json: bool) -> Outcome {
    let mut out = Out::new();
    if json {
        out.object(&cells(info));
    } else {
        let partitions = if info.partitions == 1 { "partition" } else { "partitions" };
        let text = format!("topic {} {what}: {} {partitions}\n", info.name, info.partitions);
        out.write(text.as_bytes());
    }
    out.flush()
}

async fn list(log: &Arc<dyn Log>, internal: bool, json: bool) -> Outcome {
    let mut out = Out::new();
    let mut list = List::new(&["topic", "id", "partitions", "config"], json);
    for info in log.topics().await? {
        if internal || !info.name.starts_with("__") {
            list.row(&mut out, cells(&info).map(|(_, value)| value));
        }
    }
    list.finish(&mut out);
    out.flush()
}

async fn describe(log: &Arc<dyn Log>, name: &str, json: bool) -> Outcome {
    let info = log.topic(name).await?;
    let names = &["partition", "start", "last_stable", "high_watermark", "end", "leader_epoch"];
    let mut list = List::new(names, false);
    let mut partitions = Vec::new();
    let mut out = Out::new();
    for number in 0..info.partitions {
        let offsets = log.offsets(&TopicPartition::new(Arc::clone(&info.name), number)).await?;
        let values: [Value; 6] = [
            number.into(),
            offsets.start.into(),
            offsets.last_stable.into(),
            offsets.high_watermark.into(),
            offsets.end.into(),
            offsets.last_epoch.into(),
        ];
        if json {
            partitions.push(names.iter().copied().zip(values).collect::<Value>());
        } else {
            list.row(&mut out, values);
        }
    }
    let mut cells = cells(&info);
    if json {
        cells[2].1 = partitions.into();
        out.object(&cells);
    } else {
        for (name, value) in cells {
            out.write(format!("{name:<11} {}\n", text(&value)).as_bytes());
        }
        out.write(b"\n");
        list.finish(&mut out);
    }
    out.flush()
}

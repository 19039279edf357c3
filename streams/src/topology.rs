//! The shape of a pipeline: what is read, what is written, what is kept, checked before it runs.
//!
//! ```text
//!   subtopology 0                             subtopology 1
//!   source logs.raw --> ... --> repartition -> [by-program] -> source by-program --> ... --> to latest
//!        one task per partition                                   one task per partition
//! ```
//!
//! Always true here: a pipeline is cut at its repartition topics, and each part reads one topic; a
//! topology is immutable; equal programs have equal hashes, and a program that would read another's
//! state wrongly has another hash (sources, stores, windows, codecs count; stateless operators and the
//! grace of windows do not).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use thalweg_core::ids::check_topic_name;

use crate::chain::Encoded;
use crate::error::{Error, Result};
use crate::graph::{Graph, Part, PartOutput, SourceInfo};
use crate::stage::{Node, Setup, Slot};
use crate::state::backend::StoreId;
use crate::stream::Builder;
use crate::time::WhenIdle;
use crate::topic::{TopicKind, changelog_name};

pub use crate::graph::StoreInfo;

/// What an output of a subtopology is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutputKind {
    /// A topic named in `.to(..)`.
    Topic,
    /// The pipeline's own topic between two subtopologies. It has as many partitions as the next
    /// subtopology has tasks.
    Repartition,
    /// The changelog of a store: as many partitions as the subtopology has tasks, compacted.
    Changelog(StoreId),
}

/// A topic that a subtopology writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output {
    /// Its name in the log.
    pub topic: Arc<str>,
    /// What it is.
    pub kind: OutputKind,
}

/// A part of the pipeline that reads one topic.
pub struct Subtopology {
    pub(crate) source: SourceInfo,
    pub(crate) root: Arc<Slot<Encoded>>,
    outputs: Vec<Output>,
    stores: Vec<StoreInfo>,
    stages: Vec<String>,
}

impl Subtopology {
    /// The topic it reads.
    pub fn source(&self) -> &'static str {
        self.source.topic
    }

    /// Whether that is a repartition topic.
    pub fn is_repartitioned(&self) -> bool {
        self.source.kind == TopicKind::Internal
    }

    /// The topics it writes, by [`OutputId`](crate::OutputId).
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// What it keeps.
    pub fn stores(&self) -> &[StoreInfo] {
        &self.stores
    }
}

/// A checked, immutable pipeline, from which tasks are made.
pub struct Topology {
    app: Arc<str>,
    subtopologies: Vec<Subtopology>,
    when_idle: WhenIdle,
    order: Vec<usize>,
    hash: u64,
}

impl Topology {
    /// Builds the pipeline that `define` writes down, for the application `app`, whose name begins
    /// the names of its changelogs.
    ///
    /// ```
    /// use thalweg_streams::{Builder, Store, Topic, Topology};
    ///
    /// const WORDS: Topic<String, String> = Topic::new("words");
    /// const COUNTS: Topic<String, u64> = Topic::new("counts");
    /// const COUNT: Store<String, u64> = Store::new("count");
    ///
    /// let topology = Topology::build("word-count", |b: &Builder| {
    ///     b.stream(&WORDS).count(&COUNT).to(&COUNTS);
    ///     Ok(())
    /// })?;
    /// assert!(topology.describe().contains("word-count-count-changelog"));
    /// # Ok::<(), thalweg_streams::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] with everything that is wrong with it.
    pub fn build(app: &str, define: impl FnOnce(&Builder) -> Result<()>) -> Result<Self> {
        let builder = Builder::new();
        define(&builder)?;
        check(builder.graph.take(), app)
    }

    /// The application.
    pub fn app(&self) -> &str {
        &self.app
    }

    /// The parts, by their number.
    pub fn subtopologies(&self) -> &[Subtopology] {
        &self.subtopologies
    }

    /// The numbers of the parts, those that write a topic before those that read it.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// The parts that write the topic which part `index` reads.
    pub fn upstream(&self, index: usize) -> Vec<usize> {
        let topic = self.subtopologies[index].source.topic;
        let writes = |sub: &Subtopology| sub.outputs.iter().any(|o| &*o.topic == topic);
        (0..self.subtopologies.len()).filter(|&i| writes(&self.subtopologies[i])).collect()
    }

    /// Two programs with the same hash read each other's state.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn when_idle(&self) -> WhenIdle {
        self.when_idle
    }

    pub(crate) fn grow(&self, index: usize, setup: &Setup) -> Vec<Box<dyn Node<Encoded>>> {
        self.subtopologies[index].root.grow(setup)
    }

    /// The pipeline in words, for people: each part with its stages, stores and topics.
    pub fn describe(&self) -> String {
        let mut text = format!("application {}, topology {:016x}\n", self.app, self.hash);
        for (i, sub) in self.subtopologies.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "subtopology {i}");
            let time = match sub.source.kind {
                TopicKind::Internal => "time from the tasks before".to_owned(),
                TopicKind::External => format!("{:?}", sub.source.time.watermark),
            };
            let _ = writeln!(text, "  [0] source {} ({time})", sub.source.topic);
            for (stage, what) in sub.stages.iter().enumerate() {
                let _ = writeln!(text, "  [{}] {what}", stage + 1);
            }
            for store in &sub.stores {
                let changelog = &sub.outputs[usize::from(store.changelog.0)].topic;
                let _ = writeln!(text, "  store {} {} ({changelog})", store.id, store.name);
            }
        }
        text
    }
}

/// Refuses what cannot run, with everything that is wrong with it; names the changelogs.
fn check(graph: Graph, app: &str) -> Result<Topology> {
    let mut wrong = Vec::new();
    if graph.parts.is_empty() {
        wrong.push("the pipeline reads nothing: begin with stream(..)".to_owned());
    }
    let mut subtopologies = Vec::with_capacity(graph.parts.len());
    for part in graph.parts {
        if part.root.len() == 0 {
            let topic = part.source.topic;
            wrong.push(format!("topic {topic:?} is read, but nothing is done with it"));
        }
        if part.outputs.len() > usize::from(u16::MAX) {
            wrong.push("a subtopology writes more than 65535 topics".to_owned());
        }
        let output = |&(name, kind): &(&'static str, PartOutput)| match kind {
            PartOutput::Topic(kind) => {
                if kind == TopicKind::Internal {
                    wrong.push(format!(
                        "topic {name:?} is internal: use .repartition(&TOPIC), or make it with \
                         Topic::new"
                    ));
                }
                Output { topic: name.into(), kind: OutputKind::Topic }
            }
            PartOutput::Repartition(kind) => {
                if kind == TopicKind::External {
                    wrong.push(format!(
                        "repartition topic {name:?} must be made with Topic::internal"
                    ));
                }
                Output { topic: name.into(), kind: OutputKind::Repartition }
            }
            PartOutput::Changelog(id) => {
                let topic = changelog_name(app, name).into();
                Output { topic, kind: OutputKind::Changelog(id) }
            }
        };
        let outputs: Vec<Output> = part.outputs.iter().map(output).collect();
        let Part { source, root, stores, stages, .. } = part;
        subtopologies.push(Subtopology { source, root, outputs, stores, stages });
    }
    check_names(&subtopologies, &mut wrong);
    let order = order(&subtopologies).unwrap_or_else(|| {
        wrong.push("the pipeline runs in a circle: a topic that it reads depends on itself".into());
        Vec::new()
    });
    if !wrong.is_empty() {
        return Err(Error::invalid(format!("the pipeline of {app:?}: {}", wrong.join("; "))));
    }
    let hash = hash(&subtopologies);
    let when_idle = graph.when_idle;
    Ok(Topology { app: app.into(), subtopologies, when_idle, order, hash })
}

/// Legal names, one reader per topic, one writer per store, one producing chain per internal topic.
fn check_names(subtopologies: &[Subtopology], wrong: &mut Vec<String>) {
    let mut read: BTreeMap<&str, u32> = BTreeMap::new();
    let mut stores: BTreeMap<&str, u32> = BTreeMap::new();
    let mut owned: BTreeMap<&str, u32> = BTreeMap::new();
    let legal = |name: &str| check_topic_name(name).err().map(|e| e.to_string());
    for sub in subtopologies {
        *read.entry(sub.source.topic).or_default() += 1;
        wrong.extend(legal(sub.source.topic));
        for store in &sub.stores {
            *stores.entry(store.name).or_default() += 1;
        }
        for output in &sub.outputs {
            wrong.extend(legal(&output.topic));
            if output.kind != OutputKind::Topic {
                *owned.entry(&output.topic).or_default() += 1;
            }
        }
    }
    let twice = |names: BTreeMap<&str, u32>, what: &str| -> Vec<String> {
        let twice = names.into_iter().filter(|&(_, n)| n > 1);
        twice
            .map(|(name, n)| {
                what.replace("{}", &format!("{name:?}")).replace("{n}", &n.to_string())
            })
            .collect()
    };
    wrong.extend(twice(read, "topic {} is read {n} times: read it once and .tee()"));
    wrong.extend(twice(stores, "store {} has {n} writers: give each operator its own"));
    wrong.extend(twice(owned, "internal topic {} has {n} writers: give each its own"));
}

/// The parts in an order in which writers come before readers; `None` when there is none.
fn order(subtopologies: &[Subtopology]) -> Option<Vec<usize>> {
    let mut order = Vec::with_capacity(subtopologies.len());
    let mut left: Vec<usize> = (0..subtopologies.len()).collect();
    while !left.is_empty() {
        let waits = |&reader: &usize| {
            let topic = subtopologies[reader].source.topic;
            left.iter().any(|&w| subtopologies[w].outputs.iter().any(|o| &*o.topic == topic))
        };
        let (waiting, ready): (Vec<usize>, Vec<usize>) = left.iter().copied().partition(waits);
        if ready.is_empty() {
            return None;
        }
        order.extend(ready);
        left = waiting;
    }
    Some(order)
}

/// FNV-1a of everything that decides how state and internal topics are read.
fn hash(subtopologies: &[Subtopology]) -> u64 {
    let mut text = String::new();
    for sub in subtopologies {
        let _ = writeln!(text, "source {} {:?}", sub.source.topic, sub.source.codecs);
        for store in &sub.stores {
            let _ = writeln!(text, "store {} {} {}", store.id, store.name, store.shape);
        }
    }
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

//! The topics of an application: which it reads and writes, which it owns, and that they fit together.
//!
//! Always true here: a task of subtopology `s` and partition `p` reads partition `p` of the
//! subtopology's topic; a changelog has as many partitions as there are tasks that write it; what is
//! there already is never changed, only checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use thalweg_core::client::log::{Cleanup, Log, NewTopic, TopicConfig, TopicInfo};
use thalweg_core::ids::{TopicPartition, Uuid};

use crate::error::{Error, Result};
use crate::topology::{OutputKind, Topology};

/// The topics of one application.
pub(crate) struct Layout {
    topics: BTreeMap<Arc<str>, TopicInfo>,
}

impl Layout {
    /// Finds the topics of the application and creates those that are missing, upstream first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a source that does not exist, and for a topic of the application whose
    /// partitions are not as many as its tasks.
    pub(crate) async fn prepare(
        log: &dyn Log,
        topology: &Topology,
        repartition: Option<u32>,
    ) -> Result<Self> {
        let mut topics = BTreeMap::new();
        for info in log.topics().await? {
            topics.insert(Arc::clone(&info.name), info);
        }
        let mut layout = Self { topics };
        for &index in topology.order() {
            let sub = &topology.subtopologies()[index];
            let Some(source) = layout.topics.get(sub.source()) else {
                return Err(Error::invalid(format!(
                    "application {:?} reads topic {:?}, which does not exist: create it first",
                    topology.app(),
                    sub.source()
                )));
            };
            let tasks = source.partitions;
            for output in sub.outputs() {
                layout.ensure(log, &output.topic, output.kind, tasks, repartition).await?;
            }
        }
        Ok(layout)
    }

    async fn ensure(
        &mut self,
        log: &dyn Log,
        name: &Arc<str>,
        kind: OutputKind,
        tasks: u32,
        repartition: Option<u32>,
    ) -> Result<()> {
        let changelog = matches!(kind, OutputKind::Changelog(_));
        let partitions = match kind {
            OutputKind::Changelog(_) => tasks,
            OutputKind::Repartition | OutputKind::Topic => repartition.unwrap_or(tasks),
        };
        if let Some(found) = self.topics.get(name) {
            if changelog && found.partitions != tasks {
                return Err(Error::invalid(format!(
                    "changelog {name:?} has {} partitions and its application {tasks} tasks: the number of \
                     partitions of an input changed; take another application id, or bring the old number back",
                    found.partitions
                )));
            }
            return Ok(());
        }
        let cleanup = if changelog { Cleanup::Compact } else { Cleanup::Delete };
        let config = TopicConfig { cleanup, ..TopicConfig::default() };
        let new = NewTopic { name: name.to_string(), partitions, config };
        let info = log.create_topic(&new).await?;
        self.topics.insert(Arc::clone(name), info);
        Ok(())
    }

    /// How many partitions a topic has; 0 for one that is not there.
    pub(crate) fn partitions(&self, topic: &str) -> u32 {
        self.topics.get(topic).map_or(0, |info| info.partitions)
    }

    /// The id of a topic.
    pub(crate) fn id(&self, topic: &str) -> Uuid {
        self.topics.get(topic).map_or(Uuid([0; 16]), |info| info.id)
    }

    /// The partitions of a topic.
    pub(crate) fn all(&self, topic: &str) -> Vec<TopicPartition> {
        match self.topics.get(topic) {
            Some(info) => (0..info.partitions)
                .map(|n| TopicPartition::new(Arc::clone(&info.name), n))
                .collect(),
            None => Vec::new(),
        }
    }
}

//! F7 · Looking after topics and groups.

use std::sync::Arc;

use super::log::{Log, NewTopic, PartitionOffsets, TopicConfig, TopicInfo};
use crate::error::{Error, Result};
use crate::ids::{Offset, TopicPartition};

/// How far a group is behind in one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lag {
    /// The partition.
    pub at: TopicPartition,
    /// The group's position; `None` when it has none, then everything counts as lag.
    pub position: Option<Offset>,
    /// Where committed records end.
    pub end: Offset,
    /// Offsets between the two. Markers count, so a little lag may hold no record.
    pub lag: u64,
}

/// Creates, deletes and describes.
///
/// ```
/// # use std::sync::Arc;
/// # use thalweg_core::client::{admin::Admin, log::Log};
/// # async fn look(log: Arc<dyn Log>) -> thalweg_core::Result<()> {
/// let admin = Admin::new(log);
/// admin.create_topic("greetings", 4).await?;
/// for lag in admin.lag("readers", &["greetings"]).await? {
///     println!("{} is {} behind", lag.at, lag.lag);
/// }
/// # Ok(()) }
/// ```
pub struct Admin {
    log: Arc<dyn Log>,
}

impl Admin {
    /// Looks after this log.
    pub fn new(log: Arc<dyn Log>) -> Self {
        Self { log }
    }

    /// Creates a topic with default settings. Durable when it returns.
    ///
    /// # Errors
    /// `TopicExists`; `Invalid` for a bad name or partition count.
    pub async fn create_topic(&self, name: &str, partitions: u32) -> Result<TopicInfo> {
        let config = TopicConfig::default();
        self.log.create_topic(&NewTopic { name: name.to_owned(), partitions, config }).await
    }

    /// Creates a topic unless it is there already.
    ///
    /// # Errors
    /// `Invalid` when it is there with another number of partitions.
    pub async fn ensure_topic(&self, topic: &NewTopic) -> Result<TopicInfo> {
        match self.log.create_topic(topic).await {
            Err(Error::TopicExists { .. }) => {}
            other => return other,
        }
        let info = self.log.topic(&topic.name).await?;
        if info.partitions == topic.partitions {
            return Ok(info);
        }
        Err(Error::invalid(format!(
            "topic {:?} has {} partitions, not {}: use that number, or another topic",
            topic.name, info.partitions, topic.partitions
        )))
    }

    /// Deletes a topic with its records and every group's positions in it.
    ///
    /// # Errors
    /// `Unknown`; `Invalid` for internal topics.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        self.log.delete_topic(name).await
    }

    /// A topic and where each of its partitions begins and ends.
    ///
    /// # Errors
    /// `Unknown`.
    pub async fn describe_topic(&self, name: &str) -> Result<(TopicInfo, Vec<PartitionOffsets>)> {
        let info = self.log.topic(name).await?;
        let mut offsets = Vec::with_capacity(info.partitions as usize);
        for number in 0..info.partitions {
            offsets.push(
                self.log.offsets(&TopicPartition::new(Arc::clone(&info.name), number)).await?,
            );
        }
        Ok((info, offsets))
    }

    /// How far a group is behind in the topics.
    ///
    /// # Errors
    /// `Unknown`.
    pub async fn lag(&self, group: &str, topics: &[&str]) -> Result<Vec<Lag>> {
        let mut partitions = Vec::new();
        for topic in topics {
            let info = self.log.topic(topic).await?;
            partitions.extend(
                (0..info.partitions).map(|n| TopicPartition::new(Arc::clone(&info.name), n)),
            );
        }
        let stored = self.log.committed_offsets(group, &partitions).await?;
        let mut all = Vec::with_capacity(partitions.len());
        for (at, stored) in partitions.into_iter().zip(stored) {
            let offsets = self.log.offsets(&at).await?;
            let position = stored.map(|commit| commit.offset);
            let from = position.unwrap_or(offsets.start);
            let lag = u64::try_from(offsets.last_stable - from).unwrap_or(0);
            all.push(Lag { at, position, end: offsets.last_stable, lag });
        }
        Ok(all)
    }
}

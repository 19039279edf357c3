//! The topic a source writes to: found, or created as asked.
//!
//! Always true here: a topic that is there is never changed; one that does not fit is refused.

use thalweg_core::client::log::{Log, NewTopic, TopicConfig, TopicInfo};
use thalweg_core::ids::check_topic_name;

use crate::error::Result;

/// How many partitions a topic should have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Partitions {
    /// As many as it was created with; this many when it has to be created.
    AsCreated(u32),
    /// Exactly this many: a topic with another number is refused.
    Exactly(u32),
}

/// Finds a topic, or creates it.
///
/// # Errors
/// [`thalweg_core::Error::Invalid`] when it has another number of partitions than asked for.
pub async fn ensure_topic(
    log: &dyn Log,
    name: &str,
    partitions: Partitions,
    config: &TopicConfig,
) -> Result<TopicInfo> {
    check_topic_name(name)?;
    let (Partitions::AsCreated(count) | Partitions::Exactly(count)) = partitions;
    let found = match log.topic(name).await {
        Err(thalweg_core::Error::Unknown { .. }) => {
            let new = NewTopic { name: name.to_owned(), partitions: count, config: config.clone() };
            match log.create_topic(&new).await {
                // Somebody else was faster.
                Err(thalweg_core::Error::TopicExists { .. }) => log.topic(name).await?,
                created => created?,
            }
        }
        found => found?,
    };
    if partitions == Partitions::Exactly(count) && found.partitions != count {
        return Err(thalweg_core::Error::invalid(format!(
            "topic {name:?} was created with {} partitions, {count} were asked for: leave the \
             number out to use it as it is, or start with another log",
            found.partitions
        ))
        .into());
    }
    Ok(found)
}

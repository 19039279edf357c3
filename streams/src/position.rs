//! What is stored with the committed position of a task's input: the metadata of the offset commit.
//!
//! ```text
//!   tw1 <transaction number> <topic id> [<meta record in hexadecimal>]
//! ```
//!
//! Always true here: it is text of at most 4096 bytes, Kafka's limit; a task with a changelog keeps its
//! meta record there, one without keeps it here, so that time is never forgotten.

use thalweg_core::ids::Uuid;

use crate::error::{Error, Result};
use crate::state::meta::Meta;

/// Kafka's limit for the metadata of an offset commit.
const LIMIT: usize = 4096;

/// What is known of a task from its committed position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Note {
    /// The number of the task's last committed transaction.
    pub(crate) txn_seq: u64,
    /// The id of the topic that the position is in.
    pub(crate) topic_id: Uuid,
    /// What a task without a changelog knew.
    pub(crate) meta: Option<Meta>,
}

impl Note {
    /// The text to store.
    pub(crate) fn to_text(&self) -> Result<String> {
        let mut text = format!("tw1 {} {}", self.txn_seq, self.topic_id);
        if let Some(meta) = &self.meta {
            let bytes = meta.encode().map_err(|e| Error::invalid(e.to_string()))?;
            text.push(' ');
            for byte in &bytes[..] {
                text.push(char::from(HEX[usize::from(byte >> 4)]));
                text.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
        if text.len() > LIMIT {
            return Err(Error::invalid(format!(
                "what task {} must remember of its inputs takes {} bytes and {LIMIT} fit: give it a store, \
                 or fewer upstream partitions",
                self.meta.as_ref().map_or_else(String::new, |m| m.task.to_string()),
                text.len()
            )));
        }
        Ok(text)
    }

    /// Reads the text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next()? != "tw1" {
            return None;
        }
        let txn_seq = words.next()?.parse().ok()?;
        let topic_id = Uuid::parse(words.next()?).ok()?;
        let meta = match words.next() {
            Some(hex) => Some(Meta::decode(&unhex(hex)?).ok()?),
            None => None,
        };
        words.next().is_none().then_some(Self { txn_seq, topic_id, meta })
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| HEX.iter().position(|&h| h == c).map(|d| d as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[a, b]| Some((digit(*a)? << 4) | digit(*b)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::meta::TaskId;

    #[test]
    fn a_note_is_read_back_as_it_was() {
        let task = TaskId { subtopology: 1, partition: 2 };
        for meta in [None, Some(Meta::fresh(Uuid([7; 16]), 99, task))] {
            let note = Note { txn_seq: 12, topic_id: Uuid([3; 16]), meta };
            assert_eq!(Note::parse(&note.to_text().expect("short")), Some(note));
        }
        for bad in
            ["", "tw1", "tw1 x y", "tw2 1 AAAAAAAAAAAAAAAAAAAAAA", "tw1 1 AAAAAAAAAAAAAAAAAAAAAA 0"]
        {
            assert_eq!(Note::parse(bad), None, "{bad}");
        }
    }
}

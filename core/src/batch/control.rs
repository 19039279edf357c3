//! F1 · Control batches: the markers that end a transaction in a partition.
//!
//! ```text
//!   key     int16 version 0    int16 type: 0 ABORT, 1 COMMIT (2 to 6 belong to Kafka's controllers)
//!   value   int16 version 0    int32 epoch of the coordinator
//! ```
//!
//! Always true here: a marker is a batch of one record, 78 bytes, never compressed, that carries the
//! transaction's producer and no sequence number.
//!
//! Source: Kafka's `ControlRecordType` and `EndTransactionMarker`; docs/FORMAT.md.

use bytes::{Bytes, BytesMut};

use super::header::seal;
use super::{Attributes, BatchHeader, HEADER_LEN, LENGTH_END};
use crate::ids::{ProducerIdentity, Timestamp};
use crate::record::RecordRef;

/// How a transaction ended in a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marker {
    /// Its records are never to be seen by readers of committed records.
    Abort,
    /// Its records are to be seen.
    Commit,
}

impl Marker {
    fn code(self) -> i16 {
        match self {
            Self::Abort => 0,
            Self::Commit => 1,
        }
    }
}

/// The batch that ends a transaction of `producer`: the epoch may be above that of the records.
pub fn control_batch(
    kind: Marker,
    producer: ProducerIdentity,
    coordinator_epoch: i32,
    timestamp: Timestamp,
) -> Bytes {
    // Length 16, attributes 0, time +0, offset +0; key of 4 bytes; value of 6 bytes; no headers.
    let mut record = [32, 0, 0, 0, 8, 0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0];
    record[7..9].copy_from_slice(&kind.code().to_be_bytes());
    record[12..16].copy_from_slice(&coordinator_epoch.to_be_bytes());

    let header = BatchHeader {
        base_offset: 0,
        length: (HEADER_LEN + record.len() - LENGTH_END) as i32,
        leader_epoch: -1,
        crc: 0,
        attributes: Attributes::MARKER,
        last_offset_delta: 0,
        base_timestamp: timestamp,
        max_timestamp: timestamp,
        producer,
        base_sequence: -1,
        record_count: 1,
    };
    let mut batch = BytesMut::zeroed(HEADER_LEN + record.len());
    header.write(batch.first_chunk_mut().expect("the batch is longer than a header"));
    batch[HEADER_LEN..].copy_from_slice(&record);
    seal(&mut batch);
    batch.freeze()
}

/// Reads the record of a control batch: which marker it is, and the epoch of the coordinator that
/// wrote it. `None` for control records of other types and for what is no control record. Versions
/// above 0 are read as version 0, whose fields they keep.
pub fn parse_marker(record: &RecordRef<'_>) -> Option<(Marker, i32)> {
    let kind = match versioned(record.key?)?.first_chunk()? {
        [0, 0] => Marker::Abort,
        [0, 1] => Marker::Commit,
        _ => return None,
    };
    let epoch = versioned(record.value?)?.first_chunk()?;
    Some((kind, i32::from_be_bytes(*epoch)))
}

/// What follows the version, which is not negative.
fn versioned(bytes: &[u8]) -> Option<&[u8]> {
    let (version, rest) = bytes.split_first_chunk()?;
    (i16::from_be_bytes(*version) >= 0).then_some(rest)
}

//! F1 · What an append of bytes from outside checks before they become part of a log.
//!
//! Always true here: nothing is decoded or copied by [`validate`]; one pass over the bytes, for their
//! sum. [`validate_records`] reads every record and is for batches that this program did not build.
//!
//! Source: Kafka's `LogValidator`; PROD-01 to PROD-08 of its behaviour.

use super::{BatchError, BatchHeader, BatchRef, Scratch};

/// Checks that `bytes` are exactly one batch that a producer may append: its size, version and sum,
/// its counts, its codec, and that it claims nothing that only the log gives.
///
/// # Errors
/// The [`BatchError`] that names the first rule broken.
pub fn validate(bytes: &[u8], max_message_bytes: usize) -> Result<BatchHeader, BatchError> {
    let batch = BatchRef::parse(bytes)?;
    let header = batch.header;
    let size = header.size();
    if bytes.len() > size {
        return Err(BatchError::Trailing { extra: bytes.len() - size });
    }
    if size > max_message_bytes {
        return Err(BatchError::TooLarge { size, limit: max_message_bytes });
    }
    // Before the fields it covers are believed: a flipped bit is named as one.
    batch.check_crc()?;
    if header.is_control() {
        return Err(BatchError::Attributes("a control batch: only the log itself writes those"));
    }
    if header.attributes.log_append_time() {
        return Err(BatchError::Attributes("times of the append: only the log itself gives those"));
    }
    if header.record_count == 0 {
        return Err(BatchError::Count { stored: 0, what: "a batch has at least one" });
    }
    if i64::from(header.last_offset_delta) + 1 != i64::from(header.record_count) {
        return Err(header.bad_deltas("it is one less than the count"));
    }
    header.attributes.codec()?.check_supported()?;
    check_producer(&header)?;
    Ok(header)
}

/// Checks what a batch says about its producer.
fn check_producer(header: &BatchHeader) -> Result<(), BatchError> {
    let bad = |what| BatchError::Producer {
        id: header.producer.id,
        epoch: header.producer.epoch,
        base_sequence: header.base_sequence,
        what,
    };
    if header.producer.id >= 0 {
        if header.producer.epoch < 0 {
            return Err(bad("a producer id needs an epoch"));
        }
        if header.base_sequence < 0 {
            return Err(bad("a producer id needs a sequence number"));
        }
    } else if header.is_transactional() {
        return Err(bad("a transactional batch needs a producer id"));
    }
    Ok(())
}

/// Reads every record of a batch from outside: lengths, offsets without gaps, and, in a compacted
/// topic, that each has a key.
///
/// # Errors
/// The [`BatchError`] that names the first record and what is wrong with it.
pub fn validate_records(
    batch: &BatchRef<'_>,
    compacted: bool,
    scratch: &mut Scratch,
) -> Result<(), BatchError> {
    for (index, record) in (0..).zip(batch.records(scratch)?) {
        let record = record?;
        if record.offset != batch.header.base_offset.saturating_add(i64::from(index)) {
            let what = "its offset does not follow the one before";
            return Err(BatchError::Record { index, what });
        }
        if compacted && record.key.is_none() {
            let what = "it has no key, and the topic is compacted by key";
            return Err(BatchError::Record { index, what });
        }
    }
    Ok(())
}

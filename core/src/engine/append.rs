//! F6 · Appending: everything that can be done before the lock is, and only check, stamp and write
//! are done under it.
//!
//! Always true here: a refused batch changed nothing; a full disk refuses data while coordinators
//! still find room; readers are woken after the bytes are visible.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Inner;
use super::handle::PartitionHandle;
use crate::batch::{self, Accept, BatchBuilder, BatchHeader, Scratch, Sealed, Validated};
use crate::client::log::{Ack, Appended};
use crate::config::{Compression, Level, TimestampType, TopicConfig};
use crate::coordinator::CoordinatorRecord;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::{Offset, ProducerIdentity, Timestamp, TopicPartition};
use crate::log::Origin;

/// Free space is looked at every so many bytes.
const SPACE_CHECK_BYTES: u64 = 16 << 20;

/// A batch to append.
#[derive(Clone, Copy)]
pub(super) enum Given<'a> {
    /// From anywhere.
    Bytes(&'a [u8]),
    /// From a builder of this process.
    Sealed(&'a Sealed),
}

impl<'a> Given<'a> {
    fn bytes(self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Sealed(sealed) => sealed.bytes(),
        }
    }
}

impl<D: Disk> Inner<D> {
    pub(super) async fn append(
        self: &Arc<Self>,
        at: &TopicPartition,
        given: Given<'_>,
        transactional_id: Option<&str>,
        ack: Ack,
    ) -> Result<Appended> {
        self.check_running()?;
        let handle = self.partition(at)?;
        if handle.internal {
            return Err(Error::invalid(format!("{at} is internal: only the log writes there")));
        }
        let config = handle.config.load_full();
        let header = self.accept(&config, given)?;
        let bytes = given.bytes();
        let stamped;
        let (header, bytes) = match config.timestamp_type {
            TimestampType::CreateTime => (header, bytes),
            TimestampType::LogAppendTime => {
                stamped = stamp_append_time(bytes, self.clock.now())?;
                (BatchHeader::parse(&stamped).map_err(Error::from)?, stamped.as_slice())
            }
        };
        self.check_space(bytes.len())?;
        if header.is_transactional() {
            let id = transactional_id.ok_or_else(|| {
                Error::invalid("a transactional batch without its transactional id")
            })?;
            let joined = {
                let partition = handle.lock();
                // Before it joins: it would get a marker here.
                partition.check_decided(header.producer)?;
                partition.has_open(header.producer)
            };
            if !joined {
                self.join_transaction(id, header.producer, std::slice::from_ref(at)).await?;
            }
        }
        let stored = self.write(&handle, &header, bytes, Origin::Client);
        if matches!(stored, Err(Error::Full { .. })) {
            // What is left is for coordinators: the space is looked at before every batch from now on.
            self.no_space.store(true, Ordering::Relaxed);
        }
        let stored = stored?;
        if ack == Ack::Level && handle.view.level == Level::Disk {
            self.wait_durable(&[(handle, stored.next_offset)]).await?;
        }
        Ok(stored)
    }

    /// Looks at a client's batch: at its records only where the topic asks something of each, and at
    /// nothing of one that this process sealed but what its builder could not know.
    fn accept(&self, config: &TopicConfig, given: Given<'_>) -> Result<BatchHeader> {
        let max_message_bytes = config.max_message_bytes as usize;
        let own_times = config.timestamp_type == TimestampType::CreateTime;
        let (before, after) = (config.timestamp_before_max_ms, config.timestamp_after_max_ms);
        let timed = own_times && (before.is_some() || after.is_some());
        if let Given::Bytes(bytes) = given
            && !timed
            && !config.cleanup.compacts()
        {
            return batch::validate_shallow(bytes, max_message_bytes).map_err(Error::from);
        }
        let mut accept =
            Accept { compacted: config.cleanup.compacts(), ..Accept::up_to(max_message_bytes) };
        if timed {
            let now = self.clock.now();
            let limit = |ms: Option<u64>| ms.and_then(|ms| i64::try_from(ms).ok());
            accept.earliest = limit(before).map_or(i64::MIN, |ms| now.saturating_sub(ms));
            accept.latest = limit(after).map_or(i64::MAX, |ms| now.saturating_add(ms));
        }
        let accepted = match given {
            Given::Sealed(sealed) => sealed.check(&accept),
            Given::Bytes(bytes) => batch::validate_deep(bytes, &accept, &mut Scratch::default())
                .and_then(Validated::unchanged),
        };
        accepted.map_err(Error::from)
    }

    /// Writes one batch and wakes readers.
    fn write(
        self: &Arc<Self>,
        handle: &Arc<PartitionHandle<D>>,
        header: &BatchHeader,
        bytes: &[u8],
        origin: Origin,
    ) -> Result<Appended> {
        let mut partition = handle.lock();
        let stored = partition.append(header, bytes, origin);
        let rolled = partition.has_sealed();
        drop(partition);
        let stored = self.watch_at(handle, stored)?;
        if handle.view.level == Level::Os {
            handle.changed.notify_waiters();
        }
        let due = handle.config.load().flush_messages.is_some_and(|most| {
            stored.next_offset.saturating_sub(handle.durable_end()).cast_unsigned() >= most
        });
        if rolled || due {
            // Whatever the level: the recovery point follows the segments.
            self.request_sync(handle);
        }
        Ok(Appended {
            base_offset: stored.base_offset,
            next_offset: stored.next_offset,
            duplicate: stored.duplicate,
        })
    }

    /// Writes a coordinator's records as one batch, transactional ones under their producer. Returns
    /// the end after them.
    pub(super) fn write_records(
        self: &Arc<Self>,
        handle: &Arc<PartitionHandle<D>>,
        records: &[CoordinatorRecord],
        producer: ProducerIdentity,
    ) -> Result<Offset> {
        self.check_running()?;
        if records.is_empty() {
            return Ok(handle.view.log.end());
        }
        let now = self.clock.now();
        let size =
            records.iter().map(|r| r.key.len() + r.value.as_ref().map_or(0, |v| v.len()) + 32);
        let mut builder = BatchBuilder::new(Compression::None, 128 + size.sum::<usize>());
        for record in records {
            builder
                .push(now, Some(&record.key), record.value.as_deref(), &[])
                .map_err(Error::from)?;
        }
        let batch = builder.seal(producer, -1, producer.id >= 0)?;
        // Inside a transaction the producer is checked as any other: it may have been fenced, and its
        // marker written, since the partition joined. Records behind it would stay open for ever.
        let origin = if producer.id >= 0 { Origin::Client } else { Origin::Coordinator };
        Ok(self.write(handle, batch.header(), batch.bytes(), origin)?.next_offset)
    }

    /// Refuses data when the file system is nearly full, and takes it again when it is not.
    fn check_space(&self, len: usize) -> Result<()> {
        let since = self.since_space_check.fetch_add(len as u64, Ordering::Relaxed);
        let refused = self.no_space.load(Ordering::Relaxed);
        if since < SPACE_CHECK_BYTES && !refused {
            return Ok(());
        }
        self.since_space_check.store(0, Ordering::Relaxed);
        let dir = self.log_dir();
        let free =
            self.disk.free_space(&dir).map_err(|e| Error::io("look at the space of", &dir, e))?;
        let refuse = free < self.config.min_free_bytes;
        self.no_space.store(refuse, Ordering::Relaxed);
        if refuse {
            let source = std::io::Error::new(
                std::io::ErrorKind::StorageFull,
                format!(
                    "{free} bytes are free and {} are kept for coordinators: free some, appends go on by themselves",
                    self.config.min_free_bytes
                ),
            );
            return Err(Error::Full { path: dir, source });
        }
        Ok(())
    }
}

/// A copy of a batch with the time of its append.
fn stamp_append_time(bytes: &[u8], now: Timestamp) -> Result<Vec<u8>> {
    let mut stamped = bytes.to_vec();
    let Some(header) = stamped.first_chunk_mut() else {
        return Err(Error::invalid("a batch without a header"));
    };
    batch::stamp_time(header, TimestampType::LogAppendTime, now);
    Ok(stamped)
}

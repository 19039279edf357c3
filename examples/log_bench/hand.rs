//! The floors, by hand: what a person would write who needs no log, only its bytes. Shared by the
//! example, which counts CPU time, and by the criterion bench, which looks at the clock.
//!
//! Always true here: floors use nothing of `thalweg_core::batch` but the sum, which both sides take from
//! the same library; memory is allocated once; records have no key and no headers, and one time per
//! batch, and the loop knows it.

use std::io;
use std::path::Path;

use thalweg::Record;
use thalweg::core::batch::{BatchBuilder, Sealed, crc32c};
use thalweg::core::disk::real::{RealDisk, RealFile};
use thalweg::core::disk::{Disk, DiskFile, Open, write_all_at};
use thalweg::core::ids::ProducerIdentity;
use thalweg::{Compression, Error, Result};

/// The time of every record.
pub(crate) const TIME: i64 = 1_790_000_000_000;
/// How far ahead room is reserved, where it is.
const AHEAD: u64 = 16 << 20;

/// A fresh file that is written from its beginning.
pub(crate) struct FloorFile {
    file: RealFile,
    position: u64,
    /// Room is reserved up to here; `None`: never.
    allocated: Option<u64>,
}

impl FloorFile {
    pub(crate) fn create(path: &Path, preallocate: bool) -> Result<Self> {
        let file = RealDisk.open(path, Open::CreateNew);
        let file = file.map_err(|e| Error::io("create", path, e))?;
        Ok(Self { file, position: 0, allocated: preallocate.then_some(0) })
    }

    pub(crate) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        let end = self.position + chunk.len() as u64;
        if let Some(allocated) = &mut self.allocated
            && end > *allocated
        {
            let upto = end.next_multiple_of(AHEAD);
            self.file.allocate(*allocated, upto - *allocated)?;
            *allocated = upto;
        }
        write_all_at(&self.file, chunk, self.position)?;
        self.position = end;
        Ok(())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Encodes `count` records, those of `records` over and over, into batches of `batch_bytes`, sums each
/// and hands it to `write`.
pub(crate) fn produce(
    records: &[Record],
    count: usize,
    batch_bytes: usize,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut batch: Vec<u8> = Vec::with_capacity(batch_bytes + (2 << 10));
    let mut in_batch = 0u32;
    for (n, record) in (1..=count).zip(records.iter().cycle()) {
        let value = record.value.as_deref().unwrap_or_default();
        if batch.is_empty() {
            batch.resize(61, 0);
        }
        // Attributes, no time delta, the offset's delta, no key, the value's length.
        let mut head = [0; 16];
        head[0] = 0;
        head[1] = 0;
        let mut at = 2 + varint(&mut head[2..], in_batch);
        head[at] = 1;
        at += 1;
        at += varint(&mut head[at..], value.len() as u32);
        let mut length = [0; 5];
        let length_len = varint(&mut length, (at + value.len() + 1) as u32);
        batch.extend_from_slice(&length[..length_len]);
        batch.extend_from_slice(&head[..at]);
        batch.extend_from_slice(value);
        batch.push(0);
        in_batch += 1;
        if batch.len() >= batch_bytes || n == count {
            header(&mut batch, in_batch);
            write(&batch)?;
            batch.clear();
            in_batch = 0;
        }
    }
    Ok(())
}

/// A number that is not negative, as a zig-zag varint.
#[inline]
fn varint(out: &mut [u8], value: u32) -> usize {
    let mut rest = value << 1;
    let mut at = 0;
    while rest >= 0x80 {
        out[at] = rest as u8 | 0x80;
        rest >>= 7;
        at += 1;
    }
    out[at] = rest as u8;
    at + 1
}

fn header(batch: &mut [u8], records: u32) {
    let length = (batch.len() - 12) as u32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[12..16].copy_from_slice(&(-1i32).to_be_bytes());
    batch[16] = 2;
    batch[23..27].copy_from_slice(&(records - 1).to_be_bytes());
    batch[27..35].copy_from_slice(&TIME.to_be_bytes());
    batch[35..43].copy_from_slice(&TIME.to_be_bytes());
    batch[43..57].fill(0xff);
    batch[57..61].copy_from_slice(&records.to_be_bytes());
    let sum = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&sum.to_be_bytes());
}

/// Records without a key, of values of `len` bytes.
pub(crate) fn records_of(len: usize) -> Vec<Record> {
    (0..1000u32)
        .map(|n| {
            let value: Vec<u8> = (0..len as u32).map(|i| (n * 7 + i * 13) as u8).collect();
            Record::value(value)
        })
        .collect()
}

/// Batches of 64 KiB to 1 MiB, in turn, of records of `len` bytes.
pub(crate) fn batches_of(len: usize) -> Vec<Sealed> {
    [64 << 10, 256 << 10, 1 << 20, 128 << 10, 512 << 10].map(|size| batch_of(len, size)).to_vec()
}

/// One batch of almost `size` bytes, of records of `len` bytes.
pub(crate) fn batch_of(len: usize, size: usize) -> Sealed {
    let value = vec![b'x'; len];
    let mut builder = BatchBuilder::new(Compression::None, size);
    while builder.is_empty() || builder.bytes() + len + 32 < size {
        builder.push(TIME, None, Some(&value), &[]).expect("far below 2 GiB");
    }
    builder.seal(ProducerIdentity::NONE, -1, false).expect("no codec")
}

pub(crate) fn bytes_of(chunks: &[Sealed]) -> usize {
    chunks.iter().map(|chunk| chunk.bytes().len()).sum()
}

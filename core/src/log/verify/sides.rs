//! F3 · The indexes of one segment beside its batches.
//!
//! Always true here: an entry is compared with the batch it names while that is read, so that nothing is
//! read twice; by batches that are bad no index is measured; each file has one fault, the first.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Look;
use crate::batch::{BatchRef, Marker, Scratch, parse_marker};
use crate::disk::Disk;
use crate::error::Result;
use crate::ids::{Offset, Timestamp};
use crate::log::aborted::{Aborted, ENTRY_LEN};
use crate::log::index::{Entry, OffsetEntry, TimeEntry};
use crate::log::segment::path_of;
use crate::log::sums::Sums;

/// Transactions as the batches tell them.
#[derive(Default)]
pub(super) struct Transactions {
    /// First offsets of open transactions, by producer.
    pub(super) open: BTreeMap<i64, Offset>,
    /// Those that the segment at hand aborts.
    aborted: Vec<Aborted>,
    /// ABORT markers in the segment at hand whose transactions begin before the log does.
    older: Vec<(i64, Offset)>,
}

impl Transactions {
    pub(super) fn take(&mut self, batch: &BatchRef<'_>, scratch: &mut Scratch) {
        let header = &batch.header;
        let id = header.producer.id;
        if !header.is_control() {
            if header.is_transactional() {
                self.open.entry(id).or_insert(header.base_offset);
            }
            return;
        }
        let record = batch.records(scratch).ok().and_then(|mut all| all.next()?.ok());
        let Some((marker, _)) = record.and_then(|record| parse_marker(&record)) else { return };
        let marker_offset = header.base_offset;
        match (self.open.remove(&id), marker) {
            (Some(first_offset), Marker::Abort) => self.aborted.push(Aborted {
                producer_id: id,
                first_offset,
                last_offset: marker_offset,
                last_stable: self.open.values().min().map_or(marker_offset + 1, |open| *open),
            }),
            (None, Marker::Abort) => self.older.push((id, marker_offset)),
            (_, Marker::Commit) => {}
        }
    }
}

/// A side file: the front that can be believed to be complete, and the first thing that is wrong.
struct Side<E> {
    path: PathBuf,
    entries: Vec<E>,
    /// How many entries were compared with batches.
    at: usize,
    fault: Option<(u64, String)>,
    /// It is not what was written, by its sum.
    changed: bool,
}

/// The indexes of one segment beside its batches.
pub(super) struct Sides {
    base: Offset,
    /// Whether entries must name exactly what our writer would.
    strict: bool,
    /// Whether batches that its transactions were made of may be gone.
    pub(super) compacted: bool,
    index: Side<OffsetEntry>,
    times: Side<TimeEntry>,
    aborted: Option<Side<Aborted>>,
    greatest: Timestamp,
    pub(super) size: u64,
    /// Where the log begins: transactions that began before it are not told by batches.
    front: Offset,
}

impl Sides {
    pub(super) fn read<D: Disk>(
        look: &mut Look<'_, '_, D>,
        base: Offset,
        end: Option<Offset>,
        sums: Option<&Sums>,
    ) -> Result<Self> {
        // Above the recovery point nothing of them is believed, and so nothing of them can be wrong.
        let sealed = end.is_some_and(|end| end <= look.believed());
        let foreign = !look.ours && (end.is_some() || look.known.clean);
        let believed = sealed || sums.is_some() || foreign;
        let must_be = sealed && look.ours && !look.swapping;
        let mut read = |suffix: &str| -> Result<(PathBuf, Vec<u8>, bool, bool)> {
            let path = path_of(look.dir, base, suffix);
            let bytes = match believed {
                true => look.side(&path)?,
                false => None,
            };
            let there = bytes.is_some();
            let bytes = bytes.unwrap_or_default();
            let (front, changed) = match sums.map(|sums| sums.front(suffix, &bytes)) {
                Some(Some(front)) => (front.len(), sealed && front.len() != bytes.len()),
                Some(None) => (bytes.len(), true),
                None => (bytes.len(), false),
            };
            Ok((path, bytes[..front].to_vec(), changed, there))
        };
        let (path, bytes, changed, there) = read("index")?;
        let mut index = Side::new::<8>(path, &bytes, changed, OffsetEntry::read, |last, one| {
            one.position <= i32::MAX.cast_unsigned()
                && one.relative <= i32::MAX.cast_unsigned()
                && last.is_none_or(|l| l.relative < one.relative && l.position < one.position)
        });
        if must_be && !there {
            index.fault = Some((0, "it is missing: the segment is read instead".to_owned()));
        }
        let (path, bytes, changed, _) = read("timeindex")?;
        let times = Side::new::<12>(path, &bytes, changed, TimeEntry::read, |last, one| {
            one.relative <= i32::MAX.cast_unsigned()
                && last.is_none_or(|l| l.time < one.time && l.relative <= one.relative)
        });
        let (path, bytes, changed, _) = read("txnindex")?;
        let aborted = believed.then(|| {
            let entries = Aborted::decode_all(&bytes, base);
            let fault = (0, "it is no list of aborted transactions by their markers".to_owned());
            Side {
                path,
                fault: entries.is_none().then_some(fault),
                entries: entries.unwrap_or_default(),
                at: 0,
                changed,
            }
        });
        Ok(Self {
            base,
            strict: sums.is_some(),
            compacted: false,
            index,
            times,
            aborted,
            greatest: Timestamp::MIN,
            size: 0,
            front: look.log_start,
        })
    }

    /// Compares with a batch.
    pub(super) fn note(&mut self, position: u64, first: Offset, last: Offset, time: Timestamp) {
        let base = self.base;
        while let Some(entry) = self.index.entries.get(self.index.at)
            && u64::from(entry.position) <= position
        {
            let offset = base + i64::from(entry.relative);
            // Older programs of Kafka name the last offset of several batches that came at once.
            let fits = u64::from(entry.position) == position
                && (offset == last || (!self.strict && offset > last));
            if !fits {
                let what = format!(
                    "an entry says offset {offset} ends the batch at byte {}, and it does not",
                    entry.position
                );
                self.index.blame(what);
            }
            self.index.at += 1;
        }
        while let Some(entry) = self.times.entries.get(self.times.at)
            && base + i64::from(entry.relative) <= last
        {
            let offset = base + i64::from(entry.relative);
            let fits = offset >= first
                && (offset == last || !self.strict)
                && entry.time == time
                && entry.time >= self.greatest;
            if !fits {
                let what = format!(
                    "an entry says time {} is the greatest up to offset {offset}, and it is not",
                    entry.time
                );
                self.times.blame(what);
            }
            self.times.at += 1;
        }
        self.greatest = self.greatest.max(time);
    }

    /// What is wrong with each file, once the batches were read.
    pub(super) fn faults<D: Disk>(
        mut self,
        look: &mut Look<'_, '_, D>,
        whole: bool,
    ) -> Vec<(PathBuf, u64, String)> {
        let transactions = &mut look.transactions;
        let computed = std::mem::take(&mut transactions.aborted);
        let older = std::mem::take(&mut transactions.older);
        if whole {
            if self.index.at < self.index.entries.len() {
                self.index.blame("an entry names a batch behind the end".to_owned());
            }
            if self.times.at < self.times.entries.len() {
                self.times.blame("an entry names an offset behind the end".to_owned());
            }
            if let Some(aborted) = &mut self.aborted {
                let lenient = self.compacted || !self.strict;
                compare_aborted(aborted, &computed, &older, self.front, lenient);
            }
        } else {
            // By batches that are bad nothing can be measured.
            (self.index.fault, self.times.fault) = (None, None);
        }
        let aborted = self.aborted.and_then(Side::told);
        [self.index.told(), self.times.told(), aborted].into_iter().flatten().collect()
    }
}

/// Compares entries with what the markers of the segment say.
fn compare_aborted(
    file: &mut Side<Aborted>,
    computed: &[Aborted],
    older: &[(i64, Offset)],
    front: Offset,
    lenient: bool,
) {
    if file.fault.is_some() {
        return;
    }
    let entries = std::mem::take(&mut file.entries);
    let mut fault = None;
    for (at, entry) in entries.iter().enumerate() {
        let same = |one: &&Aborted| {
            (one.producer_id, one.last_offset) == (entry.producer_id, entry.last_offset)
        };
        let fits = match computed.iter().find(same) {
            Some(one) => {
                let begins = entry.first_offset == one.first_offset
                    || (entry.first_offset < one.first_offset
                        && (lenient || entry.first_offset < front));
                begins && entry.last_stable <= one.last_stable
            }
            None => lenient || older.contains(&(entry.producer_id, entry.last_offset)),
        };
        if !fits {
            let what = format!(
                "an entry says producer {} aborted {} to {}, and the markers do not",
                entry.producer_id, entry.first_offset, entry.last_offset
            );
            fault = Some(((at * ENTRY_LEN) as u64, what));
            break;
        }
    }
    let missing = computed.iter().find(|one| {
        !entries.iter().any(|entry| {
            (one.producer_id, one.last_offset) == (entry.producer_id, entry.last_offset)
        })
    });
    if let Some(one) = missing.filter(|_| fault.is_none()) {
        let what = format!(
            "producer {} aborted {} to {}, and no entry says so: aborted records would be seen",
            one.producer_id, one.first_offset, one.last_offset
        );
        fault = Some(((entries.len() * ENTRY_LEN) as u64, what));
    }
    file.entries = entries;
    file.fault = fault;
}

impl<E: Copy> Side<E> {
    /// The entries up to the first that cannot be.
    fn new<const LEN: usize>(
        path: PathBuf,
        bytes: &[u8],
        changed: bool,
        read: impl Fn(&[u8]) -> Option<E>,
        may_follow: impl Fn(Option<&E>, &E) -> bool,
    ) -> Self {
        let (chunks, rest) = bytes.as_chunks::<LEN>();
        let mut entries: Vec<E> = Vec::with_capacity(chunks.len());
        let mut fault = None;
        for (at, chunk) in chunks.iter().enumerate() {
            // Apache Kafka leaves zeros behind the last entry when it is killed.
            if at > 0 && chunk.iter().all(|byte| *byte == 0) {
                break;
            }
            match read(chunk).filter(|one| may_follow(entries.last(), one)) {
                Some(one) => entries.push(one),
                None => {
                    let what = "entries must rise, and this one does not".to_owned();
                    fault = Some(((at * LEN) as u64, what));
                    break;
                }
            }
        }
        if fault.is_none() && !rest.is_empty() {
            let what = format!("{} bytes are left over, an entry has {LEN}", rest.len());
            fault = Some(((bytes.len() - rest.len()) as u64, what));
        }
        Self { path, entries, at: 0, fault, changed }
    }
}

impl<E: Entry> Side<E> {
    /// The entry at hand is wrong.
    fn blame(&mut self, what: String) {
        let at = (self.at * E::LEN) as u64;
        self.fault.get_or_insert((at, what));
    }
}

impl<E> Side<E> {
    fn told(self) -> Option<(PathBuf, u64, String)> {
        let changed = || (0, "it is not what was written, by its sidecar".to_owned());
        let (position, what) = self.fault.or_else(|| self.changed.then(changed))?;
        Some((self.path, position, what))
    }
}

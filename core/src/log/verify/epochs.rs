//! F3 · Leader epochs of batches beside those of the checkpoint: which of the two is wrong.
//!
//! Always true here: one batch whose epoch nobody else knows is damaged itself; several in a row that
//! rise are right, and the checkpoint is what changed.

use super::{Finding, Fix, Look, Severity};
use crate::disk::Disk;
use crate::ids::{LeaderEpoch, Offset};
use crate::log::EPOCHS_FILE;
use crate::log::segment::path_of;

/// Batches whose leader epoch is another one than the checkpoint has, in a row.
pub(super) struct Other {
    segment: Offset,
    position: u64,
    offset: Offset,
    found: LeaderEpoch,
    wanted: LeaderEpoch,
    batches: u64,
    /// Whether it lies between those of the batches before and behind it.
    rises: bool,
}

impl<D: Disk> Look<'_, '_, D> {
    /// Notes a batch whose epoch is another one than the checkpoint has for its offsets.
    pub(super) fn note_epoch(
        &mut self,
        segment: Offset,
        position: u64,
        first: Offset,
        last: Offset,
        found: LeaderEpoch,
    ) {
        let before = std::mem::replace(&mut self.epoch_before, found);
        if let Some(other) = self.others.last_mut().filter(|other| other.offset + 1 == first) {
            other.rises &= other.found <= found;
        }
        if last < self.log_start {
            return;
        }
        let at = first.max(self.log_start);
        let trusted = match (&self.hint, self.ours) {
            (Some(hint), _) => last < hint.recovery_point,
            (None, ours) => !ours && last < self.durable_end,
        };
        let wanted = match &self.epochs {
            Some(epochs) if trusted => {
                let (begin, end) = (epochs.at(at), epochs.at(last));
                if begin == found { end } else { begin }
            }
            // Only that it does not fall.
            _ if found < self.last_epoch => self.last_epoch,
            _ => found,
        };
        self.last_epoch = self.last_epoch.max(if found == wanted { found } else { wanted });
        if found == wanted {
            return;
        }
        match self.others.last_mut() {
            Some(other) if other.found == found && other.offset + 1 == first => {
                other.batches += 1;
                other.offset = last;
            }
            _ => self.others.push(Other {
                segment,
                position: position + 12,
                offset: last,
                found,
                wanted,
                batches: 1,
                rises: before <= found,
            }),
        }
    }

    /// Which of the two is wrong where batches and the checkpoint differ, as neither has a sum: one batch
    /// alone is when it breaks the order, or has an epoch that nobody else knows.
    pub(super) fn compare_epochs(&mut self) {
        // Of a log that never held a record the file says nothing, and is not synced.
        if self.epochs_bad && self.batches > 0 {
            let path = self.dir.join(EPOCHS_FILE);
            let what = "it is no list of leader epochs and offsets that rise";
            self.find(Severity::Rebuildable, path, 0, what);
        }
        let mut file_told = false;
        for other in std::mem::take(&mut self.others) {
            let Other { segment, position, found, wanted, batches, rises, .. } = other;
            let known = self.epochs.as_ref().is_some_and(|epochs| epochs.has(found));
            if batches == 1 && self.batches > 2 && !(rises && known) {
                let path = path_of(self.dir, segment, "log");
                let what = format!("leader epoch {found} where {wanted} was");
                let (severity, fix) = (Severity::Damaged, Fix::Stamp(wanted));
                self.sink.findings.push(Finding {
                    severity,
                    path,
                    position,
                    what,
                    lost: None,
                    fix,
                });
            } else if !std::mem::replace(&mut file_told, true) {
                let path = self.dir.join(EPOCHS_FILE);
                let what = format!("it says leader epoch {wanted} where batches have {found}");
                self.find(Severity::Rebuildable, path, 0, what);
            }
        }
    }
}

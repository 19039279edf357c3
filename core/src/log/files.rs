//! F3 · The files of a partition's folder, by their names.

use std::path::Path;

use super::segment::SIDECAR;
use super::{EPOCHS_FILE, HINT_FILE, METADATA_FILE};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::Offset;

/// The files of a partition's folder, by what they are.
#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct Files {
    pub(super) bases: Vec<Offset>,
    pub(super) snapshots: Vec<Offset>,
    pub(super) sidecars: Vec<Offset>,
    /// `.index`, `.timeindex` and `.txnindex`.
    pub(super) sides: Vec<(Offset, String)>,
    /// Names that a log leaves behind when it is killed, or removes by and by.
    pub(super) leaving: Vec<String>,
    /// Names that are nobody's.
    pub(super) strange: Vec<String>,
}

impl Files {
    /// Whether a compacted segment waits to take its place.
    pub(super) fn swaps(&self) -> bool {
        self.leaving.iter().any(|name| name.ends_with(".log.swap"))
    }

    /// Lists a folder, its numbers in order.
    ///
    /// # Errors
    /// `Io` when it cannot be listed.
    pub(super) fn list<D: Disk>(disk: &D, dir: &Path) -> Result<Self> {
        let mut files = Self::default();
        for entry in disk.list(dir).map_err(|e| Error::io("list", dir, e))? {
            let name = entry.name.to_string_lossy().into_owned();
            if [EPOCHS_FILE, HINT_FILE, METADATA_FILE].contains(&name.as_str()) {
                continue;
            }
            let numbered = name.split_once('.').filter(|(stem, _)| {
                !entry.is_dir && stem.len() == 20 && stem.bytes().all(|b| b.is_ascii_digit())
            });
            let passing = [".deleted", ".tmp", ".cleaned", ".swap"];
            match numbered.and_then(|(stem, suffix)| Some((stem.parse::<Offset>().ok()?, suffix))) {
                Some((base, "log")) => files.bases.push(base),
                Some((base, "snapshot")) => files.snapshots.push(base),
                Some((base, SIDECAR)) => files.sidecars.push(base),
                Some((base, suffix @ ("index" | "timeindex" | "txnindex"))) => {
                    files.sides.push((base, suffix.to_owned()));
                }
                _ if passing.iter().any(|end| name.ends_with(end)) => files.leaving.push(name),
                _ => files.strange.push(name),
            }
        }
        for list in [&mut files.bases, &mut files.snapshots, &mut files.sidecars] {
            list.sort_unstable();
        }
        Ok(files)
    }
}

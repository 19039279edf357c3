//! The writers and the rotators beside the program: they act in steps, and each of their writes,
//! syncs and renames is a crash point.
//!
//! ```text
//!   death of the program   they live on
//!   power loss             they come back with the machine and take up the act that was cut
//!     inputs synced        what an act began is taken back or finished; nothing that was done is lost
//!     not synced           lines that were not synced are gone; a copy that was under way is made anew
//! ```
//!
//! Always true here: an act is done as a whole before the program runs again, but for a power loss
//! within it; where a power loss can take both names of a rename, those who sync their inputs link and
//! unlink instead.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use thalweg_core::disk::sim::{Crash, Rng, SimDisk, SimFile};
use thalweg_core::disk::{Disk, DiskFile, Open, read_file, write_all_at};

use crate::chronicle::Chronicle;
use crate::plan::Plan;
use crate::story::{Act, IN, Story};

/// Everybody who writes and rotates.
pub(crate) struct Actors {
    scripts: Vec<Script>,
    rng: Rng,
    /// Inputs are synced by whoever changes them.
    synced: bool,
    /// A power loss has taken from the inputs what nobody can know.
    pub(crate) torn: bool,
    files: Vec<File>,
    by_path: BTreeMap<String, usize>,
    handles: BTreeMap<usize, SimFile>,
    chronicle: Chronicle,
}

struct Script {
    acts: Vec<Act>,
    next: usize,
    /// The next act was begun.
    begun: bool,
}

/// One content of one file, as its writers know it.
#[derive(Default)]
struct File {
    len: u64,
    /// Every name it ever had, and those of the files it was copied from.
    names: BTreeSet<String>,
    /// Which lines begin where.
    lines: Vec<(usize, u64)>,
}

impl Actors {
    pub(crate) fn new(plan: &Plan, story: &Story, chronicle: Chronicle) -> Self {
        let script = |acts: &Vec<Act>| Script { acts: acts.clone(), next: 0, begun: false };
        Self {
            scripts: story.after.iter().map(script).collect(),
            rng: plan.rng(2),
            synced: plan.inputs_synced && plan.kind.crash() == Crash::Power,
            torn: false,
            files: Vec::new(),
            by_path: BTreeMap::new(),
            handles: BTreeMap::new(),
            chronicle,
        }
    }

    /// Whether everything has happened.
    pub(crate) fn are_done(&self) -> bool {
        self.scripts.iter().all(|script| script.next == script.acts.len())
    }

    /// Whether a copy is under way: time must not run on.
    pub(crate) fn are_copying(&self) -> bool {
        let copying = |script: &Script| {
            let next = script.acts.get(script.next);
            matches!(
                next,
                Some(Act::CopyQuarter { .. } | Act::CopyEnd { .. } | Act::Truncate { .. })
            )
        };
        self.scripts.iter().any(copying)
    }

    /// Makes the files that are there before the program, durably.
    pub(crate) fn prepare(&mut self, disk: &SimDisk, acts: &[Act]) -> io::Result<()> {
        let door = disk.door_outside();
        door.create_dir(Path::new(IN))?;
        door.sync_dir(Path::new("/"))?;
        let synced = std::mem::replace(&mut self.synced, true);
        for act in acts {
            self.perform(&door, act)?;
        }
        self.synced = synced;
        self.handles.clear();
        Ok(())
    }

    /// One of them does the next thing.
    ///
    /// # Errors
    /// The power went.
    pub(crate) fn step(&mut self, disk: &SimDisk) -> io::Result<()> {
        let open: Vec<usize> = (0..self.scripts.len())
            .filter(|&n| self.scripts[n].next < self.scripts[n].acts.len())
            .collect();
        let Some(&one) = open.get(self.rng.below(open.len() as u64) as usize) else {
            return Ok(());
        };
        self.act(&disk.door(), one)
    }

    fn act(&mut self, door: &SimDisk, script: usize) -> io::Result<()> {
        let Script { acts, next, begun } = &mut self.scripts[script];
        *begun = true;
        let act = acts[*next].clone();
        self.chronicle.tell(door.operations(), &act);
        self.perform(door, &act)?;
        let script = &mut self.scripts[script];
        script.next += 1;
        script.begun = false;
        Ok(())
    }

    /// The machine is up again after a power loss.
    pub(crate) fn come_back(&mut self, disk: &SimDisk) -> io::Result<()> {
        self.handles.clear();
        let door = disk.door_outside();
        if !self.synced {
            self.torn = true;
            return self.come_back_torn(&door);
        }
        let begun: Vec<usize> =
            (0..self.scripts.len()).filter(|&n| self.scripts[n].begun).collect();
        for script in begun {
            self.act(&door, script)?;
        }
        Ok(())
    }

    /// What was cut is given up, and a copy that was under way is begun anew.
    fn come_back_torn(&mut self, door: &SimDisk) -> io::Result<()> {
        match door.create_dir(Path::new(IN)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        for script in &mut self.scripts {
            script.next +=
                usize::from(script.begun && matches!(script.acts[script.next], Act::Append { .. }));
            script.begun = false;
            if matches!(
                script.acts.get(script.next),
                Some(Act::CopyQuarter { .. } | Act::CopyEnd { .. })
            ) {
                while let Act::CopyQuarter { to, .. } | Act::CopyEnd { to } =
                    &script.acts[script.next]
                {
                    absent_is_fine(door.remove(Path::new(to)))?;
                    script.next -= 1;
                }
            }
        }
        Ok(())
    }

    /// Where each line may be said to be: (path, offset).
    pub(crate) fn places(&self) -> BTreeMap<usize, BTreeSet<(String, u64)>> {
        let mut places: BTreeMap<usize, BTreeSet<(String, u64)>> = BTreeMap::new();
        for file in &self.files {
            for &(line, offset) in &file.lines {
                let here = file.names.iter().map(|name| (name.clone(), offset));
                places.entry(line).or_default().extend(here);
            }
        }
        places
    }

    fn file_at(&mut self, path: &str) -> usize {
        if let Some(&file) = self.by_path.get(path) {
            return file;
        }
        self.files.push(File { names: [path.to_owned()].into(), ..File::default() });
        self.by_path.insert(path.to_owned(), self.files.len() - 1);
        self.files.len() - 1
    }

    fn handle(&mut self, door: &SimDisk, file: usize, path: &str) -> io::Result<&SimFile> {
        use std::collections::btree_map::Entry;
        match self.handles.entry(file) {
            Entry::Occupied(held) => Ok(held.into_mut()),
            Entry::Vacant(place) => Ok(place.insert(door.open(Path::new(path), Open::Create)?)),
        }
    }

    fn perform(&mut self, door: &SimDisk, act: &Act) -> io::Result<()> {
        match act {
            Act::Append { path, bytes, starts } => {
                let base = self.append(door, path, bytes)?;
                let file = self.file_at(path);
                self.files[file].lines.extend(starts.iter().map(|(line, at)| (*line, base + at)));
            }
            Act::Put { path, bytes } => drop(self.append(door, path, bytes)?),
            Act::Create { path } => {
                let file = self.file_at(path);
                self.handle(door, file, path)?;
                self.sync_names(door)?;
            }
            Act::Rename { from, to } => {
                self.rename(door, from, to)?;
                let file = self.file_at(from);
                self.by_path.remove(from);
                self.files[file].names.insert(to.clone());
                self.by_path.insert(to.clone(), file);
            }
            Act::CopyBegin { from, to } => {
                let original = self.file_at(from);
                let copy = self.file_at(to);
                let File { names, lines, .. } = &self.files[original];
                let (names, lines) = (names.clone(), lines.clone());
                self.files[copy].names.extend(names);
                self.files[copy].lines = lines;
                self.handle(door, copy, to)?.set_len(0)?;
                self.sync_names(door)?;
            }
            Act::CopyQuarter { from, to, quarter } => {
                let bytes = match read_file(door, Path::new(from), 1 << 20) {
                    Err(e) if self.torn && e.kind() == io::ErrorKind::NotFound => return Ok(()),
                    bytes => bytes?,
                };
                let part = |quarter: u64| (bytes.len() as u64 * quarter / 4) as usize;
                let (start, end) = (part(*quarter), part(quarter + 1));
                let copy = self.file_at(to);
                let synced = self.synced;
                let handle = self.handle(door, copy, to)?;
                write_all_at(handle, &bytes[start..end], start as u64)?;
                if synced {
                    handle.sync_data()?;
                }
            }
            Act::CopyEnd { to } => {
                // Who copies and truncates syncs the copy first, as logrotate does.
                let copy = self.file_at(to);
                self.handle(door, copy, to)?.sync_data()?;
                door.sync_dir(Path::new(IN))?;
            }
            Act::Truncate { path } => {
                let file = self.file_at(path);
                let synced = self.synced;
                let handle = self.handle(door, file, path)?;
                handle.set_len(0)?;
                if synced {
                    handle.sync_data()?;
                }
                // Its next content is another file.
                let held = self.handles.remove(&file);
                self.by_path.remove(path);
                let next = self.file_at(path);
                self.handles.extend(held.map(|held| (next, held)));
            }
            Act::Remove { path } => {
                absent_is_fine(door.remove(Path::new(path)))?;
                if let Some(file) = self.by_path.remove(path) {
                    self.handles.remove(&file);
                }
                self.sync_names(door)?;
            }
        }
        Ok(())
    }

    /// Writes at the end; answers where that was.
    fn append(&mut self, door: &SimDisk, path: &str, bytes: &[u8]) -> io::Result<u64> {
        let file = self.file_at(path);
        let (synced, torn, known) = (self.synced, self.torn, self.files[file].len);
        let handle = self.handle(door, file, path)?;
        let base = if torn { handle.len()? } else { known };
        if synced && handle.len()? > base {
            // What a power loss has left of this very act.
            handle.set_len(base)?;
        }
        write_all_at(handle, bytes, base)?;
        if synced {
            handle.sync_data()?;
        }
        if base == 0 {
            self.sync_names(door)?;
        }
        // Only now: until the name is durable the act may have to be done again.
        self.files[file].len = base + bytes.len() as u64;
        Ok(base)
    }

    fn rename(&self, door: &SimDisk, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (Path::new(from), Path::new(to));
        if !self.synced {
            return match door.rename(from, to) {
                Err(e) if self.torn && e.kind() == io::ErrorKind::NotFound => Ok(()),
                renamed => renamed,
            };
        }
        match door.link(from, to) {
            // Done before the power went.
            Err(e)
                if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {}
            linked => linked?,
        }
        door.sync_dir(Path::new(IN))?;
        absent_is_fine(door.remove(from))?;
        door.sync_dir(Path::new(IN))
    }

    fn sync_names(&self, door: &SimDisk) -> io::Result<()> {
        if self.synced { door.sync_dir(Path::new(IN)) } else { Ok(()) }
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

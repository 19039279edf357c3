//! What must be in the files, by a reference that shares no code with the product, and what must hold
//! in the log.
//!
//! ```text
//!   events     each line once, as the reference reads it, at a place where it ever lay
//!   late       just the late lines, where grace is longer than the disorder
//!   counts     + late = events in every (window, program, severity); each at most once
//!   latest     ends at the greatest (time, file, offset)
//!   files      = what the log has committed, in order; never changed once they were there
//!   log        nothing undecided, nothing left over, coordinators equal their replay
//! ```
//!
//! Always true here: what the product wrote is read with the reference's reader; after a power loss
//! over inputs that nobody synced, lines may be lost and torn, but none is doubled, and whatever is
//! whole on the disk is in the files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use futures::executor::block_on;
use thalweg_core::batch::{Scratch, Visible};
use thalweg_core::client::log::{FetchFrom, FetchOptions, Isolation, Log};
use thalweg_core::disk::sim::SimDisk;
use thalweg_core::disk::{Disk, read_file};
use thalweg_core::engine::clock::Clock;
use thalweg_core::ids::TopicPartition;
use thalweg_core::record::{BACKLOG_HEADER, WATERMARK_HEADER};

use crate::actors::Actors;
use crate::life::{DATA, OUT, SINK, folders, open_log};
use crate::plan::Plan;
use crate::reference::output::{EventLine, Output};
use crate::reference::{Event, FileInput, compare, events, lines, parse_line};
use crate::run::Files;
use crate::story::{IN, START, Story};

/// Everything there is to look at.
pub(crate) struct Seen<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) story: &'a Story,
    pub(crate) actors: &'a Actors,
    pub(crate) disk: &'a SimDisk,
    pub(crate) files: &'a Files,
}

/// Files that are finished stay, and stay as they are.
pub(crate) fn unchanged(before: &Files, now: &Files) -> Result<(), String> {
    for (name, bytes) in before {
        match now.get(name) {
            None => return Err(format!("{name} has vanished")),
            Some(found) if found != bytes => return Err(format!("{name} has changed")),
            Some(_) => {}
        }
    }
    Ok(())
}

/// The first of the sentences, if there are any.
fn none_wrong(what: &str, wrong: &[String]) -> Result<(), String> {
    match wrong.first() {
        None => Ok(()),
        Some(first) => Err(format!("{what}, {} differences, the first: {first}", wrong.len())),
    }
}

impl Seen<'_> {
    /// After the first `--once`: nothing rotated, every line in its place.
    pub(crate) fn check_first(&self) -> Result<(), String> {
        let output = Output::of(self.files)?;
        let inputs = self.inputs()?;
        none_wrong("events", &compare::events(&events(&inputs), &output.events))?;
        let nothing = BTreeSet::new();
        none_wrong("late", &compare::late(&nothing, &nothing, &output.late))?;
        self.check_folds(&output)
    }

    /// In the end.
    pub(crate) fn check_end(&self) -> Result<(), String> {
        let output = Output::of(self.files)?;
        if self.actors.torn {
            self.check_torn_events(&output)?;
        } else {
            self.check_events(&output)?;
            self.check_late(&output)?;
        }
        self.check_folds(&output)
    }

    fn check_folds(&self, output: &Output) -> Result<(), String> {
        none_wrong("counts", &compare::conservation(output))?;
        none_wrong("latest", &compare::latest(output))
    }

    /// Every line once, equal in every field.
    fn check_events(&self, output: &Output) -> Result<(), String> {
        let places = self.actors.places();
        let mut found: BTreeMap<usize, &EventLine> = BTreeMap::new();
        for event in &output.events {
            let id = match ids(&event.message)[..] {
                [id] if id < self.story.lines.len() => id,
                _ => return Err(format!("no line says {:?}, at {}", event.message, event.at)),
            };
            if let Some(first) = found.insert(id, event) {
                return Err(format!("line {id} is doubled: at {} and {}", first.at, event.at));
            }
            let place = (event.file.clone(), event.offset);
            if !places.get(&id).is_some_and(|places| places.contains(&place)) {
                return Err(format!("line {id} never lay at {place:?}, as {} says", event.at));
            }
        }
        for (id, line) in self.story.lines.iter().enumerate() {
            let expected = parse_line(&line.bytes, line.path, START);
            match (expected, found.get(&id)) {
                (None, None) => {}
                (None, Some(event)) => {
                    return Err(format!("line {id} is to be dropped, and stands at {}", event.at));
                }
                (Some(_), None) => return Err(format!("line {id} of {} is missing", line.path)),
                (Some(parsed), Some(event)) => {
                    let expected = Event {
                        file: event.file.clone(),
                        offset: event.offset,
                        stamp: parsed.stamp,
                        program: parsed.program,
                        severity: parsed.severity,
                        message: parsed.message,
                        cut: false,
                        format: parsed.format,
                    };
                    none_wrong("events", &compare::fields(&expected, event))?;
                }
            }
        }
        Ok(())
    }

    /// After a power loss over unsynced inputs: no line twice, and none missing that is there.
    fn check_torn_events(&self, output: &Output) -> Result<(), String> {
        let mut found: BTreeMap<usize, &EventLine> = BTreeMap::new();
        for event in &output.events {
            for id in ids(&event.message) {
                if let Some(first) = found.insert(id, event) {
                    return Err(format!("line {id} is doubled: at {} and {}", first.at, event.at));
                }
            }
        }
        for input in self.inputs()? {
            // Where blocks were lost, what is whole behind them may look binary.
            if input.bytes.contains(&0) || lines::skipped(&input.bytes).is_some() {
                continue;
            }
            for event in events(&[input]) {
                for id in ids(&event.message) {
                    if !found.contains_key(&id) {
                        return Err(format!("line {id} lies in {} and is missing", event.file));
                    }
                }
            }
        }
        Ok(())
    }

    /// Late is what came after its minute was closed.
    fn check_late(&self, output: &Output) -> Result<(), String> {
        if self.plan.grace.is_zero() || self.plan.once_throughout {
            return Ok(());
        }
        let found: BTreeSet<usize> =
            output.late.iter().flat_map(|late| ids(&late.message)).collect();
        for (id, line) in self.story.lines.iter().enumerate() {
            let is_seen = parse_line(&line.bytes, line.path, START).is_some();
            if line.is_late && is_seen && !found.contains(&id) {
                return Err(format!("line {id} came after its minute was closed, and is not late"));
            }
            if !line.is_late && !line.may_be_late && found.contains(&id) {
                return Err(format!("line {id} is late, and came in time"));
            }
        }
        Ok(())
    }

    /// The files that are tailed, as they lie there.
    fn inputs(&self) -> Result<Vec<FileInput>, String> {
        let disk = self.disk.door_outside();
        let failed = |e: std::io::Error| format!("{IN}: {e}");
        let mut inputs = Vec::new();
        for entry in disk.list(Path::new(IN)).map_err(failed)? {
            let path = Path::new(IN).join(&entry.name);
            let bytes = read_file(&disk, &path, 1 << 24).map_err(failed)?;
            let mtime = disk.stat(&path).map_err(failed)?.mtime_ms;
            inputs.push(FileInput { path: path.to_string_lossy().into_owned(), bytes, mtime });
        }
        Ok(inputs)
    }

    /// Opens the log once more: everything is decided, nothing is left over, and what it holds is
    /// what the files hold. Answers how many segments the raw topic has.
    pub(crate) fn check_log(&self, clock: &Clock) -> Result<usize, String> {
        let log = open_log(self.plan, self.disk, clock, 1)
            .map_err(|e| format!("opening the log: {e}"))?;
        log.check_coordinators().map_err(|e| format!("the coordinators: {e}"))?;
        let failed = |e: thalweg_core::Error| format!("the log: {e}");
        for topic in block_on(log.topics()).map_err(failed)? {
            for number in 0..topic.partitions {
                let at = TopicPartition::new(topic.name.clone(), number);
                let offsets = block_on(log.offsets(&at)).map_err(failed)?;
                if offsets.last_stable != offsets.high_watermark {
                    return Err(format!("{at} is not decided to its end: {offsets:?}"));
                }
            }
        }
        for (topic, folder) in folders() {
            let mut written = BTreeMap::new();
            for number in 0..block_on(log.topic(topic)).map_err(failed)?.partitions {
                let at = TopicPartition::new(topic, number);
                let values = committed_lines(&*log, &at).map_err(failed)?;
                self.check_position(&*log, &at)?;
                if !values.is_empty() {
                    written.insert(format!("{folder}/{topic}-{number}-"), values);
                }
            }
            self.check_copies(folder, &written)?;
        }
        log.close().map_err(failed)?;
        self.check_left_overs()
    }

    /// The files of each partition, one behind the other, are what the log has committed.
    fn check_copies(
        &self,
        folder: &str,
        written: &BTreeMap<String, Vec<u8>>,
    ) -> Result<(), String> {
        let mut held: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (name, bytes) in
            self.files.iter().filter(|(name, _)| name.split('/').next() == Some(folder))
        {
            let partition = &name[..=name.rfind('-').unwrap_or(0)];
            held.entry(partition.to_owned()).or_default().extend_from_slice(bytes);
        }
        match held == *written {
            true => Ok(()),
            false => Err(format!("the files of {folder} are not what the log has committed")),
        }
    }

    /// The sink is at the end, and its last token stands for a file that is finished.
    fn check_position(&self, log: &dyn Log, at: &TopicPartition) -> Result<(), String> {
        let failed = |e: thalweg_core::Error| format!("the sink's position of {at}: {e}");
        let end = block_on(log.offsets(at)).map_err(failed)?.end;
        let group = format!("connect-{SINK}");
        let stored =
            block_on(log.committed_offsets(&group, std::slice::from_ref(at))).map_err(failed)?;
        let Some(Some(commit)) = stored.first() else {
            return if end == 0 {
                Ok(())
            } else {
                Err(format!("the sink has no position of {at}"))
            };
        };
        // Behind the position only markers may lie: lines would be missing from the files.
        let name = commit.metadata.rsplit(' ').next().filter(|name| name.ends_with(".ndjson"));
        match name {
            Some(name) if !self.files.contains_key(name) => {
                Err(format!("the token of {at} is pending: {name} is not there"))
            }
            _ => Ok(()),
        }
    }

    /// No temporaries in OUT nor in the log.
    fn check_left_overs(&self) -> Result<usize, String> {
        let disk = self.disk.door_outside();
        let names = |dir: &Path| disk.list(dir).map_err(|e| format!("{}: {e}", dir.display()));
        if let Some(left) = names(&Path::new(OUT).join(".tmp"))?.first() {
            return Err(format!("a temporary is left: {}", left.name.display()));
        }
        let mut segments = 0;
        let log = Path::new(DATA).join("log");
        for folder in names(&log)?.iter().filter(|entry| entry.is_dir) {
            for entry in names(&log.join(&folder.name))? {
                let name = entry.name.to_string_lossy();
                if name.ends_with(".tmp") || name.ends_with(".deleted") {
                    return Err(format!("{}/{name} is left", folder.name.display()));
                }
                let raw = folder.name.to_string_lossy().starts_with("logs.raw-");
                segments += usize::from(raw && name.ends_with(".log"));
            }
        }
        Ok(segments)
    }
}

/// The values of a partition's committed records as lines, without the marks of time.
fn committed_lines(log: &dyn Log, at: &TopicPartition) -> thalweg_core::Result<Vec<u8>> {
    let options = FetchOptions {
        isolation: Isolation::ReadCommitted,
        max_wait: std::time::Duration::ZERO,
        max_bytes: 0,
    };
    let (mut lines, mut offset, mut scratch) = (Vec::new(), 0, Scratch::default());
    loop {
        let from = FetchFrom { at: at.clone(), offset, max_bytes: 1 << 20 };
        let answers = block_on(log.fetch(&[from], options))?;
        let Some(answer) = answers.first().filter(|answer| !answer.batches.is_empty()) else {
            return Ok(lines);
        };
        for batch in Visible::new(&answer.batches, &answer.aborted, offset) {
            for record in batch?.records(&mut scratch)?.starting_at(offset) {
                let record = record?;
                let mark = [BACKLOG_HEADER, WATERMARK_HEADER];
                if mark.iter().any(|key| record.headers.get(key.as_bytes()).is_some()) {
                    continue;
                }
                lines.extend_from_slice(record.value.unwrap_or_default());
                lines.push(b'\n');
            }
        }
        offset = answer.next_offset;
    }
}

/// The ids that a message says. Where a power loss has cut a line within its id, the next one may go
/// on with digits: those are none.
pub(crate) fn ids(message: &str) -> Vec<usize> {
    let after = message.match_indices("id=").map(|(at, _)| &message[at + 3..]);
    let whole = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count() == 4;
    after.filter(|text| whole(text)).filter_map(|text| text.get(..4)?.parse().ok()).collect()
}

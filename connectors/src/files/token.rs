//! A file's way from its temporary to its final name, and the token that lets anyone finish it.
//!
//! ```text
//!   token    "1 <crc32c, 8 hex> <length> <nonce, 16 hex> <folder>/<topic>-<p>-<start:020>.ndjson"
//!
//!   finish   link(tmp, final)   sync(folder)   unlink(tmp)   sync(.tmp)      all tokens step by step
//!
//!   recover  tmp  final
//!            yes  no     verify tmp, then finish
//!            yes  yes    verify final, write it anew, then from sync(folder) on
//!            no   yes    verify final, sync both folders
//!            no   no     it was finished, and somebody removed it since
//! ```
//!
//! *No, no* can mean nothing else: the temporary's name was durable before the token was committed,
//! and goes only after the final name is. *Yes, yes* may be what a failed sync of the folder has left:
//! then no later sync brings that name to the medium, though it succeeds. So a copy takes the name's
//! place: the same bytes, under an entry that no failed sync has seen.
//!
//! Always true here: each step may be repeated from the start after a crash anywhere, and a name that
//! is there for the process is synced before anything rests on it. NDJSON has no footer: length and
//! CRC32C are how a finished file is recognised.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crc_fast::{CrcAlgorithm, Digest};
use thalweg_core::disk::{Disk, DiskFile, Open, write_all_at};
use thalweg_core::ids::{Offset, TopicPartition, check_topic_name};

use super::failed;
use super::out::Out;
use super::temporary::crc32;
use crate::error::{Error, Result};
use crate::sink::Token;

/// A prepared file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FileToken {
    /// The final name, relative to OUT.
    pub(super) name: String,
    /// What makes the temporary's name its own.
    pub(super) nonce: u64,
    /// Length in bytes.
    pub(super) len: u64,
    /// CRC32C of the bytes.
    pub(super) crc: u32,
}

/// How the file of a token was found at open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// Not yet under its final name for good; it is now.
    Pending,
    /// Finished before.
    Finished,
    /// Finished before, and removed since.
    Removed,
}

/// Gives synced temporaries their final names, durably. All of them together: one sync a folder.
pub(super) fn finish<D: Disk>(disk: &D, out: &Out, tokens: &[FileToken]) -> Result<()> {
    tokens.iter().try_for_each(|token| token.place(disk, out))?;
    settle(disk, out, tokens)
}

/// Finishes committed tokens, whatever state a crash has left their names in.
pub(super) fn recover<D: Disk>(disk: &D, out: &Out, tokens: &[FileToken]) -> Result<Vec<Found>> {
    let found: Result<_> = tokens.iter().map(|token| token.resume(disk, out)).collect();
    let found: Vec<Found> = found?;
    settle(disk, out, tokens)?;
    Ok(found)
}

/// Makes the final names durable, and only then gives up those of the temporaries.
fn settle<D: Disk>(disk: &D, out: &Out, tokens: &[FileToken]) -> Result<()> {
    // After a failed sync of a folder nobody knows which names the medium holds, and a second sync
    // could succeed without having written them: the temporaries must stay.
    let unsynced = |path: &Path, e: io::Error| Error::Fatal {
        what: format!(
            "{}: cannot sync: {e}. Look at the disk, then start again: the files that are \
             committed are finished then",
            path.display()
        ),
    };
    if tokens.is_empty() {
        return Ok(());
    }
    let folders: BTreeSet<&str> = tokens.iter().map(FileToken::folder).collect();
    for folder in folders {
        let path = out.path(folder);
        disk.sync_dir(&path).map_err(|e| unsynced(&path, e))?;
    }
    for token in tokens {
        let path = out.temporary(&token.temporary());
        match disk.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &path, e));
            }
            _ => {}
        }
    }
    let path = out.temporaries();
    disk.sync_dir(&path).map_err(|e| unsynced(&path, e))
}

impl FileToken {
    /// The text that the log keeps.
    pub(super) fn to_token(&self) -> Token {
        Token(format!("1 {:08x} {} {:016x} {}", self.crc, self.len, self.nonce, self.name))
    }

    /// Reads a token of `at`. The text comes from the log: nothing in it may lead out of OUT.
    pub(super) fn parse(at: &TopicPartition, token: &Token) -> Result<Self> {
        let parse = || {
            let mut fields = token.0.splitn(5, ' ');
            if fields.next()? != "1" {
                return None;
            }
            let crc = u32::from_str_radix(fields.next()?, 16).ok()?;
            let len = fields.next()?.parse().ok()?;
            let nonce = u64::from_str_radix(fields.next()?, 16).ok()?;
            let name = fields.next()?;
            let (folder, file) = name.split_once('/')?;
            let (found, _) = parse_final(file)?;
            let inside = !folder.is_empty() && !folder.starts_with('.');
            (inside && found == *at).then(|| Self { name: name.to_owned(), nonce, len, crc })
        };
        parse().ok_or_else(|| Error::Fatal {
            what: format!(
                "the position of {at} carries the token {:?}, which this version of the file sink \
                 did not write: use the version that wrote it, or another name for this sink",
                token.0
            ),
        })
    }

    fn folder(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    fn temporary(&self) -> String {
        let file = self.name.rsplit('/').next().unwrap_or(&self.name);
        format!("{}.{:016x}", file.strip_suffix(SUFFIX).unwrap_or(file), self.nonce)
    }

    /// Gives a synced temporary its final name; not yet durable.
    fn place<D: Disk>(&self, disk: &D, out: &Out) -> Result<()> {
        let (from, to) = (out.temporary(&self.temporary()), out.path(&self.name));
        let placed = match disk.link(&from, &to) {
            Err(e) if links_are_refused(&e) => disk.rename_new(&from, &to),
            placed => placed,
        };
        match placed {
            Ok(()) => Ok(()),
            // An earlier attempt has come this far.
            Err(e)
                if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) =>
            {
                self.verify(disk, &to)
            }
            Err(e) => Err(failed("link", &from, e)),
        }
    }

    /// Looks how far an earlier run has come, and brings the final name up to where only the syncs
    /// are missing.
    fn resume<D: Disk>(&self, disk: &D, out: &Out) -> Result<Found> {
        let (from, to) = (out.temporary(&self.temporary()), out.path(&self.name));
        let exists = |path: &Path| match disk.stat(path) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(failed("look at", path, e)),
        };
        match (exists(&from)?, exists(&to)?) {
            (true, false) => {
                self.verify(disk, &from)?;
                self.place(disk, out)?;
                Ok(Found::Pending)
            }
            (true, true) => {
                self.verify(disk, &to)?;
                self.renew(disk, out)?;
                Ok(Found::Pending)
            }
            (false, true) => {
                self.verify(disk, &to)?;
                Ok(Found::Finished)
            }
            (false, false) => Ok(Found::Removed),
        }
    }

    /// Replaces the final file by a synced copy of itself.
    fn renew<D: Disk>(&self, disk: &D, out: &Out) -> Result<()> {
        let to = out.path(&self.name);
        // A nonce that no other temporary of this start has: what a crash leaves is ours to remove.
        let copy = out.temporary(&Self { nonce: !self.nonce, ..self.clone() }.temporary());
        match disk.remove(&copy) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &copy, e));
            }
            _ => {}
        }
        let source = disk.open(&to, Open::Read).map_err(|e| failed("open", &to, e))?;
        let target = disk.open(&copy, Open::CreateNew).map_err(|e| failed("create", &copy, e))?;
        each_chunk(&source, |chunk, position| write_all_at(&target, chunk, position))
            .and_then(|_| target.sync_data())
            .and_then(|()| disk.rename(&copy, &to))
            .map_err(|e| failed("renew", &to, e))
    }

    /// Checks that the file at `path` holds exactly the bytes of this token.
    fn verify<D: Disk>(&self, disk: &D, path: &Path) -> Result<()> {
        let (len, crc) = measure(disk, path).map_err(|e| failed("read", path, e))?;
        if (len, crc) == (self.len, self.crc) {
            return Ok(());
        }
        Err(Error::Fatal {
            what: format!(
                "{}: {len} bytes with CRC32C {crc:08x}, but {} bytes with {:08x} were committed: \
                 somebody else's file, or a damaged one. Move it out of the folder and start again",
                path.display(),
                self.len,
                self.crc
            ),
        })
    }
}

/// Length and CRC32C of a file.
fn measure<D: Disk>(disk: &D, path: &Path) -> io::Result<(u64, u32)> {
    let file = disk.open(path, Open::Read)?;
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let len = each_chunk(&file, |chunk, _| {
        digest.update(chunk);
        Ok(())
    })?;
    Ok((len, crc32(&digest)))
}

/// Reads a file to its end, piece by piece; the answer is its length.
fn each_chunk<F: DiskFile>(
    file: &F,
    mut take: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut position = 0;
    loop {
        match file.read_at(&mut buffer, position) {
            Ok(0) => return Ok(position),
            Ok(n) => {
                take(&buffer[..n], position)?;
                position += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Whether the file system has no hard links: EPERM, ENOSYS, EOPNOTSUPP.
fn links_are_refused(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::Unsupported || matches!(e.raw_os_error(), Some(1 | 38 | 95))
}

/// The name of a finished file, relative to OUT.
pub(super) fn final_name(folder: &str, at: &TopicPartition, start: Offset) -> String {
    format!("{folder}/{at}-{start:020}{SUFFIX}")
}

/// The name of a temporary in its folder.
pub(super) fn temporary_name(at: &TopicPartition, start: Offset, nonce: u64) -> String {
    format!("{at}-{start:020}.{nonce:016x}")
}

/// Reads the name of a finished file, without its folder.
pub(super) fn parse_final(name: &str) -> Option<(TopicPartition, Offset)> {
    parse_stem(name.strip_suffix(SUFFIX)?)
}

/// Reads whose temporary a name is.
pub(super) fn parse_temporary(name: &str) -> Option<TopicPartition> {
    let (stem, nonce) = name.rsplit_once('.')?;
    let legal = nonce.len() == 16 && nonce.bytes().all(|c| c.is_ascii_hexdigit());
    legal.then(|| parse_stem(stem)).flatten().map(|(at, _)| at)
}

/// `<topic>-<partition>-<start, 20 digits>`, from the right: a topic may hold dashes and digits.
fn parse_stem(stem: &str) -> Option<(TopicPartition, Offset)> {
    let (rest, start) = stem.rsplit_once('-')?;
    let (topic, partition) = rest.rsplit_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if start.len() != 20 || !digits(start) || !digits(partition) {
        return None;
    }
    check_topic_name(topic).ok()?;
    Some((TopicPartition::new(topic, partition.parse().ok()?), start.parse().ok()?))
}

/// Refuses names that no file system takes.
pub(super) fn check_length(folder: &str, at: &TopicPartition) -> Result<()> {
    let longest = temporary_name(at, 0, 0).len().max(final_name("", at, 0).len());
    if longest > NAME_MAX || folder.len() > NAME_MAX {
        return Err(thalweg_core::Error::invalid(format!(
            "topic {:?} makes file names of {longest} bytes, file systems take {NAME_MAX}: use a \
             topic of at most 200 characters",
            at.topic
        ))
        .into());
    }
    Ok(())
}

const SUFFIX: &str = ".ndjson";
const NAME_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_names_round_trip_and_nothing_leads_out_of_the_folder() {
        let at = TopicPartition::new("a-1.b-2", 3);
        let name = final_name("events", &at, 42);
        assert_eq!(name, "events/a-1.b-2-3-00000000000000000042.ndjson");
        let token = FileToken { name, nonce: 7, len: 99, crc: 0xdead_beef };
        assert_eq!(FileToken::parse(&at, &token.to_token()).expect("our own"), token);
        assert_eq!(token.temporary(), temporary_name(&at, 42, 7));
        assert_eq!(parse_temporary(&token.temporary()), Some(at.clone()));
        let file = "a-1.b-2-3-00000000000000000042.ndjson";
        let other = "a-1.b-2-4-00000000000000000042.ndjson";
        for bad in [
            String::new(),
            "1".to_owned(),
            format!("2 00000000 0 0000000000000000 events/{file}"),
            format!("1 x 0 0 events/{file}"),
            format!("1 0 -1 0 events/{file}"),
            format!("1 0 0 0 ../{file}"),
            format!("1 0 0 0 /{file}"),
            format!("1 0 0 0 {file}"),
            format!("1 0 0 0 a/b/{file}"),
            format!("1 0 0 0 events/{other}"),
            "1 0 0 0 events/../../x".to_owned(),
        ] {
            assert!(FileToken::parse(&at, &Token(bad.clone())).is_err(), "{bad:?}");
        }
        for foreign in ["x", "a-0-1.ndjson", "-0-00000000000000000042.ndjson", "README.ndjson"] {
            assert_eq!(parse_final(foreign), None, "{foreign}");
            assert_eq!(parse_temporary(foreign), None, "{foreign}");
        }
    }
}

//! F2 · What each call does to the simulated disk.
//!
//! Always true here: a call first finds out, without changing anything, whether it must be refused;
//! refused calls are no crash points. Errors are those of Linux, number by number.

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::faults::Call;
use super::pages::{Content, PAGE};
use super::tree::{Body, Folder, NodeId, Place, ROOT};
use super::world::{Door, Extent, Opened, Who, World, down};
use crate::disk::{Entry, Kind, Open, Stat};

/// An open file, and the path it was opened by.
pub(super) struct Target<'a> {
    pub(super) node: NodeId,
    pub(super) path: &'a Path,
}

// Handles and locks.

impl World {
    pub(super) fn open(&mut self, door: Door, path: &Path, how: Open) -> io::Result<Opened> {
        let place = self.tree.walk(path, how != Open::CreateNew)?;
        if let Some(node) = place.node {
            if how == Open::CreateNew {
                return Err(Errno::EXIST.into());
            }
            self.tree.content(node)?;
            self.has_handle(door)?;
            self.ask(door, Call::Open, path)?;
            return Ok(self.hand_out(door, node));
        }
        if matches!(how, Open::Read | Open::Write) {
            return Err(Errno::NOENT.into());
        }
        self.has_handle(door)?;
        self.change(door, Call::Open, path, |world, extent| {
            if !world.happens(extent) {
                return Err(down());
            }
            let node = world.create(place, Body::File(Content::default()));
            if extent != Extent::Whole {
                return Err(down());
            }
            Ok(world.hand_out(door, node))
        })
    }

    pub(super) fn lock(&mut self, door: Door, path: &Path) -> io::Result<Opened> {
        let place = self.tree.walk(path, true)?;
        if let Some(node) = place.node {
            self.tree.content(node)?;
        }
        self.has_handle(door)?;
        if place.node.is_some_and(|node| self.locks.contains_key(&node)) {
            return Err(Errno::WOULDBLOCK.into());
        }
        self.change(door, Call::Lock, path, |world, extent| {
            if !world.happens(extent) {
                return Err(down());
            }
            let node = match place.node {
                Some(node) => node,
                None => world.create(place, Body::File(Content::default())),
            };
            if extent != Extent::Whole {
                return Err(down());
            }
            let holder = world.process_id(door).to_string();
            world.tree.change(node, |content| {
                content.set_len(0);
                content.write(holder.as_bytes(), 0);
            })?;
            let opened = world.hand_out(door, node);
            world.locks.insert(node, opened.id);
            Ok(opened)
        })
    }
}

// Names.

impl World {
    pub(super) fn rename(
        &mut self,
        door: Door,
        from: &Path,
        to: &Path,
        refuse_taken: bool,
    ) -> io::Result<()> {
        let source = self.tree.walk(from, false)?;
        let target = self.tree.walk(to, false)?;
        let node = source.node.ok_or(Errno::NOENT)?;
        if node == ROOT || target.node == Some(ROOT) {
            return Err(Errno::BUSY.into());
        }
        if refuse_taken && target.node.is_some() {
            return Err(Errno::EXIST.into());
        }
        if target.node == Some(node) {
            return Ok(());
        }
        self.may_replace(node, &source, &target)?;
        let is_folder = self.tree.is_folder(node);
        self.change(door, Call::Rename, from, |world, extent| {
            // Where a rename that refuses a taken name is a link and an unlink, it can be cut between.
            let in_steps = refuse_taken && !is_folder && extent != Extent::Whole;
            if world.happens(extent) {
                world.tree.name(target.folder, target.name, Some(node));
                if !in_steps || world.rng.coin() {
                    world.tree.name(source.folder, source.name, None);
                }
            }
            Ok(())
        })
    }

    /// As rename(2): folders replace empty folders and never move below themselves.
    fn may_replace(&self, node: NodeId, source: &Place, target: &Place) -> io::Result<()> {
        let is_folder = self.tree.is_folder(node);
        if is_folder && self.tree.is_within(node, target.folder) {
            return Err(Errno::INVAL.into());
        }
        let Some(old) = target.node else { return Ok(()) };
        if self.tree.is_within(old, source.folder) {
            return Err(Errno::NOTEMPTY.into());
        }
        match (is_folder, self.tree.is_folder(old)) {
            (true, false) => Err(Errno::NOTDIR.into()),
            (false, true) => Err(Errno::ISDIR.into()),
            (true, true) if !self.tree.folder(old)?.names().is_empty() => {
                Err(Errno::NOTEMPTY.into())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn link(&mut self, door: Door, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.tree.walk(from, false)?.node.ok_or(Errno::NOENT)?;
        let target = self.tree.walk(to, false)?;
        if target.node.is_some() {
            return Err(Errno::EXIST.into());
        }
        if self.tree.is_folder(node) || !self.hard_links {
            return Err(Errno::PERM.into());
        }
        self.change(door, Call::Link, from, |world, extent| {
            if world.happens(extent) {
                world.tree.name(target.folder, target.name, Some(node));
            }
            Ok(())
        })
    }

    pub(super) fn remove(&mut self, door: Door, path: &Path) -> io::Result<()> {
        let place = self.tree.walk(path, false)?;
        if self.tree.is_folder(place.node.ok_or(Errno::NOENT)?) {
            return Err(Errno::ISDIR.into());
        }
        self.unname(door, Call::Remove, path, place)
    }

    pub(super) fn remove_dir(&mut self, door: Door, path: &Path) -> io::Result<()> {
        let place = self.tree.walk(path, false)?;
        let node = place.node.ok_or(Errno::NOENT)?;
        if node == ROOT {
            return Err(Errno::BUSY.into());
        }
        if !self.tree.folder(node)?.names().is_empty() {
            return Err(Errno::NOTEMPTY.into());
        }
        self.unname(door, Call::RemoveDir, path, place)
    }

    fn unname(&mut self, door: Door, call: Call, path: &Path, place: Place) -> io::Result<()> {
        self.change(door, call, path, |world, extent| {
            if world.happens(extent) {
                world.tree.name(place.folder, place.name, None);
            }
            Ok(())
        })
    }

    pub(super) fn create_dir(&mut self, door: Door, path: &Path) -> io::Result<()> {
        self.create_named(door, Call::CreateDir, path, Body::Folder(Folder::default()))
    }

    pub(super) fn symlink(&mut self, door: Door, target: PathBuf, link: &Path) -> io::Result<()> {
        self.create_named(door, Call::Open, link, Body::Link(target))
    }

    fn create_named(&mut self, door: Door, call: Call, path: &Path, body: Body) -> io::Result<()> {
        let place = self.tree.walk(path, false)?;
        if place.node.is_some() {
            return Err(Errno::EXIST.into());
        }
        self.change(door, call, path, |world, extent| {
            if world.happens(extent) {
                world.create(place, body);
            }
            Ok(())
        })
    }

    pub(super) fn sync_dir(&mut self, door: Door, path: &Path) -> io::Result<()> {
        let id = self.tree.find(path)?;
        self.tree.folder(id)?;
        self.change(door, Call::SyncDir, path, |world, extent| {
            let folder = world.tree.folder_mut(id)?;
            match extent {
                Extent::Failed(_) => folder.fail_sync(),
                Extent::Whole => folder.sync(),
                Extent::Cut if world.rng.coin() => world.tree.folder_mut(id)?.sync(),
                Extent::Cut => {}
            }
            Ok(())
        })
    }

    pub(super) fn list(&mut self, door: Door, path: &Path) -> io::Result<Vec<Entry>> {
        let place = self.tree.walk(path, true)?;
        self.ask(door, Call::List, path)?;
        let names = self.tree.folder(place.node.ok_or(Errno::NOENT)?)?.names();
        let is_dir = |name: &OsString, node: NodeId| match self.tree.node(node).body {
            Body::File(_) => false,
            Body::Folder(_) => true,
            Body::Link(_) => self
                .tree
                .find(&place.path.join(name))
                .is_ok_and(|target| self.tree.is_folder(target)),
        };
        let entries = names
            .iter()
            .map(|(name, node)| Entry { name: name.clone(), is_dir: is_dir(name, *node) });
        Ok(entries.collect())
    }

    pub(super) fn stat(&mut self, door: Door, path: &Path) -> io::Result<Stat> {
        let node = self.tree.find(path)?;
        self.ask(door, Call::Stat, path)?;
        Ok(self.stat_of(node))
    }

    pub(super) fn stat_of(&self, id: NodeId) -> Stat {
        let node = self.tree.node(id);
        let (len, kind) = match &node.body {
            Body::File(content) => (content.len(), Kind::File),
            Body::Folder(_) => (0, Kind::Dir),
            Body::Link(_) => (0, Kind::Other),
        };
        Stat {
            dev: DEVICE,
            ino: node.ino,
            birth_ns: self.birth_times.then_some(node.birth_ns),
            len,
            mtime_ms: node.mtime_ms,
            kind,
        }
    }
}

// Content.

impl World {
    pub(super) fn read(
        &mut self,
        door: Door,
        file: &Target<'_>,
        buf: &mut [u8],
        position: u64,
    ) -> io::Result<usize> {
        self.ask(door, Call::Read, file.path)?;
        let mut len = buf.len() as u64;
        if door.who == Who::Program && len > 0 {
            len = self.faults.readable(file.node, position, len);
            if len == 0 {
                return Err(Errno::IO.into());
            }
            len = self.shortened(door, len);
        }
        Ok(self.tree.content(file.node)?.read(&mut buf[..len as usize], position))
    }

    pub(super) fn write(
        &mut self,
        door: Door,
        file: &Target<'_>,
        bufs: &[IoSlice<'_>],
        position: u64,
    ) -> io::Result<usize> {
        let total: u64 = bufs.iter().map(|buf| buf.len() as u64).sum();
        in_range(position, total)?;
        self.change(door, Call::Write, file.path, |world, extent| {
            let wanted = match extent {
                Extent::Whole => world.shortened(door, total),
                Extent::Cut => world.rng.below(total + 1),
                Extent::Failed(_) => return Ok(0),
            };
            let free = world.free_pages();
            let (n, pages) = world.tree.content(file.node)?.fits(position, wanted, free);
            if n == 0 && wanted > 0 {
                return Err(Errno::NOSPC.into());
            }
            world.tree.grow(file.node, pages, |content| {
                let mut done = 0;
                for buf in bufs {
                    let piece = &buf[..buf.len().min((n - done) as usize)];
                    content.write(piece, position + done);
                    done += piece.len() as u64;
                }
            })?;
            world.tree.node_mut(file.node).mtime_ms = world.now_ms;
            world.maybe_write_back(file.node, position, n)?;
            Ok(n as usize)
        })
    }

    pub(super) fn sync_data(&mut self, door: Door, file: &Target<'_>) -> io::Result<()> {
        self.change(door, Call::SyncData, file.path, |world, extent| {
            let rng = &mut world.rng;
            world.tree.change(file.node, |content| match extent {
                Extent::Whole => content.sync(),
                Extent::Cut => content.write_back_some(0..u64::MAX, rng),
                Extent::Failed(_) => content.fail_sync(rng),
            })
        })
    }

    pub(super) fn set_len(&mut self, door: Door, file: &Target<'_>, len: u64) -> io::Result<()> {
        in_range(len, 0)?;
        self.change(door, Call::SetLen, file.path, |world, extent| {
            if world.happens(extent) {
                world.tree.change(file.node, |content| content.set_len(len))?;
                world.tree.node_mut(file.node).mtime_ms = world.now_ms;
            }
            Ok(())
        })
    }

    pub(super) fn allocate(
        &mut self,
        door: Door,
        file: &Target<'_>,
        position: u64,
        len: u64,
    ) -> io::Result<()> {
        in_range(position, len)?;
        if len == 0 {
            return Err(Errno::INVAL.into());
        }
        self.change(door, Call::Allocate, file.path, |world, extent| {
            let content = world.tree.content(file.node)?;
            if content.room_when_reserved(position + len) - content.room() > world.free_pages() {
                return Err(Errno::NOSPC.into());
            }
            if world.happens(extent) {
                world.tree.change(file.node, |content| content.reserve(position + len))?;
            }
            Ok(())
        })
    }

    pub(super) fn free_pages(&self) -> u64 {
        self.capacity.saturating_sub(self.tree.used)
    }

    fn shortened(&mut self, door: Door, len: u64) -> u64 {
        match door.who == Who::Program && len > 1 && self.rng.one_in(self.faults.short_one_in) {
            true => 1 + self.rng.below(len - 1),
            false => len,
        }
    }

    fn maybe_write_back(&mut self, node: NodeId, position: u64, len: u64) -> io::Result<()> {
        if !self.rng.one_in(self.early_one_in) {
            return Ok(());
        }
        let pages = position / PAGE..(position + len).div_ceil(PAGE);
        let rng = &mut self.rng;
        self.tree.change(node, |content| content.write_back_some(pages, rng))
    }
}

/// All files lie on one device.
const DEVICE: u64 = 0x51;

/// The last byte's position must fit the system's signed offset.
fn in_range(position: u64, len: u64) -> io::Result<()> {
    match position.checked_add(len).and_then(|end| i64::try_from(end).ok()) {
        Some(_) => Ok(()),
        None => Err(Errno::FBIG.into()),
    }
}

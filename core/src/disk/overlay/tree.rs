//! F2 · The names of an overlay: what was asked for or changed, over what is there.
//!
//! ```text
//!   folder.names     a: file, its length as first seen     b: gone     c: a folder like this one
//!   folder.below     a  b  c  d  e                         where a name is not noted, this one's shows
//! ```
//!
//! Always true here: only what is asked for or changed takes memory; a folder that is moved takes what
//! is below with it, wherever that lies.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustix::io::Errno;

use crate::disk::{Disk, Entry, Kind, Stat};

/// What is known and changed of the names.
pub(super) struct Tree {
    pub(super) absolute: Folder,
    /// What relative paths begin at.
    pub(super) relative: Folder,
    /// The number of the next file or folder that is made here: counted down, far from those below.
    pub(super) next_ino: u64,
}

/// A folder of which something is known or changed.
pub(super) struct Folder {
    /// Whose names show where none is noted here; `None` for one that was made here.
    pub(super) below: Option<PathBuf>,
    pub(super) dev: u64,
    /// Its number, when it was made here.
    pub(super) ino: u64,
    pub(super) names: BTreeMap<OsString, Name>,
}

/// What a name stands for, whatever is below.
pub(super) enum Name {
    File(Arc<Node>),
    Folder(Folder),
    /// Removed here.
    Gone,
}

/// A file that was asked for, or made here.
pub(super) struct Node {
    /// Where its bytes come from; `None` for one that was made here.
    pub(super) below: Option<PathBuf>,
    /// As it was first seen; its length is that of `content`.
    pub(super) seen: Stat,
    pub(super) content: RwLock<Content>,
}

pub(super) struct Content {
    pub(super) len: u64,
    /// Bytes before this are those below, where no page says otherwise.
    pub(super) below: u64,
    pub(super) pages: BTreeMap<u64, Box<[u8]>>,
}

/// Where a path leads.
pub(super) enum Found {
    File(Arc<Node>),
    /// A folder of which something is noted.
    Noted,
    /// Something of which nothing is noted, on the inner disk.
    Below(PathBuf, Stat),
    Missing,
}

impl Found {
    pub(super) fn is_folder(&self) -> bool {
        match self {
            Self::Noted => true,
            Self::Below(_, stat) => stat.kind == Kind::Dir,
            Self::File(_) | Self::Missing => false,
        }
    }
}

/// A path without `.` and `..`.
#[derive(PartialEq, Eq)]
pub(super) struct Way {
    pub(super) absolute: bool,
    pub(super) names: Vec<OsString>,
}

impl Way {
    pub(super) fn split(&self) -> io::Result<(&[OsString], &OsString)> {
        match self.names.split_last() {
            Some((name, folder)) => Ok((folder, name)),
            None => Err(Errno::BUSY.into()),
        }
    }
}

/// Whether `inside` lies below `folder`.
pub(super) fn within(folder: &Way, inside: &Way) -> bool {
    folder.absolute == inside.absolute
        && inside.names.len() > folder.names.len()
        && inside.names.starts_with(&folder.names)
}

/// Whether both are the same file: numbers are used again, times of birth are not.
pub(super) fn is_same(a: &Stat, b: &Stat) -> bool {
    let born = a.birth_ns.is_none() || b.birth_ns.is_none() || a.birth_ns == b.birth_ns;
    (a.dev, a.ino) == (b.dev, b.ino) && born
}

impl Content {
    /// Whether nothing was written, cut or grown.
    pub(super) fn is_as_seen(&self, seen: &Stat) -> bool {
        self.pages.is_empty() && self.below == seen.len && self.len == seen.len
    }
}

impl Folder {
    /// Takes a name away, whatever is below.
    pub(super) fn remove(&mut self, name: &OsString) {
        match self.below {
            Some(_) => _ = self.names.insert(name.clone(), Name::Gone),
            None => _ = self.names.remove(name),
        }
    }
}

impl Node {
    pub(super) fn seen(path: PathBuf, seen: Stat) -> Self {
        let content = Content { len: seen.len, below: seen.len, pages: BTreeMap::new() };
        Self { below: Some(path), seen, content: RwLock::new(content) }
    }

    pub(super) fn stat(&self) -> Stat {
        Stat { len: self.content.read().len, ..self.seen }
    }
}

impl Tree {
    pub(super) fn root_mut(&mut self, absolute: bool) -> &mut Folder {
        if absolute { &mut self.absolute } else { &mut self.relative }
    }

    /// The names on the way to `path`.
    pub(super) fn way<D: Disk>(&self, inner: &D, path: &Path) -> io::Result<Way> {
        let mut way = Way { absolute: path.is_absolute(), names: Vec::new() };
        for step in path.components() {
            match step {
                Component::Normal(name) => way.names.push(name.to_owned()),
                Component::ParentDir => {
                    match self.find(inner, &way)? {
                        Found::Missing => return Err(Errno::NOENT.into()),
                        found if !found.is_folder() => return Err(Errno::NOTDIR.into()),
                        _ => {}
                    }
                    if way.names.pop().is_none() && !way.absolute {
                        // What lies above a relative path is not ours to guess.
                        way = Way {
                            absolute: true,
                            names: names_of(&inner.canonical("..".as_ref())?),
                        };
                    }
                }
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
        Ok(way)
    }

    pub(super) fn find<D: Disk>(&self, inner: &D, way: &Way) -> io::Result<Found> {
        let mut folder = if way.absolute { &self.absolute } else { &self.relative };
        for (at, name) in way.names.iter().enumerate() {
            let last = at + 1 == way.names.len();
            match folder.names.get(name) {
                Some(Name::Folder(next)) => folder = next,
                Some(Name::File(node)) if last => return Ok(Found::File(Arc::clone(node))),
                Some(Name::File(_)) => return Err(Errno::NOTDIR.into()),
                Some(Name::Gone) if last => return Ok(Found::Missing),
                Some(Name::Gone) => return Err(Errno::NOENT.into()),
                None => {
                    let Some(below) = &folder.below else {
                        return if last { Ok(Found::Missing) } else { Err(Errno::NOENT.into()) };
                    };
                    let path = below.join(way.names[at..].iter().collect::<PathBuf>());
                    return match inner.stat(&path) {
                        Ok(stat) => Ok(Found::Below(path, stat)),
                        Err(e) if e.kind() == io::ErrorKind::NotFound => {
                            // A missing name in a folder that is there, or in one that is not.
                            if !last && inner.stat(path.parent().unwrap_or(&path)).is_err() {
                                return Err(e);
                            }
                            Ok(Found::Missing)
                        }
                        Err(e) => Err(e),
                    };
                }
            }
        }
        Ok(Found::Noted)
    }

    /// Refuses a path that is no folder.
    pub(super) fn check_folder<D: Disk>(
        &self,
        inner: &D,
        absolute: bool,
        names: &[OsString],
    ) -> io::Result<()> {
        match self.find(inner, &Way { absolute, names: names.to_vec() })? {
            Found::Missing => Err(Errno::NOENT.into()),
            found if found.is_folder() => Ok(()),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    /// The folder of these names, noted from now on.
    pub(super) fn folder_at<D: Disk>(
        &mut self,
        inner: &D,
        absolute: bool,
        names: &[OsString],
    ) -> io::Result<&mut Folder> {
        let mut folder = self.root_mut(absolute);
        for name in names {
            if !folder.names.contains_key(name) {
                let Some(below) = &folder.below else { return Err(Errno::NOENT.into()) };
                let path = below.join(name);
                let stat = inner.stat(&path)?;
                if stat.kind != Kind::Dir {
                    return Err(Errno::NOTDIR.into());
                }
                let noted = Folder {
                    below: Some(path),
                    dev: stat.dev,
                    ino: stat.ino,
                    names: BTreeMap::new(),
                };
                folder.names.insert(name.clone(), Name::Folder(noted));
            }
            folder = match folder.names.get_mut(name) {
                Some(Name::Folder(next)) => next,
                Some(Name::File(_)) => return Err(Errno::NOTDIR.into()),
                Some(Name::Gone) | None => return Err(Errno::NOENT.into()),
            };
        }
        Ok(folder)
    }

    /// The folder that holds the last of these names, noted from now on.
    pub(super) fn folder_mut<D: Disk>(
        &mut self,
        inner: &D,
        absolute: bool,
        names: &[OsString],
    ) -> io::Result<&mut Folder> {
        let parent = names.split_last().map_or(&[][..], |(_, parent)| parent);
        self.folder_at(inner, absolute, parent)
    }

    /// Notes a file that was seen below.
    pub(super) fn note<D: Disk>(
        &mut self,
        inner: &D,
        way: &Way,
        node: Node,
    ) -> io::Result<Arc<Node>> {
        let (folder, name) = way.split()?;
        let node = Arc::new(node);
        let folder = self.folder_at(inner, way.absolute, folder)?;
        folder.names.insert(name.clone(), Name::File(Arc::clone(&node)));
        Ok(node)
    }

    /// Makes an empty file where there is none.
    pub(super) fn create<D: Disk>(&mut self, inner: &D, way: &Way) -> io::Result<Arc<Node>> {
        let (folder, name) = way.split()?;
        let ino = self.next_ino;
        let folder = self.folder_at(inner, way.absolute, folder)?;
        let seen =
            Stat { dev: folder.dev, ino, birth_ns: None, len: 0, mtime_ms: 0, kind: Kind::File };
        let content = Content { len: 0, below: 0, pages: BTreeMap::new() };
        let node = Arc::new(Node { below: None, seen, content: RwLock::new(content) });
        folder.names.insert(name.clone(), Name::File(Arc::clone(&node)));
        self.next_ino -= 1;
        Ok(node)
    }

    pub(super) fn list<D: Disk>(&self, inner: &D, way: &Way) -> io::Result<Vec<Entry>> {
        let mut folder = if way.absolute { &self.absolute } else { &self.relative };
        for (at, name) in way.names.iter().enumerate() {
            match (folder.names.get(name), &folder.below) {
                (Some(Name::Folder(next)), _) => folder = next,
                (Some(Name::File(_)), _) => return Err(Errno::NOTDIR.into()),
                (None, Some(below)) => {
                    let rest: PathBuf = way.names[at..].iter().collect();
                    return inner.list(&below.join(rest));
                }
                (Some(Name::Gone) | None, _) => return Err(Errno::NOENT.into()),
            }
        }
        let mut entries = match &folder.below {
            Some(below) => inner.list(below)?,
            None => Vec::new(),
        };
        entries.retain(|entry| !folder.names.contains_key(&entry.name));
        let noted = folder.names.iter().filter_map(|(name, what)| {
            let is_dir = match what {
                Name::Gone => return None,
                Name::File(_) => false,
                Name::Folder(_) => true,
            };
            Some(Entry { name: name.clone(), is_dir })
        });
        entries.extend(noted);
        entries.sort_unstable();
        Ok(entries)
    }

    /// The nearest folder on the inner disk, at or above these names, and how many of them lead there.
    pub(super) fn nearest(&self, way: &Way) -> (PathBuf, usize) {
        let mut folder = if way.absolute { &self.absolute } else { &self.relative };
        let mut nearest = (folder.below.clone().unwrap_or_default(), 0);
        for (at, name) in way.names.iter().enumerate() {
            match (folder.names.get(name), &folder.below) {
                (Some(Name::Folder(next)), _) => folder = next,
                (None, Some(below)) => {
                    let rest: PathBuf = way.names[at..].iter().collect();
                    return (below.join(rest), way.names.len());
                }
                _ => break,
            }
            if let Some(below) = &folder.below {
                nearest = (below.clone(), at + 1);
            }
        }
        nearest
    }
}

fn names_of(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|step| match step {
        Component::Normal(name) => Some(name.to_owned()),
        _ => None,
    });
    names.collect()
}

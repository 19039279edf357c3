//! F2 · A disk that is only looked at: what is written stays in memory, what lies below never changes.
//!
//! ```text
//!   Overlay     names that were asked for or changed          anything else
//!                 file:   length as first seen, pages written    |
//!                 folder: names made and removed                 |
//!   ------------------------------------------------------------v---- only Open::Read, list, stat
//!   inner disk  another process may append, rename and remove here at any time
//! ```
//!
//! Whoever opens a log on it recovers *by the very code of a writer*: torn tails are cut, side files
//! rebuilt and strays removed, all in memory.
//!
//! Always true here: no byte, name or time of the inner disk changes, no lock is taken and nothing is
//! synced there. A file is the one that was first seen under its name, and as long as it was then:
//! what its writer appends later does not show, also not behind a cut that was made here. When its
//! writer has renamed it to `.deleted`, or from `.swap` to what it is to be, it is found there; when it is gone, replaced or shorter, reading
//! it fails with `ESTALE`, and never reads as another file. Bytes within the length are not copied: a
//! file that is changed in place shows its changes.
//!
//! A path stands for what it says: two ways to one file (symbolic or hard links below) are two files
//! here as soon as one of them is written.

mod tree;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use self::tree::{Content, Folder, Found, Name, Node, Tree, Way, is_same, within};
use super::handles::DELETED;
use super::{Disk, DiskFile, Entry, Kind, LockKind, Open, Stat, read_exact_at};

/// The ending of a compacted file that is about to take its place.
const SWAP: &str = "swap";
/// Changed bytes are kept in pages of this size.
const PAGE: u64 = 4096;

/// A disk over another one that it only reads.
///
/// ```
/// use std::path::Path;
/// use thalweg_core::disk::{Disk, Open, overlay::Overlay, read_file, sim::SimDisk, write_all_at};
/// let disk = SimDisk::new(1);
/// write_all_at(&disk.open(Path::new("/kept"), Open::Create)?, b"as it was", 0)?;
///
/// let looked_at = Overlay::new(disk.clone());
/// write_all_at(&looked_at.open(Path::new("/kept"), Open::Write)?, b"AS", 0)?;
/// looked_at.rename(Path::new("/kept"), Path::new("/moved"))?;
/// assert_eq!(read_file(&looked_at, Path::new("/moved"), 100)?, b"AS it was");
/// assert_eq!(read_file(&disk, Path::new("/kept"), 100)?, b"as it was");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Overlay<D: Disk> {
    inner: D,
    tree: Arc<Mutex<Tree>>,
}

impl<D: Disk> Clone for Overlay<D> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), tree: Arc::clone(&self.tree) }
    }
}

impl<D: Disk> fmt::Debug for Overlay<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay").finish_non_exhaustive()
    }
}

/// An open file of an overlay.
pub struct OverlayFile<D: Disk> {
    node: Arc<Node>,
    below: Option<D::File>,
    writable: bool,
}

impl<D: Disk> Overlay<D> {
    /// A disk over `inner`, without a change yet.
    pub fn new(inner: D) -> Self {
        let root = |path: &str| Folder {
            below: Some(path.into()),
            dev: inner.stat(Path::new(path)).map_or(0, |stat| stat.dev),
            ino: 0,
            names: BTreeMap::new(),
        };
        let tree = Tree { absolute: root("/"), relative: root("."), next_ino: u64::MAX };
        Self { inner, tree: Arc::new(Mutex::new(tree)) }
    }

    /// Another overlay over the same disk, without what was seen and changed on this one.
    #[must_use]
    pub fn afresh(&self) -> Self {
        Self::new(self.inner.clone())
    }

    /// Forgets everything seen and changed at `path` and below it: what is there now shows again.
    /// Files that are open stay what they are.
    pub fn forget(&self, path: &Path) {
        let mut tree = self.tree.lock();
        let Ok(way) = tree.way(&self.inner, path) else { return };
        let Some((name, folder)) = way.names.split_last() else { return };
        let mut at = tree.root_mut(way.absolute);
        for step in folder {
            match at.names.get_mut(step) {
                Some(Name::Folder(next)) => at = next,
                _ => return,
            }
        }
        at.names.remove(name);
    }

    /// Where the bytes of a file lie that is as it was first seen: not written here, and as long below as
    /// it was. `None` for any other.
    pub fn unchanged(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let found = {
            let tree = self.tree.lock();
            let way = tree.way(&self.inner, path)?;
            tree.find(&self.inner, &way)?
        };
        let node = match found {
            Found::File(node) => node,
            Found::Below(path, stat) if stat.kind == Kind::File => return Ok(Some(path)),
            _ => return Ok(None),
        };
        let Some(path) = node.below.clone().filter(|_| node.content.read().is_as_seen(&node.seen))
        else {
            return Ok(None);
        };
        let now = self.inner.stat(&path)?;
        Ok(Some(path).filter(|_| is_same(&now, &node.seen) && now.len == node.seen.len))
    }

    /// Opens the bytes of a file where they lie now.
    fn open_below(&self, node: &Node) -> io::Result<Option<D::File>> {
        let Some(path) = &node.below else { return Ok(None) };
        if node.content.read().below == 0 {
            return Ok(None);
        }
        let mut file = self.inner.open(path, Open::Read);
        if file.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            let next = if path.extension().is_some_and(|end| end == SWAP) {
                path.with_extension("")
            } else {
                let mut last = path.clone().into_os_string();
                last.push(DELETED);
                last.into()
            };
            file = self.inner.open(&next, Open::Read);
        }
        let file = match file {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Errno::STALE.into()),
            file => file?,
        };
        if is_same(&file.stat()?, &node.seen) { Ok(Some(file)) } else { Err(Errno::STALE.into()) }
    }

    fn handle(&self, node: Arc<Node>, how: Open) -> io::Result<OverlayFile<D>> {
        let below = self.open_below(&node)?;
        Ok(OverlayFile { node, below, writable: how != Open::Read })
    }

    fn rename_as(&self, from: &Path, to: &Path, refuse_taken: bool) -> io::Result<()> {
        let (inner, mut tree) = (&self.inner, self.tree.lock());
        let source = tree.way(inner, from)?;
        let found = tree.find(inner, &source)?;
        let target = tree.way(inner, to)?;
        let taken = tree.find(inner, &target)?;
        if let Ok((folder, _)) = target.split() {
            tree.check_folder(inner, target.absolute, folder)?;
        }
        if matches!(found, Found::Missing) {
            return Err(Errno::NOENT.into());
        }
        let ((_, name), (folder, to_name)) = (source.split()?, target.split()?);
        if refuse_taken && !matches!(taken, Found::Missing) {
            return Err(Errno::EXIST.into());
        }
        let same = match (&found, &taken) {
            (Found::File(a), Found::File(b)) => Arc::ptr_eq(a, b),
            _ => source == target,
        };
        if same {
            return Ok(());
        }
        if found.is_folder() && within(&source, &target) {
            return Err(Errno::INVAL.into());
        }
        if !matches!(taken, Found::Missing) {
            if within(&target, &source) {
                return Err(Errno::NOTEMPTY.into());
            }
            match (found.is_folder(), taken.is_folder()) {
                (true, false) => return Err(Errno::NOTDIR.into()),
                (false, true) => return Err(Errno::ISDIR.into()),
                (true, true) if !tree.list(inner, &target)?.is_empty() => {
                    return Err(Errno::NOTEMPTY.into());
                }
                _ => {}
            }
        }
        let before = tree.folder_mut(inner, source.absolute, &source.names)?;
        let moved = before.names.remove(name);
        before.remove(name);
        let moved = match (moved, found) {
            (Some(moved), _) => moved,
            (None, Found::Below(path, stat)) if stat.kind == Kind::Dir => Name::Folder(Folder {
                below: Some(path),
                dev: stat.dev,
                ino: stat.ino,
                names: BTreeMap::new(),
            }),
            (None, Found::Below(path, stat)) => Name::File(Arc::new(Node::seen(path, stat))),
            (None, _) => return Err(Errno::NOENT.into()),
        };
        let after = tree.folder_at(inner, target.absolute, folder)?;
        after.names.insert(to_name.clone(), moved);
        Ok(())
    }
}

impl<D: Disk> Disk for Overlay<D> {
    type File = OverlayFile<D>;
    /// Nobody is kept out.
    type Lock = ();

    fn open(&self, path: &Path, how: Open) -> io::Result<OverlayFile<D>> {
        let mut tree = self.tree.lock();
        let way = tree.way(&self.inner, path)?;
        let found = tree.find(&self.inner, &way)?;
        if how == Open::CreateNew && !matches!(found, Found::Missing) {
            return Err(Errno::EXIST.into());
        }
        match found {
            Found::File(node) => {
                drop(tree);
                self.handle(node, how)
            }
            Found::Below(path, stat) if stat.kind != Kind::Dir => {
                // Its length and its number are those of what was opened, whatever its name says now.
                let file = self.inner.open(&path, Open::Read)?;
                let node = tree.note(&self.inner, &way, Node::seen(path, file.stat()?))?;
                Ok(OverlayFile { node, below: Some(file), writable: how != Open::Read })
            }
            Found::Noted | Found::Below(..) => Err(Errno::ISDIR.into()),
            Found::Missing if matches!(how, Open::Read | Open::Write) => Err(Errno::NOENT.into()),
            Found::Missing => {
                let node = tree.create(&self.inner, &way)?;
                Ok(OverlayFile { node, below: None, writable: true })
            }
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename_as(from, to, false)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename_as(from, to, true)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (inner, mut tree) = (&self.inner, self.tree.lock());
        let source = tree.way(inner, from)?;
        let found = tree.find(inner, &source)?;
        let target = tree.way(inner, to)?;
        if matches!(found, Found::Missing) {
            return Err(Errno::NOENT.into());
        }
        if !matches!(tree.find(inner, &target)?, Found::Missing) {
            return Err(Errno::EXIST.into());
        }
        let node = match found {
            Found::File(node) => node,
            Found::Below(path, stat) if stat.kind == Kind::File => {
                tree.note(inner, &source, Node::seen(path, stat))?
            }
            _ => return Err(Errno::PERM.into()),
        };
        let (folder, name) = target.split()?;
        let folder = tree.folder_at(inner, target.absolute, folder)?;
        folder.names.insert(name.clone(), Name::File(node));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (inner, mut tree) = (&self.inner, self.tree.lock());
        let way = tree.way(inner, path)?;
        match tree.find(inner, &way)? {
            Found::Missing => return Err(Errno::NOENT.into()),
            found if found.is_folder() => return Err(Errno::ISDIR.into()),
            _ => {}
        }
        let (folder, name) = way.split()?;
        tree.folder_at(inner, way.absolute, folder)?.remove(name);
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let (inner, mut tree) = (&self.inner, self.tree.lock());
        let way = tree.way(inner, path)?;
        if !matches!(tree.find(inner, &way)?, Found::Missing) {
            return Err(Errno::EXIST.into());
        }
        let (folder, name) = way.split()?;
        let ino = tree.next_ino;
        let folder = tree.folder_at(inner, way.absolute, folder)?;
        let made = Folder { below: None, dev: folder.dev, ino, names: BTreeMap::new() };
        folder.names.insert(name.clone(), Name::Folder(made));
        tree.next_ino -= 1;
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let (inner, mut tree) = (&self.inner, self.tree.lock());
        let way = tree.way(inner, path)?;
        match tree.find(inner, &way)? {
            Found::Missing => return Err(Errno::NOENT.into()),
            found if !found.is_folder() => return Err(Errno::NOTDIR.into()),
            _ => {}
        }
        let (folder, name) = way.split()?;
        if !tree.list(inner, &way)?.is_empty() {
            return Err(Errno::NOTEMPTY.into());
        }
        tree.folder_at(inner, way.absolute, folder)?.remove(name);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let tree = self.tree.lock();
        let way = tree.way(&self.inner, path)?;
        tree.list(&self.inner, &way)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let mut tree = self.tree.lock();
        let way = tree.way(&self.inner, path)?;
        match tree.find(&self.inner, &way)? {
            Found::Missing => Err(Errno::NOENT.into()),
            Found::File(node) => Ok(node.stat()),
            Found::Below(path, stat) if stat.kind == Kind::File => {
                tree.note(&self.inner, &way, Node::seen(path, stat))?;
                Ok(stat)
            }
            Found::Below(_, stat) => Ok(stat),
            Found::Noted => {
                let folder = tree.folder_at(&self.inner, way.absolute, &way.names)?;
                match &folder.below {
                    Some(below) => self.inner.stat(below),
                    None => Ok(Stat {
                        dev: folder.dev,
                        ino: folder.ino,
                        birth_ns: None,
                        len: 0,
                        mtime_ms: 0,
                        kind: Kind::Dir,
                    }),
                }
            }
        }
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        let tree = self.tree.lock();
        let way = tree.way(&self.inner, path)?;
        match tree.find(&self.inner, &way)? {
            Found::Missing => Err(Errno::NOENT.into()),
            Found::Below(path, _) => self.inner.canonical(&path),
            Found::File(_) | Found::Noted => {
                let mut known = Way { names: way.names.clone(), ..way };
                // The deepest folder on the way that lies below under its own name.
                while let Some(name) = known.names.pop() {
                    let (path, depth) = tree.nearest(&known);
                    if depth == known.names.len() {
                        let rest: PathBuf = way.names[depth..].iter().collect();
                        drop(name);
                        return Ok(self.inner.canonical(&path)?.join(rest));
                    }
                }
                self.inner.canonical(path)
            }
        }
    }

    /// Always free, and nobody is kept out; the file is made here as everywhere.
    fn lock(&self, path: &Path, _kind: LockKind) -> io::Result<()> {
        self.open(path, Open::Create).map(drop)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let tree = self.tree.lock();
        let way = tree.way(&self.inner, path)?;
        tree.check_folder(&self.inner, way.absolute, &way.names)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let tree = self.tree.lock();
        let way = tree.way(&self.inner, path)?;
        if matches!(tree.find(&self.inner, &way)?, Found::Missing) {
            return Err(Errno::NOENT.into());
        }
        self.inner.free_space(&tree.nearest(&way).0)
    }

    fn boot_id(&self) -> String {
        self.inner.boot_id()
    }
}

impl<D: Disk> OverlayFile<D> {
    /// Reads below what no page covers. Its writer may have cut it: that is not the end of the file.
    fn read_below(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let Some(file) = &self.below else { return Err(Errno::STALE.into()) };
        match file.read_at(buf, position) {
            Ok(0) if !buf.is_empty() => Err(Errno::STALE.into()),
            read => read,
        }
    }

    /// A page as it is, to be changed.
    fn page_of(&self, content: &Content, number: u64) -> io::Result<Box<[u8]>> {
        let mut page = vec![0; PAGE as usize].into_boxed_slice();
        let begin = number * PAGE;
        if begin < content.below {
            let known = (content.below - begin).min(PAGE) as usize;
            let Some(file) = &self.below else { return Err(Errno::STALE.into()) };
            read_exact_at(file, &mut page[..known], begin).map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => Errno::STALE.into(),
                _ => e,
            })?;
        }
        Ok(page)
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(Errno::BADF.into()) }
    }
}

/// The last byte's position must fit the system's signed offset.
fn in_range(position: u64, len: u64) -> io::Result<()> {
    match position.checked_add(len).and_then(|end| i64::try_from(end).ok()) {
        Some(_) => Ok(()),
        None => Err(Errno::FBIG.into()),
    }
}

impl<D: Disk> DiskFile for OverlayFile<D> {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let content = self.node.content.read();
        let want = content.len.saturating_sub(position).min(buf.len() as u64);
        if content.pages.is_empty() && position + want <= content.below {
            // Nothing was changed: one call, whatever its size.
            drop(content);
            return self.read_below(&mut buf[..want as usize], position);
        }
        let mut done = 0;
        while done < want {
            let at = position + done;
            let inside = (at % PAGE) as usize;
            let mut take = (want - done).min(PAGE - inside as u64);
            let mut to = &mut buf[done as usize..(done + take) as usize];
            match content.pages.get(&(at / PAGE)) {
                Some(page) => to.copy_from_slice(&page[inside..inside + take as usize]),
                None if at < content.below => {
                    let here = take.min(content.below - at) as usize;
                    to = &mut to[..here];
                    take = self.read_below(to, at)? as u64;
                }
                None => to.fill(0),
            }
            done += take;
        }
        Ok(done as usize)
    }

    fn write_at(&self, buf: &[u8], position: u64) -> io::Result<usize> {
        self.check_writable()?;
        in_range(position, buf.len() as u64)?;
        let mut content = self.node.content.write();
        let mut done = 0;
        while done < buf.len() {
            let at = position + done as u64;
            let (number, inside) = (at / PAGE, (at % PAGE) as usize);
            let take = (buf.len() - done).min(PAGE as usize - inside);
            if !content.pages.contains_key(&number) {
                let page = self.page_of(&content, number)?;
                content.pages.insert(number, page);
            }
            if let Some(page) = content.pages.get_mut(&number) {
                page[inside..inside + take].copy_from_slice(&buf[done..done + take]);
            }
            done += take;
        }
        if done > 0 {
            content.len = content.len.max(position + done as u64);
        }
        Ok(done)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.check_writable()?;
        in_range(position, bufs.iter().map(|buf| buf.len() as u64).sum())?;
        let mut done = 0;
        for buf in bufs {
            done += self.write_at(buf, position + done as u64)?;
        }
        Ok(done)
    }

    /// Nothing: what is written here is gone with the process.
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // As Linux and the simulated disk have it.
        if !self.writable {
            return Err(Errno::INVAL.into());
        }
        in_range(len, 0)?;
        let mut content = self.node.content.write();
        if len < content.len {
            content.pages.split_off(&len.div_ceil(PAGE));
            if let Some(page) = content.pages.get_mut(&(len / PAGE)) {
                page[(len % PAGE) as usize..].fill(0);
            }
            content.below = content.below.min(len);
        }
        content.len = len;
        Ok(())
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.check_writable()?;
        in_range(position, len)?;
        if len == 0 { Err(Errno::INVAL.into()) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.node.content.read().len)
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(self.node.stat())
    }

    /// Nothing: the pages are its writer's.
    fn drop_cache(&self, _bytes: Range<u64>) -> io::Result<()> {
        Ok(())
    }
}

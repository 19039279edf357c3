//! Finds the files: one walk over files, folders and globs, from the globs' literal beginnings.
//!
//! ```text
//!   /srv/log/*/app-*.log        base /srv/log     parts  *  app-*.log     one name per level
//!   /srv/log/**/*.log           base /srv/log     deep: every folder below, the whole glob decides
//! ```
//!
//! Always true here: a scan changes nothing and keeps nothing but its answer; a folder is listed once
//! per scan; a file that has several names is listed once, under the first; what could not be looked
//! at is named, so that nobody takes it for gone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use globset::{GlobBuilder, GlobMatcher};
use thalweg_core::disk::{Disk, Entry, Kind, Stat};

use super::config::FileSourceConfig;
use super::identity::FileId;
use super::notice::{Fault, Trouble};
use crate::error::{Error, Result};

/// No walk goes deeper below its base: a guard against file systems without an end.
const DEPTH_MAX: usize = 64;

/// One file of a scan.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The name it was found under.
    pub(crate) path: PathBuf,
    /// What the system said.
    pub(crate) stat: Stat,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The files by path, each inode once.
    pub(crate) files: Vec<Found>,
    /// What went wrong on the way.
    pub(crate) faults: Vec<Fault>,
    /// The folders that files were looked for in.
    pub(crate) folders: Vec<PathBuf>,
    /// Folders and files that could not be looked at.
    unseen: Vec<PathBuf>,
    /// The excluded folders, without links.
    excluded: Vec<PathBuf>,
}

impl Listing {
    /// Whether the scan would have seen a file at `path`, as far as errors go.
    pub(crate) fn saw(&self, path: &Path) -> bool {
        !self.unseen.iter().any(|unseen| path.starts_with(unseen))
    }

    /// Whether `path` leads, over whatever links, into an excluded folder.
    pub(crate) fn excludes<D: Disk>(&self, disk: &D, path: &Path) -> bool {
        !self.excluded.is_empty() && {
            let path = disk.canonical(path).unwrap_or_else(|_| path.to_owned());
            self.excluded.iter().any(|excluded| path.starts_with(excluded))
        }
    }

    fn fault(&mut self, path: &Path, trouble: Trouble, what: impl Into<String>) {
        self.faults.push(Fault { path: path.to_owned(), trouble, what: what.into() });
    }
}

/// What to look for.
#[derive(Debug)]
pub(crate) struct Finder {
    wanted: Vec<Wanted>,
    excluded: Vec<PathBuf>,
    pass_unreadable: bool,
    /// What becomes of a name without a file.
    hope: &'static str,
}

#[derive(Debug)]
struct Wanted {
    path: PathBuf,
    glob: Option<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    base: PathBuf,
    whole: GlobMatcher,
    /// One glob per level below the base; `None` when the levels cannot be told apart.
    parts: Option<Vec<GlobMatcher>>,
}

impl Finder {
    /// Takes the paths of `config`, and makes relative ones absolute.
    pub(crate) fn new<D: Disk>(disk: &D, config: &FileSourceConfig) -> Result<Self> {
        let mut wanted = Vec::new();
        for path in &config.paths {
            let path = absolute(disk, path)?;
            let glob = match Pattern::parse(&path) {
                Err(_) if disk.stat(&path).is_ok() => None,
                glob => glob?,
            };
            wanted.push(Wanted { path, glob });
        }
        let excluded = config.excluded.iter().map(|path| absolute(disk, path));
        Ok(Self {
            wanted,
            excluded: excluded.collect::<Result<_>>()?,
            pass_unreadable: config.pass_unreadable,
            hope: if config.once { "; left out" } else { "; waiting for it" },
        })
    }

    /// Looks through everything once.
    pub(crate) fn scan<D: Disk>(&self, disk: &D) -> Listing {
        let excluded = self.excluded.iter().filter_map(|path| disk.stat(path).ok());
        let real = |path: &PathBuf| disk.canonical(path).unwrap_or_else(|_| path.clone());
        let real = self.excluded.iter().map(real).collect();
        let mut walk = Walk {
            disk,
            excluded: excluded.map(|stat| FileId::of(&stat)).collect(),
            pass_unreadable: self.pass_unreadable,
            lists: BTreeMap::new(),
            listing: Listing { excluded: real, ..Listing::default() },
        };
        for wanted in &self.wanted {
            self.look(&mut walk, wanted);
        }
        let mut listing = walk.listing;
        let single = self.wanted.iter().filter(|wanted| wanted.glob.is_none());
        let above = single.filter_map(|wanted| wanted.path.parent().map(Path::to_owned));
        listing.folders = walk.lists.into_keys().chain(above).collect();
        listing.files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut seen = BTreeSet::new();
        listing.files.retain(|found| seen.insert(FileId::of(&found.stat)));
        listing
    }

    fn look<D: Disk>(&self, walk: &mut Walk<'_, D>, wanted: &Wanted) {
        let path = &wanted.path;
        match walk.disk.stat(path) {
            Ok(_) if walk.listing.excludes(walk.disk, path) => walk.listing.fault(
                path,
                Trouble::Excluded,
                "is not read: it lies in a folder of the program's own data",
            ),
            Ok(stat) if stat.kind == Kind::Dir => walk.folder(path),
            Ok(stat) => walk.file(path, stat),
            Err(e) if is_absent(&e) => match &wanted.glob {
                Some(pattern) => {
                    let before = (walk.listing.files.len(), walk.listing.faults.len());
                    if !walk.listing.excludes(walk.disk, &pattern.base) {
                        walk.below(pattern, &pattern.base, &mut Vec::new());
                    }
                    if before == (walk.listing.files.len(), walk.listing.faults.len()) {
                        walk.listing.fault(
                            path,
                            Trouble::Missing,
                            format!("no file is named so{}", self.hope),
                        );
                    }
                }
                None => {
                    let what = format!("does not exist{}", self.hope);
                    walk.listing.fault(path, Trouble::Missing, what);
                }
            },
            Err(e) => walk.unseen(path, &e),
        }
    }

    /// Whether a file of this name is looked for.
    pub(crate) fn covers(&self, path: &Path) -> bool {
        self.wanted.iter().any(|wanted| {
            path == wanted.path
                || path.parent() == Some(&wanted.path)
                || wanted.glob.as_ref().is_some_and(|pattern| pattern.whole.is_match(path))
        })
    }
}

impl Pattern {
    /// `None` when the path holds no glob.
    fn parse(path: &Path) -> Result<Option<Self>> {
        let Some(text) = path.to_str() else { return Ok(None) };
        let is_meta = |text: &str| text.contains(['*', '?', '[', '{', '\\']);
        if !is_meta(text) {
            return Ok(None);
        }
        let compile = |text: &str| {
            GlobBuilder::new(text)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map(|glob| glob.compile_matcher())
                .map_err(|e| Error::Fatal {
                    what: format!(
                        "{}: is neither a name that can be found nor a glob: {e}",
                        path.display()
                    ),
                })
        };
        let whole = compile(text)?;
        let mut base = PathBuf::new();
        let mut parts = Vec::new();
        for component in path.components() {
            match component.as_os_str().to_str() {
                Some(part) if !parts.is_empty() || is_meta(part) => parts.push(part),
                _ => base.push(component),
            }
        }
        // Braces may hold slashes, two stars match any number of levels.
        let deep = text.contains("**") || text.contains('{');
        let parts = match deep {
            true => None,
            false => Some(parts.into_iter().map(compile).collect::<Result<_>>()?),
        };
        Ok(Some(Self { base, whole, parts }))
    }

    /// Whether files may lie below the folder `name`, found `level` levels below the base.
    fn descends(&self, level: usize, name: &Path) -> bool {
        match &self.parts {
            None => level < DEPTH_MAX,
            Some(parts) => level + 1 < parts.len() && parts[level].is_match(name),
        }
    }
}

/// One scan on its way.
struct Walk<'a, D> {
    disk: &'a D,
    excluded: BTreeSet<FileId>,
    pass_unreadable: bool,
    lists: BTreeMap<PathBuf, Rc<[Entry]>>,
    listing: Listing,
}

impl<D: Disk> Walk<'_, D> {
    /// The files right in a folder.
    fn folder(&mut self, dir: &Path) {
        for entry in self.list(dir).iter().filter(|entry| !entry.is_dir) {
            self.entry(&dir.join(&entry.name));
        }
    }

    /// What a glob matches below `dir`; `above` are the folders on the way, against cycles of links.
    fn below(&mut self, pattern: &Pattern, dir: &Path, above: &mut Vec<FileId>) {
        let Ok(stat) = self.disk.stat(dir) else { return };
        let id = FileId::of(&stat);
        if above.contains(&id) || self.excluded.contains(&id) {
            return;
        }
        above.push(id);
        for entry in self.list(dir).iter() {
            let path = dir.join(&entry.name);
            if !entry.is_dir {
                if pattern.whole.is_match(&path) {
                    self.entry(&path);
                }
            } else if pattern.descends(above.len() - 1, Path::new(&entry.name)) {
                self.below(pattern, &path, above);
            } else if pattern.whole.is_match(&path) {
                let what = "is a folder: to read its files, give the folder itself or FOLDER/*";
                self.listing.fault(&path, Trouble::Folder, what);
            }
        }
        above.pop();
    }

    fn entry(&mut self, path: &Path) {
        match self.disk.stat(path) {
            Ok(stat) => self.file(path, stat),
            // Removed since the folder was listed, or a link to nothing.
            Err(e) if is_absent(&e) => {}
            Err(e) => self.unseen(path, &e),
        }
    }

    fn file(&mut self, path: &Path, stat: Stat) {
        match stat.kind {
            Kind::File => self.listing.files.push(Found { path: path.to_owned(), stat }),
            Kind::Dir => {}
            Kind::Other => {
                self.listing.fault(path, Trouble::NoFile, "is not a regular file; it is not read")
            }
        }
    }

    fn list(&mut self, dir: &Path) -> Rc<[Entry]> {
        if let Some(list) = self.lists.get(dir) {
            return Rc::clone(list);
        }
        let list: Rc<[Entry]> = match self.disk.list(dir) {
            Ok(list) => Rc::from(list),
            Err(e) => {
                if !is_absent(&e) {
                    self.unseen(dir, &e);
                }
                Rc::from([])
            }
        };
        self.lists.insert(dir.to_owned(), Rc::clone(&list));
        list
    }

    fn unseen(&mut self, path: &Path, error: &io::Error) {
        self.listing.unseen.push(path.to_owned());
        if !(self.pass_unreadable && error.kind() == io::ErrorKind::PermissionDenied) {
            let what =
                format!("cannot be looked at: {error}; give read permission, or leave it out");
            self.listing.fault(path, Trouble::Unseen, what);
        }
    }
}

/// Whether an error says that nothing is there.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The path from the root, without `.`; links stay as they are.
fn absolute<D: Disk>(disk: &D, path: &Path) -> Result<PathBuf> {
    let base = if path.is_absolute() {
        PathBuf::new()
    } else {
        disk.canonical(Path::new(".")).map_err(|e| Error::Fatal {
            what: format!(
                "{}: cannot find out the working folder: {e}; give an absolute path",
                path.display()
            ),
        })?
    };
    let mut out = base;
    for component in path.components() {
        if component != Component::CurDir {
            out.push(component);
        }
    }
    Ok(out)
}

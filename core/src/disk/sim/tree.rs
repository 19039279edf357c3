//! F2 · The names of the simulated disk: what processes see, and what is on the medium.
//!
//! ```text
//!   folder.now       a  b  c     what every process sees
//!   folder.changes   +c  -d      unsynced, in order; each reaches the medium or not on its own
//!   folder.durable   a  b  d     what a power loss leaves at least
//! ```
//!
//! Always true here:
//! - `links` of a node counts its names in `now`; without names and handles it is dead: its number
//!   may be given to a new node at once, but its bytes stay for as long as a name may come back;
//! - a rename is two changes, in one folder or in two: after a power loss both names, either or
//!   neither may be there (of a folder at most one, as folders have no second names);
//! - what no name leads to after a power loss is gone, with all below it;
//! - two living nodes never share a number: when a removal is undone by a power loss although its
//!   number was given away and the new owner survived, the removal stands.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use super::pages::Content;
use super::rng::Rng;

/// A node of the simulation. Unlike its number on the device never given twice.
pub(super) type NodeId = u64;

/// The folder that is always there.
pub(super) const ROOT: NodeId = 1;

/// As Linux: longer chains of symbolic links are loops.
const HOPS_MAX: u32 = 40;

pub(super) struct Node {
    pub(super) ino: u64,
    pub(super) birth_ns: i64,
    pub(super) mtime_ms: i64,
    links: u32,
    handles: u32,
    /// Had a name or a handle, and has none now.
    dead: bool,
    pub(super) body: Body,
}

pub(super) enum Body {
    File(Content),
    Folder(Folder),
    Link(PathBuf),
}

#[derive(Default)]
pub(super) struct Folder {
    now: Names,
    durable: Names,
    changes: Vec<Change>,
}

type Names = BTreeMap<OsString, NodeId>;

struct Change {
    name: OsString,
    to: Option<NodeId>,
    /// A sync of the folder failed after this change: no later sync brings it to the medium.
    stuck: bool,
}

/// Where a path leads.
pub(super) struct Place {
    /// The folder that holds the last name.
    pub(super) folder: NodeId,
    pub(super) name: OsString,
    /// What the name stands for now.
    pub(super) node: Option<NodeId>,
    /// The whole path without links.
    pub(super) path: PathBuf,
}

pub(super) struct Tree {
    nodes: BTreeMap<NodeId, Node>,
    next_node: NodeId,
    next_ino: u64,
    free_inos: BTreeSet<u64>,
    sweep_at: usize,
    /// Pages of room taken by living files.
    pub(super) used: u64,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node {
            ino: ROOT,
            birth_ns: 0,
            mtime_ms: 0,
            links: 1,
            handles: 0,
            dead: false,
            body: Body::Folder(Folder::default()),
        };
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            next_node: ROOT + 1,
            next_ino: ROOT + 1,
            free_inos: BTreeSet::new(),
            sweep_at: SWEEP_MIN,
            used: 0,
        }
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(&id).expect("names and handles lead to nodes that are kept")
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("names and handles lead to nodes that are kept")
    }

    pub(super) fn folder(&self, id: NodeId) -> io::Result<&Folder> {
        match &self.node(id).body {
            Body::Folder(folder) => Ok(folder),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    pub(super) fn folder_mut(&mut self, id: NodeId) -> io::Result<&mut Folder> {
        match &mut self.node_mut(id).body {
            Body::Folder(folder) => Ok(folder),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    pub(super) fn is_folder(&self, id: NodeId) -> bool {
        matches!(self.node(id).body, Body::Folder(_))
    }

    pub(super) fn content(&self, id: NodeId) -> io::Result<&Content> {
        match &self.node(id).body {
            Body::File(content) => Ok(content),
            Body::Folder(_) => Err(Errno::ISDIR.into()),
            Body::Link(_) => Err(Errno::LOOP.into()),
        }
    }

    /// Changes a file's content and keeps the account of the room it takes.
    pub(super) fn change<T>(
        &mut self,
        id: NodeId,
        how: impl FnOnce(&mut Content) -> T,
    ) -> io::Result<T> {
        let Body::File(content) = &mut self.node_mut(id).body else {
            return Err(Errno::ISDIR.into());
        };
        let before = content.room();
        let value = how(content);
        let after = content.room();
        self.used = self.used + after - before;
        Ok(value)
    }

    /// As [`Tree::change`], for a change that takes exactly `pages` of room: spares the counting.
    pub(super) fn grow(
        &mut self,
        id: NodeId,
        pages: u64,
        how: impl FnOnce(&mut Content),
    ) -> io::Result<()> {
        let Body::File(content) = &mut self.node_mut(id).body else {
            return Err(Errno::ISDIR.into());
        };
        how(content);
        self.used += pages;
        Ok(())
    }

    /// Follows a path; the last name need not exist. A relative path begins at the root. A link in
    /// the last place is followed if `follow` says so.
    pub(super) fn walk(&self, path: &Path, follow: bool) -> io::Result<Place> {
        let mut way: Vec<(OsString, NodeId)> = Vec::new();
        let mut todo = Vec::new();
        push_steps(&mut todo, path);
        let mut hops = 0;
        while let Some(step) = todo.pop() {
            let here = way.last().map_or(ROOT, |(_, id)| *id);
            let names = &self.folder(here)?.now;
            if step == ".." {
                way.pop();
                continue;
            }
            let Some(&id) = names.get(&step) else {
                if !todo.is_empty() {
                    return Err(Errno::NOENT.into());
                }
                let path = path_of(&way).join(&step);
                return Ok(Place { folder: here, name: step, node: None, path });
            };
            match &self.node(id).body {
                Body::Link(target) if follow || !todo.is_empty() => {
                    hops += 1;
                    if hops > HOPS_MAX {
                        return Err(Errno::LOOP.into());
                    }
                    if target.is_absolute() {
                        way.clear();
                    }
                    push_steps(&mut todo, target);
                }
                _ => way.push((step, id)),
            }
        }
        let path = path_of(&way);
        let (name, node) = way.pop().unwrap_or((OsString::new(), ROOT));
        let folder = way.last().map_or(ROOT, |(_, id)| *id);
        Ok(Place { folder, name, node: Some(node), path })
    }

    /// The node of an existing path, links followed.
    pub(super) fn find(&self, path: &Path) -> io::Result<NodeId> {
        self.walk(path, true)?.node.ok_or_else(|| Errno::NOENT.into())
    }

    /// A new node without a name. Its number may be that of a node removed before.
    pub(super) fn create(&mut self, body: Body, now_ms: i64, rng: &mut Rng) -> NodeId {
        if self.nodes.len() >= self.sweep_at {
            self.sweep();
        }
        let ino = match self.free_inos.is_empty() || rng.coin() {
            true => self.fresh_ino(),
            false => self.free_inos.pop_first().unwrap_or_else(|| self.fresh_ino()),
        };
        let id = self.next_node;
        self.next_node += 1;
        // Nodes born in one millisecond differ in the nanoseconds.
        let birth_ns = now_ms.saturating_mul(1_000_000).saturating_add((id % 1_000_000) as i64);
        let node =
            Node { ino, birth_ns, mtime_ms: now_ms, links: 0, handles: 0, dead: false, body };
        self.nodes.insert(id, node);
        id
    }

    /// Makes `name` stand for `to`, or for nothing.
    pub(super) fn name(&mut self, folder: NodeId, name: OsString, to: Option<NodeId>) {
        if let Ok(folder) = self.folder_mut(folder) {
            folder.changes.push(Change { name: name.clone(), to, stuck: false });
        }
        self.show(folder, name, to);
    }

    /// Takes back what was not synced of one name.
    pub(super) fn revert_name(&mut self, place: &Place) -> io::Result<()> {
        let folder = self.folder_mut(place.folder)?;
        folder.changes.retain(|change| change.name != place.name);
        let durable = folder.durable.get(&place.name).copied();
        self.show(place.folder, place.name.clone(), durable);
        Ok(())
    }

    pub(super) fn hold(&mut self, id: NodeId) {
        self.node_mut(id).handles += 1;
    }

    pub(super) fn let_go(&mut self, id: NodeId) {
        self.node_mut(id).handles -= 1;
        self.bury_if_dead(id);
    }

    /// Whether `id` lies in the folder `top`, at any depth, or is it.
    pub(super) fn is_within(&self, top: NodeId, id: NodeId) -> bool {
        self.reach([top], |folder| folder.now.values().copied().collect()).contains(&id)
    }

    /// The power goes: names, folders and bytes that were not synced survive as the seed says.
    pub(super) fn lose_power(&mut self, rng: &mut Rng) {
        for node in self.nodes.values_mut() {
            node.links = 0;
            node.handles = 0;
            match &mut node.body {
                Body::File(content) => content.lose_power(rng),
                Body::Folder(folder) => folder.lose_power(rng),
                Body::Link(_) => {}
            }
        }
        self.drop_second_owners();
        self.drop_second_names_of_folders(rng);
        self.keep_what_has_a_name();
    }

    fn show(&mut self, folder: NodeId, name: OsString, to: Option<NodeId>) {
        let Ok(names) = self.folder_mut(folder).map(|folder| &mut folder.now) else { return };
        let old = match to {
            Some(id) => names.insert(name, id),
            None => names.remove(&name),
        };
        if let Some(id) = to {
            self.revive_if_dead(id);
            self.node_mut(id).links += 1;
        }
        if let Some(id) = old {
            self.node_mut(id).links -= 1;
            self.bury_if_dead(id);
        }
    }

    fn bury_if_dead(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        if node.links == 0 && node.handles == 0 {
            node.dead = true;
            let (room, ino) = (room(node), node.ino);
            self.used -= room;
            self.free_inos.insert(ino);
        }
    }

    /// A dead node whose name is there again takes room again, and its number too unless that was
    /// given away.
    fn revive_if_dead(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        if !std::mem::take(&mut node.dead) {
            return;
        }
        let (room, ino) = (room(node), node.ino);
        self.used += room;
        if !self.free_inos.remove(&ino) {
            let fresh = self.fresh_ino();
            self.node_mut(id).ino = fresh;
        }
    }

    fn fresh_ino(&mut self) -> u64 {
        self.next_ino += 1;
        self.next_ino - 1
    }

    /// Forgets the nodes that no process holds and no name can ever lead to again.
    fn sweep(&mut self) {
        let held = self.nodes.iter().filter(|(_, node)| node.handles > 0).map(|(id, _)| *id);
        let kept = self.reach(held.chain([ROOT]), |folder| {
            let changed = folder.changes.iter().filter_map(|change| change.to);
            folder.now.values().chain(folder.durable.values()).copied().chain(changed).collect()
        });
        self.nodes.retain(|id, _| kept.contains(id));
        self.sweep_at = SWEEP_MIN.max(2 * self.nodes.len());
    }

    fn reach(
        &self,
        from: impl IntoIterator<Item = NodeId>,
        below: impl Fn(&Folder) -> Vec<NodeId>,
    ) -> BTreeSet<NodeId> {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<NodeId> = from.into_iter().collect();
        while let Some(id) = todo.pop() {
            if seen.insert(id)
                && let Body::Folder(folder) = &self.node(id).body
            {
                todo.extend(below(folder));
            }
        }
        seen
    }

    fn named(&self) -> BTreeSet<NodeId> {
        self.reach([ROOT], |folder| folder.now.values().copied().collect())
    }

    fn drop_second_owners(&mut self) {
        let mut owner = BTreeMap::new();
        let mut lost = BTreeSet::new();
        // Ascending: of two owners of a number the later one was born after the earlier was removed.
        for id in self.named() {
            lost.extend(owner.insert(self.node(id).ino, id));
        }
        if !lost.is_empty() {
            self.unname(|_, _, id| lost.contains(&id));
        }
    }

    fn drop_second_names_of_folders(&mut self, rng: &mut Rng) {
        let mut names: BTreeMap<NodeId, Vec<(NodeId, OsString)>> = BTreeMap::new();
        for parent in self.named() {
            let Ok(folder) = self.folder(parent) else { continue };
            for (name, id) in folder.now.iter().filter(|(_, id)| self.is_folder(**id)) {
                names.entry(*id).or_default().push((parent, name.clone()));
            }
        }
        names.retain(|_, names| names.len() > 1);
        for (id, names) in names {
            let (parent, name) = &names[rng.below(names.len() as u64) as usize];
            self.unname(|at, as_name, of| of == id && (at, as_name) != (*parent, name));
        }
    }

    /// After a power loss: takes away the names for which `gone(folder, name, node)` holds.
    fn unname(&mut self, gone: impl Fn(NodeId, &OsString, NodeId) -> bool) {
        for (at, node) in &mut self.nodes {
            if let Body::Folder(folder) = &mut node.body {
                folder.now.retain(|name, id| !gone(*at, name, *id));
                folder.durable.retain(|name, id| !gone(*at, name, *id));
            }
        }
    }

    fn keep_what_has_a_name(&mut self) {
        let named = self.named();
        self.nodes.retain(|id, _| named.contains(id));
        let mut links = BTreeMap::from([(ROOT, 1)]);
        for node in self.nodes.values() {
            if let Body::Folder(folder) = &node.body {
                folder.now.values().for_each(|id| *links.entry(*id).or_insert(0) += 1);
            }
        }
        for (id, node) in &mut self.nodes {
            node.links = links.get(id).copied().unwrap_or(0);
            node.dead = false;
        }
        self.used = self.nodes.values().map(room).sum();
        let taken: BTreeSet<u64> = self.nodes.values().map(|node| node.ino).collect();
        self.free_inos = (ROOT..self.next_ino).filter(|ino| !taken.contains(ino)).collect();
    }
}

impl Folder {
    pub(super) fn names(&self) -> &BTreeMap<OsString, NodeId> {
        &self.now
    }

    /// A sync that succeeds. Changes that an earlier failed sync left behind stay unsynced, unless
    /// the name was changed again.
    pub(super) fn sync(&mut self) {
        let mut stuck: Vec<Change> = Vec::new();
        for change in std::mem::take(&mut self.changes) {
            if change.stuck {
                stuck.push(change);
            } else {
                stuck.retain(|earlier| earlier.name != change.name);
                change.apply(&mut self.durable);
            }
        }
        self.changes = stuck;
    }

    /// A sync that fails: whether what was changed before reaches the medium is open for good.
    pub(super) fn fail_sync(&mut self) {
        self.changes.iter_mut().for_each(|change| change.stuck = true);
    }

    fn lose_power(&mut self, rng: &mut Rng) {
        let fate = rng.below(4);
        for change in std::mem::take(&mut self.changes) {
            let kept = match fate {
                0 => false,
                1 => true,
                _ => rng.coin(),
            };
            if kept {
                change.apply(&mut self.durable);
            }
        }
        self.now = self.durable.clone();
    }
}

impl Change {
    fn apply(self, names: &mut Names) {
        match self.to {
            Some(id) => _ = names.insert(self.name, id),
            None => _ = names.remove(&self.name),
        }
    }
}

/// Below this many nodes nothing is swept.
const SWEEP_MIN: usize = 64;

fn room(node: &Node) -> u64 {
    match &node.body {
        Body::File(content) => content.room(),
        _ => 0,
    }
}

/// Puts the steps of a path on the stack, the first on top.
fn push_steps(todo: &mut Vec<OsString>, path: &Path) {
    let steps = path.components().rev().filter_map(|step| match step {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    todo.extend(steps);
}

fn path_of(way: &[(OsString, NodeId)]) -> PathBuf {
    let mut path = PathBuf::from("/");
    path.extend(way.iter().map(|(name, _)| name));
    path
}

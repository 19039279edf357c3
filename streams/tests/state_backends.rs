//! One suite for every backend, and what sled alone must do: keep what it was told to, refuse a second
//! opener, move aside what cannot be used, and never take the process with it.
#![expect(clippy::disallowed_methods, reason = "sled has real files, and a test looks into them")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::TempDir;
use thalweg_streams::state::backend::{Persist, StateBackend, StateError, StateStore, prefix_end};
use thalweg_streams::state::forgetful::{Crash, ForgetfulStore};
use thalweg_streams::state::memory::MemoryStore;
use thalweg_streams::state::sled::{LargeValue, Quarantined, SledSettings, SledStore};

/// A store that can be reopened as a new process would, and how it is called.
trait Lives {
    fn name(&self) -> &'static str;
    fn store(&self) -> &dyn StateStore;
    /// Closes after a last persist, or dies; false when nothing can be kept.
    fn reopen(&mut self) -> bool;
}

struct Memory(MemoryStore);

impl Lives for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }
    fn store(&self) -> &dyn StateStore {
        &self.0
    }
    fn reopen(&mut self) -> bool {
        false
    }
}

struct Forgetful(ForgetfulStore);

impl Lives for Forgetful {
    fn name(&self) -> &'static str {
        "forgetful"
    }
    fn store(&self) -> &dyn StateStore {
        &self.0
    }
    fn reopen(&mut self) -> bool {
        self.0.crash(Crash::Power);
        true
    }
}

struct Sled {
    dir: TempDir,
    store: Option<SledStore>,
}

impl Lives for Sled {
    fn name(&self) -> &'static str {
        "sled"
    }
    fn store(&self) -> &dyn StateStore {
        self.store.as_ref().expect("open")
    }
    fn reopen(&mut self) -> bool {
        self.store.take().expect("open").close().expect("closed");
        self.store = Some(healthy(self.dir.path()));
        true
    }
}

/// In memory where the system has such a folder: what is tested here is the order of things, and what
/// a process leaves behind, not a medium.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

fn settings() -> SledSettings {
    SledSettings { cache_bytes: 16 << 20, ..SledSettings::default() }
}

fn healthy(dir: &Path) -> SledStore {
    let (store, moved) = SledStore::open(dir, &settings(), 1).expect("opens");
    assert_eq!(moved, None);
    store
}

fn everyone() -> Vec<Box<dyn Lives>> {
    let dir = folder();
    let store = Some(healthy(dir.path()));
    vec![
        Box::new(Memory(MemoryStore::default())),
        Box::new(Forgetful(ForgetfulStore::new(1))),
        Box::new(Sled { dir, store }),
    ]
}

/// A seeded source of choices.
struct Choices(u64);

impl Choices {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % limit
    }
}

fn put(tree: &mut dyn StateBackend, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    let (key, value) = (key.as_ref().to_vec(), value.as_ref().to_vec());
    tree.write(&mut std::iter::once((key.into(), Some(value.into())))).expect("written");
}

fn rows(tree: &dyn StateBackend, from: &[u8], to: &[u8], rev: bool) -> Vec<(Bytes, Bytes)> {
    tree.range(from, to, rev).expect("readable").collect::<Result<_, _>>().expect("readable")
}

/// Random writes, deletes and clears against a plain map; all ranges between chosen keys, both ways.
/// More rows than one chunk, keys with every kind of end.
#[test]
fn every_backend_is_an_ordered_map() {
    for lives in everyone() {
        let name = lives.name();
        let mut random = Choices(7);
        let mut tree = lives.store().open("0-0").expect("opens");
        let reader = lives.store().open("0-0").expect("a second handle");
        let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        let key = |random: &mut Choices| -> Bytes {
            let bytes = [0u8, 1, 0x7f, 0xfe, 0xff];
            let len = 1 + random.below(4);
            (0..len).map(|_| bytes[random.below(5)]).collect::<Vec<u8>>().into()
        };
        for round in 0..40 {
            if round == 20 {
                tree.clear().expect("cleared");
                model.clear();
            }
            let mut batch: BTreeMap<Bytes, Option<Bytes>> = BTreeMap::new();
            for _ in 0..random.below(30) {
                let value = Bytes::from(vec![round; random.below(40)]);
                batch.insert(key(&mut random), (random.below(4) > 0).then_some(value));
            }
            for (key, value) in &batch {
                match value {
                    Some(value) => model.insert(key.clone(), value.clone()),
                    None => model.remove(key),
                };
            }
            tree.write(&mut batch.into_iter()).expect("written");
            for _ in 0..20 {
                let at = key(&mut random);
                assert_eq!(reader.get(&at).expect("readable"), model.get(&at).cloned(), "{name}");
                let (from, to) = (key(&mut random), key(&mut random));
                for to in [&to[..], &from[..], &[]] {
                    let inside =
                        model.iter().filter(|(k, _)| **k >= from && (to.is_empty() || k[..] < *to));
                    let mut inside: Vec<_> = inside.map(|(k, v)| (k.clone(), v.clone())).collect();
                    let context = format!("{name}, {from:?}..{to:?}");
                    assert_eq!(rows(reader.as_ref(), &from, to, false), inside, "{context}");
                    inside.reverse();
                    assert_eq!(rows(reader.as_ref(), &from, to, true), inside, "{context} back");
                }
            }
        }
        assert!(model.len() > 64, "{}: more than a chunk of rows", model.len());
        assert_eq!(rows(reader.as_ref(), &[], &[], false).len(), model.len(), "{name}");
    }
}

#[test]
fn every_backend_scans_a_store_by_its_prefix() {
    for lives in everyone() {
        let mut tree = lives.store().open("0-0").expect("opens");
        for key in [&[0, 1][..], &[0, 1, 0xff, 0xff], &[0, 2], &[0xff, 0xff], &[0xff, 0xff, 0xff]] {
            put(tree.as_mut(), key, key);
        }
        let store = |prefix: &[u8]| rows(tree.as_ref(), prefix, &prefix_end(prefix), false).len();
        let counts = [store(&[0, 1]), store(&[0, 2]), store(&[0xff, 0xff]), store(&[0, 3])];
        assert_eq!(counts, [2, 1, 2, 0], "{}", lives.name());
    }
}

#[test]
fn every_store_keeps_its_trees_apart() {
    for lives in everyone() {
        let (name, store) = (lives.name(), lives.store());
        let mut one = store.open("0-0").expect("opens");
        let mut two = store.open("0-1").expect("opens");
        put(one.as_mut(), "a", "1");
        put(two.as_mut(), "a", "2");
        two.clear().expect("cleared");
        assert_eq!(one.get(b"a").expect("readable").as_deref(), Some(&b"1"[..]), "{name}");
        assert_eq!(store.trees().expect("listed"), ["0-0", "0-1"], "{name}");
        let refused = store.drop_tree("0-0");
        assert!(matches!(refused, Err(StateError::Invalid { .. })), "{name}: it is open");
        drop((one, two));
        store.drop_tree("0-0").expect("dropped");
        store.drop_tree("9-9").expect("nothing to drop");
        assert_eq!(store.trees().expect("listed"), ["0-1"], "{name}");
        assert!(rows(store.open("0-0").expect("opens").as_ref(), &[], &[], false).is_empty());
    }
}

/// What was persisted is there in the next life, a clear included; and a handle sees what another
/// handle cleared.
#[test]
fn what_was_persisted_is_there_in_the_next_life() {
    for mut lives in everyone() {
        let name = lives.name();
        let mut tree = lives.store().open("0-0").expect("opens");
        for i in 0..100u8 {
            put(tree.as_mut(), [0, 1, i], [i; 10]);
        }
        tree.persist(Persist::Power).expect("persisted");
        drop(tree);
        if !lives.reopen() {
            continue;
        }
        let mut tree = lives.store().open("0-0").expect("opens");
        let other = lives.store().open("0-0").expect("opens");
        assert_eq!(rows(tree.as_ref(), &[], &[], false).len(), 100, "{name}");
        tree.clear().expect("cleared");
        assert!(rows(other.as_ref(), &[], &[], false).is_empty(), "{name}");
        put(tree.as_mut(), "new", "row");
        tree.persist(Persist::Power).expect("persisted");
        drop((tree, other));
        lives.reopen();
        let tree = lives.store().open("0-0").expect("opens");
        let left = rows(tree.as_ref(), &[], &[], false);
        assert_eq!(left, [(Bytes::from("new"), Bytes::from("row"))], "{name}");
    }
}

/// The forgetful store forgets: each of the ways in which it may is seen in some seed.
#[test]
fn the_forgetful_store_forgets_in_every_way() {
    let mut seen = BTreeMap::new();
    for seed in 0..300 {
        let store = ForgetfulStore::new(seed);
        let mut tree = store.open("t").expect("opens");
        put(tree.as_mut(), "a", "old");
        put(tree.as_mut(), "b", "old");
        tree.persist(Persist::Power).expect("persisted");
        tree.clear().expect("cleared");
        put(tree.as_mut(), "c", "new");
        store.crash(Crash::Power);
        assert!(matches!(tree.get(b"a"), Err(StateError::Stopped { .. })), "of an older life");
        let tree = store.open("t").expect("opens");
        let left: Vec<Bytes> =
            rows(tree.as_ref(), &[], &[], false).into_iter().map(|(key, _)| key).collect();
        *seen.entry(left).or_insert(0) += 1;
    }
    // Every subset of {a, b, c}.
    assert_eq!(seen.len(), 8, "{seen:?}");

    // A process keeps a prefix of what it wrote, and all that it was told to keep.
    let mut lengths = BTreeMap::new();
    for seed in 0..100 {
        let store = ForgetfulStore::new(seed);
        let mut tree = store.open("t").expect("opens");
        (0..3).for_each(|i| put(tree.as_mut(), [i], "x"));
        tree.persist(Persist::Process).expect("persisted");
        (3..6).for_each(|i| put(tree.as_mut(), [i], "x"));
        store.crash(Crash::Process);
        let tree = store.open("t").expect("opens");
        let left: Vec<u8> = rows(tree.as_ref(), &[], &[], false).iter().map(|r| r.0[0]).collect();
        let prefix: Vec<u8> = (0..left.len() as u8).collect();
        assert_eq!(left, prefix);
        *lengths.entry(left.len()).or_insert(0) += 1;
    }
    assert_eq!(lengths.keys().copied().collect::<Vec<_>>(), [3, 4, 5, 6]);
}

#[test]
fn a_second_opener_is_refused_and_nothing_is_moved() {
    let dir = folder();
    let store = healthy(dir.path());
    let again = SledStore::open(dir.path(), &settings(), 2).map(|(_, moved)| moved);
    assert!(matches!(again, Err(StateError::InUse { .. })), "{again:?}");
    // Not even when it is to be moved aside at the next start: this is not that start.
    fs::write(dir.path().join("sled/suspect"), "x").expect("written");
    let again = SledStore::open(dir.path(), &settings(), 2).map(|(_, moved)| moved);
    assert!(matches!(again, Err(StateError::InUse { .. })), "{again:?}");
    fs::remove_file(dir.path().join("sled/suspect")).expect("removed");
    put(store.open("0-0").expect("opens").as_mut(), "a", "1");
    store.close().expect("closed");
    let store = healthy(dir.path());
    assert!(store.open("0-0").expect("opens").get(b"a").expect("readable").is_some());
}

#[test]
fn a_store_with_open_trees_is_not_closed() {
    let dir = folder();
    let store = healthy(dir.path());
    let tree = store.open("0-0").expect("opens");
    assert!(matches!(store.close(), Err(StateError::Invalid { .. })));
    drop(tree);
}

#[test]
fn a_folder_that_cannot_be_one_is_an_error_that_names_it() {
    let dir = folder();
    let path = dir.path().join("state");
    fs::write(&path, "a file").expect("written");
    match SledStore::open(&path, &settings(), 1).map(|(_, moved)| moved) {
        Err(e @ StateError::Io { .. }) => {
            assert!(e.to_string().contains(&path.display().to_string()), "{e}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn large_values_are_told_once_per_store() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let told = told.clone();
        move |large: &LargeValue<'_>| {
            told.lock().push((large.tree.to_owned(), large.store, large.bytes));
        }
    };
    let settings = SledSettings { on_large_value: Some(Arc::new(hook)), ..settings() };
    let dir = folder();
    let (store, _) = SledStore::open(dir.path(), &settings, 1).expect("opens");
    let mut tree = store.open("2-1").expect("opens");
    put(tree.as_mut(), [0, 1], vec![1; 65535]);
    put(tree.as_mut(), [0, 1], vec![1; 65536]);
    put(tree.as_mut(), [0, 1], vec![2; 300_000]);
    put(tree.as_mut(), [0, 2], vec![3; 1_000_000]);
    assert_eq!(*told.lock(), [("2-1".to_owned(), 1, 65536), ("2-1".to_owned(), 2, 1_000_000)]);
    // Kept in files of their own, and there in the next life.
    tree.persist(Persist::Power).expect("persisted");
    drop(tree);
    store.close().expect("closed");
    let store = healthy(dir.path());
    let tree = store.open("2-1").expect("opens");
    assert_eq!(tree.get(&[0, 1]).expect("readable"), Some(vec![2; 300_000].into()));
    assert_eq!(tree.get(&[0, 2]).expect("readable"), Some(vec![3; 1_000_000].into()));
}

/// A task reads through one handle while the checkpointer writes through another.
#[test]
fn rows_are_read_while_others_are_written() {
    let dir = folder();
    let store = healthy(dir.path());
    let reader = store.open("0-0").expect("opens");
    let mut writer = store.open("0-0").expect("opens");
    put(writer.as_mut(), [0, 0, 0], "first");
    let writing = std::thread::spawn(move || {
        for i in 1..2000u16 {
            put(writer.as_mut(), [&[0], &i.to_be_bytes()[..]].concat(), vec![1; 50]);
        }
        writer.persist(Persist::Power).expect("persisted");
    });
    let mut most = 0;
    while !writing.is_finished() {
        let seen = rows(reader.as_ref(), &[], &[], false);
        assert!(seen.is_sorted(), "in order");
        assert!(seen.len() >= most, "nothing that was there is missed");
        most = seen.len();
    }
    writing.join().expect("written");
    assert_eq!(rows(reader.as_ref(), &[], &[], false).len(), 2000);
}

/// Several tasks persist at once: each has what it wrote when its call returns.
#[test]
fn barriers_are_shared_by_those_who_wait() {
    let dir = folder();
    let store = Arc::new(healthy(dir.path()));
    std::thread::scope(|scope| {
        for task in 0..6 {
            let store = store.clone();
            scope.spawn(move || {
                let mut tree = store.open(&format!("0-{task}")).expect("opens");
                for i in 0..10u8 {
                    put(tree.as_mut(), [0, 1, i], [i; 100]);
                    tree.persist(Persist::Power).expect("persisted");
                }
            });
        }
    });
    assert_eq!(store.trees().expect("listed").len(), 6);
    Arc::into_inner(store).expect("alone").close().expect("closed");
    let store = healthy(dir.path());
    for task in 0..6 {
        let tree = store.open(&format!("0-{task}")).expect("opens");
        assert_eq!(rows(tree.as_ref(), &[], &[], false).len(), 10);
    }
}

/// What an earlier life left to say that the database must not be used again.
#[test]
fn a_condemned_database_is_moved_aside_with_a_notice() {
    type Leave = fn(&Path);
    let cases: [(&str, Leave, Option<&str>); 5] = [
        (
            "it failed",
            |db| fs::write(db.join("suspect"), "sync failed").expect("w"),
            Some("sync failed"),
        ),
        (
            "three attempts did not end",
            |db| fs::write(db.join("opening"), "...").expect("w"),
            Some("the last 3 attempts"),
        ),
        ("two attempts did not end", |db| fs::write(db.join("opening"), "..").expect("w"), None),
        (
            "its settings are damaged",
            |db| fs::write(db.join("conf"), "\u{0}".repeat(99)).expect("w"),
            Some(""),
        ),
        (
            "it is of another layout",
            |db| {
                let db = sled::open(db).expect("opens");
                db.insert("thalweg", &[2][..]).expect("written");
                db.flush().expect("flushed");
                let path = db.context.path.join("db");
                drop(db);
                fs::File::open(path).and_then(|f| f.lock()).expect("let go");
            },
            Some("marks it as ours"),
        ),
    ];
    for (what, leave, expected) in cases {
        let dir = folder();
        let store = healthy(dir.path());
        put(store.open("0-0").expect("opens").as_mut(), "a", "1");
        store.close().expect("closed");
        leave(&dir.path().join("sled"));
        let (store, moved) = SledStore::open(dir.path(), &settings(), 1234).expect(what);
        let row = store.open("0-0").expect(what).get(b"a").expect(what);
        match expected {
            Some(says) => {
                let Quarantined { why, moved_to } = moved.expect(what);
                assert!(why.contains(says), "{what}: {why}");
                assert_eq!(moved_to, dir.path().join("quarantine-1234"), "{what}");
                assert!(moved_to.join("db").exists(), "{what}");
                assert_eq!(row, None, "{what}: it starts empty");
            }
            None => assert!(moved.is_none() && row.is_some(), "{what}: {moved:?}"),
        }
        store.close().expect(what);
        healthy(dir.path());
    }
}

#[test]
fn only_the_newest_quarantines_are_kept() {
    let dir = folder();
    for now in [8, 9, 10, 10, 11] {
        fs::create_dir_all(dir.path().join("sled")).expect("made");
        fs::write(dir.path().join("sled/suspect"), "x").expect("written");
        let (store, moved) = SledStore::open(dir.path(), &settings(), now).expect("opens");
        assert!(moved.is_some());
        store.close().expect("closed");
    }
    let names = fs::read_dir(dir.path()).expect("listed").map(|e| e.expect("listed").file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["quarantine-10.1", "quarantine-11", "sled"]);
}

//! The shape of the sources: which package may use which, which room stands on which, and that every
//! file says what it is. Sizes are printed, never judged: `cargo test --test tidy -- --nocapture`.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// What a package may use of ours.
const PACKAGES: [(&str, &[&str]); 4] = [
    ("core", &[]),
    ("streams", &["thalweg-core"]),
    ("connectors", &["thalweg-core"]),
    ("server", &["thalweg-core"]),
];

/// The rooms of a package, floor by floor: a file uses its own floor and those below.
const FLOORS: [(&str, &[&str]); 3] = [
    (
        "core",
        &[
            "ids error config request",
            "varint record compress batch",
            "disk",
            "log",
            "partition",
            "coordinator verify repair stats backup",
            "engine",
            "client",
        ],
    ),
    (
        "streams",
        &[
            "error text codec topic state",
            "time cx",
            "chain overlay stage",
            "window aggregate combine",
            "graph stream table windowed",
            "topology task",
            "layout position bring_up",
            "worker app",
            "driver",
        ],
    ),
    ("connectors", &["error", "source sink decode", "position file files", "run"]),
];

/// The engine implements the trait of the client's floor: the one arrow that points up.
const UP: (&str, &str) = ("engine", "client");

/// What core does without below the engine.
const NOT_BELOW_THE_ENGINE: [&str; 6] =
    ["tokio", "async ", ".await", "std::thread", "SystemTime", "Instant"];

#[test]
fn arrows_point_down_and_every_file_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut faults = String::new();
    let mut fault = |what: String| writeln!(faults, "{what}").expect("a string takes everything");
    for (package, may) in PACKAGES {
        for line in read(&root.join(package).join("Cargo.toml")).lines() {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if name.starts_with("thalweg-") && !may.contains(&name) {
                fault(format!("{package} must not depend on {name}"));
            }
        }
    }
    for (package, floors) in FLOORS {
        let src = root.join(package).join("src");
        let floor_of = |room: &str| floors.iter().position(|f| f.split(' ').any(|r| r == room));
        for file in sources(&src).into_iter().filter(|file| !file.ends_with("lib.rs")) {
            let inside = file.strip_prefix(&src).expect("listed below it").with_extension("");
            let room = inside.iter().next().unwrap_or_default().to_string_lossy().into_owned();
            let Some(floor) = floor_of(&room) else {
                fault(format!("{package}/src/{room}: give it a floor in tests/tidy.rs"));
                continue;
            };
            let below = package == "core" && Some(floor) < floor_of("engine");
            let text = read(&file);
            for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                for path in line.split("crate::").skip(1) {
                    let used = path.split(|c: char| c != '_' && !c.is_alphanumeric()).next();
                    let used = used.unwrap_or_default();
                    if floor_of(used) > Some(floor) && (room.as_str(), used) != UP {
                        fault(format!("{package}: {room} must not use {used}: {line}"));
                    }
                }
                for word in NOT_BELOW_THE_ENGINE.iter().filter(|w| below && line.contains(**w)) {
                    fault(format!("{package}: {room} must do without {word}: {line}"));
                }
            }
        }
    }
    let folders =
        ["core", "streams", "connectors", "server", "sim", "src", "examples", "tests", "benches"];
    for folder in folders {
        let mut sizes = vec![0];
        for file in sources(&root.join(folder)) {
            let text = read(&file);
            sizes.push(text.lines().count());
            if !text.starts_with("//!") && !text.starts_with("#![doc") {
                fault(format!("{}: begin with //! and what it is", file.display()));
            }
        }
        sizes.sort_unstable();
        let (files, lines) = (sizes.len() - 1, sizes.iter().sum::<usize>());
        let (median, longest) = (sizes[sizes.len() / 2], sizes[files]);
        eprintln!("{folder:<10} {files:>4} files {lines:>6} lines, median {median}, max {longest}");
    }
    assert!(faults.is_empty(), "{faults}");
}

/// The Rust files below a folder, without what was built.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("a source folder can be listed").path());
    let paths = paths.filter(|path| !path.ends_with("target"));
    let below = |path: PathBuf| if path.is_dir() { sources(&path) } else { vec![path] };
    paths.flat_map(below).filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

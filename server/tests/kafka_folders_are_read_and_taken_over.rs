//! Log directories that Apache Kafka 4.3.1 left behind, after a clean stop and after kill -9: read,
//! counted and verified as they are, and taken over.

mod shell;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use shell::{Said, Shell};

fn rows(said: &Said) -> Vec<Value> {
    said.lines().iter().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// Unpacks a folder of `core/tests/golden/kafka-4.3.1`; what is below `data/` is the log directory.
fn unpack(name: &str, to: &Path) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/golden/kafka-4.3.1");
    let packed = fs::read(golden.join(format!("{name}.tar.zst"))).expect("it is there");
    let tar = zstd::decode_all(&packed[..]).expect("it is whole");
    let mut rest = &tar[..];
    while let Some((head, body)) = rest.split_first_chunk::<512>() {
        let text = |range: std::ops::Range<usize>| {
            let field = &head[range];
            let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
            std::str::from_utf8(&field[..end]).expect("text").trim().to_owned()
        };
        let name = text(0..100);
        if name.is_empty() {
            break;
        }
        let size = usize::from_str_radix(&text(124..136), 8).expect("octal");
        if let Some(path) = name.trim_start_matches("./").strip_prefix("data/")
            && head[156] == b'0'
        {
            let path = to.join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            fs::write(path, &body[..size]).expect("written");
        }
        rest = &body[size.next_multiple_of(512)..];
    }
}

/// Everything in a folder.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("it is there") {
        let path = entry.expect("it is there").path();
        if path.is_dir() {
            all.extend(snapshot(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).expect("it is there"));
        }
    }
    all
}

#[test]
fn kafkas_folders_are_read_as_they_are_and_taken_over_whole() {
    for name in ["clean", "killed"] {
        let shell = Shell::new();
        unpack(name, &shell.data);
        let dir = shell.data.to_str().expect("text").to_owned();
        let before = snapshot(&shell.data);
        let said = shell.run(&["verify", &dir, "--json"]).expect(0);
        assert!(!said.err.contains("read 0 partitions"), "{name}: {}", said.err);
        let counted = rows(&shell.run(&["stats", "--json"]).expect(0));
        let topics: std::collections::BTreeSet<String> =
            counted.iter().map(|row| row["topic"].as_str().expect("text").to_owned()).collect();
        assert!(topics.len() > 2, "{topics:?}");
        let read = |extra: &[&str]| -> BTreeMap<String, Vec<String>> {
            let of = |topic: &String| {
                let arguments: Vec<&str> =
                    [&["consume", topic.as_str(), "--json"][..], extra].concat();
                let said = shell.run(&arguments).expect(0);
                let mut lines: Vec<String> = said.lines().iter().map(|l| (*l).to_owned()).collect();
                lines.sort();
                (topic.clone(), lines)
            };
            topics.iter().map(of).collect()
        };
        let records = read(&["--read-only"]);
        assert!(records.values().map(Vec::len).sum::<usize>() > 100, "{name}");
        assert_eq!(read(&[]), records, "{name}");
        let listed = shell.run(&["topics", "list", "--json"]).expect(0);
        assert_eq!(listed.lines().len(), topics.len(), "{name}");
        let groups = shell.run(&["groups", "list", "--json"]).expect(0);
        assert!(groups.text().contains("\"readers\""), "{name}: {}", groups.text());
        let transactions = shell.run(&["transactions", "list", "--json"]).expect(0);
        assert!(transactions.text().contains("left-open"), "{}", transactions.text());
        let group = shell.run(&["consume", topics.first().expect("one"), "--group", "g"]).expect(6);
        assert!(group.err.contains("take-over"), "{}", group.err);
        assert_eq!(snapshot(&shell.data), before, "{name}: a look changes nothing");

        assert!(shell.run(&["take-over", &dir]).expect(2).err.contains("--yes"));
        assert_eq!(snapshot(&shell.data), before, "{name}: nobody said yes");
        shell.run(&["take-over", &dir, "--yes"]).expect(0);
        let after = read(&[]);
        for (topic, lines) in &records {
            // What was open is aborted, so nothing can have come but what waited behind it.
            for line in lines {
                assert!(after[topic].contains(line), "{name} {topic}: {line}");
            }
        }
        shell.run(&["verify", &dir]).expect(0);
        assert!(shell.run(&["take-over", &dir, "--yes"]).expect(2).err.contains("already"));
        let first = topics.first().expect("one");
        shell
            .feed(&["produce", first, "--partition", "0", "--key-separator", ":"], b"k:v\n")
            .expect(0);
        shell.run(&["verify", &dir]).expect(0);
    }
}

#[test]
fn a_folder_that_is_none_of_kafkas_is_not_taken_over() {
    let shell = Shell::with_topic("t", 1);
    let dir = shell.data.to_str().expect("text").to_owned();
    shell.run(&["take-over", &dir, "--yes"]).expect(2);
    let empty = shell.folder.path().join("empty");
    fs::create_dir(&empty).expect("made");
    shell.run(&["take-over", empty.to_str().expect("text"), "--yes"]).expect(6);
}

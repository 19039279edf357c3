//! `thalweg verify`, `repair`, `truncate` and `stats`: on folders as they are left, and as they are not.

mod shell;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::Value;

use shell::{Said, Shell};

fn rows(said: &Said) -> Vec<Value> {
    said.lines().iter().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

fn data(shell: &Shell) -> String {
    shell.data.to_str().expect("a temporary path is text").to_owned()
}

fn verify(shell: &Shell) -> Said {
    shell.run(&["verify", &data(shell), "--json"])
}

/// A topic with several sealed segments, a committed and an aborted transaction, stopped cleanly.
fn filled() -> Shell {
    let shell = Shell::new();
    shell.run(&["topics", "create", "t", "-c", "segment.bytes=1048576"]).expect(0);
    let line = format!("{}\n", "x".repeat(999));
    for _ in 0..3 {
        shell.feed(&["produce", "t"], line.repeat(700).as_bytes()).expect(0);
        let transactions = [
            "produce",
            "t",
            "--transactional-id",
            "x",
            "--transaction-size",
            "1",
            "--abort-every",
            "2",
        ];
        shell.feed(&transactions, b"committed\naborted\n").expect(0);
    }
    shell
}

fn logs(shell: &Shell, topic: &str) -> Vec<PathBuf> {
    let folder = shell.data.join("log").join(format!("{topic}-0"));
    let mut all: Vec<PathBuf> = fs::read_dir(folder)
        .expect("it is there")
        .map(|entry| entry.expect("it is there").path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect();
    all.sort();
    all
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("it is there");
    let at = at.min(bytes.len() - 1);
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("it can be written");
}

/// What is kept beside the folder.
fn kept(shell: &Shell) -> Vec<PathBuf> {
    let all = fs::read_dir(shell.folder.path()).expect("it is there");
    let all = all.map(|entry| entry.expect("it is there").path());
    all.filter(|path| path.to_string_lossy().contains(".repair-")).collect()
}

#[test]
fn a_folder_as_it_was_left_is_well_and_counted() {
    let shell = filled();
    let said = verify(&shell).expect(0);
    assert!(said.out.is_empty(), "{}", said.text());
    assert!(said.err.contains("all is well"), "{}", said.err);
    let stats = rows(&shell.run(&["stats", "t", "--json"]).expect(0));
    assert_eq!(stats.len(), 1);
    assert_eq!(stats[0]["records"], 2106);
    assert_eq!((&stats[0]["start"], &stats[0]["high_watermark"]), (&0.into(), &2112.into()));
    assert_eq!(stats[0]["last_stable"], 2112);
    assert_eq!(stats[0]["segments"], logs(&shell, "t").len());
    let bytes: u64 = logs(&shell, "t").iter().map(|p| fs::metadata(p).expect("there").len()).sum();
    assert_eq!(stats[0]["bytes"], bytes);
    let text = shell.run(&["stats"]).expect(0);
    assert!(
        text.lines().len() == 2 && text.text().starts_with("TOPIC\tPARTITION"),
        "{}",
        text.text()
    );
    let internal = rows(&shell.run(&["stats", "--internal", "--json"]).expect(0));
    assert_eq!(internal.len(), 4);
    assert!(shell.run(&["stats", "nope"]).expect(3).err.contains("nope"));
}

#[test]
fn what_is_bad_is_named_with_its_exit_status_and_repaired() {
    // File of the partition, byte, status, what is kept aside.
    let cases: [(&str, usize, i32); 8] = [
        ("00000000000000000000.index", 9, 9),
        ("00000000000000000000.timeindex", 3, 9),
        ("leader-epoch-checkpoint", 2, 9),
        ("flushed-offset", 20, 9),
        ("partition.metadata", 3, 9),
        ("00000000000000000000.log", 5000, 4),
        ("00000000000000000000.log", 3, 4),
        ("00000000000000000000.log", 14, 4),
    ];
    for (name, at, status) in cases {
        let shell = filled();
        let values = shell.values(&["t"]);
        let path = shell.data.join("log/t-0").join(name);
        let before = fs::read(&path).expect("it is there");
        flip(&path, at);
        let damaged = fs::read(&path).expect("it is there");
        let found = rows(&verify(&shell).expect(status));
        let named = found.iter().any(|row| {
            row["file"].as_str().is_some_and(|file| file.ends_with(name))
                && row["severity"] == if status == 4 { "damaged" } else { "rebuildable" }
        });
        assert!(named, "{name}: {found:?}");
        assert_eq!(fs::read(&path).expect("it is there"), damaged, "a look changes nothing");

        let refused = shell.run(&["repair", &data(&shell)]).expect(2);
        assert!(refused.err.contains("--yes"), "{}", refused.err);
        assert_eq!(fs::read(&path).expect("it is there"), damaged, "nobody said yes");
        assert!(kept(&shell).is_empty());

        let repaired = shell.run(&["repair", &data(&shell), "--yes"]).expect(0);
        assert!(repaired.text().contains("is in"), "{name}: {}", repaired.text());
        verify(&shell).expect(0);
        let kept = kept(&shell);
        assert_eq!(kept.len(), 1);
        assert_eq!(
            fs::read(kept[0].join("log/t-0").join(name)).expect("it is kept"),
            damaged,
            "{name}"
        );
        if name == "partition.metadata" || name.ends_with(".index") {
            assert_eq!(fs::read(&path).expect("it is there"), before, "{name}");
        }
        // Only what was damaged is gone: the first batch of 700 records, or nothing.
        let after = shell.values(&["t"]);
        if status == 4 && at == 5000 {
            assert!(after.len() < values.len() && values.ends_with(&after), "{name} {at}");
            assert!(
                repaired.text().contains("t-0: the records of offsets 0 to"),
                "{}",
                repaired.text()
            );
        } else {
            assert_eq!(after, values, "{name} {at}");
        }
        // It is written on as before.
        shell.feed(&["produce", "t"], b"later\n").expect(0);
        assert_eq!(shell.values(&["t"]).last().map(String::as_str), Some("later"));
        verify(&shell).expect(0);
    }
}

#[test]
fn a_missing_segment_and_a_short_one_are_repaired_without_moving_an_offset() {
    for which in 0..3 {
        let shell = filled();
        let before = shell.records("t");
        let all = logs(&shell, "t");
        assert!(all.len() >= 3, "{all:?}");
        match which {
            0 => fs::remove_file(&all[1]).expect("it is there"),
            1 => {
                let bytes = fs::read(&all[0]).expect("it is there");
                fs::write(&all[0], &bytes[..bytes.len() - 100]).expect("it can be written");
            }
            _ => fs::remove_file(&all[all.len() - 1]).expect("it is there"),
        }
        let found = rows(&verify(&shell).expect(4));
        assert!(found.iter().any(|row| row["lost_from"].is_i64()), "{found:?}");
        shell.run(&["repair", &data(&shell), "--yes"]).expect(0);
        verify(&shell).expect(0);
        let after = shell.records("t");
        assert!(!after.is_empty() && after.len() < before.len());
        for record in &after {
            assert!(before.contains(record), "{record}");
        }
        shell.feed(&["produce", "t"], b"later\n").expect(0);
        let last = shell.records("t").pop().expect("it is there");
        assert_eq!(last["offset"], 2112, "no offset is given out twice");
    }
}

#[test]
fn damaged_metadata_is_made_good_from_the_folders() {
    let shell = filled();
    let values = shell.values(&["t"]);
    let path = shell.data.join("log/__thalweg_metadata-0/00000000000000000000.log");
    let bytes = fs::read(&path).expect("it is there");
    let at = bytes.windows(5).position(|w| w == b"\x01t\x00\x01\x00" || w[..2] == *b"\x01t");
    flip(&path, at.unwrap_or(300));
    verify(&shell).expect(4);
    shell.run(&["repair", &data(&shell), "--yes"]).expect(0);
    verify(&shell).expect(0);
    assert_eq!(shell.values(&["t"]), values);
}

#[test]
fn the_end_of_a_partition_is_cut_back() {
    let shell = filled();
    let before = shell.records("t");
    let cut = ["truncate", "t", "--partition", "0", "--to", "1500"];
    let refused = shell.run(&cut).expect(2);
    assert!(refused.err.contains("--yes") && refused.err.contains("1500"), "{}", refused.err);
    assert_eq!(shell.records("t"), before);
    shell.run(&["consume", "t", "--group", "g"]).expect(0);
    let said = shell.run(&[&cut[..], &["--yes", "--json"]].concat()).expect(0);
    let row = &rows(&said)[0];
    let end = row["end"].as_i64().expect("a number");
    assert!((1500..2112).contains(&end), "{row}");
    assert!(said.err.contains("group g"), "{}", said.err);
    let after = shell.records("t");
    assert!(before.starts_with(&after) && after.len() < before.len());
    assert!(after.iter().all(|record| record["offset"].as_i64() < Some(end)));
    verify(&shell).expect(0);
    // What was taken out is a segment of its own.
    let kept = kept(&shell);
    let file = kept[0].join(format!("log/t-0/{end:020}.log"));
    let dumped = rows(&shell.run(&["dump", file.to_str().expect("text"), "--json"]).expect(0));
    assert_eq!(dumped[0]["base_offset"], end);
    // Whoever stands behind the end is told, also once there are records again.
    shell.feed(&["produce", "t"], "again\n".repeat(900).as_bytes()).expect(0);
    let told = shell.run(&["consume", "t", "--group", "g"]).expect(3);
    assert!(told.err.contains("not there any more"), "{}", told.err);
    verify(&shell).expect(0);

    for (arguments, status, wanted) in [
        (&["truncate", "nope", "--partition", "0", "--to", "0", "--yes"][..], 3, "nope"),
        (&["truncate", "t", "--partition", "7", "--to", "0", "--yes"], 3, "partition t-7"),
        (&["truncate", "t", "--partition", "0", "--to", "99999", "--yes"], 3, "99999"),
        (
            &["truncate", "__consumer_offsets", "--partition", "0", "--to", "0", "--yes"],
            2,
            "internal",
        ),
        (&["truncate", "t", "--partition", "0"], 2, "--to"),
    ] {
        let said = shell.run(arguments).expect(status);
        assert!(said.err.contains(wanted), "{arguments:?}: {}", said.err);
    }
}

#[test]
fn a_committed_transaction_is_not_cut_in_two() {
    let shell = Shell::with_topic("t", 1);
    let in_transactions =
        ["produce", "t", "--transactional-id", "x", "--transaction-size", "4", "--batch-size", "1"];
    shell.feed(&in_transactions, b"a\nb\nc\nd\n").expect(0);
    let cut = |to: &str| shell.run(&["truncate", "t", "--partition", "0", "--to", to, "--yes"]);
    let refused = cut("2").expect(2);
    assert!(refused.err.contains("cut at 0 or below, or at 5 or above"), "{}", refused.err);
    assert_eq!(shell.values(&["t"]), ["a", "b", "c", "d"]);
    let aborted = [&in_transactions[..], &["--abort-every", "1"]].concat();
    shell.feed(&aborted, b"e\nf\ng\nh\n").expect(0);
    cut("7").expect(0);
    assert_eq!(shell.values(&["t"]), ["a", "b", "c", "d"]);
    let stats = rows(&shell.run(&["stats", "t", "--json"]).expect(0));
    assert_eq!(stats[0]["last_stable"], stats[0]["high_watermark"], "{stats:?}");
    cut("0").expect(0);
    assert!(shell.values(&["t"]).is_empty());
    verify(&shell).expect(0);
}

#[test]
fn looks_take_no_lock_and_repairs_do() {
    let shell = filled();
    let mut follower = shell.start(&["consume", "t", "--follow"]);
    let mut line = String::new();
    let mut reader = BufReader::new(follower.stdout.take().expect("it is a pipe"));
    reader.read_line(&mut line).expect("it can be read");
    verify(&shell).expect(0);
    shell.run(&["stats"]).expect(0);
    let folder = data(&shell);
    let busy = [
        &["repair", &folder, "--yes"][..],
        &["truncate", "t", "--partition", "0", "--to", "0", "--yes"],
        &["maintain", "--once"],
    ];
    for command in busy {
        let said = shell.run(command).expect(5);
        assert!(said.err.contains(&format!("process {}", follower.id())), "{}", said.err);
    }
    follower.kill().expect("it runs");
    follower.wait().expect("it ends");
    // A kill leaves nothing that is bad.
    verify(&shell).expect(0);
    shell.run(&["repair", &data(&shell)]).expect(0);
}

#[test]
fn foreign_files_links_and_gaps_in_partition_numbers_are_left_alone() {
    let shell = Shell::with_topic("t", 3);
    shell.feed(&["produce", "t"], b"a\nb\nc\n").expect(0);
    let log = shell.data.join("log");
    fs::write(log.join("t-0/letter.txt"), "x").expect("written");
    fs::create_dir(log.join("lost+found")).expect("made");
    fs::create_dir(log.join("other-4")).expect("made");
    let elsewhere = shell.folder.path().join("elsewhere");
    fs::rename(log.join("t-1"), &elsewhere).expect("moved");
    std::os::unix::fs::symlink(&elsewhere, log.join("t-1")).expect("linked");
    let notes = rows(&verify(&shell).expect(0));
    for name in ["letter.txt", "lost+found", "other-4"] {
        let noted = |row: &Value| {
            row["severity"] == "note" && row["file"].as_str().is_some_and(|f| f.ends_with(name))
        };
        assert!(notes.iter().any(noted), "{name}: {notes:?}");
    }
    assert_eq!(shell.values(&["t"]).len(), 3);
    // A partition whose folder is gone.
    fs::remove_file(log.join("t-1")).expect("there");
    let found = rows(&verify(&shell).expect(4));
    assert!(found.iter().any(|row| row["file"].as_str().is_some_and(|f| f.ends_with("t-1"))));
    shell.run(&["repair", &data(&shell), "--yes"]).expect(0);
    verify(&shell).expect(0);
    shell.run(&["stats"]).expect(0);
}

#[test]
fn folders_that_are_no_log_are_refused_by_every_look() {
    let shell = Shell::new();
    let missing = data(&shell);
    shell.run(&["verify", &missing]).expect(6);
    shell.run(&["repair", &missing, "--yes"]).expect(6);
    shell.run(&["stats"]).expect(6);
    shell.run(&["backup", "copy"]).expect(6);
    shell.run(&["maintain", "--once"]).expect(6);
    fs::create_dir(&shell.data).expect("made");
    fs::write(shell.data.join("letter.txt"), "x").expect("written");
    for command in
        [&["verify", &missing][..], &["repair", &missing, "--yes"], &["stats"], &["backup", "copy"]]
    {
        assert!(shell.run(command).expect(6).err.contains("no log"), "{command:?}");
    }
    assert!(!shell.folder.path().join("copy").exists());
    fs::remove_file(shell.data.join("letter.txt")).expect("there");
    shell.run(&["topics", "create", "t"]).expect(0);
    fs::write(shell.data.join("format"), "99\n").expect("written");
    for command in [&["verify", &missing][..], &["repair", &missing, "--yes"], &["backup", "copy"]]
    {
        assert!(shell.run(command).expect(6).err.contains("layout 99"), "{command:?}");
    }
}

#[test]
fn a_folder_that_may_not_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt;
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root may do everything");
        return;
    }
    let shell = filled();
    let folder = shell.data.join("log/t-0");
    let set = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode));
    set(0o000).expect("it is ours");
    let said = verify(&shell);
    set(0o700).expect("it is ours");
    assert!(said.expect(7).err.contains("t-0"));
}

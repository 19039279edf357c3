//! `thalweg backup` and `maintain`.

mod shell;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;

use shell::{Shell, end};

#[test]
fn a_backup_holds_what_was_there_and_goes_its_own_way() {
    let shell = Shell::new();
    shell.run(&["topics", "create", "t", "-c", "segment.bytes=1048576"]).expect(0);
    let line = format!("{}\n", "x".repeat(999));
    shell.feed(&["produce", "t"], line.repeat(2500).as_bytes()).expect(0);
    shell.run(&["consume", "t", "--group", "g", "--max", "10"]).expect(0);
    let before = shell.records("t");
    let copy = shell.folder.path().join("copy");
    let path = copy.to_str().expect("text");
    shell.run(&["backup", path]).expect(0);
    shell.run(&["verify", path]).expect(0);
    let first = "log/t-0/00000000000000000000.log";
    let of = |root: &std::path::Path| fs::metadata(root.join(first)).expect("it is there").ino();
    assert_eq!(of(&shell.data), of(&copy), "sealed segments are linked");

    let there = |arguments: &[&str]| shell.run(&[&["--data", path], arguments].concat());
    let copied = there(&["consume", "t", "--json"]).expect(0);
    assert_eq!(copied.lines().len(), before.len());
    assert!(there(&["groups", "describe", "g"]).expect(0).text().contains("10"));
    // Each goes on by itself.
    shell.feed(&["--data", path, "produce", "t"], b"only in the copy\n").expect(0);
    assert_eq!(shell.records("t"), before);
    shell.run(&["verify", path]).expect(0);
    shell.run(&["verify", shell.data.to_str().expect("text")]).expect(0);

    assert!(shell.run(&["backup", path]).expect(2).err.contains("not empty"));
    let inside = shell.data.join("copy");
    assert!(
        shell.run(&["backup", inside.to_str().expect("text")]).expect(2).err.contains("lies in")
    );
    assert!(!inside.exists());
}

#[test]
fn a_folder_in_use_is_copied_and_half_a_copy_is_no_log() {
    let shell = Shell::with_topic("t", 1);
    let mut producer = shell.start(&["produce", "t"]);
    let mut stdin = producer.stdin.take().expect("it is a pipe");
    stdin.write_all(b"first\n").expect("it reads");
    let path = shell.data.join("log/t-0/00000000000000000000.log");
    while !fs::read(&path).is_ok_and(|bytes| !bytes.is_empty()) {
        std::thread::yield_now();
    }
    let copy = shell.folder.path().join("copy");
    let copy = copy.to_str().expect("text");
    shell.run(&["backup", copy]).expect(0);
    assert_eq!(shell.run(&["--data", copy, "consume", "t"]).expect(0).text(), "first\n");
    stdin.write_all(b"second\n").expect("it reads");
    drop(stdin);
    end(producer).expect(0);
    assert_eq!(shell.values(&["t"]), ["first", "second"]);

    // What a backup is before its last step.
    let half = shell.folder.path().join("half");
    fs::create_dir(&half).expect("made");
    fs::rename(std::path::Path::new(copy).join("log"), half.join("log.incomplete")).expect("moved");
    let half = half.to_str().expect("text");
    shell.run(&["--data", half, "topics", "list"]).expect(6);
    shell.run(&["verify", half]).expect(6);
}

#[test]
fn maintenance_frees_what_retention_lets_go() {
    let shell = Shell::new();
    let settings = ["-c", "segment.bytes=1048576", "-c", "retention.bytes=1048576"];
    shell.run(&[&["topics", "create", "t"], &settings[..]].concat()).expect(0);
    let line = format!("{}\n", "x".repeat(999));
    shell.feed(&["produce", "t"], line.repeat(5000).as_bytes()).expect(0);
    let said = shell.run(&["maintain", "--once"]).expect(0);
    assert!(said.text().contains("freed"), "{}", said.text());
    let folder = shell.data.join("log/t-0");
    let bytes: u64 = fs::read_dir(&folder)
        .expect("it is there")
        .map(|entry| entry.expect("it is there").metadata().expect("it is there").len())
        .sum();
    assert!(bytes < 3 << 20, "{bytes}");
    shell.run(&["verify", shell.data.to_str().expect("text")]).expect(0);
    assert!(shell.run(&["maintain", "--once"]).expect(0).text().starts_with("0 B freed"));

    // Without --once it goes on until a signal.
    let mut child = shell.start(&["maintain"]);
    let pid = rustix::process::Pid::from_child(&child);
    // Asked of the lock's file and not of the program: whoever opened the folder would be in its way.
    let owner = pid.as_raw_nonzero().to_string();
    while fs::read_to_string(shell.data.join("lock")).ok().as_deref().map(str::trim) != Some(&owner)
    {
        assert!(child.try_wait().expect("asked").is_none(), "it goes on");
        std::thread::yield_now();
    }
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    let out = BufReader::new(child.stdout.take().expect("it is a pipe"));
    assert_eq!(out.lines().count(), 0);
    end(child).expect(143);
}

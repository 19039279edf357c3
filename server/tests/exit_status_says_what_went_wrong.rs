//! Every exit status, and a message that says what, where and what to do.

mod shell;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;

use shell::{Shell, end};

/// Arguments that make no sense: status 2, and nothing is opened or made.
#[test]
fn wrong_arguments_are_usage_errors_and_touch_nothing() {
    let shell = Shell::new();
    for (arguments, wanted) in [
        (&[][..], "Usage"),
        (&["nonsense"], "unrecognized subcommand"),
        (&["topics"], "Usage"),
        (&["topics", "create"], "<NAME>"),
        (&["topics", "create", "a b"], "a b"),
        (&["topics", "create", ".."], ".."),
        (&["topics", "create", "t", "--partitions", "0"], "0"),
        (&["topics", "create", "t", "-c", "segment.bytes"], "NAME=VALUE"),
        (&["topics", "create", "t", "-c", "no.such=1"], "no.such"),
        (&["topics", "create", "t", "-c", "segment.bytes=x"], "segment.bytes"),
        (&["topics", "create", "t", "-c", "segment.bytes=1"], "segment.bytes"),
        (
            &[
                "topics",
                "create",
                "t",
                "-c",
                "cleanup.policy=delete",
                "-c",
                "cleanup.policy=compact",
            ],
            "twice",
        ),
        (&["produce"], "<TOPIC>"),
        (&["produce", "t", "--json", "--key-separator", ":"], "cannot be used with"),
        (&["produce", "t", "--key-separator", ""], "at least one character"),
        (&["produce", "t", "--raw-json"], "--json"),
        (&["produce", "t", "--compression", "rar"], "zstd"),
        (&["produce", "t", "--batch-size", "0"], "0"),
        (&["produce", "t", "--transactional-id", "x"], "--transaction-size"),
        (&["produce", "t", "--transaction-size", "5"], "--transactional-id"),
        (&["produce", "t", "--abort-every", "5"], "--transactional-id"),
        (
            &["produce", "t", "--transactional-id", "", "--transaction-size", "5"],
            "--transactional-id",
        ),
        (&["consume", "t", "--from", "first"], "beginning, end, stored"),
        (&["consume", "t", "--from", "@-10"], "@-10m"),
        (&["consume", "t", "--from", "stored"], "--group"),
        (&["consume", "t", "--json", "--format", "%s"], "cannot be used with"),
        (&["consume", "t", "--format", "%q"], "%q means nothing"),
        (&["consume", "t", "--isolation", "serializable"], "read_uncommitted"),
        (&["consume", "t", "--max", "-1"], "'-1'"),
        (&["consume", "t", "--read-only", "--group", "g"], "--group"),
        (&["consume", "t", "--read-only", "--follow"], "--follow"),
        (&["verify"], "<DIR>"),
        (&["repair"], "<DIR>"),
        (&["backup"], "<DIR>"),
        (&["truncate", "t", "--to", "5"], "--partition"),
        (&["truncate", "t", "--partition", "0", "--to", "-5"], "'-5'"),
        (&["dump"], "<PATH>"),
        (&["completions", "csh"], "csh"),
        (&["man", "topics", "nonsense"], "thalweg help"),
    ] {
        let said = shell.run(arguments).expect(2);
        assert!(said.err.contains(wanted), "{arguments:?}: {}", said.err);
        assert!(said.out.is_empty(), "{arguments:?}: {}", said.text());
    }
    assert!(!shell.data.exists());
}

/// Folders that are no log of ours: status 6, and they stay as they were.
#[test]
fn a_folder_that_is_no_log_is_refused_and_left_alone() {
    let shell = Shell::new();
    let missing = shell.run(&["topics", "list"]).expect(6);
    assert!(missing.err.contains("no such folder") && missing.err.contains("topics create"));
    assert!(!shell.data.exists());

    fs::create_dir(&shell.data).expect("it can be made");
    for command in [&["topics", "list"][..], &["produce", "t"], &["consume", "t"]] {
        assert!(shell.run(command).expect(6).err.contains("holds no log"), "{command:?}");
    }
    assert_eq!(fs::read_dir(&shell.data).expect("it is there").count(), 0);

    for (file, wanted) in [("letter.txt", "letter.txt"), ("meta.properties", "Apache Kafka")] {
        fs::write(shell.data.join(file), "x").expect("it can be written");
        let commands = [&["topics", "create", "t"][..], &["produce", "t"], &["topics", "list"]];
        // A log directory of Apache Kafka is asked, and not written.
        let refused = if wanted == "Apache Kafka" { &commands[..2] } else { &commands[..] };
        for command in refused {
            let said = shell.run(command).expect(6);
            assert!(said.err.contains(wanted), "{}", said.err);
        }
        assert_eq!(fs::read_dir(&shell.data).expect("it is there").count(), 1);
        fs::remove_file(shell.data.join(file)).expect("it is there");
    }

    // An empty folder is as good as none for the command that makes one.
    shell.run(&["topics", "create", "t"]).expect(0);
    let file = shell.data.join("format");
    let said = shell.run(&["--data", file.to_str().expect("text"), "topics", "list"]).expect(6);
    assert!(said.err.contains("no folder"), "{}", said.err);

    fs::write(&file, "999\n").expect("it can be written");
    let said = shell.run(&["topics", "list"]).expect(6);
    assert!(said.err.contains("layout 999"), "{}", said.err);
    fs::write(&file, "soup").expect("it can be written");
    assert!(shell.run(&["topics", "list"]).expect(4).err.contains("format"));
    fs::remove_file(&file).expect("it is there");
    assert!(shell.run(&["topics", "list"]).expect(4).err.contains("missing"));
}

#[test]
fn an_unknown_topic_partition_or_offset_is_named() {
    let shell = Shell::with_topic("t", 2);
    shell.feed(&["produce", "t", "--partition", "0"], b"a\nb\n").expect(0);
    for (arguments, wanted) in [
        (&["produce", "nope"][..], "topics list"),
        (&["consume", "nope"], "\"nope\" does not exist"),
        (&["topics", "describe", "nope"], "nope"),
        (&["topics", "delete", "nope"], "nope"),
        (&["produce", "t", "--partition", "2"], "partition 2 of t"),
        (&["consume", "t", "--partition", "2"], "partition 2 of t"),
        (
            &["consume", "t", "--from", "3", "--partition", "0"],
            "offset 3 of t-0 is outside of 0..2",
        ),
    ] {
        let said = shell.run(arguments).expect(3);
        assert!(said.err.contains(wanted), "{arguments:?}: {}", said.err);
    }
    assert!(shell.run(&["topics", "create", "t"]).expect(1).err.contains("exists already"));
    // Deleting what is internal can never succeed.
    shell.run(&["topics", "delete", "__consumer_offsets"]).expect(2);
    shell.feed(&["produce", "__consumer_offsets"], b"x\n").expect(2);
}

#[test]
fn a_folder_in_use_names_the_process_that_has_it() {
    let shell = Shell::with_topic("t", 1);
    shell.feed(&["produce", "t"], b"here\n").expect(0);
    let mut follower = shell.start(&["consume", "t", "--follow"]);
    let mut line = String::new();
    let mut reader = BufReader::new(follower.stdout.take().expect("it is a pipe"));
    reader.read_line(&mut line).expect("it can be read");
    assert_eq!(line, "here\n");
    let busy = format!("process {}", follower.id());
    for command in [&["topics", "list"][..], &["consume", "t", "--group", "g"]] {
        assert!(shell.run(command).expect(5).err.contains(&busy), "{command:?}");
    }
    // Who only reads is served, and told.
    let said = shell.run(&["consume", "t"]).expect(0);
    assert!(said.text() == "here\n" && said.err.contains(&busy), "{said:?}");
    let said = shell.run(&["consume", "t", "--read-only"]).expect(0);
    assert!(said.text() == "here\n" && said.err.is_empty(), "{said:?}");
    follower.kill().expect("it runs");
    follower.wait().expect("it ends");
    // Looking recovers nothing: what the killed process left stays for the next one.
    let files = || {
        let list = fs::read_dir(shell.data.join("log/t-0")).expect("it is there");
        let mut names: Vec<_> = list.map(|entry| entry.expect("it is there").file_name()).collect();
        names.sort();
        names
    };
    let before = files();
    assert_eq!(shell.run(&["consume", "t", "--read-only"]).expect(0).text(), "here\n");
    assert_eq!(files(), before);
    assert!(!shell.data.join("log/.kafka_cleanshutdown").exists());
    // A killed process leaves a folder that the next one recovers.
    shell.run(&["topics", "list"]).expect(0);
}

/// The first segment of partition 0.
fn segment(shell: &Shell, topic: &str) -> std::path::PathBuf {
    shell.data.join("log").join(format!("{topic}-0")).join("00000000000000000000.log")
}

#[test]
fn damaged_records_are_named_and_what_came_before_is_shown() {
    let shell = Shell::with_topic("t", 1);
    shell.feed(&["produce", "t"], b"first\n").expect(0);
    shell.feed(&["produce", "t"], b"second\n").expect(0);
    let path = segment(&shell, "t");
    let mut bytes = fs::read(&path).expect("it is there");
    let at = bytes.windows(6).position(|w| w == b"second").expect("it is stored");
    bytes[at] ^= 1;
    fs::write(&path, &bytes).expect("it can be written");

    let dumped = shell.run(&["dump", path.to_str().expect("text"), "--json"]).expect(4);
    assert!(dumped.err.contains("bad at byte"), "{}", dumped.err);
    let consumed = shell.run(&["consume", "t"]).expect(4);
    assert_eq!(consumed.text(), "first\n");
    assert!(consumed.err.contains("t-0") && consumed.err.contains("restore"), "{}", consumed.err);
}

#[test]
fn a_closed_pipe_ends_silently() {
    let shell = Shell::with_topic("t", 1);
    let many = b"a line of some length that fills a pipe sooner or later\n".repeat(20_000);
    shell.feed(&["produce", "t"], &many).expect(0);
    for arguments in
        [&["consume", "t"][..], &["consume", "t", "--json"], &["consume", "t", "--follow"]]
    {
        let mut child = shell.start(arguments);
        let mut some = [0; 100];
        let mut stdout = child.stdout.take().expect("it is a pipe");
        stdout.read_exact(&mut some).expect("there is something");
        drop(stdout);
        let said = end(child);
        assert_eq!((said.status, said.err.as_str()), (Some(141), ""), "{arguments:?}");
    }
    // One that waits for records notices as well.
    let mut child = shell.start(&["consume", "t", "--follow", "--from", "end"]);
    drop(child.stdout.take());
    assert_eq!(end(child).status, Some(141));
    let mut child = shell.start(&["--help"]);
    drop(child.stdout.take());
    let said = end(child);
    // It may have written before the pipe was closed.
    assert!(matches!(said.status, Some(0 | 141)) && said.err.is_empty(), "{said:?}");
}

#[test]
fn no_space_for_the_output_is_no_success() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        return;
    }
    let shell = Shell::with_topic("t", 1);
    shell.feed(&["produce", "t"], b"x\n").expect(0);
    let mut command = shell.command(&["consume", "t", "--group", "g"]);
    let out = fs::OpenOptions::new().write(true).open(full).expect("it can be opened");
    command.stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
    let said = end(command.spawn().expect("the program can be started")).expect(7);
    assert!(said.err.contains("standard output"), "{}", said.err);
    // Nothing was written, so nothing counts as read.
    assert_eq!(shell.values(&["t", "--group", "g"]), ["x"]);
}

#[test]
fn a_folder_without_permission_is_named() {
    use std::os::unix::fs::PermissionsExt;
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root may do everything");
        return;
    }
    let shell = Shell::with_topic("t", 1);
    for mode in [0o500, 0o000] {
        let set = |mode| fs::set_permissions(&shell.data, fs::Permissions::from_mode(mode));
        set(mode).expect("it is ours");
        let said = shell.run(&["topics", "create", "u"]);
        set(0o700).expect("it is ours");
        assert!(said.expect(7).err.contains("data"));
    }
}

#[test]
fn signals_are_told_and_what_was_read_is_kept() {
    let shell = Shell::with_topic("t", 1);
    for (signal, status) in
        [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143)]
    {
        let send = |child: &std::process::Child| {
            let pid = rustix::process::Pid::from_child(child);
            rustix::process::kill_process(pid, signal).expect("it runs");
        };
        let mut producer = shell.start(&["produce", "t"]);
        let mut stdin = producer.stdin.take().expect("it is a pipe");
        stdin.write_all(b"kept\n").expect("it reads");
        // Stored when another process may see it: ask the file.
        let path = segment(&shell, "t");
        let there = |n: usize| {
            fs::read(&path).is_ok_and(|b| b.windows(4).filter(|w| *w == b"kept").count() == n)
        };
        let count = if status == 130 { 1 } else { 2 };
        while !there(count) {
            std::thread::yield_now();
        }
        send(&producer);
        end(producer).expect(status);

        let mut consumer =
            shell.start(&["consume", "t", "--follow", "--group", "g", "--from", "beginning"]);
        let mut line = String::new();
        let mut stdout = BufReader::new(consumer.stdout.take().expect("it is a pipe"));
        for _ in 0..count {
            stdout.read_line(&mut line).expect("it can be read");
        }
        send(&consumer);
        assert_eq!(consumer.wait().expect("it ends").code(), Some(status));
        // What was printed counts as read.
        assert!(shell.values(&["t", "--group", "g"]).is_empty());
    }
}

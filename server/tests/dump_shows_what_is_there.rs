//! `thalweg dump`: every kind of file, whole and broken.

mod shell;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use shell::{Said, Shell};

fn rows(said: &Said) -> Vec<Value> {
    said.lines().iter().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

fn dump(shell: &Shell, path: &Path, extra: &[&str]) -> Said {
    let path = path.to_str().expect("a temporary path is text");
    shell.run(&[&["dump", path, "--json"], extra].concat())
}

/// A partition with plain and compressed batches, a committed and an aborted transaction.
fn partition() -> (Shell, std::path::PathBuf) {
    let shell = Shell::with_topic("t", 1);
    shell.feed(&["produce", "t"], b"a\nb\n").expect(0);
    shell.feed(&["produce", "t", "--compression", "lz4"], b"c\n").expect(0);
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
    shell.feed(&transactions, b"d\ne\n").expect(0);
    let folder = shell.data.join("log/t-0");
    (shell, folder)
}

#[test]
fn batches_and_records_are_shown() {
    let (shell, folder) = partition();
    let log = folder.join("00000000000000000000.log");
    let batches = rows(&dump(&shell, &log, &[]).expect(0));
    let field = |name: &str| batches.iter().map(|b| b[name].clone()).collect::<Vec<_>>();
    assert_eq!(field("base_offset"), [0, 2, 3, 4, 5, 6]);
    assert_eq!(field("count"), [2, 1, 1, 1, 1, 1]);
    assert_eq!(field("codec"), ["none", "lz4", "none", "none", "none", "none"]);
    assert_eq!(field("control"), [false, false, false, true, false, true]);
    assert!(field("valid").iter().all(|valid| valid == true));
    let size: u64 = field("size").iter().filter_map(Value::as_u64).sum();
    assert_eq!(size, fs::metadata(&log).expect("it is there").len());

    let all = rows(&dump(&shell, &log, &["--records"]).expect(0));
    let records: Vec<&Value> = all.iter().filter(|row| row.get("offset").is_some()).collect();
    assert_eq!(records.len(), 7);
    assert_eq!(records[2]["value"], "c");
    assert_eq!((&records[4]["marker"], &records[6]["marker"]), (&json!("COMMIT"), &json!("ABORT")));
    let text = shell.run(&["dump", log.to_str().expect("text"), "--records"]).expect(0);
    assert!(text.text().contains("POSITION\tSIZE\tBASE-OFFSET"), "{}", text.text());
    assert!(text.text().contains("| offset: 2 CreateTime: "), "{}", text.text());
}

#[test]
fn side_files_are_shown() {
    let (shell, folder) = partition();
    let all = rows(&dump(&shell, &folder, &[]).expect(0));
    let of = |end: &str| -> Vec<Value> {
        let is = |row: &&Value| row["file"].as_str().is_some_and(|file| file.ends_with(end));
        all.iter().filter(is).cloned().collect()
    };
    let aborted = of(".txnindex");
    assert_eq!(aborted.len(), 1);
    assert_eq!((&aborted[0]["first_offset"], &aborted[0]["last_offset"]), (&json!(5), &json!(6)));
    assert_eq!(of("leader-epoch-checkpoint")[0]["start_offset"], 0);
    assert_eq!(of("partition.metadata").len(), 1);
    let snapshot = of(".snapshot");
    let newest = snapshot.last().expect("a clean stop writes one");
    assert_eq!(newest["current_transaction_first_offset"], -1);
    let log_dir = shell.data.join("log");
    for entry in fs::read_dir(&log_dir).expect("it is there") {
        let path = entry.expect("it is there").path();
        if path.to_string_lossy().ends_with("-offset-checkpoint") {
            dump(&shell, &path, &[]).expect(0);
        }
    }
}

/// Files made by hand: name, bytes, exit status, and what is shown or said.
#[test]
fn broken_files_are_named_and_the_rest_is_shown() {
    let shell = Shell::new();
    let at = |entries: &[(u32, u32)]| -> Vec<u8> {
        let bytes = entries.iter().flat_map(|(a, b)| [a.to_be_bytes(), b.to_be_bytes()]);
        bytes.collect::<Vec<_>>().concat()
    };
    let zeros = |mut bytes: Vec<u8>, count: usize| {
        bytes.resize(bytes.len() + count, 0);
        bytes
    };
    let index = "00000000000000000100.index";
    let cases: Vec<(&str, Vec<u8>, i32, &str)> = vec![
        (index, at(&[(1, 0), (5, 77)]), 0, r#""offset":105,"position":77}"#),
        (index, zeros(at(&[(0, 0), (5, 77)]), 80), 0, r#""offset":105,"position":77}"#),
        (index, vec![], 0, ""),
        (index, at(&[(5, 77), (5, 99)]), 9, "must rise"),
        (index, vec![0; 13], 9, "left over"),
        ("00000000000000000100.timeindex", vec![0; 11], 9, "left over"),
        ("00000000000000000100.txnindex", vec![1; 34], 9, "version 257"),
        ("00000000000000000100.snapshot", vec![0; 5], 9, "at least 10"),
        ("00000000000000000100.snapshot", vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 0], 9, "CRC-32C"),
        (
            "leader-epoch-checkpoint",
            b"0\n2\n0 0\n3 17\n".to_vec(),
            0,
            r#""epoch":3,"start_offset":17"#,
        ),
        ("leader-epoch-checkpoint", b"".to_vec(), 0, ""),
        ("leader-epoch-checkpoint", b"1\n0\n".to_vec(), 9, "version"),
        ("leader-epoch-checkpoint", b"0\n2\n0 0\n".to_vec(), 9, "2 entries, and there are 1"),
        ("leader-epoch-checkpoint", b"0\n1\n0 x\n".to_vec(), 9, "is not epoch start_offset"),
        ("leader-epoch-checkpoint", b"\xff".to_vec(), 9, "no text"),
        (
            "recovery-point-offset-checkpoint",
            b"0\n1\na-b 3 9\n".to_vec(),
            0,
            r#""topic":"a-b","partition":3,"offset":9"#,
        ),
        ("partition.metadata", b"version: 0\ntopic_id: x".to_vec(), 9, "topic_id"),
        ("flushed-offset", vec![1; 1024], 9, "neither"),
        ("00000000000000000000.log", vec![], 0, ""),
        ("00000000000000000000.log", vec![0; 100], 4, "zeros"),
        ("00000000000000000000.log", vec![7; 100], 4, "magic"),
        ("00000000000000000000.log.deleted", vec![0; 60], 4, "zeros"),
        ("letter.txt", b"x".to_vec(), 6, "none of a log's files"),
        ("x.log", b"x".to_vec(), 6, "none of a log's files"),
    ];
    for (name, bytes, status, wanted) in cases {
        let path = shell.folder.path().join(name);
        fs::write(&path, &bytes).expect("it can be written");
        let said = dump(&shell, &path, &["--records"]).expect(status);
        let shown = if status == 0 { said.text() } else { &said.err };
        assert!(shown.contains(wanted), "{name} {bytes:?}: {said:?}");
        fs::remove_file(&path).expect("it is there");
    }
    dump(&shell, &shell.folder.path().join("nowhere.log"), &[]).expect(6);
    dump(&shell, shell.folder.path(), &[]).expect(6);
}

/// Each bit of a batch that carries meaning is missed when it is flipped; nothing panics.
#[test]
fn no_flipped_bit_of_a_batch_passes() {
    let (shell, folder) = partition();
    let log = folder.join("00000000000000000000.log");
    let bytes = fs::read(&log).expect("it is there");
    let copy = shell.folder.path().join("00000000000000000000.log");
    let whole = rows(&dump(&shell, &log, &["--records"]).expect(0));
    let blank = |rows: Vec<Value>| -> Vec<Value> {
        rows.into_iter()
            .map(|mut row| {
                row["file"] = Value::Null;
                row
            })
            .collect()
    };
    let whole = blank(whole);
    for at in (0..bytes.len().min(140)).step_by(3) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&copy, &bytes).expect("it can be written");
        let said = dump(&shell, &copy, &["--records"]);
        // Offset and epoch lie before the sum: they change what is shown.
        let told = said.status == Some(4) || blank(rows(&said)) != whole;
        assert!(told, "byte {at}: {said:?}");
    }
}

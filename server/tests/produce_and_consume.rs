//! Lines in, records out: every option of `produce` and `consume`.

mod shell;

use serde_json::json;

use shell::Shell;

#[test]
fn lines_are_stored_byte_by_byte() {
    let shell = Shell::with_topic("t", 1);
    // Empty lines, a carriage return, bytes that are no text, no newline at the end.
    let input = b"one\n\ntwo\r\n\xff\x00\nlast";
    for compression in ["none", "lz4", "zstd"] {
        shell.feed(&["produce", "t", "--compression", compression], input).expect(0);
    }
    let said = shell.run(&["consume", "t"]).expect(0);
    assert_eq!(said.out, [&input[..], b"\n"].concat().repeat(3));
    shell.feed(&["produce", "t"], b"").expect(0);
    assert_eq!(shell.run(&["consume", "t", "--from", "end"]).expect(0).text(), "");
}

#[test]
fn the_first_separator_divides_key_and_value() {
    let shell = Shell::with_topic("t", 1);
    let input = b"k: v: w\n: v\nk: \nnone\n";
    let said = shell.feed(&["produce", "t", "--key-separator", ": ", "--keep-going"], input);
    let said = said.expect(8);
    assert!(said.err.contains("line 4, column 1"), "{}", said.err);
    assert_eq!(
        shell.run(&["consume", "t", "--format", "[%k][%s] %K %S\\n"]).expect(0).lines(),
        ["[k][v: w] 1 4", "[][v] 0 1", "[k][] 1 0"]
    );
    shell.feed(&["produce", "t", "--key-separator", "\\t"], b"tab\tbed\n").expect(0);
    assert_eq!(shell.records("t").last().map(|r| r["key"].clone()), Some(json!("tab")));
}

#[test]
fn records_go_where_they_are_told_or_where_their_key_says() {
    let shell = Shell::with_topic("t", 3);
    let lines: String = (0..30).map(|n| format!("{}:{n}\n", n % 5)).collect();
    shell.feed(&["produce", "t", "--key-separator", ":"], lines.as_bytes()).expect(0);
    for key in 0..5 {
        let all = shell.records("t");
        let of_key: Vec<_> = all.iter().filter(|r| r["key"] == json!(key.to_string())).collect();
        assert_eq!(of_key.len(), 6);
        assert!(of_key.iter().all(|r| r["partition"] == of_key[0]["partition"]), "{of_key:?}");
        // In the order of their lines.
        let values: Vec<i64> = of_key
            .iter()
            .map(|r| r["value"].as_str().expect("text").parse().expect("number"))
            .collect();
        assert!(values.is_sorted(), "{values:?}");
    }
    shell.feed(&["produce", "t", "--partition", "2"], b"told\n").expect(0);
    assert!(shell.values(&["t", "--partition", "2"]).contains(&"told".to_owned()));
    // The option is stronger than the line.
    let line = b"{\"value\":\"json\",\"partition\":0}\n";
    shell.feed(&["produce", "t", "--json", "--partition", "1"], line).expect(0);
    assert!(shell.values(&["t", "--partition", "1"]).contains(&"json".to_owned()));
    shell.feed(&["produce", "t", "--json"], line).expect(0);
    assert!(shell.values(&["t", "--partition", "0"]).contains(&"json".to_owned()));
    let (one, both) = (
        shell.values(&["t", "--partition", "1"]).len(),
        shell.values(&["t", "--partition", "1", "--partition", "0", "--partition", "1"]).len(),
    );
    assert_eq!(both, one + shell.values(&["t", "--partition", "0"]).len());
}

#[test]
fn batches_keep_to_the_topics_limit_whatever_the_lines_are() {
    let shell = Shell::new();
    shell.run(&["topics", "create", "t", "-c", "max.message.bytes=4096"]).expect(0);
    // Small lines before large ones: a batch is closed before a line that does not fit.
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for n in 0..60_usize {
        lines.push(vec![b'a' + (n % 26) as u8; if n % 3 == 0 { 3900 } else { 7 * n }]);
    }
    let input = lines.iter().flat_map(|l| [l.as_slice(), b"\n"]).collect::<Vec<_>>().concat();
    for extra in [
        &[][..],
        &["--batch-size", "1"],
        &["--batch-size", "1000000", "--compression", "lz4"],
        &["--transactional-id", "x", "--transaction-size", "7"],
    ] {
        let arguments = [&["produce", "t"], extra].concat();
        shell.feed(&arguments, &input).expect(0);
        let from = format!("-{}", lines.len());
        assert_eq!(shell.run(&["consume", "t", "--from", &from]).expect(0).out, input, "{extra:?}");
    }
    let mut input = b"small\n".to_vec();
    input.resize(5000, b'x');
    input.extend_from_slice(b"\nlast\n");
    let said = shell.feed(&["produce", "t", "--keep-going"], &input).expect(8);
    assert!(said.err.contains("line 2, column 1") && said.err.contains("max.message.bytes"));
    assert_eq!(shell.values(&["t", "--from", "-2"]), ["small", "last"]);
}

#[test]
fn compacted_topics_take_no_line_without_a_key() {
    let shell = Shell::new();
    shell.run(&["topics", "create", "t", "-c", "cleanup.policy=compact"]).expect(0);
    assert!(shell.feed(&["produce", "t"], b"x\n").expect(1).err.contains("compacted"));
    let lines = b"{\"key\":\"k\",\"value\":null}\n{\"value\":\"v\"}\n";
    shell.feed(&["produce", "t", "--json", "--keep-going"], lines).expect(8);
    assert_eq!(shell.records("t").len(), 1);
}

#[test]
fn every_place_to_begin_is_found() {
    let shell = Shell::with_topic("t", 1);
    let lines: String = (0..10)
        .map(|n| format!("{{\"value\":\"{n}\",\"timestamp\":{}}}\n", 1_000 * (n + 1)))
        .collect();
    shell.feed(&["produce", "t", "--json"], lines.as_bytes()).expect(0);
    for (from, first) in [
        ("beginning", 0),
        ("end", 10),
        ("0", 0),
        ("7", 7),
        ("10", 10),
        ("-3", 7),
        ("-0", 10),
        ("-10", 0),
        ("-99", 0),
        ("@0", 0),
        ("@3000", 2),
        ("@3001", 3),
        ("@1970-01-01T00:00:03Z", 2),
        ("@1970-01-01T01:00:03.0001+01:00", 3),
        ("@-1h", 10),
        ("@9999999999999", 10),
    ] {
        let wanted: Vec<String> = (first..10).map(|n| n.to_string()).collect();
        assert_eq!(shell.values(&["t", "--from", from]), wanted, "{from}");
    }
    shell.feed(&["produce", "t"], b"now\n").expect(0);
    assert_eq!(shell.values(&["t", "--from", "@-1h"]), ["now"]);
    assert_eq!(shell.values(&["t", "--from", "2", "--max", "3"]), ["2", "3", "4"]);
    assert_eq!(shell.values(&["t", "--max", "0"]), Vec::<String>::new());
}

#[test]
fn the_last_records_are_counted_as_readers_see_them() {
    let shell = Shell::with_topic("t", 1);
    let lines: String = (0..40).map(|n| format!("{n}\n")).collect();
    let arguments = [
        "produce",
        "t",
        "--transactional-id",
        "x",
        "--transaction-size",
        "4",
        "--abort-every",
        "2",
    ];
    shell.feed(&arguments, lines.as_bytes()).expect(0);
    // Transactions 2, 4, ... of four records each are aborted; each ends with a marker.
    let seen: Vec<String> = (0..40).filter(|n| n / 4 % 2 == 0).map(|n| n.to_string()).collect();
    assert_eq!(shell.values(&["t"]), seen);
    for count in [0, 1, 4, 5, 19, 20, 21] {
        let wanted = &seen[seen.len().saturating_sub(count)..];
        assert_eq!(shell.values(&["t", "--from", &format!("-{count}")]), wanted, "{count}");
    }
    let all: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    assert_eq!(shell.values(&["t", "--isolation", "read_uncommitted"]), all);
    let last = ["t", "--isolation", "read_uncommitted", "--from", "-3"];
    assert_eq!(shell.values(&last), ["37", "38", "39"]);
}

#[test]
fn the_end_of_input_commits_and_a_bad_line_aborts() {
    let shell = Shell::with_topic("t", 2);
    let transactional = ["produce", "t", "--transactional-id", "x", "--transaction-size", "10"];
    shell.feed(&transactional, b"a\nb\nc\n").expect(0);
    let json = [&transactional[..], &["--json"]].concat();
    let said = shell.feed(&json, b"{\"value\":\"d\"}\nbad\n").expect(1);
    assert!(
        said.err.contains("line 2") && said.err.contains("records committed in t: 0;"),
        "{}",
        said.err
    );
    let mut values = shell.values(&["t"]);
    values.sort();
    assert_eq!(values, ["a", "b", "c"]);
    // A refused line takes no part, also not in the count.
    let keep = [&json[..], &["--keep-going", "--abort-every", "2"]].concat();
    let lines: String = (0..25)
        .map(|n| if n % 5 == 0 { "bad\n".into() } else { format!("{{\"value\":\"{n:02}\"}}\n") })
        .collect();
    shell.feed(&keep, lines.as_bytes()).expect(8);
    let mut values = shell.values(&["t"]);
    values.sort();
    let good = (0..25).filter(|n| n % 5 != 0).map(|n| format!("{n:02}")).take(10);
    assert_eq!(values, good.chain(["a", "b", "c"].map(String::from)).collect::<Vec<_>>());
}

#[test]
fn a_group_goes_on_where_it_was() {
    let shell = Shell::with_topic("t", 2);
    let produce =
        |text: &str| shell.feed(&["produce", "t", "--partition", "1"], text.as_bytes()).expect(0);
    produce("a\nb\nc\n");
    assert_eq!(shell.values(&["t", "--group", "g", "--max", "2"]), ["a", "b"]);
    assert_eq!(shell.values(&["t", "--group", "g"]), ["c"]);
    produce("d\n");
    assert_eq!(shell.values(&["t", "--group", "g", "--from", "stored"]), ["d"]);
    assert_eq!(shell.values(&["t", "--group", "g"]), Vec::<String>::new());
    assert_eq!(shell.values(&["t", "--group", "h", "--from", "-1"]), ["d"]);
    // Told where to begin, it goes there, and on from there.
    assert_eq!(shell.values(&["t", "--group", "g", "--from", "beginning", "--max", "1"]), ["a"]);
    assert_eq!(shell.values(&["t", "--group", "g"]), ["b", "c", "d"]);
    // A topic of the same name is another topic: the group begins anew.
    shell.run(&["topics", "delete", "t"]).expect(0);
    shell.run(&["topics", "create", "t", "--partitions", "2"]).expect(0);
    produce("new\n");
    assert_eq!(shell.values(&["t", "--group", "g"]), ["new"]);
}

#[test]
fn topics_are_listed_described_and_deleted() {
    let shell = Shell::new();
    let made =
        ["topics", "create", "b", "--partitions", "3", "-c", "segment.bytes=1048576", "--json"];
    let made = shell.run(&made).expect(0);
    let object: serde_json::Value = serde_json::from_str(made.text()).expect("an object");
    assert_eq!(object["config"], json!({"segment.bytes": "1048576"}));
    shell.run(&["topics", "create", "a"]).expect(0);
    let listed = shell.run(&["topics", "list"]).expect(0);
    let rows: Vec<Vec<&str>> = listed.lines().iter().map(|l| l.split('\t').collect()).collect();
    assert_eq!(rows[0], ["TOPIC", "ID", "PARTITIONS", "CONFIG"]);
    assert_eq!((rows[1][0], rows[1][2], rows[2][0], rows[2][2]), ("a", "1", "b", "3"));
    assert_eq!(rows[2][3], "segment.bytes=1048576");
    assert_eq!(shell.run(&["topics", "list", "--json"]).expect(0).lines().len(), 2);
    let all = shell.run(&["topics", "list", "--json", "--internal"]).expect(0);
    assert!(all.text().contains("\"topic\":\"__consumer_offsets\""), "{}", all.text());

    shell.feed(&["produce", "b", "--partition", "1"], b"x\ny\n").expect(0);
    let said = shell.run(&["topics", "describe", "b", "--json"]).expect(0);
    let object: serde_json::Value = serde_json::from_str(said.text()).expect("an object");
    assert_eq!(object["partitions"][1]["end"], 2);
    assert_eq!(object["partitions"][1]["high_watermark"], 2);
    assert_eq!(object["partitions"][2]["end"], 0);
    let said = shell.run(&["topics", "describe", "b"]).expect(0);
    assert!(said.text().contains("PARTITION\tSTART\tLAST-STABLE\tHIGH-WATERMARK\tEND"));
    shell.run(&["topics", "delete", "b"]).expect(0);
    assert!(!shell.run(&["topics", "list"]).expect(0).text().contains("segment"));
}

#[test]
fn help_completions_and_pages_come_without_a_folder() {
    let shell = Shell::new();
    for (arguments, wanted) in [
        (&["--version"][..], "thalweg 0."),
        (&["--help"], "Exit status"),
        (&["produce", "--help"], "--abort-every"),
        (&["completions", "bash"], "_thalweg"),
        (&["completions", "zsh"], "#compdef thalweg"),
        (&["completions", "fish"], "complete -c thalweg"),
        (&["man"], ".TH thalweg 1"),
        (&["man", "topics", "create"], ".TH thalweg-topics-create 1"),
    ] {
        let said = shell.run(arguments).expect(0);
        assert!(said.text().contains(wanted), "{arguments:?}: {}", said.text());
        assert!(!said.text().contains("\x1b["), "no colour in a pipe");
    }
    assert!(!shell.data.exists());
}

#[test]
fn groups_are_described_and_moved() {
    let shell = Shell::with_topic("t", 2);
    let lines: String =
        (0..6).map(|n| format!("{{\"value\":\"{n}\",\"partition\":{}}}\n", n % 2)).collect();
    shell.feed(&["produce", "t", "--json"], lines.as_bytes()).expect(0);
    assert!(shell.run(&["groups", "describe", "g"]).expect(3).err.contains("group \"g\""));
    assert_eq!(shell.run(&["groups", "list", "--json"]).expect(0).text(), "");
    shell.run(&["consume", "t", "--group", "g", "--partition", "0", "--max", "2"]).expect(0);
    let said = shell.run(&["groups", "describe", "g", "--json"]).expect(0);
    assert_eq!(
        said.text(),
        "{\"group\":\"g\",\"topic\":\"t\",\"partition\":0,\"position\":2,\"end\":3,\"lag\":1,\
         \"leader_epoch\":0,\"metadata\":\"\"}\n"
    );
    let listed = shell.run(&["groups", "list", "--json"]).expect(0);
    assert!(listed.text().contains("\"group\":\"g\"") && listed.text().contains("\"positions\":1"));
    let reset =
        |extra: &[&str]| shell.run(&[&["groups", "reset", "g", "t", "--json"], extra].concat());
    let said = reset(&["--to", "-1", "--dry-run"]).expect(0);
    assert!(said.text().contains("\"partition\":1,\"before\":null,\"position\":2}"), "{said:?}");
    assert_eq!(shell.run(&["groups", "describe", "g"]).expect(0).lines().len(), 2);
    reset(&["--to", "-1"]).expect(0);
    let mut values = shell.values(&["t", "--group", "g"]);
    values.sort();
    assert_eq!(values, ["4", "5"]);
    reset(&["--to", "beginning", "--partition", "1"]).expect(0);
    assert_eq!(shell.values(&["t", "--group", "g"]), ["1", "3", "5"]);
    reset(&["--to", "stored"]).expect(2);
    reset(&["--to", "4"]).expect(3);
    reset(&["--to", "end", "--partition", "7"]).expect(3);
}

#[test]
fn records_are_deleted_from_the_front() {
    let shell = Shell::with_topic("t", 1);
    shell.feed(&["produce", "t"], b"a\nb\nc\n").expect(0);
    let delete = |before: &str| {
        shell.run(&["delete-records", "t", "--partition", "0", "--json", "--before", before])
    };
    assert_eq!(delete("2").expect(0).text(), "{\"topic\":\"t\",\"partition\":0,\"start\":2}\n");
    assert_eq!(shell.values(&["t"]), ["c"]);
    // What is gone stays gone, also for the next process.
    assert!(delete("1").expect(0).text().contains("\"start\":2"));
    shell.run(&["consume", "t", "--from", "1"]).expect(3);
    delete("4").expect(3);
    delete("-1").expect(2);
    delete("end").expect(0);
    assert_eq!(shell.values(&["t"]), Vec::<String>::new());
    shell.feed(&["produce", "t"], b"d\n").expect(0);
    assert_eq!(shell.values(&["t"]), ["d"]);
    shell.run(&["delete-records", "t", "--partition", "1", "--before", "0"]).expect(3);
    shell.run(&["delete-records", "nope", "--partition", "0", "--before", "0"]).expect(3);
}

#[test]
fn settings_are_altered_and_go_back_to_their_default() {
    let shell = Shell::with_topic("t", 1);
    let alter = |extra: &[&str]| shell.run(&[&["topics", "alter", "t", "--json"], extra].concat());
    let said = alter(&["-c", "max.message.bytes=2000", "-c", "retention.ms=1000"]).expect(0);
    assert!(said.text().contains("\"max.message.bytes\":\"2000\""), "{}", said.text());
    let long = [vec![b'x'; 3000], b"\n".to_vec()].concat();
    shell.feed(&["produce", "t"], &long).expect(1);
    let said = alter(&["--unset", "max.message.bytes"]).expect(0);
    assert!(!said.text().contains("max.message") && said.text().contains("retention.ms"));
    shell.feed(&["produce", "t"], &long).expect(0);
    for wrong in [&["-c", "no.such=1"][..], &["-c", "retention.ms=x"], &["--unset", "no.such"], &[]]
    {
        alter(wrong).expect(2);
    }
    alter(&["-c", "retention.ms=1", "--unset", "retention.ms"]).expect(2);
    shell.run(&["topics", "alter", "nope", "-c", "retention.ms=1"]).expect(3);
}

#[test]
fn transactions_are_listed_and_an_unknown_one_is_named() {
    let shell = Shell::with_topic("t", 1);
    let transactional = ["produce", "t", "--transactional-id", "x", "--transaction-size", "1"];
    shell.feed(&transactional, b"a\n").expect(0);
    let said = shell.run(&["transactions", "list", "--json"]).expect(0);
    assert!(
        said.text().contains("\"transactional_id\":\"x\"") && said.text().contains("\"state\":")
    );
    shell.run(&["transactions", "abort", "nope"]).expect(3);
    // Whatever was open was aborted when the folder was opened: there is nothing to abort.
    shell.run(&["transactions", "abort", "x"]).expect(2);
}

#[test]
fn a_signal_aborts_the_open_transaction() {
    let shell = Shell::with_topic("t", 1);
    let transactional = ["produce", "t", "--transactional-id", "x", "--transaction-size", "3"];
    let mut child = shell.start(&transactional);
    let mut stdin = child.stdin.take().expect("it is a pipe");
    std::io::Write::write_all(&mut stdin, b"a\nb\nc\nd\n").expect("it reads");
    // The signal comes before, within or behind the first transaction: it is whole, or not there.
    let path = shell.data.join("log/__transaction_state-0/00000000000000000000.log");
    let decided = || std::fs::read(&path).is_ok_and(|bytes| !bytes.is_empty());
    while !decided() {
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let said = shell::end(child).expect(130);
    let (_, counts) = said.err.split_once("records committed in t: ").expect("it says how many");
    let (count, _) = counts.split_once(';').expect("and how many lines it read");
    let committed: usize = count.parse().expect("a number");
    let values = shell.values(&["t"]);
    assert_eq!(values.len(), committed);
    assert!(values == ["a", "b", "c"] || values.is_empty(), "{values:?}");
}

/// On a terminal, lists are tables and errors have colour: through `script`, where there is one.
#[test]
fn a_terminal_gets_tables() {
    let shell = Shell::with_topic("t", 1);
    let program = env!("CARGO_BIN_EXE_thalweg");
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &format!("{program} topics list; {program} nonsense"), "/dev/null"]);
    command.env("THALWEG_DATA", &shell.data).env_remove("NO_COLOR");
    command.stdin(std::process::Stdio::null());
    let Ok(output) = command.output() else {
        eprintln!("skipped: there is no `script` to make a terminal with");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("TOPIC") && text.contains('─') && !text.contains('\t'), "{text}");
    assert!(text.contains("\u{1b}[") && !text.contains("panicked"), "{text}");
}

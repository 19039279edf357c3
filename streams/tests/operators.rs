//! What each operator makes of its records.

use bytes::Bytes;
use thalweg_core::record::RecordRef;
use thalweg_streams::codec::{Bincode, Json, NoKey, Nullable, Raw, Str};
use thalweg_streams::driver::TestDriver;
use thalweg_streams::{Builder, EventTime, Result, Store, Topic, Topology};

const IN: Topic<u32, i64> = Topic::new("in");
const OUT: Topic<u32, i64> = Topic::new("out");
const OTHER: Topic<u32, i64> = Topic::new("other");
const BY_VALUE: Topic<i64, u32> = Topic::internal("by-value");
const COUNTS: Topic<u32, u64> = Topic::new("counts");
const COUNT: Store<u32, u64> = Store::new("count");
const LATEST: Store<u32, i64> = Store::new("latest");

type Records = Vec<(u32, i64)>;

fn build(define: impl FnOnce(&Builder)) -> Result<Topology> {
    Topology::build("test", |b| {
        define(b);
        Ok(())
    })
}

/// Sends `input` through a pipeline from `IN` and gives what is in `OUT`.
fn through(define: impl FnOnce(&Builder), input: &[(u32, i64)]) -> Result<Records> {
    let mut t = TestDriver::new(build(define)?);
    for &(key, value) in input {
        t.pipe(&IN, &key, &value, 0)?;
    }
    t.run()?;
    t.read(&OUT)
}

#[test]
fn stateless_operators_do_what_they_say() -> Result<()> {
    type Case = (&'static str, fn(&Builder), Records);
    let input = [(1, 10), (2, -20), (3, 30)];
    let cases: [Case; 9] = [
        (
            "map",
            |b| b.stream(&IN).map(|k, v| (k + 1, v * 2)).to(&OUT),
            vec![(2, 20), (3, -40), (4, 60)],
        ),
        (
            "map_values",
            |b| b.stream(&IN).map_values(|k, v| v + i64::from(*k)).to(&OUT),
            vec![(1, 11), (2, -18), (3, 33)],
        ),
        ("filter", |b| b.stream(&IN).filter(|_, v| *v > 0).to(&OUT), vec![(1, 10), (3, 30)]),
        ("filter_not", |b| b.stream(&IN).filter_not(|_, v| *v > 0).to(&OUT), vec![(2, -20)]),
        (
            "flat_map",
            |b| b.stream(&IN).flat_map(|k, v| (0..k - 1).map(move |i| (i, v))).to(&OUT),
            vec![(0, -20), (0, 30), (1, 30)],
        ),
        (
            "flat_map_values",
            |b| b.stream(&IN).flat_map_values(|k, v| vec![v; *k as usize - 1]).to(&OUT),
            vec![(2, -20), (3, 30), (3, 30)],
        ),
        (
            "select_key",
            |b| b.stream(&IN).select_key(|k, _| k * 100).to(&OUT),
            vec![(100, 10), (200, -20), (300, 30)],
        ),
        (
            "boxed",
            |b| b.stream(&IN).filter(|k, _| *k > 1).boxed().map_values(|_, v| -v).to(&OUT),
            vec![(2, 20), (3, -30)],
        ),
        (
            "map_record",
            |b| {
                let offset = |v: i64, offset: Option<i64>| v + offset.unwrap_or(-1);
                b.stream(&IN)
                    .map_record(move |rec, meta| (rec.key, offset(rec.value, meta.offset)))
                    .to(&OUT);
            },
            vec![(1, 10), (2, -19), (3, 32)],
        ),
    ];
    for (name, define, expected) in cases {
        assert_eq!(through(define, &input)?, expected, "{name}");
    }
    Ok(())
}

#[test]
fn inspect_sees_each_record_and_changes_none() -> Result<()> {
    let (send, seen) = std::sync::mpsc::channel();
    let define = |b: &Builder| {
        let look = move |k: &u32, v: &i64| send.send((*k, *v)).expect("the test listens");
        b.stream(&IN).inspect(look).to(&OUT);
    };
    assert_eq!(through(define, &[(1, 2), (3, 4)])?, [(1, 2), (3, 4)]);
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [(1, 2), (3, 4)]);
    Ok(())
}

#[test]
fn tee_gives_both_streams_every_record() -> Result<()> {
    let mut t = TestDriver::new(build(|b| {
        let (left, right) = b.stream(&IN).tee();
        left.map_values(|_, v| v + 1).to(&OUT);
        let (right, again) = right.tee();
        right.filter(|k, _| *k == 2).to(&OTHER);
        again.count(&COUNT).to(&COUNTS);
    })?);
    t.pipe(&IN, &1, &10, 0)?;
    t.pipe(&IN, &2, &20, 0)?;
    t.run()?;
    assert_eq!(t.read(&OUT)?, [(1, 11), (2, 21)]);
    assert_eq!(t.read(&OTHER)?, [(2, 20)]);
    assert_eq!(t.read(&COUNTS)?, [(1, 1), (2, 1)]);
    Ok(())
}

#[test]
fn split_sends_a_record_to_the_first_that_wants_it() -> Result<()> {
    let mut t = TestDriver::new(build(|b| {
        let [small, even] = b.stream(&IN).split([|_, v| *v < 10, |_, v| v % 2 == 0]);
        small.to(&OUT);
        even.to(&OTHER);
    })?);
    for value in [4, 5, 12, 13] {
        t.pipe(&IN, &0, &value, 0)?;
    }
    t.run()?;
    assert_eq!(t.read(&OUT)?, [(0, 4), (0, 5)]);
    assert_eq!(t.read(&OTHER)?, [(0, 12)], "13 is wanted by none");
    Ok(())
}

#[test]
fn repartition_brings_equal_keys_together() -> Result<()> {
    const VALUES: Topic<i64, u64> = Topic::new("values");
    const SEEN: Store<i64, u64> = Store::new("seen");
    let topology = build(|b| {
        b.stream(&IN).map(|k, v| (v % 5, k)).repartition(&BY_VALUE).count(&SEEN).to(&VALUES);
    })?;
    assert_eq!(topology.subtopologies().len(), 2);
    let mut t = TestDriver::with_partitions(topology, 4);
    for i in 0..100_u32 {
        t.pipe(&IN, &i, &i64::from(i), 0)?;
    }
    t.run()?;
    let mut counts = t.find(&VALUES)?;
    counts.sort_by_key(|found| found.key);
    let last: Vec<_> = counts.iter().map(|found| (found.key, found.value)).collect();
    // One commit of the first part, then one of the second: each key once, with all its records.
    assert_eq!(last, (0..5).map(|key| (key, 20)).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn a_table_emits_each_changed_key_once_per_commit() -> Result<()> {
    let mut t = TestDriver::new(build(|b| b.stream(&IN).count(&COUNT).to(&COUNTS))?);
    for key in [3, 1, 3, 2, 3] {
        t.pipe(&IN, &key, &0, 7)?;
    }
    t.run()?;
    assert_eq!(t.read(&COUNTS)?, [(1, 1), (2, 1), (3, 3)], "in the order of keys");
    t.pipe(&IN, &2, &0, 7)?;
    t.run()?;
    assert_eq!(t.read(&COUNTS)?, [(2, 2)]);
    assert_eq!(t.rows(&COUNT)?.into_iter().collect::<Vec<_>>(), [(1, 1), (2, 2), (3, 3)]);
    Ok(())
}

#[test]
fn the_greatest_value_wins_and_nothing_else_is_a_change() -> Result<()> {
    let define = |b: &Builder| b.stream(&IN).to_table_by(&LATEST, |new, old| new > old).to(&OUT);
    let mut t = TestDriver::new(build(define)?);
    type Step = (&'static [(u32, i64)], &'static [(u32, i64)]);
    let steps: [Step; 4] = [
        (&[(1, 5), (1, 9), (1, 7)], &[(1, 9)]),
        (&[(1, 8)], &[]),
        (&[(2, 1), (1, 10)], &[(1, 10), (2, 1)]),
        (&[(2, 1)], &[]),
    ];
    for (input, expected) in steps {
        for (key, value) in input {
            t.pipe(&IN, key, value, 0)?;
        }
        t.run()?;
        assert_eq!(t.read(&OUT)?, expected, "{input:?}");
    }
    Ok(())
}

#[test]
fn aggregates_fold_the_values_of_a_key() -> Result<()> {
    const SUM: Store<u32, (i64, u32)> = Store::new("sum");
    const SUMS: Topic<u32, (i64, u32), Bincode, Json> = Topic::json("sums");
    let mut t = TestDriver::new(build(|b| {
        let add = |sum: &mut (i64, u32), _: &u32, value: i64| {
            sum.0 += value;
            sum.1 += 1;
        };
        b.stream(&IN).aggregate(&SUM, || (0, 0), add).to(&SUMS);
    })?);
    for (key, value) in [(1, 10), (2, 5), (1, -3)] {
        t.pipe(&IN, &key, &value, 0)?;
    }
    t.run()?;
    assert_eq!(t.read(&SUMS)?, [(1, (7, 2)), (2, (5, 1))]);
    Ok(())
}

#[test]
fn null_deletes_a_key_of_a_table() -> Result<()> {
    const NULLABLE_IN: Topic<u32, Option<i64>, Bincode, Nullable<Bincode>> =
        Topic::with("in", Bincode, Nullable(Bincode));
    const NULLABLE_OUT: Topic<u32, Option<i64>, Bincode, Nullable<Bincode>> =
        Topic::with("out", Bincode, Nullable(Bincode));
    let mut t = TestDriver::new(build(|b| b.table(&IN, &LATEST).to(&OUT))?);
    t.pipe(&IN, &1, &10, 0)?;
    t.pipe(&IN, &2, &20, 0)?;
    t.run()?;
    t.pipe(&NULLABLE_IN, &1, &None, 0)?;
    t.pipe(&NULLABLE_IN, &9, &None, 0)?;
    t.run()?;
    // Key 9 was never there: deleting it is no change.
    assert_eq!(t.read(&NULLABLE_OUT)?, [(1, Some(10)), (2, Some(20)), (1, None)]);
    assert_eq!(t.rows(&LATEST)?.into_iter().collect::<Vec<_>>(), [(2, 20)]);
    Ok(())
}

#[test]
fn lines_are_parsed_in_place_with_their_headers() -> Result<()> {
    const LINES: Topic<Bytes, Bytes, Raw, Raw> = Topic::raw("lines");
    const EVENTS: Topic<(), String, NoKey, Str> = Topic::with("events", NoKey, Str);
    fn parse(line: &RecordRef<'_>) -> Option<(String, String, EventTime)> {
        let file = String::from_utf8_lossy(line.headers.get(b"file")??).into_owned();
        let text = std::str::from_utf8(line.value?).ok()?;
        let (time, text) = text.split_once(' ')?;
        Some((file, text.to_owned(), EventTime::At(time.parse().ok()?)))
    }
    let mut t = TestDriver::new(build(|b| {
        b.parse(&LINES, parse).map(|file, text| ((), format!("{file}: {text}"))).to(&EVENTS);
    })?);
    let header: [(&[u8], Option<&[u8]>); 1] = [(b"file", Some(b"a.log"))];
    t.pipe_raw("lines", 0, None, Some(b"42 hello"), &header, 1000)?;
    t.pipe_raw("lines", 0, None, Some(b"no time"), &header, 1001)?;
    t.run()?;
    let found = t.find(&EVENTS)?;
    assert_eq!(found.len(), 1, "what is no line is dropped");
    assert_eq!((found[0].value.as_str(), found[0].timestamp), ("a.log: hello", 42));
    assert!(found[0].headers.is_empty(), "the closure took the record apart");
    Ok(())
}

#[test]
fn headers_go_along_and_those_of_the_log_do_not() -> Result<()> {
    let mut t = TestDriver::new(build(|b| b.stream(&IN).map_values(|_, v| v).to(&OUT))?);
    let (mut key, mut value) = (Vec::new(), Vec::new());
    key.extend(7_u32.to_le_bytes());
    value.extend(8_i64.to_le_bytes());
    let headers: [(&[u8], Option<&[u8]>); 3] =
        [(b"trace", Some(b"abc")), (b"__tw.own", Some(b"x")), (b"null", None)];
    t.pipe_raw("in", 0, Some(&key), Some(&value), &headers, 5)?;
    t.run()?;
    let found = t.find(&OUT)?;
    let expected = [("trace".to_owned(), b"abc".to_vec()), ("null".to_owned(), Vec::new())];
    assert_eq!(found[0].headers, expected);
    assert_eq!((found[0].key, found[0].value, found[0].timestamp), (7, 8, 5));
    Ok(())
}

#[test]
fn a_record_that_is_not_what_the_type_says_stops_the_task_and_is_named() -> Result<()> {
    let mut t = TestDriver::new(build(|b| b.stream(&IN).to(&OUT))?);
    t.pipe(&IN, &1, &1, 0)?;
    t.pipe_raw("in", 0, Some(&1_u32.to_le_bytes()), Some(b"short"), &[], 0)?;
    let refused = t.run().expect_err("the second record has no i64");
    assert!(refused.to_string().starts_with("record in-0@1: bincode: "), "{refused}");
    t.abort();
    assert_eq!(t.read(&OUT)?, [], "nothing of the transaction is seen");
    t.pipe_raw("in", 0, Some(&1_u32.to_le_bytes()), None, &[], 0)?;
    assert!(t.run().is_err(), "null has no place in an i64 either");
    Ok(())
}

const BY_GROUP: Topic<u32, i64> = Topic::internal("by-group");

/// Sums by `key % 3`, combined before they are sent or not.
fn sums(combined: bool) -> Result<Topology> {
    build(move |b| {
        let grouped = b.stream(&IN).map(|k, v| (k % 3, v));
        let grouped = match combined {
            true => grouped.repartition_combined(&BY_GROUP, |held, new| *held += new).boxed(),
            false => grouped.repartition(&BY_GROUP).boxed(),
        };
        grouped.aggregate(&LATEST, || 0, |sum, _, v| *sum += v).to(&OUT);
    })
}

#[test]
fn a_combiner_changes_what_is_sent_and_not_what_comes_of_it() -> Result<()> {
    let mut rows = Vec::new();
    for combined in [true, false] {
        let mut t = TestDriver::new(sums(combined)?);
        for n in 0..90 {
            t.pipe(&IN, &n, &i64::from(n), 1000 + i64::from(n))?;
            if n % 30 == 29 {
                t.run()?;
            }
        }
        let sent = t.find(&BY_GROUP)?;
        assert_eq!(sent.len(), if combined { 3 * 3 } else { 90 });
        if combined {
            // In the order in which the keys came, each at its latest record's time.
            let first: Vec<(u32, i64, i64)> =
                sent[..3].iter().map(|f| (f.key, f.value, f.timestamp)).collect();
            assert_eq!(first, [(0, 135, 1027), (1, 145, 1028), (2, 155, 1029)]);
        }
        rows.push(t.rows(&LATEST)?);
    }
    assert_eq!(rows[0], rows[1]);
    Ok(())
}

#[test]
fn what_a_combiner_held_is_forgotten_by_an_abort_and_read_again() -> Result<()> {
    let mut t = TestDriver::new(sums(true)?);
    t.pipe(&IN, &0, &1, 0)?;
    t.process()?;
    t.abort();
    t.pipe(&IN, &3, &10, 0)?;
    t.run()?;
    t.crash()?;
    t.pipe(&IN, &6, &100, 0)?;
    t.run()?;
    assert_eq!(t.rows(&LATEST)?.into_iter().collect::<Vec<_>>(), [(0, 111)]);
    Ok(())
}

#[test]
fn a_combiner_with_too_many_keys_sends_what_it_holds() -> Result<()> {
    let topology = build(|b| {
        b.stream(&IN).repartition_combined(&BY_GROUP, |held, new| *held += new).to(&OUT);
    })?;
    let mut t = TestDriver::new(topology);
    t.batch(100_000);
    for round in 0..2 {
        for key in 0..1500 {
            t.pipe(&IN, &key, &(i64::from(key) + round), 0)?;
        }
    }
    t.run()?;
    let mut sums = std::collections::BTreeMap::new();
    for (key, value) in t.read(&OUT)? {
        *sums.entry(key).or_insert(0) += value;
    }
    assert_eq!(sums.len(), 1500);
    assert!(sums.iter().all(|(key, sum)| *sum == 2 * i64::from(*key) + 1));
    Ok(())
}

#[test]
fn a_panic_in_a_closure_is_an_error_that_names_the_record() -> Result<()> {
    // While a record is processed, and when held back changes are sent.
    let by_record: fn(&Builder) = |b| {
        b.stream(&IN).map_values(|_, v| 100 / v).to(&OUT);
    };
    let by_change: fn(&Builder) = |b| {
        let changes = b.stream(&IN).to_table(&LATEST).to_stream();
        changes.map_values(|_, v| 100 / v.unwrap_or(1)).to(&OUT);
    };
    let places = ["record in-0@2", "task 0-0, between records"];
    for (define, place) in [by_record, by_change].into_iter().zip(places) {
        let mut t = TestDriver::new(build(define)?);
        for (key, value) in [(1, 10), (2, 20), (3, 0)] {
            t.pipe(&IN, &key, &value, 0)?;
        }
        let error = t.run().expect_err("a division by zero").to_string();
        assert!(error.starts_with(place), "{error}");
        assert!(error.contains("panicked: attempt to divide by zero"), "{error}");
        assert_eq!(t.read(&OUT)?, [], "nothing is committed");
    }
    Ok(())
}

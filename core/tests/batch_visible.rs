//! A reader of committed records sees exactly those, wherever it begins to read.

use thalweg_core::batch::{
    BatchBuilder, BatchError, BatchRef, Marker, Rewrite, Rewriter, Scratch, Visible, batches,
    control_batch, crc32c, stamp,
};
use thalweg_core::config::Compression;
use thalweg_core::ids::ProducerIdentity;
use thalweg_core::record::AbortedTransaction;

/// One batch of a small log. Data batches hold one record each.
enum Step {
    /// A record of a transaction: producer, epoch.
    Data(i64, i16),
    /// A record of no transaction: producer.
    Plain(i64),
    Commit(i64, i16),
    Abort(i64, i16),
}
use Step::{Abort, Commit, Data, Plain};

/// The log's bytes, from the batch at `start` on; offsets count from 0.
fn log(steps: &[Step], start: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None, 128);
    let mut bytes = Vec::new();
    for (offset, step) in steps.iter().enumerate() {
        let producer = |id: &i64, epoch: &i16| ProducerIdentity { id: *id, epoch: *epoch };
        let mut data = |producer, transactional| {
            builder.push(0, None, Some(b"v"), &[]).expect("small");
            builder.finish(producer, 0, transactional).expect("one")
        };
        let batch = match step {
            Data(id, epoch) => data(producer(id, epoch), true),
            Plain(id) => data(producer(id, &0), false),
            Commit(id, epoch) => control_batch(Marker::Commit, producer(id, epoch), 0, 0),
            Abort(id, epoch) => control_batch(Marker::Abort, producer(id, epoch), 0, 0),
        };
        let mut batch = batch.to_vec();
        stamp(batch.first_chunk_mut().expect("a header"), offset as i64, 0);
        if offset >= start {
            bytes.extend_from_slice(&batch);
        }
    }
    bytes
}

/// Makes the sum of a batch agree with its bytes.
fn seal(batch: &mut [u8]) {
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn aborted(list: &[(i64, i64, i64)]) -> Vec<AbortedTransaction> {
    let one = |&(producer_id, first_offset, last_offset)| AbortedTransaction {
        producer_id,
        first_offset,
        last_offset,
    };
    list.iter().map(one).collect()
}

struct Case {
    name: &'static str,
    steps: Vec<Step>,
    /// Producer, first offset, offset of the marker.
    aborted: Vec<(i64, i64, i64)>,
    /// The offset read from; the bytes begin there.
    from: usize,
    seen: Vec<i64>,
}

#[test]
fn committed_records_are_seen_and_no_others() {
    const UNKNOWN: i64 = i64::MAX;
    let case = |name, steps, aborted, from, seen| Case { name, steps, aborted, from, seen };
    let cases = vec![
        case("no transactions", vec![Plain(-1), Plain(5)], vec![], 0, vec![0, 1]),
        case("committed", vec![Data(7, 0), Data(7, 0), Commit(7, 0)], vec![], 0, vec![0, 1]),
        case(
            "aborted",
            vec![Plain(-1), Data(7, 0), Abort(7, 0), Plain(-1)],
            vec![(7, 1, 2)],
            0,
            vec![0, 3],
        ),
        case(
            "interleaved, one aborted",
            vec![Data(7, 0), Data(8, 0), Data(7, 0), Plain(-1), Commit(8, 0), Abort(7, 0)],
            vec![(7, 0, 5)],
            0,
            vec![1, 3],
        ),
        case(
            "interleaved, both aborted, the later first",
            vec![Data(7, 0), Data(8, 0), Abort(8, 0), Data(7, 0), Data(8, 0), Abort(7, 0)],
            vec![(7, 0, 5), (8, 1, 2)],
            0,
            vec![4],
        ),
        case(
            "a producer aborts, then commits, then aborts",
            vec![
                Data(7, 0),
                Abort(7, 1),
                Data(7, 1),
                Commit(7, 2),
                Data(7, 2),
                Data(7, 2),
                Abort(7, 3),
                Data(7, 3),
            ],
            vec![(7, 0, 1), (7, 4, 6)],
            0,
            vec![2, 7],
        ),
        case(
            "the marker's epoch is above the records'",
            vec![Data(7, 4), Abort(7, 5), Data(7, 5)],
            vec![(7, 0, UNKNOWN)],
            0,
            vec![2],
        ),
        case(
            "a marker of an older epoch ends nothing",
            vec![Data(7, 5), Abort(7, 3), Data(7, 5), Abort(7, 5), Data(7, 5)],
            vec![(7, 0, 3)],
            0,
            vec![4],
        ),
        case(
            "a marker of another producer ends nothing",
            vec![Data(7, 0), Abort(9, 5), Data(7, 0), Abort(7, 0)],
            vec![(7, 0, 3)],
            0,
            vec![],
        ),
        case(
            "a COMMIT ends no aborted transaction",
            vec![Data(7, 0), Commit(7, 0), Data(7, 0), Abort(7, 0)],
            vec![(7, 0, 3)],
            0,
            vec![],
        ),
        case(
            "aborted, began before the reader does",
            vec![
                Data(7, 0),
                Plain(-1),
                Data(7, 0),
                Data(8, 0),
                Abort(7, 1),
                Data(7, 1),
                Commit(8, 0),
            ],
            vec![(7, 0, 4)],
            2,
            vec![3, 5],
        ),
        case(
            "the same, the marker's offset unknown",
            vec![
                Data(7, 0),
                Plain(-1),
                Data(7, 0),
                Data(8, 0),
                Abort(7, 1),
                Data(7, 1),
                Commit(8, 0),
            ],
            vec![(7, 0, UNKNOWN)],
            2,
            vec![3, 5],
        ),
        case(
            "the reader begins at the marker",
            vec![Data(7, 0), Abort(7, 0), Data(7, 0)],
            vec![(7, 0, 1)],
            1,
            vec![2],
        ),
        case(
            "the marker was compacted away",
            vec![Data(7, 0), Plain(-1), Data(7, 1), Commit(7, 1)],
            vec![(7, 0, 1)],
            0,
            vec![1, 2],
        ),
        case(
            "ended before the reader begins",
            vec![Data(7, 0), Abort(7, 0), Data(7, 1), Commit(7, 1)],
            vec![(7, 0, 1)],
            2,
            vec![2],
        ),
        case(
            "a record of no transaction amid its producer's aborted one",
            vec![Data(7, 0), Plain(7), Abort(7, 0)],
            vec![(7, 0, 2)],
            0,
            vec![1],
        ),
        case(
            "a reader of uncommitted records gives none",
            vec![Data(7, 0), Data(8, 0), Abort(7, 0), Commit(8, 0)],
            vec![],
            0,
            vec![0, 1],
        ),
    ];
    for Case { name, steps, aborted: list, from, seen } in cases {
        let bytes = log(&steps, from);
        let aborted = aborted(&list);
        let found: Vec<_> = Visible::new(&bytes, &aborted, from as i64)
            .map(|batch| batch.expect(name).header.base_offset)
            .collect();
        assert_eq!(found, seen, "{name}");
        // Bytes that begin earlier than what is read from, as fetched ones may, change nothing.
        let whole = log(&steps, 0);
        let found: Vec<_> = Visible::new(&whole, &aborted, from as i64)
            .map(|batch| batch.expect(name).header.base_offset)
            .collect();
        assert_eq!(found, seen, "{name}, all bytes");
    }
}

#[test]
fn a_batch_that_holds_the_position_is_given_whole() {
    let mut builder = BatchBuilder::new(Compression::None, 128);
    let mut bytes = Vec::new();
    for base in [10, 13] {
        for _ in 0..3 {
            builder.push(0, None, None, &[]).expect("small");
        }
        let mut batch = builder.finish(ProducerIdentity::NONE, -1, false).expect("three").to_vec();
        stamp(batch.first_chunk_mut().expect("a header"), base, 0);
        bytes.extend_from_slice(&batch);
    }
    for (from, batches, records) in [(10, 2, 6), (12, 2, 4), (13, 1, 3), (15, 1, 1), (16, 0, 0)] {
        let mut scratch = Scratch::default();
        let mut found = (0, 0);
        for batch in Visible::new(&bytes, &[], from) {
            let batch = batch.expect("whole");
            let left = batch.records(&mut scratch).expect("plain").starting_at(from);
            found = (found.0 + 1, found.1 + left.inspect(|r| assert!(r.is_ok())).count());
        }
        assert_eq!(found, (batches, records), "from {from}");
    }
}

#[test]
fn damage_is_told_once_and_ends_the_view() {
    // A marker whose record is cut short, while a transaction is open.
    let mut bytes = log(&[Data(7, 0)], 0);
    let mut marker =
        control_batch(Marker::Abort, ProducerIdentity { id: 7, epoch: 0 }, 0, 0).to_vec();
    stamp(marker.first_chunk_mut().expect("a header"), 1, 0);
    marker[61] = 34;
    seal(&mut marker);
    bytes.extend_from_slice(&marker);
    bytes.extend_from_slice(&log(&[Plain(-1)], 0));
    let aborted = aborted(&[(7, 0, 9)]);
    let mut visible = Visible::new(&bytes, &aborted, 0);
    assert!(visible.next().expect("the marker").is_err());
    assert!(visible.next().is_none());

    let cut = log(&[Plain(-1), Plain(-1)], 0);
    let mut visible = Visible::new(&cut[..cut.len() - 1], &[], 0);
    assert!(visible.next().expect("the first").is_ok());
    assert!(visible.next().expect("the second").is_err());
    assert!(visible.next().is_none());
    assert!(BatchRef::parse(&cut).is_ok());
}

/// A flipped bit that makes a batch a control batch, transactional, another producer's or one of an
/// earlier offset once made it vanish without a word, since its header was believed before its sum.
#[test]
fn no_flipped_bit_makes_a_batch_vanish() {
    // Two transactions, one aborted, and records of neither.
    let steps =
        [Plain(-1), Data(7, 0), Data(8, 0), Commit(7, 0), Abort(8, 0), Plain(-1), Data(7, 1)];
    let bytes = log(&steps, 0);
    let aborted = aborted(&[(8, 2, 4)]);
    let seen = |bytes: &[u8]| {
        let batches = Visible::new(bytes, &aborted, 0);
        batches.map(|batch| batch.map(|batch| batch.header.base_offset)).collect::<Vec<_>>()
    };
    assert_eq!(seen(&bytes), [Ok(0), Ok(1), Ok(5), Ok(6)]);
    let starts: Vec<usize> = batches(&bytes)
        .map(|batch| batch.expect("whole").bytes.as_ptr() as usize - bytes.as_ptr() as usize)
        .collect();
    for bit in 0..bytes.len() * 8 {
        let at = bit / 8;
        let start = starts.iter().rfind(|start| **start <= at).expect("in a batch");
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (bit % 8);
        let found = seen(&flipped);
        match at - start {
            // The log gives these, and no sum covers them. A batch may be given out as of another
            // offset, which the log knows to be wrong by the chain of offsets; none is left out.
            0..8 => {
                assert!(found.len() == 4 || found.last().is_some_and(Result::is_err), "bit {bit}")
            }
            12..16 => assert_eq!(found, seen(&bytes), "bit {bit}"),
            _ => assert!(found.last().is_some_and(Result::is_err), "bit {bit}: {found:?}"),
        }
    }
}

#[test]
fn batches_that_do_not_follow_each_other_are_told() {
    let mut bytes = log(&[Plain(-1), Plain(-1)], 0);
    let again = log(&[Plain(-1), Plain(-1)], 1);
    bytes.extend_from_slice(&again);
    let mut visible = Visible::new(&bytes, &[], 0);
    assert!(visible.by_ref().take(2).all(|batch| batch.is_ok()));
    assert_eq!(visible.next(), Some(Err(BatchError::Order { base_offset: 1, previous: 1 })));
    assert_eq!(visible.next(), None);
}

#[test]
fn what_was_given_out_is_not_summed_again_and_other_bytes_are() {
    let bytes = log(&[Plain(-1)], 0);
    let given = Visible::new(&bytes, &[], 0).next().expect("one").expect("whole");
    given.check_crc().expect("was checked");
    assert_eq!(given, BatchRef::parse(&bytes).expect("whole"));
    let mut flipped = bytes.clone();
    *flipped.last_mut().expect("some") ^= 1;
    let found = BatchRef::parse(&flipped).expect("whole").verified().map(|_| ());
    assert!(matches!(found, Err(BatchError::Crc { .. })), "{found:?}");
}

/// What compaction leaves of batches it empties: data without records, and a marker without its record.
#[test]
fn emptied_batches_are_no_damage() {
    let bytes = log(&[Data(7, 0), Data(8, 0), Abort(8, 0), Plain(-1)], 0);
    let mut rewriter = Rewriter::default();
    let how = Rewrite { keep_empty: true, ..Rewrite::default() };
    let mut emptied = Vec::new();
    for batch in batches(&bytes) {
        let batch = batch.expect("whole");
        rewriter.rewrite(&batch, how, |record| record.offset == 3, &mut emptied).expect("whole");
    }
    let aborted = aborted(&[(8, 1, 2)]);
    let mut scratch = Scratch::default();
    let mut found = Vec::new();
    for batch in Visible::new(&emptied, &aborted, 0) {
        let batch = batch.expect("whole");
        let records = batch.records(&mut scratch).expect("plain").count();
        found.push((batch.header.base_offset, batch.header.next_offset(), records));
    }
    assert_eq!(found, [(0, 1, 0), (3, 4, 1)]);
}

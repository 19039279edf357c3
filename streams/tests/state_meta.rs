//! The meta record says again what it was told, its bytes are fixed, and no bytes harm who reads them.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use thalweg_core::ids::{TopicPartition, Uuid};
use thalweg_streams::state::digest::Digest;
use thalweg_streams::state::meta::{
    ChangelogPosition, CheckpointMeta, InputPosition, META_BYTES_MAX, Meta, MetaError,
    OperatorState, TaskId,
};

fn task() -> impl Strategy<Value = TaskId> {
    (any::<u32>(), any::<u32>())
        .prop_map(|(subtopology, partition)| TaskId { subtopology, partition })
}

fn partition() -> impl Strategy<Value = TopicPartition> {
    (".{0,20}", any::<u32>()).prop_map(|(topic, partition)| TopicPartition::new(topic, partition))
}

fn input() -> impl Strategy<Value = InputPosition> {
    let upstream = vec((task(), any::<i64>()), 0..4);
    (partition(), any::<[u8; 16]>(), any::<(i32, i64, Option<i64>, bool)>(), upstream).prop_map(
        |(at, id, (leader_epoch, next_offset, max_timestamp, backlog), upstream)| InputPosition {
            at,
            topic_id: Uuid(id),
            leader_epoch,
            next_offset,
            max_timestamp,
            backlog,
            upstream,
        },
    )
}

fn digests() -> impl Strategy<Value = Vec<(u16, Digest)>> {
    vec((any::<u16>(), any::<[u8; 24]>().prop_map(Digest::from_bytes)), 0..4)
}

fn meta() -> impl Strategy<Value = Meta> {
    let operator = (".{0,12}", vec(any::<u8>(), 0..40))
        .prop_map(|(name, bytes)| OperatorState { name: name.into(), bytes: bytes.into() });
    let scalars = any::<([u8; 16], u64, u64, Option<i64>, Option<i64>)>();
    (scalars, task(), vec(input(), 0..4), vec(operator, 0..4), digests()).prop_map(
        |(
            (id, topology_hash, txn_seq, last_clock, clock_advance),
            task,
            inputs,
            operators,
            digests,
        )| {
            Meta {
                log_id: Uuid(id),
                topology_hash,
                task,
                txn_seq,
                last_clock,
                clock_advance,
                inputs,
                operators,
                digests,
            }
        },
    )
}

fn checkpoint() -> impl Strategy<Value = CheckpointMeta> {
    let position = (any::<(u16, i32, i64)>(), partition(), any::<[u8; 16]>()).prop_map(
        |((store, leader_epoch, offset), at, id)| ChangelogPosition {
            store,
            at,
            topic_id: Uuid(id),
            leader_epoch,
            offset,
        },
    );
    (meta(), vec(position, 0..4)).prop_map(|(meta, changelogs)| CheckpointMeta { meta, changelogs })
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(checkpoint in checkpoint()) {
        let bytes = checkpoint.meta.encode().expect("short");
        prop_assert_eq!(Meta::decode(&bytes), Ok(checkpoint.meta.clone()));
        prop_assert!(CheckpointMeta::decode(&bytes).is_err(), "a record is no checkpoint");
        let bytes = checkpoint.encode().expect("short");
        prop_assert!(Meta::decode(&bytes).is_err(), "a checkpoint is no record");
        prop_assert_eq!(CheckpointMeta::decode(&bytes), Ok(checkpoint));
    }

    /// Every cut and every changed byte is noticed.
    #[test]
    fn damage_is_noticed(checkpoint in checkpoint(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let bytes = checkpoint.encode().expect("short");
        let at = at.index(bytes.len());
        prop_assert!(CheckpointMeta::decode(&bytes[..at]).is_err());
        let mut changed = bytes.to_vec();
        changed[at] ^= flip;
        prop_assert!(CheckpointMeta::decode(&changed).is_err());
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Meta::decode(&bytes);
        let _ = CheckpointMeta::decode(&bytes);
    }

    /// With a checksum that holds, so that the checks behind it are reached: whatever is accepted
    /// encodes to the same bytes again.
    #[test]
    fn any_bytes_with_a_good_checksum_are_decoded_or_refused(
        checkpoint in checkpoint(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let sealed = checkpoint.encode().expect("short");
        let mut body = sealed[..sealed.len() - 8].to_vec();
        for (at, byte) in edits {
            let at = at.index(body.len());
            body[at] = byte;
        }
        for body in [&body[..], &body[..cut.index(body.len())]] {
            let sum = xxhash_rust::xxh3::xxh3_64(body);
            let bytes = [body, &sum.to_be_bytes()].concat();
            if let Ok(accepted) = CheckpointMeta::decode(&bytes) {
                prop_assert_eq!(&accepted.encode().expect("short"), &bytes);
            }
            if let Ok(accepted) = Meta::decode(&bytes) {
                prop_assert_eq!(&accepted.encode().expect("short"), &bytes);
            }
        }
    }
}

/// Counts that ask for more than there are bytes: refused before anything is allocated.
#[test]
fn hostile_counts_are_refused() {
    let fresh = Meta::fresh(Uuid([0; 16]), 0, TaskId { subtopology: 0, partition: 0 });
    let sealed = fresh.encode().expect("short");
    let body = &sealed[..sealed.len() - 8];
    // The three counts are the last twelve bytes.
    for at in [body.len() - 12, body.len() - 8, body.len() - 4] {
        let mut hostile = body.to_vec();
        hostile[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        let sum = xxhash_rust::xxh3::xxh3_64(&hostile);
        hostile.extend(sum.to_be_bytes());
        let refused = Meta::decode(&hostile);
        assert!(matches!(refused, Err(MetaError::Damaged { at: found, .. }) if found == at + 4));
    }
}

#[test]
fn versions_and_lengths_are_named() {
    assert_eq!(Meta::decode(&[9, 0]), Err(MetaError::Newer { version: 9 }));
    assert!(matches!(Meta::decode(&[]), Err(MetaError::Damaged { at: 0, .. })));
    assert!(matches!(Meta::decode(&[0; 60]), Err(MetaError::Damaged { at: 0, .. })));
    let mut long = Meta::fresh(Uuid([0; 16]), 0, TaskId { subtopology: 0, partition: 0 });
    let bytes = Bytes::from(vec![0; META_BYTES_MAX]);
    long.operators.push(OperatorState { name: "big".into(), bytes });
    assert!(matches!(long.encode(), Err(MetaError::TooLong { bytes }) if bytes > META_BYTES_MAX));
    long.operators[0] = OperatorState { name: "n".repeat(65536).into(), bytes: Bytes::new() };
    assert!(matches!(long.encode(), Err(MetaError::LongName { .. })));
}

/// Yesterday's bytes, as docs/FORMAT.md draws them.
#[test]
fn the_bytes_are_fixed() {
    let checkpoint = CheckpointMeta {
        meta: Meta {
            log_id: Uuid([0x11; 16]),
            topology_hash: 0x2222,
            task: TaskId { subtopology: 3, partition: 4 },
            txn_seq: 5,
            last_clock: Some(6),
            clock_advance: None,
            inputs: vec![InputPosition {
                at: TopicPartition::new("in", 4),
                topic_id: Uuid([0x77; 16]),
                leader_epoch: 8,
                next_offset: 9,
                max_timestamp: Some(10),
                backlog: true,
                upstream: vec![(TaskId { subtopology: 0, partition: 1 }, 11)],
            }],
            operators: vec![OperatorState { name: "op".into(), bytes: "xy".into() }],
            digests: vec![(1, Digest::default())],
        },
        changelogs: vec![ChangelogPosition {
            store: 1,
            at: TopicPartition::new("log", 4),
            topic_id: Uuid([0xcc; 16]),
            leader_epoch: 13,
            offset: 14,
        }],
    };
    let expected = [
        "01 01",
        &"11 ".repeat(16),
        "0000000000002222 00000003 00000004 0000000000000005",
        "01 0000000000000006 0000000000000000",
        "00000001 0002 696e 00000004",
        &"77 ".repeat(16),
        "00000008 0000000000000009 03 000000000000000a",
        "00000001 00000000 00000001 000000000000000b",
        "00000001 0002 6f70 00000002 7879",
        "00000001 0001",
        &"00 ".repeat(24),
        "00000001 0001 0003 6c6f67 00000004",
        &"cc ".repeat(16),
        "0000000d 000000000000000e",
    ];
    let expected: String = expected.concat().split(' ').collect();
    let bytes = checkpoint.encode().expect("short");
    let body = &bytes[..bytes.len() - 8];
    let hex: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected);
    assert_eq!(&bytes[body.len()..], xxhash_rust::xxh3::xxh3_64(body).to_be_bytes());
}

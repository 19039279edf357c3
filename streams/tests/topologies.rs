//! What cannot run is refused when it is built, in words that say what to do.

use std::time::Duration;

use thalweg_streams::{
    Builder, OnClose, OutputKind, Result, Store, Topic, Topology, Tumbling, Windowed,
};

const IN: Topic<u32, i64> = Topic::new("in");
const OUT: Topic<u32, i64> = Topic::new("out");
const BY_KEY: Topic<u32, i64> = Topic::internal("by-key");
const COUNTS: Topic<u32, u64> = Topic::new("counts");
const COUNT: Store<u32, u64> = Store::new("count");
const WINDOWS: Store<Windowed<u32>, u64> = Store::new("windows");
const WINDOW_COUNTS: Topic<Windowed<u32>, u64> = Topic::new("window-counts");

fn build(define: fn(&Builder)) -> Result<Topology> {
    Topology::build("app", |b| {
        define(b);
        Ok(())
    })
}

#[test]
fn what_cannot_run_is_refused_by_name() {
    type Case = (&'static str, fn(&Builder));
    let cases: [Case; 10] = [
        ("reads nothing", |_| {}),
        ("nothing is done with it", |b| drop(b.stream(&IN))),
        ("topic \"in\" is read 2 times", |b| {
            b.stream(&IN).to(&OUT);
            b.stream(&IN).count(&COUNT).to(&COUNTS);
        }),
        ("store \"count\" has 2 writers", |b| {
            let (left, right) = b.stream(&IN).tee();
            left.count(&COUNT);
            right.count(&COUNT);
        }),
        ("internal topic \"by-key\" has 2 writers", |b| {
            b.stream(&IN).repartition(&BY_KEY).to(&OUT);
            b.stream(&OUT).repartition(&BY_KEY).to(&IN);
        }),
        ("topic \"by-key\" is internal", |b| b.stream(&IN).to(&BY_KEY)),
        ("repartition topic \"out\" must be made with Topic::internal", |b| {
            b.stream(&IN).repartition(&OUT).count(&COUNT).to(&COUNTS);
        }),
        ("in a circle", |b| {
            b.stream(&IN).to(&OUT);
            b.stream(&OUT).to(&IN);
        }),
        ("in a circle", |b| b.stream(&IN).repartition(&BY_KEY).to(&IN)),
        ("\"a b\"", |b| b.stream(&Topic::<u32, i64>::new("a b")).to(&OUT)),
    ];
    for (says, define) in cases {
        let refused = build(define).err().expect(says).to_string();
        assert!(refused.contains(says), "{refused}");
    }
}

fn windows(b: &Builder, grace: Duration) {
    b.stream(&IN)
        .filter(|_, v| *v > 0)
        .select_key(|k, _| k + 1)
        .repartition(&BY_KEY)
        .window(Tumbling::of(Duration::from_secs(1)).grace(grace))
        .count(&WINDOWS)
        .late(|late| late.to(&OUT))
        .emit(OnClose)
        .to(&WINDOW_COUNTS);
}

#[test]
fn a_pipeline_is_cut_at_its_repartition_topics() -> Result<()> {
    let topology = build(|b| windows(b, Duration::ZERO))?;
    let [first, second] = topology.subtopologies() else { panic!("two parts") };
    assert_eq!((first.source(), second.source()), ("in", "by-key"));
    assert_eq!((first.is_repartitioned(), second.is_repartitioned()), (false, true));
    assert_eq!(topology.order(), [0, 1]);
    assert_eq!((topology.upstream(0), topology.upstream(1)), (vec![], vec![0]));
    let outputs: Vec<_> = second.outputs().iter().map(|o| (&*o.topic, o.kind)).collect();
    let expected = [
        ("app-windows-changelog", OutputKind::Changelog(1)),
        ("out", OutputKind::Topic),
        ("window-counts", OutputKind::Topic),
    ];
    assert_eq!(outputs, expected);
    let described = topology.describe();
    let says = [
        "[0] source in (Ascending)",
        "[1] from [0]: filter > select_key > repartition by-key",
        "[0] source by-key (time from the tasks before)",
        "[1] from [0]: count by tumbling 1000 ms in store windows",
        "[2] from [1]: to out",
        "store 1 windows (app-windows-changelog)",
    ];
    for line in says {
        assert!(described.contains(line), "{line} is not in\n{described}");
    }
    Ok(())
}

#[test]
fn tasks_and_topologies_can_be_given_to_threads() {
    fn sent<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    shared::<Topology>();
    sent::<thalweg_streams::Task>();
    sent::<thalweg_streams::Frozen>();
}

#[test]
fn writers_come_before_readers_however_they_are_written_down() -> Result<()> {
    let topology = build(|b| {
        b.stream(&OUT).count(&COUNT).to(&COUNTS);
        b.stream(&IN).to(&OUT);
    })?;
    assert_eq!(topology.order(), [1, 0]);
    Ok(())
}

#[test]
fn the_hash_changes_with_what_state_means_and_not_otherwise() -> Result<()> {
    let hash = |define: fn(&Builder)| build(define).map(|topology| topology.hash());
    let base = hash(|b| windows(b, Duration::ZERO))?;
    assert_eq!(base, hash(|b| windows(b, Duration::from_secs(9)))?, "another grace");
    let same = hash(|b| {
        b.stream(&IN)
            .repartition(&BY_KEY)
            .window(Tumbling::of(Duration::from_secs(1)).no_grace())
            .count(&WINDOWS)
            .emit(OnClose)
            .to(&WINDOW_COUNTS);
    })?;
    assert_eq!(base, same, "other stateless operators");
    let other: [fn(&Builder); 2] = [
        |b| {
            b.stream(&IN)
                .repartition(&BY_KEY)
                .window(Tumbling::of(Duration::from_secs(2)).no_grace())
                .count(&WINDOWS)
                .emit(OnClose)
                .to(&WINDOW_COUNTS);
        },
        |b| b.stream(&IN).count(&COUNT).to(&COUNTS),
    ];
    for define in other {
        assert_ne!(base, hash(define)?);
    }
    Ok(())
}

//! What the DSL costs: bincode in, four operators, bincode out, no log; and a loop by hand that does
//! the same.
//!
//! `cargo bench -p thalweg-streams --bench dsl`; the two figures are per batch of 1024 records.

mod workload;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use self::workload::{Batch, RECORDS, by_hand, by_the_dsl, input, task};

fn bench(c: &mut Criterion) {
    let input = input();
    let mut task = task();
    let (mut a, mut b, mut scratch) = (Batch::default(), Batch::default(), Default::default());
    by_the_dsl(&mut task, &input, &mut a);
    by_hand(&input, &mut scratch, &mut b);
    assert!(a.bytes == b.bytes && a.records > 900, "both do the same");

    let mut group = c.benchmark_group("dsl");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function("4ops", |bencher| {
        let mut out = Batch::default();
        bencher.iter(|| {
            out.bytes.clear();
            by_the_dsl(&mut task, &input, &mut out);
        });
    });
    group.bench_function("4ops by hand", |bencher| {
        let mut out = Batch::default();
        bencher.iter(|| {
            out.bytes.clear();
            by_hand(&input, &mut scratch, &mut out);
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);

//! What a line costs: decoding one of each format, and writing the fields out again.
//!
//! Every line is about 150 bytes, as the lines of real files are. One element is one line, so the
//! throughput that criterion prints is lines per second.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use thalweg_connectors::decode::{JsonObject, LineContext, Zone, decode_line};

const LINES: [(&str, &str); 7] = [
    (
        "json_rfc3339",
        r#"{"time":"2026-11-21T13:52:00.082Z","level":"warn","service":"checkout","request":"8f14e45f","message":"payment gateway answered after 3 tries","ms":1843}"#,
    ),
    (
        "json_number_no_level",
        r#"{"ts":1795269120.082,"logger":"http.server","remote":"10.0.4.17","status":200,"msg":"GET /api/v2/orders/81273/items took 12 ms","bytes":5120,"host":"web4"}"#,
    ),
    (
        "json_escapes",
        r#"{"time":"2026-11-21T13:52:00.082Z","level":"error","service":"checkout","message":"cannot parse \"amount\": unexpected end\n\tat line 1\n\tat line 2, retry"}"#,
    ),
    (
        "syslog",
        "Nov 21 13:52:00 db1 sshd[41242]: Accepted publickey for deploy from 10.0.4.17 port 52114 ssh2: ED25519 SHA256:u8Jq1mJ0vO6kYwq1nFQbP5y2tV9r3Xw7cZ8sLxQm4Hs",
    ),
    (
        "iso_rsyslog",
        "2026-11-21T13:52:00.082123+01:00 db1 postgres[812]: LOG: checkpoint complete: wrote 1204 buffers (7.3%); 0 WAL files added, 0 removed, 2 recycled",
    ),
    (
        "iso_local",
        "2026-11-21 13:52:00,082 INFO [http-nio-8080-exec-4] c.e.shop.OrderController - order 81273 accepted for customer 5521, total 118.40, items 3, ok",
    ),
    (
        "raw",
        "    at com.example.shop.OrderController.accept(OrderController.java:182) ~[shop-2.14.0.jar:2.14.0] called by the dispatcher of the servlet container",
    ),
];

fn decode(c: &mut Criterion) {
    let zone = Zone::named("CET-1CEST,M3.5.0,M10.5.0/3").expect("a POSIX rule");
    let cx = LineContext {
        file: "/var/log/shop/orders.log",
        mtime_ms: 1_795_269_600_000,
        append_time_ms: 1_795_269_600_000,
        zone: &zone,
    };
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    for (name, line) in LINES {
        group.bench_function(name, |b| b.iter(|| decode_line(black_box(line.as_bytes()), &cx)));
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let mut out = Vec::with_capacity(1024);
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(1));
    let messages = [
        ("event", "Accepted publickey for deploy from 10.0.4.17 port 52114 ssh2: ED25519"),
        (
            "event_escapes",
            "cannot parse \"amount\": unexpected end\n\tat line 1\n\tat line 2, retry",
        ),
    ];
    for (name, message) in messages {
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                JsonObject::begin(&mut out)
                    .str("file", black_box("/var/log/shop/orders.log"))
                    .u64("offset", black_box(73_912_664))
                    .time("time", black_box(1_795_269_120_082))
                    .str("program", black_box("orders"))
                    .str("severity", black_box("info"))
                    .str("message", black_box(message))
                    .end();
                black_box(out.len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);

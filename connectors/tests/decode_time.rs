//! Local times, the year that syslog leaves out, and the calendar, against `jiff` where it can judge.

use std::process::Command;

use jiff::tz::TimeZone;
use proptest::prelude::*;
use thalweg_connectors::decode::{JsonObject, LineContext, Origin, Zone, decode_line};

/// Central Europe's rule, which needs no time zone database.
const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

fn utc_ms(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().expect("an RFC 3339 time in the test").as_millisecond()
}

/// The time of a line that is not raw.
fn time_of(line: &str, mtime_ms: i64, zone: &Zone) -> Option<i64> {
    let cx = LineContext { file: "/f", mtime_ms, append_time_ms: 0, zone };
    let got = decode_line(line.as_bytes(), &cx).expect("a line that is not empty");
    (got.origin != Origin::Raw).then_some(got.time_ms)
}

fn zone(name: &str) -> Zone {
    Zone::named(name).expect("a zone")
}

#[test]
fn a_time_without_an_offset_is_local_and_one_with_it_is_not() {
    let berlin = zone(BERLIN);
    for (line, time) in [
        ("2026-01-15 12:00:00 x", "2026-01-15T11:00:00Z"),
        ("2026-07-15 12:00:00,5 x", "2026-07-15T10:00:00.500Z"),
        ("2026-07-15T12:00:60", "2026-07-15T10:00:59.999Z"),
        ("2026-07-15 12:00:00Z x", "2026-07-15T12:00:00Z"),
        ("2026-07-15 12:00:00-0700 x", "2026-07-15T19:00:00Z"),
        ("Jul 15 12:00:00 h a: x", "2026-07-15T10:00:00Z"),
        ("Jan 15 12:00:00 h a: x", "2026-01-15T11:00:00Z"),
        (r#"{"time":"2026-07-15T12:00:00Z"}"#, "2026-07-15T12:00:00Z"),
    ] {
        let mtime_ms = utc_ms("2026-11-21T14:00:00Z");
        assert_eq!(time_of(line, mtime_ms, &berlin), Some(utc_ms(time)), "{line}");
    }
}

#[test]
fn where_clocks_change_the_earlier_offset_holds() {
    let berlin = zone(BERLIN);
    for (wall, time) in [
        // Forward at 02:00 on 29 March 2026: 02:00 to 03:00 never was.
        ("2026-03-29 01:59:59.999", "2026-03-29T00:59:59.999Z"),
        ("2026-03-29 02:00:00", "2026-03-29T01:00:00Z"),
        ("2026-03-29 02:30:00", "2026-03-29T01:30:00Z"),
        ("2026-03-29 02:59:59.999", "2026-03-29T01:59:59.999Z"),
        ("2026-03-29 03:00:00", "2026-03-29T01:00:00Z"),
        // Back at 03:00 on 25 October 2026: 02:00 to 03:00 was twice, and it is the first.
        ("2026-10-25 01:59:59.999", "2026-10-24T23:59:59.999Z"),
        ("2026-10-25 02:00:00", "2026-10-25T00:00:00Z"),
        ("2026-10-25 02:59:59.999", "2026-10-25T00:59:59.999Z"),
        ("2026-10-25 03:00:00", "2026-10-25T02:00:00Z"),
    ] {
        assert_eq!(time_of(wall, 0, &berlin), Some(utc_ms(time)), "{wall}");
    }
}

#[test]
fn the_year_is_the_latest_not_a_day_past_the_modification() {
    let utc = zone("UTC");
    let berlin = zone(BERLIN);
    for (stamp, mtime, zone, time) in [
        ("Nov 21 14:00:00", "2026-11-21T14:00:00Z", &utc, Some("2026-11-21T14:00:00Z")),
        // Up to 24 h ahead of the modification, inclusive.
        ("Nov 22 14:00:00", "2026-11-21T14:00:00Z", &utc, Some("2026-11-22T14:00:00Z")),
        ("Nov 22 14:00:01", "2026-11-21T14:00:00Z", &utc, Some("2025-11-22T14:00:01Z")),
        ("Nov 22 14:00:00", "2026-11-21T13:59:59.999Z", &utc, Some("2025-11-22T14:00:00Z")),
        // Around the turn of the year, either way.
        ("Dec 31 23:59:59", "2027-01-01T00:00:00Z", &utc, Some("2026-12-31T23:59:59Z")),
        ("Jan  1 00:00:00", "2026-12-31T12:00:00Z", &utc, Some("2027-01-01T00:00:00Z")),
        ("Jan  1 12:00:01", "2026-12-31T12:00:00Z", &utc, Some("2026-01-01T12:00:01Z")),
        ("Dec 31 00:00:00", "2026-12-29T23:59:59Z", &utc, Some("2025-12-31T00:00:00Z")),
        ("Jan  1 00:30:00", "2026-12-30T23:30:00Z", &berlin, Some("2026-12-31T23:30:00Z")),
        ("Jan  1 00:30:01", "2026-12-30T23:30:00Z", &berlin, Some("2025-12-31T23:30:01Z")),
        // The latest year that has the day.
        ("Feb 29 12:00:00", "2026-11-21T14:00:00Z", &utc, Some("2024-02-29T12:00:00Z")),
        ("Feb 29 12:00:00", "2028-02-28T12:00:00Z", &utc, Some("2028-02-29T12:00:00Z")),
        ("Feb 29 12:00:00", "2028-02-28T11:59:59Z", &utc, Some("2024-02-29T12:00:00Z")),
        ("Feb 29 12:00:00", "1904-02-28T11:59:59Z", &utc, Some("1896-02-29T12:00:00Z")),
        ("Feb 29 12:00:00", "2104-02-28T11:59:59Z", &utc, Some("2096-02-29T12:00:00Z")),
        ("Feb 30 12:00:00", "2026-11-21T14:00:00Z", &utc, None),
        ("Apr 31 12:00:00", "2026-11-21T14:00:00Z", &utc, None),
        // Files from before 1970, and a clock that was never set.
        ("Nov 21 14:00:00", "1969-06-01T00:00:00Z", &utc, Some("1968-11-21T14:00:00Z")),
        ("Jan  1 00:00:10", "1970-01-01T00:00:00Z", &utc, Some("1970-01-01T00:00:10Z")),
        ("Dec 31 00:00:00", "1970-01-01T00:00:00Z", &utc, Some("1969-12-31T00:00:00Z")),
    ] {
        let line = format!("{stamp} h a: x");
        let got = time_of(&line, utc_ms(mtime), zone);
        assert_eq!(got, time.map(utc_ms), "{stamp} in a file of {mtime}");
    }
}

#[test]
fn the_year_stays_within_the_calendar_whatever_the_modification_is() {
    let utc = Zone::utc();
    let first = -62_135_596_800_000;
    let last = 253_402_300_799_999;
    for (stamp, mtime_ms, ms) in [
        ("Dec 31 23:59:59", i64::MAX, Some(last - 999)),
        ("Dec 31 23:59:60", last, Some(last)),
        ("Jan  1 00:00:00", first, Some(first)),
        ("Jan  1 00:00:00", first - 86_400_000, Some(first)),
        ("Jan  1 00:00:01", i64::MIN, None),
        ("Jan  3 00:00:00", first, None),
        ("Feb 29 00:00:00", first + 1000 * 86_400_000, None),
    ] {
        assert_eq!(time_of(&format!("{stamp} h a: x"), mtime_ms, &utc), ms, "{stamp}, {mtime_ms}");
    }
}

#[test]
fn a_local_time_outside_the_years_in_utc_fails_the_format() {
    let east = zone("EAST-2");
    let west = zone("WEST2");
    let first = -62_135_596_800_000;
    let last = 253_402_300_799_999;
    assert_eq!(time_of("0001-01-01 01:59:59", 0, &east), None);
    assert_eq!(time_of("0001-01-01 02:00:00", 0, &east), Some(first));
    assert_eq!(time_of("9999-12-31 23:59:59.999", 0, &east), Some(last - 7_200_000));
    assert_eq!(time_of("9999-12-31 22:00:00", 0, &west), None);
    assert_eq!(time_of("9999-12-31 21:59:59.999", 0, &west), Some(last));
    // Also where a rule with summer time has to be asked.
    assert_eq!(time_of("0001-01-01 00:59:59", 0, &zone(BERLIN)), None);
    assert_eq!(time_of("9999-12-31 23:59:59.999", 0, &zone(BERLIN)), Some(last - 3_600_000));
}

#[test]
fn zones_are_named_or_given_as_rules_and_nothing_else() {
    for name in ["UTC", BERLIN, "EST5EDT,M3.2.0,M11.1.0", "<+0330>-3:30"] {
        assert!(Zone::named(name).is_ok(), "{name}");
    }
    for name in ["", "Nowhere/At All", "CET-1CEST,M13.5.0,M10.5.0"] {
        let error = Zone::named(name).expect_err(name).to_string();
        assert!(
            error.contains(&format!("{name:?}")) && error.contains("use for example"),
            "{error}"
        );
    }
}

/// Runs itself with `TZ` set, because the environment of a running test is nobody's to change.
#[test]
fn the_systems_zone_is_what_tz_says() {
    const EXPECTED: &str = "DECODE_TIME_EXPECTED";
    if let Ok(expected) = std::env::var(EXPECTED) {
        let got = time_of("2026-07-15 12:00:00", 0, &Zone::system());
        assert_eq!(got, Some(utc_ms(&expected)));
        return;
    }
    for (tz, expected) in [
        ("UTC", "2026-07-15T12:00:00Z"),
        (BERLIN, "2026-07-15T10:00:00Z"),
        ("EST5EDT,M3.2.0,M11.1.0", "2026-07-15T16:00:00Z"),
        // Not a zone: UTC, as the C library has it.
        ("Nowhere/At All", "2026-07-15T12:00:00Z"),
    ] {
        let run = Command::new(std::env::current_exe().expect("this test's program"))
            .args(["--exact", "the_systems_zone_is_what_tz_says"])
            .env("TZ", tz)
            .env(EXPECTED, expected)
            .output()
            .expect("this test, once more");
        assert!(run.status.success(), "{tz}: {}", String::from_utf8_lossy(&run.stdout));
    }
}

/// What `jiff` makes of a wall time where it is ambiguous: the reading of RFC 5545.
fn by_jiff(wall: jiff::civil::DateTime, rules: &TimeZone) -> i64 {
    let instant = rules.to_ambiguous_timestamp(wall).compatible();
    instant.expect("a time far from the ends").as_millisecond()
}

#[test]
fn local_times_agree_with_the_database_around_every_change() {
    // Changes by half an hour, by a day, by odd seconds, twice in weeks, summer time below winter's.
    let names = [
        "Europe/Berlin",
        "Europe/Dublin",
        "America/New_York",
        "America/St_Johns",
        "America/Sao_Paulo",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Pacific/Kwajalein",
        "Asia/Kathmandu",
        "Asia/Pyongyang",
        "Asia/Gaza",
        "Africa/Casablanca",
        "Africa/Monrovia",
        "Antarctica/Troll",
        "UTC",
    ];
    let rules = ["EST5EDT,M3.2.0,M11.1.0", BERLIN, "IST-1GMT0,M10.5.0,M3.5.0/1", "<-03>3"];
    let mut checked = 0;
    for name in names.iter().chain(&rules) {
        // The rules are always there; the names if the system has the database.
        let Ok(tz) = TimeZone::get(name).or_else(|_| TimeZone::posix(name)) else { continue };
        let ours = zone(name);
        let end = "2101-01-01T00:00:00Z".parse().expect("a time");
        let start = "1968-01-01T00:00:00Z".parse().expect("a time");
        let changes = tz.following(start).map(|t| t.timestamp()).take_while(|t| *t < end);
        // Both ends of the table too, and plain times.
        let more = ["1970-01-01T00:00:00Z", "1970-01-03T00:00:00Z", "2099-12-30T00:00:00Z"]
            .map(|t| t.parse::<jiff::Timestamp>().expect("a time"));
        for change in changes.chain(more) {
            for minutes in [-1600, -90, -61, -60, -31, -30, -1, 0, 29, 30, 59, 60, 61, 120, 1600] {
                let near = change + jiff::SignedDuration::from_mins(minutes);
                let wall = tz.to_datetime(near);
                for wall in [wall, wall - jiff::SignedDuration::from_secs(1)] {
                    let line = wall.strftime("%Y-%m-%d %H:%M:%S").to_string();
                    let (got, want) = (time_of(&line, 0, &ours), by_jiff(wall, &tz));
                    assert_eq!(got, Some(want), "{line} in {name}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 10_000, "{checked}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    /// Both directions of the calendar in one: written as RFC 3339, equal to what `jiff` writes, and
    /// read back to the same instant.
    #[test]
    fn the_calendar_is_that_of_jiff_both_ways(
        // All years that a `jiff::Timestamp` has; it ends two days before the year 9999 does.
        ms in prop_oneof![
            -62_135_596_800_000i64..253_402_100_000_000,
            0i64..4_200_000_000_000,
            // Days around the ends of months and years.
            (-719_162i64..2_932_000, -1000i64..1000).prop_map(|(day, ms)| day * 86_400_000 + ms),
        ],
    ) {
        let ms = ms.max(-62_135_596_800_000);
        let mut out = Vec::new();
        JsonObject::begin(&mut out).time("t", ms).end();
        let instant = jiff::Timestamp::from_millisecond(ms).expect("within its range");
        let text = format!("{instant:.3}");
        prop_assert_eq!(String::from_utf8_lossy(&out), format!("{{\"t\":\"{text}\"}}"));
        prop_assert_eq!(time_of(&text, 0, &Zone::utc()), Some(ms));
        prop_assert_eq!(time_of(&format!("{{\"ts\":\"{text}\"}}"), 0, &Zone::utc()), Some(ms));
    }

    #[test]
    fn local_times_agree_with_the_rule_at_any_time(
        second in -62_000_000_000i64..253_000_000_000,
        rule in prop::sample::select(vec![BERLIN, "EST5EDT,M3.2.0,M11.1.0", "IST-1GMT0,M10.5.0,M3.5.0/1"]),
    ) {
        let tz = TimeZone::posix(rule).expect("a POSIX rule");
        let instant = jiff::Timestamp::from_second(second).expect("within its range");
        let wall = TimeZone::UTC.to_datetime(instant);
        let line = wall.strftime("%Y-%m-%d %H:%M:%S").to_string();
        prop_assert_eq!(time_of(&line, 0, &zone(rule)), Some(by_jiff(wall, &tz)), "{}", line);
    }

    /// The rule for the year as its sentence has it: of all years, the latest that is early enough.
    #[test]
    fn the_year_of_a_syslog_time_is_the_latest_of_all_that_are_early_enough(
        mtime_s in -59_000_000_000i64..250_000_000_000,
        month in 1u32..=12,
        day in 1u32..=31,
        hour in 0u32..24,
    ) {
        let name = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let line = format!("{} {day:>2} {hour:02}:30:00 h a: x", name[month as usize - 1]);
        let berlin = zone(BERLIN);
        let limit = (mtime_s + 86_400) * 1000;
        let near = 1970 + mtime_s.div_euclid(31_556_952);
        let expected = (near - 20..near + 3)
            .filter_map(|year| {
                time_of(&format!("{year:04}-{month:02}-{day:02} {hour:02}:30:00"), 0, &berlin)
            })
            .filter(|ms| *ms <= limit)
            .max();
        prop_assert_eq!(time_of(&line, mtime_s * 1000, &berlin), expected, "{}", line);
    }
}

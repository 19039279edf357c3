//! The simulated machine as a test uses it: crash points, programs beside the one under test, replay
//! from a seed, faults, and the helpers of experiments.

mod disk_support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};

use disk_support::{ROOT, SEEDS, content, crashed, outcomes, path, put, put_durably};
use thalweg_core::disk::sim::{Call, Crash, Failure, Rng, SimDisk};
use thalweg_core::disk::{
    Disk, DiskFile, Entry, LockKind, Open, lock_holder, read_exact_at, read_file, replace_file,
    write_all_at,
};

// Crash points.

/// A small program that does a bit of everything; it stops at the first error, as programs do.
fn program(disk: &SimDisk) -> io::Result<()> {
    let _lock = disk.lock(path("/lock"), LockKind::WithRecordLock)?;
    if disk.stat(path("/data")).is_err() {
        disk.create_dir(path("/data"))?;
    }
    disk.sync_dir(path(ROOT))?;
    let log = disk.open(path("/data/log"), Open::Create)?;
    log.allocate(0, 1 << 16)?;
    let start = log.len()?;
    for i in 0..4 {
        write_all_at(&log, &[i; 700], start + u64::from(i) * 700)?;
        log.sync_data()?;
    }
    disk.sync_dir(path("/data"))?;
    log.set_len(start + 1400)?;
    let done = disk.open(path("/data/tmp"), Open::Create)?;
    done.sync_data()?;
    let finished = format!("/data/finished-{}", disk.list(path("/data"))?.len());
    disk.rename_new(path("/data/tmp"), path(&finished))?;
    disk.sync_dir(path("/data"))?;
    disk.remove(path(&finished))?;
    let mut buf = [0; 1400];
    read_exact_at(&log, &mut buf, start)
}

#[test]
fn every_crash_point_ends_the_run_and_the_next_one_goes_on() {
    for crash in [Crash::Process, Crash::Power] {
        let points = {
            let disk = SimDisk::new(0);
            program(&disk).expect("the weather is fine");
            disk.operations()
        };
        assert!(points > 15, "{points}");
        for (seed, point) in (0..8).flat_map(|seed| (1..=points).map(move |point| (seed, point))) {
            let disk = SimDisk::new(seed);
            let kept = disk.open(path("/kept"), Open::Create).expect("opened");
            let other = disk.door();
            disk.crash_at(disk.operations() + point, crash);
            program(&disk).expect_err("it dies");
            let about = format!("{crash:?}, seed {seed}, point {point}: {:?}", disk.trace());

            assert!(disk.down(), "{about}");
            assert!(kept.len().is_err() && kept.write_at(b"x", 0).is_err(), "{about}");
            assert!(disk.open(path("/kept"), Open::Read).is_err(), "{about}");
            assert!(disk.lock(path("/lock"), LockKind::Flock).is_err(), "{about}");
            assert_eq!(other.down(), crash == Crash::Power, "{about}");

            let next = disk.restart();
            assert!(disk.down() && kept.len().is_err(), "old doors stay dead: {about}");
            // A second crash, within what the next run does.
            next.crash_at(next.operations() + 1 + point / 2, crash);
            program(&next).expect_err("it dies again");
            program(&next.restart()).unwrap_or_else(|e| panic!("{e}: {about}"));
        }
    }
}

#[test]
fn a_replaced_file_is_the_old_or_the_new_one_at_every_crash() {
    let run = |disk: &SimDisk| replace_file(disk, path("/checkpoint"), &[2; 5000]);
    for seed in 0..20 {
        for crash in [Crash::Process, Crash::Power] {
            for point in 1.. {
                let disk = SimDisk::new(seed);
                put_durably(&disk, "/checkpoint", &[1; 9000]);
                disk.crash_at(disk.operations() + point, crash);
                let done = run(&disk).is_ok();
                let disk = if disk.down() { disk.restart() } else { crashed(&disk, crash) };
                let found = content(&disk, "/checkpoint").expect("never without");
                let whole = if done { found == [2; 5000] } else { found == [1; 9000] };
                assert!(whole || found == [2; 5000], "seed {seed}, point {point}, {crash:?}");
                if done {
                    assert_eq!(found, [2; 5000], "acknowledged");
                    break;
                }
            }
        }
    }
}

/// Where a write is cut the process had written a part of it, and the rest of the run nothing.
#[test]
fn a_cut_write_leaves_a_prefix() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        let file = put(&disk, "/f", b"");
        disk.crash_at(disk.operations() + 1, Crash::Process);
        write_all_at(&file, &[7; 100], 0).expect_err("cut");
        write_all_at(&file, &[8; 100], 0).expect_err("down");
        let found = content(&disk.restart(), "/f").expect("named");
        assert!(found.iter().all(|byte| *byte == 7), "seed {seed}");
        match found.len() {
            0 => "nothing",
            100 => "all",
            _ => "a part",
        }
    });
    assert_eq!(counts.len(), 3, "{counts:?}");
}

#[test]
fn a_rename_that_refuses_a_taken_name_may_be_cut_between_link_and_unlink() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        put(&disk, "/tmp", b"x");
        disk.crash_at(disk.operations() + 1, Crash::Process);
        disk.rename_new(path("/tmp"), path("/final")).expect_err("cut");
        let disk = disk.restart();
        (content(&disk, "/tmp").is_some(), content(&disk, "/final").is_some())
    });
    assert!(counts.keys().eq(&[(false, true), (true, false), (true, true)]), "{counts:?}");
}

#[test]
fn only_changes_and_syncs_are_crash_points() {
    let disk = SimDisk::new(1);
    let file = put(&disk, "/f", b"x");
    let before = disk.operations();
    assert_eq!(before, 2, "created and written");
    file.read_at(&mut [0; 10], 0).expect("read");
    disk.open(path("/f"), Open::Create).expect("it is there");
    disk.stat(path("/f")).expect("stat");
    disk.list(path(ROOT)).expect("listed");
    disk.remove(path("/none")).expect_err("not there");
    disk.lock(path("/f"), LockKind::Flock).map(drop).expect("free");
    assert_eq!(disk.operations(), before + 1, "the lock");
}

// Programs beside ours.

#[test]
fn other_programs_live_through_a_kill_and_die_with_the_power() {
    let disk = SimDisk::new(1);
    let (writer, rotator) = (disk.door(), disk.door_outside());
    let line = writer.open(path("/app.log"), Open::Create).expect("opened");
    let points = disk.operations();
    rotator.rename(path("/app.log"), path("/app.log.1")).expect("renamed");
    assert_eq!(disk.operations(), points, "not counted");
    write_all_at(&line, b"counted", 0).expect("written");
    assert_eq!(disk.operations(), points + 1);

    // The crash comes at the writer's own call, which is nevertheless finished.
    disk.crash_at(points + 2, Crash::Process);
    write_all_at(&line, b"COUNTED", 0).expect("written");
    assert!(disk.down() && !writer.down() && !rotator.down());
    assert_eq!(content(&disk.restart(), "/app.log.1").expect("kept"), b"COUNTED");

    disk.crash(Crash::Power);
    assert!(writer.down() && rotator.down() && line.len().is_err());
    assert!(disk.door().down(), "nothing runs before the restart");
    let disk = disk.restart();
    assert!(writer.down() && !disk.door().down());
}

#[test]
fn locks_of_the_dead_are_free_and_those_of_the_living_are_held() {
    let disk = SimDisk::new(1);
    let other = disk.door();
    let ours = disk.lock(path("/ours"), LockKind::Flock).expect("free");
    let theirs = other.lock(path("/theirs"), LockKind::Flock).expect("free");
    let holder = lock_holder(&disk, path("/ours"));
    let next = crashed(&disk, Crash::Process);
    let again = next.lock(path("/ours"), LockKind::Flock).expect("its holder is dead");
    drop(ours);
    let refused = other.lock(path("/ours"), LockKind::Flock);
    assert!(refused.is_err(), "dropping a dead lock frees nothing");
    assert_ne!(lock_holder(&next, path("/ours")), holder, "another process");
    assert!(next.lock(path("/theirs"), LockKind::Flock).is_err());
    let next = crashed(&next, Crash::Power);
    next.lock(path("/theirs"), LockKind::Flock).expect("the power freed it");
    drop((again, theirs));
}

#[test]
fn the_boot_id_changes_with_the_power_only() {
    let disk = SimDisk::new(1);
    let first = disk.boot_id();
    let disk = crashed(&disk, Crash::Process);
    assert_eq!(disk.boot_id(), first);
    let disk = crashed(&disk, Crash::Power);
    assert_ne!(disk.boot_id(), first);
}

// Replay.

#[test]
fn a_seed_replays_bit_for_bit() {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        disk.set_short_io(3);
        disk.crash_at(12, Crash::Power);
        _ = program(&disk);
        let disk = disk.restart();
        disk.fail_by_chance(Call::Write, Failure::Io, 9);
        _ = program(&disk);
        (disk.trace_hash(), disk.trace(), disk.boot_id())
    };
    let hashes: BTreeSet<u64> = (0..SEEDS)
        .map(|seed| {
            let once = run(seed);
            assert_eq!(once, run(seed), "seed {seed}");
            once.0
        })
        .collect();
    assert_eq!(hashes.len() as u64, SEEDS, "every seed is another run");
}

#[test]
fn the_trace_tells_arguments_and_results_apart() {
    let run = |name: &str, byte: u8, capacity: u64| {
        let disk = SimDisk::new(7);
        disk.set_capacity(capacity);
        _ = disk.open(path(name), Open::Create).and_then(|file| file.write_at(&[byte], 0));
        disk.trace_hash()
    };
    let base = run("/f", 1, 4096);
    assert_eq!(base, run("/f", 1, 4096));
    for (what, other) in
        [("path", run("/g", 1, 4096)), ("bytes", run("/f", 2, 4096)), ("result", run("/f", 1, 0))]
    {
        assert_ne!(base, other, "{what}");
    }
    let disk = SimDisk::new(7);
    put(&disk, "/f", b"abc");
    disk.remove(path("/g")).expect_err("not there");
    disk.crash(Crash::Power);
    let expected = ["#1 open /f @0+2: 1", "#2 write /f @0+3: 3"];
    assert_eq!(disk.trace()[..2], expected);
    assert!(disk.trace()[2].starts_with("#2 remove /g: No such file"), "{:?}", disk.trace());
    assert!(disk.trace()[3].starts_with("#2 power loss"), "{:?}", disk.trace());
}

// Faults.

#[test]
fn a_full_disk_writes_what_fits_and_then_refuses() {
    let disk = SimDisk::new(1);
    disk.set_capacity(3 * 4096);
    let file = put(&disk, "/f", &[1; 4096]);
    assert_eq!(disk.free_space(path("/f")).expect("known"), 2 * 4096);
    assert_eq!(file.write_at(&[2; 20_000], 4000).expect("what fits"), 3 * 4096 - 4000);
    let refused = file.write_at(b"x", 3 * 4096).expect_err("full");
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    assert_eq!(refused.raw_os_error(), Some(28));
    file.write_at(b"x", 0).expect("room that is there already");
    assert!(file.allocate(0, 1 << 20).is_err());

    file.set_len(4096).expect("cut");
    file.allocate(4096, 8192).expect("room again");
    assert_eq!(disk.free_space(path(ROOT)).expect("known"), 0);
    assert!(disk.open(path("/g"), Open::Create).expect("opened").write_at(b"x", 0).is_err());
    file.write_at(&[3; 8192], 4096).expect("reserved");
    file.set_len(12_288).expect("nothing to give back");

    disk.remove(path("/f")).expect("removed");
    assert_eq!(disk.free_space(path(ROOT)).expect("known"), 0, "open files keep their room");
    drop(file);
    assert_eq!(disk.free_space(path(ROOT)).expect("known"), 3 * 4096);
}

/// What a log reserves ahead of its end is room that nobody else has: it has to give it back when it
/// stops to write there, and can ask whether it did.
#[test]
fn reserved_room_is_taken_until_the_length_is_set() {
    let disk = SimDisk::new(1);
    disk.set_capacity(20 * 4096);
    let free = |disk: &SimDisk| disk.free_space(path(ROOT)).expect("known") / 4096;
    let room = |disk: &SimDisk| disk.room(path("/f")).expect("there") / 4096;
    let file = put(&disk, "/f", &[1; 5000]);
    assert_eq!((room(&disk), free(&disk)), (2, 18));
    file.allocate(0, 10 * 4096).expect("reserved");
    assert_eq!(file.len().expect("known"), 5000, "the length stays");
    assert_eq!((room(&disk), free(&disk)), (10, 10));
    file.write_at(&[2; 8192], 5000).expect("written into it");
    assert_eq!((room(&disk), free(&disk)), (10, 10));
    // A killed process leaves it; whoever comes next gives it back.
    disk.crash(Crash::Process);
    let disk = disk.restart();
    assert_eq!((room(&disk), free(&disk)), (10, 10));
    let file = disk.open(path("/f"), Open::Write).expect("there");
    file.set_len(5000 + 8192).expect("to what it is");
    assert_eq!((room(&disk), free(&disk)), (4, 16));
    assert_eq!(disk.room(path("/g")).map_err(|e| e.kind()), Err(ErrorKind::NotFound));
}

#[test]
fn a_misdirected_write_is_where_it_does_not_belong() {
    let disk = SimDisk::new(1);
    let bytes: Vec<u8> = (1..=3).flat_map(|page| [page; 4096]).chain([4; 100]).collect();
    put(&disk, "/f", &bytes).sync_data().expect("synced");
    put(&disk, "/g", &[9; 4096]).sync_data().expect("synced");
    disk.misdirect((path("/f"), 1), (path("/f"), 3)).expect("both there");
    disk.misdirect((path("/f"), 2), (path("/g"), 0)).expect("both there");
    assert!(disk.misdirect((path("/f"), 4), (path("/g"), 0)).is_err(), "past the end");
    disk.sync_dir(path(ROOT)).expect("synced");
    // In the cache, and on the medium.
    let mut disk = disk;
    for _ in 0..2 {
        let [f, g] = ["/f", "/g"].map(|name| disk.open(path(name), Open::Read).expect("there"));
        let mut found = vec![7; bytes.len()];
        read_exact_at(&f, &mut found, 0).expect("read");
        let wanted = [&[1; 4096][..], &[0; 8192], &[2; 100]].concat();
        assert!(found == wanted, "the length stays");
        read_exact_at(&g, &mut found[..4096], 0).expect("read");
        assert_eq!(found[..4096], [3; 4096]);
        disk = crashed(&disk, Crash::Power);
    }
}

#[test]
fn a_program_with_all_its_handles_open_is_refused_more() {
    let disk = SimDisk::new(1);
    disk.set_handles_max(2);
    let a = put(&disk, "/a", b"");
    let lock = disk.lock(path("/lock"), LockKind::Flock).expect("free");
    assert_eq!(kind_code(disk.open(path("/a"), Open::Read)), Some(24));
    assert_eq!(kind_code(disk.open(path("/b"), Open::Create)), Some(24));
    assert_eq!(kind_code(disk.lock(path("/c"), LockKind::Flock)), Some(24));
    disk.door().open(path("/b"), Open::Create).expect("others have their own");
    drop(a);
    let b = disk.open(path("/b"), Open::Read).expect("one is free");
    drop(lock);
    disk.open(path("/a"), Open::Read).expect("and another");
    drop(b);
    // The dead hold none.
    let held = (disk.open(path("/a"), Open::Read), disk.open(path("/a"), Open::Read));
    let disk = crashed(&disk, Crash::Process);
    let again = (disk.open(path("/a"), Open::Read), disk.open(path("/a"), Open::Read));
    assert!(held.0.is_ok() && held.1.is_ok() && again.0.is_ok() && again.1.is_ok());
}

fn kind_code<T>(result: io::Result<T>) -> Option<i32> {
    result.err()?.raw_os_error()
}

#[test]
fn unreadable_bytes_end_a_read_and_then_fail_it() {
    let disk = SimDisk::new(1);
    let file = put_durably(&disk, "/f", &[1; 10_000]);
    disk.fail_reads(path("/f"), 5000..5010).expect("it exists");
    let mut buf = [0; 10_000];
    assert_eq!(file.read_at(&mut buf, 0).expect("up to there"), 5000);
    assert_eq!(file.read_at(&mut buf, 5000).expect_err("bad").raw_os_error(), Some(5));
    assert_eq!(file.read_at(&mut buf, 5010).expect("behind it"), 4990);
    let disk = crashed(&disk, Crash::Power);
    let file = disk.open(path("/f"), Open::Read).expect("opened");
    assert!(file.read_at(&mut buf, 5005).is_err(), "the medium stays bad");
    disk.heal();
    assert_eq!(file.read_at(&mut buf, 0).expect("healed"), 10_000);
}

#[test]
fn rot_flips_one_bit_in_cache_and_medium() {
    let disk = SimDisk::new(1);
    put_durably(&disk, "/f", &[0; 5000]);
    disk.flip_bit(path("/f"), 4999, 3).expect("it exists");
    disk.flip_bit(path("/f"), 5000, 0).expect_err("past the end");
    let rotten = |disk: &SimDisk| {
        let found = content(disk, "/f").expect("synced");
        found[4999] == 8 && found[..4999].iter().all(|byte| *byte == 0)
    };
    assert!(rotten(&disk), "in the cache");
    assert!(rotten(&crashed(&disk, Crash::Power)), "on the medium");
}

#[test]
fn short_reads_and_writes_come_by_chance_and_helpers_go_on() {
    let disk = SimDisk::new(1);
    disk.set_short_io(2);
    let bytes: Vec<u8> = (0..50_000_u32).map(|i| (i % 251) as u8).collect();
    let file = put(&disk, "/f", &bytes);
    assert_eq!(content(&disk, "/f").expect("whole"), bytes);
    let mut buf = [0; 100];
    let sizes: BTreeSet<usize> =
        (0..50).map(|_| file.read_at(&mut buf, 0).expect("read")).collect();
    assert!(sizes.len() > 10 && !sizes.contains(&0) && sizes.contains(&100), "{sizes:?}");
}

/// Each call, failed once by path: it says so, and is whole again after.
#[test]
fn armed_calls_fail_as_often_as_told() {
    type Try = fn(&SimDisk) -> io::Result<()>;
    let table: [(Call, Try); 14] = [
        (Call::Open, |d| d.open(path("/f"), Open::Read).map(drop)),
        (Call::Read, |d| d.open(path("/f"), Open::Read)?.read_at(&mut [0; 4], 0).map(drop)),
        (Call::Write, |d| d.open(path("/f"), Open::Write)?.write_at(b"x", 0).map(drop)),
        (Call::SetLen, |d| d.open(path("/f"), Open::Write)?.set_len(9)),
        (Call::Allocate, |d| d.open(path("/f"), Open::Write)?.allocate(0, 9)),
        (Call::SyncData, |d| d.open(path("/f"), Open::Read)?.sync_data()),
        (Call::SyncDir, |d| d.sync_dir(path("/dir"))),
        (Call::Rename, |d| d.rename(path("/f"), path("/g")).and(d.rename(path("/g"), path("/f")))),
        (Call::Remove, |d| d.remove(path("/f"))),
        (Call::CreateDir, |d| d.create_dir(path("/new"))),
        (Call::RemoveDir, |d| d.remove_dir(path("/dir"))),
        (Call::List, |d| d.list(path("/dir")).map(drop)),
        (Call::Stat, |d| d.stat(path("/f")).map(drop)),
        (Call::Lock, |d| d.lock(path("/f"), LockKind::Flock).map(drop)),
    ];
    for (call, attempt) in table {
        let disk = SimDisk::new(3);
        put(&disk, "/f", b"1234");
        disk.create_dir(path("/dir")).expect("created");
        disk.fail_on(call, Failure::NoSpace, 2, |_| true);
        for _ in 0..2 {
            assert_eq!(kind_code(attempt(&disk)), Some(28), "{call:?}");
        }
        attempt(&disk).unwrap_or_else(|e| panic!("{call:?}: {e}"));
    }
}

#[test]
fn a_fault_strikes_the_operation_it_was_armed_for() {
    let disk = SimDisk::new(1);
    let file = put(&disk, "/f", b"");
    disk.fail_at(disk.operations() + 2, Failure::NoSpace);
    file.write_at(b"a", 0).expect("the first");
    assert_eq!(kind_code(file.write_at(b"b", 0)), Some(28));
    file.write_at(b"c", 0).expect("the third");
    // An operation is struck once; a door of another program is never struck.
    disk.fail_on(Call::Write, Failure::Io, 1, |_| true);
    let other = disk.door().open(path("/f"), Open::Write).expect("opened");
    other.write_at(b"d", 0).expect("not ours");
    disk.heal();
    file.write_at(b"e", 0).expect("healed");
}

/// A rename that fails with EIO may have happened; who trusts the error is wrong for some seed.
#[test]
fn a_change_that_failed_may_have_happened() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        put(&disk, "/tmp", b"x");
        disk.fail_on(Call::Rename, Failure::Io, 1, |_| true);
        disk.rename(path("/tmp"), path("/final")).expect_err("armed");
        (content(&disk, "/tmp").is_some(), content(&disk, "/final").is_some())
    });
    assert!(counts.keys().eq(&[(false, true), (true, false)]), "{counts:?}");
}

// Helpers of experiments.

#[test]
fn one_files_unsynced_bytes_or_name_can_be_lost_alone() {
    let disk = SimDisk::new(1);
    disk.set_early_write_back(0);
    let (a, b) = (put_durably(&disk, "/a", b"1111"), put_durably(&disk, "/b", b"1111"));
    write_all_at(&a, b"22222", 0).expect("written");
    write_all_at(&b, b"22222", 0).expect("written");
    disk.drop_unsynced(path("/a")).expect("it exists");
    assert_eq!(content(&disk, "/a").expect("named"), b"1111");
    assert_eq!(content(&disk, "/b").expect("named"), b"22222");

    disk.rename(path("/a"), path("/c")).expect("renamed");
    disk.revert_unsynced_name(path("/c")).expect("its folder exists");
    assert_eq!((content(&disk, "/a"), content(&disk, "/c")), (None, None), "only one half");
    disk.revert_unsynced_name(path("/a")).expect("its folder exists");
    drop(a);
    assert_eq!(content(&disk, "/a").expect("there again"), b"1111");

    disk.set_capacity(1 << 20);
    let free = disk.free_space(path(ROOT)).expect("known");
    disk.remove(path("/a")).expect("removed");
    assert_eq!(disk.free_space(path(ROOT)).expect("known"), free + 4096);
    disk.revert_unsynced_name(path("/a")).expect("its folder exists");
    assert_eq!(disk.free_space(path(ROOT)).expect("known"), free, "it takes its room again");
}

#[test]
fn links_are_followed_and_loops_refused() {
    let disk = SimDisk::new(1);
    disk.create_dir(path("/real")).expect("created");
    put(&disk, "/real/f", b"x");
    for (target, link) in [("/real", "/dir"), ("real/f", "/file"), ("loop2", "/loop1")] {
        disk.symlink(path(target), path(link)).expect("linked");
    }
    disk.symlink(path("/loop1"), path("/loop2")).expect("linked");
    assert_eq!(content(&disk, "/dir/f").expect("through a folder"), b"x");
    assert_eq!(content(&disk, "/file").expect("through a name"), b"x");
    assert_eq!(disk.canonical(path("/dir/../file")).expect("exists"), path("/real/f"));
    assert_eq!(disk.stat(path("/file")).expect("stat"), disk.stat(path("/real/f")).expect("stat"));
    assert!(disk.open(path("/loop1"), Open::Read).is_err());
    disk.open(path("/file"), Open::CreateNew).expect_err("the name is taken");
    let is_dir = |entry: &Entry| entry.is_dir;
    let flags: Vec<bool> = disk.list(path(ROOT)).expect("listed").iter().map(is_dir).collect();
    assert_eq!(flags, [true, false, false, false, true], "dir, file, loop1, loop2, real");
    disk.remove(path("/dir")).expect("the link, not the folder");
    assert_eq!(content(&disk, "/real/f").expect("untouched"), b"x");
    // A link can be pointed elsewhere by a rename over it.
    disk.symlink(path("/none"), path("/next")).expect("linked");
    disk.rename(path("/next"), path("/file")).expect("renamed");
    assert_eq!(content(&disk, "/file"), None);
}

#[test]
fn files_are_stamped_with_the_time_that_was_set() {
    let disk = SimDisk::new(1);
    disk.set_time(1_000);
    let file = put(&disk, "/f", b"");
    let born = file.stat().expect("stat");
    assert_eq!((born.mtime_ms, born.birth_ns.expect("known") / 1_000_000), (1_000, 1_000));
    disk.set_time(2_000);
    file.read_at(&mut [0; 10], 0).expect("read");
    assert_eq!(file.stat().expect("stat"), born, "reading is no modification");
    write_all_at(&file, b"x", 0).expect("written");
    let written = file.stat().expect("stat");
    assert_eq!((written.mtime_ms, written.birth_ns), (2_000, born.birth_ns));
    disk.set_birth_times(false);
    assert_eq!(file.stat().expect("stat").birth_ns, None);
}

#[test]
fn the_number_of_a_removed_file_may_be_that_of_the_next() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        let old = put(&disk, "/old", b"").stat().expect("stat");
        disk.remove(path("/old")).expect("removed");
        let new = put(&disk, "/new", b"").stat().expect("stat");
        assert_ne!(old.birth_ns, new.birth_ns, "the birth time tells them apart");
        old.ino == new.ino
    });
    assert_eq!(counts.len(), 2, "{counts:?}");
    // Not while it is open.
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        let old = put(&disk, "/old", b"");
        disk.remove(path("/old")).expect("removed");
        let new = put(&disk, "/new", b"");
        assert_ne!(old.stat().expect("stat").ino, new.stat().expect("stat").ino, "seed {seed}");
    }
}

/// Random changes with crashes in between: numbers stay unique, room is accounted to the page, and
/// every name that is listed can be used.
#[test]
fn the_disk_is_sound_after_any_history_of_crashes() {
    for seed in 0..SEEDS {
        let mut disk = SimDisk::new(seed);
        disk.set_capacity(1 << 20);
        let mut rng = Rng::new(seed ^ 0xfeed);
        for _ in 0..6 {
            for _ in 0..40 {
                random_change(&disk, &mut rng);
            }
            let crash = if rng.one_in(3) { Crash::Process } else { Crash::Power };
            disk = crashed(&disk, crash);
            check_soundness(&disk, seed);
        }
    }
}

fn random_change(disk: &SimDisk, rng: &mut Rng) {
    let mut name = || {
        let folder = ["", "/x", "/y", "/x/z"][rng.below(4) as usize];
        format!("{folder}/{}", ["a", "b", "x", "y", "z"][rng.below(5) as usize])
    };
    let (a, b) = (name(), name());
    let (a, b) = (path(&a), path(&b));
    // Most calls meet a missing or a taken name; that is part of the history.
    _ = match rng.below(9) {
        0 | 1 => disk.create_dir(a),
        2..5 => disk.open(a, Open::Create).and_then(|file| {
            write_all_at(&file, &[1; 3000], rng.below(9000))?;
            if rng.coin() { file.sync_data() } else { file.set_len(rng.below(5000)) }
        }),
        5 => disk.rename(a, b),
        6 => disk.remove(a),
        7 => disk.remove_dir(a),
        _ => disk.sync_dir(a.parent().expect("absolute")),
    };
}

fn check_soundness(disk: &SimDisk, seed: u64) {
    let mut numbers = BTreeSet::new();
    let mut links = BTreeMap::new();
    let mut todo = vec![path(ROOT).to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in disk.list(&folder).expect("it is named") {
            let at = folder.join(&entry.name);
            let stat = disk.stat(&at).expect("it is listed");
            if entry.is_dir {
                assert!(numbers.insert(stat.ino), "seed {seed}: {} shares a number", at.display());
                todo.push(at);
            } else {
                let bytes = read_file(disk, &at, 1 << 20).expect("it is listed");
                let first = links.entry(stat.ino).or_insert_with(|| (stat, bytes.clone()));
                assert_eq!(*first, (stat, bytes), "seed {seed}: {}", at.display());
            }
        }
    }
    assert!(links.keys().all(|ino| !numbers.contains(ino)), "seed {seed}");
    let room_max: u64 = links.values().map(|(stat, _)| stat.len.div_ceil(4096) * 4096).sum();
    let used = (1 << 20) - disk.free_space(path(ROOT)).expect("known");
    assert!(used <= room_max, "seed {seed}: {used} bytes of room for at most {room_max}");
}

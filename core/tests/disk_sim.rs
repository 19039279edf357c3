//! What the simulated disk leaves after a crash: synced means kept, unsynced means anything.
//!
//! Most tests try a few hundred seeds. Where every outcome of a crash must be possible they count
//! the outcomes, so that the disk cannot quietly become kinder than real ones.

mod disk_support;

use std::collections::BTreeSet;
use std::path::Path;

use disk_support::{ROOT, SEEDS, content, crashed, outcomes, path, put, put_durably};
use thalweg_core::disk::sim::{Call, Crash, Failure, Rng, SimDisk};
use thalweg_core::disk::{Disk, DiskFile, Open, read_exact_at, write_all_at};

// What survives.

/// A file grows by random appends, each synced or not. Whatever comes after the last sync may be
/// there, be zeros, or be missing, but nothing before it changes.
#[test]
fn synced_bytes_and_names_survive_every_power_loss() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        let mut rng = Rng::new(seed);
        let file = put_durably(&disk, "/log", b"");
        let (mut written, mut synced) = (Vec::new(), 0);
        for _ in 0..1 + rng.below(12) {
            let bytes: Vec<u8> = (0..rng.below(6000)).map(|_| 1 + rng.below(255) as u8).collect();
            write_all_at(&file, &bytes, written.len() as u64).expect("written");
            written.extend(bytes);
            if rng.coin() {
                file.sync_data().expect("synced");
                synced = written.len();
            }
        }
        let disk = crashed(&disk, Crash::Power);
        let found = content(&disk, "/log").expect("the name was synced");
        assert!((synced..=written.len()).contains(&found.len()), "seed {seed}");
        assert_eq!(found[..synced], written[..synced], "seed {seed}");
        let unsynced = found[synced..].iter().zip(&written[synced..]);
        assert!(unsynced.clone().all(|(f, w)| f == w || *f == 0), "seed {seed}");
    }
}

#[test]
fn a_killed_process_loses_nothing_it_wrote() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        put(&disk, "/a", &[1; 10_000]);
        disk.create_dir(path("/folder")).expect("created");
        put(&disk, "/folder/b", b"b").set_len(5).expect("extended");
        disk.rename(path("/a"), path("/folder/c")).expect("renamed");
        let disk = crashed(&disk, Crash::Process);
        assert_eq!(content(&disk, "/a"), None);
        assert_eq!(content(&disk, "/folder/b").expect("kept"), b"b\0\0\0\0");
        assert_eq!(content(&disk, "/folder/c").expect("kept"), [1; 10_000]);
    }
}

/// 8 KiB, appended and not synced.
#[test]
fn unsynced_bytes_are_lost_kept_zeroed_or_torn() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        let file = put_durably(&disk, "/f", b"");
        write_all_at(&file, &[7; 8192], 0).expect("written");
        let found = content(&crashed(&disk, Crash::Power), "/f").expect("the name was synced");
        let sectors: BTreeSet<&[u8]> = found.chunks(512).collect();
        match (found.len(), sectors.len()) {
            (0, _) => "lost",
            (8192, 1) if found[0] == 7 => "kept",
            (8192, 1) => "zeros",
            (8192, 2) if found[..4096] == found[4096..] => "torn alike",
            (8192, 2) => "torn",
            other => panic!("neither the old nor the new length, or torn in a sector: {other:?}"),
        }
    });
    for outcome in ["lost", "kept", "zeros", "torn"] {
        assert!(counts.get(outcome) > Some(&5), "{outcome}: {counts:?}");
    }
}

/// Any history of one file, against a model that remembers every version since the last sync: after
/// a power loss the length is one it had, and each sector one of its versions, cut at one of its
/// lengths. A kill changes nothing.
#[test]
fn after_a_power_loss_every_sector_is_one_of_its_versions() {
    for seed in 0..SEEDS {
        let mut disk = SimDisk::new(seed);
        let mut rng = Rng::new(seed ^ 0xbeef);
        let mut versions = vec![Vec::new()];
        let mut file = put_durably(&disk, "/f", b"");
        for step in 0..60_u8 {
            let mut now = versions.last().expect("never empty").clone();
            match rng.below(10) {
                0..5 => {
                    let at = rng.below(9000) as usize;
                    let bytes = vec![step + 1; rng.below(3000) as usize];
                    write_all_at(&file, &bytes, at as u64).expect("written");
                    if !bytes.is_empty() {
                        now.resize(now.len().max(at + bytes.len()), 0);
                        now[at..at + bytes.len()].copy_from_slice(&bytes);
                    }
                    versions.push(now);
                }
                5 => {
                    let len = rng.below(12_000);
                    file.set_len(len).expect("cut or extended");
                    now.resize(len as usize, 0);
                    versions.push(now);
                }
                6 => {
                    file.sync_data().expect("synced");
                    versions = vec![now];
                }
                7 => file.drop_cache(0..u64::MAX).expect("dropped"),
                8 => disk = crashed(&disk, Crash::Process),
                _ => {
                    disk = crashed(&disk, Crash::Power);
                    let found = content(&disk, "/f").expect("the name was synced");
                    check_versions(&found, &versions, seed);
                    versions = vec![found];
                }
            }
            file = disk.open(path("/f"), Open::Write).expect("opened");
            let now = versions.last().expect("never empty");
            assert!(content(&disk, "/f").as_ref() == Some(now), "seed {seed}, step {step}");
        }
    }
}

fn check_versions(found: &[u8], versions: &[Vec<u8>], seed: u64) {
    let lens: BTreeSet<usize> = versions.iter().map(Vec::len).collect();
    assert!(lens.contains(&found.len()), "seed {seed}: {} is none of {lens:?}", found.len());
    for (i, sector) in found.chunks(512).enumerate() {
        let start = i * 512;
        let is_version = versions.iter().any(|version| {
            lens.iter().any(|cut| {
                let kept = &version[..version.len().min(*cut)];
                let byte = |at| kept.get(start + at).copied().unwrap_or(0);
                sector.iter().enumerate().all(|(at, found)| byte(at) == *found)
            })
        });
        assert!(is_version, "seed {seed}: the sector at {start} never was so");
    }
}

#[test]
fn an_overwritten_page_is_old_new_or_torn() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        let file = put_durably(&disk, "/f", &[1; 4096]);
        write_all_at(&file, &[2; 4096], 0).expect("written");
        let found = content(&crashed(&disk, Crash::Power), "/f").expect("the name was synced");
        assert_eq!(found.len(), 4096);
        assert!(found.chunks(512).all(|sector| sector == [1; 512] || sector == [2; 512]));
        (found.contains(&1), found.contains(&2))
    });
    assert_eq!(counts.len(), 3, "old, new, torn: {counts:?}");
    assert!(counts.values().all(|n| *n > 20), "{counts:?}");
}

/// The system may write back at any time: a version that was overwritten before any sync survives.
#[test]
fn a_version_in_between_may_be_what_survives() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        let file = put_durably(&disk, "/f", &[1; 100]);
        for version in 2..6 {
            write_all_at(&file, &[version; 100], 0).expect("written");
        }
        content(&crashed(&disk, Crash::Power), "/f").expect("the name was synced")[0]
    });
    assert!(counts.keys().copied().eq(1..6), "every version survives some seed: {counts:?}");
}

/// The bytes behind a cut are gone once the cut is on the medium, even if the file grew again since.
#[test]
fn bytes_behind_a_cut_never_come_back() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        let file = put_durably(&disk, "/f", &[1; 12_000]);
        file.set_len(100).expect("cut");
        write_all_at(&file, &[2; 100], 9_000).expect("written");
        let found = content(&crashed(&disk, Crash::Power), "/f").expect("the name was synced");
        match found.len() {
            12_000 => {}
            100 | 9_100 => {
                assert!(found[..100].iter().all(|byte| *byte == 1), "seed {seed}");
                let gap = &found[100..found.len().clamp(100, 9_000)];
                assert!(gap.iter().all(|byte| *byte == 0), "seed {seed}");
            }
            other => panic!("seed {seed}: a length that never was: {other}"),
        }
        found.len()
    });
    assert_eq!(counts.len(), 3, "{counts:?}");

    // Synced: nothing else is possible.
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        let file = put_durably(&disk, "/f", &[1; 12_000]);
        file.set_len(100).expect("cut");
        file.sync_data().expect("synced");
        file.set_len(12_000).expect("grown");
        let found = content(&crashed(&disk, Crash::Power), "/f").expect("the name was synced");
        assert!(found.len() == 100 || found.len() == 12_000);
        assert!(found[100..].iter().all(|byte| *byte == 0), "seed {seed}");
    }
}

// Names.

#[test]
fn the_two_names_of_a_rename_are_lost_independently() {
    for (from, to) in [("/old", "/new"), ("/a/old", "/b/new"), ("/a/old", "/a/new")] {
        let counts = outcomes(|seed| {
            let disk = SimDisk::new(seed);
            disk.create_dir(path("/a")).expect("created");
            disk.create_dir(path("/b")).expect("created");
            disk.sync_dir(path(ROOT)).expect("synced");
            put_durably(&disk, from, b"x");
            disk.rename(path(from), path(to)).expect("renamed");
            let disk = crashed(&disk, Crash::Power);
            let there = (content(&disk, from), content(&disk, to));
            assert!(there.0.iter().chain(&there.1).all(|bytes| bytes == b"x"), "seed {seed}");
            (there.0.is_some(), there.1.is_some())
        });
        assert_eq!(counts.len(), 4, "{from} -> {to}: both, either, neither: {counts:?}");
        assert!(counts.values().all(|n| *n > 10), "{from} -> {to}: {counts:?}");
    }
}

#[test]
fn a_synced_rename_survives() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        disk.create_dir(path("/a")).expect("created");
        disk.sync_dir(path(ROOT)).expect("synced");
        put_durably(&disk, "/old", b"x");
        disk.rename(path("/old"), path("/a/new")).expect("renamed");
        disk.sync_dir(path("/a")).expect("synced");
        disk.sync_dir(path(ROOT)).expect("synced");
        let disk = crashed(&disk, Crash::Power);
        assert_eq!(content(&disk, "/old"), None, "seed {seed}");
        assert_eq!(content(&disk, "/a/new").expect("synced"), b"x", "seed {seed}");
    }
}

#[test]
fn a_created_or_removed_name_is_kept_or_lost_until_its_folder_is_synced() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        put_durably(&disk, "/removed", b"x");
        disk.remove(path("/removed")).expect("removed");
        put(&disk, "/created", b"y").sync_data().expect("synced");
        let disk = crashed(&disk, Crash::Power);
        if let Some(bytes) = content(&disk, "/created") {
            assert_eq!(bytes, b"y", "seed {seed}: its bytes were synced");
        }
        (content(&disk, "/removed").is_some(), content(&disk, "/created").is_some())
    });
    assert_eq!(counts.len(), 4, "{counts:?}");
}

#[test]
fn a_lost_folder_takes_its_content_along() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        disk.create_dir(path("/folder")).expect("created");
        put_durably(&disk, "/folder/f", b"x");
        let disk = crashed(&disk, Crash::Power);
        match disk.list(path(ROOT)).expect("listed").len() {
            0 => assert!(disk.open(path("/folder/f"), Open::Read).is_err()),
            _ => assert_eq!(content(&disk, "/folder/f").expect("synced below it"), b"x"),
        }
        disk.stat(path("/folder")).is_ok()
    });
    assert_eq!(counts.len(), 2, "{counts:?}");
}

/// However much happens on the disk between a removal and the power loss that undoes it.
#[test]
fn a_removed_file_comes_back_with_its_bytes_or_not_at_all() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        put_durably(&disk, "/old", &[1; 5000]);
        disk.remove(path("/old")).expect("removed");
        for i in 0..300 {
            let name = format!("/short-lived-{i}");
            put(&disk, &name, b"x");
            disk.remove(path(&name)).expect("removed");
        }
        let found = content(&crashed(&disk, Crash::Power), "/old");
        assert!(found.iter().all(|bytes| *bytes == [1; 5000]), "seed {seed}");
        found.is_some()
    });
    assert_eq!(counts.len(), 2, "{counts:?}");
}

/// A moved folder is found under one name or none: no file system gives a folder two.
#[test]
fn a_moved_folder_has_at_most_one_name() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        disk.create_dir(path("/old")).expect("created");
        put_durably(&disk, "/old/f", b"x");
        disk.sync_dir(path(ROOT)).expect("synced");
        disk.rename(path("/old"), path("/new")).expect("renamed");
        let disk = crashed(&disk, Crash::Power);
        (content(&disk, "/old/f").is_some(), content(&disk, "/new/f").is_some())
    });
    let expected = [(false, false), (false, true), (true, false)];
    assert!(counts.keys().eq(&expected), "{counts:?}");
}

// Syncs that fail.

#[test]
fn a_failed_sync_cleans_the_pages_and_a_retry_lies() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        disk.set_early_write_back(0);
        let file = put_durably(&disk, "/f", &[1; 4096]);
        write_all_at(&file, &[2; 4096], 0).expect("written");
        disk.fail_on(Call::SyncData, Failure::Io, 1, |path| path.ends_with("f"));
        assert_eq!(file.sync_data().expect_err("armed").raw_os_error(), Some(5));
        let mut buf = [0; 4096];
        read_exact_at(&file, &mut buf, 0).expect("read");
        assert_eq!(buf, [2; 4096], "the cache still shows what was written");
        file.sync_data().expect("the retry succeeds, and lies");

        file.drop_cache(0..u64::MAX).expect("dropped");
        read_exact_at(&file, &mut buf, 0).expect("read");
        let seen = (buf.contains(&1), buf.contains(&2));
        let after = content(&crashed(&disk, Crash::Power), "/f").expect("the name was synced");
        assert_eq!(after, buf, "seed {seed}: dropping the cache showed the medium");
        seen
    });
    assert_eq!(counts.len(), 3, "old, new, torn: {counts:?}");
}

/// A failed sync made cache and medium differ: what was not dropped still shows the cache.
#[test]
fn only_pages_wholly_below_the_bound_leave_the_cache() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        disk.set_early_write_back(0);
        let file = put_durably(&disk, "/f", &[1; 3 * 4096]);
        write_all_at(&file, &[2; 3 * 4096], 0).expect("written");
        disk.fail_on(Call::SyncData, Failure::Io, 1, |path| path.ends_with("f"));
        file.sync_data().expect_err("armed");
        file.drop_cache(0..2 * 4096 - 1).expect("dropped");
        let found = content(&disk, "/f").expect("named");
        assert_eq!(found[4096..], [2; 2 * 4096], "seed {seed}: a page that is not wholly below");
        found[..4096].contains(&1)
    });
    assert_eq!(counts.len(), 2, "{counts:?}");
}

/// Recovery after a kill reads the cache and believes it; unless it drops the cache it sees bytes
/// that the medium does not hold (crash-catalogue 1).
#[test]
fn after_a_failed_sync_and_a_kill_only_a_dropped_cache_tells_the_truth() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        let file = put_durably(&disk, "/f", &[1; 4096]);
        write_all_at(&file, &[2; 4096], 0).expect("written");
        disk.fail_at(disk.operations() + 1, Failure::Io);
        file.sync_data().expect_err("armed");
        let disk = crashed(&disk, Crash::Process);
        assert_eq!(content(&disk, "/f").expect("named"), [2; 4096], "believed");
        let file = disk.open(path("/f"), Open::Read).expect("opened");
        file.sync_data().expect("nothing is dirty");
        file.drop_cache(0..u64::MAX).expect("dropped");
        content(&disk, "/f").expect("named") == [2; 4096]
    });
    assert_eq!(counts.len(), 2, "{counts:?}");
}

#[test]
fn names_behind_a_failed_folder_sync_stay_unsynced() {
    let counts = outcomes(|seed| {
        let disk = SimDisk::new(seed);
        put(&disk, "/f", b"x");
        disk.fail_on(Call::SyncDir, Failure::Io, 1, |path| path == Path::new(ROOT));
        disk.sync_dir(path(ROOT)).expect_err("armed");
        disk.sync_dir(path(ROOT)).expect("the retry succeeds, and lies");
        put(&disk, "/g", b"y");
        disk.sync_dir(path(ROOT)).expect("later names are synced");
        let disk = crashed(&disk, Crash::Power);
        assert!(disk.stat(path("/g")).is_ok(), "seed {seed}");
        disk.stat(path("/f")).is_ok()
    });
    assert_eq!(counts.len(), 2, "{counts:?}");

    // A later change of the same name that was synced stands over it.
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        put(&disk, "/f", b"x");
        disk.fail_on(Call::SyncDir, Failure::Io, 1, |_| true);
        disk.sync_dir(path(ROOT)).expect_err("armed");
        disk.remove(path("/f")).expect("removed");
        disk.sync_dir(path(ROOT)).expect("synced");
        assert_eq!(content(&crashed(&disk, Crash::Power), "/f"), None, "seed {seed}");
    }
}

#[test]
fn dirty_pages_survive_a_dropped_cache() {
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        let file = put_durably(&disk, "/f", &[1; 9000]);
        write_all_at(&file, &[2; 10], 5000).expect("written");
        file.drop_cache(0..u64::MAX).expect("dropped");
        let found = content(&disk, "/f").expect("named");
        assert_eq!(found[5000..5010], [2; 10], "seed {seed}");
        assert!(found[..5000].iter().chain(&found[5010..]).all(|byte| *byte == 1), "seed {seed}");
    }
}

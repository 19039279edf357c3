//! F2 · The content of one simulated file: what processes see, and what is on the medium.
//!
//! ```text
//!   cache    [page 0][page 1*][page 2*]......            what every process reads      (* = dirty)
//!   medium   [page 0][page 1 ]                           what a power loss leaves
//!   lens     medium_len -> +5000 -> cut 100 -> +9000     unsynced changes of the length, in order
//! ```
//!
//! Always true here:
//! - bytes of the cache at or past the length are zero; no page lies wholly past it;
//! - a dirty page is in the cache; after a sync that succeeded no page is dirty, no change of the
//!   length is open, and cache and medium agree;
//! - after a sync that failed no page is dirty either, and cache and medium may differ: what Linux
//!   does, and why a failed sync must never be retried;
//! - a length that reached the medium was preceded by every earlier change, so bytes behind a cut
//!   never come back behind a later growth;
//! - a page behind a cut reaches the medium only after the cut: it was given other blocks, and the
//!   file on the medium still has its old ones. (Were it otherwise, truncating a file and writing it
//!   anew could leave new lines in the middle of old ones, which no journaling file system does.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::rng::Rng;

/// Bytes of a page: the unit of caching and of writing back.
pub(super) const PAGE: u64 = 4096;

/// Bytes of a sector: the unit that the medium writes as a whole.
const SECTOR: usize = 512;

/// Open growths of the length that are told apart; beyond these neighbours are taken together.
const LENS_MAX: usize = 256;

type Page = Arc<[u8; PAGE as usize]>;
type Pages = BTreeMap<u64, Page>;

/// One file's bytes.
#[derive(Default)]
pub(super) struct Content {
    cache: Pages,
    len: u64,
    dirty: BTreeSet<u64>,
    medium: Pages,
    medium_len: u64,
    lens: Vec<LenChange>,
    /// Pages below this are reserved, written or not.
    reserved: u64,
}

#[derive(Clone, Copy)]
struct LenChange {
    len: u64,
    cut: bool,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Pages of room taken on the device.
    pub(super) fn room(&self) -> u64 {
        self.reserved + self.cache.range(self.reserved..).count() as u64
    }

    /// As [`Content::room`], when room up to `end` was reserved.
    pub(super) fn room_when_reserved(&self, end: u64) -> u64 {
        let reserved = self.reserved.max(end.div_ceil(PAGE));
        reserved + self.cache.range(reserved..).count() as u64
    }

    /// How many of `len` bytes at `position` can be written when `free` pages of room are left, and
    /// how many pages of room they take.
    pub(super) fn fits(&self, position: u64, len: u64, free: u64) -> (u64, u64) {
        let mut taken = 0;
        for page in position / PAGE..(position + len).div_ceil(PAGE) {
            if page >= self.reserved && !self.cache.contains_key(&page) {
                if taken == free {
                    return ((page * PAGE).saturating_sub(position), taken);
                }
                taken += 1;
            }
        }
        (len, taken)
    }

    pub(super) fn read(&self, buf: &mut [u8], position: u64) -> usize {
        let n = self.len.saturating_sub(position).min(buf.len() as u64) as usize;
        for piece in pieces(position, n) {
            let into = &mut buf[piece.done..piece.done + piece.n];
            match self.cache.get(&piece.page) {
                Some(page) => into.copy_from_slice(&page[piece.at..piece.at + piece.n]),
                None => into.fill(0),
            }
        }
        n
    }

    pub(super) fn write(&mut self, bytes: &[u8], position: u64) {
        // Writing nothing past the end does not extend a file.
        if bytes.is_empty() {
            return;
        }
        for piece in pieces(position, bytes.len()) {
            let page = Arc::make_mut(self.cache.entry(piece.page).or_insert_with(zeros));
            page[piece.at..piece.at + piece.n]
                .copy_from_slice(&bytes[piece.done..piece.done + piece.n]);
            self.dirty.insert(piece.page);
        }
        self.change_len(self.len.max(position + bytes.len() as u64));
    }

    /// Cuts or extends the file, and gives back what was reserved past its end.
    pub(super) fn set_len(&mut self, len: u64) {
        cut(&mut self.cache, len);
        self.dirty.split_off(&len.div_ceil(PAGE));
        self.reserved = self.reserved.min(len.div_ceil(PAGE));
        self.change_len(len);
    }

    /// Reserves room up to `end`; a gap before it is reserved as well.
    pub(super) fn reserve(&mut self, end: u64) {
        self.reserved = self.reserved.max(end.div_ceil(PAGE));
    }

    /// A sync that succeeds.
    pub(super) fn sync(&mut self) {
        self.commit_lens(self.lens.len());
        for page in std::mem::take(&mut self.dirty) {
            self.write_back(page);
        }
    }

    /// The system writes pages back before anybody asked: each dirty page in `within` with an even
    /// chance. They stay dirty, so a later sync writes them again.
    pub(super) fn write_back_some(&mut self, within: std::ops::Range<u64>, rng: &mut Rng) {
        if rng.coin() {
            self.commit_lens(self.lens.len());
        }
        for page in self.dirty.range(within).copied().collect::<Vec<_>>() {
            if rng.coin() && self.is_placed(page) {
                self.write_back(page);
            }
        }
    }

    /// A sync that fails: every dirty page is clean afterwards, whether it reached the medium, did
    /// not, or did in part.
    pub(super) fn fail_sync(&mut self, rng: &mut Rng) {
        if rng.coin() {
            self.commit_lens(self.lens.len());
        }
        for page in std::mem::take(&mut self.dirty) {
            if self.is_placed(page) {
                self.write_back_maybe(page, rng);
            }
        }
    }

    /// The power goes. Of everything unsynced any part may have reached the medium; the processes'
    /// view is gone.
    pub(super) fn lose_power(&mut self, rng: &mut Rng) {
        match rng.below(4) {
            0 => {}
            1 => self.commit_lens(self.lens.len()),
            _ => self.commit_lens(rng.below(self.lens.len() as u64 + 1) as usize),
        }
        let fate = rng.below(4);
        for page in std::mem::take(&mut self.dirty) {
            match fate {
                _ if !self.is_placed(page) => {}
                0 => {}
                1 => self.write_back(page),
                _ => self.write_back_maybe(page, rng),
            }
        }
        self.forget();
    }

    /// Forgets everything that is not on the medium.
    pub(super) fn forget(&mut self) {
        cut(&mut self.medium, self.medium_len);
        self.cache = self.medium.clone();
        self.len = self.medium_len;
        self.dirty.clear();
        self.lens.clear();
        self.reserved = 0;
    }

    /// Drops the clean pages: they are read from the medium again. Dirty pages and the length stay.
    pub(super) fn drop_clean(&mut self, bytes: &std::ops::Range<u64>) {
        let mut fresh = self.medium.clone();
        cut(&mut fresh, floor(&self.lens).min(self.len));
        for page in &self.dirty {
            fresh.insert(*page, self.dirty_page(*page));
        }
        // Of the pages, those that do not lie wholly within the bytes stay as they are.
        let (first, end) = (bytes.start.div_ceil(PAGE), bytes.end / PAGE);
        let stays = |page: &u64| !(first..end).contains(page);
        fresh.retain(|page, _| !stays(page));
        fresh.extend(std::mem::take(&mut self.cache).into_iter().filter(|(page, _)| stays(page)));
        self.cache = fresh;
    }

    /// Flips a bit of a byte below the length, in the cache and on the medium.
    pub(super) fn flip(&mut self, byte: u64, bit: u8) {
        for pages in [&mut self.cache, &mut self.medium] {
            let page = Arc::make_mut(pages.entry(byte / PAGE).or_insert_with(zeros));
            page[(byte % PAGE) as usize] ^= 1 << (bit % 8);
        }
    }

    fn change_len(&mut self, len: u64) {
        let change = LenChange { len, cut: len < self.len };
        if len == self.len {
            return;
        }
        self.len = len;
        let many = self.lens.len() >= LENS_MAX;
        match self.lens.last_mut() {
            Some(last) if many && !last.cut && !change.cut => *last = change,
            _ => self.lens.push(change),
        }
    }

    /// The first `n` open changes of the length reach the medium.
    fn commit_lens(&mut self, n: usize) {
        cut(&mut self.medium, floor(&self.lens[..n]));
        if let Some(last) = self.lens.drain(..n).next_back() {
            self.medium_len = last.len;
        }
    }

    fn dirty_page(&self, page: u64) -> Page {
        Arc::clone(self.cache.get(&page).expect("a dirty page is in the cache"))
    }

    /// Whether the blocks of a dirty page are the file's on the medium, too.
    fn is_placed(&self, page: u64) -> bool {
        page < floor(&self.lens).div_ceil(PAGE)
    }

    fn write_back(&mut self, page: u64) {
        self.medium.insert(page, self.dirty_page(page));
    }

    /// The page reaches the medium whole, not at all, or only some of its sectors do.
    fn write_back_maybe(&mut self, page: u64, rng: &mut Rng) {
        let sectors = match rng.below(3) {
            0 => return,
            1 => return self.write_back(page),
            _ => rng.number(),
        };
        let new = self.dirty_page(page);
        let old = Arc::make_mut(self.medium.entry(page).or_insert_with(zeros));
        for (i, sector) in new.chunks_exact(SECTOR).enumerate() {
            if sectors >> i & 1 == 1 {
                old[i * SECTOR..][..SECTOR].copy_from_slice(sector);
            }
        }
    }
}

/// The lowest cut among these changes: what the medium held from there on is gone.
fn floor(lens: &[LenChange]) -> u64 {
    lens.iter().filter(|change| change.cut).map(|change| change.len).min().unwrap_or(u64::MAX)
}

/// Takes every byte at or past `len` away.
fn cut(pages: &mut Pages, len: u64) {
    pages.split_off(&len.div_ceil(PAGE));
    let tail = (len % PAGE) as usize;
    if tail > 0
        && let Some(page) = pages.get_mut(&(len / PAGE))
        && page[tail..].iter().any(|byte| *byte != 0)
    {
        Arc::make_mut(page)[tail..].fill(0);
    }
}

fn zeros() -> Page {
    Arc::new([0; PAGE as usize])
}

struct Piece {
    page: u64,
    at: usize,
    done: usize,
    n: usize,
}

/// Cuts `len` bytes at `position` at the bounds of pages.
fn pieces(position: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        (done < len).then(|| {
            let here = position + done as u64;
            let at = (here % PAGE) as usize;
            let n = (PAGE as usize - at).min(len - done);
            let piece = Piece { page: here / PAGE, at, done, n };
            done += n;
            piece
        })
    })
}

//! A digest of a set of rows that does not depend on their order and is kept up to date row by row.
//!
//! ```text
//!   hash(row)  = xxh3_128(value, seed = xxh3_64(key))          128 bits, key and value cannot shift
//!   digest     = ( sum of hash(row) modulo 2^128, number of rows )
//! ```
//!
//! Always true here: two equal sets of rows have equal digests, however they came to be. Two sets that
//! differ by accident (a lost row, an old value, a row too many) have equal digests with a chance of
//! about 2^-64. It is no defence against somebody who forges rows: whoever can write the state folder
//! can write the log as well.
//!
//! # What it costs
//! Per dirty key and commit: two short hashes for the new row (its bytes are encoded for the changelog
//! anyway) and the hash of the row that was committed before. The latter is 16 bytes that the overlay
//! keeps with the entry: computed when the base value was read (aggregates always read), or when the
//! row was committed last time. Only a write to a key that nobody read, and that is in no overlay,
//! costs one extra `get` from the base; it is once per key between two checkpoints. After a restore
//! the digest is computed by one scan of all rows, see [`crate::state::restore`].
//!
//! The sum is taken modulo 2^128 and not by xor, so that a row counted twice does not vanish
//! (Bellare and Micciancio, "A new paradigm for collision-free hashing", AdHash, 1997).

use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

/// The hash of one row. 16 bytes; an overlay keeps that of the committed row with each entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowHash(u128);

impl RowHash {
    /// The hash of a row.
    pub fn of(key: &[u8], value: &[u8]) -> Self {
        Self(xxh3_128_with_seed(value, xxh3_64(key)))
    }
}

/// The digest of a set of rows; the default is that of no rows.
///
/// ```
/// use thalweg_streams::state::digest::Digest;
/// let mut there = Digest::default();
/// there.add(b"a", b"1");
/// there.add(b"b", b"2");
/// let mut back = there;
/// back.remove(b"b", b"2");
/// back.add(b"b", b"3");
/// assert_ne!(there, back);
/// back.remove(b"b", b"3");
/// back.remove(b"a", b"1");
/// assert_eq!(back, Digest::default());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Digest {
    sum: u128,
    rows: u64,
}

impl Digest {
    /// Counts a row in.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.replace(None, Some(RowHash::of(key, value)));
    }

    /// Takes a row out that was counted in.
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.replace(Some(RowHash::of(key, value)), None);
    }

    /// Takes the committed row of a key out, if it had one, and counts the new one in, if it has one.
    pub fn replace(&mut self, old: Option<RowHash>, new: Option<RowHash>) {
        if let Some(RowHash(hash)) = old {
            self.sum = self.sum.wrapping_sub(hash);
            self.rows = self.rows.wrapping_sub(1);
        }
        if let Some(RowHash(hash)) = new {
            self.sum = self.sum.wrapping_add(hash);
            self.rows = self.rows.wrapping_add(1);
        }
    }

    /// How many rows were counted in and not taken out.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The stored form: sum (16 bytes), rows (8 bytes), big endian.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.sum.to_be_bytes());
        bytes[16..].copy_from_slice(&self.rows.to_be_bytes());
        bytes
    }

    /// Reads the stored form. Every value is legal.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let (sum, rows) = bytes.split_at(16);
        let mut digest = Self::default();
        // Big endian, by hand: the halves have the right lengths by construction.
        for &byte in sum {
            digest.sum = (digest.sum << 8) | u128::from(byte);
        }
        for &byte in rows {
            digest.rows = (digest.rows << 8) | u64::from(byte);
        }
        digest
    }

    /// The length of the stored form.
    pub const BYTES: usize = 24;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_differ_in_any_way_have_other_digests() {
        let of = |rows: &[(&[u8], &[u8])]| {
            let mut digest = Digest::default();
            rows.iter().for_each(|(key, value)| digest.add(key, value));
            digest
        };
        let base = of(&[(b"a", b"1"), (b"b", b"2")]);
        assert_eq!(base, of(&[(b"b", b"2"), (b"a", b"1")]), "order does not matter");
        let others: [&[(&[u8], &[u8])]; 7] = [
            &[],
            &[(b"a", b"1")],
            &[(b"a", b"2"), (b"b", b"1")],
            &[(b"a", b"1"), (b"b", b"")],
            &[(b"a", b"1"), (b"b2", b"")],
            &[(b"a", b"1"), (b"a", b"1"), (b"b", b"2")],
            &[(b"", b"a1"), (b"b", b"2")],
        ];
        for rows in others {
            assert_ne!(base, of(rows), "{rows:?}");
        }
    }

    #[test]
    fn the_stored_form_is_fixed() {
        let mut digest = Digest::default();
        digest.add(b"key", b"value");
        digest.add(b"", b"");
        assert_eq!(Digest::from_bytes(digest.to_bytes()), digest);
        assert_eq!(digest.rows(), 2);
        // xxHash 0.8's XXH3: these bytes are in logs on disk.
        let mut one = Digest::default();
        one.add(b"key", b"value");
        let hex: String = one.to_bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "e84582f5c8fe2c1351ad8f295ea712830000000000000001");
    }
}

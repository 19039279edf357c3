//! F1 · Variable-length integers, as Protocol Buffers have them: seven bits a byte, low bits first.
//!
//! ```text
//!   signed n  --zig-zag-->  unsigned u      0, -1, 1, -2, 2 ...  ->  0, 1, 2, 3, 4 ...
//!   300 = 0b10_0101100      ->  1 0101100   0 0000010             high bit: more bytes follow
//! ```
//!
//! Always true here: reading never looks beyond the slice, never panics, and refuses a number of more
//! bytes than its type can need (5 for 32 bits, 10 for 64) or of more bits than it holds. Longer
//! forms within that limit (`80 00` for 0) are read, as Kafka reads them, and never written.

/// The most bytes a 32-bit number takes.
pub const VARINT_LEN_MAX: usize = 5;
/// The most bytes a 64-bit number takes.
pub const VARLONG_LEN_MAX: usize = 10;

/// Maps small magnitudes to small numbers: 0, -1, 1, -2 become 0, 1, 2, 3.
#[inline]
pub const fn zigzag32(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

/// Maps small magnitudes to small numbers, for 64 bits.
#[inline]
pub const fn zigzag64(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

const fn unzigzag32(value: u32) -> i32 {
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

const fn unzigzag64(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// How many bytes [`put_unsigned`] writes for a 64-bit number (a 32-bit one needs the same).
#[inline]
pub const fn unsigned_len(value: u64) -> usize {
    // Bytes = ceil(bits / 7) without a division: exact for every count of bits from 1 to 64.
    let log2 = 63 - (value | 1).leading_zeros() as usize;
    (log2 * 9 + 73) / 64
}

/// How many bytes [`put_varint`] writes.
#[inline]
pub const fn varint_len(value: i32) -> usize {
    unsigned_len(zigzag32(value) as u64)
}

/// How many bytes [`put_varlong`] writes.
#[inline]
pub const fn varlong_len(value: i64) -> usize {
    unsigned_len(zigzag64(value))
}

/// Appends an unsigned number (Kafka's unsigned varint, when it fits 32 bits).
#[inline]
pub fn put_unsigned(out: &mut Vec<u8>, value: u64) {
    let mut bytes = [0; VARLONG_LEN_MAX];
    let len = write_unsigned(&mut bytes, value);
    out.extend_from_slice(&bytes[..len]);
}

/// Appends a zig-zag number of 32 bits.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, value: i32) {
    put_unsigned(out, u64::from(zigzag32(value)));
}

/// Appends a zig-zag number of 64 bits.
#[inline]
pub fn put_varlong(out: &mut Vec<u8>, value: i64) {
    put_unsigned(out, zigzag64(value));
}

/// Writes an unsigned number to the front of `out` and says how many bytes it took.
///
/// # Panics
/// When `out` is shorter than [`unsigned_len`] of the value.
#[inline]
pub fn write_unsigned(out: &mut [u8], mut value: u64) -> usize {
    let mut at = 0;
    while value >= 0x80 {
        out[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = value as u8;
    at + 1
}

/// Reads an unsigned number of 32 bits and gives back what follows it. `None` when the bytes end
/// within it, or when it is no such number.
#[inline]
pub fn read_unsigned(bytes: &[u8]) -> Option<(u32, &[u8])> {
    match bytes {
        [a, rest @ ..] if *a < 0x80 => Some((u32::from(*a), rest)),
        [a, b, rest @ ..] if *b < 0x80 => Some((u32::from(*a & 0x7f) | u32::from(*b) << 7, rest)),
        _ => {
            let (value, rest) = read_long_form(bytes, VARINT_LEN_MAX)?;
            Some((u32::try_from(value).ok()?, rest))
        }
    }
}

/// Reads an unsigned number of 64 bits; otherwise as [`read_unsigned`].
#[inline]
pub fn read_unsigned_long(bytes: &[u8]) -> Option<(u64, &[u8])> {
    match bytes {
        [a, rest @ ..] if *a < 0x80 => Some((u64::from(*a), rest)),
        [a, b, rest @ ..] if *b < 0x80 => Some((u64::from(*a & 0x7f) | u64::from(*b) << 7, rest)),
        _ => read_long_form(bytes, VARLONG_LEN_MAX),
    }
}

/// Reads a zig-zag number of 32 bits; otherwise as [`read_unsigned`].
#[inline]
pub fn read_varint(bytes: &[u8]) -> Option<(i32, &[u8])> {
    let (value, rest) = read_unsigned(bytes)?;
    Some((unzigzag32(value), rest))
}

/// Reads a zig-zag number of 64 bits; otherwise as [`read_unsigned`].
#[inline]
pub fn read_varlong(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (value, rest) = read_unsigned_long(bytes)?;
    Some((unzigzag64(value), rest))
}

#[cold]
fn read_long_form(bytes: &[u8], len_max: usize) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (at, &byte) in bytes.iter().take(len_max).enumerate() {
        let bits = u64::from(byte & 0x7f);
        // The tenth byte may hold one bit only.
        if at == VARLONG_LEN_MAX - 1 && bits > 1 {
            return None;
        }
        value |= bits << (7 * at);
        if byte < 0x80 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_protocol_buffers() {
        // (value, bytes): from the encoding page of Protocol Buffers and Kafka's ByteUtilsTest.
        let cases: [(i64, &[u8]); 10] = [
            (0, &[0x00]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (-8192, &[0xff, 0x7f]),
            (8192, &[0x80, 0x80, 0x01]),
            (i64::from(i32::MIN), &[0xff, 0xff, 0xff, 0xff, 0x0f]),
            (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ];
        for (value, bytes) in cases {
            let mut out = Vec::new();
            put_varlong(&mut out, value);
            assert_eq!(out, bytes, "{value}");
            assert_eq!(varlong_len(value), bytes.len(), "{value}");
            assert_eq!(read_varlong(bytes), Some((value, &[][..])), "{value}");
            if let Ok(narrow) = i32::try_from(value) {
                out.clear();
                put_varint(&mut out, narrow);
                assert_eq!(out, bytes, "{value}");
                assert_eq!(varint_len(narrow), bytes.len(), "{value}");
                assert_eq!(read_varint(bytes), Some((narrow, &[][..])), "{value}");
            }
        }
    }

    #[test]
    fn every_length_boundary_round_trips() {
        for bits in 0..64 {
            for value in [1_u64 << bits, (1 << bits) - 1, u64::MAX >> bits] {
                let mut out = Vec::new();
                put_unsigned(&mut out, value);
                assert_eq!(out.len(), unsigned_len(value), "{value}");
                out.push(0xaa);
                assert_eq!(read_unsigned_long(&out), Some((value, &[0xaa][..])));
                let narrow = u32::try_from(value).ok().map(|value| (value, &[0xaa][..]));
                assert_eq!(read_unsigned(&out), narrow, "{value}");
                assert_eq!(read_unsigned_long(&out[..out.len() - 2]), None, "{value}");
            }
        }
    }

    #[test]
    fn numbers_too_long_or_too_large_are_refused() {
        let cases: [(&[u8], bool, bool); 7] = [
            // bytes, readable as 32 bits, readable as 64 bits
            (&[], false, false),
            (&[0x80], false, false),
            (&[0x80, 0x00], true, true),
            (&[0xff, 0xff, 0xff, 0xff, 0x10], false, true),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], false, true),
            (&[0xff; 10], false, false),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], false, false),
        ];
        for (bytes, as_32, as_64) in cases {
            assert_eq!(read_varint(bytes).is_some(), as_32, "{bytes:x?}");
            assert_eq!(read_varlong(bytes).is_some(), as_64, "{bytes:x?}");
        }
    }
}

//! Eight bytes at a time in one register: where a JSON string cannot be copied as it is.
//!
//! ```text
//!   bytes  a  b  "  c  \  d  e  f        each byte of `specials` has its high bit set where the
//!   mask   00 00 80 .. .. .. .. ..       byte is special; behind the first set one it is undefined
//! ```
//!
//! Always true here: special are a quote, a backslash and the control characters below 0x20, in
//! reading and in writing alike; the answers are those of a loop over single bytes.

const ONES: u64 = u64::from_le_bytes([1; 8]);
const HIGH: u64 = ONES << 7;
const SPACES: u64 = ONES * 0x20;

/// Up to eight bytes, the first lowest, and blanks behind them.
#[inline]
pub(super) fn load(bytes: &[u8]) -> u64 {
    if let Some(eight) = bytes.first_chunk::<8>() {
        return u64::from_le_bytes(*eight);
    }
    let length = bytes.len();
    let word = if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        // Two overlapping halves of four bytes: where they overlap they agree.
        let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        u64::from(first) | u64::from(last) << (8 * (length - 4))
    } else if let [first, .., last] = bytes {
        let middle = u64::from(bytes[length / 2]) << (8 * (length / 2));
        u64::from(*first) | middle | u64::from(*last) << (8 * (length - 1))
    } else {
        bytes.first().copied().map_or(0, u64::from)
    };
    word | SPACES << (8 * length)
}

/// The high bit of the first special byte of `word`, and perhaps of others behind it; 0 if none is
/// special.
#[inline]
pub(super) fn specials(word: u64) -> u64 {
    // With its second bit turned over a quote (0x22) is 0x20 and a blank is not, while a control
    // character stays one: what is below 0x21 then is either. A borrow sets a bit falsely only
    // behind a true one, and the first is all that counts.
    let turned = word ^ (ONES * 0x02);
    let quotes_and_controls = turned.wrapping_sub(ONES * 0x21) & !turned;
    let zero_if_backslash = word ^ (ONES * u64::from(b'\\'));
    let backslashes = zero_if_backslash.wrapping_sub(ONES) & !zero_if_backslash;
    (quotes_and_controls | backslashes) & HIGH
}

/// Which byte the first bit of `specials` is for; 8 if there is none.
#[inline]
pub(super) fn first(specials: u64) -> usize {
    specials.trailing_zeros() as usize / 8
}

/// Where, from `from` on, the next special byte is; the end if there is none.
#[inline]
pub(super) fn next_special(bytes: &[u8], from: usize) -> usize {
    let (eights, rest) = bytes[from..].as_chunks::<8>();
    for (i, eight) in eights.iter().enumerate() {
        let specials = specials(u64::from_le_bytes(*eight));
        if specials != 0 {
            return from + 8 * i + first(specials);
        }
    }
    // The blanks behind the end are plain.
    from + 8 * eights.len() + first(specials(load(rest))).min(rest.len())
}

#[cfg(test)]
mod tests {
    use super::next_special;

    /// Every byte at every place of a text of up to 18 bytes, another special byte or none behind it,
    /// fills that tempt a borrow.
    #[test]
    fn finds_what_a_loop_over_bytes_finds() {
        let special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..0x20);
        for fill in *b" #!]a\x7f\x80\xa2\xff" {
            for byte in 0..=255 {
                for place in 0..18 {
                    for behind in [b'"', b'\\', 0, 0x1f, fill] {
                        let mut bytes = [fill; 18];
                        bytes[17] = behind;
                        bytes[place] = byte;
                        for length in [place + 1, 18] {
                            let bytes = &bytes[..length];
                            let want = bytes.iter().position(special).unwrap_or(length);
                            assert_eq!(next_special(bytes, 0), want, "{bytes:?}");
                        }
                    }
                }
            }
        }
    }
}

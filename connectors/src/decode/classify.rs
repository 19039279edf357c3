//! What is no text, told from a file's first bytes.
//!
//! Always true here: an answer never depends on more than the first 8 KiB; a file that is still
//! empty is text.

use memchr::memchr;

/// How many bytes of a file are looked at.
const HEAD_MAX: usize = 8 * 1024;

/// First bytes no text begins with, and what they say. The frames of lz4 and zstd that readers skip
/// (`0x184D2A50` to `5F`) can come first too and are known by their last three bytes.
const MAGICS: [(&[u8], &str); 13] = [
    (b"\x1f\x8b", "compressed (gzip)"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)"),
    (b"\xfd7zXZ\0", "compressed (xz)"),
    (b"\x04\x22\x4d\x18", "compressed (lz4)"),
    (b"\x02\x21\x4c\x18", "compressed (lz4, legacy frame)"),
    (b"PK\x03\x04", "compressed (zip)"),
    (b"PK\x05\x06", "compressed (zip, empty)"),
    (b"PK\x07\x08", "compressed (zip, split)"),
    (b"\xff\x06\x00\x00sNaPpY", "compressed (snappy)"),
    (b"\x1f\x9d", "compressed (compress)"),
    (b"LZIP\x01", "compressed (lzip)"),
    (b"7z\xbc\xaf\x27\x1c", "compressed (7-Zip)"),
    (b"BZh", "compressed (bzip2)"),
];

/// Why a file that begins with `head` holds no lines of text: it begins as a compressed file does, or
/// there is a NUL within its first 8 KiB. `None` if nothing speaks against text.
///
/// `head` is the first 8 KiB, or all of a shorter file; more is not looked at. The answer completes
/// the sentence "skipped: ...".
///
/// ```
/// use thalweg_connectors::decode::looks_binary;
///
/// assert_eq!(looks_binary(b"Nov 21 13:52:00 db1 cron[7]: ok\n"), None);
/// assert_eq!(looks_binary(b"\x1f\x8b\x08\x00"), Some("compressed (gzip)"));
/// ```
pub fn looks_binary(head: &[u8]) -> Option<&'static str> {
    let head = &head[..head.len().min(HEAD_MAX)];
    let magic = MAGICS.iter().find(|(magic, _)| head.starts_with(magic) && confirmed(magic, head));
    match (magic, head) {
        (Some((_, reason)), _) => Some(reason),
        (None, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) => Some("compressed (lz4 or zstd)"),
        _ => memchr(0, head).map(|_| "binary (a NUL in the first 8 KiB)"),
    }
}

/// `BZh` is three letters that a text may begin with: a level and the head of a block or of the end
/// must follow.
fn confirmed(magic: &[u8], head: &[u8]) -> bool {
    magic != b"BZh"
        || matches!(
            head,
            [_, _, _, b'1'..=b'9', b'1', b'A', b'Y', b'&', b'S', b'Y', ..]
                | [_, _, _, b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..]
        )
}

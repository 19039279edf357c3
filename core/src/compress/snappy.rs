//! F1 · Snappy: blocks in the framing of xerial's snappy-java, which Kafka's clients write, or one
//! block without framing, which librdkafka writes.
//!
//! ```text
//!   82 53 4e 41 50 50 59 00 | int32 version 1 | int32 oldest reader 1 | blocks
//!   block   int32 length | raw snappy: length of the content, then literals and copies
//! ```
//!
//! Always true here: blocks are written of 32 KiB of content, as snappy-java does, and read of any
//! size; the length a block says its content has makes no room that its bytes cannot fill.
//!
//! Source: snappy-java's `SnappyOutputStream`; Snappy's format_description.txt.

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::{Codec, CompressionError, grow};

const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const HEADER: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
const BLOCK: usize = 32 << 10;
/// A copy of three bytes gives 64: no block holds more than this many times its length.
const RATIO_MAX: usize = 22;

fn damaged(what: impl Into<Box<str>>) -> CompressionError {
    Codec::Snappy.damaged(what)
}

pub(crate) struct Compressor {
    encoder: Encoder,
    packed: Vec<u8>,
}

impl Compressor {
    pub(super) fn new() -> Self {
        Self { encoder: Encoder::new(), packed: HEADER.to_vec() }
    }

    pub(super) fn compress(&mut self, section: &[u8]) -> Result<&[u8], CompressionError> {
        let mut at = HEADER.len();
        for block in section.chunks(BLOCK) {
            let start = at + 4;
            let bound = max_compress_len(block.len());
            grow(&mut self.packed, start + bound);
            let length = self
                .encoder
                .compress(block, &mut self.packed[start..start + bound])
                .map_err(|e| damaged(e.to_string()))?;
            self.packed[at..start].copy_from_slice(&(length as u32).to_be_bytes());
            at = start + length;
        }
        Ok(&self.packed[..at])
    }
}

pub(super) fn decompress(
    stream: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<usize, CompressionError> {
    let Some(framed) = stream.strip_prefix(&MAGIC) else {
        return block(stream, 0, limit, out);
    };
    // The versions have been 1 ever since; other clients' headers differ there, and no reader minds.
    let mut rest = framed.get(8..).ok_or_else(|| damaged("it ends within its header"))?;
    let mut filled = 0;
    while !rest.is_empty() {
        let cut = || damaged("it ends within a block");
        let (length, after) = rest.split_first_chunk().ok_or_else(cut)?;
        let length = usize::try_from(i32::from_be_bytes(*length))
            .map_err(|_| damaged("the length of a block is negative"))?;
        let (packed, after) = after.split_at_checked(length).ok_or_else(cut)?;
        filled = block(packed, filled, limit, out)?;
        rest = after;
    }
    Ok(filled)
}

/// Decompresses one block behind the `filled` bytes that are there, and says how many are there then.
fn block(
    packed: &[u8],
    filled: usize,
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<usize, CompressionError> {
    let length = decompress_len(packed).map_err(|e| damaged(e.to_string()))?;
    if packed.is_empty() || length > packed.len().saturating_mul(RATIO_MAX) {
        return Err(damaged("a block says that it holds more than it can"));
    }
    if length > limit - filled {
        return Err(CompressionError::TooLarge { codec: Codec::Snappy, limit });
    }
    grow(out, filled + length);
    let length = Decoder::new()
        .decompress(packed, &mut out[filled..filled + length])
        .map_err(|e| damaged(e.to_string()))?;
    Ok(filled + length)
}

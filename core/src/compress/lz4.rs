//! F1 · LZ4: one frame of independent blocks.
//!
//! ```text
//!   04 22 4d 18 | flags | block size | [content size, 8] | sum of the descriptor, 1
//!   blocks: length, 4, high bit: stored as it is | bytes | [sum, 4]
//!   0, 4 | [sum of the content, 4]                                        all little-endian
//!
//!   flags   7..6    5             4            3              2             1         0
//!           01      independent   block sums   content size   content sum   0         dictionary
//! ```
//!
//! Always true here: blocks of 64 KiB without sums are written, as Kafka's clients do; every frame of
//! independent blocks is read, and its sums and size are checked. Blocks that depend on each other are
//! refused, as Kafka refuses them: no client writes them, and each block here needs nothing but itself.
//! The frame is read here and not by the library so that blocks go straight to their place: no copy on
//! the way in or out, and no buffers of the size that the frame asks for.
//!
//! Source: the LZ4 frame format 1.6; Kafka's `Lz4BlockInputStream`.

use lz4_flex::block::{
    CompressTable, DecompressError, compress_into_with_table, decompress_into,
    get_maximum_output_size,
};
use xxhash_rust::xxh32::xxh32;

use super::{Codec, CompressionError, grow};

const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// Version 1, independent blocks; blocks of 64 KiB; the sum of these two bytes.
const HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
const BLOCK: usize = 64 << 10;
const STORED: u32 = 1 << 31;

const VERSION_BITS: u8 = 0xc2;
const VERSION: u8 = 0x40;
const INDEPENDENT: u8 = 1 << 5;
const BLOCK_SUMS: u8 = 1 << 4;
const CONTENT_SIZE: u8 = 1 << 3;
const CONTENT_SUM: u8 = 1 << 2;
const DICTIONARY: u8 = 1;

/// A match of 15 + 255 + 255 ...: no block holds more than this many times its length.
const RATIO_MAX: usize = 255;

fn damaged(what: impl Into<Box<str>>) -> CompressionError {
    Codec::Lz4.damaged(what)
}

pub(crate) struct Compressor {
    table: CompressTable,
    packed: Vec<u8>,
}

impl Compressor {
    pub(super) fn new() -> Self {
        Self { table: CompressTable::default(), packed: HEADER.to_vec() }
    }

    pub(super) fn compress(&mut self, section: &[u8]) -> Result<&[u8], CompressionError> {
        let mut at = HEADER.len();
        for block in section.chunks(BLOCK) {
            let start = at + 4;
            let bound = get_maximum_output_size(block.len());
            grow(&mut self.packed, start + bound + 4);
            let length = compress_into_with_table(
                block,
                &mut self.packed[start..start + bound],
                &mut self.table,
            )
            .map_err(|e| damaged(e.to_string()))?;
            let (length, stored) = if length < block.len() {
                (length, 0)
            } else {
                self.packed[start..start + block.len()].copy_from_slice(block);
                (block.len(), STORED)
            };
            self.packed[at..start].copy_from_slice(&(length as u32 | stored).to_le_bytes());
            at = start + length;
        }
        grow(&mut self.packed, at + 4);
        self.packed[at..at + 4].fill(0);
        Ok(&self.packed[..at + 4])
    }
}

/// What a frame says about itself.
struct Descriptor {
    flags: u8,
    block_max: usize,
    content_size: Option<u64>,
}

impl Descriptor {
    /// Reads the descriptor at the front of a frame and gives back what follows it.
    fn read(stream: &[u8]) -> Result<(Self, &[u8]), CompressionError> {
        let cut = || damaged("it ends within its header");
        // Legacy and skippable frames are no part of Kafka's format.
        let from = stream
            .strip_prefix(&MAGIC)
            .ok_or_else(|| damaged("it does not begin with an lz4 frame"))?;
        let ([flags, block], mut rest) = from.split_first_chunk().ok_or_else(cut)?;
        if flags & VERSION_BITS != VERSION {
            return Err(damaged("its frame is of another version"));
        }
        if flags & INDEPENDENT == 0 {
            return Err(damaged("its blocks depend on each other"));
        }
        if flags & DICTIONARY != 0 {
            return Err(damaged("it needs a dictionary"));
        }
        let block_max = match block {
            0x40 => BLOCK,
            0x50 => 256 << 10,
            0x60 => 1 << 20,
            0x70 => 4 << 20,
            _ => return Err(damaged("its blocks are of no known size")),
        };
        let mut content_size = None;
        if flags & CONTENT_SIZE != 0 {
            let (size, after) = rest.split_first_chunk().ok_or_else(cut)?;
            content_size = Some(u64::from_le_bytes(*size));
            rest = after;
        }
        let descriptor = &from[..from.len() - rest.len()];
        let (sum, rest) = rest.split_first().ok_or_else(cut)?;
        if (xxh32(descriptor, 0) >> 8) as u8 != *sum {
            return Err(damaged("the sum of its header does not agree"));
        }
        Ok((Self { flags: *flags, block_max, content_size }, rest))
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Takes four bytes, little-endian, from the front of `rest`.
fn take(rest: &mut &[u8]) -> Result<u32, CompressionError> {
    let (word, after) =
        rest.split_first_chunk().ok_or_else(|| damaged("it ends within a frame"))?;
    *rest = after;
    Ok(u32::from_le_bytes(*word))
}

pub(super) fn decompress(
    stream: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<usize, CompressionError> {
    let too_large = CompressionError::TooLarge { codec: Codec::Lz4, limit };
    let (frame, mut rest) = Descriptor::read(stream)?;
    if frame.content_size.is_some_and(|size| size > limit as u64) {
        return Err(too_large);
    }
    let mut filled = 0;
    loop {
        let word = take(&mut rest)?;
        if word == 0 {
            break;
        }
        let length = (word & !STORED) as usize;
        if length > frame.block_max {
            return Err(damaged("a block is larger than its header allows"));
        }
        let (packed, after) =
            rest.split_at_checked(length).ok_or_else(|| damaged("it ends within a block"))?;
        rest = after;
        if frame.has(BLOCK_SUMS) && take(&mut rest)? != xxh32(packed, 0) {
            return Err(damaged("the sum of a block does not agree"));
        }
        let left = limit - filled;
        if word & STORED != 0 {
            if length > left {
                return Err(too_large);
            }
            grow(out, filled + length);
            out[filled..filled + length].copy_from_slice(packed);
            filled += length;
            continue;
        }
        let room = frame.block_max.min(length.saturating_mul(RATIO_MAX)).min(left);
        grow(out, filled + room);
        filled += match decompress_into(packed, &mut out[filled..filled + room]) {
            Ok(length) => length,
            Err(DecompressError::OutputTooSmall { .. }) if room == left => return Err(too_large),
            Err(e) => return Err(damaged(e.to_string())),
        };
    }
    if frame.content_size.is_some_and(|size| size != filled as u64) {
        return Err(damaged("its content is not as long as its header says"));
    }
    if frame.has(CONTENT_SUM) && take(&mut rest)? != xxh32(&out[..filled], 0) {
        return Err(damaged("the sum of its content does not agree"));
    }
    match rest.len() {
        0 => Ok(filled),
        left => Err(damaged(format!("{left} bytes follow its end"))),
    }
}

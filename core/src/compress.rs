//! F1 · The codecs of a batch's records section: a switchboard, and a file for each.
//!
//! ```text
//!   code point   0 none    1 gzip           2 snappy                   3 lz4             4 zstd
//!   written      copied    one member,      xerial's framing,          one frame of      one frame,
//!                          level 6          blocks of 32 KiB           64 KiB blocks     level 1
//!   read too               any level        raw, without the framing   any block size    any level
//!   feature                `gzip`           `snappy`                   `lz4`             `zstd`
//! ```
//!
//! Always true here: what is read is bounded. No codec gives out more bytes than its caller allows,
//! and nothing is allocated because a length field asks for it: room is made for what the bytes that
//! are there can hold. A section is exactly one stream; what follows its end is refused. What is
//! written is what Kafka's own clients write and read.

#[cfg(feature = "gzip")]
mod gzip;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "snappy")]
mod snappy;
#[cfg(feature = "zstd")]
mod zstd;

use std::fmt;

use crate::config::Compression;

/// The most bytes a records section may decompress to, whatever a topic allows for its batches.
pub const DECOMPRESSED_MAX: usize = 64 << 20;

/// How many bytes a records section may decompress to in a topic that accepts batches of
/// `max_message_bytes`: sixteen times as many, and at most [`DECOMPRESSED_MAX`]. Log text compresses
/// five to ten times; what goes far beyond is made to fill memory.
pub fn decompressed_max(max_message_bytes: usize) -> usize {
    max_message_bytes.saturating_mul(16).min(DECOMPRESSED_MAX)
}

/// A codec's code point in the attributes of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Codec {
    /// The records as they are.
    None = 0,
    /// A gzip member.
    Gzip = 1,
    /// Snappy blocks in xerial's framing, or one without it.
    Snappy = 2,
    /// An LZ4 frame.
    Lz4 = 3,
    /// A zstd frame.
    Zstd = 4,
}

impl Codec {
    /// The codec of a code point.
    ///
    /// # Errors
    /// [`CompressionError::Unknown`] for the code points that nobody has defined.
    pub fn from_code(code: u8) -> Result<Self, CompressionError> {
        match code {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Ok(Self::Snappy),
            3 => Ok(Self::Lz4),
            4 => Ok(Self::Zstd),
            _ => Err(CompressionError::Unknown { code }),
        }
    }

    /// The code point.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The codec's name, as Kafka spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Says whether this build reads and writes the codec.
    ///
    /// # Errors
    /// [`CompressionError::Disabled`], naming it.
    pub fn check_supported(self) -> Result<(), CompressionError> {
        let there = match self {
            Self::None => true,
            Self::Gzip => cfg!(feature = "gzip"),
            Self::Snappy => cfg!(feature = "snappy"),
            Self::Lz4 => cfg!(feature = "lz4"),
            Self::Zstd => cfg!(feature = "zstd"),
        };
        if there { Ok(()) } else { Err(CompressionError::Disabled { codec: self }) }
    }

    #[cfg(any(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"))]
    fn damaged(self, what: impl Into<Box<str>>) -> CompressionError {
        CompressionError::Damaged { codec: self, what: what.into() }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Gzip => Self::Gzip,
            Compression::Snappy => Self::Snappy,
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd => Self::Zstd,
        }
    }
}

/// Why a records section cannot be compressed or decompressed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CompressionError {
    /// A code point that nobody has defined.
    #[error(
        "unknown compression codec {code}: there are 0 none, 1 gzip, 2 snappy, 3 lz4 and 4 zstd"
    )]
    Unknown {
        /// The code point found.
        code: u8,
    },
    /// A codec that was left out of this build.
    #[error("compressed with {codec}, which this build leaves out: enable the feature `{codec}`")]
    Disabled {
        /// The codec.
        codec: Codec,
    },
    /// A stream that is not what its codec writes.
    #[error("not a whole {codec} stream: {what}")]
    Damaged {
        /// The codec.
        codec: Codec,
        /// What is wrong with it.
        what: Box<str>,
    },
    /// A stream that holds more than is allowed.
    #[error("the {codec} stream holds more than the {limit} bytes that are allowed")]
    TooLarge {
        /// The codec.
        codec: Codec,
        /// The limit.
        limit: usize,
    },
}

/// Compresses records sections of one codec; keeps the codec's tables from one to the next.
pub(crate) enum Compressor {
    None,
    #[cfg(feature = "gzip")]
    Gzip(Box<gzip::Compressor>),
    #[cfg(feature = "snappy")]
    Snappy(Box<snappy::Compressor>),
    #[cfg(feature = "lz4")]
    Lz4(Box<lz4::Compressor>),
    #[cfg(feature = "zstd")]
    Zstd(zstd::Compressor),
}

impl Compressor {
    /// A codec that was left out of the build copies: ask [`Codec::check_supported`] first.
    pub(crate) fn new(codec: Codec) -> Self {
        match codec {
            #[cfg(feature = "gzip")]
            Codec::Gzip => Self::Gzip(Box::new(gzip::Compressor::new())),
            #[cfg(feature = "snappy")]
            Codec::Snappy => Self::Snappy(Box::new(snappy::Compressor::new())),
            #[cfg(feature = "lz4")]
            Codec::Lz4 => Self::Lz4(Box::new(lz4::Compressor::new())),
            #[cfg(feature = "zstd")]
            Codec::Zstd => Self::Zstd(zstd::Compressor::new()),
            _ => Self::None,
        }
    }

    /// The compressed form of `section`, kept until the next call.
    pub(crate) fn compress<'s>(
        &'s mut self,
        section: &'s [u8],
    ) -> Result<&'s [u8], CompressionError> {
        match self {
            Self::None => Ok(section),
            #[cfg(feature = "gzip")]
            Self::Gzip(gzip) => gzip.compress(section),
            #[cfg(feature = "snappy")]
            Self::Snappy(snappy) => snappy.compress(section),
            #[cfg(feature = "lz4")]
            Self::Lz4(lz4) => lz4.compress(section),
            #[cfg(feature = "zstd")]
            Self::Zstd(zstd) => zstd.compress(section),
        }
    }
}

/// Decompresses records sections; keeps the codecs' tables from one to the next.
#[derive(Default)]
pub(crate) struct Decompressor {
    #[cfg(feature = "gzip")]
    gzip: Option<gzip::Decompressor>,
    #[cfg(feature = "zstd")]
    zstd: Option<zstd::Decompressor>,
}

impl Decompressor {
    /// Decompresses `stream`, at most `limit` bytes, to the front of `out` and says how many they are.
    /// What `out` holds behind them means nothing: a buffer that was filled once need not be zeroed
    /// again for the codecs that write into slices.
    pub(crate) fn decompress(
        &mut self,
        codec: Codec,
        stream: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<usize, CompressionError> {
        codec.check_supported()?;
        match codec {
            #[cfg(feature = "gzip")]
            Codec::Gzip => {
                self.gzip.get_or_insert_with(gzip::Decompressor::new).decompress(stream, limit, out)
            }
            #[cfg(feature = "snappy")]
            Codec::Snappy => snappy::decompress(stream, limit, out),
            #[cfg(feature = "lz4")]
            Codec::Lz4 => lz4::decompress(stream, limit, out),
            #[cfg(feature = "zstd")]
            Codec::Zstd => {
                self.zstd.get_or_insert_with(zstd::Decompressor::new).decompress(stream, limit, out)
            }
            _ if stream.len() > limit => Err(CompressionError::TooLarge { codec, limit }),
            _ => {
                out.clear();
                out.extend_from_slice(stream);
                Ok(stream.len())
            }
        }
    }
}

/// Makes `out` at least `len` bytes long.
#[cfg(any(feature = "snappy", feature = "lz4"))]
fn grow(out: &mut Vec<u8>, len: usize) {
    if out.len() < len {
        out.resize(len, 0);
    }
}

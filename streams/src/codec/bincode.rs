//! The default binary format: bincode 2.0.1 in its `legacy` configuration, byte for byte bincode 1.
//!
//! Always true here: integers are little endian and of fixed width (they do *not* sort: range-scanned
//! keys use [`Ordered`](super::Ordered)); one value may claim at most 16 MiB while it is read; the
//! format holds no names, so that fields may not be added, removed or reordered, and serde's
//! `flatten`, `skip`, `tag` and `untagged` do not work.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::serde::{decode_from_slice, encode_into_std_write};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, CodecId};
use crate::error::CodecError;

/// What one value may claim while it is read: a hostile length cannot ask for more memory than this.
const LIMIT: usize = 16 << 20;

const CONFIG: Configuration<LittleEndian, Fixint, Limit<LIMIT>> =
    bincode::config::legacy().with_limit::<LIMIT>();

/// bincode of any serde type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bincode;

impl<T: Serialize + DeserializeOwned> Codec<T> for Bincode {
    const ID: CodecId = CodecId { name: "bincode", version: 1 };

    #[inline]
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        match encode_into_std_write(value, out, CONFIG) {
            Ok(_) => Ok(()),
            Err(e) => Err(CodecError::new("bincode", format!("cannot be written: {e}"))),
        }
    }

    #[inline]
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        match decode_from_slice(bytes, CONFIG) {
            Ok((value, used)) if used == bytes.len() => Ok(value),
            Ok((_, used)) => Err(CodecError::new(
                "bincode",
                format!("{} of {} bytes are left over", bytes.len() - used, bytes.len()),
            )),
            Err(e) => Err(CodecError::new(
                "bincode",
                format!("{} bytes are no such value: {e}", bytes.len()),
            )),
        }
    }
}

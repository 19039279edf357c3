//! JSON: what other programs read, and people.
//!
//! Always true here: one value, nothing but white space after it. As keys take types with one
//! spelling only (no maps with a free order), since equal keys must have equal bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, CodecId};
use crate::error::CodecError;

/// JSON text of any serde type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    const ID: CodecId = CodecId { name: "json", version: 1 };

    #[inline]
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        serde_json::to_writer(out, value)
            .map_err(|e| CodecError::new("json", format!("cannot be written: {e}")))
    }

    #[inline]
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(bytes).map_err(|e| CodecError::new("json", e.to_string()))
    }
}

//! One error type for the package, sorted by what the caller can do about it.
//!
//! Always true here: an error names the topic, store or setting, where in it, and what to do. Expected
//! outcomes (a late record, an idle input, nothing to commit) are not errors.

use thalweg_core::ids::Offset;

use crate::state::backend::StateError;

/// The result of an operation on a pipeline.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// *Fix the pipeline.* It can never run as it is written.
    #[error("{what}")]
    Invalid {
        /// What is wrong and what is accepted.
        what: String,
    },

    /// *Fix who writes the topic, or its codec.* A stored record is not what the topic's type says.
    #[error("record {topic}-{partition}@{offset}: {source}")]
    Record {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The record's offset.
        offset: Offset,
        /// What is wrong with its bytes.
        source: CodecError,
    },

    /// *Fix the pipeline, or filter such records out before.* A closure of it panicked. Nothing of the
    /// open transaction is committed.
    #[error("{place}: a closure of the pipeline panicked: {what}")]
    Panicked {
        /// The record, `topic-partition@offset`; without an offset between records.
        place: String,
        /// What the panic said.
        what: String,
    },

    /// *Fix the value, or choose another codec.* A value of the pipeline cannot be written.
    #[error("{place}: {source}")]
    Encode {
        /// The topic or store.
        place: String,
        /// What the codec refused.
        source: CodecError,
    },

    /// Local state refused or is damaged; its own error says what to do.
    #[error(transparent)]
    State(#[from] StateError),

    /// The log refused; its own error says what to do.
    #[error(transparent)]
    Log(#[from] thalweg_core::Error),
}

impl Error {
    /// A pipeline that can never run as it is written.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }

    /// A panic that was caught.
    pub(crate) fn panicked(place: String, panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::Panicked { place, what: text.unwrap_or("it does not say why").to_owned() }
    }

    pub(crate) fn encode(place: &str) -> impl FnOnce(CodecError) -> Self {
        move |source| Self::Encode { place: place.to_owned(), source }
    }
}

/// What a codec refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{codec}: {what}")]
pub struct CodecError {
    codec: &'static str,
    what: String,
}

impl CodecError {
    /// The codec of this name refused bytes or a value.
    pub fn new(codec: &'static str, what: impl Into<String>) -> Self {
        Self { codec, what: what.into() }
    }

    /// The codec's name.
    pub fn codec(&self) -> &'static str {
        self.codec
    }
}

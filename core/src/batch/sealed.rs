//! F1 · A batch that a builder of this process sealed: what it holds need not be looked at again.
//!
//! Always true here: nobody but [`BatchBuilder::seal`](super::BatchBuilder::seal) makes one, and nobody
//! changes its bytes while there is one (they are shared and immutable), so the sum in them is that of
//! the records that were pushed. Bytes that came from anywhere else, also from a `Sealed` that was turned
//! into bytes, are validated like anybody's.

use bytes::Bytes;

use super::validate::{check_producer, check_size};
use super::{Accept, BatchError, BatchHeader, Scratch, Validated, validate_deep};
use crate::ids::Timestamp;

/// A batch as its builder left it: sums and counts hold because this program just wrote them.
///
/// A log in the same process appends it without summing it a second time
/// ([`Log::append_sealed`](crate::client::log::Log::append_sealed)). It cannot be made from bytes:
///
/// ```compile_fail
/// use thalweg_core::batch::Sealed;
/// let bytes = bytes::Bytes::from_static(b"not a batch");
/// let forged: Sealed = bytes.into();
/// ```
#[derive(Clone, Debug)]
pub struct Sealed {
    bytes: Bytes,
    header: BatchHeader,
    /// The least time of its records, -1 among them for one without a time.
    min_timestamp: Timestamp,
    /// Whether a record has no key.
    keyless: bool,
}

impl Sealed {
    /// Of a builder that wrote `bytes`, and `header` into them.
    pub(super) fn new(
        bytes: Bytes,
        header: BatchHeader,
        min_timestamp: Timestamp,
        keyless: bool,
    ) -> Self {
        debug_assert_eq!(Ok(header), BatchHeader::parse(&bytes));
        Self { bytes, header, min_timestamp, keyless }
    }

    /// Its header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Its bytes, header included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its bytes, which are anybody's from now on.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// What [`validate_deep`] would say of its bytes, without reading them where the builder noted
    /// enough: who its producer is was the caller's word, how large it may be is the topic's.
    ///
    /// # Errors
    /// The [`BatchError`] that names the first rule broken.
    pub fn check(&self, accept: &Accept) -> Result<BatchHeader, BatchError> {
        check_size(&self.header, accept.max_message_bytes)?;
        check_producer(&self.header)?;
        let keyed = !(accept.compacted && self.keyless);
        let timely =
            self.min_timestamp >= accept.earliest && self.header.max_timestamp <= accept.latest;
        if keyed && timely {
            return Ok(self.header);
        }
        // Some record breaks a rule, or has no time, which breaks none: read them to say which.
        validate_deep(&self.bytes, accept, &mut Scratch::default()).and_then(Validated::unchanged)
    }
}

#[cfg(test)]
mod tests {
    use super::super::BatchBuilder;
    use super::*;
    use crate::config::Compression;
    use crate::ids::ProducerIdentity;

    /// Whatever is asked of a batch, the short look says what the long one does.
    #[test]
    fn a_sealed_batch_is_taken_or_refused_as_its_bytes_are() {
        type TimeAndKey<'a> = (Timestamp, Option<&'a [u8]>);
        let producers = [
            (ProducerIdentity::NONE, -1, false),
            (ProducerIdentity::NONE, -1, true),
            (ProducerIdentity { id: 7, epoch: 0 }, 3, true),
            (ProducerIdentity { id: 7, epoch: 0 }, -1, false),
            (ProducerIdentity { id: 7, epoch: -1 }, 3, false),
        ];
        let records: [&[TimeAndKey<'_>]; 6] = [
            &[(100, Some(b"k"))],
            &[(100, None)],
            &[(100, Some(b"k")), (50, None), (150, Some(b"k"))],
            &[(-1, Some(b"k"))],
            &[(-1, Some(b"k")), (100, Some(b"k"))],
            &[(i64::MAX, Some(b"k")), (100, Some(b"k"))],
        ];
        let times = [(i64::MIN, i64::MAX), (60, i64::MAX), (i64::MIN, 120), (60, 120)];
        let mut refused = 0;
        for ((producer, sequence, transactional), records) in
            producers.into_iter().flat_map(|p| records.map(|r| (p, r)))
        {
            let mut builder = BatchBuilder::new(Compression::None, 1 << 10);
            for (time, key) in records {
                builder.push(*time, *key, Some(b"value"), &[]).expect("small");
            }
            let sealed = builder.seal(producer, sequence, transactional).expect("not empty");
            for ((earliest, latest), compacted) in
                times.into_iter().flat_map(|t| [true, false].map(|c| (t, c)))
            {
                for max_message_bytes in [sealed.bytes().len() - 1, sealed.bytes().len()] {
                    let accept = Accept { max_message_bytes, compacted, earliest, latest };
                    let deep = validate_deep(sealed.bytes(), &accept, &mut Scratch::default());
                    let deep = deep.and_then(Validated::unchanged);
                    refused += usize::from(deep.is_err());
                    assert_eq!(sealed.check(&accept), deep, "{accept:?} {records:?} {producer:?}");
                }
            }
        }
        assert!(refused > 0, "some are refused");
    }
}

//! F7 · Which partition a record goes to.
//!
//! Always true here: records of equal key bytes go to the same partition of a topic, and to the one
//! that Kafka's default partitioner chooses; records without a key stay with one partition until its
//! batch is full ("sticky", KIP-794), which makes batches large.

/// Kafka's murmur2 over the key bytes.
pub fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h: u32 = 0x9747_b28c ^ (bytes.len() as u32);
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (i, &byte) in rest.iter().enumerate() {
            h ^= u32::from(byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

/// The partition of a key among `partitions`, as Kafka's default partitioner chooses it.
///
/// ```
/// use thalweg_core::client::partitioner::partition_of;
/// assert_eq!(partition_of(b"user-1", 4), partition_of(b"user-1", 4));
/// ```
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_gives_kafkas_values() {
        // From org.apache.kafka.common.utils.UtilsTest.testMurmur2.
        let cases: [(&[u8], i32); 7] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
            (b"", 275_646_681),
        ];
        for (key, wanted) in cases {
            assert_eq!(murmur2(key) as i32, wanted, "{key:?}");
        }
    }
}

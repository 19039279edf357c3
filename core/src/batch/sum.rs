//! F1 · CRC-32C, the sum of batches, and what it becomes when only the front of the bytes changes.
//!
//! ```text
//!   sum(A B)  =  shift(sum(A), |B|)  xor  sum(B)
//!   sum(A'B)  =  sum(A B)  xor  shift(sum(A) xor sum(A'), |B|)
//! ```
//!
//! Always true here: [`resum`] never looks at B. It takes the same time for a batch of any size, and a
//! byte of B that was flipped since the old sum was checked stays found by the new one, which adding
//! everything up again would bless.
//!
//! Source: M. Adler's `crc32_combine` in zlib.

/// CRC-32C (Castagnoli), the sum of batches. Chosen by the processor's instructions at run time; no
/// allocation.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The polynomial, bits reversed: the highest bit is the coefficient of 1.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x^(2^n) modulo the polynomial, for lengths of up to 2^32 bytes in bits.
const POWERS: [u32; 36] = {
    let mut powers = [1 << 30; 36];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = multiply(powers[n - 1], powers[n - 1]);
        n += 1;
    }
    powers
};

/// The product of two polynomials modulo the polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        // All ones or nothing, instead of branches that nobody can predict.
        product ^= b & (a >> bit & 1).wrapping_neg();
        b = b >> 1 ^ POLYNOMIAL & (b & 1).wrapping_neg();
    }
    product
}

/// What a sum becomes when `length` bytes of zero follow, without its initial and final inversion.
fn shift(sum: u32, length: u32) -> u32 {
    let mut shifted = sum;
    let mut left = length;
    while left > 0 {
        // Eight bits a byte: 2^3.
        shifted = multiply(POWERS[3 + left.trailing_zeros() as usize], shifted);
        left &= left - 1;
    }
    shifted
}

/// The sum of bytes that began with `before` and now begin with `after`, of the same length; `rest`
/// bytes follow and are as they were.
pub(super) fn resum(sum: u32, before: &[u8], after: &[u8], rest: u32) -> u32 {
    debug_assert_eq!(before.len(), after.len());
    sum ^ shift(crc32c(before) ^ crc32c(after), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_front_needs_no_look_at_the_rest() {
        let bytes: Vec<u8> = (0..70_000_u32).map(|i| (i.wrapping_mul(i) >> 3) as u8).collect();
        for rest in [0, 1, 2, 3, 7, 8, 100, 255, 256, 4095, 65_535, 65_536, 69_960] {
            let whole = &bytes[..40 + rest];
            let mut changed = whole.to_vec();
            changed[0] ^= 8;
            changed[14..22].copy_from_slice(&77_i64.to_be_bytes());
            let sum = resum(crc32c(whole), &whole[..40], &changed[..40], rest as u32);
            assert_eq!(sum, crc32c(&changed), "{rest}");
        }
    }
}

//! Lengths that take few bytes when they are small: 7 bits a byte, the least significant first, the high bit set on all bytes but the last.

use bytes::BufMut;

/// Why there is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VarintError {
    /// The bytes end within it.
    Cut,
    /// It does not fit.
    TooLarge,
}

/// Bytes that a number takes.
pub(crate) fn len(value: usize) -> usize {
    let bits = (usize::BITS - value.leading_zeros()).max(1) as usize;
    bits.div_ceil(7)
}

/// Appends a number.
pub(crate) fn put(out: &mut impl BufMut, mut value: usize) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Reads the number at `at`, and moves that behind it.
pub(crate) fn read(bytes: &[u8], at: &mut usize) -> Result<usize, VarintError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at).ok_or(VarintError::Cut)?;
        *at += 1;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(value).map_err(|_| VarintError::TooLarge);
        }
    }
    Err(VarintError::TooLarge)
}

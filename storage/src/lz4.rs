//! LZ4 blocks, by the C library that RocksDB brings along.
#![allow(unsafe_code, reason = "the library is C; two calls, wrapped here")]

use std::ffi::c_int;

/// Appends `bytes` to `output` as one block if that takes at most `bytes_max` bytes. Otherwise `output` stays as it is.
pub(crate) fn compress(bytes: &[u8], output: &mut Vec<u8>, bytes_max: usize) -> bool {
    let (Ok(length), Ok(room)) = (c_int::try_from(bytes.len()), c_int::try_from(bytes_max)) else { return false };
    output.reserve(bytes_max);
    let target = output.spare_capacity_mut();
    // SAFETY: the library reads `length` bytes and writes at most `room`, and both are there.
    let written =
        unsafe { lz4_sys::LZ4_compress_default(bytes.as_ptr().cast(), target.as_mut_ptr().cast(), length, room) };
    // 0 if it does not fit.
    let Ok(written @ 1..) = usize::try_from(written) else { return false };
    // SAFETY: so many bytes were written behind the vector's end, within its capacity.
    unsafe { output.set_len(output.len() + written) };
    true
}

/// What a block holds, if that is exactly `length` bytes.
pub(crate) fn decompress(block: &[u8], length: usize) -> Option<Vec<u8>> {
    // No block holds more than 255 times its size, so that a damaged length takes no memory.
    if length / 255 > block.len() {
        return None;
    }
    let (block_length, room) = (c_int::try_from(block.len()).ok()?, c_int::try_from(length).ok()?);
    let mut output = Vec::<u8>::with_capacity(length);
    // SAFETY: the library reads `block_length` bytes and writes at most `room`, and both are there; it checks the block itself.
    let written =
        unsafe { lz4_sys::LZ4_decompress_safe(block.as_ptr().cast(), output.as_mut_ptr().cast(), block_length, room) };
    if usize::try_from(written) != Ok(length) {
        return None;
    }
    // SAFETY: the first `length` bytes were written.
    unsafe { output.set_len(length) };
    Some(output)
}

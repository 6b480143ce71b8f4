//! How far a time is moved: by a hash of the time and of whose it is, so that it is the same whenever it is asked for.

/// Nanoseconds from 0 up to `most`, in whole milliseconds.
pub(super) fn nanos(seed: &str, second: i64, most: i64) -> i64 {
    /// Seconds from the first year to the Unix epoch.
    const EPOCH: i64 = 62_135_596_800;
    const MS: i64 = 1_000_000;
    let most = u64::try_from(most / MS).unwrap_or(0).min(u64::from(u32::MAX));
    if most == 0 {
        return 0;
    }
    // The time in Go's binary form: version, seconds, nanoseconds, and no offset.
    let mut bytes = vec![1];
    bytes.extend(second.saturating_add(EPOCH).to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([0xff; 2]);
    bytes.extend(seed.as_bytes());
    let share = (u64::from(hash(&bytes)) * most) >> 32;
    i64::try_from(share).unwrap_or(0) * MS
}

const C1: u32 = 0xcc9e_2d51;
const C2: u32 = 0x1b87_3593;
const C3: u32 = 0xe654_6b64;

/// FarmHash's 32-bit fingerprint (Pike, 2014) of more than 24 bytes.
fn hash(bytes: &[u8]) -> u32 {
    debug_assert!(bytes.len() > 24, "a time and the ids behind it are longer");
    let length = bytes.len();
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let times5 = |h: u32| h.wrapping_mul(5).wrapping_add(C3);
    let end = |behind: usize| word(length - behind).wrapping_mul(C1).rotate_right(17).wrapping_mul(C2);
    let mut h = length as u32;
    let mut g = C1.wrapping_mul(h);
    let mut f = g;
    for a in [end(4), end(16)] {
        h = times5((h ^ a).rotate_right(19));
    }
    for a in [end(8), end(12)] {
        g = times5((g ^ a).rotate_right(19));
    }
    f = f.wrapping_add(end(20)).rotate_right(19).wrapping_add(113);
    for block in 0..(length - 1) / 20 {
        let [a, b, c, d, e] = [0, 4, 8, 12, 16].map(|at| word(block * 20 + at));
        h = h.wrapping_add(a);
        g = g.wrapping_add(b);
        f = f.wrapping_add(c);
        h = mur(d, h).wrapping_add(e);
        g = mur(c, g).wrapping_add(a);
        f = mur(b.wrapping_add(e.wrapping_mul(C1)), f).wrapping_add(d);
        f = f.wrapping_add(g);
        g = g.wrapping_add(f);
    }
    let fold = |x: u32| x.rotate_right(11).wrapping_mul(C1).rotate_right(17).wrapping_mul(C1);
    for part in [fold(g), fold(f)] {
        h = times5(h.wrapping_add(part).rotate_right(19));
        h = h.rotate_right(17).wrapping_mul(C1);
    }
    h
}

fn mur(a: u32, h: u32) -> u32 {
    let a = a.wrapping_mul(C1).rotate_right(17).wrapping_mul(C2);
    (h ^ a).rotate_right(19).wrapping_mul(5).wrapping_add(C3)
}

//! How much room a table keeps once most of its entries are gone.

/// Entries for which a table always keeps room.
const TABLE_ENTRIES_MIN: usize = 1024;

/// How many entries a table with `entries` is to keep room for, if it has room for so many more that giving it back is worth it.
pub(crate) fn shrunk_capacity(entries: usize, capacity: usize) -> Option<usize> {
    let wanted = (2 * entries).max(TABLE_ENTRIES_MIN);
    (capacity > 4 * wanted).then_some(wanted)
}

//! When tables were truncated, from the rows of `system.local`.
//!
//! Its column `truncated_at map<uuid, blob>` has a cell for each table that was: the key, 16 bytes of the table's id,
//! and the value, 20 bytes: the commit log's segment (8) and position (4), and the time (8, Unix milliseconds); each
//! with its length before it as a variable-length integer, here one byte. The cells are found by these bytes alone,
//! whatever lies around them. So some that are none may be found too: a caller looks up ids that it knows.

use std::collections::BTreeMap;

const ID_BYTES: u8 = 16;
const VALUE_BYTES: u8 = 20;
const CELL_BYTES: usize = 1 + 16 + 1 + 20;

/// By table id (32 lower-case hex digits) the latest time, in Unix milliseconds. Takes the content of a Data.db,
/// decompressed.
pub fn truncations(rows: &[u8]) -> BTreeMap<String, i64> {
    let mut found = BTreeMap::new();
    for (id, at_ms) in rows.windows(CELL_BYTES).filter_map(cell) {
        let latest = found.entry(id).or_insert(at_ms);
        *latest = at_ms.max(*latest);
    }
    let hex = |id: u128| format!("{id:032x}");
    found.into_iter().map(|(id, at_ms)| (hex(id), at_ms)).collect()
}

fn cell(bytes: &[u8]) -> Option<(u128, i64)> {
    let (_, rest) = bytes.split_first().filter(|(length, _)| **length == ID_BYTES)?;
    let (id, rest) = rest.split_first_chunk::<16>()?;
    let (_, rest) = rest.split_first().filter(|(length, _)| **length == VALUE_BYTES)?;
    let (_position, at_ms) = rest.split_last_chunk::<8>()?;
    Some((u128::from_be_bytes(*id), i64::from_be_bytes(*at_ms)))
}

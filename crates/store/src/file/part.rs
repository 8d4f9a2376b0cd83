//! Names of unfinished objects: `<last segment>.<32 hexadecimal digits>.part`. No key may have such a segment.

use uuid::Uuid;

const SUFFIX: &str = ".part";
/// A dot, 32 digits, the suffix.
const ADDED_BYTES: usize = 1 + 32 + SUFFIX.len();
/// What file systems allow for a name.
const NAME_LIMIT_BYTES: usize = 255;

/// A new name for the object that is to be called `name`; the end of a very long one is left out.
pub(super) fn name(name: &str) -> String {
    let mut end = name.len().min(NAME_LIMIT_BYTES - ADDED_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let stem = name.get(..end).unwrap_or_default();
    format!("{stem}.{}{SUFFIX}", Uuid::new_v4().simple())
}

/// The object's own name, when this is the name of an unfinished one.
pub(super) fn stem(name: &str) -> Option<&str> {
    let (stem, random) = name.strip_suffix(SUFFIX)?.rsplit_once('.')?;
    let is_random =
        random.len() == 32 && random.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (is_random && !stem.is_empty()).then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognized_and_short_enough() {
        for object in ["a", "nb-1-big-Data.db", ".hidden", &"x".repeat(255), &"ä".repeat(127)] {
            let part = name(object);
            assert!(part.len() <= 255);
            assert!(object.starts_with(stem(&part).expect("recognized")));
            assert_ne!(part, name(object), "never the same twice");
        }
        for object in ["a", "a.part", "a.0123.part", ".0123456789abcdef0123456789abcdef.part"] {
            assert_eq!(stem(object), None, "{object}");
        }
    }
}

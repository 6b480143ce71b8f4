//! What the published API says of its messages, fields and methods: the comments, which descriptors carry.

use std::collections::HashMap;

use prost_reflect::{DescriptorPool, FileDescriptor};

/// Comments by file and place in it.
pub(super) struct Comments<'a>(HashMap<&'a str, HashMap<&'a [i32], String>>);

impl<'a> Comments<'a> {
    pub(super) fn of(pool: &'a DescriptorPool) -> Comments<'a> {
        let files = pool.file_descriptor_protos().map(|file| {
            let locations = file.source_code_info.iter().flat_map(|info| &info.location);
            let texts = locations.filter_map(|location| {
                let texts = [location.leading_comments(), location.trailing_comments()].map(text);
                let text = texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n");
                (!text.is_empty()).then_some((location.path.as_slice(), text))
            });
            (file.name(), texts.collect())
        });
        Comments(files.collect())
    }

    /// What is said of what is at a place, in lines; nothing if nothing is.
    pub(super) fn at(&self, file: &FileDescriptor, path: &[i32]) -> &str {
        self.0.get(file.name()).and_then(|texts| texts.get(path)).map_or("", String::as_str)
    }
}

/// A comment without its margin and without notes for the tools that check definitions, `(-- ... --)`.
fn text(comment: &str) -> String {
    let lines: Vec<_> = comment.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect();
    let mut text = lines.join("\n");
    while let Some(begin) = text.find("(--") {
        let end = text[begin..].find("--)").map_or(text.len(), |end| begin + end + "--)".len());
        text.replace_range(begin..end, "");
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_its_lines_without_notes_for_tools() {
        assert_eq!(
            text(" One.\n   Two.  \n\n Three. (-- api-linter: x\n y --) Four.\n"),
            "One.\n  Two.\n\nThree.  Four."
        );
        assert_eq!(text(" (-- never closed"), "");
    }
}

//! The targets, one file each.

use std::path::Path;

use everlog_random::Random;

mod completions;
mod list_filter;
mod log_segments;
mod requests;
mod rows;
mod schedule_spec;
mod server;
mod tokens;

/// Something that takes bytes.
pub(crate) trait Target {
    /// Its name, also of its corpus.
    fn name(&self) -> &'static str;

    /// Inputs that mean something, from which the others are made; at least one.
    fn seeds(&mut self) -> Result<Vec<Vec<u8>>, String>;

    /// Changes an input.
    fn change(&mut self, random: &mut Random, input: &mut Vec<u8>, other: &[u8]);

    /// Takes an input. Returns what came of it, in few words that are the same for what went the same way; or what is wrong with that. A
    /// panic is wrong too.
    fn run(&mut self, input: &[u8]) -> Result<String, String>;

    /// Whether an input that fails fails again, so that it can be made smaller.
    fn shrinks(&self) -> bool {
        true
    }

    /// Ends what was started. Says what is wrong then.
    fn finish(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// All targets. `everlog` is the server's binary.
pub(crate) fn all(everlog: &Path) -> Vec<Box<dyn Target>> {
    vec![
        Box::new(log_segments::LogSegments::default()),
        Box::new(rows::Rows),
        Box::new(tokens::Tokens),
        Box::new(list_filter::ListFilter::default()),
        Box::new(schedule_spec::Specs),
        Box::new(requests::Requests::new(everlog)),
        Box::new(completions::Completions::new(everlog)),
    ]
}

/// A text without what differs from one input to the next: numbers and quoted words.
pub(crate) fn kind_of(text: &str) -> String {
    let mut kind = String::new();
    let mut quoted = false;
    for character in text.chars().take(200) {
        match character {
            '"' | '\'' | '`' => quoted = !quoted,
            _ if quoted || character.is_ascii_digit() => {}
            _ => kind.push(character),
        }
    }
    kind
}

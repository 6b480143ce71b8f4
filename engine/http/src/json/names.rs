//! Names of enum values: as they are, or short.

use prost_reflect::EnumDescriptor;

/// The number of a value by its name: `WORKFLOW_EXECUTION_STATUS_RUNNING`, or `Running`.
pub(crate) fn enum_number(descriptor: &EnumDescriptor, name: &str) -> Option<i32> {
    if let Some(value) = descriptor.get_value_by_name(name) {
        return Some(value.number());
    }
    let prefix_bytes = common_prefix(descriptor);
    descriptor.values().find(|value| is_camel_case_of(name, &value.name()[prefix_bytes..])).map(|value| value.number())
}

/// How many bytes all names begin with alike, up to a `_`.
fn common_prefix(descriptor: &EnumDescriptor) -> usize {
    let mut names = descriptor.values();
    let Some(first) = names.next() else { return 0 };
    let first = first.name().to_owned();
    let alike = names
        .map(|value| first.bytes().zip(value.name().bytes()).take_while(|(a, b)| a == b).count())
        .min()
        .unwrap_or(0);
    first[..alike].rfind('_').map_or(0, |underscore| underscore + 1)
}

/// Whether `short` is `ALLOW_DUPLICATE` in camel case.
fn is_camel_case_of(short: &str, screaming: &str) -> bool {
    let mut starts = true;
    let mut expected = screaming.chars().filter_map(|character| {
        if character == '_' {
            starts = true;
            return None;
        }
        let cased = if starts { character } else { character.to_ascii_lowercase() };
        starts = false;
        Some(cased)
    });
    let mut given = short.chars();
    loop {
        match (expected.next(), given.next()) {
            (None, None) => return !short.is_empty(),
            (a, b) if a != b => return false,
            _ => {}
        }
    }
}

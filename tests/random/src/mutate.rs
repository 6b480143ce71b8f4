//! Changes to inputs. Those of bytes know nothing of what the bytes mean; those of messages keep to protobuf's wire format, so that
//! what they make is still read as a message and gets past the decoder.

use crate::Random;

/// Inputs do not grow beyond this.
const BYTES_MAX: usize = 256 << 10;
/// How deep messages are read as messages, and wrapped in themselves.
const DEPTH_MAX: usize = 120;
/// Numbers at which things go wrong.
const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    127,
    128,
    255,
    65_535,
    i32::MAX as u64,
    1 << 31,
    u32::MAX as u64,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];
/// Texts at which things go wrong.
const TEXTS: [&str; 14] = [
    "",
    "\0",
    "default",
    "temporal-system",
    "__temporal",
    "é\u{301}\u{202e}",
    "\u{10ffff}",
    "/_sys/",
    "a/b",
    "'; --",
    "%s%n",
    "-1",
    "NaN",
    "9223372036854775808",
];

/// Changes bytes in a few places. `other` is another input, of which pieces are taken.
pub fn bytes(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..1 + random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(9) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.any() as u8,
            2 => input.truncate(at),
            3 => input.insert(at, random.any() as u8),
            4 => {
                let end = (at + 1 + random.below(16)).min(input.len());
                input.drain(at..end);
            }
            5 => {
                let number = random.of(&NUMBERS).to_le_bytes();
                let width = *random.of(&[1, 2, 4, 8]);
                let end = (at + width).min(input.len());
                input.splice(at..end, number[..width].iter().copied());
            }
            6 => {
                let end = (at + 1 + random.below(64)).min(input.len());
                let piece = input[at..end].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, piece);
            }
            7 if !other.is_empty() => {
                let from = random.below(other.len());
                let piece = &other[from..(from + 1 + random.below(64)).min(other.len())];
                input.splice(at..at, piece.iter().copied());
            }
            _ => {
                input.splice(at..at, random.of(&TEXTS).bytes());
            }
        }
    }
    input.truncate(BYTES_MAX);
}

/// A field as it stands in a message.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    /// A text, bytes or packed numbers.
    Bytes(Vec<u8>),
    /// Bytes that read as a message.
    Message(Vec<Field>),
}

#[derive(Clone, Debug, PartialEq)]
struct Field {
    number: u64,
    value: Value,
}

/// Changes a message in a few places. What does not read as a message is changed as bytes.
pub fn message(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    if random.one_in(8) {
        return bytes(random, input, other);
    }
    let Some(mut fields) = read(input, 0) else { return bytes(random, input, other) };
    let donor = read(other, 0).unwrap_or_default();
    for _ in 0..1 + random.below(4) {
        change(random, &mut fields, &donor);
    }
    let mut changed = Vec::new();
    write(&fields, &mut changed);
    if changed.len() <= BYTES_MAX {
        *input = changed;
    }
}

fn change(random: &mut Random, fields: &mut Vec<Field>, donor: &[Field]) {
    if fields.is_empty() {
        fields.extend(donor.iter().take(1 + random.below(3)).cloned());
        return;
    }
    let at = random.below(fields.len());
    // Go down as often as not: messages are deep, and their leaves many.
    if let Value::Message(inner) = &mut fields[at].value
        && !random.one_in(3)
    {
        return change(random, inner, donor);
    }
    match random.below(8) {
        0 => drop(fields.remove(at)),
        1 => {
            let field = fields[at].clone();
            let copies = if random.one_in(10) { 300 } else { 1 };
            fields.extend(std::iter::repeat_n(field, copies));
        }
        2 => {
            let to = random.below(fields.len());
            fields.swap(at, to);
        }
        3 => fields[at].number = 1 + random.below(30) as u64,
        4 if !donor.is_empty() => {
            let field = random.of(donor).clone();
            fields.insert(at, field);
        }
        5 => nest(random, &mut fields[at]),
        _ => value(random, &mut fields[at].value),
    }
}

/// Puts a field into itself, again and again, as causes of failures are.
fn nest(random: &mut Random, field: &mut Field) {
    let number = 1 + random.below(8) as u64;
    let deep = if random.one_in(5) { DEPTH_MAX } else { 4 };
    for _ in 0..1 + random.below(deep) {
        let inner = Field { number, value: field.value.clone() };
        field.value = match &field.value {
            Value::Message(fields) => Value::Message(fields.iter().cloned().chain([inner]).collect()),
            _ => Value::Message(vec![inner]),
        };
        let mut size = Vec::new();
        write(std::slice::from_ref(field), &mut size);
        if size.len() > BYTES_MAX / 8 {
            return;
        }
    }
}

fn value(random: &mut Random, value: &mut Value) {
    *value = match value {
        Value::Varint(number) => match random.below(4) {
            0 => Value::Varint(number.wrapping_add(1)),
            1 => Value::Varint(number.wrapping_sub(1)),
            2 => Value::Varint(random.below(64) as u64),
            _ => Value::Varint(*random.of(&NUMBERS)),
        },
        Value::Fixed64(_) => Value::Fixed64(random.of(&NUMBERS).to_le_bytes()),
        Value::Fixed32(_) => Value::Fixed32((*random.of(&NUMBERS) as u32).to_le_bytes()),
        Value::Bytes(old) => match random.below(5) {
            0 => Value::Bytes(random.of(&TEXTS).as_bytes().to_vec()),
            1 => Value::Bytes(vec![b'x'; random.below(20_000)]),
            2 => Value::Varint(*random.of(&NUMBERS)),
            _ => {
                bytes(random, old, &[]);
                Value::Bytes(std::mem::take(old))
            }
        },
        Value::Message(fields) => match random.below(3) {
            0 => Value::Bytes(Vec::new()),
            1 => Value::Varint(random.any()),
            _ => Value::Message(fields.iter().rev().cloned().collect()),
        },
    };
}

fn read(mut input: &[u8], depth: usize) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !input.is_empty() {
        let tag = varint(&mut input)?;
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut input)?),
            1 => Value::Fixed64(take(&mut input, 8)?.try_into().ok()?),
            2 => {
                let length = usize::try_from(varint(&mut input)?).ok()?;
                let bytes = take(&mut input, length)?;
                match read(bytes, depth + 1).filter(|fields| depth < DEPTH_MAX && !fields.is_empty()) {
                    Some(fields) => Value::Message(fields),
                    None => Value::Bytes(bytes.to_vec()),
                }
            }
            5 => Value::Fixed32(take(&mut input, 4)?.try_into().ok()?),
            _ => return None,
        };
        let number = Some(tag >> 3).filter(|number| (1..1 << 29).contains(number))?;
        fields.push(Field { number, value });
    }
    Some(fields)
}

fn write(fields: &[Field], out: &mut Vec<u8>) {
    for Field { number, value } in fields {
        let mut tagged = |kind: u64| put_varint(number << 3 | kind, out);
        match value {
            Value::Varint(value) => {
                tagged(0);
                put_varint(*value, out);
            }
            Value::Fixed64(bytes) => {
                tagged(1);
                out.extend_from_slice(bytes);
            }
            Value::Bytes(bytes) => {
                tagged(2);
                put_varint(bytes.len() as u64, out);
                out.extend_from_slice(bytes);
            }
            Value::Message(fields) => {
                tagged(2);
                let mut inner = Vec::new();
                write(fields, &mut inner);
                put_varint(inner.len() as u64, out);
                out.extend_from_slice(&inner);
            }
            Value::Fixed32(bytes) => {
                tagged(5);
                out.extend_from_slice(bytes);
            }
        }
    }
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(count)?;
    *input = rest;
    Some(taken)
}

fn varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(input, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use everlog_proto::api::workflowservice::v1::StartWorkflowExecutionRequest;
    use prost::Message;

    use super::*;

    #[test]
    fn a_message_is_written_as_it_was_read() {
        let request = StartWorkflowExecutionRequest {
            namespace: "default".to_owned(),
            workflow_id: "fuzz".to_owned(),
            workflow_id_reuse_policy: 2,
            workflow_run_timeout: Some(everlog_proto::wkt::Duration { seconds: -1, nanos: 5 }),
            ..Default::default()
        };
        let bytes = request.encode_to_vec();
        let mut again = Vec::new();
        write(&read(&bytes, 0).unwrap(), &mut again);
        assert_eq!(StartWorkflowExecutionRequest::decode(again.as_slice()).unwrap(), request);
    }

    #[test]
    fn a_seed_gives_the_same_changes_again_and_they_stay_bounded() {
        let seed = StartWorkflowExecutionRequest { namespace: "n".to_owned(), ..Default::default() }.encode_to_vec();
        let changed = |seed_number| {
            let (mut random, mut input) = (Random::new(seed_number), seed.clone());
            (0..200).for_each(|_| message(&mut random, &mut input, &seed));
            input
        };
        assert_eq!(changed(7), changed(7));
        assert_ne!(changed(7), changed(8));
        assert!(changed(9).len() <= BYTES_MAX);
    }
}

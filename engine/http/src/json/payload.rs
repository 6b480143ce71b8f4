//! Payloads as the values that they carry, so that a person or a script need not encode them. (Temporal: `payload_json.go` of its API.)
//!
//! ```text
//!   json/plain, no other metadata     the value, byte for byte
//!   json/protobuf with its type       the object, and its type as `_protoMessageType`
//!   binary/null                       null
//!   anything else                     {"metadata": {...}, "data": "..."}
//! ```
//!
//! A value that would be read as something else than it is (an object with a `metadata` and a `data`, for example) is written whole.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{DynamicMessage, MapKey, Value};
use serde_json::value::RawValue;

use super::read::Object;

const ENCODING: &str = "encoding";
const MESSAGE_TYPE: &str = "messageType";
const SHOWN_MESSAGE_TYPE: &str = "_protoMessageType";

const NULL: &[u8] = b"binary/null";
const PLAIN: &[u8] = b"json/plain";
const PROTOBUF: &[u8] = b"json/protobuf";

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
static STANDARD_BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
static URL_BASE64: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// Bytes in base64, of either alphabet, padded or not.
pub(crate) fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let engine = if text.contains(['-', '_']) { &URL_BASE64 } else { &STANDARD_BASE64 };
    engine.decode(text).ok()
}

/// The JSON of what the payload carries, if there is a shorthand for it.
pub(super) fn shorthand(payload: &DynamicMessage) -> Option<String> {
    let metadata = payload.get_field_by_name("metadata")?;
    let metadata = metadata.as_map()?;
    let text = |key: &str| metadata.get(&MapKey::String(key.to_owned())).and_then(Value::as_bytes);
    let data = payload.get_field_by_name("data")?;
    let data = data.as_bytes()?;
    if payload.fields().any(|(field, _)| !matches!(field.name(), "metadata" | "data")) {
        return None;
    }
    match &text(ENCODING)?[..] {
        NULL if metadata.len() == 1 && data.is_empty() => Some("null".to_owned()),
        PLAIN if metadata.len() == 1 => {
            let value = json(data)?;
            is_read_back(value).then(|| value.get().to_owned())
        }
        PROTOBUF if metadata.len() == 2 => {
            let message_type = std::str::from_utf8(text(MESSAGE_TYPE)?).ok().filter(|name| !name.is_empty())?;
            let value = json(data)?;
            let object = Object::of(value)?;
            if object.get(SHOWN_MESSAGE_TYPE).is_some() {
                return None;
            }
            let open = value.get().trim_end().strip_suffix('}')?;
            let comma = if object.is_empty() { "" } else { "," };
            let message_type = serde_json::to_string(message_type).ok()?;
            Some(format!("{open}{comma}\"{SHOWN_MESSAGE_TYPE}\":{message_type}}}"))
        }
        _ => None,
    }
}

/// Sets the fields of `payload`, which is empty, to what `json` says: a payload as a whole, or the value that it is to carry.
pub(super) fn read(payload: &mut DynamicMessage, json: &RawValue) {
    let text = json.get().trim();
    if text == "null" {
        return set(payload, [(ENCODING, NULL.into())], Vec::new());
    }
    if let Some(object) = Object::of(json) {
        if let Some((metadata, data)) = whole(&object) {
            payload_fields(payload, metadata, data);
            return;
        }
        let message_type = object.get(SHOWN_MESSAGE_TYPE).and_then(string);
        if let Some(message_type) = message_type {
            let data = object.without(SHOWN_MESSAGE_TYPE).into_bytes();
            return set(payload, [(ENCODING, PROTOBUF.into()), (MESSAGE_TYPE, message_type.into_bytes())], data);
        }
    }
    set(payload, [(ENCODING, PLAIN.into())], text.as_bytes().to_vec());
}

type Metadata = Vec<(String, Vec<u8>)>;

/// Metadata and data of an object that is a payload: metadata with an encoding, and data unless it stands for nothing.
fn whole(object: &Object<'_>) -> Option<(Metadata, Vec<u8>)> {
    let metadata = Object::of(object.get("metadata")?)?;
    let metadata: Option<Metadata> =
        metadata.iter().map(|(key, value)| Some((key.to_owned(), bytes_of(&string(value)?)?))).collect();
    let metadata = metadata?;
    let (_, encoding) = metadata.iter().find(|(key, _)| key == ENCODING)?;
    match object.get("data") {
        Some(data) if object.len() == 2 => Some((metadata.clone(), bytes_of(&string(data)?)?)),
        None if object.len() == 1 && encoding == NULL => Some((metadata, Vec::new())),
        _ => None,
    }
}

/// Whether [`read`] makes the same of `value` as it was.
fn is_read_back(value: &RawValue) -> bool {
    let Some(object) = Object::of(value) else { return value.get() != "null" };
    whole(&object).is_none() && object.get(SHOWN_MESSAGE_TYPE).and_then(string).is_none()
}

fn json(data: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(data).ok()
}

fn string(json: &RawValue) -> Option<String> {
    serde_json::from_str(json.get()).ok()
}

fn set<const N: usize>(payload: &mut DynamicMessage, metadata: [(&str, Vec<u8>); N], data: Vec<u8>) {
    payload_fields(payload, metadata.map(|(key, value)| (key.to_owned(), value)).into(), data);
}

fn payload_fields(payload: &mut DynamicMessage, metadata: Metadata, data: Vec<u8>) {
    let metadata = metadata.into_iter().map(|(key, value)| (MapKey::String(key), Value::Bytes(value.into()))).collect();
    payload.set_field_by_name("metadata", Value::Map(metadata));
    payload.set_field_by_name("data", Value::Bytes(data.into()));
}

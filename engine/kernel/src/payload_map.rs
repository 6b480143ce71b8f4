//! Memo and search attributes: maps of payloads that a workflow changes key by key.

use std::collections::HashMap;

use everlog_proto::api::common::v1::Payload;

/// Puts `changes` into `map`. A payload that is nil or an empty list deletes its key.
pub(crate) fn merge(map: &mut HashMap<String, Payload>, changes: HashMap<String, Payload>) {
    for (key, value) in changes {
        if is_nil(&value) {
            map.remove(&key);
        } else {
            map.insert(key, value);
        }
    }
}

/// Whether a payload stands for "no value", in one of the forms that SDKs encode that in.
fn is_nil(payload: &Payload) -> bool {
    let encoding = payload.metadata.get("encoding").map(Vec::as_slice);
    match encoding {
        Some(b"binary/null") => payload.data.is_empty(),
        Some(b"json/plain") => matches!(payload.data.as_slice(), b"[]" | b"null"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(encoding: &str, data: &str) -> Payload {
        let metadata = [("encoding".to_owned(), encoding.as_bytes().to_vec())].into();
        Payload { metadata, data: data.as_bytes().to_vec(), ..Payload::default() }
    }

    #[test]
    fn nil_payloads_delete() {
        let cases = [
            (payload("binary/null", ""), true),
            (payload("json/plain", "null"), true),
            (payload("json/plain", "[]"), true),
            (payload("json/plain", "[1]"), false),
            (payload("json/plain", "\"\""), false),
            (payload("json/plain", ""), false),
            (payload("binary/plain", ""), false),
            (Payload::default(), false),
        ];
        for (change, deletes) in cases {
            let mut map = HashMap::from([("key".to_owned(), payload("json/plain", "0"))]);
            merge(&mut map, HashMap::from([("key".to_owned(), change.clone())]));
            let expected = (!deletes).then_some(&change);
            assert_eq!(map.get("key"), expected, "{:?} {:?}", change.metadata, change.data);
        }
    }

    #[test]
    fn other_keys_stay() {
        let mut map = HashMap::from([("a".to_owned(), payload("json/plain", "1"))]);
        merge(&mut map, HashMap::from([("b".to_owned(), payload("json/plain", "2"))]));
        assert_eq!(map.len(), 2);
    }
}

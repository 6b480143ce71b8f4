//! Memo and search attributes: maps of payloads that a workflow changes key by key.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use everlog_proto::api::common::v1::{Memo, Payload, SearchAttributes};
use prost::Message;

/// A `Memo` or `SearchAttributes` message as it is on the wire. Decoded, its map would come out in another order each time, and
/// the same decision would not give the same bytes.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PayloadMap {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    /// A [`Payload`], encoded.
    #[prost(bytes = "bytes", tag = "2")]
    payload: Bytes,
}

impl PayloadMap {
    /// The map in an encoded message, which is a valid one; empty if there is none.
    pub(crate) fn of(message: Option<&Bytes>) -> PayloadMap {
        let decoded = message.map(|message| PayloadMap::decode(message.clone()));
        decoded.map_or_else(PayloadMap::default, |decoded| decoded.expect("the message was decoded or encoded before"))
    }

    /// Puts `changes` in. A payload that is nil or an empty list deletes its key.
    pub(crate) fn merge(&mut self, changes: &HashMap<String, Payload>) {
        for (key, payload) in changes.iter().collect::<BTreeMap<_, _>>() {
            let position = self.entries.iter().position(|entry| entry.key == *key);
            if is_nil(payload) {
                position.map(|position| self.entries.remove(position));
                continue;
            }
            let entry = Entry { key: key.clone(), payload: payload.encode_to_vec().into() };
            match position {
                Some(position) => self.entries[position] = entry,
                None => self.entries.push(entry),
            }
        }
    }
}

/// A memo without fields is none in events, as in Temporal's.
pub(crate) fn memo(memo: Option<Memo>) -> Option<Memo> {
    memo.filter(|memo| !memo.fields.is_empty())
}

/// The same of search attributes.
pub(crate) fn search_attributes(attributes: Option<SearchAttributes>) -> Option<SearchAttributes> {
    attributes.filter(|attributes| !attributes.indexed_fields.is_empty())
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

    fn merged<const N: usize, const M: usize>(map: [(&str, Payload); N], changes: [(&str, Payload); M]) -> Memo {
        let fields = |entries: &[(&str, Payload)]| entries.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        let memo = Bytes::from(Memo { fields: fields(&map) }.encode_to_vec());
        let mut map = PayloadMap::of(Some(&memo));
        map.merge(&fields(&changes));
        Memo::decode(map.encode_to_vec().as_slice()).expect("a memo")
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
            let memo = merged([("key", payload("json/plain", "0"))], [("key", change.clone())]);
            let expected = (!deletes).then_some(&change);
            assert_eq!(memo.fields.get("key"), expected, "{:?} {:?}", change.metadata, change.data);
        }
    }

    #[test]
    fn other_keys_stay() {
        let memo = merged([("a", payload("json/plain", "1"))], [("b", payload("json/plain", "2"))]);
        assert_eq!(memo.fields.len(), 2);
        assert_eq!(memo.fields["a"], payload("json/plain", "1"));
    }
}

//! Memo and search attributes: maps of payloads that a workflow changes key by key.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use everlog_proto::api::common::v1::{Memo, Payload, SearchAttributes};
use prost::Message;
use serde::Serialize;

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

/// A [`Payload`] whose metadata have an order.
#[derive(Clone, PartialEq, Message)]
struct OrderedPayload {
    #[prost(message, repeated, tag = "1")]
    metadata: Vec<MetadataEntry>,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct MetadataEntry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

impl PayloadMap {
    /// The map in an encoded message, which is a valid one; empty if there is none.
    pub(crate) fn of(message: Option<&Bytes>) -> PayloadMap {
        let decoded = message.map(|message| PayloadMap::decode(message.clone()));
        decoded.map_or_else(PayloadMap::default, |decoded| decoded.expect("the message was decoded or encoded before"))
    }

    /// As search attributes.
    pub(crate) fn to_search_attributes(&self) -> SearchAttributes {
        SearchAttributes::decode(self.encode_to_vec().as_slice()).expect("the two are the same on the wire")
    }

    /// The data of a payload.
    pub(crate) fn data(&self, key: &str) -> Option<Bytes> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(Payload::decode(entry.payload.clone()).ok()?.data.into())
    }

    /// The values of a search attribute that is a list of keywords; none if it has another type.
    pub(crate) fn keywords(&self, key: &str) -> Vec<String> {
        self.data(key).and_then(|data| serde_json::from_slice(&data).ok()).unwrap_or_default()
    }

    /// Sets such a search attribute.
    pub(crate) fn set_keywords(&mut self, key: &str, values: &[String]) {
        self.set(key, search_attribute("KeywordList", values));
    }

    /// Sets a search attribute that is true or false.
    pub(crate) fn set_bool(&mut self, key: &str, value: bool) {
        self.set(key, search_attribute("Bool", &value));
    }

    /// Sets a search attribute that is a keyword, or takes it out if that is empty. Returns whether this changes anything.
    pub(crate) fn set_or_remove_keyword(&mut self, key: &str, value: &str) -> bool {
        if value.is_empty() {
            return self.remove(key);
        }
        let payload = search_attribute("Keyword", value);
        let is_changed = self.entries.iter().all(|entry| entry.key != key || entry.payload != payload);
        self.set(key, payload);
        is_changed
    }

    /// Takes an entry out. Returns whether there was one.
    pub(crate) fn remove(&mut self, key: &str) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.key != key);
        self.entries.len() < before
    }

    /// The entries with these names, in their order.
    pub(crate) fn only(&self, names: &[&str]) -> PayloadMap {
        let entries = self.entries.iter().filter(|entry| names.contains(&entry.key.as_str()));
        PayloadMap { entries: entries.cloned().collect() }
    }

    /// Puts the entries with these names in the place of those that are there.
    pub(crate) fn replace(&mut self, names: &[&str], by: &PayloadMap) {
        let is_gone = |key: &str| names.contains(&key) && by.entries.iter().all(|entry| entry.key != key);
        self.entries.retain(|entry| !is_gone(&entry.key));
        for Entry { key, payload } in &by.entries {
            self.set(key, payload.clone());
        }
    }

    fn set(&mut self, key: &str, payload: Bytes) {
        match self.entries.iter_mut().find(|entry| entry.key == key) {
            Some(entry) => entry.payload = payload,
            None => self.entries.push(Entry { key: key.to_owned(), payload }),
        }
    }

    /// Puts `changes` in. A payload that is nil or an empty list deletes its key.
    pub(crate) fn merge(&mut self, changes: &HashMap<String, Payload>) {
        for (key, payload) in changes.iter().collect::<BTreeMap<_, _>>() {
            let position = self.entries.iter().position(|entry| entry.key == *key);
            if is_nil(payload) {
                position.map(|position| self.entries.remove(position));
                continue;
            }
            self.set(key, payload.encode_to_vec().into());
        }
    }
}

/// What a run is started with: fields that stand for nothing are left out, and a memo without fields is none, as in Temporal's events.
pub(crate) fn memo(memo: Option<Memo>) -> Option<Memo> {
    let mut memo = memo?;
    memo.fields.retain(|_, payload| !is_nil(payload));
    (!memo.fields.is_empty()).then_some(memo)
}

/// The same of search attributes.
pub(crate) fn search_attributes(attributes: Option<SearchAttributes>) -> Option<SearchAttributes> {
    let mut attributes = attributes?;
    attributes.indexed_fields.retain(|_, payload| !is_nil(payload));
    (!attributes.indexed_fields.is_empty()).then_some(attributes)
}

/// The payload of a search attribute.
fn search_attribute(kind: &str, value: &(impl Serialize + ?Sized)) -> Bytes {
    let metadata = [("encoding", "json/plain"), ("type", kind)]
        .map(|(key, value)| MetadataEntry { key: key.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()) });
    let data = serde_json::to_vec(value).expect("texts and truth values can be written as JSON").into();
    OrderedPayload { metadata: metadata.into(), data }.encode_to_vec().into()
}

/// Whether a payload stands for "no value", in one of the forms that SDKs encode that in. What it says that it is encoded in does not matter:
/// `payload.go` of Temporal's server.
fn is_nil(payload: &Payload) -> bool {
    matches!(payload.data.as_slice(), b"" | b"[]" | b"null")
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
            (payload("json/plain", ""), true),
            (payload("binary/plain", ""), true),
            (payload("binary/plain", "null"), true),
            (payload("binary/plain", "0"), false),
            (Payload::default(), true),
        ];
        for (change, deletes) in cases {
            let memo = merged([("key", payload("json/plain", "0"))], [("key", change.clone())]);
            let expected = (!deletes).then_some(&change);
            assert_eq!(memo.fields.get("key"), expected, "{:?} {:?}", change.metadata, change.data);
        }
    }

    #[test]
    fn a_run_is_not_started_with_nothing() {
        let fields = |entries: &[(&str, &str)]| {
            entries.iter().map(|(key, json)| ((*key).to_owned(), payload("json/plain", json))).collect()
        };
        let (mixed, nothing) = ([("a", "null"), ("b", "1"), ("c", "[]")], [("a", ""), ("b", "null")]);
        assert_eq!(memo(Some(Memo { fields: fields(&mixed) })), Some(Memo { fields: fields(&[("b", "1")]) }));
        assert_eq!(memo(Some(Memo { fields: fields(&nothing) })), None);
        let attributes = |entries| Some(SearchAttributes { indexed_fields: fields(entries) });
        assert_eq!(search_attributes(attributes(&mixed)), attributes(&[("b", "1")]));
        assert_eq!(search_attributes(attributes(&nothing)), None);
    }

    #[test]
    fn other_keys_stay() {
        let memo = merged([("a", payload("json/plain", "1"))], [("b", payload("json/plain", "2"))]);
        assert_eq!(memo.fields.len(), 2);
        assert_eq!(memo.fields["a"], payload("json/plain", "1"));
    }

    #[test]
    fn keywords_are_payloads_that_everybody_reads() {
        let mut map = PayloadMap::default();
        assert_eq!(map.keywords("k"), Vec::<String>::new());
        let values = ["a".to_owned(), "\"b\"".to_owned()];
        for _ in 0..2 {
            map.set_keywords("k", &values);
        }
        assert_eq!(map.keywords("k"), values);
        let read = Memo::decode(map.encode_to_vec().as_slice()).expect("a memo");
        let metadata = [("encoding", "json/plain"), ("type", "KeywordList")];
        let expected = Payload {
            metadata: metadata.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())).into(),
            data: br#"["a","\"b\""]"#.to_vec(),
            ..Payload::default()
        };
        assert_eq!(read.fields, [("k".to_owned(), expected)].into());
        assert!(map.remove("k") && !map.remove("k"));
        let changes = [("a", true), ("a", false), ("b", true), ("", true), ("", false)];
        for (value, changed) in changes {
            assert_eq!(map.set_or_remove_keyword("k", value), changed, "{value}");
        }
        assert_eq!(map, PayloadMap::default());
    }
}

//! The encoding of row batches: stable, exact, and safe to read from a broken disk.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use everlog_random::Random;
use everlog_storage::state::{RowBatch, RowChange};

/// Makes test data, the same on every run.
struct Data(Random);

impl Data {
    fn bytes(&mut self) -> Bytes {
        // Lengths on both sides of where the length itself takes a second and a third byte.
        let len = [0, 1, 5, 127, 128, 300, 16_384][self.0.below(7)];
        self.0.bytes(len).into()
    }

    fn batch(&mut self) -> RowBatch {
        let mut batch = RowBatch::new();
        for _ in 0..self.0.below(8) {
            match self.0.below(3) {
                0 => batch.put(self.bytes(), self.bytes()),
                1 => batch.delete(self.bytes()),
                _ => batch.delete_range(self.bytes(), self.bytes()),
            }
        }
        batch
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn batches_are_encoded_as_they_always_were() {
    let mut all = RowBatch::new();
    all.put("key", "value");
    all.put("empty", "");
    all.delete("gone");
    all.delete_range("from", "to");
    let mut long = RowBatch::new();
    long.put("k", vec![b'x'; 130]);
    let cases = [("empty", RowBatch::new()), ("all", all), ("long", long)];
    let lines: String = cases.iter().map(|(name, batch)| format!("{name} {}\n", hex(&batch.encode()))).collect();
    assert_eq!(lines, include_str!("golden/row_batch.txt"));
}

#[test]
fn batches_come_back_as_they_were() {
    let mut random = Data(Random::new(1));
    for _ in 0..500 {
        let batch = random.batch();
        let encoded = batch.encode();
        assert_eq!(encoded.len(), batch.encoded_len());
        assert_eq!(RowBatch::decode(&encoded).unwrap(), batch);
    }
}

#[test]
fn decoded_rows_are_slices_of_the_input() {
    let mut batch = RowBatch::new();
    batch.put("key", vec![7; 1000]);
    let encoded = batch.encode();
    let decoded = RowBatch::decode(&encoded).unwrap();
    let RowChange::Put { value, .. } = &decoded.changes[0] else { panic!("not a put") };
    assert!(encoded.as_ptr_range().contains(&value.as_ptr()));
}

#[test]
fn every_cut_and_every_extra_byte_is_an_error() {
    let mut random = Data(Random::new(2));
    for _ in 0..50 {
        let encoded = random.batch().encode();
        let cuts = (0..encoded.len()).step_by(1 + encoded.len() / 200);
        for end in cuts {
            assert!(RowBatch::decode(&encoded.slice(..end)).is_err());
        }
        let longer = Bytes::from([&encoded[..], &[0]].concat());
        assert!(RowBatch::decode(&longer).is_err());
    }
}

#[test]
fn corrupt_bytes_are_an_error_or_another_batch_but_never_a_panic() {
    let mut random = Data(Random::new(3));
    for _ in 0..20_000 {
        let mut batch = RowBatch::new();
        batch.put("some key", "some value");
        batch.delete_range("a", "b");
        let mut encoded = batch.encode().to_vec();
        for _ in 0..=random.0.below(3) {
            let at = random.0.below(encoded.len());
            encoded[at] = random.0.any() as u8;
        }
        let _ = RowBatch::decode(&Bytes::from(encoded));
    }
}

#[test]
fn hostile_lengths_are_refused() {
    let cases: [&[u8]; 8] = [
        &[],
        &[2, 0],
        // Counts: more than there are bytes, and the largest there is.
        &[1, 0x05, 1, 0],
        &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        // Lengths: the largest there is, one that does not fit into 64 bits, and one that does not end.
        &[1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        &[1, 1, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
        // An unknown kind of change.
        &[1, 1, 9, 0],
    ];
    for case in cases {
        let error = RowBatch::decode(&Bytes::copy_from_slice(case)).unwrap_err();
        assert!(error.0.starts_with("corrupt row batch: "), "{error}");
    }
}

//! The key space: order, round trips, ranges, and the bytes that are for ever.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use everlog_random::Random;
use everlog_storage::keys::{
    self, EntityKey, JournalKey, MetaKind, OutboxKey, Place, TaskQueueKey, WakeKey, decode_run_row, decode_task,
};

const NAMESPACE: [u8; 16] = *b"namespace-is-16b";
const RUN: [u8; 16] = [0xab; 16];

/// Makes test data, the same on every run.
struct Data(Random);

impl Data {
    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        self.0.of(from).clone()
    }

    fn int(&mut self) -> i64 {
        let any = self.0.any() as i64;
        self.pick(&[any, any % 3, i64::MIN, -1, 0, 1, i64::MAX, i64::MAX - 1])
    }

    /// Few and close to each other, with all that needs escaping.
    fn string(&mut self) -> String {
        let letters = ["\0", "\u{1}", "a", "b", "\u{ff}", "\u{7f}", "ü"];
        (0..self.0.below(4)).map(|_| self.pick(&letters)).collect()
    }

    fn id(&mut self) -> [u8; 16] {
        let byte = self.pick(&[0, 1, 0x7f, 0x80, 0xff]);
        let mut id = [byte; 16];
        id[15] = self.pick(&[0, 1, 0xff]);
        id
    }

    fn wake(&mut self) -> WakeKey {
        let (id, kind) = (self.string(), self.pick(&[0, 1, 15]));
        let entity = EntityKey::new(kind, self.id(), &id);
        WakeKey::new(self.int(), &entity, self.id())
    }

    fn journal(&mut self) -> JournalKey {
        JournalKey { time_ns: self.int().cast_unsigned() }
    }

    fn outbox(&mut self) -> OutboxKey {
        let (slot, number) = (self.pick(&[0, 1, 255, 4095]), self.pick(&[0, 1, 255, 256, u16::MAX]));
        OutboxKey { slot, time_ns: self.int().cast_unsigned(), number }
    }

    /// A task: namespace, kind, task queue, position.
    fn task(&mut self) -> ([u8; 16], u8, String, Vec<u8>) {
        let position = self.int().to_be_bytes().to_vec();
        (self.id(), self.pick(&[1, 2]), self.string(), position)
    }

    /// A row of a run: kind and suffix.
    fn row(&mut self) -> (u8, Vec<u8>) {
        let suffixes = [Vec::new(), self.int().to_be_bytes().to_vec(), self.string().into_bytes(), vec![0xff; 3]];
        (self.pick(&[0, 1, 3, 4, 7, 0xfe]), self.pick(&suffixes))
    }
}

/// Random values, each with its key: the keys must be in the order of `sort_key`, and read back.
fn check<T: Clone + PartialEq + std::fmt::Debug, O: Ord>(
    mut make: impl FnMut(&mut Data) -> T,
    encode: impl Fn(&T) -> Bytes,
    decode: impl Fn(&[u8]) -> Option<T>,
    order: impl Fn(&T) -> O,
) {
    let mut random = Data(Random::new(1));
    for _ in 0..20_000 {
        let (left, right) = (make(&mut random), make(&mut random));
        assert_eq!(decode(&encode(&left)).as_ref(), Some(&left));
        assert_eq!(encode(&left).cmp(&encode(&right)), order(&left).cmp(&order(&right)), "{left:?} and {right:?}");
        // A key that lost or gained a byte is no key.
        let key = encode(&left);
        assert_eq!(decode(&key[..key.len() - 1]), None);
        assert_eq!(decode(&[&key[..], &[0]].concat()), None);
    }
}

#[test]
fn wakes_are_ordered_by_time() {
    check(Data::wake, WakeKey::encode, |key| WakeKey::decode(key).ok(), WakeKey::clone);
}

#[test]
fn messages_are_ordered_by_slot_and_time() {
    check(Data::journal, JournalKey::encode, |key| JournalKey::decode(key).ok(), JournalKey::clone);
    check(Data::outbox, OutboxKey::encode, |key| OutboxKey::decode(key).ok(), OutboxKey::clone);
}

#[test]
fn tasks_are_ordered_by_queue_and_position() {
    let mut random = Data(Random::new(1));
    for _ in 0..20_000 {
        let (left, right) = (random.task(), random.task());
        let (left_key, right_key) = (task_key(&left), task_key(&right));
        let (namespace, kind, task_queue, position) = decode_task(&left_key).unwrap();
        assert_eq!((namespace, kind, task_queue, position.to_vec()), left);
        assert_eq!(left_key.cmp(&right_key), left.cmp(&right), "{left:?} and {right:?}");
        let is_same_queue = (left.0, left.1, &left.2) == (right.0, right.1, &right.2);
        let queue = TaskQueueKey { namespace: left.0, kind: left.1, task_queue: &left.2 };
        assert!(keys::all_tasks().contains(&right_key));
        assert_eq!(queue.range().contains(&right_key), is_same_queue);
        assert_eq!(queue.range_after(&left.3).contains(&right_key), is_same_queue && right.3 > left.3);
    }
}

fn task_key((namespace, kind, task_queue, position): &([u8; 16], u8, String, Vec<u8>)) -> Bytes {
    TaskQueueKey { namespace: *namespace, kind: *kind, task_queue }.task(position)
}

#[test]
fn visibility_is_found_by_namespace() {
    let mut random = Data(Random::new(1));
    for _ in 0..20_000 {
        let (namespace, other, position) = (random.id(), random.id(), random.int().to_be_bytes());
        let key = keys::visibility_row(&other, &position);
        assert_eq!(keys::visibility_range(&namespace).contains(&key), namespace == other);
        assert!(key.ends_with(&position));
    }
}

#[test]
fn run_rows_come_back_as_they_were() {
    let mut random = Data(Random::new(1));
    for _ in 0..20_000 {
        let (workflow_id, run_id, (kind, suffix)) = (random.string(), random.id(), random.row());
        let run = EntityKey::new(random.pick(&[0, 1, 15]), random.id(), &workflow_id).run(&run_id);
        let key = run.row(kind, &suffix);
        assert_eq!(decode_run_row(&key), Ok((run_id, kind, &suffix[..])));
        assert!(run.range().contains(&key) && run.entity.range().contains(&key));
    }
}

#[test]
fn entities_and_runs_are_ranges_of_their_own() {
    let mut random = Data(Random::new(1));
    for _ in 0..20_000 {
        let (left_id, right_id) = (random.string(), random.string());
        // Of one slot, or the slot alone would keep them apart.
        let place = |random: &mut Data| Place::new(7, random.pick(&[0, 15]));
        let left = EntityKey { place: place(&mut random), namespace: NAMESPACE, id: &left_id };
        let right = EntityKey { place: place(&mut random), namespace: NAMESPACE, id: &right_id };
        let (left_run, right_run) = (left.run(&random.id()), right.run(&random.id()));
        let (kind, suffix) = random.row();
        let key = left_run.row(kind, &suffix);
        assert_eq!(right.range().contains(&key), left == right);
        assert_eq!(right_run.range().contains(&key), left_run == right_run);
        assert!(keys::slot_range(7..8).contains(&key));
        assert!(!keys::slot_range(6..7).contains(&key) && !keys::slot_range(8..9).contains(&key));
        assert_eq!(left.range().start.cmp(&right.range().start), (left.place, &left_id).cmp(&(right.place, &right_id)));
    }
}

#[test]
fn a_place_is_a_slot_and_a_kind() {
    for (slot, kind) in [(0, 0), (1, 15), (keys::SLOTS - 1, 15)] {
        let place = Place::new(slot, kind);
        assert_eq!((place.slot(), place.kind()), (slot, kind));
    }
    let last = EntityKey { place: Place::new(keys::SLOTS - 1, keys::ENTITY_KINDS - 1), namespace: NAMESPACE, id: "x" };
    assert!(keys::slot_range(0..keys::SLOTS).contains(&last.current()));
}

#[test]
fn the_current_run_comes_first() {
    let workflow = EntityKey::new(0, NAMESPACE, "workflow");
    let run_id = RUN;
    let run = workflow.run(&run_id);
    assert!(workflow.range().contains(&workflow.current()));
    assert!(workflow.current() < run.range().start);
    assert_eq!(decode_run_row(&workflow.current()), Ok(([0; 16], 0, &[][..])));
}

#[test]
fn rows_of_a_run_lie_by_kind_and_suffix() {
    let mut random = Data(Random::new(1));
    let run = EntityKey::new(0, NAMESPACE, "workflow").run(&RUN);
    for _ in 0..20_000 {
        let (left, right) = (random.row(), random.row());
        let key = |(kind, suffix): &(u8, Vec<u8>)| run.row(*kind, suffix);
        assert_eq!(key(&left).cmp(&key(&right)), left.cmp(&right));
        assert_eq!(run.kind(left.0).contains(&key(&right)), left.0 == right.0);
        assert_eq!(run.kinds_from(left.0).contains(&key(&right)), left.0 <= right.0);
    }
}

#[test]
fn wakes_are_found_by_time() {
    let workflow = EntityKey::new(0, NAMESPACE, "workflow");
    let at = |time| WakeKey::new(time, &workflow, [0xff; 16]).encode();
    let until = WakeKey::until(100);
    assert!(until.contains(&at(-5)) && until.contains(&at(100)) && !until.contains(&at(101)));
    let from = WakeKey::from(100);
    assert!(!from.contains(&at(99)) && from.contains(&at(100)) && from.contains(&at(i64::MAX)));
    assert!(WakeKey::until(i64::MAX).contains(&at(i64::MAX)));
    assert!(WakeKey::all().contains(&at(i64::MIN)));
}

#[test]
fn tables_do_not_mix() {
    let mut random = Data(Random::new(1));
    let (wake, task) = (random.wake().encode(), task_key(&random.task()));
    assert!(WakeKey::decode(&task).is_err() && decode_task(&wake).is_err() && decode_run_row(&wake).is_err());
    assert!(!keys::visibility_range(&[0; 16]).contains(&task) && !keys::all_tasks().contains(&wake));
    assert!(keys::meta_range(MetaKind::Other).contains(&keys::meta_row(MetaKind::Other, b"")));
    assert!(!keys::meta_range(MetaKind::Other).contains(&keys::meta_row(MetaKind::Namespace, b"x")));
    let error = WakeKey::decode(b"\x03ab").unwrap_err();
    assert_eq!(error.to_string(), "not a wake key: 036162");
}

#[test]
fn any_bytes_are_a_key_or_an_error() {
    let mut random = Data(Random::new(1));
    for _ in 0..50_000 {
        let mut key = (random.0.any() as u8 % 8).to_be_bytes().to_vec();
        key.extend((0..random.0.below(60)).map(|_| random.pick(&[0, 1, 2, 7, 0xff])));
        let _ = (WakeKey::decode(&key), decode_task(&key).is_ok(), decode_run_row(&key).is_ok());
    }
}

#[test]
fn the_successor_of_a_prefix_is_beyond_all_its_keys() {
    assert_eq!(keys::prefix_successor(&[1, 2]), [1, 3][..]);
    assert_eq!(keys::prefix_successor(&[1, 0xff, 0xff]), [2][..]);
    assert_eq!(keys::prefix_successor(&[0xff]), [0xff][..]);
    assert_eq!(keys::prefix_successor(&[]), [0xff][..]);
    assert_eq!(keys::after(&[1, 2]), [1, 2, 0][..]);
}

#[test]
fn slots_are_spread_evenly() {
    let mut filled = vec![0u32; usize::from(keys::SLOTS)];
    for number in 0..40_960 {
        filled[usize::from(keys::slot(&NAMESPACE, &format!("order-{number}")))] += 1;
    }
    // Ten each on average; a fair hash leaves none empty and none with three times that.
    assert!(filled.iter().all(|count| (1..30).contains(count)));
}

#[test]
fn keys_and_slots_are_what_they_always_were() {
    let workflow = EntityKey::new(0, NAMESPACE, "order\0-1");
    let run = workflow.run(&RUN);
    let queue = TaskQueueKey { namespace: NAMESPACE, kind: 2, task_queue: "queue" };
    let slot = |workflow_id| Bytes::copy_from_slice(&keys::slot(&NAMESPACE, workflow_id).to_be_bytes());
    let cases = [
        ("slot of the empty id", slot("")),
        ("slot of order-1", slot("order-1")),
        ("slot of order-2", slot("order-2")),
        ("current", workflow.current()),
        ("a run's row without a suffix", run.row(1, b"")),
        ("a run's row with a suffix", run.row(7, b"request")),
        ("slots", keys::slot_range(1..2).end),
        ("an entity of another kind", EntityKey::new(15, NAMESPACE, "order\0-1").current()),
        ("wake", WakeKey::new(1_000_000_007, &workflow, RUN).encode()),
        ("wake before the epoch", WakeKey::new(-1, &workflow, RUN).encode()),
        ("task", queue.task(b"position")),
        ("visibility", keys::visibility_row(&NAMESPACE, b"position")),
        ("outbox", OutboxKey { slot: 0x074d, time_ns: 1_000_000_007, number: 3 }.encode()),
        ("namespace", keys::meta_row(MetaKind::Namespace, &NAMESPACE)),
        ("other meta row", keys::meta_row(MetaKind::Other, b"slots")),
        ("partition row", keys::partition_row("outbox-sequence")),
        ("journal", JournalKey { time_ns: 1_000_000_007 }.encode()),
    ];
    let hex = |key: &Bytes| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lines: String = cases.iter().map(|(name, key)| format!("{name}: {}\n", hex(key))).collect();
    assert_eq!(lines, include_str!("golden/keys.txt"));
}

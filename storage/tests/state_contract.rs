//! What every state engine promises, checked on RocksDB and on the twin.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use everlog_storage::state::{Direction, Row, RowBatch, StagedRows, StateEngine};
use everlog_storage::twin::CrashState;
use everlog_storage::{GroupId, RocksState, StateOptions};

const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);
const LAST: GroupId = GroupId(u32::MAX);
const ALL: usize = usize::MAX;

trait Disk {
    type State: StateEngine;
    fn new() -> Self;
    fn start(&mut self) -> Self::State;
    /// Flushes, stops and starts again.
    fn restart(&mut self, state: Self::State) -> Self::State;
}

struct RocksDisk(tempfile::TempDir);

impl Disk for RocksDisk {
    type State = RocksState;

    fn new() -> RocksDisk {
        RocksDisk(tempfile::tempdir().unwrap())
    }

    fn start(&mut self) -> RocksState {
        RocksState::open(&self.0.path().join("state"), StateOptions::default()).unwrap()
    }

    fn restart(&mut self, state: RocksState) -> RocksState {
        state.flush().unwrap();
        drop(state);
        self.start()
    }
}

struct TwinDisk;

impl Disk for TwinDisk {
    type State = CrashState;

    fn new() -> TwinDisk {
        TwinDisk
    }

    fn start(&mut self) -> CrashState {
        CrashState::new(1)
    }

    fn restart(&mut self, state: CrashState) -> CrashState {
        state.flush().unwrap();
        state.crash()
    }
}

macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod rocks { $(#[test] fn $test() { super::$test::<super::RocksDisk>(); })* }
        mod twin { $(#[test] fn $test() { super::$test::<super::TwinDisk>(); })* }
    };
}

on_both!(
    an_unknown_group_is_empty,
    rows_and_applied_position_survive_a_restart,
    what_is_there_is_never_said_to_be_absent,
    later_changes_win_within_a_commit,
    ranges_are_deleted,
    ranges_are_deleted_however_many_rows_they_have,
    scans_keep_to_their_range_direction_and_limit,
    visits_show_what_scans_show,
    a_view_of_several_ranges_is_of_one_moment,
    a_watch_tells_of_changes,
    groups_do_not_see_each_other,
    reserved_keys_are_refused,
    a_snapshot_does_not_change,
    a_snapshot_is_read_in_pages,
    a_snapshot_outlives_the_engine,
    a_replaced_group_has_only_the_new_rows,
    a_dropped_group_leaves_nothing,
    staged_rows_replace_all_of_a_group_at_once,
    staged_rows_that_are_not_installed_change_nothing,
);

/// `+key=value` puts, `-key` deletes, `-key..key` deletes a range.
fn batch(changes: &str) -> RowBatch {
    let mut batch = RowBatch::new();
    for change in changes.split_whitespace() {
        let owned = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        if let Some((key, value)) = change.strip_prefix('+').and_then(|put| put.split_once('=')) {
            batch.put(owned(key), owned(value));
        } else if let Some((start, end)) = change.strip_prefix('-').and_then(|range| range.split_once("..")) {
            batch.delete_range(owned(start), owned(end));
        } else {
            batch.delete(owned(change.strip_prefix('-').unwrap()));
        }
    }
    batch
}

fn commit(state: &impl StateEngine, group: GroupId, applied: &str, changes: &str) {
    state.commit(group, applied.as_bytes(), &[batch(changes)]).unwrap();
}

fn show(rows: Vec<Row>) -> String {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let rows: Vec<String> = rows.iter().map(|(key, value)| format!("{}={}", text(key), text(value))).collect();
    rows.join(" ")
}

fn scan(
    state: &impl StateEngine,
    group: GroupId,
    start: &str,
    end: &str,
    direction: Direction,
    limit: usize,
) -> String {
    show(state.scan(group, start.as_bytes()..end.as_bytes(), direction, limit).unwrap())
}

fn content(state: &impl StateEngine, group: GroupId) -> String {
    show(state.scan(group, b""..&[0xff, 0xff], Direction::Ascending, ALL).unwrap())
}

fn applied(state: &impl StateEngine, group: GroupId) -> Option<String> {
    state.applied(group).unwrap().map(|applied| String::from_utf8(applied.to_vec()).unwrap())
}

fn an_unknown_group_is_empty<D: Disk>() {
    let mut disk = D::new();
    let state = disk.start();
    assert_eq!(applied(&state, A), None);
    assert_eq!(content(&state, A), "");
    assert_eq!(state.get(A, b"key").unwrap(), None);
    assert_eq!(state.snapshot(A).unwrap().applied(), None);
}

fn rows_and_applied_position_survive_a_restart<D: Disk>() {
    let mut disk = D::new();
    let state = disk.start();
    state.commit(A, b"1", &[batch("+a=1 +b=1"), batch("+c=1")]).unwrap();
    commit(&state, A, "2", "+b=2 -c -nothing");
    assert_eq!(content(&state, A), "a=1 b=2");
    let state = disk.restart(state);
    assert_eq!(content(&state, A), "a=1 b=2");
    assert_eq!(applied(&state, A).as_deref(), Some("2"));
    assert_eq!(state.get(A, b"b").unwrap(), Some(Bytes::from_static(b"2")));
    assert_eq!(state.get(A, b"c").unwrap(), None);
    // An applied position alone is a commit too.
    state.commit(A, b"3", &[]).unwrap();
    assert_eq!(applied(&state, A).as_deref(), Some("3"));
}

fn what_is_there_is_never_said_to_be_absent<D: Disk>() {
    let mut disk = D::new();
    let mut state = disk.start();
    let key = |number: u32| format!("row-{number:05}");
    for restart in 0..3 {
        for number in 0..1000 {
            let change = format!("+{}=1", key(3000 * restart + number));
            commit(&state, A, "1", &change);
            assert!(state.may_exist(A, key(3000 * restart + number).as_bytes()));
        }
        state = disk.restart(state);
        assert!((0..1000).all(|number| state.may_exist(A, key(3000 * restart + number).as_bytes())));
    }
    // What is absent may be taken for present, but hardly ever: that is what the question is for.
    let wrong = (1000..3000).filter(|number| state.may_exist(A, key(*number).as_bytes())).count();
    assert!(wrong < 200, "{wrong} of 2000 absent rows");
}

fn later_changes_win_within_a_commit<D: Disk>() {
    let mut disk = D::new();
    let state = disk.start();
    let batches = [batch("+a=1 +a=2 +b=1 -b -c +c=1"), batch("-a..b +a=3 +d=1"), batch("-d..e")];
    state.commit(A, b"1", &batches).unwrap();
    assert_eq!(content(&state, A), "a=3 c=1");
}

fn ranges_are_deleted<D: Disk>() {
    let mut disk = D::new();
    let state = disk.start();
    commit(&state, A, "1", "+a=1 +b=1 +c=1 +d=1");
    commit(&state, B, "1", "+b=1");
    commit(&state, A, "2", "-b..d");
    assert_eq!(content(&state, A), "a=1 d=1");
    // Nothing lies in an empty or inverted range.
    commit(&state, A, "3", "-d..a -a..a");
    assert_eq!(content(&state, A), "a=1 d=1");
    // The engine's own rows are in no range.
    let mut everything = RowBatch::new();
    everything.delete_range(vec![0], vec![0xff, 0xff]);
    state.commit(A, b"4", &[everything]).unwrap();
    assert_eq!(content(&state, A), "");
    assert_eq!(applied(&state, A).as_deref(), Some("4"));
    assert_eq!(content(&state, B), "b=1");
}

fn ranges_are_deleted_however_many_rows_they_have<D: Disk>() {
    let mut disk = D::new();
    let mut state = disk.start();
    for rows in [0, 1, 255, 256, 257, 1_000] {
        let row = |number: usize| Bytes::from(format!("m{number:04}"));
        let mut batch = RowBatch::new();
        (0..rows).for_each(|number| batch.put(row(number), "old"));
        state.commit(A, b"1", &[batch, self::batch("+a=1 +z=1")]).unwrap();
        // Some are written and deleted by the commit itself, before the range and behind it.
        let mut batch = self::batch("+m0000=new +m0001=new +m9000=new -m0001 -m..n +m0002=kept -a..b +b=1 -b..c");
        batch.put("z", "kept");
        state.commit(A, b"2", &[batch]).unwrap();
        for _ in 0..2 {
            let all = state.scan(A, &b"a"[..]..&b"zz"[..], Direction::Ascending, ALL).unwrap();
            assert_eq!(show(all), "m0002=kept z=kept", "{rows} rows");
            state = disk.restart(state);
        }
        commit(&state, A, "3", "-m0002 -z");
    }
}

fn scans_keep_to_their_range_direction_and_limit<D: Disk>() {
    let mut disk = D::new();
    use Direction::{Ascending, Descending};
    let state = disk.start();
    commit(&state, A, "1", "+a=1 +b=2 +c=3 +d=4");
    assert_eq!(scan(&state, A, "b", "d", Ascending, ALL), "b=2 c=3");
    assert_eq!(scan(&state, A, "b", "d", Descending, ALL), "c=3 b=2");
    assert_eq!(scan(&state, A, "a", "z", Ascending, 2), "a=1 b=2");
    assert_eq!(scan(&state, A, "a", "z", Descending, 2), "d=4 c=3");
    assert_eq!(scan(&state, A, "a", "z", Ascending, 0), "");
    assert_eq!(scan(&state, A, "b", "b", Ascending, ALL), "");
    assert_eq!(scan(&state, A, "c", "b", Descending, ALL), "");
    assert_eq!(scan(&state, A, "aa", "az", Ascending, ALL), "");
}

/// The first `limit` rows of a visit.
fn visit(state: &impl StateEngine, group: GroupId, start: &str, end: &str, limit: usize) -> String {
    let mut rows = Vec::new();
    let mut take = |key: &[u8], value: &[u8]| {
        rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    state.visit(group, start.as_bytes()..end.as_bytes(), &mut take).unwrap();
    show(rows)
}

fn row(key: &'static str, value: &'static str) -> Row {
    (Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()))
}

fn visits_show_what_scans_show<D: Disk>() {
    let mut disk = D::new();
    let state = disk.start();
    commit(&state, B, "1", "+c=other");
    for (n, changes) in ["+a=1 +b=2 +c=3 +e=5", "-b", "+b=2 +d=4", "-a -e", "-b..d", "+b=6"].iter().enumerate() {
        commit(&state, A, &n.to_string(), changes);
        for (start, end) in [("a", "z"), ("b", "d"), ("bb", "c"), ("", "zz"), ("c", "c"), ("d", "a")] {
            let expected = scan(&state, A, start, end, Direction::Ascending, ALL);
            assert_eq!(visit(&state, A, start, end, ALL), expected, "{start}..{end} after {changes}");
            let first = scan(&state, A, start, end, Direction::Ascending, 1);
            assert_eq!(visit(&state, A, start, end, 1), first, "{start}..{end} after {changes}");
        }
    }
    state.replace_group(A, b"9", &mut [row("a", "9")].into_iter()).unwrap();
    assert_eq!(visit(&state, A, "a", "z", ALL), "a=9");
    state.drop_group(A).unwrap();
    assert_eq!(visit(&state, A, "a", "z", ALL), "");
}

/// A row that goes from one range to the other and back, in one commit each time, is in one of them, however a reader comes in between.
fn a_view_of_several_ranges_is_of_one_moment<D: Disk>() {
    const VIEWS: usize = 400;
    let mut disk = D::new();
    let state = disk.start();
    let ranges = ["a".."n", "n".."z"].map(|range| Bytes::from(range.start)..Bytes::from(range.end));
    commit(&state, A, "0", "+m9999999=here");
    let is_done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut place = 9_999_999;
            while is_done.load(Ordering::Relaxed) == 0 {
                // The next place is before the one that was left, where a gap is known to be.
                commit(&state, A, "1", &format!("-m{place} +p{place}=there"));
                commit(&state, A, "2", &format!("-p{place} +m{}=here", place - 1));
                place -= 1;
            }
        });
        for view in 0..VIEWS {
            let taken = state.view(A, &ranges).unwrap();
            let mut seen = Vec::new();
            for range in &ranges {
                let mut see = |key: &[u8], _: &[u8]| {
                    seen.push(String::from_utf8(key.to_vec()).unwrap());
                    ControlFlow::Continue(())
                };
                taken.visit(&range.start..&range.end, &mut see).unwrap();
                std::thread::yield_now();
            }
            if seen.len() != 1 {
                is_done.store(1, Ordering::Relaxed);
                panic!("view {view} shows {seen:?}");
            }
        }
        is_done.store(1, Ordering::Relaxed);
    });
    // Of a part of a range, but of nothing else.
    let taken = state.view(A, &ranges[..1]).unwrap();
    taken.visit(b"b"..b"c", &mut |_, _| ControlFlow::Continue(())).unwrap();
}

fn a_watch_tells_of_changes<D: Disk>() {
    let mut disk = D::new();
    let state = disk.start();
    let watch = || state.watch(A, b"c"..b"f");
    let (put, deleted, replaced, dropped) = (watch(), watch(), watch(), watch());
    commit(&state, A, "1", "+a=1 -f");
    commit(&state, B, "1", "+d=1");
    state.replace_group(B, b"2", &mut std::iter::empty()).unwrap();
    assert!(!put.is_changed());
    commit(&state, A, "2", "+d=1");
    assert!(put.is_changed());
    let watch = || state.watch(A, b"c"..b"f");
    let later = watch();
    commit(&state, A, "3", "-d");
    assert!(deleted.is_changed() && later.is_changed());
    let later = watch();
    state.replace_group(A, b"4", &mut [row("a", "9")].into_iter()).unwrap();
    assert!(replaced.is_changed() && later.is_changed());
    let later = watch();
    state.drop_group(A).unwrap();
    assert!(dropped.is_changed() && later.is_changed());
}

fn groups_do_not_see_each_other<D: Disk>() {
    let mut disk = D::new();
    let state = disk.start();
    for group in [GroupId(0), A, B, LAST] {
        commit(&state, group, "1", &format!("+key={group}"));
    }
    commit(&state, A, "2", "-key");
    assert_eq!(content(&state, GroupId(0)), "key=0");
    assert_eq!(content(&state, A), "");
    assert_eq!(content(&state, B), "key=2");
    assert_eq!(content(&state, LAST), "key=4294967295");
    assert_eq!(applied(&state, LAST).as_deref(), Some("1"));
}

fn reserved_keys_are_refused<D: Disk>() {
    let mut disk = D::new();
    let state = disk.start();
    commit(&state, A, "1", "+a=1");
    for key in [&[][..], &[0], b"\x00applied", &[0xff], &[0xff, 1]] {
        let mut put = RowBatch::new();
        put.put(b"b".to_vec(), Bytes::new());
        put.put(key.to_vec(), Bytes::new());
        assert!(state.commit(A, b"2", &[put]).is_err());
        let mut delete = RowBatch::new();
        delete.delete(key.to_vec());
        assert!(state.commit(A, b"2", &[delete]).is_err());
        assert!(state.get(A, key).is_err());
        let row = (Bytes::copy_from_slice(key), Bytes::new());
        assert!(state.replace_group(A, b"2", &mut [row].into_iter()).is_err());
    }
    assert_eq!((content(&state, A), applied(&state, A).as_deref()), ("a=1".to_owned(), Some("1")));
}

fn a_snapshot_does_not_change<D: Disk>() {
    let mut disk = D::new();
    let state = disk.start();
    commit(&state, A, "1", "+a=1 +b=1");
    commit(&state, B, "1", "+c=1");
    let snapshot = state.snapshot(A).unwrap();
    commit(&state, A, "2", "+a=2 -b +d=2");
    state.flush().unwrap();
    state.drop_group(A).unwrap();
    assert_eq!(snapshot.applied(), Some(Bytes::from_static(b"1")));
    assert_eq!(show(snapshot.rows(None, ALL).unwrap()), "a=1 b=1");
}

fn a_snapshot_is_read_in_pages<D: Disk>() {
    let mut disk = D::new();
    let state = disk.start();
    commit(&state, A, "1", "+a=1 +aa=2 +b=3 +c=4");
    let snapshot = state.snapshot(A).unwrap();
    assert_eq!(show(snapshot.rows(None, 2).unwrap()), "a=1 aa=2");
    assert_eq!(show(snapshot.rows(Some(b"a"), 2).unwrap()), "aa=2 b=3");
    assert_eq!(show(snapshot.rows(Some(b"ab"), 2).unwrap()), "b=3 c=4");
    assert_eq!(show(snapshot.rows(Some(b"c"), 2).unwrap()), "");
    assert_eq!(show(snapshot.rows(Some(b"z"), 2).unwrap()), "");
    assert_eq!(show(snapshot.rows(None, 0).unwrap()), "");
}

fn a_snapshot_outlives_the_engine<D: Disk>() {
    let mut disk = D::new();
    let state = disk.start();
    commit(&state, A, "1", "+a=1");
    let snapshot = state.snapshot(A).unwrap();
    drop(state);
    let reader = std::thread::spawn(move || show(snapshot.rows(None, ALL).unwrap()));
    assert_eq!(reader.join().unwrap(), "a=1");
}

fn a_replaced_group_has_only_the_new_rows<D: Disk>() {
    let mut disk = D::new();
    let state = disk.start();
    commit(&state, A, "1", "+a=1 +b=1");
    commit(&state, B, "1", "+a=1");
    let row = |key: &'static str| (Bytes::from_static(key.as_bytes()), Bytes::from_static(b"new"));
    state.replace_group(A, b"9", &mut [row("b"), row("c")].into_iter()).unwrap();
    let state = disk.restart(state);
    assert_eq!(content(&state, A), "b=new c=new");
    assert_eq!(applied(&state, A).as_deref(), Some("9"));
    assert_eq!(content(&state, B), "a=1");
}

fn a_dropped_group_leaves_nothing<D: Disk>() {
    let mut disk = D::new();
    let state = disk.start();
    for group in [A, B, LAST] {
        commit(&state, group, "1", "+a=1");
    }
    state.drop_group(A).unwrap();
    state.drop_group(LAST).unwrap();
    let state = disk.restart(state);
    for group in [A, LAST] {
        assert_eq!((content(&state, group), applied(&state, group)), (String::new(), None));
    }
    assert_eq!(content(&state, B), "a=1");
    commit(&state, A, "5", "+again=1");
    assert_eq!(content(&state, A), "again=1");
}

#[test]
fn commits_rows_and_flushes_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let state = RocksState::open(directory.path(), StateOptions::default()).unwrap();
    let twin = CrashState::new(1);
    for _ in 0..10 {
        commit(&state, A, "1", "+a=1 -b");
        commit(&twin, A, "1", "+a=1 -b");
    }
    state.flush().unwrap();
    twin.flush().unwrap();
    for stats in [state.stats(), twin.stats()] {
        assert_eq!((stats.commits, stats.rows, stats.flushes), (10, 20, 1));
        assert!(stats.bytes > 0);
    }
}

/// Rows that come and go at the front, a few that stay, and visits in between.
#[test]
fn deleted_rows_are_stepped_over_once() {
    let mut disk = RocksDisk::new();
    let mut state = disk.start();
    let name = |n: usize| format!("m{:04}", 9999 - n);
    let (mut newest, mut expected) = (0, vec!["m9999=stays".to_owned()]);
    commit(&state, A, "0", "+m9999=stays");
    for round in 0..5 {
        for _ in 0..1000 {
            newest += 1;
            commit(&state, A, "1", &format!("+{}=1", name(newest)));
            commit(&state, A, "2", &format!("-{}", name(newest)));
        }
        newest += 1;
        commit(&state, A, "3", &format!("+{}=stays", name(newest)));
        expected.insert(0, format!("{}=stays", name(newest)));
        let before = state.stats().deleted_rows_visited;
        assert_eq!(visit(&state, A, "a", "z", ALL), expected.join(" "));
        let first = state.stats().deleted_rows_visited - before;
        assert!((1000..1100).contains(&first), "round {round} stepped over {first}");
        assert_eq!(visit(&state, A, "a", "z", ALL), expected.join(" "));
        assert_eq!(visit(&state, A, "m", "n", ALL), expected.join(" "));
        assert_eq!(state.stats().deleted_rows_visited - before, first, "round {round}");
    }
    // A row that goes away between two gaps makes them one.
    let (key, _) = expected.remove(2).split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())).unwrap();
    commit(&state, A, "4", &format!("-{key}"));
    let before = state.stats().deleted_rows_visited;
    for _ in 0..3 {
        assert_eq!(visit(&state, A, "a", "z", ALL), expected.join(" "));
    }
    assert_eq!(state.stats().deleted_rows_visited - before, 1);
    // A row in the midst of a gap is seen.
    commit(&state, A, "5", "+m9500=new");
    expected.insert(expected.len() - 1, "m9500=new".to_owned());
    assert_eq!(visit(&state, A, "a", "z", ALL), expected.join(" "));
    // What is known of gaps is gone after a restart; the rows are not.
    state = disk.restart(state);
    assert_eq!(visit(&state, A, "a", "z", ALL), expected.join(" "));
}

/// A visitor that knows of gaps sees every row whose commit had returned before it began, however the two interleave.
#[test]
fn a_visit_sees_what_was_committed_before_it() {
    const ROUNDS: usize = 20;
    const ROWS: usize = 300;
    let mut disk = RocksDisk::new();
    let state = disk.start();
    let stays = |round: usize| format!("m{:06}", 999_999 - round * (ROWS + 1));
    let committed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                for n in 1..=ROWS {
                    let key = format!("m{:06}", 999_999 - round * (ROWS + 1) - n);
                    commit(&state, A, "1", &format!("+{key}=1"));
                    commit(&state, A, "2", &format!("-{key}"));
                }
                // Behind all that has just been deleted.
                commit(&state, A, "3", &format!("+{}=stays", stays(round)));
                committed.store(round + 1, Ordering::SeqCst);
            }
        });
        while committed.load(Ordering::SeqCst) < ROUNDS {
            let before = committed.load(Ordering::SeqCst);
            let seen = visit(&state, A, "a", "z", ALL);
            for round in 0..before {
                assert!(seen.contains(&stays(round)), "round {round} of {before}: {seen}");
            }
        }
    });
    let rows: Vec<String> = (0..ROUNDS).rev().map(|round| format!("{}=stays", stays(round))).collect();
    assert_eq!(visit(&state, A, "a", "z", ALL), rows.join(" "));
}

/// What was read stays in memory while there are readers, and goes when there are none.
#[test]
fn an_engine_at_rest_gives_back_what_was_read() {
    const ROWS: usize = 2000;
    let mut disk = RocksDisk::new();
    let state = disk.start();
    let rows: Vec<String> = (0..ROWS).map(|n| format!("+m{n:06}={n}{}", "x".repeat(500))).collect();
    commit(&state, A, "1", &rows.join(" "));
    state.flush().unwrap();
    let read_all = || {
        for n in 0..ROWS {
            assert!(state.get(A, format!("m{n:06}").as_bytes()).unwrap().is_some());
        }
    };
    let cached = || state.memory().block_cache;
    state.rest();
    let empty = cached();
    read_all();
    let full = cached();
    assert!(full > empty + 500_000, "{empty} and {full}");
    // It was busy until now.
    state.rest();
    assert_eq!(cached(), full);
    state.rest();
    assert!(cached() <= empty + 100_000, "{} left of {full}", cached());
    read_all();
    assert_eq!(cached(), full);
}

fn staged<D: Disk>(state: &D::State, rows: &[(&str, &str)]) -> Box<dyn StagedRows> {
    let mut staged = state.stage(A, b"seeded").unwrap();
    for (key, value) in rows {
        staged.add(vec![(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))]).unwrap();
    }
    staged
}

fn staged_rows_replace_all_of_a_group_at_once<D: Disk>() {
    let mut disk = D::new();
    let state = disk.start();
    for group in [A, B, LAST] {
        state.commit(group, b"1", &[batch("+a=1 +b=1 +c=1")]).unwrap();
    }
    state.flush().unwrap();
    // Not flushed, in the group and beside it.
    state.commit(A, b"2", &[batch("+d=2 -b")]).unwrap();
    state.commit(B, b"2", &[batch("+d=2")]).unwrap();
    // Known to be empty, and watched.
    state.visit(A, b"x"..b"z", &mut |_, _| ControlFlow::Continue(())).unwrap();
    let watch = state.watch(A, b"x"..b"z");
    let before = state.snapshot(A).unwrap();
    staged::<D>(&state, &[("b", "3"), ("y", "3")]).install().unwrap();
    assert!(watch.is_changed());
    let row = |key: &'static str, value: &'static str| (Bytes::from(key), Bytes::from(value));
    let expect = |state: &D::State, b: &[Row]| {
        assert_eq!(
            state.scan(A, b"".as_slice()..b"\xff", Direction::Ascending, ALL).unwrap(),
            [row("b", "3"), row("y", "3")]
        );
        assert_eq!(state.applied(A).unwrap(), Some(Bytes::from("seeded")));
        assert_eq!(state.scan(B, b"".as_slice()..b"\xff", Direction::Ascending, ALL).unwrap(), b);
        assert_eq!(state.scan(LAST, b"".as_slice()..b"\xff", Direction::Ascending, ALL).unwrap().len(), 3);
    };
    let b = [row("a", "1"), row("b", "1"), row("c", "1"), row("d", "2")];
    expect(&state, &b);
    let mut seen = 0;
    state
        .visit(A, b"x"..b"z", &mut |_, _| {
            seen += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, 1);
    assert_eq!(before.rows(None, ALL).unwrap().len(), 3, "a view is of before");
    // What follows goes on top of it.
    state.commit(A, b"4", &[batch("+b=4 -y")]).unwrap();
    assert_eq!(state.get(A, b"b").unwrap(), Some(Bytes::from("4")));
    state.commit(A, b"seeded", &[batch("+b=3 +y=3")]).unwrap();
    drop(before);
    let state = disk.restart(state);
    expect(&state, &b);
    // Nothing but rows in order, and rows there must be none of.
    let mut staged = state.stage(A, b"seeded").unwrap();
    staged.add(vec![row("b", "1")]).unwrap();
    assert!(staged.add(vec![row("b", "2")]).is_err());
    drop(staged);
    let mut staged = state.stage(A, b"seeded").unwrap();
    assert!(staged.add(vec![row("\u{0}", "1")]).is_err());
    drop(staged);
    state.stage(A, b"empty").unwrap().install().unwrap();
    assert!(state.scan(A, b"".as_slice()..b"\xff", Direction::Ascending, ALL).unwrap().is_empty());
    assert_eq!(state.applied(A).unwrap(), Some(Bytes::from("empty")));
}

fn staged_rows_that_are_not_installed_change_nothing<D: Disk>() {
    let mut disk = D::new();
    let state = disk.start();
    state.commit(A, b"1", &[batch("+a=1 +b=1")]).unwrap();
    drop(staged::<D>(&state, &[("c", "2")]));
    let left = staged::<D>(&state, &[("d", "2")]);
    assert_eq!(state.scan(A, b"".as_slice()..b"\xff", Direction::Ascending, ALL).unwrap().len(), 2);
    drop(left);
    let state = disk.restart(state);
    assert_eq!(state.scan(A, b"".as_slice()..b"\xff", Direction::Ascending, ALL).unwrap().len(), 2);
    assert_eq!(state.applied(A).unwrap(), Some(Bytes::from("1")));
}

/// A process that is killed right behind it has the rows on its disk, and the others as of their last flush.
#[test]
fn installed_rows_need_no_flush() {
    let (disk, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let state = RocksState::open(&disk.path().join("state"), StateOptions::default()).unwrap();
    state.commit(B, b"1", &[batch("+a=1")]).unwrap();
    state.flush().unwrap();
    state.commit(B, b"2", &[batch("+b=2")]).unwrap();
    let mut rows = state.stage(A, b"seeded").unwrap();
    for i in 0..3_000_u32 {
        rows.add(vec![(Bytes::from(format!("k{i:06}")), Bytes::from(vec![i as u8; 10_000]))]).unwrap();
    }
    rows.install().unwrap();
    // What is on the disk at this moment.
    let target = copy.path().join("state");
    std::fs::create_dir(&target).unwrap();
    for file in std::fs::read_dir(disk.path().join("state")).unwrap() {
        let file = file.unwrap();
        if file.file_name() != "LOCK" {
            std::fs::copy(file.path(), target.join(file.file_name())).unwrap();
        }
    }
    let found = RocksState::open(&target, StateOptions::default()).unwrap();
    assert_eq!(found.applied(A).unwrap(), Some(Bytes::from("seeded")));
    assert_eq!(found.scan(A, b"k"..b"l", Direction::Ascending, ALL).unwrap().len(), 3_000);
    assert_eq!(found.applied(B).unwrap(), Some(Bytes::from("1")), "nobody else was flushed");
    assert_eq!(state.applied(B).unwrap(), Some(Bytes::from("2")));
}

//! Histories by hand: what may be, and what must not.

use super::*;

fn operation(called_at: u64, returned_at: u64, call: Call, outcome: Outcome) -> Operation {
    Operation { called_at, returned_at, by: "test".to_owned(), call, outcome }
}

fn start(request: RequestId) -> Call {
    Call::Start { request, reuse: Reuse::AllowDuplicate, conflict: Conflict::Fail }
}

fn started(run: RunNumber) -> Outcome {
    Outcome::Started { run, is_started: true }
}

fn found(run: RunNumber) -> Outcome {
    Outcome::Started { run, is_started: false }
}

fn signal(signal: SignalNumber) -> Call {
    Call::Signal { run: None, signal, has_request_id: true }
}

fn signal_without_id(signal: SignalNumber) -> Call {
    Call::Signal { run: None, signal, has_request_id: false }
}

const TERMINATE: Call = Call::Terminate { run: None };
const DESCRIBE: Call = Call::Describe { run: None };
const HISTORY: Call = Call::History { run: None };
const NOT_FOUND: Outcome = Outcome::Refused(Refusal::NotFound);
const BUSY: Outcome = Outcome::Refused(Refusal::Busy);

fn described(run: RunNumber, status: Status) -> Outcome {
    Outcome::Described { run, status }
}

fn read(run: RunNumber, status: Status, signals: &[SignalNumber]) -> Outcome {
    Outcome::Read { run, status, signals: signals.to_vec() }
}

fn complete(run: RunNumber, seen: &[SignalNumber]) -> Call {
    Call::Complete { run, seen: seen.to_vec() }
}

fn in_the_way(run: RunNumber) -> Outcome {
    Outcome::Refused(Refusal::AlreadyStarted(run))
}

type Line = (u64, u64, Call, Outcome);

fn verdict(lines: &[Line]) -> Verdict {
    let operations: Vec<_> =
        lines.iter().cloned().map(|(from, to, call, outcome)| operation(from, to, call, outcome)).collect();
    check(&operations, STEPS_MAX)
}

#[track_caller]
fn good(lines: &[Line]) {
    assert_eq!(verdict(lines), Verdict::Linearizable, "{lines:#?}");
}

#[track_caller]
fn bad(lines: &[Line]) {
    assert!(matches!(verdict(lines), Verdict::Impossible(_)), "{lines:#?}");
}

#[test]
fn one_after_the_other_is_as_the_model_says() {
    good(&[]);
    good(&[(0, 1, DESCRIBE, NOT_FOUND), (2, 3, Call::List, Outcome::Listed(vec![]))]);
    bad(&[(0, 1, DESCRIBE, described(1, Status::Running))]);
    let all = [
        (0, 1, start(1), started(1)),
        (2, 3, start(1), started(1)),
        (4, 5, start(2), in_the_way(1)),
        (6, 7, signal(1), Outcome::Done),
        (8, 9, HISTORY, read(1, Status::Running, &[1])),
        (10, 11, complete(1, &[1]), Outcome::Done),
        (12, 13, signal(2), NOT_FOUND),
        (14, 15, signal(1), Outcome::Done),
        (16, 17, TERMINATE, NOT_FOUND),
        (18, 19, DESCRIBE, described(1, Status::Completed)),
        (20, 21, start(2), started(2)),
        (22, 23, Call::List, Outcome::Listed(vec![(2, Status::Running), (1, Status::Completed)])),
        (24, 25, Call::Describe { run: Some(1) }, described(1, Status::Completed)),
        (26, 27, TERMINATE, Outcome::Done),
        (28, 29, DESCRIBE, described(2, Status::Terminated)),
        (30, 31, HISTORY, read(2, Status::Terminated, &[])),
    ];
    good(&all);
    // Each answer matters: without the start of the second run, what follows makes no sense.
    bad(&[&all[..10], &all[11..]].concat());
}

#[test]
fn policies_of_starts_are_told_apart() {
    let with = |reuse, conflict| Call::Start { request: 2, reuse, conflict };
    let first = (0, 1, start(1), started(1));
    let closed = (2, 3, TERMINATE, Outcome::Done);
    let completed = (2, 3, complete(1, &[]), Outcome::Done);
    use {Conflict::*, Reuse::*};
    let cases = [
        (vec![first.clone()], with(AllowDuplicate, UseExisting), found(1), started(2)),
        (vec![first.clone()], with(AllowDuplicate, TerminateExisting), started(2), in_the_way(1)),
        (vec![first.clone()], with(RejectDuplicate, Fail), in_the_way(1), found(1)),
        (vec![first.clone(), closed.clone()], with(RejectDuplicate, UseExisting), in_the_way(1), started(2)),
        (vec![first.clone(), closed], with(AllowDuplicateFailedOnly, Fail), started(2), in_the_way(1)),
        (vec![first.clone(), completed.clone()], with(AllowDuplicateFailedOnly, Fail), in_the_way(1), started(2)),
        (vec![first, completed], with(AllowDuplicate, Fail), started(2), found(1)),
    ];
    for (before, call, right, wrong) in cases {
        good(&[before.clone(), vec![(10, 11, call.clone(), right)]].concat());
        bad(&[before.clone(), vec![(10, 11, call.clone(), wrong)]].concat());
        // A refusal for want of room says nothing, but nothing was done either.
        good(&[before.clone(), vec![(10, 11, call.clone(), BUSY)]].concat());
        bad(&[before, vec![(10, 11, call, BUSY), (12, 13, DESCRIBE, described(2, Status::Running))]].concat());
    }
}

#[test]
fn what_overlaps_may_be_in_either_order_and_what_does_not_may_not() {
    good(&[(0, 10, start(1), in_the_way(2)), (1, 9, start(2), started(2))]);
    bad(&[(0, 1, start(1), in_the_way(2)), (2, 3, start(2), started(2))]);
    good(&[
        (0, 1, start(1), started(1)),
        (2, 9, TERMINATE, Outcome::Done),
        (3, 4, DESCRIBE, described(1, Status::Running)),
    ]);
    good(&[
        (0, 1, start(1), started(1)),
        (2, 9, TERMINATE, Outcome::Done),
        (3, 4, DESCRIBE, described(1, Status::Terminated)),
    ]);
    // Once somebody saw it, nobody sees what was before.
    bad(&[
        (0, 1, start(1), started(1)),
        (2, 9, TERMINATE, Outcome::Done),
        (3, 4, DESCRIBE, described(1, Status::Terminated)),
        (5, 6, DESCRIBE, described(1, Status::Running)),
    ]);
}

#[test]
fn two_leaders_at_once_are_found() {
    bad(&[(0, 5, start(1), started(1)), (0, 5, start(2), started(2))]);
    // A stale read.
    bad(&[(0, 1, start(1), started(1)), (2, 3, DESCRIBE, NOT_FOUND)]);
    bad(&[(0, 1, start(1), started(1)), (2, 3, Call::List, Outcome::Listed(vec![]))]);
    bad(&[
        (0, 1, start(1), started(1)),
        (2, 3, complete(1, &[]), Outcome::Done),
        (4, 5, DESCRIBE, described(1, Status::Running)),
    ]);
    // One that refuses what the other has.
    bad(&[(0, 1, start(1), started(1)), (2, 3, signal(1), NOT_FOUND)]);
    // A run whose id changes.
    bad(&[(0, 1, start(1), started(1)), (2, 3, DESCRIBE, described(2, Status::Running))]);
}

#[test]
fn a_lost_or_doubled_signal_is_found() {
    let begun = [(0, 1, start(1), started(1)), (2, 3, signal(1), Outcome::Done), (4, 5, signal(2), Outcome::Done)];
    let then = |call: Call, outcome: Outcome| [begun.to_vec(), vec![(6, 7, call, outcome)]].concat();
    let closed = |signals: &[SignalNumber]| {
        [then(TERMINATE, Outcome::Done), vec![(8, 9, HISTORY, read(1, Status::Terminated, signals))]].concat()
    };
    good(&closed(&[1, 2]));
    bad(&closed(&[1]));
    bad(&closed(&[2, 1]));
    bad(&closed(&[1, 1, 2]));
    bad(&closed(&[1, 2, 3]));
    // As long as it is open, the latest may be held back.
    good(&then(HISTORY, read(1, Status::Running, &[1])));
    bad(&then(HISTORY, read(1, Status::Running, &[2])));
    // A workflow is not closed by a worker that has not seen everything.
    good(&then(complete(1, &[1, 2]), Outcome::Done));
    bad(&then(complete(1, &[1]), Outcome::Done));
    good(&then(complete(1, &[1]), Outcome::Refused(Refusal::Unhandled)));
    // Without a request id each call counts.
    let twice = [
        (0, 1, start(1), started(1)),
        (2, 3, signal_without_id(1), Outcome::Done),
        (4, 5, signal_without_id(1), Outcome::Done),
    ];
    let twice = |signals| [twice.to_vec(), vec![(6, 7, complete(1, signals), Outcome::Done)]].concat();
    good(&twice(&[1, 1]));
    bad(&twice(&[1]));
}

#[test]
fn what_nobody_was_told_of_may_have_happened_later_or_never_but_once() {
    let lost = (0, 0, start(1), Outcome::Unknown);
    good(&[lost.clone(), (2, 3, DESCRIBE, NOT_FOUND), (4, 5, DESCRIBE, described(1, Status::Running))]);
    good(&[lost.clone(), (2, 3, start(2), started(2)), (4, 5, DESCRIBE, described(2, Status::Running))]);
    bad(&[lost.clone(), (2, 3, DESCRIBE, described(1, Status::Running)), (4, 5, DESCRIBE, NOT_FOUND)]);
    // Its run has one id for all.
    good(&[lost.clone(), (2, 3, start(2), in_the_way(7)), (4, 5, DESCRIBE, described(7, Status::Running))]);
    bad(&[lost.clone(), (2, 3, start(2), in_the_way(7)), (4, 5, DESCRIBE, described(8, Status::Running))]);
    // The same request again finds it.
    good(&[
        lost.clone(),
        (2, 3, start(1), started(1)),
        (4, 5, Call::List, Outcome::Listed(vec![(1, Status::Running)])),
    ]);
    bad(&[
        lost,
        (2, 3, start(1), started(1)),
        (4, 5, Call::List, Outcome::Listed(vec![(1, Status::Running), (2, Status::Running)])),
    ]);
    let signals = |signals: &[SignalNumber]| {
        [
            (0, 1, start(1), started(1)),
            (2, 0, signal_without_id(1), Outcome::Unknown),
            (4, 5, signal(2), Outcome::Done),
            (6, 7, TERMINATE, Outcome::Done),
            (8, 9, HISTORY, read(1, Status::Terminated, signals)),
        ]
    };
    good(&signals(&[2]));
    good(&signals(&[1, 2]));
    good(&signals(&[2, 1]));
    bad(&signals(&[1, 1, 2]));
    bad(&signals(&[1]));
    // It cannot have happened before it was called.
    bad(&[
        (0, 1, start(1), started(1)),
        (2, 3, HISTORY, read(1, Status::Running, &[1])),
        (4, 0, signal(1), Outcome::Unknown),
    ]);
}

#[test]
fn a_completion_that_came_too_late_may_have_been_made_by_its_first_attempt_but_not_afterwards() {
    let begun = (0, 1, start(1), started(1));
    let late = (2, 3, complete(1, &[]), NOT_FOUND);
    good(&[begun.clone(), late.clone(), (4, 5, DESCRIBE, described(1, Status::Running))]);
    good(&[begun.clone(), late.clone(), (4, 5, DESCRIBE, described(1, Status::Completed))]);
    bad(&[
        begun.clone(),
        late,
        (4, 5, DESCRIBE, described(1, Status::Running)),
        (6, 7, DESCRIBE, described(1, Status::Completed)),
    ]);
    let unknown = (2, 0, complete(1, &[]), Outcome::Unknown);
    good(&[
        begun,
        unknown,
        (4, 5, DESCRIBE, described(1, Status::Running)),
        (6, 7, DESCRIBE, described(1, Status::Completed)),
    ]);
}

#[test]
fn a_call_that_was_made_twice_is_told_apart_from_what_cannot_be() {
    // The first attempt of request 1 has begun run 1, and the second one finds the run of request 2.
    let lines = [
        (0, 20, start(1), in_the_way(2)),
        (1, 2, DESCRIBE, described(1, Status::Running)),
        (3, 4, TERMINATE, Outcome::Done),
        (5, 6, start(2), started(2)),
    ];
    bad(&lines);
    let operations = |lines: &[Line]| -> Vec<_> {
        lines.iter().cloned().map(|(from, to, call, outcome)| operation(from, to, call, outcome)).collect()
    };
    assert_eq!(check_with_repeats(&operations(&lines), STEPS_MAX), Verdict::Linearizable);
    // But not after its caller was told.
    let mut late = lines.to_vec();
    late.push((21, 22, TERMINATE, Outcome::Done));
    late.push((23, 24, DESCRIBE, described(3, Status::Running)));
    assert!(matches!(check_with_repeats(&operations(&late), STEPS_MAX), Verdict::Impossible(_)));
    // Nor is a stale read explained by it.
    let stale = [(0, 1, start(1), started(1)), (2, 3, DESCRIBE, NOT_FOUND)];
    assert!(matches!(check_with_repeats(&operations(&stale), STEPS_MAX), Verdict::Impossible(_)));
}

#[test]
fn what_changes_nothing_yet_may_do_so_later() {
    // The completion was done once its worker's last signal was there, and once more when the run was closed.
    good(&[
        (0, 1, start(1), started(1)),
        (2, 20, complete(1, &[5]), NOT_FOUND),
        (3, 4, signal(5), Outcome::Done),
        (21, 22, DESCRIBE, described(1, Status::Completed)),
    ]);
    // The first attempt of the signal was for run 1, the second one for run 2.
    let lines = [
        (0, 1, start(1), started(1)),
        (2, 20, signal(7), Outcome::Done),
        (3, 4, complete(1, &[7]), Outcome::Done),
        (5, 6, start(2), started(2)),
        (21, 22, HISTORY, read(2, Status::Running, &[7])),
    ];
    bad(&lines);
    let operations: Vec<_> =
        lines.into_iter().map(|(from, to, call, outcome)| operation(from, to, call, outcome)).collect();
    assert_eq!(check_with_repeats(&operations, STEPS_MAX), Verdict::Linearizable);
}

#[test]
fn calls_that_name_a_run_are_about_that_one() {
    let runs = [(0, 1, start(1), started(1)), (2, 3, TERMINATE, Outcome::Done), (4, 5, start(2), started(2))];
    let then = |call, outcome| [runs.to_vec(), vec![(6, 7, call, outcome)]].concat();
    let signal = |run| Call::Signal { run: Some(run), signal: 1, has_request_id: true };
    good(&then(signal(1), NOT_FOUND));
    bad(&then(signal(1), Outcome::Done));
    good(&then(signal(2), Outcome::Done));
    bad(&then(signal(2), NOT_FOUND));
    good(&then(signal(3), NOT_FOUND));
    bad(&then(complete(1, &[]), Outcome::Done));
    bad(&then(Call::Terminate { run: Some(1) }, Outcome::Done));
    bad(&then(Call::Describe { run: Some(1) }, described(2, Status::Running)));
    // A worker may know a run before any caller does.
    let unseen = [(0, 0, start(1), Outcome::Unknown), (2, 3, complete(5, &[]), Outcome::Done)];
    good(&[unseen.to_vec(), vec![(4, 5, DESCRIBE, described(5, Status::Completed))]].concat());
    bad(&[unseen.to_vec(), vec![(4, 5, DESCRIBE, described(6, Status::Completed))]].concat());
}

#[test]
fn the_work_is_bounded_and_a_history_that_is_too_long_is_no_good_one() {
    // Signals without an answer, in any order, and an end that none of those explains.
    let mut lines = vec![(0, 1, start(1), started(1))];
    lines.extend((1..=24).map(|number| (2, 0, signal(number), Outcome::Unknown)));
    lines.push((4, 5, complete(1, &[99]), Outcome::Done));
    let operations: Vec<_> =
        lines.into_iter().map(|(from, to, call, outcome)| operation(from, to, call, outcome)).collect();
    assert!(matches!(check(&operations, 20_000), Verdict::TooLong(_)));
    let many: Vec<_> = (0..200).map(|at| operation(2 * at, 2 * at + 1, DESCRIBE, NOT_FOUND)).collect();
    assert!(matches!(check(&many, STEPS_MAX), Verdict::TooLong(_)));
}

#[test]
fn what_is_wrong_is_told() {
    let Verdict::Impossible(text) = verdict(&[(0, 1, start(1), started(1)), (2, 3, DESCRIBE, NOT_FOUND)]) else {
        panic!("a stale read")
    };
    assert!(text.contains("run 1 by request 1 Running") && text.contains("2..3 test: Describe"), "{text}");
}

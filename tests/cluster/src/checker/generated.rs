//! Histories by the thousand: concurrent callers of a server in memory, which keeps its promises or breaks one of them.

use everlog_random::Random;

use super::*;

/// What the server does wrong, now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Reads show what was before the last change.
    StaleRead,
    /// A signal is acknowledged and forgotten.
    LostSignal,
    /// A signal is recorded twice.
    DoubledSignal,
    /// A run that was started is forgotten.
    LostStart,
    /// A completion counts although a signal came after what its worker saw.
    BlindCompletion,
    /// What was refused is done all the same.
    RefusedButDone,
    /// A start whose request has been served begins another run.
    ForgottenRequest,
}

const FAULTS: [Fault; 7] = [
    Fault::StaleRead,
    Fault::LostSignal,
    Fault::DoubledSignal,
    Fault::LostStart,
    Fault::BlindCompletion,
    Fault::RefusedButDone,
    Fault::ForgottenRequest,
];

/// A server apart from the model, in the plainest way.
#[derive(Clone, Default)]
struct Server {
    runs: Vec<(RequestId, Status, Vec<SignalNumber>)>,
}

impl Server {
    fn apply(&mut self, call: &Call, fault: Fault, random: &mut Random, before: &Server) -> Outcome {
        let fails = |of: Fault, random: &mut Random| fault == of && random.one_in(3);
        let number = |at: usize| at as RunNumber + 1;
        let last = self.runs.len().checked_sub(1);
        let open = last.filter(|at| self.runs[*at].1 == Status::Running);
        match call {
            Call::Start { request, reuse, conflict } => {
                if let Some(at) = last.filter(|at| self.runs[*at].0 == *request)
                    && !fails(Fault::ForgottenRequest, random)
                {
                    return Outcome::Started { run: number(at), is_started: true };
                }
                match (open, last) {
                    (Some(at), _) if *conflict == Conflict::Fail => {
                        return Outcome::Refused(Refusal::AlreadyStarted(number(at)));
                    }
                    (Some(at), _) if *conflict == Conflict::UseExisting => {
                        return Outcome::Started { run: number(at), is_started: false };
                    }
                    (Some(at), _) => self.runs[at].1 = Status::Terminated,
                    (None, Some(at)) if *reuse == Reuse::RejectDuplicate => {
                        return Outcome::Refused(Refusal::AlreadyStarted(number(at)));
                    }
                    (None, _) => {}
                }
                self.runs.push((*request, Status::Running, Vec::new()));
                let run = number(self.runs.len() - 1);
                if fails(Fault::LostStart, random) {
                    self.runs.pop();
                }
                Outcome::Started { run, is_started: true }
            }
            Call::Signal { signal, has_request_id, .. } => {
                let Some(at) = last else { return Outcome::Refused(Refusal::NotFound) };
                if *has_request_id && self.runs[at].2.contains(signal) {
                    return Outcome::Done;
                }
                if open.is_none() {
                    return Outcome::Refused(Refusal::NotFound);
                }
                let times = match fault {
                    Fault::LostSignal if random.one_in(3) => 0,
                    Fault::DoubledSignal if random.one_in(3) => 2,
                    _ => 1,
                };
                self.runs[at].2.extend(std::iter::repeat_n(*signal, times));
                if fails(Fault::RefusedButDone, random) { Outcome::Refused(Refusal::Busy) } else { Outcome::Done }
            }
            Call::Terminate { .. } => match open {
                Some(at) => {
                    self.runs[at].1 = Status::Terminated;
                    Outcome::Done
                }
                None => Outcome::Refused(Refusal::NotFound),
            },
            Call::Complete { run, seen } => {
                let at = *run as usize - 1;
                match self.runs.get(at) {
                    Some((_, Status::Running, signals)) if signals == seen || fault == Fault::BlindCompletion => {
                        self.runs[at].1 = Status::Completed;
                        Outcome::Done
                    }
                    Some((_, Status::Running, _)) => Outcome::Refused(Refusal::Unhandled),
                    _ => Outcome::Refused(Refusal::NotFound),
                }
            }
            Call::Describe { .. } | Call::History { .. } | Call::List => {
                let shown = if fails(Fault::StaleRead, random) { before } else { &*self };
                shown.show(call)
            }
        }
    }

    fn show(&self, call: &Call) -> Outcome {
        let number = |at: usize| at as RunNumber + 1;
        if *call == Call::List {
            return Outcome::Listed(self.runs.iter().enumerate().map(|(at, run)| (number(at), run.1)).collect());
        }
        let Some((_, status, signals)) = self.runs.last() else { return Outcome::Refused(Refusal::NotFound) };
        let (run, status) = (number(self.runs.len() - 1), *status);
        match call {
            Call::Describe { .. } => Outcome::Described { run, status },
            _ => Outcome::Read { run, status, signals: signals.clone() },
        }
    }

    fn any_call(&self, random: &mut Random, next: u32) -> Call {
        let open = self.runs.last().map(|run| (self.runs.len() as RunNumber, run.2.clone()));
        match random.below(12) {
            0..3 => Call::Start {
                // The one that has started the run again, now and then.
                request: self.runs.last().map(|run| run.0).filter(|_| random.one_in(3)).unwrap_or(next),
                reuse: *random.of(&[Reuse::AllowDuplicate, Reuse::RejectDuplicate]),
                conflict: *random.of(&[Conflict::Fail, Conflict::UseExisting, Conflict::TerminateExisting]),
            },
            3..6 => Call::Signal { run: None, signal: next, has_request_id: random.one_in(2) },
            6 => Call::Terminate { run: None },
            7 | 8 => match open {
                Some((run, seen)) => Call::Complete { run, seen },
                None => Call::List,
            },
            9 => Call::Describe { run: None },
            10 => Call::History { run: None },
            _ => Call::List,
        }
    }
}

/// Three callers, each of which waits for its answer before it calls again; each call takes effect somewhere in between. Some answers
/// are lost, and some calls with them.
fn history(seed: u64, fault: Fault, length: usize) -> Vec<Operation> {
    const CALLERS: usize = 3;
    let mut random = Random::new(seed);
    let (mut server, mut before) = (Server::default(), Server::default());
    let mut operations = Vec::new();
    let mut now = 0;
    // Who waits: the call, since when, and the outcome once it has taken effect.
    let mut waiting: [Option<(Call, u64, Option<Outcome>)>; CALLERS] = Default::default();
    let mut next = 10;
    while operations.len() < length {
        now += 1;
        let caller = random.below(CALLERS);
        match &mut waiting[caller] {
            slot @ None => {
                next += 1;
                *slot = Some((server.any_call(&mut random, next), now, None));
            }
            Some((call, _, effect @ None)) if !random.one_in(12) => {
                let snapshot = server.clone();
                *effect = Some(server.apply(call, fault, &mut random, &before));
                if snapshot.runs != server.runs {
                    before = snapshot;
                }
            }
            slot => {
                let Some((call, called_at, effect)) = slot.take() else { continue };
                let outcome = effect.filter(|_| !random.one_in(12)).unwrap_or(Outcome::Unknown);
                operations.push(Operation {
                    called_at,
                    returned_at: now,
                    by: format!("caller {caller}"),
                    call,
                    outcome,
                });
            }
        }
    }
    // What is still on its way may have happened, too.
    let rest = waiting.into_iter().flatten().map(|(call, called_at, _)| Operation {
        called_at,
        returned_at: 0,
        by: "caller".to_owned(),
        call,
        outcome: Outcome::Unknown,
    });
    operations.extend(rest);
    operations
}

#[test]
fn what_a_server_without_faults_answers_is_explained() {
    for seed in 0..300 {
        let operations = history(seed, Fault::None, 40);
        assert_eq!(check(&operations, STEPS_MAX), Verdict::Linearizable, "seed {seed}: {operations:#?}");
    }
}

#[test]
fn each_broken_promise_is_found() {
    for fault in FAULTS {
        let impossible = |seed: &u64| matches!(check(&history(*seed, fault, 40), STEPS_MAX), Verdict::Impossible(_));
        let found = (0..60).filter(impossible).count();
        assert!(found >= 6, "{fault:?} was found in {found} of 60 histories");
    }
}

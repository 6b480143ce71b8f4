//! What one server that never fails answers about one workflow id.

/// A run, by a number that the recorder gave its id.
pub(crate) type RunNumber = u32;
/// The request id of a start, by number.
pub(crate) type RequestId = u32;
/// A signal, by the number that it carries.
pub(crate) type SignalNumber = u32;

/// What is to happen when the last run has closed. Temporal: `WorkflowIdReusePolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    AllowDuplicate,
    AllowDuplicateFailedOnly,
    RejectDuplicate,
}

/// What is to happen when a run is open. Temporal: `WorkflowIdConflictPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    Fail,
    UseExisting,
    TerminateExisting,
}

/// Whether a run is open, and if not, how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Status {
    Running,
    Completed,
    Terminated,
    /// Any other end; none of the recorded operations leads to one.
    Other,
}

/// What a caller asked for. Calls without a run are about the current one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Start {
        request: RequestId,
        reuse: Reuse,
        conflict: Conflict,
    },
    Signal {
        run: Option<RunNumber>,
        signal: SignalNumber,
        /// Whether the call carried a request id, which is the signal's number: then it counts once, however often it is sent.
        has_request_id: bool,
    },
    /// A worker's completion of a workflow task that closes the run, by a worker that was shown these signals.
    Complete {
        run: RunNumber,
        seen: Vec<SignalNumber>,
    },
    Terminate {
        run: Option<RunNumber>,
    },
    Describe {
        run: Option<RunNumber>,
    },
    /// The whole history, which shows signals once no workflow task holds them back.
    History {
        run: Option<RunNumber>,
    },
    /// All runs of the id.
    List,
}

/// Why a call was refused. Nothing was done then, but for [`Refusal::NotFound`] of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The policies of a start do not allow another run.
    AlreadyStarted(RunNumber),
    /// There is no such run, it is closed, or the workflow task is no longer the worker's. A completion that a server made twice, because
    /// it had not heard of the first, is answered like this after it was done.
    NotFound,
    /// Something has come since that the workflow has not seen.
    Unhandled,
    /// Not now, whatever the state is, or it was not even sent.
    Busy,
}

/// What a caller was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing: it may have happened, or may happen at any later moment.
    Unknown,
    Refused(Refusal),
    /// The run that was started, or found. `is_started`: by this request.
    Started {
        run: RunNumber,
        is_started: bool,
    },
    Done,
    Described {
        run: RunNumber,
        status: Status,
    },
    Read {
        run: RunNumber,
        status: Status,
        signals: Vec<SignalNumber>,
    },
    Listed(Vec<(RunNumber, Status)>),
}

/// One call with its outcome. Times are of one clock; only their order matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) called_at: u64,
    /// Of no meaning if the outcome is unknown.
    pub(crate) returned_at: u64,
    /// Who called whom, for people.
    pub(crate) by: String,
    pub(crate) call: Call,
    pub(crate) outcome: Outcome,
}

/// A run of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Run {
    /// `None` as long as nobody was told.
    number: Option<RunNumber>,
    request: RequestId,
    status: Status,
    signals: Vec<SignalNumber>,
}

/// All runs of a workflow id, the current one last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Model {
    runs: Vec<Run>,
}

impl Model {
    /// The states in which the server may be after this operation with this outcome; none if the operation cannot have happened now.
    pub(super) fn after(&self, call: &Call, outcome: &Outcome) -> Vec<Model> {
        match call {
            Call::Start { request, reuse, conflict } => self.start(*request, *reuse, *conflict, outcome),
            Call::Signal { run, signal, has_request_id } => self.on_run(*run, outcome, |run| match run {
                run if *has_request_id && run.signals.contains(signal) => Told::Done,
                run if run.status != Status::Running => Told::NotFound,
                run => {
                    run.signals.push(*signal);
                    Told::Done
                }
            }),
            Call::Terminate { run } => self.on_run(*run, outcome, |run| match run.status {
                Status::Running => {
                    run.status = Status::Terminated;
                    Told::Done
                }
                _ => Told::NotFound,
            }),
            Call::Complete { run, seen } => self.complete(*run, seen, outcome),
            Call::Describe { run } | Call::History { run } => self.look(*run, outcome),
            Call::List => self.list(outcome),
        }
    }

    /// For people.
    pub(super) fn summary(&self) -> String {
        let run = |run: &Run| {
            let number = run.number.map_or_else(|| "?".to_owned(), |number| number.to_string());
            format!("run {number} by request {} {:?} with signals {:?}", run.request, run.status, run.signals)
        };
        if self.runs.is_empty() {
            "no run".to_owned()
        } else {
            self.runs.iter().map(run).collect::<Vec<_>>().join("; ")
        }
    }

    fn start(&self, request: RequestId, reuse: Reuse, conflict: Conflict, outcome: &Outcome) -> Vec<Model> {
        if *outcome == Outcome::Refused(Refusal::Busy) {
            return vec![self.clone()];
        }
        let decided = match self.runs.last() {
            None => Decided::New,
            Some(run) if run.request == request => Decided::Found { is_started: true },
            Some(run) if run.status == Status::Running => match conflict {
                Conflict::Fail => Decided::InTheWay,
                Conflict::UseExisting => Decided::Found { is_started: false },
                Conflict::TerminateExisting => Decided::New,
            },
            Some(run) => match reuse {
                Reuse::AllowDuplicate => Decided::New,
                Reuse::AllowDuplicateFailedOnly if run.status != Status::Completed => Decided::New,
                Reuse::AllowDuplicateFailedOnly | Reuse::RejectDuplicate => Decided::InTheWay,
            },
        };
        let mut next = self.clone();
        if matches!(decided, Decided::New) {
            if let Some(run) = next.runs.last_mut().filter(|run| run.status == Status::Running) {
                run.status = Status::Terminated;
            }
            next.runs.push(Run { number: None, request, status: Status::Running, signals: Vec::new() });
        }
        let last = next.runs.len() - 1;
        let fits = match (decided, outcome) {
            (_, Outcome::Unknown) => true,
            (Decided::New, Outcome::Started { run, is_started: true }) => next.is(last, *run),
            (Decided::Found { is_started: expected }, Outcome::Started { run, is_started }) => {
                expected == *is_started && next.is(last, *run)
            }
            (Decided::InTheWay, Outcome::Refused(Refusal::AlreadyStarted(run))) => next.is(last, *run),
            _ => false,
        };
        if fits { vec![next] } else { Vec::new() }
    }

    /// A change of one run that is the same whoever asks.
    fn on_run(&self, run: Option<RunNumber>, outcome: &Outcome, change: impl Fn(&mut Run) -> Told) -> Vec<Model> {
        if *outcome == Outcome::Refused(Refusal::Busy) {
            return vec![self.clone()];
        }
        let targets = self.targets(run);
        if targets.is_empty() {
            let fits = matches!(outcome, Outcome::Unknown | Outcome::Refused(Refusal::NotFound));
            return if fits { vec![self.clone()] } else { Vec::new() };
        }
        let changed = targets.into_iter().filter_map(|(mut model, at)| {
            let told = change(&mut model.runs[at]);
            let fits = match outcome {
                Outcome::Unknown => true,
                Outcome::Done => told == Told::Done,
                Outcome::Refused(Refusal::NotFound) => told == Told::NotFound,
                _ => false,
            };
            fits.then_some(model)
        });
        changed.collect()
    }

    fn complete(&self, run: RunNumber, seen: &[SignalNumber], outcome: &Outcome) -> Vec<Model> {
        let completed = || {
            let targets = self.targets(Some(run)).into_iter();
            targets.filter_map(|(mut model, at)| {
                let run = &mut model.runs[at];
                let can = run.status == Status::Running && run.signals == seen;
                run.status = Status::Completed;
                can.then_some(model)
            })
        };
        match outcome {
            Outcome::Done => completed().collect(),
            // The task may have gone to somebody else meanwhile, so that nothing is done although the run is as the worker saw it.
            Outcome::Unknown | Outcome::Refused(Refusal::NotFound) => completed().chain([self.clone()]).collect(),
            Outcome::Refused(_) => vec![self.clone()],
            _ => Vec::new(),
        }
    }

    fn look(&self, run: Option<RunNumber>, outcome: &Outcome) -> Vec<Model> {
        let targets = self.targets(run);
        let fits = |run: &Run| match outcome {
            Outcome::Described { status, .. } => run.status == *status,
            // What came while a workflow task was with a worker is not shown before that is back.
            Outcome::Read { status: Status::Running, signals, .. } => {
                run.status == Status::Running && run.signals.starts_with(signals)
            }
            Outcome::Read { status, signals, .. } => run.status == *status && run.signals == *signals,
            _ => false,
        };
        match outcome {
            Outcome::Unknown | Outcome::Refused(Refusal::Busy) => vec![self.clone()],
            Outcome::Refused(Refusal::NotFound) if targets.is_empty() => vec![self.clone()],
            Outcome::Described { run: shown, .. } | Outcome::Read { run: shown, .. } => {
                let matching = targets
                    .into_iter()
                    .filter_map(|(mut model, at)| (fits(&model.runs[at]) && model.is(at, *shown)).then_some(model));
                matching.collect()
            }
            _ => Vec::new(),
        }
    }

    fn list(&self, outcome: &Outcome) -> Vec<Model> {
        let Outcome::Listed(listed) = outcome else {
            let fits = matches!(outcome, Outcome::Unknown | Outcome::Refused(Refusal::Busy));
            return if fits { vec![self.clone()] } else { Vec::new() };
        };
        if listed.len() != self.runs.len() {
            return Vec::new();
        }
        let mut next = self.clone();
        let mut rest = listed.clone();
        for run in self.runs.iter().filter(|run| run.number.is_some()) {
            match rest.iter().position(|(number, status)| (Some(*number), *status) == (run.number, run.status)) {
                Some(at) => drop(rest.remove(at)),
                None => return Vec::new(),
            }
        }
        // Which is which of runs that nobody was told of is known if there is only one.
        let mut unknown: Vec<_> = next.runs.iter_mut().filter(|run| run.number.is_none()).collect();
        let mut statuses: Vec<_> = unknown.iter().map(|run| run.status).collect();
        let mut shown: Vec<_> = rest.iter().map(|(_, status)| *status).collect();
        statuses.sort_unstable();
        shown.sort_unstable();
        if statuses != shown {
            return Vec::new();
        }
        if let ([run], [(number, _)]) = (unknown.as_mut_slice(), rest.as_slice()) {
            run.number = Some(*number);
        }
        vec![next]
    }

    /// The run that a call is about. A number that nobody was told of may be that of any run without one.
    fn targets(&self, run: Option<RunNumber>) -> Vec<(Model, usize)> {
        let Some(number) = run else {
            return self.runs.len().checked_sub(1).map(|last| (self.clone(), last)).into_iter().collect();
        };
        if let Some(at) = self.runs.iter().position(|run| run.number == Some(number)) {
            return vec![(self.clone(), at)];
        }
        let unknown = (0..self.runs.len()).filter(|at| self.runs[*at].number.is_none());
        let with_number = unknown.map(|at| {
            let mut model = self.clone();
            model.runs[at].number = Some(number);
            (model, at)
        });
        with_number.collect()
    }

    /// Whether a run can have this number; it has it from then on.
    fn is(&mut self, at: usize, number: RunNumber) -> bool {
        match self.runs[at].number {
            Some(known) => known == number,
            None if self.runs.iter().any(|run| run.number == Some(number)) => false,
            None => {
                self.runs[at].number = Some(number);
                true
            }
        }
    }
}

/// What a start leads to.
#[derive(Clone, Copy)]
enum Decided {
    New,
    Found { is_started: bool },
    InTheWay,
}

/// What the caller of a change is told.
#[derive(PartialEq, Eq)]
enum Told {
    Done,
    NotFound,
}

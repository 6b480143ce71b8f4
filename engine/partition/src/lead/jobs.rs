//! Doing jobs: rows are read first where they must be, commands are decided, and their rows and effects go where they belong.

use everlog_kernel::command::{Reply, UpdateReply, WorkflowTaskStart};
use everlog_kernel::reset::{End, Later};
use everlog_kernel::token;
use everlog_kernel::transition::{Effect, TaskKind};
use everlog_kernel::{
    Command, Context, EntityKind, Ids, RowKey, RunCommand, RunId, RunRowKind, ScheduleCommand, Transition, Workflow,
    decide,
};
use everlog_model::{CallError, EntityRef, RunView, WorkflowRef, rows};

use super::super::cache::{AbsentRuns, Entry};
use super::super::history;
use super::super::job::{Answer, Job, ReplyTo, Work};
use super::super::load::{Found, LoadRequest, Loaded};
use super::super::machine::{Machine, MachineCommand, name};
use super::super::reset;
use super::watching::view;
use super::{Action, Lead, Outgoing, Running};

impl Lead {
    /// Does a job, or sets it aside while rows are read.
    pub(crate) fn take(&mut self, job: Job) {
        if self.stopping {
            return job.refuse(&CallError::NotDone(format!("partition {} is stopping", self.partition)));
        }
        let key = job.entity();
        if self.is_closed(&key) {
            return Lead::turn_away(job);
        }
        if let Some(poison) = self.poison(&key, job.name()) {
            return job.refuse(&poison.error());
        }
        let step = job.step();
        if step.is_some() && !self.journal.is_read() {
            // It may have been done under an earlier lead.
            return self.journal.wait(job);
        }
        if let Some(step) = &step
            && let Some((reply, sequence)) = self.journal.find(step)
            && let Work::Command { reply: Some(to), .. } = job.work
        {
            return self.when_durable(sequence, Outgoing::Reply(to, Ok(Answer { reply, history: None })));
        }
        self.running = Some(Running { name: job.name(), key: key.clone(), run_id: job.run_id });
        self.admit(key, job);
        self.running = None;
    }

    pub(super) fn admit(&mut self, key: EntityRef, job: Job) {
        if key.kind != EntityKind::Workflow {
            return self.admit_to_machine(key, job);
        }
        let entry = self.cache.entry(&key, self.clock.now());
        let missing = match (&entry.workflow, job.run_id) {
            (None, run_id) => Some(run_id),
            (Some(workflow), Some(run_id))
                if !workflow.runs.contains_key(&run_id) && !entry.absent.contains(&run_id) =>
            {
                Some(Some(run_id))
            }
            (Some(workflow), _) => missing_base(workflow, &entry.absent, &job).map(Some),
        };
        let Some(run_id) = missing else {
            if let Some(job) = self.find_recipient(&key, job) {
                self.execute(&key, job);
            }
            return;
        };
        let (with_current, born) = (entry.workflow.is_none(), entry.born);
        let first = entry.waiting.is_empty();
        let may_exist = || {
            let run = run_id.map(|run_id| rows::only_row(&key.key().run(&run_id.0), RunRowKind::State));
            run.into_iter().chain([key.key().current()]).any(|row| (self.applied.may_exist)(&row))
        };
        if with_current && first && !may_exist() {
            // Most workflows that are started were never there, and memory says so.
            entry.workflow = Some(Workflow::new(&*key.id));
            return self.execute(&key, job);
        }
        let new_run = run_id.filter(|run_id| entry.loading.insert(*run_id));
        entry.waiting.push(job);
        if with_current && !first {
            // The workflow is being read; runs that are still missing then are asked for when it is there.
            if let Some(run_id) = new_run {
                entry.loading.remove(&run_id);
            }
            return;
        }
        if with_current || new_run.is_some() {
            self.loads += 1;
            let runs = new_run.into_iter().collect();
            self.actions.push(Action::Load(LoadRequest { entity: key, born, runs, with_current, search: None }));
        }
    }

    /// Takes in what was read of a workflow, and does the jobs that waited for it.
    pub(crate) fn loaded(&mut self, loaded: Loaded) {
        self.loads = self.loads.saturating_sub(1);
        let key = loaded.entity;
        // One that has left memory since then, and is back, asks itself.
        let Some(entry) = self.cache.get_mut(&key).filter(|entry| entry.born == loaded.born) else { return };
        let found = match loaded.found {
            Ok(found) => found,
            Err(error) => {
                let waiting = std::mem::take(&mut entry.waiting);
                let refusal = CallError::Corrupt(format!("the {} cannot be read: {error}", name(key.kind)));
                waiting.into_iter().for_each(|job| job.refuse(&refusal));
                // What is due in it would never happen.
                let (id, namespace_id) = (&key.id, key.namespace_id);
                let error = format!("{} {id:?} of namespace {namespace_id} cannot be read: {error}", name(key.kind));
                return self.actions.push(Action::Fail(error));
            }
        };
        let found = match found {
            Found::Workflow(found) => found,
            Found::Machine(found) => return self.loaded_machine(&key, loaded.asked, loaded.with_current, found),
        };
        for run_id in loaded.asked {
            entry.loading.remove(&run_id);
            if !found.runs.contains_key(&run_id) {
                entry.absent.insert(run_id);
            }
        }
        if let Some((search, taken)) = loaded.search
            && let Some((_, found)) = entry.searches.iter_mut().find(|(asked, _)| *asked == search)
        {
            *found = Some(taken);
        }
        if entry.workflow.is_none() && !loaded.with_current {
            return;
        }
        let waiting = std::mem::take(&mut entry.waiting);
        self.cache.add_runs(&key, found);
        for job in waiting {
            self.take(job);
        }
        if let Some(entry) = self.cache.get_mut(&key)
            && entry.waiting.is_empty()
        {
            entry.searches = Vec::new();
        }
    }

    pub(super) fn execute(&mut self, key: &EntityRef, job: Job) {
        self.step = job.step();
        let Job { address, run_id, work, operation: _, charge: _charge } = job;
        match work {
            Work::Command { command, reply } => {
                let _not_followed = self.command(key, &address, run_id, command, reply);
            }
            Work::FollowUpdate { command, reply, news } => {
                if let Some(update) = self.command(key, &address, run_id, command, Some(reply)) {
                    self.follow(key, &update, news);
                }
            }
            Work::Settle { message, source, event_id, outcome } => {
                let command: Option<Command> = match source {
                    EntityKind::Workflow => Some(RunCommand::SettleMessage { event_id, outcome }.into()),
                    EntityKind::Schedule => {
                        let run_id = run_id.unwrap_or_default();
                        Some(ScheduleCommand::Settle { run_id, number: event_id, outcome }.into())
                    }
                    // They send none.
                    EntityKind::BatchJob | EntityKind::Activity => None,
                };
                if let Some(command) = command {
                    let _not_followed = self.command(key, &address, run_id, command, None);
                }
                self.forget_message(message);
            }
            Work::Inspect(inspect) => {
                let limits = self.settings.limits.of(&address.namespace.name);
                let mut ids = Ids::new(self.seeds.seed());
                let Some(entry) = self.cache.get_mut(key) else { return };
                let Some(workflow) = &entry.workflow else { return };
                let last_batch = entry.last_batch;
                let context = Context {
                    now: self.clock.now(),
                    latest: self.clock.latest(),
                    namespace: &address.namespace,
                    limits: &limits,
                    ids: &mut ids,
                };
                let tell = inspect(Ok((workflow, &context)));
                self.when_durable(last_batch, Outgoing::Tell(tell));
            }
            Work::Watch { seen, reply, .. } => self.watch(key, run_id, seen, reply),
        }
        self.step = None;
        self.note_taken_over(key);
        // One with rows on their way is counted when these are applied.
        if self.cache.get_mut(key).is_some_and(|entry| entry.last_batch <= self.batches.committed) {
            self.cache.recount_durable(key, self.clock.now());
        }
    }

    /// Decides a command. Returns the update that it is about, if it is about one.
    fn command(
        &mut self,
        key: &EntityRef,
        address: &WorkflowRef,
        run_id: Option<RunId>,
        mut command: Command,
        reply: Option<ReplyTo>,
    ) -> Option<UpdateReply> {
        if let Command::Run(RunCommand::CompleteWorkflowTask(token, ..) | RunCommand::FailWorkflowTask(token, _)) =
            &mut command
        {
            token.is_proven = self.is_whole(token.history_position);
        }
        if let Command::Run(RunCommand::ReceiveMessage(message)) | Command::Schedule(ScheduleCommand::Hear(message)) =
            &command
        {
            self.clock.observe(message.sent);
        }
        let mut command = match command {
            Command::Schedule(command) => {
                self.machine_command(key, address, run_id, MachineCommand::Schedule(command), reply);
                return None;
            }
            Command::BatchJob(command) => {
                self.machine_command(key, address, run_id, MachineCommand::BatchJob(command), reply);
                return None;
            }
            Command::Activity(command) => {
                let is_start = matches!(command.of_worker(), Some(RunCommand::StartActivityTask(_)));
                if is_start && reply.as_ref().is_some_and(ReplyTo::is_closed) {
                    // The poller is gone, and its lease has offered the task again.
                    return None;
                }
                self.machine_command(key, address, run_id, MachineCommand::Activity(command), reply);
                return None;
            }
            command => command,
        };
        let (starts_task, start) = match command {
            Command::Run(RunCommand::StartWorkflowTask(_)) => (true, Start::WorkflowTask),
            Command::Run(RunCommand::StartActivityTask(_)) => (true, Start::Activity),
            Command::Run(RunCommand::StartQueryTask { .. }) => (true, Start::None),
            _ => (false, Start::None),
        };
        if starts_task && reply.as_ref().is_some_and(ReplyTo::is_closed) {
            // The poller is gone, and its lease has offered the task again.
            return None;
        }
        let limits = self.settings.limits.of(&address.namespace.name);
        let entry = self.cache.get_mut(key)?;
        if let Command::ResetWorkflow(reset) = &mut command {
            read_on(entry, &mut reset.later);
        }
        let workflow = entry.workflow.as_mut()?;
        if start == Start::WorkflowTask
            && let Some(run) = workflow.run(run_id)
            && run.has_undelivered_messages(limits.undelivered_messages_max)
        {
            // The task is offered again; until then some of its messages may have arrived.
            let error = CallError::Unavailable(format!("run {} waits for its messages to arrive", run.id));
            self.answers.extend(reply.map(|reply| Outgoing::Reply(reply, Err(error))));
            return None;
        }
        let mut ids = Ids::new(self.seeds.seed());
        let mut context = Context {
            now: self.clock.now(),
            latest: self.clock.latest(),
            namespace: &address.namespace,
            limits: &limits,
            ids: &mut ids,
        };
        let name = command.name();
        let decided = decide(workflow, run_id, command, &mut context);
        let run = run_id.or(workflow.current.as_ref().map(|current| current.run_id));
        tracing::debug!(
            command = name,
            namespace = address.namespace.name,
            workflow_id = &*address.workflow_id,
            run_id = run.map(tracing::field::display),
            rejection = decided.as_ref().err().map(tracing::field::display),
            "decided"
        );
        let (result, wrote) = match decided {
            Ok(transition) => self.carry_out(key, address, transition),
            Err(rejection) => (Err(CallError::Rejected(rejection)), false),
        };
        let entry = self.cache.get_mut(key)?;
        let last_batch = entry.last_batch;
        let history = result.as_ref().ok().and_then(|reply| history_of(reply, run_id, entry));
        let update = match &result {
            Ok(Reply::Update(update)) => Some(update.clone()),
            _ => None,
        };
        let answer = result.map(|mut reply| {
            if let Some(start) = started_task(&mut reply)
                && let Some(token) = &mut start.token
            {
                token.history_position = self.history_position(last_batch);
                start.response.task_token = token::encode(token);
            }
            Answer { reply, history }
        });
        self.schedule_wakes(key);
        let Some(reply) = reply else { return update };
        let wait = match start {
            // A worker may see a workflow task before its entry is durable: its answer stands behind that entry.
            Start::WorkflowTask => 0,
            // An activity is offered once its schedule is durable; a start that wrote nothing rests on nothing else.
            Start::Activity if !wrote => 0,
            Start::Activity | Start::None => last_batch,
        };
        self.when_durable(wait, Outgoing::Reply(reply, answer));
        update
    }

    /// Puts a transition's rows into the forming batch and its effects where they belong. Returns the reply, and whether there
    /// were rows.
    pub(super) fn carry_out(
        &mut self,
        key: &EntityRef,
        address: &WorkflowRef,
        transition: Transition,
    ) -> (Result<Reply, CallError>, bool) {
        let Transition { reply, rows, effects } = transition;
        let wrote = !rows.is_empty();
        let batches = &mut self.batches;
        let sequence = batches.sequence;
        let mut last_batch = 0;
        let mut goes_on_from_another = false;
        let mut gone = Vec::new();
        if let Some(entry) = self.cache.get_mut(key) {
            if wrote {
                batches.forming.count_command(self.instant);
            }
            if wrote && entry.last_batch != sequence {
                entry.last_batch = sequence;
                batches.touched.push(key.clone());
            }
            let keys = key.key();
            for (row, value) in rows {
                match (&row, &value) {
                    (RowKey::Run(run_id, row), Some(events)) => {
                        goes_on_from_another |= row.kind == RunRowKind::Branch;
                        if let Some(first) = row.first_event_id() {
                            // A child's first run may have been looked for before it began.
                            entry.absent.remove(run_id);
                            entry.runs.tail_mut(*run_id).push(first, events.clone(), sequence);
                        }
                    }
                    (RowKey::WholeRun(run_id), None) => {
                        entry.remove_run(*run_id);
                        gone.push(*run_id);
                    }
                    _ => {}
                }
                batches.forming.push(rows::change(&keys, row, value));
            }
            if wrote && !self.watchers.is_empty() {
                for (run_id, run) in entry.workflow.iter().flat_map(|workflow| &workflow.runs) {
                    let watched = (key.clone(), *run_id);
                    if self.watchers.contains_key(&watched) {
                        batches.views.insert(watched, view(run));
                    }
                }
                for view in entry.machine.iter().flat_map(Machine::views) {
                    let watched = (key.clone(), view.run_id);
                    if self.watchers.contains_key(&watched) {
                        batches.views.insert(watched, view);
                    }
                }
                for run_id in gone {
                    let watched = (key.clone(), run_id);
                    if self.watchers.contains_key(&watched) {
                        batches.views.insert(watched, RunView { run_id, ..RunView::default() });
                    }
                }
            }
            last_batch = entry.last_batch;
        }
        if let Some(step) = self.step.take()
            && let Ok(reply) = &reply
            && wrote
        {
            self.journal.record(step, address.slot(), sequence, reply);
        }
        for effect in effects {
            match effect {
                // The worker is sent events of another run, and pages of a history are read from rows.
                Effect::OfferTask(task) if goes_on_from_another => {
                    self.when_durable(last_batch, Outgoing::Task(address.clone(), task));
                }
                effect => self.effect(address, effect, last_batch),
            }
        }
        (reply.map_err(CallError::Rejected), wrote)
    }

    fn effect(&mut self, address: &WorkflowRef, effect: Effect, last_batch: u64) {
        match effect {
            // A workflow task may be offered before the entry that caused it is durable: its answer stands behind that entry.
            Effect::OfferTask(task) if task.key.kind == TaskKind::Workflow => {
                self.actions.push(Action::Release(Outgoing::Task(address.clone(), task)));
            }
            Effect::OfferTask(task) => self.when_durable(last_batch, Outgoing::Task(address.clone(), task)),
            Effect::OfferQuery(query) => self.when_durable(last_batch, Outgoing::Query(address.clone(), query)),
            Effect::Send(message) => self.send(address, *message),
            Effect::AnswerQuery { query_id, answer } => {
                self.when_durable(last_batch, Outgoing::QueryAnswer { query_id, answer });
            }
            Effect::UpdateAdvanced { run_id, update_id, status } => {
                self.update_advanced(address.entity(), run_id, &update_id, status, last_batch);
            }
            Effect::CallNexus(call) => {
                self.when_durable(last_batch, Outgoing::NexusCall(address.clone(), call));
            }
            Effect::Archive { run_id } => {
                self.when_durable(last_batch, Outgoing::Archive(address.clone(), run_id));
            }
            Effect::BatchJob { run_id, is_running } => {
                self.when_durable(last_batch, Outgoing::BatchJob(address.clone(), run_id, is_running));
            }
        }
    }
}

/// A run that is not in memory and has to be, because the job may delete one that goes on from it: what nobody holds any more goes, too.
fn missing_base(workflow: &Workflow, absent: &AbsentRuns, job: &Job) -> Option<RunId> {
    let Work::Command { command: Command::Run(command), .. } = &job.work else { return None };
    if !matches!(command, RunCommand::DeleteWorkflow | RunCommand::FireTimers) {
        return None;
    }
    let mut run = workflow.run(job.run_id).filter(|run| !run.is_open())?;
    loop {
        let base = run.branch.as_ref()?.base_run_id;
        match workflow.runs.get(&base) {
            Some(remains) if remains.state.is_remains => run = remains,
            Some(_) => return None,
            None => return (!absent.contains(&base)).then_some(base),
        }
    }
}

/// Adds to what was read for a reset what has happened since, if it is in memory.
fn read_on(entry: &Entry, later: &mut Later) {
    let (run_id, read) = later.read();
    let Some(run) = entry.workflow.as_ref().and_then(Workflow::current_run).filter(|run| run.id == run_id) else {
        return;
    };
    if End::of(run) == read {
        return;
    }
    let Some(batches) = entry.runs.tail(run_id).and_then(|tail| tail.since(read.next_event_id)) else { return };
    let events = batches.into_iter().map(|batch| reset::decode(run_id, batch)).collect::<Result<Vec<_>, _>>();
    if let Ok(events) = events {
        later.take_on(End::of(run), events.into_iter().flatten());
    }
}

/// Which task a command starts, if any.
#[derive(PartialEq, Eq)]
enum Start {
    WorkflowTask,
    Activity,
    None,
}

/// The workflow task that goes to a worker with a reply.
fn started_task(reply: &mut Reply) -> Option<&mut WorkflowTaskStart> {
    match reply {
        Reply::WorkflowTaskStarted(start) => Some(start),
        Reply::WorkflowTaskCompleted(completed) => completed.next.as_deref_mut(),
        Reply::Started(started) => started.first_task.as_deref_mut(),
        _ => None,
    }
}

/// Where the history is that goes with a reply.
fn history_of(reply: &Reply, run_id: Option<RunId>, entry: &Entry) -> Option<history::HistorySource> {
    let (run_id, start) = match reply {
        Reply::WorkflowTaskStarted(start) | Reply::QueryTask(start) => (run_id?, start),
        Reply::WorkflowTaskCompleted(completed) => (run_id?, completed.next.as_ref()?),
        Reply::Started(started) => (started.run_id, started.first_task.as_ref()?),
        _ => return None,
    };
    match entry.runs.tail(run_id) {
        Some(tail) => Some(tail.source(run_id, start.history_from, start.history_to)),
        None => Some(history::HistoryTail::default().source(run_id, start.history_from, start.history_to)),
    }
}

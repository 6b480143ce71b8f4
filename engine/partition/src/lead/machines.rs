//! Jobs on state machines beside workflows: read first, where they must be, and decided like those on workflows.

use everlog_kernel::{Context, EntityKind, Ids, RunId, RunRowKind};
use everlog_model::{CallError, EntityRef, WorkflowRef, rows};

use super::super::job::{Answer, Job, ReplyTo};
use super::super::load::LoadRequest;
use super::super::machine::{Machine, MachineCommand, name};
use super::{Action, Lead, Outgoing};

impl Lead {
    /// Does a job on a state machine, or sets it aside while its rows are read.
    pub(super) fn admit_to_machine(&mut self, key: EntityRef, job: Job) {
        let entry = self.cache.entry(&key, self.clock.now());
        let missing = job.run_id.filter(|run_id| !entry.absent.contains(run_id));
        let (with_current, born) = (entry.machine.is_none(), entry.born);
        // Only some kinds have several runs, each of which is read when it is asked for.
        let missing = match &entry.machine {
            Some(machine) => missing.filter(|run_id| machine.lacks(*run_id)),
            None => missing.filter(|_| key.kind == EntityKind::Activity),
        };
        if with_current || missing.is_some() {
            let is_first = entry.waiting.is_empty();
            let may_exist = || {
                let run =
                    missing.map(|run_id| rows::only_row(&key.key().run(&run_id.0), RunRowKind::ActivityExecution));
                run.into_iter().chain([key.key().current()]).any(|row| (self.applied.may_exist)(&row))
            };
            if !with_current || !is_first || may_exist() {
                let new_run = missing.filter(|run_id| entry.loading.insert(*run_id));
                entry.waiting.push(job);
                if with_current && !is_first {
                    // It is being read; a run that is still missing then is asked for when it is there.
                    if let Some(run_id) = new_run {
                        entry.loading.remove(&run_id);
                    }
                    return;
                }
                if with_current || new_run.is_some() {
                    self.loads += 1;
                    let runs = new_run.into_iter().collect();
                    self.actions.push(Action::Load(LoadRequest {
                        entity: key,
                        born,
                        runs,
                        with_current,
                        search: None,
                    }));
                }
                return;
            }
            entry.machine = Machine::new(key.kind, &key.id);
        }
        self.execute(&key, job);
    }

    /// Takes in a state machine that was read, and does the jobs that waited for it.
    pub(super) fn loaded_machine(&mut self, key: &EntityRef, asked: Vec<RunId>, with_current: bool, found: Machine) {
        let Some(entry) = self.cache.get_mut(key) else { return };
        for run_id in asked {
            entry.loading.remove(&run_id);
            if found.lacks(run_id) {
                entry.absent.insert(run_id);
            }
        }
        match &mut entry.machine {
            Some(machine) => machine.merge(found),
            None if with_current => entry.machine = Some(found),
            None => return,
        }
        let waiting = std::mem::take(&mut entry.waiting);
        self.cache.recount(key);
        for job in waiting {
            self.take(job);
        }
    }

    /// Decides a command to a state machine.
    pub(super) fn machine_command(
        &mut self,
        key: &EntityRef,
        address: &WorkflowRef,
        run_id: Option<RunId>,
        command: MachineCommand,
        reply: Option<ReplyTo>,
    ) {
        let limits = self.settings.limits.of(&address.namespace.name);
        let mut ids = Ids::new(self.seeds.seed());
        let Some(machine) = self.cache.get_mut(key).and_then(|entry| entry.machine.as_mut()) else { return };
        let mut context = Context {
            now: self.clock.now(),
            latest: self.clock.latest(),
            namespace: &address.namespace,
            limits: &limits,
            ids: &mut ids,
        };
        let command_name = command.name();
        let decided = machine.decide(run_id, command, &mut context);
        tracing::debug!(
            command = command_name,
            namespace = address.namespace.name,
            kind = name(key.kind),
            id = &*address.workflow_id,
            rejection = decided.as_ref().err().map(tracing::field::display),
            "decided"
        );
        let result = match decided {
            Ok(transition) => self.carry_out(key, address, transition).0,
            Err(rejection) => Err(CallError::Rejected(rejection)),
        };
        self.schedule_look(key);
        let Some(reply) = reply else { return };
        let last_batch = self.cache.get_mut(key).map_or(0, |entry| entry.last_batch);
        let answer = result.map(|reply| Answer { reply, history: None });
        self.when_durable(last_batch, Outgoing::Reply(reply, answer));
    }
}

//! Jobs on state machines beside workflows: read first, where they must be, and decided like those on workflows.

use everlog_kernel::{Context, Ids};
use everlog_model::{CallError, EntityRef, WorkflowRef};

use super::super::job::{Answer, Job, ReplyTo};
use super::super::load::LoadRequest;
use super::super::machine::{Machine, MachineCommand, name};
use super::{Action, Lead, Outgoing};

impl Lead {
    /// Does a job on a state machine, or sets it aside while its rows are read.
    pub(super) fn admit_to_machine(&mut self, key: EntityRef, job: Job) {
        let entry = self.cache.entry(&key, self.clock.now());
        if entry.machine.is_none() {
            let is_first = entry.waiting.is_empty();
            if !is_first || (self.applied.may_exist)(&key.key().current()) {
                entry.waiting.push(job);
                if is_first {
                    self.loads += 1;
                    let request = LoadRequest { entity: key, runs: Vec::new(), with_current: true, search: None };
                    self.actions.push(Action::Load(request));
                }
                return;
            }
            entry.machine = Machine::new(key.kind, &key.id);
        }
        self.execute(&key, job);
    }

    /// Takes in a state machine that was read, and does the jobs that waited for it.
    pub(super) fn loaded_machine(&mut self, key: &EntityRef, found: Machine) {
        let Some(entry) = self.cache.get_mut(key) else { return };
        entry.machine.get_or_insert(found);
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
        let decided = machine.decide(command, &mut context);
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

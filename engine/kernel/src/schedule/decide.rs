//! The one entry: a command is carried out, and what it did becomes a transition.

use everlog_proto::api::schedule::v1::{BackfillRequest, SchedulePatch};
use everlog_proto::api::workflowservice::v1::{CreateScheduleRequest, PatchScheduleRequest, UpdateScheduleRequest};

use super::state::{Carried, Live, MadeOf, Progress, Schedule, Start, filled, jitter_seed};
use super::{ScheduleCommand, advance, token};
use crate::command::Reply;
use crate::outbox::{MessageBody, OutboxMessage};
use crate::transition::{Effect, Transition};
use crate::{Context, Rejection, Time};

/// The conflict token of a new schedule.
const FIRST_TOKEN: i64 = 1;

/// How far back times are looked for that jitter has put off, nanoseconds.
const JITTER_MAX: i64 = 24 * 3600 * 1_000_000_000;

/// Ids of requests that are remembered.
const REQUEST_IDS_MAX: usize = 16;

/// A schedule under change.
pub(super) struct Change<'a, 'b> {
    pub(super) live: Box<Live>,
    pub(super) id: &'a str,
    pub(super) ctx: &'a mut Context<'b>,
    pub(super) effects: Vec<Effect>,
    pub(super) is_new: bool,
    pub(super) made_of_changed: bool,
    pub(super) carried_changed: bool,
    /// It has nothing more to do, and has had its time.
    pub(super) is_over: bool,
}

/// Decides `command` on the state of `schedule`, which is changed *ahead* of the log: the caller drops it if the rows are not committed.
/// On an error nothing is changed.
///
/// # Errors
///
/// A [`Rejection`] says why the command cannot be carried out.
pub fn decide(
    schedule: &mut Schedule,
    command: ScheduleCommand,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    match command {
        ScheduleCommand::Create(request) => create(schedule, *request, ctx),
        ScheduleCommand::Describe => {
            let live = schedule.live.as_ref().ok_or_else(not_found)?;
            let is_settled = live.progress.starting.is_empty();
            Ok(Transition::reply(Reply::Schedule(Box::new(live.describe(&schedule.id, ctx)), is_settled)))
        }
        ScheduleCommand::Delete => {
            let live = schedule.live.take().ok_or_else(not_found)?;
            let mut transition = Transition::reply(Reply::Done);
            live.delete_rows(&mut transition.rows);
            Ok(transition)
        }
        ScheduleCommand::Update(request) => on_live(schedule, ctx, |change| change.update(*request)),
        ScheduleCommand::Patch(request) => on_live(schedule, ctx, |change| change.patch(*request)),
        ScheduleCommand::Wake => on_live(schedule, ctx, |change| change.advance()),
        ScheduleCommand::Hear(message) => {
            let OutboxMessage { source_workflow_id, body, .. } = *message;
            let MessageBody::ScheduledClosed(closed) = body else { return Err(not_found()) };
            on_live(schedule, ctx, |change| {
                change.closed(source_workflow_id, *closed);
                change.advance();
            })
        }
        ScheduleCommand::Settle { run_id, number, outcome } => {
            if schedule.live.as_ref().is_none_or(|live| live.run_id != run_id) {
                return Ok(Transition::reply(Reply::Done));
            }
            on_live(schedule, ctx, |change| {
                change.settle(number, outcome);
                change.advance();
            })
        }
    }
}

fn not_found() -> Rejection {
    Rejection::workflow_not_found()
}

fn create(
    schedule: &mut Schedule,
    request: CreateScheduleRequest,
    ctx: &mut Context<'_>,
) -> Result<Transition, Rejection> {
    if let Some(live) = &schedule.live {
        if live.made_of.request_id == request.request_id {
            return Ok(Transition::reply(Reply::ScheduleToken(token(FIRST_TOKEN))));
        }
        return Err(Rejection::AlreadyStarted {
            message: format!("schedule {:?} is already registered", schedule.id),
            start_request_id: String::new(),
            run_id: String::new(),
            first_execution_run_id: String::new(),
        });
    }
    let mut definition = filled(request.schedule.unwrap_or_default());
    let now = ctx.now.0;
    let progress = Progress {
        created: now,
        dealt_with: now,
        conflict_token: FIRST_TOKEN,
        state: definition.state.take(),
        ..Progress::default()
    };
    let made_of = MadeOf {
        definition: Some(definition),
        memo: crate::payload_map::memo(request.memo),
        search_attributes: crate::payload_map::search_attributes(request.search_attributes),
        request_id: request.request_id,
    };
    let run_id = ctx.ids.run_id(ctx.now);
    let mut live = Box::new(Live { run_id, made_of, progress, carried: Carried::default(), compiled: None });
    live.compile();
    let mut change = Change::new(live, &schedule.id, ctx);
    change.is_new = true;
    change.made_of_changed = true;
    if let Some(patch) = request.initial_patch {
        change.apply(patch);
    }
    change.advance();
    let (live, mut transition) = change.finish();
    schedule.live = live;
    transition.reply = Ok(Reply::ScheduleToken(token(FIRST_TOKEN)));
    Ok(transition)
}

fn on_live(
    schedule: &mut Schedule,
    ctx: &mut Context<'_>,
    handler: impl FnOnce(&mut Change<'_, '_>),
) -> Result<Transition, Rejection> {
    let live = schedule.live.take().ok_or_else(not_found)?;
    let mut change = Change::new(live, &schedule.id, ctx);
    handler(&mut change);
    let (live, transition) = change.finish();
    schedule.live = live;
    Ok(transition)
}

impl<'a, 'b> Change<'a, 'b> {
    fn new(live: Box<Live>, id: &'a str, ctx: &'a mut Context<'b>) -> Change<'a, 'b> {
        Change {
            live,
            id,
            ctx,
            effects: Vec::new(),
            is_new: false,
            made_of_changed: false,
            carried_changed: false,
            is_over: false,
        }
    }

    /// What decides its jitter, with the time.
    pub(super) fn seed(&self) -> String {
        jitter_seed(self.ctx.namespace.id, self.id)
    }

    /// Whether a request was carried out before. It counts as carried out from now on.
    fn is_repeated(&mut self, request_id: String) -> bool {
        let known = &mut self.live.progress.request_ids;
        if request_id.is_empty() {
            return false;
        }
        if known.contains(&request_id) {
            return true;
        }
        known.push(request_id);
        let too_many = known.len().saturating_sub(REQUEST_IDS_MAX);
        known.drain(..too_many);
        false
    }

    fn update(&mut self, request: UpdateScheduleRequest) {
        if self.is_repeated(request.request_id) {
            return;
        }
        let token = request.conflict_token.first_chunk().map_or(0, |token| i64::from_be_bytes(*token));
        if token != 0 && token != self.live.progress.conflict_token {
            // Temporal drops it without a word, and clients rely on the answer that they have had.
            return;
        }
        // What was due before belongs to the schedule as it was.
        self.advance();
        let mut definition = filled(request.schedule.unwrap_or_default());
        self.live.progress.state = definition.state.take();
        self.live.made_of.definition = Some(definition);
        if let Some(attributes) = request.search_attributes {
            self.live.made_of.search_attributes = crate::payload_map::search_attributes(Some(attributes));
        }
        self.made_of_changed = true;
        self.live.compile();
        // What jitter has put off is still to come; everything else before now belonged to the schedule as it was.
        let jitter = self.live.compiled.as_ref().map_or(0, |compiled| compiled.jitter().min(JITTER_MAX));
        self.live.progress.dealt_with = self.live.progress.dealt_with.max(self.ctx.now.0 - jitter);
        self.live.progress.updated = self.ctx.now.0;
        self.live.progress.conflict_token += 1;
        self.is_over = false;
        self.advance();
    }

    fn patch(&mut self, request: PatchScheduleRequest) {
        if self.is_repeated(request.request_id) {
            return;
        }
        self.advance();
        self.apply(request.patch.unwrap_or_default());
        self.is_over = false;
        self.advance();
    }

    fn apply(&mut self, patch: SchedulePatch) {
        if let Some(trigger) = patch.trigger_immediately {
            let at = trigger.scheduled_time.as_ref().map_or(self.ctx.now, Time::from_proto);
            let (nominal, actual) = (at.0, at.0);
            self.buffer(Start { nominal, actual, overlap: trigger.overlap_policy, is_manual: true });
        }
        for backfill in patch.backfill_request {
            /// The beginning of a backfill counts, that of a range does not.
            const BEFORE: i64 = 1_000_000;
            if self.live.progress.backfills.len() >= advance::BUFFER_MAX {
                self.live.progress.buffer_dropped += 1;
                continue;
            }
            let start = backfill.start_time.as_ref().map_or(Time(0), Time::from_proto);
            let start_time = Some(Time(start.0.saturating_sub(BEFORE)).to_proto());
            self.live.progress.backfills.push(BackfillRequest { start_time, ..backfill });
        }
        for (notes, paused) in [(patch.pause, true), (patch.unpause, false)] {
            if !notes.is_empty() {
                let state = self.live.state();
                state.paused = paused;
                state.notes = notes;
                self.live.progress.conflict_token += 1;
            }
        }
    }
}

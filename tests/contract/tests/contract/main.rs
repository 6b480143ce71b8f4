//! Plays every scenario on Everlog; see the crate's documentation.

#![allow(clippy::unwrap_used)] // a test fails by panicking, also in its helpers

mod server;

use std::collections::BTreeMap;

use everlog_contract::script::Scenario;
use everlog_contract::{
    CONFIG, Difference, Known, bad_input, differences, play_all, play_bad_input, read_expectation, scenarios,
};
use serde_json::Value;
use server::Server;

/// Scenarios that are played at a time on one server: most of them wait most of the time.
const AT_ONCE: usize = 32;

/// Methods that are given bad input at a time: some of it is large.
const METHODS_AT_ONCE: usize = 6;

/// Differences that a failure shows.
const SHOWN_MAX: usize = 40;

/// `EVERLOG_SCENARIO=start/cron` plays the scenarios whose names begin like this, and shows all their differences.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everlog_shows_what_temporal_shows() {
    let only = std::env::var("EVERLOG_SCENARIO").ok();
    let wanted = |scenario: &Scenario| only.as_ref().is_none_or(|only| scenario.path().starts_with(only));
    let mut by_config: BTreeMap<Vec<String>, Vec<Scenario>> = BTreeMap::new();
    for scenario in scenarios().unwrap().into_iter().filter(wanted) {
        by_config.entry(scenario.config.clone()).or_default().push(scenario);
    }
    let methods = match only.as_deref().map(|only| only.split_once('/').unwrap_or((only, ""))) {
        None => Some(""),
        Some((area, method)) => (area == bad_input::AREA).then_some(method),
    };
    assert!(!by_config.is_empty() || methods.is_some(), "no scenario is called like that");
    let played = by_config.into_iter().map(|(config, scenarios)| play(config, scenarios));
    let mut found: Vec<(String, Difference)> = futures::future::join_all(played).await.into_iter().flatten().collect();
    // Not at the same time: scenarios are about time, and bad input is large.
    if let Some(methods) = methods {
        found.extend(play_bad(methods).await);
    }
    let known = if only.is_some() { Known::default() } else { Known::read().unwrap() };
    let verdict = known.judge(found);
    let unknown: Vec<String> =
        verdict.unknown.iter().map(|(scenario, difference)| format!("{scenario}: {difference}")).collect();
    let shown_max = if only.is_some() { usize::MAX } else { SHOWN_MAX };
    let shown: Vec<&str> = unknown.iter().map(String::as_str).take(shown_max).collect();
    assert!(unknown.is_empty(), "{} differences that are not known, such as:\n{}", unknown.len(), shown.join("\n"));
    assert!(verdict.gone.is_empty(), "these differences are gone; take them out of the list: {:#?}", verdict.gone);
}

/// Differences in what methods answer to bad input.
async fn play_bad(only: &str) -> Vec<(String, Difference)> {
    let server = Server::start(CONFIG.iter().copied().chain(bad_input::CONFIG)).await;
    let played = play_bad_input(&server.address, only, METHODS_AT_ONCE).await.unwrap();
    assert!(!played.is_empty(), "no method is called like that");
    let mut found = Vec::new();
    for (method, shown) in played {
        let scenario = bad_input::scenario(&method);
        let expected = read_expectation(&scenario).unwrap();
        found.extend(differences(&expected, &shown).into_iter().map(|difference| (scenario.path(), difference)));
    }
    found
}

/// Differences of scenarios that share a dynamic configuration.
async fn play(config: Vec<String>, scenarios: Vec<Scenario>) -> Vec<(String, Difference)> {
    let server = Server::start(CONFIG.iter().copied().chain(config.iter().map(String::as_str))).await;
    let shown: Vec<Value> = play_all(&server.address, &scenarios, AT_ONCE).await.unwrap();
    let mut found = Vec::new();
    for (scenario, shown) in scenarios.iter().zip(shown) {
        let expected = read_expectation(scenario).unwrap();
        found.extend(differences(&expected, &shown).into_iter().map(|difference| (scenario.path(), difference)));
    }
    found
}

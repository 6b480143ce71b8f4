//! Tests of a cluster of real server processes.
//!
//! ```text
//! everlog-cluster-tests                            every test (the gate)
//! everlog-cluster-tests --only storm --seconds 3600 --seed 7
//! everlog-cluster-tests --figures                  what failures and new nodes cost, for the results of the benchmarks
//! ```
//!
//! `scenarios` are what must hold at any time; `storm` is load while nodes and links fail at random under a seed (the moments of what
//! happens in the processes are not under it). What callers are told goes to `checker`, which looks for an order that explains it. The
//! last line is `N passed, N failed`.

mod checker;
mod client;
mod failure;
mod faults;
mod figures;
mod harness;
mod load;
mod program;
mod record;
mod scenarios;
#[cfg(test)]
mod simulation;
mod storm;
mod worker;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::client::Seen;
use crate::failure::{Failure, ensure};
use crate::harness::Cluster;
use crate::scenarios::Stage;

/// Tests of a cluster of Everlog servers.
#[derive(Parser)]
#[command(name = "everlog-cluster-tests", version)]
struct Cli {
    /// The server's binary; built if it is not named.
    #[arg(long, env = "EVERLOG_BIN", value_name = "PATH")]
    everlog_bin: Option<PathBuf>,
    /// Only tests with this in their name. Those on one cluster need the one that forms it, which always runs with them.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Which faults there are, and when.
    #[arg(long, env = "EVERLOG_CLUSTER_SEED", default_value_t = 1)]
    seed: u64,
    /// How long faults are injected.
    #[arg(long, env = "EVERLOG_CLUSTER_SECONDS", default_value_t = 75)]
    seconds: u64,
    /// How many nodes the cluster with faults has.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Measure instead: what failures, new nodes and replicas cost.
    #[arg(long)]
    figures: bool,
    /// With --figures: how often a node is killed.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// With --figures: what the cluster holds when a node joins, megabytes.
    #[arg(long, default_value_t = 1000)]
    megabytes: u64,
}

/// The tests that share a cluster, in order. The first one makes it.
const SHARED: [&str; 10] = [
    "three_nodes_started_in_any_order_form_one_cluster",
    "a_namespace_is_usable_at_once_through_every_node",
    "a_workflow_is_found_at_once_through_every_node",
    "workers_at_one_node_get_the_tasks_of_all",
    "the_command_line_shows_and_steers_the_cluster",
    "each_node_is_killed_with_workflows_in_flight",
    "without_a_quorum_calls_are_refused_in_time_and_go_on_afterwards",
    "a_node_that_was_away_for_longer_than_the_log_goes_back_is_seeded",
    "a_wiped_directory_is_refused",
    "a_new_disk_takes_the_place_of_a_lost_one",
];
const FORMING: &str = "nodes_killed_while_they_form_a_cluster_form_one";
/// Each on a cluster of its own.
const ALONE: [&str; 10] = [
    "nodes_join_and_leave_under_load",
    "a_node_that_was_alone_grows_into_a_cluster",
    "replicas_are_more_fewer_and_elsewhere_under_load",
    "regions_fail_over_to_and_fro_under_load",
    "a_namespace_moves_to_another_placement_under_load",
    "a_cluster_gets_a_newer_release_node_by_node_under_load",
    "metadata_are_changed_once_while_leaders_are_killed",
    "stale_reads_are_never_older_than_they_may_be",
    "one_node_that_is_left_becomes_a_cluster_again",
    "two_nodes_of_five_that_are_left_become_a_cluster_again",
];
const STORM: &str = "storm_of_faults_loses_and_doubles_nothing";

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let binary = match harness::binary(cli.everlog_bin.clone()) {
        Ok(binary) => binary,
        Err(error) => {
            say(&format!("error: {error}"));
            return ExitCode::from(2);
        }
    };
    let directory = match tempfile::Builder::new().prefix("everlog-cluster-").tempdir() {
        Ok(directory) => directory,
        Err(error) => {
            say(&format!("error: no temporary directory: {error}"));
            return ExitCode::from(2);
        }
    };
    if cli.figures {
        let options = figures::Options { seed: cli.seed, kills: cli.kills, megabytes: cli.megabytes };
        let measured = figures::figures(&binary, directory.path(), options);
        return match tokio::task::LocalSet::new().run_until(measured).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                say(&format!("error: {failure}; data and logs are kept in {}", directory.keep().display()));
                ExitCode::FAILURE
            }
        };
    }
    let mut tests =
        Tests { passed: 0, failed: 0, only: cli.only.clone(), binary, directory: directory.path().to_owned() };
    let all = async {
        tests.shared().await;
        tests.storm(&cli).await;
    };
    tokio::task::LocalSet::new().run_until(all).await;
    let Tests { passed, failed, .. } = tests;
    if failed > 0 {
        say(&format!("data and logs are kept in {}", directory.keep().display()));
    }
    say(&format!("{passed} passed, {failed} failed"));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Tests {
    passed: usize,
    failed: usize,
    only: Option<String>,
    binary: PathBuf,
    directory: PathBuf,
}

impl Tests {
    fn is_chosen(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|text| name.contains(text.as_str()))
    }

    /// Tells how a test went. Returns whether it passed.
    fn ended(
        &mut self,
        name: &str,
        began: Instant,
        result: Result<(), Failure>,
        logs: impl FnOnce() -> String,
    ) -> bool {
        let seconds = began.elapsed().as_secs_f32();
        match result {
            Ok(()) => {
                self.passed += 1;
                say(&format!("ok      {name} ({seconds:.1} s)"));
                true
            }
            Err(failure) => {
                self.failed += 1;
                say(&format!("{}\nFAILED  {name} ({seconds:.1} s): {failure}", logs()));
                false
            }
        }
    }

    async fn shared(&mut self) {
        if !SHARED.iter().chain([&FORMING]).chain(&ALONE).any(|name| self.is_chosen(name)) {
            return;
        }
        let began = Instant::now();
        let cluster = match Cluster::new(&self.binary, &self.directory.join("scenarios"), 3).await {
            Ok(cluster) => cluster,
            Err(error) => {
                self.ended(SHARED[0], began, Err(error), String::new);
                return;
            }
        };
        let (seen, binary) = (Arc::<Seen>::default(), self.binary.clone());
        let stage = Stage { cluster, seen, binary, directory: self.directory.clone() };
        for (at, name) in SHARED.into_iter().enumerate() {
            if at > 0 && !self.is_chosen(name) {
                continue;
            }
            let began = Instant::now();
            let result = match at {
                0 => scenarios::any_order(&stage).await,
                1 => scenarios::namespaces(&stage).await,
                2 => scenarios::workflows(&stage).await,
                3 => scenarios::tasks(&stage).await,
                4 => scenarios::commands(&stage).await,
                5 => scenarios::kills(&stage).await,
                6 => scenarios::quorum(&stage).await,
                7 => scenarios::seeded(&stage).await,
                8 => scenarios::wiped(&stage).await,
                _ => scenarios::takes_the_place(&stage).await,
            };
            let passed = self.ended(name, began, result, || stage.cluster.logs());
            if at == 0 && !passed {
                return;
            }
            if !passed && let Err(error) = stage.cluster.heal().await {
                say(&format!("the cluster cannot be used any more: {error}"));
                return;
            }
        }
        if self.is_chosen(FORMING) {
            let began = Instant::now();
            let result = scenarios::restarted_while_forming(&stage).await;
            self.ended(FORMING, began, result, || stage.cluster.logs());
        }
        let stopped = stage.cluster.stop().await;
        for (at, name) in ALONE.into_iter().enumerate() {
            if !self.is_chosen(name) {
                continue;
            }
            let began = Instant::now();
            let result = match at {
                0 => scenarios::join_and_leave(&stage).await,
                1 => scenarios::one_grows(&stage).await,
                2 => scenarios::placed_anew(&stage).await,
                3 => scenarios::fail_over(&stage).await,
                4 => scenarios::moves_under_load(&stage).await,
                5 => scenarios::node_by_node(&stage).await,
                6 => scenarios::changed_once(&stage).await,
                7 => scenarios::while_cut_off(&stage).await,
                8 => scenarios::one_is_left(&stage).await,
                _ => scenarios::two_are_left(&stage).await,
            };
            self.ended(name, began, result, String::new);
        }
        if let Err(error) = stopped {
            self.ended("all_nodes_stop", began, Err(error), || stage.cluster.logs());
        }
    }

    async fn storm(&mut self, cli: &Cli) {
        if !self.is_chosen(STORM) {
            return;
        }
        let began = Instant::now();
        let options = storm::Options { seed: cli.seed, time: Duration::from_secs(cli.seconds) };
        say(&format!("{STORM}: seed {}, {} nodes, {} s", cli.seed, cli.nodes, cli.seconds));
        let directory = self.directory.join("storm");
        // One more, which takes the place of others.
        let cluster = match Cluster::with_others(&self.binary, &directory, cli.nodes, cli.nodes + 1).await {
            Ok(cluster) => cluster,
            Err(error) => {
                self.ended(STORM, began, Err(error), String::new);
                return;
            }
        };
        let seen = Arc::<Seen>::default();
        let result = async {
            ensure(cli.nodes >= 3, || "a cluster has three nodes or more".to_owned())?;
            cluster.start().await?;
            storm::storm(&cluster, &seen, options).await?;
            cluster.stop().await
        };
        let result = result.await;
        self.ended(STORM, began, result, || cluster.logs());
    }
}

/// Prints a line at once.
pub(crate) fn say(line: &str) {
    // Nobody can be told if the output is gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}

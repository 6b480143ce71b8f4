//! The real binary as a process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::Channel;

use super::Client;

/// Nothing that these processes do takes longer, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The flags that let the system choose every port.
pub(crate) const ANY_PORTS: [&str; 6] = ["--port", "0", "--http-port", "0", "--metrics-port", "0"];

pub(crate) fn everlog() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everlog"));
    command.stdin(Stdio::null());
    command
}

/// Runs the binary to its end: exit code, standard output, standard error.
pub(crate) fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = everlog().args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A server that serves. Killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    /// The line that it printed.
    pub(crate) line: String,
    /// From its start to that line.
    pub(crate) served_after: Duration,
    /// What it writes on standard error, once it has ended.
    logs: Option<JoinHandle<String>>,
}

impl Process {
    /// `everlog dev` on a data directory.
    pub(crate) async fn dev(data: &Path) -> Process {
        let mut command = everlog();
        command.arg("dev").args(ANY_PORTS).arg("--data-dir").arg(data);
        Process::start(command).await
    }

    /// Waits for the line with the addresses.
    pub(crate) async fn start(mut command: Command) -> Process {
        let begin = Instant::now();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        // Read to its end, so that the process never waits for a reader; shown if the server does not come up.
        let logs = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let read = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).unwrap();
            line
        });
        let line = tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        if line.is_empty() {
            panic!("{:?}: {}", child.wait().unwrap(), logs.join().unwrap());
        }
        Process { child, line: line.trim_end().to_owned(), served_after: begin.elapsed(), logs: Some(logs) }
    }

    /// The address that the line names under `what`.
    pub(crate) fn address(&self, what: &str) -> SocketAddr {
        let prefix = format!("{what}=");
        self.line.split(' ').find_map(|part| part.strip_prefix(&prefix)).unwrap().parse().unwrap()
    }

    pub(crate) async fn client(&self) -> Client {
        let url = format!("http://{}", self.address("grpc"));
        Client::new(Channel::from_shared(url).unwrap().connect().await.unwrap())
    }

    /// Answer of an HTTP listener to a GET, with its status line.
    pub(crate) async fn get(&self, listener: &str, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.address(listener)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: everlog\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// A figure of its memory, bytes, under its name in `/proc/PID/status`: `VmRSS:`, or `VmHWM:` for the most so far.
    pub(crate) fn memory(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }

    /// The CPU time that it has used.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 1..].split_ascii_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // 100 ticks a second wherever Linux runs.
        Duration::from_millis(ticks * 10)
    }

    /// Sends SIGTERM, SIGINT, ...
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }

    /// kill -9.
    pub(crate) async fn kill(mut self) {
        self.child.kill().unwrap();
        self.ended().await;
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            // There is no event for the end of a child without a signal handler of our own.
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "{} does not end", self.line);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends SIGTERM and waits for a good end.
    pub(crate) async fn stop(self) {
        self.stop_for_logs().await;
    }

    /// The same; returns what it has written on standard error.
    pub(crate) async fn stop_for_logs(mut self) -> String {
        self.signal("TERM");
        let status = self.ended().await;
        let logs = self.logs.take().unwrap().join().unwrap();
        assert_eq!(status.code(), Some(0), "{logs}");
        logs
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

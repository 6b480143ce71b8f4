//! A server process to send things to. Whatever is sent, it must go on, answer, and not panic; its log tells of panics.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use everlog_proto::RawCodec;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// How long a server may take until it serves, and to stop.
const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(30);
/// How long an answer may take: a server that is later than this hangs, however slow the machine is.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Responses are not looked at beyond this.
const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// A server that runs, with its data in a directory that goes with it.
pub(super) struct Server {
    pub(super) runtime: Runtime,
    channel: Channel,
    child: Child,
    log: PathBuf,
    _directory: TempDir,
}

impl Server {
    /// Starts `binary` and waits until it serves.
    pub(super) fn start(binary: &Path) -> Result<Server, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (child, channel, log) = runtime.block_on(start(binary, directory.path()))?;
        Ok(Server { runtime, channel, child, log, _directory: directory })
    }

    /// Calls a method (`package.Service/Method`) with `request` as the bytes of its message. `wait` is the deadline that the server is told.
    /// No answer at all is an error of the outer kind.
    pub(super) fn call(&self, method: &str, request: &[u8], wait: Duration) -> Result<Result<Bytes, Status>, String> {
        let request = Bytes::copy_from_slice(request);
        let call = async {
            let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX);
            grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
            let mut request = Request::new(request);
            request.set_timeout(wait);
            let path = format!("/{method}").parse().map_err(|_| Status::invalid_argument("no path"))?;
            Ok(grpc.unary(request, path, RawCodec).await?.into_inner())
        };
        let answer = self.runtime.block_on(async { tokio::time::timeout(ANSWER_MAX, call).await });
        answer.map_err(|_| format!("{method} is not answered within {} s", ANSWER_MAX.as_secs()))
    }

    /// What is wrong with the server after a request that was answered with `status`: a panic, its end, or an answer that blames itself.
    pub(super) fn complaint(&mut self, status: Option<&Status>) -> Option<String> {
        if let Some(panic) = self.panic() {
            return Some(panic);
        }
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(format!("the server has ended with {status}"));
        }
        let status = status?;
        // What is no message at all is answered so by every gRPC server.
        let no_message = status.message().starts_with("grpc: error unmarshalling request: ");
        let blames_itself = matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss) && !no_message;
        blames_itself.then(|| format!("answered with {:?}: {}", status.code(), status.message()))
    }

    /// The first panic that its log tells of.
    fn panic(&self) -> Option<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let at = lines.iter().position(|line| line.contains("panicked at"))?;
        Some(lines[at..(at + 2).min(lines.len())].join(" "))
    }

    /// Asks the server to stop. Says what is wrong if it does not end as it should.
    pub(super) fn stop(mut self) -> Result<(), String> {
        let Some(pid) = self.child.id() else { return Err("the server has ended by itself".to_owned()) };
        let ended = self.runtime.block_on(async {
            let _ = Command::new("kill").arg(pid.to_string()).status().await;
            tokio::time::timeout(STOP_MAX, self.child.wait()).await
        });
        if let Some(panic) = self.panic() {
            return Err(panic);
        }
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("the server ends with {status}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the server does not end within {} s", STOP_MAX.as_secs())),
        }
    }
}

async fn start(binary: &Path, directory: &Path) -> Result<(Child, Channel, PathBuf), String> {
    let log = directory.join("server.log");
    let file = std::fs::File::create(&log).map_err(|error| error.to_string())?;
    let errors = file.try_clone().map_err(|error| error.to_string())?;
    let mut child = Command::new(binary)
        .args(["dev", "--port", "0", "--http-port", "0", "--metrics-port", "0", "--log-level", "error", "--data-dir"])
        .arg(directory.join("data"))
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{}: {error}", binary.display()))?;
    let began = Instant::now();
    loop {
        let told = std::fs::read_to_string(&log).unwrap_or_default();
        let address = told.lines().find_map(|line| line.strip_prefix("everlog dev: grpc=")?.split(' ').next());
        if let Some(address) = address {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
            return Ok((child, endpoint.connect_lazy(), log));
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("the server ended with {status}: {told}"));
        }
        if began.elapsed() > START_MAX {
            return Err("the server does not serve".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

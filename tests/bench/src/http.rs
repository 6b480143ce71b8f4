//! Just enough HTTP/1.1 for a metrics endpoint and for Restate's ingress: one kept-alive connection, one request at a time.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::error::BenchError;

/// Time limit of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest body that is read.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Header lines that are read.
const HEADERS_MAX: usize = 100;

/// A connection to one host.
pub(crate) struct HttpConnection {
    address: String,
    stream: BufReader<TcpStream>,
}

/// A response that came whole.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl HttpConnection {
    /// Connects to `address` (host:port).
    pub(crate) async fn open(address: &str) -> Result<Self, BenchError> {
        let stream = TcpStream::connect(address).await.map_err(|error| BenchError::io(address, error))?;
        stream.set_nodelay(true).map_err(|error| BenchError::io(address, error))?;
        Ok(HttpConnection { address: address.to_owned(), stream: BufReader::new(stream) })
    }

    /// Sends one request with a JSON body (possibly empty) and reads the response.
    pub(crate) async fn send(&mut self, method: &str, path: &str, json: &[u8]) -> Result<Response, BenchError> {
        let address = self.address.clone();
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no response in time");
        tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(method, path, json))
            .await
            .unwrap_or_else(|_| Err(late()))
            .map_err(|error| BenchError::io(format!("{method} http://{address}{path}"), error))
    }

    async fn exchange(&mut self, method: &str, path: &str, json: &[u8]) -> io::Result<Response> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\naccept: application/json\r\n", self.address);
        if !json.is_empty() {
            request.push_str("content-type: application/json\r\n");
        }
        request.push_str(&format!("content-length: {}\r\n\r\n", json.len()));
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(json);
        self.stream.write_all(&bytes).await?;
        let status_line = self.line().await?;
        let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| invalid(format!("not HTTP: {status_line:?}")))?;
        let (mut length, mut chunked) = (None, false);
        for _ in 0..HEADERS_MAX {
            let line = self.line().await?.to_ascii_lowercase();
            if line.is_empty() {
                let body = if chunked { self.chunks().await? } else { self.rest(length).await? };
                return Ok(Response { status, body });
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok();
            }
            chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
        }
        Err(invalid("too many headers".to_owned()))
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// The body of known length; without a length the server closes the connection at its end.
    async fn rest(&mut self, length: Option<usize>) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        match length {
            Some(length) if length > BODY_BYTES_MAX => return Err(invalid("body too large".to_owned())),
            Some(length) => {
                body.resize(length, 0);
                self.stream.read_exact(&mut body).await?;
            }
            None => {
                (&mut self.stream).take(BODY_BYTES_MAX as u64).read_to_end(&mut body).await?;
            }
        }
        Ok(body)
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while body.len() <= BODY_BYTES_MAX {
            let size = self.line().await?;
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16);
            let size = size.map_err(|_| invalid("bad chunk size".to_owned()))?;
            if size > BODY_BYTES_MAX {
                break;
            }
            let start = body.len();
            body.resize(start + size, 0);
            self.stream.read_exact(&mut body[start..]).await?;
            self.line().await?;
            if size == 0 {
                return Ok(body);
            }
        }
        Err(invalid("body too large".to_owned()))
    }
}

/// Fetches `url` (http://host:port/path) over a connection of its own.
pub(crate) async fn get(url: &str) -> Result<Response, BenchError> {
    let rest = url.strip_prefix("http://").ok_or_else(|| BenchError::Setup(format!("{url}: only http:// is known")))?;
    let (address, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    HttpConnection::open(address).await?.send("GET", path, b"").await
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

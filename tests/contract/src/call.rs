//! Calls of any method by its name, with requests and responses that are known by their descriptors.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use everlog_proto::RawCodec;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// How a method is called.
#[derive(Clone, Debug)]
struct Method {
    path: String,
    input: MessageDescriptor,
    output: MessageDescriptor,
}

/// The methods of a server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    channel: Channel,
    pool: DescriptorPool,
    methods: HashMap<String, Method>,
}

/// Headers that clients of Temporal send.
const HEADERS: [(&str, &str); 4] = [
    ("client-name", "temporal-go"),
    ("client-version", "1.35.0"),
    ("supported-server-versions", ">=1.0.0 <2.0.0"),
    ("supported-features", "follows-next-run-id"),
];

impl Server {
    /// Connects to `host:port`.
    ///
    /// # Errors
    ///
    /// When nobody serves there.
    pub(crate) async fn connect(address: &str) -> Result<Server, String> {
        let url = format!("http://{address}");
        let endpoint = Channel::from_shared(url).map_err(|error| error.to_string())?;
        let channel = endpoint.connect().await.map_err(|error| format!("{address}: {error}"))?;
        let pool = DescriptorPool::decode(everlog_proto::DESCRIPTORS).map_err(|error| error.to_string())?;
        let mut methods = HashMap::new();
        for service in
            pool.services().filter(|service| ["WorkflowService", "OperatorService"].contains(&service.name()))
        {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                let (input, output) = (method.input(), method.output());
                methods.insert(method.name().to_owned(), Method { path, input, output });
            }
        }
        Ok(Server { channel, pool, methods })
    }

    /// The descriptor of a method's request.
    pub(crate) fn input(&self, method: &str) -> Option<MessageDescriptor> {
        Some(self.methods.get(method)?.input.clone())
    }

    /// A message by its full name.
    pub(crate) fn message(&self, name: &str) -> Option<MessageDescriptor> {
        self.pool.get_message_by_name(name)
    }

    /// The methods that there are, by name.
    pub(crate) fn methods(&self) -> impl Iterator<Item = &str> {
        self.methods.keys().map(String::as_str)
    }

    /// Calls a method; `headers` come on top of, or in place of, those that clients send.
    pub(crate) async fn call(
        &self,
        method: &str,
        request: &DynamicMessage,
        timeout: Duration,
        headers: &[(String, String)],
    ) -> Result<DynamicMessage, Status> {
        let answer = self.call_with_bytes(method, request.encode_to_vec().into(), timeout, headers).await?;
        let output = self.method(method)?.output.clone();
        DynamicMessage::decode(output, answer).map_err(|error| Status::internal(error.to_string()))
    }

    /// Calls a method with any bytes as its request.
    pub(crate) async fn call_with_bytes(
        &self,
        method: &str,
        request: Bytes,
        timeout: Duration,
        headers: &[(String, String)],
    ) -> Result<Bytes, Status> {
        let method = self.method(method)?;
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
        let mut request = Request::new(request);
        request.set_timeout(timeout);
        let own = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in HEADERS.into_iter().chain(own) {
            let parsed = (AsciiMetadataKey::from_bytes(name.as_bytes()), AsciiMetadataValue::try_from(value));
            if let (Ok(name), Ok(value)) = parsed {
                request.metadata_mut().insert(name, value);
            }
        }
        let path = method.path.parse().map_err(|_| Status::internal("not a path"))?;
        Ok(grpc.unary(request, path, RawCodec).await?.into_inner())
    }

    fn method(&self, name: &str) -> Result<&Method, Status> {
        self.methods.get(name).ok_or_else(|| Status::internal("no such method"))
    }
}

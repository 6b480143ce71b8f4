//! What two nodes say to each other before anything else.
//!
//! ```text
//!   dialler ──"EVPR" │ length u32 │ Hello──▶ acceptor
//!           ◀─"EVPR" │ length u32 │ Reply──  its own Hello, or why it refuses
//! ```
//!
//! Messages are protobuf: they may gain fields.

use std::io;

use bytes::{BufMut, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::Abilities;

/// How every greeting begins.
pub(crate) const MAGIC: &[u8; 4] = b"EVPR";
/// How a connection begins on which TLS is spoken.
const TLS_HANDSHAKE: u8 = 0x16;
/// Largest greeting that is read, bytes.
const GREETING_BYTES_MAX: usize = 64 << 10;

/// The protocol that this build speaks.
pub(crate) const PROTOCOL: u32 = 1;

/// What a node says of itself.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// The oldest protocol that it speaks.
    #[prost(uint32, tag = "1")]
    pub protocol_min: u32,
    /// The newest.
    #[prost(uint32, tag = "2")]
    pub protocol_max: u32,
    /// Its cluster's id, 16 bytes; empty while it is in none.
    #[prost(bytes = "vec", tag = "3")]
    pub cluster_id: Vec<u8>,
    /// Its data directory's id, 16 bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub directory_id: Vec<u8>,
    /// Its id in the cluster; 0 while it is in none.
    #[prost(uint32, tag = "5")]
    pub node_id: u32,
    /// How often it was started.
    #[prost(uint32, tag = "6")]
    pub start_count: u32,
    /// Whom the dialler expects to meet; 0 if it does not know.
    #[prost(uint32, tag = "7")]
    pub expected_node: u32,
    /// What the connection is for: 1 fast lane, 2 bulk lane, 3 calls of whoever is in no cluster yet.
    #[prost(uint32, tag = "8")]
    pub purpose: u32,
    /// Where it is to be dialled, `host:port`.
    #[prost(string, tag = "9")]
    pub address: String,
    /// The other nodes that it knows.
    #[prost(message, repeated, tag = "10")]
    pub known: Vec<KnownNode>,
    /// The clusters that its own was made of what was left of, 16 bytes each.
    #[prost(bytes = "vec", repeated, tag = "11")]
    pub former_clusters: Vec<Vec<u8>>,
    /// The oldest formats of rows and logs that it reads; 0 if it is of a release that does not say so.
    #[prost(uint32, tag = "12")]
    pub formats_oldest: u32,
    /// The newest.
    #[prost(uint32, tag = "13")]
    pub formats_newest: u32,
    /// What it takes that not all releases do: a bit a kind of message.
    #[prost(fixed64, tag = "14")]
    pub features: u64,
}

impl Hello {
    /// What it can.
    pub(crate) fn abilities(&self) -> Abilities {
        Abilities { formats: (self.formats_oldest, self.formats_newest), features: self.features }
    }
}

/// A node and where it was last, as another one knows it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct KnownNode {
    /// Its id.
    #[prost(uint32, tag = "1")]
    pub node_id: u32,
    /// Its start that the address is of: of two addresses the one of the later start counts.
    #[prost(uint32, tag = "2")]
    pub start_count: u32,
    /// `host:port`.
    #[prost(string, tag = "3")]
    pub address: String,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Refusal {
    /// It is not.
    None = 0,
    /// It belongs to another cluster.
    WrongCluster = 1,
    /// Another node than the expected one answers here.
    WrongNode = 2,
    /// Another data directory claims to be that node.
    DuplicateNode = 3,
    /// No common protocol.
    Protocol = 4,
    /// It is not a member of this cluster.
    NotAMember = 5,
    /// It does not listen itself.
    OneWay = 6,
    /// Too many are connecting at the moment.
    Busy = 7,
    /// It has not proven that it is a node of this cluster, or not the one that it says it is.
    Untrusted = 8,
    /// It was a member, and was removed for good.
    Removed = 9,
    /// It cannot read the formats that the cluster has.
    Formats = 10,
}

/// The acceptor's answer.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Reply {
    #[prost(message, optional, tag = "1")]
    pub(crate) hello: Option<Hello>,
    #[prost(enumeration = "Refusal", tag = "2")]
    pub(crate) refusal: i32,
    /// For people.
    #[prost(string, tag = "3")]
    pub(crate) detail: String,
}

pub(crate) async fn write(io: &mut (impl AsyncWrite + Unpin), greeting: &impl Message) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    bytes.put_slice(MAGIC);
    bytes.put_u32_le(u32::try_from(greeting.encoded_len()).map_err(io::Error::other)?);
    greeting.encode(&mut bytes).map_err(io::Error::other)?;
    io.write_all(&bytes).await?;
    io.flush().await
}

pub(crate) async fn read<M: Message + Default>(io: &mut (impl AsyncRead + Unpin)) -> io::Result<M> {
    let mut magic = [0; 4];
    io.read_exact(&mut magic).await?;
    if magic[0] == TLS_HANDSHAKE {
        return Err(invalid("whoever is there speaks TLS, which is off on this node".to_owned()));
    }
    if &magic != MAGIC {
        return Err(invalid("whoever is there is no node".to_owned()));
    }
    let length = io.read_u32_le().await? as usize;
    if length > GREETING_BYTES_MAX {
        return Err(invalid(format!("a greeting of {length} bytes, at most {GREETING_BYTES_MAX} are read")));
    }
    let mut bytes = vec![0; length];
    io.read_exact(&mut bytes).await?;
    M::decode(&bytes[..]).map_err(|error| invalid(format!("a greeting cannot be read: {error}")))
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

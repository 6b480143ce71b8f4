//! Messages, and the packets that they travel in.
//!
//! ```text
//!   packet  = length u32 │ CRC-32C of the rest u32 │ message*        little-endian
//!   message = kind u8 │ id varint │ length varint │ body             varints as in protobuf (LEB128)
//! ```

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Largest packet that is read, bytes. A packet holds at least one message, however large it is; senders keep messages below this.
pub(crate) const PACKET_BYTES_MAX: usize = 64 << 20;
/// Largest message that is sent, bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = PACKET_BYTES_MAX - 64;

const HEADER_BYTES: usize = 8;

/// The transport's own kinds.
pub(crate) mod kind {
    /// The answer to the call of that id.
    pub(crate) const ANSWER: u8 = 0;
    /// Nobody waits for the answer to the call of that id any more.
    pub(crate) const CANCEL: u8 = 1;
    /// To be answered with a pong.
    pub(crate) const PING: u8 = 2;
    /// The answer to a ping.
    pub(crate) const PONG: u8 = 3;
    /// There will be no answer to the call of that id.
    pub(crate) const UNANSWERED: u8 = 4;
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) id: u64,
    pub(crate) body: Bytes,
}

impl Message {
    /// What it takes in a packet, at most.
    pub(crate) fn size(&self) -> usize {
        self.body.len() + 20
    }
}

/// Encodes a packet of these messages.
pub(crate) fn encode<'a>(messages: impl IntoIterator<Item = &'a Message>, packet: &mut BytesMut) {
    packet.clear();
    packet.put_bytes(0, HEADER_BYTES);
    for Message { kind, id, body } in messages {
        packet.put_u8(*kind);
        put_varint(packet, *id);
        put_varint(packet, body.len() as u64);
        packet.extend_from_slice(body);
    }
    let length = (packet.len() - HEADER_BYTES) as u32;
    let checksum = crc32c::crc32c(&packet[HEADER_BYTES..]);
    packet[..4].copy_from_slice(&length.to_le_bytes());
    packet[4..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads the next packet; `None` at the end of the stream.
pub(crate) async fn read(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
    let mut header = [0; HEADER_BYTES];
    match io.read_exact(&mut header).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let (mut length, mut checksum) = ([0; 4], [0; 4]);
    length.copy_from_slice(&header[..4]);
    checksum.copy_from_slice(&header[4..]);
    let length = u32::from_le_bytes(length) as usize;
    if length > PACKET_BYTES_MAX {
        return Err(invalid(format!("a packet of {length} bytes, at most {PACKET_BYTES_MAX} are read")));
    }
    // Grows with what arrives, so that a length that lies costs nothing.
    let mut packet = BytesMut::with_capacity(length.min(1 << 20));
    while packet.len() < length {
        let missing = length - packet.len();
        packet.reserve(missing.min(1 << 20));
        let mut limited = (&mut *io).take(missing as u64);
        if limited.read_buf(&mut packet).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let packet = packet.freeze();
    if crc32c::crc32c(&packet) != u32::from_le_bytes(checksum) {
        return Err(invalid("a packet does not have the checksum that it says".to_owned()));
    }
    Ok(Some(packet))
}

/// Takes the next message off a packet.
pub(crate) fn next(packet: &mut Bytes) -> io::Result<Option<Message>> {
    if packet.is_empty() {
        return Ok(None);
    }
    let kind = packet.get_u8();
    let id = varint(packet)?;
    let length = usize::try_from(varint(packet)?).unwrap_or(usize::MAX);
    if length > packet.len() {
        return Err(invalid("a message is longer than its packet".to_owned()));
    }
    Ok(Some(Message { kind, id, body: packet.split_to(length) }))
}

/// Appends a number in protobuf's variable length.
pub(crate) fn put_varint(bytes: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        bytes.put_u8((number as u8) | 0x80);
        number >>= 7;
    }
    bytes.put_u8(number as u8);
}

fn varint(bytes: &mut Bytes) -> io::Result<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        if bytes.is_empty() {
            return Err(invalid("a number is cut off".to_owned()));
        }
        let byte = bytes.get_u8();
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(invalid("a number is too long".to_owned()))
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        [(16, 0, &b""[..]), (255, u64::MAX, b"body"), (kind::ANSWER, 300, &[7; 70_000])]
            .map(|(kind, id, body)| Message { kind, id, body: Bytes::copy_from_slice(body) })
            .into()
    }

    fn decode(mut packet: Bytes) -> io::Result<Vec<Message>> {
        let mut found = Vec::new();
        while let Some(message) = next(&mut packet)? {
            found.push(message);
        }
        Ok(found)
    }

    #[tokio::test]
    async fn messages_arrive_as_they_were_sent() {
        let mut packet = BytesMut::new();
        encode(&messages(), &mut packet);
        let mut bytes = &[&packet[..], &packet[..]].concat()[..];
        for _ in 0..2 {
            let read = read(&mut bytes).await.unwrap().unwrap();
            assert_eq!(decode(read).unwrap(), messages());
        }
        assert_eq!(read(&mut bytes).await.unwrap(), None);
    }

    #[test]
    fn the_bytes_stay_what_they_are() {
        let mut packet = BytesMut::new();
        encode(&[Message { kind: 17, id: 300, body: Bytes::from_static(b"ab") }], &mut packet);
        let hex: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "06000000efddf5cb11ac02026162");
    }

    #[tokio::test]
    async fn damaged_bytes_are_refused_and_never_panic() {
        let mut packet = BytesMut::new();
        encode(&messages()[..2], &mut packet);
        for at in 0..packet.len() {
            for bit in 0..8 {
                let mut damaged = packet.clone();
                damaged[at] ^= 1 << bit;
                assert!(!matches!(read(&mut &damaged[..]).await, Ok(Some(_))), "bit {bit} of byte {at}");
            }
            assert!(!matches!(read(&mut &packet[..at]).await, Ok(Some(_))), "cut at {at}");
            // The checksum is not what protects the reader.
            let _ = decode(Bytes::copy_from_slice(&packet[at..]));
        }
        let huge = u32::MAX.to_le_bytes();
        assert!(read(&mut &[huge, [0; 4]].concat()[..]).await.is_err());
    }
}

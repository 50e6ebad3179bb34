//! The wire: length-prefixed frames, so that one encoding of an update serves every connection.
//!
//! A frame is a length (4 bytes, big endian, of what follows), a type, flags, a payload. Payloads are protobuf
//! messages; a batch of updates is a repeated field, so batches are joined by joining their bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::syncer::SyncStatus;

/// Version of the protocol, and the oldest one this build talks to.
pub const PROTOCOL: u32 = 1;
/// Longest frame a server sends.
pub const MAX_SERVER_FRAME: usize = 16 << 20;
/// Longest frame a client sends.
pub const MAX_CLIENT_FRAME: usize = 1 << 20;
/// Length, type and flags.
const HEADER: usize = 6;

/// What a peer sent is not this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame is longer than the receiver accepts.
    #[error("frame of {length} bytes, at most {limit} are accepted")]
    TooLong {
        /// Announced length.
        length: usize,
        /// Limit of the receiver.
        limit: usize,
    },
    /// A frame is too short to have a type and flags.
    #[error("frame of {length} bytes has no type")]
    TooShort {
        /// Announced length.
        length: usize,
    },
    /// A flag that must be understood is not.
    #[error("unknown flags {flags:#04x} in a frame of type {kind}")]
    Flags {
        /// Type.
        kind: u8,
        /// Flags.
        flags: u8,
    },
    /// The payload is not the message its type announces.
    #[error("payload of a frame of type {kind} cannot be decoded: {reason}")]
    Payload {
        /// Type.
        kind: u8,
        /// Words of the decoder.
        reason: String,
    },
    /// A frame that the other side must not send now.
    #[error("unexpected frame of type {kind}, expected {expected}")]
    Unexpected {
        /// Type.
        kind: u8,
        /// What would be right.
        expected: &'static str,
    },
}

/// First message of a client.
#[derive(Clone, PartialEq, Message)]
pub struct ClientHello {
    /// Newest protocol the client speaks.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// Oldest protocol the client speaks.
    #[prost(uint32, tag = "2")]
    pub min_protocol: u32,
    /// Which view: `felix`, `bgp`, `tunnel-ip-allocation`, `node-status`. Empty is `felix`.
    #[prost(string, tag = "3")]
    pub syncer: String,
    /// Node of the client, for logs.
    #[prost(string, tag = "4")]
    pub hostname: String,
    /// Version of the client, for logs.
    #[prost(string, tag = "5")]
    pub version: String,
    /// Optional abilities of the client.
    #[prost(string, repeated, tag = "6")]
    pub features: Vec<String>,
    /// Number the client gave to the connection, for logs on both sides.
    #[prost(uint64, tag = "7")]
    pub conn_id: u64,
    /// Where the client stopped, if it was connected before.
    #[prost(message, optional, tag = "8")]
    pub resume: Option<Resume>,
}

/// Position in the stream of a server.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Resume {
    /// Which run of which server.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Last breadcrumb received completely.
    #[prost(uint64, tag = "2")]
    pub seq: u64,
}

/// Answer of the server.
#[derive(Clone, PartialEq, Message)]
pub struct ServerHello {
    /// Protocol of the connection.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// Which run of this server and view: positions of other epochs mean nothing.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Abilities in use.
    #[prost(string, repeated, tag = "3")]
    pub features: Vec<String>,
    /// Number the server gave to the connection.
    #[prost(uint64, tag = "4")]
    pub conn_id: u64,
    /// True when the stream goes on at the position of the client; otherwise a snapshot follows.
    #[prost(bool, tag = "5")]
    pub resumed: bool,
    /// Identity of the store behind the server.
    #[prost(string, tag = "6")]
    pub store: String,
    /// Version of the server, for logs.
    #[prost(string, tag = "7")]
    pub version: String,
}

/// A snapshot begins.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SnapshotBegin {
    /// Breadcrumb it shows.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// Objects in it.
    #[prost(uint64, tag = "2")]
    pub count: u64,
    /// Newest store revision it contains, 0 when the store has no numbers: a client that has seen more asks
    /// elsewhere, so that it never goes back in time.
    #[prost(uint64, tag = "3")]
    pub revision: u64,
}

/// A breadcrumb or a snapshot is complete.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Position {
    /// Breadcrumb reached.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// 0 waiting for the store, 1 resync, 2 in sync.
    #[prost(uint32, tag = "2")]
    pub status: u32,
}

/// One update.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// Path.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Content; meaningless for a deletion.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
    /// Revision of the store.
    #[prost(string, tag = "3")]
    pub revision: String,
    /// True when the object was deleted.
    #[prost(bool, tag = "4")]
    pub deleted: bool,
}

/// Updates.
#[derive(Clone, PartialEq, Message)]
pub struct KvBatch {
    /// Updates in order.
    #[prost(message, repeated, tag = "1")]
    pub kvs: Vec<KeyValue>,
}

/// Asks for a sign of life; sent back unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Beat {
    /// Clock of the sender, for its own use.
    #[prost(uint64, tag = "1")]
    pub time: u64,
}

/// The server ends the connection and says where to go.
#[derive(Clone, PartialEq, Message)]
pub struct GoAway {
    /// Why, for logs.
    #[prost(string, tag = "1")]
    pub reason: String,
    /// Pause before this server may be asked again, milliseconds.
    #[prost(uint64, tag = "2")]
    pub retry_after_ms: u64,
    /// Other servers.
    #[prost(string, repeated, tag = "3")]
    pub alternates: Vec<String>,
}

/// The server refuses the client.
#[derive(Clone, PartialEq, Message)]
pub struct Reject {
    /// 1 protocol version, 2 unknown view, 3 not allowed, 4 malformed.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// For people.
    #[prost(string, tag = "2")]
    pub text: String,
}

/// Any frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Type 1.
    ClientHello(ClientHello),
    /// Type 2.
    ServerHello(ServerHello),
    /// Type 3.
    SnapshotBegin(SnapshotBegin),
    /// Type 4.
    KvBatch(KvBatch),
    /// Type 5.
    SnapshotEnd(Position),
    /// Type 6.
    Status(Position),
    /// Type 7.
    Ping(Beat),
    /// Type 8.
    Pong(Beat),
    /// Type 9.
    GoAway(GoAway),
    /// Type 10.
    Reject(Reject),
}

/// Type of [`Frame::KvBatch`].
const KV_BATCH: u8 = 4;

impl Frame {
    /// Number of the type.
    pub fn kind(&self) -> u8 {
        match self {
            Self::ClientHello(_) => 1,
            Self::ServerHello(_) => 2,
            Self::SnapshotBegin(_) => 3,
            Self::KvBatch(_) => KV_BATCH,
            Self::SnapshotEnd(_) => 5,
            Self::Status(_) => 6,
            Self::Ping(_) => 7,
            Self::Pong(_) => 8,
            Self::GoAway(_) => 9,
            Self::Reject(_) => 10,
        }
    }

    /// The frame as bytes.
    ///
    /// ```
    /// use calico_datastore::fanout::frame::{Beat, Frame, MAX_CLIENT_FRAME, decode};
    /// let mut bytes = bytes::BytesMut::from(&Frame::Ping(Beat { time: 7 }).encode()[..]);
    /// assert_eq!(decode(&mut bytes, MAX_CLIENT_FRAME), Ok(Some(Frame::Ping(Beat { time: 7 }))));
    /// assert!(bytes.is_empty());
    /// ```
    pub fn encode(&self) -> Bytes {
        let payload = match self {
            Self::ClientHello(message) => message.encode_to_vec(),
            Self::ServerHello(message) => message.encode_to_vec(),
            Self::SnapshotBegin(message) => message.encode_to_vec(),
            Self::KvBatch(message) => message.encode_to_vec(),
            Self::SnapshotEnd(message) | Self::Status(message) => message.encode_to_vec(),
            Self::Ping(message) | Self::Pong(message) => message.encode_to_vec(),
            Self::GoAway(message) => message.encode_to_vec(),
            Self::Reject(message) => message.encode_to_vec(),
        };
        let mut bytes = header(self.kind(), payload.len());
        bytes.put_slice(&payload);
        bytes.freeze()
    }
}

fn header(kind: u8, payload: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(HEADER + payload);
    bytes.put_u32(u32::try_from(payload + 2).unwrap_or(u32::MAX));
    bytes.put_u8(kind);
    bytes.put_u8(0);
    bytes
}

/// One update as an element of a batch: joined elements are the payload of a batch.
pub(crate) fn encode_kv(kv: &KeyValue) -> Bytes {
    let length = kv.encoded_len();
    let mut bytes = BytesMut::with_capacity(length + 8);
    prost::encoding::message::encode(1, kv, &mut bytes);
    bytes.freeze()
}

/// A batch frame of elements from [`encode_kv`].
pub(crate) fn batch<'a>(elements: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let mut bytes = header(KV_BATCH, elements.clone().map(Bytes::len).sum());
    for element in elements {
        bytes.put_slice(element);
    }
    bytes.freeze()
}

/// Takes one whole frame from the front of a buffer; `None` when it is not complete yet.
///
/// # Errors
/// [`FrameError`]; the connection cannot go on after it.
pub fn decode(buffer: &mut BytesMut, limit: usize) -> Result<Option<Frame>, FrameError> {
    let Some(length) = buffer.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)) else {
        return Ok(None);
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    if length < 2 {
        return Err(FrameError::TooShort { length });
    }
    if buffer.len() < length + 4 {
        return Ok(None);
    }
    buffer.advance(4);
    let mut body = buffer.split_to(length).freeze();
    let (kind, flags) = (body.get_u8(), body.get_u8());
    if flags != 0 {
        return Err(FrameError::Flags { kind, flags });
    }
    fn message<M: Message + Default>(kind: u8, body: Bytes) -> Result<M, FrameError> {
        M::decode(body).map_err(|error| FrameError::Payload { kind, reason: error.to_string() })
    }
    Ok(Some(match kind {
        1 => Frame::ClientHello(message(kind, body)?),
        2 => Frame::ServerHello(message(kind, body)?),
        3 => Frame::SnapshotBegin(message(kind, body)?),
        KV_BATCH => Frame::KvBatch(message(kind, body)?),
        5 => Frame::SnapshotEnd(message(kind, body)?),
        6 => Frame::Status(message(kind, body)?),
        7 => Frame::Ping(message(kind, body)?),
        8 => Frame::Pong(message(kind, body)?),
        9 => Frame::GoAway(message(kind, body)?),
        10 => Frame::Reject(message(kind, body)?),
        _ => return Err(FrameError::Unexpected { kind, expected: "a type from 1 to 10" }),
    }))
}

pub(crate) fn status_number(status: SyncStatus) -> u32 {
    match status {
        SyncStatus::WaitForDatastore => 0,
        SyncStatus::Resync => 1,
        SyncStatus::InSync => 2,
    }
}

pub(crate) fn status_of(number: u32) -> SyncStatus {
    match number {
        2 => SyncStatus::InSync,
        1 => SyncStatus::Resync,
        _ => SyncStatus::WaitForDatastore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> Vec<Frame> {
        let kv = KeyValue {
            path: "/calico/v1/Ready".into(),
            value: b"true".to_vec(),
            revision: "7".into(),
            deleted: false,
        };
        vec![
            Frame::ClientHello(ClientHello {
                syncer: "felix".into(),
                resume: Some(Resume { epoch: 1, seq: 2 }),
                ..Default::default()
            }),
            Frame::ServerHello(ServerHello { epoch: 9, ..Default::default() }),
            Frame::SnapshotBegin(SnapshotBegin { seq: 1, count: 2, revision: 3 }),
            Frame::KvBatch(KvBatch { kvs: vec![kv.clone(), KeyValue { deleted: true, ..kv }] }),
            Frame::SnapshotEnd(Position { seq: 1, status: 2 }),
            Frame::Status(Position { seq: 1, status: 0 }),
            Frame::Ping(Beat { time: 1 }),
            Frame::Pong(Beat { time: 1 }),
            Frame::GoAway(GoAway { reason: "x".into(), retry_after_ms: 5, alternates: vec!["a:1".into()] }),
            Frame::Reject(Reject { code: 1, text: "no".into() }),
        ]
    }

    #[test]
    fn every_frame_survives_any_split() {
        let all: Vec<u8> = frames().iter().flat_map(|frame| frame.encode().to_vec()).collect();
        for step in [1, 2, 3, 7, all.len()] {
            let mut buffer = BytesMut::new();
            let mut found = Vec::new();
            for piece in all.chunks(step) {
                buffer.put_slice(piece);
                while let Some(frame) = decode(&mut buffer, MAX_SERVER_FRAME).unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found, frames());
        }
    }

    #[test]
    fn joined_elements_are_a_batch() {
        let kvs: Vec<KeyValue> = (0..5)
            .map(|n| KeyValue {
                path: format!("/{n}"),
                value: vec![n; 300],
                revision: n.to_string(),
                deleted: n == 3,
            })
            .collect();
        let elements: Vec<Bytes> = kvs.iter().map(encode_kv).collect();
        assert_eq!(batch(elements.iter()), Frame::KvBatch(KvBatch { kvs }).encode());
    }

    #[test]
    fn hostile_lengths() {
        let mut long = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
        assert!(matches!(decode(&mut long, MAX_CLIENT_FRAME), Err(FrameError::TooLong { .. })));
        let mut short = BytesMut::from(&[0, 0, 0, 1, 7][..]);
        assert_eq!(decode(&mut short, 100), Err(FrameError::TooShort { length: 1 }));
        let mut flags = BytesMut::from(&[0, 0, 0, 2, 7, 1][..]);
        assert_eq!(decode(&mut flags, 100), Err(FrameError::Flags { kind: 7, flags: 1 }));
        let mut kind = BytesMut::from(&[0, 0, 0, 2, 99, 0][..]);
        assert!(matches!(decode(&mut kind, 100), Err(FrameError::Unexpected { kind: 99, .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = decode(&mut buffer, 150) {
                let mut again = BytesMut::from(&frame.encode()[..]);
                prop_assert_eq!(decode(&mut again, usize::MAX), Ok(Some(frame)));
            }
        }
    }
}

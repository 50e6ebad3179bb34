//! Reading and writing frames on a connection.

use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{Frame, FrameError, decode};

/// A TCP or TLS connection.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum PipeError {
    #[error("connection closed")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("nothing heard for {0:?}")]
    Silent(Duration),
    #[error("nothing could be sent for {0:?}")]
    Stuck(Duration),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The reading half.
pub(super) struct FrameReader<R> {
    inner: R,
    buffer: BytesMut,
    limit: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(inner: R, limit: usize) -> Self {
        Self { inner, buffer: BytesMut::new(), limit }
    }

    /// The connection below; bytes that were read ahead are lost.
    pub(super) fn into_inner(self) -> R {
        self.inner
    }

    /// The next frame. Dropping the future between polls loses nothing.
    pub(super) async fn next(&mut self) -> Result<Frame, PipeError> {
        loop {
            if let Some(frame) = decode(&mut self.buffer, self.limit)? {
                if self.buffer.is_empty() {
                    // An idle connection holds no buffer.
                    self.buffer = BytesMut::new();
                }
                return Ok(frame);
            }
            self.buffer.reserve(4_096);
            if self.inner.read_buf(&mut self.buffer).await? == 0 {
                return Err(PipeError::Closed);
            }
        }
    }

    /// The next frame within a time.
    pub(super) async fn next_within(&mut self, limit: Duration) -> Result<Frame, PipeError> {
        tokio::time::timeout(limit, self.next()).await.unwrap_or(Err(PipeError::Silent(limit)))
    }
}

/// Writes bytes; the peer must take some of them within the time.
pub(super) async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    limit: Duration,
) -> Result<(), PipeError> {
    while !bytes.is_empty() {
        let written =
            tokio::time::timeout(limit, writer.write(bytes)).await.map_err(|_| PipeError::Stuck(limit))??;
        if written == 0 {
            return Err(PipeError::Closed);
        }
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

/// Writes several pieces, in as few calls of the system as it takes; the peer must take some bytes within the time.
pub(super) async fn send_all(
    writer: &mut (impl AsyncWrite + Unpin),
    pieces: &[Bytes],
    limit: Duration,
) -> Result<(), PipeError> {
    let mut slices: Vec<IoSlice<'_>> =
        pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| IoSlice::new(piece)).collect();
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        let written = tokio::time::timeout(limit, writer.write_vectored(left))
            .await
            .map_err(|_| PipeError::Stuck(limit))??;
        if written == 0 {
            return Err(PipeError::Closed);
        }
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}

/// Pushes out what a TLS layer may hold back.
pub(super) async fn flush(writer: &mut (impl AsyncWrite + Unpin), limit: Duration) -> Result<(), PipeError> {
    tokio::time::timeout(limit, writer.flush()).await.map_err(|_| PipeError::Stuck(limit))??;
    Ok(())
}

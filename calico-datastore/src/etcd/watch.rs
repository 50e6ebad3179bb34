//! Following changes in etcd.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::Streaming;

use super::proto::{WatchCreateRequest, WatchKind, WatchRequest, WatchResponse};
use super::store::{EtcdStore, is_foreign, range_end, range_start, revision};
use crate::backend::{Bytes, KeyRange, KeyRanges, RawBatch, RawEvent};
use crate::error::StoreError;

/// Time for the server to confirm a watch.
const CONFIRMATION: Duration = Duration::from_secs(8);

/// One open watch. Several ranges are covered by one watch of their common prefix and sorted out here: so all
/// changes of a transaction arrive together, and one number says how far the watch has come.
pub(crate) struct Follower {
    store: EtcdStore,
    stream: Streaming<WatchResponse>,
    /// The server ends a watch whose request stream ends.
    _requests: mpsc::Sender<WatchRequest>,
    ranges: KeyRanges,
    last: u64,
    /// Pieces of an answer that was too large for one message.
    fragments: Vec<RawEvent>,
    ready: VecDeque<RawBatch>,
    ended: bool,
}

impl Follower {
    pub(crate) async fn open(store: EtcdStore, ranges: KeyRanges, from: u64) -> Result<Self, StoreError> {
        let cover = cover(&ranges);
        let request = WatchRequest {
            kind: Some(WatchKind::Create(WatchCreateRequest {
                key: range_start(&cover),
                range_end: range_end(&cover),
                start_revision: i64::try_from(from.saturating_add(1)).unwrap_or(i64::MAX),
                progress_notify: true,
                fragment: true,
            })),
        };
        let (stream, requests) = store.connection().stream("/etcdserverpb.Watch/Watch", request).await?;
        let mut follower = Self {
            store,
            stream,
            _requests: requests,
            ranges,
            last: from,
            fragments: Vec::new(),
            ready: VecDeque::new(),
            ended: false,
        };
        follower.confirm().await?;
        Ok(follower)
    }

    /// Waits until the server has accepted the watch: an expired revision is reported here.
    async fn confirm(&mut self) -> Result<(), StoreError> {
        match tokio::time::timeout(CONFIRMATION, self.receive()).await {
            Ok(Ok(batch)) => {
                self.ready.extend(batch);
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StoreError::Unreachable {
                store: self.store.connection().place(),
                reason: format!("watch not confirmed within {CONFIRMATION:?}"),
            }),
        }
    }

    pub(crate) async fn step(mut self) -> Option<(Result<RawBatch, StoreError>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Some((Ok(batch), self));
            }
            match self.receive().await {
                Ok(batch) => self.ready.extend(batch),
                Err(error) => {
                    self.ended = true;
                    return Some((Err(error), self));
                }
            }
        }
    }

    /// One message of the server.
    async fn receive(&mut self) -> Result<Option<RawBatch>, StoreError> {
        let answer = match self.stream.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                return Err(StoreError::Unreachable {
                    store: self.store.connection().place(),
                    reason: "the server ended the watch".to_owned(),
                });
            }
            Err(status) => return Err(self.store.connection().stream_failed(&status)),
        };
        if answer.canceled {
            if answer.compact_revision > 0 {
                let oldest = u64::try_from(answer.compact_revision).unwrap_or(0);
                return Err(StoreError::Expired { requested: self.last, oldest });
            }
            let status = if answer.cancel_reason.contains("permission") {
                tonic::Status::permission_denied(answer.cancel_reason)
            } else {
                tonic::Status::unavailable(answer.cancel_reason)
            };
            return Err(self.store.connection().stream_failed(&status));
        }
        if answer.created {
            return Ok(None);
        }
        if answer.events.is_empty() && self.fragments.is_empty() {
            // A progress report: nothing happened up to this revision.
            let reached = revision(answer.header);
            if reached <= self.last {
                return Ok(None);
            }
            self.last = reached;
            return Ok(Some(RawBatch { events: Vec::new(), revision: reached }));
        }
        let mut reached = self.last;
        for event in answer.events {
            let Some(kv) = event.kv else { continue };
            reached = reached.max(u64::try_from(kv.mod_revision).unwrap_or(0));
            let Ok(key) = String::from_utf8(kv.key) else { continue };
            if self.ranges.contains(&key) && !is_foreign(&key, &kv.value) {
                // For a deletion this is the revision of the deletion itself.
                let revision = u64::try_from(kv.mod_revision).unwrap_or(0);
                let value = (event.kind == 0).then(|| Bytes::from(kv.value));
                self.fragments.push(RawEvent { key, value, revision });
            }
        }
        if answer.fragment {
            return Ok(None);
        }
        self.last = reached;
        Ok(Some(RawBatch { events: std::mem::take(&mut self.fragments), revision: reached }))
    }
}

/// The smallest prefix that covers all ranges.
fn cover(ranges: &KeyRanges) -> KeyRange {
    match ranges.as_slice() {
        [one] => one.clone(),
        [first, .., last] => {
            // The ranges are sorted: what the first and the last share, all share.
            let shared = first.start().bytes().zip(last.start().bytes()).take_while(|(a, b)| a == b).count();
            let prefix = first.start().get(..shared).unwrap_or_default();
            KeyRange::Prefix(prefix.to_owned())
        }
        [] => KeyRange::Exact("/calico/nothing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_watch_covers_all_ranges() {
        let prefix = |text: &str| KeyRange::Prefix(text.to_owned());
        assert_eq!(cover(&KeyRanges::prefix("/a/")), prefix("/a/"));
        assert_eq!(cover(&KeyRanges::new([prefix("/calico/x/"), prefix("/calico/y/")])), prefix("/calico/"));
        assert_eq!(cover(&KeyRanges::new([prefix("/calico/é/"), prefix("/calico/è/")])), prefix(""));
        assert_eq!(cover(&KeyRanges::exact("/a")), KeyRange::Exact("/a".to_owned()));
    }
}

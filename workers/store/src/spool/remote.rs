//! The spool in a remote store: parts put straight to the final key, and a tail object for the durable rest below one
//! part, so that another replica can continue.
//!
//! All parts but the last have one size (R2 asks for it). The tail's key carries the generation and the part it begins:
//! a writer that was displaced can't overwrite the tail of its successor. A displaced writer that still stores a part
//! under an index of its successor makes the completion fail by entity tag on S3; it can't end in mixed bytes unnoticed.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use object_store::{
    PutPayload,
    multipart::{MultipartStore, PartId},
    path::Path,
};
use schemas::{
    keys,
    upload::{Multipart, Tail},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Batch, Chunk, Durable, Place};
use crate::{Error, Store};

/// Smallest unsaved rest worth a tail object while the upload is running, in bytes.
const TAIL_BYTES_MIN: u64 = 256 * 1024;

#[derive(Debug)]
pub(super) struct Remote {
    store: Store,
    place: Place,
    multipart: Arc<MultipartHandle>,
    state: Multipart,
    /// Bytes in parts that are stored.
    stored: u64,
    /// Parts on their way, in order.
    putting: VecDeque<Putting>,
    batch: Batch,
    /// The newest state that can be continued from.
    safe: Durable,
    told: u64,
    /// The tail the caller's record names; it is removed once the record names another.
    recorded_tail: Option<Tail>,
    tail_at: Instant,
}

/// A part on its way; dropping it aborts the request, so that nothing is sent after a release.
#[derive(Debug)]
struct Putting {
    size_bytes: u64,
    task: AbortOnDropHandle<Result<String, Error>>,
}

struct MultipartHandle {
    api: Arc<dyn MultipartStore>,
    path: Path,
}

impl std::fmt::Debug for MultipartHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MultipartHandle").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Remote {
    pub(super) fn open(store: &Store, place: Place, durable: Durable) -> Result<Self, Error> {
        let config = store.inner().config();
        let state = durable.multipart.clone().unwrap_or_else(|| Multipart {
            part_bytes: config.part_bytes(place.length_bytes_max),
            ..Multipart::default()
        });
        let stored = count(state.parts.len()).saturating_mul(state.part_bytes).min(durable.offset_bytes);
        if stored + tail_bytes(&state) != durable.offset_bytes {
            return Err(Error::Damaged(format!("{} recorded bytes are not in parts", durable.offset_bytes)));
        }
        Ok(Self {
            store: store.clone(),
            place,
            multipart: Arc::new(handle(store, place)?),
            recorded_tail: state.tail.clone(),
            state,
            stored,
            putting: VecDeque::new(),
            batch: Batch::default(),
            told: durable.offset_bytes,
            safe: durable,
            tail_at: Instant::now(),
        })
    }

    pub(super) fn offset_bytes(&self) -> u64 {
        let putting: u64 = self.putting.iter().map(|part| part.size_bytes).sum();
        self.stored + putting + tail_bytes(&self.state) + self.batch.length_bytes()
    }

    pub(super) fn in_flight_wait(&self) -> Duration {
        self.store.inner().config().in_flight_wait()
    }

    pub(super) async fn write(&mut self, chunk: Chunk) -> Result<(), Error> {
        self.batch.push(chunk);
        while tail_bytes(&self.state) + self.batch.length_bytes() >= self.state.part_bytes {
            let full = self.state.part_bytes;
            let step = self.start_part(full).await;
            self.dropping(step)?;
        }
        Ok(())
    }

    pub(super) async fn checkpoint(&mut self) -> Result<Option<Durable>, Error> {
        while self.putting.front().is_some_and(|part| part.task.is_finished()) {
            let step = self.part_done().await;
            self.dropping(step)?;
        }
        let unsaved = self.batch.length_bytes();
        let worth = unsaved >= tail_bytes(&self.state).max(TAIL_BYTES_MIN);
        let due = self.tail_at.elapsed() >= self.store.inner().config().tail_interval();
        if worth && due && self.putting.is_empty() {
            self.park().await?;
        }
        if self.safe.offset_bytes <= self.told {
            return Ok(None);
        }
        self.told = self.safe.offset_bytes;
        Ok(Some(self.safe.clone()))
    }

    pub(super) fn durable(&self) -> &Durable {
        &self.safe
    }

    /// Removes the tail that the record no longer names. One that stays because of an error goes with the completion.
    pub(super) async fn recorded(&mut self, durable: &Durable) {
        let named = durable.multipart.as_ref().and_then(|m| m.tail.as_ref());
        let Some(old) = self.recorded_tail.take() else {
            self.recorded_tail = named.cloned();
            return;
        };
        self.recorded_tail = named.cloned();
        let old_key = tail_key(self.place, &old);
        if named.is_none_or(|tail| tail_key(self.place, tail) != old_key)
            && let Err(error) = self.store.delete(&old_key).await
        {
            tracing::debug!(error = %error, "a superseded tail stays until the upload ends");
        }
    }

    pub(super) async fn flush(&mut self) -> Result<Durable, Error> {
        self.park().await?;
        self.told = self.safe.offset_bytes;
        Ok(self.safe.clone())
    }

    pub(super) async fn flush_last(&mut self) -> Result<Durable, Error> {
        let step = self.store_last().await;
        self.dropping(step)?;
        self.told = self.safe.offset_bytes;
        Ok(self.safe.clone())
    }

    /// Saves what is in memory: the parts on their way and a tail object.
    pub(super) async fn park(&mut self) -> Result<(), Error> {
        let step = self.save().await;
        self.dropping(step)
    }

    pub(super) async fn rollback(mut self, recorded: &Durable) -> Result<(), Error> {
        self.putting.clear();
        // A multipart upload that was begun for discarded bytes only has no record to be found by.
        let known = recorded.multipart.as_ref().and_then(|m| m.multipart_id.as_ref());
        match self.state.multipart_id.as_ref() {
            Some(begun) if known.is_none() => {
                Ok(self.multipart.api.abort_multipart(&self.multipart.path, begun).await?)
            }
            _ => Ok(()),
        }
    }

    async fn save(&mut self) -> Result<(), Error> {
        self.parts_done().await?;
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut pieces = self.read_tail().await?;
        pieces.extend(self.batch.chunks.iter().map(|chunk| chunk.bytes.clone()));
        let tail = Tail {
            generation: self.place.generation,
            part: count(self.state.parts.len()),
            size_bytes: tail_bytes(&self.state) + self.batch.length_bytes(),
        };
        self.store.put_payload(&tail_key(self.place, &tail), PutPayload::from_iter(pieces)).await?;
        self.state.tail = Some(tail);
        self.batch.clear();
        self.tail_at = Instant::now();
        self.mark_safe();
        Ok(())
    }

    /// Stores the rest as the last part, or as the whole object when there are no parts.
    async fn store_last(&mut self) -> Result<(), Error> {
        let rest = tail_bytes(&self.state) + self.batch.length_bytes();
        if self.state.multipart_id.is_some() {
            if rest > 0 {
                self.start_part(rest).await?;
            }
            return self.parts_done().await;
        }
        let mut pieces = self.read_tail().await?;
        pieces.extend(self.batch.chunks.iter().map(|chunk| chunk.bytes.clone()));
        self.store.put_payload(&keys::source(self.place.media_id), PutPayload::from_iter(pieces)).await?;
        self.batch.clear();
        self.state.tail = None;
        self.stored = rest;
        self.mark_safe();
        Ok(())
    }

    async fn start_part(&mut self, size_bytes: u64) -> Result<(), Error> {
        while self.putting.len() >= self.store.inner().config().parts_in_flight_max.max(1) {
            self.part_done().await?;
        }
        self.store.verify().await?;
        let multipart_id = self.multipart_id().await?;
        let mut pieces = self.read_tail().await?;
        let fresh = size_bytes.saturating_sub(tail_bytes(&self.state));
        let index = self.state.parts.len() + self.putting.len();
        let chunks = self.batch.take(usize::try_from(fresh).unwrap_or(usize::MAX));
        pieces.extend(chunks.iter().map(|chunk| chunk.bytes.clone()));
        self.state.tail = None;
        let multipart = self.multipart.clone();
        let task = tokio::task::spawn(async move {
            let payload = PutPayload::from_iter(pieces);
            let part = multipart.api.put_part(&multipart.path, &multipart_id, index, payload).await?;
            drop(chunks);
            Ok(part.content_id)
        });
        self.putting.push_back(Putting { size_bytes, task: AbortOnDropHandle::new(task) });
        Ok(())
    }

    async fn part_done(&mut self) -> Result<(), Error> {
        let Some(first) = self.putting.front_mut() else { return Ok(()) };
        let (size_bytes, outcome) = (first.size_bytes, (&mut first.task).await);
        self.putting.pop_front();
        let content_id = outcome.map_err(Error::join)??;
        self.state.parts.push(content_id);
        self.stored += size_bytes;
        self.mark_safe();
        Ok(())
    }

    async fn parts_done(&mut self) -> Result<(), Error> {
        while !self.putting.is_empty() {
            self.part_done().await?;
        }
        Ok(())
    }

    async fn multipart_id(&mut self) -> Result<String, Error> {
        if let Some(known) = &self.state.multipart_id {
            return Ok(known.clone());
        }
        let begun = self.multipart.api.create_multipart(&self.multipart.path).await;
        let begun = self.store.refused(begun.map_err(Error::from)).await?;
        self.state.multipart_id = Some(begun.clone());
        Ok(begun)
    }

    async fn read_tail(&self) -> Result<Vec<Bytes>, Error> {
        let Some(tail) = &self.state.tail else { return Ok(Vec::new()) };
        let key = tail_key(self.place, tail);
        let bytes = match self.store.get_range(&key, 0..tail.size_bytes).await {
            Err(Error::NotFound { .. }) => return Err(Error::Damaged("the tail object is gone".into())),
            other => other?,
        };
        if count(bytes.len()) != tail.size_bytes {
            return Err(Error::Damaged("the tail object is too short".into()));
        }
        Ok(vec![bytes])
    }

    /// Remembers the parts stored so far and the tail that belongs directly behind them.
    fn mark_safe(&mut self) {
        let offset_bytes = self.stored + tail_bytes(&self.state);
        self.safe = Durable { offset_bytes, multipart: Some(self.state.clone()) };
    }

    /// After a failure, goes back to the newest state that can be continued from.
    fn dropping(&mut self, step: Result<(), Error>) -> Result<(), Error> {
        if step.is_err() {
            self.putting.clear();
            self.batch.clear();
            let begun = self.state.multipart_id.take();
            let part_bytes = self.state.part_bytes;
            self.state = self.safe.multipart.clone().unwrap_or_default();
            self.state.multipart_id = self.state.multipart_id.take().or(begun);
            self.state.part_bytes = part_bytes;
            self.stored = self.safe.offset_bytes - tail_bytes(&self.state);
        }
        step
    }
}

pub(super) async fn finish(store: &Store, place: Place, durable: &Durable) -> Result<(), Error> {
    let Some(state) = &durable.multipart else {
        return check_source(store, place, durable.offset_bytes).await;
    };
    store.verify().await?;
    if let Some(multipart_id) = &state.multipart_id {
        let multipart = handle(store, place)?;
        let parts = state.parts.iter().map(|id| PartId { content_id: id.clone() }).collect();
        if let Err(error) = multipart.api.complete_multipart(&multipart.path, multipart_id, parts).await {
            // An earlier attempt may have completed it; only the object itself can tell.
            return match check_source(store, place, durable.offset_bytes).await {
                Ok(()) => Ok(()),
                Err(Error::Damaged(_)) => Err(refused(error)),
                Err(other) => Err(other),
            };
        }
    }
    check_source(store, place, durable.offset_bytes).await?;
    remove_tails(store, place).await
}

/// A store that refuses the parts will refuse them again; one that can't be reached may not.
fn refused(error: object_store::Error) -> Error {
    let text = error.to_string();
    if text.contains("InvalidPart") || text.contains("NoSuchUpload") {
        return Error::Damaged("the store does not have the recorded parts".into());
    }
    error.into()
}

async fn check_source(store: &Store, place: Place, length: u64) -> Result<(), Error> {
    match store.head(&keys::source(place.media_id)).await {
        Ok(meta) if meta.size_bytes == length => Ok(()),
        Ok(meta) => Err(Error::Damaged(format!("{} of {length} bytes are there", meta.size_bytes))),
        Err(Error::NotFound { .. }) => Err(Error::Damaged("the object is not there".into())),
        Err(other) => Err(other),
    }
}

pub(super) async fn remove(store: &Store, place: Place, durable: &Durable) -> Result<(), Error> {
    store.verify().await?;
    if let Some(multipart_id) = durable.multipart.as_ref().and_then(|m| m.multipart_id.as_ref()) {
        let multipart = handle(store, place)?;
        if let Err(error) = multipart.api.abort_multipart(&multipart.path, multipart_id).await {
            match Error::from(error) {
                Error::NotFound { .. } => {}
                // Some stores answer "forbidden" for an upload they no longer know; a store that works lists its keys.
                other => store.probe().await.map_err(|_| other)?,
            }
        }
    }
    remove_tails(store, place).await
}

async fn remove_tails(store: &Store, place: Place) -> Result<(), Error> {
    use futures::TryStreamExt;
    let mut found = store.list(&keys::source_tails(place.media_id));
    while let Some(meta) = found.try_next().await? {
        store.delete(&meta.key).await?;
    }
    Ok(())
}

fn handle(store: &Store, place: Place) -> Result<MultipartHandle, Error> {
    let api = store
        .inner()
        .backend()
        .multipart()
        .ok_or_else(|| Error::Invalid("the store has no multipart uploads".into()))?;
    Ok(MultipartHandle { api, path: store.path(&keys::source(place.media_id))? })
}

fn tail_key(place: Place, tail: &Tail) -> String {
    keys::source_tail(place.media_id, tail.generation, tail.part)
}

fn tail_bytes(state: &Multipart) -> u64 {
    state.tail.as_ref().map_or(0, |tail| tail.size_bytes)
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

//! Reading image data from wherever a location says that it lies: a pool of a store, or the web;
//! or from this node's copy.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use storage::{ImageHandle, SnapshotSpec};

use crate::ImageService;
use crate::db::locations;
use crate::error::{Error, Result};
use crate::fetch::{self, FetchError, Fetched};
use crate::image::{Image, Location};
use crate::stores::{Pool, store_of};
use crate::transfer_memory::{PIECE_BYTES_MAX, Transfer};
use crate::uploads::DataStream;

/// Reads under way at the same time, so that the store is busy while a piece is sent.
const PIECES_AHEAD: usize = 4;

/// What a location holds.
enum Place<'a> {
    Pool(&'a Pool, SnapshotSpec),
    Web,
}

fn place<'a>(service: &'a ImageService, url: &str) -> Result<Place<'a>, FetchError> {
    match service.stores.of_url(url) {
        Some((_, Some((pool, snapshot)))) => Ok(Place::Pool(pool, snapshot)),
        Some((_, None)) => Ok(Place::Web),
        None => Err(FetchError::Failed("Invalid location".to_owned())),
    }
}

fn store_failed(error: storage::Error) -> FetchError {
    match error {
        storage::Error::Unavailable(_) => FetchError::Unavailable(error.to_string()),
        _ => FetchError::Failed(format!("Invalid location: {error}")),
    }
}

/// The bytes at a location, where that is known.
pub async fn size(service: &ImageService, url: &str) -> Result<Option<u64>, FetchError> {
    match place(service, url)? {
        Place::Web => fetch::size(&service.options.import_filter, url).await,
        Place::Pool(pool, at) => {
            let info = pool.engine.info(&at.image).await.map_err(store_failed)?;
            let mut snapshots = info.snapshots.iter();
            let found = snapshots.find(|found| found.name == at.snapshot);
            let missing = || FetchError::Failed(format!("Invalid location: {at} is not there"));
            Ok(Some(found.ok_or_else(missing)?.size_bytes))
        }
    }
}

/// The data at a location, from its beginning to its end.
pub async fn open(service: &ImageService, url: &str) -> Result<Fetched, FetchError> {
    match place(service, url)? {
        Place::Web => fetch::get(&service.options.import_filter, url).await,
        Place::Pool(pool, at) => {
            let opened = pool.engine.open(&at.image, Some(&at.snapshot)).await;
            let handle = opened.map_err(store_failed)?;
            Ok(Fetched {
                size_bytes: Some(handle.size_bytes()),
                data: read(service, handle, pool.chunk_bytes),
            })
        }
    }
}

/// The bytes of an open image from beginning to end.
fn read(service: &ImageService, handle: Arc<dyn ImageHandle>, chunk_bytes: usize) -> DataStream {
    let size = handle.size_bytes();
    let transfer = service.transfer_memory.transfer();
    pieces(handle, 0..size, chunk_bytes, transfer)
}

/// The bytes of a range, some pieces read ahead while there is memory for it. After a failed one
/// there is nothing more.
pub fn pieces(
    handle: Arc<dyn ImageHandle>,
    range: Range<u64>,
    chunk_bytes: usize,
    transfer: Transfer,
) -> DataStream {
    let piece_bytes = chunk_bytes.clamp(1, PIECE_BYTES_MAX);
    // In order: a later piece must not take the room that an earlier one waits for.
    let allowed = stream::unfold(range.start, move |offset| {
        let (transfer, left) = (transfer.clone(), range.end.saturating_sub(offset));
        async move {
            if left == 0 {
                return None;
            }
            let room = transfer.room().await;
            let most = piece_bytes.min(room.bytes());
            let length = usize::try_from(left).map_or(most, |left| left.min(most));
            Some(((offset, length, room), offset.saturating_add(length as u64)))
        }
    });
    let reads = allowed.map(move |(offset, length, room)| {
        let handle = Arc::clone(&handle);
        // On any worker: every byte is checked, which takes a while.
        tokio::spawn(async move {
            let piece = handle.read(offset, length).await;
            piece.map(|piece| room.hold(piece))
        })
    });
    let pieces = reads.buffered(PIECES_AHEAD).map(|read| match read {
        Ok(piece) => piece.map_err(io::Error::other),
        Err(died) => Err(io::Error::other(died)),
    });
    Box::pin(pieces.scan(false, |failed, piece| {
        let wanted = (!*failed).then_some(piece);
        *failed |= wanted.as_ref().is_some_and(io::Result::is_err);
        std::future::ready(wanted)
    }))
}

/// An image's data, ready to be read.
pub enum Found {
    /// With the bytes to read at a time.
    Pool(Arc<dyn ImageHandle>, usize),
    Web(Fetched),
}

impl Found {
    /// The bytes from their beginning to their end.
    pub fn into_stream(self, service: &ImageService) -> DataStream {
        match self {
            Found::Pool(handle, chunk_bytes) => read(service, handle, chunk_bytes),
            Found::Web(fetched) => fetched.data,
        }
    }
}

/// Opens this node's copy, or else the first location that has the data, those in `preferred`
/// stores before others; `None`: the image has no location.
pub async fn open_image(
    service: &ImageService,
    image: &Image,
    preferred: &[String],
) -> Result<Option<Found>> {
    if let Some(cache) = &service.cache
        && let Some(copy) = cache.open_copy(image.id).await
        && image.size_bytes == Some(copy.size_bytes())
    {
        return Ok(Some(Found::Pool(copy, service.stores.staging.chunk_bytes)));
    }
    let mut held = locations::of_image(&service.database, image.id).await?;
    service.stores.sort(&mut held);
    let rank = |location: &Location| {
        let store = store_of(location).unwrap_or_default();
        let place = preferred.iter().position(|name| name == store);
        place.unwrap_or(preferred.len())
    };
    held.sort_by_key(rank);
    let mut failure = None;
    for location in held {
        match open_one(service, &location.url).await {
            Ok(found) => return Ok(Some(found)),
            Err(error) => {
                tracing::warn!(image = %image.id, %error, "a location cannot be read");
                failure.get_or_insert(error);
            }
        }
    }
    failure.map_or(Ok(None), Err)
}

async fn open_one(service: &ImageService, url: &str) -> Result<Found> {
    match service.stores.of_url(url) {
        Some((_, Some((pool, at)))) => {
            let handle = pool.engine.open(&at.image, Some(&at.snapshot)).await?;
            Ok(Found::Pool(handle, pool.chunk_bytes))
        }
        Some((_, None)) => {
            let fetched = fetch::get(&service.options.import_filter, url).await;
            let fetched = fetched.map_err(|error| Error::Unavailable(error.to_string()))?;
            Ok(Found::Web(fetched))
        }
        None => Err(Error::Internal("a location lies in no store".to_owned())),
    }
}

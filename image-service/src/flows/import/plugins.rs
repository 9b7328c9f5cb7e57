//! The tasks of `image_import_plugins`: staged data is unpacked, and converted.
//!
//! Each reads an image of the staging pool and writes another one, as a stream; what a run that
//! was cut short left of the second is replaced. All of them go when the import ends.

use std::io::{self, Read};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use image_formats::{
    ARCHIVE_DETECT_BYTES, Archive, ByteSource, DataMap, DiskExtent, DiskReader, Format,
    Qcow2Writer, VmdkWriter,
};
use serde::{Deserialize, Serialize};
use storage::Change;
use taskflow::{Run, Task, TaskError};
use tokio::sync::mpsc;

use super::sources::{StageData, stage_as};
use super::{Formats, ImportImage, SourceData};
use crate::db::staging::StagedData;
use crate::disk_source::HandleSource;
use crate::fetch::Fetched;
use crate::flows::{class, data, store_error};
use crate::format_check;
use crate::image::STORE_SNAPSHOT;
use crate::import_plugins::ConversionFormat;
use crate::uploads::DataStream;

/// Unpacked data and zeroes come in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;
/// Extents that are asked for at a time.
const EXTENTS_PER_PAGE: usize = 4096;

/// Data in the staging pool.
pub struct Staged<'a> {
    pub name: String,
    pub data: &'a StagedData,
}

/// The staged data as the plugins that have run made it; `None`: nothing is staged.
pub fn staged_now(run: &Run<ImportImage>) -> Result<Option<Staged<'_>>, TaskError> {
    let id = run.params.image_id;
    if let Some(converted) = converted(run) {
        return Ok(Some(Staged {
            name: converted_name(run),
            data: &converted.data,
        }));
    }
    if let Ok(Some(data)) = run.output::<DecompressData>() {
        let name = unpacked_name(run);
        return Ok(Some(Staged { name, data }));
    }
    Ok(match run.output::<StageData>()? {
        SourceData::Staged(data) => Some(Staged {
            name: id.to_string(),
            data,
        }),
        SourceData::Stored { .. } => None,
    })
}

/// What the conversion came to; `None`: nothing was converted (yet).
pub fn converted(run: &Run<ImportImage>) -> Option<&Converted> {
    run.output::<ConvertData>().ok()?.as_ref()
}

fn unpacked_name(run: &Run<ImportImage>) -> String {
    format!("{}.unpacked", run.params.image_id)
}

fn converted_name(run: &Run<ImportImage>) -> String {
    format!("{}.converted", run.params.image_id)
}

/// The raw disk on the way from one format to another.
fn disk_name(run: &Run<ImportImage>) -> String {
    format!("{}.disk", run.params.image_id)
}

/// Removes everything that the import may have in the staging pool.
pub async fn remove_staged(run: &Run<ImportImage>) -> Result<(), TaskError> {
    let (staging, lease) = (&run.ctx.stores.staging, run.lease());
    let plugins = &run.params.plugins;
    if plugins.decompress {
        data::remove(staging, unpacked_name(run), &lease).await?;
    }
    if plugins.convert_to.is_some() {
        data::remove(staging, disk_name(run), &lease).await?;
        data::remove(staging, converted_name(run), &lease).await?;
    }
    data::remove(staging, run.params.image_id, &lease).await
}

async fn open(run: &Run<ImportImage>, name: &str) -> Result<HandleSource, TaskError> {
    let staging = &run.ctx.stores.staging;
    let snapshot = staging.snapshot(name);
    let opened = staging.engine.open(&snapshot.image, Some(STORE_SNAPSHOT));
    Ok(HandleSource::new(opened.await.map_err(store_error)?))
}

/// A stream of our own does not stop for a while: its error is final, whatever it is.
fn in_words(what: &str, error: TaskError) -> TaskError {
    match error.class.as_str() {
        class::FETCH => {
            let message = format!("{what} failed: {}", error.message);
            TaskError::new(class::FORMAT_MISMATCH, message)
        }
        _ => error,
    }
}

pub struct DecompressData;

#[async_trait]
impl Task<ImportImage> for DecompressData {
    const NAME: &'static str = "decompress_data";
    /// `None`: the data is not packed, or shall stay so.
    type Output = Option<StagedData>;

    async fn execute(&self, run: &Run<ImportImage>) -> Result<Self::Output, TaskError> {
        let Some(staged) = staged_now(run)? else {
            return Ok(None);
        };
        if Formats::declared(run).await?.container_format == "compressed" {
            return Ok(None);
        }
        let source = open(run, &staged.name).await?;
        let head_bytes = staged.data.size_bytes().min(ARCHIVE_DETECT_BYTES as u64);
        let head = source.read_at(0, head_bytes as usize).await;
        let unreadable = |error: io::Error| TaskError::new("Store", error.to_string());
        let Some(archive) = Archive::detect(&head.map_err(unreadable)?) else {
            return Ok(None);
        };
        let unpacked = Fetched {
            size_bytes: None,
            data: unpack(archive, source),
        };
        let stored = stage_as(run, unpacked_name(run), unpacked).await;
        let what = format!("Unpacking the {archive} file");
        stored.map(Some).map_err(|error| in_words(&what, error))
    }
}

/// Unpacks on a thread that waits for whoever reads the stream, and ends with it.
fn unpack(archive: Archive, source: HandleSource) -> DataStream {
    let (sender, receiver) = mpsc::channel(1);
    let reader = source.into_reader();
    tokio::task::spawn_blocking(move || {
        let mut unpacked = match archive.unpack(reader) {
            Ok(unpacked) => unpacked,
            Err(error) => return drop(sender.blocking_send(Err(error))),
        };
        loop {
            match read_piece(&mut unpacked) {
                Ok(piece) if piece.is_empty() => return,
                Ok(piece) => {
                    if sender.blocking_send(Ok(piece)).is_err() {
                        return;
                    }
                }
                Err(error) => return drop(sender.blocking_send(Err(error))),
            }
        }
    });
    let pieces = stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    });
    // Who gathers pieces asks again behind the end.
    Box::pin(pieces.fuse())
}

/// A whole piece, less at the end, nothing behind it.
fn read_piece(source: &mut impl Read) -> io::Result<Bytes> {
    let mut piece = BytesMut::zeroed(PIECE_BYTES);
    let mut filled = 0;
    while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    piece.truncate(filled);
    Ok(piece.freeze())
}

/// The image in its new format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Converted {
    pub data: StagedData,
    pub virtual_size_bytes: u64,
}

pub struct ConvertData;

#[async_trait]
impl Task<ImportImage> for ConvertData {
    const NAME: &'static str = "convert_data";
    /// `None`: the data stays as it is.
    type Output = Option<Converted>;

    async fn execute(&self, run: &Run<ImportImage>) -> Result<Self::Output, TaskError> {
        let (Some(staged), Some(target)) = (staged_now(run)?, run.params.plugins.convert_to) else {
            return Ok(None);
        };
        let declared = Formats::declared(run).await?.disk_format;
        let found = &staged.data.inspection;
        check(run, &declared, &staged)?;
        if found.format == Format::Iso || declared == target.disk_format() {
            return Ok(None);
        }
        let source = open(run, &staged.name).await?;
        let converted = match target {
            ConversionFormat::Raw => to_raw(run, source, found.format, converted_name(run)).await?,
            ConversionFormat::Qcow2 | ConversionFormat::Vmdk => {
                to_file(run, source, &staged, target).await?
            }
        };
        Ok(Some(converted))
    }
}

/// Only what is certainly what it says is converted, in whatever container it is.
fn check(run: &Run<ImportImage>, declared: &str, staged: &Staged<'_>) -> Result<(), TaskError> {
    let found = &staged.data.inspection;
    let mismatch = |why: String| TaskError::new(class::FORMAT_MISMATCH, why);
    if found.format.disk_format() != declared {
        return Err(mismatch(format!(
            "Image format mismatch: declared {declared}, found {}",
            found.format
        )));
    }
    let checked = format_check::check(declared, found, &run.ctx.options);
    checked.map(drop).map_err(mismatch)
}

fn unreadable(error: image_formats::Error) -> TaskError {
    match error {
        image_formats::Error::Source(error) => TaskError::new("Store", error.to_string()),
        error => TaskError::new(
            class::FORMAT_MISMATCH,
            format!("The image cannot be converted: {error}"),
        ),
    }
}

/// The disk in the source, byte for byte.
async fn to_raw(
    run: &Run<ImportImage>,
    source: HandleSource,
    format: Format,
    name: String,
) -> Result<Converted, TaskError> {
    let reader = DiskReader::open(source, format).await.map_err(unreadable)?;
    let virtual_size_bytes = reader.virtual_size_bytes();
    let disk = Fetched {
        size_bytes: Some(virtual_size_bytes),
        data: disk_bytes(reader),
    };
    let data = stage_as(run, name, disk).await;
    Ok(Converted {
        data: data.map_err(|error| in_words("Conversion", error))?,
        virtual_size_bytes,
    })
}

pub(super) fn disk_bytes(reader: DiskReader<HandleSource>) -> DataStream {
    let zeroes = Bytes::from(vec![0; PIECE_BYTES]);
    let pieces = stream::try_unfold((reader, 0_u64), move |(mut reader, mut zero_bytes)| {
        let zeroes = zeroes.clone();
        async move {
            if zero_bytes == 0 {
                match reader.next_extent().await.map_err(io::Error::other)? {
                    None => return Ok(None),
                    Some(DiskExtent::Data { data, .. }) => return Ok(Some((data, (reader, 0)))),
                    Some(DiskExtent::Zero { length, .. }) => zero_bytes = length,
                }
            }
            let length = zero_bytes.min(PIECE_BYTES as u64);
            let piece = zeroes.slice(..length as usize);
            Ok::<_, io::Error>(Some((piece, (reader, zero_bytes - length))))
        }
    });
    Box::pin(pieces)
}

/// A file in which the disk lies. Where the source is not the bare disk, that is written first,
/// for the file is made from its allocated ranges.
async fn to_file(
    run: &Run<ImportImage>,
    source: HandleSource,
    staged: &Staged<'_>,
    target: ConversionFormat,
) -> Result<Converted, TaskError> {
    let format = staged.data.inspection.format;
    let (disk, name) = if format.is_raw() {
        (source, staged.name.clone())
    } else {
        let name = disk_name(run);
        to_raw(run, source, format, name.clone()).await?;
        (open(run, &name).await?, name)
    };
    let map = data_map(run, &name, disk.len()).await?;
    let (file, virtual_size_bytes) = match target {
        ConversionFormat::Vmdk => {
            let writer = VmdkWriter::new(map).map_err(unreadable)?;
            let (length, size) = (writer.file_length_bytes(), writer.virtual_size_bytes());
            (written(length, writer.into_stream(disk)), size)
        }
        _ => {
            let (writer, size) = (Qcow2Writer::new(map), disk.len());
            let length = writer.file_length_bytes();
            (written(length, writer.into_stream(disk)), size)
        }
    };
    let data = stage_as(run, converted_name(run), file).await;
    Ok(Converted {
        data: data.map_err(|error| in_words("Conversion", error))?,
        virtual_size_bytes,
    })
}

/// The file that comes out of a writer.
fn written(
    length_bytes: u64,
    pieces: impl Stream<Item = image_formats::Result<Bytes>> + Send + 'static,
) -> Fetched {
    Fetched {
        size_bytes: Some(length_bytes),
        data: Box::pin(pieces.map(|piece| piece.map_err(io::Error::other))),
    }
}

/// Which parts of the disk hold data.
async fn data_map(
    run: &Run<ImportImage>,
    name: &str,
    length_bytes: u64,
) -> Result<DataMap, TaskError> {
    let staging = &run.ctx.stores.staging;
    let image = staging.image(name);
    let all = Change {
        from: None,
        to: Some(STORE_SNAPSHOT),
    };
    let mut map = DataMap::new(length_bytes).map_err(unreadable)?;
    let mut position = 0;
    while position < length_bytes {
        if run.is_lost() {
            return Err(TaskError::interrupted());
        }
        let page = staging.engine.diff(&image, all, position, EXTENTS_PER_PAGE);
        let extents = page.await.map_err(store_error)?;
        let Some(last) = extents.last() else { break };
        position = last.offset.saturating_add(last.length);
        for extent in &extents {
            map.add(extent.offset, extent.length).map_err(unreadable)?;
        }
    }
    Ok(map)
}

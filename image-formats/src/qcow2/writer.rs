//! Writing a qcow2 image in one sequential pass.

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;

use super::COPIED;
use super::layout::Layout;
use crate::data_map::{DataMap, DataPieces};
use crate::{ByteSource, Error, Result};

const HEADER_LENGTH: u32 = 112;
/// Tables are put out in pieces of about this size.
const TABLE_PIECE_BYTES: usize = 1024 * 1024;

/// Writes a qcow2 image (version 3, nothing compressed) as a sequence of pieces, whose total
/// length is known from the start.
///
/// The map must name every range that is not zero; what it names may be zero.
pub struct Qcow2Writer {
    map: DataMap,
    layout: Layout,
    /// The next cluster of the tables to put out.
    table_cluster: u64,
    data: DataPieces,
}

impl Qcow2Writer {
    pub fn new(map: DataMap) -> Self {
        let layout = Layout::of(&map);
        Qcow2Writer {
            map,
            layout,
            table_cluster: 0,
            data: DataPieces::default(),
        }
    }

    /// The length of the whole file.
    pub fn file_length_bytes(&self) -> u64 {
        self.layout.clusters() * self.map.cluster_size()
    }

    /// The next piece of the file, at most [`MAX_PIECE_BYTES`](crate::MAX_PIECE_BYTES) long; `None` at its end. `disk`
    /// gives the virtual disk's bytes and is read in rising order.
    pub async fn next_piece(&mut self, disk: &(impl ByteSource + ?Sized)) -> Result<Option<Bytes>> {
        if disk.len() < self.map.virtual_size_bytes() {
            return Err(Error::Invalid("the disk is shorter than its map".into()));
        }
        if self.table_cluster < self.layout.first_data() {
            return Ok(Some(self.table_piece()));
        }
        self.data.next(&self.map, disk).await
    }

    /// The rest of the file as a stream, which ends after the first error.
    pub fn into_stream<S: ByteSource>(self, disk: S) -> impl Stream<Item = Result<Bytes>> {
        stream::try_unfold((self, disk), |(mut writer, disk)| async move {
            Ok(writer
                .next_piece(&disk)
                .await?
                .map(|piece| (piece, (writer, disk))))
        })
    }

    fn table_piece(&mut self) -> Bytes {
        let cluster_size = self.map.cluster_size() as usize;
        let mut piece = Vec::with_capacity(TABLE_PIECE_BYTES.max(cluster_size));
        while piece.len() < TABLE_PIECE_BYTES && self.table_cluster < self.layout.first_data() {
            self.push_table_cluster(&mut piece);
            self.table_cluster += 1;
            let padded = piece.len().next_multiple_of(cluster_size);
            piece.resize(padded, 0);
        }
        piece.into()
    }

    fn push_table_cluster(&self, piece: &mut Vec<u8>) {
        let layout = &self.layout;
        let cluster = self.table_cluster;
        let per_cluster = self.map.cluster_size() / 8;
        if cluster == 0 {
            self.push_header(piece);
        } else if cluster < layout.first_refcount_block() {
            let first = (cluster - 1) * per_cluster;
            for block in first..layout.refcount_blocks.min(first + per_cluster) {
                push_entry(
                    piece,
                    self.host_offset(layout.first_refcount_block() + block),
                );
            }
        } else if cluster < layout.first_l1() {
            let per_block = self.map.cluster_size() / 2;
            let first = (cluster - layout.first_refcount_block()) * per_block;
            let used = layout.clusters().saturating_sub(first).min(per_block);
            (0..used).for_each(|_| piece.extend_from_slice(&1_u16.to_be_bytes()));
        } else if cluster < layout.first_l2() {
            let first = (cluster - layout.first_l1()) * per_cluster;
            self.push_l1(piece, first, layout.l1_entries.min(first + per_cluster));
        } else {
            self.push_l2(piece, (cluster - layout.first_l2()) as usize);
        }
    }

    fn push_header(&self, piece: &mut Vec<u8>) {
        let layout = &self.layout;
        piece.extend_from_slice(b"QFI\xfb");
        let mut push_u32 = |value: u32| piece.extend_from_slice(&value.to_be_bytes());
        push_u32(3);
        // No backing file: offset and length.
        (0..3).for_each(|_| push_u32(0));
        push_u32(self.map.cluster_bits());
        push_entry(piece, self.map.virtual_size_bytes());
        let mut push_u32 = |value: u64| piece.extend_from_slice(&(value as u32).to_be_bytes());
        // Not encrypted.
        push_u32(0);
        // At most 8192 * 2^n entries for disks of at most 128 TiB.
        push_u32(layout.l1_entries);
        push_entry(piece, self.host_offset(layout.first_l1()));
        push_entry(piece, self.host_offset(1));
        let mut push_u32 = |value: u64| piece.extend_from_slice(&(value as u32).to_be_bytes());
        push_u32(layout.refcount_table);
        // No snapshots: number and offset; no features of the three kinds.
        (0..9).for_each(|_| push_u32(0));
        // Reference counts have 2^4 bits.
        push_u32(4);
        push_u32(HEADER_LENGTH.into());
        // Compression type with padding, then the end of the extensions.
        (0..4).for_each(|_| push_u32(0));
    }

    fn push_l1(&self, piece: &mut Vec<u8>, first: u64, end: u64) {
        let start = self.layout.l2.partition_point(|place| place.index < first);
        let mut places = self.layout.l2.iter().enumerate().skip(start).peekable();
        for l1_index in first..end {
            match places.next_if(|(_, place)| place.index == l1_index) {
                Some((number, _)) => {
                    push_entry(
                        piece,
                        self.host_offset(self.layout.first_l2() + number as u64) | COPIED,
                    );
                }
                None => push_entry(piece, 0),
            }
        }
    }

    fn push_l2(&self, piece: &mut Vec<u8>, number: usize) {
        let Some(place) = self.layout.l2.get(number) else {
            return;
        };
        let entries = self.map.cluster_size() / 8;
        let first = place.index * entries;
        let mut host_cluster = self.layout.first_data() + place.data_before;
        for cluster in first..first + entries {
            if self.map.holds_data(cluster) {
                push_entry(piece, self.host_offset(host_cluster) | COPIED);
                host_cluster += 1;
            } else {
                push_entry(piece, 0);
            }
        }
    }

    fn host_offset(&self, cluster: u64) -> u64 {
        cluster * self.map.cluster_size()
    }
}

fn push_entry(piece: &mut Vec<u8>, entry: u64) {
    piece.extend_from_slice(&entry.to_be_bytes());
}

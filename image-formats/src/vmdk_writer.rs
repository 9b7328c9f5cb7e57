//! Writing a VMDK image in one sequential pass: sparse, in one file ("monolithicSparse").
//!
//! The file, in sectors of 512 bytes: header, descriptor, then twice a directory with the tables
//! it names (VMware reads the second when the first is damaged), then the grains of data.

use bytes::Bytes;
use futures_util::{Stream, stream};

use crate::data_map::{DataMap, DataPieces, TablePlace};
use crate::{ByteSource, Error, Result};

const SECTOR: u64 = 512;
const DESCRIPTOR_SECTORS: u64 = 20;
const TABLE_ENTRIES: u64 = 512;
const TABLE_SECTORS: u64 = TABLE_ENTRIES * 4 / SECTOR;
/// Entries of four bytes in a sector.
const SECTOR_ENTRIES: u64 = SECTOR / 4;
/// The mark for line ends that no transfer has changed, and a second directory.
const FLAGS: u32 = 1 | 1 << 1;
/// What virtual IDE disks are cut into.
const HEADS: u64 = 16;
const SECTORS_PER_TRACK: u64 = 63;
/// Everything before the data is put out in pieces of about this size.
const PIECE_BYTES: usize = 1 << 20;
/// Places in the file are 32-bit numbers of sectors.
const MAX_FILE_SECTORS: u64 = u32::MAX as u64;

/// Writes a VMDK image as a sequence of pieces, whose total length is known from the start.
///
/// The map must name every range that is not zero; what it names may be zero.
pub struct VmdkWriter {
    map: DataMap,
    layout: Layout,
    /// The next sector of what stands before the data.
    sector: u64,
    data: DataPieces,
}

/// Where everything lies, in sectors.
struct Layout {
    /// Of the disk.
    capacity: u64,
    directory_entries: u64,
    tables: Vec<TablePlace>,
    grain: u64,
    /// Where the grains begin.
    first_data: u64,
    end: u64,
}

impl Layout {
    fn of(map: &DataMap) -> Result<Self> {
        let (tables, data_grains) = map.tables(TABLE_ENTRIES);
        let grain = map.cluster_size() / SECTOR;
        let capacity = map.virtual_size_bytes().div_ceil(SECTOR);
        let mut layout = Layout {
            capacity,
            directory_entries: capacity.div_ceil(grain * TABLE_ENTRIES),
            tables,
            grain,
            first_data: 0,
            end: 0,
        };
        layout.first_data = layout.directory(2).next_multiple_of(grain);
        layout.end = layout.first_data + data_grains * grain;
        match layout.end <= MAX_FILE_SECTORS {
            true => Ok(layout),
            false => Err(Error::Invalid("the data is too large for VMDK".into())),
        }
    }

    /// Where the directory of this number is; there are two of them.
    fn directory(&self, number: u64) -> u64 {
        1 + DESCRIPTOR_SECTORS + number * (self.directory_sectors() + self.tables_sectors())
    }

    fn directory_sectors(&self) -> u64 {
        self.directory_entries.div_ceil(SECTOR_ENTRIES)
    }

    fn tables_sectors(&self) -> u64 {
        self.tables.len() as u64 * TABLE_SECTORS
    }

    fn first_table(&self, directory: u64) -> u64 {
        self.directory(directory) + self.directory_sectors()
    }
}

impl VmdkWriter {
    /// `Invalid` for more data than 32-bit numbers of sectors reach, 2 TiB.
    pub fn new(map: DataMap) -> Result<Self> {
        Ok(VmdkWriter {
            layout: Layout::of(&map)?,
            map,
            sector: 0,
            data: DataPieces::default(),
        })
    }

    /// The length of the whole file.
    pub fn file_length_bytes(&self) -> u64 {
        self.layout.end * SECTOR
    }

    /// Of the disk, in whole sectors.
    pub fn virtual_size_bytes(&self) -> u64 {
        self.layout.capacity * SECTOR
    }

    /// The next piece of the file, at most [`MAX_PIECE_BYTES`](crate::MAX_PIECE_BYTES) long;
    /// `None` at its end. `disk` gives the virtual disk's bytes and is read in rising order.
    pub async fn next_piece(&mut self, disk: &(impl ByteSource + ?Sized)) -> Result<Option<Bytes>> {
        if disk.len() < self.map.virtual_size_bytes() {
            return Err(Error::Invalid("the disk is shorter than its map".into()));
        }
        if self.sector >= self.layout.first_data {
            return self.data.next(&self.map, disk).await;
        }
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        while piece.len() < PIECE_BYTES && self.sector < self.layout.first_data {
            let start = piece.len();
            self.push_sector(&mut piece, self.sector);
            piece.resize(start + SECTOR as usize, 0);
            self.sector += 1;
        }
        Ok(Some(piece.into()))
    }

    /// The rest of the file as a stream, which ends after the first error.
    pub fn into_stream<S: ByteSource>(self, disk: S) -> impl Stream<Item = Result<Bytes>> {
        stream::try_unfold((self, disk), |(mut writer, disk)| async move {
            let piece = writer.next_piece(&disk).await?;
            Ok(piece.map(|piece| (piece, (writer, disk))))
        })
    }

    /// What one sector before the data begins with; the rest of it is zero.
    fn push_sector(&self, piece: &mut Vec<u8>, sector: u64) {
        let layout = &self.layout;
        if sector == 0 {
            self.push_header(piece);
        } else if sector < layout.directory(0) {
            let text = self.descriptor();
            let start = ((sector - 1) * SECTOR) as usize;
            let text = text.as_bytes().get(start..).unwrap_or_default();
            piece.extend_from_slice(text.get(..SECTOR as usize).unwrap_or(text));
        } else if sector < layout.directory(2) {
            let number = u64::from(sector >= layout.directory(1));
            match sector.checked_sub(layout.first_table(number)) {
                None => self.push_directory(piece, number, sector - layout.directory(number)),
                Some(within) => self.push_table(piece, within),
            }
        }
    }

    fn push_header(&self, piece: &mut Vec<u8>) {
        let layout = &self.layout;
        piece.extend_from_slice(b"KDMV");
        push_u32(piece, 1);
        push_u32(piece, FLAGS);
        for sectors in [layout.capacity, layout.grain, 1, DESCRIPTOR_SECTORS] {
            piece.extend_from_slice(&sectors.to_le_bytes());
        }
        push_u32(piece, TABLE_ENTRIES as u32);
        for sector in [layout.directory(0), layout.directory(1), layout.first_data] {
            piece.extend_from_slice(&sector.to_le_bytes());
        }
        // Closed cleanly; the line ends that a transfer as text would change; not compressed.
        piece.extend_from_slice(b"\0\n \r\n\0\0");
    }

    fn descriptor(&self) -> String {
        let sectors = self.layout.capacity;
        let cylinders = sectors / (HEADS * SECTORS_PER_TRACK);
        format!(
            "# Disk DescriptorFile\n\
             version=1\n\
             CID=fffffffe\n\
             parentCID=ffffffff\n\
             createType=\"monolithicSparse\"\n\
             \n\
             # Extent description\n\
             RW {sectors} SPARSE \"disk.vmdk\"\n\
             \n\
             # The Disk Data Base\n\
             #DDB\n\
             \n\
             ddb.virtualHWVersion = \"4\"\n\
             ddb.geometry.cylinders = \"{cylinders}\"\n\
             ddb.geometry.heads = \"{HEADS}\"\n\
             ddb.geometry.sectors = \"{SECTORS_PER_TRACK}\"\n\
             ddb.adapterType = \"ide\"\n"
        )
    }

    /// A sector of a directory: where the table is, or zero for one that has no data.
    fn push_directory(&self, piece: &mut Vec<u8>, number: u64, within: u64) {
        let layout = &self.layout;
        let first = within * SECTOR_ENTRIES;
        let end = layout.directory_entries.min(first + SECTOR_ENTRIES);
        let start = layout.tables.partition_point(|place| place.index < first);
        let mut places = layout.tables.iter().enumerate().skip(start).peekable();
        for index in first..end {
            let place = places.next_if(|(_, place)| place.index == index);
            let table = place.map_or(0, |(order, _)| {
                layout.first_table(number) + order as u64 * TABLE_SECTORS
            });
            push_u32(piece, table as u32);
        }
    }

    /// A sector of the tables: where the grain is, or zero for one without data.
    fn push_table(&self, piece: &mut Vec<u8>, within: u64) {
        let Some(place) = self.layout.tables.get((within / TABLE_SECTORS) as usize) else {
            return;
        };
        let table = place.index * TABLE_ENTRIES;
        let first = table + within % TABLE_SECTORS * SECTOR_ENTRIES;
        let before = (table..first).filter(|grain| self.map.holds_data(*grain));
        let mut order = place.data_before + before.count() as u64;
        for grain in first..first + SECTOR_ENTRIES {
            match self.map.holds_data(grain) {
                true => {
                    push_u32(
                        piece,
                        (self.layout.first_data + order * self.layout.grain) as u32,
                    );
                    order += 1;
                }
                false => push_u32(piece, 0),
            }
        }
    }
}

fn push_u32(piece: &mut Vec<u8>, value: u32) {
    piece.extend_from_slice(&value.to_le_bytes());
}

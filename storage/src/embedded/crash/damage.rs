//! Flipped bytes: noticed wherever they are.

use super::super::disk::Disk;
use super::super::format::state::Saved;
use super::super::recovery::choose;
use super::super::shard::place;
use super::super::space::MapUnit;
use super::steps::history;
use super::*;

/// Whatever byte of the disk is inverted: opening, reading or the check notices it, and no read
/// gives anything else than what was written.
#[test]
fn no_flipped_byte_goes_unnoticed() {
    let mut world = World::new(9, 1 << 30);
    history(&mut world, 60).unwrap();
    world.ask(Request::Settle).unwrap();
    let shard = world.shard.as_mut().unwrap();
    shard.want_checkpoint(true, None);
    shard.finish().unwrap();
    world.model.flush();
    world.shard = None;
    world.disk.lose_process();
    let used = places_in_use(&mut world.disk.copy(1));
    assert!(used.len() > 100);
    for (file, at) in used {
        let mut broken = World::new(9, 1 << 30);
        broken.disk = world.disk.copy(at);
        broken.disk.flip(file, at);
        broken.model = world.model.clone();
        match broken.open() {
            Ok(()) => {}
            Err(Error::Corrupt { detail, .. }) => {
                let named = detail.contains(&file.name()) || file == FileId::Superblock;
                assert!(named, "{file:?} at byte {at}: {detail}");
                continue;
            }
            Err(error) => panic!("{file:?} at byte {at}: {error}"),
        }
        let model = broken.model.clone();
        let read = broken.try_compare(&model);
        let options = CheckOptions {
            data: true,
            most_bytes_per_second: None,
        };
        let shard = broken.shard.as_mut().unwrap();
        let report = shard.check(options, &AtomicU64::new(0)).unwrap();
        let named = report
            .errors
            .iter()
            .any(|error| error.contains(&file.name()));
        assert!(read || named, "{file:?} at byte {at}: {report:?}");
    }
}

/// Bytes of a closed store that mean something: of superblock, checkpoint file, space maps, pages
/// and data.
fn places_in_use(disk: &mut SimulatedDisk) -> Vec<(FileId, u64)> {
    let unit_bytes = UNIT_BYTES as u64;
    let mut random = Random::new(5);
    let mut places = Vec::new();
    let bytes = disk
        .read_now(FileId::Superblock, 0, 4 * UNIT_BYTES)
        .unwrap();
    let superblock = choose(&bytes).unwrap().unwrap().superblock;
    for copy in 0..2 {
        for _ in 0..6 {
            let at = superblock.offset(copy) + random.below(unit_bytes);
            places.push((FileId::Superblock, at));
        }
    }
    let file = FileId::Checkpoint(superblock.slot());
    let length = superblock.state_bytes as usize;
    let state = disk.read_now(file, 0, length.next_multiple_of(UNIT_BYTES));
    let saved = Saved::from_bytes(&state.unwrap()[..length]).unwrap();
    for _ in 0..20 {
        places.push((file, random.below(superblock.state_bytes)));
    }
    for (index, map) in saved.maps.iter().enumerate() {
        if map.slot != MapUnit::NEVER {
            let (file, offset) = place(MapUnit::place(index, map.slot));
            places.push((file, offset + random.below(unit_bytes)));
        }
    }
    let settings = Settings {
        limit_units: None,
        map_cache_bytes: 1 << 20,
        spare_units: 256,
    };
    let shard = Shard::open(Box::new(disk.copy(2)), settings, [7; 16]).unwrap();
    let space = &shard.state.trees.space;
    // What the start wrote anew lay elsewhere before.
    let before = (0..saved.maps.len()).flat_map(|index| {
        let map = saved.maps[index];
        let unit = MapUnit::place(index, map.slot.min(1));
        let (file, offset) = place(unit);
        let counts = match map.slot {
            MapUnit::NEVER => vec![0; UNIT_BYTES],
            _ => disk.block(file, offset),
        };
        counts
            .into_iter()
            .enumerate()
            .map(move |(at, count)| (index * UNIT_BYTES + at, count))
    });
    for (unit, count) in before {
        if count > 0 && space.total() > unit as u64 && random.chance(30) {
            let (file, offset) = place(unit as u64);
            places.push((file, offset + random.below(unit_bytes)));
        }
    }
    places
}

impl World {
    /// True: something was reported as damaged. Panics when a read gave wrong data.
    fn try_compare(&mut self, model: &Model) -> bool {
        let mut noticed = false;
        for (name, image) in &model.images {
            for (block, values) in image.blocks.iter().enumerate() {
                let Ok(id) = self.shard.as_ref().unwrap().state.catalogue.id(&spec(name)) else {
                    return true;
                };
                let read = self.ask(|reply| {
                    Request::Read(Read {
                        image: id,
                        snapshot: None,
                        block: block as u64,
                        count: 1,
                        to: ReadTo::Caller(reply),
                    })
                });
                match read {
                    Ok(found) if found.damage().is_none() => {
                        assert_eq!(value_of(&found.data), *values.last().unwrap());
                    }
                    _ => noticed = true,
                }
            }
        }
        noticed
    }
}

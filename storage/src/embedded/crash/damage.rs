//! Flipped bytes: noticed wherever they are.

use super::steps::history;
use super::*;

/// Whatever byte of the disk is inverted: opening, reading or the check notices it, and no read
/// gives anything else than what was written.
#[test]
fn no_flipped_byte_goes_unnoticed() {
    let mut world = World::new(9, 1 << 30);
    history(&mut world, 60).unwrap();
    let shard = world.shard.as_mut().unwrap();
    shard.want_checkpoint(true, None);
    shard.finish().unwrap();
    world.model.flush();
    world.shard = None;
    world.disk.lose_process();
    // What is in use, by asking: places whose loss a check notices.
    let used = places_in_use(&mut world.disk.copy(1));
    assert!(used.len() > 100);
    for (file, at) in used {
        let mut broken = World::new(9, 1 << 30);
        broken.disk = world.disk.copy(at);
        broken.disk.flip(file, at);
        broken.model = world.model.clone();
        if broken.open().is_err() {
            continue;
        }
        let model = broken.model.clone();
        let read = broken.try_compare(&model);
        let options = CheckOptions {
            data: true,
            most_bytes_per_second: None,
        };
        let report = broken
            .shard
            .as_mut()
            .unwrap()
            .check(options, &AtomicU64::new(0));
        let noticed = read || report.map_or(true, |report| report.error_count > 0);
        assert!(
            noticed || file == FileId::Superblock,
            "{file:?} at byte {at}"
        );
    }
}

fn places_in_use(disk: &mut SimulatedDisk) -> Vec<(FileId, u64)> {
    let settings = Settings {
        limit_units: None,
        map_cache_bytes: 1 << 20,
    };
    let shard = Shard::open(Box::new(disk.copy(2)), settings, [7; 16]).unwrap();
    let mut random = Random::new(5);
    let mut places = Vec::new();
    let total = shard.state.trees.space.total();
    for unit in 0..total {
        if shard.state.trees.space.count(unit) > 0 && random.chance(30) {
            let (file, offset) = super::super::shard::place(unit);
            places.push((file, offset + random.below(4096)));
        }
    }
    for copy in 0..4 {
        places.push((FileId::Superblock, copy * 4096 + random.below(100)));
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

//! Large writes, several at a time, until the disk is full: each is answered without a tick of
//! the clock, what was acknowledged stays, and what is discarded or removed can be written again.

use std::collections::VecDeque;

use super::*;

/// Of one write: 1 MiB.
const WRITE_BLOCKS: u64 = 256;
const IMAGE_BYTES: u64 = 1 << 30;

impl World {
    pub(super) fn begin(&mut self) {
        self.open().unwrap();
        let pool = "p".to_owned();
        self.plan(Box::new(move |_| {
            Ok(Plan::Change(CatalogueChange::CreatePool { pool }))
        }))
        .unwrap();
    }

    /// Makes a checkpoint.
    pub(super) fn save(&mut self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let shard = self.shard.as_mut().unwrap();
        shard.want_checkpoint(false, Some(reply));
        self.wait_for(answer)
    }

    pub(super) fn discard_large(&mut self, image: u64, places: u64) {
        let parts = vec![Part::Zero {
            block: 0,
            count: places * WRITE_BLOCKS,
        }];
        self.ask(|reply| Request::Change(Change::new(image, parts, reply)))
            .unwrap();
    }

    pub(super) fn id_of(&self, name: &str) -> u64 {
        let catalogue = &self.shard.as_ref().unwrap().state.catalogue;
        catalogue.id(&spec(name)).unwrap()
    }

    pub(super) fn create_large(&mut self, name: &str) {
        let image = spec(name);
        self.plan(Box::new(move |catalogue| {
            catalogue.plan_create(&image, IMAGE_BYTES).map(Plan::Change)
        }))
        .unwrap();
    }

    pub(super) fn remove_large(&mut self, name: &str) {
        let image = spec(name);
        self.plan(Box::new(move |catalogue| {
            catalogue.plan_remove(&image).map(Plan::Change)
        }))
        .unwrap();
    }

    /// Starts to write the MiB with this number, all of it the number.
    pub(super) fn write_large(&mut self, image: u64, place: u64) -> oneshot::Receiver<Result<()>> {
        let data: Bytes = bytes_of(place + 1).repeat(WRITE_BLOCKS as usize).into();
        let parts = parts(place * WRITE_BLOCKS, &data);
        let (reply, answer) = oneshot::channel();
        let request = Request::Change(Change::new(image, parts, reply));
        self.shard.as_mut().unwrap().submit(request);
        answer
    }

    /// Writes `depth` at a time until one is refused; answers how many were not.
    pub(super) fn fill_up(&mut self, image: u64, depth: usize) -> u64 {
        let mut answers = VecDeque::new();
        for place in 0.. {
            if answers.len() == depth
                && let Some(answer) = answers.pop_front()
            {
                match self.wait_for(answer) {
                    Ok(()) => {}
                    Err(Error::OutOfSpace) => {
                        for answer in answers {
                            let late = self.wait_for(answer);
                            assert!(matches!(late, Ok(()) | Err(Error::OutOfSpace)), "{late:?}");
                        }
                        return place - depth as u64;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            answers.push_back(self.write_large(image, place));
            if place % 16 == 15 {
                self.ask(Request::Flush).unwrap();
            }
        }
        0
    }

    pub(super) fn assert_large(&mut self, image: u64, places: std::ops::Range<u64>) {
        for place in places {
            let read = |reply| {
                Request::Read(Read {
                    image,
                    snapshot: None,
                    block: place * WRITE_BLOCKS,
                    count: WRITE_BLOCKS,
                    to: ReadTo::Caller(reply),
                })
            };
            let blocks = self.ask(read).unwrap();
            assert!(blocks.damage().is_none());
            let mut values = blocks.data.chunks(UNIT_BYTES).map(value_of);
            assert!(values.all(|value| value == place + 1), "MiB {place}");
        }
    }
}

fn fill_and_free(seed: u64, room_mib: u64, depth: usize) {
    let mut world = World::new(seed, room_mib << 20);
    world.begin();
    world.create_large("full");
    world.create_large("other");
    let (full, other) = (world.id_of("full"), world.id_of("other"));
    let written = world.fill_up(full, depth);
    assert!(written > room_mib / 2, "{written} of {room_mib} MiB");
    world.assert_large(full, 0..written);
    world.discard_large(full, 4);
    world.ask(Request::Flush).unwrap();
    let answer = world.write_large(other, 0);
    world.wait_for(answer).unwrap();
    world.remove_large("full");
    world.create_large("full");
    let full = world.id_of("full");
    let again = world.fill_up(full, depth);
    assert!(again + 8 >= written, "{again} after {written} MiB");
    world.shard = None;
    world.disk.lose_power();
    world.open().unwrap();
    world.remove_large("full");
    world.remove_large("other");
    world.ask(Request::Settle).unwrap();
    world.check();
    assert_eq!(world.shard.as_ref().unwrap().state.trees.used, 0);
    world.save().unwrap();
}

#[test]
fn a_disk_filled_by_large_writes_answers_and_recovers() {
    for depth in [1, 2, 8] {
        for seed in 0..4 {
            fill_and_free(seed, 40 + 3 * seed, depth);
        }
    }
}

/// The catalogue outgrows its files on a full disk: no checkpoint can be made. All that is
/// acknowledged stays, through a crash too, and removing leads out of it.
#[test]
fn a_catalogue_without_room_for_its_file_stops_nothing() {
    for seed in 0..4 {
        let mut world = World::new(seed, 40 << 20);
        world.begin();
        world.create_large("full");
        let full = world.id_of("full");
        for place in 0..4 {
            let answer = world.write_large(full, place);
            world.wait_for(answer).unwrap();
        }
        world.disk.platter().room = 0;
        for number in 0..30 {
            let set = CatalogueChange::SetMetadata {
                id: full,
                key: format!("key{number}"),
                value: "v".repeat(60 << 10),
            };
            world
                .plan(Box::new(move |_| Ok(Plan::Change(set))))
                .unwrap();
        }
        world.shard.as_mut().unwrap().tick();
        let saved = world.save();
        assert!(matches!(saved, Err(Error::OutOfSpace)), "{saved:?}");
        let written = world.fill_up(full, 2);
        assert!(written > 4, "{written} MiB");
        world.ask(Request::Flush).unwrap();
        world.check();
        world.shard = None;
        world.disk.lose_power();
        world.open().unwrap();
        world.assert_large(full, 0..written);
        world.check();
        for number in 0..30 {
            let key = format!("key{number}");
            let remove = CatalogueChange::RemoveMetadata { id: full, key };
            world
                .plan(Box::new(move |_| Ok(Plan::Change(remove))))
                .unwrap();
        }
        world.discard_large(full, 4);
        world.save().unwrap();
        let answer = world.write_large(full, 1);
        world.wait_for(answer).unwrap();
        world.check();
    }
}

/// Lets the clock tick until nothing happens any more.
fn rest(world: &mut World) -> Result<()> {
    for _ in 0..4 {
        let shard = world.shard.as_mut().unwrap();
        shard.tick();
        shard.finish()?;
    }
    Ok(())
}

/// 40 MiB of one image and 4 MiB of another; the first is removed.
fn half_empty(world: &mut World) {
    world.begin();
    for (name, places) in [("a", 40), ("b", 4)] {
        world.create_large(name);
        let image = world.id_of(name);
        for place in 0..places {
            let answer = world.write_large(image, place);
            world.wait_for(answer).unwrap();
        }
    }
    world.save().unwrap();
    world.remove_large("a");
    world.ask(Request::Settle).unwrap();
}

/// Of an image of any size: what is freed is let go before there is much of it.
#[test]
fn a_large_removal_is_saved_in_parts() {
    let mut world = World::new(5, 100 << 20);
    world.settings.map_cache_bytes = 256 << 10;
    world.begin();
    world.create_large("a");
    let a = world.id_of("a");
    for place in 0..40 {
        let answer = world.write_large(a, place);
        world.wait_for(answer).unwrap();
    }
    world.save().unwrap();
    let before = world.shard.as_ref().unwrap().checkpoint.number;
    world.remove_large("a");
    let (reply, mut answer) = oneshot::channel();
    let shard = world.shard.as_mut().unwrap();
    shard.submit(Request::Settle(reply));
    let limit = shard.settings.most_freed();
    let mut most = 0;
    for _ in 0..100_000 {
        world.pump();
        let freed = world.shard.as_ref().unwrap().state.trees.space.freed();
        most = most.max(freed);
        if answer.try_recv().is_ok() {
            break;
        }
    }
    let shard = world.shard.as_mut().unwrap();
    shard.finish().unwrap();
    assert!(shard.state.trees.drops.is_empty());
    assert!(most <= limit + 8 * WRITE_BLOCKS, "{most} of {limit}");
    let parts = 40 * WRITE_BLOCKS / limit;
    assert!(parts >= 2 && shard.checkpoint.number >= before + parts);
    world.check();
}

#[test]
fn space_goes_back_to_the_file_system_and_comes_again() {
    for seed in 0..3 {
        let mut world = World::new(seed, 100 << 20);
        half_empty(&mut world);
        let before = world.disk.platter().room;
        rest(&mut world).unwrap();
        let after = world.disk.platter().room;
        assert!(after >= before + (24 << 20), "{before} {after}");
        world.check();
        let b = world.id_of("b");
        world.assert_large(b, 0..4);
        // A start keeps to it.
        world.shard = None;
        world.disk.lose_power();
        world.open().unwrap();
        assert!(world.disk.platter().room + (8 << 20) >= after);
        world.check();
        world.create_large("c");
        let c = world.id_of("c");
        let written = world.fill_up(c, 2);
        assert!(written > 60, "{written} MiB");
        world.assert_large(b, 0..4);
        world.assert_large(c, 0..written);
        world.check();
        // Cut off in the middle: what was filled again and used is there.
        world.shard = None;
        world.disk.lose_power();
        world.open().unwrap();
        world.check();
        world.assert_large(b, 0..4);
        world.remove_large("c");
        world.ask(Request::Settle).unwrap();
        rest(&mut world).unwrap();
        world.check();
    }
}

/// Power cuts, failures and deaths at every request from the removal on, until the space is in
/// use again.
#[test]
fn giving_back_survives_every_cut() {
    let mut world = World::new(11, 100 << 20);
    half_empty(&mut world);
    world.ask(Request::Flush).unwrap();
    world.shard = None;
    world.disk.lose_process();
    let b = 2;
    for cut in 0..90 {
        let mut other = World::new(cut, 0);
        other.disk = world.disk.copy(cut);
        other.disk.platter().left = Some(cut);
        let mut written = 0;
        if other.open().is_ok() && rest(&mut other).is_ok() {
            assert_eq!(other.id_of("b"), b);
            let image = spec("c");
            let create = other.plan(Box::new(move |catalogue| {
                catalogue.plan_create(&image, IMAGE_BYTES).map(Plan::Change)
            }));
            if create.is_ok() {
                let c = other.id_of("c");
                for place in 0..30 {
                    let answer = other.write_large(c, place);
                    if other.wait_for(answer).is_err() || other.ask(Request::Flush).is_err() {
                        break;
                    }
                    written = place + 1;
                }
            }
        }
        other.shard = None;
        match cut % 3 {
            0 => other.disk.lose_process(),
            _ => other.disk.lose_power(),
        }
        other.open().unwrap();
        other.check();
        other.assert_large(b, 0..4);
        if written > 0 {
            let c = other.id_of("c");
            other.assert_large(c, 0..written);
        }
    }
}

#[test]
fn a_file_system_that_takes_nothing_back_loses_nothing() {
    let mut world = World::new(4, 70 << 20);
    world.disk.platter().keeps_all = true;
    half_empty(&mut world);
    rest(&mut world).unwrap();
    world.check();
    assert_eq!(world.shard.as_ref().unwrap().state.trees.space.absent(), 0);
    world.create_large("c");
    let c = world.id_of("c");
    assert!(world.fill_up(c, 2) > 30);
    world.check();
}

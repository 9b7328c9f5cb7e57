//! What a start must not believe, and what it must go on from.

use super::super::disk::{Action, Disk, Io};
use super::super::format::superblock::COPIES;
use super::steps::history;
use super::*;

fn grown_catalogue(world: &mut World, image: u64, keys: std::ops::Range<u64>) {
    for number in keys {
        let set = CatalogueChange::SetMetadata {
            id: image,
            key: format!("key{number}"),
            value: "v".repeat(60 << 10),
        };
        let plan = Box::new(move |_: &mut _| Ok(Plan::Change(set)));
        world.plan(plan).unwrap();
    }
}

/// After a crash there may be no room for a checkpoint. What is acknowledged from then on must
/// survive the next crash as well, and the one after it.
#[test]
fn what_is_written_after_a_start_without_room_is_there_after_the_next() {
    for seed in 0..4 {
        let mut world = World::new(seed, 64 << 20);
        world.begin();
        world.create_large("a");
        let image = world.id_of("a");
        world.save().unwrap();
        world.disk.platter().room = 0;
        grown_catalogue(&mut world, image, 0..40);
        for round in 0..6 {
            world.shard = None;
            world.disk.lose_power();
            world.open().unwrap();
            world.assert_large(image, 0..round);
            world.check();
            let answer = world.write_large(image, round);
            world.wait_for(answer).unwrap();
            world.ask(Request::Flush).unwrap();
        }
        world.disk.platter().room = 64 << 20;
        world.shard.as_mut().unwrap().tick();
        world.save().unwrap();
        world.shard = None;
        world.disk.lose_power();
        world.open().unwrap();
        world.assert_large(image, 0..6);
        world.check();
    }
}

/// The same, cut off at every request of the start without room.
#[test]
fn a_start_without_room_survives_every_cut() {
    let mut world = World::new(5, 64 << 20);
    world.begin();
    world.create_large("a");
    let image = world.id_of("a");
    world.save().unwrap();
    world.disk.platter().room = 0;
    grown_catalogue(&mut world, image, 0..40);
    let answer = world.write_large(image, 0);
    world.wait_for(answer).unwrap();
    world.ask(Request::Flush).unwrap();
    world.shard = None;
    world.disk.lose_power();
    for cut in 0..24 {
        let mut other = World::new(cut, 0);
        other.disk = world.disk.copy(cut);
        for round in 0..3 {
            other.disk.platter().left = Some(cut);
            let _ = other.open();
            other.shard = None;
            other.disk.lose_power();
            other.open().unwrap();
            other.assert_large(image, 0..1 + round);
            let answer = other.write_large(image, 1 + round);
            other.wait_for(answer).unwrap();
            other.ask(Request::Flush).unwrap();
            other.shard = None;
            other.disk.lose_power();
        }
    }
}

/// A sync that failed inside a growth is a sync that failed.
#[test]
fn a_growth_that_fails_stops_the_store() {
    let mut world = World::new(1, 1 << 30);
    world.begin();
    world.create_large("a");
    let image = world.id_of("a");
    world.disk.platter().growth_fails = true;
    let stopped = (0..64).any(|place| {
        let answer = world.write_large(image, place);
        match world.wait_for(answer) {
            Ok(()) => false,
            Err(Error::Unavailable(_)) => true,
            Err(error) => panic!("{error}"),
        }
    });
    assert!(stopped);
    assert!(world.ask(Request::Flush).is_err());
}

fn closed_store(seed: u64) -> World {
    let mut world = World::new(seed, 1 << 30);
    history(&mut world, 40).unwrap();
    for _ in 0..3 {
        history(&mut world, 5).unwrap();
        world.shard.as_mut().unwrap().tick();
        world.save().unwrap();
    }
    world.model.flush();
    world.shard = None;
    world.disk.lose_process();
    world
}

fn opened(world: &World, spoil: impl FnOnce(&SimulatedDisk)) -> (World, Result<()>) {
    let mut other = World::new(1, 1 << 30);
    other.disk = world.disk.copy(3);
    other.model = world.model.clone();
    spoil(&other.disk);
    let opened = other.open();
    (other, opened)
}

/// One copy of the superblock may be lost. When both copies of a checkpoint are, the store does
/// not go back to the one before it, whose units may hold other data by now.
#[test]
fn a_lost_superblock_is_no_older_superblock() {
    for seed in 20..26 {
        let world = closed_store(seed);
        for copy in 0..COPIES {
            let flip = |disk: &SimulatedDisk| disk.flip(FileId::Superblock, copy * 4096 + 50);
            let (mut other, opened) = opened(&world, flip);
            opened.unwrap();
            let model = other.model.clone();
            other.compare(&model).unwrap();
            other.check_after_damage();
        }
        for slot in 0..2 {
            let (_, opened) = opened(&world, |disk| {
                disk.flip(FileId::Superblock, slot * 8192 + 33);
                disk.flip(FileId::Superblock, slot * 8192 + 4096 + 34);
            });
            assert!(matches!(opened, Err(Error::Corrupt { .. })), "{opened:?}");
        }
    }
}

/// A folder with data and without a superblock is not an empty one.
#[test]
fn a_store_without_superblock_is_not_made_anew() {
    let world = closed_store(30);
    let zeroed = |disk: &SimulatedDisk| disk.erase(FileId::Superblock, false);
    let gone = |disk: &SimulatedDisk| disk.erase(FileId::Superblock, true);
    for opened in [opened(&world, zeroed).1, opened(&world, gone).1] {
        assert!(matches!(opened, Err(Error::Corrupt { .. })), "{opened:?}");
    }
    // One that was cut off while it was made is.
    let mut disk = world.disk.copy(1);
    disk.erase(FileId::Superblock, true);
    disk.erase(FileId::Checkpoint(0), true);
    disk.erase(FileId::Checkpoint(1), true);
    disk.erase(FileId::Chunk(0), true);
    for index in 1..4 {
        disk.erase(FileId::Chunk(index), true);
    }
    disk.submit(Io {
        tag: 0,
        file: FileId::Chunk(0),
        offset: 0,
        action: Action::Grow(9 << 20),
    });
    let mut done = Vec::new();
    while done.is_empty() {
        disk.reap(&mut done);
    }
    let mut other = World::new(1, 1 << 30);
    other.disk = disk;
    other.open().unwrap();
    other.check();
}

/// What a killed process has written last may be in the disk's cache only, the superblock too.
#[test]
fn a_kill_and_then_a_power_loss_at_any_point_of_a_start_lose_nothing() {
    let mut world = World::new(6, 64 << 20);
    world.begin();
    world.create_large("a");
    let a = world.id_of("a");
    for place in 0..2 {
        let answer = world.write_large(a, place);
        world.wait_for(answer).unwrap();
        world.ask(Request::Flush).unwrap();
    }
    world.shard = None;
    world.disk.lose_process();
    let mut kills = 0..;
    loop {
        let mut killed = World::new(0, 0);
        killed.disk = world.disk.copy(0);
        let kill = kills.next();
        killed.disk.platter().left = kill;
        let survived = killed.open().is_ok();
        killed.shard = None;
        killed.disk.lose_process();
        let mut cuts = 0..;
        while !start_and_lose_power(&killed.disk, cuts.next(), a) {}
        if survived {
            assert!(kill > Some(8), "{kill:?}");
            return;
        }
    }
}

/// True: the power went when the start was done.
fn start_and_lose_power(disk: &SimulatedDisk, cut: Option<u64>, image: u64) -> bool {
    let mut world = World::new(0, 0);
    world.disk = disk.copy(cut.unwrap_or_default());
    world.disk.platter().left = cut;
    let done = world.open().is_ok();
    world.shard = None;
    world.disk.lose_power();
    world.open().unwrap();
    world.check();
    world.assert_large(image, 0..2);
    done
}

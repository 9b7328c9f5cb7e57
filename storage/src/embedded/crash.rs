//! Histories on a disk that loses power, dies, fails and fills up, compared with a model.
//!
//! The model knows for each block what it may hold after a crash: what was durable last, and all
//! that was written since. Snapshots, clones and removals that were answered are exact.

#![allow(clippy::unwrap_used)]

mod full;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::buffer::UNIT_BYTES;
use super::check::CheckOptions;
use super::disk::FileId;
use super::disk::simulated::SimulatedDisk;
use super::records::CatalogueChange;
use super::request::{
    Change, Content, Part, Patch, Plan, PlanCall, PlanOf, Read, ReadTo, Reply, Request, parts,
};
use super::shard::{Settings, Shard};
use crate::conformance::Random;
use crate::{Error, ImageSpec, Result};

const BLOCKS: u64 = 700;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const SNAPSHOTS: [&str; 3] = ["r", "s", "t"];
/// Requests that run at once write here and there, each in blocks of its own.
const LANES: u64 = 6;

/// What a block holds: the two halves have a number each.
type Value = u64;

fn bytes_of(value: Value) -> Vec<u8> {
    let half = |number: u32| number.to_le_bytes().repeat(UNIT_BYTES / 8);
    [half((value >> 32) as u32), half(value as u32)].concat()
}

fn value_of(bytes: &[u8]) -> Value {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let value = u64::from(number(0)) << 32 | u64::from(number(UNIT_BYTES / 2));
    assert!(bytes == bytes_of(value), "a torn block");
    value
}

#[derive(Clone, Default)]
struct ModelImage {
    /// The last is what a read must give.
    blocks: Vec<Vec<Value>>,
    snapshots: BTreeMap<String, Vec<Value>>,
}

#[derive(Clone, Default)]
struct Model {
    images: BTreeMap<String, ModelImage>,
}

impl Model {
    /// All that was answered is durable.
    fn flush(&mut self) {
        for block in self.images.values_mut().flat_map(|image| &mut image.blocks) {
            *block = vec![*block.last().unwrap()];
        }
    }
}

fn spec(name: &str) -> ImageSpec {
    ImageSpec::new("p", name)
}

struct World {
    disk: SimulatedDisk,
    settings: Settings,
    shard: Option<Shard>,
    model: Model,
    /// What a call that was cut off would have made of the model.
    doubt: Option<Model>,
    random: Random,
    stamp: u32,
}

impl World {
    fn new(seed: u64, room: u64) -> Self {
        let settings = Settings {
            limit_units: None,
            map_cache_bytes: 1 << 20,
        };
        World {
            disk: SimulatedDisk::new(seed, room),
            settings,
            shard: None,
            model: Model::default(),
            doubt: None,
            random: Random::new(seed),
            stamp: 0,
        }
    }

    fn open(&mut self) -> Result<()> {
        let disk = Box::new(self.disk.clone());
        self.shard = Some(Shard::open(disk, self.settings, [7; 16])?);
        Ok(())
    }

    fn pump(&mut self) {
        let shard = self.shard.as_mut().unwrap();
        shard.pump();
        shard
            .take_answers()
            .into_iter()
            .for_each(|answer| answer.send());
    }

    fn wait_for<T>(&mut self, mut answer: oneshot::Receiver<Result<T>>) -> Result<T> {
        for _ in 0..100_000 {
            match answer.try_recv() {
                Ok(result) => return result,
                Err(TryRecvError::Closed) => panic!("a request was forgotten"),
                Err(TryRecvError::Empty) => self.pump(),
            }
        }
        panic!("a request is never answered");
    }

    fn ask<T>(&mut self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.shard.as_mut().unwrap().submit(request(reply));
        self.wait_for(answer)
    }

    fn plan(&mut self, plan: PlanOf) -> Result<()> {
        self.ask(|reply| Request::Plan(PlanCall { plan, reply }))
    }

    /// A call about the catalogue, with what it makes of the model.
    fn change(&mut self, plan: PlanOf, after: Model) -> Result<()> {
        let mut after = after;
        after.flush();
        self.doubt = Some(after.clone());
        match self.plan(plan) {
            Ok(()) => {
                self.model = after;
                self.doubt = None;
                Ok(())
            }
            Err(error @ Error::Unavailable(_)) => Err(error),
            Err(_) => {
                self.doubt = None;
                Ok(())
            }
        }
    }

    fn read(&mut self, name: &str, snapshot: Option<&str>) -> Result<Vec<Value>> {
        let catalogue = &self.shard.as_ref().unwrap().state.catalogue;
        let image = catalogue.id(&spec(name))?;
        let snapshot = match snapshot {
            None => None,
            Some(snapshot) => Some(catalogue.snapshot(&spec(name).at(snapshot))?.1),
        };
        let blocks = self.ask(|reply| {
            Request::Read(Read {
                image,
                snapshot,
                block: 0,
                count: BLOCKS,
                to: ReadTo::Caller(reply),
            })
        })?;
        assert_eq!(blocks.damage(), None, "a read gave wrong data");
        Ok(blocks.data.chunks(UNIT_BYTES).map(value_of).collect())
    }

    /// Compares everything with a model; answers the model as it turned out.
    fn compare(&mut self, model: &Model) -> Result<Model, String> {
        let text = |error: Error| error.to_string();
        let mut found = model.clone();
        let catalogue = &self.shard.as_ref().unwrap().state.catalogue;
        let names: Vec<String> = catalogue
            .names
            .keys()
            .map(|(_, name)| name.clone())
            .collect();
        let wanted: Vec<String> = model.images.keys().cloned().collect();
        if names != wanted {
            return Err(format!("images {names:?}, not {wanted:?}"));
        }
        for (name, image) in &mut found.images {
            let info = self
                .shard
                .as_ref()
                .unwrap()
                .state
                .catalogue
                .info(&spec(name));
            let mut snapshots: Vec<String> = info
                .map_err(text)?
                .snapshots
                .into_iter()
                .map(|snapshot| snapshot.name)
                .collect();
            snapshots.sort();
            let wanted: Vec<String> = image.snapshots.keys().cloned().collect();
            if snapshots != wanted {
                return Err(format!("snapshots of {name} {snapshots:?}, not {wanted:?}"));
            }
            let values = self.read(name, None).map_err(text)?;
            for (index, (value, allowed)) in values.iter().zip(&mut image.blocks).enumerate() {
                if !allowed.contains(value) {
                    return Err(format!("{name} block {index}: {value:x} of {allowed:x?}"));
                }
                *allowed = vec![*value];
            }
            for (snapshot, wanted) in &image.snapshots {
                let values = self.read(name, Some(snapshot)).map_err(text)?;
                if &values != wanted {
                    return Err(format!("{name}@{snapshot} holds other data"));
                }
            }
        }
        Ok(found)
    }

    fn check(&mut self) {
        let options = CheckOptions {
            data: true,
            most_bytes_per_second: None,
        };
        let report = self
            .shard
            .as_mut()
            .unwrap()
            .check(options, &AtomicU64::new(0))
            .unwrap();
        assert!(report.errors.is_empty(), "{:?}", report.errors);
    }

    /// After a crash: opens, compares with what was or what was about to be.
    fn recover(&mut self) {
        self.open().unwrap();
        let model = self.model.clone();
        let doubt = self.doubt.take();
        let compared = self.compare(&model);
        let found = match (compared, doubt) {
            (Ok(found), _) => found,
            (Err(_), Some(doubt)) => self.compare(&doubt).unwrap(),
            (Err(why), None) => panic!("{why}"),
        };
        self.model = found;
        self.check();
    }

    fn stamp(&mut self) -> Value {
        self.stamp += 1;
        u64::from(self.stamp) << 32 | u64::from(self.stamp)
    }

    /// Up to six requests at once that change data.
    fn write_some(&mut self, name: &str) -> Result<()> {
        let Ok(image) = self.shard.as_ref().unwrap().state.catalogue.id(&spec(name)) else {
            return Ok(());
        };
        let mut answers = Vec::new();
        for lane in 0..=self.random.below(LANES) {
            let width = BLOCKS / (LANES + 1);
            let first = lane * width + self.random.below(width);
            let count = match self.random.chance(70) {
                true => 1,
                false => {
                    1 + self
                        .random
                        .below(((lane + 1) * width).saturating_sub(first))
                }
            };
            let (reply, answer) = oneshot::channel();
            let request = self.one_write((image, name), first, count, reply);
            self.shard.as_mut().unwrap().submit(request);
            answers.push(answer);
            if self.random.chance(30) {
                self.pump();
            }
        }
        for answer in answers {
            match self.wait_for(answer) {
                Ok(()) | Err(Error::OutOfSpace) => {}
                Err(error) => return Err(error),
            }
        }
        // What was refused may be there in part.
        let values = self.read(name, None)?;
        let blocks = &mut self.model.images.get_mut(name).unwrap().blocks;
        for (allowed, value) in blocks.iter_mut().zip(values) {
            assert!(allowed.contains(&value), "{value:x} of {allowed:x?}");
            if allowed.last() != Some(&value) {
                allowed.push(value);
            }
        }
        Ok(())
    }

    fn one_write(
        &mut self,
        (image, name): (u64, &str),
        first: u64,
        count: u64,
        reply: Reply<()>,
    ) -> Request {
        let kind = self.random.below(10);
        let stamp = self.stamp();
        let blocks = &mut self.model.images.get_mut(name).unwrap().blocks;
        let blocks = blocks.iter_mut().skip(first as usize).take(count as usize);
        if kind == 0 {
            blocks.for_each(|block| block.push(0));
            let parts = vec![Part::Zero {
                block: first,
                count,
            }];
            return Request::Change(Change::new(image, parts, reply));
        }
        if kind < 8 {
            blocks.for_each(|block| block.push(stamp));
            let data: Bytes = bytes_of(stamp).repeat(count as usize).into();
            return Request::Change(Change::new(image, parts(first, &data), reply));
        }
        // From the middle of the first block to the end of it, or zeroes to the middle of the last.
        let unit = UNIT_BYTES as u64;
        let (offset, content) = if kind == 8 {
            for (index, block) in blocks.enumerate() {
                let last = *block.last().unwrap();
                block.push(match index {
                    0 => last >> 32 << 32 | stamp & 0xffff_ffff,
                    _ => last,
                });
            }
            let half: Bytes = bytes_of(stamp)[..UNIT_BYTES / 2].to_vec().into();
            (first * unit + unit / 2, Content::Bytes(half))
        } else {
            for (index, block) in blocks.enumerate() {
                let last = *block.last().unwrap();
                block.push(match index as u64 + 1 == count {
                    true => last & 0xffff_ffff,
                    false => 0,
                });
            }
            (first * unit, Content::Zero(count * unit - unit / 2))
        };
        Request::Patch(Patch {
            image,
            offset,
            content,
            then: None,
            reply: Some(reply),
            durable: false,
        })
    }

    fn step(&mut self) -> Result<()> {
        let name = *self.random.clone().pick(&NAMES).unwrap();
        let snapshot = *self.random.pick(&SNAPSHOTS).unwrap();
        let other = *self.random.pick(&NAMES).unwrap();
        let mut after = self.model.clone();
        let of = spec(name).at(snapshot);
        match self.random.below(20) {
            0..=8 => {
                if !self.model.images.contains_key(name) {
                    return self.create(name);
                }
                self.write_some(name)
            }
            9..=11 => {
                self.ask(Request::Flush)?;
                self.model.flush();
                Ok(())
            }
            12 | 13 => {
                let Some(image) = after.images.get_mut(name) else {
                    return self.create(name);
                };
                let values = image
                    .blocks
                    .iter()
                    .map(|block| *block.last().unwrap())
                    .collect();
                image.snapshots.insert(snapshot.into(), values);
                self.change(
                    Box::new(move |c| c.plan_snapshot(&of).map(Plan::Change)),
                    after,
                )
            }
            14 => {
                if let Some(image) = after.images.get_mut(name) {
                    image.snapshots.remove(snapshot);
                }
                self.change(
                    Box::new(move |c| c.plan_remove_snapshot(&of).map(Plan::Change)),
                    after,
                )
            }
            15 => {
                let image = after.images.get_mut(name);
                if let Some(image) = image
                    && let Some(values) = image.snapshots.get(snapshot)
                {
                    image.blocks = values.iter().map(|value| vec![*value]).collect();
                }
                let plan = move |c: &mut super::catalogue::Catalogue| {
                    let (id, snapshot, _) = c.snapshot(&of)?;
                    Ok(Plan::Change(CatalogueChange::RollBack { id, snapshot }))
                };
                self.change(Box::new(plan), after)
            }
            16 | 17 => self.clone_one(name, snapshot, other),
            18 => {
                if after
                    .images
                    .get(name)
                    .is_some_and(|image| image.snapshots.is_empty())
                {
                    after.images.remove(name);
                }
                let image = spec(name);
                self.change(
                    Box::new(move |c| c.plan_remove(&image).map(Plan::Change)),
                    after,
                )
            }
            _ => {
                let shard = self.shard.as_mut().unwrap();
                shard.tick();
                if self.random.chance(50) {
                    shard.want_checkpoint(false, None);
                }
                Ok(())
            }
        }
    }

    fn create(&mut self, name: &str) -> Result<()> {
        let mut after = self.model.clone();
        let image = ModelImage {
            blocks: vec![vec![0]; BLOCKS as usize],
            snapshots: BTreeMap::new(),
        };
        after.images.insert(name.into(), image);
        let image = spec(name);
        let size = BLOCKS * UNIT_BYTES as u64;
        self.change(
            Box::new(move |c| c.plan_create(&image, size).map(Plan::Change)),
            after,
        )
    }

    /// Protects, clones, makes independent, unprotects: one plan after the other.
    fn clone_one(&mut self, name: &str, snapshot: &str, child: &str) -> Result<()> {
        let values = self
            .model
            .images
            .get(name)
            .and_then(|image| image.snapshots.get(snapshot));
        let Some(values) = values.cloned() else {
            return Ok(());
        };
        if self.model.images.contains_key(child) {
            return Ok(());
        }
        let of = spec(name).at(snapshot);
        let same = self.model.clone();
        let plan = |protected: bool| -> PlanOf {
            let of = of.clone();
            Box::new(move |c| {
                Ok(c.plan_protect(&of, protected)?
                    .map_or(Plan::Nothing, Plan::Change))
            })
        };
        self.change(plan(true), same)?;
        let mut after = self.model.clone();
        let image = ModelImage {
            blocks: values.into_iter().map(|value| vec![value]).collect(),
            snapshots: BTreeMap::new(),
        };
        after.images.insert(child.into(), image);
        let (parent, image) = (of.clone(), spec(child));
        self.change(
            Box::new(move |c| c.plan_clone(&parent, &image).map(Plan::Change)),
            after,
        )?;
        let Ok(id) = self
            .shard
            .as_ref()
            .unwrap()
            .state
            .catalogue
            .id(&spec(child))
        else {
            return Ok(());
        };
        let same = self.model.clone();
        let flatten = move |_: &mut _| Ok(Plan::Change(CatalogueChange::Flatten { id }));
        self.change(Box::new(flatten), same)?;
        let same = self.model.clone();
        self.change(plan(false), same)
    }

    /// Removes everything; then nothing may be in use.
    fn clear(&mut self) {
        for (name, image) in self.model.images.clone() {
            for snapshot in image.snapshots.keys() {
                let of = spec(&name).at(snapshot);
                let plan: PlanOf = Box::new({
                    let of = of.clone();
                    move |c| {
                        Ok(c.plan_protect(&of, false)?
                            .map_or(Plan::Nothing, Plan::Change))
                    }
                });
                self.plan(plan).unwrap();
                self.plan(Box::new(move |c| {
                    c.plan_remove_snapshot(&of).map(Plan::Change)
                }))
                .unwrap();
            }
            let image = spec(&name);
            self.plan(Box::new(move |c| c.plan_remove(&image).map(Plan::Change)))
                .unwrap();
        }
        self.model = Model::default();
        self.ask(Request::Settle).unwrap();
        self.check();
        let shard = self.shard.as_mut().unwrap();
        assert_eq!(shard.state.trees.used, 0);
        assert_eq!(shard.state.trees.pages.unsaved(), 0);
        shard.want_checkpoint(false, None);
        shard.finish().unwrap();
        self.check();
    }
}

/// A history of some steps; the number of requests that the disk carried out.
fn history(world: &mut World, steps: u64) -> Result<u64> {
    if world.shard.is_none() {
        world.open()?;
        let pool = CatalogueChange::CreatePool { pool: "p".into() };
        world.plan(Box::new(move |_| Ok(Plan::Change(pool))))?;
    }
    for _ in 0..steps {
        world.step()?;
    }
    Ok(world.disk.platter().count)
}

/// Cuts the power at every single request of short histories, and then again during recovery.
#[test]
fn every_cut_of_short_histories_is_survived() {
    for seed in 1..=6 {
        let mut whole = World::new(seed, 1 << 30);
        let count = history(&mut whole, 25).unwrap();
        for cut in 0..count {
            let mut world = World::new(seed, 1 << 30);
            world.disk.platter().left = Some(cut);
            let outcome = history(&mut world, 25);
            world.shard = None;
            world.disk.lose_power();
            if outcome.is_err() && world.disk.length_of(FileId::Superblock) == 0 {
                continue;
            }
            let saved = (world.model.clone(), world.doubt.clone());
            let copy = world.disk.copy(seed ^ cut);
            world.recover();
            // The same remains of the disk, and the power goes again while it recovers.
            let mut again = World::new(seed, 1 << 30);
            again.disk = copy;
            (again.model, again.doubt) = saved;
            again.disk.platter().left = Some(again.random.below(30) + cut % 7);
            let _ = again.open();
            again.shard = None;
            again.disk.lose_power();
            again.recover();
        }
    }
}

/// Long histories with a power loss, a death or a failure now and then.
#[test]
fn long_histories_survive_what_comes() {
    let first: u64 = std::env::var("STORE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(100);
    let count: u64 = std::env::var("STORE_SEEDS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(12);
    for seed in first..first + count {
        let mut world = World::new(seed, 1 << 30);
        history(&mut world, 1).unwrap();
        for round in 0..25 {
            eprintln!("seed {seed} round {round}");
            let luck = world.random.below(4);
            let within = world.random.below(300);
            match luck {
                0 => world.disk.platter().left = Some(within),
                1 => world.disk.platter().fails_after = Some(within),
                _ => {}
            }
            let steps = world.random.below(60);
            let outcome = history(&mut world, steps);
            if luck >= 2 {
                outcome.unwrap();
            }
            world.shard = None;
            if luck == 2 {
                // Everything that was answered is on the disk.
                world.model.flush();
                world.disk.lose_process();
            } else {
                world.disk.lose_power();
            }
            world.recover();
        }
        world.clear();
    }
}

/// A disk with little room: writes are refused, removing works, and then writes do.
#[test]
fn a_full_disk_is_an_error_and_no_more() {
    for seed in 200..206 {
        let mut world = World::new(seed, 28 << 20);
        history(&mut world, 1).unwrap();
        for _ in 0..6 {
            history(&mut world, 80).unwrap();
            world.shard.as_mut().unwrap().tick();
            if world.random.chance(50) {
                world.shard = None;
                world.disk.lose_power();
                world.recover();
            }
        }
        world.check();
        world.clear();
        world.create("a").unwrap();
        let id = world
            .shard
            .as_ref()
            .unwrap()
            .state
            .catalogue
            .id(&spec("a"))
            .unwrap();
        let data: Bytes = bytes_of(5).repeat(BLOCKS as usize).into();
        world
            .ask(|reply| Request::Change(Change::new(id, parts(0, &data), reply)))
            .unwrap();
        world.check();
    }
}

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
            let (file, offset) = super::shard::place(unit);
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

/// A limit on what images keep is met exactly.
#[test]
fn a_limit_is_exact() {
    let mut world = World::new(3, 1 << 30);
    world.settings.limit_units = Some(BLOCKS);
    history(&mut world, 0).unwrap();
    for name in ["a", "b"] {
        world.create(name).unwrap();
    }
    let ids = ["a", "b"].map(|name| {
        world
            .shard
            .as_ref()
            .unwrap()
            .state
            .catalogue
            .id(&spec(name))
            .unwrap()
    });
    let write = |world: &mut World, id: u64, first: u64, count: u64, value: Value| {
        let data: Bytes = bytes_of(value).repeat(count as usize).into();
        world.ask(|reply| Request::Change(Change::new(id, parts(first, &data), reply)))
    };
    write(&mut world, ids[0], 0, BLOCKS - 1, 1).unwrap();
    assert!(matches!(
        write(&mut world, ids[1], 0, 2, 2),
        Err(Error::OutOfSpace)
    ));
    write(&mut world, ids[1], 0, 1, 3).unwrap();
    // What replaces as much as it needs fits.
    write(&mut world, ids[0], 0, BLOCKS - 1, 4).unwrap();
    assert!(matches!(
        write(&mut world, ids[1], 7, 1, 5),
        Err(Error::OutOfSpace)
    ));
    world.check();
}

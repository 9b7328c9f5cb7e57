//! What a history is made of: random changes, and what each makes of the model.

use super::*;

impl World {
    /// Up to six requests at once that change data.
    pub(super) fn write_some(&mut self, name: &str) -> Result<()> {
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
        self.look_again(name)
    }

    /// What was refused may be there in part.
    fn look_again(&mut self, name: &str) -> Result<()> {
        let values = self.read(name, None)?;
        let blocks = &mut self.model.images.get_mut(name).unwrap().blocks;
        assert_eq!(blocks.len(), values.len());
        for (allowed, value) in blocks.iter_mut().zip(values) {
            assert!(allowed.contains(&value), "{value:x} of {allowed:x?}");
            if allowed.last() != Some(&value) {
                allowed.push(value);
            }
        }
        Ok(())
    }

    /// Cuts or grows the image; cutting goes through the middle of the new last block.
    fn resize_one(&mut self, name: &str) -> Result<()> {
        let wanted = 1 + self.random.below(BLOCKS) as usize;
        let Some(image) = self.model.images.get_mut(name) else {
            return self.create(name);
        };
        let cut = wanted < image.blocks.len();
        let end = (wanted * UNIT_BYTES) as u64;
        if cut {
            let allowed = &mut image.blocks[wanted - 1];
            let zeroed = allowed.last().unwrap() >> 32 << 32;
            allowed.insert(0, zeroed);
        }
        let mut after = self.model.clone();
        let blocks = &mut after.images.get_mut(name).unwrap().blocks;
        blocks.resize(wanted, vec![0]);
        if cut {
            let last = &mut blocks[wanted - 1];
            last.push(last[0]);
            self.resize(name, end - UNIT_BYTES as u64 / 2, after.clone())?;
            if self.model.images[name].blocks.len() != wanted {
                return self.look_again(name);
            }
        }
        self.resize(name, end, after)
    }

    fn resize(&mut self, name: &str, size_bytes: u64, after: Model) -> Result<()> {
        let image = spec(name);
        let plan =
            move |c: &mut super::super::catalogue::Catalogue| c.plan_resize(&image, size_bytes);
        self.change(Box::new(plan), after)
    }

    fn one_write(
        &mut self,
        (image, name): (u64, &str),
        first: u64,
        count: u64,
        reply: Reply<()>,
    ) -> Request {
        let kind = self.random.below(11);
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
        if kind == 10 {
            // As a defragmentation does: other places for the same data.
            return Request::Patch(Patch {
                image,
                offset: first * UNIT_BYTES as u64,
                content: Content::Same(count * UNIT_BYTES as u64),
                then: None,
                reply: Some(reply),
                durable: false,
            });
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

    pub(super) fn step(&mut self) -> Result<()> {
        let name = *self.random.clone().pick(&NAMES).unwrap();
        let snapshot = *self.random.pick(&SNAPSHOTS).unwrap();
        let other = *self.random.pick(&NAMES).unwrap();
        let mut after = self.model.clone();
        let of = spec(name).at(snapshot);
        match self.random.below(22) {
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
                let plan = move |c: &mut super::super::catalogue::Catalogue| {
                    let (id, snapshot, _) = c.snapshot(&of)?;
                    Ok(Plan::Change(CatalogueChange::RollBack { id, snapshot }))
                };
                self.change(Box::new(plan), after)
            }
            16 | 17 => self.clone_one(name, snapshot, other),
            18 | 19 => {
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
            20 => self.resize_one(name),
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

    pub(super) fn create(&mut self, name: &str) -> Result<()> {
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
    pub(super) fn clone_one(&mut self, name: &str, snapshot: &str, child: &str) -> Result<()> {
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
}

/// A history of some steps; the number of requests that the disk carried out.
pub(super) fn history(world: &mut World, steps: u64) -> Result<u64> {
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

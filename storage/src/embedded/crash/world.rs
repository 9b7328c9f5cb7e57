//! A store on a simulated disk, and the model beside it.

use super::*;

pub(super) struct World {
    pub(super) disk: SimulatedDisk,
    pub(super) settings: Settings,
    pub(super) shard: Option<Shard>,
    pub(super) model: Model,
    /// What a call that was cut off would have made of the model.
    pub(super) doubt: Option<Model>,
    pub(super) random: Random,
    pub(super) stamp: u32,
}

impl World {
    pub(super) fn new(seed: u64, room: u64) -> Self {
        let settings = Settings {
            limit_units: None,
            map_cache_bytes: 1 << 20,
            spare_units: 256,
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

    pub(super) fn open(&mut self) -> Result<()> {
        let disk = Box::new(self.disk.clone());
        self.shard = Some(Shard::open(disk, self.settings, [7; 16])?);
        Ok(())
    }

    pub(super) fn pump(&mut self) {
        let shard = self.shard.as_mut().unwrap();
        shard.pump();
        shard
            .take_answers()
            .into_iter()
            .for_each(|answer| answer.send());
    }

    pub(super) fn wait_for<T>(&mut self, mut answer: oneshot::Receiver<Result<T>>) -> Result<T> {
        for _ in 0..100_000 {
            match answer.try_recv() {
                Ok(result) => return result,
                Err(TryRecvError::Closed) => panic!("a request was forgotten"),
                Err(TryRecvError::Empty) => self.pump(),
            }
        }
        panic!("a request is never answered");
    }

    pub(super) fn ask<T>(&mut self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.shard.as_mut().unwrap().submit(request(reply));
        self.wait_for(answer)
    }

    pub(super) fn plan(&mut self, plan: PlanOf) -> Result<()> {
        self.ask(|reply| Request::Plan(PlanCall { plan, reply }))
    }

    /// A call about the catalogue, with what it makes of the model.
    pub(super) fn change(&mut self, plan: PlanOf, after: Model) -> Result<()> {
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

    pub(super) fn read(&mut self, name: &str, snapshot: Option<&str>) -> Result<Vec<Value>> {
        let catalogue = &self.shard.as_ref().unwrap().state.catalogue;
        let image = catalogue.id(&spec(name))?;
        let snapshot = match snapshot {
            None => None,
            Some(snapshot) => Some(catalogue.snapshot(&spec(name).at(snapshot))?.1),
        };
        let (_, size_bytes) = catalogue.tree(image, snapshot)?;
        let blocks = self.ask(|reply| {
            Request::Read(Read {
                image,
                snapshot,
                block: 0,
                count: size_bytes.div_ceil(UNIT_BYTES as u64),
                to: ReadTo::Caller(reply),
            })
        })?;
        assert_eq!(blocks.damage(), None, "a read gave wrong data");
        Ok(blocks.data.chunks(UNIT_BYTES).map(value_of).collect())
    }

    /// Compares everything with a model; answers the model as it turned out.
    pub(super) fn compare(&mut self, model: &Model) -> Result<Model, String> {
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
            if values.len() != image.blocks.len() {
                return Err(format!("{name} has {} blocks", values.len()));
            }
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

    pub(super) fn check(&mut self) {
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

    /// As [`World::check`]; what a start has found and mended is in the report as well.
    pub(super) fn check_after_damage(&mut self) {
        let shard = self.shard.as_mut().unwrap();
        shard.mended.clear();
        self.check();
    }

    /// After a crash: opens, compares with what was or what was about to be.
    pub(super) fn recover(&mut self) {
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

    pub(super) fn stamp(&mut self) -> Value {
        self.stamp += 1;
        u64::from(self.stamp) << 32 | u64::from(self.stamp)
    }

    /// Removes everything; then nothing may be in use.
    pub(super) fn clear(&mut self) {
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

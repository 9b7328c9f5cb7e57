//! Random operations on an engine and the oracle, compared step by step.

use std::sync::Arc;

use bytes::Bytes;

use super::compare::{Pair, same, same_content};
use super::{Effort, Engine, Failure, Limits, Outcome, Random};
use crate::memory::MemoryStore;
use crate::{Change, ImageHandle, ImageSpec, ImageStore};

const POOLS: [&str; 2] = ["volumes", "images"];
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const SNAPSHOTS: [&str; 4] = ["one", "two", "three", "four"];

struct Open {
    engine: Arc<dyn ImageHandle>,
    oracle: Arc<dyn ImageHandle>,
}

struct Run<'a> {
    factory: &'a dyn Engine,
    engine: Arc<dyn ImageStore>,
    oracle: MemoryStore,
    open: Vec<Open>,
    random: Random,
}

/// Runs the operations; then removes everything, and nothing may be left.
pub(super) async fn run(factory: &dyn Engine, effort: Effort) -> Outcome {
    let mut run = Run {
        factory,
        engine: factory.open().await?,
        oracle: MemoryStore::new(),
        open: Vec::new(),
        random: Random::new(effort.seed),
    };
    for pool in POOLS {
        run.engine.ensure_pool(pool).await?;
        run.oracle.ensure_pool(pool).await?;
    }
    for pool in run.engine.pools().await? {
        run.oracle.ensure_pool(&pool).await?;
    }
    for step in 0..effort.steps {
        let outcome = run.step(step).await;
        outcome
            .map_err(|failure| Failure(format!("seed {}, step {step}: {failure}", effort.seed)))?;
    }
    run.everything().await?;
    run.remove_all().await?;
    run.engine.close().await?;
    Ok(())
}

/// Calls the same method of both stores and compares what they answer.
macro_rules! both {
    ($run:expr, $method:ident $(, $argument:expr)*) => {{
        let found = $run.engine.$method($($argument),*).await;
        let wanted = $run.oracle.$method($($argument),*).await;
        let what = format!(concat!(stringify!($method), " {:?}"), ($(&$argument),*));
        same(&what, &found, &wanted)
    }};
}

impl Run<'_> {
    fn pair(&self) -> Pair<'_> {
        Pair {
            engine: &*self.engine,
            oracle: &self.oracle,
        }
    }

    fn image(&mut self) -> ImageSpec {
        let pool = self.random.pick(&POOLS).copied().unwrap_or_default();
        let name = self.random.pick(&NAMES).copied().unwrap_or_default();
        ImageSpec::new(pool, name)
    }

    fn snapshot_name(&mut self) -> &'static str {
        self.random.pick(&SNAPSHOTS).copied().unwrap_or_default()
    }

    fn size(&mut self) -> u64 {
        match self.random.below(10) {
            0 => 0,
            1 => (1 << 40).min(self.factory.limits().image_bytes / 2) + self.random.below(1 << 30),
            2 => self.random.below(10_000),
            3..=5 => self.random.below(3 << 20),
            _ => 4096 * (1 + self.random.below(600)),
        }
    }

    async fn step(&mut self, step: u32) -> Outcome {
        let image = self.image();
        let snapshot = image.at(self.snapshot_name());
        match self.random.below(100) {
            0..=5 => {
                let size_bytes = self.size();
                both!(self, create, &image, size_bytes)
            }
            6..=45 => self.change_data(&image).await,
            46..=52 => both!(self, create_snapshot, &snapshot),
            53..=57 => both!(self, protect_snapshot, &snapshot),
            58..=59 => both!(self, unprotect_snapshot, &snapshot),
            60..=63 => both!(self, remove_snapshot, &snapshot),
            64..=65 => both!(self, roll_back, &snapshot),
            66..=71 => {
                let child = self.image();
                both!(self, clone_image, &snapshot, &child)
            }
            72..=73 => both!(self, flatten, &image),
            74..=76 => both!(self, remove, &image),
            77..=78 => {
                let name = self.random.pick(&NAMES).copied().unwrap_or_default();
                both!(self, rename, &image, name)
            }
            79..=81 => {
                let size_bytes = self.size();
                both!(self, resize, &image, size_bytes)
            }
            82 => self.change_labels(&image).await,
            83 => {
                let name = self.snapshot_name();
                both!(self, rename_snapshot, &snapshot, name)
            }
            84..=86 => self.open_one(&image).await,
            87..=91 => self.compare_diff(&image).await,
            92..=96 => self.compare_image(&image).await,
            97 => self.pair().catalogue().await,
            98 => self.everything().await,
            _ if step.is_multiple_of(2) => self.reopen().await,
            _ => Ok(()),
        }
    }

    async fn open_both(&self, image: &ImageSpec, snapshot: Option<&str>) -> Outcome<Option<Open>> {
        let engine = self.engine.open(image, snapshot).await;
        let oracle = self.oracle.open(image, snapshot).await;
        match (engine, oracle) {
            (Ok(engine), Ok(oracle)) => Ok(Some(Open { engine, oracle })),
            (engine, oracle) => {
                same("open", &engine.map(|_| ()), &oracle.map(|_| ())).map(|()| None)
            }
        }
    }

    /// Keeps a handle open for a while: what is open cannot be removed.
    async fn open_one(&mut self, image: &ImageSpec) -> Outcome {
        if self.open.len() >= 3 {
            self.open.clear();
        }
        let name = self.snapshot_name();
        let snapshot = self.random.chance(30).then_some(name);
        let open = self.open_both(image, snapshot).await?;
        self.open.extend(open);
        Ok(())
    }

    async fn change_data(&mut self, image: &ImageSpec) -> Outcome {
        let kept = self.random.below(6) as usize;
        let opened;
        let open = match self.open.get(kept) {
            Some(open) => open,
            None => match self.open_both(image, None).await? {
                None => return Ok(()),
                Some(open) => {
                    opened = open;
                    &opened
                }
            },
        };
        for _ in 0..=self.random.below(4) {
            change(open, &mut self.random).await?;
        }
        if self.random.chance(30) {
            open.engine.flush().await?;
        }
        Ok(())
    }

    async fn change_labels(&mut self, image: &ImageSpec) -> Outcome {
        let key = self.snapshot_name();
        let value = format!("{}", self.random.number());
        both!(self, set_metadata, image, key, &value)?;
        if self.random.chance(50) {
            both!(
                self,
                remove_metadata,
                image,
                self.random
                    .clone()
                    .pick(&SNAPSHOTS)
                    .copied()
                    .unwrap_or_default()
            )?;
        }
        let length = self.random.below(5000) as usize;
        let data = Bytes::from(self.random.bytes(length));
        let name = self.snapshot_name();
        both!(self, put_object, &image.pool, name, data.clone())?;
        let other = self.snapshot_name();
        both!(self, object, &image.pool, other)?;
        both!(self, remove_object, &image.pool, other)
    }

    async fn compare_image(&mut self, image: &ImageSpec) -> Outcome {
        match self.open_both(image, None).await? {
            Some(open) => same_content(&*open.engine, &*open.oracle).await,
            None => Ok(()),
        }
    }

    async fn compare_diff(&mut self, image: &ImageSpec) -> Outcome {
        let (from, to) = (self.snapshot_name(), self.snapshot_name());
        let from = self.random.chance(70).then_some(from);
        let to = self.random.chance(70).then_some(to);
        let mut random = self.random.clone();
        let change = Change { from, to };
        self.pair().diff(image, change, &mut random).await
    }

    async fn everything(&mut self) -> Outcome {
        self.pair().catalogue().await?;
        self.pair().content().await?;
        self.factory.check(&self.engine).await
    }

    async fn reopen(&mut self) -> Outcome {
        self.open.clear();
        self.engine.close().await?;
        self.engine = self.factory.open().await?;
        self.everything().await
    }

    async fn remove_all(&mut self) -> Outcome {
        self.open.clear();
        let engine = Arc::clone(&self.engine);
        clear(&*engine, self.factory.limits()).await?;
        self.factory.check(&self.engine).await
    }
}

/// Removes all images, clones or not, and objects; then the store keeps nothing.
pub(super) async fn clear(engine: &dyn ImageStore, limits: Limits) -> Outcome {
    for pool in engine.pools().await? {
        for image in engine.images(&pool).await? {
            engine.flatten(&ImageSpec::new(&pool, image)).await?;
        }
    }
    for pool in engine.pools().await? {
        for image in engine.images(&pool).await? {
            let image = ImageSpec::new(&pool, image);
            for snapshot in engine.info(&image).await?.snapshots {
                let snapshot = image.at(snapshot.name);
                engine.unprotect_snapshot(&snapshot).await?;
                engine.remove_snapshot(&snapshot).await?;
            }
            engine.remove(&image).await?;
        }
        for object in engine.objects(&pool).await? {
            engine.remove_object(&pool, &object).await?;
        }
    }
    let used = engine.capacity("volumes").await?.used_bytes;
    super::ensure(used == 0 || !limits.counts_at_once, || {
        format!("an empty store uses {used} bytes")
    })
}

/// One write, discard or read of a random place.
async fn change(open: &Open, random: &mut Random) -> Outcome {
    let size = open.oracle.size_bytes();
    let unit = if random.chance(50) { 4096 } else { 1 };
    let near = [0, 1 << 20, 1 << 28, 1 << 36, size];
    let base = random.pick(&near).copied().unwrap_or(0).min(size);
    let offset = base.saturating_sub(random.below(2 << 20)) / unit * unit;
    let most = if random.chance(20) { 2 << 20 } else { 20_000 };
    let length = random.below(most) / unit * unit;
    // Now and then beyond the end.
    let most = if random.chance(95) {
        size.saturating_sub(offset)
    } else {
        u64::MAX
    };
    let length = length.min(most);
    let what = format!("{length} bytes at {offset} of {size}");
    match random.below(10) {
        0..=5 => {
            let mut data = random.bytes(length as usize);
            if random.chance(25) {
                let zeroes = data.iter_mut().skip(random.below(length) as usize);
                zeroes.take(9000).for_each(|byte| *byte = 0);
            }
            let data = Bytes::from(data);
            let found = open.engine.write(offset, data.clone()).await;
            let wanted = open.oracle.write(offset, data).await;
            same(&format!("write {what}"), &found, &wanted)
        }
        6 => {
            let length = if random.chance(10) {
                size.saturating_sub(offset)
            } else {
                length
            };
            let found = open.engine.discard(offset, length).await;
            let wanted = open.oracle.discard(offset, length).await;
            same(&format!("discard {what}"), &found, &wanted)
        }
        7 => {
            let found = open.engine.write_zeroes(offset, length).await;
            let wanted = open.oracle.write_zeroes(offset, length).await;
            same(&format!("write_zeroes {what}"), &found, &wanted)
        }
        _ => {
            let found = open.engine.read(offset, length as usize).await;
            let wanted = open.oracle.read(offset, length as usize).await;
            same(&format!("read {what}"), &found, &wanted)
        }
    }
}

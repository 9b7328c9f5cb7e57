//! `image:add-location`: a queued image gets data that lies somewhere already.
//!
//! | Task | Does | Undone by |
//! |---|---|---|
//! | `begin` | the location and its size; importing, or active where there is no hash to verify | removing it and, where it is ours, its data; → queued; the task has failed |
//! | `hash_data` | reads the data and hashes it | – |
//! | `finish` | hashes, importing → active, the task has succeeded | – |
//!
//! Without a given hash the image is active at once and hashed afterwards: that must not take it
//! away again, so these tasks only go forward then. A location on the web stays on the image that
//! is queued again, as with Glance.

use std::collections::BTreeMap;

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use serde_json::json;
use taskflow::{BoxTask, Flow, Retry, Run, Task, TaskError, boxed};
use uuid::Uuid;

use super::hash_image::{Hashes, hash_stream};
use super::watch::TaskWatch;
use super::{class, data, fetch_error, image_gone, unknown_store};
use crate::ImageService;
use crate::data_source;
use crate::db::{imports, locations, tasks};
use crate::hashing::Algorithm;
use crate::image::TaskStatus;

/// Pause before the second attempt; it doubles up to a minute.
const RETRY_DELAY_MS: u64 = 200;

/// The flow.
pub struct AddLocation;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub image_id: Uuid,
    pub url: String,
    /// What the caller says that the data's hash is.
    pub validation: Option<Validation>,
    /// Whether the data is hashed: `do_secure_hash`.
    pub secure: bool,
    /// How often reading the data is tried again: `http_retries`.
    pub retries: u32,
}

/// A hash that the caller gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validation {
    pub algorithm: Algorithm,
    /// Hexadecimal, lower case.
    pub value: String,
}

impl Params {
    fn algorithm(&self) -> Algorithm {
        let given = self.validation.as_ref();
        given.map_or(Algorithm::Sha512, |given| given.algorithm)
    }

    /// Whether the image is of use only once its hash is known to be right.
    fn is_verified(&self) -> bool {
        self.secure && self.validation.is_some()
    }
}

#[async_trait]
impl Flow for AddLocation {
    const KIND: &'static str = "image:add-location";
    type Context = ImageService;
    type Params = Params;

    fn tasks(params: &Params) -> Vec<BoxTask<Self>> {
        let mut tasks = vec![boxed(Begin)];
        let only_forward = !params.is_verified();
        if params.secure {
            tasks.push(boxed(HashData {
                only_forward,
                retries: params.retries,
            }));
        }
        tasks.push(boxed(Finish { only_forward }));
        tasks
    }

    /// What is half-made stays, and so do the image's marks; the clients' task has ended.
    async fn parked(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError> {
        let message = "The location could not be taken back; an operator has to look at it.";
        end_task(run, tx, TaskStatus::Failure, message).await
    }
}

async fn end_task(
    run: &Run<AddLocation>,
    tx: &mut Tx,
    status: TaskStatus,
    message: &str,
) -> Result<(), TaskError> {
    let keep_h = run.ctx.options.task_time_to_live_h;
    let result = json!({"image_id": run.params.image_id});
    let result = (status == TaskStatus::Success).then_some(&result);
    tasks::end(tx, run.flow.id, status, message, result, keep_h).await?;
    let notices = &run.ctx.notices;
    if status == TaskStatus::Success {
        let id = run.params.image_id;
        notices.image(tx, id, "image.activate", &run.flow).await?;
    }
    Ok(notices
        .task(tx, run.flow.id, status.as_str(), &run.flow)
        .await?)
}

struct Begin;

#[async_trait]
impl Task<AddLocation> for Begin {
    const NAME: &'static str = "begin";
    /// The size in bytes, where it is known.
    type Output = Option<u64>;

    async fn execute(&self, run: &Run<AddLocation>) -> Result<Option<u64>, TaskError> {
        let size = data_source::size(&run.ctx, &run.params.url).await;
        size.map_err(fetch_error)
    }

    async fn record(
        &self,
        run: &Run<AddLocation>,
        size_bytes: &Option<u64>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        let params = &run.params;
        tasks::start(tx, run.flow.id).await?;
        let notices = &run.ctx.notices;
        notices
            .task(tx, run.flow.id, "processing", &run.flow)
            .await?;
        if !imports::still_locked(tx, params.image_id, run.flow.id).await? {
            return Err(image_gone(params.image_id));
        }
        let found = run.ctx.stores.of_url(&params.url);
        let gone = || unknown_store(format!("{} is in no store", params.url));
        let (store, _) = found.ok_or_else(gone)?;
        let location = store.location(params.url.clone());
        locations::replace_all(tx, params.image_id, &[location]).await?;
        let algorithm = (params.secure || params.validation.is_some()).then(|| params.algorithm());
        let given = params.validation.as_ref().filter(|_| !params.secure);
        let begun = imports::LocationData {
            size_bytes: *size_bytes,
            os_hash_algo: algorithm.map(Algorithm::as_str),
            os_hash_value: given.map(|given| given.value.as_str()),
            is_final: !params.is_verified(),
        };
        match imports::begin_location(tx, params.image_id, &begun).await? {
            true => Ok(()),
            false => Err(image_gone(params.image_id)),
        }
    }

    async fn revert(
        &self,
        run: &Run<AddLocation>,
        _: Option<&Option<u64>>,
    ) -> Result<(), TaskError> {
        let image_id = run.params.image_id;
        match run.ctx.stores.own_pool(&run.params.url, image_id) {
            Some((_, pool)) => data::remove(pool, image_id, &run.lease()).await,
            None => Ok(()),
        }
    }

    async fn record_revert(
        &self,
        run: &Run<AddLocation>,
        begun: Option<&Option<u64>>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        let image_id = run.params.image_id;
        if imports::unlock(tx, image_id, run.flow.id).await? && begun.is_some() {
            imports::back_to_queued(tx, image_id).await?;
            if !run.params.url.starts_with("http") {
                locations::delete_all(tx, image_id).await?;
            }
        }
        let message = run.failure().map_or("", |error| &error.message);
        end_task(run, tx, TaskStatus::Failure, message).await
    }
}

struct HashData {
    only_forward: bool,
    retries: u32,
}

#[async_trait]
impl Task<AddLocation> for HashData {
    const NAME: &'static str = "hash_data";
    /// `None`: the data of an active image could not be read.
    type Output = Option<Hashes>;

    fn retry(&self) -> Retry {
        match self.only_forward {
            true => Retry::forever(RETRY_DELAY_MS),
            false => Retry::times(self.retries.saturating_add(1), RETRY_DELAY_MS),
        }
    }

    async fn execute(&self, run: &Run<AddLocation>) -> Result<Option<Hashes>, TaskError> {
        if !self.only_forward {
            let hashes = hash(run).await?;
            check(run, &hashes)?;
            return Ok(Some(hashes));
        }
        for attempt in 0..=self.retries {
            match hash(run).await {
                Ok(hashes) => return Ok(Some(hashes)),
                Err(error) if error.class == TaskError::INTERRUPTED => return Err(error),
                Err(error) => {
                    let image = run.params.image_id;
                    tracing::warn!(%image, %error, attempt, "the data of a location was not hashed");
                    if error.class == class::IMAGE_GONE {
                        break;
                    }
                }
            }
        }
        Ok(None)
    }
}

async fn hash(run: &Run<AddLocation>) -> Result<Hashes, TaskError> {
    let params = &run.params;
    let opened = data_source::open(&run.ctx, &params.url).await;
    let watch = TaskWatch::new(run, params.image_id);
    let data = watch.counted(opened.map_err(fetch_error)?.data);
    hash_stream(data, params.algorithm(), &watch).await
}

fn check(run: &Run<AddLocation>, hashes: &Hashes) -> Result<(), TaskError> {
    let Some(given) = &run.params.validation else {
        return Ok(());
    };
    if given.value == hashes.os_hash_value {
        return Ok(());
    }
    let message = format!(
        "os_hash_value: ({}) not matched with actual os_hash_value: ({})",
        given.value, hashes.os_hash_value
    );
    Err(TaskError::new(class::HASH_MISMATCH, message))
}

struct Finish {
    only_forward: bool,
}

#[async_trait]
impl Task<AddLocation> for Finish {
    const NAME: &'static str = "finish";
    const RECORD_ONLY: bool = true;
    type Output = ();

    fn retry(&self) -> Retry {
        match self.only_forward {
            true => Retry::forever(RETRY_DELAY_MS),
            false => Retry::Never,
        }
    }

    async fn execute(&self, _: &Run<AddLocation>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<AddLocation>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let params = &run.params;
        let unlocked = imports::unlock(tx, params.image_id, run.flow.id).await?;
        if !unlocked {
            if self.only_forward {
                return end_task(run, tx, TaskStatus::Failure, "The image was deleted.").await;
            }
            return Err(image_gone(params.image_id));
        }
        if params.secure {
            let hashes = run.output::<HashData>()?.as_ref();
            let hashes = hashes.map(|one| (one.checksum.as_str(), one.os_hash_value.as_str()));
            imports::finish_location(tx, params.image_id, hashes).await?;
        }
        end_task(run, tx, TaskStatus::Success, "").await
    }
}

/// The members of `validation_data`, for errors that name what is wrong.
pub fn parse_validation(data: &BTreeMap<String, String>) -> Result<Option<Validation>, String> {
    let (algorithm, value) = (data.get("os_hash_algo"), data.get("os_hash_value"));
    let (algorithm, value) = match (algorithm, value) {
        (None, None) => return Ok(None),
        (Some(algorithm), Some(value)) => (algorithm, value),
        (None, _) => return Err("'os_hash_algo' is a dependency of 'os_hash_value'".to_owned()),
        (_, None) => return Err("'os_hash_value' is a dependency of 'os_hash_algo'".to_owned()),
    };
    let unknown = || {
        let known = Algorithm::WORDS.join(", ");
        format!("os_hash_algo '{algorithm}' is not one of {known}")
    };
    let algorithm = Algorithm::parse(algorithm).ok_or_else(unknown)?;
    algorithm.check_value("os_hash_value", value)?;
    let value = value.to_ascii_lowercase();
    Ok(Some(Validation { algorithm, value }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::Router;
    use axum::routing::get;
    use database::Database;
    use rest::RequestContext;
    use taskflow::NewFlow;
    use taskflow::testing::{Fixture, exhaust, run_to_end};

    use super::*;
    use crate::db::images::find_locked;
    use crate::flows::testing::{World, serve, two_stores};
    use crate::image::Status;
    use crate::imports::new_task;

    const DATA: &[u8] = &[3; 10_000];
    const MD5: &str = "967b89a643fe13179c8a045800e7f08d";

    /// A queued image, data of its own in store `b` or on the web, and the flow.
    struct Adding {
        world: World,
        flow_id: Uuid,
        validated: bool,
        web: bool,
    }

    impl Adding {
        async fn new(url: Option<&str>, hash: Option<&str>) -> Self {
            let world = World::with(two_stores()).await;
            let image_id = world.image_id;
            if url.is_none() {
                world.put_data("b", DATA).await;
            }
            let (_, pool) = world.service.stores.choose_pool(Some("b")).unwrap();
            let params = Params {
                image_id,
                url: url.map_or_else(|| pool.url(image_id), str::to_owned),
                validation: hash.map(|hash| Validation {
                    algorithm: Algorithm::Md5,
                    value: hash.to_owned(),
                }),
                secure: true,
                retries: 1,
            };
            let flow = NewFlow::of::<AddLocation>(&params).unwrap();
            let flow_id = flow.id();
            let context = RequestContext::internal("someone", "alice");
            let input = serde_json::Value::Null;
            let task = new_task(&context, flow_id, image_id, "location_import", input);
            let mut tx = world.database().begin().await.unwrap();
            let image = find_locked(&mut tx, image_id).await.unwrap().unwrap();
            imports::lock(&mut tx, &image, flow_id, None, &[])
                .await
                .unwrap();
            tasks::insert(&mut tx, &task).await.unwrap();
            flow.insert(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
            Adding {
                world,
                flow_id,
                validated: hash.is_some(),
                web: url.is_some(),
            }
        }

        async fn run(&self) -> &'static str {
            let (database, context) = (self.database(), self.context());
            run_to_end::<AddLocation>(database, context, self.flow_id).await
        }
    }

    #[async_trait]
    impl Fixture<AddLocation> for Adding {
        fn database(&self) -> &Database {
            self.world.database()
        }

        fn context(&self) -> Arc<ImageService> {
            self.world.service.clone()
        }

        fn flow_id(&self) -> Uuid {
            self.flow_id
        }

        async fn restart(&mut self) {
            self.world.store.crash().await;
        }

        async fn assert_done(&self) {
            let image = self.world.image().await.unwrap();
            assert!(!imports::is_locked(&image));
            assert_eq!(
                (image.status, image.size_bytes),
                (Status::Active, Some(10_000))
            );
            assert_eq!(image.checksum.as_deref(), Some(MD5));
            let algorithm = if self.validated { "md5" } else { "sha512" };
            assert_eq!(image.os_hash_algo.as_deref(), Some(algorithm));
            let store = if self.web { "web" } else { "b" };
            assert_eq!(self.world.located().await, [store]);
            let task = self.world.task().await;
            assert_eq!(task, (self.flow_id, TaskStatus::Success));
        }

        async fn assert_reverted(&self) {
            let image = self.world.image().await.unwrap();
            assert!(!imports::is_locked(&image));
            assert_eq!((image.status, image.size_bytes), (Status::Queued, None));
            assert_eq!((image.checksum, image.os_hash_algo), (None, None));
            self.world.assert_store_is_empty().await;
            let task = self.world.task().await;
            assert_eq!(task, (self.flow_id, TaskStatus::Failure));
        }
    }

    #[tokio::test]
    async fn data_of_the_store_is_verified_or_gone() {
        exhaust::<AddLocation, _>(async || Adding::new(None, Some(MD5)).await).await;
    }

    #[tokio::test]
    async fn data_of_the_store_is_hashed_after_the_image_is_active() {
        exhaust::<AddLocation, _>(async || Adding::new(None, None).await).await;
    }

    #[tokio::test]
    async fn data_of_the_web_is_verified() {
        let url = serve(Router::new().route("/data", get(async || DATA))).await;
        let url = format!("{url}/data");
        exhaust::<AddLocation, _>(async || Adding::new(Some(&url), Some(MD5)).await).await;
        let wrong = Adding::new(Some(&url), Some(&"0".repeat(32))).await;
        assert_eq!(wrong.run().await, taskflow::state::REVERTED);
        wrong.assert_reverted().await;
        // As with Glance.
        assert_eq!(wrong.world.located().await, ["web"]);
    }

    #[tokio::test]
    async fn wrong_data_of_the_store_goes() {
        let wrong = Adding::new(None, Some(&"0".repeat(32))).await;
        assert_eq!(wrong.run().await, taskflow::state::REVERTED);
        wrong.assert_reverted().await;
        assert!(wrong.world.located().await.is_empty());
        assert_eq!(wrong.world.store.images("pool-b").await.unwrap(), [""; 0]);
    }
}

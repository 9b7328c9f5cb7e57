//! Stops the transfer of a flow when the worker must stop or the image is gone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use taskflow::{Flow, Run, TaskError};
use uuid::Uuid;

use super::image_gone;
use super::receive::Watch;
use crate::ImageService;
use crate::db::{images, imports, tasks};
use crate::uploads::DataStream;

/// How often a running transfer asks the database whether the image is still there.
const ASK_DATABASE_EVERY: Duration = Duration::from_secs(2);

/// Tells when it is time to ask the database again.
struct Pace(Mutex<Instant>);

impl Pace {
    fn new() -> Self {
        Pace(Mutex::new(Instant::now()))
    }

    fn is_due(&self) -> bool {
        let Ok(mut asked) = self.0.lock() else {
            return true;
        };
        let due = asked.elapsed() >= ASK_DATABASE_EVERY;
        if due {
            *asked = Instant::now();
        }
        due
    }
}

/// Watches a client's upload; the upload's id is the flow's.
pub struct UploadWatch<'a, F: Flow> {
    run: &'a Run<F>,
    image_id: Uuid,
    pace: Pace,
}

impl<'a, F: Flow> UploadWatch<'a, F> {
    pub fn new(run: &'a Run<F>, image_id: Uuid) -> Self {
        UploadWatch {
            run,
            image_id,
            pace: Pace::new(),
        }
    }
}

impl<F: Flow<Context = ImageService>> Watch for UploadWatch<'_, F> {
    async fn check(&self) -> Result<(), TaskError> {
        if self.run.is_lost() {
            return Err(TaskError::interrupted());
        }
        if self.pace.is_due() {
            let database = &self.run.ctx.database;
            if !images::is_uploading(database, self.image_id, self.run.flow.id).await? {
                return Err(image_gone(self.image_id));
            }
        }
        Ok(())
    }
}

/// Watches a transfer that a task shows; the task's id is the flow's.
pub struct TaskWatch<'a, F: Flow> {
    run: &'a Run<F>,
    image_id: Uuid,
    pace: Pace,
    bytes: Arc<AtomicU64>,
}

impl<'a, F: Flow> TaskWatch<'a, F> {
    pub fn new(run: &'a Run<F>, image_id: Uuid) -> Self {
        TaskWatch {
            run,
            image_id,
            pace: Pace::new(),
            bytes: Arc::default(),
        }
    }

    /// The data, counted for the task's message.
    pub fn counted(&self, data: DataStream) -> DataStream {
        let bytes = Arc::clone(&self.bytes);
        Box::pin(data.inspect(move |piece| {
            let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
            bytes.fetch_add(length, Ordering::Relaxed);
        }))
    }
}

impl<F: Flow<Context = ImageService>> Watch for TaskWatch<'_, F> {
    async fn check(&self) -> Result<(), TaskError> {
        if self.run.is_lost() {
            return Err(TaskError::interrupted());
        }
        if self.pace.is_due() {
            let (database, task_id) = (&self.run.ctx.database, self.run.flow.id);
            if !imports::holds_lock(database, self.image_id, task_id).await? {
                return Err(image_gone(self.image_id));
            }
            let copied_mib = self.bytes.load(Ordering::Relaxed) >> 20;
            tasks::tell(database, task_id, &format!("Copied {copied_mib} MiB")).await?;
        }
        Ok(())
    }
}

/// Watches a transfer that leaves an active image as it is.
pub struct ImageWatch<'a, F: Flow> {
    run: &'a Run<F>,
    image_id: Uuid,
    pace: Pace,
}

impl<'a, F: Flow> ImageWatch<'a, F> {
    pub fn new(run: &'a Run<F>, image_id: Uuid) -> Self {
        ImageWatch {
            run,
            image_id,
            pace: Pace::new(),
        }
    }
}

impl<F: Flow<Context = ImageService>> Watch for ImageWatch<'_, F> {
    async fn check(&self) -> Result<(), TaskError> {
        if self.run.is_lost() {
            return Err(TaskError::interrupted());
        }
        if self.pace.is_due() {
            let found = images::find(&self.run.ctx.database, self.image_id).await?;
            found.ok_or_else(|| image_gone(self.image_id))?;
        }
        Ok(())
    }
}

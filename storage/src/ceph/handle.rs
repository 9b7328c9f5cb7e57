//! Open images in callers' hands.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::CephStore;
use super::connection::{Client, Connection, overdue};
use super::differences::collect;
use super::native::{Action, Errno, Range};
use super::open_images::{OpenImage, User};
use crate::store::{ExtentList, check_limit, check_range, check_read};
use crate::{Error, Extent, ExtentKind, ImageHandle, ImageSpec, Result};

/// The most that one request zeroes: it has no limit in time but that of each OSD request.
const ZERO_BYTES: u64 = 16 << 30;

pub(super) struct CephHandle {
    client: Arc<Client>,
    connection: Arc<Connection>,
    open: Arc<OpenImage>,
    name: String,
    read_only: bool,
    _user: User,
}

impl CephStore {
    pub(super) async fn open_handle(
        &self,
        image: &ImageSpec,
        snapshot: Option<&str>,
    ) -> Result<Arc<dyn ImageHandle>> {
        let (connection, pool) = self.pool(&image.pool).await?;
        let slot = connection.images.slot(image, snapshot);
        let mut opened = slot.lock().await;
        let user = slot.user();
        let open = match &*opened {
            Some(open) => {
                let open = Arc::clone(open);
                let refreshed = Arc::clone(&open);
                // Another client may have changed its size.
                let refresh = move || refreshed.refresh_size();
                self.client
                    .call(&connection, format!("image {image}"), refresh)
                    .await?;
                open
            }
            None => {
                let read_only = snapshot.is_some();
                let open = self
                    .open_image(&connection, pool, image, snapshot, read_only)
                    .await?;
                *opened = Some(Arc::clone(&open));
                open
            }
        };
        drop(opened);
        let name = snapshot.map_or_else(|| image.to_string(), |name| image.at(name).to_string());
        Ok(Arc::new(CephHandle {
            client: Arc::clone(&self.client),
            connection,
            open,
            name,
            read_only: snapshot.is_some(),
            _user: user,
        }))
    }
}

impl CephHandle {
    /// Sends a request and waits for its answer, for at most `limit` times as long as a single
    /// request to an OSD may take.
    async fn request(&self, action: Action, limit: u32) -> Result<Bytes> {
        let failed = |error: Errno| {
            self.connection
                .failed(format!("image {}", self.name), error)
        };
        let keep: Arc<dyn std::any::Any + Send + Sync> = Arc::clone(&self.open) as _;
        let image = self.open.image().map_err(failed)?;
        let answer = image.submit(action, keep);
        let limit = self.client.options.call_limit() * limit;
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => answer.map_err(failed),
            _ => Err(overdue(format!("image {}", self.name))),
        }
    }

    fn check_writable(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::ReadOnly(self.name.clone()));
        }
        Ok(())
    }
}

#[async_trait]
impl ImageHandle for CephHandle {
    fn size_bytes(&self) -> u64 {
        self.open.size_bytes()
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    async fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        check_read(offset, length, self.size_bytes())?;
        if length == 0 {
            return Ok(Bytes::new());
        }
        self.request(Action::Read { offset, length }, 1).await
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.check_writable()?;
        check_range(offset, data.len() as u64, self.size_bytes())?;
        if data.is_empty() {
            return Ok(());
        }
        self.request(Action::Write { offset, data }, 1)
            .await
            .map(drop)
    }

    async fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.check_writable()?;
        let end = check_range(offset, length, self.size_bytes())?;
        let mut offset = offset;
        while offset < end {
            let length = (end - offset).min(ZERO_BYTES);
            self.request(Action::Zero { offset, length }, 10).await?;
            offset += length;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.request(Action::Flush, 1).await.map(drop)
    }

    async fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>> {
        check_limit(limit)?;
        let end = check_range(offset, length, self.size_bytes())?;
        let open = Arc::clone(&self.open);
        let found = move || {
            let range = Range {
                from: None,
                offset,
                length,
                whole_objects: false,
                with_parent: true,
            };
            collect(open.image()?, range, limit)
        };
        let what = format!("image {}", self.name);
        let data = self.client.long_call(&self.connection, what, found).await?;
        let whole = data.len() < limit;
        let mut list = ExtentList::new(limit);
        let mut position = offset;
        for extent in data {
            if !list.push(position, extent.offset - position, ExtentKind::Zero)
                || !list.push(extent.offset, extent.length, ExtentKind::Data)
            {
                return Ok(list.into_vec());
            }
            position = extent.offset + extent.length;
        }
        if whole {
            list.push(position, end - position, ExtentKind::Zero);
        }
        Ok(list.into_vec())
    }
}

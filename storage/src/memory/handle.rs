//! Handles of the store in memory.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use super::disk::{Disk, difference};
use super::{State, UNLIMITED, lock};
use crate::store::{ExtentList, check_limit, check_range, check_read};
use crate::{Error, Extent, ExtentKind, ImageHandle, Result};

/// An open image or snapshot in memory.
pub(super) struct MemoryHandle {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) id: u64,
    pub(super) snapshot_id: Option<u64>,
    pub(super) name: String,
    pub(super) _token: Arc<()>,
}

impl MemoryHandle {
    fn disk<'a>(&self, state: &'a mut State) -> Result<&'a mut Disk> {
        let gone = || Error::NotFound(self.name.clone());
        let image = state.images.get_mut(&self.id).ok_or_else(gone)?;
        let Some(id) = self.snapshot_id else {
            return Ok(&mut image.head);
        };
        let mut snapshots = image.snapshots.iter_mut();
        let found = snapshots.find(|snapshot| snapshot.id == id);
        found.map(|snapshot| &mut snapshot.disk).ok_or_else(gone)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Disk) -> Result<T>) -> Result<T> {
        act(self.disk(&mut *lock(&self.state)?)?)
    }

    /// Changes the head, unless that would fill the store beyond its capacity.
    fn change(&self, act: impl FnOnce(&mut Disk) -> Result<()>) -> Result<()> {
        if self.read_only() {
            return Err(Error::ReadOnly(self.name.clone()));
        }
        let mut state = lock(&self.state)?;
        // Counting what is used is slow, so only a store with a limit does it.
        if state.total_bytes >= UNLIMITED {
            return act(self.disk(&mut state)?);
        }
        let before = self.disk(&mut state)?.clone();
        act(self.disk(&mut state)?)?;
        if state.used_bytes() > state.total_bytes {
            *self.disk(&mut state)? = before;
            return Err(Error::OutOfSpace);
        }
        Ok(())
    }
}

#[async_trait]
impl ImageHandle for MemoryHandle {
    fn size_bytes(&self) -> u64 {
        self.with(|disk| Ok(disk.size_bytes)).unwrap_or(0)
    }

    fn read_only(&self) -> bool {
        self.snapshot_id.is_some()
    }

    async fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        self.with(|disk| {
            check_read(offset, length, disk.size_bytes)?;
            Ok(Bytes::from(disk.read(offset, length)))
        })
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.change(|disk| {
            check_range(offset, data.len() as u64, disk.size_bytes)?;
            disk.write(offset, &data);
            Ok(())
        })
    }

    async fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.change(|disk| {
            let end = check_range(offset, length, disk.size_bytes)?;
            disk.discard(offset, end);
            Ok(())
        })
    }

    async fn flush(&self) -> Result<()> {
        self.with(|_| Ok(()))
    }

    async fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>> {
        check_limit(limit)?;
        self.with(|disk| {
            let end = check_range(offset, length, disk.size_bytes)?;
            let mut list = ExtentList::new(limit);
            let mut position = offset;
            for extent in difference(None, disk, offset, usize::MAX) {
                let start = extent.offset.min(end);
                let stop = (extent.offset + extent.length).min(end);
                if !list.push(position, start - position, ExtentKind::Zero)
                    || !list.push(start, stop - start, ExtentKind::Data)
                {
                    return Ok(list.into_vec());
                }
                position = stop;
            }
            list.push(position, end - position, ExtentKind::Zero);
            Ok(list.into_vec())
        })
    }
}

//! An open image.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::symbols::{LinkedImage, LinkedSnapshot, Pointer, Rbd, SnapshotEntry};
use super::{Errno, Pool, Result, checked, copied, listed, split, text};

/// The namespace of the snapshots that users make.
pub(crate) const USER_NAMESPACE: i32 = 0;

/// An image or one of its snapshots, opened.
pub(crate) struct Image {
    pub(super) pool: Arc<Pool>,
    pub(super) handle: Pointer,
}

// SAFETY: an rbd_image_t may be used by all threads at once; nothing here changes its snapshot
// after it was opened.
unsafe impl Send for Image {}
unsafe impl Sync for Image {}

/// A snapshot in an image's list.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub id: u64,
    pub name: String,
    pub size: u64,
    pub namespace: i32,
}

/// A parent or a child.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub pool: String,
    pub image: String,
    /// Of a parent only.
    pub snapshot: String,
    /// The image is in the trash.
    pub trashed: bool,
}

/// A piece of a difference.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub offset: u64,
    pub length: u64,
    /// Data, or zeroes.
    pub exists: bool,
}

/// What [`Image::difference`] compares.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range<'a> {
    /// `None`: from the empty image.
    pub from: Option<&'a str>,
    pub offset: u64,
    pub length: u64,
    /// Objects in whole, found in the object map where there is one.
    pub whole_objects: bool,
    /// What the parent has counts as the image's.
    pub with_parent: bool,
}

const NO_IMAGE: LinkedImage = LinkedImage {
    pool_id: 0,
    pool_name: ptr::null_mut(),
    pool_namespace: ptr::null_mut(),
    image_id: ptr::null_mut(),
    image_name: ptr::null_mut(),
    trash: false,
};

impl Image {
    pub(super) fn new(pool: Arc<Pool>, handle: Pointer) -> Self {
        Image { pool, handle }
    }

    pub(super) fn rbd(&self) -> &'static Rbd {
        &self.pool.cluster.libraries.rbd
    }

    fn number(&self, call: unsafe extern "C" fn(Pointer, *mut u64) -> c_int) -> Result<u64> {
        let mut value = 0;
        // SAFETY: the image is open.
        checked(unsafe { call(self.handle, &mut value) })?;
        Ok(value)
    }

    pub(crate) fn size(&self) -> Result<u64> {
        self.number(self.rbd().rbd_get_size)
    }

    pub(crate) fn features(&self) -> Result<u64> {
        self.number(self.rbd().rbd_get_features)
    }

    /// Bytes of an object, or of what lies in one of a striped image.
    pub(crate) fn stripe_unit(&self) -> Result<u64> {
        self.number(self.rbd().rbd_get_stripe_unit)
    }

    pub(crate) fn parent(&self) -> Result<Option<Link>> {
        let rbd = self.rbd();
        let (mut image, mut snapshot) = (
            NO_IMAGE,
            LinkedSnapshot {
                id: 0,
                namespace_type: 0,
                name: ptr::null_mut(),
            },
        );
        // SAFETY: both are filled by a call that succeeds, and given back once.
        unsafe {
            match checked((rbd.rbd_get_parent)(self.handle, &mut image, &mut snapshot)) {
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            let link = Link {
                snapshot: copied(snapshot.name),
                ..linked(&image)
            };
            (rbd.rbd_linked_image_spec_cleanup)(&mut image);
            (rbd.rbd_snap_spec_cleanup)(&mut snapshot);
            Ok(Some(link))
        }
    }

    /// The clones of the opened snapshot, or of all snapshots of an opened head.
    pub(crate) fn children(&self) -> Result<Vec<Link>> {
        let rbd = self.rbd();
        // SAFETY: the list has the length that it says; what fills it is given back once.
        unsafe {
            let (mut list, length) = listed(NO_IMAGE, |list, length| {
                (rbd.rbd_list_children3)(self.handle, list, length)
            })?;
            let links = list
                .iter()
                .take(length)
                .map(|entry| linked(entry))
                .collect();
            (rbd.rbd_linked_image_spec_list_cleanup)(list.as_mut_ptr(), length);
            Ok(links)
        }
    }

    /// Oldest first, those of other namespaces included.
    pub(crate) fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let rbd = self.rbd();
        let empty = SnapshotEntry {
            id: 0,
            size: 0,
            name: ptr::null(),
        };
        let mut room: c_int = 64;
        loop {
            let mut list = vec![empty; room as usize + 1];
            let mut length = room;
            // SAFETY: the list is one longer than it says, for the end mark; what fills it is
            // given back once.
            let counted = match checked(unsafe {
                (rbd.rbd_snap_list)(self.handle, list.as_mut_ptr(), &mut length)
            }) {
                Err(Errno::RANGE) => {
                    room = length.max(room * 2);
                    continue;
                }
                Err(error) => return Err(error),
                Ok(counted) => counted as usize,
            };
            let mut snapshots: Vec<Snapshot> = list
                .iter()
                .take(counted)
                .map(|entry| Snapshot {
                    id: entry.id,
                    // SAFETY: filled by the call above.
                    name: unsafe { copied(entry.name) },
                    size: entry.size,
                    namespace: USER_NAMESPACE,
                })
                .collect();
            if counted > 0 {
                // SAFETY: as above.
                unsafe { (rbd.rbd_snap_list_end)(list.as_mut_ptr()) };
            }
            for snapshot in &mut snapshots {
                let namespace = &mut snapshot.namespace;
                let get = rbd.rbd_snap_get_namespace_type;
                // SAFETY: the image is open.
                checked(unsafe { get(self.handle, snapshot.id, namespace) })?;
            }
            snapshots.sort_by_key(|snapshot| snapshot.id);
            return Ok(snapshots);
        }
    }

    pub(crate) fn is_protected(&self, snapshot: &str) -> Result<bool> {
        let name = text(snapshot)?;
        let mut protected = 0;
        let call = self.rbd().rbd_snap_is_protected;
        // SAFETY: the name ends with NUL.
        checked(unsafe { call(self.handle, name.as_ptr(), &mut protected) })?;
        Ok(protected != 0)
    }

    fn of_snapshot(
        &self,
        call: unsafe extern "C" fn(Pointer, *const std::ffi::c_char) -> c_int,
        snapshot: &str,
    ) -> Result<()> {
        let name = text(snapshot)?;
        // SAFETY: the image is open, the name ends with NUL.
        checked(unsafe { call(self.handle, name.as_ptr()) }).map(drop)
    }

    pub(crate) fn create_snapshot(&self, name: &str) -> Result<()> {
        self.of_snapshot(self.rbd().rbd_snap_create, name)
    }

    pub(crate) fn remove_snapshot(&self, name: &str) -> Result<()> {
        self.of_snapshot(self.rbd().rbd_snap_remove, name)
    }

    /// Errors: `BUSY` when it is protected already.
    pub(crate) fn protect_snapshot(&self, name: &str) -> Result<()> {
        self.of_snapshot(self.rbd().rbd_snap_protect, name)
    }

    /// Errors: `INVAL` when it is not protected, `BUSY` with clones of format 1.
    pub(crate) fn unprotect_snapshot(&self, name: &str) -> Result<()> {
        self.of_snapshot(self.rbd().rbd_snap_unprotect, name)
    }

    /// Takes the exclusive lock from whoever has it, and keeps it until the image is closed.
    /// Nothing to do for an image without the feature.
    pub(crate) fn take_lock(&self) -> Result<()> {
        const EXCLUSIVE: c_int = 0;
        // SAFETY: the handle is open.
        match checked(unsafe { (self.rbd().rbd_lock_acquire)(self.handle, EXCLUSIVE) }) {
            Ok(_) | Err(Errno::INVAL) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn roll_back(&self, name: &str) -> Result<()> {
        self.of_snapshot(self.rbd().rbd_snap_rollback, name)
    }

    pub(crate) fn rename_snapshot(&self, name: &str, new: &str) -> Result<()> {
        let (name, new) = (text(name)?, text(new)?);
        let rename = self.rbd().rbd_snap_rename;
        // SAFETY: both names end with NUL.
        checked(unsafe { rename(self.handle, name.as_ptr(), new.as_ptr()) }).map(drop)
    }

    pub(crate) fn resize(&self, size: u64) -> Result<()> {
        let resize = self.rbd().rbd_resize2;
        // SAFETY: the image is open, the callback uses nothing.
        checked(unsafe { resize(self.handle, size, true, unwatched, ptr::null_mut()) }).map(drop)
    }

    /// Switches features on or off.
    pub(crate) fn update_features(&self, features: u64, on: bool) -> Result<()> {
        let update = self.rbd().rbd_update_features;
        // SAFETY: the image is open.
        checked(unsafe { update(self.handle, features, u8::from(on)) }).map(drop)
    }

    /// Looks which objects there are, for a map that was switched on later.
    pub(crate) fn rebuild_object_map(&self) -> Result<()> {
        let rebuild = self.rbd().rbd_rebuild_object_map;
        // SAFETY: the image is open, the callback uses nothing.
        checked(unsafe { rebuild(self.handle, unwatched, ptr::null_mut()) }).map(drop)
    }

    /// Errors: `INVAL` without a parent.
    pub(crate) fn flatten(&self) -> Result<()> {
        // SAFETY: the image is open.
        checked(unsafe { (self.rbd().rbd_flatten)(self.handle) }).map(drop)
    }

    pub(crate) fn set_metadata(&self, key: &str, value: &str) -> Result<()> {
        let (key, value) = (text(key)?, text(value)?);
        let set = self.rbd().rbd_metadata_set;
        // SAFETY: both end with NUL.
        checked(unsafe { set(self.handle, key.as_ptr(), value.as_ptr()) }).map(drop)
    }

    pub(crate) fn remove_metadata(&self, key: &str) -> Result<()> {
        self.of_snapshot(self.rbd().rbd_metadata_remove, key)
    }

    pub(crate) fn metadata(&self) -> Result<Vec<(String, String)>> {
        let (mut keys_room, mut values_room) = (4096, 64 << 10);
        loop {
            let (mut keys, mut values) = (vec![0u8; keys_room], vec![0u8; values_room]);
            let (mut keys_length, mut values_length) = (keys_room, values_room);
            // SAFETY: both buffers have the lengths that they say.
            let listed = checked(unsafe {
                (self.rbd().rbd_metadata_list)(
                    self.handle,
                    c"".as_ptr(),
                    0,
                    keys.as_mut_ptr().cast(),
                    &mut keys_length,
                    values.as_mut_ptr().cast(),
                    &mut values_length,
                )
            });
            match listed {
                Err(Errno::RANGE) => {
                    keys_room = keys_length.max(keys_room);
                    values_room = values_length.max(values_room);
                }
                Err(error) => return Err(error),
                Ok(_) => {
                    keys.truncate(keys_length);
                    values.truncate(values_length);
                    // A value may be empty, a key not.
                    let values = values.split(|byte| *byte == 0);
                    let values = values.map(|value| String::from_utf8_lossy(value).into_owned());
                    return Ok(split(&keys).into_iter().zip(values).collect());
                }
            }
        }
    }

    /// Calls `found` with what differs, in rising order, until it answers false.
    pub(crate) fn difference(
        &self,
        range: Range<'_>,
        mut found: impl FnMut(Piece) -> bool + Send,
    ) -> Result<()> {
        struct Walk<'a> {
            found: &'a mut (dyn FnMut(Piece) -> bool + Send),
            stopped: bool,
        }
        unsafe extern "C" fn piece(
            offset: u64,
            length: usize,
            exists: c_int,
            walk: *mut c_void,
        ) -> c_int {
            // SAFETY: the walk of the call below, which has not returned; calls do not overlap.
            let walk = unsafe { &mut *walk.cast::<Walk<'_>>() };
            let piece = Piece {
                offset,
                length: length as u64,
                exists: exists != 0,
            };
            if walk.stopped || !(walk.found)(piece) {
                walk.stopped = true;
                return -125;
            }
            0
        }
        // Some releases of librbd end the process when asked for nothing.
        if range.length == 0 {
            return Ok(());
        }
        let from = range.from.map(text).transpose()?;
        let mut walk = Walk {
            found: &mut found,
            stopped: false,
        };
        // SAFETY: the callback's argument lives until the call returns.
        let code = unsafe {
            (self.rbd().rbd_diff_iterate2)(
                self.handle,
                from.as_ref().map_or(ptr::null(), |name| name.as_ptr()),
                range.offset,
                range.length,
                u8::from(range.with_parent),
                u8::from(range.whole_objects),
                piece,
                (&raw mut walk).cast(),
            )
        };
        if walk.stopped {
            return Ok(());
        }
        checked(code).map(drop)
    }
}

/// Is told how far a call is. librbd calls it whether it is there or not.
unsafe extern "C" fn unwatched(_done: u64, _total: u64, _nothing: *mut c_void) -> c_int {
    0
}

/// Safety: filled by a call.
unsafe fn linked(entry: &LinkedImage) -> Link {
    // SAFETY: promised by the caller.
    unsafe {
        Link {
            pool: copied(entry.pool_name),
            image: copied(entry.image_name),
            snapshot: String::new(),
            trashed: entry.trash,
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: whoever waits for an asynchronous request keeps the image.
        unsafe { (self.rbd().rbd_close)(self.handle) };
    }
}

//! A pool: its images by name, its small objects, its trash.

use std::ffi::{CStr, CString};
use std::ptr;
use std::sync::Arc;

use super::symbols::{ImageEntry, Pointer, TrashEntry};
use super::{Cluster, Errno, Image, Result, checked, copied, listed, split, text};

/// Ids are a few letters.
const LONGEST_ID: usize = 4096;

/// `RBD_TRASH_IMAGE_SOURCE_REMOVING`
const REMOVING: u8 = 3;
/// Of one step through the trash, and of what it answers.
const TRASH_STEP: u64 = 512;
const TRASH_STEP_BYTES: usize = 1 << 18;

/// An I/O context.
pub(crate) struct Pool {
    pub(super) cluster: Arc<Cluster>,
    pub(super) handle: Pointer,
}

// SAFETY: an rados_ioctx_t may be used by all threads at once as long as nobody changes its
// snapshot, namespace or locator, which nothing here does.
unsafe impl Send for Pool {}
unsafe impl Sync for Pool {}

/// An image in the trash of its pool.
#[derive(Debug, Clone)]
pub(crate) struct Trashed {
    pub id: String,
    pub name: String,
    /// Seconds since 1970.
    pub kept_until: i64,
}

impl Pool {
    pub(super) fn new(cluster: Arc<Cluster>, handle: Pointer) -> Self {
        Pool { cluster, handle }
    }

    /// What the pool is for: `rbd`, …
    pub(crate) fn applications(&self) -> Result<Vec<String>> {
        let mut buffer = vec![0u8; 1024];
        let mut length = buffer.len();
        // SAFETY: the buffer's own length.
        checked(unsafe {
            (self.cluster.libraries.rados.rados_application_list)(
                self.handle,
                buffer.as_mut_ptr().cast(),
                &mut length,
            )
        })?;
        Ok(split(&buffer))
    }

    pub(crate) fn images(&self) -> Result<Vec<String>> {
        let rbd = &self.cluster.libraries.rbd;
        let empty = ImageEntry {
            id: ptr::null_mut(),
            name: ptr::null_mut(),
        };
        // SAFETY: the list has the length that it says.
        let (mut list, length) = listed(empty, |list, length| unsafe {
            (rbd.rbd_list2)(self.handle, list, length)
        })?;
        let entries = list.iter().take(length);
        // SAFETY: filled by the call above, given back once.
        let names = entries.map(|entry| unsafe { copied(entry.name) }).collect();
        unsafe { (rbd.rbd_image_spec_list_cleanup)(list.as_mut_ptr(), length) };
        Ok(names)
    }

    /// Images in the trash.
    pub(crate) fn trash(&self) -> Result<Vec<Trashed>> {
        let rbd = &self.cluster.libraries.rbd;
        let empty = TrashEntry {
            id: ptr::null_mut(),
            name: ptr::null_mut(),
            source: 0,
            deletion_time: 0,
            deferment_end_time: 0,
        };
        // SAFETY: the list has the length that it says.
        let (mut list, length) = listed(empty, |list, length| unsafe {
            (rbd.rbd_trash_list)(self.handle, list, length)
        })?;
        let entries = list.iter().take(length);
        // SAFETY: filled by the call above, given back once.
        let trashed = entries.map(|entry| unsafe {
            Trashed {
                id: copied(entry.id),
                name: copied(entry.name),
                kept_until: entry.deferment_end_time,
            }
        });
        let trashed = trashed.collect();
        unsafe { (rbd.rbd_trash_list_cleanup)(list.as_mut_ptr(), length) };
        Ok(trashed)
    }

    /// Objects of `2^order` bytes; order 0: the cluster's default.
    pub(crate) fn create(&self, name: &str, size: u64, features: u64, order: u8) -> Result<()> {
        let (name, mut order) = (text(name)?, i32::from(order));
        // SAFETY: the name ends with NUL.
        let code = unsafe {
            (self.cluster.libraries.rbd.rbd_create2)(
                self.handle,
                name.as_ptr(),
                size,
                features,
                &mut order,
            )
        };
        checked(code).map(drop)
    }

    /// Clones `parent@snapshot` of this pool into another.
    pub(crate) fn clone_to(
        &self,
        parent: (&str, &str),
        child: (&Pool, &str),
        features: u64,
        order: u8,
    ) -> Result<()> {
        let (image, snapshot) = (text(parent.0)?, text(parent.1)?);
        let (name, mut order) = (text(child.1)?, i32::from(order));
        // SAFETY: all names end with NUL.
        let code = unsafe {
            (self.cluster.libraries.rbd.rbd_clone2)(
                self.handle,
                image.as_ptr(),
                snapshot.as_ptr(),
                child.0.handle,
                name.as_ptr(),
                features,
                &mut order,
                0,
                0,
            )
        };
        checked(code).map(drop)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let name = text(name)?;
        // SAFETY: the name ends with NUL.
        checked(unsafe { (self.cluster.libraries.rbd.rbd_remove)(self.handle, name.as_ptr()) })
            .map(drop)
    }

    pub(crate) fn rename(&self, name: &str, new: &str) -> Result<()> {
        let (name, new) = (text(name)?, text(new)?);
        let rename = self.cluster.libraries.rbd.rbd_rename;
        // SAFETY: both end with NUL.
        checked(unsafe { rename(self.handle, name.as_ptr(), new.as_ptr()) }).map(drop)
    }

    /// Whether two names lead to one image, as they do in the middle of a rename.
    pub(crate) fn is_same_image(&self, name: &str, other: &str) -> Result<bool> {
        let id = |name: &str| match self.object(&name_object(name), LONGEST_ID) {
            Err(Errno::NOENT) => Ok(None),
            other => other.map(Some),
        };
        let (one, other) = (id(name)?, id(other)?);
        Ok(one.is_some() && one == other)
    }

    /// Takes a name from an image that has another. The directory of the pool is not changed.
    pub(crate) fn remove_name(&self, name: &str) -> Result<()> {
        self.remove_object(&name_object(name))
    }

    pub(crate) fn trash_move(&self, name: &str, delay_s: u64) -> Result<()> {
        let name = text(name)?;
        let trash_move = self.cluster.libraries.rbd.rbd_trash_move;
        // SAFETY: the name ends with NUL.
        checked(unsafe { trash_move(self.handle, name.as_ptr(), delay_s) }).map(drop)
    }

    /// Ids of the images by this name that removals have left in the trash, on their way or
    /// arrived: librbd's own list leaves them out.
    pub(crate) fn removals_of(&self, name: &str) -> Result<Vec<String>> {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let input = [&encoded(&after)?[..], &TRASH_STEP.to_le_bytes()].concat();
            let listed = match self.of_trash(c"trash_list", &input, TRASH_STEP_BYTES) {
                // The pool has had no trash yet.
                Err(Errno::NOENT) => return Ok(found),
                other => other?,
            };
            let entries = trash_entries(&listed).ok_or(Errno::INVAL)?;
            let Some((last, ..)) = entries.last() else {
                return Ok(found);
            };
            after.clone_from(last);
            let of_name = entries
                .into_iter()
                .filter(|(_, source, one)| *source == REMOVING && one == name);
            found.extend(of_name.map(|(id, ..)| id));
        }
    }

    /// The last step of a move to the trash, for one that a crash has ended before it: librbd
    /// itself never gets over that. Errors: `STALE` where the move has ended well.
    pub(crate) fn end_trash_move(&self, id: &str) -> Result<()> {
        // The new state, normal, and the one expected, moving.
        let input = [&encoded(id)?[..], &[0, 1]].concat();
        self.of_trash(c"trash_state_set", &input, 0).map(drop)
    }

    /// Asks the class `rbd` of the OSDs about the pool's trash.
    fn of_trash(&self, method: &CStr, input: &[u8], answer_bytes: usize) -> Result<Vec<u8>> {
        let mut answer = vec![0u8; answer_bytes];
        // SAFETY: the texts end with NUL, input and answer have their own lengths.
        let code = unsafe {
            (self.cluster.libraries.rados.rados_exec)(
                self.handle,
                c"rbd_trash".as_ptr(),
                c"rbd".as_ptr(),
                method.as_ptr(),
                input.as_ptr().cast(),
                input.len(),
                answer.as_mut_ptr().cast(),
                answer.len(),
            )
        };
        let length = checked(code)?;
        answer.truncate(usize::try_from(length).unwrap_or_default());
        Ok(answer)
    }

    /// Errors: `PERM` before the time is over.
    pub(crate) fn trash_remove(&self, id: &str) -> Result<()> {
        let id = text(id)?;
        let trash_remove = self.cluster.libraries.rbd.rbd_trash_remove;
        // SAFETY: the id ends with NUL.
        checked(unsafe { trash_remove(self.handle, id.as_ptr(), false) }).map(drop)
    }

    /// The head, or a snapshot.
    pub(crate) fn open(
        self: &Arc<Self>,
        name: &str,
        snapshot: Option<&str>,
        read_only: bool,
    ) -> Result<Image> {
        let rbd = &self.cluster.libraries.rbd;
        let name = text(name)?;
        let snapshot: Option<CString> = snapshot.map(text).transpose()?;
        let snapshot = snapshot.as_ref().map_or(ptr::null(), |name| name.as_ptr());
        let open = if read_only {
            rbd.rbd_open_read_only
        } else {
            rbd.rbd_open
        };
        let mut handle = ptr::null_mut();
        // SAFETY: the names end with NUL, or NULL for the head.
        checked(unsafe { open(self.handle, name.as_ptr(), &mut handle, snapshot) })?;
        Ok(Image::new(Arc::clone(self), handle))
    }

    pub(crate) fn put_object(&self, name: &str, data: &[u8]) -> Result<()> {
        let name = text(name)?;
        let write = self.cluster.libraries.rados.rados_write_full;
        // SAFETY: the data's own length.
        let code = unsafe { write(self.handle, name.as_ptr(), data.as_ptr().cast(), data.len()) };
        checked(code).map(drop)
    }

    /// The whole object; `FBIG` when it is longer than `most`.
    pub(crate) fn object(&self, name: &str, most: usize) -> Result<Vec<u8>> {
        let rados = &self.cluster.libraries.rados;
        let name = text(name)?;
        let (mut size, mut time) = (0, 0);
        // SAFETY: the name ends with NUL.
        checked(unsafe { (rados.rados_stat)(self.handle, name.as_ptr(), &mut size, &mut time) })?;
        let length = usize::try_from(size).ok().filter(|length| *length <= most);
        let mut data = vec![0u8; length.ok_or(Errno::FBIG)?];
        // SAFETY: the buffer's own length.
        let read = checked(unsafe {
            (rados.rados_read)(
                self.handle,
                name.as_ptr(),
                data.as_mut_ptr().cast(),
                data.len(),
                0,
            )
        })?;
        data.truncate(read as usize);
        Ok(data)
    }

    pub(crate) fn remove_object(&self, name: &str) -> Result<()> {
        let name = text(name)?;
        // SAFETY: the name ends with NUL.
        checked(unsafe { (self.cluster.libraries.rados.rados_remove)(self.handle, name.as_ptr()) })
            .map(drop)
    }

    /// Walks over all objects of the pool, those of images, too.
    pub(crate) fn objects(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let rados = &self.cluster.libraries.rados;
        let mut walk = ptr::null_mut();
        // SAFETY: the walk is closed below; an entry lives until the next step.
        unsafe {
            checked((rados.rados_nobjects_list_open)(self.handle, &mut walk))?;
            let mut names = Vec::new();
            let ended = loop {
                let mut entry = ptr::null();
                let next = (rados.rados_nobjects_list_next)(
                    walk,
                    &mut entry,
                    ptr::null_mut(),
                    ptr::null_mut(),
                );
                match checked(next) {
                    Ok(_) => {
                        let name = copied(entry);
                        if wanted(&name) {
                            names.push(name);
                        }
                    }
                    Err(Errno::NOENT) => break Ok(names),
                    Err(error) => break Err(error),
                }
            };
            (rados.rados_nobjects_list_close)(walk);
            ended
        }
    }
}

/// The object that holds the id of the image of this name.
fn name_object(name: &str) -> String {
    format!("rbd_id.{name}")
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: images keep their pool, so none is open.
        unsafe { (self.cluster.libraries.rados.rados_ioctx_destroy)(self.handle) }
    }
}

/// A text as Ceph encodes it.
fn encoded(text: &str) -> Result<Vec<u8>> {
    let length = u32::try_from(text.len()).map_err(|_| Errno::INVAL)?;
    Ok([&length.to_le_bytes(), text.as_bytes()].concat())
}

/// Id, source and name of each entry of an encoded list. `None`: it is none.
fn trash_entries(list: &[u8]) -> Option<Vec<(String, u8, String)>> {
    fn piece<'a>(list: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (length, rest) = list.split_first_chunk::<4>()?;
        let (piece, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        *list = rest;
        Some(piece)
    }
    let text = |piece: &[u8]| String::from_utf8_lossy(piece).into_owned();
    let (count, mut list) = list.split_first_chunk::<4>()?;
    let mut entries = Vec::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let id = text(piece(&mut list)?);
        // Its version and the oldest that can read it; later ones only add at the end.
        list = list.get(2..)?;
        let (source, mut entry) = piece(&mut list)?.split_first()?;
        entries.push((id, *source, text(piece(&mut entry)?)));
    }
    Some(entries)
}

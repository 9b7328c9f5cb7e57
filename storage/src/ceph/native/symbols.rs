//! The functions of librados and librbd that are used, with the signatures of their C headers
//! (`rados/librados.h`, `rbd/librbd.h`); all are in Ceph 14 (Nautilus) and newer, except
//! `rbd_aio_write_zeroes`, which came with 15 (Octopus).

use std::ffi::{c_char, c_int, c_void};

use libloading::Library;

/// `rados_t`, `rados_ioctx_t`, `rbd_image_t`, `rbd_completion_t`, `rados_list_ctx_t`.
pub(super) type Pointer = *mut c_void;
type Text = *const c_char;
type Buffer = *mut c_char;

/// `rbd_linked_image_spec_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct LinkedImage {
    pub pool_id: i64,
    pub pool_name: Buffer,
    pub pool_namespace: Buffer,
    pub image_id: Buffer,
    pub image_name: Buffer,
    pub trash: bool,
}

/// `rbd_snap_spec_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct LinkedSnapshot {
    pub id: u64,
    pub namespace_type: c_int,
    pub name: Buffer,
}

/// `rbd_snap_info_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct SnapshotEntry {
    pub id: u64,
    pub size: u64,
    pub name: Text,
}

/// `rbd_image_spec_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ImageEntry {
    pub id: Buffer,
    pub name: Buffer,
}

/// `rbd_trash_image_info_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct TrashEntry {
    pub id: Buffer,
    pub name: Buffer,
    pub source: c_int,
    pub deletion_time: i64,
    pub deferment_end_time: i64,
}

pub(super) type AioCallback = unsafe extern "C" fn(Pointer, *mut c_void);
pub(super) type ProgressCallback = unsafe extern "C" fn(u64, u64, *mut c_void) -> c_int;
pub(super) type DiffCallback = unsafe extern "C" fn(u64, usize, c_int, *mut c_void) -> c_int;

macro_rules! table {
    ($name:ident { $($function:ident($($argument:ty),* $(,)?) $(-> $answer:ty)?;)* }) => {
        pub(super) struct $name {
            $(pub $function: unsafe extern "C" fn($($argument),*) $(-> $answer)?,)*
        }

        impl $name {
            /// Safety: the library must be the one whose header the signatures come from.
            pub(super) unsafe fn load(library: &Library) -> Result<Self, libloading::Error> {
                Ok($name {
                    // SAFETY: promised by the caller.
                    $($function: *unsafe { library.get(concat!(stringify!($function), "\0").as_bytes()) }?,)*
                })
            }
        }
    };
}

table!(Rados {
    rados_create2(*mut Pointer, Text, Text, u64) -> c_int;
    rados_conf_read_file(Pointer, Text) -> c_int;
    rados_conf_set(Pointer, Text, Text) -> c_int;
    rados_conf_get(Pointer, Text, Buffer, usize) -> c_int;
    rados_connect(Pointer) -> c_int;
    rados_shutdown(Pointer);
    rados_getaddrs(Pointer, *mut Buffer) -> c_int;
    rados_cluster_fsid(Pointer, Buffer, usize) -> c_int;
    rados_wait_for_latest_osdmap(Pointer) -> c_int;
    rados_mon_command(Pointer, *const Text, usize, Text, usize, *mut Buffer, *mut usize, *mut Buffer, *mut usize) -> c_int;
    rados_buffer_free(Buffer);
    rados_pool_list(Pointer, Buffer, usize) -> c_int;
    rados_ioctx_create(Pointer, Text, *mut Pointer) -> c_int;
    rados_ioctx_destroy(Pointer);
    rados_application_list(Pointer, Buffer, *mut usize) -> c_int;
    rados_write_full(Pointer, Text, Text, usize) -> c_int;
    rados_read(Pointer, Text, Buffer, usize, u64) -> c_int;
    rados_exec(Pointer, Text, Text, Text, Text, usize, Buffer, usize) -> c_int;
    rados_stat(Pointer, Text, *mut u64, *mut i64) -> c_int;
    rados_remove(Pointer, Text) -> c_int;
    rados_nobjects_list_open(Pointer, *mut Pointer) -> c_int;
    rados_nobjects_list_next(Pointer, *mut Text, *mut Text, *mut Text) -> c_int;
    rados_nobjects_list_close(Pointer);
});

table!(Rbd {
    rbd_list2(Pointer, *mut ImageEntry, *mut usize) -> c_int;
    rbd_image_spec_list_cleanup(*mut ImageEntry, usize);
    rbd_create2(Pointer, Text, u64, u64, *mut c_int) -> c_int;
    rbd_clone2(Pointer, Text, Text, Pointer, Text, u64, *mut c_int, u64, c_int) -> c_int;
    rbd_remove(Pointer, Text) -> c_int;
    rbd_rename(Pointer, Text, Text) -> c_int;
    rbd_trash_move(Pointer, Text, u64) -> c_int;
    rbd_trash_list(Pointer, *mut TrashEntry, *mut usize) -> c_int;
    rbd_trash_list_cleanup(*mut TrashEntry, usize);
    rbd_trash_remove(Pointer, Text, bool) -> c_int;
    rbd_open(Pointer, Text, *mut Pointer, Text) -> c_int;
    rbd_open_read_only(Pointer, Text, *mut Pointer, Text) -> c_int;
    rbd_close(Pointer) -> c_int;
    rbd_get_size(Pointer, *mut u64) -> c_int;
    rbd_get_features(Pointer, *mut u64) -> c_int;
    rbd_update_features(Pointer, u64, u8) -> c_int;
    rbd_rebuild_object_map(Pointer, ProgressCallback, *mut c_void) -> c_int;
    rbd_get_stripe_unit(Pointer, *mut u64) -> c_int;
    rbd_get_parent(Pointer, *mut LinkedImage, *mut LinkedSnapshot) -> c_int;
    rbd_linked_image_spec_cleanup(*mut LinkedImage);
    rbd_snap_spec_cleanup(*mut LinkedSnapshot);
    rbd_list_children3(Pointer, *mut LinkedImage, *mut usize) -> c_int;
    rbd_linked_image_spec_list_cleanup(*mut LinkedImage, usize);
    rbd_resize2(Pointer, u64, bool, ProgressCallback, *mut c_void) -> c_int;
    rbd_flatten(Pointer) -> c_int;
    rbd_snap_list(Pointer, *mut SnapshotEntry, *mut c_int) -> c_int;
    rbd_snap_list_end(*mut SnapshotEntry);
    rbd_snap_get_namespace_type(Pointer, u64, *mut c_int) -> c_int;
    rbd_snap_create(Pointer, Text) -> c_int;
    rbd_snap_remove(Pointer, Text) -> c_int;
    rbd_snap_rename(Pointer, Text, Text) -> c_int;
    rbd_snap_protect(Pointer, Text) -> c_int;
    rbd_snap_unprotect(Pointer, Text) -> c_int;
    rbd_snap_is_protected(Pointer, Text, *mut c_int) -> c_int;
    rbd_lock_acquire(Pointer, c_int) -> c_int;
    rbd_snap_rollback(Pointer, Text) -> c_int;
    rbd_metadata_set(Pointer, Text, Text) -> c_int;
    rbd_metadata_remove(Pointer, Text) -> c_int;
    rbd_metadata_list(Pointer, Text, u64, Buffer, *mut usize, Buffer, *mut usize) -> c_int;
    rbd_diff_iterate2(Pointer, Text, u64, u64, u8, u8, DiffCallback, *mut c_void) -> c_int;
    rbd_aio_create_completion(*mut c_void, AioCallback, *mut Pointer) -> c_int;
    rbd_aio_get_return_value(Pointer) -> isize;
    rbd_aio_release(Pointer);
    rbd_aio_read2(Pointer, u64, usize, Buffer, Pointer, c_int) -> c_int;
    rbd_aio_write2(Pointer, u64, usize, Text, Pointer, c_int) -> c_int;
    rbd_aio_write_zeroes(Pointer, u64, usize, Pointer, c_int, c_int) -> c_int;
    rbd_aio_flush(Pointer, Pointer) -> c_int;
});

//! Bindings of librados and librbd, loaded when the first cluster is used: safe types over the C
//! calls, nothing more. Every call but those of [`aio`] blocks.
//!
//! This is the one place that calls into the libraries. What a type points to lives as long as
//! the type: an [`Image`] keeps its [`Pool`], a pool its [`Cluster`], an asynchronous request its
//! buffer. librados and librbd lock inside, so that handles go between threads; the libraries
//! are never unloaded.

#![allow(unsafe_code)]

mod aio;
mod cluster;
mod image;
mod pool;
mod symbols;

use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::OnceLock;

use libloading::Library;

pub(super) use aio::Action;
pub(super) use cluster::{Cluster, Login};
pub(super) use image::{Image, Link, Piece, Range, USER_NAMESPACE};
pub(super) use pool::Pool;

/// A failed call, by its positive `errno`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Errno(pub i32);

impl Errno {
    pub(super) const PERM: Errno = Errno(1);
    pub(super) const NOENT: Errno = Errno(2);
    pub(super) const ACCES: Errno = Errno(13);
    pub(super) const BUSY: Errno = Errno(16);
    pub(super) const EXIST: Errno = Errno(17);
    pub(super) const INVAL: Errno = Errno(22);
    pub(super) const FBIG: Errno = Errno(27);
    pub(super) const NOSPC: Errno = Errno(28);
    pub(super) const ROFS: Errno = Errno(30);
    pub(super) const DOM: Errno = Errno(33);
    pub(super) const RANGE: Errno = Errno(34);
    pub(super) const NOTEMPTY: Errno = Errno(39);
    pub(super) const UCLEAN: Errno = Errno(117);
    pub(super) const STALE: Errno = Errno(116);
    pub(super) const TIMEDOUT: Errno = Errno(110);
    pub(super) const DQUOT: Errno = Errno(122);
}

impl std::fmt::Display for Errno {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(formatter)
    }
}

type Result<T, E = Errno> = std::result::Result<T, E>;

/// The loaded libraries.
struct Libraries {
    rados: symbols::Rados,
    rbd: symbols::Rbd,
}

fn load() -> Result<Libraries, String> {
    let open = |name: &str| {
        // SAFETY: loading runs the initialisers of the distribution's library, which are meant
        // to run in any process.
        let library = unsafe { Library::new(name) };
        library.map_err(|error| format!("{name} cannot be loaded ({error}): install librbd1"))
    };
    let (rados, rbd) = (open("librados.so.2")?, open("librbd.so.1")?);
    let old = |error| {
        format!("librbd or librados is too old ({error}): install librbd1 of Ceph 15 or newer")
    };
    // SAFETY: the sonames name the interfaces that the signatures were written from.
    let libraries = Libraries {
        rados: unsafe { symbols::Rados::load(&rados) }.map_err(old)?,
        rbd: unsafe { symbols::Rbd::load(&rbd) }.map_err(old)?,
    };
    // Their threads run until the process ends.
    std::mem::forget((rados, rbd));
    Ok(libraries)
}

/// The libraries; the error names the package to install.
fn libraries() -> Result<&'static Libraries, String> {
    static LOADED: OnceLock<Result<Libraries, String>> = OnceLock::new();
    LOADED.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// The answer of a call that returns 0 or a positive number, or a negative `errno`.
fn checked(code: impl Into<i64>) -> Result<u64> {
    let code = code.into();
    u64::try_from(code).map_err(|_| Errno(code.unsigned_abs() as i32))
}

/// A name for C. Names with a NUL exist nowhere.
fn text(name: &str) -> Result<CString> {
    CString::new(name).map_err(|_| Errno::INVAL)
}

/// Copies a C string; empty for NULL.
///
/// Safety: `pointer` is NULL or ends with a NUL.
unsafe fn copied(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: promised by the caller.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

/// Strings that follow each other, each with its NUL.
fn split(buffer: &[u8]) -> Vec<String> {
    let parts = buffer.split(|byte| *byte == 0);
    parts
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

/// Calls with a longer and longer list until it is long enough.
///
/// The call gets the list's start and its length, and sets the length that it used or needs.
fn listed<T: Copy>(
    empty: T,
    mut call: impl FnMut(*mut T, &mut usize) -> c_int,
) -> Result<(Vec<T>, usize)> {
    let mut room = 64;
    loop {
        let mut list = vec![empty; room];
        let mut length = room;
        match checked(call(list.as_mut_ptr(), &mut length)) {
            Ok(_) => {
                let length = length.min(room);
                return Ok((list, length));
            }
            Err(Errno::RANGE) => room = length.max(room * 2),
            Err(error) => return Err(error),
        }
    }
}

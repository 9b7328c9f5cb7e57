//! A connection to a cluster.

use std::ffi::c_char;
use std::ptr;
use std::sync::Arc;

use super::symbols::Pointer;
use super::{Errno, Libraries, Pool, Result, checked, copied, libraries, split, text};

/// Who connects to which cluster.
#[derive(Debug, Clone)]
pub(crate) struct Login<'a> {
    pub cluster_name: &'a str,
    /// Without `client.`
    pub user: &'a str,
    /// `None`: where Ceph looks by itself.
    pub conf: Option<&'a str>,
    /// Options over those of the file.
    pub options: &'a [(&'a str, String)],
}

/// A connected client.
pub(crate) struct Cluster {
    pub(super) libraries: &'static Libraries,
    pub(super) handle: Pointer,
}

// SAFETY: a rados_t may be used by all threads at once.
unsafe impl Send for Cluster {}
unsafe impl Sync for Cluster {}

impl Cluster {
    /// Connects. The error is a sentence.
    pub(crate) fn connect(login: &Login<'_>) -> Result<Arc<Self>, String> {
        let libraries = libraries()?;
        let rados = &libraries.rados;
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: Errno| format!("{what}: {error}")
        };
        let name = text(login.cluster_name).map_err(failed("the cluster's name"))?;
        let user = text(&format!("client.{}", login.user)).map_err(failed("the user's name"))?;
        let mut handle = ptr::null_mut();
        // SAFETY: the strings end with NUL, the handle is written before it is used.
        let created =
            unsafe { (rados.rados_create2)(&mut handle, name.as_ptr(), user.as_ptr(), 0) };
        checked(created).map_err(failed("a client of the cluster"))?;
        let cluster = Unconnected { libraries, handle };
        cluster.configure(login)?;
        // SAFETY: the handle was made above.
        let connected = checked(unsafe { (rados.rados_connect)(handle) });
        let hint = match connected {
            Err(Errno::NOENT) => " (is there a keyring of this user?)",
            Err(Errno::PERM | Errno::ACCES) => " (the key is not the user's)",
            _ => "",
        };
        connected.map_err(|error| {
            format!(
                "cannot connect as client.{} to cluster {}: {error}{hint}",
                login.user, login.cluster_name
            )
        })?;
        std::mem::forget(cluster);
        Ok(Arc::new(Cluster { libraries, handle }))
    }

    /// The cluster's UUID.
    pub(crate) fn fsid(&self) -> Result<String> {
        let mut buffer = [0u8; 64];
        // SAFETY: the buffer's own length.
        let code = unsafe {
            (self.libraries.rados.rados_cluster_fsid)(
                self.handle,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        };
        checked(code)?;
        Ok(split(&buffer).into_iter().next().unwrap_or_default())
    }

    /// Learns of every change of the OSD map up to now. What this client asks of an OSD
    /// afterwards, the OSD does not do before it knows as much.
    pub(crate) fn wait_for_latest_map(&self) -> Result<()> {
        // SAFETY: the handle is connected.
        checked(unsafe { (self.libraries.rados.rados_wait_for_latest_osdmap)(self.handle) })
            .map(drop)
    }

    /// The addresses by which the cluster knows this client.
    pub(crate) fn addresses(&self) -> Result<String> {
        let rados = &self.libraries.rados;
        let mut text = ptr::null_mut();
        // SAFETY: the answer is the library's own memory, which is copied and given back.
        unsafe {
            checked((rados.rados_getaddrs)(self.handle, &mut text))?;
            let addresses = copied(text);
            (rados.rados_buffer_free)(text);
            Ok(addresses)
        }
    }

    /// The value of a configuration option.
    pub(crate) fn option(&self, name: &str) -> Result<String> {
        let name = text(name)?;
        let mut buffer = vec![0u8; 4096];
        // SAFETY: the buffer's own length.
        let code = unsafe {
            (self.libraries.rados.rados_conf_get)(
                self.handle,
                name.as_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        };
        checked(code)?;
        Ok(split(&buffer).into_iter().next().unwrap_or_default())
    }

    /// The answer of a monitor to a command in JSON.
    pub(crate) fn monitor_command(&self, command: &str) -> Result<Vec<u8>> {
        let command = text(command)?;
        let commands = [command.as_ptr()];
        let (mut out, mut out_length) = (ptr::null_mut::<c_char>(), 0usize);
        let (mut status, mut status_length) = (ptr::null_mut::<c_char>(), 0usize);
        let rados = &self.libraries.rados;
        // SAFETY: one command, no input; both outputs are the library's own memory, which is
        // copied and given back.
        unsafe {
            let code = (rados.rados_mon_command)(
                self.handle,
                commands.as_ptr(),
                1,
                ptr::null(),
                0,
                &mut out,
                &mut out_length,
                &mut status,
                &mut status_length,
            );
            let answer = if out.is_null() {
                Vec::new()
            } else {
                std::slice::from_raw_parts(out.cast::<u8>(), out_length).to_vec()
            };
            for buffer in [out, status] {
                if !buffer.is_null() {
                    (rados.rados_buffer_free)(buffer);
                }
            }
            checked(code)?;
            Ok(answer)
        }
    }

    /// All pools, of whatever use.
    pub(crate) fn pool_names(&self) -> Result<Vec<String>> {
        let mut room = 4096;
        loop {
            let mut buffer = vec![0u8; room];
            // SAFETY: the buffer's own length.
            let needed = checked(unsafe {
                (self.libraries.rados.rados_pool_list)(
                    self.handle,
                    buffer.as_mut_ptr().cast(),
                    room,
                )
            })? as usize;
            if needed <= room {
                return Ok(split(&buffer));
            }
            room = needed;
        }
    }

    pub(crate) fn pool(self: &Arc<Self>, name: &str) -> Result<Arc<Pool>> {
        let text = text(name)?;
        let mut handle = ptr::null_mut();
        // SAFETY: the cluster is connected, the handle written before it is used.
        checked(unsafe {
            (self.libraries.rados.rados_ioctx_create)(self.handle, text.as_ptr(), &mut handle)
        })?;
        Ok(Arc::new(Pool::new(Arc::clone(self), handle)))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SAFETY: pools and images keep the cluster, so none is left.
        unsafe { (self.libraries.rados.rados_shutdown)(self.handle) }
    }
}

/// A client that may still fail to connect.
struct Unconnected {
    libraries: &'static Libraries,
    handle: Pointer,
}

impl Unconnected {
    fn configure(&self, login: &Login<'_>) -> Result<(), String> {
        let rados = &self.libraries.rados;
        let path = login.conf.map(text).transpose();
        let path = path.map_err(|error| format!("rbd_ceph_conf: {error}"))?;
        let pointer = path.as_ref().map_or(ptr::null(), |path| path.as_ptr());
        // SAFETY: a path that ends with NUL, or NULL for the usual places.
        let read = checked(unsafe { (rados.rados_conf_read_file)(self.handle, pointer) });
        read.map_err(|error| {
            let file = login.conf.unwrap_or("/etc/ceph/ceph.conf");
            format!("cannot read {file}: {error}")
        })?;
        for (name, value) in login.options {
            let failed = |error: Errno| format!("option {name}={value}: {error}");
            let (key, word) = (text(name).map_err(failed)?, text(value).map_err(failed)?);
            // SAFETY: both end with NUL.
            let code = unsafe { (rados.rados_conf_set)(self.handle, key.as_ptr(), word.as_ptr()) };
            checked(code).map_err(failed)?;
        }
        Ok(())
    }
}

impl Drop for Unconnected {
    fn drop(&mut self) {
        // SAFETY: made by rados_create2; a shutdown without a connection is allowed.
        unsafe { (self.libraries.rados.rados_shutdown)(self.handle) }
    }
}

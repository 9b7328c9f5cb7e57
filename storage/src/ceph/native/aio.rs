//! Asynchronous reads, writes, zeroes and flushes.

use std::any::Any;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::symbols::Pointer;
use super::{Image, Result, checked};

/// What is kept until the request has ended, whether anybody waits for it or not: whatever owns
/// the image. It is dropped by a thread of librbd, and so must not close the image there.
pub(crate) type Keep = Arc<dyn Any + Send + Sync>;

/// A request.
pub(crate) enum Action {
    Read {
        offset: u64,
        length: usize,
    },
    Write {
        offset: u64,
        data: Bytes,
    },
    /// At most `usize::MAX` bytes; their space is given back.
    Zero {
        offset: u64,
        length: u64,
    },
    Flush,
}

/// The answer: the data of a read.
type Answer = Result<Bytes>;

struct Request {
    answer: oneshot::Sender<Answer>,
    /// The target of a read.
    buffer: Vec<u8>,
    /// The source of a write.
    _data: Bytes,
    _keep: Keep,
    release: unsafe extern "C" fn(Pointer),
    code: unsafe extern "C" fn(Pointer) -> isize,
}

/// Called by librbd when a request has ended.
unsafe extern "C" fn ended(completion: Pointer, request: *mut c_void) {
    // SAFETY: made by `Image::submit`, ended once.
    let request = unsafe { Box::from_raw(request.cast::<Request>()) };
    // SAFETY: the completion is this request's, and not used again.
    let code = unsafe {
        let code = (request.code)(completion);
        (request.release)(completion);
        code
    };
    let buffer = request.buffer;
    // Nobody may wait any more.
    let _ = request
        .answer
        .send(checked(code as i64).map(|_| Bytes::from(buffer)));
}

impl Image {
    /// Starts a request. `keep` owns this image.
    pub(crate) fn submit(&self, action: Action, keep: Keep) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let rbd = self.rbd();
        let (buffer, data) = match &action {
            Action::Read { length, .. } => (vec![0; *length], Bytes::new()),
            Action::Write { data, .. } => (Vec::new(), data.clone()),
            Action::Zero { .. } | Action::Flush => (Vec::new(), Bytes::new()),
        };
        let request = Box::into_raw(Box::new(Request {
            answer,
            buffer,
            _data: data,
            _keep: keep,
            release: rbd.rbd_aio_release,
            code: rbd.rbd_aio_get_return_value,
        }));
        // SAFETY: the request, and in it the buffers, lives until `ended` takes it; librbd calls
        // that exactly once for a request that it accepted, possibly before the call returns, so
        // pointers are taken before. A request that was not accepted is taken back here.
        unsafe {
            let read = (*request).buffer.as_mut_ptr();
            let written = (*request)._data.as_ptr();
            let mut completion = ptr::null_mut();
            (rbd.rbd_aio_create_completion)(request.cast(), ended, &mut completion);
            let code = match action {
                Action::Read { offset, length } => {
                    (rbd.rbd_aio_read2)(self.handle, offset, length, read.cast(), completion, 0)
                }
                Action::Write { offset, data } => (rbd.rbd_aio_write2)(
                    self.handle,
                    offset,
                    data.len(),
                    written.cast(),
                    completion,
                    0,
                ),
                Action::Zero { offset, length } => (rbd.rbd_aio_write_zeroes)(
                    self.handle,
                    offset,
                    length as usize,
                    completion,
                    0,
                    0,
                ),
                Action::Flush => (rbd.rbd_aio_flush)(self.handle, completion),
            };
            if let Err(error) = checked(code) {
                (rbd.rbd_aio_release)(completion);
                let request = Box::from_raw(request);
                let _ = request.answer.send(Err(error));
            }
        }
        receiver
    }
}

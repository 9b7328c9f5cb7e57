//! Finding out what an upload is while it streams by.

pub(crate) mod capture;
mod gpt;
mod vhd;
pub(crate) mod vhdx;
pub(crate) mod vmdk;

use serde::{Deserialize, Serialize};

use crate::endian::{be_u16, le_u16, le_u32, le_u64};
use crate::qcow2::Header;
use crate::{DETECT_BYTES, Format, detect};
use capture::{Capture, Tail};

/// What an inspected file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    pub format: Format,
    /// Length of the file.
    pub size_bytes: u64,
    /// Length of the disk in it; `None` where the format does not tell or is not understood.
    pub virtual_size_bytes: Option<u64>,
    /// Whether a program that opens the file can be trusted not to follow references out of it.
    pub safety: Result<(), Unsafe>,
}

/// Why a file must be refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Unsafe {
    pub reason: String,
}

impl Unsafe {
    fn because(reason: impl Into<String>) -> Self {
        Unsafe {
            reason: reason.into(),
        }
    }
}

/// Fed with a file chunk by chunk, in any sizes. Keeps at most about 1.2 MiB.
pub struct Inspector {
    size_bytes: u64,
    head: Capture,
    tail: Tail,
    /// Set when the first [`DETECT_BYTES`] bytes are there.
    format: Option<Format>,
    vhdx: Option<vhdx::Walk>,
}

impl Default for Inspector {
    fn default() -> Self {
        Inspector::new()
    }
}

impl Inspector {
    pub fn new() -> Self {
        Inspector {
            size_bytes: 0,
            head: Capture::new(0, DETECT_BYTES),
            tail: Tail::default(),
            format: None,
            vhdx: None,
        }
    }

    pub fn feed(&mut self, mut chunk: &[u8]) {
        self.tail.feed(chunk);
        while !chunk.is_empty() {
            // Cut where a capture ends, so that the next one can start there.
            let length = self
                .until_capture_ends()
                .map_or(chunk.len(), |length| length.min(chunk.len()));
            let (slice, rest) = chunk.split_at(length);
            self.head.feed(self.size_bytes, slice);
            if let Some(walk) = &mut self.vhdx {
                walk.feed(self.size_bytes, slice);
            }
            self.size_bytes = self.size_bytes.saturating_add(slice.len() as u64);
            chunk = rest;
            self.advance();
        }
    }

    fn until_capture_ends(&self) -> Option<usize> {
        let vhdx = self
            .vhdx
            .as_ref()
            .and_then(|walk| walk.until_capture_ends(self.size_bytes));
        self.head
            .until_end(self.size_bytes)
            .into_iter()
            .chain(vhdx)
            .min()
    }

    /// Decides the format once the head is there, and what else is to be kept for it.
    fn advance(&mut self) {
        if self.format.is_none() && self.head.is_complete() {
            let format = detect(self.head.data()).format;
            self.format = Some(format);
            match format {
                Format::Vmdk => self.head.extend_to(vmdk::head_bytes(self.head.data())),
                Format::Vhdx => self.vhdx = Some(vhdx::Walk::new()),
                _ => {}
            }
        }
        if let Some(walk) = &mut self.vhdx {
            walk.advance(self.size_bytes);
        }
    }

    /// The verdict on all that was fed.
    pub fn finish(self) -> Inspection {
        let head = self.head.data();
        let detected = detect(head);
        let mut format = detected.format;
        if format.is_raw() && vhd::has_footer(self.tail.data()) {
            format = Format::Vhd;
        }
        let (virtual_size_bytes, safety) = match detected.conflict {
            Some(other) => (
                None,
                Err(Unsafe::because(format!(
                    "the content matches both {format} and {other}"
                ))),
            ),
            None => self.judge(format),
        };
        Inspection {
            format,
            size_bytes: self.size_bytes,
            virtual_size_bytes,
            safety,
        }
    }

    fn judge(&self, format: Format) -> (Option<u64>, Result<(), Unsafe>) {
        let head = self.head.data();
        match format {
            Format::Raw | Format::Mbr => (Some(self.size_bytes), Ok(())),
            Format::Gpt => (Some(self.size_bytes), gpt::check(head)),
            Format::Luks => (Some(self.size_bytes), check_luks(head)),
            Format::Qcow2 => judge_qcow2(head, self.size_bytes),
            Format::Qcow | Format::Qed => (
                None,
                Err(Unsafe::because(format!(
                    "the format {format} is not allowed"
                ))),
            ),
            Format::Vmdk => vmdk::judge(head, self.tail.data()),
            Format::Vhd => vhd::judge(head, self.tail.data()),
            Format::Vhdx => match &self.vhdx {
                Some(walk) => walk.judge(),
                None => (None, Err(Unsafe::because("the VHDX file is cut"))),
            },
            Format::Vdi => judge_vdi(head),
            Format::Iso => (iso_size(head).or(Some(self.size_bytes)), Ok(())),
            Format::Ploop => (ploop_size(head), Ok(())),
        }
    }
}

fn judge_qcow2(head: &[u8], size_bytes: u64) -> (Option<u64>, Result<(), Unsafe>) {
    let refuse = |error: crate::Error| Unsafe::because(error.to_string());
    match Header::parse(head) {
        Ok(header) => {
            let checked = header.check_file_length(size_bytes).map_err(refuse);
            (Some(header.virtual_size_bytes), checked)
        }
        Err(error) => (None, Err(refuse(error))),
    }
}

fn check_luks(head: &[u8]) -> Result<(), Unsafe> {
    match be_u16(head, 6) {
        Some(1 | 2) => Ok(()),
        Some(version) => Err(Unsafe::because(format!(
            "LUKS version {version} is not known"
        ))),
        None => Err(Unsafe::because("the LUKS header is cut")),
    }
}

/// Dynamic (1) and fixed (2) images stand alone; undo (3) and differencing (4) ones have a parent.
fn judge_vdi(head: &[u8]) -> (Option<u64>, Result<(), Unsafe>) {
    let safety = match le_u32(head, 0x4c) {
        Some(1 | 2) => Ok(()),
        Some(kind) => Err(Unsafe::because(format!(
            "VDI images of type {kind} are not allowed"
        ))),
        None => Err(Unsafe::because("the VDI file is cut")),
    };
    (le_u64(head, 0x170), safety)
}

/// Blocks times block size of the primary volume descriptor.
fn iso_size(head: &[u8]) -> Option<u64> {
    let descriptor = head.get(32 * 1024..)?;
    if *descriptor.first()? != 1 {
        return None;
    }
    Some(u64::from(le_u32(descriptor, 80)?) * u64::from(le_u16(descriptor, 128)?))
}

fn ploop_size(head: &[u8]) -> Option<u64> {
    let sectors = le_u64(head, 36)?;
    // The older kind uses only 32 bits of the field.
    let sectors = if head.starts_with(b"WithoutFreeSpace") {
        sectors & 0xffff_ffff
    } else {
        sectors
    };
    sectors.checked_mul(512)
}

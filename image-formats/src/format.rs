//! The formats that are told apart.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a file is by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Nothing that is known: the bytes are the disk.
    Raw,
    /// A disk with a GUID partition table: raw.
    Gpt,
    /// A disk with an MBR partition table: raw.
    Mbr,
    /// qcow version 1.
    Qcow,
    /// qcow2, versions 2 and 3.
    Qcow2,
    Qed,
    Vmdk,
    /// Connectix and Microsoft VHD, "vpc" in QEMU.
    Vhd,
    Vhdx,
    Vdi,
    /// ISO 9660 or UDF, also one that can be booted as a disk.
    Iso,
    /// A LUKS container: raw with a header.
    Luks,
    /// Parallels.
    Ploop,
}

impl Format {
    /// The name that QEMU and the image service's format inspection use.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Gpt => "gpt",
            Format::Mbr => "mbr",
            Format::Qcow => "qcow",
            Format::Qcow2 => "qcow2",
            Format::Qed => "qed",
            Format::Vmdk => "vmdk",
            Format::Vhd => "vhd",
            Format::Vhdx => "vhdx",
            Format::Vdi => "vdi",
            Format::Iso => "iso",
            Format::Luks => "luks",
            Format::Ploop => "ploop",
        }
    }

    /// The `disk_format` that an image of this content has (Image API ref): partition tables and
    /// LUKS lie in a raw disk.
    pub fn disk_format(self) -> &'static str {
        if self.is_raw() { "raw" } else { self.name() }
    }

    /// Whether the file's bytes are the disk's bytes, whatever they mean.
    pub fn is_raw(self) -> bool {
        matches!(self, Format::Raw | Format::Gpt | Format::Mbr | Format::Luks)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

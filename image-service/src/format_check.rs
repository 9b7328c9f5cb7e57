//! Whether uploaded data is what the image's `disk_format` says, and whether it can be trusted.

use image_formats::{Format, Inspection};

use crate::options::Options;

/// Formats that the inspector can tell apart; the others (`ami`, `ari`, `aki` …) have no mark.
const INSPECTABLE: &[&str] = &["raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "ploop"];
/// Names of the checks of a GPT that `gpt_safety_checks_nonfatal` may hold.
const GPT_CHECKS: &[&str] = &["mbr", "gptmbr"];

/// The virtual size in bytes, where it is known, or why the data is refused (a 415).
///
/// Data declared as raw may look like another format, which readers of raw data do not follow.
/// It must pass the safety checks of that format all the same: not every reader believes what is
/// declared (CVE-2024-40767).
pub fn check(declared: &str, found: &Inspection, options: &Options) -> Result<Option<u64>, String> {
    let matches = match declared {
        // Formats that an operator may add; an MBR counts as a GPT, as in Glance.
        "gpt" => matches!(found.format, Format::Gpt | Format::Mbr),
        "luks" => found.format == Format::Luks,
        declared if INSPECTABLE.contains(&declared) => found.format.disk_format() == declared,
        _ => found.format.is_raw(),
    };
    if !matches && declared != "raw" {
        let mismatch = format!(
            "Image content does not match its disk_format: declared {declared}, found {}",
            found.format
        );
        return refuse_if_required(mismatch, options);
    }
    if !matches {
        tracing::warn!(found = %found.format, "data declared as raw looks like another format");
    }
    match &found.safety {
        Ok(()) => {}
        Err(why) if is_nonfatal(found.format, options) => {
            tracing::warn!(%why, "a GPT is not as it should be");
        }
        Err(why) => {
            let unsafe_content = format!(
                "Image content failed the safety checks for {}: {why}",
                found.format
            );
            return if matches {
                Err(unsafe_content)
            } else {
                refuse_if_required(unsafe_content, options)
            };
        }
    }
    Ok(match declared {
        // No data at all says nothing about the disk.
        "raw" => Some(found.size_bytes).filter(|size| *size > 0),
        _ => found.virtual_size_bytes,
    })
}

fn refuse_if_required(why: String, options: &Options) -> Result<Option<u64>, String> {
    if options.require_image_format_match {
        return Err(why);
    }
    tracing::warn!(%why, "image data was not refused");
    Ok(None)
}

fn is_nonfatal(format: Format, options: &Options) -> bool {
    let nonfatal = &options.gpt_safety_checks_nonfatal;
    format == Format::Gpt
        && nonfatal
            .iter()
            .any(|name| GPT_CHECKS.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_formats::Inspector;

    fn inspect(data: &[u8]) -> Inspection {
        let mut inspector = Inspector::new();
        inspector.feed(data);
        inspector.finish()
    }

    fn options(required: bool, nonfatal: &[&str]) -> Options {
        Options {
            require_image_format_match: required,
            gpt_safety_checks_nonfatal: nonfatal.iter().map(|name| (*name).to_owned()).collect(),
            ..Options::default()
        }
    }

    #[test]
    fn declared_and_found() {
        let (strict, lax) = (options(true, &[]), options(false, &[]));
        let zeroes = inspect(&[0; 4096]);
        assert_eq!(check("raw", &zeroes, &strict), Ok(Some(4096)));
        assert_eq!(check("ami", &zeroes, &strict), Ok(Some(4096)));
        assert!(
            check("qcow2", &zeroes, &strict)
                .unwrap_err()
                .contains("declared qcow2, found raw")
        );
        assert_eq!(check("qcow2", &zeroes, &lax), Ok(None));
        let broken_qcow2 = inspect(b"QFI\xfb\0\0\0\x03");
        for declared in ["raw", "qcow2"] {
            let refused = check(declared, &broken_qcow2, &strict).unwrap_err();
            assert!(refused.contains("safety checks for qcow2"));
        }
        assert_eq!(check("raw", &broken_qcow2, &lax), Ok(None));
        assert!(check("qcow2", &broken_qcow2, &lax).is_err());
        assert!(check("iso", &broken_qcow2, &strict).is_err());
        assert!(check("ami", &broken_qcow2, &strict).is_err());
    }

    #[test]
    fn a_gpt_is_raw_and_its_checks_can_be_switched_off() {
        let mut disk = vec![0; 4096];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk[512..520].copy_from_slice(b"EFI PART");
        let hybrid = inspect(&disk);
        assert!(check("raw", &hybrid, &options(true, &[])).is_err());
        assert!(check("raw", &hybrid, &options(false, &["other"])).is_err());
        for declared in ["raw", "gpt"] {
            let checked = check(declared, &hybrid, &options(true, &["mbr"]));
            assert_eq!(checked, Ok(Some(4096)));
        }
        assert!(check("gpt", &inspect(&[0; 4096]), &options(true, &[])).is_err());
        assert!(check("luks", &hybrid, &options(true, &["mbr"])).is_err());
    }
}

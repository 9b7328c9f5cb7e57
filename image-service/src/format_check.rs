//! Whether uploaded data is what the image's `disk_format` says.

use image_formats::Inspection;

/// Formats that the inspector can tell apart; the others (`ami`, `ari`, `aki` …) have no mark.
const INSPECTABLE: &[&str] = &["raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "ploop"];

/// The virtual size in bytes, where it is known, or why the data is refused (a 415).
///
/// Data declared as raw is taken whatever it holds: who opens it reads bytes and follows nothing.
pub fn check(declared: &str, found: &Inspection, must_match: bool) -> Result<Option<u64>, String> {
    if declared == "raw" {
        if !found.format.is_raw() {
            tracing::warn!(found = %found.format, "data declared as raw looks like another format");
        }
        return Ok(Some(found.size_bytes));
    }
    let expected = if INSPECTABLE.contains(&declared) {
        declared
    } else {
        "raw"
    };
    if found.format.disk_format() != expected {
        if must_match {
            let found = found.format;
            return Err(format!(
                "Image content does not match its disk_format: declared {declared}, found {found}"
            ));
        }
        tracing::warn!(declared, found = %found.format, "data is not in the declared format");
        return Ok(None);
    }
    match &found.safety {
        Err(why) => Err(format!(
            "Image content failed the safety checks for {declared}: {why}"
        )),
        Ok(()) => Ok(found.virtual_size_bytes),
    }
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

    #[test]
    fn declared_and_found() {
        let zeroes = inspect(&[0; 4096]);
        assert_eq!(check("raw", &zeroes, true), Ok(Some(4096)));
        assert_eq!(check("ami", &zeroes, true), Ok(Some(4096)));
        assert!(
            check("qcow2", &zeroes, true)
                .unwrap_err()
                .contains("declared qcow2, found raw")
        );
        assert_eq!(check("qcow2", &zeroes, false), Ok(None));
        let broken_qcow2 = inspect(b"QFI\xfb\0\0\0\x03");
        assert_eq!(check("raw", &broken_qcow2, true), Ok(Some(8)));
        assert!(
            check("qcow2", &broken_qcow2, true)
                .unwrap_err()
                .contains("safety")
        );
        assert!(check("iso", &broken_qcow2, true).is_err());
    }
}

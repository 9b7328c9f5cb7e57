//! Packed files, made by the programs that people use.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Cursor, ErrorKind, Read};
use std::process::Command;

use image_formats::Archive;

/// A file of zeroes, noise and text, and the same packed by Python's `script`.
fn packed(script: &str) -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let mut data = vec![0; 300_000];
    for (index, byte) in data.iter_mut().enumerate().skip(100_000) {
        *byte = (index * index / 7) as u8;
    }
    std::fs::write(folder.path().join("disk"), &data).unwrap();
    let script = format!("import gzip, zipfile, sys, shutil\n{script}");
    let python = Command::new("python3")
        .args(["-c", &script])
        .current_dir(folder.path())
        .status()
        .unwrap();
    assert!(python.success());
    let file = std::fs::read(folder.path().join("packed")).unwrap();
    (data, file)
}

fn unpack(file: &[u8]) -> std::io::Result<Vec<u8>> {
    let archive = Archive::detect(file).expect("an archive");
    let mut data = Vec::new();
    let mut reader = archive.unpack(Cursor::new(file.to_vec()))?;
    reader.read_to_end(&mut data)?;
    Ok(data)
}

const GZIP: &str = "f = gzip.open('packed', 'wb'); f.write(open('disk', 'rb').read()); f.close()";

fn zip(options: &str) -> String {
    format!("z = zipfile.ZipFile('packed', 'w', {options}); z.write('disk'); z.close()")
}

#[test]
fn what_was_packed_comes_out() {
    let again = "f = gzip.open('packed', 'ab'); f.write(open('disk', 'rb').read()); f.close()";
    let (data, file) = packed(&format!("{GZIP}\n{again}"));
    assert_eq!(Archive::detect(&file), Some(Archive::Gzip));
    assert!(unpack(&file).unwrap() == [&data[..], &data[..]].concat());
    for options in ["zipfile.ZIP_STORED", "zipfile.ZIP_DEFLATED"] {
        let (data, file) = packed(&zip(options));
        assert_eq!(Archive::detect(&file), Some(Archive::Zip));
        assert!(unpack(&file).unwrap() == data, "{options}");
    }
    let commented = "z = zipfile.ZipFile('packed', 'w'); z.comment = b'PK\\x05\\x06' * 9; \
        f = z.open('disk', 'w', force_zip64=True); f.write(open('disk', 'rb').read()); \
        f.close(); z.close()";
    let (data, file) = packed(commented);
    assert!(unpack(&file).unwrap() == data);
}

#[test]
fn what_cannot_be_one_file_is_refused() {
    let two =
        "z = zipfile.ZipFile('packed', 'w'); z.write('disk'); z.writestr('b', 'b'); z.close()";
    let refused = unpack(&packed(two).1).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains("2 files instead of one"));
    let refused = unpack(&packed(&zip("zipfile.ZIP_BZIP2")).1).unwrap_err();
    assert!(refused.to_string().contains("method 12"));
    let lha = Archive::detect(b"\x20\x00-lh5-").unwrap();
    let refused = lha.unpack(Cursor::new(Vec::new())).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert_eq!(Archive::detect(b"QFI\xfb\0"), None);
}

/// Every cut and every flipped byte ends: with the data, or with an error.
#[test]
fn damage_is_an_error() {
    for script in [
        GZIP.to_owned(),
        zip("zipfile.ZIP_DEFLATED"),
        zip("zipfile.ZIP_STORED"),
    ] {
        let (data, file) = packed(&script);
        for cut in [4, 20, file.len() / 2, file.len() - 1] {
            assert!(unpack(&file[..cut]).is_err(), "{script} cut at {cut}");
        }
        let steps = (5..file.len()).step_by(file.len() / 60);
        for at in steps.chain(file.len() - 110..file.len()) {
            let mut file = file.clone();
            file[at] ^= 0x41;
            if let Ok(other) = unpack(&file) {
                assert!(other == data, "{script} at {at}");
            }
        }
    }
}

//! Location URLs of images that lie in an RBD store: `rbd://<fsid>/<pool>/<image>/<snapshot>`,
//! each part percent-quoted (glance_store rbd).

use std::fmt::Write as _;

use storage::{ImageSpec, SnapshotSpec};

/// The URL of a snapshot in the store `fsid`.
pub fn url(fsid: &str, snapshot: &SnapshotSpec) -> String {
    let parts = [
        fsid,
        &snapshot.image.pool,
        &snapshot.image.image,
        &snapshot.snapshot,
    ];
    let quoted: Vec<String> = parts.iter().map(|part| quote(part)).collect();
    format!("rbd://{}", quoted.join("/"))
}

/// The store and snapshot of a URL; `None` for anything that is not such a URL.
pub fn parse(url: &str) -> Option<(String, SnapshotSpec)> {
    let parts: Vec<String> = url
        .strip_prefix("rbd://")?
        .split('/')
        .map(unquote)
        .collect::<Option<_>>()?;
    let [fsid, pool, image, snapshot] = <[String; 4]>::try_from(parts).ok()?;
    if [&fsid, &pool, &image, &snapshot]
        .iter()
        .any(|part| part.is_empty())
    {
        return None;
    }
    Some((fsid, ImageSpec::new(pool, image).at(snapshot)))
}

fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.-~".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(quoted, "%{byte:02X}");
        }
    }
    quoted
}

fn unquote(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail.get(2..)?;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_read_back() {
        let snapshot = ImageSpec::new("im ages/ü", "a%b").at("snap");
        let text = url("f-1", &snapshot);
        assert_eq!(text, "rbd://f-1/im%20ages%2F%C3%BC/a%25b/snap");
        assert_eq!(parse(&text), Some(("f-1".to_owned(), snapshot)));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "rbd://a/b/c",
            "rbd://a/b/c/d/e",
            "rbd://a//c/d",
            "http://a/b/c/d",
            "rbd://a/b/c/%F",
            "rbd://a/b/c/%ff",
            "rbd://%é/b/c/d",
            "",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}

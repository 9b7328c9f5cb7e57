//! The one byte range of a download (RFC 9110, `Range`; `Content-Range` from older clients).

use axum::http::{HeaderMap, header};

use crate::error::{Error, Result};

/// Bytes `start..end` of the data; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    pub start: u64,
    pub end: u64,
}

/// The range that the request asks for; `None`: all of the data.
///
/// Errors: 400 for several ranges, 416 for a malformed one and one that the data does not reach.
pub fn of_request(headers: &HeaderMap, size_bytes: u64) -> Result<Option<ByteRange>> {
    let text = |name| {
        headers
            .get(name)
            .map(|value: &axum::http::HeaderValue| value.to_str().unwrap_or_default())
    };
    if text(header::RANGE).is_some_and(|range| range.contains(',')) {
        let message = "Requests with multiple ranges are not supported in Glance. You may make \
            multiple single-range requests instead.";
        return Err(Error::BadRequest(message.to_owned()));
    }
    let parsed = match (text(header::RANGE), text(header::CONTENT_RANGE)) {
        (Some(range), _) => parse(range, size_bytes),
        (None, Some(range)) => parse_content_range(range),
        (None, None) => return Ok(None),
    };
    let within = parsed.filter(|range| range.start < range.end && range.end <= size_bytes);
    within.map(Some).ok_or_else(|| Error::RangeNotSatisfiable {
        reason: "The byte range passed in the 'Range' header did not match any available byte range in the \
            image."
            .to_owned(),
        size_bytes,
    })
}

/// `bytes=a-b`, `bytes=a-`, `bytes=-n`.
fn parse(text: &str, size_bytes: u64) -> Option<ByteRange> {
    let (first, last) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", last) => {
            let start = size_bytes.saturating_sub(number(last)?);
            Some(ByteRange {
                start,
                end: size_bytes,
            })
        }
        (first, "") => Some(ByteRange {
            start: number(first)?,
            end: size_bytes,
        }),
        (first, last) => {
            let (start, last) = (number(first)?, number(last)?);
            let end = last.saturating_add(1).min(size_bytes);
            (start <= last).then_some(ByteRange { start, end })
        }
    }
}

/// `bytes a-b/size` or `bytes a-b/*`.
fn parse_content_range(text: &str) -> Option<ByteRange> {
    let (range, _) = text
        .trim()
        .strip_prefix("bytes")?
        .trim_start()
        .split_once('/')?;
    let (start, last) = range.split_once('-')?;
    Some(ByteRange {
        start: number(start)?,
        end: number(last)?.checked_add(1)?,
    })
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: header::HeaderName, value: &str, size: u64) -> Option<Option<(u64, u64)>> {
        let headers = HeaderMap::from_iter([(name, value.parse().unwrap())]);
        let range = of_request(&headers, size).ok()?;
        Some(range.map(|range| (range.start, range.end)))
    }

    #[test]
    fn ranges_within_the_data() {
        let cases = [
            ("bytes=0-4", (0, 5)),
            ("bytes=5-", (5, 10)),
            ("bytes=-3", (7, 10)),
            ("bytes=-30", (0, 10)),
            ("bytes=9-9", (9, 10)),
            ("bytes=3-999999999999999999999999", (3, 10)),
        ];
        for (text, range) in cases {
            assert_eq!(asked(header::RANGE, text, 10), Some(Some(range)), "{text}");
        }
        assert_eq!(
            asked(header::CONTENT_RANGE, "bytes 1-2/10", 10),
            Some(Some((1, 3)))
        );
        assert_eq!(of_request(&HeaderMap::new(), 10).unwrap(), None);
    }

    #[test]
    fn several_ranges_are_no_request() {
        let headers = HeaderMap::from_iter([(header::RANGE, "bytes=0-1,3-4".parse().unwrap())]);
        let refused = of_request(&headers, 10).unwrap_err();
        assert!(matches!(refused, Error::BadRequest(_)), "{refused:?}");
    }

    #[test]
    fn everything_else_is_not_satisfiable() {
        for text in [
            "bytes=10-",
            "bytes=4-3",
            "bytes=-0",
            "bytes=a-b",
            "bytes=0-1,3-4",
            "items=0-1",
            "bytes=",
            "bytes=-",
            "",
            "bytes=+1-2",
            "bytes=18446744073709551616-",
        ] {
            assert_eq!(asked(header::RANGE, text, 10), None, "{text}");
        }
        assert_eq!(asked(header::RANGE, "bytes=0-", 0), None);
        assert_eq!(
            asked(header::CONTENT_RANGE, "bytes 0-18446744073709551615/9", 10),
            None
        );
    }
}

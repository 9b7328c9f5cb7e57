//! Times as the APIs write and read them; inside they are microseconds since the Unix epoch.

use time::{Date, Duration, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

/// `2026-01-02T03:04:05.000006` (Cinder).
pub fn format_micros(us: i64) -> String {
    let at = at(us);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.microsecond()
    )
}

/// `2026-01-02T03:04:05Z` (Glance).
pub fn format_seconds_z(us: i64) -> String {
    let at = at(us);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

/// `2026-01-02T03:04:05.000006Z` (Keystone).
pub fn format_micros_z(us: i64) -> String {
    format!("{}Z", format_micros(us))
}

fn at(us: i64) -> OffsetDateTime {
    // What lies outside the calendar's 9999 years was never a time of ours.
    let since = Duration::microseconds(us);
    OffsetDateTime::UNIX_EPOCH
        .checked_add(since)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// An ISO 8601 time as oslo's `parse_isotime` takes it: a date, or a date and a time (`T` or a
/// space), optional seconds and fraction, optional `Z` or offset (UTC without one). Microseconds.
pub fn parse_iso8601(text: &str) -> Option<i64> {
    let text = text.trim();
    let date = parse_date(text.get(..10)?)?;
    let rest = text.get(10..)?;
    let (clock, offset) = match rest.as_bytes().first() {
        None => (Time::MIDNIGHT, UtcOffset::UTC),
        Some(b'T' | b't' | b' ') => {
            let rest = rest.get(1..)?;
            let split = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
            (
                parse_clock(rest.get(..split)?)?,
                parse_offset(rest.get(split..)?)?,
            )
        }
        Some(_) => return None,
    };
    let at = PrimitiveDateTime::new(date, clock).assume_offset(offset);
    i64::try_from(at.unix_timestamp_nanos() / 1000).ok()
}

fn parse_date(text: &str) -> Option<Date> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if year.len() != 4 || month.len() != 2 || day.len() != 2 || parts.next().is_some() {
        return None;
    }
    let month = Month::try_from(u8::try_from(digits(month)?).ok()?).ok()?;
    Date::from_calendar_date(
        i32::try_from(digits(year)?).ok()?,
        month,
        u8::try_from(digits(day)?).ok()?,
    )
    .ok()
}

fn parse_clock(text: &str) -> Option<Time> {
    let (whole, fraction) = match text.find(['.', ',']) {
        Some(at) => (text.get(..at)?, text.get(at + 1..)?),
        None => (text, "0"),
    };
    let fields: Vec<u8> = whole
        .split(':')
        .map(|field| {
            if field.len() == 2 {
                u8::try_from(digits(field)?).ok()
            } else {
                None
            }
        })
        .collect::<Option<_>>()?;
    let (hour, minute, second) = match fields.as_slice() {
        [hour, minute] => (*hour, *minute, 0),
        [hour, minute, second] => (*hour, *minute, *second),
        _ => return None,
    };
    let mut micros = 0;
    if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    for digit in fraction.bytes().chain(std::iter::repeat(b'0')).take(6) {
        micros = micros * 10 + u32::from(digit - b'0');
    }
    Time::from_hms_micro(hour, minute, second, micros).ok()
}

fn parse_offset(text: &str) -> Option<UtcOffset> {
    if text.is_empty() || text.eq_ignore_ascii_case("z") {
        return Some(UtcOffset::UTC);
    }
    let negative = text.starts_with('-');
    let text = text.get(1..)?.replace(':', "");
    let (hours, minutes) = match text.len() {
        2 => (digits(&text)?, 0),
        4 => (digits(text.get(..2)?)?, digits(text.get(2..)?)?),
        _ => return None,
    };
    let seconds = i32::try_from(hours * 3600 + minutes * 60).ok()?;
    UtcOffset::from_whole_seconds(if negative { -seconds } else { seconds }).ok()
}

fn digits(text: &str) -> Option<u32> {
    if text.len() > 4 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        assert_eq!(format_micros(0), "1970-01-01T00:00:00.000000");
        assert_eq!(
            format_micros(1_767_323_045_000_006),
            "2026-01-02T03:04:05.000006"
        );
        assert_eq!(
            format_seconds_z(1_767_323_045_999_999),
            "2026-01-02T03:04:05Z"
        );
        assert_eq!(format_micros_z(1), "1970-01-01T00:00:00.000001Z");
        format_micros(i64::MAX);
        format_micros(i64::MIN);
    }

    #[test]
    fn parses() {
        let us = 1_767_323_045_000_000;
        for text in [
            "2026-01-02T03:04:05",
            "2026-01-02 03:04:05Z",
            "2026-01-02T03:04:05.000000",
            "2026-01-02T04:04:05+01:00",
            "2026-01-02T04:04:05+0100",
            "2026-01-02T02:04:05-01",
        ] {
            assert_eq!(parse_iso8601(text), Some(us), "{text}");
        }
        assert_eq!(parse_iso8601("2026-01-02T03:04:05.0000061"), Some(us + 6));
        assert_eq!(parse_iso8601("2026-01-02"), Some(1_767_312_000_000_000));
        for bad in [
            "",
            "x",
            "2026-13-02",
            "2026-01-32",
            "2026-01-02T25:00:00",
            "2026-01-02T03:04:05+99",
            "2026-01-02T03:04:05.",
            "2026-01-02x",
            "20é6-01-02",
            "2026-01-0é",
            "2026-1-2T3:4:5",
        ] {
            assert_eq!(parse_iso8601(bad), None, "{bad}");
        }
        assert_eq!(parse_iso8601(&format_micros(us + 6)), Some(us + 6));
    }
}

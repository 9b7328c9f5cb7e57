//! `basalt volume usage-audit`: tells what existed in a period, as `cinder-volume-usage-audit`
//! does from cron. What it tells, the servers deliver.

use std::io::{Write, stdout};

use amqp::Outbox;
use database::Database;
use time::macros::format_description;
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};
use volume_service::domain::usage_audit;
use volume_service::notices::{Notices, Period};

use crate::config::{Config, Settings};
use crate::error::{Error, Result};

/// What the command line says.
#[derive(Debug)]
pub struct Request {
    pub start_time: Option<String>,
    pub end_time: Option<String>,
    pub send_actions: bool,
}

/// Tells, and prints how many there were.
pub async fn run(
    database: &Database,
    config: &Config,
    settings: &Settings,
    request: &Request,
) -> Result<()> {
    if settings.notifications.drivers.is_empty() {
        let text = "nobody is told: set [oslo_messaging_notifications] driver";
        return Err(Error::Usage(text.to_owned()));
    }
    let unit = crate::config::settings::required(config, "DEFAULT", "volume_usage_audit_period")?;
    let period = period(&unit, request, OffsetDateTime::now_utc())?;
    let host = crate::config::services::volume_options(config)?.host;
    let outbox = Outbox::open().of_exchange(&settings.notifications.volume_exchange);
    let notices = Notices::new(outbox, &host);
    let counts = usage_audit::tell(database, &notices, period, request.send_actions).await;
    let counts = counts.map_err(|error| Error::Start(error.to_string()))?;
    let mut output = stdout().lock();
    for (what, count) in counts {
        writeln!(output, "{count} {}.exists", what.kind())?;
    }
    Ok(())
}

fn period(unit: &str, request: &Request, now: OffsetDateTime) -> Result<Period> {
    let now = PrimitiveDateTime::new(now.date(), now.time());
    let wrong = || {
        let text = "hour, day, month or year, and after an @ when it begins";
        Error::Usage(format!(
            "[DEFAULT] volume_usage_audit_period {unit:?}: {text}"
        ))
    };
    let (begin, end) = last_completed(unit, now).ok_or_else(wrong)?;
    let given = |text: &Option<String>, or: PrimitiveDateTime| match text {
        Some(text) => {
            let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
            let wrong =
                |_| Error::Usage(format!("{text:?} is no time such as 2026-01-31 00:00:00"));
            PrimitiveDateTime::parse(text, format).map_err(wrong)
        }
        None => Ok(or),
    };
    let us = |at: PrimitiveDateTime| at.assume_utc().unix_timestamp() * 1_000_000;
    let period = Period {
        begin_us: us(given(&request.start_time, begin)?),
        end_us: us(given(&request.end_time, end)?),
    };
    if period.end_us <= period.begin_us {
        let text = "the end time must be after the start time";
        return Err(Error::Usage(text.to_owned()));
    }
    Ok(period)
}

/// The last whole `hour`, `day`, `month` or `year` before now; `unit@N` begins it N minutes, hours,
/// days (from 1) or months (from 1) later.
fn last_completed(
    unit: &str,
    now: PrimitiveDateTime,
) -> Option<(PrimitiveDateTime, PrimitiveDateTime)> {
    let (unit, offset) = match unit.split_once('@') {
        Some((unit, offset)) => (unit, offset.parse::<u8>().ok()?),
        None => (unit, 0),
    };
    let date = now.date();
    let midnight = |date: Option<Date>| Some(date?.with_time(Time::MIDNIGHT));
    let month_of = |year: i32, month: Month| {
        midnight(Date::from_calendar_date(year, month, offset.max(1)).ok())
    };
    let before = |year: i32, month: Month| match month {
        Month::January => (year - 1, Month::December),
        month => (year, month.previous()),
    };
    match unit {
        "hour" | "day" => {
            let (end, length) = if unit == "hour" {
                let time = Time::from_hms(now.hour(), offset, 0).ok()?;
                (date.with_time(time), time::Duration::HOUR)
            } else {
                let time = Time::from_hms(offset, 0, 0).ok()?;
                (date.with_time(time), time::Duration::DAY)
            };
            let end = if end >= now { end - length } else { end };
            Some((end - length, end))
        }
        "month" => {
            let (mut year, mut month) = (date.year(), date.month());
            if month_of(year, month)? >= now {
                (year, month) = before(year, month);
            }
            let (begin_year, begin_month) = before(year, month);
            Some((month_of(begin_year, begin_month)?, month_of(year, month)?))
        }
        "year" => {
            let month = Month::try_from(offset.max(1)).ok()?;
            let first = |year: i32| midnight(Date::from_calendar_date(year, month, 1).ok());
            let this = date.year();
            let year = if first(this)? >= now { this - 1 } else { this };
            Some((first(year - 1)?, first(year)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn periods_are_the_last_whole_ones() {
        let now = datetime!(2026-01-15 09:07);
        for (unit, begin, end) in [
            (
                "hour",
                datetime!(2026-01-15 08:00),
                datetime!(2026-01-15 09:00),
            ),
            (
                "hour@30",
                datetime!(2026-01-15 07:30),
                datetime!(2026-01-15 08:30),
            ),
            (
                "day",
                datetime!(2026-01-14 00:00),
                datetime!(2026-01-15 00:00),
            ),
            (
                "day@18",
                datetime!(2026-01-13 18:00),
                datetime!(2026-01-14 18:00),
            ),
            (
                "month",
                datetime!(2025-12-01 00:00),
                datetime!(2026-01-01 00:00),
            ),
            (
                "month@20",
                datetime!(2025-11-20 00:00),
                datetime!(2025-12-20 00:00),
            ),
            (
                "year",
                datetime!(2025-01-01 00:00),
                datetime!(2026-01-01 00:00),
            ),
            (
                "year@3",
                datetime!(2024-03-01 00:00),
                datetime!(2025-03-01 00:00),
            ),
        ] {
            assert_eq!(last_completed(unit, now), Some((begin, end)), "{unit}");
        }
        for unit in ["week", "month@32", "hour@60", "day@x"] {
            assert_eq!(last_completed(unit, now), None, "{unit}");
        }
    }
}

//! Tells what existed in a period (`cinder-volume-usage-audit`).

use database::Database;

use crate::Result;
use crate::db::usage_audit::{self, Audited, Existed};
use crate::notices::{Notices, Period};

/// Resources that one transaction tells of: others write in between.
const AT_ONCE: u32 = 100;

/// Leaves `volume.exists`, `snapshot.exists` and `backup.exists` of the period in the outbox; with
/// `actions` what was made and deleted in it, too. Returns how many existed, by kind.
pub async fn tell(
    database: &Database,
    notices: &Notices,
    period: Period,
    actions: bool,
) -> Result<Vec<(Audited, u64)>> {
    let mut counts = Vec::new();
    for what in Audited::ALL {
        let (mut after, mut count) = (None, 0);
        loop {
            let mut tx = database.begin().await?;
            let page = usage_audit::existed(&mut tx, what, period, after, AT_ONCE).await?;
            let Some(last) = page.last() else {
                break;
            };
            after = Some(last.id);
            for one in &page {
                count += 1;
                notices
                    .audited(&mut tx, what, one.id, "exists", period)
                    .await?;
                for (event, at) in actions_of(one, period).into_iter().filter(|_| actions) {
                    let moment = Period::at(at);
                    notices
                        .audited(&mut tx, what, one.id, event, moment)
                        .await?;
                }
            }
            tx.commit().await?;
        }
        counts.push((what, count));
    }
    Ok(counts)
}

/// What happened to it in the period, and when.
fn actions_of(one: &Existed, period: Period) -> Vec<(&'static str, i64)> {
    let inside = |at: &i64| period.begin_us < *at && *at < period.end_us;
    let created = Some(one.created_at).filter(inside);
    let deleted = one.deleted_at.filter(inside);
    let spans = [
        (created, ["create.start", "create.end"]),
        (deleted, ["delete.start", "delete.end"]),
    ];
    spans
        .into_iter()
        .filter_map(|(at, events)| at.map(|at| events.map(|event| (event, at))))
        .flatten()
        .collect()
}

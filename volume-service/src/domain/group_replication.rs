//! Replication of groups, as a back-end answers it that cannot replicate: what Cinder checks
//! before it asks the back-end is checked, and the back-end's refusal ends in `error`.

use database::Tx;

use super::groups::not_found;
use crate::db::groups::{self, Group};
use crate::db::metadata::{self, Kind};
use crate::db::{Change, status, volume_types};
use crate::{Error, Result, VolumeService};

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Enable,
    Disable,
    FailOver,
}

impl Action {
    fn verb(self) -> &'static str {
        match self {
            Action::Enable => "enable",
            Action::Disable => "disable",
            Action::FailOver => "failover",
        }
    }

    fn statuses(self) -> &'static [&'static str] {
        match self {
            Action::Enable | Action::FailOver => &[status::AVAILABLE],
            Action::Disable => &[status::AVAILABLE, status::ERROR],
        }
    }

    fn replication_statuses(self) -> &'static [&'static str] {
        match self {
            Action::Enable => &["disabled", "enabled"],
            Action::Disable => &["enabled", "error"],
            Action::FailOver => &["enabled", "failed-over"],
        }
    }
}

/// Refuses groups whose types are not for replication.
///
/// Errors: [`Error::Invalid`], for the group type or for the first volume type that is not.
pub async fn check_types(service: &VolumeService, group: &Group) -> Result<()> {
    let mut tx = service.database.begin().await?;
    refuse_unreplicated(&mut tx, group).await
}

async fn refuse_unreplicated(tx: &mut Tx, group: &Group) -> Result<()> {
    const TRUE: &str = "<is> True";
    let specs = metadata::get(&mut *tx, Kind::GroupType, group.group_type_id).await?;
    let enabled = [
        "group_replication_enabled",
        "consistent_group_replication_enabled",
    ]
    .iter()
    .any(|key| specs.get(*key).is_some_and(|value| value == TRUE));
    if !enabled {
        return Err(Error::Invalid(format!(
            "Invalid group type: Group {} is not a replication group type.",
            group.id
        )));
    }
    let types = groups::volume_types(&mut *tx, &[group.id]).await?;
    for id in types.into_values().flatten() {
        let specs = volume_types::extra_specs(&mut *tx, id).await?;
        if specs.get("replication_enabled").map(String::as_str) != Some(TRUE) {
            return Err(Error::Invalid(format!(
                "Invalid volume type: Volume type {id} does not have 'replication_enabled' spec key set to '<is> True'."
            )));
        }
    }
    Ok(())
}

/// Accepts what Cinder accepts; no back-end can do it, so the replication is in `error` then.
pub async fn act(service: &VolumeService, group: &Group, action: Action) -> Result<()> {
    let id = group.id;
    let mut tx = service.database.begin().await?;
    refuse_unreplicated(&mut tx, group).await?;
    let current = groups::get(&mut tx, id)
        .await?
        .ok_or_else(|| not_found(id))?;
    for (what, value, valid) in [
        ("status", &current.status, action.statuses()),
        (
            "replication status",
            &current.replication_status,
            action.replication_statuses(),
        ),
    ] {
        if !valid.contains(&value.as_str()) {
            return Err(Error::invalid_group(format!(
                "Group {id} {what} must be ['{}'], but current status is: {value}. Cannot {} replication.",
                valid.join("', '"),
                action.verb()
            )));
        }
    }
    Change::group(id)
        .set("replication_status = ?", status::ERROR)
        .apply(&mut tx)
        .await?;
    Ok(tx.commit().await?)
}

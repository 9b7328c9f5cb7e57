//! Changing a group: name, description, which volumes are in it.
//!
//! Nothing in the store knows of groups, so all of it is one transaction: the group is never seen
//! half changed, nor `updating`.

use std::collections::BTreeSet;

use database::Tx;
use rest::RequestContext;
use uuid::Uuid;

use super::groups::not_found;
use super::parse_id;
use crate::db::groups::{self, Group};
use crate::db::volumes::{self, Volume};
use crate::db::{Change, Outcome, status};
use crate::{Error, Result, VolumeService};

const ADDABLE: &[&str] = &[status::AVAILABLE, status::IN_USE];
const REMOVABLE: &[&str] = &[
    status::AVAILABLE,
    status::IN_USE,
    status::ERROR,
    status::ERROR_DELETING,
];

/// What a client asks for; `None` stays.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    pub name: Option<String>,
    pub description: Option<String>,
    /// Ids of volumes.
    pub add: Vec<String>,
    /// Ids of volumes.
    pub remove: Vec<String>,
}

/// Writes the changes, all or none.
pub async fn update(
    service: &VolumeService,
    context: &RequestContext,
    group: &Group,
    changes: Changes,
) -> Result<()> {
    let id = group.id;
    let both: Vec<&str> = changes
        .add
        .iter()
        .filter(|volume| changes.remove.contains(volume))
        .map(String::as_str)
        .collect();
    if !both.is_empty() {
        return Err(Error::invalid_volume(format!(
            "UUIDs ['{}'] are in both add and remove volume list.",
            both.join("', '")
        )));
    }
    let mut tx = service.database.begin().await?;
    let notices = &service.notices;
    notices.group(&mut tx, id, "update.start", context).await?;
    let members = groups::members(&mut tx, id).await?;
    let mut moved = false;
    for volume in &changes.add {
        moved |= add(&mut tx, group, &members, volume).await?;
    }
    for volume in &changes.remove {
        remove(&mut tx, id, &members, volume).await?;
        moved = true;
    }
    let name = changes
        .name
        .filter(|name| Some(name) != group.name.as_ref());
    let description = changes
        .description
        .filter(|text| Some(text) != group.description.as_ref());
    if name.is_none() && description.is_none() && !moved {
        return Err(Error::invalid_group(format!(
            "Cannot update group {id} because no valid name, description, add_volumes, or remove_volumes were \
             provided."
        )));
    }
    let mut change = Change::group(id);
    if moved {
        change = change.when(&[status::AVAILABLE]);
    }
    if let Some(name) = name {
        change = change.set("name = ?", name);
    }
    if let Some(description) = description {
        change = change.set("description = ?", description);
    }
    match change.apply(&mut tx).await? {
        Outcome::Done => {
            notices.group(&mut tx, id, "update.end", context).await?;
            Ok(tx.commit().await?)
        }
        Outcome::NotFound => Err(not_found(id)),
        Outcome::WrongState { .. } => Err(Error::invalid_group("Group status must be available.")),
    }
}

/// Whether the volume was not in the group before.
async fn add(tx: &mut Tx, group: &Group, members: &[Volume], volume_id: &str) -> Result<bool> {
    let id = group.id;
    let cannot = |reason: String| {
        Error::invalid_volume(format!(
            "Cannot add volume {volume_id} to group {id} because {reason}"
        ))
    };
    let absent = || cannot("volume cannot be found.".to_owned());
    let uuid = parse_id(volume_id).ok_or_else(absent)?;
    if members.iter().any(|member| member.id == uuid) {
        return Ok(false);
    }
    let volume = volumes::get(&mut *tx, uuid).await?.ok_or_else(absent)?;
    if volume.project_id != group.project_id {
        return Err(Error::invalid_volume(format!(
            "Cannot add volume {volume_id} to group {id} as they belong to different projects."
        )));
    }
    if let Some(other) = volume.group_id {
        return Err(cannot(format!("it is already in group {other}.")));
    }
    let types = groups::volume_types(&mut *tx, &[id]).await?;
    let types: BTreeSet<Uuid> = types.into_values().flatten().collect();
    if !types.contains(&volume.volume_type_id) {
        return Err(cannot(format!(
            "volume type {} is not supported by the group.",
            volume.volume_type_id
        )));
    }
    if backend(volume.host.as_deref()) != backend(group.host.as_deref()) {
        return Err(Error::invalid_volume("Volume is not local to this node."));
    }
    if !groups::add_volume(tx, id, uuid, ADDABLE).await? {
        return Err(cannot(format!(
            "volume is in an invalid state: {}. Valid states are: ('available', 'in-use').",
            volume.status
        )));
    }
    Ok(true)
}

async fn remove(tx: &mut Tx, id: Uuid, members: &[Volume], volume_id: &str) -> Result<()> {
    let cannot = |reason: String| {
        Error::invalid_volume(format!(
            "Cannot remove volume {volume_id} from group {id} because {reason}"
        ))
    };
    let wanted = parse_id(volume_id);
    let member = members.iter().find(|member| Some(member.id) == wanted);
    let member = member.ok_or_else(|| cannot("it is not in the group.".to_owned()))?;
    if groups::remove_volume(tx, id, member.id, REMOVABLE).await? {
        return Ok(());
    }
    Err(cannot(format!(
        "volume is in an invalid state: {}. Valid states are: ('available', 'in-use', 'error', 'error_deleting').",
        member.status
    )))
}

/// `host@backend` of `host@backend#pool`: the members of a group share it.
pub(super) fn backend(host: Option<&str>) -> Option<&str> {
    host.and_then(|host| host.split('#').next())
}

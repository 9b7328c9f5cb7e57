//! Groups: find, list, create, set the status.

use std::collections::BTreeSet;

use database::now_us;
use rest::RequestContext;
use rest::list_query::{Column, Columns};
use uuid::Uuid;

use super::listing::{self, Query, Rows, Table};
use super::{parse_id, quota, requester, sees, services, types};
use crate::db::group_types::GroupType;
use crate::db::groups::{self, Group, REPLICATION_DISABLED};
use crate::db::{Change, status, volume_types};
use crate::flows::{self, CreateGroup, CreateGroupParams};
use crate::{Error, Result, VolumeService, scheduler};

/// A group with all that its view shows.
#[derive(Debug, Clone)]
pub struct GroupDetails {
    pub group: Group,
    pub volume_types: Vec<Uuid>,
    pub volumes: Vec<Uuid>,
}

/// What lists of groups may be sorted by.
pub static SORTABLE: Columns = Columns {
    columns: &[
        Column::int("created_at", "created_at"),
        Column::int("updated_at", "updated_at").nullable(),
        Column::text("name", "name").nullable(),
        Column::text("status", "status"),
        Column::text("group_type_id", "group_type_id"),
        Column::text("host", "host").nullable(),
        Column::text("availability_zone", "availability_zone"),
        Column::text("user_id", "user_id"),
        Column::text("project_id", "project_id"),
    ],
    id: Column::text("id", "id"),
};

static TABLE: Table = Table {
    resource: "Group",
    name: "volume_groups",
    columns: groups::COLUMNS,
    sortable: &SORTABLE,
    soft_deleted: true,
};

/// "Group … could not be found."
pub fn not_found(id: impl std::fmt::Display) -> Error {
    Error::no_such("Group", id)
}

/// The group of this id, if the caller may see it; otherwise it does not exist.
pub async fn get(service: &VolumeService, context: &RequestContext, id: &str) -> Result<Group> {
    let uuid = parse_id(id).ok_or_else(|| not_found(id))?;
    let found = groups::get(&service.database, uuid).await?;
    let group = found
        .filter(|found| sees(context, &found.project_id))
        .ok_or_else(|| not_found(id))?;
    service
        .policy
        .enforce(context, "group:get", &group.project_id)?;
    Ok(group)
}

/// One page of groups.
pub async fn list(service: &VolumeService, query: Query) -> Result<Rows<Group>> {
    listing::fetch(&service.database, &TABLE, query, Group::from_row).await
}

/// Adds what views of groups show, in two reads however many they are.
pub async fn with_details(service: &VolumeService, rows: Vec<Group>) -> Result<Vec<GroupDetails>> {
    let ids: Vec<Uuid> = rows.iter().map(|group| group.id).collect();
    let mut types = groups::volume_types(&service.database, &ids).await?;
    let mut volumes = groups::volume_ids(&service.database, &ids).await?;
    let join = |group: Group| GroupDetails {
        volume_types: types.remove(&group.id).unwrap_or_default(),
        volumes: volumes.remove(&group.id).unwrap_or_default(),
        group,
    };
    Ok(rows.into_iter().map(join).collect())
}

/// Adds what the view of one group shows.
pub async fn details(service: &VolumeService, group: Group) -> Result<GroupDetails> {
    let id = group.id;
    with_details(service, vec![group])
        .await?
        .pop()
        .ok_or_else(|| not_found(id))
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Request {
    pub name: Option<String>,
    pub description: Option<String>,
    /// Ids or names.
    pub volume_types: Vec<String>,
    pub availability_zone: Option<String>,
}

/// Inserts a group and its flow. One that no pool can take is in `error` from the start.
pub async fn create(
    service: &VolumeService,
    context: &RequestContext,
    group_type: &GroupType,
    request: Request,
) -> Result<Group> {
    service.policy.enforce(context, "group:create", context)?;
    let mut type_ids = BTreeSet::new();
    for volume_type in &request.volume_types {
        type_ids.insert(types::find(service, context, volume_type).await?.id);
    }
    let type_ids: Vec<Uuid> = type_ids.into_iter().collect();
    let asked = request.availability_zone.as_deref();
    let zone = asked.unwrap_or(service.options.default_zone());
    let zone = services::existing_zone(service, zone)
        .await?
        .ok_or_else(|| Error::invalid_input(format!("Availability zone '{zone}' is invalid.")))?;
    let specs = volume_types::extra_specs_of_many(&service.database, &type_ids).await?;
    let specs: Vec<_> = type_ids
        .iter()
        .map(|id| specs.get(id).cloned().unwrap_or_default())
        .collect();
    let host = scheduler::choose_for_group(service, &zone, &specs).await?;
    let state = host.as_ref().map_or(status::ERROR, |_| status::CREATING);
    let group = Group {
        id: Uuid::new_v4(),
        user_id: context.user_id.clone(),
        project_id: context.project().to_owned(),
        name: request.name,
        description: request.description,
        status: state.to_owned(),
        availability_zone: zone,
        host,
        group_type_id: group_type.id,
        group_snapshot_id: None,
        source_group_id: None,
        replication_status: REPLICATION_DISABLED.to_owned(),
        created_at: now_us(),
    };
    let mut tx = service.database.begin().await?;
    quota::check_group(&service.options, &mut tx, &group.project_id).await?;
    groups::insert(&mut tx, &group, &type_ids).await?;
    let Some(host) = &group.host else {
        tracing::warn!(group = %group.id, "no valid backend was found");
        tx.commit().await?;
        return Ok(group);
    };
    let queue = flows::volume_queue(host);
    let params = CreateGroupParams {
        group_id: group.id,
        volume_ids: Vec::new(),
    };
    CreateGroup::new_flow(&params, &queue, &requester(context, &group.project_id))?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    service.doorbell.ring(&queue);
    Ok(group)
}

/// Writes the status without looking at the present one.
pub async fn set_status(service: &VolumeService, id: Uuid, to: &str) -> Result<()> {
    let mut tx = service.database.begin().await?;
    if !Change::group(id).status(to).apply(&mut tx).await?.is_done() {
        return Err(not_found(id));
    }
    Ok(tx.commit().await?)
}

//! Making a group from a group snapshot or from another group: a clone of every member.

use std::collections::HashMap;

use database::{Tx, now_us};
use rest::RequestContext;
use uuid::Uuid;

use super::quota::{self, Additions};
use super::{encryption, requester, volume_actions, volume_create};
use crate::db::group_snapshots::{self, GroupSnapshot};
use crate::db::groups::{self, Group, REPLICATION_DISABLED};
use crate::db::metadata::Metadata;
use crate::db::volumes::{self, NewVolume, Volume};
use crate::db::{Change, status, volume_types};
use crate::flows::{self, CreateGroup, CreateGroupParams, VolumeSource};
use crate::{Error, Result, VolumeService};

/// What the new group is made of.
#[derive(Debug, Clone)]
pub enum Source {
    GroupSnapshot(GroupSnapshot),
    Group(Group),
}

/// One volume to make.
struct Clone {
    of: VolumeSource,
    /// The volume whose bytes it gets, now or as they were at the snapshot.
    volume: Volume,
    size_gib: u32,
    volume_type_id: Uuid,
    snapshot_id: Option<Uuid>,
}

/// Inserts the group, its volumes and their flows in one transaction; the group is `available`
/// when all volumes are.
pub async fn create(
    service: &VolumeService,
    context: &RequestContext,
    name: Option<String>,
    description: Option<String>,
    source: Source,
) -> Result<Group> {
    service.policy.enforce(context, "group:create", context)?;
    let mut keys = Keys::default();
    match insert(service, context, (name, description), source, &mut keys).await {
        Ok(group) => Ok(group),
        Err(error) => {
            keys.forget(service, context).await;
            Err(error)
        }
    }
}

/// Copies of the keys of encrypted members, by the member that each is for.
#[derive(Default)]
struct Keys(HashMap<Uuid, Uuid>);

impl Keys {
    /// Outside of any transaction: the key manager may take its time.
    async fn copy(
        &mut self,
        service: &VolumeService,
        context: &RequestContext,
        source: &Source,
    ) -> Result<()> {
        let members = match source {
            Source::Group(group) => groups::members(&service.database, group.id).await?,
            Source::GroupSnapshot(snapshot) => {
                let of = group_snapshots::members(&service.database, snapshot.id).await?;
                let ids: Vec<Uuid> = of.iter().map(|snapshot| snapshot.volume_id).collect();
                volumes::get_many(&service.database, &ids).await?
            }
        };
        for member in members {
            let copied = encryption::copy(service, context, member.encryption_key_id).await?;
            if let Some(key) = copied {
                self.0.insert(member.id, key);
            }
        }
        Ok(())
    }

    /// The key for the clone of a member.
    fn take(&mut self, of: &Volume) -> Result<Option<Uuid>> {
        match (of.encryption_key_id, self.0.get(&of.id)) {
            (None, _) => Ok(None),
            (Some(_), Some(key)) => Ok(Some(*key)),
            (Some(_), None) => Err(Error::invalid_group("The members have changed meanwhile.")),
        }
    }

    async fn forget(self, service: &VolumeService, context: &RequestContext) {
        for key in self.0.into_values() {
            encryption::forget(service, context, Some(key)).await;
        }
    }
}

async fn insert(
    service: &VolumeService,
    context: &RequestContext,
    (name, description): (Option<String>, Option<String>),
    source: Source,
    keys: &mut Keys,
) -> Result<Group> {
    keys.copy(service, context, &source).await?;
    let mut tx = service.database.begin().await?;
    let project_id = context.project();
    quota::check_group(&service.options, &mut tx, project_id).await?;
    let (source_group, group_snapshot_id) = match &source {
        Source::Group(group) => {
            claim(&mut tx, Change::group(group.id)).await?;
            (group.clone(), None)
        }
        Source::GroupSnapshot(snapshot) => {
            claim(&mut tx, Change::group_snapshot(snapshot.id)).await?;
            let found = groups::get(&mut tx, snapshot.group_id).await?;
            let group = found.ok_or_else(|| super::groups::not_found(snapshot.group_id))?;
            (group, Some(snapshot.id))
        }
    };
    let id = Uuid::new_v4();
    let host = source_group
        .host
        .clone()
        .ok_or_else(|| Error::invalid_group(format!("No valid host to create group {id}.")))?;
    let clones = clones(&mut tx, &source).await?;
    check_quota(service, &mut tx, project_id, &clones).await?;
    let group = Group {
        id,
        user_id: context.user_id.clone(),
        project_id: project_id.to_owned(),
        name,
        description,
        status: status::CREATING.to_owned(),
        host: Some(host.clone()),
        group_snapshot_id,
        source_group_id: group_snapshot_id.is_none().then_some(source_group.id),
        replication_status: REPLICATION_DISABLED.to_owned(),
        created_at: now_us(),
        ..source_group
    };
    let types = groups::volume_types(&mut tx, &[source_group.id]).await?;
    let types = types.into_values().next().unwrap_or_default();
    groups::insert(&mut tx, &group, &types).await?;
    let queue = flows::volume_queue(&host);
    let mut rung = vec![queue.clone()];
    let (mut volume_ids, no_metadata) = (Vec::new(), Metadata::new());
    for clone in clones {
        let queue = volume_actions::queue_of(&clone.volume)?;
        let specs = volume_types::extra_specs(&mut tx, clone.volume_type_id).await?;
        let multiattach = volume_create::is_multiattach_spec(&specs);
        let new = NewVolume {
            encryption_key_id: keys.take(&clone.volume)?,
            ..new_volume(&group, &clone, multiattach)
        };
        let made = volume_create::insert_with_flow(
            &mut tx,
            context,
            new,
            Some(group.id),
            &no_metadata,
            (clone.of, None),
            &queue,
        );
        volume_ids.push(made.await?.id);
        rung.push(queue);
    }
    let params = CreateGroupParams {
        group_id: group.id,
        volume_ids,
    };
    CreateGroup::new_flow(&params, &queue, &requester(context, project_id))?
        .insert(&mut tx)
        .await?;
    tx.commit().await?;
    rung.iter().for_each(|queue| service.doorbell.ring(queue));
    Ok(group)
}

/// Touches the source's row: a delete of it cannot pass this transaction.
async fn claim(tx: &mut Tx, touch: Change) -> Result<()> {
    let change = touch.and("status <> ?", &[status::DELETING.into()]);
    if change.apply(tx).await?.is_done() {
        return Ok(());
    }
    Err(Error::invalid_group("The source is being deleted."))
}

fn new_volume(group: &Group, clone: &Clone, multiattach: bool) -> NewVolume {
    NewVolume {
        id: Uuid::new_v4(),
        user_id: group.user_id.clone(),
        project_id: group.project_id.clone(),
        name: None,
        description: None,
        size_gib: clone.size_gib,
        availability_zone: group.availability_zone.clone(),
        host: clone.volume.host.clone(),
        volume_type_id: clone.volume_type_id,
        snapshot_id: clone.snapshot_id,
        source_volid: clone.snapshot_id.is_none().then_some(clone.volume.id),
        multiattach,
        encryption_key_id: None,
        consumes_quota: true,
    }
}

async fn clones(tx: &mut Tx, source: &Source) -> Result<Vec<Clone>> {
    match source {
        Source::GroupSnapshot(snapshot) => of_snapshots(tx, snapshot).await,
        Source::Group(group) => of_volumes(tx, group).await,
    }
}

async fn of_snapshots(tx: &mut Tx, source: &GroupSnapshot) -> Result<Vec<Clone>> {
    let mut clones = Vec::new();
    for snapshot in group_snapshots::members(&mut *tx, source.id).await? {
        if snapshot.status != status::AVAILABLE {
            return Err(Error::invalid_group(format!(
                "Cannot create group because snapshot {} is not in a valid state. Valid states are: ('available',).",
                snapshot.id
            )));
        }
        let volume = volumes::get(&mut *tx, snapshot.volume_id).await?;
        clones.push(Clone {
            of: VolumeSource::Snapshot {
                snapshot_id: snapshot.id,
                volume_id: snapshot.volume_id,
            },
            volume: volume.ok_or_else(|| super::volumes::not_found(snapshot.volume_id))?,
            size_gib: snapshot.size_gib,
            volume_type_id: snapshot.volume_type_id,
            snapshot_id: Some(snapshot.id),
        });
    }
    if clones.is_empty() {
        return Err(Error::invalid_group(
            "Group snapshot is empty. No group will be created.",
        ));
    }
    Ok(clones)
}

async fn of_volumes(tx: &mut Tx, source: &Group) -> Result<Vec<Clone>> {
    let mut clones = Vec::new();
    for volume in groups::members(&mut *tx, source.id).await? {
        if ![status::AVAILABLE, status::IN_USE].contains(&volume.status.as_str()) {
            return Err(Error::invalid_group(format!(
                "Cannot create group because source volume {} is not in a valid state. \
                 Valid states are: ('available', 'in-use').",
                volume.id
            )));
        }
        clones.push(Clone {
            of: VolumeSource::Volume {
                volume_id: volume.id,
            },
            size_gib: volume.size_gib,
            volume_type_id: volume.volume_type_id,
            snapshot_id: None,
            volume,
        });
    }
    if clones.is_empty() {
        return Err(Error::invalid_group(
            "Source Group is empty. No group will be created.",
        ));
    }
    Ok(clones)
}

async fn check_quota(
    service: &VolumeService,
    tx: &mut Tx,
    project_id: &str,
    clones: &[Clone],
) -> Result<()> {
    let types = volume_types::all(&mut *tx).await?;
    let mut additions = Additions::default();
    for clone in clones {
        let volume_type = types
            .get(&clone.volume_type_id)
            .ok_or_else(|| Error::no_such("Volume type", clone.volume_type_id))?;
        additions.volume(volume_type, clone.size_gib);
    }
    quota::check_additions(&service.options, tx, project_id, &additions).await
}

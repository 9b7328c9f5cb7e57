//! Clusters: managers of several hosts that serve the same back-end.

use crate::db::clusters::{self, Cluster};
use crate::db::services::{self, Service};
use crate::{Error, Result, VolumeService};

/// A cluster with the managers that are in it.
#[derive(Debug, Clone)]
pub struct ClusterDetails {
    pub cluster: Cluster,
    pub members: Vec<Service>,
}

impl ClusterDetails {
    /// The last heartbeat of any member.
    pub fn heartbeat_at(&self) -> Option<i64> {
        self.members.iter().map(|member| member.heartbeat_at).max()
    }

    /// How many members are down.
    pub fn down(&self, down_time_s: u32) -> usize {
        let down = |member: &&Service| !member.is_up(down_time_s);
        self.members.iter().filter(down).count()
    }

    pub fn is_up(&self, down_time_s: u32) -> bool {
        self.members.iter().any(|member| member.is_up(down_time_s))
    }

    pub fn is_frozen(&self) -> bool {
        self.members.iter().any(|member| member.frozen)
    }
}

/// Every known cluster.
pub async fn list(service: &VolumeService) -> Result<Vec<ClusterDetails>> {
    let known = services::list(&service.database).await?;
    let with_members = |cluster: Cluster| {
        let is_member = |one: &&Service| {
            one.binary == cluster.binary && one.cluster_name.as_ref() == Some(&cluster.name)
        };
        let members = known.iter().filter(is_member).cloned().collect();
        ClusterDetails { cluster, members }
    };
    let clusters = clusters::list(&service.database).await?;
    Ok(clusters.into_iter().map(with_members).collect())
}

/// The cluster of this name, of a binary if one is named.
pub async fn get(
    service: &VolumeService,
    name: &str,
    binary: Option<&str>,
) -> Result<ClusterDetails> {
    let is_it = |one: &ClusterDetails| {
        one.cluster.name == name && binary.is_none_or(|binary| one.cluster.binary == binary)
    };
    let found = list(service).await?.into_iter().find(is_it);
    found.ok_or_else(|| Error::NotFound(format!("Cluster {name} could not be found.")))
}

/// Enables or disables a cluster: the scheduler passes over the managers of a disabled one.
pub async fn set_disabled(
    service: &VolumeService,
    name: &str,
    binary: &str,
    disabled: bool,
    reason: Option<&str>,
) -> Result<ClusterDetails> {
    let mut tx = service.database.begin().await?;
    if !clusters::set_disabled(&mut tx, name, binary, disabled, reason).await? {
        return Err(Error::NotFound(format!(
            "Cluster {name} could not be found."
        )));
    }
    tx.commit().await?;
    get(service, name, Some(binary)).await
}

/// A manager of the cluster that `name` (`cluster@backend`, or with `#pool`) means, as a host
/// with the same pool; one that is up, if any is. `None` when the cluster has no manager.
pub async fn host_of(service: &VolumeService, name: &str) -> Result<Option<String>> {
    let (cluster, pool) = match name.split_once('#') {
        Some((cluster, pool)) => (cluster, Some(pool)),
        None => (name, None),
    };
    let members = match get(service, cluster, Some(services::VOLUME)).await {
        Ok(found) => found.members,
        Err(Error::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let down_time_s = service.options.service_down_time_s;
    let member = members.iter().find(|member| member.is_up(down_time_s));
    let host = member.or(members.first()).map(|member| &member.host);
    Ok(host.map(|host| match pool {
        Some(pool) => format!("{host}#{pool}"),
        None => host.clone(),
    }))
}

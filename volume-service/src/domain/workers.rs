//! Cleanup: who resumes the flows that a service which is down has left.
//!
//! Every service does that by itself, as soon as the leases of the dead one are over; a cleanup
//! only rings those that can, so that they look at once.

use crate::db::services::{self, BACKUP, SCHEDULER, Service, VOLUME};
use crate::{Error, Result, SCHEDULER_QUEUE, VolumeService, flows};

/// Which services a cleanup is about; what is none is not looked at.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    pub service_id: Option<String>,
    pub cluster_name: Option<String>,
    pub host: Option<String>,
    pub binary: Option<String>,
    pub is_up: Option<bool>,
    pub disabled: Option<bool>,
}

impl Selection {
    fn covers(&self, service: &Service, down_time_s: u32) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        is(&self.service_id, &service.id.to_string())
            && is(
                &self.cluster_name,
                service.cluster_name.as_deref().unwrap_or_default(),
            )
            && is(&self.host, &service.host)
            && is(&self.binary, &service.binary)
            && self.is_up.is_none_or(|up| up == service.is_up(down_time_s))
            && self
                .disabled
                .is_none_or(|disabled| disabled == service.disabled)
    }
}

/// Narrows a selection without a place to the service that works on a resource.
///
/// Errors: [`Error::Invalid`] when nobody does.
pub async fn locate(
    service: &VolumeService,
    selection: Selection,
    resource_id: Option<&str>,
) -> Result<Selection> {
    let placed = [
        &selection.service_id,
        &selection.cluster_name,
        &selection.host,
    ];
    let Some(resource_id) = resource_id.filter(|_| placed.iter().all(|name| name.is_none())) else {
        return Ok(selection);
    };
    let filter = taskflow::Filter {
        resource_id: Some(resource_id.to_owned()),
        unfinished: true,
        limit: 1,
        ..taskflow::Filter::default()
    };
    let flows = taskflow::list(&service.database, &filter).await?;
    let Some(flow) = flows.first() else {
        return Err(Error::invalid_input(format!(
            "There is no resource with UUID {resource_id} pending cleanup."
        )));
    };
    // volume:<host>@<backend>#<pool>
    let queue = flow.info.queue.split_once(':').map(|(_, host)| host);
    let host = queue.and_then(|host| host.split('#').next());
    Ok(Selection {
        host: host.map(str::to_owned),
        ..selection
    })
}

/// The services whose flows are taken up, and those for which nobody is there to do it.
#[derive(Debug, Default)]
pub struct Cleanup {
    pub cleaning: Vec<Service>,
    pub unavailable: Vec<Service>,
}

/// Rings whoever can take up the flows of the selected services.
pub async fn cleanup(service: &VolumeService, selection: &Selection) -> Result<Cleanup> {
    let down_time_s = service.options.service_down_time_s;
    let known = services::list(&service.database).await?;
    let pools = services::pools(&service.database).await?;
    let mut cleanup = Cleanup::default();
    let selected = known
        .iter()
        .filter(|one| one.binary != SCHEDULER && selection.covers(one, down_time_s));
    for one in selected {
        let deputy = known.iter().find(|other| {
            let same = other.id == one.id;
            let cluster = one.cluster_name.is_some() && other.cluster_name == one.cluster_name;
            (same || cluster) && other.binary == one.binary && other.is_up(down_time_s)
        });
        let Some(deputy) = deputy else {
            cleanup.unavailable.push(one.clone());
            continue;
        };
        for queue in queues(deputy, &pools) {
            service.doorbell.ring(&queue);
        }
        cleanup.cleaning.push(one.clone());
    }
    service.doorbell.ring(SCHEDULER_QUEUE);
    Ok(cleanup)
}

fn queues(service: &Service, pools: &[services::Pool]) -> Vec<String> {
    match service.binary.as_str() {
        VOLUME => pools
            .iter()
            .filter(|pool| pool.service_host == service.host)
            .map(|pool| flows::volume_queue(&pool.name))
            .collect(),
        BACKUP => vec![flows::backup_queue(&service.host)],
        _ => Vec::new(),
    }
}

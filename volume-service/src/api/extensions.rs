//! `GET extensions`: the parts of the API that Cinder calls extensions.

use axum::Json;
use axum::extract::Path;
use rest::Fault;
use serde::Serialize;

use super::Answer;
use super::call::Call;

/// Name, alias, date of the contract, what it is.
const EXTENSIONS: &[(&str, &str, &str, &str)] = &[
    (
        "AdminActions",
        "os-admin-actions",
        "2012-08-25T00:00:00+00:00",
        "Enable admin actions.",
    ),
    (
        "AvailabilityZones",
        "os-availability-zone",
        "2013-06-27T00:00:00+00:00",
        "Describe Availability Zones.",
    ),
    (
        "Backups",
        "backups",
        "2012-12-12T00:00:00+00:00",
        "Backups support.",
    ),
    (
        "Capabilities",
        "capabilities",
        "2015-08-31T00:00:00+00:00",
        "Capabilities support.",
    ),
    (
        "Cgsnapshots",
        "cgsnapshots",
        "2014-08-18T00:00:00+00:00",
        "cgsnapshots support.",
    ),
    (
        "Consistencygroups",
        "consistencygroups",
        "2014-08-18T00:00:00+00:00",
        "consistency groups support.",
    ),
    (
        "ExtendedSnapshotAttributes",
        "os-extended-snapshot-attributes",
        "2012-06-19T00:00:00+00:00",
        "Extended SnapshotAttributes support.",
    ),
    (
        "Hosts",
        "os-hosts",
        "2011-06-29T00:00:00+00:00",
        "Admin-only host administration.",
    ),
    (
        "Qos_specs_manage",
        "qos-specs",
        "2013-08-02T00:00:00+00:00",
        "QoS specs support.",
    ),
    (
        "Quotas",
        "os-quota-sets",
        "2011-08-08T00:00:00+00:00",
        "Quota management support.",
    ),
    (
        "QuotaClasses",
        "os-quota-class-sets",
        "2012-03-12T00:00:00+00:00",
        "Quota classes management support.",
    ),
    (
        "SchedulerHints",
        "OS-SCH-HNT",
        "2013-04-18T00:00:00+00:00",
        "Pass arbitrary key/value pairs to the scheduler.",
    ),
    (
        "Scheduler_stats",
        "scheduler-stats",
        "2014-09-07T00:00:00+00:00",
        "Scheduler stats support.",
    ),
    (
        "Services",
        "os-services",
        "2012-10-28T00:00:00-00:00",
        "Services support.",
    ),
    (
        "SnapshotActions",
        "os-snapshot-actions",
        "2013-07-16T00:00:00+00:00",
        "Enable snapshot manager actions.",
    ),
    (
        "SnapshotManage",
        "os-snapshot-manage",
        "2014-12-31T00:00:00+00:00",
        "Allows existing backend storage to be 'managed' by Cinder.",
    ),
    (
        "SnapshotUnmanage",
        "os-snapshot-unmanage",
        "2014-12-31T00:00:00+00:00",
        "Enable volume unmanage operation.",
    ),
    (
        "TypesExtraSpecs",
        "os-types-extra-specs",
        "2011-08-24T00:00:00+00:00",
        "Type extra specs support.",
    ),
    (
        "TypesManage",
        "os-types-manage",
        "2011-08-24T00:00:00+00:00",
        "Types manage support.",
    ),
    (
        "UsedLimits",
        "os-used-limits",
        "2013-10-03T00:00:00+00:00",
        "Provide data on limited resource that are being used.",
    ),
    (
        "VolumeActions",
        "os-volume-actions",
        "2012-05-31T00:00:00+00:00",
        "Enable volume actions.",
    ),
    (
        "VolumeEncryptionMetadata",
        "os-volume-encryption-metadata",
        "2013-07-10T00:00:00+00:00",
        "Volume encryption metadata retrieval support.",
    ),
    (
        "VolumeHostAttribute",
        "os-vol-host-attr",
        "2011-11-03T00:00:00+00:00",
        "Expose host as an attribute of a volume.",
    ),
    (
        "VolumeImageMetadata",
        "os-vol-image-meta",
        "2012-12-07T00:00:00+00:00",
        "Show image metadata associated with the volume.",
    ),
    (
        "VolumeManage",
        "os-volume-manage",
        "2014-02-10T00:00:00+00:00",
        "Allows existing backend storage to be 'managed' by Cinder.",
    ),
    (
        "VolumeMigStatusAttribute",
        "os-vol-mig-status-attr",
        "2013-08-08T00:00:00+00:00",
        "Expose migration_status as an attribute of a volume.",
    ),
    (
        "VolumeTenantAttribute",
        "os-vol-tenant-attr",
        "2011-11-03T00:00:00+00:00",
        "Expose the internal project_id as an attribute of a volume.",
    ),
    (
        "VolumeTransfer",
        "os-volume-transfer",
        "2013-05-29T00:00:00+00:00",
        "Volume transfer management support.",
    ),
    (
        "VolumeTypeAccess",
        "os-volume-type-access",
        "2014-06-26T00:00:00Z",
        "Volume type access support.",
    ),
    (
        "VolumeUnmanage",
        "os-volume-unmanage",
        "2012-05-31T00:00:00+00:00",
        "Enable volume unmanage operation.",
    ),
    (
        "VolumeTypeEncryption",
        "encryption",
        "2013-07-01T00:00:00+00:00",
        "Encryption support for volume types.",
    ),
];

#[derive(Serialize)]
struct Extension {
    name: &'static str,
    alias: &'static str,
    description: &'static str,
    updated: &'static str,
    links: [(); 0],
}

/// `{"extensions": […]}`
#[derive(Serialize)]
pub(super) struct List {
    extensions: Vec<Extension>,
}

/// `{"extension": …}`
#[derive(Serialize)]
pub(super) struct One {
    extension: Extension,
}

fn all() -> impl Iterator<Item = Extension> {
    EXTENSIONS
        .iter()
        .map(|(name, alias, updated, description)| Extension {
            name,
            alias,
            description,
            updated,
            links: [],
        })
}

/// `GET extensions`
pub(super) async fn index(_call: Call) -> Json<List> {
    Json(List {
        extensions: all().collect(),
    })
}

/// `GET extensions/{alias}`
pub(super) async fn show(_call: Call, Path(alias): Path<String>) -> Answer<Json<One>> {
    let found = all().find(|extension| extension.alias == alias);
    let extension = found.ok_or_else(|| Fault::not_found("The resource could not be found."))?;
    Ok(Json(One { extension }))
}

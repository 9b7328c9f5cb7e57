//! QoS specs: limits that back-end or hypervisor enforce, and the volume types that have them.

use std::fmt::Display;

use database::Tx;
use rest::list_query::{Column, Columns};
use uuid::Uuid;

use super::listing::{self, Query, Rows, Table};
use super::{parse_id, types};
use crate::db::attachments::Document;
use crate::db::metadata::{self, Kind, Metadata};
use crate::db::qos_specs::{self, QosSpecs};
use crate::db::volume_types;
use crate::db::volumes::Volume;
use crate::notices::QosEvent;
use crate::{Error, Result, VolumeService};
use rest::RequestContext;

/// Who may enforce them.
const CONSUMERS: &[&str] = &["back-end", "front-end", "both"];

/// QoS specs with their keys.
#[derive(Debug, Clone)]
pub struct QosDetails {
    pub qos: QosSpecs,
    pub specs: Metadata,
}

/// What lists of QoS specs may be sorted by.
pub static SORTABLE: Columns = Columns {
    columns: &[
        Column::int("created_at", "created_at"),
        Column::int("updated_at", "updated_at").nullable(),
        Column::text("name", "name"),
        Column::text("consumer", "consumer"),
    ],
    id: Column::text("id", "id"),
};

static TABLE: Table = Table {
    resource: "QoS specs",
    name: "qos_specs",
    columns: qos_specs::COLUMNS,
    sortable: &SORTABLE,
    soft_deleted: true,
};

fn not_found(id: impl Display) -> Error {
    Error::NotFound(format!("No such QoS spec {id}."))
}

/// The specs of this id.
pub async fn get(service: &VolumeService, id: &str) -> Result<QosDetails> {
    let uuid = parse_id(id).ok_or_else(|| not_found(id))?;
    let found = qos_specs::get(&service.database, uuid).await?;
    let qos = found.ok_or_else(|| not_found(id))?;
    let specs = metadata::get(&service.database, Kind::Qos, qos.id).await?;
    Ok(QosDetails { qos, specs })
}

/// One page of specs with their keys.
pub async fn list(service: &VolumeService, query: Query) -> Result<Rows<QosDetails>> {
    let page = listing::fetch(&service.database, &TABLE, query, QosSpecs::from_row).await?;
    let ids: Vec<Uuid> = page.rows.iter().map(|qos| qos.id).collect();
    let mut specs = metadata::of_many(&service.database, Kind::Qos, &ids).await?;
    let join = |qos: QosSpecs| QosDetails {
        specs: specs.remove(&qos.id).unwrap_or_default(),
        qos,
    };
    Ok(Rows {
        rows: page.rows.into_iter().map(join).collect(),
        total: page.total,
    })
}

fn check_consumer(consumer: &str) -> Result<()> {
    if CONSUMERS.contains(&consumer) {
        return Ok(());
    }
    let valid = CONSUMERS.join("', '");
    Err(Error::Invalid(format!(
        "Invalid qos specs: Valid consumer of QoS specs are: ['{valid}']"
    )))
}

/// Makes specs; the back-end enforces them unless the client says otherwise.
pub async fn create(
    service: &VolumeService,
    context: &RequestContext,
    name: &str,
    given: Option<&str>,
    specs: Metadata,
) -> Result<QosDetails> {
    let consumer = given.unwrap_or("back-end");
    check_consumer(consumer)?;
    let mut tx = service.database.begin().await?;
    let qos = match qos_specs::insert(&mut tx, name, consumer).await {
        Err(database::Error::Constraint(_)) => {
            return Err(Error::Conflict(format!("QoS Specs {name} already exists.")));
        }
        inserted => inserted?,
    };
    metadata::insert(&mut tx, Kind::Qos, qos.id, &specs).await?;
    let mut told = specs.clone();
    told.extend(given.map(|given| ("consumer".to_owned(), given.to_owned())));
    let notices = &service.notices;
    notices
        .qos_specs(&mut tx, &qos, QosEvent::Create(&told), context)
        .await?;
    tx.commit().await?;
    Ok(QosDetails { qos, specs })
}

/// Adds and replaces keys; the key `consumer` is who enforces them.
pub async fn update(
    service: &VolumeService,
    context: &RequestContext,
    id: Uuid,
    given: Metadata,
) -> Result<()> {
    let mut specs = given.clone();
    let consumer = specs.remove("consumer");
    if let Some(consumer) = &consumer {
        check_consumer(consumer)?;
    }
    let mut tx = service.database.begin().await?;
    let qos = still_there(&mut tx, id).await?;
    metadata::merge(&mut tx, Kind::Qos, id, &specs).await?;
    qos_specs::touch(&mut tx, id, consumer.as_deref()).await?;
    let notices = &service.notices;
    notices
        .qos_specs(&mut tx, &qos, QosEvent::Update(&given), context)
        .await?;
    Ok(tx.commit().await?)
}

/// Removes keys; all, or none when one is missing.
pub async fn delete_keys(
    service: &VolumeService,
    context: &RequestContext,
    id: Uuid,
    keys: &[String],
) -> Result<()> {
    let mut tx = service.database.begin().await?;
    let qos = still_there(&mut tx, id).await?;
    for key in keys {
        if !metadata::delete_key(&mut tx, Kind::Qos, id, key).await? {
            return Err(Error::NotFound(format!(
                "QoS spec {id} has no spec with key {key}."
            )));
        }
    }
    qos_specs::touch(&mut tx, id, None).await?;
    let notices = &service.notices;
    notices
        .qos_specs(&mut tx, &qos, QosEvent::DeleteKeys, context)
        .await?;
    Ok(tx.commit().await?)
}

async fn still_there(tx: &mut Tx, id: Uuid) -> Result<QosSpecs> {
    let found = qos_specs::get(&mut *tx, id).await?;
    found.ok_or_else(|| not_found(id))
}

/// Deletes specs that no type has; with `force` the types lose them.
pub async fn delete(
    service: &VolumeService,
    context: &RequestContext,
    id: Uuid,
    force: bool,
) -> Result<()> {
    let mut tx = service.database.begin().await?;
    let qos = still_there(&mut tx, id).await?;
    if force {
        qos_specs::disassociate(&mut tx, id, None).await?;
    } else if !qos_specs::volume_types(&mut tx, id).await?.is_empty() {
        return Err(Error::Invalid("Qos specs still in use.".to_owned()));
    }
    qos_specs::delete(&mut tx, id).await?;
    let notices = &service.notices;
    notices
        .qos_specs(&mut tx, &qos, QosEvent::Delete, context)
        .await?;
    Ok(tx.commit().await?)
}

/// Gives a type the specs; it must have no others.
pub async fn associate(
    service: &VolumeService,
    context: &RequestContext,
    id: Uuid,
    type_id: &str,
) -> Result<()> {
    let volume_type = types::get(service, context, type_id).await?;
    let mut tx = service.database.begin().await?;
    let qos = still_there(&mut tx, id).await?;
    if !qos_specs::associate(&mut tx, id, volume_type.id).await? {
        let current = volume_types::get(&mut tx, volume_type.id).await?;
        let other = current
            .ok_or_else(|| Error::no_such("Volume type", type_id))?
            .qos_specs_id
            .map_or_else(|| "None".to_owned(), |other| other.to_string());
        return Err(Error::Invalid(format!(
            "Invalid volume type: Type {type_id} is already associated with another qos specs: {other}"
        )));
    }
    let event = QosEvent::Associate(volume_type.id);
    let notices = &service.notices;
    notices.qos_specs(&mut tx, &qos, event, context).await?;
    Ok(tx.commit().await?)
}

/// Takes the specs from one type, or from all.
pub async fn disassociate(
    service: &VolumeService,
    context: &RequestContext,
    id: Uuid,
    type_id: Option<&str>,
) -> Result<()> {
    let volume_type = match type_id {
        Some(type_id) => Some(types::get(service, context, type_id).await?.id),
        None => None,
    };
    let mut tx = service.database.begin().await?;
    let qos = still_there(&mut tx, id).await?;
    qos_specs::disassociate(&mut tx, id, volume_type).await?;
    let event = volume_type.map_or(QosEvent::DisassociateAll, QosEvent::Disassociate);
    let notices = &service.notices;
    notices.qos_specs(&mut tx, &qos, event, context).await?;
    Ok(tx.commit().await?)
}

/// The limits that a client of the volume enforces: those of its type, where the specs are for
/// the front end. What is given for each GiB is told for the volume's size.
pub(super) async fn for_client(tx: &mut Tx, volume: &Volume) -> Result<Option<Document>> {
    let volume_type = volume_types::get(&mut *tx, volume.volume_type_id).await?;
    let Some(id) = volume_type.and_then(|of| of.qos_specs_id) else {
        return Ok(None);
    };
    let Some(specs) = qos_specs::get(&mut *tx, id).await? else {
        return Ok(None);
    };
    if specs.consumer == "back-end" {
        return Ok(None);
    }
    let mut keys = metadata::get(&mut *tx, Kind::Qos, id).await?;
    scale(&mut keys, volume.size_gib);
    let texts = keys.into_iter().map(|(key, value)| (key, value.into()));
    Ok(Some(texts.collect()))
}

/// Options of which there is one for each GiB (`…_per_gb`, `…_per_gb_min`, `…_max`).
const SCALED: &[&str] = &[
    "read_iops_sec",
    "write_iops_sec",
    "total_iops_sec",
    "read_bytes_sec",
    "write_bytes_sec",
    "total_bytes_sec",
];

fn scale(keys: &mut Metadata, size_gib: u32) {
    for option in SCALED {
        let Some(per_gib) = number(keys.get(&format!("{option}_per_gb"))) else {
            continue;
        };
        keys.remove(&format!("{option}_per_gb"));
        let least = number(keys.remove(&format!("{option}_per_gb_min")).as_ref()).unwrap_or(0);
        let scaled = per_gib.saturating_mul(u64::from(size_gib)).max(least);
        let most = number(keys.remove(&format!("{option}_max")).as_ref()).unwrap_or(scaled);
        keys.insert((*option).to_owned(), scaled.min(most).to_string());
    }
}

fn number(text: Option<&String>) -> Option<u64> {
    text?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_for_each_gib_become_limits() {
        let scaled = |pairs: &[(&str, &str)]| {
            let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            let mut keys: Metadata = pairs.iter().map(pair).collect();
            scale(&mut keys, 10);
            keys.into_iter().collect::<Vec<_>>()
        };
        let one = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
        assert_eq!(
            scaled(&[("read_iops_sec_per_gb", "5")]),
            one("read_iops_sec", "50")
        );
        assert_eq!(
            scaled(&[
                ("read_iops_sec_per_gb", "5"),
                ("read_iops_sec_per_gb_min", "80")
            ]),
            one("read_iops_sec", "80")
        );
        assert_eq!(
            scaled(&[("read_iops_sec_per_gb", "5"), ("read_iops_sec_max", "30")]),
            one("read_iops_sec", "30")
        );
        assert_eq!(scaled(&[("read_iops_sec", "7")]), one("read_iops_sec", "7"));
        assert_eq!(
            scaled(&[("read_iops_sec_per_gb", "many")]),
            one("read_iops_sec_per_gb", "many")
        );
    }
}

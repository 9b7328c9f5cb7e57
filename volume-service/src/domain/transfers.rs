//! Transfers: a volume, with or without its snapshots, goes to the project that shows the key.
//!
//! The key has 64 random bits and is told once; the row keeps a salted hash. Usage is summed over
//! rows, so writing the new project into volume and snapshots moves the quota of both sides.

use std::fmt::Write as _;

use database::{Tx, now_us};
use hmac::{Hmac, KeyInit, Mac};
use rest::RequestContext;
use rest::list_query::{Column, Columns};
use sha2::Sha256;
use uuid::Uuid;

use super::listing::{self, Query, Rows, Table};
use super::quota::{self, Additions};
use super::{encryption, parse_id, sees, volumes};
use crate::db::transfers::{self, Transfer};
use crate::db::volumes::Volume;
use crate::db::{self, Change, Outcome, snapshots, status, volume_types};
use crate::{Error, Result, VolumeService};

/// `volume_transfer_salt_length` and `volume_transfer_key_length`, in bytes of two hex digits.
const SALT_BYTES: usize = 4;
const KEY_BYTES: usize = 8;

/// What lists of transfers may be sorted by.
pub static SORTABLE: Columns = Columns {
    columns: &[
        Column::int("created_at", "created_at"),
        Column::int("updated_at", "updated_at").nullable(),
        Column::text("name", "name").nullable(),
        Column::text("display_name", "name").nullable(),
        Column::text("volume_id", "volume_id"),
        Column::text("source_project_id", "source_project_id"),
    ],
    id: Column::text("id", "id"),
};

static TABLE: Table = Table {
    resource: "Transfer",
    name: "volume_transfers",
    columns: transfers::COLUMNS,
    sortable: &SORTABLE,
    soft_deleted: true,
};

fn not_found(id: impl std::fmt::Display) -> Error {
    Error::no_such("Transfer", id)
}

/// The open transfer of this id, if it is the caller's.
pub async fn get(service: &VolumeService, context: &RequestContext, id: &str) -> Result<Transfer> {
    let found = find(service, id).await?;
    match sees(context, &found.source_project_id) {
        true => Ok(found),
        false => Err(not_found(id)),
    }
}

async fn find(service: &VolumeService, id: &str) -> Result<Transfer> {
    let uuid = parse_id(id).ok_or_else(|| not_found(id))?;
    let found = transfers::get(&service.database, uuid).await?;
    found.ok_or_else(|| not_found(id))
}

/// One page of open transfers.
pub async fn list(service: &VolumeService, query: Query) -> Result<Rows<Transfer>> {
    listing::fetch(&service.database, &TABLE, query, Transfer::from_row).await
}

/// Offers a volume: it is `awaiting-transfer` from now on. Returns the key, too, which nobody can
/// be told again.
pub async fn create(
    service: &VolumeService,
    context: &RequestContext,
    volume: &Volume,
    name: Option<String>,
    no_snapshots: bool,
    allow_encrypted: bool,
) -> Result<(Transfer, String)> {
    if volume.encryption_key_id.is_some() {
        if !allow_encrypted {
            return Err(Error::invalid_volume(
                "transferring encrypted volume is not supported",
            ));
        }
        if no_snapshots {
            return Err(Error::invalid_volume(
                "transferring an encrypted volume without its snapshots is not supported",
            ));
        }
    }
    let mut tx = service.database.begin().await?;
    if volume.group_id.is_some() {
        return Err(in_group(volume.id));
    }
    let notices = &service.notices;
    notices
        .volume(&mut tx, volume.id, "transfer.create.start", context)
        .await?;
    let change = Change::volume(volume.id)
        .when(&[status::AVAILABLE])
        .and("group_id IS NULL", &[])
        .status(status::AWAITING_TRANSFER);
    match change.apply(&mut tx).await? {
        Outcome::Done => {}
        Outcome::NotFound => return Err(volumes::not_found(volume.id)),
        Outcome::WrongState { .. } => {
            return Err(Error::invalid_volume("status must be available"));
        }
    }
    if !no_snapshots {
        for snapshot in snapshots::of_volume(&mut tx, volume.id).await? {
            if snapshot.status != status::AVAILABLE {
                return Err(Error::invalid_snapshot(format!(
                    "snapshot: {} status must be available",
                    snapshot.id
                )));
            }
        }
    }
    let (salt, key) = (random_hex::<SALT_BYTES>()?, random_hex::<KEY_BYTES>()?);
    let transfer = Transfer {
        id: Uuid::new_v4(),
        volume_id: volume.id,
        name,
        key_hash: hash(&salt, &key)?,
        salt,
        no_snapshots,
        source_project_id: volume.project_id.clone(),
        destination_project_id: None,
        accepted: false,
        created_at: now_us(),
    };
    transfers::insert(&mut tx, &transfer).await?;
    notices
        .volume(&mut tx, volume.id, "transfer.create.end", context)
        .await?;
    tx.commit().await?;
    Ok((transfer, key))
}

fn in_group(volume_id: Uuid) -> Error {
    Error::invalid_volume(format!(
        "Volume {volume_id} must not be part of a consistency group."
    ))
}

/// Withdraws an offer: the volume is `available` again.
pub async fn delete(
    service: &VolumeService,
    context: &RequestContext,
    transfer: &Transfer,
) -> Result<()> {
    let (mut tx, id) = (service.database.begin().await?, transfer.volume_id);
    let notices = &service.notices;
    notices
        .volume(&mut tx, id, "transfer.delete.start", context)
        .await?;
    if !transfers::end(&mut tx, transfer.id, None).await? {
        return Err(not_found(transfer.id));
    }
    let change = Change::volume(transfer.volume_id)
        .when(&[status::AWAITING_TRANSFER])
        .status(status::AVAILABLE);
    if !change.apply(&mut tx).await?.is_done() {
        tracing::warn!(volume = %transfer.volume_id, "the volume of a withdrawn transfer was in another state");
    }
    notices
        .volume(&mut tx, id, "transfer.delete.end", context)
        .await?;
    Ok(tx.commit().await?)
}

/// Gives the volume to the caller's project: quota, volume, snapshots and transfer in one
/// transaction.
///
/// Errors: [`Error::Invalid`] for a wrong key; [`Error::OverQuota`] when the project has no room.
pub async fn accept(
    service: &VolumeService,
    context: &RequestContext,
    id: &str,
    key: &str,
) -> Result<Transfer> {
    let transfer = find(service, id).await?;
    if !key_fits(&transfer, key) {
        return Err(Error::Invalid(format!(
            "Invalid auth key: Attempt to transfer {id} with invalid auth key."
        )));
    }
    let volume = db::volumes::get(&service.database, transfer.volume_id).await?;
    let old_key = volume.and_then(|volume| volume.encryption_key_id);
    let new_key = encryption::take_over(service, context, old_key).await?;
    let moved = take(service, context, &transfer, new_key).await;
    let unused = match &moved {
        Ok(()) => old_key,
        Err(_) => new_key,
    };
    encryption::forget(service, context, unused).await;
    moved.map(|()| transfer)
}

async fn take(
    service: &VolumeService,
    context: &RequestContext,
    transfer: &Transfer,
    encryption_key_id: Option<Uuid>,
) -> Result<()> {
    let id = transfer.id;
    let mut tx = service.database.begin().await?;
    let volume = db::volumes::get(&mut tx, transfer.volume_id)
        .await?
        .ok_or_else(|| volumes::not_found(transfer.volume_id))?;
    if volume.group_id.is_some() {
        return Err(in_group(volume.id));
    }
    let moved = match transfer.no_snapshots {
        true => Vec::new(),
        false => snapshots::of_volume(&mut tx, volume.id).await?,
    };
    if context.project() != volume.project_id {
        check_quota(service, &mut tx, context.project(), &volume, &moved).await?;
    }
    let notices = &service.notices;
    notices
        .volume(&mut tx, volume.id, "transfer.accept.start", context)
        .await?;
    let (user_id, project_id) = (context.user_id.as_str(), context.project());
    let change = Change::volume(volume.id)
        .when(&[status::AWAITING_TRANSFER])
        .status(status::AVAILABLE);
    let change = change
        .set("user_id = ?", user_id)
        .set("project_id = ?", project_id)
        .set("encryption_key_id = ?", encryption_key_id);
    if !change.apply(&mut tx).await?.is_done() {
        return Err(Error::invalid_volume(format!(
            "Transfer {id}: Volume id {} expected in awaiting-transfer state.",
            volume.id
        )));
    }
    for snapshot in &moved {
        let change = Change::snapshot(snapshot.id).when(&[status::AVAILABLE]);
        let change = change
            .set("user_id = ?", user_id)
            .set("project_id = ?", project_id);
        if !change.apply(&mut tx).await?.is_done() {
            return Err(Error::invalid_snapshot(format!(
                "Transfer {id}: Snapshot {} is not in the expected available state.",
                snapshot.id
            )));
        }
    }
    if !transfers::end(&mut tx, transfer.id, Some(project_id)).await? {
        return Err(not_found(id));
    }
    notices
        .volume(&mut tx, volume.id, "transfer.accept.end", context)
        .await?;
    Ok(tx.commit().await?)
}

/// Checks that the project has room for the volume and its snapshots, also of their types.
async fn check_quota(
    service: &VolumeService,
    tx: &mut Tx,
    project_id: &str,
    volume: &Volume,
    moved: &[snapshots::Snapshot],
) -> Result<()> {
    let types = volume_types::all(&mut *tx).await?;
    let of = |id: Uuid| {
        types
            .get(&id)
            .ok_or_else(|| Error::no_such("Volume type", id))
    };
    let mut additions = Additions::default();
    additions.volume(of(volume.volume_type_id)?, volume.size_gib);
    for snapshot in moved {
        additions.snapshot(of(snapshot.volume_type_id)?, snapshot.size_gib);
    }
    quota::check_additions(&service.options, tx, project_id, &additions).await
}

fn random_hex<const BYTES: usize>() -> Result<String> {
    let mut bytes = [0u8; BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|_| Error::Unavailable("The system has no random numbers.".to_owned()))?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn keyed(salt: &str, key: &str) -> Result<Hmac<Sha256>> {
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(salt.as_bytes());
    let mut mac = mac.map_err(|_| Error::Invalid("Invalid auth key".to_owned()))?;
    mac.update(key.as_bytes());
    Ok(mac)
}

fn hash(salt: &str, key: &str) -> Result<String> {
    Ok(hex(&keyed(salt, key)?.finalize().into_bytes()))
}

/// Compares in constant time.
fn key_fits(transfer: &Transfer, key: &str) -> bool {
    let stored: Option<Vec<u8>> = (0..transfer.key_hash.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(transfer.key_hash.get(at..at + 2)?, 16).ok())
        .collect();
    match (stored, keyed(&transfer.salt, key)) {
        (Some(stored), Ok(mac)) => mac.verify_slice(&stored).is_ok(),
        _ => false,
    }
}

//! Images that are snapshots of servers' disks, and which backups of a server are too many.

use database::{Result, Tx, now_us, params};
use uuid::Uuid;

use super::images::bytes_column;

/// saving → active for data whose hashes nobody has computed. `false`: the image was deleted, or
/// belongs to another upload.
pub async fn activate(tx: &mut Tx, id: Uuid, upload_id: Uuid, size_bytes: u64) -> Result<bool> {
    let sql = "UPDATE images SET status = 'active', upload_id = NULL, size_bytes = ?, \
        virtual_size_bytes = ?, updated_at = ? \
        WHERE id = ? AND status = 'saving' AND upload_id = ? AND deleted_at IS NULL";
    let size = bytes_column(Some(size_bytes));
    let activated = tx
        .execute(sql, params![size, size, now_us(), id, upload_id])
        .await?;
    Ok(activated == 1)
}

/// The backups (`image_type` backup) of the same owner, `instance_uuid` and `backup_type` as the
/// image, without the newest `keep`; none where the image is no backup.
pub async fn backups_beyond(tx: &mut Tx, id: Uuid, keep: u32) -> Result<Vec<Uuid>> {
    let sql = "SELECT b.id FROM images a \
        JOIN images b ON b.owner = a.owner AND b.deleted_at IS NULL AND b.status = 'active' \
        JOIN image_properties at ON at.image_id = a.id AND at.name = 'image_type' AND at.value = 'backup' \
        JOIN image_properties ai ON ai.image_id = a.id AND ai.name = 'instance_uuid' \
        JOIN image_properties ak ON ak.image_id = a.id AND ak.name = 'backup_type' \
        JOIN image_properties bt ON bt.image_id = b.id AND bt.name = 'image_type' AND bt.value = at.value \
        JOIN image_properties bi ON bi.image_id = b.id AND bi.name = 'instance_uuid' AND bi.value = ai.value \
        JOIN image_properties bk ON bk.image_id = b.id AND bk.name = 'backup_type' AND bk.value = ak.value \
        WHERE a.id = ? ORDER BY b.created_at DESC, b.id DESC";
    let rows = tx.fetch_all(sql, params![id]).await?;
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    rows.iter().skip(keep).map(|row| row.get("id")).collect()
}

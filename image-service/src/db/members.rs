//! The table `image_members`: the projects that a shared image is shared with.

use database::{Database, Result, Row, Tx, now_us, params};
use uuid::Uuid;

use crate::image::{Member, MemberStatus};

const COLUMNS: &str = "image_id, member, status, created_at, updated_at";

fn from_row(row: &Row) -> Result<Member> {
    let status: String = row.get("status")?;
    let unknown = || database::Error::Decode {
        column: "status".to_owned(),
        reason: format!("{status:?} is unknown"),
    };
    Ok(Member {
        image_id: row.get("image_id")?,
        member_id: row.get("member")?,
        status: MemberStatus::parse(&status).ok_or_else(unknown)?,
        created_at_us: row.get("created_at")?,
        updated_at_us: row.get("updated_at")?,
    })
}

/// The members of the image, oldest first.
pub async fn of_image(database: &Database, image_id: Uuid) -> Result<Vec<Member>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM image_members WHERE image_id = ? ORDER BY created_at, member"
    );
    database
        .fetch_all(&sql, params![image_id])
        .await?
        .iter()
        .map(from_row)
        .collect()
}

pub async fn find(database: &Database, image_id: Uuid, member: &str) -> Result<Option<Member>> {
    let sql = format!("SELECT {COLUMNS} FROM image_members WHERE image_id = ? AND member = ?");
    database
        .fetch_optional(&sql, params![image_id, member])
        .await?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// As [`find`], in this transaction.
pub async fn find_in(tx: &mut Tx, image_id: Uuid, member: &str) -> Result<Option<Member>> {
    let sql = format!("SELECT {COLUMNS} FROM image_members WHERE image_id = ? AND member = ?");
    let row = tx.fetch_optional(&sql, params![image_id, member]).await?;
    row.as_ref().map(from_row).transpose()
}

pub async fn count(tx: &mut Tx, image_id: Uuid) -> Result<u64> {
    let sql = "SELECT COUNT(*) AS n FROM image_members WHERE image_id = ?";
    tx.fetch_one(sql, params![image_id]).await?.get("n")
}

/// A member that has not answered yet. [`database::Error::Constraint`]: it is one already.
pub async fn insert(tx: &mut Tx, image_id: Uuid, member: &str) -> Result<Member> {
    let now = now_us();
    let status = MemberStatus::Pending;
    let sql = "INSERT INTO image_members (image_id, member, status, created_at, updated_at) VALUES (?, ?, ?, ?, ?)";
    tx.execute(sql, params![image_id, member, status.as_str(), now, now])
        .await?;
    let member_id = member.to_owned();
    Ok(Member {
        image_id,
        member_id,
        status,
        created_at_us: now,
        updated_at_us: now,
    })
}

/// `false`: there is no such member.
pub async fn set_status(
    tx: &mut Tx,
    image_id: Uuid,
    member: &str,
    status: MemberStatus,
) -> Result<bool> {
    let sql =
        "UPDATE image_members SET status = ?, updated_at = ? WHERE image_id = ? AND member = ?";
    Ok(tx
        .execute(sql, params![status.as_str(), now_us(), image_id, member])
        .await?
        == 1)
}

/// `false`: there is no such member.
pub async fn delete(tx: &mut Tx, image_id: Uuid, member: &str) -> Result<bool> {
    let sql = "DELETE FROM image_members WHERE image_id = ? AND member = ?";
    Ok(tx.execute(sql, params![image_id, member]).await? == 1)
}

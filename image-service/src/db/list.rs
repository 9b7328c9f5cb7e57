//! Lists of images: who sees what, in one statement with filters, order and keyset paging.

use database::{Database, Result, Value, params};
use rest::list_query::{Clause, Column, Columns, Order, Select};
use uuid::Uuid;

use super::{images, properties};
use crate::image::{Image, MemberStatus, Visibility};

/// What a list may be sorted by; the id makes every order total.
pub const SORT_COLUMNS: Columns = Columns {
    columns: &[
        Column::text("name", "i.name").nullable(),
        Column::text("status", "i.status"),
        Column::text("container_format", "i.container_format").nullable(),
        Column::text("disk_format", "i.disk_format").nullable(),
        Column::int("size", "i.size_bytes").nullable(),
        Column::int("created_at", "i.created_at"),
        Column::int("updated_at", "i.updated_at"),
    ],
    id: Column::text("id", "i.id"),
};

/// Whose list it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Viewer {
    pub is_admin: bool,
    pub project_id: Option<String>,
}

/// The `visibility` parameter. `Default` leaves out other projects' community images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisibilityFilter {
    Default,
    All,
    Only(Visibility),
}

/// A list request, parsed.
#[derive(Debug, Clone)]
pub struct ListQuery {
    pub viewer: Viewer,
    pub visibility: VisibilityFilter,
    /// Which shared images of others count as seen; `None`: whatever the member answered.
    pub member_status: Option<MemberStatus>,
    pub conditions: Vec<Clause>,
    pub order: Order,
    /// The last image of the page before.
    pub marker: Option<Box<Image>>,
    pub limit: u32,
}

/// One page of images with their properties and tags.
pub async fn page(database: &Database, query: ListQuery) -> Result<Vec<Image>> {
    let marker = query
        .marker
        .as_deref()
        .map(|marker| marker_values(&query.order, marker));
    let mut select = Select::new(images::COLUMNS, "images i")
        .filter(Clause::is_null("i.deleted_at"))
        .filters(scope(&query.viewer, query.member_status))
        .filters(visibility(&query.viewer, query.visibility))
        .filters(query.conditions)
        .order(query.order)
        .limit(query.limit, 0);
    if let Some(marker) = marker {
        select = select.after(marker);
    }
    let (sql, params) = select.build();
    let rows = database.fetch_all(&sql, &params).await?;
    let mut images = rows
        .iter()
        .map(images::from_row)
        .collect::<Result<Vec<Image>>>()?;
    properties::load(database, &mut images).await?;
    Ok(images)
}

/// The marker's place in the order.
fn marker_values(order: &Order, image: &Image) -> Vec<Value> {
    let value = |column: Column| match column.key {
        "name" => Value::from(&image.name),
        "status" => Value::from(image.status.as_str()),
        "container_format" => Value::from(&image.container_format),
        "disk_format" => Value::from(&image.disk_format),
        "size" => Value::from(images::bytes_column(image.size_bytes)),
        "created_at" => Value::from(image.created_at_us),
        "updated_at" => Value::from(image.updated_at_us),
        _ => Value::from(image.id),
    };
    order.marker_columns().map(value).collect()
}

/// What the viewer may see: an admin everything, others public and community images, their own,
/// and those shared with them.
fn scope(viewer: &Viewer, member_status: Option<MemberStatus>) -> Option<Clause> {
    if viewer.is_admin {
        return None;
    }
    let mut seen = vec![Clause::raw(
        "i.visibility IN ('public', 'community')",
        Vec::new(),
    )];
    if let Some(project) = &viewer.project_id {
        seen.push(Clause::equal("i.owner", project));
        seen.push(match member_status {
            None => Clause::raw(
                "i.visibility = 'shared' AND EXISTS (SELECT 1 FROM image_members m \
                 WHERE m.image_id = i.id AND m.member = ?)",
                vec![project.into()],
            ),
            Some(status) => Clause::raw(
                "i.visibility = 'shared' AND EXISTS (SELECT 1 FROM image_members m \
                 WHERE m.image_id = i.id AND m.member = ? AND m.status = ?)",
                vec![project.into(), status.as_str().into()],
            ),
        });
    }
    Some(Clause::any(seen))
}

fn visibility(viewer: &Viewer, filter: VisibilityFilter) -> Option<Clause> {
    match filter {
        VisibilityFilter::All => None,
        VisibilityFilter::Only(visibility) => {
            Some(Clause::equal("i.visibility", visibility.as_str()))
        }
        VisibilityFilter::Default => {
            let mut seen = vec![Clause::raw("i.visibility <> 'community'", Vec::new())];
            seen.extend(
                viewer
                    .project_id
                    .as_ref()
                    .map(|project| Clause::equal("i.owner", project)),
            );
            Some(Clause::any(seen))
        }
    }
}

/// The image has the tag.
pub fn has_tag(tag: String) -> Clause {
    let sql = "EXISTS (SELECT 1 FROM image_tags t WHERE t.image_id = i.id AND t.tag = ?)";
    Clause::raw(sql, vec![tag.into()])
}

/// The image has the custom property with this value.
pub fn has_property(name: String, value: String) -> Clause {
    let sql = "EXISTS (SELECT 1 FROM image_properties p \
        WHERE p.image_id = i.id AND p.name = ? AND p.value = ?)";
    Clause::raw(sql, vec![name.into(), value.into()])
}

/// Whether a project is a member of the image, whatever it answered.
pub async fn is_member(database: &Database, image_id: Uuid, project_id: &str) -> Result<bool> {
    let sql = "SELECT image_id FROM image_members WHERE image_id = ? AND member = ?";
    Ok(database
        .fetch_optional(sql, params![image_id, project_id])
        .await?
        .is_some())
}

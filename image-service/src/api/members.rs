//! Members: the projects that a shared image is shared with.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use rest::RequestContext;
use rest::body::AnyJsonBody;
use serde_json::Value;

use super::access::Visible;
use super::{Service, access, attributes};
use crate::ImageService;
use crate::db::members;
use crate::error::{Error, Result};
use crate::image::{Member, MemberStatus, NAME_CHARS_MAX, Visibility};
use crate::views::{MemberView, MembersView};

const ONLY_SHARED: &str = "Only shared images have members.";

/// A shared image that the caller may do `rule` to.
async fn shared_image(
    service: &ImageService,
    context: &RequestContext,
    id: &str,
    rule: &str,
) -> Result<Visible> {
    let visible = access::find_for(service, context, id, rule).await?;
    if visible.image.visibility != Visibility::Shared {
        return Err(Error::Forbidden(ONLY_SHARED.to_owned()));
    }
    Ok(visible)
}

fn sees_all(visible: &Visible, context: &RequestContext) -> bool {
    context.is_admin || visible.is_own(context)
}

fn no_member(visible: &Visible, member_id: &str) -> Error {
    Error::NotFound(format!(
        "{member_id} not found in the member list of the image {}.",
        visible.image.id
    ))
}

/// The owner sees every member, a member only itself.
pub async fn list(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
) -> Result<Json<MembersView>> {
    let visible = shared_image(&service, &context, &id, "get_members").await?;
    let found = members::of_image(&service.database, visible.image.id).await?;
    let all = sees_all(&visible, &context);
    let mine = |member: &Member| all || member.member_id == context.project();
    let members = found
        .into_iter()
        .filter(mine)
        .map(MemberView::from)
        .collect();
    Ok(Json(MembersView {
        members,
        schema: "/v2/schemas/members",
    }))
}

pub async fn show(
    State(service): Service,
    context: RequestContext,
    Path((id, member_id)): Path<(String, String)>,
) -> Result<Json<MemberView>> {
    let visible = access::find_for(&service, &context, &id, "get_members").await?;
    if visible.image.visibility != Visibility::Shared {
        return Err(Error::NotFound(ONLY_SHARED.to_owned()));
    }
    if !sees_all(&visible, &context) && member_id != context.project() {
        return Err(no_member(&visible, &member_id));
    }
    let member = members::find(&service.database, visible.image.id, &member_id).await?;
    Ok(Json(
        member
            .ok_or_else(|| no_member(&visible, &member_id))?
            .into(),
    ))
}

/// The one text member of the body.
fn text_of<'a>(body: Option<&'a Value>, name: &str) -> Result<&'a str> {
    let text = body.and_then(|body| body.get(name)).and_then(Value::as_str);
    let missing = || {
        Error::BadRequest(format!(
            "Expected a body with a text '{name}': {{\"{name}\": \"…\"}}"
        ))
    };
    text.filter(|text| !text.is_empty()).ok_or_else(missing)
}

pub async fn create(
    State(service): Service,
    context: RequestContext,
    Path(id): Path<String>,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<Json<MemberView>> {
    let member_id = text_of(body.as_ref(), "member")?;
    attributes::check_text("member", member_id, NAME_CHARS_MAX)?;
    let visible = shared_image(&service, &context, &id, "add_member").await?;
    let mut tx = service.database.begin().await?;
    let before = members::count(&mut tx, visible.image.id).await?;
    let after = before.saturating_add(1);
    attributes::check_quota("members", before, after, service.options.image_member_quota)?;
    let member = match members::insert(&mut tx, visible.image.id, member_id).await {
        Ok(member) => member,
        Err(database::Error::Constraint(_)) => {
            let id = visible.image.id;
            return Err(Error::Conflict(format!(
                "Member {member_id} is duplicated for image {id}"
            )));
        }
        Err(error) => return Err(error.into()),
    };
    let notices = &service.notices;
    notices.member(&mut tx, &member, "create", &context).await?;
    tx.commit().await?;
    Ok(Json(member.into()))
}

/// Only the member itself answers (or an admin for it), not the owner.
pub async fn update(
    State(service): Service,
    context: RequestContext,
    Path((id, member_id)): Path<(String, String)>,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<Json<MemberView>> {
    let word = text_of(body.as_ref(), "status")?;
    let unknown = || {
        let known = MemberStatus::WORDS.join(", ");
        Error::BadRequest(format!(
            "Invalid member status '{word}': it must be one of {known}"
        ))
    };
    let status = MemberStatus::parse(word).ok_or_else(unknown)?;
    let visible = shared_image(&service, &context, &id, "modify_member").await?;
    if !context.is_admin && member_id != context.project() {
        // Members do not know of each other.
        return Err(match visible.is_own(&context) {
            true => access::not_authorized("modify_member"),
            false => no_member(&visible, &member_id),
        });
    }
    let mut tx = service.database.begin().await?;
    if !members::set_status(&mut tx, visible.image.id, &member_id, status).await? {
        return Err(no_member(&visible, &member_id));
    }
    let member = members::find_in(&mut tx, visible.image.id, &member_id).await?;
    let member = member.ok_or_else(|| no_member(&visible, &member_id))?;
    let notices = &service.notices;
    notices.member(&mut tx, &member, "update", &context).await?;
    tx.commit().await?;
    Ok(Json(member.into()))
}

pub async fn delete(
    State(service): Service,
    context: RequestContext,
    Path((id, member_id)): Path<(String, String)>,
) -> Result<StatusCode> {
    let visible = shared_image(&service, &context, &id, "delete_member").await?;
    let mut tx = service.database.begin().await?;
    let member = members::find_in(&mut tx, visible.image.id, &member_id).await?;
    let member = member.ok_or_else(|| no_member(&visible, &member_id))?;
    members::delete(&mut tx, visible.image.id, &member_id).await?;
    let notices = &service.notices;
    notices.member(&mut tx, &member, "delete", &context).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

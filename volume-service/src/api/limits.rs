//! `GET limits`.

use axum::Json;
use rest::QueryParams;

use super::Answer;
use super::call::Call;
use super::views::quotas::LimitsBody;
use crate::domain::limits as domain;

/// `GET limits?project_id=` (the parameter since 3.39, for admins)
pub(super) async fn index(call: Call, query: QueryParams) -> Answer<Json<LimitsBody>> {
    let other = query.get("project_id").or(query.get("tenant_id"));
    let other = other.filter(|_| call.at_least(39) && call.context.is_admin);
    let project_id = other.unwrap_or(call.context.project());
    let with_usage = call.allows_own("limits_extension:used_limits");
    let set = domain::of_project(&call.service, project_id).await?;
    Ok(Json(LimitsBody::new(&set, with_usage)))
}

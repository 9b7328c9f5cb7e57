//! The dev identity's own REST service, for port 5000: log-in, the catalog, and read-only views
//! of users, projects and roles.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::VARY;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::directory::derived_id;
use super::{DOMAIN_ID, DevIdentity, Session, views};
use crate::body::AnyJsonBody;
use crate::frame::{self, FrameOptions};
use crate::identity::KeystoneError;
use crate::{BaseUrl, ErrorShape, QueryParams};

type Shared = State<Arc<DevIdentity>>;
type Answer = Result<Response, KeystoneError>;

const SUBJECT_TOKEN: HeaderName = HeaderName::from_static("x-subject-token");

/// The whole service, in its frame.
pub fn router(identity: Arc<DevIdentity>) -> Router {
    let router = Router::new()
        .route("/", get(versions))
        .route("/v3", get(version))
        .route("/v3/", get(version))
        .route(
            "/v3/auth/tokens",
            get(show_token).post(issue_token).delete(revoke_token),
        )
        .route("/v3/auth/catalog", get(show_catalog))
        .route("/v3/auth/projects", get(own_projects))
        .route("/v3/auth/domains", get(no_domains))
        .route("/v3/auth/system", get(own_system))
        .route("/v3/users/{id}/projects", get(user_projects))
        .route("/v3/role_assignments", get(role_assignments))
        .route("/v3/{collection}", get(list))
        .route("/v3/{collection}/{id}", get(show))
        .with_state(identity);
    frame::apply(router, FrameOptions::new(ErrorShape::Identity))
}

async fn versions(base: BaseUrl) -> Response {
    let body = json!({ "versions": { "values": [views::version(&base)] } });
    (StatusCode::MULTIPLE_CHOICES, axum::Json(body)).into_response()
}

async fn version(base: BaseUrl) -> Response {
    axum::Json(json!({ "version": views::version(&base) })).into_response()
}

fn answer(body: Value) -> Response {
    let mut response = axum::Json(body).into_response();
    response
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("X-Auth-Token"));
    response
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// Who asks.
fn caller<'a>(
    identity: &'a DevIdentity,
    headers: &HeaderMap,
) -> Result<Session<'a>, KeystoneError> {
    identity
        .read(header(headers, "x-auth-token"))
        .ok_or_else(KeystoneError::unauthorized)
}

async fn issue_token(State(identity): Shared, query: QueryParams, body: AnyJsonBody) -> Answer {
    let body = body
        .0
        .ok_or_else(|| KeystoneError::bad_request("'auth' is a required property"))?;
    let claims = identity.log_in(&body)?;
    let token = identity.signer.sign(&claims);
    let session = identity
        .session(claims)
        .ok_or_else(KeystoneError::unauthorized)?;
    let mut response = answer(views::token(
        &session,
        &identity.directory,
        !query.contains("nocatalog"),
    ));
    *response.status_mut() = StatusCode::CREATED;
    if let Ok(value) = HeaderValue::from_str(&token) {
        response.headers_mut().insert(SUBJECT_TOKEN, value);
    }
    Ok(response)
}

/// The token of `X-Subject-Token`, if the caller may look at it: its own, or anyone's for an
/// admin and for a service.
fn subject<'a>(
    identity: &'a DevIdentity,
    headers: &HeaderMap,
    rule: &str,
) -> Result<Session<'a>, KeystoneError> {
    let caller = caller(identity, headers)?;
    let subject = identity
        .read(header(headers, "x-subject-token"))
        .ok_or_else(|| KeystoneError::new(StatusCode::NOT_FOUND, "Failed to validate token"))?;
    let own = subject.user.id == caller.user.id;
    if own || caller.has_role("admin") || caller.has_role("service") {
        return Ok(subject);
    }
    Err(KeystoneError::forbidden(rule))
}

async fn show_token(State(identity): Shared, query: QueryParams, headers: HeaderMap) -> Answer {
    let subject = subject(&identity, &headers, "identity:validate_token")?;
    let body = views::token(&subject, &identity.directory, !query.contains("nocatalog"));
    let mut response = answer(body);
    if let Some(token) = headers.get(SUBJECT_TOKEN) {
        response.headers_mut().insert(SUBJECT_TOKEN, token.clone());
    }
    Ok(response)
}

async fn revoke_token(State(identity): Shared, headers: HeaderMap) -> Answer {
    let subject = subject(&identity, &headers, "identity:revoke_token")?;
    let claims = &subject.claims;
    identity
        .revocations
        .add(claims.audit_id(), claims.expires_at_us, database::now_us());
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn show_catalog(State(identity): Shared, base: BaseUrl, headers: HeaderMap) -> Answer {
    let caller = caller(&identity, &headers)?;
    if caller.project.is_none() && !caller.claims.system {
        return Err(KeystoneError::forbidden("identity:get_auth_catalog"));
    }
    let catalog = views::catalog(&identity.directory, caller.project);
    let links = json!({ "self": base.join("/v3/auth/catalog") });
    Ok(answer(json!({ "catalog": catalog, "links": links })))
}

fn projects_of(identity: &DevIdentity, user_id: &str, base: &BaseUrl) -> Vec<Value> {
    let grants = identity
        .directory
        .user(user_id)
        .into_iter()
        .flat_map(|user| user.grants.keys());
    let projects = grants.filter_map(|id| identity.directory.project(id));
    projects
        .map(|project| views::project(project, base))
        .collect()
}

async fn own_projects(State(identity): Shared, base: BaseUrl, headers: HeaderMap) -> Answer {
    let caller = caller(&identity, &headers)?;
    let projects = projects_of(&identity, &caller.user.id, &base);
    Ok(answer(views::list(
        "projects",
        "/v3/auth/projects",
        projects,
        &base,
    )))
}

async fn no_domains(State(identity): Shared, base: BaseUrl, headers: HeaderMap) -> Answer {
    caller(&identity, &headers)?;
    Ok(answer(views::list(
        "domains",
        "/v3/auth/domains",
        Vec::new(),
        &base,
    )))
}

async fn own_system(State(identity): Shared, base: BaseUrl, headers: HeaderMap) -> Answer {
    let caller = caller(&identity, &headers)?;
    let all = if caller.user.system_roles.is_empty() {
        Vec::new()
    } else {
        vec![json!({ "all": true })]
    };
    Ok(answer(views::list("system", "/v3/auth/system", all, &base)))
}

async fn user_projects(
    State(identity): Shared,
    Path(id): Path<String>,
    base: BaseUrl,
    query: QueryParams,
    headers: HeaderMap,
) -> Answer {
    let caller = caller(&identity, &headers)?;
    if caller.user.id != id && !caller.has_role("admin") {
        return Err(KeystoneError::forbidden("identity:list_user_projects"));
    }
    if identity.directory.user(&id).is_none() {
        return Err(KeystoneError::not_found("user", &id));
    }
    let projects = matching(projects_of(&identity, &id, &base), &query);
    Ok(answer(views::list(
        "projects",
        &format!("/v3/users/{id}/projects"),
        projects,
        &base,
    )))
}

/// Entities that have every value the query asks for; what they have no field for is ignored.
fn matching(entities: Vec<Value>, query: &QueryParams) -> Vec<Value> {
    let fits = |entity: &Value| {
        query.iter().all(|(key, wanted)| match entity.get(key) {
            Some(Value::String(held)) if key == "name" => held.eq_ignore_ascii_case(wanted),
            Some(Value::String(held)) => held == wanted,
            Some(Value::Bool(held)) => {
                crate::filter::parse_bool(wanted).is_none_or(|flag| flag == *held)
            }
            Some(_) | None => true,
        })
    };
    entities.into_iter().filter(fits).collect()
}

/// A read-only collection: its name, the name of one, and all of them.
struct Collection {
    one: &'static str,
    all: Vec<Value>,
}

fn collection(identity: &DevIdentity, name: &str, base: &BaseUrl) -> Option<Collection> {
    let directory = &identity.directory;
    let (one, all) = match name {
        "projects" => (
            "project",
            directory
                .projects()
                .map(|p| views::project(p, base))
                .collect(),
        ),
        "users" => (
            "user",
            directory.users().map(|u| views::user(u, base)).collect(),
        ),
        "roles" => (
            "role",
            directory.roles().map(|r| views::role(r, base)).collect(),
        ),
        "domains" => ("domain", vec![views::domain(base)]),
        "services" => (
            "service",
            directory
                .services
                .iter()
                .map(|s| views::service(s, base))
                .collect(),
        ),
        "endpoints" => ("endpoint", views::endpoints(directory, base)),
        "regions" => ("region", vec![views::region(&directory.region, base)]),
        "groups" => ("group", Vec::new()),
        _ => return None,
    };
    Some(Collection { one, all })
}

fn no_such_route() -> KeystoneError {
    KeystoneError::new(StatusCode::NOT_FOUND, "The resource could not be found.")
}

/// What everyone may list: regions. The rest is for admins.
async fn list(
    State(identity): Shared,
    Path(name): Path<String>,
    base: BaseUrl,
    query: QueryParams,
    headers: HeaderMap,
) -> Answer {
    let caller = caller(&identity, &headers)?;
    let collection = collection(&identity, &name, &base).ok_or_else(no_such_route)?;
    if name != "regions" && !caller.has_role("admin") {
        return Err(KeystoneError::forbidden(&format!("identity:list_{name}")));
    }
    let found = matching(collection.all, &query);
    Ok(answer(views::list(
        &name,
        &format!("/v3/{name}"),
        found,
        &base,
    )))
}

/// Besides admins: users see themselves, their own project, the domain, roles and regions.
async fn show(
    State(identity): Shared,
    Path((name, id)): Path<(String, String)>,
    base: BaseUrl,
    headers: HeaderMap,
) -> Answer {
    let caller = caller(&identity, &headers)?;
    let collection = collection(&identity, &name, &base).ok_or_else(no_such_route)?;
    let own = match name.as_str() {
        "users" => id == caller.user.id,
        "projects" => caller.user.grants.contains_key(&id),
        "domains" => id == DOMAIN_ID,
        "regions" => true,
        _ => false,
    };
    if !own && !caller.has_role("admin") {
        return Err(KeystoneError::forbidden(&format!(
            "identity:get_{}",
            collection.one
        )));
    }
    let found = collection
        .all
        .into_iter()
        .find(|entity| entity["id"] == id.as_str());
    let found = found.ok_or_else(|| KeystoneError::not_found(collection.one, &id))?;
    Ok(answer(json!({ collection.one: found })))
}

/// All grants, implied roles included. Filters: `user.id`, `role.id`, `scope.project.id`,
/// `scope.system`. Admins see all, users their own.
async fn role_assignments(
    State(identity): Shared,
    base: BaseUrl,
    query: QueryParams,
    headers: HeaderMap,
) -> Answer {
    let caller = caller(&identity, &headers)?;
    if !caller.has_role("admin") && query.get("user.id") != Some(&caller.user.id) {
        return Err(KeystoneError::forbidden("identity:list_role_assignments"));
    }
    let wanted = |key: &str, held: &str| query.get(key).is_none_or(|wanted| wanted == held);
    let with_names = query.contains("include_names");
    let directory = &identity.directory;
    let mut found = Vec::new();
    for user in directory.users().filter(|user| wanted("user.id", &user.id)) {
        let of_projects = user
            .grants
            .iter()
            .filter(|(id, _)| wanted("scope.project.id", id) && !query.contains("scope.system"));
        let of_projects = of_projects.map(|(id, roles)| (directory.project(id), roles));
        let of_system = (!query.contains("scope.project.id")).then_some((None, &user.system_roles));
        for (project, roles) in of_projects.chain(of_system) {
            let roles = roles
                .iter()
                .filter(|role| wanted("role.id", &derived_id("role", role)));
            found.extend(
                roles.map(|role| views::assignment(user, role, project, with_names, &base)),
            );
        }
    }
    Ok(answer(views::list(
        "role_assignments",
        "/v3/role_assignments",
        found,
        &base,
    )))
}

//! The bodies of the dev identity's answers (Keystone API ref v3).

use serde_json::{Value, json};

use super::directory::{Directory, Project, Role, Service, User, derived_id};
use super::{DOMAIN_ID, DOMAIN_NAME, Session};
use crate::BaseUrl;
use crate::time::format_micros_z;

const INTERFACES: [&str; 3] = ["admin", "internal", "public"];

pub(super) fn version(base: &BaseUrl) -> Value {
    json!({
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{ "rel": "self", "href": base.join("/v3/") }],
        "media-types": [{
            "base": "application/json",
            "type": "application/vnd.openstack.identity-v3+json",
        }],
    })
}

fn domain_of_all() -> Value {
    json!({ "id": DOMAIN_ID, "name": DOMAIN_NAME })
}

/// `{"token": {…}}`.
pub(super) fn token(session: &Session<'_>, directory: &Directory, with_catalog: bool) -> Value {
    let claims = &session.claims;
    let mut token = json!({
        "methods": claims.methods,
        "user": {
            "id": session.user.id,
            "name": session.user.name,
            "domain": domain_of_all(),
            "password_expires_at": null,
        },
        "audit_ids": claims.audit_ids,
        "issued_at": format_micros_z(claims.issued_at_us),
        "expires_at": format_micros_z(claims.expires_at_us),
    });
    if let Some(project) = session.project {
        token["project"] =
            json!({ "id": project.id, "name": project.name, "domain": domain_of_all() });
        token["is_domain"] = json!(false);
    }
    if claims.system {
        token["system"] = json!({ "all": true });
    }
    if session.project.is_some() || claims.system {
        let roles = session
            .roles
            .iter()
            .map(|name| json!({ "id": derived_id("role", name), "name": name }));
        token["roles"] = roles.collect();
        if with_catalog {
            token["catalog"] = catalog(directory, session.project);
        }
    }
    json!({ "token": token })
}

/// Keystone leaves out endpoints whose address needs a project that the token has not.
pub(super) fn catalog(directory: &Directory, project: Option<&Project>) -> Value {
    let services = directory.services.iter().map(|service| {
        let url = match project {
            Some(project) => Some(service.entry.url.replace("$(project_id)s", &project.id)),
            None => Some(service.entry.url.clone()).filter(|url| !url.contains("$(project_id)s")),
        };
        let endpoints = url.iter().flat_map(|url| {
            INTERFACES.iter().map(move |interface| {
                json!({
                    "id": endpoint_id(service, interface),
                    "interface": interface,
                    "region": directory.region,
                    "region_id": directory.region,
                    "url": url,
                })
            })
        });
        json!({
            "id": service.id,
            "type": service.entry.kind,
            "name": service.entry.name,
            "endpoints": endpoints.collect::<Value>(),
        })
    });
    services.collect()
}

fn endpoint_id(service: &Service, interface: &str) -> String {
    derived_id("endpoint", &format!("{} {interface}", service.entry.kind))
}

pub(super) fn endpoints(directory: &Directory, base: &BaseUrl) -> Vec<Value> {
    let of = |service: &Service| {
        INTERFACES.map(|interface| {
            let id = endpoint_id(service, interface);
            json!({
                "links": { "self": base.join(&format!("/v3/endpoints/{id}")) },
                "id": id,
                "interface": interface,
                "region": directory.region,
                "region_id": directory.region,
                "service_id": service.id,
                "url": service.entry.url,
                "enabled": true,
            })
        })
    };
    directory.services.iter().flat_map(of).collect()
}

pub(super) fn service(service: &Service, base: &BaseUrl) -> Value {
    json!({
        "id": service.id,
        "type": service.entry.kind,
        "name": service.entry.name,
        "enabled": true,
        "links": { "self": base.join(&format!("/v3/services/{}", service.id)) },
    })
}

pub(super) fn project(project: &Project, base: &BaseUrl) -> Value {
    json!({
        "id": project.id,
        "name": project.name,
        "description": "",
        "domain_id": DOMAIN_ID,
        "parent_id": DOMAIN_ID,
        "enabled": true,
        "is_domain": false,
        "tags": [],
        "options": {},
        "links": { "self": base.join(&format!("/v3/projects/{}", project.id)) },
    })
}

pub(super) fn user(user: &User, base: &BaseUrl) -> Value {
    json!({
        "id": user.id,
        "name": user.name,
        "domain_id": DOMAIN_ID,
        "enabled": true,
        "password_expires_at": null,
        "options": {},
        "links": { "self": base.join(&format!("/v3/users/{}", user.id)) },
    })
}

pub(super) fn role(role: &Role, base: &BaseUrl) -> Value {
    json!({
        "id": role.id,
        "name": role.name,
        "domain_id": null,
        "description": null,
        "options": {},
        "links": { "self": base.join(&format!("/v3/roles/{}", role.id)) },
    })
}

pub(super) fn domain(base: &BaseUrl) -> Value {
    json!({
        "id": DOMAIN_ID,
        "name": DOMAIN_NAME,
        "description": "The default domain",
        "enabled": true,
        "tags": [],
        "options": {},
        "links": { "self": base.join(&format!("/v3/domains/{DOMAIN_ID}")) },
    })
}

pub(super) fn region(region: &str, base: &BaseUrl) -> Value {
    json!({
        "id": region,
        "description": "",
        "parent_region_id": null,
        "links": { "self": base.join(&format!("/v3/regions/{region}")) },
    })
}

/// One grant of one role. `project`: `None` for the system.
pub(super) fn assignment(
    user: &User,
    role: &str,
    project: Option<&Project>,
    with_names: bool,
    base: &BaseUrl,
) -> Value {
    let named = |id: &str, name: &str, in_domain: bool| {
        let mut entity = json!({ "id": id });
        if with_names {
            entity["name"] = json!(name);
            if in_domain {
                entity["domain"] = domain_of_all();
            }
        }
        entity
    };
    let role_id = derived_id("role", role);
    let (scope, path) = match project {
        Some(project) => (
            json!({ "project": named(&project.id, &project.name, true) }),
            format!(
                "/v3/projects/{}/users/{}/roles/{role_id}",
                project.id, user.id
            ),
        ),
        None => (
            json!({ "system": { "all": true } }),
            format!("/v3/system/users/{}/roles/{role_id}", user.id),
        ),
    };
    json!({
        "role": named(&role_id, role, false),
        "user": named(&user.id, &user.name, true),
        "scope": scope,
        "links": { "assignment": base.join(&path) },
    })
}

/// `{"projects": […], "links": {…}}`.
pub(super) fn list(key: &str, path: &str, items: Vec<Value>, base: &BaseUrl) -> Value {
    json!({
        key: items,
        "links": { "self": base.join(path), "next": null, "previous": null },
    })
}

//! What Keystone says of a token: the body of `GET /v3/auth/tokens`.

use serde::Deserialize;

use crate::identity::{Named, TokenInfo};
use crate::time::parse_iso8601;

#[derive(Deserialize)]
pub(super) struct Body {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    expires_at: String,
    user: Owner,
    #[serde(default)]
    project: Option<Owner>,
    #[serde(default)]
    domain: Option<Domain>,
    #[serde(default)]
    system: Option<System>,
    #[serde(default)]
    roles: Vec<Role>,
    /// Missing where the cloud has no admin project: then every project counts.
    #[serde(default)]
    is_admin_project: Option<bool>,
    #[serde(default)]
    application_credential: Option<ApplicationCredential>,
}

#[derive(Deserialize)]
struct Owner {
    id: String,
    #[serde(default)]
    name: String,
    domain: Domain,
}

#[derive(Deserialize)]
struct Domain {
    id: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct System {
    #[serde(default)]
    all: bool,
}

#[derive(Deserialize)]
struct Role {
    name: String,
}

#[derive(Deserialize)]
struct ApplicationCredential {
    #[serde(default)]
    access_rules: Option<serde_json::Value>,
}

impl Body {
    /// When the token runs out, in microseconds.
    pub fn expires_at_us(&self) -> Option<i64> {
        parse_iso8601(&self.token.expires_at)
    }

    /// `None`: it is bound to access rules, which nobody checks here, or its expiry is no time.
    pub fn into_info(self) -> Option<TokenInfo> {
        let expires_at_us = self.expires_at_us()?;
        let token = self.token;
        let credential = token.application_credential;
        if credential.is_some_and(|credential| credential.access_rules.is_some()) {
            return None;
        }
        Some(TokenInfo {
            user: token.user.into_named(),
            project: token.project.map(Owner::into_named),
            domain_id: token.domain.map(|domain| domain.id),
            is_system: token.system.is_some_and(|system| system.all),
            is_admin_project: token.is_admin_project.unwrap_or(true),
            roles: token.roles.into_iter().map(|role| role.name).collect(),
            expires_at_us,
            is_admin: false,
        })
    }
}

impl Owner {
    fn into_named(self) -> Named {
        Named {
            id: self.id,
            name: self.name,
            domain_id: self.domain.id,
            domain_name: self.domain.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn info(more: Value) -> Option<TokenInfo> {
        let mut token = json!({
            "methods": ["password"], "expires_at": "2026-01-02T03:04:05.000000Z", "audit_ids": ["x"],
            "user": { "id": "u", "name": "ann", "domain": { "id": "default", "name": "Default" } },
        });
        let (token_map, more) = (token.as_object_mut().unwrap(), more);
        token_map.extend(more.as_object().unwrap().clone());
        let body: Body = serde_json::from_value(json!({ "token": token })).unwrap();
        body.into_info()
    }

    #[test]
    fn scopes_and_roles() {
        let project = json!({
            "project": { "id": "p", "name": "demo", "domain": { "id": "default", "name": "Default" } },
            "roles": [{ "id": "1", "name": "member" }, { "id": "2", "name": "reader" }],
        });
        let project = info(project).unwrap();
        assert_eq!(project.roles, ["member", "reader"]);
        assert_eq!(project.project.as_ref().unwrap().id, "p");
        assert!(project.is_admin_project && !project.is_system && project.domain_id.is_none());
        assert_eq!(project.expires_at_us, 1_767_323_045_000_000);
        let system = info(json!({ "system": { "all": true }, "is_admin_project": false })).unwrap();
        assert!(system.is_system && !system.is_admin_project && system.project.is_none());
        let domain = info(json!({ "domain": { "id": "d", "name": "D" } })).unwrap();
        assert_eq!(domain.domain_id.as_deref(), Some("d"));
    }

    #[test]
    fn tokens_bound_to_access_rules_are_refused() {
        let bound = json!({ "application_credential": { "id": "c", "access_rules": [] } });
        assert_eq!(info(bound), None);
        assert!(info(json!({ "application_credential": { "id": "c" } })).is_some());
    }
}

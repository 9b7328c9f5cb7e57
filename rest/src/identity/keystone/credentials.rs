//! How a service logs in: keystoneauth's plugins `password` and `v3applicationcredential`.

use serde_json::{Value, json};

use crate::Secret;

/// Whom to log in as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    Password {
        user: Account,
        password: Secret,
        scope: LoginScope,
    },
    /// Its scope is in the credential.
    ApplicationCredential {
        /// The credential's id, or its name and its user.
        id: Option<String>,
        name: Option<String>,
        user: Account,
        secret: Secret,
    },
}

/// A user or a project by its id, or by its name and domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    pub id: Option<String>,
    pub name: Option<String>,
    pub domain_id: Option<String>,
    pub domain_name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginScope {
    Project(Account),
    /// A domain: only `domain_id` and `domain_name` count.
    Domain(Account),
    System,
    /// As the user's default project says.
    Unscoped,
}

impl Account {
    /// `{"id": …}`, or `{"name": …, "domain": {…}}`.
    fn to_json(&self) -> Value {
        match (&self.id, &self.name) {
            (Some(id), _) => json!({ "id": id }),
            (None, Some(name)) => json!({ "name": name, "domain": self.domain() }),
            (None, None) => json!({}),
        }
    }

    fn domain(&self) -> Value {
        match (&self.domain_id, &self.domain_name) {
            (Some(id), _) => json!({ "id": id }),
            (None, Some(name)) => json!({ "name": name }),
            // keystoneauth asks for it; a cloud without further domains has this one.
            (None, None) => json!({ "id": "default" }),
        }
    }
}

impl Credentials {
    /// The body of `POST /v3/auth/tokens`. Holds the secret: not for logs.
    pub(super) fn to_json(&self) -> Value {
        match self {
            Credentials::Password {
                user,
                password,
                scope,
            } => {
                let mut user = user.to_json();
                user["password"] = json!(password.expose());
                let methods = json!({ "methods": ["password"], "password": { "user": user } });
                match scope {
                    LoginScope::Project(project) => json!({ "auth": {
                        "identity": methods, "scope": { "project": project.to_json() },
                    } }),
                    LoginScope::Domain(domain) => json!({ "auth": {
                        "identity": methods, "scope": { "domain": domain.domain() },
                    } }),
                    LoginScope::System => json!({ "auth": {
                        "identity": methods, "scope": { "system": { "all": true } },
                    } }),
                    LoginScope::Unscoped => json!({ "auth": { "identity": methods } }),
                }
            }
            Credentials::ApplicationCredential {
                id,
                name,
                user,
                secret,
            } => {
                let mut credential = json!({ "secret": secret.expose() });
                match id {
                    Some(id) => credential["id"] = json!(id),
                    None => {
                        credential["name"] = json!(name);
                        credential["user"] = user.to_json();
                    }
                }
                let identity = json!({
                    "methods": ["application_credential"], "application_credential": credential,
                });
                json!({ "auth": { "identity": identity } })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_those_of_the_identity_api() {
        let named = |name: &str| Account {
            name: Some(name.to_owned()),
            domain_name: Some("Default".to_owned()),
            ..Account::default()
        };
        let login = Credentials::Password {
            user: named("cinder"),
            password: Secret::new("s"),
            scope: LoginScope::Project(named("service")),
        };
        let expected = json!({ "auth": {
            "identity": { "methods": ["password"], "password": { "user": {
                "name": "cinder", "domain": { "name": "Default" }, "password": "s",
            } } },
            "scope": { "project": { "name": "service", "domain": { "name": "Default" } } },
        } });
        assert_eq!(login.to_json(), expected);
        assert!(!format!("{login:?}").contains("\"s\""));
        let credential = Credentials::ApplicationCredential {
            id: Some("c".to_owned()),
            name: None,
            user: Account::default(),
            secret: Secret::new("s"),
        };
        let expected = json!({ "auth": { "identity": {
            "methods": ["application_credential"],
            "application_credential": { "id": "c", "secret": "s" },
        } } });
        assert_eq!(credential.to_json(), expected);
    }
}

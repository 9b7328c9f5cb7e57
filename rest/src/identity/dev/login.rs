//! `POST /v3/auth/tokens`: from the request's body to claims (Keystone API ref, authentication).

use http::StatusCode;
use serde_json::Value;

use super::directory::{Project, User};
use super::token::{Claims, new_audit_id};
use super::{DOMAIN_ID, DOMAIN_NAME, DevIdentity};
use crate::identity::KeystoneError;
use crate::validate::Object;

/// The longest name, id, password or token that a log-in may carry.
const MAX_CHARS: usize = 4096;

enum Scope<'a> {
    Unscoped,
    System,
    Project(&'a Project),
}

impl DevIdentity {
    /// The claims of the token that `body` asks for. Whatever is wrong with name, password or
    /// scope is the same 401.
    pub(super) fn log_in(&self, body: &Value) -> Result<Claims, KeystoneError> {
        let auth = Object::new(body)?.required_object("auth")?;
        let identity = auth.required_object("identity")?;
        let methods = identity.list("methods", 8)?.unwrap_or_default();
        let methods: Vec<&str> = methods.iter().filter_map(Value::as_str).collect();
        let (user, parent) = match methods.as_slice() {
            ["password"] => (self.by_password(identity)?, None),
            ["token"] => {
                let token = identity
                    .required_object("token")?
                    .required_string("id", 1..=MAX_CHARS)?;
                let session = self.read(token).ok_or_else(KeystoneError::unauthorized)?;
                (session.user, Some(session.claims))
            }
            _ => {
                return Err(KeystoneError::new(
                    StatusCode::UNAUTHORIZED,
                    "Attempted to authenticate with an unsupported method.",
                ));
            }
        };
        let scope = self.scope(auth)?;
        self.claims(user, &scope, parent)
    }

    fn by_password(&self, identity: Object<'_>) -> Result<&User, KeystoneError> {
        let asked = identity
            .required_object("password")?
            .required_object("user")?;
        let password = asked.required_string("password", 0..=MAX_CHARS)?;
        let user = match asked.string("id", 1..=MAX_CHARS)? {
            Some(id) => self.directory.user(id),
            None => {
                let name = asked.required_string("name", 1..=MAX_CHARS)?;
                let domain = asked.required_object("domain")?;
                is_default(domain)?
                    .then(|| self.directory.user_named(name))
                    .flatten()
            }
        };
        // An unknown user costs the same comparison as a wrong password.
        let known = user.and_then(|user| user.password.as_ref());
        let held = known.map_or("", |password| password.expose());
        let same = self.signer.same(held, password);
        user.filter(|_| same && known.is_some())
            .ok_or_else(KeystoneError::unauthorized)
    }

    fn scope(&self, auth: Object<'_>) -> Result<Scope<'_>, KeystoneError> {
        let scope = match auth.get("scope") {
            None | Some(Value::Null) => return Ok(Scope::Unscoped),
            Some(Value::String(word)) if word == "unscoped" => return Ok(Scope::Unscoped),
            Some(_) => auth.required_object("scope")?,
        };
        if scope.contains("unscoped") {
            return Ok(Scope::Unscoped);
        }
        if scope.contains("system") {
            return Ok(Scope::System);
        }
        let Some(asked) = scope.object("project")? else {
            // A domain: nobody has roles on one here.
            return Err(KeystoneError::unauthorized());
        };
        let project = match asked.string("id", 1..=MAX_CHARS)? {
            Some(id) => self.directory.project(id),
            None => {
                let name = asked.required_string("name", 1..=MAX_CHARS)?;
                let domain = asked.required_object("domain")?;
                is_default(domain)?
                    .then(|| self.directory.project_named(name))
                    .flatten()
            }
        };
        project
            .map(Scope::Project)
            .ok_or_else(KeystoneError::unauthorized)
    }

    /// A rescoped token ends when its parent does.
    fn claims(
        &self,
        user: &User,
        scope: &Scope<'_>,
        parent: Option<Claims>,
    ) -> Result<Claims, KeystoneError> {
        let permitted = match scope {
            Scope::Unscoped => true,
            Scope::System => !user.system_roles.is_empty(),
            Scope::Project(project) => user.grants.contains_key(&project.id),
        };
        if !permitted {
            return Err(KeystoneError::unauthorized());
        }
        let now_us = database::now_us();
        let mut audit_ids = vec![new_audit_id()];
        let mut methods = Vec::new();
        let mut expires_at_us = now_us.saturating_add(self.token_lifetime_us);
        match parent {
            None => methods.push("password".to_owned()),
            Some(parent) => {
                expires_at_us = parent.expires_at_us;
                audit_ids.extend(parent.audit_ids.last().cloned());
                methods.push("token".to_owned());
                methods.extend(
                    parent
                        .methods
                        .into_iter()
                        .filter(|method| method != "token"),
                );
            }
        }
        Ok(Claims {
            user_id: user.id.clone(),
            project_id: match scope {
                Scope::Project(project) => Some(project.id.clone()),
                Scope::Unscoped | Scope::System => None,
            },
            system: matches!(scope, Scope::System),
            issued_at_us: now_us,
            expires_at_us,
            audit_ids,
            methods,
        })
    }
}

/// Whether `{"id": …}` or `{"name": …}` is the one domain.
fn is_default(domain: Object<'_>) -> Result<bool, KeystoneError> {
    if let Some(id) = domain.string("id", 1..=MAX_CHARS)? {
        return Ok(id == DOMAIN_ID);
    }
    let name = domain.required_string("name", 1..=MAX_CHARS)?;
    Ok(name.eq_ignore_ascii_case(DOMAIN_NAME))
}

//! Unified limits (Identity API v3, `[oslo_limit]` of oslo.limit): what a project may use, in the
//! flat model. Nothing is remembered but which service is limited, so that a change of a limit
//! takes effect with the next request.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use tokio::sync::OnceCell;

use super::own_token::OwnToken;
use super::server::Server;
use super::{Credentials, ServerOptions};
use crate::http_client::ClientError;
use crate::identity::IdentityError;

/// Which endpoint's limits count: the one with the id, or else the only one that the rest fits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitedEndpoint {
    pub id: Option<String>,
    pub service_type: Option<String>,
    pub service_name: Option<String>,
    pub region: Option<String>,
    /// `public`, `internal` or `admin`.
    pub interface: String,
}

/// Asks Keystone for limits. Cheap to clone.
#[derive(Clone)]
pub struct UnifiedLimits(Arc<Inner>);

struct Inner {
    server: Arc<Server>,
    own: OwnToken,
    endpoint: LimitedEndpoint,
    limited: OnceCell<Limited>,
}

/// What limits are registered for.
#[derive(Clone, Deserialize)]
struct Limited {
    service_id: String,
    region_id: Option<String>,
}

#[derive(Deserialize)]
struct Endpoint {
    endpoint: Limited,
}

#[derive(Deserialize)]
struct Endpoints {
    endpoints: Vec<Limited>,
}

#[derive(Deserialize)]
struct Services {
    services: Vec<Service>,
}

#[derive(Deserialize)]
struct Service {
    id: String,
}

#[derive(Deserialize)]
struct RegisteredLimits {
    registered_limits: Vec<RegisteredLimit>,
}

#[derive(Deserialize)]
struct RegisteredLimit {
    resource_name: String,
    default_limit: i64,
}

#[derive(Deserialize)]
struct ProjectLimits {
    limits: Vec<ProjectLimit>,
}

#[derive(Deserialize)]
struct ProjectLimit {
    resource_name: String,
    resource_limit: i64,
}

impl std::fmt::Debug for UnifiedLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let endpoint = &self.0.endpoint;
        f.debug_struct("UnifiedLimits")
            .field("endpoint", endpoint)
            .finish_non_exhaustive()
    }
}

impl UnifiedLimits {
    /// Nothing is asked yet. Reads the TLS files.
    pub fn new(
        server: &ServerOptions,
        credentials: Credentials,
        endpoint: LimitedEndpoint,
    ) -> Result<Self, ClientError> {
        let server = Arc::new(Server::new(server)?);
        Ok(UnifiedLimits(Arc::new(Inner {
            own: OwnToken::new(Arc::clone(&server), credentials),
            server,
            endpoint,
            limited: OnceCell::new(),
        })))
    }

    /// The limits of this project by resource: its own, or else the registered defaults. -1 is no
    /// limit; what is not in it has none registered and may not be used at all.
    pub async fn of_project(
        &self,
        project_id: &str,
    ) -> Result<BTreeMap<String, i64>, IdentityError> {
        let Inner {
            server,
            own,
            limited,
            ..
        } = &*self.0;
        let limited = limited.get_or_try_init(|| self.0.find_limited()).await?;
        let mut query = vec![("service_id", limited.service_id.as_str())];
        query.extend(
            limited
                .region_id
                .as_deref()
                .map(|region| ("region_id", region)),
        );
        let registered = server.get(own, "/registered_limits", &query).await;
        let RegisteredLimits { registered_limits } = registered?;
        query.push(("project_id", project_id));
        let ProjectLimits { limits } = server.get(own, "/limits", &query).await?;
        let defaults = registered_limits.into_iter();
        let mut found: BTreeMap<_, _> = defaults
            .map(|limit| (limit.resource_name, limit.default_limit))
            .collect();
        for limit in limits {
            found.insert(limit.resource_name, limit.resource_limit);
        }
        Ok(found)
    }
}

impl Inner {
    async fn find_limited(&self) -> Result<Limited, IdentityError> {
        let Inner {
            server,
            own,
            endpoint,
            ..
        } = self;
        if let Some(id) = &endpoint.id {
            let found = server.get(own, &format!("/endpoints/{id}"), &[]).await;
            let Endpoint { endpoint } = found?;
            return Ok(endpoint);
        }
        let mut query = Vec::new();
        query.extend(endpoint.service_type.as_deref().map(|text| ("type", text)));
        query.extend(endpoint.service_name.as_deref().map(|text| ("name", text)));
        let Services { services } = server.get(own, "/services", &query).await?;
        let service = only(services, "services")?;
        let mut query = vec![
            ("service_id", service.id.as_str()),
            ("interface", endpoint.interface.as_str()),
        ];
        query.extend(endpoint.region.as_deref().map(|text| ("region_id", text)));
        let Endpoints { endpoints } = server.get(own, "/endpoints", &query).await?;
        only(endpoints, "endpoints")
    }
}

fn only<T>(found: Vec<T>, what: &str) -> Result<T, IdentityError> {
    let count = found.len();
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(IdentityError::Unavailable(format!(
            "{count} {what} fit what [oslo_limit] says, instead of one"
        ))),
    }
}

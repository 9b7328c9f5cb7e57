//! What every handler is given: the service, the caller, the microversion, where links point.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use rest::policy::{Denied, Target};
use rest::project_path::PathProject;
use rest::{BaseUrl, Microversion, RequestContext};
use serde::Serialize;

use crate::VolumeService;

/// One request to the service, its caller known.
pub(super) struct Call {
    pub service: Arc<VolumeService>,
    pub context: RequestContext,
    pub version: Microversion,
    pub links: Links,
}

impl Call {
    /// Whether the request's microversion is at least `3.minor`.
    pub fn at_least(&self, minor: u16) -> bool {
        self.version.at_least(3, minor)
    }

    /// [`rest::policy::Policy::enforce`] for this caller.
    pub fn enforce<'a>(&self, rule: &str, target: impl Into<Target<'a>>) -> Result<(), Denied> {
        self.service.policy.enforce(&self.context, rule, target)
    }

    /// Enforces a rule about the caller's own project.
    pub fn enforce_own(&self, rule: &str) -> Result<(), Denied> {
        self.service
            .policy
            .enforce(&self.context, rule, &self.context)
    }

    /// Whether a rule about the caller's own project admits it.
    pub fn allows_own(&self, rule: &str) -> bool {
        self.service
            .policy
            .allows(&self.context, rule, &self.context)
    }
}

impl FromRequestParts<Arc<VolumeService>> for Call {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        service: &Arc<VolumeService>,
    ) -> Result<Self, Response> {
        Ok(Call {
            service: service.clone(),
            context: RequestContext::from_request_parts(parts, service).await?,
            version: Microversion::from_request_parts(parts, service).await?,
            links: Links::from_request_parts(parts, service).await?,
        })
    }
}

/// Builds addresses as the client wrote its own: with the project where it named it.
#[derive(Debug, Clone)]
pub(super) struct Links {
    base: String,
    /// `/<project>` or nothing.
    project: String,
}

/// One entry of `links`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Link {
    rel: &'static str,
    href: String,
}

impl Links {
    /// `self` (with the version) and `bookmark` (without).
    pub fn of(&self, collection: &str, id: impl std::fmt::Display) -> [Link; 2] {
        let (base, project) = (&self.base, &self.project);
        [
            Link {
                rel: "self",
                href: format!("{base}/v3{project}/{collection}/{id}"),
            },
            Link {
                rel: "bookmark",
                href: format!("{base}{project}/{collection}/{id}"),
            },
        ]
    }

    /// The address of a list, without its query.
    pub fn collection(&self, path: &str) -> String {
        format!("{}/v3{}/{path}", self.base, self.project)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Links {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let base = BaseUrl::from_request_parts(parts, state).await;
        let base = base.map_err(IntoResponse::into_response)?;
        let project = parts
            .extensions
            .get::<PathProject>()
            .map(|PathProject(id)| format!("/{id}"));
        Ok(Links {
            base: base.0,
            project: project.unwrap_or_default(),
        })
    }
}

/// The entity tags of `If-Match`; empty without the header.
#[derive(Debug, Clone, Default)]
pub(super) struct IfMatch(Vec<String>);

impl IfMatch {
    /// Whether a resource with this tag is the one meant; also without the header.
    pub fn admits(&self, tag: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|wanted| wanted == "*" || wanted == tag)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let values = parts.headers.get_all(http::header::IF_MATCH).iter();
        let tags = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        let plain = |tag: &str| {
            tag.trim()
                .trim_start_matches("W/")
                .trim_matches('"')
                .to_owned()
        };
        Ok(IfMatch(
            tags.map(plain).filter(|tag| !tag.is_empty()).collect(),
        ))
    }
}

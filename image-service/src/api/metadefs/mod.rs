//! Metadata definitions: a file per resource. A namespace that the caller may not see is not
//! found, and neither is anything in it.

mod items;
mod namespaces;
mod objects;
mod properties;
mod resource_types;
mod tags;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use rest::RequestContext;
use rest::policy::Target;

use super::access::not_authorized;
use crate::ImageService;
use crate::db::metadefs;
use crate::error::{Error, Result};
use crate::metadef::{Namespace, Visibility};

/// The routes under `/v2/metadefs`.
pub fn routes() -> Router<Arc<ImageService>> {
    Router::new()
        .route("/resource_types", get(resource_types::list))
        .route(
            "/namespaces",
            get(namespaces::list).post(namespaces::create),
        )
        .route(
            "/namespaces/{namespace}",
            get(namespaces::show)
                .put(namespaces::update)
                .delete(namespaces::delete),
        )
        .route(
            "/namespaces/{namespace}/resource_types",
            get(resource_types::list_of_namespace).post(resource_types::create),
        )
        .route(
            "/namespaces/{namespace}/resource_types/{name}",
            axum::routing::delete(resource_types::delete),
        )
        .route(
            "/namespaces/{namespace}/objects",
            get(objects::list)
                .post(objects::create)
                .delete(objects::delete_all),
        )
        .route(
            "/namespaces/{namespace}/objects/{name}",
            get(objects::show)
                .put(objects::update)
                .delete(objects::delete),
        )
        .route(
            "/namespaces/{namespace}/properties",
            get(properties::list)
                .post(properties::create)
                .delete(properties::delete_all),
        )
        .route(
            "/namespaces/{namespace}/properties/{name}",
            get(properties::show)
                .put(properties::update)
                .delete(properties::delete),
        )
        .route(
            "/namespaces/{namespace}/tags",
            get(tags::list)
                .post(tags::create_all)
                .delete(tags::delete_all),
        )
        .route(
            "/namespaces/{namespace}/tags/{name}",
            get(tags::show)
                .post(tags::create)
                .put(tags::update)
                .delete(tags::delete),
        )
}

/// 403 unless the rule admits the caller for its own project.
fn enforce(service: &ImageService, context: &RequestContext, rule: &str) -> Result<()> {
    service
        .policy
        .enforce(context, rule, context)
        .map_err(|denied| not_authorized(&denied.rule))
}

/// The namespace, if the caller may see it and do `rule` to it.
async fn find_for(
    service: &ImageService,
    context: &RequestContext,
    name: &str,
    rule: &str,
) -> Result<Namespace> {
    let found = metadefs::find(&service.database, name).await?;
    let namespace = found.ok_or_else(|| no_namespace(name))?;
    let own = context.project_id.is_some() && context.project_id == namespace.owner;
    if !(context.is_admin || own || namespace.is_shown_to_all()) {
        return Err(no_namespace(name));
    }
    // A namespace of nobody's is everybody's.
    let visibility = match namespace.is_shown_to_all() {
        true => Visibility::Public,
        false => namespace.visibility,
    };
    let target = Target {
        project_id: namespace.owner.as_deref(),
        visibility: Some(visibility.as_str()),
        ..Target::default()
    };
    match service.policy.enforce(context, rule, target) {
        Ok(()) => Ok(namespace),
        Err(denied) => Err(not_authorized(&denied.rule)),
    }
}

fn no_namespace(name: &str) -> Error {
    Error::NotFound(format!(
        "Metadata definition namespace={name} was not found."
    ))
}

/// Locks the namespace for the rest of the transaction; what is in a protected one stays.
async fn lock_for_delete(
    tx: &mut database::Tx,
    namespace: &Namespace,
    what: &str,
    name: &str,
) -> Result<()> {
    match metadefs::lock(tx, namespace.id).await? {
        None => Err(no_namespace(&namespace.namespace)),
        Some(true) => Err(Error::Forbidden(format!(
            "Metadata definition {what} {name} is protected and cannot be deleted."
        ))),
        Some(false) => Ok(()),
    }
}

//! Namespaces.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use database::now_us;
use rest::body::AnyJsonBody;
use rest::paging::Page;
use rest::{BaseUrl, QueryParams, RequestContext, sort};
use uuid::Uuid;

use super::super::Service;
use super::{enforce, find_for, lock_for_delete};
use crate::ImageService;
use crate::db::metadef_items;
use crate::db::metadefs::{self, NamespaceQuery, SORT_COLUMNS};
use crate::error::{Error, Result};
use crate::metadef::document;
use crate::metadef::load::{self, taken};
use crate::metadef::views::{
    AssociationView, NamespaceView, NamespacesView, ObjectView, TagNameView, namespace_path,
    property_map,
};
use crate::metadef::{Kind, Namespace, Visibility};
use crate::notices::metadefs::Event;

const PATH: &str = "/v2/metadefs/namespaces";

pub async fn list(
    State(service): Service,
    context: RequestContext,
    params: QueryParams,
) -> Result<Json<NamespacesView>> {
    enforce(&service, &context, "get_metadef_namespaces")?;
    enforce(&service, &context, "list_metadef_resource_types")?;
    let mut rest = params.clone();
    let options = &service.options;
    let page = Page::take(
        &mut rest,
        options.limit_param_default,
        options.api_limit_max,
    )?;
    let query = parse(&service, &context, &page, rest).await?;
    let namespaces = metadefs::page(&service.database, query).await?;
    let link = |query: String| match query.is_empty() {
        true => PATH.to_owned(),
        false => format!("{PATH}?{query}"),
    };
    let last = namespaces.last().filter(|_| page.is_full(namespaces.len()));
    Ok(Json(NamespacesView {
        next: last.map(|last| link(params.with("marker", &last.namespace))),
        first: link(params.without("marker")),
        namespaces: views(&service, namespaces).await?,
        schema: "/v2/schemas/metadefs/namespaces",
    }))
}

async fn parse(
    service: &ImageService,
    context: &RequestContext,
    page: &Page,
    mut params: QueryParams,
) -> Result<NamespaceQuery> {
    let order = SORT_COLUMNS.order(&sort::take(&mut params)?)?;
    let visibility = match params.take("visibility").filter(|word| !word.is_empty()) {
        None => None,
        Some(word) => Some(
            Visibility::parse(&word)
                .ok_or_else(|| Error::BadRequest(format!("Invalid visibility value: {word}")))?,
        ),
    };
    let resource_types = params.take("resource_types").unwrap_or_default();
    let resource_types = resource_types.split(',').filter(|name| !name.is_empty());
    let marker = match &page.marker {
        None => None,
        Some(name) => Some(find_for(service, context, name, "get_metadef_namespace").await?),
    };
    Ok(NamespaceQuery {
        project_id: context.project_id.clone(),
        is_admin: context.is_admin,
        visibility,
        resource_types: resource_types.map(str::to_owned).collect(),
        order,
        marker,
        limit: page.limit,
    })
}

/// Documents of namespaces as lists show them: with what they are for.
async fn views(service: &ImageService, namespaces: Vec<Namespace>) -> Result<Vec<NamespaceView>> {
    let ids: Vec<Uuid> = namespaces.iter().map(|namespace| namespace.id).collect();
    let mut associations: HashMap<Uuid, Vec<AssociationView>> = HashMap::new();
    for (id, association) in metadefs::associations(&service.database, &ids).await? {
        associations.entry(id).or_default().push(association.into());
    }
    let view = |namespace: Namespace| {
        let associations = associations.remove(&namespace.id).unwrap_or_default();
        let mut view = NamespaceView::from(namespace);
        view.resource_type_associations = associations;
        view
    };
    Ok(namespaces.into_iter().map(view).collect())
}

/// The document with all that the namespace holds.
async fn whole_view(service: &ImageService, namespace: Namespace) -> Result<NamespaceView> {
    let database = &service.database;
    let (id, name) = (namespace.id, namespace.namespace.clone());
    let objects = metadef_items::all(database, id, Kind::Object).await?;
    let properties = metadef_items::all(database, id, Kind::Property).await?;
    let tags = metadef_items::all(database, id, Kind::Tag).await?;
    let associations = metadefs::associations(database, &[id]).await?;
    let mut view = NamespaceView::from(namespace);
    view.objects = objects
        .into_iter()
        .map(|object| ObjectView::new(&name, object))
        .collect();
    view.properties = property_map(properties);
    view.tags = tags.into_iter().map(TagNameView::from).collect();
    view.resource_type_associations = associations
        .into_iter()
        .map(|(_, association)| association.into())
        .collect();
    Ok(view)
}

pub async fn create(
    State(service): Service,
    context: RequestContext,
    base: BaseUrl,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<(StatusCode, HeaderMap, Json<NamespaceView>)> {
    let mut document = document::namespace(body.as_ref())?;
    let held = [
        (true, "add_metadef_namespace"),
        (
            !document.associations.is_empty(),
            "add_metadef_resource_type_association",
        ),
        (!document.objects.is_empty(), "add_metadef_object"),
        (!document.properties.is_empty(), "add_metadef_property"),
        (!document.tags.is_empty(), "add_metadef_tag"),
    ];
    for (_, rule) in held.iter().filter(|(needed, _)| *needed) {
        enforce(&service, &context, rule)?;
    }
    if document.owner.is_none() {
        document.owner.clone_from(&context.project_id);
    }
    let mut tx = service.database.begin().await?;
    let inserted = load::insert(&mut tx, &document).await?;
    let notices = &service.notices;
    notices
        .metadef_inserted(&mut tx, &inserted, &context)
        .await?;
    tx.commit().await?;
    let namespace = inserted.namespace;
    let mut headers = HeaderMap::new();
    let url = base.join(&namespace_path(&namespace.namespace));
    if let Ok(location) = HeaderValue::try_from(url) {
        headers.insert(header::LOCATION, location);
    }
    let view = whole_view(&service, namespace).await?;
    Ok((StatusCode::CREATED, headers, Json(view)))
}

pub async fn show(
    State(service): Service,
    context: RequestContext,
    Path(name): Path<String>,
    mut params: QueryParams,
) -> Result<Json<NamespaceView>> {
    let namespace = find_for(&service, &context, &name, "get_metadef_namespace").await?;
    let mut view = whole_view(&service, namespace).await?;
    if let Some(resource_type) = params.take("resource_type") {
        view.prefix_properties(&resource_type);
    }
    Ok(Json(view))
}

/// What the document leaves out goes back to what a new namespace has.
pub async fn update(
    State(service): Service,
    context: RequestContext,
    Path(name): Path<String>,
    AnyJsonBody(body): AnyJsonBody,
) -> Result<Json<NamespaceView>> {
    let document = document::namespace(body.as_ref())?;
    let old = find_for(&service, &context, &name, "modify_metadef_namespace").await?;
    let namespace = Namespace {
        id: old.id,
        namespace: document.namespace,
        display_name: document.display_name,
        description: document.description,
        visibility: document.visibility.unwrap_or(Visibility::Private),
        protected: document.protected.unwrap_or(false),
        owner: document.owner.or_else(|| context.project_id.clone()),
        created_at_us: old.created_at_us,
        updated_at_us: now_us(),
    };
    let mut tx = service.database.begin().await?;
    let updated = metadefs::update(&mut tx, &namespace)
        .await
        .map_err(|error| taken(error, "namespace", &namespace.namespace))?;
    if !updated {
        return Err(super::no_namespace(&name));
    }
    let event = Event::Update(&old.namespace);
    let notices = &service.notices;
    notices
        .metadef_namespace(&mut tx, event, &namespace, &context)
        .await?;
    tx.commit().await?;
    Ok(Json(namespace.into()))
}

pub async fn delete(
    State(service): Service,
    context: RequestContext,
    Path(name): Path<String>,
) -> Result<StatusCode> {
    let namespace = find_for(&service, &context, &name, "delete_metadef_namespace").await?;
    let mut tx = service.database.begin().await?;
    lock_for_delete(&mut tx, &namespace, "namespace", &name).await?;
    metadefs::delete(&mut tx, namespace.id).await?;
    let notices = &service.notices;
    notices
        .metadef_namespace(&mut tx, Event::Delete, &namespace, &context)
        .await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

//! The dev identity over its routes: log-in, scopes, revocation, what who may see.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use rest::identity::dev::{DevIdentity, DevOptions, DevUser, Endpoints, router};
use rest::{Identity, Secret, TokenSource};
use serde_json::{Value, json};
use tower::ServiceExt;

fn options() -> DevOptions {
    let endpoints = Endpoints {
        identity: "http://host:5000".into(),
        volume: "http://host:8776".into(),
        image: "http://host:9292".into(),
    };
    let demo = Some(Secret::new("demo-pw"));
    DevOptions::new([3; 32], Secret::new("admin-pw"), demo, &endpoints)
}

fn identity() -> Arc<DevIdentity> {
    Arc::new(DevIdentity::new(options()).unwrap())
}

struct Answer {
    status: StatusCode,
    token: Option<String>,
    body: Value,
}

async fn send(
    app: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "host:5000");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() {
        Body::empty()
    } else {
        Body::from(body.to_string())
    };
    let response = app
        .clone()
        .oneshot(request.body(body).unwrap())
        .await
        .unwrap();
    let status = response.status();
    assert!(response.headers().contains_key("x-openstack-request-id"));
    let token = response.headers().get("x-subject-token");
    let token = token.map(|token| token.to_str().unwrap().to_owned());
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    Answer {
        status,
        token,
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    }
}

fn password(name: &str, password: &str, scope: Value) -> Value {
    let user = json!({ "name": name, "password": password, "domain": { "name": "Default" } });
    let mut auth = json!({ "identity": { "methods": ["password"], "password": { "user": user } } });
    if !scope.is_null() {
        auth["scope"] = scope;
    }
    json!({ "auth": auth })
}

fn project(name: &str) -> Value {
    json!({ "project": { "name": name, "domain": { "id": "default" } } })
}

async fn log_in(app: &Router, body: &Value) -> Answer {
    send(app, "POST", "/v3/auth/tokens", &[], body).await
}

async fn get(app: &Router, path: &str, token: &str) -> Answer {
    send(app, "GET", path, &[("x-auth-token", token)], &Value::Null).await
}

#[tokio::test]
async fn a_project_token_carries_roles_and_the_catalog_and_is_valid() {
    let identity = identity();
    let app = router(Arc::clone(&identity));
    let answer = log_in(&app, &password("admin", "admin-pw", project("admin"))).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let token = &answer.body["token"];
    let roles: Vec<_> = token["roles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|role| &role["name"])
        .collect();
    for role in ["admin", "member", "reader"] {
        assert!(roles.contains(&&json!(role)), "{roles:?}");
    }
    let project_id = token["project"]["id"].as_str().unwrap();
    assert_eq!(Some(project_id), identity.project_id("admin"));
    let catalog = token["catalog"].as_array().unwrap();
    let volume = catalog
        .iter()
        .find(|service| service["type"] == "block-storage")
        .unwrap();
    let urls: Vec<_> = volume["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["url"])
        .collect();
    assert_eq!(
        urls,
        vec![&json!(format!("http://host:8776/v3/{project_id}")); 3]
    );

    let info = identity
        .validate(&Secret::new(answer.token.unwrap()))
        .await
        .unwrap();
    assert_eq!(info.user.name, "admin");
    assert_eq!(info.project.as_ref().unwrap().id, project_id);
}

#[tokio::test]
async fn log_ins_that_fail_say_nothing_about_why() {
    let app = router(identity());
    let refused = [
        password("admin", "wrong", project("admin")),
        password("nobody", "admin-pw", project("admin")),
        password("nobody", "", project("admin")),
        password("basalt", "", project("service")),
        password("demo", "demo-pw", project("admin")),
        password("demo", "demo-pw", project("absent")),
        password("demo", "demo-pw", json!({ "system": { "all": true } })),
        password("demo", "demo-pw", json!({ "domain": { "id": "default" } })),
        json!({ "auth": { "identity": { "methods": ["token"], "token": { "id": "x.y" } } } }),
    ];
    for body in refused {
        let answer = log_in(&app, &body).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{body}");
        let message = &answer.body["error"]["message"];
        assert_eq!(
            message,
            "The request you have made requires authentication."
        );
    }
    let malformed = [
        json!({}),
        json!([]),
        json!({ "auth": { "identity": 5 } }),
        json!({ "auth": { "identity": { "methods": ["password"] } } }),
        json!({ "auth": { "identity": { "methods": ["password"], "password": { "user": { "name": 1, "password": "x" } } } } }),
    ];
    for body in malformed {
        let answer = log_in(&app, &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer.body["error"]["code"], 400);
    }
}

#[tokio::test]
async fn unscoped_then_rescoped_by_token_keeps_the_expiry() {
    let app = router(identity());
    let unscoped = log_in(&app, &password("demo", "demo-pw", Value::Null)).await;
    assert!(unscoped.body["token"].get("catalog").is_none());
    let token = unscoped.token.unwrap();
    let projects = get(&app, "/v3/auth/projects", &token).await;
    assert_eq!(projects.body["projects"].as_array().unwrap().len(), 1);
    let id = projects.body["projects"][0]["id"].clone();

    let rescope = json!({ "auth": {
        "identity": { "methods": ["token"], "token": { "id": token } },
        "scope": { "project": { "id": id } },
    } });
    let scoped = log_in(&app, &rescope).await;
    assert_eq!(scoped.status, StatusCode::CREATED);
    assert_eq!(scoped.body["token"]["project"]["name"], "demo");
    assert_eq!(
        scoped.body["token"]["expires_at"],
        unscoped.body["token"]["expires_at"]
    );
    assert_eq!(
        scoped.body["token"]["audit_ids"][1],
        unscoped.body["token"]["audit_ids"][0]
    );
}

#[tokio::test]
async fn a_revoked_token_is_refused_and_a_forged_one_too() {
    let identity = identity();
    let app = router(Arc::clone(&identity));
    let token = log_in(&app, &password("demo", "demo-pw", project("demo")))
        .await
        .token
        .unwrap();
    let both = [
        ("x-auth-token", token.as_str()),
        ("x-subject-token", token.as_str()),
    ];
    let shown = send(&app, "GET", "/v3/auth/tokens", &both, &Value::Null).await;
    assert_eq!(
        (shown.status, shown.token.as_ref()),
        (StatusCode::OK, Some(&token))
    );
    let revoked = send(&app, "DELETE", "/v3/auth/tokens", &both, &Value::Null).await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT);
    assert_eq!(
        get(&app, "/v3/auth/projects", &token).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert!(
        identity
            .validate(&Secret::new(token.as_str()))
            .await
            .is_err()
    );
    assert!(identity.validate(&Secret::new("e30.AAAA")).await.is_err());
}

#[tokio::test]
async fn what_the_configuration_no_longer_grants_is_lost_at_once() {
    let service = identity();
    let token = service.token().await.unwrap();
    let info = service.validate(&token).await.unwrap();
    assert_eq!(
        (
            info.user.name.as_str(),
            info.roles.contains(&"service".to_owned())
        ),
        ("basalt", true)
    );

    // The same key after a restart, with other users.
    let mut changed = options();
    changed.users.retain(|user| user.name != "basalt");
    changed
        .users
        .push(DevUser::new("other", None, "service", &["service"]));
    changed.service_user = ("other".into(), "service".into());
    let changed = DevIdentity::new(changed).unwrap();
    assert!(changed.validate(&token).await.is_err());
    assert!(
        identity().validate(&token).await.is_ok(),
        "tokens outlive a restart"
    );
}

#[tokio::test]
async fn admins_see_everyone_and_users_themselves() {
    let identity = identity();
    let app = router(Arc::clone(&identity));
    let admin = log_in(&app, &password("admin", "admin-pw", project("admin")))
        .await
        .token
        .unwrap();
    let demo = log_in(&app, &password("demo", "demo-pw", project("demo")))
        .await
        .token
        .unwrap();
    let demo_id = identity.user_id("demo").unwrap();
    let demo_project = identity.project_id("demo").unwrap();

    for path in [
        "projects",
        "users",
        "roles",
        "domains",
        "services",
        "endpoints",
        "role_assignments",
    ] {
        let path = format!("/v3/{path}");
        assert_eq!(
            get(&app, &path, &admin).await.status,
            StatusCode::OK,
            "{path}"
        );
        assert_eq!(
            get(&app, &path, &demo).await.status,
            StatusCode::FORBIDDEN,
            "{path}"
        );
        assert_eq!(
            get(&app, &path, "").await.status,
            StatusCode::UNAUTHORIZED,
            "{path}"
        );
    }
    let named = get(&app, "/v3/projects?name=demo", &admin).await;
    assert_eq!(named.body["projects"].as_array().unwrap().len(), 1);
    assert_eq!(named.body["projects"][0]["id"], demo_project);
    let missing = get(&app, "/v3/projects/nope", &admin).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert_eq!(
        missing.body["error"]["message"],
        "Could not find project: nope."
    );

    for path in [
        format!("/v3/users/{demo_id}"),
        format!("/v3/projects/{demo_project}"),
    ] {
        assert_eq!(
            get(&app, &path, &demo).await.status,
            StatusCode::OK,
            "{path}"
        );
    }
    let other = format!("/v3/users/{}", identity.user_id("admin").unwrap());
    assert_eq!(get(&app, &other, &demo).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn version_documents_need_no_token() {
    let app = router(identity());
    let all = send(&app, "GET", "/", &[], &Value::Null).await;
    assert_eq!(all.status, StatusCode::MULTIPLE_CHOICES);
    assert_eq!(
        all.body["versions"]["values"][0]["links"][0]["href"],
        "http://host:5000/v3/"
    );
    let one = send(&app, "GET", "/v3", &[], &Value::Null).await;
    assert_eq!(
        (one.status, &one.body["version"]["id"]),
        (StatusCode::OK, &json!("v3.14"))
    );
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let mut twice = options();
    twice
        .users
        .push(DevUser::new("Admin", None, "admin", &["reader"]));
    assert!(DevIdentity::new(twice).is_err());
    let mut nobody = options();
    nobody.service_user.0 = "nobody".into();
    assert!(DevIdentity::new(nobody).is_err());
    let mut long = options();
    long.token_lifetime_s = 86_401;
    assert!(DevIdentity::new(long).is_err());
}

//! Validation at a Keystone: a small one that counts its questions, on a real socket.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use rest::frame::FrameOptions;
use rest::identity::keystone::{
    Account, Credentials, Keystone, KeystoneOptions, LoginScope, ServerOptions,
};
use rest::policy::{Dialect, Policy};
use rest::{ErrorShape, Identity, IdentityError, RequestContext, Secret, TokenSource};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::ServiceExt;

/// What the small Keystone was asked, and how it is.
#[derive(Default)]
struct Seen {
    logins: AtomicUsize,
    validations: AtomicUsize,
    is_down: AtomicBool,
    /// Tokens of the service user that are good; a revocation empties the list.
    own_tokens: Mutex<Vec<String>>,
    revoked: Mutex<Vec<String>>,
}

type Shared = State<Arc<Seen>>;

fn token_body(name: &str) -> Value {
    let (user, roles): (_, &[&str]) = match name.split_once('-').unwrap_or((name, "")).0 {
        "admin" => ("admin", &["admin", "member", "reader"]),
        "service" => ("nova", &["service"]),
        _ => ("ann", &["member", "reader"]),
    };
    let expires = match name.contains("expired") {
        true => "2020-01-01T00:00:00.000000Z",
        false => "2099-01-01T00:00:00.000000Z",
    };
    let domain = json!({ "id": "default", "name": "Default" });
    let roles: Vec<_> = roles.iter().map(|role| json!({ "name": role })).collect();
    json!({ "token": {
        "expires_at": expires, "roles": roles,
        "user": { "id": user, "name": user, "domain": domain },
        "project": { "id": "ab12", "name": "demo", "domain": domain },
    } })
}

async fn log_in(State(seen): Shared, body: Json<Value>) -> Response {
    if seen.is_down.load(SeqCst) {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let password = &body["auth"]["identity"]["password"]["user"]["password"];
    if password != "s3cret" {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let number = seen.logins.fetch_add(1, SeqCst);
    let token = format!("own-{number}");
    seen.own_tokens.lock().unwrap().push(token.clone());
    let headers = [("x-subject-token", token)];
    (StatusCode::CREATED, headers, Json(token_body("service"))).into_response()
}

async fn validate(
    State(seen): Shared,
    query: Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    seen.validations.fetch_add(1, SeqCst);
    if seen.is_down.load(SeqCst) {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    // Long enough for other requests to ask as well.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    if !seen
        .own_tokens
        .lock()
        .unwrap()
        .contains(&header("x-auth-token"))
    {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let token = header("x-subject-token");
    let allow_expired = query.iter().any(|(name, _)| name == "allow_expired");
    let is_known = ["user", "admin", "service"]
        .iter()
        .any(|known| token.starts_with(known));
    let is_over = token.contains("expired") && !allow_expired;
    if !is_known || is_over || seen.revoked.lock().unwrap().contains(&token) {
        return StatusCode::NOT_FOUND.into_response();
    }
    Json(token_body(&token)).into_response()
}

async fn start() -> (Arc<Seen>, String) {
    let seen = Arc::new(Seen::default());
    let router = Router::new()
        .route("/v3/auth/tokens", get(validate).post(log_in))
        .with_state(Arc::clone(&seen));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = std::future::pending();
    let options = rest::server::ServerOptions::default();
    tokio::spawn(rest::server::serve(listener, router, options, stop));
    (seen, url)
}

fn options(url: &str, password: &str) -> KeystoneOptions {
    let credentials = Credentials::Password {
        user: Account {
            name: Some("cinder".to_owned()),
            ..Account::default()
        },
        password: Secret::new(password),
        scope: LoginScope::Unscoped,
    };
    let mut options = KeystoneOptions::new(url, credentials);
    options.server = ServerOptions {
        retries: 0,
        ..ServerOptions::new(url)
    };
    options
}

async fn roles(keystone: &Keystone, token: &str) -> Result<Vec<String>, IdentityError> {
    let info = keystone.validate(&Secret::new(token)).await?;
    Ok(info.roles.clone())
}

#[tokio::test]
async fn one_question_per_token_however_many_ask() {
    let (seen, url) = start().await;
    let keystone = Keystone::new(options(&url, "s3cret")).unwrap();
    let asking = (0..50).map(|_| {
        let keystone = keystone.clone();
        tokio::spawn(async move { roles(&keystone, "user-1").await })
    });
    for asked in asking.collect::<Vec<_>>() {
        assert_eq!(asked.await.unwrap().unwrap(), ["member", "reader"]);
    }
    assert_eq!(seen.validations.load(SeqCst), 1);
    assert_eq!(seen.logins.load(SeqCst), 1);
    roles(&keystone, "user-1").await.unwrap();
    assert_eq!(seen.validations.load(SeqCst), 1);
}

#[tokio::test]
async fn unknown_tokens_are_remembered_for_a_moment() {
    let (seen, url) = start().await;
    let keystone = Keystone::new(options(&url, "s3cret")).unwrap();
    for _ in 0..3 {
        let refused = roles(&keystone, "nobody").await;
        assert_eq!(refused, Err(IdentityError::Unauthorized));
    }
    assert_eq!(seen.validations.load(SeqCst), 1);
    // What is no token is not even asked about.
    for text in ["a b", "ü", &"x".repeat(10_000)] {
        assert!(roles(&keystone, text).await.is_err());
    }
    assert_eq!(seen.validations.load(SeqCst), 1);
}

#[tokio::test]
async fn a_revoked_token_is_refused_when_the_cache_time_is_over() {
    let (seen, url) = start().await;
    let mut options = options(&url, "s3cret");
    options.token_cache_time = Some(Duration::from_millis(200));
    let keystone = Keystone::new(options.clone()).unwrap();
    roles(&keystone, "user-2").await.unwrap();
    seen.revoked.lock().unwrap().push("user-2".to_owned());
    while roles(&keystone, "user-2").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Without a cache, at once.
    options.token_cache_time = None;
    let keystone = Keystone::new(options).unwrap();
    roles(&keystone, "user-3").await.unwrap();
    seen.revoked.lock().unwrap().push("user-3".to_owned());
    assert!(roles(&keystone, "user-3").await.is_err());
}

#[tokio::test]
async fn a_lost_token_of_the_service_is_replaced() {
    let (seen, url) = start().await;
    let keystone = Keystone::new(options(&url, "s3cret")).unwrap();
    roles(&keystone, "user-4").await.unwrap();
    seen.own_tokens.lock().unwrap().clear();
    roles(&keystone, "user-5").await.unwrap();
    assert_eq!(seen.logins.load(SeqCst), 2);
    assert_eq!(keystone.token().await.unwrap().expose(), "own-1");
}

#[tokio::test]
async fn a_keystone_that_is_away_is_no_refusal() {
    let (seen, url) = start().await;
    let keystone = Keystone::new(options(&url, "s3cret")).unwrap();
    roles(&keystone, "user-6").await.unwrap();
    seen.is_down.store(true, SeqCst);
    let away = |answer| matches!(answer, Err(IdentityError::Unavailable(_)));
    assert!(away(roles(&keystone, "user-7").await));
    // Known tokens stay good.
    assert!(roles(&keystone, "user-6").await.is_ok());
    seen.is_down.store(false, SeqCst);
    assert!(roles(&keystone, "user-7").await.is_ok());

    let wrong = Keystone::new(options(&url, "wrong")).unwrap();
    let error = roles(&wrong, "user-1").await.unwrap_err().to_string();
    assert!(error.contains("refuses the service user") && !error.contains("wrong"));
    let nobody = Keystone::new(options("http://127.0.0.1:1", "s3cret")).unwrap();
    assert!(away(roles(&nobody, "user-1").await));
}

fn service(keystone: Keystone) -> Router {
    let show = async |context: RequestContext| {
        Json(
            json!({ "user": context.user_id, "roles": context.roles, "admin": context.is_admin,
            "service_roles": context.service_roles }),
        )
    };
    let dialect = Dialect {
        base: &[("context_is_admin", "role:admin")],
        check: |_| "!",
        deprecated: |_| None,
        scopes: &[],
    };
    let api = Router::new().route("/v3/volumes/{id}", get(show));
    let policy = Policy::new(dialect, &[]);
    let api = rest::auth::apply(api, Arc::new(keystone), policy, ErrorShape::Volume);
    rest::frame::apply(api, FrameOptions::new(ErrorShape::Volume))
}

async fn show(app: &Router, headers: &[(&str, &str)]) -> (u16, HeaderMap, Value) {
    let mut request = Request::builder().uri("/v3/volumes/1").header("host", "h");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 1 << 16).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap();
    (parts.status.as_u16(), parts.headers, body)
}

#[tokio::test]
async fn only_tokens_say_who_calls() {
    let (seen, url) = start().await;
    let mut options = options(&url, "s3cret");
    options.www_authenticate_uri = Some("http://public:5000".to_owned());
    let app = service(Keystone::new(options).unwrap());
    let forged = [
        ("x-auth-token", "user-1"),
        ("x-roles", "admin"),
        ("x-user-id", "mallory"),
        ("x-project-id", "other"),
        ("x-service-roles", "service"),
        ("x-identity-status", "Confirmed"),
    ];
    let (status, _, body) = show(&app, &forged).await;
    assert_eq!(
        (status, &body["user"], &body["admin"]),
        (200, &json!("ann"), &json!(false))
    );
    assert_eq!(body["service_roles"], json!([]));
    let (_, _, body) = show(&app, &[("x-auth-token", "admin-1")]).await;
    assert_eq!(body["admin"], true);

    for headers in [&[][..], &[("x-auth-token", "nobody")], &forged[1..]] {
        let (status, headers, body) = show(&app, headers).await;
        assert_eq!((status, &body["error"]["code"]), (401, &json!(401)));
        let challenge = headers["www-authenticate"].to_str().unwrap();
        assert_eq!(challenge, "Keystone uri=\"http://public:5000\"");
    }
    seen.is_down.store(true, SeqCst);
    let (status, _, body) = show(&app, &[("x-auth-token", "user-9")]).await;
    assert_eq!(
        (status, &body["serviceUnavailable"]["code"]),
        (503, &json!(503))
    );
}

#[tokio::test]
async fn a_service_may_bring_an_expired_token_of_a_user() {
    let (_, url) = start().await;
    let app = service(Keystone::new(options(&url, "s3cret")).unwrap());
    let expired = ("x-auth-token", "user-expired");
    let with = |service| [expired, ("x-service-token", service)];
    assert_eq!(show(&app, &[expired]).await.0, 401);
    let (status, _, body) = show(&app, &with("service-1")).await;
    assert_eq!((status, &body["service_roles"]), (200, &json!(["service"])));
    // That a service may use it makes it good for nobody else.
    assert_eq!(show(&app, &[expired]).await.0, 401);
    for no_service in ["user-1", "nobody", "service-expired"] {
        assert_eq!(show(&app, &with(no_service)).await.0, 401, "{no_service}");
    }
    let fresh = [("x-auth-token", "user-1"), ("x-service-token", "user-1")];
    assert_eq!(show(&app, &fresh).await.0, 401);
    let mut lax = options(&url, "s3cret");
    lax.service_tokens.are_required = false;
    let app = service(Keystone::new(lax).unwrap());
    assert_eq!(show(&app, &fresh).await.0, 200);
    assert_eq!(show(&app, &with("user-1")).await.0, 401);
}

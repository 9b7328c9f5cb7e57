//! A service as the services put theirs together: frame, project in the path, auth,
//! microversions, and the bodies of errors.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{OriginalUri, Path};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::{get, post};
use rest::frame::FrameOptions;
use rest::identity::NoAuth;
use rest::microversion::VersionRange;
use rest::policy::{Dialect, Policy};
use rest::{
    BaseUrl, ErrorShape, Fault, Identity, IdentityError, ImageFault, JsonBody, Microversion,
    QueryParams, RequestContext, Secret,
};
use serde_json::{Value, json};
use tower::ServiceExt;

const VERSIONS: VersionRange = VersionRange {
    service: "volume",
    min: Microversion::new(3, 0),
    max: Microversion::new(3, 71),
};

async fn show(
    context: RequestContext,
    version: Microversion,
    Path(id): Path<String>,
    base: BaseUrl,
    OriginalUri(uri): OriginalUri,
) -> axum::Json<Value> {
    axum::Json(json!({
        "id": id, "project": context.project_id, "user": context.user_id, "admin": context.is_admin,
        "request": context.request_id, "global": context.global_request_id,
        "version": version.to_string(), "url": base.join(uri.path()),
    }))
}

async fn create(body: JsonBody) -> Result<axum::Json<Value>, Fault> {
    Ok(axum::Json(body.required()?))
}

async fn broken() {
    panic!("told to");
}

fn policy() -> Policy {
    let dialect = Dialect {
        base: &[("context_is_admin", "role:admin")],
        check: |_| "!",
        deprecated: |_| None,
        scopes: &[],
    };
    Policy::new(dialect, &[])
}

fn volume_service(identity: Arc<dyn Identity>) -> Router {
    let api = Router::new()
        .route("/v3/volumes", post(create))
        .route("/v3/volumes/{id}", get(show))
        .route("/v3/broken", get(broken))
        .route("/v3/query", get(async |_query: QueryParams| "fine"))
        .route("/v3/gone", get(async || Fault::no_such("Volume", "x")));
    let api = rest::auth::apply(api, identity, policy(), ErrorShape::Volume);
    let api = rest::microversion::apply(api, VERSIONS);
    let api = Router::new()
        .route("/", get(async || StatusCode::MULTIPLE_CHOICES))
        .merge(api);
    let api = rest::project_path::apply(api, "/v3");
    rest::frame::apply(api, FrameOptions::new(ErrorShape::Volume))
}

async fn send(app: &Router, request: Request<Body>) -> (StatusCode, HeaderMap, String) {
    let response = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, 1 << 20).await.unwrap();
    (
        parts.status,
        parts.headers,
        String::from_utf8(bytes.to_vec()).unwrap(),
    )
}

fn request(path: &str) -> axum::http::request::Builder {
    Request::builder()
        .uri(path)
        .header("host", "h:1")
        .header("x-auth-token", "ann:ab12")
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn a_request_carries_its_caller_version_ids_and_address() {
    let app = volume_service(Arc::new(NoAuth));
    let global = "req-8ad7a1c2-0c9b-4f7d-a3f5-6e2a2f1f5f00";
    let with_project = request("/v3/ab12/volumes/7?x=1")
        .header("openstack-api-version", "volume 3.50")
        .header("x-openstack-request-id", global)
        .header("x-roles", "admin")
        .header("x-user-id", "mallory")
        .body(Body::empty())
        .unwrap();
    let (status, headers, body) = send(&app, with_project).await;
    assert_eq!(status, StatusCode::OK);
    let body = json_of(&body);
    assert_eq!(
        (&body["id"], &body["project"], &body["user"]),
        (&json!("7"), &json!("ab12"), &json!("ann"))
    );
    assert_eq!(body["version"], "3.50");
    assert_eq!(body["url"], "http://h:1/v3/ab12/volumes/7");
    assert_eq!(body["global"], global);
    assert_eq!(
        body["request"],
        headers["x-openstack-request-id"].to_str().unwrap()
    );
    assert_ne!(body["request"], global);
    assert_eq!(
        headers["x-compute-request-id"],
        headers["x-openstack-request-id"]
    );
    assert_eq!(headers["openstack-api-version"], "volume 3.50");
    assert_eq!(headers["vary"], "OpenStack-API-Version");

    let without = request("/v3/volumes/7").body(Body::empty()).unwrap();
    let (status, headers, body) = send(&app, without).await;
    assert_eq!(
        (status, &json_of(&body)["url"]),
        (StatusCode::OK, &json!("http://h:1/v3/volumes/7"))
    );
    assert_eq!(headers["openstack-api-version"], "volume 3.0");
}

#[tokio::test]
async fn errors_have_cinders_bodies() {
    let app = volume_service(Arc::new(NoAuth));
    let json_body = |text: &str, kind: &str| {
        let request = request("/v3/volumes")
            .method("POST")
            .header("content-type", kind);
        request.body(Body::from(text.to_owned())).unwrap()
    };
    let plain = |path: &str| request(path).body(Body::empty()).unwrap();
    let cases = [
        (
            plain("/v3/gone"),
            404,
            "itemNotFound",
            "Volume x could not be found.",
        ),
        (
            plain("/v3/nothing"),
            404,
            "itemNotFound",
            "The resource could not be found.",
        ),
        (
            plain("/v3/volumes"),
            404,
            "itemNotFound",
            "The resource could not be found.",
        ),
        (
            plain("/v3/cd34/volumes/7"),
            400,
            "badRequest",
            "Malformed request url",
        ),
        (
            plain("/v3/broken"),
            500,
            "computeFault",
            "The server has either erred",
        ),
        (
            plain(&format!("/v3/query?{}", "a=b&".repeat(300))),
            400,
            "badRequest",
            "Too many query parameters.",
        ),
        (
            json_body("{", "application/json"),
            400,
            "badRequest",
            "Malformed request body",
        ),
        (
            json_body("{}", "text/xml"),
            415,
            "badMediaType",
            "Unsupported Content-Type",
        ),
        (
            json_body("", "application/json"),
            400,
            "badRequest",
            "Missing required element",
        ),
        (
            json_body(&" ".repeat(200_000), "application/json"),
            413,
            "overLimit",
            "Request is too large.",
        ),
    ];
    for (request, code, key, text) in cases {
        let what = format!("{} {}", request.method(), request.uri().path());
        let (status, headers, body) = send(&app, request).await;
        assert_eq!(status.as_u16(), code, "{what} {body}");
        assert_eq!(headers["content-type"], "application/json");
        // A panic unwinds through the layer that knows versions.
        assert_eq!(
            headers.contains_key("openstack-api-version"),
            code != 500,
            "{what}"
        );
        let body = json_of(&body);
        assert_eq!(body[key]["code"], code, "{what} {body}");
        assert!(
            body[key]["message"].as_str().unwrap().starts_with(text),
            "{what} {body}"
        );
    }
    for (version, code) in [("volume 3.72", 406), ("volume x", 400)] {
        let request = request("/v3/gone").header("openstack-api-version", version);
        let (status, headers, body) = send(&app, request.body(Body::empty()).unwrap()).await;
        assert_eq!(status.as_u16(), code, "{body}");
        assert_eq!(headers["openstack-api-version"], "volume 3.0");
    }
}

struct Refuses(IdentityError);

#[async_trait::async_trait]
impl Identity for Refuses {
    async fn validate(
        &self,
        _token: &Secret,
    ) -> Result<Arc<rest::identity::TokenInfo>, IdentityError> {
        Err(self.0.clone())
    }
    fn auth_uri(&self) -> &str {
        "http://h:5000"
    }
}

#[tokio::test]
async fn tokens_are_asked_for_before_anything_else() {
    let app = volume_service(Arc::new(Refuses(IdentityError::Unauthorized)));
    let no_token = Request::builder()
        .uri("/v3/volumes/7")
        .body(Body::empty())
        .unwrap();
    for request in [
        no_token,
        request("/v3/nothing").body(Body::empty()).unwrap(),
    ] {
        let (status, headers, body) = send(&app, request).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(
            headers["www-authenticate"],
            "Keystone uri=\"http://h:5000\""
        );
        assert_eq!(json_of(&body)["error"]["title"], "Unauthorized");
    }
    let open = Request::builder().uri("/").body(Body::empty()).unwrap();
    assert_eq!(send(&app, open).await.0, StatusCode::MULTIPLE_CHOICES);
    let health = Request::builder()
        .uri("/healthcheck")
        .body(Body::empty())
        .unwrap();
    assert_eq!(send(&app, health).await.2, "OK");

    let away = volume_service(Arc::new(Refuses(IdentityError::Unavailable(
        "secret detail".into(),
    ))));
    let (status, _, body) =
        send(&away, request("/v3/volumes/7").body(Body::empty()).unwrap()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(json_of(&body)["serviceUnavailable"]["code"], 503);
    assert!(!body.contains("secret detail"));
}

#[tokio::test]
async fn noauth_hands_out_its_token() {
    let app = volume_service(Arc::new(NoAuth));
    let request = Request::builder()
        .uri("/v3/volumes")
        .header("host", "h:1")
        .header("x-auth-user", "bob");
    let (status, headers, _) = send(&app, request.body(Body::empty()).unwrap()).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(headers["x-auth-token"], "bob:admin");
}

#[tokio::test]
async fn noauth_takes_clients_that_know_no_tokens() {
    let app = volume_service(Arc::new(NoAuth));
    for (token, path, user, project) in [
        (None, "/v3/ab12/volumes/7", "admin", "ab12"),
        (None, "/v3/volumes/7", "admin", "admin"),
        (Some("any"), "/v3/ab12/volumes/7", "any", "ab12"),
        (Some("any"), "/v3/volumes/7", "any", "any"),
        (Some("bob:ab12"), "/v3/ab12/volumes/7", "bob", "ab12"),
    ] {
        let mut request = Request::builder().uri(path).header("host", "h:1");
        if let Some(token) = token {
            request = request.header("x-auth-token", token);
        }
        let (status, _, body) = send(&app, request.body(Body::empty()).unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let body = json_of(&body);
        let shown = (&body["user"], &body["project"], &body["admin"]);
        assert_eq!(shown, (&json!(user), &json!(project), &json!(true)));
    }
    let other = Request::builder()
        .uri("/v3/ab12/volumes/7")
        .header("x-auth-token", "bob:cd34");
    let (status, _, _) = send(&app, other.body(Body::empty()).unwrap()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

fn image_service() -> Router {
    let api = Router::new()
        .route("/v2/images", get(async || ImageFault::conflict("<taken>")))
        .route(
            "/v2/who",
            get(async |context: RequestContext| context.request_id),
        )
        .route("/v2/broken", get(broken));
    let api = rest::auth::apply(api, Arc::new(NoAuth), policy(), ErrorShape::Image);
    rest::frame::apply(api, FrameOptions::new(ErrorShape::Image))
}

#[tokio::test]
async fn image_errors_follow_accept() {
    let app = image_service();
    for (path, code) in [
        ("/v2/images", 409),
        ("/v2/nothing", 404),
        ("/v2/broken", 500),
    ] {
        let html = request(path)
            .header("accept", "*/*")
            .body(Body::empty())
            .unwrap();
        let (status, headers, body) = send(&app, html).await;
        assert_eq!(status.as_u16(), code);
        assert_eq!(headers["content-type"], "text/html; charset=UTF-8");
        assert!(
            body.contains(&format!("<title>{code} ")) && !body.contains("<taken>"),
            "{body}"
        );
        let json = request(path)
            .header("accept", "application/json")
            .body(Body::empty())
            .unwrap();
        let (_, headers, body) = send(&app, json).await;
        assert_eq!(headers["content-type"], "application/json");
        assert!(
            json_of(&body)["code"]
                .as_str()
                .unwrap()
                .starts_with(&code.to_string())
        );
    }
    let post = request("/v2/images")
        .method("POST")
        .body(Body::empty())
        .unwrap();
    let (status, headers, _) = send(&app, post).await;
    assert_eq!(
        (status, headers["allow"].to_str().unwrap()),
        (StatusCode::METHOD_NOT_ALLOWED, "GET,HEAD")
    );
}

#[tokio::test]
async fn the_image_service_takes_the_clients_request_id() {
    let app = image_service();
    for (sent, expected) in [("req-abc", "req-abc"), ("abc", "req-abc")] {
        let request = request("/v2/who").header("x-openstack-request-id", sent);
        let (_, headers, body) = send(&app, request.body(Body::empty()).unwrap()).await;
        assert_eq!(
            (
                body.as_str(),
                headers["x-openstack-request-id"].to_str().unwrap()
            ),
            (expected, expected)
        );
    }
    let long = request("/v2/who").header("x-openstack-request-id", "x".repeat(65));
    assert_eq!(
        send(&app, long.body(Body::empty()).unwrap()).await.0,
        StatusCode::PAYLOAD_TOO_LARGE
    );
}

#[tokio::test]
async fn health_is_told_as_asked_and_a_file_takes_the_service_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disabled");
    let mut options = FrameOptions::new(ErrorShape::Image);
    options.healthcheck_disable_file = Some(file.clone());
    let app = rest::frame::apply(Router::new(), options);
    let check = async |method: &str, accept: &str| {
        let request = Request::builder().method(method).uri("/healthcheck");
        let request = request.header("accept", accept).body(Body::empty());
        let (status, headers, body) = send(&app, request.unwrap()).await;
        let media_type = headers["content-type"].to_str().unwrap().to_owned();
        (status.as_u16(), media_type, body)
    };
    let text = "text/plain; charset=UTF-8".to_owned();
    assert_eq!(
        check("GET", "*/*").await,
        (200, text.clone(), "OK".to_owned())
    );
    assert_eq!(check("HEAD", "*/*").await.0, 204);
    let (_, media_type, body) = check("GET", "application/json").await;
    assert!(media_type.starts_with("application/json"));
    assert_eq!(
        json_of(&body),
        json!({ "detailed": false, "reasons": ["OK"] })
    );
    std::fs::write(&file, "").unwrap();
    let disabled = (503, text, "DISABLED BY FILE".to_owned());
    assert_eq!(check("GET", "*/*").await, disabled);
    assert_eq!(check("HEAD", "*/*").await.0, 503);
}

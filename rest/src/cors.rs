//! Cross-origin resource sharing (Fetch standard, "CORS protocol"), with the options of
//! oslo.middleware's `[cors]`: which pages of other origins may use the API from a browser, as
//! Horizon does when it sends image data straight to the image service.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

use crate::ErrorShape;

/// Headers that a request may always have.
const SIMPLE_HEADERS: [&str; 8] = [
    "accept",
    "accept-language",
    "cache-control",
    "content-language",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
];

/// Who may do what from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// `scheme://host[:port]` each; `*` is everybody.
    pub allowed_origins: Vec<String>,
    pub allow_credentials: bool,
    /// Headers of answers that a page may read.
    pub expose_headers: Vec<String>,
    /// How long a browser may remember the answer to a preflight; 0 is not sent.
    pub max_age_s: u64,
    pub allow_methods: Vec<String>,
    /// Headers that a request may have beside the simple ones, in any case.
    pub allow_headers: Vec<String>,
}

impl Cors {
    /// These origins, with what the service's own clients need (Cinder's and Glance's defaults).
    pub fn new(shape: ErrorShape, allowed_origins: Vec<String>) -> Self {
        let words = |words: &str| words.split(' ').map(str::to_owned).collect();
        let (methods, headers, exposed) = match shape {
            ErrorShape::Image => (
                "GET PUT POST DELETE PATCH",
                "Content-MD5 X-Image-Meta-Checksum X-Storage-Token Accept-Encoding X-Auth-Token \
                 X-Identity-Status X-Roles X-Service-Catalog X-User-Id X-Tenant-Id \
                 X-OpenStack-Request-ID",
                "X-Image-Meta-Checksum X-Auth-Token X-Subject-Token X-Service-Token \
                 X-OpenStack-Request-ID",
            ),
            ErrorShape::Volume | ErrorShape::Identity => (
                "GET PUT POST DELETE PATCH HEAD",
                "X-Auth-Token X-Identity-Status X-Roles X-Service-Catalog X-User-Id X-Tenant-Id \
                 X-OpenStack-Request-ID X-Trace-Info X-Trace-HMAC OpenStack-API-Version",
                "X-Auth-Token X-Subject-Token X-Service-Token X-OpenStack-Request-ID \
                 OpenStack-API-Version",
            ),
        };
        Self {
            allowed_origins,
            allow_credentials: true,
            expose_headers: words(exposed),
            max_age_s: 3600,
            allow_methods: words(methods),
            allow_headers: words(headers),
        }
    }

    /// What the answer names as the origin; `None`: this one may nothing.
    fn admitted(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        let has = |wanted: &[u8]| {
            let mut allowed = self.allowed_origins.iter();
            allowed.any(|allowed| allowed.as_bytes() == wanted)
        };
        if has(origin.as_bytes()) {
            return Some(origin.clone());
        }
        has(b"*").then(|| HeaderValue::from_static("*"))
    }

    /// Says in `answer` that a page of this origin may have it; `false` where it may not.
    fn admit(&self, origin: &HeaderValue, answer: &mut HeaderMap) -> bool {
        let Some(admitted) = self.admitted(origin) else {
            tracing::debug!(?origin, "a request from an origin that is not allowed");
            return false;
        };
        if admitted != "*" {
            answer.append(VARY, HeaderValue::from_static("Origin"));
        }
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, admitted);
        if self.allow_credentials {
            let yes = HeaderValue::from_static("true");
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        true
    }

    /// The answer to a browser that asks before it sends the request itself. One that may not is
    /// told nothing.
    fn preflight(&self, origin: &HeaderValue, request: &HeaderMap) -> Response {
        let mut answer = Response::new(Body::empty());
        let Some(method) = request.get(ACCESS_CONTROL_REQUEST_METHOD) else {
            return answer;
        };
        let asked = request.get(ACCESS_CONTROL_REQUEST_HEADERS);
        let mut methods = self.allow_methods.iter();
        let allowed = methods.any(|allowed| allowed.as_bytes() == method.as_bytes())
            && asked.is_none_or(|asked| self.allows_headers(asked));
        let out = answer.headers_mut();
        if !allowed || !self.admit(origin, out) {
            return answer;
        }
        out.insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
        if let Some(asked) = asked {
            out.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        if self.max_age_s > 0 {
            out.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age_s));
        }
        answer
    }

    fn allows_headers(&self, asked: &HeaderValue) -> bool {
        let Ok(asked) = asked.to_str() else {
            return false;
        };
        let own = self.allow_headers.iter().map(String::as_str);
        let allowed: Vec<&str> = own.chain(SIMPLE_HEADERS).collect();
        let mut asked = asked.split(',').map(str::trim);
        asked.all(|name| {
            let is_name = |allowed: &&str| allowed.eq_ignore_ascii_case(name);
            name.is_empty() || allowed.iter().any(is_name)
        })
    }

    /// Adds to an answer what a page of `origin` may see of it.
    fn decorate(&self, origin: &HeaderValue, answer: &mut HeaderMap) {
        if !self.admit(origin, answer) || self.expose_headers.is_empty() {
            return;
        }
        if let Ok(names) = HeaderValue::try_from(self.expose_headers.join(",")) {
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names);
        }
    }
}

/// Lets browsers use `router`, errors included; to be put around everything else.
pub fn apply(router: Router, cors: Cors) -> Router {
    router.layer(from_fn_with_state(Arc::new(cors), share))
}

async fn share(State(cors): State<Arc<Cors>>, request: Request, next: Next) -> Response {
    let Some(origin) = request.headers().get(ORIGIN).cloned() else {
        return next.run(request).await;
    };
    if request.method() == Method::OPTIONS {
        return cors.preflight(&origin, request.headers());
    }
    let mut answer = next.run(request).await;
    cors.decorate(&origin, answer.headers_mut());
    answer
}

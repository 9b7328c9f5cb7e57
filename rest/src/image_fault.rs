//! Glance's error body: webob's HTML, JSON or plain text, as `Accept` prefers.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;

use crate::shape::{Rendered, default_message};
use crate::{BadInput, policy};

/// An error as the Image API answers it. `into_response` writes HTML (webob's default); the
/// frame layer, which sees the request's `Accept`, rewrites it as JSON or plain text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {message}", status.as_u16())]
pub struct ImageFault {
    pub status: StatusCode,
    pub message: Cow<'static, str>,
    /// Extra headers of the answer, e.g. `Accept-Patch` of a 415.
    pub headers: Vec<(http::HeaderName, HeaderValue)>,
}

macro_rules! constructors {
    ($($name:ident => $status:ident;)+) => { $(
        pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
            Self::new(StatusCode::$status, message)
        }
    )+ };
}

impl ImageFault {
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            message: message.into(),
            headers: Vec::new(),
        }
    }

    constructors! {
        bad_request => BAD_REQUEST;
        unauthorized => UNAUTHORIZED;
        forbidden => FORBIDDEN;
        not_found => NOT_FOUND;
        method_not_allowed => METHOD_NOT_ALLOWED;
        conflict => CONFLICT;
        gone => GONE;
        over_limit => PAYLOAD_TOO_LARGE;
        unsupported_media_type => UNSUPPORTED_MEDIA_TYPE;
        range_not_satisfiable => RANGE_NOT_SATISFIABLE;
        not_implemented => NOT_IMPLEMENTED;
        unavailable => SERVICE_UNAVAILABLE;
    }

    /// Logs `error` and hides it: the client gets a 500 that says nothing.
    pub fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "request failed");
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, default_message(status))
    }

    pub fn with_header(mut self, name: http::HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The response for a request with these headers.
    pub fn render(self, request_headers: &HeaderMap) -> Response {
        let media = preferred(request_headers);
        self.render_as(media)
    }

    fn render_as(self, media: Media) -> Response {
        let title = title(self.status);
        let line = format!("{} {title}", self.status.as_u16());
        let (content_type, body) = match media {
            Media::Html => {
                let text = escape_html(&self.message);
                let body = format!(
                    "<html>\n <head>\n  <title>{line}</title>\n </head>\n <body>\n  \
                     <h1>{line}</h1>\n  {text}<br /><br />\n\n\n\n </body>\n</html>"
                );
                ("text/html; charset=UTF-8", body)
            }
            Media::Json => {
                let message = format!("{}<br /><br />\n\n\n", self.message);
                let body = json!({ "message": message, "code": line, "title": title });
                ("application/json", body.to_string())
            }
            Media::Plain => (
                "text/plain; charset=UTF-8",
                format!("{line}\n\n{}\n\n", self.message),
            ),
        };
        let mut response = (self.status, body).into_response();
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        for (name, value) in &self.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response.extensions_mut().insert(Rendered);
        response.extensions_mut().insert(self);
        response
    }
}

impl IntoResponse for ImageFault {
    fn into_response(self) -> Response {
        self.render_as(Media::Html)
    }
}

impl From<BadInput> for ImageFault {
    fn from(error: BadInput) -> Self {
        Self::bad_request(error.message)
    }
}

impl From<policy::Denied> for ImageFault {
    fn from(denied: policy::Denied) -> Self {
        Self::forbidden(format!(
            "You are not authorized to complete {} action.",
            denied.rule
        ))
    }
}

impl From<database::Error> for ImageFault {
    fn from(error: database::Error) -> Self {
        Self::internal(&error)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    Html,
    Json,
    Plain,
}

/// The best of HTML (first) and JSON for the request; plain text where it accepts neither.
pub(crate) fn preferred(request_headers: &HeaderMap) -> Media {
    let Some(accept) = request_headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
    else {
        return Media::Html;
    };
    let html = quality(accept, "text", "html");
    let json = quality(accept, "application", "json");
    if html <= 0.0 && json <= 0.0 {
        Media::Plain
    } else if json > html {
        Media::Json
    } else {
        Media::Html
    }
}

/// The weight that `accept` gives to a media type: its most specific range decides.
fn quality(accept: &str, kind: &str, subtype: &str) -> f32 {
    let mut best = (0, 0.0);
    for item in accept.split(',') {
        let mut parts = item.split(';').map(str::trim);
        let range = parts.next().unwrap_or_default();
        let weight = parts
            .find_map(|parameter| parameter.strip_prefix("q="))
            .map_or(1.0, |text| text.parse().unwrap_or(0.0));
        let specific = match range.split_once('/') {
            Some((k, s)) if k.eq_ignore_ascii_case(kind) && s.eq_ignore_ascii_case(subtype) => 3,
            Some((k, "*")) if k.eq_ignore_ascii_case(kind) => 2,
            Some(("*", "*")) => 1,
            _ => continue,
        };
        if specific > best.0 {
            best = (specific, weight);
        }
    }
    best.1
}

/// webob's title of a status.
fn title(status: StatusCode) -> &'static str {
    match status.as_u16() {
        413 => "Request Entity Too Large",
        416 => "Requested Range Not Satisfiable",
        _ => status.canonical_reason().unwrap_or("Error"),
    }
}

fn escape_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#x27;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))])
    }

    #[test]
    fn accept_decides() {
        assert_eq!(preferred(&HeaderMap::new()), Media::Html);
        assert_eq!(preferred(&accepting("*/*")), Media::Html);
        assert_eq!(preferred(&accepting("application/json")), Media::Json);
        assert_eq!(
            preferred(&accepting("text/html;q=0.5, application/*")),
            Media::Json
        );
        assert_eq!(preferred(&accepting("application/json;q=0")), Media::Plain);
        assert_eq!(
            preferred(&accepting("application/octet-stream")),
            Media::Plain
        );
    }

    #[tokio::test]
    async fn html_escapes_the_message_and_names_the_status() {
        let response = ImageFault::not_found("no <b>").into_response();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 16)
            .await
            .unwrap();
        let body = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(body.contains("<title>404 Not Found</title>"), "{body}");
        assert!(body.contains("no &lt;b&gt;<br /><br />"), "{body}");
    }

    #[tokio::test]
    async fn json_has_message_code_and_title() {
        let response = ImageFault::conflict("taken").render(&accepting("application/json"));
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 16)
            .await
            .unwrap();
        let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(body["code"], "409 Conflict");
        assert_eq!(body["title"], "Conflict");
        assert!(body["message"].as_str().unwrap().starts_with("taken"));
    }
}

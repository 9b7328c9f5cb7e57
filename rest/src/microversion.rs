//! The header `OpenStack-API-Version: volume X.Y`, in and out.

use std::fmt;

use axum::Router;
use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::header::VARY;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::Fault;
use crate::shape::{Pending, default_message};

const HEADER: HeaderName = HeaderName::from_static("openstack-api-version");

/// The version a request asked for. Views and parsers consult it; a handler takes it as an
/// argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Microversion {
    pub major: u16,
    pub minor: u16,
}

impl Microversion {
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    pub fn at_least(self, major: u16, minor: u16) -> bool {
        self >= Self::new(major, minor)
    }

    /// For methods that a later version brought: 404 before it, as Cinder answers.
    pub fn require(self, major: u16, minor: u16) -> Result<(), Fault> {
        if self.at_least(major, minor) {
            return Ok(());
        }
        Err(Fault::not_found(format!(
            "API version {self} is not supported on this method."
        )))
    }

    /// `X.Y`, each a number without a leading zero.
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let padded = digits.len() > 1 && digits.starts_with('0');
            (plain && !padded)
                .then(|| digits.parse::<u16>().ok())
                .flatten()
        };
        let major = number(major).filter(|major| *major > 0)?;
        Some(Self {
            major,
            minor: number(minor)?,
        })
    }
}

impl fmt::Display for Microversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What a service offers.
#[derive(Debug, Clone, Copy)]
pub struct VersionRange {
    /// The service's name in the header: `volume`.
    pub service: &'static str,
    /// Also what a request without the header gets.
    pub min: Microversion,
    pub max: Microversion,
}

impl VersionRange {
    /// The version that these request headers ask for, or the 400 or 406 they deserve.
    pub fn negotiate(&self, headers: &HeaderMap) -> Result<Microversion, Fault> {
        let Some(value) = headers.get(HEADER) else {
            return Ok(self.min);
        };
        let value = value.to_str().unwrap_or_default();
        let asked = value.split(',').find_map(|item| {
            let (service, version) = item.trim().split_once(char::is_whitespace)?;
            (service == self.service).then(|| version.trim())
        });
        let Some(asked) = asked else {
            return Err(self.invalid(value));
        };
        if asked == "latest" {
            return Ok(self.max);
        }
        let version = Microversion::parse(asked).ok_or_else(|| self.invalid(asked))?;
        if version < self.min || version > self.max {
            return Err(Fault::not_acceptable(format!(
                "Version {version} is not supported by the API. Minimum is {} and maximum is {}.",
                self.min, self.max
            )));
        }
        Ok(version)
    }

    fn invalid(&self, text: &str) -> Fault {
        let shown: String = text.chars().take(64).collect();
        Fault::bad_request(format!(
            "API Version String {shown} is of invalid format. Must be of format MajorNum.MinorNum."
        ))
    }

    fn header_value(&self, version: Microversion) -> Option<HeaderValue> {
        HeaderValue::from_str(&format!("{} {version}", self.service)).ok()
    }
}

/// Negotiates the version of every request to `router` and says on every answer which it was.
pub fn apply(router: Router, range: VersionRange) -> Router {
    router.layer(from_fn_with_state(range, negotiate))
}

async fn negotiate(
    State(range): State<VersionRange>,
    mut request: Request,
    next: Next,
) -> Response {
    let (version, mut response) = match range.negotiate(request.headers()) {
        Ok(version) => {
            request.extensions_mut().insert(version);
            (version, next.run(request).await)
        }
        Err(fault) => (range.min, fault.into_response()),
    };
    let headers = response.headers_mut();
    if let Some(value) = range.header_value(version) {
        headers.insert(HEADER, value);
    }
    headers.append(VARY, HeaderValue::from_static("OpenStack-API-Version"));
    response
}

impl<S: Send + Sync> FromRequestParts<S> for Microversion {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Response> {
        parts.extensions.get::<Self>().copied().ok_or_else(|| {
            tracing::error!("a handler asks for the microversion outside its layer");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Pending::response(status, default_message(status))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: VersionRange = VersionRange {
        service: "volume",
        min: Microversion::new(3, 0),
        max: Microversion::new(3, 71),
    };

    fn ask(value: &'static str) -> Result<Microversion, u16> {
        let headers = HeaderMap::from_iter([(HEADER, HeaderValue::from_static(value))]);
        RANGE
            .negotiate(&headers)
            .map_err(|fault| fault.status.as_u16())
    }

    #[test]
    fn negotiation() {
        assert_eq!(
            RANGE.negotiate(&HeaderMap::new()),
            Ok(Microversion::new(3, 0))
        );
        assert_eq!(ask("volume 3.31"), Ok(Microversion::new(3, 31)));
        assert_eq!(ask("compute 2.90, volume 3.5"), Ok(Microversion::new(3, 5)));
        assert_eq!(ask("volume latest"), Ok(Microversion::new(3, 71)));
        assert_eq!(ask("volume 3.72"), Err(406));
        assert_eq!(ask("volume 2.0"), Err(406));
        for bad in [
            "volume",
            "volume 3",
            "volume 3.01",
            "volume 3.x",
            "compute 2.1",
            "",
            "volume 0.1",
        ] {
            assert_eq!(ask(bad), Err(400), "{bad}");
        }
    }

    #[test]
    fn order() {
        assert!(Microversion::new(3, 31).at_least(3, 31));
        assert!(!Microversion::new(3, 9).at_least(3, 31));
        assert!(Microversion::new(3, 9).require(3, 10).is_err());
    }
}

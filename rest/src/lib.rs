//! What both REST services share: identity, policy, the request's context, error bodies,
//! microversions, lists (paging, sort, filters), validation of bodies, and the HTTP server.
//!
//! **Promises.** Bodies, error bodies, status codes and headers are those of Cinder and Glance
//! (Block Storage API v3, Image API v2) and, for the dev identity, of Keystone v3. No header a
//! client sends is trusted but its token. No input panics or takes unbounded memory: bodies,
//! depths, query strings and headers are bounded, and a panic of a handler becomes a 500.
//!
//! **Relies on.** axum on a multi-threaded tokio runtime; nothing here knows volumes or images.
//!
//! **On a crash.** Nothing here is kept on disk: tokens are signed with a key that the caller
//! keeps, so they outlive a restart; revocations of dev tokens are forgotten.
//!
//! A service puts its router together from the inside out:
//! ```text
//! let api = Router::new().route("/v3/volumes", get(list)).with_state(state);
//! let api = rest::auth::apply(api, identity, policy, ErrorShape::Volume);
//! let api = rest::microversion::apply(api, VOLUME_VERSIONS); // outside: also 401s name it
//! let api = versions_router().merge(api);                 // routes that need no token
//! let api = rest::project_path::apply(api, "/v3");        // /v3/{project_id}/… = /v3/…
//! let api = rest::frame::apply(api, FrameOptions::new(ErrorShape::Volume));
//! rest::server::serve(listener, api, ServerOptions::default(), shutdown).await;
//! ```

pub mod auth;
pub mod bad_input;
pub mod base_url;
pub mod body;
pub mod context;
pub mod cors;
pub mod fault;
pub mod filter;
pub mod frame;
mod healthcheck;
pub mod http_client;
pub mod identity;
pub mod image_fault;
pub mod list_query;
pub mod microversion;
pub mod paging;
pub mod policy;
pub mod project_path;
pub mod python;
pub mod query;
pub mod secret;
pub mod server;
pub mod shape;
pub mod sort;
pub mod time;
pub mod validate;

pub use bad_input::BadInput;
pub use base_url::BaseUrl;
pub use body::JsonBody;
pub use context::RequestContext;
pub use fault::Fault;
pub use identity::{Identity, IdentityError, TokenSource};
pub use image_fault::ImageFault;
pub use microversion::Microversion;
pub use query::QueryParams;
pub use secret::Secret;
pub use shape::ErrorShape;

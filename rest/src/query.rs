//! The query string as an ordered list of decoded pairs.

use axum::extract::FromRequestParts;
use http::Uri;
use http::request::Parts;

use crate::BadInput;

/// More parameters than any client needs; a bound on what one request may make us do.
const MAX_PARAMETERS: usize = 256;

/// The parameters of a request in the order they came. Parsers take away what they understand
/// ([`QueryParams::take`]); what is left are filters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryParams(Vec<(String, String)>);

impl QueryParams {
    pub fn parse(query: &str) -> Result<Self, BadInput> {
        let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes())
            .take(MAX_PARAMETERS + 1)
            .map(|(key, value)| (key.into_owned(), value.into_owned()))
            .collect();
        if pairs.len() > MAX_PARAMETERS {
            return Err(BadInput::new("Too many query parameters."));
        }
        Ok(Self(pairs))
    }

    pub fn from_uri(uri: &Uri) -> Result<Self, BadInput> {
        Self::parse(uri.query().unwrap_or_default())
    }

    /// The last value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Every value of `key`, in order.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Removes every `key` and returns its last value.
    pub fn take(&mut self, key: &str) -> Option<String> {
        self.take_all(key).pop()
    }

    /// Removes every `key` and returns the values in order.
    pub fn take_all(&mut self, key: &str) -> Vec<String> {
        let (taken, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(name, _)| name == key);
        self.0 = rest;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    pub fn contains(&self, key: &str) -> bool {
        self.0.iter().any(|(name, _)| name == key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The query string with every `key` replaced by one `value` at the end.
    pub fn with(&self, key: &str, value: &str) -> String {
        let mut out = form_urlencoded::Serializer::new(String::new());
        for (name, held) in self.iter().filter(|(name, _)| *name != key) {
            out.append_pair(name, held);
        }
        out.append_pair(key, value);
        out.finish()
    }

    /// The query string without `key`; empty without parameters.
    pub fn without(&self, key: &str) -> String {
        let mut out = form_urlencoded::Serializer::new(String::new());
        for (name, held) in self.iter().filter(|(name, _)| *name != key) {
            out.append_pair(name, held);
        }
        out.finish()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for QueryParams {
    type Rejection = BadInput;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, BadInput> {
        Self::from_uri(&parts.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_takes_and_encodes() {
        let mut query = QueryParams::parse("name=a%20b&tag=x&tag=y&limit=2&name~=%C3%A9").unwrap();
        assert_eq!(query.get("name"), Some("a b"));
        assert_eq!(query.get("name~"), Some("é"));
        assert_eq!(
            query.with("marker", "m&m"),
            "name=a+b&tag=x&tag=y&limit=2&name%7E=%C3%A9&marker=m%26m"
        );
        assert_eq!(query.take_all("tag"), ["x", "y"]);
        assert_eq!(query.take("limit").as_deref(), Some("2"));
        assert_eq!(query.take("limit"), None);
        assert!(!query.contains("tag"));
    }

    #[test]
    fn too_many_parameters_are_refused() {
        assert!(QueryParams::parse(&"a=b&".repeat(MAX_PARAMETERS)).is_ok());
        assert!(QueryParams::parse(&"a=b&".repeat(MAX_PARAMETERS + 1)).is_err());
    }
}

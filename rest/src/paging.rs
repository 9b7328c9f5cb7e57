//! `limit`, `marker`, `offset`, and the link to the next page.

use serde_json::{Value, json};

use crate::{BadInput, QueryParams};

/// Cinder's `osapi_max_limit` and Glance's `api_limit_max`.
pub const MAX_LIMIT: u32 = 1000;

/// The largest `offset` (a signed 32-bit integer in Cinder's database).
const MAX_OFFSET: i64 = 2_147_483_647;

/// Which part of a list a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// How many rows at most; clamped to the service's maximum.
    pub limit: u32,
    /// Id of the last row of the page before.
    pub marker: Option<String>,
    pub offset: u32,
}

impl Page {
    /// Takes `limit`, `marker` and `offset` away from `query` (Cinder's rules and texts).
    pub fn take(
        query: &mut QueryParams,
        default_limit: u32,
        max_limit: u32,
    ) -> Result<Self, BadInput> {
        let limit = match query.take("limit") {
            None => default_limit,
            Some(text) => {
                let limit = parse_int(&text)
                    .ok_or_else(|| BadInput::new("limit param must be an integer"))?;
                u32::try_from(limit.min(i64::from(max_limit)))
                    .map_err(|_| BadInput::new("limit param must be positive"))?
            }
        };
        let marker = query.take("marker");
        let offset = match query.take("offset") {
            None => 0,
            Some(text) => parse_offset(&text)?,
        };
        Ok(Self {
            limit: limit.min(max_limit),
            marker,
            offset,
        })
    }

    /// [`Page::take`] as Cinder has it by default: up to 1000 rows.
    pub fn take_default(query: &mut QueryParams) -> Result<Self, BadInput> {
        Self::take(query, MAX_LIMIT, MAX_LIMIT)
    }

    /// A page of `returned` rows was filled, so there may be more.
    pub fn is_full(&self, returned: usize) -> bool {
        self.limit > 0 && returned >= usize::try_from(self.limit).unwrap_or(usize::MAX)
    }

    /// The value of `<collection>_links` when the page is full: `[{"rel": "next", "href": …}]`.
    /// `collection_url` is the list's own address without a query; `query` is the request's
    /// whole query.
    pub fn links(
        &self,
        returned: usize,
        last_id: Option<&str>,
        collection_url: &str,
        query: &QueryParams,
    ) -> Option<Value> {
        let last_id = last_id.filter(|_| self.is_full(returned))?;
        let href = format!("{collection_url}?{}", query.with("marker", last_id));
        Some(json!([{ "rel": "next", "href": href }]))
    }
}

fn parse_offset(text: &str) -> Result<u32, BadInput> {
    let offset = parse_int(text).ok_or_else(|| BadInput::new("offset must be an integer."))?;
    if offset < 0 {
        return Err(BadInput::new("offset must be >= 0"));
    }
    u32::try_from(offset)
        .ok()
        .filter(|offset| i64::from(*offset) <= MAX_OFFSET)
        .ok_or_else(|| BadInput::new(format!("offset must be <= {MAX_OFFSET}")))
}

/// An integer as Python's `int()` reads it; saturates, so that a number with too many digits is
/// still a number.
fn parse_int(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let bound = if text.starts_with('-') {
        i64::MIN
    } else {
        i64::MAX
    };
    Some(text.parse().unwrap_or(bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str) -> Result<Page, BadInput> {
        Page::take_default(&mut QueryParams::parse(query).unwrap())
    }

    #[test]
    fn limits() {
        assert_eq!(page("").unwrap().limit, 1000);
        assert_eq!(page("limit=0").unwrap().limit, 0);
        assert_eq!(page("limit=5").unwrap().limit, 5);
        assert_eq!(page("limit=99999999999999999999").unwrap().limit, 1000);
        assert_eq!(
            page("limit=-1").unwrap_err().message,
            "limit param must be positive"
        );
        assert_eq!(
            page("limit=-99999999999999999999").unwrap_err().message,
            "limit param must be positive"
        );
        for bad in ["limit=", "limit=x", "limit=1.5", "limit=-"] {
            assert_eq!(
                page(bad).unwrap_err().message,
                "limit param must be an integer",
                "{bad}"
            );
        }
    }

    #[test]
    fn offsets() {
        assert_eq!(page("offset=2147483647").unwrap().offset, 2_147_483_647);
        assert_eq!(
            page("offset=2147483648").unwrap_err().message,
            "offset must be <= 2147483647"
        );
        assert_eq!(
            page("offset=-1").unwrap_err().message,
            "offset must be >= 0"
        );
        assert_eq!(
            page("offset=x").unwrap_err().message,
            "offset must be an integer."
        );
    }

    #[test]
    fn the_next_link_keeps_the_query_and_moves_the_marker() {
        let query = QueryParams::parse("limit=2&marker=a&name=x").unwrap();
        let page = Page::take_default(&mut query.clone()).unwrap();
        let links = page
            .links(2, Some("b"), "http://h/v3/volumes", &query)
            .unwrap();
        assert_eq!(
            links[0]["href"],
            "http://h/v3/volumes?limit=2&name=x&marker=b"
        );
        assert_eq!(
            page.links(1, Some("b"), "http://h/v3/volumes", &query),
            None
        );
        let none = Page {
            limit: 0,
            marker: None,
            offset: 0,
        };
        assert_eq!(none.links(0, None, "http://h", &query), None);
    }
}

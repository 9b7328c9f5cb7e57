//! Query parameters as filters: which are allowed, and what their values mean.

use serde_json::Value;

use crate::list_query::Operator;
use crate::{BadInput, QueryParams, python, time};

/// What is left of a query when paging and sorting have been taken away: filters.
///
/// For callers that are not admins only the names in `allowed` count (`resource_query_filters`
/// of Cinder); `strict` (3.31 and later) refuses the others instead of dropping them. An admin's
/// filters all pass. `allowed` admits `name~` where it has `name`.
pub fn restrict(
    query: QueryParams,
    allowed: &[&str],
    is_admin: bool,
    strict: bool,
) -> Result<Vec<(String, String)>, BadInput> {
    if query.iter().any(|(key, _)| !key.is_ascii()) {
        return Err(BadInput::new(
            "Filter keys can only contain ASCII characters.",
        ));
    }
    let known = |key: &str| {
        let key = key.strip_suffix('~').unwrap_or(key);
        is_admin || allowed.contains(&key)
    };
    let (kept, unknown): (Vec<_>, Vec<_>) = query.iter().partition(|(key, _)| known(key));
    if strict && !unknown.is_empty() {
        let names: Vec<_> = unknown.iter().map(|(key, _)| *key).collect();
        let mut names = names.join(", ");
        names.truncate(
            names
                .char_indices()
                .nth(255)
                .map_or(names.len(), |(at, _)| at),
        );
        return Err(BadInput::new(format!(
            "Invalid filters {names} are found in query options."
        )));
    }
    Ok(kept
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect())
}

/// A filter's value: `a`, or the Python list `['a', 'b']` for any of them (Cinder).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub fn parse(text: &str) -> Self {
        if text.starts_with(['[', '('])
            && let Some(Value::Array(items)) = python::literal(text)
        {
            return Self::Many(items.iter().map(python::str).collect());
        }
        Self::One(text.to_owned())
    }

    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// `{'key': 'value'}`: a Python dict of texts, or the same as JSON (`metadata=` of Cinder).
pub fn parse_text_map(name: &str, text: &str) -> Result<Vec<(String, String)>, BadInput> {
    let parsed = python::literal(text).or_else(|| serde_json::from_str(text).ok());
    match parsed {
        Some(Value::Object(map)) => Ok(map
            .iter()
            .map(|(key, value)| (key.clone(), python::str(value)))
            .collect()),
        _ => Err(BadInput::invalid_input(format!(
            "Filter {name} must be a dictionary."
        ))),
    }
}

/// oslo's `bool_from_string`: the usual words for yes and no in any case; `None` for others.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "on" | "y" | "yes" => Some(true),
        "0" | "f" | "false" | "off" | "n" | "no" => Some(false),
        _ => None,
    }
}

/// [`parse_bool`], or a 400 that names the filter.
pub fn require_bool(name: &str, text: &str) -> Result<bool, BadInput> {
    parse_bool(text).ok_or_else(|| {
        let shown = python::repr_str(text);
        BadInput::invalid_input(format!("{name}={shown} is not a boolean value."))
    })
}

/// `gt:2026-01-01T00:00:00,lt:…`: comparisons of a time in microseconds (Cinder 3.60, Glance).
/// Without an operator the time must be equal.
pub fn parse_times(name: &str, text: &str) -> Result<Vec<(Operator, i64)>, BadInput> {
    text.split(',')
        .map(|item| parse_time(name, item.trim()))
        .collect()
}

fn parse_time(name: &str, item: &str) -> Result<(Operator, i64), BadInput> {
    let named = item
        .split_once(':')
        .and_then(|(word, rest)| Some((operator(word)?, rest)));
    let (operator, text) = named.unwrap_or((Operator::Equal, item));
    let us = time::parse_iso8601(text).ok_or_else(|| {
        let shown = python::repr_str(text);
        BadInput::invalid_input(format!("Invalid date format for filter {name}: {shown}."))
    })?;
    Ok((operator, us))
}

fn operator(word: &str) -> Option<Operator> {
    Some(match word {
        "eq" => Operator::Equal,
        "neq" => Operator::NotEqual,
        "lt" => Operator::Less,
        "lte" => Operator::LessOrEqual,
        "gt" => Operator::Greater,
        "gte" => Operator::GreaterOrEqual,
        _ => return None,
    })
}

/// A filter of Glance: `in:a,b,"c,d"` (any of them; quotes protect commas), `eq:a`, or `a`.
pub fn parse_in(name: &str, text: &str) -> Result<Vec<String>, BadInput> {
    if let Some(value) = text.strip_prefix("eq:") {
        return Ok(vec![value.to_owned()]);
    }
    let Some(list) = text.strip_prefix("in:") else {
        return Ok(vec![text.to_owned()]);
    };
    split_quoted(list).ok_or_else(|| {
        let shown = python::repr_str(text);
        BadInput::new(format!(
            "Invalid filter value for {name}: {shown}. The quote is not closed."
        ))
    })
}

fn split_quoted(list: &str) -> Option<Vec<String>> {
    let mut items = Vec::new();
    let mut item = String::new();
    let mut quoted = false;
    let mut chars = list.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => item.push(chars.next()?),
            '"' => quoted = !quoted,
            ',' if !quoted => items.push(std::mem::take(&mut item)),
            c => item.push(c),
        }
    }
    items.push(item);
    (!quoted).then_some(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(query: &str, is_admin: bool, strict: bool) -> Result<Vec<String>, BadInput> {
        let query = QueryParams::parse(query).unwrap();
        let kept = restrict(query, &["name", "status"], is_admin, strict)?;
        Ok(kept.into_iter().map(|(key, _)| key).collect())
    }

    #[test]
    fn unknown_filters() {
        assert_eq!(
            names("name=a&host=b&status~=c", false, false).unwrap(),
            ["name", "status~"]
        );
        assert_eq!(
            names("name=a&host=b", true, true).unwrap(),
            ["name", "host"]
        );
        let error = names("name=a&host=b&x=1", false, true).unwrap_err();
        assert_eq!(
            error.message,
            "Invalid filters host, x are found in query options."
        );
        assert!(names("n%C3%A4me=a", true, false).is_err());
    }

    #[test]
    fn values() {
        assert_eq!(
            OneOrMany::parse("['a', 'b']"),
            OneOrMany::Many(vec!["a".into(), "b".into()])
        );
        assert_eq!(OneOrMany::parse("[a"), OneOrMany::One("[a".into()));
        let pair = [("k".to_owned(), "v".to_owned())];
        assert_eq!(parse_text_map("metadata", "{'k': 'v'}").unwrap(), pair);
        assert_eq!(parse_text_map("metadata", "{\"k\": \"v\"}").unwrap(), pair);
        assert!(parse_text_map("metadata", "k=v").is_err());
        assert_eq!(parse_bool(" Yes"), Some(true));
        assert_eq!(parse_bool("maybe"), None);
        assert!(require_bool("bootable", "x").is_err());
    }

    #[test]
    fn times() {
        let parsed = parse_times(
            "created_at",
            "gte:1970-01-01T00:00:01,lt:1970-01-01T00:00:02",
        )
        .unwrap();
        assert_eq!(
            parsed,
            [
                (Operator::GreaterOrEqual, 1_000_000),
                (Operator::Less, 2_000_000)
            ]
        );
        assert_eq!(
            parse_times("x", "1970-01-01T00:00:01").unwrap(),
            [(Operator::Equal, 1_000_000)]
        );
        assert!(parse_times("x", "above:1970-01-01").is_err());
        assert!(parse_times("x", "").is_err());
    }

    #[test]
    fn glance_lists() {
        assert_eq!(
            parse_in("name", "in:a,\"b,c\",d").unwrap(),
            ["a", "b,c", "d"]
        );
        assert_eq!(parse_in("name", "eq:in:a").unwrap(), ["in:a"]);
        assert_eq!(parse_in("name", "a,b").unwrap(), ["a,b"]);
        assert!(parse_in("name", "in:\"a").is_err());
    }
}

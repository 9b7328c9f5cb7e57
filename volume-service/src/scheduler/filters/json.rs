//! `JsonFilter`: the hint `query` is a condition in JSON over what the pool reports:
//! `["and", [">=", "$free_capacity_gb", 100], ["=", "$vendor_name", "x"]]`.

use serde_json::Value;

use crate::scheduler::candidate::Candidate;
use crate::scheduler::request::Request;

/// The longest query that is looked at, and how deep it may go.
const MAX_QUERY_BYTES: usize = 4096;
const MAX_DEPTH: u32 = 16;

pub(super) fn passes(candidate: &Candidate, request: &Request) -> bool {
    let query = match request.hints.get("query") {
        None | Some(Value::Null) => return true,
        Some(Value::String(text)) if text.is_empty() => return true,
        Some(Value::String(text)) if text.len() > MAX_QUERY_BYTES => None,
        Some(Value::String(text)) => serde_json::from_str(text).ok(),
        Some(query) => Some(query.clone()),
    };
    let reported = Value::Object(candidate.reported());
    // A query that makes no sense fits nothing, as in Cinder.
    query
        .and_then(|query| evaluate(&query, &reported, 0))
        .is_some_and(|value| is_true(&value))
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => *flag,
        Value::Array(values) => values.iter().any(is_true),
        Value::Null => false,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// The value of a query; `None` where it is none.
fn evaluate(query: &Value, reported: &Value, depth: u32) -> Option<Value> {
    match query {
        _ if depth > MAX_DEPTH => None,
        Value::Array(parts) => {
            let (operator, operands) = parts.split_first()?;
            let operands: Option<Vec<Value>> = operands
                .iter()
                .map(|operand| evaluate(operand, reported, depth + 1))
                .collect();
            apply(operator.as_str()?, &operands?)
        }
        Value::String(text) => Some(match text.strip_prefix('$') {
            Some(path) => path
                .split('.')
                .try_fold(reported, |value, part| value.get(part))
                .cloned()
                .unwrap_or(Value::Null),
            None => query.clone(),
        }),
        other => Some(other.clone()),
    }
}

fn apply(operator: &str, operands: &[Value]) -> Option<Value> {
    let compare = |test: fn(std::cmp::Ordering) -> bool| {
        let Some((first, others)) = operands.split_first().filter(|(_, rest)| !rest.is_empty())
        else {
            return false;
        };
        others
            .iter()
            .all(|other| order(first, other).is_some_and(test))
    };
    let holds = match operator {
        "=" => compare(std::cmp::Ordering::is_eq),
        "<" => compare(std::cmp::Ordering::is_lt),
        ">" => compare(std::cmp::Ordering::is_gt),
        "<=" => compare(std::cmp::Ordering::is_le),
        ">=" => compare(std::cmp::Ordering::is_ge),
        "in" => operands.split_first().is_some_and(|(first, others)| {
            others
                .iter()
                .any(|other| order(first, other).is_some_and(std::cmp::Ordering::is_eq))
        }),
        "and" => operands.iter().all(is_true),
        "or" => operands.iter().any(is_true),
        "not" => {
            let turned = operands.iter().map(|value| Value::Bool(!is_true(value)));
            return Some(Value::Array(turned.collect()));
        }
        _ => return None,
    };
    Some(Value::Bool(holds))
}

/// Numbers by value (also where one is written as text), everything else as text.
fn order(left: &Value, right: &Value) -> Option<std::cmp::Ordering> {
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse::<f64>().ok(),
        _ => None,
    };
    if let (Some(left), Some(right)) = (number(left), number(right)) {
        return left.partial_cmp(&right);
    }
    match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::choice::tests::{candidate, request};
    use super::*;

    #[test]
    fn queries_are_conditions_on_what_is_reported() {
        let pool = candidate("fast", "nova", 50.0);
        for (query, fits) in [
            (r#"[">=", "$free_capacity_gb", 50]"#, true),
            (r#"[">", "$free_capacity_gb", 50]"#, false),
            (
                r#"["and", ["=", "$volume_backend_name", "fast"], ["<", 1, 2, 3]]"#,
                true,
            ),
            (
                r#"["or", ["=", "$volume_backend_name", "slow"], false]"#,
                false,
            ),
            (
                r#"["not", ["in", "$pool_name", "images", "backups"]]"#,
                true,
            ),
            (r#"["=", "$multiattach", true]"#, true),
            (r#"["=", "$nothing.like.it", 1]"#, false),
            (r#"["frobnicate", 1, 2]"#, false),
            ("[", false),
            ("[]", false),
            ("", true),
        ] {
            let mut request = request(1, &[]);
            request.hints.insert("query".into(), query.into());
            assert_eq!(passes(&pool, &request), fits, "{query}");
        }
        let mut deep = request(1, &[]);
        let query = format!("{}1{}", "[\"not\",".repeat(60), "]".repeat(60));
        deep.hints.insert("query".into(), query.into());
        assert!(!passes(&pool, &deep));
    }
}

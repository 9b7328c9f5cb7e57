//! Extra specs as requirements, in the notation of oslo's `specs_matcher`: an operator and its
//! operand, or a plain value that must be equal.

use rest::filter::parse_bool;
use serde_json::Value;

/// Whether `value`, as a pool reports it, meets the requirement.
pub fn matches(value: &Value, wanted: &str) -> bool {
    let mut words = wanted.split_whitespace();
    let operator = words.next().unwrap_or_default();
    let text = text_of(value);
    match operator {
        "<or>" => alternatives(wanted).any(|option| option == text),
        "<all-in>" => {
            let held: Vec<&str> = text.split([' ', ',']).collect();
            words.all(|word| held.contains(&word))
        }
        "<in>" => words.next().is_some_and(|word| text.contains(word)),
        "<is>" => words.next().is_some_and(|word| truth(&text) == truth(word)),
        "=" | ">=" => compare(&text, words.next(), |left, right| left >= right),
        "<=" => compare(&text, words.next(), |left, right| left <= right),
        "==" => compare(&text, words.next(), |left, right| left == right),
        "!=" => compare(&text, words.next(), |left, right| left != right),
        "s==" => words.next().is_some_and(|word| text == word),
        "s!=" => words.next().is_some_and(|word| text != word),
        "s<" => words.next().is_some_and(|word| text.as_str() < word),
        "s<=" => words.next().is_some_and(|word| text.as_str() <= word),
        "s>" => words.next().is_some_and(|word| text.as_str() > word),
        "s>=" => words.next().is_some_and(|word| text.as_str() >= word),
        _ => match value {
            Value::Bool(flag) => parse_bool(wanted) == Some(*flag),
            _ => text == wanted,
        },
    }
}

/// `<or> a <or> b`
fn alternatives(wanted: &str) -> impl Iterator<Item = &str> {
    wanted
        .split("<or>")
        .map(str::trim)
        .filter(|option| !option.is_empty())
}

fn truth(text: &str) -> bool {
    parse_bool(text).unwrap_or(false)
}

fn compare(value: &str, wanted: Option<&str>, test: fn(f64, f64) -> bool) -> bool {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    match (number(value), wanted.and_then(number)) {
        (Some(value), Some(wanted)) => test(value, wanted),
        _ => false,
    }
}

/// Numbers without a fraction as integers, truth values as Python writes them.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => match number.as_f64() {
            Some(float) => float.to_string(),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operators_are_those_of_oslo() {
        for (value, wanted, fits) in [
            (json!("1"), "1", true),
            (json!(""), "1", false),
            (json!("3"), "= 1", true),
            (json!("1"), "= 1", true),
            (json!("1"), "= 3", false),
            (json!("124"), "!= 123", true),
            (json!("123"), "== 123", true),
            (json!("x"), "== 123", false),
            (json!(2.5), "<= 2.5", true),
            (json!(3), "<= 2", false),
            (json!("1234"), "s== 1234", true),
            (json!("1234"), "s!= 1234", false),
            (json!("1000"), "s< 1234", true),
            (json!("2"), "s<= 2", true),
            (json!("3"), "s> 2", true),
            (json!("2"), "s>= 3", false),
            (json!("12311321"), "<in> 11", true),
            (json!("12310321"), "<in> 11", false),
            (json!("aes mmx sse"), "<all-in> aes mmx", true),
            (json!("aes sse"), "<all-in> aes mmx", false),
            (json!("12"), "<or> 11 <or> 12", true),
            (json!("13"), "<or> 11 <or> 12", false),
            (json!(true), "<is> True", true),
            (json!("False"), "<is> yes", false),
            (json!(true), "true", true),
            (json!(false), "True", false),
            (json!("a b"), "a b", true),
            (json!("a"), "", false),
            (json!("4"), "> 2", false),
            (json!("5"), "=", false),
        ] {
            assert_eq!(matches(&value, wanted), fits, "{value} {wanted:?}");
        }
    }
}

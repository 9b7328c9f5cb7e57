//! From the text of an option to its value, with a reason where it is not one.

use super::options::{Kind, OptionSpec};

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Boolean(bool),
    Integer(i64),
    Number(f64),
    List(Vec<String>),
}

/// Checks `texts` (one, or more where the kind adds up) against the option.
pub fn check(option: &OptionSpec, texts: &[String]) -> Result<Value, String> {
    let last = texts.last().map(String::as_str).unwrap_or_default().trim();
    match option.kind {
        Kind::Text | Kind::Secret => Ok(Value::Text(last.to_owned())),
        Kind::Boolean => boolean(last).map(Value::Boolean),
        Kind::Integer(least, most) => integer(last, least, most).map(Value::Integer),
        Kind::Port => integer(last, 0, 65_535).map(Value::Integer),
        Kind::Number => number(last).map(Value::Number),
        Kind::List => Ok(Value::List(list(last))),
        Kind::MultiText => Ok(Value::List(
            texts
                .iter()
                .filter(|text| !text.is_empty())
                .cloned()
                .collect(),
        )),
        Kind::Choice(choices) => choice(last, choices).map(Value::Text),
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err(format!("{} is neither true nor false", shown(text))),
    }
}

fn integer(text: &str, least: i64, most: i64) -> Result<i64, String> {
    let number: i64 = text
        .parse()
        .map_err(|_| format!("{} is not a whole number", shown(text)))?;
    if (least..=most).contains(&number) {
        return Ok(number);
    }
    Err(if most == i64::MAX {
        format!("{number} is less than {least}")
    } else {
        format!("{number} is not between {least} and {most}")
    })
}

fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(format!("{} is not a number", shown(text))),
    }
}

fn list(text: &str) -> Vec<String> {
    text.split([',', '\n'])
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

fn choice(text: &str, choices: &[&str]) -> Result<String, String> {
    if choices.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not one of {}",
        shown(text),
        choices.join(", ")
    ))
}

/// The text for a message: quoted, and cut where it is long.
fn shown(text: &str) -> String {
    const SHOWN_CHARS: usize = 60;
    if text.chars().nth(SHOWN_CHARS).is_some() {
        let start: String = text.chars().take(SHOWN_CHARS).collect();
        return format!("{start:?}…");
    }
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checked(kind: Kind, text: &str) -> Result<Value, String> {
        let option = OptionSpec {
            section: "s",
            name: "n",
            kind,
            default: "",
            help: "",
        };
        check(&option, &[text.to_owned()])
    }

    #[test]
    fn good_values() {
        assert_eq!(checked(Kind::Boolean, "YES"), Ok(Value::Boolean(true)));
        assert_eq!(checked(Kind::Boolean, "0"), Ok(Value::Boolean(false)));
        assert_eq!(
            checked(Kind::Integer(-1, i64::MAX), "-1"),
            Ok(Value::Integer(-1))
        );
        assert_eq!(checked(Kind::Port, "0"), Ok(Value::Integer(0)));
        assert_eq!(checked(Kind::Number, " 1.5 "), Ok(Value::Number(1.5)));
        let list = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        assert_eq!(checked(Kind::List, "a, b,\nc,,"), Ok(Value::List(list)));
        assert_eq!(checked(Kind::List, ""), Ok(Value::List(vec![])));
    }

    #[test]
    fn bad_values_say_why() {
        for (kind, text, reason) in [
            (
                Kind::Boolean,
                "maybe",
                "\"maybe\" is neither true nor false",
            ),
            (Kind::Boolean, "", "\"\" is neither true nor false"),
            (Kind::Port, "65536", "65536 is not between 0 and 65535"),
            (
                Kind::Port,
                "99999999999999999999",
                "\"99999999999999999999\" is not a whole number",
            ),
            (Kind::Integer(0, i64::MAX), "-5", "-5 is less than 0"),
            (Kind::Integer(0, 9), "0x3", "\"0x3\" is not a whole number"),
            (Kind::Number, "NaN", "\"NaN\" is not a number"),
            (Kind::Number, "1e999", "\"1e999\" is not a number"),
            (Kind::Choice(&["a", "b"]), "c", "\"c\" is not one of a, b"),
        ] {
            assert_eq!(checked(kind, text), Err(reason.to_owned()));
        }
        let long = "x".repeat(100_000);
        assert!(checked(Kind::Boolean, &long).unwrap_err().len() < 200);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            for kind in [Kind::Boolean, Kind::Port, Kind::Number, Kind::List, Kind::Integer(-1, 5)] {
                let _ = checked(kind, &text);
            }
        }
    }
}

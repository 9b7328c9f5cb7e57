//! The small language of `filter_function` and `goodness_function`: Cinder's evaluator.
//!
//! ```text
//! ternary    := or [ '?' ternary ':' ternary ]
//! or, and    := … ('or' | '|' | '||') …, … ('and' | '&' | '&&') …
//! not        := ('not' | '!') not | comparison
//! comparison := sum [ ('<' | '>' | '<=' | '>=' | '==' | '!=' | '<>') sum ]
//! sum        := product { ('+' | '-') product };  product := sign { ('*' | '/') sign }
//! sign       := ('+' | '-') sign | power;         power := primary [ '^' sign ]
//! primary    := number | 'text' | name | name '(' ternary { ',' ternary } ')' | '(' ternary ')'
//! ```
//! Names are `volume.size`, `extra.KEY`, `capabilities.KEY` and `stats.KEY`; functions `abs`,
//! `min` and `max`. Length and depth are bounded: no expression takes long.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::candidate::Candidate;
use super::request::Request;

/// The longest expression.
pub const MAX_BYTES: usize = 4096;
const MAX_DEPTH: u32 = 64;

/// What an expression or a part of it comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Number(f64),
    Text(String),
    Truth(bool),
}

impl Value {
    /// As a condition.
    pub fn is_true(&self) -> bool {
        match self {
            Value::Number(number) => *number != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::Truth(truth) => *truth,
        }
    }

    /// As a number; texts that read as one are one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Number(number) => Some(*number),
            Value::Text(text) => text.trim().parse().ok(),
            Value::Truth(truth) => Some(f64::from(u8::from(*truth))),
        }
        .filter(|number: &f64| number.is_finite())
    }
}

/// Values by their full names (`volume.size`).
pub type Names = HashMap<String, Value>;

/// What an expression may name for this volume and this pool.
pub fn names(candidate: &Candidate, request: &Request) -> Names {
    let mut names = Names::new();
    names.insert(
        "volume.size".to_owned(),
        Value::Number(f64::from(request.size_gib)),
    );
    for (key, value) in &request.extra_specs {
        names.insert(format!("extra.{key}"), Value::Text(value.clone()));
    }
    for (key, value) in candidate.reported() {
        let value = match value {
            Json::Number(number) => number.as_f64().map(Value::Number),
            Json::String(text) => Some(Value::Text(text)),
            Json::Bool(truth) => Some(Value::Truth(truth)),
            _ => None,
        };
        if let Some(value) = value {
            names.insert(format!("stats.{key}"), value.clone());
            names.insert(format!("capabilities.{key}"), value);
        }
    }
    names
}

/// The value of `text`. Errors: what is wrong with it, for the operator.
pub fn evaluate(text: &str, names: &Names) -> Result<Value, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("longer than {MAX_BYTES} bytes"));
    }
    let tokens = tokens(text)?;
    let mut parser = Parser {
        tokens: &tokens,
        position: 0,
        depth: 0,
        names: Some(names),
    };
    let value = parser.ternary()?;
    parser.end()?;
    Ok(value)
}

/// Whether `text` is an expression at all: for the configuration. Names are not looked up.
pub fn check(text: &str) -> Result<(), String> {
    if text.len() > MAX_BYTES {
        return Err(format!("longer than {MAX_BYTES} bytes"));
    }
    let tokens = tokens(text)?;
    let mut parser = Parser {
        tokens: &tokens,
        position: 0,
        depth: 0,
        names: None,
    };
    parser.ternary()?;
    parser.end()
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Number(f64),
    Text(String),
    Name(String),
    Sign(&'static str),
}

/// Longer signs first.
const SIGNS: [&str; 21] = [
    "<=", ">=", "==", "!=", "<>", "&&", "||", "<", ">", "+", "-", "*", "/", "^", "(", ")", ",",
    "?", ":", "&", "|",
];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if first.is_ascii_digit() || first == '.' {
            let length = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len());
            let digits = rest.get(..length).unwrap_or_default();
            let number = digits
                .parse()
                .map_err(|_| format!("{digits} is no number"))?;
            tokens.push(Token::Number(number));
            length
        } else if first == '\'' || first == '"' {
            let inner = rest.get(1..).unwrap_or_default();
            let end = inner
                .find(first)
                .ok_or_else(|| "a text without its end".to_owned())?;
            tokens.push(Token::Text(inner.get(..end).unwrap_or_default().to_owned()));
            end + 2
        } else if first.is_alphabetic() || first == '_' || first == '$' {
            let length = rest
                .find(|c: char| !c.is_alphanumeric() && !['_', '.', '$'].contains(&c))
                .unwrap_or(rest.len());
            tokens.push(word(rest.get(..length).unwrap_or_default()));
            length
        } else if first == '!' && !rest.starts_with("!=") {
            tokens.push(Token::Sign("not"));
            1
        } else {
            let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
            let sign = sign.ok_or_else(|| format!("unexpected {first:?}"))?;
            tokens.push(Token::Sign(sign));
            sign.len()
        };
        rest = rest.get(length..).unwrap_or_default().trim_start();
    }
    Ok(tokens)
}

fn word(word: &str) -> Token {
    match word {
        "and" => Token::Sign("&"),
        "or" => Token::Sign("|"),
        "not" => Token::Sign("not"),
        "True" | "true" => Token::Number(1.0),
        "False" | "false" => Token::Number(0.0),
        name => Token::Name(name.to_owned()),
    }
}

struct Parser<'a> {
    tokens: &'a [Token],
    position: usize,
    depth: u32,
    /// None: only the form is checked, and every name counts as 1.
    names: Option<&'a Names>,
}

impl Parser<'_> {
    fn end(&self) -> Result<(), String> {
        match self.tokens.get(self.position) {
            None => Ok(()),
            Some(token) => Err(format!("unexpected {token:?}")),
        }
    }

    /// The sign that stands here, if it is one of `signs`.
    fn take(&mut self, signs: &[&'static str]) -> Option<&'static str> {
        match self.tokens.get(self.position) {
            Some(Token::Sign(sign)) if signs.contains(sign) => {
                self.position += 1;
                Some(sign)
            }
            _ => None,
        }
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), String> {
        let found = self.take(&[sign]);
        found
            .map(|_| ())
            .ok_or_else(|| format!("{sign} is missing"))
    }

    fn deeper<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        if self.depth >= MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH}"));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn ternary(&mut self) -> Result<Value, String> {
        self.deeper(|parser| {
            let condition = parser.disjunction()?;
            if parser.take(&["?"]).is_none() {
                return Ok(condition);
            }
            let yes = parser.ternary()?;
            parser.expect(":")?;
            let no = parser.ternary()?;
            Ok(if condition.is_true() { yes } else { no })
        })
    }

    fn disjunction(&mut self) -> Result<Value, String> {
        let mut left = self.conjunction()?;
        while self.take(&["|", "||"]).is_some() {
            let right = self.conjunction()?;
            left = Value::Truth(left.is_true() || right.is_true());
        }
        Ok(left)
    }

    fn conjunction(&mut self) -> Result<Value, String> {
        let mut left = self.negation()?;
        while self.take(&["&", "&&"]).is_some() {
            let right = self.negation()?;
            left = Value::Truth(left.is_true() && right.is_true());
        }
        Ok(left)
    }

    fn negation(&mut self) -> Result<Value, String> {
        if self.take(&["not"]).is_none() {
            return self.comparison();
        }
        let value = self.deeper(Self::negation)?;
        Ok(Value::Truth(!value.is_true()))
    }

    fn comparison(&mut self) -> Result<Value, String> {
        let mut left = self.sum()?;
        while let Some(sign) = self.take(&["<=", ">=", "==", "!=", "<>", "<", ">"]) {
            let right = self.sum()?;
            left = Value::Truth(compare(sign, &left, &right)?);
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<Value, String> {
        let mut left = self.product()?;
        while let Some(sign) = self.take(&["+", "-"]) {
            let right = self.product()?;
            let (a, b) = numbers(&left, &right)?;
            left = Value::Number(if sign == "+" { a + b } else { a - b });
        }
        Ok(left)
    }

    fn product(&mut self) -> Result<Value, String> {
        let mut left = self.signed()?;
        while let Some(sign) = self.take(&["*", "/"]) {
            let right = self.signed()?;
            let (a, b) = numbers(&left, &right)?;
            if sign == "/" && b == 0.0 && self.names.is_some() {
                return Err("division by zero".to_owned());
            }
            left = Value::Number(if sign == "*" { a * b } else { a / b });
        }
        Ok(left)
    }

    fn signed(&mut self) -> Result<Value, String> {
        match self.take(&["+", "-"]) {
            None => self.power(),
            Some(sign) => {
                let value = self.deeper(Self::signed)?;
                let number = value.number().ok_or("a sign before a text")?;
                Ok(Value::Number(if sign == "-" { -number } else { number }))
            }
        }
    }

    fn power(&mut self) -> Result<Value, String> {
        let base = self.primary()?;
        if self.take(&["^"]).is_none() {
            return Ok(base);
        }
        let exponent = self.deeper(Self::signed)?;
        let (base, exponent) = numbers(&base, &exponent)?;
        Ok(Value::Number(base.powf(exponent)))
    }

    fn primary(&mut self) -> Result<Value, String> {
        if self.take(&["("]).is_some() {
            let value = self.ternary()?;
            self.expect(")")?;
            return Ok(value);
        }
        let token = self.tokens.get(self.position).cloned();
        self.position += 1;
        match token {
            Some(Token::Number(number)) => Ok(Value::Number(number)),
            Some(Token::Text(text)) => Ok(Value::Text(text)),
            Some(Token::Name(name)) if self.take(&["("]).is_some() => self.call(&name),
            Some(Token::Name(name)) => match self.names {
                None => Ok(Value::Number(1.0)),
                Some(names) => {
                    let name = name.trim_start_matches('$');
                    let value = names.get(name).cloned();
                    value.ok_or_else(|| format!("{name} is not known"))
                }
            },
            Some(Token::Sign(sign)) => Err(format!("unexpected {sign}")),
            None => Err("it ends too early".to_owned()),
        }
    }

    fn call(&mut self, function: &str) -> Result<Value, String> {
        let mut arguments = Vec::new();
        loop {
            let argument = self.ternary()?.number();
            arguments.push(argument.ok_or_else(|| format!("{function} of a text"))?);
            if self.take(&[","]).is_none() {
                break;
            }
        }
        self.expect(")")?;
        let value = match (function, arguments.as_slice()) {
            ("abs", [number]) => number.abs(),
            ("max", numbers) => numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            ("min", numbers) => numbers.iter().copied().fold(f64::INFINITY, f64::min),
            _ => {
                return Err(format!(
                    "no function {function} of {} values",
                    arguments.len()
                ));
            }
        };
        Ok(Value::Number(value))
    }
}

fn numbers(left: &Value, right: &Value) -> Result<(f64, f64), String> {
    left.number()
        .zip(right.number())
        .ok_or_else(|| "arithmetic with a text".to_owned())
}

/// Two numbers by value, anything else as texts.
fn compare(sign: &str, left: &Value, right: &Value) -> Result<bool, String> {
    let order = match (left.number(), right.number()) {
        (Some(left), Some(right)) => left.total_cmp(&right),
        _ => text_of(left).cmp(&text_of(right)),
    };
    Ok(match sign {
        "<" => order.is_lt(),
        ">" => order.is_gt(),
        "<=" => order.is_le(),
        ">=" => order.is_ge(),
        "==" => order.is_eq(),
        _ => order.is_ne(),
    })
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Truth(truth) => if *truth { "True" } else { "False" }.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known() -> Names {
        [
            ("volume.size".to_owned(), Value::Number(10.0)),
            ("extra.kind".to_owned(), Value::Text("ssd".into())),
        ]
        .into()
    }

    #[test]
    fn arithmetic_and_conditions() {
        for (text, expected) in [
            ("1+1", 2.0),
            ("1.1 + 1.01", 2.11),
            ("5-4*2", -3.0),
            ("(5-4)*2", 2.0),
            ("2^3", 8.0),
            ("-2^2", -4.0),
            ("2^-1", 0.5),
            ("10/4", 2.5),
            ("max(1, min(9, volume.size), 3)", 9.0),
            ("abs(-5)", 5.0),
            ("volume.size-1", 9.0),
            ("volume.size > 5 ? 1 : 2", 1.0),
            ("0 ? 1 : 0 ? 2 : 3", 3.0),
        ] {
            let number = evaluate(text, &known()).unwrap().number().unwrap();
            assert!((number - expected).abs() < 1e-9, "{text} = {number}");
        }
        for (text, expected) in [
            ("1 < 2", true),
            ("2 <= 1", false),
            ("volume.size == 10 and not (extra.kind == 'hdd')", true),
            ("!1 || extra.kind != \"ssd\"", false),
            ("1 <> 1 or 3 >= 3", true),
        ] {
            assert_eq!(
                evaluate(text, &known()).unwrap().is_true(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for text in [
            "",
            "1 +",
            "(1",
            "1)",
            "1 2",
            "nothing.known",
            "1/0",
            "'open",
            "1 ? 2",
            "sin(1)",
            "abs(1, 2)",
            "'a' + 1",
            "1..2",
            "#",
        ] {
            assert!(evaluate(text, &known()).is_err(), "{text}");
        }
        assert!(evaluate(&"(".repeat(2000), &known()).is_err());
        assert!(evaluate(&"-".repeat(2000), &known()).is_err());
        assert!(evaluate(&"1+".repeat(9000), &known()).is_err());
        assert!(check("volume.size / capabilities.total_capacity_gb < 3").is_ok());
        assert!(check("volume.size <").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-+*/^()<>=!?:&|,.'\"a-z0-9 ]{0,80}") {
            let _ = evaluate(&text, &known());
            let _ = check(&text);
        }
    }
}

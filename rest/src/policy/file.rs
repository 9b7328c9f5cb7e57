//! A policy file: YAML (of which JSON is a part) with one mapping of rule names to rules.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::Value;

use super::{Check, PolicyError, parse};

/// A rule of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleText {
    pub name: String,
    pub check: Check,
    pub path: String,
}

/// A rule as it is written: the language, or the old list of lists.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Written {
    Text(String),
    List(Vec<Vec<String>>),
}

/// The rules of a file's text. The last of equal names counts.
pub fn parse(path: &str, text: &str) -> Result<Vec<RuleText>, PolicyError> {
    let failed = |reason: String| PolicyError::File {
        path: path.to_owned(),
        reason,
    };
    let written = written(text).map_err(failed)?;
    let rule = |(name, written): (String, Written)| {
        let check = match &written {
            Written::Text(text) => parse::rule(text),
            Written::List(list) => parse::list(list),
        };
        match check {
            Ok(check) => Ok(RuleText {
                name,
                check,
                path: path.to_owned(),
            }),
            Err(reason) => Err(failed(format!("rule {name:?}: {reason}"))),
        }
    };
    written.into_iter().map(rule).collect()
}

fn written(text: &str) -> Result<BTreeMap<String, Written>, String> {
    // JSON may be indented with tabs, which YAML forbids.
    if text.trim_start().starts_with('{')
        && let Ok(Value::Object(object)) = serde_json::from_str(text)
    {
        let pairs = object.into_iter();
        return pairs
            .map(|(name, value)| Ok((name.clone(), of_json(&name, value)?)))
            .collect();
    }
    of_yaml(text)
}

fn of_json(name: &str, value: Value) -> Result<Written, String> {
    let alternative = |value: Value| match value {
        Value::String(word) => Some(vec![word]),
        Value::Array(all) => all
            .into_iter()
            .map(|word| word.as_str().map(str::to_owned))
            .collect(),
        _ => None,
    };
    let written = match value {
        Value::String(text) => Some(Written::Text(text)),
        Value::Array(list) => list
            .into_iter()
            .map(alternative)
            .collect::<Option<_>>()
            .map(Written::List),
        _ => None,
    };
    written.ok_or_else(|| not_a_rule(name))
}

fn not_a_rule(name: &str) -> String {
    format!("rule {name:?} is neither a text nor a list (\"\" or \"@\" admits everybody)")
}

/// A reader of YAML's events, which knows nothing but a mapping of texts and lists: so nesting,
/// aliases and tags cost nothing.
struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    line: usize,
}

fn of_yaml(text: &str) -> Result<BTreeMap<String, Written>, String> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        line: 0,
    };
    let rules = reader.document();
    rules.map_err(|reason| match reader.line {
        0 => reason,
        line => format!("line {line}: {reason}"),
    })
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Event<'a>, String> {
        loop {
            let (event, span) = match self.parser.next() {
                Some(Ok(next)) => next,
                Some(Err(error)) => {
                    self.line = 0;
                    return Err(error.to_string());
                }
                None => return Err("ends too early".to_owned()),
            };
            self.line = span.start.line();
            match event {
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => {}
                event => return Ok(event),
            }
        }
    }

    fn document(&mut self) -> Result<BTreeMap<String, Written>, String> {
        let mut rules = BTreeMap::new();
        match self.next()? {
            // Nothing but comments.
            Event::StreamEnd => return Ok(rules),
            Event::Scalar(text, ScalarStyle::Plain, ..) if is_null(&text) => {}
            Event::MappingStart(..) => loop {
                let name = match self.next()? {
                    Event::MappingEnd => break,
                    Event::Scalar(name, ..) => name.into_owned(),
                    _ => return Err("a rule's name must be a text".to_owned()),
                };
                let rule = self.rule(&name)?;
                rules.insert(name, rule);
            },
            _ => return Err("the file must be one mapping of rule names to rules".to_owned()),
        }
        match (self.next()?, self.next()?) {
            (Event::DocumentEnd, Event::StreamEnd) => Ok(rules),
            _ => Err("the file must hold one document".to_owned()),
        }
    }

    fn rule(&mut self, name: &str) -> Result<Written, String> {
        match self.next()? {
            Event::Scalar(text, style, ..) => word(text.into_owned(), style)
                .map(Written::Text)
                .ok_or_else(|| not_a_rule(name)),
            Event::SequenceStart(..) => {
                let mut list = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => return Ok(Written::List(list)),
                        Event::Scalar(text, style, ..) => {
                            let word = word(text.into_owned(), style);
                            list.push(vec![word.ok_or_else(|| not_a_rule(name))?]);
                        }
                        Event::SequenceStart(..) => list.push(self.words(name)?),
                        _ => return Err(not_a_rule(name)),
                    }
                }
            }
            Event::Alias(_) => Err(format!("rule {name:?}: aliases are not supported")),
            _ => Err(not_a_rule(name)),
        }
    }

    fn words(&mut self, name: &str) -> Result<Vec<String>, String> {
        let mut words = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(words),
                Event::Scalar(text, style, ..) => {
                    let word = word(text.into_owned(), style);
                    words.push(word.ok_or_else(|| not_a_rule(name))?);
                }
                _ => return Err(not_a_rule(name)),
            }
        }
    }
}

/// A text; a plain `null` or `true` is none, and no check either.
fn word(text: String, style: ScalarStyle) -> Option<String> {
    let is_plain = style == ScalarStyle::Plain;
    (!is_plain || (!is_null(&text) && text.contains(':'))).then_some(text)
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> Result<Vec<(String, String)>, String> {
        let rules = parse("p.yaml", text).map_err(|error| error.to_string())?;
        let pair = |rule: RuleText| (rule.name, rule.check.to_string());
        Ok(rules.into_iter().map(pair).collect())
    }

    #[test]
    fn yaml_json_and_the_old_lists() {
        let yaml = "# Cinder's\n\"volume:create\": \"role:a or\n  role:b\"\n\
                    volume:get: rule:x   # plain\n\"open\": \"\"\n\"shut\": \"!\"\n\
                    'old': [[\"role:a\", \"role:b\"], \"role:c\"]\nnone: []\nblock: >\n  role:z\n";
        let expected = [
            ("block", "role:z"),
            ("none", "@"),
            ("old", "((role:a and role:b) or role:c)"),
            ("open", "@"),
            ("shut", "!"),
            ("volume:create", "(role:a or role:b)"),
            ("volume:get", "rule:x"),
        ];
        let expected = expected.map(|(name, check)| (name.to_owned(), check.to_owned()));
        assert_eq!(shown(yaml).unwrap(), expected);
        let json = "{\n\t\"a\": \"role:x\",\n\t\"b\": [[\"role:y\"]]\n}\n";
        let pairs = shown(json).unwrap();
        assert_eq!(pairs[1], ("b".to_owned(), "role:y".to_owned()));
        for empty in ["", "# nothing\n", "---\n", "{}"] {
            assert_eq!(shown(empty), Ok(vec![]), "{empty:?}");
        }
    }

    #[test]
    fn what_is_wrong_names_file_line_and_rule() {
        for (text, part) in [
            ("a:\n", "rule \"a\" is neither"),
            ("a: true\n", "rule \"a\" is neither"),
            ("a: 'x:1'\nb: {c: d}\n", "line 2: rule \"b\" is neither"),
            ("- a\n", "one mapping"),
            ("a: &x 'r:1'\nb: *x\n", "aliases"),
            ("a: 'role:x or'\n", "rule \"a\": a check is missing"),
            ("a: 'x:1'\n---\nb: 'x:1'\n", "one document"),
            ("a: [\n", "p.yaml: "),
            ("a: [[['role:x']]]\n", "neither"),
            ("{\"a\": 1}", "neither"),
        ] {
            let error = shown(text).expect_err(text);
            assert!(
                error.starts_with("p.yaml: ") && error.contains(part),
                "{text:?}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse("p", &text);
        }

        #[test]
        fn near_yaml_never_panics(text in "([a:\\[\\]{}'\"&*!|> \n-]|role:x){0,30}") {
            let _ = parse("p", &text);
        }
    }
}

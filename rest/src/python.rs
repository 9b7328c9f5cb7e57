//! Python's spelling of values, which Cinder's contract shows in two places: `repr` in the texts
//! of validation errors, and literals as values of filters (`metadata={'key': 'value'}`).

use serde_json::{Map, Value};

/// The longest text of one value in an error message; the rest is cut.
const MAX_SHOWN_CHARS: usize = 256;
/// The deepest nesting of a literal.
const MAX_DEPTH: u32 = 16;

/// `repr(value)`: `-1`, `'text'`, `None`, `True`, `{'a': [1]}`; cut after some hundred characters.
pub fn repr(value: &Value) -> String {
    let mut out = String::new();
    write_repr(value, &mut out);
    shorten(out)
}

/// `repr` of a dict.
pub fn repr_map(map: &Map<String, Value>) -> String {
    let mut out = String::new();
    write_map(map, &mut out);
    shorten(out)
}

/// `str(value)`: as [`repr`], but a text stands without quotes.
pub fn str(value: &Value) -> String {
    match value {
        Value::String(text) => shorten(text.clone()),
        other => repr(other),
    }
}

/// `repr` of a text.
pub fn repr_str(text: &str) -> String {
    let mut out = String::new();
    write_text(text, &mut out);
    shorten(out)
}

/// `'a', 'b'`: how the validator lists names.
pub fn join_reprs<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<_> = texts.into_iter().map(repr_str).collect();
    shorten(quoted.join(", "))
}

fn shorten(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(MAX_SHOWN_CHARS) {
        text.truncate(at);
        text.push('…');
    }
    text
}

fn write_repr(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                if out.len() > MAX_SHOWN_CHARS * 4 {
                    break;
                }
                if n > 0 {
                    out.push_str(", ");
                }
                write_repr(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => write_map(map, out),
    }
}

fn write_map(map: &Map<String, Value>, out: &mut String) {
    out.push('{');
    for (n, (key, item)) in map.iter().enumerate() {
        // What is cut away later need not be written.
        if out.len() > MAX_SHOWN_CHARS * 4 {
            break;
        }
        if n > 0 {
            out.push_str(", ");
        }
        write_text(key, out);
        out.push_str(": ");
        write_repr(item, out);
    }
    out.push('}');
}

fn write_text(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars().take(MAX_SHOWN_CHARS + 1) {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// Reads a Python literal (`ast.literal_eval`): texts, integers, `True`, `False`, `None`, lists,
/// tuples and dicts with text keys. `None` for anything else.
pub fn literal(text: &str) -> Option<Value> {
    let mut reader = Reader {
        rest: text,
        depth: 0,
    };
    let value = reader.value()?;
    reader.skip_spaces();
    reader.rest.is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
    depth: u32,
}

impl Reader<'_> {
    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, token: char) -> bool {
        self.skip_spaces();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self) -> Option<Value> {
        self.skip_spaces();
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let value = match self.rest.chars().next()? {
            '\'' | '"' => Value::String(self.text()?),
            'u' if self
                .rest
                .get(1..)
                .is_some_and(|rest| rest.starts_with(['\'', '"'])) =>
            {
                self.rest = self.rest.get(1..)?;
                Value::String(self.text()?)
            }
            '[' => self.list(']')?,
            '(' => self.list(')')?,
            '{' => self.dict()?,
            '-' | '0'..='9' => self.number()?,
            _ => self.word()?,
        };
        self.depth -= 1;
        Some(value)
    }

    fn word(&mut self) -> Option<Value> {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word {
            "True" => Some(Value::Bool(true)),
            "False" => Some(Value::Bool(false)),
            "None" => Some(Value::Null),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Value> {
        let digits = self.rest.strip_prefix('-').unwrap_or(self.rest);
        let count = digits
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(digits.len());
        let sign = self.rest.len() - digits.len();
        let (number, rest) = self.rest.split_at(sign + count);
        // "1abc" and "1.5" are not integers; "01" is an error in Python, too.
        if rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-'))
            || (count > 1 && digits.starts_with('0'))
        {
            return None;
        }
        self.rest = rest;
        number.parse::<i64>().ok().map(Value::from)
    }

    fn text(&mut self) -> Option<String> {
        let quote = self.rest.chars().next()?;
        let mut out = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = self.rest.get(at + c.len_utf8()..)?;
                    return Some(out);
                }
                '\n' => return None,
                '\\' => match chars.next()?.1 {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    c @ ('\\' | '\'' | '"') => out.push(c),
                    _ => return None,
                },
                c => out.push(c),
            }
        }
        None
    }

    fn list(&mut self, end: char) -> Option<Value> {
        self.rest = self.rest.get(1..)?;
        let mut items = Vec::new();
        while !self.eat(end) {
            items.push(self.value()?);
            if !self.eat(',') {
                return self.eat(end).then_some(Value::Array(items));
            }
        }
        Some(Value::Array(items))
    }

    fn dict(&mut self) -> Option<Value> {
        self.rest = self.rest.get(1..)?;
        let mut map = Map::new();
        while !self.eat('}') {
            let Value::String(key) = self.value()? else {
                return None;
            };
            if !self.eat(':') {
                return None;
            }
            map.insert(key, self.value()?);
            if !self.eat(',') {
                return self.eat('}').then_some(Value::Object(map));
            }
        }
        Some(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reprs() {
        assert_eq!(
            repr(&json!({"a": [1, null, true]})),
            "{'a': [1, None, True]}"
        );
        assert_eq!(repr(&json!("it's")), "\"it's\"");
        assert_eq!(repr(&json!("a\n\\'\"")), "'a\\n\\\\\\'\"'");
        assert_eq!(str(&json!("x")), "x");
        assert!(repr(&json!("x".repeat(100_000))).chars().count() <= MAX_SHOWN_CHARS + 1);
    }

    #[test]
    fn literals() {
        assert_eq!(
            literal("{'k': 'v', u'n': [1, -2,]}"),
            Some(json!({"k": "v", "n": [1, -2]}))
        );
        assert_eq!(literal("('a', \"b\")"), Some(json!(["a", "b"])));
        assert_eq!(literal(" None "), Some(Value::Null));
        assert_eq!(literal("True"), Some(json!(true)));
        for bad in [
            "",
            "abc",
            "1abc",
            "01",
            "1.5",
            "{'a'",
            "{1: 2}",
            "'a",
            "['a' 'b']",
            "é",
            "-",
            "uu",
            "u",
            "ué",
        ] {
            assert_eq!(literal(bad), None, "{bad}");
        }
        assert_eq!(literal(&"[".repeat(10_000)), None);
    }
}

//! The language of oslo.policy: `role:admin or (project_id:%(project_id)s and not rule:frozen)`.
//!
//! Words are separated by blanks; parentheses stand at the edges of words; `not` binds closer
//! than `and`, and that closer than `or`. What oslo.policy would log and treat as "nobody" is an
//! error here.

use super::check::{Check, Piece, Template};

/// Parentheses and `not` in each other.
const DEEPEST: usize = 64;

#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    Open,
    Close,
    And,
    Or,
    Not,
    Word(&'a str),
}

/// Reads a rule; an empty one admits everybody.
pub fn rule(text: &str) -> Result<Check, String> {
    let tokens = tokens(text)?;
    if tokens.is_empty() {
        return Ok(Check::Always);
    }
    let mut parser = Parser {
        tokens: &tokens,
        depth: 0,
    };
    let check = parser.alternatives()?;
    match parser.tokens {
        [] => Ok(check),
        [Token::Close, ..] => Err("a ) closes nothing".to_owned()),
        _ => Err("two checks need an \"and\" or an \"or\" between them".to_owned()),
    }
}

/// The old form: a list of alternatives, each a check or a list of checks that all must hold.
pub fn list(alternatives: &[Vec<String>]) -> Result<Check, String> {
    if alternatives.is_empty() {
        return Ok(Check::Always);
    }
    let mut checks = Vec::new();
    for alternative in alternatives.iter().filter(|all| !all.is_empty()) {
        let all: Result<Vec<_>, _> = alternative.iter().map(|word| check(word)).collect();
        checks.push(one_or(all?, Check::And));
    }
    match checks.is_empty() {
        true => Ok(Check::Never),
        false => Ok(one_or(checks, Check::Or)),
    }
}

/// The only check, or all of them joined.
fn one_or(mut checks: Vec<Check>, join: fn(Vec<Check>) -> Check) -> Check {
    match (checks.pop(), checks.is_empty()) {
        (Some(only), true) => only,
        (last, _) => {
            checks.extend(last);
            join(checks)
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut tokens = Vec::new();
    for word in text.split_whitespace() {
        let inner = word.trim_start_matches('(');
        tokens.extend((inner.len()..word.len()).map(|_| Token::Open));
        let clean = inner.trim_end_matches(')');
        if !clean.is_empty() {
            tokens.push(match clean.to_ascii_lowercase().as_str() {
                "and" => Token::And,
                "or" => Token::Or,
                "not" => Token::Not,
                _ if is_quoted(inner) => return Err(format!("{inner} alone is no check")),
                _ => Token::Word(clean),
            });
        }
        tokens.extend((clean.len()..inner.len()).map(|_| Token::Close));
    }
    Ok(tokens)
}

fn is_quoted(word: &str) -> bool {
    let quoted = |quote| word.len() >= 2 && word.starts_with(quote) && word.ends_with(quote);
    quoted('"') || quoted('\'')
}

struct Parser<'t, 'a> {
    tokens: &'t [Token<'a>],
    depth: usize,
}

impl Parser<'_, '_> {
    fn take(&mut self, token: &Token<'_>) -> bool {
        match self.tokens.split_first() {
            Some((first, rest)) if first == token => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }

    fn alternatives(&mut self) -> Result<Check, String> {
        let mut checks = vec![self.conjunction()?];
        while self.take(&Token::Or) {
            checks.push(self.conjunction()?);
        }
        Ok(one_or(checks, Check::Or))
    }

    fn conjunction(&mut self) -> Result<Check, String> {
        let mut checks = vec![self.term()?];
        while self.take(&Token::And) {
            checks.push(self.term()?);
        }
        Ok(one_or(checks, Check::And))
    }

    fn term(&mut self) -> Result<Check, String> {
        let Some((first, rest)) = self.tokens.split_first() else {
            return Err("a check is missing at the end".to_owned());
        };
        self.tokens = rest;
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("more than {DEEPEST} levels"));
        }
        let check = match first {
            Token::Word(word) => check(word)?,
            Token::Not => Check::Not(Box::new(self.term()?)),
            Token::Open => {
                let inner = self.alternatives()?;
                if !self.take(&Token::Close) {
                    return Err("a ( is not closed".to_owned());
                }
                inner
            }
            Token::And => return Err("a check is missing before \"and\"".to_owned()),
            Token::Or => return Err("a check is missing before \"or\"".to_owned()),
            Token::Close => return Err("a check is missing before )".to_owned()),
        };
        self.depth -= 1;
        Ok(check)
    }
}

/// One check: `@`, `!` or `kind:value`.
fn check(word: &str) -> Result<Check, String> {
    match word {
        "@" => return Ok(Check::Always),
        "!" => return Ok(Check::Never),
        _ => {}
    }
    let (kind, value) = word
        .split_once(':')
        .filter(|(kind, _)| !kind.is_empty())
        .ok_or_else(|| format!("{word:?} is no check: it has no kind before a \":\""))?;
    Ok(match kind {
        "rule" => Check::Rule(value.to_owned()),
        "role" => Check::Role(template(value)?),
        "http" | "https" => {
            return Err(format!(
                "{word:?}: asking another server ({kind}:) is not supported, write the rule itself"
            ));
        }
        _ => {
            let value = template(value)?;
            match literal(kind) {
                Some(text) => Check::Literal { text, value },
                None => Check::Attribute {
                    name: kind.to_owned(),
                    value,
                },
            }
        }
    })
}

/// The text of a Python literal.
fn literal(kind: &str) -> Option<String> {
    if is_quoted(kind) {
        return kind.get(1..kind.len() - 1).map(str::to_owned);
    }
    let number = kind.bytes().all(|b| b.is_ascii_digit());
    (number || matches!(kind, "True" | "False" | "None")).then(|| kind.to_owned())
}

/// A text with `%(field)s`; `%%` is a per cent sign.
fn template(text: &str) -> Result<Template, String> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            plain.push('%');
            rest = after;
            continue;
        }
        let field = after
            .strip_prefix('(')
            .and_then(|after| after.split_once(")s"));
        let Some((name, after)) = field.filter(|(name, _)| !name.is_empty()) else {
            return Err(format!("{text:?}: after % must come (field)s or another %"));
        };
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        pieces.push(Piece::Field(name.to_owned()));
        rest = after;
    }
    plain.push_str(rest);
    if !plain.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(Template(pieces))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        rule(text).map_or_else(|error| error, |check| check.to_string())
    }

    #[test]
    fn and_binds_closer_than_or_and_not_closest() {
        for (text, means) in [
            ("", "@"),
            ("@", "@"),
            ("!", "!"),
            ("role:admin", "role:admin"),
            ("a:1 or b:2 and c:3", "(a:1 or (b:2 and c:3))"),
            ("a:1 and b:2 or c:3", "((a:1 and b:2) or c:3)"),
            ("(a:1 or b:2) and c:3", "((a:1 or b:2) and c:3)"),
            (
                "not a:1 AND NOT (b:2 or c:3)",
                "(not a:1 and not (b:2 or c:3))",
            ),
            ("((a:%(b)s))", "a:%(b)s"),
            ("'community':%(visibility)s", "'community':%(visibility)s"),
            ("is_admin:True", "is_admin:True"),
            ("True:%(user.enabled)s", "True:%(user.enabled)s"),
            ("role:a%%b-%(x)s-%(y)s", "role:a%%b-%(x)s-%(y)s"),
            ("role:compute:admin", "role:compute:admin"),
        ] {
            assert_eq!(shown(text), means, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("a:1 b:2", "\"and\" or an \"or\""),
            ("(a:1", "not closed"),
            ("a:1)", "closes nothing"),
            ("a:1 and", "missing at the end"),
            ("or a:1", "before \"or\""),
            ("()", "before )"),
            ("admin", "no kind"),
            (":admin", "no kind"),
            ("'quoted'", "alone is no check"),
            ("a:%(b)d", "(field)s"),
            ("http://h/%(x)s", "not supported"),
        ] {
            let error = rule(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(rule(&"(".repeat(10_000)).is_err());
        assert!(rule(&"not ".repeat(10_000)).is_err());
    }

    #[test]
    fn the_list_form_is_or_of_and() {
        let words = |words: &[&[&str]]| {
            let alternatives: Vec<Vec<String>> = words
                .iter()
                .map(|all| all.iter().map(|word| (*word).to_owned()).collect())
                .collect();
            list(&alternatives).map(|check| check.to_string())
        };
        assert_eq!(words(&[]).as_deref(), Ok("@"));
        assert_eq!(words(&[&[]]).as_deref(), Ok("!"));
        assert_eq!(words(&[&["role:a"]]).as_deref(), Ok("role:a"));
        let both = words(&[&["role:a", "is_admin:True"], &["rule:x"]]);
        assert_eq!(
            both.as_deref(),
            Ok("((role:a and is_admin:True) or rule:x)")
        );
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_parses_parses_again(
            text in "(\\(|\\)| |and |or |not |@|!|role:a|'x':%\\(y\\)s|%){0,12}"
        ) {
            if let Ok(check) = rule(&text) {
                prop_assert_eq!(rule(&check.to_string()), Ok(check));
            }
        }
    }
}

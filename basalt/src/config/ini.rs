//! The INI dialect of oslo.config: sections, `name = value` or `name: value`, continuation lines.
//!
//! As in oslo.config's parser: a line that starts with white space continues the value before
//! it (joined by a newline), an empty line ends a value, `#` and `;` start a comment only at the
//! beginning of a line, quotes around a whole one-line value are taken off, and an assignment
//! before the first section is an error.

/// One `name = value` with where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub section: String,
    pub name: String,
    /// Continuation lines are joined by `\n`.
    pub value: String,
    /// Counted from 1.
    pub line: usize,
}

/// A line that is no INI.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct SyntaxError {
    pub line: usize,
    pub reason: &'static str,
}

/// Reads a whole file, assignments in their order; a name may come several times.
pub fn parse(text: &str) -> Result<Vec<Assignment>, SyntaxError> {
    let mut parser = Parser::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let at = index.saturating_add(1);
        parser
            .line(line.trim_end())
            .map_err(|reason| SyntaxError { line: at, reason })?;
    }
    Ok(parser
        .assignments
        .into_iter()
        .map(|(assignment, _)| assignment)
        .collect())
}

#[derive(Default)]
struct Parser {
    section: Option<String>,
    /// Each with whether a continuation line may still follow.
    assignments: Vec<(Assignment, bool)>,
    lines_read: usize,
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<(), &'static str> {
        self.lines_read = self.lines_read.saturating_add(1);
        if line.is_empty() {
            self.end_value();
            return Ok(());
        }
        if line.starts_with(char::is_whitespace) {
            return self.continuation(line.trim_start());
        }
        if line.starts_with(['#', ';']) {
            return Ok(());
        }
        self.end_value();
        match line.strip_prefix('[') {
            Some(rest) => self.section(rest),
            None => self.assignment(line),
        }
    }

    fn end_value(&mut self) {
        if let Some((_, open)) = self.assignments.last_mut() {
            *open = false;
        }
    }

    fn continuation(&mut self, text: &str) -> Result<(), &'static str> {
        match self.assignments.last_mut() {
            Some((assignment, true)) => {
                assignment.value.push('\n');
                assignment.value.push_str(text);
                Ok(())
            }
            _ => Err("an indented line continues a value, and there is none before it"),
        }
    }

    fn section(&mut self, rest: &str) -> Result<(), &'static str> {
        let name = rest.strip_suffix(']').ok_or("a section must end with ]")?;
        if name.is_empty() {
            return Err("a section must have a name");
        }
        self.section = Some(name.to_owned());
        Ok(())
    }

    fn assignment(&mut self, line: &str) -> Result<(), &'static str> {
        let (name, value) = line
            .split_once(['=', ':'])
            .ok_or("neither a [section], a comment nor name = value")?;
        let name = name.trim();
        if name.is_empty() {
            return Err("the option has no name");
        }
        let section = self
            .section
            .clone()
            .ok_or("an option must stand in a [section]")?;
        let assignment = Assignment {
            section,
            name: name.to_owned(),
            value: unquote(value.trim()).to_owned(),
            line: self.lines_read,
        };
        self.assignments.push((assignment, true));
        Ok(())
    }
}

fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        let inner = value
            .strip_prefix(quote)
            .and_then(|rest| rest.strip_suffix(quote));
        if let Some(inner) = inner {
            return inner;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(text: &str) -> Vec<(String, String, String)> {
        let assignments = parse(text).unwrap();
        assignments
            .into_iter()
            .map(|one| (one.section, one.name, one.value))
            .collect()
    }

    #[test]
    fn reads_what_oslo_config_reads() {
        let text = "\u{feff}# top\n[DEFAULT]\r\ndebug = true\n; note\nlist: a, b\nurl = http://h:1/\n\
                    quoted = \" padded \"\nodd = \"\n[lvm 1]\nx=\n";
        let expected = [
            ("DEFAULT", "debug", "true"),
            ("DEFAULT", "list", "a, b"),
            ("DEFAULT", "url", "http://h:1/"),
            ("DEFAULT", "quoted", " padded "),
            ("DEFAULT", "odd", "\""),
            ("lvm 1", "x", ""),
        ];
        let expected = expected.map(|(s, n, v)| (s.to_owned(), n.to_owned(), v.to_owned()));
        assert_eq!(values(text), expected);
    }

    #[test]
    fn indented_lines_continue_until_an_empty_line() {
        let text = "[a]\nfilters = One,\n  Two,\n\tThree\n# comment\n  Four\nnext = 1\n";
        let read = values(text);
        assert_eq!(read[0].2, "One,\nTwo,\nThree\nFour");
        assert_eq!(read[1].2, "1");
        let broken = parse("[a]\nx = 1\n\n  2\n").unwrap_err();
        assert_eq!(broken.line, 4);
    }

    #[test]
    fn broken_lines_are_named() {
        for (text, line) in [
            ("x = 1\n", 1),
            ("[a\n", 1),
            ("[]\n", 1),
            ("[a]\nnothing\n", 2),
            ("[a]\n= 1\n", 2),
            ("  indented\n", 1),
            ("[a]\n  indented\n", 2),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text:?}");
        }
        assert_eq!(parse("[a]\n\n\nx = 1\n").unwrap()[0].line, 4);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn near_ini_never_panics_and_keeps_its_sections(
            lines in proptest::collection::vec("(\\[[a-z\\]]{0,3}\\]?|[ \t]?[a-z\"'=: #;]{0,8})", 0..20)
        ) {
            if let Ok(read) = parse(&lines.join("\n")) {
                prop_assert!(read.iter().all(|one| !one.section.is_empty() && !one.name.is_empty()));
                prop_assert!(read.iter().all(|one| one.line >= 1 && one.line <= lines.len()));
            }
        }
    }
}

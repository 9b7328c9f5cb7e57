//! `$option`, `${option}` and `${section.option}` in values, `$$` and `\$` for a dollar sign:
//! the substitution of oslo.config.

/// Values may refer to values that refer on; this deep is a circle.
const DEEPEST: usize = 10;
/// What one value may grow to: references to references double it at each step.
const LONGEST_BYTES: usize = 64 * 1024;

/// Replaces the references in `text`, a value of `section`. `lookup(section, name)` gives the
/// text of another option, not yet substituted.
pub fn substitute<F>(text: &str, section: &str, lookup: &F) -> Result<String, String>
where
    F: Fn(&str, &str) -> Option<String>,
{
    let mut output = String::new();
    expand(text, section, lookup, 0, &mut output)?;
    Ok(output)
}

fn expand<F>(
    text: &str,
    section: &str,
    lookup: &F,
    depth: usize,
    output: &mut String,
) -> Result<(), String>
where
    F: Fn(&str, &str) -> Option<String>,
{
    if depth > DEEPEST {
        return Err("its references run in a circle".to_owned());
    }
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        push(output, before)?;
        if let Some(before) = output.strip_suffix('\\').filter(|_| before.ends_with('\\')) {
            output.truncate(before.len());
            output.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('$') {
            output.push('$');
            rest = after;
        } else if let Some((name, after)) = reference(after) {
            let (section, name) = name.split_once('.').unwrap_or((section, name));
            let value = lookup(section, name)
                .or_else(|| lookup("DEFAULT", name))
                .ok_or_else(|| {
                    format!("it refers to ${name}, which is no option (write $$ for a dollar sign)")
                })?;
            expand(&value, section, lookup, depth.saturating_add(1), output)?;
            rest = after;
        } else {
            output.push('$');
            rest = after;
        }
    }
    push(output, rest)
}

fn push(output: &mut String, text: &str) -> Result<(), String> {
    if output.len().saturating_add(text.len()) > LONGEST_BYTES {
        return Err("it grows too long with its references".to_owned());
    }
    output.push_str(text);
    Ok(())
}

/// The name right after a `$`, and what follows it.
fn reference(text: &str) -> Option<(&str, &str)> {
    if let Some(braced) = text.strip_prefix('{') {
        let (name, after) = braced.split_once('}')?;
        let whole = !name.is_empty() && name.chars().all(in_name) && !name.starts_with('.');
        return whole.then_some((name, after));
    }
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !text.starts_with(starts) {
        return None;
    }
    let end = text.find(|c| !in_name(c)).unwrap_or(text.len());
    text.split_at_checked(end)
}

fn in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookup(section: &str, name: &str) -> Option<String> {
        let value = match (section, name) {
            ("DEFAULT", "state_path") => "/var/lib",
            ("DEFAULT", "deep") => "$state_path/deep",
            ("DEFAULT", "loop") => "$loop",
            ("DEFAULT", "many") => "$more$more$more$more$more$more$more$more$more$more",
            ("DEFAULT", "more") => "$most$most$most$most$most$most$most$most$most$most",
            ("DEFAULT", "most") => {
                "0123456789012345678901234567890123456789012345678901234567890123456789\
                                    0123456789012345678901234567890123456789012345678901234567890123456789"
            }
            ("lvm", "own") => "own",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn references_are_replaced() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$state_path/x", "/var/lib/x"),
            ("${state_path}x", "/var/libx"),
            ("$deep", "/var/lib/deep"),
            ("$own ${DEFAULT.state_path} ${lvm.own}", "own /var/lib own"),
            ("a$$b", "a$b"),
            ("a\\$b", "a$b"),
            ("100$", "100$"),
            ("$1 ${} ${x", "$1 ${} ${x"),
        ] {
            assert_eq!(
                substitute(text, "lvm", &lookup).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn circles_unknown_names_and_bombs_are_refused() {
        assert!(
            substitute("$loop", "DEFAULT", &lookup)
                .unwrap_err()
                .contains("circle")
        );
        assert!(
            substitute("p$ssword", "DEFAULT", &lookup)
                .unwrap_err()
                .contains("$ssword")
        );
        let bomb = "$many".repeat(10);
        assert!(
            substitute(&bomb, "DEFAULT", &lookup)
                .unwrap_err()
                .contains("too long")
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\\\\${}a-z._]{0,40}") {
            let _ = substitute(&text, "DEFAULT", &|_: &str, _: &str| Some("x".to_owned()));
        }
    }
}

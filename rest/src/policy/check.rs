//! The parsed form of a rule, and what a single check compares.

use std::borrow::Cow;
use std::fmt;

use super::Fields;
use crate::RequestContext;

/// A rule of the language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// `@`, or an empty rule.
    Always,
    /// `!`
    Never,
    Not(Box<Check>),
    And(Vec<Check>),
    Or(Vec<Check>),
    /// `rule:name`
    Rule(String),
    /// `role:name`, without regard to case.
    Role(Template),
    /// `'text':value`, `True:value`, `1:value`: compares with the value itself.
    Literal {
        text: String,
        value: Template,
    },
    /// `attribute:value`: compares with an attribute of the caller.
    Attribute {
        name: String,
        value: Template,
    },
}

/// A text with `%(field)s` in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template(pub(super) Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Field(String),
}

impl Template {
    /// The text with the target's fields; `None`: the target lacks one.
    fn render<'a>(&'a self, target: &'a dyn Fields) -> Option<Cow<'a, str>> {
        match self.0.as_slice() {
            [Piece::Text(text)] => Some(Cow::Borrowed(text)),
            [Piece::Field(name)] => Some(Cow::Borrowed(shown(target.field(name)?))),
            pieces => {
                let mut text = String::new();
                for piece in pieces {
                    text.push_str(match piece {
                        Piece::Text(text) => text,
                        Piece::Field(name) => shown(target.field(name)?),
                    });
                }
                Some(Cow::Owned(text))
            }
        }
    }
}

/// A field without a value is Python's `None`. No attribute of a caller equals it: one that has
/// no project is in no "same project".
fn shown(value: Option<&str>) -> &str {
    value.unwrap_or("None")
}

impl Check {
    /// The answer of a check that has no others in it; `None` for those that do.
    pub(super) fn alone(&self, caller: &RequestContext, target: &dyn Fields) -> Option<bool> {
        Some(match self {
            Check::Always => true,
            Check::Never => false,
            Check::Role(role) => role
                .render(target)
                .is_some_and(|role| caller.has_role(&role)),
            Check::Literal { text, value } => {
                value.render(target).is_some_and(|value| value == *text)
            }
            Check::Attribute { name, value } => value
                .render(target)
                .is_some_and(|value| caller_has(caller, name, &value)),
            Check::Not(_) | Check::And(_) | Check::Or(_) | Check::Rule(_) => return None,
        })
    }
}

/// Whether the caller's attribute has this value, or holds it. The names are those of
/// oslo.context's policy values; what a caller lacks equals nothing.
fn caller_has(caller: &RequestContext, name: &str, value: &str) -> bool {
    let is = |held: Option<&str>| held == Some(value);
    let one_of = |held: &[String]| held.iter().any(|held| held == value);
    let boolean = |held: bool| value == if held { "True" } else { "False" };
    match name {
        "user_id" | "user" => is(Some(&caller.user_id)),
        "user_domain_id" => is(caller.user_domain_id.as_deref()),
        "project_id" | "tenant" | "tenant_id" => is(caller.project_id.as_deref()),
        "project_domain_id" => is(caller.project_domain_id.as_deref()),
        "domain_id" => is(caller.domain_id.as_deref()),
        "system_scope" => caller.is_system && value == "all",
        "roles" => one_of(&caller.roles),
        "service_roles" => one_of(&caller.service_roles),
        "is_admin" => boolean(caller.is_admin),
        "is_admin_project" => boolean(caller.is_admin_project),
        _ => false,
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Check::Always => f.write_str("@"),
            Check::Never => f.write_str("!"),
            Check::Not(check) => write!(f, "not {check}"),
            Check::And(checks) => joined(f, checks, " and "),
            Check::Or(checks) => joined(f, checks, " or "),
            Check::Rule(name) => write!(f, "rule:{name}"),
            Check::Role(role) => write!(f, "role:{role}"),
            Check::Literal { text, value } => match text.as_str() {
                "True" | "False" | "None" => write!(f, "{text}:{value}"),
                text => write!(f, "'{text}':{value}"),
            },
            Check::Attribute { name, value } => write!(f, "{name}:{value}"),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, checks: &[Check], word: &str) -> fmt::Result {
    f.write_str("(")?;
    for (number, check) in checks.iter().enumerate() {
        if number > 0 {
            f.write_str(word)?;
        }
        write!(f, "{check}")?;
    }
    f.write_str(")")
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(&text.replace('%', "%%")),
            Piece::Field(name) => write!(f, "%({name})s"),
        })
    }
}

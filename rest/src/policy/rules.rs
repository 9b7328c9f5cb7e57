//! All rules of a service by name: put together, checked against each other, and asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::file::RuleText;
use super::{Check, Dialect, Fields, Persona, PolicyError, PolicyOptions, Scope, parse};
use crate::RequestContext;

/// `rule:` references on top of each other.
const DEEPEST: usize = 32;
/// Checks in a rule, with all rules that it refers to.
const BIGGEST: usize = 10_000;

/// Where a rule comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The service's own default.
    Default,
    /// The file of this path.
    File(String),
}

/// A rule as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRule {
    pub name: String,
    pub check: String,
    pub source: Source,
}

/// Why a rule answers what it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub allowed: bool,
    /// One part of the rule per line, indented by its level, with its own answer.
    pub lines: Vec<String>,
}

#[derive(Debug)]
struct Rule {
    check: Check,
    source: Source,
    /// Rules of the service, not those that they are built of.
    scoped: bool,
}

#[derive(Debug, Default)]
pub(super) struct Rules {
    rules: BTreeMap<String, Rule>,
    scopes: &'static [Scope],
    warnings: Vec<String>,
}

impl Rules {
    /// The rules of the code.
    pub fn of_defaults(
        dialect: &Dialect,
        defaults: &[(&'static str, Persona)],
        options: &PolicyOptions,
    ) -> Self {
        let mut rules = Self {
            scopes: if options.enforce_scope {
                dialect.scopes
            } else {
                &[]
            },
            ..Self::default()
        };
        for (name, text) in dialect.base {
            rules.insert_default(name, text, None, false);
        }
        for (name, persona) in defaults {
            let text = match persona {
                Persona::Check(text) => text,
                persona => (dialect.check)(*persona),
            };
            let deprecated = (dialect.deprecated)(*persona);
            let deprecated = deprecated.filter(|_| !options.enforce_new_defaults);
            rules.insert_default(name, text, deprecated, true);
        }
        rules
    }

    fn insert_default(&mut self, name: &str, text: &str, or: Option<&str>, scoped: bool) {
        let check = match or {
            Some(or) => parse::rule(&format!("({text}) or ({or})")),
            None => parse::rule(text),
        };
        let check = check.unwrap_or_else(|error| {
            tracing::error!(rule = name, error, "a default policy rule does not parse");
            Check::Never
        });
        let source = Source::Default;
        let rule = Rule {
            check,
            source,
            scoped,
        };
        self.rules.insert(name.to_owned(), rule);
    }

    /// These rules with those of files in the place of equal names.
    pub fn overridden(mut self, overrides: Vec<RuleText>) -> Result<Self, PolicyError> {
        for one in overrides {
            let scoped = match self.rules.get(&one.name) {
                Some(rule) => rule.scoped,
                None => false,
            };
            let rule = Rule {
                check: one.check,
                source: Source::File(one.path),
                scoped,
            };
            self.rules.insert(one.name, rule);
        }
        let mut known = BTreeMap::new();
        for (name, rule) in &self.rules {
            self.size(name, &rule.check, 0, &mut known)?;
        }
        self.warnings = self.undefined();
        Ok(self)
    }

    /// Checks in a rule with everything that it refers to.
    ///
    /// Errors: rules that refer to themselves, or that are too deep or too big to be asked.
    fn size<'a>(
        &'a self,
        name: &str,
        check: &'a Check,
        depth: usize,
        known: &mut BTreeMap<&'a str, usize>,
    ) -> Result<usize, PolicyError> {
        let failed = |reason: String| PolicyError::Rule {
            rule: name.to_owned(),
            reason,
        };
        let size = match check {
            Check::Not(inner) => self.size(name, inner, depth, known)?,
            Check::And(inner) | Check::Or(inner) => {
                let mut sum = 0_usize;
                for one in inner {
                    sum = sum.saturating_add(self.size(name, one, depth, known)?);
                }
                sum
            }
            Check::Rule(other) if depth >= DEEPEST => {
                let reason = "refers to itself, or through more than";
                return Err(failed(format!("{reason} {DEEPEST} rules: {other:?}")));
            }
            Check::Rule(other) => match (known.get(other.as_str()), self.rules.get(other)) {
                (Some(size), _) => *size,
                (None, Some(rule)) => {
                    let size = self.size(name, &rule.check, depth.saturating_add(1), known)?;
                    known.insert(other, size);
                    size
                }
                (None, None) => 1,
            },
            _ => 1,
        };
        if size > BIGGEST {
            return Err(failed(format!("has more than {BIGGEST} checks in it")));
        }
        Ok(size)
    }

    /// References to rules that are not there: they admit nobody.
    fn undefined(&self) -> Vec<String> {
        fn find<'a>(rules: &Rules, check: &'a Check, missing: &mut Vec<&'a str>) {
            match check {
                Check::Not(inner) => find(rules, inner, missing),
                Check::And(inner) | Check::Or(inner) => {
                    inner.iter().for_each(|inner| find(rules, inner, missing));
                }
                Check::Rule(other) if !rules.rules.contains_key(other) => missing.push(other),
                _ => {}
            }
        }
        let mut warnings = Vec::new();
        for (name, rule) in &self.rules {
            let mut missing = Vec::new();
            find(self, &rule.check, &mut missing);
            let warning = |other| format!("rule {name:?} refers to {other:?}, which there is not");
            warnings.extend(missing.into_iter().map(warning));
        }
        warnings
    }

    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub fn list(&self) -> Vec<ListedRule> {
        let listed = |(name, rule): (&String, &Rule)| ListedRule {
            name: name.clone(),
            check: rule.check.to_string(),
            source: rule.source.clone(),
        };
        self.rules.iter().map(listed).collect()
    }

    /// The answer of a rule.
    pub fn allow(&self, caller: &RequestContext, name: &str, target: &dyn Fields) -> bool {
        match self.rules.get(name) {
            Some(rule) => self.is_in_scope(rule, caller) && self.holds(&rule.check, caller, target),
            None => {
                tracing::error!(rule = name, "unknown policy rule");
                false
            }
        }
    }

    fn is_in_scope(&self, rule: &Rule, caller: &RequestContext) -> bool {
        !rule.scoped || self.scopes.is_empty() || self.scopes.contains(&scope_of(caller))
    }

    fn holds(&self, check: &Check, caller: &RequestContext, target: &dyn Fields) -> bool {
        match check {
            Check::Not(inner) => !self.holds(inner, caller, target),
            Check::And(inner) => inner.iter().all(|one| self.holds(one, caller, target)),
            Check::Or(inner) => inner.iter().any(|one| self.holds(one, caller, target)),
            Check::Rule(name) => match self.rules.get(name) {
                Some(rule) => self.holds(&rule.check, caller, target),
                None => false,
            },
            alone => alone.alone(caller, target).unwrap_or(false),
        }
    }

    /// The answer with its reasons; `None`: no such rule.
    pub fn explain(
        &self,
        caller: &RequestContext,
        name: &str,
        target: &dyn Fields,
    ) -> Option<Explanation> {
        let rule = self.rules.get(name)?;
        let mut lines = Vec::new();
        let in_scope = self.is_in_scope(rule, caller);
        if !in_scope {
            let scope = scope_of(caller);
            lines.push(format!(
                "no   the rule is not for tokens of the scope {scope:?}"
            ));
        }
        self.say(&rule.check, caller, target, 0, &mut lines);
        Some(Explanation {
            allowed: in_scope && self.holds(&rule.check, caller, target),
            lines,
        })
    }

    fn say(
        &self,
        check: &Check,
        caller: &RequestContext,
        target: &dyn Fields,
        level: usize,
        lines: &mut Vec<String>,
    ) {
        let answer = if self.holds(check, caller, target) {
            "yes"
        } else {
            "no "
        };
        let mut line = format!("{answer}  {:width$}", "", width = level * 2);
        let shown = match check {
            Check::And(_) => "all of".to_owned(),
            Check::Or(_) => "one of".to_owned(),
            Check::Not(_) => "not".to_owned(),
            check => check.to_string(),
        };
        // Writing to a String cannot fail.
        let _ = write!(line, "{shown}");
        lines.push(line);
        let level = level.saturating_add(1);
        match check {
            Check::Not(inner) => self.say(inner, caller, target, level, lines),
            Check::And(inner) | Check::Or(inner) => inner
                .iter()
                .for_each(|one| self.say(one, caller, target, level, lines)),
            Check::Rule(name) => {
                if let Some(rule) = self.rules.get(name) {
                    self.say(&rule.check, caller, target, level, lines);
                }
            }
            _ => {}
        }
    }
}

fn scope_of(caller: &RequestContext) -> Scope {
    if caller.is_system {
        Scope::System
    } else if caller.domain_id.is_some() {
        Scope::Domain
    } else {
        Scope::Project
    }
}

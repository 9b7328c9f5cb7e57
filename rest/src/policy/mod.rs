//! Who may do what: rules in oslo.policy's language, those of the code and those of the
//! operator's files, through one evaluator.
//!
//! A service writes its defaults as a table of rule names and [`Persona`]s; its [`Dialect`] says
//! what a persona is in the language. Files (`policy.yaml`, `policy_dirs`) replace rules by name
//! and are read again when they change; a file that does not parse stops the start, and later
//! leaves the rules as they were. Nothing here knows which rules there are.

mod check;
mod file;
mod overrides;
mod parse;
mod rules;
mod target;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::RequestContext;

pub use check::Check;
pub use overrides::{PolicyFiles, watch};
pub use rules::{Explanation, ListedRule, Source};
pub use target::{Fields, Target};

use overrides::Fingerprint;
use rules::Rules;

/// Whom a default rule admits, as Cinder's and Glance's documentation name them. "Same project"
/// compares the token's project with the target's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persona {
    /// Anyone with a valid token.
    Any,
    /// R: admin, or reader of the same project.
    Reader,
    /// M: admin, or member of the same project.
    Member,
    /// A: admin.
    Admin,
    /// G of images: admin, or reader that owns the target or sees it by sharing or visibility.
    VisibleReader,
    /// D of images: admin, or member that owns the target or sees it by sharing or visibility.
    VisibleMember,
    /// SVC: the role `service`.
    Service,
    /// The role `service`, or [`Persona::Member`].
    ServiceOrMember,
    /// The role `service`, or admin.
    ServiceOrAdmin,
    /// Nobody.
    Nobody,
    /// A rule of its own, in the language.
    Check(&'static str),
}

/// What a token is for: the words of `scope_types`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    System,
    Domain,
    Project,
}

/// How a service expresses its personas in the language, with rule names that operators know
/// from Cinder's and Glance's policy files.
#[derive(Debug, Clone, Copy)]
pub struct Dialect {
    /// The rules that personas are built of; files may replace them too.
    pub base: &'static [(&'static str, &'static str)],
    pub check: fn(Persona) -> &'static str,
    /// What the rule admitted before the roles reader and member: added to it with `or` where
    /// `enforce_new_defaults` is off.
    pub deprecated: fn(Persona) -> Option<&'static str>,
    /// Scopes of tokens that the rules are for; empty: any.
    pub scopes: &'static [Scope],
}

/// `[oslo_policy]`.
#[derive(Debug, Clone)]
pub struct PolicyOptions {
    pub files: PolicyFiles,
    /// Refuse tokens of a scope that a rule is not for.
    pub enforce_scope: bool,
    pub enforce_new_defaults: bool,
}

impl Default for PolicyOptions {
    fn default() -> Self {
        Self {
            files: PolicyFiles::default(),
            enforce_scope: true,
            enforce_new_defaults: true,
        }
    }
}

/// Why the rules of files cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("rule {rule:?}: {reason}")]
    Rule { rule: String, reason: String },
}

/// The rule that said no. Becomes a 403 in either service's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy does not allow {rule}")]
pub struct Denied {
    pub rule: String,
}

/// A service's rules. Clones share them.
#[derive(Debug, Clone)]
pub struct Policy {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dialect: Dialect,
    defaults: Vec<(&'static str, Persona)>,
    rules: RwLock<Arc<Rules>>,
    loaded: Mutex<Loaded>,
}

/// What the rules in force were made of.
#[derive(Debug, Default)]
struct Loaded {
    options: PolicyOptions,
    fingerprint: Fingerprint,
}

impl Policy {
    /// `Policy::new(DIALECT, &[("volume:create", Persona::Member), …])`; the last of equal names
    /// counts. A default that does not parse is a mistake of ours: it denies, and is logged.
    pub fn new(dialect: Dialect, defaults: &[(&'static str, Persona)]) -> Self {
        let rules = Rules::of_defaults(&dialect, defaults, &PolicyOptions::default());
        Self {
            shared: Arc::new(Shared {
                dialect,
                defaults: defaults.to_vec(),
                rules: RwLock::new(Arc::new(rules)),
                loaded: Mutex::default(),
            }),
        }
    }

    /// Takes the options and the rules of their files. Reads files: not for an async worker.
    pub fn configure(&self, options: PolicyOptions) -> Result<(), PolicyError> {
        let fingerprint = options.files.fingerprint();
        let rules = self.load(&options)?;
        for warning in rules.warnings() {
            tracing::warn!("policy: {warning}");
        }
        self.replace(rules);
        let mut loaded = self.loaded();
        *loaded = Loaded {
            options,
            fingerprint,
        };
        Ok(())
    }

    /// Reads the files again if they changed; `true` if new rules are in force. Rules that do
    /// not fit leave the old ones, and are reported once. Not for an async worker.
    pub fn reload(&self) -> Result<bool, PolicyError> {
        let mut loaded = self.loaded();
        let fingerprint = loaded.options.files.fingerprint();
        if fingerprint == loaded.fingerprint {
            return Ok(false);
        }
        loaded.fingerprint = fingerprint;
        let rules = self.load(&loaded.options)?;
        self.replace(rules);
        Ok(true)
    }

    fn load(&self, options: &PolicyOptions) -> Result<Rules, PolicyError> {
        let overrides = options.files.read()?;
        let defaults = Rules::of_defaults(&self.shared.dialect, &self.shared.defaults, options);
        defaults.overridden(overrides)
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, Loaded> {
        self.shared
            .loaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, rules: Rules) {
        let current = self.shared.rules.write();
        *current.unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    fn current(&self) -> Arc<Rules> {
        let current = self.shared.rules.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether `rule` admits the caller for `target`. A name that is in no table denies, and is
    /// logged: it is a mistake of ours.
    pub fn allows<'a>(
        &self,
        context: &RequestContext,
        rule: &str,
        target: impl Into<Target<'a>>,
    ) -> bool {
        self.current().allow(context, rule, &target.into())
    }

    /// [`Policy::allows`], as a result for `?`.
    pub fn enforce<'a>(
        &self,
        context: &RequestContext,
        rule: &str,
        target: impl Into<Target<'a>>,
    ) -> Result<(), Denied> {
        if self.allows(context, rule, target) {
            return Ok(());
        }
        tracing::debug!(rule, user_id = %context.user_id, "denied by policy");
        Err(Denied {
            rule: rule.to_owned(),
        })
    }

    /// Whether the caller is an administrator of the service, as the rule `context_is_admin`
    /// says.
    pub fn is_admin(&self, context: &RequestContext) -> bool {
        self.allows(context, "context_is_admin", context)
    }

    /// Every rule by name, with its text and where it comes from.
    pub fn list(&self) -> Vec<ListedRule> {
        self.current().list()
    }

    /// The answer of a rule, part by part; `None`: no such rule.
    pub fn explain(
        &self,
        context: &RequestContext,
        rule: &str,
        target: &dyn Fields,
    ) -> Option<Explanation> {
        self.current().explain(context, rule, target)
    }

    /// The names of the service's own rules, for tests that go through them.
    pub fn rules(&self) -> impl Iterator<Item = &'static str> {
        self.shared.defaults.iter().map(|(name, _)| *name)
    }
}

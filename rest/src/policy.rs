//! The default policy rules as code: which persona may do what.

use std::collections::HashMap;

use crate::RequestContext;

/// Who a rule admits (the default rules of Cinder and Glance, new defaults enforced). "Same
/// project" compares the token's project with the target's.
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
}

/// What a rule is checked against.
#[derive(Debug, Clone, Copy, Default)]
pub struct Target<'a> {
    /// Owner of the resource; `None` where it has no owner (then only personas without "same
    /// project" admit).
    pub project_id: Option<&'a str>,
    /// The caller is a member of the image, or the image is public, community or shared.
    pub visible: bool,
}

impl<'a> From<&'a str> for Target<'a> {
    fn from(project_id: &'a str) -> Self {
        Self {
            project_id: Some(project_id),
            visible: false,
        }
    }
}

impl<'a> From<&'a String> for Target<'a> {
    fn from(project_id: &'a String) -> Self {
        Self::from(project_id.as_str())
    }
}

impl<'a> From<&'a RequestContext> for Target<'a> {
    /// The caller's own project: for lists and creation.
    fn from(context: &'a RequestContext) -> Self {
        Self {
            project_id: context.project_id.as_deref(),
            visible: false,
        }
    }
}

/// The rule that said no. Becomes a 403 in either service's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy does not allow {rule}")]
pub struct Denied {
    pub rule: String,
}

/// A service's rules by name.
#[derive(Debug, Clone)]
pub struct Policy {
    rules: HashMap<&'static str, Persona>,
}

impl Policy {
    /// `Policy::new(&[("volume:create", Persona::Member), …])`; the last of equal names counts.
    pub fn new(rules: &[(&'static str, Persona)]) -> Self {
        Self {
            rules: rules.iter().copied().collect(),
        }
    }

    /// Whether `rule` admits the caller for `target`. A name that is not in the table denies,
    /// and is logged: it is a mistake of ours.
    pub fn allows<'a>(
        &self,
        context: &RequestContext,
        rule: &str,
        target: impl Into<Target<'a>>,
    ) -> bool {
        match self.rules.get(rule) {
            Some(persona) => persona.admits(context, target.into()),
            None => {
                tracing::error!(rule, "unknown policy rule");
                false
            }
        }
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

    /// The names of all rules, for tests that go through them.
    pub fn rules(&self) -> impl Iterator<Item = &'static str> {
        self.rules.keys().copied()
    }
}

impl Persona {
    fn admits(self, context: &RequestContext, target: Target<'_>) -> bool {
        let own =
            context.project_id.is_some() && context.project_id.as_deref() == target.project_id;
        let service = || {
            context.has_role("service")
                || context
                    .service_roles
                    .iter()
                    .any(|role| role.eq_ignore_ascii_case("service"))
        };
        match self {
            Self::Any => true,
            Self::Nobody => false,
            Self::Service => service(),
            Self::ServiceOrAdmin => context.is_admin || service(),
            Self::ServiceOrMember => Self::Member.admits(context, target) || service(),
            _ if context.is_admin => true,
            Self::Admin => false,
            Self::Reader => own && context.has_role("reader"),
            Self::Member => own && context.has_role("member"),
            Self::VisibleReader => (own || target.visible) && context.has_role("reader"),
            Self::VisibleMember => (own || target.visible) && context.has_role("member"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(project: Option<&str>, roles: &[&str]) -> RequestContext {
        let mut context = RequestContext::internal("u", "p");
        context.project_id = project.map(str::to_owned);
        context.roles = roles.iter().map(|role| (*role).to_owned()).collect();
        context.is_admin = roles.contains(&"admin");
        context
    }

    fn admitted(persona: Persona, context: &RequestContext, target: Target<'_>) -> bool {
        Policy::new(&[("x", persona)]).allows(context, "x", target)
    }

    #[test]
    fn personas() {
        let own = Target::from("p");
        let other = Target::from("q");
        let shared = Target {
            project_id: Some("q"),
            visible: true,
        };
        let reader = caller(Some("p"), &["reader"]);
        let member = caller(Some("p"), &["member", "reader"]);
        let admin = caller(Some("p"), &["admin", "member", "reader"]);
        let service = caller(Some("s"), &["service"]);
        let unscoped = caller(None, &["member", "reader"]);

        assert!(admitted(Persona::Reader, &reader, own));
        assert!(!admitted(Persona::Reader, &reader, other));
        assert!(!admitted(Persona::Member, &reader, own));
        assert!(admitted(Persona::Member, &member, own));
        assert!(!admitted(Persona::Member, &member, other));
        assert!(!admitted(Persona::Admin, &member, own));
        for persona in [
            Persona::Reader,
            Persona::Member,
            Persona::Admin,
            Persona::VisibleMember,
        ] {
            assert!(admitted(persona, &admin, other), "{persona:?}");
        }
        assert!(!admitted(Persona::Service, &admin, own));
        assert!(admitted(Persona::Service, &service, own));
        assert!(admitted(Persona::ServiceOrMember, &member, own));
        assert!(admitted(Persona::VisibleReader, &reader, shared));
        assert!(!admitted(Persona::VisibleMember, &reader, shared));
        assert!(!admitted(Persona::Nobody, &admin, own));
        // No project on either side is not "the same project".
        assert!(!admitted(Persona::Reader, &unscoped, Target::default()));
    }

    #[test]
    fn an_unknown_rule_denies_even_an_admin() {
        let policy = Policy::new(&[]);
        let admin = caller(Some("p"), &["admin"]);
        let denied = policy.enforce(&admin, "volume:get", "p").unwrap_err();
        let fault = crate::Fault::from(denied);
        assert_eq!(
            fault.message,
            "Policy doesn't allow volume:get to be performed."
        );
        assert_eq!(fault.status, http::StatusCode::FORBIDDEN);
    }
}

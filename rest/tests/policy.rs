//! Rules of code and files through the one evaluator.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rest::RequestContext;
use rest::policy::{
    Dialect, Persona, Policy, PolicyError, PolicyFiles, PolicyOptions, Scope, Source, Target,
};

const DIALECT: Dialect = Dialect {
    base: &[
        ("context_is_admin", "role:admin"),
        ("owner", "project_id:%(project_id)s"),
    ],
    check,
    deprecated: |persona| (persona == Persona::Member).then_some("rule:owner"),
    scopes: &[Scope::Project],
};

fn check(persona: Persona) -> &'static str {
    match persona {
        Persona::Any => "@",
        Persona::Reader => "rule:context_is_admin or (role:reader and rule:owner)",
        Persona::Member => "rule:context_is_admin or (role:member and rule:owner)",
        Persona::Admin => "rule:context_is_admin",
        Persona::VisibleReader => {
            "role:reader and (rule:owner or project_id:%(member_id)s or 'public':%(visibility)s)"
        }
        Persona::Service => "role:service or service_roles:service",
        _ => "!",
    }
}

fn policy() -> Policy {
    Policy::new(
        DIALECT,
        &[
            ("any", Persona::Any),
            ("get", Persona::Reader),
            ("create", Persona::Member),
            ("reset", Persona::Admin),
            ("show_image", Persona::VisibleReader),
            ("locations", Persona::Service),
            ("never", Persona::Nobody),
            ("mine", Persona::Check("user_id:%(user_id)s")),
        ],
    )
}

fn caller(project: Option<&str>, roles: &[&str]) -> RequestContext {
    let mut context = RequestContext::internal("u", "p");
    context.project_id = project.map(str::to_owned);
    context.roles = roles.iter().map(|role| (*role).to_owned()).collect();
    context.is_admin = false;
    context
}

fn configured(policy: &Policy, folder: &Path) -> Result<(), PolicyError> {
    policy.configure(PolicyOptions {
        files: PolicyFiles {
            file: Some(folder.join("policy.yaml")),
            file_is_required: true,
            folders: vec![folder.join("policy.d")],
        },
        ..PolicyOptions::default()
    })
}

#[test]
fn personas_are_rules_of_the_language() {
    let policy = policy();
    let reader = caller(Some("p"), &["Reader"]);
    let member = caller(Some("p"), &["member", "reader"]);
    let admin = caller(Some("p"), &["admin"]);
    let unscoped = caller(None, &["member", "reader"]);
    for (rule, reads, writes, administers) in [
        ("any", true, true, true),
        ("get", true, true, true),
        ("create", false, true, true),
        ("reset", false, false, true),
        ("never", false, false, false),
    ] {
        assert_eq!(policy.allows(&reader, rule, "p"), reads, "{rule}");
        assert_eq!(policy.allows(&member, rule, "p"), writes, "{rule}");
        assert_eq!(policy.allows(&admin, rule, "q"), administers, "{rule}");
    }
    assert!(!policy.allows(&member, "create", "q"));
    assert!(policy.allows(&member, "mine", &member));
    assert!(!policy.allows(&member, "mine", "p"));
    // No project on either side is not "the same project".
    assert!(!policy.allows(&unscoped, "get", Target::default()));
    assert!(!policy.allows(&unscoped, "show_image", Target::default()));
}

#[test]
fn images_are_seen_by_members_and_by_visibility() {
    let policy = policy();
    let reader = caller(Some("p"), &["reader"]);
    let target = |member_id, visibility| Target {
        project_id: Some("q"),
        member_id,
        visibility: Some(visibility),
        ..Target::default()
    };
    assert!(policy.allows(&reader, "show_image", target(None, "public")));
    assert!(policy.allows(&reader, "show_image", target(Some("p"), "shared")));
    assert!(!policy.allows(&reader, "show_image", target(None, "private")));
}

#[test]
fn service_roles_come_from_the_service_token() {
    let policy = policy();
    let mut member = caller(Some("p"), &["member"]);
    assert!(!policy.allows(&member, "locations", "p"));
    member.service_roles = vec!["service".to_owned()];
    assert!(policy.allows(&member, "locations", "p"));
}

#[test]
fn tokens_of_another_scope_are_refused_unless_told_otherwise() {
    let policy = policy();
    let mut system = caller(None, &["admin"]);
    system.is_system = true;
    assert!(!policy.allows(&system, "reset", "p"));
    // What rules are built of has no scope.
    assert!(policy.is_admin(&system));
    let options = PolicyOptions {
        enforce_scope: false,
        ..PolicyOptions::default()
    };
    policy.configure(options).unwrap();
    assert!(policy.allows(&system, "reset", "p"));
}

#[test]
fn the_old_defaults_are_added_where_the_new_ones_are_not_enforced() {
    let policy = policy();
    let nobody = caller(Some("p"), &["something"]);
    assert!(!policy.allows(&nobody, "create", "p"));
    let options = PolicyOptions {
        enforce_new_defaults: false,
        ..PolicyOptions::default()
    };
    policy.configure(options).unwrap();
    assert!(policy.allows(&nobody, "create", "p"));
    assert!(!policy.allows(&nobody, "create", "q"));
    assert!(!policy.allows(&nobody, "get", "p"));
}

#[test]
fn files_replace_rules_and_are_read_again_when_they_change() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.yaml");
    fs::create_dir(folder.path().join("policy.d")).unwrap();
    fs::write(
        &file,
        "reset: 'rule:boss or rule:nowhere'\nboss: role:boss\n",
    )
    .unwrap();
    fs::write(folder.path().join("policy.d/1.json"), "{\"get\": \"!\"}").unwrap();
    fs::write(folder.path().join("policy.d/.hidden"), "any: [").unwrap();
    let policy = policy();
    configured(&policy, folder.path()).unwrap();
    let boss = caller(Some("p"), &["boss", "reader"]);
    assert!(policy.allows(&boss, "reset", "p"));
    assert!(!policy.allows(&boss, "get", "p"));
    let listed = policy.list();
    let rule = listed.iter().find(|rule| rule.name == "reset").unwrap();
    assert_eq!(rule.check, "(rule:boss or rule:nowhere)");
    assert_eq!(rule.source, Source::File(file.display().to_string()));

    assert_eq!(policy.reload(), Ok(false));
    fs::write(&file, "reset: '@'\n").unwrap();
    assert_eq!(policy.reload(), Ok(true));
    assert!(policy.allows(&caller(None, &[]), "reset", "p"));
    fs::remove_file(folder.path().join("policy.d/1.json")).unwrap();
    assert_eq!(policy.reload(), Ok(true));
    assert!(policy.allows(&boss, "get", "p"));
    // A broken file leaves the rules as they were, and is reported once.
    fs::write(&file, "reset: 'role:x and'\n").unwrap();
    let error = policy.reload().unwrap_err().to_string();
    assert!(error.contains("policy.yaml: rule \"reset\""), "{error}");
    assert_eq!(policy.reload(), Ok(false));
    assert!(policy.allows(&boss, "reset", "p"));
}

#[test]
fn files_that_cannot_be_used_stop_the_start() {
    for (text, part) in [
        ("a: 'rule:b'\nb: 'not rule:a'\n", "refers to itself"),
        ("a: 'http://h/'\n", "not supported"),
        ("a\n", "mapping"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("policy.yaml"), text).unwrap();
        let error = configured(&policy(), folder.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    }
    let error = configured(&policy(), Path::new("/nonexistent")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/policy.yaml"));
}

#[test]
fn an_explanation_shows_which_part_refuses() {
    let reader = caller(Some("p"), &["reader"]);
    let target = BTreeMap::from([("project_id".to_owned(), "q".to_owned())]);
    let explained = policy().explain(&reader, "get", &target).unwrap();
    assert!(!explained.allowed);
    let expected = "no   one of
no     rule:context_is_admin
no       role:admin
no     all of
yes      role:reader
no       rule:owner
no         project_id:%(project_id)s";
    assert_eq!(explained.lines.join("\n"), expected);
    assert!(policy().explain(&reader, "nowhere", &target).is_none());
}

#[test]
fn an_unknown_rule_denies_even_an_admin() {
    let admin = caller(Some("p"), &["admin"]);
    let denied = policy().enforce(&admin, "volume:get", "p").unwrap_err();
    let fault = rest::Fault::from(denied);
    assert_eq!(
        fault.message,
        "Policy doesn't allow volume:get to be performed."
    );
    assert_eq!(fault.status, http::StatusCode::FORBIDDEN);
}

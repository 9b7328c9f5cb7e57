//! Glance's default policy rules and who they admit.

use rest::policy::{Dialect, Persona, Policy, Scope};

/// Glance's personas in the language of its policy files. Its rules are for projects' tokens.
const DIALECT: Dialect = Dialect {
    base: &[
        ("default", ""),
        ("context_is_admin", "role:admin"),
        ("service_api", "role:service or role:admin"),
    ],
    check,
    deprecated,
    scopes: &[Scope::Project],
};

fn check(persona: Persona) -> &'static str {
    match persona {
        Persona::Any => "@",
        Persona::Reader => "rule:context_is_admin or (role:reader and project_id:%(project_id)s)",
        Persona::Member => "rule:context_is_admin or (role:member and project_id:%(project_id)s)",
        Persona::Admin => "rule:context_is_admin",
        Persona::VisibleReader => {
            "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or \
             project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or \
             'shared':%(visibility)s))"
        }
        Persona::VisibleMember => {
            "rule:context_is_admin or (role:member and (project_id:%(project_id)s or \
             project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or \
             'shared':%(visibility)s))"
        }
        // A service may bring its role in a token beside the user's.
        Persona::Service => "rule:service_api or service_roles:service",
        Persona::ServiceOrMember => {
            "rule:service_api or service_roles:service or \
             (role:member and project_id:%(project_id)s)"
        }
        Persona::ServiceOrAdmin => {
            "rule:context_is_admin or rule:service_api or service_roles:service"
        }
        Persona::Nobody => "!",
        Persona::Check(text) => text,
    }
}

/// Before there were roles to tell apart, Glance asked who owns the image, and who sees it.
fn deprecated(persona: Persona) -> Option<&'static str> {
    match persona {
        Persona::Reader | Persona::Member => Some("project_id:%(project_id)s"),
        Persona::VisibleReader | Persona::VisibleMember => Some(
            "project_id:%(project_id)s or project_id:%(member_id)s or \
             'community':%(visibility)s or 'public':%(visibility)s",
        ),
        _ => None,
    }
}

/// Rule names are those of Glance's policy file.
pub fn default_policy() -> Policy {
    Policy::new(DIALECT, RULES)
}

/// Every rule that a handler asks for.
const RULES: &[(&str, Persona)] = &[
    ("add_image", Persona::Member),
    ("get_images", Persona::Reader),
    ("get_image", Persona::VisibleReader),
    ("modify_image", Persona::Member),
    ("delete_image", Persona::Member),
    ("publicize_image", Persona::Admin),
    ("communitize_image", Persona::Member),
    ("upload_image", Persona::Member),
    ("download_image", Persona::VisibleMember),
    ("deactivate", Persona::Member),
    ("reactivate", Persona::Member),
    ("get_members", Persona::VisibleReader),
    ("add_member", Persona::Member),
    ("delete_member", Persona::Member),
    ("modify_member", Persona::VisibleMember),
    ("download_from_store", Persona::VisibleMember),
    ("copy_image", Persona::Admin),
    ("get_image_location", Persona::Reader),
    ("set_image_location", Persona::Member),
    ("delete_image_location", Persona::Admin),
    ("add_image_location", Persona::ServiceOrMember),
    ("fetch_image_location", Persona::Service),
    ("tasks_api_access", Persona::Admin),
    ("stores_info_detail", Persona::ServiceOrAdmin),
];

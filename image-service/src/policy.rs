//! Glance's default policy rules and who they admit.

use rest::policy::{Dialect, Persona, Policy, Scope};

/// Glance's personas in the language of its policy files. Its rules are for projects' tokens.
const DIALECT: Dialect = Dialect {
    base: &[
        ("default", ""),
        ("context_is_admin", "role:admin"),
        ("service_api", "role:service or role:admin"),
        ("metadef_admin", "rule:context_is_admin"),
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

/// Who sees a namespace of metadata definitions.
const NAMESPACE_READER: Persona = Persona::Check(
    "rule:context_is_admin or (role:reader and \
     (project_id:%(project_id)s or 'public':%(visibility)s))",
);
/// Who changes metadata definitions.
const METADEF_ADMIN: Persona = Persona::Check("rule:metadef_admin");

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
    ("snapshot_disk", Persona::ServiceOrAdmin),
    ("cache_list", Persona::Admin),
    ("cache_image", Persona::Admin),
    ("cache_delete", Persona::Admin),
    ("cache_clean", Persona::Admin),
    ("cache_prune", Persona::Admin),
    ("list_cached_nodes", Persona::Admin),
    ("get_metadef_namespaces", Persona::Reader),
    ("get_metadef_namespace", NAMESPACE_READER),
    ("add_metadef_namespace", METADEF_ADMIN),
    ("modify_metadef_namespace", METADEF_ADMIN),
    ("delete_metadef_namespace", METADEF_ADMIN),
    ("get_metadef_objects", NAMESPACE_READER),
    ("get_metadef_object", NAMESPACE_READER),
    ("add_metadef_object", METADEF_ADMIN),
    ("modify_metadef_object", METADEF_ADMIN),
    ("delete_metadef_object", METADEF_ADMIN),
    ("get_metadef_properties", NAMESPACE_READER),
    ("get_metadef_property", NAMESPACE_READER),
    ("add_metadef_property", METADEF_ADMIN),
    ("modify_metadef_property", METADEF_ADMIN),
    ("remove_metadef_property", METADEF_ADMIN),
    ("get_metadef_tags", NAMESPACE_READER),
    ("get_metadef_tag", NAMESPACE_READER),
    ("add_metadef_tag", METADEF_ADMIN),
    ("add_metadef_tags", METADEF_ADMIN),
    ("modify_metadef_tag", METADEF_ADMIN),
    ("delete_metadef_tag", METADEF_ADMIN),
    ("delete_metadef_tags", METADEF_ADMIN),
    ("list_metadef_resource_types", NAMESPACE_READER),
    ("get_metadef_resource_type", NAMESPACE_READER),
    ("add_metadef_resource_type_association", METADEF_ADMIN),
    ("remove_metadef_resource_type_association", METADEF_ADMIN),
];

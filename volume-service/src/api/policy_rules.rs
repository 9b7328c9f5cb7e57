//! The default policy: Cinder's rule names, and whom each admits.

use rest::policy::Persona::{self, Admin, Any, Member, Reader};
use rest::policy::{Dialect, Policy};

/// Cinder's personas in the language of its policy files. Its rules name no scopes: they are
/// about roles and projects.
const DIALECT: Dialect = Dialect {
    base: &[
        ("context_is_admin", "role:admin"),
        (
            "admin_api",
            "is_admin:True or (role:admin and is_admin_project:True)",
        ),
        (
            "xena_system_admin_or_project_reader",
            "(role:admin) or (role:reader and project_id:%(project_id)s)",
        ),
        (
            "xena_system_admin_or_project_member",
            "(role:admin) or (role:member and project_id:%(project_id)s)",
        ),
        (
            "admin_or_owner",
            "is_admin:True or (role:admin and is_admin_project:True) or project_id:%(project_id)s",
        ),
        (
            "system_or_domain_or_project_admin",
            "(role:admin and system_scope:all) or (role:admin and domain_id:%(domain_id)s) or \
             (role:admin and project_id:%(project_id)s)",
        ),
    ],
    check,
    deprecated,
    scopes: &[],
};

fn check(persona: Persona) -> &'static str {
    match persona {
        Any => "@",
        Reader | Persona::VisibleReader => "rule:xena_system_admin_or_project_reader",
        Member | Persona::VisibleMember => "rule:xena_system_admin_or_project_member",
        Admin => "rule:admin_api",
        Persona::Service => "role:service or service_roles:service",
        Persona::ServiceOrMember => {
            "role:service or service_roles:service or rule:xena_system_admin_or_project_member"
        }
        Persona::ServiceOrAdmin => "role:service or service_roles:service or rule:admin_api",
        Persona::Nobody => "!",
        Persona::Check(text) => text,
    }
}

fn deprecated(persona: Persona) -> Option<&'static str> {
    matches!(persona, Reader | Member).then_some("rule:admin_or_owner")
}

/// The rules as Cinder has them without a policy file.
pub fn default_policy() -> Policy {
    Policy::new(DIALECT, RULES)
}

/// Every rule that a handler or a view asks for.
pub const RULES: &[(&str, Persona)] = &[
    ("volume:create", Member),
    ("volume:create_from_image", Member),
    ("volume:get", Reader),
    ("volume:get_all", Reader),
    ("volume:update", Member),
    ("volume:delete", Member),
    ("volume:force_delete", Admin),
    ("volume:multiattach", Member),
    ("volume:extend", Member),
    ("volume:extend_attached_volume", Member),
    ("volume:revert_to_snapshot", Member),
    ("volume:update_readonly_flag", Member),
    ("volume:get_volume_metadata", Reader),
    ("volume:create_volume_metadata", Member),
    ("volume:update_volume_metadata", Member),
    ("volume:delete_volume_metadata", Member),
    ("volume_extension:volume_host_attribute", Admin),
    ("volume_extension:volume_tenant_attribute", Reader),
    ("volume_extension:volume_mig_status_attribute", Admin),
    ("volume_extension:volume_encryption_metadata", Reader),
    ("volume_extension:volume_admin_actions:reset_status", Admin),
    ("volume_extension:volume_admin_actions:force_delete", Admin),
    ("volume_extension:volume_actions:upload_image", Member),
    ("volume_extension:volume_actions:upload_public", Admin),
    ("volume_extension:volume_image_metadata:show", Reader),
    ("volume_extension:volume_image_metadata:set", Member),
    ("volume_extension:volume_image_metadata:remove", Member),
    ("volume:create_snapshot", Member),
    ("volume:get_snapshot", Reader),
    ("volume:get_all_snapshots", Reader),
    ("volume:update_snapshot", Member),
    ("volume:delete_snapshot", Member),
    ("volume:get_snapshot_metadata", Reader),
    ("volume:update_snapshot_metadata", Member),
    ("volume:delete_snapshot_metadata", Member),
    ("volume_extension:extended_snapshot_attributes", Reader),
    (
        "volume_extension:snapshot_admin_actions:reset_status",
        Admin,
    ),
    (
        "volume_extension:snapshot_admin_actions:force_delete",
        Admin,
    ),
    (
        "snapshot_extension:snapshot_actions:update_snapshot_status",
        Member,
    ),
    ("backup:create", Member),
    ("backup:get", Reader),
    ("backup:get_all", Reader),
    ("backup:update", Member),
    ("backup:delete", Member),
    ("backup:restore", Member),
    ("backup:backup_project_attribute", Admin),
    ("volume_extension:backup_admin_actions:reset_status", Admin),
    ("volume_extension:backup_admin_actions:force_delete", Admin),
    ("volume_extension:type_create", Admin),
    ("volume_extension:type_update", Admin),
    ("volume_extension:type_delete", Admin),
    ("volume_extension:type_get", Reader),
    ("volume_extension:type_get_all", Reader),
    ("volume_extension:access_types_extra_specs", Reader),
    ("volume_extension:access_types_qos_specs_id", Admin),
    ("volume_extension:volume_type_access", Member),
    (
        "volume_extension:volume_type_access:get_all_for_type",
        Admin,
    ),
    (
        "volume_extension:volume_type_access:addProjectAccess",
        Admin,
    ),
    (
        "volume_extension:volume_type_access:removeProjectAccess",
        Admin,
    ),
    ("volume_extension:volume_type_encryption:get", Admin),
    ("volume_extension:types_extra_specs:index", Reader),
    ("volume_extension:types_extra_specs:show", Reader),
    ("volume_extension:types_extra_specs:create", Admin),
    ("volume_extension:types_extra_specs:update", Admin),
    ("volume_extension:types_extra_specs:delete", Admin),
    ("volume_extension:types_extra_specs:read_sensitive", Admin),
    ("volume_extension:volume_type_encryption:create", Admin),
    ("volume_extension:volume_type_encryption:update", Admin),
    ("volume_extension:volume_type_encryption:delete", Admin),
    ("volume_extension:default_set_or_update", Admin),
    ("volume_extension:default_get", Admin),
    ("volume_extension:default_get_all", Admin),
    ("volume_extension:default_unset", Admin),
    ("volume_extension:qos_specs_manage:create", Admin),
    ("volume_extension:qos_specs_manage:get", Admin),
    ("volume_extension:qos_specs_manage:get_all", Admin),
    ("volume_extension:qos_specs_manage:update", Admin),
    ("volume_extension:qos_specs_manage:delete", Admin),
    ("volume:create_transfer", Member),
    ("volume:accept_transfer", Member),
    ("volume:delete_transfer", Member),
    ("volume:get_transfer", Reader),
    ("volume:get_all_transfers", Reader),
    ("group:create", Member),
    ("group:update", Member),
    ("group:delete", Member),
    ("group:get", Reader),
    ("group:get_all", Reader),
    ("group:reset_status", Admin),
    ("group:group_project_attribute", Admin),
    ("group:enable_replication", Member),
    ("group:disable_replication", Member),
    ("group:failover_replication", Member),
    ("group:list_replication_targets", Member),
    ("group:create_group_snapshot", Member),
    ("group:delete_group_snapshot", Member),
    ("group:get_group_snapshot", Reader),
    ("group:get_all_group_snapshots", Reader),
    ("group:reset_group_snapshot_status", Admin),
    ("group:group_snapshot_project_attribute", Admin),
    ("group:group_types:create", Admin),
    ("group:group_types:update", Admin),
    ("group:group_types:delete", Admin),
    ("group:access_group_types_specs", Admin),
    ("group:group_types_specs:get", Admin),
    ("group:group_types_specs:get_all", Admin),
    ("group:group_types_specs:create", Admin),
    ("group:group_types_specs:update", Admin),
    ("group:group_types_specs:delete", Admin),
    ("volume:attachment_list", Any),
    ("limits_extension:used_limits", Reader),
    ("volume_extension:quotas:show", Reader),
    ("volume_extension:quotas:update", Admin),
    ("volume_extension:quotas:delete", Admin),
    ("volume_extension:quota_classes:get", Admin),
    ("volume_extension:quota_classes:update", Admin),
    ("volume_extension:services:index", Admin),
    ("volume_extension:services:update", Admin),
    ("scheduler_extension:scheduler_stats:get_pools", Admin),
    ("message:get", Reader),
    ("message:get_all", Reader),
    ("message:delete", Member),
];

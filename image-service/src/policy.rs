//! Glance's default policy rules and who they admit.

use rest::policy::{Persona, Policy};

/// Rule names are those of Glance's policy file.
pub fn default_policy() -> Policy {
    Policy::new(&[
        ("add_image", Persona::Member),
        ("get_images", Persona::Any),
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
        ("fetch_image_location", Persona::Service),
        ("stores_info_detail", Persona::ServiceOrAdmin),
    ])
}

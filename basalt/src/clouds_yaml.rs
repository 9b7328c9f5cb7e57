//! `DIR/clouds.yaml`: what an unmodified OpenStack client needs to log in.

use std::fmt::Write as _;

/// A cloud of the file, for the dev identity.
pub struct Cloud<'a> {
    /// As in `openstack --os-cloud NAME`.
    pub name: &'a str,
    pub username: &'a str,
    pub password: &'a str,
    pub project: &'a str,
}

/// The whole file. `auth_url` ends in `/v3`.
pub fn with_identity(auth_url: &str, region: &str, clouds: &[Cloud<'_>]) -> String {
    let mut text = header();
    for cloud in clouds {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "  {name}:\n    auth:\n      auth_url: {auth_url}\n      username: {username}\n      \
             password: {password}\n      project_name: {project}\n      \
             user_domain_id: default\n      project_domain_id: default\n    \
             region_name: {region}\n    interface: public\n    identity_api_version: 3\n    \
             volume_api_version: 3\n    image_api_version: 2\n",
            name = cloud.name,
            auth_url = quoted(auth_url),
            username = quoted(cloud.username),
            password = quoted(cloud.password),
            project = quoted(cloud.project),
            region = quoted(region),
        );
    }
    text
}

/// The whole file where nobody asks who calls (`auth_strategy = noauth`): a token says it, as
/// `user:project`.
pub fn without_identity(volume_url: &str, image_url: &str, region: &str) -> String {
    let mut text = header();
    for (name, project) in [("basalt", "admin"), ("basalt-demo", "demo")] {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "  {name}:\n    auth_type: admin_token\n    auth:\n      endpoint: {volume_url}\n      \
             token: {token}\n    region_name: {region}\n    \
             block_storage_endpoint_override: {volume_url}\n    \
             volume_endpoint_override: {volume_url}\n    \
             image_endpoint_override: {image_url}\n    volume_api_version: 3\n    \
             image_api_version: 2\n",
            // The root: clients look for the versions there without a token.
            volume_url = quoted(&format!("{volume_url}/")),
            image_url = quoted(image_url),
            token = quoted(&format!("{project}:{project}")),
            region = quoted(region),
        );
    }
    text
}

fn header() -> String {
    "# Written by basalt at each start.\nclouds:\n".to_owned()
}

/// A YAML double-quoted scalar; JSON's strings are among them.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_urls_and_passwords_are_quoted() {
        let cloud = Cloud {
            name: "basalt",
            username: "admin",
            password: "a\"b: #",
            project: "p",
        };
        let text = with_identity("http://127.0.0.1:5000/v3", "RegionOne", &[cloud]);
        assert!(text.contains("      password: \"a\\\"b: #\"\n"), "{text}");
        assert!(text.contains("      auth_url: \"http://127.0.0.1:5000/v3\"\n"));
        assert!(text.contains("    volume_api_version: 3\n"));
    }

    #[test]
    fn without_identity_the_token_names_the_project() {
        let text = without_identity("http://h:1", "http://h:2", "R");
        assert!(text.contains("endpoint: \"http://h:1/\"") && text.contains("\"demo:demo\""));
    }
}

//! What a start says on stdout.

use std::fmt::Write;
use std::path::Path;

use super::listen::Sockets;
use crate::config::Settings;
use crate::config::settings::AuthStrategy;

/// Where everything is, and the command to try first. No secrets: they are in `clouds.yaml`.
pub fn ready_text(settings: &Settings, sockets: &Sockets, data_dir: &Path) -> String {
    let mut text = format!("Basalt {} is ready.\n\n", env!("CARGO_PKG_VERSION"));
    let mut line = |label: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {label:<10}{value}");
    };
    if let Some(bound) = &sockets.volume {
        line("Volumes", format!("{}/v3", bound.url));
    }
    if let Some(bound) = &sockets.image {
        line("Images", bound.url.clone());
    }
    match &sockets.identity {
        Some(bound) => {
            line(
                "Identity",
                format!("{}/v3  (built in: not for production)", bound.url),
            );
        }
        None if settings.auth == AuthStrategy::NoAuth => {
            line(
                "Identity",
                "none: every caller is an administrator (noauth)".to_owned(),
            );
        }
        None if settings.auth == AuthStrategy::Keystone => {
            line(
                "Identity",
                "Keystone, as [keystone_authtoken] says".to_owned(),
            );
        }
        None => {}
    }
    if !sockets.nbd.is_empty() {
        let socket = sockets.nbd_socket.display();
        line("NBD", format!("nbd+unix:///volume-ID?socket={socket}"));
    }
    if let Some(address) = sockets.nbd_address {
        let scheme = if settings.nbd.tls.is_some() {
            "nbds"
        } else {
            "nbd"
        };
        let name = if settings.nbd.tcp_is_open {
            "volume-ID"
        } else {
            "NAME-OF-ATTACHMENT"
        };
        line("", format!("{scheme}://{address}/{name}"));
    }
    line("Data", data_dir.display().to_string());
    if settings.auth == AuthStrategy::Keystone {
        text.push('\n');
        return text;
    }
    let clouds = data_dir.join("clouds.yaml");
    let _ = write!(
        text,
        "\nTry it with python-openstackclient:\n\n  export OS_CLIENT_CONFIG_FILE={}\n  \
         openstack --os-cloud basalt volume list\n\n",
        quoted(&clouds.display().to_string())
    );
    text
}

/// For a shell, where the path needs it.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,@%".contains(c);
    if path.chars().all(plain) {
        return path.to_owned();
    }
    format!("'{}'", path.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_a_shell() {
        assert_eq!(quoted("/a/b-c.d"), "/a/b-c.d");
        assert_eq!(quoted("/it's $HOME"), "'/it'\\''s $HOME'");
    }
}

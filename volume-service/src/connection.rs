//! How clients reach the images of a back-end, and what an attachment tells them of it: the
//! `connection_info` of os-brick and Nova.
//!
//! A manager reports its back-ends' [`Connection`]s beside their capabilities, so that attaching
//! is one transaction of the API and needs no answer from the manager.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::db::attachments::Document;

/// The way to the images of one back-end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "protocol", rename_all = "snake_case")]
pub enum Connection {
    /// The embedded store's NBD export.
    Nbd {
        /// The path of the Unix socket, for clients on the same host.
        socket: Option<String>,
        /// Host and port, for clients anywhere.
        address: Option<(String, u16)>,
        /// Whether the address takes TLS only.
        #[serde(default)]
        tls: bool,
    },
    /// A Ceph cluster, which clients talk to themselves.
    Rbd {
        cluster_name: String,
        /// Monitors, without the brackets of IPv6.
        hosts: Vec<String>,
        ports: Vec<u16>,
        /// `rbd_user`; none: the cluster does not ask who one is.
        auth_username: Option<String>,
        /// The libvirt secret that holds the user's key.
        secret_uuid: String,
    },
}

/// What one client is let at.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    pub volume_id: Uuid,
    pub pool: &'a str,
    pub image: &'a str,
    /// The name that opens the volume over NBD.
    pub export_name: &'a str,
    pub read_only: bool,
    /// The client has to decrypt it.
    pub encrypted: bool,
    /// What the client has to enforce.
    pub qos_specs: Option<Document>,
    /// The volume type says that hosts may cache.
    pub cacheable: bool,
}

impl Connection {
    /// What libvirt and os-brick call the protocol.
    pub fn driver_volume_type(&self) -> &'static str {
        match self {
            Connection::Nbd { .. } => "nbd",
            Connection::Rbd { .. } => "rbd",
        }
    }

    /// The `data` of a connection_info.
    pub fn data(&self, target: &Target<'_>) -> Document {
        let mut data = match self {
            Connection::Nbd {
                socket,
                address,
                tls,
            } => nbd(socket.as_deref(), address.as_ref(), *tls, target),
            Connection::Rbd {
                cluster_name,
                hosts,
                ports,
                auth_username,
                secret_uuid,
            } => object(json!({
                "name": format!("{}/{}", target.pool, target.image),
                "hosts": hosts,
                "ports": ports.iter().map(u16::to_string).collect::<Vec<_>>(),
                "cluster_name": cluster_name,
                "auth_enabled": auth_username.is_some(),
                "auth_username": auth_username,
                "secret_type": "ceph",
                "secret_uuid": secret_uuid,
            })),
        };
        data.extend(object(json!({
            "volume_id": target.volume_id,
            "discard": true,
            "qos_specs": target.qos_specs,
            "access_mode": if target.read_only { "ro" } else { "rw" },
            "encrypted": target.encrypted,
            "cacheable": target.cacheable,
        })));
        data
    }
}

/// libvirt's way to say it (`name`, `hosts`, `ports`, `transport`, `socket`), and an NBD URI.
fn nbd(
    socket: Option<&str>,
    address: Option<&(String, u16)>,
    tls: bool,
    target: &Target<'_>,
) -> Document {
    let name = target.export_name;
    let scheme = if tls { "nbds" } else { "nbd" };
    let (transport, uri) = match (address, socket) {
        (Some((host, port)), _) => {
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                host.clone()
            };
            ("tcp", format!("{scheme}://{host}:{port}/{name}"))
        }
        (None, socket) => {
            let socket = socket.unwrap_or_default();
            (
                "unix",
                format!("nbd+unix:///{name}?socket={}", quoted(socket)),
            )
        }
    };
    object(json!({
        "name": name,
        "hosts": address.iter().map(|(host, _)| host).collect::<Vec<_>>(),
        "ports": address.iter().map(|(_, port)| port.to_string()).collect::<Vec<_>>(),
        "transport": transport,
        "socket": socket,
        "uri": uri,
        "tls": tls && address.is_some(),
        "auth_enabled": false,
    }))
}

/// A path in the query of a URI.
fn quoted(path: &str) -> String {
    let mut quoted = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted.push_str(&format!("%{byte:02X}"));
        }
    }
    quoted
}

fn object(value: Value) -> Document {
    match value {
        Value::Object(map) => map,
        _ => Document::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target<'static> {
        Target {
            volume_id: Uuid::nil(),
            pool: "volumes",
            image: "volume-1",
            export_name: "volume-1.secret",
            read_only: true,
            encrypted: false,
            qos_specs: None,
            cacheable: false,
        }
    }

    #[test]
    fn nbd_over_a_socket_and_over_tcp() {
        let unix = Connection::Nbd {
            socket: Some("/var/lib/my store/nbd.sock".into()),
            address: None,
            tls: true,
        };
        let data = unix.data(&target());
        assert_eq!(
            data["uri"],
            "nbd+unix:///volume-1.secret?socket=/var/lib/my%20store/nbd.sock"
        );
        assert_eq!(
            (&data["transport"], &data["hosts"]),
            (&json!("unix"), &json!([]))
        );
        assert_eq!(data["access_mode"], "ro");
        let tcp = Connection::Nbd {
            socket: None,
            address: Some(("::1".into(), 10809)),
            tls: true,
        };
        let data = tcp.data(&target());
        assert_eq!(data["uri"], "nbds://[::1]:10809/volume-1.secret");
        assert_eq!(
            (&data["hosts"], &data["ports"]),
            (&json!(["::1"]), &json!(["10809"]))
        );
    }

    #[test]
    fn rbd_is_what_nova_reads() {
        let ceph = Connection::Rbd {
            cluster_name: "ceph".into(),
            hosts: vec!["10.0.0.1".into()],
            ports: vec![6789],
            auth_username: Some("cinder".into()),
            secret_uuid: "s".into(),
        };
        assert_eq!(ceph.driver_volume_type(), "rbd");
        let expected = json!({
            "name": "volumes/volume-1", "hosts": ["10.0.0.1"], "ports": ["6789"], "cluster_name": "ceph",
            "auth_enabled": true, "auth_username": "cinder", "secret_type": "ceph", "secret_uuid": "s",
            "volume_id": Uuid::nil(), "discard": true, "qos_specs": null, "access_mode": "ro",
            "encrypted": false, "cacheable": false,
        });
        assert_eq!(Value::Object(ceph.data(&target())), expected);
    }
}

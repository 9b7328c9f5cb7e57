//! Who may open which volume over NBD: whoever knows the name that an attachment was given.
//!
//! Such a name is `volume-<id>.<64 hexadecimal digits>`, a row of `volume_exports` that goes with
//! its attachment; the connections that it opened end within seconds then.

use std::time::Duration;

use async_trait::async_trait;
use database::Database;
use storage::ImageSpec;
use storage::nbd::{Admission, Grant, OpenToAll, Peer, split_secret};

use crate::db::{exports, volumes};
use crate::manager::volume_image_name;

/// How long a connection may outlive its attachment.
const VALID_FOR: Duration = Duration::from_secs(5);

/// Admits by the attachments in the database.
pub struct AttachedVolumes {
    pub database: Database,
    /// What names without a secret open; `None`: nothing.
    pub plain: Option<OpenToAll>,
    /// The common name of the client's certificate must be the host of the attachment.
    pub verify_host: bool,
}

#[async_trait]
impl Admission for AttachedVolumes {
    async fn admit(&self, name: &str, peer: &Peer) -> storage::Result<Option<Grant>> {
        if split_secret(name).1.is_none() {
            return match &self.plain {
                Some(plain) => plain.admit(name, peer).await,
                None => Ok(None),
            };
        }
        let unavailable = |error: database::Error| storage::Error::Unavailable(error.to_string());
        let export = exports::find(&self.database, name).await;
        let Some(export) = export.map_err(unavailable)? else {
            return Ok(None);
        };
        if self.verify_host && !is_host(peer, &export.client_host) {
            tracing::warn!(export = split_secret(name).0, client_host = %export.client_host, "NBD client has another host's certificate");
            return Ok(None);
        }
        let volume = volumes::get(&self.database, export.volume_id).await;
        let Some(volume) = volume.map_err(unavailable)? else {
            return Ok(None);
        };
        // host@backend#pool
        let pool = volume
            .host
            .as_deref()
            .and_then(|host| host.rsplit_once('#'));
        Ok(pool.map(|(_, pool)| Grant {
            image: ImageSpec::new(pool, volume_image_name(volume.image_id())),
            snapshot: None,
            read_only: export.read_only,
        }))
    }

    fn listed_pool(&self, peer: &Peer) -> Option<&str> {
        self.plain.as_ref()?.listed_pool(peer)
    }

    fn valid_for(&self) -> Option<Duration> {
        Some(VALID_FOR)
    }
}

fn is_host(peer: &Peer, host: &str) -> bool {
    let certificate = peer.certificate.as_ref();
    let name = certificate.and_then(|certificate| certificate.common_name.as_deref());
    name.is_some_and(|name| name.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use database::params;
    use storage::nbd::{Origin, PeerCertificate};
    use uuid::Uuid;

    const VOLUME: &str = "INSERT INTO volumes (id, user_id, project_id, status, attach_status, size_gib, \
        availability_zone, host, volume_type_id, bootable, multiattach, consumes_quota, created_at) \
        VALUES (?, 'u', 'p', 'in-use', 'attached', 1, 'nova', 'host@basalt#fast', '00000000-0000-0000-0000-000000000000', 0, 0, 1, 0)";

    fn peer(common_name: Option<&str>) -> Peer {
        Peer {
            origin: Origin::Unix { uid: 0 },
            certificate: common_name.map(|name| PeerCertificate {
                common_name: Some(name.to_owned()),
                fingerprint: [0; 32],
            }),
        }
    }

    #[tokio::test]
    async fn a_name_is_as_good_as_its_row() {
        let folder = tempfile::tempdir().unwrap();
        let database = database::testing::migrated_database(folder.path());
        let database = database.await.unwrap();
        let id = Uuid::new_v4();
        let name = |digit: &str| format!("volume-{id}.{}", digit.repeat(64));
        let mut tx = database.begin().await.unwrap();
        tx.execute(VOLUME, params![id]).await.unwrap();
        for (digit, read_only) in [("a", false), ("b", true)] {
            let mut export = exports::Export::new(id, None, "compute-1", read_only);
            export.name = name(digit);
            exports::insert(&mut tx, &export).await.unwrap();
        }
        tx.commit().await.unwrap();

        let mut admission = AttachedVolumes {
            database: database.clone(),
            plain: None,
            verify_host: false,
        };
        let grant = |read_only| {
            Some(Grant {
                image: ImageSpec::new("fast", format!("volume-{id}")),
                snapshot: None,
                read_only,
            })
        };
        let nobody = peer(None);
        for (asked, granted) in [
            (name("a"), grant(false)),
            (name("b"), grant(true)),
            (name("c"), None),
            (format!("volume-{id}"), None),
            (format!("fast/volume-{id}"), None),
        ] {
            assert_eq!(admission.admit(&asked, &nobody).await.unwrap(), granted);
        }
        assert_eq!(admission.listed_pool(&nobody), None);

        admission.verify_host = true;
        for (host, granted) in [
            (None, None),
            (Some("compute-2"), None),
            (Some("Compute-1"), grant(false)),
        ] {
            let admitted = admission.admit(&name("a"), &peer(host)).await.unwrap();
            assert_eq!(admitted, granted);
        }

        admission.verify_host = false;
        admission.plain = Some(OpenToAll {
            default_pool: "volumes".into(),
        });
        let plain = admission.admit("volume-x", &nobody).await.unwrap();
        assert_eq!(plain.unwrap().image, ImageSpec::new("volumes", "volume-x"));
        let mut tx = database.begin().await.unwrap();
        exports::delete_of_volume(&mut tx, id).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(admission.admit(&name("a"), &nobody).await.unwrap(), None);
    }
}

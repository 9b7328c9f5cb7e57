//! Removing images, at once or through the trash of their pool.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::CephStore;
use super::native::{Errno, Pool};
use crate::{Error, ImageSpec, Result};

/// A client that died counts as a user of its images until the OSDs miss it
/// (`osd_client_watch_timeout`, 30 s).
const DEAD_CLIENT: Duration = Duration::from_secs(35);

impl CephStore {
    pub(super) async fn remove_image(&self, image: &ImageSpec) -> Result<()> {
        let (connection, pool) = self.pool(&image.pool).await?;
        let busy = || Error::Busy {
            what: format!("image {image}"),
            children: Vec::new(),
        };
        let slot = connection.images.slot(image, None);
        let began = Instant::now();
        loop {
            let mut opened = slot.lock().await;
            // Snapshots are the reason that comes first: it does not pass by itself.
            let snapshots = match self.image_info(image).await {
                Ok(info) => info.snapshots,
                // What a crash left of an image may have a name and nothing else.
                Err(Error::NotFound(_)) => Vec::new(),
                Err(error) => return Err(error),
            };
            if !snapshots.is_empty() {
                return Err(Error::HasSnapshots {
                    image: image.clone(),
                    snapshots: snapshots.into_iter().map(|one| one.name).collect(),
                });
            }
            if slot.has_users() || !connection.images.close(&mut opened).await {
                return Err(busy());
            }
            let (name, pool, deferral) = (image.image.clone(), Arc::clone(&pool), self.deferral);
            let removed = self
                .client
                .long_call(&connection, format!("image {image}"), move || {
                    remove(&pool, &name, deferral)
                })
                .await;
            drop(opened);
            match removed {
                // Whoever has it open may be a process that died.
                Err(Error::Busy { .. }) if began.elapsed() < DEAD_CLIENT => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                other => return other,
            }
        }
    }

    /// Removes what is in the trash by one of our names and need not stay. What still has clones
    /// waits on.
    pub(super) async fn purge_trash(&self, pool: &str) -> Result<Vec<String>> {
        let (connection, opened) = self.pool(pool).await?;
        let purge = move || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.map_or(0, |now| now.as_secs() as i64);
            let mut gone = Vec::new();
            for image in opened.trash()? {
                if image.kept_until > now || !is_ours(&image.name) {
                    continue;
                }
                match opened.trash_remove(&image.id) {
                    Ok(()) => gone.push(image.name),
                    // Its time has not come by the cluster's clock, it has clones, it is open,
                    // or another was faster.
                    // Or it is still on its way there.
                    Err(Errno::PERM | Errno::NOTEMPTY | Errno::BUSY | Errno::NOENT)
                    | Err(Errno::UCLEAN) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(gone)
        };
        let what = format!("the trash of pool {pool}");
        self.client.long_call(&connection, what, purge).await
    }
}

/// Images of volumes (`volume-<id>`, `volume-<id>.deleted`) and of images (`<id>`); what operators
/// put into the trash themselves by other names is theirs.
fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(".deleted").unwrap_or(name);
    let id = name.strip_prefix("volume-").unwrap_or(name);
    uuid::Uuid::try_parse(id).is_ok()
}

/// Blocks. An image whose removed snapshots still have clones (format 2) goes to the trash, where
/// [`CephStore::purge_trash`] finds it when the last clone has gone.
fn remove(pool: &Pool, name: &str, deferral: Option<Duration>) -> Result<(), Errno> {
    if let Some(delay) = deferral {
        return pool.trash_move(name, delay.as_secs());
    }
    let removed = match pool.remove(name) {
        Err(Errno::NOTEMPTY) => pool.trash_move(name, 0),
        other => other,
    };
    match finish_removals(pool, name)? {
        // It was busy in the eyes of librbd for that only.
        true if matches!(removed, Err(Errno::BUSY | Errno::UCLEAN)) => Ok(()),
        _ => removed,
    }
}

/// A removal goes through the trash. What a crash has left there by this name, also of earlier
/// images, is removed; whether there was any.
fn finish_removals(pool: &Pool, name: &str) -> Result<bool, Errno> {
    let mut finished = false;
    for id in pool.removals_of(name)? {
        match pool.end_trash_move(&id) {
            Ok(()) | Err(Errno::STALE | Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        match pool.trash_remove(&id) {
            Ok(()) | Err(Errno::NOENT) => finished = true,
            // Somebody has it open, or it has clones: it waits for `purge_trash`.
            Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(finished)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_services_are_purged() {
        let id = uuid::Uuid::new_v4();
        for ours in [
            format!("volume-{id}"),
            format!("volume-{id}.deleted"),
            id.to_string(),
        ] {
            assert!(is_ours(&ours), "{ours}");
        }
        for other in ["precious", "volume-1", "", ".deleted"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}

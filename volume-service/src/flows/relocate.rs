//! What retypes and migrations have in common: the volume's bytes go to another pool, the row
//! follows in one transaction, and then the old image goes.
//!
//! Until that transaction the old image is what it was, but for a temporary snapshot, so that a
//! failure leaves the volume where it is. After it nothing can fail any more: the old image is
//! removed however often it takes.
//!
//! Pools of one store hand the image over as a clone, where that copies nothing; else the bytes
//! go through the image's diff, a few MiB at a time. A volume that is encrypted otherwise than
//! before is read and written as its clients do ([`super::recrypt`]). One that a server has is
//! copied by the compute service, which the flow asks for it ([`super::swap`]).

use async_trait::async_trait;
use database::Tx;
use serde::{Deserialize, Serialize};
use storage::{ImageSpec, SnapshotSpec};
use taskflow::{Flow, Retry, Run, Task, TaskError};
use uuid::Uuid;

use super::create_from_volume::clone_snapshot;
use super::create_volume::Encryption;
use super::image_setup::Setup;
use super::recrypt;
use super::removal::{release_parent, remove_or_keep, remove_snapshots};
use super::steps::{
    STORE_RETRY, ensure_clone, ensure_image, ensure_protected_snapshot, ensure_snapshot,
    remove_image, remove_snapshot, store_failure,
};
use super::transfer::{Changes, copy_changes};
use super::{encrypted, swap};
use crate::db::{Change, placements, services, snapshots, status, volumes};
use crate::manager::{Manager, Placement};

/// A flow that may take a volume to another pool.
#[async_trait]
pub(super) trait Relocation: Flow<Context = Manager> {
    fn volume_id(params: &Self::Params) -> Uuid;

    /// Whether the bytes must be copied also where a clone would do.
    fn force_copy(params: &Self::Params) -> bool;

    /// How the volume is encrypted, and how it will be.
    fn recryption(params: &Self::Params) -> Recryption;

    /// The type that the volume gets, and whether volumes of it may be attached more than once.
    fn new_type(params: &Self::Params) -> Option<(Uuid, bool)>;

    /// The row's change beside its host, in the transaction that makes the new image the
    /// volume's. `moved`: it is on another pool now.
    async fn arrived(run: &Run<Self>, moved: bool, tx: &mut Tx) -> Result<(), TaskError>;

    /// The row as it was before, with the marks of the failure.
    async fn failed(run: &Run<Self>, tx: &mut Tx) -> Result<(), TaskError>;
}

/// The encryption of a volume that moves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recryption {
    pub from: Option<Encryption>,
    pub to: Option<Encryption>,
    /// The volume's bytes must be written anew: the settings differ.
    pub changes: bool,
}

impl Recryption {
    /// A volume that stays as it is.
    pub fn unchanged(encryption: Option<Encryption>) -> Self {
        Recryption {
            from: encryption,
            to: encryption,
            changes: false,
        }
    }

    /// The key that is new, and so nobody's if the move fails.
    pub(crate) fn new_key(&self) -> Option<Uuid> {
        self.key_only_in(self.to, self.from)
    }

    /// The key that nobody needs once the volume has moved.
    fn old_key(&self) -> Option<Uuid> {
        self.key_only_in(self.from, self.to)
    }

    fn key_only_in(&self, one: Option<Encryption>, other: Option<Encryption>) -> Option<Uuid> {
        let key = |of: Option<Encryption>| of.map(|of| of.key_id);
        key(one).filter(|id| self.changes && Some(*id) != key(other))
    }
}

/// How the bytes get there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Means {
    /// The volume stays, or both pools are the same pool of the same store.
    Nothing,
    Clone,
    Copy,
    /// Decrypted and encrypted, into an image with an id of its own.
    Recrypt,
    /// By the compute service, into another volume's image.
    Swap,
}

/// From where to where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Route {
    /// `host@backend#pool`
    pub from: String,
    /// None: the volume stays.
    pub to: Option<String>,
    pub means: Means,
    /// Snapshots of other images that exist for the old image only.
    release: Vec<SnapshotSpec>,
    /// The ids in the names of the images; none: the volume's own.
    #[serde(default)]
    image_id: Option<Uuid>,
    #[serde(default)]
    new_image_id: Option<Uuid>,
    /// Who has the volume while it is swapped.
    #[serde(default)]
    pub server_id: Option<Uuid>,
}

impl Route {
    /// Old and new place of the image.
    pub fn places<'a>(
        &self,
        manager: &'a Manager,
        volume_id: Uuid,
    ) -> Result<(Placement<'a>, Placement<'a>), TaskError> {
        let from = manager.place_on(&self.from, self.image_id.unwrap_or(volume_id))?;
        let to = self.to.as_deref().unwrap_or(&self.from);
        let to = manager.place_on(to, self.new_image_id.unwrap_or(volume_id))?;
        Ok((from, to))
    }

    /// The volume that the compute service copies to.
    pub fn target_id(&self) -> Option<Uuid> {
        self.new_image_id.filter(|_| self.means == Means::Swap)
    }

    /// Whether this service moves the bytes.
    fn moves_bytes(&self) -> bool {
        matches!(self.means, Means::Clone | Means::Copy | Means::Recrypt)
    }
}

/// The temporary snapshot of the old image.
fn migration_snapshot(image: &ImageSpec) -> SnapshotSpec {
    image.at(format!("{}.migration", image.image))
}

/// Decides how the volume gets where the scheduler sends it; refuses what cannot be moved.
pub(super) struct PlanRoute;

#[async_trait]
impl<F: Relocation> Task<F> for PlanRoute {
    const NAME: &'static str = "plan_route";
    type Output = Route;

    async fn execute(&self, run: &Run<F>) -> Result<Route, TaskError> {
        let id = F::volume_id(&run.params);
        let volume = run.ctx.volume(id).await?;
        let changes = F::recryption(&run.params).changes;
        let placement = placements::get(&run.ctx.database, id).await?;
        let to = placement.and_then(|placement| placement.target_host);
        let mut route = Route {
            from: volume.host.clone().unwrap_or_default(),
            to: None,
            means: Means::Nothing,
            release: Vec::new(),
            image_id: Some(volume.image_id()),
            new_image_id: Some(volume.image_id()),
            server_id: None,
        };
        match to.filter(|to| *to != route.from) {
            Some(to) => route.to = Some(to),
            None if changes => route.to = Some(route.from.clone()),
            None => return Ok(route),
        }
        if !snapshots::of_volume(&run.ctx.database, id)
            .await?
            .is_empty()
        {
            let text = format!("volume {id} must not have snapshots");
            return Err(TaskError::new("VolumeHasSnapshots", text));
        }
        let attached = volume.attach_status != status::DETACHED;
        if attached || changes {
            route.new_image_id = Some(Uuid::new_v4());
        }
        if attached {
            let to = F::recryption(&run.params).to;
            if !changes && volume.encryption_key_id.is_some() && to.is_none() {
                let text = format!("volume {id} is encrypted in a way that cannot be made anew");
                return Err(TaskError::new("Encryption", text));
            }
            route.server_id = Some(swap::server_of(&run.ctx, id).await?);
        }
        let (old, new) = route.places(&run.ctx, id)?;
        route.means = match (attached, changes) {
            (true, _) => Means::Swap,
            (false, true) => Means::Recrypt,
            (false, false) => means(&old, &new, F::force_copy(&run.params)),
        };
        if route.moves_bytes() {
            route.release = release_of(run, volume.source_volid, &old).await?;
        }
        Ok(route)
    }

    async fn revert(&self, run: &Run<F>, route: Option<&Route>) -> Result<(), TaskError> {
        let target_id = route.and_then(Route::target_id);
        if let Some(key_id) = F::recryption(&run.params).new_key()
            && !swap::is_kept(&run.ctx, target_id).await?
        {
            encrypted::forget(&run.ctx, key_id).await;
        }
        Ok(())
    }

    async fn record(&self, run: &Run<F>, route: &Route, tx: &mut Tx) -> Result<(), TaskError> {
        if route.to.is_none() {
            return Ok(());
        }
        let change = Change::volume(F::volume_id(&run.params));
        change
            .set("migration_status = ?", status::MIGRATING)
            .apply(tx)
            .await?;
        Ok(())
    }

    async fn record_revert(
        &self,
        run: &Run<F>,
        _: Option<&Route>,
        tx: &mut Tx,
    ) -> Result<(), TaskError> {
        F::failed(run, tx).await
    }
}

fn means(old: &Placement<'_>, new: &Placement<'_>, force_copy: bool) -> Means {
    let one_store = old.store().fsid() == new.store().fsid();
    if one_store && old.image == new.image {
        return Means::Nothing;
    }
    if one_store && old.store().flattens_instantly() && !force_copy {
        return Means::Clone;
    }
    Means::Copy
}

/// The temporary snapshots through which the volume was cloned, on the image of its source.
async fn release_of<F: Relocation>(
    run: &Run<F>,
    source_volid: Option<Uuid>,
    old: &Placement<'_>,
) -> Result<Vec<SnapshotSpec>, TaskError> {
    let Some(source_id) = source_volid else {
        return Ok(Vec::new());
    };
    let source = run.ctx.place_if_any(source_id).await?;
    let source = source.filter(|source| source.store().fsid() == old.store().fsid());
    Ok(source
        .map(|source| clone_snapshot(&source.image, &old.image))
        .into_iter()
        .collect())
}

/// The old image has a snapshot whose bytes stay as they are.
pub(super) struct SnapshotSource;

#[async_trait]
impl<F: Relocation> Task<F> for SnapshotSource {
    const NAME: &'static str = "snapshot_source";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<F>) -> Result<(), TaskError> {
        let route: &Route = run.output::<PlanRoute>()?;
        let (old, _) = route.places(&run.ctx, F::volume_id(&run.params))?;
        let snapshot = migration_snapshot(&old.image);
        match route.means {
            Means::Nothing | Means::Swap => Ok(()),
            Means::Clone => ensure_protected_snapshot(old.store(), &snapshot).await,
            Means::Copy | Means::Recrypt => ensure_snapshot(old.store(), &snapshot).await,
        }
    }

    async fn revert(&self, run: &Run<F>, _: Option<&()>) -> Result<(), TaskError> {
        let route: &Route = run.output::<PlanRoute>()?;
        if !route.moves_bytes() {
            return Ok(());
        }
        let (old, _) = route.places(&run.ctx, F::volume_id(&run.params))?;
        remove_snapshot(old.store(), &migration_snapshot(&old.image)).await
    }
}

/// The new image holds the same bytes and stands on its own.
pub(super) struct MoveData;

#[async_trait]
impl<F: Relocation> Task<F> for MoveData {
    const NAME: &'static str = "move_data";
    type Output = ();

    fn retry(&self) -> Retry {
        STORE_RETRY
    }

    async fn execute(&self, run: &Run<F>) -> Result<(), TaskError> {
        let route: &Route = run.output::<PlanRoute>()?;
        let (old, new) = route.places(&run.ctx, F::volume_id(&run.params))?;
        let snapshot = migration_snapshot(&old.image);
        match route.means {
            Means::Nothing => {}
            Means::Clone => {
                ensure_clone(new.store(), &snapshot, &new.image).await?;
                new.store()
                    .flatten(&new.image)
                    .await
                    .map_err(store_failure)?;
            }
            Means::Copy => copy(run, &old, &new, &snapshot).await?,
            Means::Recrypt => {
                let recryption = F::recryption(&run.params);
                recrypt::copy(run, (&old, &snapshot), &new, &recryption).await?;
            }
            Means::Swap => {
                let recryption = F::recryption(&run.params);
                swap::make_image(&run.ctx, &old, &new, recryption.to).await?;
            }
        }
        if route.means != Means::Nothing {
            copy_metadata(&old, &new).await?;
        }
        set_up(run, &new, route.means, F::new_type(&run.params)).await
    }

    async fn revert(&self, run: &Run<F>, _: Option<&()>) -> Result<(), TaskError> {
        let route: &Route = run.output::<PlanRoute>()?;
        let (_, new) = route.places(&run.ctx, F::volume_id(&run.params))?;
        if route.means == Means::Nothing {
            return set_up(run, &new, Means::Nothing, None).await;
        }
        if swap::is_kept(&run.ctx, route.target_id()).await? {
            return Ok(());
        }
        remove_image(new.store(), &new.image).await
    }
}

/// Sets the image up for its type: another one, or the row's.
async fn set_up<F: Relocation>(
    run: &Run<F>,
    place: &Placement<'_>,
    means: Means,
    new_type: Option<(Uuid, bool)>,
) -> Result<(), TaskError> {
    let volume = run.ctx.volume(F::volume_id(&run.params)).await?;
    let own = (volume.volume_type_id, volume.multiattach);
    let (store, image) = (place.store(), &place.image);
    let (type_id, multiattach) = new_type.unwrap_or(own);
    let may_differ = match means {
        // What an earlier run has changed is changed again.
        Means::Nothing => F::new_type(&run.params).is_some_and(|(_, of_new)| of_new != own.1),
        // Images are made for one client.
        Means::Clone | Means::Copy | Means::Recrypt | Means::Swap => multiattach,
    };
    let wanted = Setup::of_type(&run.ctx, store, type_id, multiattach).await?;
    let before = Setup::of_image(store, image, multiattach != may_differ).await?;
    wanted.apply(store, image, &before).await
}

async fn copy<F: Relocation>(
    run: &Run<F>,
    old: &Placement<'_>,
    new: &Placement<'_>,
    snapshot: &SnapshotSpec,
) -> Result<(), TaskError> {
    let info = old.store().info(&old.image).await.map_err(store_failure)?;
    ensure_image(new.store(), &new.image, info.size_bytes).await?;
    let changes = Changes {
        store: old.store(),
        image: &old.image,
        from: None,
        to: &snapshot.snapshot,
    };
    copy_changes(changes, (new.store(), &new.image), run).await
}

/// The small strings that an image carries go along.
async fn copy_metadata(old: &Placement<'_>, new: &Placement<'_>) -> Result<(), TaskError> {
    let entries = old.store().metadata(&old.image).await;
    for (key, value) in entries.map_err(store_failure)? {
        new.store()
            .set_metadata(&new.image, &key, &value)
            .await
            .map_err(store_failure)?;
    }
    Ok(())
}

/// The volume is on the new pool: host, service and zone in one transaction with the rest.
pub(super) struct SwitchHost;

#[async_trait]
impl<F: Relocation> Task<F> for SwitchHost {
    const NAME: &'static str = "switch_host";
    const RECORD_ONLY: bool = true;
    type Output = ();

    async fn execute(&self, _: &Run<F>) -> Result<(), TaskError> {
        Ok(())
    }

    async fn record(&self, run: &Run<F>, _: &(), tx: &mut Tx) -> Result<(), TaskError> {
        let id = F::volume_id(&run.params);
        let route: &Route = run.output::<PlanRoute>()?;
        if route.means == Means::Swap {
            // The volume is where it was until the compute service says that it is done.
            return Ok(());
        }
        if let Some(to) = &route.to {
            let manager = services::of_host(&mut *tx, to).await?;
            let name_id = route.new_image_id.filter(|image_id| *image_id != id);
            let mut change = Change::volume(id)
                .set("host = ?", to.as_str())
                .set("name_id = ?", name_id)
                .set("migration_status = ?", status::SUCCESS);
            if let Some(manager) = manager {
                change = change
                    .set("service_uuid = ?", manager.id)
                    .set("availability_zone = ?", manager.availability_zone);
            }
            let recryption = F::recryption(&run.params);
            if recryption.changes {
                let key_id = recryption.to.map(|to| to.key_id);
                change = change.set("encryption_key_id = ?", key_id);
            }
            change.apply(tx).await?;
        }
        F::arrived(run, route.to.is_some(), tx).await?;
        placements::delete(tx, id).await?;
        Ok(())
    }
}

/// The old image is gone, with what existed for it alone.
pub(super) struct RemoveSource;

#[async_trait]
impl<F: Relocation> Task<F> for RemoveSource {
    const NAME: &'static str = "remove_source";
    type Output = ();

    /// The volume is elsewhere already: there is no way back.
    fn retry(&self) -> Retry {
        Retry::forever(1_000)
    }

    async fn execute(&self, run: &Run<F>) -> Result<(), TaskError> {
        let route: &Route = run.output::<PlanRoute>()?;
        if !route.moves_bytes() {
            return Ok(());
        }
        if let Some(key_id) = F::recryption(&run.params).old_key() {
            encrypted::forget(&run.ctx, key_id).await;
        }
        let (old, _) = route.places(&run.ctx, F::volume_id(&run.params))?;
        let parent = remove_snapshots(old.store(), &old.image).await?;
        if !remove_or_keep(old.store(), &old.image).await? {
            return Ok(());
        }
        for snapshot in route.release.iter().cloned().chain(parent) {
            release_parent(old.store(), snapshot).await?;
        }
        Ok(())
    }
}

/// The volume's status is what it was before it was moved, and its place is forgotten.
pub(super) async fn back_to_previous(
    tx: &mut Tx,
    volume_id: Uuid,
    from: &'static str,
) -> Result<(), TaskError> {
    let volume = volumes::get(&mut *tx, volume_id).await?;
    let previous = volume.and_then(|volume| volume.previous_status);
    let change = Change::volume(volume_id)
        .when(&[from])
        .status(previous.as_deref().unwrap_or(status::AVAILABLE))
        .set("previous_status = ?", Option::<&str>::None);
    change.apply(tx).await?;
    Ok(())
}

/// Forgets a move that came to nothing; `tried`: it had begun, and the row says that it failed.
pub(super) async fn abandon(tx: &mut Tx, volume_id: Uuid, tried: bool) -> Result<(), TaskError> {
    if tried {
        let change = Change::volume(volume_id);
        change
            .set("migration_status = ?", status::ERROR)
            .apply(tx)
            .await?;
    }
    placements::delete(tx, volume_id).await?;
    Ok(())
}

/// Whether the volume has begun to move.
pub(super) async fn has_begun(tx: &mut Tx, volume_id: Uuid) -> Result<bool, TaskError> {
    let volume = volumes::get(&mut *tx, volume_id).await?;
    Ok(volume.is_some_and(|volume| volume.migration_status.as_deref() == Some(status::MIGRATING)))
}

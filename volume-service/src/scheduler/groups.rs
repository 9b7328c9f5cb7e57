//! The pool of a new group: one that can take volumes of all its types.

use super::filters::{Wish, choose};
use super::usable;
use crate::db::services;
use crate::db::volume_types::ExtraSpecs;
use crate::{Result, VolumeService};

/// The best pool of the zone that suits every one of the types (their extra specs).
pub async fn choose_for_group(
    service: &VolumeService,
    availability_zone: &str,
    types: &[ExtraSpecs],
) -> Result<Option<String>> {
    let known = services::list(&service.database).await?;
    let pools = services::pools(&service.database).await?;
    let mut candidates = usable(service.options.service_down_time_s, pools, &known);
    let wish = |extra_specs: &ExtraSpecs| Wish {
        size_gib: 0,
        availability_zone: availability_zone.to_owned(),
        extra_specs: extra_specs.clone(),
    };
    for specs in types {
        let wish = wish(specs);
        candidates.retain_mut(|candidate| choose(std::slice::from_mut(candidate), &wish).is_some());
    }
    let best = choose(&mut candidates, &wish(&ExtraSpecs::new()));
    Ok(best.map(|candidate| candidate.pool.name.clone()))
}

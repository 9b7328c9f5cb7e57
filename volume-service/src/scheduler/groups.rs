//! The pool of a new group: one that can take volumes of all its types.

use super::{Plan, Request, candidates};
use crate::db::volume_types::ExtraSpecs;
use crate::{Result, VolumeService};

/// The best pool of the zone that suits every one of the types (their extra specs).
pub async fn choose_for_group(
    service: &VolumeService,
    availability_zone: &str,
    types: &[ExtraSpecs],
) -> Result<Option<String>> {
    let plan = Plan::of(&service.options);
    let mut candidates = candidates(service).await?;
    let request = |extra_specs: &ExtraSpecs| Request {
        availability_zones: vec![availability_zone.to_owned()],
        extra_specs: extra_specs.clone(),
        ..Request::default()
    };
    for specs in types {
        let request = request(specs);
        candidates.retain(|candidate| plan.passes(candidate, &request));
    }
    let best = plan.best(&mut candidates, &request(&ExtraSpecs::new()));
    Ok(best.map(|candidate| candidate.pool.name.clone()))
}

//! The choice: every filter must let a pool pass, the weighers say which of those is best.

use super::candidate::Candidate;
use super::filters::{self, Filter};
use super::request::Request;
use super::weighers::{self, Weigher};
use crate::Options;

/// The filters and weighers that the operator wants, in their order.
pub struct Plan {
    filters: Vec<(&'static str, Filter)>,
    weighers: Vec<(&'static Weigher, f64)>,
}

impl Plan {
    /// Names that are none are left out: the configuration has refused them.
    pub fn of(options: &Options) -> Self {
        let filters = options.scheduler_default_filters.iter();
        let weighers = options.scheduler_default_weighers.iter();
        Plan {
            filters: filters.filter_map(|name| filters::find(name)).collect(),
            weighers: weighers
                .filter_map(|name| weighers::find(name))
                .map(|weigher| (weigher, weigher.multiplier(options)))
                .collect(),
        }
    }

    /// Whether the pool can take the volume.
    pub fn passes(&self, candidate: &Candidate, request: &Request) -> bool {
        self.filters.iter().all(|(name, filter)| {
            let passes = filter(candidate, request);
            if !passes {
                tracing::debug!(pool = %candidate.pool.name, filter = name, "the pool was filtered out");
            }
            passes
        })
    }

    /// The pools that can take the volume, best first: indexes into `candidates`.
    pub fn ranked(&self, candidates: &[Candidate], request: &Request) -> Vec<usize> {
        let mut weighed: Vec<(usize, f64)> = candidates
            .iter()
            .enumerate()
            .filter(|(_, candidate)| self.passes(candidate, request))
            .map(|(index, _)| (index, 0.0))
            .collect();
        for (weigher, multiplier) in &self.weighers {
            let weights: Vec<f64> = weighed
                .iter()
                .filter_map(|(index, _)| candidates.get(*index))
                .map(|candidate| weigher.weigh(candidate, request))
                .collect();
            let normalized = weigher.normalized(&weights);
            for ((_, total), weight) in weighed.iter_mut().zip(normalized) {
                *total += multiplier * weight;
            }
        }
        // Thin pools weigh alike until something is promised: then the one with more free space.
        let free_gb = |index: usize| {
            let candidate = candidates.get(index);
            candidate.map_or(0.0, |one| one.pool.capabilities.free_capacity_gb)
        };
        weighed.sort_by(|left, right| {
            let by_weight = right.1.total_cmp(&left.1);
            by_weight.then_with(|| free_gb(right.0).total_cmp(&free_gb(left.0)))
        });
        weighed.into_iter().map(|(index, _)| index).collect()
    }

    /// The best pool for the volume.
    pub fn best<'a>(
        &self,
        candidates: &'a mut [Candidate],
        request: &Request,
    ) -> Option<&'a mut Candidate> {
        let best = *self.ranked(candidates, request).first()?;
        candidates.get_mut(best)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::db::services::{Capabilities, Pool};

    pub(in crate::scheduler) fn candidate(name: &str, zone: &str, free_gb: f64) -> Candidate {
        let capabilities = Capabilities {
            volume_backend_name: name.into(),
            pool_name: "volumes".into(),
            total_capacity_gb: 100.0,
            free_capacity_gb: free_gb,
            max_over_subscription_ratio: 2.0,
            multiattach: true,
            backend_state: "up".into(),
            ..Capabilities::default()
        };
        let pool = Pool {
            name: format!("h@{name}#volumes"),
            service_host: format!("h@{name}"),
            capabilities,
            reported_at: 0,
        };
        Candidate {
            pool,
            service_id: Uuid::nil(),
            availability_zone: zone.into(),
            volumes: 0,
        }
    }

    pub(in crate::scheduler) fn request(size_gib: u32, specs: &[(&str, &str)]) -> Request {
        let extra_specs = specs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        Request {
            size_gib,
            availability_zones: vec!["nova".into()],
            extra_specs,
            ..Request::default()
        }
    }

    fn best(candidates: &mut [Candidate], request: &Request) -> Option<String> {
        let plan = Plan::of(&Options::default());
        plan.best(candidates, request)
            .map(|chosen| chosen.pool.capabilities.volume_backend_name.clone())
    }

    #[test]
    fn the_emptiest_pool_of_the_zone_wins() {
        let mut pools = [
            candidate("a", "nova", 10.0),
            candidate("b", "nova", 20.0),
            candidate("c", "other", 90.0),
        ];
        assert_eq!(best(&mut pools, &request(5, &[])).as_deref(), Some("b"));
        let plan = Plan::of(&Options::default());
        plan.best(&mut pools, &request(15, &[]))
            .unwrap()
            .consume(15);
        assert_eq!(best(&mut pools, &request(5, &[])).as_deref(), Some("a"));
        assert_eq!(best(&mut pools, &request(11, &[])), None);
        let mut anywhere = request(50, &[]);
        anywhere.availability_zones = vec!["nova".into(), "other".into()];
        assert_eq!(best(&mut pools, &anywhere).as_deref(), Some("c"));
    }

    #[test]
    fn a_pool_that_failed_is_not_tried_again() {
        let mut pools = [candidate("a", "nova", 10.0), candidate("b", "nova", 20.0)];
        let mut request = request(5, &[]);
        request.tried = vec!["h@b#volumes".into()];
        assert_eq!(best(&mut pools, &request).as_deref(), Some("a"));
        request.tried.push("h@a#volumes".into());
        assert_eq!(best(&mut pools, &request), None);
    }

    #[test]
    fn weighers_add_up() {
        let options = Options {
            scheduler_default_weighers: vec![
                "CapacityWeigher".into(),
                "VolumeNumberWeigher".into(),
            ],
            volume_number_multiplier: -2.0,
            ..Options::default()
        };
        let mut crowded = candidate("roomy", "nova", 90.0);
        crowded.volumes = 7;
        let mut pools = [crowded, candidate("lonely", "nova", 10.0)];
        let plan = Plan::of(&options);
        let chosen = plan.best(&mut pools, &request(1, &[])).unwrap();
        assert_eq!(chosen.pool.capabilities.volume_backend_name, "lonely");
    }
}

//! The weighers, by Cinder's names: a file each. A weigher gives each pool a number; the numbers
//! are brought to 0..1, multiplied with the operator's factor and added up. The highest wins.

mod allocated_capacity;
mod capacity;
mod goodness;
mod volume_number;

use super::candidate::Candidate;
use super::request::Request;
use crate::Options;

/// One weigher.
pub struct Weigher {
    pub name: &'static str,
    weigh: fn(&Candidate, &Request) -> f64,
    multiplier: fn(&Options) -> f64,
    /// The lowest and the highest number there can be; none: those of the pools at hand.
    range: Option<(f64, f64)>,
}

static WEIGHERS: [Weigher; 4] = [
    Weigher {
        name: "CapacityWeigher",
        weigh: capacity::weigh,
        multiplier: |options| options.capacity_weight_multiplier,
        range: None,
    },
    Weigher {
        name: "AllocatedCapacityWeigher",
        weigh: allocated_capacity::weigh,
        multiplier: |options| options.allocated_capacity_weight_multiplier,
        range: None,
    },
    Weigher {
        name: "GoodnessWeigher",
        weigh: goodness::weigh,
        multiplier: |_| 1.0,
        range: Some((0.0, 100.0)),
    },
    Weigher {
        name: "VolumeNumberWeigher",
        weigh: volume_number::weigh,
        multiplier: |options| options.volume_number_multiplier,
        range: None,
    },
];

/// What `scheduler_default_weighers` holds unless the operator says otherwise.
pub const DEFAULT: [&str; 2] = ["CapacityWeigher", "GoodnessWeigher"];

/// The names that `scheduler_default_weighers` may hold.
pub fn names() -> impl Iterator<Item = &'static str> {
    WEIGHERS.iter().map(|weigher| weigher.name)
}

/// The weigher of this name.
pub(super) fn find(name: &str) -> Option<&'static Weigher> {
    WEIGHERS.iter().find(|weigher| weigher.name == name)
}

impl Weigher {
    pub(super) fn weigh(&self, candidate: &Candidate, request: &Request) -> f64 {
        (self.weigh)(candidate, request)
    }

    pub(super) fn multiplier(&self, options: &Options) -> f64 {
        (self.multiplier)(options)
    }

    /// The numbers on a scale from 0 to 1; all 0 where they are alike.
    pub(super) fn normalized(&self, weights: &[f64]) -> Vec<f64> {
        let (lowest, highest) = self.range.unwrap_or_else(|| {
            let lowest = weights.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            (lowest, highest)
        });
        let span = highest - lowest;
        let scale = |weight: &f64| {
            if span > 0.0 {
                (weight - lowest) / span
            } else {
                0.0
            }
        };
        weights.iter().map(scale).collect()
    }
}

//! Which pools can take a volume (zone, capacity, capabilities), and which of them is best.

use uuid::Uuid;

use crate::db::services::{Capabilities, Pool};
use crate::db::volume_types::ExtraSpecs;

/// A pool that is up.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub pool: Pool,
    pub service_id: Uuid,
    pub availability_zone: String,
}

impl Candidate {
    /// Counts a volume that was just placed, until the manager reports again.
    pub fn consume(&mut self, size_gib: u32) {
        let capabilities = &mut self.pool.capabilities;
        capabilities.allocated_capacity_gb += f64::from(size_gib);
        capabilities.provisioned_capacity_gb += f64::from(size_gib);
        if !capabilities.thin_provisioning_support {
            capabilities.free_capacity_gb =
                (capabilities.free_capacity_gb - f64::from(size_gib)).max(0.0);
        }
    }
}

/// What a volume needs.
#[derive(Debug, Clone)]
pub struct Wish {
    pub size_gib: u32,
    pub availability_zone: String,
    pub extra_specs: ExtraSpecs,
}

/// The pool with the most room among those that can take the volume.
pub fn choose<'a>(candidates: &'a mut [Candidate], wish: &Wish) -> Option<&'a mut Candidate> {
    candidates
        .iter_mut()
        .filter(|candidate| candidate.availability_zone == wish.availability_zone)
        .filter(|candidate| has_room(&candidate.pool.capabilities, wish.size_gib))
        .filter(|candidate| has_capabilities(&candidate.pool.capabilities, &wish.extra_specs))
        .max_by(|left, right| {
            weight(&left.pool.capabilities).total_cmp(&weight(&right.pool.capabilities))
        })
}

/// Cinder's CapacityFilter: thin pools may be over-subscribed.
fn has_room(capabilities: &Capabilities, size_gib: u32) -> bool {
    let size = f64::from(size_gib);
    let total = capabilities.total_capacity_gb;
    let reserved = total * f64::from(capabilities.reserved_percentage) / 100.0;
    let free = capabilities.free_capacity_gb - reserved;
    if free <= 0.0 {
        return false;
    }
    if !capabilities.thin_provisioning_support {
        return free >= size;
    }
    let ratio = capabilities.max_over_subscription_ratio;
    if total > 0.0 && (capabilities.provisioned_capacity_gb + size) / total > ratio {
        return false;
    }
    free * ratio >= size
}

/// Cinder's CapacityWeigher: virtual free room.
fn weight(capabilities: &Capabilities) -> f64 {
    let reserved =
        capabilities.total_capacity_gb * f64::from(capabilities.reserved_percentage) / 100.0;
    if capabilities.thin_provisioning_support {
        return capabilities.total_capacity_gb * capabilities.max_over_subscription_ratio
            - capabilities.provisioned_capacity_gb
            - reserved;
    }
    capabilities.free_capacity_gb - reserved
}

/// Cinder's CapabilitiesFilter: extra specs without a scope, or of the scope `capabilities`.
fn has_capabilities(capabilities: &Capabilities, specs: &ExtraSpecs) -> bool {
    let Ok(serde_json::Value::Object(reported)) = serde_json::to_value(capabilities) else {
        return false;
    };
    specs.iter().all(|(key, wanted)| {
        let name = match key.split_once(':') {
            None => key.as_str(),
            Some(("capabilities", name)) => name,
            Some(_) => return true,
        };
        reported
            .get(name)
            .is_some_and(|value| matches(value, wanted))
    })
}

/// `<is> True`, `<in> text`, `= 5`, `s== text`, or the plain text.
fn matches(value: &serde_json::Value, wanted: &str) -> bool {
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Bool(flag) => if *flag { "True" } else { "False" }.to_owned(),
        other => other.to_string(),
    };
    let (operator, operand) = wanted.split_once(' ').unwrap_or(("", wanted));
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let compare = |test: fn(f64, f64) -> bool| match (number(&text), number(operand)) {
        (Some(left), Some(right)) => test(left, right),
        _ => false,
    };
    match operator {
        "<is>" => rest::filter::parse_bool(&text) == rest::filter::parse_bool(operand),
        "<in>" => text.contains(operand.trim()),
        "<or>" => wanted.split("<or>").any(|option| option.trim() == text),
        "s==" => text == operand,
        "s!=" => text != operand,
        "=" | ">=" => compare(|left, right| left >= right),
        "<=" => compare(|left, right| left <= right),
        "==" => compare(|left, right| (left - right).abs() < f64::EPSILON),
        "!=" => compare(|left, right| (left - right).abs() >= f64::EPSILON),
        _ => text == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(free_gb: f64) -> Capabilities {
        Capabilities {
            volume_backend_name: "basalt".into(),
            pool_name: "volumes".into(),
            vendor_name: "Basalt".into(),
            driver_version: "1".into(),
            storage_protocol: "nbd".into(),
            total_capacity_gb: 100.0,
            free_capacity_gb: free_gb,
            allocated_capacity_gb: 0.0,
            provisioned_capacity_gb: 0.0,
            reserved_percentage: 0,
            max_over_subscription_ratio: 2.0,
            thin_provisioning_support: false,
            multiattach: true,
            backend_state: "up".into(),
        }
    }

    fn candidate(name: &str, zone: &str, free_gb: f64) -> Candidate {
        let pool = Pool {
            name: name.into(),
            service_host: "h@b".into(),
            capabilities: capabilities(free_gb),
            reported_at: 0,
        };
        Candidate {
            pool,
            service_id: Uuid::nil(),
            availability_zone: zone.into(),
        }
    }

    fn wish(size_gib: u32, specs: &[(&str, &str)]) -> Wish {
        let extra_specs = specs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        Wish {
            size_gib,
            availability_zone: "nova".into(),
            extra_specs,
        }
    }

    fn chosen(candidates: &mut [Candidate], wish: &Wish) -> Option<String> {
        choose(candidates, wish).map(|chosen| chosen.pool.name.clone())
    }

    #[test]
    fn the_emptiest_pool_of_the_zone_wins() {
        let mut pools = [
            candidate("a", "nova", 10.0),
            candidate("b", "nova", 20.0),
            candidate("c", "other", 90.0),
        ];
        assert_eq!(chosen(&mut pools, &wish(5, &[])).as_deref(), Some("b"));
        choose(&mut pools, &wish(15, &[])).unwrap().consume(15);
        assert_eq!(chosen(&mut pools, &wish(5, &[])).as_deref(), Some("a"));
        assert_eq!(chosen(&mut pools, &wish(11, &[])), None);
    }

    #[test]
    fn thin_pools_may_be_over_subscribed_so_far() {
        let mut pool = candidate("a", "nova", 10.0);
        pool.pool.capabilities.thin_provisioning_support = true;
        assert!(chosen(&mut [pool.clone()], &wish(20, &[])).is_some());
        assert!(chosen(&mut [pool.clone()], &wish(21, &[])).is_none());
        pool.pool.capabilities.provisioned_capacity_gb = 190.0;
        assert!(chosen(&mut [pool.clone()], &wish(11, &[])).is_none());
        pool.pool.capabilities.free_capacity_gb = 0.0;
        assert!(chosen(&mut [pool], &wish(1, &[])).is_none());
    }

    #[test]
    fn extra_specs_are_matched_against_what_is_reported() {
        let cases = [
            ("volume_backend_name", "basalt", true),
            ("volume_backend_name", "other", false),
            ("capabilities:volume_backend_name", "s== basalt", true),
            ("multiattach", "<is> True", true),
            ("multiattach", "<is> False", false),
            ("vendor_name", "<in> Bas", true),
            ("storage_protocol", "<or> ceph <or> nbd", true),
            ("total_capacity_gb", ">= 100", true),
            ("total_capacity_gb", ">= 101", false),
            ("RESKEY:availability_zones", "nowhere", true),
            ("unknown", "1", false),
        ];
        for (key, value, fits) in cases {
            let found = chosen(
                &mut [candidate("a", "nova", 10.0)],
                &wish(1, &[(key, value)]),
            );
            assert_eq!(found.is_some(), fits, "{key} {value}");
        }
    }
}

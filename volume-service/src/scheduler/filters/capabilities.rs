//! `CapabilitiesFilter`: what the volume's type asks for in its extra specs is what the pool
//! reports. Keys without a scope count, and those of the scope `capabilities`; the parts of a
//! key (`capabilities:a:b`) go down into what is reported.

use serde_json::Value;

use crate::scheduler::candidate::Candidate;
use crate::scheduler::extra_specs::matches;
use crate::scheduler::request::Request;

pub(super) fn passes(candidate: &Candidate, request: &Request) -> bool {
    if request.extra_specs.is_empty() {
        return true;
    }
    let reported = Value::Object(candidate.reported());
    request.extra_specs.iter().all(|(key, wanted)| {
        let mut parts: Vec<&str> = key.split(':').collect();
        if parts.len() > 1 {
            if parts.first() != Some(&"capabilities") {
                return true;
            }
            parts.remove(0);
        }
        let value = parts
            .iter()
            .try_fold(&reported, |value, part| value.get(part));
        match value {
            None | Some(Value::Null) => false,
            Some(Value::Array(values)) => values.iter().any(|value| matches(value, wanted)),
            Some(value) => matches(value, wanted),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::choice::tests::{candidate, request};
    use super::passes;

    #[test]
    fn extra_specs_are_compared() {
        let pool = candidate("fast", "nova", 50.0);
        for (specs, fits) in [
            (&[("volume_backend_name", "fast")][..], true),
            (&[("volume_backend_name", "slow")], false),
            (&[("capabilities:volume_backend_name", "fast")], true),
            (
                &[("capabilities:volume_backend_name:deeper", "fast")],
                false,
            ),
            (&[("other:scope", "anything")], true),
            (&[("RESKEY:availability_zones", "x,y")], true),
            (&[("multiattach", "<is> True")], true),
            (&[("multiattach", "<is> False")], false),
            (&[("thin_provisioning_support", "False")], true),
            (&[("free_capacity_gb", ">= 50")], true),
            (&[("free_capacity_gb", "<= 49")], false),
            (&[("no_such_thing", "x")], false),
        ] {
            assert_eq!(passes(&pool, &request(1, specs)), fits, "{specs:?}");
        }
    }
}

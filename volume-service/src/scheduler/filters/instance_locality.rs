//! `InstanceLocalityFilter`: the hint `local_to_instance` asks for a pool on the machine that an
//! instance runs on. Only the compute service knows which that is, and this service is no client
//! of it: as in a Cinder without a compute endpoint, a request with the hint finds no pool where
//! the operator has put this filter in.

use crate::scheduler::candidate::Candidate;
use crate::scheduler::request::Request;

pub(super) fn passes(_: &Candidate, request: &Request) -> bool {
    request
        .hints
        .get("local_to_instance")
        .is_none_or(serde_json::Value::is_null)
}

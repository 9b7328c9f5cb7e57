//! `GoodnessWeigher`: the operator's `goodness_function` of the back-end, 0 to 100. Anything
//! else, and a function that cannot be computed, counts as 0.

use crate::scheduler::candidate::Candidate;
use crate::scheduler::expression;
use crate::scheduler::request::Request;

pub(super) fn weigh(candidate: &Candidate, request: &Request) -> f64 {
    let Some(function) = &candidate.pool.capabilities.goodness_function else {
        return 0.0;
    };
    match expression::evaluate(function, &expression::names(candidate, request)) {
        Ok(value) => value
            .number()
            .filter(|goodness| (0.0..=100.0).contains(goodness))
            .unwrap_or(0.0),
        Err(reason) => {
            tracing::warn!(pool = %candidate.pool.name, %reason, "goodness_function cannot be computed");
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::choice::tests::{candidate, request};
    use super::weigh;

    #[test]
    fn goodness_is_a_number_up_to_100() {
        let mut pool = candidate("a", "nova", 50.0);
        for (function, goodness) in [
            ("volume.size < 10 ? 80 : 20", 80.0),
            ("101", 0.0),
            ("-1", 0.0),
            ("1 / 0", 0.0),
            ("capabilities.free_capacity_gb", 50.0),
        ] {
            pool.pool.capabilities.goodness_function = Some(function.into());
            assert_eq!(weigh(&pool, &request(5, &[])), goodness, "{function}");
        }
    }
}

//! `DriverFilter`: the operator's `filter_function` of the back-end is true of the volume. One
//! that cannot be computed keeps volumes away, and is logged.

use crate::scheduler::candidate::Candidate;
use crate::scheduler::expression;
use crate::scheduler::request::Request;

pub(super) fn passes(candidate: &Candidate, request: &Request) -> bool {
    let Some(function) = &candidate.pool.capabilities.filter_function else {
        return true;
    };
    match expression::evaluate(function, &expression::names(candidate, request)) {
        Ok(value) => value.is_true(),
        Err(reason) => {
            tracing::warn!(pool = %candidate.pool.name, %reason, "filter_function cannot be computed");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::choice::tests::{candidate, request};
    use super::passes;

    #[test]
    fn the_operators_function_decides() {
        let mut pool = candidate("a", "nova", 50.0);
        assert!(passes(&pool, &request(1, &[])));
        for (function, fits) in [
            ("volume.size < 10", true),
            (
                "volume.size < 10 and capabilities.free_capacity_gb >= 60",
                false,
            ),
            ("extra.speed == 'high'", true),
            ("stats.no_such_name > 1", false),
            ("1 +", false),
        ] {
            pool.pool.capabilities.filter_function = Some(function.into());
            let request = request(5, &[("other:x", "y"), ("speed", "high")]);
            assert_eq!(passes(&pool, &request), fits, "{function}");
        }
    }
}

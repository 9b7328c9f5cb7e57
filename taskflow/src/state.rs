//! State names of flows and tasks: TaskFlow's.

/// Flow: inserted, not claimed yet.
pub const PENDING: &str = "PENDING";
/// Flow or task: executing.
pub const RUNNING: &str = "RUNNING";
/// Flow or task: done.
pub const SUCCESS: &str = "SUCCESS";
/// Flow: cannot run (unknown kind, unreadable parameters, changed tasks), parked or given up.
pub const FAILURE: &str = "FAILURE";
/// Flow or task: being undone.
pub const REVERTING: &str = "REVERTING";
/// Flow or task: undone.
pub const REVERTED: &str = "REVERTED";
/// Flow or task: a revert failed too often; the flow is parked until the operator resumes it.
pub const REVERT_FAILURE: &str = "REVERT_FAILURE";

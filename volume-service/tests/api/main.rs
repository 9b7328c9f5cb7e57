//! The REST API over a real database, without a manager: flows are inserted and not run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod backups;
mod bad_input;
mod fake_images;
mod images;
mod operations;
mod paging;
#[path = "../../../tests/harness/permissions.rs"]
mod permission_rows;
mod permission_table;
mod permissions;
mod quotas;
mod scheduler;
mod snapshots;
mod types;
mod volumes;
mod world;

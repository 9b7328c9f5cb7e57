//! The REST API over a real database, without a manager: flows are inserted and not run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attach_actions;
mod attachments;
mod backups;
mod bad_input;
mod concurrency;
mod consistency_groups;
mod default_types;
mod encryption;
mod fake_images;
mod fake_keys;
mod fuzz;
mod group_snapshots;
mod group_types;
mod groups;
mod images;
mod infrastructure;
mod manage;
mod nova;
mod operations;
mod paging;
#[path = "../../../tests/harness/permissions.rs"]
mod permission_rows;
mod permission_table;
mod permissions;
mod qos_specs;
mod quotas;
mod random;
mod relocation;
mod running;
mod scheduler;
mod snapshots;
mod swap;
mod transfers;
mod type_encryption;
mod types;
mod volumes;
mod world;

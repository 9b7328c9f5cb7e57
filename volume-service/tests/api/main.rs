//! The REST API over a real database, without a manager: flows are inserted and not run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attach_actions;
mod attachments;
mod backups;
mod bad_input;
mod fake_images;
mod images;
mod manage;
mod nova;
mod operations;
mod paging;
mod permissions;
mod quotas;
mod scheduler;
mod snapshots;
mod types;
mod volumes;
mod world;

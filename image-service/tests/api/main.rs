//! The Image API through its router, on a store in memory.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Tests: a panic is the verdict.

mod cache;
mod data;
mod disk_snapshots;
mod images;
mod imports;
mod list;
mod locations;
mod metadefs;
mod patch;
#[path = "../../../tests/harness/permissions.rs"]
mod permission_rows;
mod permission_table;
mod quotas;
mod sharing;
mod support;

//! The Image API through its router, on a store in memory.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Tests: a panic is the verdict.

mod cache;
mod data;
mod disk_snapshots;
mod images;
mod list;
mod metadefs;
mod patch;
mod quotas;
mod sharing;
mod support;

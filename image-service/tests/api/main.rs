//! The Image API through its router, on a store in memory.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Tests: a panic is the verdict.

mod data;
mod images;
mod imports;
mod list;
mod locations;
mod patch;
mod sharing;
mod support;

//! Histories on a disk that loses power, dies, fails and fills up, compared with a model.
//!
//! The model knows for each block what it may hold after a crash: what was durable last, and all
//! that was written since. Snapshots, clones and removals that were answered are exact.
//!
//! | File | Is |
//! |---|---|
//! | [`world`] | a store on a simulated disk, and the model beside it |
//! | [`steps`] | what a history is made of |
//! | [`histories`] | power cuts, failures and full disks at every point |
//! | [`full`] | large writes until nothing fits |
//! | [`damage`] | flipped bytes |
//! | [`starts`] | what a start must not believe |

#![allow(clippy::unwrap_used)]

mod damage;
mod full;
mod histories;
mod starts;
mod steps;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use self::world::World;
use super::buffer::UNIT_BYTES;
use super::check::CheckOptions;
use super::disk::FileId;
use super::disk::simulated::SimulatedDisk;
use super::records::CatalogueChange;
use super::request::{
    Change, Content, Part, Patch, Plan, PlanCall, PlanOf, Read, ReadTo, Reply, Request, parts,
};
use super::shard::{Settings, Shard};
use crate::conformance::Random;
use crate::{Error, ImageSpec, Result};

const BLOCKS: u64 = 700;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const SNAPSHOTS: [&str; 3] = ["r", "s", "t"];
/// Requests that run at once write here and there, each in blocks of its own.
const LANES: u64 = 6;

/// What a block holds: the two halves have a number each.
type Value = u64;

fn bytes_of(value: Value) -> Vec<u8> {
    let half = |number: u32| number.to_le_bytes().repeat(UNIT_BYTES / 8);
    [half((value >> 32) as u32), half(value as u32)].concat()
}

fn value_of(bytes: &[u8]) -> Value {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let value = u64::from(number(0)) << 32 | u64::from(number(UNIT_BYTES / 2));
    assert!(bytes == bytes_of(value), "a torn block");
    value
}

#[derive(Clone, Default)]
struct ModelImage {
    /// The last is what a read must give.
    blocks: Vec<Vec<Value>>,
    snapshots: BTreeMap<String, Vec<Value>>,
}

#[derive(Clone, Default)]
struct Model {
    images: BTreeMap<String, ModelImage>,
}

impl Model {
    /// All that was answered is durable.
    fn flush(&mut self) {
        for block in self.images.values_mut().flat_map(|image| &mut image.blocks) {
            *block = vec![*block.last().unwrap()];
        }
    }
}

fn spec(name: &str) -> ImageSpec {
    ImageSpec::new("p", name)
}

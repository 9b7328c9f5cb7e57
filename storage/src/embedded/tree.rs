//! The map of an image: a radix tree of 256-way nodes from block index to stored block.
//!
//! A node is shared between trees by a count of the slots and roots that point to it (table
//! `shares`, absent: 1). Only a node that nobody shares is changed in place; a shared one is
//! copied first, which adds a count to everything it points to. So snapshot and clone are one
//! more count on a root, and equal node numbers mean equal content, which a diff skips.

use std::sync::Arc;

use super::blocks::BLOCK_BYTES;
use super::state::State;
use super::table::{Value, corrupt};
use crate::store::ExtentList;
use crate::{Error, ExtentKind, Result};

const SLOTS: usize = 256;
/// Six levels of 256 slots of 4 KiB blocks: the largest image.
const MAX_HEIGHT: u8 = 6;
/// Leaves that one call frees itself; the rest goes to the queue of dropped nodes.
const LEAVES_FREED_AT_ONCE: u32 = 32;

/// A stored block and its checksum. Block 0 is no block: the data is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Entry {
    pub(super) block: u64,
    pub(super) crc: u32,
}

/// Of an image's or snapshot's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Root {
    /// 0: no node, all zero.
    pub(super) node: u64,
    /// Levels of nodes.
    pub(super) height: u8,
    /// Blocks that the tree maps.
    pub(super) mapped: u64,
}

/// On a leaf (level 0) a slot's id is a block and its value the checksum; above, a slot's id is a
/// node and its value the blocks mapped below. Id 0 is an empty slot.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) level: u8,
    pub(super) ids: [u64; SLOTS],
    pub(super) values: [u64; SLOTS],
}

impl Node {
    fn empty(level: u8) -> Self {
        Node {
            level,
            ids: [0; SLOTS],
            values: [0; SLOTS],
        }
    }

    /// The slots in use: number, id, value.
    pub(super) fn slots(&self) -> impl Iterator<Item = (usize, u64, u64)> + '_ {
        let slots = self.ids.iter().zip(&self.values).enumerate();
        slots
            .filter(|(_, (id, _))| **id != 0)
            .map(|(slot, (id, value))| (slot, *id, *value))
    }

    pub(super) fn mapped(&self) -> u64 {
        match self.level {
            0 => self.slots().count() as u64,
            _ => self.slots().map(|(_, _, mapped)| mapped).sum(),
        }
    }
}

/// Layout: level u8; 32 bytes, a bit per used slot; per used slot of a leaf block u48 and CRC-32C
/// u32, of an inner node id u64 and mapped u64. Little-endian.
impl Value for Node {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.level);
        let mut used = [0u8; SLOTS / 8];
        for (slot, _, _) in self.slots() {
            if let Some(byte) = used.get_mut(slot / 8) {
                *byte |= 1 << (slot % 8);
            }
        }
        out.extend_from_slice(&used);
        for (_, id, value) in self.slots() {
            let (id, value) = (id.to_le_bytes(), value.to_le_bytes());
            let (id_bytes, value_bytes) = if self.level == 0 { (6, 4) } else { (8, 8) };
            out.extend(id.iter().take(id_bytes));
            out.extend(value.iter().take(value_bytes));
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (level, rest) = bytes.split_first()?;
        let (used, mut rest) = rest.split_first_chunk::<{ SLOTS / 8 }>()?;
        let mut node = Node::empty(*level);
        let (id_bytes, value_bytes) = if *level == 0 { (6, 4) } else { (8, 8) };
        let number = |bytes: &[u8]| {
            let rising = bytes.iter().rev();
            rising.fold(0u64, |number, byte| number << 8 | u64::from(*byte))
        };
        for slot in 0..SLOTS {
            if used.get(slot / 8)? & 1 << (slot % 8) == 0 {
                continue;
            }
            let (id, behind) = rest.split_at_checked(id_bytes)?;
            let (value, behind) = behind.split_at_checked(value_bytes)?;
            *node.ids.get_mut(slot)? = number(id);
            *node.values.get_mut(slot)? = number(value);
            rest = behind;
        }
        rest.is_empty().then_some(node)
    }

    fn cost_bytes(&self) -> usize {
        size_of::<Self>()
    }
}

/// What to put into a range of a tree.
pub(super) enum Fill<'a> {
    Blocks(&'a [Entry]),
    Zero,
}

struct Edit<'a> {
    first: u64,
    end: u64,
    fill: Fill<'a>,
}

impl Edit<'_> {
    fn entry(&self, index: u64) -> Entry {
        match &self.fill {
            Fill::Blocks(entries) => {
                let at = index.checked_sub(self.first);
                at.and_then(|at| entries.get(at as usize))
                    .copied()
                    .unwrap_or_default()
            }
            Fill::Zero => Entry::default(),
        }
    }

    fn clears(&self, start: u64, end: u64) -> bool {
        matches!(self.fill, Fill::Zero) && self.first <= start && end <= self.end
    }
}

/// Blocks below one slot of a node of this level.
fn slot_span(level: u8) -> u64 {
    1 << (8 * u32::from(level))
}

/// Says where in the image a damaged node is.
fn at_block<T>(result: Result<T>, block: u64) -> Result<T> {
    result.map_err(|error| match error {
        Error::Corrupt { image, detail, .. } => Error::Corrupt {
            image,
            offset: block.saturating_mul(BLOCK_BYTES),
            detail,
        },
        other => other,
    })
}

impl State {
    pub(super) fn node(&mut self, id: u64, level: u8) -> Result<Arc<Node>> {
        match self.nodes.get(&id)? {
            Some(node) if node.level == level => Ok(node),
            Some(node) => Err(corrupt(format!(
                "node {id} has level {}, not {level}",
                node.level
            ))),
            None => Err(corrupt(format!("node {id} is missing"))),
        }
    }

    pub(super) fn shares(&mut self, id: u64) -> Result<u32> {
        Ok(self.shares.get(&id)?.map_or(1, |count| *count))
    }

    fn set_shares(&mut self, id: u64, count: u32) {
        let value = (count > 1).then(|| Arc::new(count));
        self.shares.put(id, value);
    }

    /// One more slot or root points to the node.
    pub(super) fn share(&mut self, id: u64) -> Result<()> {
        if id != 0 {
            let count = self.shares(id)?.checked_add(1);
            let count = count.ok_or_else(|| Error::Invalid("too many clones".into()))?;
            self.set_shares(id, count);
        }
        Ok(())
    }

    /// The entries of a range of blocks.
    pub(super) fn lookup(&mut self, root: Root, first: u64, count: usize) -> Result<Vec<Entry>> {
        let mut entries = vec![Entry::default(); count];
        if let Some(level) = root.height.checked_sub(1) {
            self.lookup_below(root.node, level, 0, first, &mut entries)?;
        }
        Ok(entries)
    }

    fn lookup_below(
        &mut self,
        id: u64,
        level: u8,
        base: u64,
        first: u64,
        entries: &mut [Entry],
    ) -> Result<()> {
        let (span, end) = (slot_span(level), first + entries.len() as u64);
        if id == 0 || end <= base || base + span * SLOTS as u64 <= first {
            return Ok(());
        }
        let node = at_block(self.node(id, level), base.max(first))?;
        let first_slot = first.saturating_sub(base) / span;
        let slots = node
            .slots()
            .skip_while(|(slot, ..)| (*slot as u64) < first_slot);
        for (slot, id, value) in slots {
            let start = base + slot as u64 * span;
            if start >= end {
                break;
            }
            if level > 0 {
                self.lookup_below(id, level - 1, start, first, entries)?;
            } else if let Some(entry) = entries.get_mut((start - first) as usize) {
                let crc = value as u32;
                *entry = Entry { block: id, crc };
            }
        }
        Ok(())
    }

    /// Maps blocks `first..first + count` anew. Blocks no longer mapped lose a count.
    pub(super) fn assign(
        &mut self,
        mut root: Root,
        first: u64,
        count: u64,
        fill: Fill<'_>,
    ) -> Result<Root> {
        if count == 0 {
            return Ok(root);
        }
        if matches!(fill, Fill::Blocks(_)) {
            root = self.grow(root, first + count)?;
        }
        let Some(level) = root.height.checked_sub(1) else {
            return Ok(root);
        };
        let end = first + count;
        let edit = Edit { first, end, fill };
        let (node, mapped) = self.update(root.node, level, 0, &edit, root.mapped)?;
        let height = if node == 0 { 0 } else { root.height };
        Ok(Root {
            node,
            height,
            mapped,
        })
    }

    /// Adds levels until the tree reaches `end` blocks.
    fn grow(&mut self, mut root: Root, end: u64) -> Result<Root> {
        while root.height == 0 || slot_span(root.height) < end {
            if root.height >= MAX_HEIGHT {
                return Err(Error::Invalid("beyond the largest image".into()));
            }
            if root.node != 0 {
                let mut above = Node::empty(root.height);
                above.ids[0] = root.node;
                above.values[0] = root.mapped;
                root.node = self.new_id();
                self.nodes.set(root.node, above);
            }
            root.height += 1;
        }
        Ok(root)
    }

    /// Answers the node that now stands for `id`, and the blocks mapped below it.
    fn update(
        &mut self,
        id: u64,
        level: u8,
        base: u64,
        edit: &Edit<'_>,
        mapped: u64,
    ) -> Result<(u64, u64)> {
        let span = slot_span(level);
        let end = base + span * SLOTS as u64;
        if edit.clears(base, end) {
            self.let_go(id, level)?;
            return Ok((0, 0));
        }
        if end <= edit.first || edit.end <= base || (id == 0 && edit.clears(edit.first, edit.end)) {
            return Ok((id, mapped));
        }
        let (id, mut node) = at_block(self.own(id, level), base.max(edit.first))?;
        let first_slot = (edit.first.saturating_sub(base) / span) as usize;
        let end_slot = ((edit.end.min(end) - base).div_ceil(span)) as usize;
        let slots = node.ids.iter_mut().zip(&mut node.values).enumerate();
        for (slot, (slot_id, value)) in slots.take(end_slot).skip(first_slot) {
            let start = base + slot as u64 * span;
            if level > 0 {
                (*slot_id, *value) = self.update(*slot_id, level - 1, start, edit, *value)?;
                continue;
            }
            let new = edit.entry(start);
            if new.block != *slot_id {
                self.call.lost.extend((*slot_id != 0).then_some(*slot_id));
                self.call
                    .gained
                    .extend((new.block != 0).then_some(new.block));
                (*slot_id, *value) = (new.block, u64::from(new.crc));
            }
        }
        let mapped = node.mapped();
        if mapped == 0 {
            self.nodes.put(id, None);
            return Ok((0, 0));
        }
        self.nodes.set(id, node);
        Ok((id, mapped))
    }

    /// A node that may be changed: the same if nobody shares it, else a copy.
    fn own(&mut self, id: u64, level: u8) -> Result<(u64, Node)> {
        if id == 0 {
            return Ok((self.new_id(), Node::empty(level)));
        }
        let node = self.node(id, level)?;
        let shares = self.shares(id)?;
        if shares == 1 {
            return Ok((id, (*node).clone()));
        }
        self.set_shares(id, shares - 1);
        for (_, below, _) in node.slots() {
            if level == 0 {
                self.call.gained.push(below);
            } else {
                self.share(below)?;
            }
        }
        Ok((self.new_id(), (*node).clone()))
    }

    /// A slot or root no longer points to the node.
    pub(super) fn let_go(&mut self, id: u64, level: u8) -> Result<()> {
        if id == 0 {
            return Ok(());
        }
        let shares = self.shares(id)?;
        if shares > 1 {
            self.set_shares(id, shares - 1);
            return Ok(());
        }
        if level == 0 && self.call.freed_leaves < LEAVES_FREED_AT_ONCE {
            self.call.freed_leaves += 1;
            return self.free_node(id, level);
        }
        self.queue_drop(id, level);
        Ok(())
    }

    /// Takes away a node that nothing points to, and lets go of what it points to.
    pub(super) fn free_node(&mut self, id: u64, level: u8) -> Result<()> {
        let node = self.node(id, level)?;
        self.nodes.put(id, None);
        for (_, below, _) in node.slots() {
            match level.checked_sub(1) {
                None => self.call.lost.push(below),
                Some(level) => self.let_go(below, level)?,
            }
        }
        Ok(())
    }

    pub(super) fn let_go_root(&mut self, root: Root) -> Result<()> {
        match root.height.checked_sub(1) {
            Some(level) => self.let_go(root.node, level),
            None => Ok(()),
        }
    }
}

/// A comparison of two trees, block by block, that goes on where it stopped.
pub(super) struct Walk {
    pub(super) start_bytes: u64,
    pub(super) end_bytes: u64,
    /// Nodes that it may still look at before it lets others work.
    pub(super) nodes: u32,
    /// Where to go on; `None`: at the end, or the list is full.
    pub(super) resume_bytes: Option<u64>,
    pub(super) list: ExtentList,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Side {
    node: u64,
    level: u8,
}

impl Side {
    /// What stands in a slot of this side's node; a tree lower than the other one is slot 0.
    fn below(self, node: Option<&Node>, level: u8, slot: usize) -> Side {
        let id = match node {
            Some(node) => node.ids.get(slot).copied().unwrap_or(0),
            None if slot == 0 && self.level < level => return self,
            None => 0,
        };
        Side {
            node: id,
            level: level.saturating_sub(1),
        }
    }
}

impl State {
    /// Lists what differs between two trees within the walk's range.
    pub(super) fn compare(&mut self, older: Root, newer: Root, walk: &mut Walk) -> Result<()> {
        walk.resume_bytes = None;
        let side = |root: Root| Side {
            node: root.node,
            level: root.height.saturating_sub(1),
        };
        let level = older.height.max(newer.height).saturating_sub(1);
        self.compare_below(side(older), side(newer), level, 0, walk)?;
        Ok(())
    }

    /// False: stop.
    fn compare_below(
        &mut self,
        older: Side,
        newer: Side,
        level: u8,
        base: u64,
        walk: &mut Walk,
    ) -> Result<bool> {
        let span = slot_span(level);
        let (start_bytes, end_bytes) = (
            base * BLOCK_BYTES,
            (base + span * SLOTS as u64).saturating_mul(BLOCK_BYTES),
        );
        if older.node == newer.node
            || end_bytes <= walk.start_bytes
            || walk.end_bytes <= start_bytes
        {
            return Ok(true);
        }
        if walk.nodes == 0 {
            walk.resume_bytes = Some(start_bytes.max(walk.start_bytes));
            return Ok(false);
        }
        walk.nodes -= 1;
        let old = at_block(self.side_node(older, level), base)?;
        let new = at_block(self.side_node(newer, level), base)?;
        for slot in 0..SLOTS {
            let start = base + slot as u64 * span;
            let below = older.below(old.as_deref(), level, slot);
            let above = newer.below(new.as_deref(), level, slot);
            let go_on = if below.node == above.node {
                true
            } else if level > 0 {
                self.compare_below(below, above, level - 1, start, walk)?
            } else {
                walk.push(start, above.node != 0)
            };
            if !go_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn side_node(&mut self, side: Side, level: u8) -> Result<Option<Arc<Node>>> {
        if side.node == 0 || side.level < level {
            return Ok(None);
        }
        self.node(side.node, level).map(Some)
    }
}

impl Walk {
    fn push(&mut self, block: u64, is_data: bool) -> bool {
        let start = (block * BLOCK_BYTES).max(self.start_bytes);
        let end = ((block + 1) * BLOCK_BYTES).min(self.end_bytes);
        let kind = if is_data {
            ExtentKind::Data
        } else {
            ExtentKind::Zero
        };
        start >= end || self.list.push(start, end - start, kind)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_node_comes_back(level in 0u8..6, slots in prop::collection::vec((0usize..256, 1u64..1 << 48, any::<u32>()), 0..300)) {
            let mut node = Node::empty(level);
            for (slot, id, value) in slots {
                (node.ids[slot], node.values[slot]) = (id, value.into());
            }
            let mut bytes = Vec::new();
            node.encode(&mut bytes);
            let again = Node::decode(&bytes).unwrap();
            prop_assert_eq!((again.level, again.ids, again.values), (level, node.ids, node.values));
            bytes.pop();
            prop_assert!(Node::decode(&bytes).is_none());
        }

        #[test]
        fn any_bytes_are_a_node_or_none(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let _ = Node::decode(&bytes);
        }
    }
}

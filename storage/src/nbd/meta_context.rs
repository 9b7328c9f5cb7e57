//! Metadata contexts: `base:allocation` is the only one.

use bytes::{BufMut, Bytes, BytesMut};

use super::wire::{take_string, take_u32};

pub(super) const BASE_ALLOCATION: &str = "base:allocation";
pub(super) const BASE_ALLOCATION_ID: u32 = 1;
const BASE_NAMESPACE: &str = "base:";

/// The data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub export_name: String,
    patterns: Vec<String>,
}

impl Query {
    /// `None` when the data is malformed.
    pub fn parse(mut data: Bytes) -> Option<Query> {
        let export_name = take_string(&mut data)?;
        let count = take_u32(&mut data)? as usize;
        // Each has four bytes at least, and the data is bounded.
        if count > data.len() / 4 {
            return None;
        }
        let patterns = (0..count)
            .map(|_| take_string(&mut data))
            .collect::<Option<Vec<_>>>()?;
        data.is_empty().then_some(Query {
            export_name,
            patterns,
        })
    }

    /// Whether the client asks which contexts there are, and `base:allocation` is one of them.
    pub fn lists_allocation(&self) -> bool {
        let names = |pattern: &String| pattern == BASE_ALLOCATION || pattern == BASE_NAMESPACE;
        self.patterns.is_empty() || self.patterns.iter().any(names)
    }

    /// Whether the client wants `base:allocation`; a namespace alone selects nothing.
    pub fn sets_allocation(&self) -> bool {
        self.patterns
            .iter()
            .any(|pattern| pattern == BASE_ALLOCATION)
    }
}

/// The data of NBD_REP_META_CONTEXT.
pub(super) fn reply(id: u32) -> Bytes {
    let mut data = BytesMut::new();
    data.put_u32(id);
    data.put_slice(BASE_ALLOCATION.as_bytes());
    data.freeze()
}

//! Keeping chosen ranges of a stream.

/// A range of the stream that is kept.
#[derive(Debug)]
pub(super) struct Capture {
    offset: u64,
    wanted: usize,
    data: Vec<u8>,
}

impl Capture {
    pub fn new(offset: u64, wanted: usize) -> Self {
        Capture {
            offset,
            wanted,
            data: Vec::new(),
        }
    }

    /// Takes what it wants of `chunk`, which starts at `position` of the stream.
    pub fn feed(&mut self, position: u64, chunk: &[u8]) {
        let next = self.offset.saturating_add(self.data.len() as u64);
        // Only a gap-free continuation counts.
        let Some(skip) = next
            .checked_sub(position)
            .and_then(|skip| usize::try_from(skip).ok())
        else {
            return;
        };
        let missing = self.wanted.saturating_sub(self.data.len());
        let rest = chunk.get(skip..).unwrap_or_default();
        self.data
            .extend_from_slice(rest.get(..missing.min(rest.len())).unwrap_or_default());
    }

    /// How far it is from `position` to the end of the capture; `None` behind it.
    pub fn until_end(&self, position: u64) -> Option<usize> {
        let left = self
            .offset
            .saturating_add(self.wanted as u64)
            .checked_sub(position)?;
        usize::try_from(left).ok().filter(|left| *left > 0)
    }

    /// Wants more, up to `wanted` bytes in all. Must be called where the capture ends.
    pub fn extend_to(&mut self, wanted: usize) {
        self.wanted = self.wanted.max(wanted);
    }

    pub fn is_complete(&self) -> bool {
        self.data.len() >= self.wanted
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

/// How many last bytes are kept: marker, footer and end marker of a streamOptimized VMDK.
pub(crate) const TAIL_BYTES: usize = 3 * 512;

/// The end of the stream.
#[derive(Debug, Default)]
pub(super) struct Tail {
    data: Vec<u8>,
}

impl Tail {
    pub fn feed(&mut self, chunk: &[u8]) {
        let last = chunk
            .get(chunk.len().saturating_sub(TAIL_BYTES)..)
            .unwrap_or_default();
        let surplus = (self.data.len() + last.len()).saturating_sub(TAIL_BYTES);
        self.data.drain(..surplus.min(self.data.len()));
        self.data.extend_from_slice(last);
    }

    /// At most the last 1536 bytes.
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

//! Integers at an offset of a buffer; `None` where the buffer ends before them.

pub(crate) fn be_u16(buffer: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes_at(buffer, offset)?))
}

pub(crate) fn be_u32(buffer: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes_at(buffer, offset)?))
}

pub(crate) fn be_u64(buffer: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes_at(buffer, offset)?))
}

pub(crate) fn le_u16(buffer: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes_at(buffer, offset)?))
}

pub(crate) fn le_u32(buffer: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes_at(buffer, offset)?))
}

pub(crate) fn le_u64(buffer: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes_at(buffer, offset)?))
}

fn bytes_at<const N: usize>(buffer: &[u8], offset: usize) -> Option<[u8; N]> {
    buffer.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

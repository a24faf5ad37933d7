//! The Huffman code of RFC 7541 appendix B. It is canonical, so the lengths of its codes say all of it.
//!
//! Decoding looks ten bits up at once: that covers every letter and digit, and what is longer is found by its length. Nothing is encoded:
//! between sidecars bytes are cheaper than the instructions that would save them.

/// Length of the code of each byte, in bits; the 257th is EOS.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];

const EOS: u16 = 256;
/// Bits that are looked up at once.
const FAST: u32 = 10;
/// The longest code.
const LONGEST: usize = 30;

struct Tables {
    /// By the next ten bits: the byte, and the length of its code; 0 where the code is longer.
    fast: [(u8, u8); 1 << FAST],
    /// By length: the first code of that length…
    first: [u32; LONGEST + 1],
    /// …how many there are…
    count: [u32; LONGEST + 1],
    /// …and where their symbols begin.
    start: [usize; LONGEST + 1],
    /// In order of their codes.
    symbols: [u16; 257],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut made = Tables {
        fast: [(0, 0); 1 << FAST],
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
        symbols: [0; 257],
    };
    let (mut length, mut code, mut at) = (1, 0u32, 0);
    while length <= LONGEST {
        made.first[length] = code;
        made.start[length] = at;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                made.symbols[at] = symbol as u16;
                if length <= FAST as usize {
                    let spare = FAST - length as u32;
                    let mut low = 0;
                    while low < 1 << spare {
                        made.fast[((code << spare) | low) as usize] = (symbol as u8, length as u8);
                        low += 1;
                    }
                }
                at += 1;
                code += 1;
            }
            symbol += 1;
        }
        made.count[length] = code - made.first[length];
        code <<= 1;
        length += 1;
    }
    made
}

/// The longest text that `length` bytes can stand for.
pub(super) const fn longest(length: usize) -> usize {
    // The shortest codes have five bits.
    length * 8 / 5
}

/// Appends what `encoded` stands for to `out`; `None` where it is no code (RFC 7541 §5.2).
pub(super) fn decode(encoded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let begun = out.len();
    out.resize(begun + longest(encoded.len()), 0);
    let (mut bits, mut held, mut rest, mut at) = (0u64, 0u32, encoded, begun);
    loop {
        while held <= 56
            && let Some((byte, after)) = rest.split_first()
        {
            bits |= u64::from(*byte) << (56 - held);
            held += 8;
            rest = after;
        }
        // What is missing reads as zeros, which are no part of a longer code than there are bits.
        let (byte, length) = TABLES.fast[(bits >> (64 - FAST)) as usize];
        let (byte, length) = if length > 0 { (byte, u32::from(length)) } else { long(bits, held)? };
        if length > held {
            break;
        }
        *out.get_mut(at)? = byte;
        at += 1;
        bits <<= length;
        held -= length;
        if held == 0 && rest.is_empty() {
            break;
        }
    }
    // Padding is less than a byte of ones, the most significant bits of EOS.
    let padded = held < 8 && (held == 0 || bits >> (64 - held) == (1 << held) - 1);
    out.truncate(at);
    padded.then_some(())
}

/// A code of more than ten bits, or the end: a length beyond what is `held`.
fn long(bits: u64, held: u32) -> Option<(u8, u32)> {
    for length in FAST as usize + 1..=LONGEST {
        if length as u32 > held {
            return Some((0, length as u32));
        }
        let code = (bits >> (64 - length)) as u32;
        let offset = code.wrapping_sub(TABLES.first[length]);
        if code >= TABLES.first[length] && offset < TABLES.count[length] {
            let symbol = *TABLES.symbols.get(TABLES.start[length] + offset as usize)?;
            // RFC 7541 §5.2: a string that contains the EOS symbol MUST be treated as a decoding error.
            return if symbol == EOS { None } else { Some((symbol as u8, length as u32)) };
        }
    }
    None
}

#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let code = |symbol: usize| {
        let length = usize::from(LENGTHS[symbol]);
        let rank = LENGTHS[..symbol].iter().filter(|other| usize::from(**other) == length).count();
        (TABLES.first[length] + rank as u32, length)
    };
    let bits = text.iter().flat_map(|byte| {
        let (code, length) = code(usize::from(*byte));
        (0..length).rev().map(move |bit| code >> bit & 1 == 1)
    });
    let mut bits: Vec<bool> = bits.collect();
    bits.resize(bits.len().next_multiple_of(8), true);
    bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
}

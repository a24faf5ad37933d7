//! Header blocks → fields. Every length is bounded by the block, the table by [`TABLE`], and what is handed on by the caller's limit.

use super::{Name, OVERHEAD, TABLE, huffman, table};
use crate::spare;
use bytes::Bytes;
use std::collections::VecDeque;

/// The block is none: the tables of both ends no longer agree, and the connection must end (RFC 9113 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::h2) struct Malformed;

/// The reading end of a connection's compression.
#[derive(Default)]
pub(in crate::h2) struct Decoder {
    /// Newest first.
    entries: VecDeque<(Name, Bytes)>,
    size: usize,
    /// What the peer makes of the table at the moment; `None` until it says so.
    max: Option<usize>,
    scratch: Scratch,
}

/// Where Huffman codes are written out.
#[derive(Default)]
struct Scratch(Vec<u8>);

/// Scratch room that is kept between blocks, in bytes.
const KEPT: usize = 512;

impl Decoder {
    /// Hands the fields of `block` to `field`, until their size (RFC 9113 §6.5.2) exceeds `most`: what follows then is read for the
    /// table's sake only. Returns that size.
    pub(in crate::h2) fn decode(
        &mut self,
        mut block: &[u8],
        most: usize,
        mut field: impl FnMut(Name, Bytes),
    ) -> Result<usize, Malformed> {
        let (mut size, mut begun) = (0usize, false);
        while let Some(&first) = block.first() {
            let (name, value) = match first {
                0x80.. => self.indexed(integer(&mut block, 7)?)?,
                0x40.. => {
                    let (name, value) = self.literal(&mut block, 6)?;
                    self.insert(&name, &value);
                    (name, value)
                }
                0x20.. => {
                    // RFC 7541 §4.2: this MUST occur at the beginning of the first header block.
                    let max = integer(&mut block, 5)?;
                    if begun || max > TABLE {
                        return Err(Malformed);
                    }
                    self.max = Some(max);
                    self.evict(max);
                    continue;
                }
                _ => self.literal(&mut block, 4)?,
            };
            begun = true;
            size += name.as_str().len() + value.len() + OVERHEAD;
            if size <= most {
                field(name, value);
            }
        }
        if self.scratch.0.capacity() > KEPT {
            self.scratch = Scratch::default();
        }
        Ok(size)
    }

    fn indexed(&self, index: usize) -> Result<(Name, Bytes), Malformed> {
        let (name, value) = self.entry(index)?;
        Ok((name.clone(), value.clone()))
    }

    fn entry(&self, index: usize) -> Result<&(Name, Bytes), Malformed> {
        let at = index.checked_sub(1).ok_or(Malformed)?;
        let entry = if at < table::STATIC { table::TABLE.get(at) } else { self.entries.get(at - table::STATIC) };
        entry.ok_or(Malformed)
    }

    fn literal(&mut self, block: &mut &[u8], prefix: u32) -> Result<(Name, Bytes), Malformed> {
        let name = match integer(block, prefix)? {
            0 => self.scratch.string(block, Name::read)?,
            index => self.entry(index)?.0.clone(),
        };
        let value = self.scratch.string(block, |value| {
            if value.is_empty() {
                return Bytes::new();
            }
            spare::read_into(|room| room.extend_from_slice(value)).1.freeze()
        })?;
        Ok((name, value))
    }

    fn insert(&mut self, name: &Name, value: &Bytes) {
        let size = name.as_str().len() + value.len() + OVERHEAD;
        let max = self.max.unwrap_or(TABLE);
        // RFC 7541 §4.4: an entry larger than the table empties it.
        self.evict(max.saturating_sub(size));
        if size <= max {
            self.size += size;
            self.entries.push_front((name.clone(), Bytes::copy_from_slice(value)));
        }
    }

    fn evict(&mut self, most: usize) {
        while self.size > most
            && let Some((name, value)) = self.entries.pop_back()
        {
            self.size -= name.as_str().len() + value.len() + OVERHEAD;
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }
}

impl Scratch {
    /// A string literal (RFC 7541 §5.2), in plain text.
    fn string<T>(&mut self, block: &mut &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<T, Malformed> {
        let coded = block.first().ok_or(Malformed)? & 0x80 != 0;
        let length = integer(block, 7)?;
        let (text, rest) = block.split_at_checked(length).ok_or(Malformed)?;
        *block = rest;
        if !coded {
            return Ok(read(text));
        }
        self.0.clear();
        huffman::decode(text, &mut self.0).ok_or(Malformed)?;
        Ok(read(&self.0))
    }
}

/// An integer with a prefix of so many bits (RFC 7541 §5.1), below 2²⁸.
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Malformed> {
    let (first, mut rest) = block.split_first().ok_or(Malformed)?;
    let mask = (1usize << prefix) - 1;
    let mut value = usize::from(*first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (byte, after) = rest.split_first().ok_or(Malformed)?;
            rest = after;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return Err(Malformed);
            }
        }
    }
    *block = rest;
    Ok(value)
}

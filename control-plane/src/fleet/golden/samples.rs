//! Samples of one row at two resolutions, each in one piece of memory.

use super::counts::{Counts, Packed};
use super::{COARSE, FINE};
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};

/// Fine slots in a coarse one.
const IN_COARSE: u64 = COARSE.as_secs() / FINE.as_secs();

/// Samples of one row at both resolutions. The newest fine one becomes part of a coarse one when the next begins.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    fine: Ring,
    coarse: Ring,
}

impl Samples {
    pub(super) fn len(&self) -> usize {
        usize::from(self.fine.len) + usize::from(self.coarse.len)
    }

    /// The newest fine slot.
    pub(super) fn last(&self) -> Option<u64> {
        self.fine.last()
    }

    /// Counts in a fine slot: the newest, a newer one, or the one before it; `kept` are the numbers of fine and coarse ones.
    pub(super) fn add(&mut self, fine: u64, kept: (u64, u64), packed: &Packed) {
        if self.last().is_some_and(|last| fine < last) && self.fine.add_late(fine, packed) {
            // It is part of a coarse one already.
            return self.coarse.add(fine / IN_COARSE, packed);
        }
        let fine = self.last().map_or(fine, |last| last.max(fine));
        if self.last() != Some(fine) {
            self.fold(kept.1);
            self.fine.forget(fine, kept.0);
        }
        self.fine.add(fine, packed);
    }

    fn fold(&mut self, kept: u64) {
        if let Some((slot, packed)) = self.fine.newest() {
            let coarse = slot / IN_COARSE;
            self.coarse.forget(coarse, kept);
            self.coarse.add(coarse, packed);
        }
    }

    /// Lets go of what is before the last `kept` slots.
    pub(super) fn forget(&mut self, (fine, coarse): (u64, u64), kept: (u64, u64)) {
        if self.last().is_some_and(|last| last + kept.0 <= fine) {
            self.fold(kept.1);
        }
        self.fine.forget(fine, kept.0);
        self.coarse.forget(coarse, kept.1);
    }

    /// Adds up the slots from one on, of one resolution.
    pub(super) fn sum(&self, is_fine: bool, from: u64, into: &mut Counts) {
        if is_fine {
            return self.fine.sum(from, into);
        }
        self.coarse.sum(from, into);
        if let Some((slot, mut packed)) = self.fine.newest()
            && slot / IN_COARSE >= from
        {
            into.add_packed(&mut packed);
        }
    }

    /// Adds each slot to its place in `into`, whose first is of the slot `from`; others are left out.
    pub(super) fn spread(&self, is_fine: bool, from: i64, into: &mut [Counts]) {
        let mut add = |slot: u64, counts: Counts| {
            let place = i64::try_from(slot).ok().and_then(|slot| usize::try_from(slot - from).ok());
            if let Some(sum) = place.and_then(|place| into.get_mut(place)) {
                sum.add(&counts);
            }
        };
        if is_fine {
            return self.fine.each(add);
        }
        self.coarse.each(&mut add);
        if let Some((slot, mut packed)) = self.fine.newest() {
            let mut counts = Counts::default();
            counts.add_packed(&mut packed);
            add(slot / IN_COARSE, counts);
        }
    }
}

/// Samples at one resolution, oldest first: of each, how many slots it is after the one before it, and packed counts.
#[derive(Clone, Debug, Default)]
struct Ring {
    bytes: Vec<u8>,
    /// Slots of the oldest and of the newest.
    ends: [u32; 2],
    /// Where the newest begins.
    tail: u32,
    len: u16,
}

impl Ring {
    fn last(&self) -> Option<u64> {
        (self.len > 0).then_some(u64::from(self.ends[1]))
    }

    fn newest(&self) -> Option<(u64, &[u8])> {
        let mut bytes = self.bytes.get(self.tail as usize..).filter(|_| self.len > 0)?;
        decode_varint(&mut bytes).ok()?;
        Some((u64::from(self.ends[1]), bytes))
    }

    fn add(&mut self, slot: u64, packed: &[u8]) {
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        if self.len > 0 && self.ends[1] == slot {
            let mut newest = self.bytes.get(self.tail as usize..).unwrap_or_default();
            let after = decode_varint(&mut newest).unwrap_or_default() as u32;
            let sum = Packed::sum(newest, packed);
            self.bytes.truncate(self.tail as usize);
            self.push(after, &sum);
            return;
        }
        if self.len == 0 {
            self.ends = [slot, slot];
        }
        let after = slot.saturating_sub(self.ends[1]);
        self.tail = self.bytes.len() as u32;
        self.ends[1] = slot;
        self.len += 1;
        self.push(after, packed);
    }

    /// Adds to the slot before the newest; false: that is another one.
    fn add_late(&mut self, slot: u64, packed: &[u8]) -> bool {
        let mut left = &self.bytes[..self.tail as usize];
        let (mut at, mut begin, mut after) = (u64::from(self.ends[0]), 0, 0);
        for i in 1..self.len {
            begin = self.tail as usize - left.len();
            after = decode_varint(&mut left).unwrap_or_default();
            at += if i == 1 { 0 } else { after };
            Counts::default().add_packed(&mut left);
        }
        if self.len < 2 || at != slot {
            return false;
        }
        let mut held = &self.bytes[begin..self.tail as usize];
        let (_, sum) = (decode_varint(&mut held), Packed::sum(held, packed));
        let newest = self.bytes.split_off(self.tail as usize);
        self.bytes.truncate(begin);
        self.push(after as u32, &sum);
        self.tail = self.bytes.len() as u32;
        self.bytes.extend_from_slice(&newest);
        true
    }

    fn push(&mut self, after: u32, packed: &[u8]) {
        let needed = encoded_len_varint(after.into()) + packed.len();
        if self.bytes.capacity() - self.bytes.len() < needed {
            // Not room for twice as many, most of which would stay empty.
            self.bytes.reserve_exact(needed.max(self.bytes.len() / 4));
        }
        encode_varint(after.into(), &mut self.bytes);
        self.bytes.extend_from_slice(packed);
    }

    /// Keeps what is in the last `kept` slots, this one included.
    fn forget(&mut self, slot: u64, kept: u64) {
        if self.last().is_none_or(|last| last + kept <= slot) {
            *self = Self::default();
            return;
        }
        let (mut begin, mut gone) = (0, 0);
        while u64::from(self.ends[0]) + kept <= slot {
            let mut bytes = &self.bytes[begin..];
            let (_, ()) = (decode_varint(&mut bytes), Counts::default().add_packed(&mut bytes));
            begin = self.bytes.len() - bytes.len();
            self.ends[0] += decode_varint(&mut bytes).unwrap_or_default() as u32;
            gone += 1;
        }
        if gone > 0 {
            self.bytes.drain(..begin);
            self.tail -= begin as u32;
            self.len -= gone;
            if self.bytes.capacity() > 2 * self.bytes.len() + 64 {
                self.bytes.shrink_to_fit();
            }
        }
    }

    /// Each slot with its counts, the oldest first.
    fn each(&self, mut take: impl FnMut(u64, Counts)) {
        let mut bytes = &self.bytes[..];
        let mut slot = u64::from(self.ends[0]);
        for i in 0..self.len {
            let after = decode_varint(&mut bytes).unwrap_or_default();
            slot += if i == 0 { 0 } else { after };
            let mut counts = Counts::default();
            counts.add_packed(&mut bytes);
            take(slot, counts);
        }
    }

    fn sum(&self, from: u64, into: &mut Counts) {
        let mut bytes = &self.bytes[..];
        let mut slot = u64::from(self.ends[0]);
        for i in 0..self.len {
            let after = decode_varint(&mut bytes).unwrap_or_default();
            slot += if i == 0 { 0 } else { after };
            if slot >= from {
                into.add_packed(&mut bytes);
            } else {
                Counts::default().add_packed(&mut bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use weft_proto::v1;

    fn packed() -> impl Strategy<Value = Packed> {
        let number = prop_oneof![Just(0), 0..200_u64, any::<u64>()];
        (prop::collection::vec(number, 7), prop::collection::vec((0..58_usize, 0..1000_u64), 0..6)).prop_map(
            |(n, l)| {
                let mut latency_buckets = vec![0; 58];
                l.into_iter().for_each(|(bucket, count)| latency_buckets[bucket] = count);
                Packed::of(&v1::CallStats {
                    calls: n[0],
                    failures: n[1],
                    attempts: n[2],
                    retries: n[3],
                    mtls: n[4],
                    bytes_sent: n[5],
                    bytes_received: n[6],
                    latency_buckets,
                    ..Default::default()
                })
            },
        )
    }

    fn unpacked(mut packed: &[u8]) -> Counts {
        let mut counts = Counts::default();
        counts.add_packed(&mut packed);
        assert!(packed.is_empty(), "{packed:?} is left");
        counts
    }

    proptest! {
        #[test]
        fn a_ring_is_a_queue_of_counts(steps in prop::collection::vec((0..4_u64, packed(), 0..9_u64), 0..60)) {
            let (mut ring, mut queue) = (Ring::default(), VecDeque::<(u64, Counts)>::new());
            let mut slot = 1000;
            for (after, packed, kept) in steps {
                let counts = unpacked(&packed);
                slot += after;
                ring.forget(slot, kept + 1);
                queue.retain(|(of, _)| of + kept + 1 > slot);
                ring.add(slot, &packed);
                match queue.back_mut() {
                    Some((of, sum)) if *of == slot => sum.add(&counts),
                    _ => queue.push_back((slot, counts.clone())),
                }
                // Something late, of the slot before or of none that there is.
                let late = queue.len().checked_sub(2).map_or(slot + 1, |place| queue[place].0);
                let is_there = ring.add_late(late, &packed);
                prop_assert_eq!(is_there, queue.len() > 1);
                prop_assert!(!ring.add_late(slot, &packed), "the newest is not late");
                if let Some((_, sum)) = queue.len().checked_sub(2).and_then(|place| queue.get_mut(place)) {
                    sum.add(&counts);
                }
                prop_assert_eq!(usize::from(ring.len), queue.len());
                prop_assert_eq!(ring.newest().map(|(of, packed)| (of, unpacked(packed))), queue.back().cloned());
                let mut spread = vec![Counts::default(); 4];
                ring.each(|of, counts| if of + 3 >= slot { spread[(of + 3 - slot) as usize].add(&counts) });
                for (place, is) in spread.iter().enumerate() {
                    let wanted = queue.iter().find(|(of, _)| *of + 3 == slot + place as u64);
                    prop_assert_eq!(is, &wanted.map(|(_, counts)| counts.clone()).unwrap_or_default());
                }
                for from in [0, slot - 3, slot] {
                    let (mut is, mut wanted) = (Counts::default(), Counts::default());
                    ring.sum(from, &mut is);
                    queue.iter().filter(|(of, _)| *of >= from).for_each(|(_, counts)| wanted.add(counts));
                    prop_assert_eq!(is, wanted);
                }
            }
        }
    }
}

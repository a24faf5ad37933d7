//! A share of the calls, drawn exactly and without division: what mirrors and faults are given to.

/// A probability as a fraction of 2⁶⁴.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(Part);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    All,
    /// Draws below this hit.
    Below(u64),
}

impl Share {
    /// Every call.
    pub const ALL: Share = Share(Part::All);
    /// No call.
    pub const NONE: Share = Share(Part::Below(0));

    /// `numerator` of `denominator` calls, rounded down to a multiple of 2⁻⁶⁴; all of them where that is one or more, or of nothing.
    pub fn new(numerator: u32, denominator: u32) -> Self {
        if numerator >= denominator {
            return Share::ALL;
        }
        let below = (u128::from(numerator) << 64) / u128::from(denominator.max(1));
        Share(u64::try_from(below).map_or(Part::All, Part::Below))
    }

    /// Whether a draw hits. `random` is uniform over all `u64`.
    pub fn hits(self, random: u64) -> bool {
        match self.0 {
            Part::All => true,
            Part::Below(bound) => random < bound,
        }
    }
}

/// The `index`-th of many independent draws from one (SplitMix64, Steele, Lea and Flood 2014: its output function is a bijection
/// that leaves no visible trace of its input).
pub(crate) fn nth_draw(random: u64, index: u64) -> u64 {
    let mut mixed = random.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_exact_at_its_bound() {
        let half = Share::new(1, 2);
        assert!(half.hits((1 << 63) - 1) && !half.hits(1 << 63));
        let third = Share::new(1, 3);
        assert!(third.hits(u64::MAX / 3 - 1) && !third.hits(u64::MAX / 3 + 1));
    }

    #[test]
    fn all_and_none_have_no_exception() {
        for draw in [0, 1, u64::MAX] {
            assert!(
                Share::new(1_000_000, 1_000_000).hits(draw) && Share::new(0, 0).hits(draw) && Share::ALL.hits(draw)
            );
            assert!(!Share::new(0, 100).hits(draw) && !Share::NONE.hits(draw));
        }
    }

    #[test]
    fn draws_are_those_of_splitmix64() {
        // The first outputs of the reference implementation from state 0.
        assert_eq!([0, 1].map(|index| nth_draw(0, index)), [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
    }

    #[test]
    fn draws_from_one_draw_are_independent() {
        let half = Share::new(1, 2);
        let mut joint = [0_u32; 4];
        for seed in 0..40_000_u64 {
            let (a, b) = (half.hits(nth_draw(seed, 0)), half.hits(nth_draw(seed, 1)));
            joint[usize::from(a) * 2 + usize::from(b)] += 1;
        }
        assert!(joint.iter().all(|count| count.abs_diff(10_000) < 400), "{joint:?}");
    }
}

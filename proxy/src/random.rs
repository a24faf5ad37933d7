//! Randomness of the data path: fast, one generator a thread, seeded from the system. For shares, jitter and ids that must differ; never
//! for secrets.

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use std::cell::RefCell;

thread_local! {
    static GENERATOR: RefCell<SmallRng> = RefCell::new(SmallRng::from_seed(rand::random()));
}

/// The next number.
pub(crate) fn draw() -> u64 {
    GENERATOR.with_borrow_mut(|generator| generator.next_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_draw_different_numbers() {
        let here: Vec<u64> = (0..4).map(|_| draw()).collect();
        let there = std::thread::spawn(|| (0..4).map(|_| draw()).collect::<Vec<u64>>()).join().expect("drawn");
        assert_ne!(here, there);
        assert!(here.windows(2).all(|pair| pair[0] != pair[1]));
    }
}

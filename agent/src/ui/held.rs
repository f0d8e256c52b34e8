//! What is shown for a while, however many ask: so the page has a bounded share of a CPU.

use std::time::{Duration, Instant};

/// Making something takes one part in this many of the time of one CPU, at most.
const SHARE: u32 = 20;

/// A value, and until when it is shown.
#[derive(Debug)]
pub(super) struct Held<T> {
    value: T,
    made: Instant,
    until: Instant,
}

impl<T> Held<T> {
    /// Makes a value that is held for `least`, and longer where making it takes long.
    pub(super) fn make<E>(least: Duration, make: impl FnOnce() -> Result<T, E>) -> Result<Self, E> {
        let begun = Instant::now();
        let value = make()?;
        let made = Instant::now();
        let until = made + least.max((made - begun) * SHARE);
        Ok(Self { value, made, until })
    }

    /// What is held, while it is.
    pub(super) fn get(&self) -> Option<&T> {
        (Instant::now() < self.until).then_some(&self.value)
    }

    /// Whether it is still held or not.
    pub(super) fn value(&self) -> &T {
        &self.value
    }

    /// What was held, whether it still is or not.
    pub(super) fn into_inner(self) -> T {
        self.value
    }

    pub(super) fn age(&self) -> Duration {
        self.made.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_held_for_long() {
        let quick = Held::make(Duration::from_secs(60), || Ok::<_, ()>(1)).expect("made");
        assert_eq!(quick.get(), Some(&1));
        let slow = Held::make(Duration::ZERO, || {
            std::thread::sleep(Duration::from_millis(50));
            Ok::<_, ()>(2)
        });
        let slow = slow.expect("made");
        assert!(slow.until - slow.made >= Duration::from_millis(50) * SHARE);
        let over = Held::make(Duration::ZERO, || Ok::<_, ()>(3)).expect("made");
        while Instant::now() < over.until {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(over.get(), None);
        assert_eq!((*over.value(), over.into_inner()), (3, 3));
    }
}

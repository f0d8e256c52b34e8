//! Arms that take turns.
use anyhow::{Context, Result};

use super::result::Samples;

/// Something to measure.
pub(super) struct Arm<'a> {
    pub(super) name: String,
    run: Box<dyn FnMut() -> Result<Vec<f64>> + 'a>,
}

impl<'a> Arm<'a> {
    /// Of one value.
    pub(super) fn new(name: impl Into<String>, mut run: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self::of_many(name, move || Ok(vec![run()?]))
    }

    /// Of several, always as many.
    pub(super) fn of_many(name: impl Into<String>, run: impl FnMut() -> Result<Vec<f64>> + 'a) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }
}

/// Measures every arm once a round, in an order that turns from round to round: what the machine does beside it, and what one
/// arm leaves to the next, hits all of them alike. Samples of each value that the arms have.
pub(super) fn interleave<const VALUES: usize>(rounds: usize, arms: &mut [Arm<'_>]) -> Result<[Samples; VALUES]> {
    let mut samples = std::array::from_fn(|_| Samples::default());
    let count = arms.len();
    for round in 0..rounds {
        for turn in 0..count {
            let turn = (turn + round) % count;
            let index = if round % 2 == 0 { turn } else { count - 1 - turn };
            let arm = &mut arms[index];
            let values = (arm.run)().with_context(|| format!("arm {:?}, round {round}", arm.name))?;
            for (samples, value) in samples.iter_mut().zip(values) {
                samples.push(&arm.name, value);
            }
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_is_measured_once_a_round() {
        let mut next = 0.0;
        let next = std::cell::RefCell::new(&mut next);
        let count = || {
            **next.borrow_mut() += 1.0;
            Ok(**next.borrow())
        };
        let [samples] = interleave(4, &mut [Arm::new("a", count), Arm::new("b", count)]).unwrap();
        let mut all = [samples.of("a"), samples.of("b")].concat();
        all.sort_by(f64::total_cmp);
        assert_eq!(all, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert_eq!(samples.of("a").len(), 4);
    }
}

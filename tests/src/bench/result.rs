//! What a measurement comes to: a ratio of two arms, its spread, and the goal it is held against.
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, ensure};
use serde::de::Error as _;
use serde::{Deserialize, Serialize};

/// Where a ratio shall be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    pub(super) fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
        }
    }

    /// The bound itself.
    pub(super) fn bound(self) -> f64 {
        match self {
            Self::AtMost(bound) | Self::AtLeast(bound) => bound,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::AtLeast(least) => write!(f, ">= {least}"),
        }
    }
}

impl Serialize for Goal {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Goal {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bound = |text: &str| text.trim().parse().map_err(D::Error::custom);
        match (text.strip_prefix("<="), text.strip_prefix(">=")) {
            (Some(most), _) => bound(most).map(Self::AtMost),
            (_, Some(least)) => bound(least).map(Self::AtLeast),
            _ => Err(D::Error::custom(format!("no goal: {text}"))),
        }
    }
}

/// One line of the results.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) row: u8,
    pub(super) name: Cow<'static, str>,
    pub(super) case: String,
    /// Median of the rounds.
    pub(super) ratio: f64,
    /// The lowest and the highest round.
    pub(super) spread: [f64; 2],
    pub(super) goal: Goal,
    pub(super) met: bool,
    /// Medians of the arms.
    pub(super) values: BTreeMap<String, f64>,
    pub(super) unit: Cow<'static, str>,
}

/// What several arms came to, round by round.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    arms: BTreeMap<String, Vec<f64>>,
}

impl Samples {
    /// Adds an arm's value of the next round.
    pub(super) fn push(&mut self, arm: &str, value: f64) {
        self.arms.entry(arm.to_owned()).or_default().push(value);
    }

    /// All values, in another unit.
    pub(super) fn scaled(mut self, by: f64) -> Self {
        for value in self.arms.values_mut().flatten() {
            *value *= by;
        }
        self
    }

    /// An arm's values.
    pub(super) fn of(&self, arm: &str) -> &[f64] {
        self.arms.get(arm).map_or(&[], Vec::as_slice)
    }

    /// A result: `over` divided by `under`, round by round.
    pub(super) fn measured(
        &self,
        (row, name): (u8, &'static str),
        case: &str,
        (over, under): (&str, &str),
        goal: Goal,
        unit: &'static str,
    ) -> Result<Measured> {
        let pairs = self.of(over).iter().zip(self.of(under));
        let ratios: Vec<f64> = pairs.map(|(over, under)| over / under).collect();
        ensure!(
            !ratios.is_empty() && ratios.iter().all(|ratio| ratio.is_finite()),
            "{name}, {case}: no ratio of {over} over {under}: {ratios:?}"
        );
        let ratio = median(&ratios);
        Ok(Measured {
            row,
            name: name.into(),
            case: case.to_owned(),
            ratio: rounded(ratio),
            spread: [
                rounded(ratios.iter().copied().fold(f64::INFINITY, f64::min)),
                rounded(ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
            ],
            goal,
            met: goal.is_met(ratio),
            values: self
                .arms
                .iter()
                .map(|(arm, values)| (arm.clone(), rounded(median(values))))
                .collect(),
            unit: unit.into(),
        })
    }
}

/// The middle value; of an even number, the mean of the two.
pub(super) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which a part of the values lies, between neighbours by proportion.
pub(super) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = part * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// To four digits, which is more than any measurement here is good for.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_over_rounds_and_not_of_medians() {
        let mut samples = Samples::default();
        for (ours, floor) in [(10.0, 5.0), (30.0, 10.0), (80.0, 20.0)] {
            samples.push("ours", ours);
            samples.push("floor", floor);
        }
        let measured = samples
            .measured((1, "name"), "case", ("ours", "floor"), Goal::AtMost(2.5), "ns")
            .unwrap();
        assert_eq!(measured.ratio, 3.0);
        assert_eq!(measured.spread, [2.0, 4.0]);
        assert!(!measured.met);
        assert_eq!(measured.values["ours"], 30.0);
    }

    #[test]
    fn a_line_of_the_results_has_these_fields_and_no_others() {
        let mut samples = Samples::default();
        samples.push("ours", 3.0);
        samples.push("floor", 2.0);
        let measured = samples
            .measured((2, "name"), "case", ("ours", "floor"), Goal::AtLeast(1.0), "ns")
            .unwrap();
        let json = serde_json::to_value(&measured).unwrap();
        let fields: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let wanted = [
            "case", "goal", "met", "name", "ratio", "row", "spread", "unit", "values",
        ];
        assert_eq!(fields, wanted);
        assert_eq!(json["goal"], ">= 1");
        assert_eq!(serde_json::from_value::<Measured>(json.clone()).unwrap(), measured);
        assert_eq!(json["met"], true);
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!(quantile(&[1.0, 2.0], 1.0), 2.0);
    }

    #[test]
    fn an_arm_that_measured_nothing_is_an_error_and_not_a_ratio() {
        let mut samples = Samples::default();
        samples.push("ours", 3.0);
        assert!(
            samples
                .measured((1, "name"), "case", ("ours", "floor"), Goal::AtMost(1.0), "ns")
                .is_err()
        );
    }
}

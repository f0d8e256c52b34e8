//! Counts of test results, read from what the test programs print.

use std::ops::AddAssign;

use super::levels::EXPECTED_SKIPS;

/// What some tests came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// Skips that [`EXPECTED_SKIPS`] names.
    expected_skips: u64,
    closings: u64,
    /// Why the run fails although no test may have failed: a crash, an unexpected skip.
    pub(crate) complaints: Vec<String>,
}

impl Tally {
    /// Reads one line of a test program's output. Returns whether it is a closing line.
    pub(crate) fn read(&mut self, line: &str) -> bool {
        if let Some((passed, failed, skipped)) = closing(line) {
            self.passed += passed;
            self.failed += failed;
            self.skipped += skipped;
            self.closings += 1;
            return true;
        }
        if EXPECTED_SKIPS.iter().any(|part| line.contains(part)) {
            self.expected_skips += skips(line);
        }
        false
    }

    /// Settles one test program: its exit must agree with its closing lines, and its skips with the expected ones.
    /// A program that dies has at least one failed test.
    pub(crate) fn settle(&mut self, program: &str, success: bool, how: &str) {
        if success && self.closings == 0 {
            self.failed += 1;
            self.complaints
                .push(format!("{program} ended without saying how many tests it ran"));
        } else if success && self.failed > 0 {
            self.complaints
                .push(format!("{program} reports {} failed tests", self.failed));
        } else if !success && self.failed == 0 {
            self.failed += 1;
            self.complaints
                .push(format!("{program} ended with {how}, without naming a failed test"));
        } else if !success {
            self.complaints.push(format!("{program}: {} failed", self.failed));
        }
        if self.skipped > self.expected_skips {
            let unexpected = self.skipped - self.expected_skips;
            self.complaints.push(format!(
                "{program}: {unexpected} skips are not expected (xtask/src/test/levels.rs)"
            ));
        }
    }

    /// The closing line.
    /// One test that could not be run here, and why.
    pub(crate) fn skip(what: &str) -> Self {
        println!("skipped: {what}");
        Self {
            skipped: 1,
            expected_skips: 1,
            ..Self::default()
        }
    }

    pub(crate) fn line(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.expected_skips += other.expected_skips;
        self.closings += other.closings;
        self.complaints.extend(other.complaints);
    }
}

/// (passed, failed, skipped) of a closing line: libtest's `test result: …`, or a harness's own
/// `N passed, N failed, N skipped`, alone in its line.
fn closing(line: &str) -> Option<(u64, u64, u64)> {
    if let Some(rest) = line.strip_prefix("test result: ") {
        let counts = rest.split_once(". ")?.1;
        let count = |word| {
            counts
                .split(';')
                .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
        };
        return Some((count("passed")?, count("failed")?, count("ignored")?));
    }
    let mut parts = line.trim().split(", ");
    let mut count = |word| parts.next()?.strip_suffix(word)?.strip_suffix(' ')?.parse().ok();
    let counts = (count("passed")?, count("failed")?, count("skipped")?);
    parts.next().is_none().then_some(counts)
}

/// How many skipped tests a line reports: `test NAME ... ignored` of libtest, or `skipped … | N walks: REASON` of the walks.
fn skips(line: &str) -> u64 {
    if line.starts_with("test ") && line.contains("... ignored") {
        return 1;
    }
    let count = line
        .strip_prefix("skipped ")
        .and_then(|rest| rest.split_once(" | ")?.1.split_once(" walks: ")?.0.parse().ok());
    count.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_closing_line_are_read() {
        let libtest = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.42s";
        assert_eq!(closing(libtest), Some((12, 0, 1)));
        let failed = "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
        assert_eq!(closing(failed), Some((2, 3, 0)));
        assert_eq!(closing("40 passed, 1 failed, 2 skipped"), Some((40, 1, 2)));
    }

    #[test]
    fn a_line_that_only_looks_like_a_closing_line_is_not_one() {
        for line in [
            "40 passed, 1 failed",
            "ours: 4 passed, 0 failed, 0 skipped",
            "4 passed, 0 failed, 0 skipped, 1 flaky",
            "",
        ] {
            assert_eq!(closing(line), None, "{line}");
        }
    }

    fn tally(lines: &[&str], success: bool) -> Tally {
        let mut tally = Tally::default();
        for line in lines {
            tally.read(line);
        }
        tally.settle("walks", success, "signal 9");
        tally
    }

    #[test]
    fn a_good_program_raises_no_complaint() {
        let tally = tally(&["3 passed, 0 failed, 0 skipped"], true);
        assert_eq!(
            (tally.line().as_str(), tally.complaints.len()),
            ("3 passed, 0 failed, 0 skipped", 0)
        );
    }

    #[test]
    fn a_program_that_dies_or_says_nothing_counts_as_a_failed_test() {
        assert_eq!(
            tally(&["3 passed, 0 failed, 0 skipped"], false).line(),
            "3 passed, 1 failed, 0 skipped"
        );
        assert_eq!(tally(&[], true).line(), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn failed_tests_count_even_when_the_program_exits_with_zero() {
        assert_eq!(tally(&["3 passed, 1 failed, 0 skipped"], true).complaints.len(), 1);
    }

    #[test]
    fn a_skip_is_a_complaint_unless_it_is_expected() {
        let walks = |reason: &str| {
            tally(
                &[
                    &format!("skipped routed | 2 walks: {reason}"),
                    "3 passed, 0 failed, 2 skipped",
                ],
                true,
            )
        };
        assert_eq!(walks("it was raining").complaints.len(), 1);
        assert_eq!(walks(EXPECTED_SKIPS[0]).complaints.len(), 0);
        assert_eq!(
            tally(
                &[
                    "test a ... ignored",
                    "test result: ok. 1 passed; 0 failed; 1 ignored; 0"
                ],
                true
            )
            .complaints
            .len(),
            1
        );
    }
}

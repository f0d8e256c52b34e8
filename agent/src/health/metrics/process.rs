//! The agent's own process, from /proc (proc(5)).

use std::fs;

/// What could be read.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) start_seconds: Option<f64>,
    pub(super) virtual_bytes: Option<f64>,
    pub(super) resident_bytes: Option<f64>,
    pub(super) open_fds: Option<f64>,
    pub(super) max_fds: Option<f64>,
}

pub(super) fn read() -> Process {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    Process {
        open_fds: fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64),
        max_fds: max_fds(&text("/proc/self/limits")),
        ..stat(&text("/proc/self/stat"), &text("/proc/stat"))
    }
}

/// `own`: /proc/self/stat; `machine`: /proc/stat, for the time of boot.
fn stat(own: &str, machine: &str) -> Process {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let page = rustix::param::page_size() as f64;
    // The second field, the program's name, may hold anything, brackets and spaces too.
    let fields: Vec<f64> = own
        .rsplit_once(')')
        .map(|(_, rest)| {
            rest.split_whitespace()
                .skip(1)
                .map(|field| field.parse().unwrap_or(0.0))
                .collect()
        })
        .unwrap_or_default();
    // As proc(5) numbers them; the first here is 4.
    let field = |number: usize| fields.get(number - 4).copied();
    let boot = machine
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|text| text.trim().parse::<f64>().ok());
    Process {
        cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / ticks),
        start_seconds: field(22).zip(boot).map(|(start, boot)| boot + start / ticks),
        virtual_bytes: field(23),
        resident_bytes: field(24).map(|pages| pages * page),
        ..Process::default()
    }
}

fn max_fds(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_all_of_them_and_they_are_plausible() {
        let found = read();
        assert!(found.open_fds.is_some_and(|count| count >= 3.0), "{found:?}");
        assert!(found.max_fds >= found.open_fds, "{found:?}");
        assert!(found.resident_bytes.is_some_and(|bytes| bytes > 1e5), "{found:?}");
        assert!(found.virtual_bytes > found.resident_bytes, "{found:?}");
        assert!(
            found.cpu_seconds.is_some_and(|seconds| (0.0..1e5).contains(&seconds)),
            "{found:?}"
        );
        let now = jiff::Timestamp::now().as_duration().as_secs_f64();
        let age = now - found.start_seconds.expect("a time");
        assert!((-2.0..1e5).contains(&age), "started {age} s ago");
    }

    #[test]
    fn a_name_with_brackets_and_spaces_shifts_nothing() {
        let own = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 0 0 0 200 100 0 0 20 0 3 0 5000 8192 2 18446744073709551615";
        let found = stat(own, "cpu 1 2\nbtime 1000\n");
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(found.cpu_seconds, Some(300.0 / ticks));
        assert_eq!(found.start_seconds, Some(1000.0 + 5000.0 / ticks));
        assert_eq!(found.virtual_bytes, Some(8192.0));
        assert_eq!(found.resident_bytes, Some(2.0 * rustix::param::page_size() as f64));
    }
}

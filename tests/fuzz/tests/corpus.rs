//! Every input that is kept for a fuzzer: what has found something once, and what leads far into the code.

use std::fs;
use std::path::Path;

use ferrogate_fuzz::TARGETS;

#[test]
fn everything_that_is_kept_for_the_fuzzers_runs_through() {
    for (name, run) in TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let mut count = 0;
        for entry in entries {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            run(&fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "nothing in {}", directory.display());
    }
}

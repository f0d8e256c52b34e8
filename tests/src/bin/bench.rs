//! The benchmarks: see [`ferrogate_tests::bench`].
fn main() -> anyhow::Result<()> {
    ferrogate_tests::bench::run()
}

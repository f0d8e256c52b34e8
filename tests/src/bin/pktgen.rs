//! The packet generator: see [`ferrogate_tests::pktgen`].
fn main() -> anyhow::Result<()> {
    ferrogate_tests::pktgen::run()
}

//! The loaded programs do what the host's pipeline does: return code, bytes and table writes, packet by packet. Needs root.
//!
//! `FERROGATE_SEED` repeats a run, `FERROGATE_CASES` makes it longer.
use std::env;

use anyhow::{Context, Result, ensure};
use ferrogate_common::Reason;
use ferrogate_datapath::host::Program;
use ferrogate_tests::kernel::{Generator, Network, Shapes, Variant, World};

/// Packets, at least.
const CASES: u64 = 300_000;

/// Packets that run over one state of the tables, which evolves.
const CASES_PER_STATE: u64 = 1_500;

/// Packets between comparisons of whole tables.
const CASES_PER_COMPARISON: u64 = 250;

fn number(variable: &str) -> Result<Option<u64>> {
    match env::var(variable) {
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("{variable}={text}"))?)),
        Err(_) => Ok(None),
    }
}

#[test]
fn the_loaded_programs_and_the_host_pipeline_agree_on_every_packet() -> Result<()> {
    let seed = number("FERROGATE_SEED")?.unwrap_or_else(|| fastrand::u64(..));
    let cases = number("FERROGATE_CASES")?.unwrap_or(CASES);
    println!("FERROGATE_SEED={seed}");
    let network = Network::enter()?;
    covers(&agree(seed, cases, &network, Variant::default())?)?;
    let world = agree(seed, cases / 2, &network, Variant::ALL)?;
    ensure!(!world.tables().traffic.is_empty(), "nothing was counted by service");
    let lost = world.tally.of(Program::UplinkIngress, Reason::NotHere);
    ensure!(lost > 5, "packets came to not_here {lost} times only");
    let Shapes { wrapped, unwrapped } = world.tally.shapes;
    ensure!(
        wrapped > 100 && unwrapped > 100,
        "{wrapped} packets were wrapped, {unwrapped} unwrapped"
    );
    Ok(())
}

fn agree(seed: u64, cases: u64, network: &Network, variant: Variant) -> Result<World> {
    let mut world = World::new(network, variant)?;
    let mut generator = Generator::new(seed, network.clone());
    for number in 0..cases {
        if number % CASES_PER_STATE == 0 {
            world.reset(generator.state())?;
        }
        if let Some(event) = generator.event(world.tables()) {
            world.happen(&event)?;
        }
        let case = generator.case(world.tables());
        // A test run takes the first bytes of each packet for an Ethernet header, behind which room is made and taken away.
        if variant.dsr && case.program == Program::UplinkIngressL3 {
            continue;
        }
        let outcome = world
            .step(&case)
            .with_context(|| format!("FERROGATE_SEED={seed}, packet {number}"))?;
        generator.learn(&case, &outcome);
        if (number + 1) % CASES_PER_COMPARISON == 0 {
            world
                .compare_tables()
                .with_context(|| format!("FERROGATE_SEED={seed}, after packet {number}"))?;
        }
    }
    for ((program, verdict, reason), count) in &world.tally.counts {
        println!("{:<18} {verdict:<8} {reason:<20} {count}", program.name());
    }
    Ok(world)
}

/// Whether every program came to every outcome that it can come to, more than a few times.
fn covers(world: &World) -> Result<()> {
    use Reason::{
        Echo, ExternalClusterIp, Fragment, HopLimit, IcmpError, IcmpRedirect, LeftToKernel, LeftToTcx, LostFragment,
        Malformed, Martian, NewFlow, NoEndpoints, NoFlow, NoLocalEndpoints, NoRoute, NoSnatPort, NoSource, NoSuchPort,
        NotIp, NotService, Reply, SourceRange, StaleService, TooBig, Translated, UnknownClusterIp,
    };
    const PARSE: &[Reason] = &[NotService, NotIp, Malformed];
    const SECOND: &[Reason] = &[Fragment, IcmpError, IcmpRedirect];
    const MAKE: &[Reason] = &[
        Translated,
        NewFlow,
        Reply,
        NoLocalEndpoints,
        StaleService,
        SourceRange,
        UnknownClusterIp,
        LeftToKernel,
    ];
    const REFUSE: &[Reason] = &[NoEndpoints, NoFlow];
    const ROUTE: &[Reason] = &[NoRoute, NoSource, NoSnatPort];
    const FORGED: &[Reason] = &[Martian];
    const FORWARD: &[Reason] = &[HopLimit, TooBig, ExternalClusterIp];
    let expected: [(Program, &[&[Reason]]); 7] = [
        (
            Program::PodIngress,
            &[
                PARSE,
                SECOND,
                MAKE,
                REFUSE,
                FORGED,
                &[NoSnatPort, NoSuchPort, Echo, LostFragment],
            ],
        ),
        (Program::PodEgress, &[PARSE, SECOND, &[Reply]]),
        (
            Program::UplinkIngress,
            &[PARSE, SECOND, MAKE, REFUSE, FORGED, ROUTE, FORWARD],
        ),
        (
            Program::UplinkIngressL3,
            &[PARSE, SECOND, MAKE, REFUSE, FORGED, ROUTE, FORWARD],
        ),
        (
            Program::UplinkEgress,
            &[PARSE, SECOND, MAKE, REFUSE, ROUTE, &[NoSuchPort, Echo]],
        ),
        (Program::UplinkEgressL3, &[PARSE, SECOND, MAKE, REFUSE, ROUTE]),
        (
            Program::UplinkXdp,
            &[PARSE, MAKE, FORGED, ROUTE, &[LeftToTcx, ExternalClusterIp]],
        ),
    ];
    for (program, reasons) in expected {
        for reason in reasons.iter().copied().flatten() {
            let count = world.tally.of(program, *reason);
            ensure!(count > 5, "{} came to {reason} {count} times only", program.name());
        }
    }
    let looped = world.tally.looped();
    ensure!(looped > 5, "{looped} packets went in by the loopback device only");
    Ok(())
}

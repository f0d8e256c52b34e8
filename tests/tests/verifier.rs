//! What the verifier makes of every program, held against a budget. Needs root.
use anyhow::{Context, Result, ensure};
use ferrogate_tests::kernel::{Object, Variant};

/// The most a program may cost.
struct Budget {
    program: &'static str,
    /// Instructions that the verifier walks; it gives up at a million.
    verified: u32,
    /// Bytes of machine code.
    jited: u32,
}

const fn budget(program: &'static str, verified: u32, jited: u32) -> Budget {
    Budget {
        program,
        verified,
        jited,
    }
}

/// The kernel whose verifier the budgets are of: each walks other ways.
const MEASURED_ON: &str = "6.18.";
/// What both may be on others: well below what the verifier walks at most.
const OF_OTHERS: u32 = 300_000;

/// A little above what holds today.
const BUDGETS: [Budget; 21] = [
    budget("pod_ingress", 69_500, 27_750),
    budget("pod_egress", 15_300, 7_600),
    budget("uplink_ingress", 75_300, 28_400),
    budget("uplink_egress", 88_100, 26_800),
    budget("uplink_ingress_l3", 73_900, 28_350),
    budget("uplink_egress_l3", 87_500, 26_550),
    budget("pod_ingress_second", 207_500, 42_000),
    budget("pod_egress_second", 36_000, 19_000),
    budget("uplink_ingress_second", 210_500, 42_950),
    budget("uplink_egress_second", 208_000, 42_400),
    budget("uplink_ingress_l3_second", 212_000, 42_450),
    budget("uplink_egress_l3_second", 143_500, 41_600),
    budget("uplink_xdp", 73_200, 26_800),
    budget("connect4", 6_500, 8_300),
    budget("connect6", 6_600, 7_900),
    budget("sendmsg4", 15_200, 8_600),
    budget("sendmsg6", 14_200, 9_100),
    budget("recvmsg4", 160, 780),
    budget("recvmsg6", 200, 960),
    budget("getpeername4", 160, 780),
    budget("getpeername6", 200, 960),
];

fn load(variant: Variant) -> Result<Object> {
    // Default sizes but for the LRU maps, whose memory is taken at once.
    Object::load_with(|loader| {
        variant.set(loader);
        for map in [
            "FLOWS",
            "HALF_OPEN",
            "SNAT_FLOWS",
            "FRAGMENTS",
            "AFFINITY",
            "SOCKET_PAIRS",
            "UDP_SOCKETS",
        ] {
            loader.map_max_entries(map, 1024);
        }
    })
}

/// What the verifier walks of each program, and its bytes of machine code.
fn costs(object: &Object, name: &str) -> Result<(u32, u32, u32)> {
    let program = object
        .ebpf
        .program(name)
        .with_context(|| format!("no program {name}"))?;
    let info = program.info()?;
    let walked = info.verified_instruction_count().context("a kernel from 5.16 on")?;
    let translated = info.size_translated().context("a kernel that shows sizes")?;
    Ok((walked, translated, info.size_jitted()))
}

#[test]
fn every_program_passes_the_verifier_within_its_budget() -> Result<()> {
    let object = load(Variant::default())?;
    let mut over = Vec::new();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let limit = |budget: u32| {
        let measured = release.starts_with(MEASURED_ON);
        if measured { budget } else { OF_OTHERS }
    };
    println!("Linux {release}");
    println!(
        "{:<24} {:>9} {:>7} {:>11} {:>7} {:>7}",
        "program", "verified", "budget", "translated", "jited", "budget"
    );
    for Budget {
        program: name,
        verified,
        jited,
    } in &BUDGETS
    {
        let (walked, translated, machine_code) = costs(&object, name)?;
        println!("{name:<24} {walked:>9} {verified:>7} {translated:>11} {machine_code:>7} {jited:>7}");
        if walked > limit(*verified) || machine_code > limit(*jited) {
            over.push(*name);
        }
    }
    let all = load(Variant::ALL)?;
    println!("with --service-traffic, --dsr and --forwarding redirect:");
    for Budget { program: name, .. } in &BUDGETS {
        let (walked, translated, machine_code) = costs(&all, name)?;
        println!("{name:<24} {walked:>9} {:>7} {translated:>11} {machine_code:>7}", "");
        if walked > OF_OTHERS {
            over.push(*name);
        }
    }
    ensure!(over.is_empty(), "over their budgets: {over:?}");
    let programs = object.ebpf.programs().count();
    ensure!(
        programs == BUDGETS.len(),
        "{programs} programs, {} budgets",
        BUDGETS.len()
    );
    Ok(())
}

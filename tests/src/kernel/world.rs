//! Both sides of a comparison.
use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use ferrogate_common::{Reason, address_roles};
use ferrogate_datapath::Verdict;
use ferrogate_datapath::host::{HostTables, Outcome, Program, Simulator};

use super::generate::Case;
use super::maps::KernelTables;
use super::network::{Network, Place};
use super::object::{Object, Run, Variant, clock_ticks, pass_frames};
use super::states::{Event, SIZES};

/// How often each program came to each outcome.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    pub counts: BTreeMap<(Program, &'static str, Reason), u64>,
    pub shapes: Shapes,
}

/// How many packets came out as another node's, and were taken out of another header.
#[derive(Clone, Copy, Default, Debug)]
pub struct Shapes {
    pub wrapped: u64,
    pub unwrapped: u64,
}

impl Shapes {
    /// One more packet, of so many bytes and then so many.
    fn note(&mut self, outcome: &Outcome, before: usize, link: usize) {
        let overhead = |bytes: usize| bytes == 20 || bytes == 40;
        let added = outcome.bytes.len().saturating_sub(before + (14 - link));
        let translated = matches!(outcome.verdict.reason(), Reason::NewFlow | Reason::Translated);
        self.wrapped += u64::from(translated && overhead(added));
        self.unwrapped += u64::from(translated && overhead(before.saturating_sub(outcome.bytes.len())));
    }
}

impl Tally {
    /// Packets.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// How often a program came to a reason.
    pub fn of(&self, program: Program, reason: Reason) -> u64 {
        let of =
            |((p, _, r), count): (&(Program, &str, Reason), &u64)| (*p == program && *r == reason).then_some(*count);
        self.counts.iter().filter_map(of).sum()
    }

    /// How many packets went in by the loopback device.
    pub fn looped(&self) -> u64 {
        let looped = self.counts.iter().filter(|((_, verdict, _), _)| *verdict == LOOPBACK);
        looped.map(|(_, count)| count).sum()
    }
}

/// The loaded programs with their maps, and the pipeline with a host's.
pub struct World {
    object: Object,
    /// What XDP test runs need on their devices.
    _passing: Ebpf,
    kernel: KernelTables,
    simulator: Simulator,
    variant: Variant,
    pub tally: Tally,
}

impl World {
    /// Loads the programs; this thread must be in the network's namespace.
    pub fn new(network: &Network, variant: Variant) -> Result<Self> {
        let mut object = Object::load(SIZES, variant)?;
        let passing = pass_frames(&[Place::Uplink, Place::Narrow].map(|place| place.device().to_owned()))?;
        let kernel = KernelTables::take(&mut object.ebpf)?;
        let simulator = Simulator {
            tables: HostTables::new(SIZES),
            fib: network.fib.clone(),
            ticks: 0,
        };
        Ok(Self {
            object,
            _passing: passing,
            kernel,
            simulator,
            variant,
            tally: Tally::default(),
        })
    }

    /// What the host's side holds.
    pub fn tables(&self) -> &HostTables {
        &self.simulator.tables
    }

    /// Begins anew with other tables on both sides.
    pub fn reset(&mut self, tables: HostTables) -> Result<()> {
        self.kernel.write(&tables)?;
        self.simulator.tables = HostTables {
            counts_traffic: self.variant.counts_traffic,
            is_dsr: self.variant.dsr,
            is_redirect: self.variant.redirect,
            ..tables
        };
        Ok(())
    }

    /// Lets something happen on both sides.
    pub fn happen(&mut self, event: &Event) -> Result<()> {
        let tables = &mut self.simulator.tables;
        match event {
            Event::Flow(table, key, flow) => {
                match flow {
                    Some(flow) => tables.flow_table_mut(*table).insert(*key, *flow),
                    None => tables.flow_table_mut(*table).remove(key),
                };
                tables.add_flow_roles(key);
                self.kernel.set_addresses(&tables.addresses)?;
                self.kernel.set_flow(*table, key, flow.as_ref())
            }
            Event::SnatFlow(key, flow) => {
                match flow {
                    Some(flow) => tables.snat_flows.insert(*key, *flow),
                    None => tables.snat_flows.remove(key),
                };
                self.kernel.set_snat_flow(key, flow.as_ref())
            }
            Event::Backend(id, backend) => {
                tables.backends[*id] = *backend;
                tables.add_role(&backend.address, address_roles::BACKEND);
                self.kernel.set_addresses(&tables.addresses)?;
                self.kernel.set_backend(*id, backend)
            }
            Event::Service(id, service) => {
                tables.services[*id] = *service;
                self.kernel.set_service(*id, service)
            }
            Event::Config(config) => {
                tables.config = *config;
                self.kernel.set_config(config)
            }
        }
    }

    /// Runs a packet through both and compares the return code, the bytes, and every entry that the host's side wrote.
    pub fn step(&mut self, case: &Case) -> Result<Outcome> {
        self.simulator.ticks = clock_ticks();
        let before = self.simulator.tables.clone();
        self.simulator.tables.touched.clear();
        let outcome = self.simulator.run(case.program, case.packet.clone());
        let compared = self.compare(case, &outcome);
        compared.with_context(|| {
            format!(
                "{}\n{}tables before:\n{before}host: {:?}\n{}",
                case.program.name(),
                case.packet,
                outcome.verdict,
                hex("host bytes", &outcome.bytes)
            )
        })?;
        let verdict = kind(&outcome.verdict);
        let key = (case.program, verdict, outcome.verdict.reason());
        *self.tally.counts.entry(key).or_default() += 1;
        self.tally
            .shapes
            .note(&outcome, case.packet.bytes.len(), case.packet.link);
        Ok(outcome)
    }

    fn compare(&self, case: &Case, outcome: &Outcome) -> Result<()> {
        let run: Run = self.object.run(case.program, &case.packet, 1)?;
        let expected = return_code(case, outcome);
        let tables = &self.simulator.tables;
        let reason = outcome.verdict.reason();
        ensure!(
            run.code == expected,
            "return code {}, the host's is {expected}; {}; {}",
            run.code,
            hex("kernel bytes", &run.bytes),
            self.writes()?
        );
        ensure!(
            run.bytes == outcome.bytes,
            "{}; {}",
            hex("kernel bytes differ:", &run.bytes),
            self.writes()?
        );
        let counted = self.kernel.counted(reason as u32)?;
        ensure!(
            counted == tables.counted(reason),
            "another reason than {reason} was counted"
        );
        for touched in &tables.touched {
            ensure!(
                self.kernel.agrees(touched, tables)?,
                "{touched:?} is {}",
                self.kernel.entry(touched)?
            );
        }
        Ok(())
    }

    /// What the kernel holds where the host's side wrote.
    fn writes(&self) -> Result<String> {
        let mut lines = String::new();
        for touched in &self.simulator.tables.touched {
            lines += &format!("\n{touched:?} is {}", self.kernel.entry(touched)?);
        }
        Ok(lines)
    }

    /// Compares all tables that the pipeline writes, whole.
    pub fn compare_tables(&mut self) -> Result<()> {
        self.simulator.tables.touched.clear();
        let host = &self.simulator.tables;
        let kernel = self.kernel.read(host)?;
        ensure!(kernel == *host, "tables differ; kernel:\n{kernel}\nhost:\n{host}");
        Ok(())
    }
}

const LOOPBACK: &str = "loopback";

fn kind(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Pass(_) => "pass",
        Verdict::Drop(_) => "drop",
        Verdict::Forward(_) => "forward",
        Verdict::Peer(_) => "peer",
        Verdict::Bounce(_) => "bounce",
        Verdict::Loopback(_) => LOOPBACK,
    }
}

/// What a program returns for a verdict (linux/pkt_cls.h, linux/bpf.h).
fn return_code(case: &Case, outcome: &Outcome) -> i32 {
    const TC_ACT_UNSPEC: i32 = -1;
    const TC_ACT_SHOT: i32 = 2;
    const TC_ACT_REDIRECT: i32 = 7;
    const XDP_DROP: i32 = 1;
    const XDP_PASS: i32 = 2;
    const XDP_TX: i32 = 3;
    const XDP_REDIRECT: i32 = 4;
    if case.program == Program::UplinkXdp {
        return match outcome.verdict {
            Verdict::Pass(_) | Verdict::Loopback(_) | Verdict::Peer(_) => XDP_PASS,
            Verdict::Drop(_) => XDP_DROP,
            Verdict::Bounce(_) => XDP_TX,
            Verdict::Forward(_) if outcome.hop.ifindex == case.packet.ifindex => XDP_TX,
            Verdict::Forward(_) => XDP_REDIRECT,
        };
    }
    match outcome.verdict {
        Verdict::Pass(_) => TC_ACT_UNSPEC,
        Verdict::Drop(_) => TC_ACT_SHOT,
        Verdict::Bounce(_) | Verdict::Forward(_) | Verdict::Peer(_) | Verdict::Loopback(_) => TC_ACT_REDIRECT,
    }
}

/// Bytes in hexadecimal, for a message.
fn hex(title: &str, bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{title} {}", bytes.join(" "))
}

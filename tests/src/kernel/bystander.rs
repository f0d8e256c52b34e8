//! A program of somebody else on an interface: it looks at nothing and lets everything pass.
use std::os::fd::OwnedFd;

use anyhow::Result;

use super::asm::Assembler;
use super::bpf::{Kind, RawProgram};

/// TCX_NEXT: the next program decides.
const NEXT: i32 = -1;
/// XDP_PASS.
const PASS: i32 = 2;

/// Attached to an interface while it lives.
pub struct Bystander {
    _program: RawProgram,
    _link: OwnedFd,
}

impl Bystander {
    /// At tcx ingress of an interface of this thread's network namespace, before all programs there or behind them.
    pub fn at_ingress(ifindex: u32, first: bool) -> Result<Self> {
        let program = RawProgram::load(Kind::Tc, &instructions(NEXT))?;
        let link = program.attach_ingress(ifindex, first)?;
        Ok(Self {
            _program: program,
            _link: link,
        })
    }

    /// XDP in the driver.
    pub fn in_driver(ifindex: u32) -> Result<Self> {
        let program = RawProgram::load(Kind::Xdp, &instructions(PASS))?;
        let link = program.attach(ifindex)?;
        Ok(Self {
            _program: program,
            _link: link,
        })
    }
}

fn instructions(verdict: i32) -> Vec<u64> {
    let mut a = Assembler::default();
    a.exit(verdict);
    a.finish()
}

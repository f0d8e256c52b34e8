//! A program of somebody else on an interface or a cgroup: it looks at nothing and lets everything pass.
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::Result;

use super::asm::Assembler;
use super::bpf::{Kind, RawProgram, attach_connect};

/// TCX_NEXT: the next program decides.
const NEXT: i32 = -1;
/// XDP_PASS.
const PASS: i32 = 2;
/// Of a cgroup program.
const ALLOW: i32 = 1;

/// Attached while it lives: its link holds the program.
pub struct Bystander {
    _link: OwnedFd,
}

impl Bystander {
    /// At tcx ingress of an interface of this thread's network namespace, before all programs there or behind them.
    pub fn at_ingress(ifindex: u32, first: bool) -> Result<Self> {
        let program = RawProgram::load(Kind::Tc, &instructions(NEXT))?;
        let link = program.attach_ingress(ifindex, first)?;
        Ok(Self { _link: link })
    }

    /// Whatever this link holds.
    pub(super) fn of(link: OwnedFd) -> Self {
        Self { _link: link }
    }

    /// At tcx egress of an interface of this thread's network namespace, behind all programs there.
    pub fn at_egress(ifindex: u32) -> Result<Self> {
        let program = RawProgram::load(Kind::Tc, &instructions(NEXT))?;
        let link = program.attach_egress(ifindex)?;
        Ok(Self { _link: link })
    }

    /// At `connect4` of a cgroup, behind all programs there: every call is allowed.
    pub fn at_connect(cgroup: &File) -> Result<Self> {
        let link = attach_connect(cgroup.as_fd(), &instructions(ALLOW))?;
        Ok(Self { _link: link })
    }

    /// XDP in the driver.
    pub fn in_driver(ifindex: u32) -> Result<Self> {
        let program = RawProgram::load(Kind::Xdp, &instructions(PASS))?;
        let link = program.attach(ifindex)?;
        Ok(Self { _link: link })
    }
}

fn instructions(verdict: i32) -> Vec<u64> {
    let mut a = Assembler::default();
    a.exit(verdict);
    a.finish()
}

//! The hooks that have two programs.

/// A tcx hook: its number is the index into `SECOND` of its second program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum TcxHook {
    PodIngress = 0,
    PodEgress = 1,
    UplinkIngress = 2,
    UplinkEgress = 3,
    UplinkIngressL3 = 4,
    UplinkEgressL3 = 5,
}

impl TcxHook {
    /// All of them, in order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::PodIngress,
        Self::PodEgress,
        Self::UplinkIngress,
        Self::UplinkEgress,
        Self::UplinkIngressL3,
        Self::UplinkEgressL3,
    ];

    /// Name of its second program in the object file.
    pub const fn second(self) -> &'static str {
        match self {
            Self::PodIngress => "pod_ingress_second",
            Self::PodEgress => "pod_egress_second",
            Self::UplinkIngress => "uplink_ingress_second",
            Self::UplinkEgress => "uplink_egress_second",
            Self::UplinkIngressL3 => "uplink_ingress_l3_second",
            Self::UplinkEgressL3 => "uplink_egress_l3_second",
        }
    }
}

//! Kubernetes objects in, an ordered plan of table writes out. Pure: no I/O, no clock, no kernel.
//!
//! ```text
//! Service, EndpointSlice, Node --> Index --compile--> Changes --> Planner --plan--> Plan { ops } --> the kernel's
//!                                  tables (model)          (desired ports)  (ids, ranges)                    or
//!                                  MemoryTables
//! ```
//!
//! * [`Index`] keeps a compact copy of what it was shown and knows which services changed.
//! * [`Changes`] is the desired state of those services: a [`DesiredPort`] for each Service port and address family.
//! * [`Planner`] remembers what the kernel holds, gives out ids and slot ranges, and writes the [`Plan`]: operations
//!   in an order in which no look-up ever dangles, whichever of them was the last to be applied.
//! * [`MemoryTables`] applies a plan in memory and checks exactly that.

mod desired;
mod frontends;
mod health;
mod index;
mod ingest;
mod names;
mod nodes;
mod notice;
mod planner;
mod select;
mod slots;
mod tables;

pub use desired::{Changes, DesiredPort, Endpoint};
pub use frontends::NodeNetwork;
pub use health::HealthCheck;
pub use index::{EndpointExplained, HintsUsed, Index, Options, PortExplained, ServiceExplained};
pub use ingest::{ServiceKind, Unprogrammed, set_api_defaults};
pub use names::{Family, PortName, ServiceName};
pub use nodes::NodeChanges;
pub use notice::{Notice, NoticeKind};
pub use planner::{Difference, Limits, Op, Plan, Planner, PortView, Refusal, RefusalReason, Snapshot};
pub use select::{Outside, Place};
pub use slots::MAGLEV_TABLE_SIZE;
pub use tables::{MemoryTables, Violation};

//! `ferrogate flows`.

use super::{parse, query::QueryArgs};
use crate::admin::{FlowsPage, Request};
use crate::{output, pinned};
use anyhow::Result;
use clap::Args;
use std::net::IpAddr;

#[derive(Args, Clone, Debug)]
pub struct FlowsArgs {
    /// Only connections to this Service
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_parser = parse::service_filter)]
    service: Option<String>,

    /// Only connections of this client
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,

    /// Print this many at most
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,

    #[command(flatten)]
    query: QueryArgs,
}

pub(super) fn run(args: &FlowsArgs) -> Result<()> {
    let request = Request::Flows {
        service: args.service.clone(),
        client: args.client,
        limit: args.limit,
    };
    let page: FlowsPage = args.query.ask(&request, |state_dir| {
        anyhow::ensure!(
            args.service.is_none(),
            "--service needs a running agent: the maps hold no names"
        );
        pinned::flows(state_dir, args.client, args.limit)
    })?;
    args.query.print(&page, output::flows)
}

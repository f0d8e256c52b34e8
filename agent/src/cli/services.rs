//! `ferrogate services`.

use super::{parse, query::QueryArgs};
use crate::admin::{Request, ServiceRow};
use crate::{output, pinned};
use anyhow::Result;
use clap::Args;

#[derive(Args, Clone, Debug)]
pub struct ServicesArgs {
    /// Only this Service
    #[arg(value_name = "[NAMESPACE/]NAME", value_parser = parse::service_filter)]
    name: Option<String>,

    /// List the endpoints too
    #[arg(long, short)]
    endpoints: bool,

    #[command(flatten)]
    query: QueryArgs,
}

pub(super) fn run(args: &ServicesArgs) -> Result<()> {
    let request = Request::Services {
        name: args.name.clone(),
    };
    let rows: Vec<ServiceRow> = args.query.ask(&request, pinned::services)?;
    args.query.print(&rows, |rows| output::services(rows, args.endpoints))
}

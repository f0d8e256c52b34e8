//! `ferrogate status`.

use super::query::QueryArgs;
use crate::admin::{Request, Status};
use crate::{output, pinned};
use anyhow::Result;
use clap::Args;

#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    query: QueryArgs,
}

pub(super) fn run(args: &StatusArgs) -> Result<()> {
    let status: Status = args.query.ask(&Request::Status, pinned::status)?;
    args.query.print(&status, output::status)
}

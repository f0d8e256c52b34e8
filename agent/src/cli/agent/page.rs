//! The options of the agent's page.

use crate::cli::parse;
use anyhow::{Result, bail};
use clap::Args;
use clap::builder::BoolishValueParser;

/// Where the page is shown.
#[derive(Args, Clone, Debug)]
pub struct PageOptions {
    /// Show this node live on a page for browsers: Services, backends, flows, what is dropped; off: nowhere
    ///
    /// The page changes nothing, and costs nothing while nobody looks at it. From elsewhere it is
    /// reached by `ssh -L` or `kubectl port-forward`. What it asks for can be asked by others too
    /// (GET, answered in JSON; /api lists it with its parameters):
    ///   /api/node      rates, Services, reasons of refusals, maps, edges, problems
    ///   /api/service   one Service port: ways in, endpoints and why each is used or not, flows
    ///   /api/events    what was refused or dropped, as it happens
    #[arg(
        long,
        verbatim_doc_comment,
        value_name = "IP[:PORT]|off",
        env = "FERROGATE_UI",
        default_value = "off",
        value_parser = parse::ui_bind,
        help_heading = "Health and metrics"
    )]
    pub ui: parse::Bind,

    /// Let --ui be an address that others reach, who then see the node without a password, and unencrypted
    #[arg(
        long,
        env = "FERROGATE_UI_PUBLIC",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        hide_possible_values = true,
        value_name = "true|false",
        help_heading = "Health and metrics"
    )]
    pub ui_public: bool,
}

impl PageOptions {
    /// # Errors
    /// Others would reach the page, and nobody said that they may.
    pub fn check(&self) -> Result<()> {
        match self.ui.0 {
            Some(address) if !address.ip().is_loopback() && !self.ui_public => bail!(
                "--ui {address}: whoever reaches this address would see the node's Services, its clients' addresses and the names \
                 of their processes, without a password and unencrypted; give a loopback address such as 127.0.0.1:{}, which `ssh -L` \
                 and `kubectl port-forward` reach, or add --ui-public",
                address.port()
            ),
            _ => Ok(()),
        }
    }
}

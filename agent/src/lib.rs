//! The agent's library: all that touches the outside world. What is pure lives in `ferrogate_control`.

pub mod admin;
pub mod cli;
pub mod config;
mod doctor;
mod explain;
pub mod health;
mod http;
pub mod kernel;
pub mod kube_proxy;
pub mod logging;
pub mod net;
pub mod output;
mod pinned;
mod privileges;
pub mod run;
pub mod scope;
mod signals;
pub mod source;
pub mod stuck;
pub mod top;
pub mod trace;
pub mod ui;
mod views;

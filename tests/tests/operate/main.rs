//! What an operator's commands say, beside what happens: real agents, real connections.
mod alerts;
mod browser;
mod capture;
mod chart;
mod common;
mod deploy;
mod doctor;
mod documents;
mod explain;
mod package;
mod page;
mod plugin;
mod privileges;
mod terminal;
mod top;
mod trace;

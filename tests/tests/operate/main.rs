//! What an operator's commands say, beside what happens: real agents, real connections.
mod alerts;
mod chart;
mod common;
mod deploy;
mod doctor;
mod explain;
mod plugin;
mod privileges;
mod terminal;
mod top;
mod trace;

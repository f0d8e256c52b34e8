//! The agent's library: all that touches the outside world. What is pure lives in `ferrogate_control`.

pub mod kernel;
pub mod net;

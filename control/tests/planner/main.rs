//! Plans, applied to tables in memory.

mod fixture;
mod objects;
mod properties;
mod restarts;
mod writes;

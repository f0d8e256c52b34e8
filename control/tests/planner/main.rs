//! Plans, applied to tables in memory.

mod fixture;
mod full;
mod objects;
mod properties;
mod restarts;
mod writes;

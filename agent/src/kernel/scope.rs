//! CGROUPS: whom the socket edge serves.

use super::error::{During as _, Result};
use super::tables::{Tables, put_what_fits, reading, writing};
use ferrogate_common::maps;
use std::collections::BTreeMap;

/// What `CGROUPS` holds, and where the programs look for it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scopes {
    /// By the cgroup's id, one of [`ferrogate_common::cgroup_scope`].
    pub cgroups: BTreeMap<u64, u32>,
    /// [`ferrogate_common::Config::cgroup_levels`].
    pub levels: u32,
}

impl Tables {
    /// What the tables hold.
    pub fn scopes(&self) -> Result<Scopes> {
        let mut cgroups = BTreeMap::new();
        self.cgroups
            .for_each(|id, scope| {
                cgroups.insert(*id, scope[0]);
                true
            })
            .during(|| reading(maps::CGROUPS))?;
        let levels = self.config()?.cgroup_levels;
        Ok(Scopes { cgroups, levels })
    }

    /// Makes the tables hold `wanted`: what is new first, then where to look, then what goes. So nobody who is to be served
    /// is left out on the way.
    pub fn set_scopes(&self, wanted: &Scopes) -> Result<()> {
        let held = self.scopes()?;
        let new = wanted
            .cgroups
            .iter()
            .filter(|(id, scope)| held.cgroups.get(id) != Some(scope));
        let written = put_what_fits(&self.cgroups, maps::CGROUPS, new);
        self.update_config(|config| config.cgroup_levels = wanted.levels)?;
        for id in held.cgroups.keys().filter(|id| !wanted.cgroups.contains_key(id)) {
            self.cgroups.delete(id).during(|| writing(maps::CGROUPS))?;
        }
        written
    }
}

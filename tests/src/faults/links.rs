//! Which links and programs are in place on a node, as the kernel numbers them.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::programs::links::{FdLink, PinnedLink};

/// Ids of a link and of the program that it has now. Neither number is given out twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LinkIds {
    pub link: u32,
    pub program: u32,
}

/// The links that are pinned below a state directory, by the name of their pin, whatever ABI version they are filed under.
pub(super) fn links(state_dir: &Path) -> Result<BTreeMap<String, LinkIds>> {
    let mut found = BTreeMap::new();
    for version in fs::read_dir(state_dir).with_context(|| state_dir.display().to_string())? {
        let directory = version?.path().join("links");
        let Ok(pins) = fs::read_dir(&directory) else {
            continue;
        };
        for pin in pins {
            let path = pin?.path();
            let link = FdLink::from(PinnedLink::from_pin(&path).with_context(|| path.display().to_string())?);
            let info = link.info().with_context(|| path.display().to_string())?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let ids = LinkIds {
                link: info.id(),
                program: info.program_id(),
            };
            found.insert(name, ids);
        }
    }
    Ok(found)
}

/// Fails when a link of before is no more, or is another one of the same name: then nothing was attached in between.
pub(super) fn same(before: &BTreeMap<String, LinkIds>, after: &BTreeMap<String, LinkIds>) -> Result<()> {
    ensure!(!before.is_empty(), "no links were pinned before");
    for (pin, ids) in before {
        let now = after.get(pin).with_context(|| format!("the link {pin} is gone"))?;
        ensure!(
            now.link == ids.link,
            "the link {pin} was {}, and is {} now: it was detached in between",
            ids.link,
            now.link
        );
    }
    Ok(())
}

/// Fails unless every link of before has another program now.
pub(super) fn replaced(before: &BTreeMap<String, LinkIds>, after: &BTreeMap<String, LinkIds>) -> Result<()> {
    for (pin, ids) in before {
        let now = after.get(pin).with_context(|| format!("the link {pin} is gone"))?;
        ensure!(now.program != ids.program, "the link {pin} has the program of before");
    }
    Ok(())
}

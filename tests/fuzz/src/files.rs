//! Files that people write: manifests, and a KubeProxyConfiguration. What cannot be read is said with its line; what can be read is
//! programmed.

use ferrogate_agent::config;
use ferrogate_agent::source::{Change, Event, manifests};
use ferrogate_control::Limits;

use crate::objects::World;

/// Reads a text as both.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = config::translate(text) {
        assert!(!format!("{error:#}").is_empty());
    }
    let mut world = World::with(Limits::default());
    match manifests::read(text) {
        Ok(events) => {
            for event in events {
                match event {
                    Event::Service(Change::Listed(service)) => drop(world.index.apply_service(&service)),
                    Event::Slice(Change::Listed(slice)) => drop(world.index.apply_slice(&slice)),
                    Event::Node(Change::Listed(node)) => world.index.apply_node(&node),
                    _ => {}
                }
                world.plan();
            }
        }
        Err(malformed) => {
            // As YAML counts them.
            let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
            assert!(
                (1..=lines + 1).contains(&malformed.line),
                "{malformed} in {lines} lines"
            );
        }
    }
}

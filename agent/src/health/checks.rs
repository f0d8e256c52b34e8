//! A server for each Service that has a `healthCheckNodePort`, on each address where NodePorts answer.

use super::answer;
use super::lock;
use super::state::{Moment, ProxyHealth};
use crate::http::{self, Handler};
use ferrogate_control::{Family, HealthCheck, ServiceName};
use socket2::Socket;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// Where one Service is asked about. The port is the same for all families.
type Place = (ServiceName, SocketAddr);

/// Opens and closes servers as Services come and go.
#[derive(Debug)]
pub(super) struct Checks {
    proxy: Arc<Mutex<ProxyHealth>>,
    wanted: BTreeMap<ServiceName, HealthCheck>,
    /// `None`: every address.
    addresses: Option<Vec<IpAddr>>,
    open: BTreeMap<Place, Open>,
    /// What cannot be opened, and why.
    failed: BTreeMap<Place, String>,
}

/// A server; it is closed when this is dropped.
#[derive(Debug)]
struct Open {
    ready: Arc<AtomicUsize>,
    listener: Socket,
    task: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        // The task is dropped a little later, but the next owner may want the port at once: nobody listens from here on.
        // A failure means that the socket is closed already.
        let _ = self.listener.shutdown(Shutdown::Both);
        self.task.abort();
    }
}

impl Checks {
    pub(super) fn new(proxy: Arc<Mutex<ProxyHealth>>) -> Self {
        Self {
            proxy,
            wanted: BTreeMap::new(),
            addresses: None,
            open: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Takes in what changed; with `full`, what is not named is gone. Needs a runtime, as all that opens servers.
    pub(super) fn update(&mut self, changed: BTreeMap<ServiceName, Option<HealthCheck>>, full: bool) {
        if full {
            self.wanted.retain(|name, _| changed.contains_key(name));
        }
        for (name, check) in changed {
            match check {
                Some(check) => self.wanted.insert(name, check),
                None => self.wanted.remove(&name),
            };
        }
        self.sync();
    }

    /// On which addresses; `None`: on all.
    pub(super) fn set_addresses(&mut self, addresses: Option<Vec<IpAddr>>) {
        if self.addresses != addresses {
            self.addresses = addresses;
            self.sync();
        }
    }

    /// Tries again to open what could not be opened.
    pub(super) fn retry(&mut self) {
        if !self.failed.is_empty() {
            self.sync();
        }
    }

    /// One sentence for each server that cannot be opened.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.failed.values()
    }

    fn sync(&mut self) {
        let mut places: BTreeMap<Place, usize> = BTreeMap::new();
        for (name, check) in &self.wanted {
            for (family, ready) in &check.ready {
                let addresses = self.addresses(*family).into_iter();
                places.extend(addresses.map(|ip| ((name.clone(), SocketAddr::new(ip, check.port)), *ready)));
            }
        }
        // First the old ones: a port may move from one Service to another.
        self.open.retain(|place, _| {
            let stays = places.contains_key(place);
            if !stays {
                info!(service = %place.0, address = %place.1, "healthCheckNodePort closed");
            }
            stays
        });
        self.failed.retain(|place, _| places.contains_key(place));
        for (place, ready) in places {
            if let Some(open) = self.open.get(&place) {
                open.ready.store(ready, Ordering::Relaxed);
                continue;
            }
            match self.start(&place, ready) {
                Ok(open) => {
                    info!(service = %place.0, address = %place.1, "healthCheckNodePort opened");
                    self.failed.remove(&place);
                    self.open.insert(place, open);
                }
                Err(error) => {
                    let (name, address) = &place;
                    let problem = format!(
                        "healthCheckNodePort of service {name} cannot be answered on {address}: {error}; load balancers take \
                         this node for one without its endpoints"
                    );
                    if self.failed.get(&place) != Some(&problem) {
                        warn!("{problem}");
                    }
                    self.failed.insert(place, problem);
                }
            }
        }
    }

    fn addresses(&self, family: Family) -> Vec<IpAddr> {
        match (&self.addresses, family) {
            (None, Family::V4) => vec![Ipv4Addr::UNSPECIFIED.into()],
            (None, Family::V6) => vec![Ipv6Addr::UNSPECIFIED.into()],
            (Some(addresses), Family::V4) => addresses.iter().filter(|ip| ip.is_ipv4()).copied().collect(),
            (Some(addresses), Family::V6) => addresses.iter().filter(|ip| ip.is_ipv6()).copied().collect(),
        }
    }

    fn start(&self, (name, address): &Place, ready: usize) -> io::Result<Open> {
        let listener = http::listen(*address)?;
        let ready = Arc::new(AtomicUsize::new(ready));
        let closing = Socket::from(listener.try_clone()?);
        let (count, proxy, name) = (Arc::clone(&ready), Arc::clone(&self.proxy), name.clone());
        let handler: Handler = Arc::new(move |_| {
            let healthy = lock(&proxy).verdict(Moment::now()).healthy;
            answer::service(&name, count.load(Ordering::Relaxed), healthy)
        });
        let task = tokio::spawn(async move {
            let Err(error) = http::serve(listener, handler).await;
            warn!(%error, "a healthCheckNodePort is answered no more");
        });
        Ok(Open {
            ready,
            listener: closing,
            task,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    fn checks() -> Checks {
        let mut checks = Checks::new(Arc::new(Mutex::new(ProxyHealth::new(Duration::from_secs(60)))));
        checks.set_addresses(Some(vec![Ipv4Addr::LOCALHOST.into()]));
        checks
    }

    fn check(port: u16, ready: usize) -> Option<HealthCheck> {
        let ready = [(Family::V4, ready), (Family::V6, 9)].into();
        Some(HealthCheck { port, ready })
    }

    fn change(name: &str, check: Option<HealthCheck>) -> BTreeMap<ServiceName, Option<HealthCheck>> {
        [(ServiceName::new("shop", name), check)].into()
    }

    fn free_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.local_addr().expect("an address").port()
    }

    /// The status line and the body; none when nobody listens.
    fn ask(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream
            .write_all(b"GET /any HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn servers_come_and_go_with_their_services_and_count_their_endpoints() {
        let (mut checks, port) = (checks(), free_port());
        checks.update(change("web", check(port, 0)), false);
        let none = ask(port).expect("open");
        assert!(
            none.starts_with("HTTP/1.1 503") && none.contains("\"localEndpoints\": 0"),
            "{none}"
        );
        checks.update(change("web", check(port, 3)), false);
        let three = ask(port).expect("open");
        assert!(
            three.starts_with("HTTP/1.1 200") && three.contains("x-load-balancing-endpoint-weight: 3"),
            "{three}"
        );
        checks.update(change("other", None), false);
        assert!(ask(port).is_some(), "another service changes nothing");
        checks.update(BTreeMap::new(), true);
        assert_eq!(ask(port), None, "the service is gone");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_port_can_move_from_one_service_to_another_in_one_step() {
        let (mut checks, one, two) = (checks(), free_port(), free_port());
        for _ in 0..20 {
            for (first, second) in [(one, two), (two, one)] {
                let mut both = change("a", check(first, 1));
                both.extend(change("b", check(second, 1)));
                checks.update(both, false);
                assert_eq!(checks.problems().next(), None);
                let text = ask(first).expect("open");
                assert!(text.contains("\"name\": \"a\""), "{text}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_port_that_is_taken_is_a_problem_until_it_is_free() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = taken.local_addr().expect("an address").port();
        let mut checks = checks();
        checks.update(change("web", check(port, 1)), false);
        let problems: Vec<_> = checks.problems().cloned().collect();
        assert!(problems.len() == 1 && problems[0].contains("shop/web") && problems[0].contains(&port.to_string()));
        checks.retry();
        assert_eq!(checks.problems().count(), 1);
        drop(taken);
        checks.retry();
        assert_eq!(checks.problems().next(), None);
        assert!(ask(port).is_some_and(|text| text.starts_with("HTTP/1.1 200")));
    }
}

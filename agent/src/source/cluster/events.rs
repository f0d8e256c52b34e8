//! Events on Services and on this Node: what an operator must know of one, where `kubectl describe` shows it.

use super::client::Pool;
use ferrogate_control::{Notice, NoticeKind};
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::Api;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// Events waiting to be published. What is more is in the log alone.
const QUEUE: usize = 256;

/// Events on Services that are published at once for one reason, and the time in which one more may be: where a table is full, each Service
/// of a large cluster can be one, and there are as many agents as nodes.
const AT_ONCE: u32 = 50;
const REFILL: Duration = Duration::from_secs(6);

/// The longest text of an Event, bytes.
const LONGEST: usize = 1024;

/// What is to be known.
#[derive(Clone, Debug)]
enum News {
    OfService(Notice),
    /// A reason in CamelCase, and a sentence.
    OfNode(&'static str, String),
}

/// How many Events on Services may be published still for one reason.
#[derive(Debug)]
struct Allowance {
    left: u32,
    /// When it was last full, or had one more.
    since: Instant,
    /// Whether the log has that there were too many.
    told: bool,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self {
            left: AT_ONCE,
            since: now,
            told: false,
        }
    }

    /// Takes one, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let refilled = now.saturating_duration_since(self.since).as_secs() / REFILL.as_secs();
        let refilled = u32::try_from(refilled).unwrap_or(u32::MAX).min(AT_ONCE);
        self.left = (self.left + refilled).min(AT_ONCE);
        self.since = if self.left == AT_ONCE {
            now
        } else {
            self.since + REFILL * refilled
        };
        let one = self.left > 0;
        self.left = self.left.saturating_sub(1);
        one
    }
}

/// Publishes news as Events of type Warning. Several of one kind become a series of one Event.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<News>);

impl Events {
    /// Starts publishing on the current runtime, in the name of this node.
    pub(super) fn start(pool: Arc<Pool>, node: &str) -> Self {
        let (sender, mut news) = mpsc::channel::<News>(QUEUE);
        let node = node.to_owned();
        let reporter = Reporter {
            controller: "ferrogate".to_owned(),
            instance: Some(node.clone()),
        };
        tokio::spawn(async move {
            let refused = AtomicBool::new(false);
            let (client, mut turn) = pool.current();
            let mut recorder = Recorder::new(client, reporter.clone());
            let mut allowances = BTreeMap::new();
            while let Some(one) = news.recv().await {
                if let News::OfService(notice) = &one {
                    let (reason, now) = (reason(&notice.kind), Instant::now());
                    let allowance = allowances.entry(reason.clone()).or_insert_with(|| Allowance::new(now));
                    if !allowance.take(now) {
                        if !allowance.told {
                            warn!(
                                "more than {AT_ONCE} Events {reason} at once and one each {REFILL:?}: the others are left out; `ferrogate status` has all"
                            );
                        }
                        allowance.told = true;
                        debug!(%notice, "too many Events: this one is left out");
                        continue;
                    }
                }
                let (client, now) = pool.current();
                if now != turn {
                    turn = now;
                    recorder = Recorder::new(client.clone(), reporter.clone());
                }
                let published = match &one {
                    News::OfService(notice) => publish(&recorder, client, notice).await,
                    News::OfNode(reason, note) => publish_of_node(&recorder, &node, reason, note).await,
                };
                match published {
                    Ok(()) => {}
                    Err(error) if refused.swap(true, Ordering::Relaxed) => {
                        debug!(%error, event = ?one, "an Event cannot be published");
                    }
                    Err(error) => warn!(
                        %error,
                        event = ?one,
                        "an Event cannot be published; grant create and patch on events.events.k8s.io, and get on services"
                    ),
                }
            }
        });
        Self(sender)
    }

    /// Has a notice published, if it is one for the Service's owner and not too many are waiting.
    pub fn tell(&self, notice: &Notice) {
        if is_for_owner(&notice.kind) && self.0.try_send(News::OfService(notice.clone())).is_err() {
            debug!(%notice, "too many Events are waiting: this one is left out");
        }
    }

    /// The same of this Node: a reason in CamelCase, and a sentence.
    pub fn tell_of_node(&self, reason: &'static str, note: String) {
        if self.0.try_send(News::OfNode(reason, note)).is_err() {
            debug!(reason, "too many Events are waiting: this one is left out");
        }
    }
}

/// Whether the Service's owner can do something about it. A load balancer that has a name and no address is as it should be.
fn is_for_owner(kind: &NoticeKind) -> bool {
    !matches!(kind, NoticeKind::Unnamed | NoticeKind::HostnameOnly { .. })
}

async fn publish(recorder: &Recorder, client: kube::Client, notice: &Notice) -> kube::Result<()> {
    let (namespace, name) = (&*notice.service.namespace, &*notice.service.name);
    // Of a Service that is gone nobody wants to know; and without the uid `kubectl describe` does not find the Event.
    let services: Api<Service> = Api::namespaced(client, namespace);
    let Some(service) = services.get_metadata_opt(name).await? else {
        return Ok(());
    };
    let reference = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Service".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: service.metadata.uid,
        ..ObjectReference::default()
    };
    let event = warning(reason(&notice.kind), notice.kind.to_string());
    recorder.publish(&event, &reference).await
}

async fn publish_of_node(recorder: &Recorder, node: &str, reason: &str, note: &str) -> kube::Result<()> {
    let reference = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(node.to_owned()),
        // As kubelet and kube-proxy have it, and as `kubectl describe node` looks for it.
        uid: Some(node.to_owned()),
        ..ObjectReference::default()
    };
    let event = warning(reason.to_owned(), note.to_owned());
    recorder.publish(&event, &reference).await
}

fn warning(reason: String, mut note: String) -> Event {
    note.truncate(note.floor_char_boundary(LONGEST));
    Event {
        type_: EventType::Warning,
        reason,
        note: Some(note),
        action: "Program".to_owned(),
        secondary: None,
    }
}

/// The kind's own name: `ExternalIpRefused`. What has no room has a name for each map: Events of one reason about one object become one,
/// which keeps its first text.
fn reason(kind: &NoticeKind) -> String {
    let text = match kind {
        NoticeKind::NoRoom { reason, .. } => format!("{reason:?}"),
        kind => format!("{kind:?}"),
    };
    text.split(|c: char| !c.is_alphanumeric())
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_reason_is_the_name_of_what_the_notice_is_about() {
        let address = Ipv4Addr::new(192, 0, 2, 1).into();
        assert_eq!(reason(&NoticeKind::ExternalIpRefused { address }), "ExternalIpRefused");
        assert_eq!(reason(&NoticeKind::NoClusterIp), "NoClusterIp");
    }

    #[test]
    fn a_crowd_of_events_is_cut_short_and_one_now_and_then_is_not() {
        let begin = Instant::now();
        let mut allowance = Allowance::new(begin);
        let taken = |allowance: &mut Allowance, after: Duration, asked: u32| {
            (0..asked).filter(|_| allowance.take(begin + after)).count()
        };
        assert_eq!(taken(&mut allowance, Duration::ZERO, 1000), 50);
        assert_eq!(taken(&mut allowance, REFILL - Duration::from_millis(1), 1000), 0);
        // Two and a half times: the half is not lost.
        assert_eq!(taken(&mut allowance, REFILL * 5 / 2, 1000), 2);
        assert_eq!(taken(&mut allowance, REFILL * 3, 1000), 1);
        assert_eq!(taken(&mut allowance, REFILL * 1000, 1000), 50);
        for minute in 0..1000 {
            assert_eq!(
                taken(&mut allowance, REFILL * (1000 + 10 * minute), 1),
                u32::from(minute > 0) as usize
            );
        }
    }

    #[test]
    fn a_load_balancer_with_a_name_alone_is_no_event() {
        let hostname = "lb.example.com".to_owned();
        assert!(!is_for_owner(&NoticeKind::HostnameOnly { hostname }));
        assert!(is_for_owner(&NoticeKind::NoClusterIp));
    }
}

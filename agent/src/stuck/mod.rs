//! Connected UDP sockets whose backend has ended.
//!
//! The socket edge translates a connected socket once, in `connect()`; the kernel then sends its datagrams to that backend
//! for good. When the backend ends, the socket is destroyed instead (SOCK_DESTROY): its process gets ECONNABORTED at once,
//! also in a call that waits. Only sockets that the socket edge had translated are touched: the programs note their cookies.
//!
//! That takes entering the sockets' network namespaces, which a process of its own does: the helper. The agent goes on
//! without it: it destroys the sockets of its own namespace itself, and the pod edge answers what others send with an ICMP error.

mod diag;
mod helper;
mod wire;

pub(crate) use helper::namespaces;
pub use helper::run as run_helper;

use self::diag::Diag;
use self::wire::{Reply, Request, Target};
use crate::kernel::{StateDir, StuckSocket, Tables, netns_cookie};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// A socket in the middle of its `connect()` is noted but not connected yet: looked for again after this long, ...
const AGAIN: Duration = Duration::from_millis(50);
/// ... and after so long not at all: it is closed.
const GIVE_UP: Duration = Duration::from_millis(500);
/// A helper that failed is called again after this long.
const RESTART: Duration = Duration::from_secs(10);
/// A helper that says nothing for so long has failed. It looks into every network namespace of the machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the helper is.
#[derive(Debug)]
pub enum HelperSource {
    /// It runs apart, and listens at this Unix socket.
    Apart(PathBuf),
    /// A child, started while there were the privileges for it.
    Child(UnixStream, Child),
    /// It could not be started; why.
    None(String),
}

impl HelperSource {
    /// Starts this program once more, as the helper: to be called before privileges are dropped. It ends when its end of the socket
    /// does, so with the agent.
    pub fn start_child() -> Self {
        match start() {
            Ok((stream, child)) => Self::Child(stream, child),
            Err(error) => Self::None(format!("{error:#}")),
        }
    }
}

/// Looks for stuck sockets on a thread of its own, whenever it is told to.
#[derive(Debug)]
pub struct Reaper {
    wake: mpsc::Sender<()>,
}

impl Reaper {
    /// Starts the thread. Without a source of helpers no socket is destroyed.
    ///
    /// # Errors
    /// When the maps cannot be opened once more, or no thread can be started.
    pub fn start(state_dir: &Path, helper: Option<HelperSource>) -> Result<Self> {
        let tables = Tables::open(&StateDir::new(state_dir)).context("cannot open the maps for stuck sockets")?;
        let (wake, woken) = mpsc::channel();
        let mut search = Search {
            tables,
            helper: helper.map(Helper::new),
            seen: HashMap::new(),
            out_of_reach: HashSet::new(),
        };
        std::thread::Builder::new()
            .name("stuck-sockets".to_owned())
            .spawn(move || search.run(&woken))
            .context("cannot start the thread that looks for stuck sockets")?;
        Ok(Self { wake })
    }

    /// Says that backends have ended.
    pub fn wake(&self) {
        // The thread ends with this end of the channel, not before.
        let _ = self.wake.send(());
    }
}

struct Search {
    tables: Tables,
    helper: Option<Helper>,
    /// Cookies that were asked for and not found, and since when.
    seen: HashMap<u64, Instant>,
    /// Cookies of sockets in namespaces that the helper could not enter. Nobody asks for them again.
    out_of_reach: HashSet<u64>,
}

impl Search {
    fn run(&mut self, woken: &mpsc::Receiver<()>) {
        loop {
            let event = if self.seen.is_empty() {
                woken.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                woken.recv_timeout(AGAIN)
            };
            if event == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            while woken.try_recv().is_ok() {}
            // After that no call is on its way any more to a backend that has ended.
            if let Err(error) = self
                .tables
                .grace()
                .context("no grace period")
                .and_then(|()| self.look())
            {
                debug!(error = format!("{error:#}"), "stuck sockets stay as they are");
                self.seen.clear();
            }
        }
    }

    fn look(&mut self) -> Result<()> {
        let mut stuck = self.tables.stuck_sockets()?;
        // Until they are destroyed, and if they are not.
        self.tables.attend_stuck(&stuck);
        let Some(helper) = &mut self.helper else {
            return Ok(());
        };
        let all: HashSet<u64> = stuck.iter().map(|socket| socket.cookie).collect();
        self.out_of_reach.retain(|cookie| all.contains(cookie));
        stuck.retain(|socket| !self.out_of_reach.contains(&socket.cookie));
        if stuck.is_empty() {
            self.seen.clear();
            return Ok(());
        }
        let begun = Instant::now();
        let (own, others): (Vec<_>, Vec<_>) = {
            let here = netns_cookie()?;
            stuck.into_iter().partition(|socket| socket.netns == here)
        };
        let mut found = Found {
            destroyed: helper.destroy_here(&own),
            searched: own.iter().map(|socket| socket.netns).collect(),
            is_complete: false,
        };
        let mut asked = own;
        if !others.is_empty() {
            match helper.destroy(&others) {
                Ok(more) => {
                    found.extend(more);
                    asked.extend(others);
                }
                // The helper has reported its own failures.
                Err(error) => debug!(error = format!("{error:#}"), "stuck sockets of pods stay as they are"),
            }
        }
        if !found.destroyed.is_empty() {
            let sockets = found.destroyed.len();
            info!(sockets, took = ?begun.elapsed(), "connected UDP sockets told that their backend ended");
        }
        let done = self.sort_out(asked, &found, begun);
        Ok(self.tables.forget_sockets(&done)?)
    }

    /// Which of the sockets that were asked for need no more: they were destroyed, or not found for so long that they are closed.
    fn sort_out(&mut self, asked: Vec<StuckSocket>, found: &Found, begun: Instant) -> Vec<StuckSocket> {
        let (mut done, mut left) = (Vec::new(), HashMap::new());
        for socket in asked {
            let since = self.seen.get(&socket.cookie).copied().unwrap_or(begun);
            if found.destroyed.contains(&socket.cookie) {
                done.push(socket);
            } else if since.elapsed() <= GIVE_UP {
                left.insert(socket.cookie, since);
            } else if found.is_complete || found.searched.contains(&socket.netns) {
                done.push(socket);
            } else {
                self.out_of_reach.insert(socket.cookie);
            }
        }
        self.seen = left;
        done
    }
}

/// What a search has come to.
#[derive(Default)]
struct Found {
    /// Cookies of the sockets that were destroyed.
    destroyed: HashSet<u64>,
    /// Cookies of the network namespaces that were searched.
    searched: HashSet<u64>,
    /// Every namespace that has a process was seen: others are gone.
    is_complete: bool,
}

impl Found {
    fn extend(&mut self, more: Self) {
        self.destroyed.extend(more.destroyed);
        self.searched.extend(more.searched);
        self.is_complete |= more.is_complete;
    }
}

/// The helper, wherever it runs.
struct Helper {
    /// Where it listens; or why it cannot be reached (again).
    place: Result<PathBuf, String>,
    running: Option<(UnixStream, Option<Child>)>,
    failed: Option<Instant>,
    /// Its last failure was reported.
    complained: bool,
}

impl Helper {
    fn new(source: HelperSource) -> Self {
        let gone = || Err("the helper has ended: restart the agent".to_owned());
        let (place, running) = match source {
            HelperSource::Apart(path) => (Ok(path), None),
            HelperSource::Child(stream, child) => (gone(), Some((stream, Some(child)))),
            HelperSource::None(why) => (Err(why), None),
        };
        Self {
            place,
            running,
            failed: None,
            complained: false,
        }
    }

    /// Destroys sockets of this process's own network namespace: that takes no helper.
    fn destroy_here(&mut self, stuck: &[StuckSocket]) -> HashSet<u64> {
        if stuck.is_empty() {
            return HashSet::new();
        }
        let cookies: BTreeSet<u64> = stuck.iter().map(|socket| socket.cookie).collect();
        let destroyed = Diag::open().and_then(|diag| diag.destroy(&cookies));
        destroyed.map(HashSet::from_iter).unwrap_or_else(|error| {
            self.complain(&format!("this node's own processes: {error}"));
            HashSet::new()
        })
    }

    /// Has these sockets destroyed.
    fn destroy(&mut self, stuck: &[StuckSocket]) -> Result<Found> {
        if self.failed.is_some_and(|failed| failed.elapsed() < RESTART) {
            bail!("the helper failed a moment ago");
        }
        let targets = stuck.iter().map(|socket| Target {
            cookie: socket.cookie,
            netns: socket.netns,
        });
        let request = Request {
            sockets: targets.collect(),
        };
        match self.ask(&request) {
            Ok(reply) => {
                if let Some(why) = &reply.problem {
                    self.complain(why);
                } else {
                    self.complained = false;
                }
                Ok(Found {
                    destroyed: reply.destroyed.into_iter().collect(),
                    searched: reply.searched.into_iter().collect(),
                    is_complete: reply.is_complete,
                })
            }
            Err(error) => {
                self.failed = Some(Instant::now());
                self.end();
                self.complain(&format!("{error:#}"));
                Err(error)
            }
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Reply> {
        let stream = match &mut self.running {
            Some((stream, _)) => stream,
            None => {
                let path = self.place.as_ref().map_err(|why| anyhow::anyhow!("{why}"))?;
                let stream = UnixStream::connect(path)
                    .with_context(|| format!("cannot reach the helper at {}", path.display()))?;
                &mut self.running.insert((stream, None)).0
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        wire::write(&mut *stream, request).context("cannot ask the helper")?;
        wire::read(stream)?.context("the helper ended")
    }

    fn complain(&mut self, why: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            warn!(
                why,
                "connected UDP sockets whose backend ended are not all told before they send; the helper needs CAP_SYS_ADMIN, \
                 CAP_NET_ADMIN and the host's process namespace"
            );
        }
    }

    fn end(&mut self) {
        if let Some((stream, Some(mut child))) = self.running.take() {
            drop(stream);
            // It has ended already, or does now.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start() -> Result<(UnixStream, Child)> {
    let (ours, theirs) = UnixStream::pair().context("cannot make a socket for the helper")?;
    let child = Command::new("/proc/self/exe")
        .arg(helper::COMMAND)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start the helper")?;
    Ok((ours, child))
}

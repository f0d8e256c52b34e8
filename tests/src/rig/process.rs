//! Processes inside a namespace and a cgroup, which never outlive this program.
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::netns::Netns;
use crate::wire::{ProbeReport, ProbeRequest};

/// Somewhere a process can run: a network namespace and a cgroup.
#[derive(Debug)]
pub struct Place {
    pub netns: Arc<Netns>,
    /// The cgroup2 directory of every process started here.
    pub cgroup: PathBuf,
    testpod: PathBuf,
}

impl Place {
    pub(crate) fn new(netns: Netns, cgroup: PathBuf, testpod: PathBuf) -> Self {
        Self {
            netns: Arc::new(netns),
            cgroup,
            testpod,
        }
    }

    /// The same namespace with another cgroup: a pod on its node's network, or processes that no socket edge serves.
    pub fn sibling(&self, cgroup: PathBuf) -> Self {
        Self {
            netns: self.netns.clone(),
            cgroup,
            testpod: self.testpod.clone(),
        }
    }

    /// A command that will run here. Its standard streams are those of [`Command`] unless set.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = Command::new(program);
        let netns = File::open(self.netns.path()).with_context(|| format!("namespace {}", self.netns.name()))?;
        let procs = self.cgroup.join("cgroup.procs");
        let cgroup = OpenOptions::new()
            .write(true)
            .open(&procs)
            .with_context(|| procs.display().to_string())?;
        let parent = rustix::process::getpid();
        command.process_group(0);
        // SAFETY: the closure makes system calls only, on descriptors opened before fork: no allocation, no locks.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                if rustix::process::getppid() != Some(parent) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                rustix::io::write(&cgroup, b"0")?;
                move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(())
            });
        }
        Ok(command)
    }

    /// Starts a process here that writes to `log` and runs until it is dropped.
    pub fn spawn(&self, name: &str, mut command: Command, log: &Path) -> Result<Process> {
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Process::start(name, command)
    }

    /// Runs a command here to its end; an exit status other than 0 is an error with what it wrote.
    pub fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, program: &str, arguments: I) -> Result<String> {
        let mut command = self.command(program)?;
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let line = format!("{command:?}");
        let (status, output, errors) = Process::start(program, command)?.output()?;
        if !status.success() {
            bail!(
                "{line} in {}: {status}: {}{}",
                self.netns.name(),
                output.trim(),
                errors.trim()
            );
        }
        Ok(output)
    }

    /// Asks from here.
    pub fn probe(&self, request: &ProbeRequest) -> Result<ProbeReport> {
        let arguments = ["probe".to_owned()].into_iter().chain(request.arguments());
        self.testpod(arguments)
    }

    /// Runs `testpod` here and reads the report that it prints.
    pub fn testpod<T, I>(&self, arguments: I) -> Result<T>
    where
        T: serde::de::DeserializeOwned,
        I: IntoIterator<Item = String>,
    {
        let output = self.run(&self.testpod.to_string_lossy(), arguments)?;
        serde_json::from_str(&output).with_context(|| format!("report of testpod: {output}"))
    }

    /// The command line of `testpod` itself, for processes that are started rather than run.
    pub fn testpod_command(&self) -> Result<Command> {
        self.command(&self.testpod)
    }
}

/// A child process, killed with its process group when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts a command of [`Place::command`], with the standard streams that it names.
    pub fn start(name: &str, command: Command) -> Result<Self> {
        let line = format!("{command:?}");
        let child = on_spawner(command).with_context(|| format!("starting {line}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Its standard input, where that is a pipe: dropping it ends the input.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Its standard output, where that is a pipe.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits for a line of its standard error (a pipe) that equals `line`.
    pub fn wait_for_error_line(&mut self, line: &str) -> Result<()> {
        let errors = self.child.stderr.take().context("standard error is not a pipe")?;
        let mut said = Vec::new();
        for seen in BufReader::new(errors).lines().map_while(Result::ok) {
            if seen == line {
                return Ok(());
            }
            said.push(seen);
        }
        bail!("{} ended without saying {line:?}, but: {}", self.name, said.join("; "))
    }

    /// Waits for the end; standard output and error where they are pipes.
    pub fn output(mut self) -> Result<(ExitStatus, String, String)> {
        let errors = self.child.stderr.take();
        let errors = thread::spawn(move || {
            let mut text = String::new();
            errors.map(|mut pipe| pipe.read_to_string(&mut text));
            text
        });
        let mut output = String::new();
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_string(&mut output)?;
        }
        let status = self.child.wait()?;
        Ok((status, output, errors.join().unwrap_or_default()))
    }

    /// SIGTERM, and SIGKILL when that does not end it in time.
    pub fn terminate(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return self.kill();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL to the whole group, and the end.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::KILL);
        Ok(self.child.wait()?)
    }

    /// Signals the process group that the child leads. A child that was waited for already is left alone: its id may be
    /// somebody else's by now.
    fn signal(&mut self, signal: Signal) {
        if let (Ok(None), Some(group)) = (self.child.try_wait(), Pid::from_raw(self.child.id() as i32)) {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts `command` on a thread that lives as long as this program: the parent-death signal fires when the *thread* that
/// forked ends, so threads of tests must not fork themselves.
fn on_spawner(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in queue {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (answer, child) = mpsc::channel();
    let jobs = spawner
        .lock()
        .map_err(|_| anyhow::anyhow!("the spawner is gone"))?
        .clone();
    jobs.send((command, answer)).context("the spawner is gone")?;
    Ok(child.recv().context("the spawner is gone")??)
}

//! A terminal: a program runs on a pseudo terminal, and what it draws is read by a terminal emulator.
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use ferrogate_tests::rig::Process;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::common::eventually;

/// A program and its terminal.
pub(crate) struct Terminal {
    /// The side that a person sits at.
    near: File,
    /// The program's side, kept open so that its settings can be looked at after the program's end.
    far: File,
    emulator: Arc<Mutex<vt100::Parser>>,
    process: Process,
}

impl Terminal {
    /// Starts `command` on a terminal of so many columns and lines.
    pub(crate) fn start(mut command: Command, columns: u16, lines: u16) -> Result<Self> {
        let near =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context("a pseudo terminal")?;
        grantpt(&near)?;
        unlockpt(&near)?;
        let name = ptsname(&near, Vec::new())?;
        let far = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        let (near, far) = (File::from(near), File::from(far));
        resize(&near, columns, lines)?;
        command.env("TERM", "xterm").stdin(far.try_clone()?);
        command.stdout(far.try_clone()?).stderr(Stdio::from(far.try_clone()?));
        let process = Process::start("terminal", command)?;
        let emulator = Arc::new(Mutex::new(vt100::Parser::new(lines, columns, 0)));
        let (mut from, screen) = (near.try_clone()?, Arc::clone(&emulator));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The last one to close the far side ends it.
            while let Ok(length @ 1..) = from.read(&mut bytes) {
                screen
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .process(&bytes[..length]);
            }
        });
        Ok(Self {
            near,
            far,
            emulator,
            process,
        })
    }

    /// What is to be seen, line by line.
    pub(crate) fn screen(&self) -> String {
        let emulator = self.emulator.lock().unwrap_or_else(PoisonError::into_inner);
        emulator.screen().contents()
    }

    /// Whether it is the page that full-screen programs use.
    pub(crate) fn on_other_page(&self) -> bool {
        let emulator = self.emulator.lock().unwrap_or_else(PoisonError::into_inner);
        emulator.screen().alternate_screen()
    }

    /// Whether what is typed is shown: a program in raw mode has that off.
    pub(crate) fn echoes(&self) -> Result<bool> {
        Ok(tcgetattr(&self.far)?.local_modes.contains(LocalModes::ECHO))
    }

    pub(crate) fn press(&mut self, keys: &str) -> Result<()> {
        self.near.write_all(keys.as_bytes()).context("keys")
    }

    pub(crate) fn resize(&self, columns: u16, lines: u16) -> Result<()> {
        let mut emulator = self.emulator.lock().unwrap_or_else(PoisonError::into_inner);
        emulator.screen_mut().set_size(lines, columns);
        resize(&self.near, columns, lines)
    }

    /// Waits until the screen is as wanted; else the error shows it.
    pub(crate) fn shows(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let mut last = String::new();
        eventually(what, || {
            last = self.screen();
            Ok(wanted(&last))
        })
        .with_context(|| format!("the screen:\n{}", self.screen()))?;
        // For those who look on with --nocapture.
        println!("--- {what}\n{last}");
        Ok(last)
    }

    pub(crate) fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.terminate(Duration::from_secs(10))
    }

    /// Waits for the end.
    pub(crate) fn end(&mut self) -> Result<ExitStatus> {
        let mut status = None;
        eventually("the program ends", || {
            status = self.process.ended()?;
            Ok(status.is_some())
        })?;
        status.context("a status")
    }
}

fn resize(terminal: &File, columns: u16, lines: u16) -> Result<()> {
    let size = Winsize {
        ws_row: lines,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}

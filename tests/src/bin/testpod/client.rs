//! `testpod tick`, `testpod await-error` and `testpod bulk`: one connection that lives long, or carries much.
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ferrogate_tests::wire::{AwaitReport, BulkReport, Failure, FailureKind, Identity, TickReport, pattern};

use crate::failure::At;

/// Bulk transfers below 8 MB/s are failures.
const SLOWEST_BYTES_PER_MICRO: u64 = 8;

pub(crate) fn tick(to: SocketAddr, interval_ms: u64, timeout_ms: u64) -> TickReport {
    let ended = Arc::new(AtomicBool::new(false));
    let watcher = ended.clone();
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        watcher.store(true, Ordering::Relaxed);
    });
    let mut report = TickReport {
        pod: None,
        ticks: 0,
        longest_ms: 0,
        failure: None,
    };
    report.failure = tick_until(&ended, to, interval_ms, timeout_ms, &mut report).err();
    report
}

fn tick_until(
    ended: &AtomicBool,
    to: SocketAddr,
    interval_ms: u64,
    timeout_ms: u64,
    report: &mut TickReport,
) -> Result<(), Failure> {
    let stream = open(to, timeout_ms)?;
    let mut reader = BufReader::new(&stream);
    while !ended.load(Ordering::Relaxed) {
        let begin = Instant::now();
        (&stream).write_all(b"who\n").at("send")?;
        report.pod = Some(identity(&mut reader)?.pod);
        report.ticks += 1;
        report.longest_ms = report.longest_ms.max(begin.elapsed().as_millis() as u64);
        if report.ticks == 1 {
            // The caller waits for this line: the connection is up.
            eprintln!("connected");
        }
        thread::sleep(Duration::from_millis(interval_ms));
    }
    Ok(())
}

pub(crate) fn await_error(to: SocketAddr, timeout_ms: u64) -> AwaitReport {
    let mut waited = Duration::ZERO;
    let failure = wait_for_error(to, timeout_ms, &mut waited).err();
    AwaitReport {
        waited_ms: waited.as_millis() as u64,
        failure,
    }
}

fn wait_for_error(to: SocketAddr, timeout_ms: u64, waited: &mut Duration) -> Result<(), Failure> {
    let any = if to.is_ipv4() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let socket = UdpSocket::bind((any, 0)).at("bind")?;
    socket
        .set_read_timeout(Some(Duration::from_millis(timeout_ms)))
        .at("bind")?;
    socket.connect(to).at("connect")?;
    socket.send(b"who").at("send")?;
    let mut buffer = [0; 2048];
    socket.recv(&mut buffer).at("first answer")?;
    // The caller waits for this line.
    eprintln!("connected");
    let begin = Instant::now();
    let outcome = socket.recv(&mut buffer).at("receive");
    *waited = begin.elapsed();
    outcome.map(drop)
}

pub(crate) fn bulk(to: SocketAddr, bytes: u64, download: bool, timeout_ms: u64) -> BulkReport {
    let mut report = BulkReport {
        pod: None,
        intact: 0,
        micros: 0,
        failure: None,
    };
    let begin = Instant::now();
    // A transfer that creeps is as broken as one that stands.
    let deadline = begin + Duration::from_millis(timeout_ms) + Duration::from_micros(bytes / SLOWEST_BYTES_PER_MICRO);
    let result = open(to, timeout_ms).and_then(|stream| {
        if download {
            pull(&stream, bytes, deadline, &mut report)
        } else {
            push(&stream, bytes, deadline, &mut report)
        }
    });
    report.failure = result.err();
    report.micros = begin.elapsed().as_micros() as u64;
    report
}

fn push(mut stream: &TcpStream, bytes: u64, deadline: Instant, report: &mut BulkReport) -> Result<(), Failure> {
    let data = pattern::doubled();
    writeln!(stream, "sink {bytes}").at("send")?;
    let mut sent = 0_u64;
    while sent < bytes {
        in_time(deadline, sent)?;
        let length = (bytes - sent).min(1 << 16) as usize;
        let offset = (sent % pattern::LENGTH as u64) as usize;
        stream.write_all(&data[offset..offset + length]).at("send")?;
        sent += length as u64;
    }
    let mut reader = BufReader::new(stream);
    report.pod = Some(identity(&mut reader)?.pod);
    let mut line = String::new();
    reader.read_line(&mut line).at("receive")?;
    report.intact = line.trim().parse().map_err(|_| misunderstood(&line))?;
    Ok(())
}

fn pull(mut stream: &TcpStream, bytes: u64, deadline: Instant, report: &mut BulkReport) -> Result<(), Failure> {
    let expected = pattern::doubled();
    writeln!(stream, "source {bytes}").at("send")?;
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    report.pod = Some(identity(&mut reader)?.pod);
    let mut buffer = vec![0; 1 << 16];
    while report.intact < bytes {
        in_time(deadline, report.intact)?;
        let wanted = (bytes - report.intact).min(buffer.len() as u64) as usize;
        let got = reader.read(&mut buffer[..wanted]).at("receive")?;
        let offset = (report.intact % pattern::LENGTH as u64) as usize;
        if got == 0 || buffer[..got] != expected[offset..offset + got] {
            return Err(misunderstood(&format!("{got} bytes at {}", report.intact)));
        }
        report.intact += got as u64;
    }
    Ok(())
}

fn in_time(deadline: Instant, moved: u64) -> Result<(), Failure> {
    if Instant::now() < deadline {
        return Ok(());
    }
    Err(Failure {
        stage: "bulk".to_owned(),
        kind: FailureKind::Silence,
        text: format!("too slow: {moved} bytes moved"),
    })
}

fn open(to: SocketAddr, timeout_ms: u64) -> Result<TcpStream, Failure> {
    let timeout = Duration::from_millis(timeout_ms);
    let stream = TcpStream::connect_timeout(&to, timeout).at("connect")?;
    stream.set_read_timeout(Some(timeout)).at("connect")?;
    stream.set_write_timeout(Some(timeout)).at("connect")?;
    Ok(stream)
}

fn identity(reader: &mut impl BufRead) -> Result<Identity, Failure> {
    let mut line = String::new();
    reader.read_line(&mut line).at("receive")?;
    serde_json::from_str(&line).map_err(|_| misunderstood(&line))
}

fn misunderstood(what: &str) -> Failure {
    Failure {
        stage: "answer".to_owned(),
        kind: FailureKind::Other,
        text: format!("not as expected: {what:?}"),
    }
}

//! Fair comparisons: what is compared takes turns, round by round (A B A B …), so that a machine that slows down slows all of them, and the figure is the
//! median of the rounds.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use engram_inference::pool::quieten;
use redis::Connection;

use crate::Outcome;
use crate::report::{Cell, median, ms, number, percentile};
use crate::server::Server;
use crate::wire::{Wire, command};

/// What the elements of every server are called; a reply names those that were found.
const NAME: &str = "memory number ";

/// The content of a memory, or the name of an element.
pub fn name(row: usize) -> String {
    format!("{NAME}{row}")
}

/// The rows that a reply names, in order, whatever else it says about them.
pub fn rows(reply: &[u8]) -> Vec<u32> {
    let digits = |at: usize| {
        let digits = reply[at..].iter().take_while(|b| b.is_ascii_digit());
        digits.fold(None, |n: Option<u32>, b| Some(n.unwrap_or(0) * 10 + u32::from(b - b'0')))
    };
    let places = reply.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME.as_bytes());
    places.filter_map(|(at, _)| digits(at + NAME.len())).collect()
}

/// One of those that are compared: a server and what it is asked.
pub struct Subject<'a> {
    server: &'a Server,
    wire: Wire,
    queries: Vec<Vec<u8>>,
}

impl<'a> Subject<'a> {
    /// These queries on a connection of their own.
    pub fn new(server: &'a Server, queries: Vec<Vec<u8>>) -> Outcome<Subject<'a>> {
        Ok(Subject { server, wire: server.wire()?, queries })
    }

    /// PING on that server: the floor.
    pub fn ping(server: &'a Server) -> Outcome<Subject<'a>> {
        Subject::new(server, vec![crate::wire::command(&["PING"])])
    }
}

/// What came of a subject.
pub struct Measured {
    /// The median over the rounds of their medians, in microseconds.
    pub p50: f64,
    /// The median over the rounds of their 99th percentiles.
    pub p99: f64,
    /// CPU time of the server per query, all its threads, in microseconds.
    pub cpu: f64,
    /// What the first pass over the queries found.
    pub found: Vec<Vec<u32>>,
}

impl Measured {
    /// Results per query.
    pub fn results(&self) -> f64 {
        self.found.iter().map(Vec::len).sum::<usize>() as f64 / self.found.len() as f64
    }
}

/// Lets the subjects take turns: so many rounds of so many queries each, one client, one query at a time.
pub fn interleave(subjects: &mut [Subject], rounds: usize, per_round: usize) -> Outcome<Vec<Measured>> {
    let mut p50 = vec![Vec::new(); subjects.len()];
    let mut p99 = p50.clone();
    let mut cpu = vec![0.0; subjects.len()];
    let mut found: Vec<Vec<Vec<u32>>> = vec![Vec::new(); subjects.len()];
    for (subject, found) in subjects.iter_mut().zip(&mut found) {
        // The first pass warms caches and tells what is found; it is not timed.
        for query in &subject.queries {
            found.push(rows(subject.wire.call(query)?));
        }
    }
    let mut times = Vec::with_capacity(per_round);
    for round in 0..rounds {
        for (s, subject) in subjects.iter_mut().enumerate() {
            let before = subject.server.cpu()?;
            times.clear();
            for i in 0..per_round {
                let query = &subject.queries[(round * per_round + i) % subject.queries.len()];
                let started = Instant::now();
                subject.wire.call(query)?;
                times.push(started.elapsed().as_secs_f64() * 1e6);
            }
            cpu[s] += subject.server.cpu()? - before;
            p50[s].push(percentile(&mut times, 0.5));
            p99[s].push(percentile(&mut times, 0.99));
        }
    }
    let queries = (rounds * per_round) as f64;
    Ok(found
        .into_iter()
        .enumerate()
        .map(|(s, found)| Measured { p50: median(&p50[s]), p99: median(&p99[s]), cpu: cpu[s] * 1e6 / queries, found })
        .collect())
}

/// PINGs one after the other, half a millisecond apart, until time is up or `stop` says so; microseconds each.
pub fn pings(c: &mut Connection, time: Duration, stop: impl Fn() -> bool) -> Outcome<Vec<f64>> {
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < time && !stop() {
        let started = Instant::now();
        redis::cmd("PING").query::<()>(c)?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(times)
}

/// Does something beside a thread that computes at the priority of the module's own threads: what the machine makes of that, whoever computes.
pub fn beside_a_busy_thread<T>(work: impl FnOnce() -> T) -> T {
    /// That of the module.
    const NICE: i32 = 10;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            quieten(NICE);
            while !done.load(Relaxed) {
                std::hint::spin_loop();
            }
        });
        let made = work();
        done.store(true, Relaxed);
        made
    })
}

/// What another client felt.
pub struct Felt {
    seconds: f64,
    p50: f64,
    /// The longest of a thousand PINGs but one, in microseconds.
    pub p999: f64,
    worst: f64,
}

impl Felt {
    /// Seconds that it took, and p50, p99.9 and the longest PING in milliseconds.
    pub fn cells(&self) -> [Cell; 4] {
        [number(self.seconds, 0), ms(self.p50), ms(self.p999), ms(self.worst)]
    }
}

/// Does something while another client sends a PING every millisecond.
pub fn noticed(server: &Server, work: impl FnOnce() -> Outcome<()>) -> Outcome<Felt> {
    let done = AtomicBool::new(false);
    let begun = Instant::now();
    let mut times = std::thread::scope(|scope| -> Outcome<Vec<f64>> {
        let other = scope.spawn(|| {
            let (mut wire, ping) = (server.wire().map_err(|e| e.to_string())?, command(&["PING"]));
            let mut times = Vec::new();
            while !done.load(Relaxed) {
                let started = Instant::now();
                // A server that loads says so, which is an answer.
                wire.call(&ping)
                    .map(drop)
                    .or_else(|e| e.to_string().starts_with("LOADING").then_some(()).ok_or(e.to_string()))?;
                times.push(started.elapsed().as_secs_f64() * 1e6);
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok::<_, String>(times)
        });
        let worked = work();
        done.store(true, Relaxed);
        let times = other.join().map_err(|_| "the other client panicked")?;
        worked?;
        Ok(times?)
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let [p50, p999, worst] = [0.5, 0.999, 1.0].map(|share| percentile(&mut times, share));
    Ok(Felt { seconds, p50, p999, worst })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_names_its_rows() {
        let reply = format!("*2\r\n$16\r\n{}\r\n$15\r\n{}\r\n$3\r\n0.5\r\n", name(42), name(7));
        assert_eq!(rows(reply.as_bytes()), [42, 7]);
        assert!(rows(b"*0\r\n").is_empty());
    }
}

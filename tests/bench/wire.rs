//! A client that costs as little as a client can: commands are serialised before the clock starts, one write sends them, and a reply is only measured for its
//! end. No library stands in the hot path, so what is timed is the server, the loopback and two system calls.
//!
//! Several clients are one thread that polls their sockets: on two cores a thread per client would compete with the server that it measures. The driver's own
//! CPU time per query is returned beside the rate, to show that it was not the bottleneck.
//!
//! RESP2 only, the protocol that a connection starts with: it is the same work for every server compared.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use crate::Outcome;

/// How long a reply may take: a load of a large file is one.
const PATIENCE: Duration = Duration::from_secs(300);

/// A command as it goes over the wire.
pub fn command<T: AsRef<[u8]>>(words: &[T]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend(word);
        bytes.extend(b"\r\n");
    }
    bytes
}

/// The bytes of a vector as VECTOR and FP32 take them.
pub fn blob(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// A connection.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Wire {
    /// Connects to a server of this machine.
    pub fn connect(port: u16) -> Outcome<Wire> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Wire { stream, buffer: vec![0; 1 << 16], filled: 0 })
    }

    /// Sends a command without waiting.
    pub fn send(&mut self, command: &[u8]) -> Outcome<()> {
        self.filled = 0;
        Ok(self.stream.write_all(command)?)
    }

    /// Takes what has arrived; true once `replies` whole ones are there.
    fn receive(&mut self, replies: usize) -> Outcome<bool> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(2 * self.filled, 0);
        }
        let read = self.stream.read(&mut self.buffer[self.filled..])?;
        if read == 0 {
            return Err("the server has closed the connection".into());
        }
        self.filled += read;
        let mut at = 0;
        for _ in 0..replies {
            match reply_len(&self.buffer[at..self.filled]) {
                Some(len) => at += len,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The reply that has arrived last; an error reply is an error.
    fn reply(&self) -> Outcome<&[u8]> {
        match &self.buffer[..self.filled] {
            [b'-', error @ ..] => Err(String::from_utf8_lossy(error).trim_end().to_owned().into()),
            reply => Ok(reply),
        }
    }

    /// Sends a command and waits for its reply.
    pub fn call(&mut self, command: &[u8]) -> Outcome<&[u8]> {
        self.send(command)?;
        while !self.receive(1)? {}
        self.reply()
    }

    /// The same, words in place of bytes, and the reply as text: of a bulk string without its head.
    pub fn ask<T: AsRef<[u8]>>(&mut self, words: &[T]) -> Outcome<String> {
        let text = String::from_utf8_lossy(self.call(&command(words))?).into_owned();
        let body =
            if text.starts_with('$') { text.split_once("\r\n").map_or("", |(_, body)| body) } else { &text[1..] };
        Ok(body.trim_end_matches("\r\n").to_owned())
    }

    /// Sends several commands in one write and waits for all replies; the first error is the error of all.
    pub fn pipeline(&mut self, commands: &[Vec<u8>]) -> Outcome<()> {
        self.send(&commands.concat())?;
        while !self.receive(commands.len())? {}
        let mut at = 0;
        while let Some(len) = reply_len(&self.buffer[at..self.filled]) {
            if self.buffer[at] == b'-' {
                return Err(String::from_utf8_lossy(&self.buffer[at + 1..at + len]).trim_end().to_owned().into());
            }
            at += len;
        }
        Ok(())
    }
}

/// The length of the first reply, once it is whole.
fn reply_len(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut open) = (0, 1usize);
    while open > 0 {
        let line = bytes.get(at..)?;
        let end = line.windows(2).position(|two| two == b"\r\n")?;
        let number = || std::str::from_utf8(&line[1..end]).ok()?.parse::<i64>().ok();
        at += end + 2;
        open -= 1;
        match line[0] {
            b'$' => at += usize::try_from(number()?).map_or(0, |len| len + 2),
            b'*' => open += usize::try_from(number()?).unwrap_or(0),
            _ => {}
        }
    }
    (at <= bytes.len()).then_some(at)
}

/// What many clients at once got out of a server.
pub struct Load {
    /// Replies per second.
    pub rate: f64,
    /// Microseconds each.
    pub times: Vec<f64>,
    /// CPU time of the driver per reply, in microseconds.
    pub driver: f64,
}

/// Keeps so many clients busy for a time, each with one query in flight: they begin at different queries and go round.
pub fn saturate(port: u16, queries: &[Vec<u8>], clients: usize, time: Duration) -> Outcome<Load> {
    let mut wires = (0..clients).map(|_| Wire::connect(port)).collect::<Outcome<Vec<_>>>()?;
    let mut next: Vec<usize> = (0..clients).map(|c| c * queries.len() / clients).collect();
    let mut sent = vec![Instant::now(); clients];
    let mut polled: Vec<libc::pollfd> = wires
        .iter()
        .map(|wire| libc::pollfd { fd: wire.stream.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    let (begun, cpu) = (Instant::now(), thread_cpu());
    let mut times = Vec::new();
    let mut in_flight = 0;
    for client in 0..clients {
        sent[client] = Instant::now();
        wires[client].send(&queries[next[client] % queries.len()])?;
        in_flight += 1;
    }
    while in_flight > 0 {
        // SAFETY: the pointer and the length are those of one vector of pollfd, which nothing else uses during the call.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 60_000) };
        if ready <= 0 {
            return Err("no client got a reply within a minute".into());
        }
        for client in 0..clients {
            if polled[client].revents == 0 || !wires[client].receive(1)? {
                continue;
            }
            times.push(sent[client].elapsed().as_secs_f64() * 1e6);
            wires[client].reply()?;
            if begun.elapsed() < time {
                next[client] += 1;
                sent[client] = Instant::now();
                wires[client].send(&queries[next[client] % queries.len()])?;
            } else {
                in_flight -= 1;
            }
        }
    }
    let replies = times.len() as f64;
    let driver = (thread_cpu() - cpu) * 1e6 / replies;
    Ok(Load { rate: replies / begun.elapsed().as_secs_f64(), times, driver })
}

/// CPU time of this thread, in seconds.
fn thread_cpu() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every Linux, and the pointer is to a timespec of our own.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_ends_where_it_ends() {
        for reply in
            ["+OK\r\n", "$5\r\nhello\r\n", "$-1\r\n", "*0\r\n", "*2\r\n$1\r\na\r\n*1\r\n:5\r\n", "$4\r\n\r\n\r\n\r\n"]
        {
            let bytes = [reply.as_bytes(), b"+next\r\n"].concat();
            assert_eq!(reply_len(&bytes), Some(reply.len()), "{reply:?}");
            for cut in 0..reply.len() {
                assert_eq!(reply_len(&bytes[..cut]), None, "{reply:?} cut to {cut}");
            }
        }
    }

    #[test]
    fn a_command_is_an_array_of_its_words() {
        assert_eq!(command(&["GET", "ä"]), b"*2\r\n$3\r\nGET\r\n$2\r\n\xc3\xa4\r\n");
    }
}

//! A connection that speaks in command lines, and a way to look into replies of either protocol.

use std::time::Duration;

use redis::{Client as Redis, Connection, ConnectionLike, Value};

/// How long a reply may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection.
pub struct Client {
    connection: Connection,
}

/// The words of a command line: split at spaces, except within single quotes; `''` is an empty word.
pub fn split(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !quoted => words.extend(word.take().map(String::into_bytes)),
            c => word.get_or_insert_default().push(c),
        }
    }
    assert!(!quoted, "a quote is open in {line}");
    words.extend(word.map(String::into_bytes));
    words
}

/// What can be a word of a command.
pub trait Word {
    /// Its bytes.
    fn bytes(&self) -> Vec<u8>;
}

impl<T: Word + ?Sized> Word for &T {
    fn bytes(&self) -> Vec<u8> {
        (**self).bytes()
    }
}

impl Word for [u8] {
    fn bytes(&self) -> Vec<u8> {
        self.to_vec()
    }
}

impl Word for Vec<u8> {
    fn bytes(&self) -> Vec<u8> {
        self.clone()
    }
}

macro_rules! printed {
    ($($kind:ty)*) => {
        $(impl Word for $kind {
            fn bytes(&self) -> Vec<u8> {
                self.to_string().into_bytes()
            }
        })*
    };
}
printed!(str String i32 i64 u64 usize f32 f64);

/// The words of a command that a line cannot hold: `words![ "MEM.STORE", key, bytes ]`.
macro_rules! words {
    ($($word:expr),+ $(,)?) => { Vec::from([$($crate::client::Word::bytes(&$word)),+]) };
}
pub(crate) use words;

/// Components as MEM.STORE … VECTOR takes them.
pub fn blob(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|f| f.to_le_bytes()).collect()
}

impl Client {
    /// Connects; `resp3` says which protocol.
    pub fn connect(port: u16, resp3: bool) -> Result<Client, String> {
        Client::log_in(port, resp3, "")
    }

    /// Connects as a user: `login` is empty or `name:password@`.
    pub fn log_in(port: u16, resp3: bool, login: &str) -> Result<Client, String> {
        let protocol = if resp3 { "?protocol=resp3" } else { "" };
        let redis = Redis::open(format!("redis://{login}127.0.0.1:{port}/{protocol}")).map_err(|e| e.to_string())?;
        let connection = redis.get_connection_with_timeout(Duration::from_secs(5)).map_err(|e| e.to_string())?;
        connection.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        Ok(Client { connection })
    }

    /// Sends words; an error reply is its whole line, such as `ERR no such space`.
    pub fn send(&mut self, words: &[Vec<u8>]) -> Result<Value, String> {
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(word.as_slice());
        });
        match self.connection.req_command(&command) {
            Ok(Value::ServerError(error)) => Err(format!("{} {}", error.code(), error.details().unwrap_or_default())),
            Ok(value) => Ok(value),
            Err(error) => match error.code() {
                Some(code) => Err(format!("{code} {}", error.detail().unwrap_or_default())),
                None => Err(format!("CONNECTION {error}")),
            },
        }
    }

    /// Sends a command line.
    pub fn try_run(&mut self, line: &str) -> Result<Value, String> {
        self.send(&split(line))
    }

    /// Sends a command line that must succeed.
    #[track_caller]
    pub fn ok(&mut self, line: &str) -> Value {
        self.try_run(line).unwrap_or_else(|error| panic!("{line}\n  -> {error}"))
    }

    /// Sends a command line that must be refused; answers with the whole line of the error.
    #[track_caller]
    pub fn err(&mut self, line: &str) -> String {
        match self.try_run(line) {
            Ok(value) => panic!("{line}\n  was not refused: {value:?}"),
            Err(error) if error.starts_with("CONNECTION") => panic!("{line}\n  -> {error}"),
            Err(error) => error,
        }
    }

    /// Sends words that must succeed.
    #[track_caller]
    pub fn ok_words(&mut self, words: &[Vec<u8>]) -> Value {
        self.send(words).unwrap_or_else(|error| panic!("{}\n  -> {error}", shown(words)))
    }

    /// Sends words that must be refused.
    #[track_caller]
    pub fn err_words(&mut self, words: &[Vec<u8>]) -> String {
        match self.send(words) {
            Ok(value) => panic!("{}\n  was not refused: {value:?}", shown(words)),
            Err(error) if error.starts_with("CONNECTION") => panic!("{}\n  -> {error}", shown(words)),
            Err(error) => error,
        }
    }

    /// The value's digest, or None if there is no such key.
    #[track_caller]
    pub fn digest(&mut self, key: &str) -> String {
        self.ok_words(&words!["DEBUG", "DIGEST-VALUE", key]).items()[0].text()
    }

    /// How many memories a space has.
    #[track_caller]
    pub fn count(&mut self, key: &str) -> i64 {
        self.ok_words(&words!["MEM.COUNT", key]).int()
    }

    /// How many memories of `k` pass a filter, which is quoted.
    #[track_caller]
    pub fn count_of(&mut self, filter: &str) -> i64 {
        self.ok(&format!("MEM.COUNT k FILTER {filter}")).int()
    }

    /// The ids of a list of memories that a command line replies.
    #[track_caller]
    pub fn ids(&mut self, line: &str) -> Vec<String> {
        self.ok(line).items().iter().map(|memory| memory.field("id").text()).collect()
    }

    /// The contents of a list of memories that a command line replies.
    #[track_caller]
    pub fn contents(&mut self, line: &str) -> Vec<String> {
        self.ok(line).items().iter().map(|memory| memory.field("content").text()).collect()
    }

    /// A field of INFO.
    #[track_caller]
    pub fn info(&mut self, field: &str) -> String {
        let info = self.ok("INFO everything").text();
        let prefix = format!("{field}:");
        let line = info.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("INFO has no {field}")).trim().to_owned()
    }

    /// Reads one more reply, for a client that subscribed or pipelined.
    pub fn receive(&mut self) -> Result<Value, String> {
        self.connection.recv_response().map_err(|e| e.to_string())
    }

    /// Sends words and does not wait for the reply.
    pub fn send_only(&mut self, words: &[Vec<u8>]) {
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(word.as_slice());
        });
        self.connection.send_packed_command(&command.get_packed_command()).unwrap();
    }
}

fn shown(words: &[Vec<u8>]) -> String {
    let shown: Vec<String> =
        words.iter().map(|w| String::from_utf8_lossy(&w[..w.len().min(100)]).into_owned()).collect();
    shown.join(" ")
}

/// A reply, read without regard to the protocol: maps may be flat lists, doubles may be text.
pub trait Reply {
    /// Text or a status.
    fn text(&self) -> String;
    /// An integer.
    fn int(&self) -> i64;
    /// A double.
    fn float(&self) -> f64;
    /// Raw bytes.
    fn raw(&self) -> Vec<u8>;
    /// A list.
    fn items(&self) -> Vec<Value>;
    /// The texts of a list.
    fn texts(&self) -> Vec<String>;
    /// A map in the order of the reply.
    fn pairs(&self) -> Vec<(String, Value)>;
    /// The names of a map in the order of the reply.
    fn names(&self) -> Vec<String>;
    /// A field of a map.
    fn field(&self, name: &str) -> Value;
    /// A field of a map, if it has it.
    fn maybe(&self, name: &str) -> Option<Value>;
    /// Whether it is null.
    fn is_nil(&self) -> bool;
}

impl Reply for Value {
    #[track_caller]
    fn text(&self) -> String {
        match self {
            Value::BulkString(bytes) => String::from_utf8(bytes.clone()).expect("a text"),
            Value::SimpleString(text) => text.clone(),
            Value::VerbatimString { text, .. } => text.clone(),
            Value::Okay => "OK".to_owned(),
            other => panic!("not a text: {other:?}"),
        }
    }

    #[track_caller]
    fn int(&self) -> i64 {
        match self {
            Value::Int(n) => *n,
            other => panic!("not an integer: {other:?}"),
        }
    }

    #[track_caller]
    fn float(&self) -> f64 {
        match self {
            Value::Double(d) => *d,
            other => other.text().parse().unwrap_or_else(|_| panic!("not a number: {other:?}")),
        }
    }

    #[track_caller]
    fn raw(&self) -> Vec<u8> {
        match self {
            Value::BulkString(bytes) => bytes.clone(),
            other => panic!("not a bulk string: {other:?}"),
        }
    }

    #[track_caller]
    fn items(&self) -> Vec<Value> {
        match self {
            Value::Array(items) | Value::Set(items) => items.clone(),
            other => panic!("not a list: {other:?}"),
        }
    }

    #[track_caller]
    fn texts(&self) -> Vec<String> {
        self.items().iter().map(Reply::text).collect()
    }

    #[track_caller]
    fn pairs(&self) -> Vec<(String, Value)> {
        match self {
            Value::Map(pairs) => pairs.iter().map(|(name, value)| (name.text(), value.clone())).collect(),
            Value::Array(items) if items.len() % 2 == 0 => {
                items.chunks(2).map(|pair| (pair[0].text(), pair[1].clone())).collect()
            }
            other => panic!("not a map: {other:?}"),
        }
    }

    #[track_caller]
    fn names(&self) -> Vec<String> {
        self.pairs().into_iter().map(|(name, _)| name).collect()
    }

    #[track_caller]
    fn field(&self, name: &str) -> Value {
        self.maybe(name).unwrap_or_else(|| panic!("no field {name} among {:?}", self.names()))
    }

    #[track_caller]
    fn maybe(&self, name: &str) -> Option<Value> {
        self.pairs().into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    fn is_nil(&self) -> bool {
        *self == Value::Nil
    }
}

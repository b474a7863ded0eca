//! What a client sees: values and errors, made on any thread and written on the main thread or in a reply callback.
//!
//! A [`Value`] owns everything, so a background job can finish it and the reply callback only formats. Text goes out as a bulk string: a status
//! line ends at the first CR or LF, and the server aborts on a NUL in one; only a page for people ([`Value::Page`]) takes other forms. Maps and doubles are RESP3's where the client speaks it; in RESP2 the server
//! flattens maps, and doubles are written here as the shortest digits that read back the same (Redis 7.0 would write 17).

use std::borrow::Cow;
use std::ffi::{CString, c_char, c_int, c_long};
use std::fmt;

use redis_module::raw;

use crate::ffi::{Ctx, flags};

/// Writes with a function of the module API; on a server without it nothing is written.
macro_rules! write_with {
    ($name:ident ( $($arg:expr),* )) => {
        // SAFETY: the API's pointers are written once, at load; `emit` requires a valid context, and buffers outlive the call, which copies them.
        if let Some(function) = unsafe { raw::$name } {
            // SAFETY: as above.
            unsafe { function($($arg),*) };
        }
    };
}

/// An error a client sees, as `CODE sentence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The prefix clients switch on: ERR, WRONGTYPE, NOMODEL, QUEUEFULL, STALE, INLINELIMIT, OOM, LOADING, NOPERM …
    pub code: &'static str,
    /// The sentence: what was wrong, where, and what is accepted.
    pub message: String,
}

impl Error {
    /// An error with a prefix of its own.
    pub fn new(code: &'static str, message: impl Into<String>) -> Error {
        Error { code, message: message.into() }
    }

    /// An error with the prefix ERR.
    pub fn err(message: impl Into<String>) -> Error {
        Error::new("ERR", message)
    }

    /// The error Redis gives for a key of another type.
    pub fn wrong_type() -> Error {
        Error::new("WRONGTYPE", "Operation against a key holding the wrong kind of value")
    }

    /// Prefix and sentence on one line: what would break the protocol (CR, LF, NUL) becomes a space.
    pub fn line(&self) -> String {
        let mut line = format!("{} {}", self.code, self.message);
        if line.contains(['\r', '\n', '\0']) {
            line = line.replace(['\r', '\n', '\0'], " ");
        }
        line
    }

    /// Replies with this error. `ctx` is the server's context of a command or reply callback, on the main thread.
    pub(crate) fn emit(&self, ctx: *mut raw::RedisModuleCtx) {
        // line() leaves no NUL, so this never falls back to the empty string.
        let line = CString::new(self.line()).unwrap_or_default();
        write_with!(RedisModule_ReplyWithError(ctx, line.as_ptr()));
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())
    }
}

impl std::error::Error for Error {}

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Null.
    Null,
    /// The status `OK`.
    Ok,
    /// An integer.
    Int(i64),
    /// A double; a bulk string in RESP2.
    Double(f64),
    /// A boolean; 0 or 1 in RESP2.
    Bool(bool),
    /// Text.
    Text(String),
    /// Bytes that need not be text.
    Bytes(Vec<u8>),
    /// The lines of a page for people: one verbatim string in RESP3, an array of status lines in RESP2. Of the types that have text these are the two
    /// that redis-cli prints as they are; in a bulk string it shows every line end and all but ASCII as escapes.
    Page(Vec<String>),
    /// An array.
    Array(Vec<Value>),
    /// A map in this order; an array of names and values in RESP2.
    Map(Vec<(Cow<'static, str>, Value)>),
}

impl Value {
    /// A map of named fields, in this order.
    pub fn map<N: Into<Cow<'static, str>>>(fields: Vec<(N, Value)>) -> Value {
        Value::Map(fields.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }

    /// Replies with this value. `ctx` is the server's context of a command or reply callback, on the main thread.
    pub(crate) fn emit(&self, ctx: *mut raw::RedisModuleCtx) {
        // SAFETY: the caller's promise.
        let resp3 = unsafe { Ctx::new(ctx) }.has(flags::RESP3);
        self.emit_to(ctx, resp3);
    }

    /// Writes this value to any context, also a thread-safe one of a blocked client, whose protocol is known to the caller.
    pub(crate) fn emit_to(&self, ctx: *mut raw::RedisModuleCtx, resp3: bool) {
        match self {
            Value::Null => write_with!(RedisModule_ReplyWithNull(ctx)),
            Value::Ok => write_with!(RedisModule_ReplyWithSimpleString(ctx, c"OK".as_ptr())),
            Value::Int(n) => write_with!(RedisModule_ReplyWithLongLong(ctx, *n)),
            Value::Double(d) if resp3 => write_with!(RedisModule_ReplyWithDouble(ctx, *d)),
            Value::Double(d) => bulk(ctx, shortest(*d).as_bytes()),
            Value::Bool(b) => write_with!(RedisModule_ReplyWithBool(ctx, c_int::from(*b))),
            Value::Text(text) => bulk(ctx, text.as_bytes()),
            Value::Bytes(bytes) => bulk(ctx, bytes),
            Value::Page(lines) if resp3 => {
                let page = lines.join("\n");
                write_with!(RedisModule_ReplyWithVerbatimString(ctx, page.as_ptr().cast::<c_char>(), page.len()));
            }
            Value::Page(lines) => {
                write_with!(RedisModule_ReplyWithArray(ctx, length(lines.len())));
                for line in lines {
                    // A status ends at the first CR or LF, and holds no NUL.
                    let line = CString::new(line.replace(['\r', '\n', '\0'], " ")).unwrap_or_default();
                    write_with!(RedisModule_ReplyWithSimpleString(ctx, line.as_ptr()));
                }
            }
            Value::Array(items) => {
                write_with!(RedisModule_ReplyWithArray(ctx, length(items.len())));
                items.iter().for_each(|item| item.emit_to(ctx, resp3));
            }
            Value::Map(fields) => {
                write_with!(RedisModule_ReplyWithMap(ctx, length(fields.len())));
                for (name, value) in fields {
                    bulk(ctx, name.as_bytes());
                    value.emit_to(ctx, resp3);
                }
            }
        }
    }

    /// The value as the text of one stream field: plain values as they are, nested ones as JSON.
    pub fn to_text(&self) -> String {
        match self {
            Value::Null => String::new(),
            Value::Ok => "OK".to_owned(),
            Value::Int(n) => n.to_string(),
            Value::Double(d) => shortest(*d),
            Value::Bool(b) => i64::from(*b).to_string(),
            Value::Text(text) => text.clone(),
            Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Value::Page(lines) => lines.join("\n"),
            Value::Array(_) | Value::Map(_) => self.to_json().to_string(),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Value::Null => Json::Null,
            Value::Int(n) => Json::from(*n),
            Value::Double(d) => Json::from(*d),
            Value::Bool(b) => Json::from(*b),
            Value::Ok | Value::Text(_) | Value::Bytes(_) | Value::Page(_) => Json::from(self.to_text()),
            Value::Array(items) => Json::Array(items.iter().map(Value::to_json).collect()),
            Value::Map(fields) => {
                Json::Object(fields.iter().map(|(name, v)| (name.to_string(), v.to_json())).collect())
            }
        }
    }
}

fn bulk(ctx: *mut raw::RedisModuleCtx, bytes: &[u8]) {
    write_with!(RedisModule_ReplyWithStringBuffer(ctx, bytes.as_ptr().cast::<c_char>(), bytes.len()));
}

/// A collection's length; none comes near the limit of the type.
fn length(len: usize) -> c_long {
    c_long::try_from(len).unwrap_or(c_long::MAX)
}

/// The shortest decimal that reads back as the same double, with an exponent where plain digits would be long.
fn shortest(d: f64) -> String {
    let size = d.abs();
    if d.is_finite() && size != 0.0 && !(1e-5..1e17).contains(&size) { format!("{d:e}") } else { format!("{d}") }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<f64> for Value {
    fn from(d: f64) -> Value {
        Value::Double(d)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Value {
        Value::Bool(b)
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Value {
        Value::Int(n)
    }
}

impl From<u32> for Value {
    fn from(n: u32) -> Value {
        Value::Int(i64::from(n))
    }
}

impl From<u64> for Value {
    /// A count beyond the protocol's 63 bits stays at the largest.
    fn from(n: u64) -> Value {
        Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(n: usize) -> Value {
        Value::from(n as u64)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Value {
        Value::Array(items)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line() {
        assert_eq!(Error::err("a\r\nb\0c").line(), "ERR a  b c");
        assert_eq!(Error::new("STALE", "retry").line(), "STALE retry");
        assert_eq!(Error::wrong_type().line(), "WRONGTYPE Operation against a key holding the wrong kind of value");
    }

    #[test]
    fn doubles_are_short_and_read_back() {
        for (d, text) in [
            (0.7, "0.7"),
            (0.0, "0"),
            (1.0, "1"),
            (-2.5, "-2.5"),
            (1e300, "1e300"),
            (1e-9, "1e-9"),
            (0.1 + 0.2, "0.30000000000000004"),
        ] {
            assert_eq!(shortest(d), text);
            assert_eq!(shortest(d).parse::<f64>().unwrap(), d);
        }
        assert_eq!(shortest(f64::INFINITY), "inf");
    }

    #[test]
    fn stream_fields_are_text_and_nested_ones_json() {
        let nested = Value::map(vec![
            (
                "ids",
                Value::from(vec![Value::from("1-0"), Value::from(7usize), Value::from(0.5), Value::from(None::<i64>)]),
            ),
            ("text", Value::from("a \"b\"")),
        ]);
        assert_eq!(nested.to_text(), r#"{"ids":["1-0",7,0.5,null],"text":"a \"b\""}"#);
        assert_eq!(Value::from("plain \"x\"").to_text(), "plain \"x\"");
        assert_eq!(Value::from(true).to_text(), "1");
        assert_eq!(Value::Null.to_text(), "");
        assert_eq!(Value::from(u64::MAX), Value::Int(i64::MAX));
    }
}

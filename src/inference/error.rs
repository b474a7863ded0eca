//! The one error type of the crate: a sentence for a person.

use std::fmt;

/// What was wrong, where, and what is accepted, as one sentence without a final period.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    message: String,
}

impl Error {
    /// An error with this sentence.
    pub fn new(message: impl Into<String>) -> Error {
        Error { message: message.into() }
    }

    /// The same error with the place it happened in front: `place: sentence`.
    pub fn at(self, place: impl fmt::Display) -> Error {
        Error { message: format!("{place}: {}", self.message) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?})", self.message)
    }
}

impl std::error::Error for Error {}

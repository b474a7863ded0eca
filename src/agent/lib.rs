//! Where memory and models meet, without Redis and without threads: how recalled memories become part of a prompt, and what an encoder says of tokens
//! vectors of words.
//!
//! The shape of the prompt is a contract with the small copying model under `tests/models`, which is trained on exactly this text; a test holds it.

mod chunks;
mod context;
mod date;
mod fence;
mod sentences;
mod summary;
mod words;

pub use chunks::{Chunk, Chunker, Spans};
pub use context::{Context, Dropped, IMPORTANT, Memory, Parts, Role, Turn, assemble, chat_turns};
pub use sentences::sentences;
pub use words::{WindowTokens, WordVector, word_vectors};

use engram_memory::Entry;

/// The text of the user's turn: system text (Gemma has no turn of its own for it), recalled memories, and the question.
///
/// ```text
/// {system}
///
/// Memories:
/// - {speaker}: {content}
/// - {content}
///
/// {question}
/// ```
/// Parts that are not there leave no trace. A memory is one line: runs of whitespace become a space, so that no memory can look like a second one.
/// The result is plain text: whoever tokenises it must not let it become control tokens.
pub fn user_turn<'a>(system: Option<&str>, memories: impl IntoIterator<Item = &'a Entry>, question: &str) -> String {
    let mut turn = String::new();
    if let Some(system) = system.filter(|s| !s.is_empty()) {
        turn.push_str(system);
        turn.push_str("\n\n");
    }
    let mut listed = false;
    for memory in memories {
        if !listed {
            turn.push_str("Memories:\n");
            listed = true;
        }
        turn.push_str("- ");
        if let Some(speaker) = &memory.speaker {
            push_line(&mut turn, speaker);
            turn.push_str(": ");
        }
        push_line(&mut turn, &memory.content);
        turn.push('\n');
    }
    if listed {
        turn.push('\n');
    }
    turn.push_str(question);
    turn
}

fn push_line(turn: &mut String, text: &str) {
    for (i, word) in text.split_whitespace().enumerate() {
        if i > 0 {
            turn.push(' ');
        }
        turn.push_str(word);
    }
}

//! The chat template of the Gemma family.

use super::Gemma;
use crate::Error;

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The person, or the program, that asks. Instructions to the model belong here too: the family has no system role.
    User,
    /// The model.
    Model,
}

/// One turn of a conversation.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// Whose.
    pub role: Role,
    /// What was said.
    pub text: &'a str,
}

impl Gemma {
    /// The tokens of a conversation in which the model speaks next:
    /// `<bos>`, for each turn `<start_of_turn>role⏎text<end_of_turn>⏎`, then `<start_of_turn>model⏎`.
    ///
    /// Only the template makes control tokens. What a text says of them (`<end_of_turn>`) stays plain text. As in the
    /// family's own template, a text's leading and trailing white space is dropped.
    pub fn prompt(&self, turns: &[Turn<'_>]) -> Result<Vec<u32>, Error> {
        let t = self.tokenizer();
        let need = |id: Option<u32>, piece: &str| {
            id.ok_or_else(|| {
                Error::new(format!("the model's vocabulary has no {piece}, which the chat template needs"))
            })
        };
        let (bos, start, end) = (
            need(t.bos(), "<bos>")?,
            need(t.start_of_turn(), "<start_of_turn>")?,
            need(t.end_of_turn(), "<end_of_turn>")?,
        );
        let mut ids = vec![bos];
        for turn in turns {
            let role = match turn.role {
                Role::User => "user",
                Role::Model => "model",
            };
            ids.push(start);
            ids.extend(t.encode(&format!("{role}\n{}", turn.text.trim())));
            ids.push(end);
            ids.extend(t.encode("\n"));
        }
        ids.push(start);
        ids.extend(t.encode("model\n"));
        Ok(ids)
    }
}

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gemma::tests::model;
    use crate::tokenizer::{Kind, Tokenizer, Vocabulary};

    /// What spells something that is no plain text in this vocabulary, and what looks like it.
    fn spellings(tokenizer: &Tokenizer) -> Vec<String> {
        let ids = 0..tokenizer.vocabulary_size() as u32;
        let special = ids.filter(|id| tokenizer.kind(*id) != Some(Kind::Normal));
        let mut spellings: Vec<String> = special.filter_map(|id| tokenizer.piece(id)).map(str::to_owned).collect();
        let more = [
            "<start_of_turn>model\n",
            "<end_of_turn>\n<start_of_turn>user\n",
            "<unused0>",
            "<eos>",
            "<|im_end|>",
            "▁",
            " ",
            "\0",
            "é",
        ];
        spellings.extend(more.map(str::to_owned));
        spellings
    }

    /// A text of whole spellings, halves of them, and characters.
    fn text(spellings: Vec<String>) -> impl Strategy<Value = String> {
        let whole = prop::sample::select(spellings);
        let half = (whole.clone(), any::<prop::sample::Index>(), any::<bool>()).prop_map(|(text, at, first)| {
            let cuts: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
            let (left, right) = text.split_at(*at.get(&cuts));
            if first { left.to_owned() } else { right.to_owned() }
        });
        let part =
            prop_oneof![3 => whole, 2 => half, 1 => any::<char>().prop_map(String::from), 1 => "[a-z <>_0x]{0,6}"];
        prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
    }

    fn control(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<u32> {
        let ends = [tokenizer.bos(), tokenizer.eos()];
        let is = |id: &u32| tokenizer.kind(*id) == Some(Kind::Control) || ends.contains(&Some(*id));
        ids.iter().copied().filter(is).collect()
    }

    #[test]
    fn the_control_tokens_of_a_prompt_are_the_templates() {
        let model = model("random-f32.gguf");
        let t = model.tokenizer();
        let (bos, start, end) = (t.bos().unwrap(), t.start_of_turn().unwrap(), t.end_of_turn().unwrap());
        let one = text(spellings(t)).boxed();
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(1500));
        let parts = ([one.clone(), one.clone(), one.clone(), one.clone()], prop::collection::vec(one, 0..4));
        runner
            .run(&parts, |([system, memory, question, answer], memories)| {
                let mut user = format!("{system}\n\nMemories:\n- {memory}\n");
                memories.iter().for_each(|memory| user.push_str(&format!("- {memory}\n")));
                user.push_str(&format!("\n{question}"));
                let turns = [(Role::User, &user), (Role::Model, &answer), (Role::User, &question)];
                let ids = model.prompt(&turns.map(|(role, text)| Turn { role, text })).unwrap();
                prop_assert_eq!(control(t, &ids), [bos, start, end, start, end, start, end, start]);
                // And every byte of the content is there, as text.
                let kept =
                    format!("user\n{}\nmodel\n{}\nuser\n{}\nmodel\n", user.trim(), answer.trim(), question.trim());
                prop_assert_eq!(t.decode(&ids), kept.replace('▁', " "));
                Ok(())
            })
            .unwrap();
    }

    /// A vocabulary that tempts: control pieces that merging could make of ordinary ones, that are one character, and that ordinary, user-defined and
    /// unused pieces spell again or contain.
    #[test]
    fn no_vocabulary_makes_control_tokens_of_text() {
        let mut pieces = vec![
            ("<bos>".to_owned(), 0.0, Kind::Control),
            ("<eos>".to_owned(), 0.0, Kind::Control),
            ("ab".to_owned(), 0.0, Kind::Control),
            ("\n".to_owned(), 0.0, Kind::Control),
            ("<unk>".to_owned(), 0.0, Kind::Unknown),
        ];
        pieces.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), 0.0, Kind::Byte)));
        for (rank, piece) in
            ["a", "b", "<", ">", "bos", "b>", "<b", "os", "o", "s", "ab", "abb", "<bos>"].iter().enumerate()
        {
            pieces.push(((*piece).to_owned(), -(rank as f32), Kind::Normal));
        }
        for (piece, kind) in [
            ("<unused0>", Kind::Unused),
            ("<eos>", Kind::UserDefined),
            ("<bos><bos>", Kind::UserDefined),
            ("aab", Kind::Unused),
        ] {
            pieces.push((piece.to_owned(), 0.0, kind));
        }
        let t = Tokenizer::new(Vocabulary { pieces, bos: Some(0), eos: Some(1) }).unwrap();
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(1500));
        runner
            .run(&text(spellings(&t)), |text| {
                let ids = t.encode(&text);
                prop_assert_eq!(control(&t, &ids), Vec::<u32>::new(), "{:?}", text);
                // A `▁` that had to be written byte by byte comes back as it was, others as spaces.
                prop_assert_eq!(t.decode(&ids).replace('▁', " "), text.replace('▁', " "));
                Ok(())
            })
            .unwrap();
    }
}

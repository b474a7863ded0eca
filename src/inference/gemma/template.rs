//! The chat templates of the Gemma families.
//!
//! Gemma 2 and 3 know two roles; instructions open the user's turn. Gemma 4 has a turn of its own for them, and a channel for thoughts, which are nobody's
//! answer: they are left out of earlier turns, and a model whose published template says so begins its answer with an empty one, so that it does not think.
//!
//! The published templates are programs in Jinja. They are not run: what they do for turns of text is written down here, and the one thing in which models of a
//! family differ, the empty thought, is looked for in the template's text.

use super::Gemma;
use super::source::Family;
use crate::Error;
use crate::tokenizer::{CHANNEL, Tokenizer};

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Whoever instructs the model. Where the family has no such role, the text opens the user's turn behind it.
    System,
    /// The person, or the program, that asks.
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

/// How a model's turns are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Template {
    /// Gemma 4's: with a role for instructions, and thoughts in a channel.
    fourth: bool,
    /// An answer begins with an empty thought.
    no_thought: bool,
}

impl Template {
    /// The template of a family; `published` is the one that came with the model.
    pub(super) fn new(family: Family, published: Option<&str>) -> Template {
        let fourth = family == Family::Gemma4;
        // A template spells the line's end as an escape in a string, or has it in its text.
        let [open, close] = CHANNEL;
        let empty = ["\\n", "\n"].map(|line| format!("{open}thought{line}{close}"));
        Template { fourth, no_thought: fourth && published.is_some_and(|text| empty.iter().any(|e| text.contains(e))) }
    }

    /// The tokens of a conversation in which the model speaks next.
    fn prompt(self, t: &Tokenizer, turns: &[Turn<'_>]) -> Result<Vec<u32>, Error> {
        let need = |id: Option<u32>, piece: &str| {
            id.ok_or_else(|| {
                Error::new(format!("the model's vocabulary has no {piece}, which the chat template needs"))
            })
        };
        let [start_name, end_name] =
            if self.fourth { ["<|turn>", "<turn|>"] } else { ["<start_of_turn>", "<end_of_turn>"] };
        let (bos, start, end) =
            (need(t.bos(), "<bos>")?, need(t.start_of_turn(), start_name)?, need(t.end_of_turn(), end_name)?);
        let mut ids = vec![bos];
        let mut write = |role: &str, text: &str| {
            ids.push(start);
            ids.extend(t.encode(&format!("{role}\n{}", text.trim())));
            ids.push(end);
            ids.extend(t.encode("\n"));
        };
        // Instructions that wait for the user's turn.
        let mut instructions = String::new();
        for turn in turns {
            match turn.role {
                Role::System if self.fourth => {
                    if !turn.text.trim().is_empty() {
                        write("system", turn.text);
                    }
                }
                Role::System => {
                    if !turn.text.is_empty() {
                        instructions.push_str(turn.text);
                        instructions.push_str("\n\n");
                    }
                }
                Role::User => write("user", &(std::mem::take(&mut instructions) + turn.text)),
                Role::Model => {
                    if !instructions.is_empty() {
                        write("user", &std::mem::take(&mut instructions));
                    }
                    if self.fourth { write("model", &spoken(turn.text)) } else { write("model", turn.text) }
                }
            }
        }
        if !instructions.is_empty() {
            write("user", &instructions);
        }
        ids.push(start);
        ids.extend(t.encode("model\n"));
        if self.no_thought {
            let [open, close] = CHANNEL;
            let (open, close) = (need(t.control(open), open)?, need(t.control(close), close)?);
            ids.push(open);
            ids.extend(t.encode("thought\n"));
            ids.push(close);
        }
        Ok(ids)
    }
}

/// What was said of what was thought and said: without what stands in channels. As in the published template, a channel
/// that does not end takes the rest, and an end without a beginning only itself.
fn spoken(text: &str) -> String {
    let [open, close] = CHANNEL;
    text.split(close).map(|part| part.split_once(open).map_or(part, |(before, _)| before)).collect()
}

impl Gemma {
    /// The tokens of a conversation in which the model speaks next: `<bos>`, for each turn `<start_of_turn>role⏎text<end_of_turn>⏎`, then
    /// `<start_of_turn>model⏎`; in Gemma 4 with `<|turn>` and `<turn|>`, and behind them, where the model's published template has it, an empty thought:
    /// `<|channel>thought⏎<channel|>`.
    ///
    /// Only the template makes control tokens. What a text says of them (`<end_of_turn>`) stays plain text. As in the
    /// family's own template, a text's leading and trailing white space is dropped.
    pub fn prompt(&self, turns: &[Turn<'_>]) -> Result<Vec<u32>, Error> {
        self.template.prompt(self.tokenizer(), turns)
    }

    /// Whether instructions have turns of their own. Where not, they open the user's turn.
    pub fn has_system_role(&self) -> bool {
        self.template.fourth
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gemma::tests::{model, tests_dir};
    use crate::gguf::Gguf;
    use crate::tokenizer::{Kind, Vocabulary};

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
            "<turn|>\n<|turn>model\n",
            "<|channel>thought\nso<channel|>",
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

    #[test]
    fn instructions_open_the_users_turn_where_there_is_no_role_for_them() {
        let model = model("random-f32.gguf");
        assert!(!model.has_system_role());
        let prompt = |turns: &[(Role, &str)]| {
            let turns: Vec<Turn> = turns.iter().map(|&(role, text)| Turn { role, text }).collect();
            model.prompt(&turns).unwrap()
        };
        for (system, user) in
            [("Be kind.", "Who?"), (" Be kind.\n", "  Who\n"), ("", "Who?"), (" ", "\nWho?"), ("Be kind.", "")]
        {
            let one = if system.is_empty() { user.to_owned() } else { format!("{system}\n\n{user}") };
            assert_eq!(prompt(&[(Role::System, system), (Role::User, user)]), prompt(&[(Role::User, &one)]));
        }
        let apart =
            [(Role::System, "Be kind."), (Role::Model, "Yes?"), (Role::User, "Who?"), (Role::System, "Be brief.")];
        let whole = [(Role::User, "Be kind."), (Role::Model, "Yes?"), (Role::User, "Who?"), (Role::User, "Be brief.")];
        assert_eq!(prompt(&apart), prompt(&whole));
    }

    #[test]
    fn a_small_gemma_4_has_a_role_for_instructions() {
        let model = model("gemma4-e.gguf");
        assert!(model.has_system_role());
        let turns = [
            Turn { role: Role::System, text: " Be kind.\n" },
            Turn { role: Role::User, text: "Who?" },
            Turn { role: Role::Model, text: "Ann." },
            Turn { role: Role::User, text: " And <turn|>?" },
        ];
        let t = model.tokenizer();
        let ids = model.prompt(&turns).unwrap();
        assert_eq!(t.decode(&ids), "system\nBe kind.\nuser\nWho?\nmodel\nAnn.\nuser\nAnd <turn|>?\nmodel\n");
        let written =
            "<bos><|turn>system\nBe kind.<turn|>\n<|turn>user\nWho?<turn|>\n<|turn>model\nAnn.<turn|>\n<|turn>model\n";
        assert_eq!(model.prompt(&turns[..3]).unwrap(), t.encode_with_control(written));
        let silent = [Turn { role: Role::System, text: " " }, turns[1]];
        assert_eq!(model.prompt(&silent).unwrap(), model.prompt(&turns[1..2]).unwrap());
    }

    #[test]
    fn the_empty_thought_is_the_published_templates() {
        let jinja = r"{{- '<|turn>model\n' -}}{{- '<|channel>thought\n<channel|>' -}}";
        let plain = "<|turn>model\n<|channel>thought\n<channel|>";
        let without = r"{{- '<|turn>model\n' -}}{{ text.split('<channel|>') }}{{ '<|channel>' }}";
        let has = |family, text| Template::new(family, text).no_thought;
        assert!(has(Family::Gemma4, Some(jinja)) && has(Family::Gemma4, Some(plain)));
        assert!(!has(Family::Gemma4, Some(without)) && !has(Family::Gemma4, None) && !has(Family::Gemma3, Some(jinja)));
        // A vocabulary without channels cannot write it.
        let model = model("gemma4-e.gguf");
        let message =
            Template::new(Family::Gemma4, Some(jinja)).prompt(model.tokenizer(), &[]).unwrap_err().to_string();
        assert!(message.contains("no <|channel>"), "{message}");
    }

    /// What the published template makes of earlier answers, step by step.
    fn strip_thinking(text: &str) -> String {
        let mut result = String::new();
        for part in text.split("<channel|>") {
            result += if part.contains("<|channel>") { part.split("<|channel>").next().unwrap() } else { part };
        }
        result.trim().to_owned()
    }

    #[test]
    fn the_control_tokens_of_a_gemma_4_prompt_are_the_templates() {
        let file = tests_dir().join("models/gemma4-vocabulary.gguf");
        let t = Tokenizer::from_gguf(&Gguf::open(&file).unwrap()).unwrap();
        let (bos, start, end) = (t.bos().unwrap(), t.start_of_turn().unwrap(), t.end_of_turn().unwrap());
        let channel = CHANNEL.map(|piece| t.control(piece).unwrap());
        let one = text(spellings(&t)).boxed();
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(1500));
        runner
            .run(
                &([one.clone(), one.clone(), one.clone(), one], any::<bool>()),
                |([system, first, answer, question], no_thought)| {
                    let template = Template { fourth: true, no_thought };
                    let turns = [
                        (Role::System, &system),
                        (Role::User, &first),
                        (Role::Model, &answer),
                        (Role::User, &question),
                    ];
                    let ids = template.prompt(&t, &turns.map(|(role, text)| Turn { role, text })).unwrap();
                    let mut controls = vec![bos];
                    let mut kept = String::new();
                    if !system.trim().is_empty() {
                        controls.extend([start, end]);
                        kept.push_str(&format!("system\n{}\n", system.trim()));
                    }
                    controls.extend([start, end, start, end, start, end, start]);
                    let answer = strip_thinking(&answer);
                    kept.push_str(&format!(
                        "user\n{}\nmodel\n{answer}\nuser\n{}\nmodel\n",
                        first.trim(),
                        question.trim()
                    ));
                    if no_thought {
                        controls.extend(channel);
                        kept.push_str("thought\n");
                    }
                    prop_assert_eq!(control(&t, &ids), controls);
                    prop_assert_eq!(t.decode(&ids).replace('▁', " "), kept.replace('▁', " "));
                    Ok(())
                },
            )
            .unwrap();
    }

    #[test]
    fn thoughts_are_left_out_of_earlier_answers() {
        for (text, said) in [
            ("Ann.", "Ann."),
            ("<|channel>thought\nWho sat?<channel|>Ann.", "Ann."),
            ("Ann<|channel>a<channel|> and<|channel>b<|channel>c<channel|> Bo.", "Ann and Bo."),
            ("Ann.<channel|> Bo.", "Ann. Bo."),
            ("Ann.<|channel>thought", "Ann."),
        ] {
            assert_eq!(spoken(text), said);
        }
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

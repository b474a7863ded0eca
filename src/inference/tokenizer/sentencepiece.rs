//! Reading a SentencePiece model file, a protocol buffer of the message `ModelProto`.
//!
//! A message is fields one after the other: a varint of field number and wire type (0 varint, 1 eight bytes, 2 a length and bytes, 5 four bytes), then the
//! value. Those that matter are
//!
//! | message | field |
//! |---|---|
//! | `ModelProto` | 1 piece (message, repeated), 2 `TrainerSpec`, 3 `NormalizerSpec`, 5 denormalising `NormalizerSpec` |
//! | `SentencePiece` | 1 text, 2 score (f32), 3 type: 1 normal (also where absent), 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte |
//! | `TrainerSpec` | 3 model type: 1 unigram (also where absent), 2 BPE, 3 word, 4 char; 24 white space as suffix; 35 byte fallback; 44 what the unknown piece decodes to; 46 and 47 the texts of the pieces that begin and end a text |
//! | `NormalizerSpec` | 1 name, 2 compiled rules, 3 dummy prefix, 4 removal of extra white space, 5 escaping of white space (3 to 5 true where absent) |
//!
//! Other fields are passed over: how the model was trained, and what checks it. As the format has it, of a field that occurs twice the last counts. An
//! option that would change ids beyond what the family's models do is refused by its name. The reader takes nothing on trust: every length is checked
//! against what is left, and nothing is allocated but a table of the pieces, which the length of the file bounds.

use super::pieces::MAX_PIECES;
use super::{Kind, Parts, Tokenizer, UNKNOWN_SURFACE};
use crate::Error;

/// The value of a field, by its wire type.
#[derive(Clone, Copy)]
enum Field<'a> {
    Number(u64),
    Eight,
    Bytes(&'a [u8]),
    Four([u8; 4]),
}

/// The fields of a message that are left, and where the message begins in the file.
struct Message<'a> {
    name: &'static str,
    rest: &'a [u8],
    len: usize,
    start: usize,
}

impl<'a> Message<'a> {
    fn new(name: &'static str, bytes: &'a [u8], start: usize) -> Message<'a> {
        Message { name, rest: bytes, len: bytes.len(), start }
    }

    fn at(&self) -> usize {
        self.start + self.len - self.rest.len()
    }

    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::new(format!("is not a SentencePiece model: {what} at byte {}, in {}", self.at(), self.name))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.wrong("the end of the message"))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                break;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.wrong("a number of more than 64 bits"))
    }

    /// The next field's number and value, and where the value begins.
    fn next(&mut self) -> Result<Option<(u64, Field<'a>, usize)>, Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        if tag >> 3 == 0 {
            return Err(self.wrong("a field of number 0"));
        }
        let value = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take::<8>().map(|_| Field::Eight)?,
            2 => {
                let len = self.varint()?;
                let split = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
                let (taken, rest) = split.ok_or_else(|| self.wrong(format!("a field of {len} bytes")))?;
                let start = self.at();
                self.rest = rest;
                return Ok(Some((tag >> 3, Field::Bytes(taken), start)));
            }
            5 => Field::Four(self.take()?),
            other => return Err(self.wrong(format!("a field of the wire type {other}"))),
        };
        Ok(Some((tag >> 3, value, self.at())))
    }

    fn bytes(&self, value: Field<'a>) -> Result<&'a [u8], Error> {
        match value {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong("something else where a text or a message belongs")),
        }
    }

    fn text(&self, value: Field<'a>) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes(value)?).map_err(|_| self.wrong("a text that is not UTF-8"))
    }

    fn number(&self, value: Field<'a>) -> Result<u64, Error> {
        match value {
            Field::Number(number) => Ok(number),
            _ => Err(self.wrong("something else where a number belongs")),
        }
    }
}

struct Trainer<'a> {
    model: u64,
    suffix: bool,
    byte_fallback: bool,
    unknown: &'a str,
    bos: &'a str,
    eos: &'a str,
}

struct Normalizer<'a> {
    name: &'a str,
    rules: bool,
    dummy_prefix: bool,
    remove_spaces: bool,
    escape_spaces: bool,
}

/// The tokenizer of a model file.
pub(super) fn read(bytes: &[u8]) -> Result<Tokenizer, Error> {
    let mut pieces: Vec<(&str, f32, Kind)> = Vec::new();
    let mut trainer =
        Trainer { model: 1, suffix: false, byte_fallback: false, unknown: UNKNOWN_SURFACE, bos: "<s>", eos: "</s>" };
    let mut normalizer =
        Normalizer { name: "", rules: false, dummy_prefix: true, remove_spaces: true, escape_spaces: true };
    let mut model = Message::new("the model", bytes, 0);
    while let Some((field, value, start)) = model.next()? {
        let within = |name| Ok::<_, Error>(Message::new(name, model.bytes(value)?, start));
        match field {
            1 if pieces.len() == MAX_PIECES => {
                return Err(model.wrong(format!("more than {MAX_PIECES} pieces")));
            }
            1 => pieces.push(read_piece(within("a piece")?)?),
            2 => read_trainer(within("the trainer's options")?, &mut trainer)?,
            3 => read_normalizer(within("the normaliser's options")?, &mut normalizer)?,
            5 => {
                let mut back = Normalizer { name: "", rules: false, ..normalizer };
                read_normalizer(within("the denormaliser's options")?, &mut back)?;
                if back.rules {
                    return Err(refusal("denormalizer_spec has rules", "one without"));
                }
            }
            _ => {}
        }
    }
    if pieces.is_empty() {
        return Err(model.wrong("no piece before the end"));
    }
    check(&trainer, &normalizer)?;
    let bytes = pieces.iter().any(|(.., kind)| *kind == Kind::Byte);
    if bytes != trainer.byte_fallback {
        let has = if bytes { "has" } else { "lacks" };
        let said = trainer.byte_fallback;
        return Err(refusal(
            &format!("byte_fallback is {said} and the vocabulary {has} byte pieces"),
            "both or neither",
        ));
    }
    let control = |name: &str| {
        let found = (0u32..).zip(&pieces).find(|(_, (text, ..))| *text == name);
        found.filter(|(_, (.., kind))| *kind == Kind::Control).map(|(id, _)| id)
    };
    let (bos, eos) = (control(trainer.bos), control(trainer.eos));
    Tokenizer::build(Parts { pieces, merges: None, bos, eos, ends: Vec::new(), unknown: trainer.unknown })
}

fn read_piece<'a>(mut message: Message<'a>) -> Result<(&'a str, f32, Kind), Error> {
    let mut piece = ("", 0.0, Kind::Normal);
    while let Some((field, value, _)) = message.next()? {
        match (field, value) {
            (1, _) => piece.0 = message.text(value)?,
            (2, Field::Four(score)) => piece.1 = f32::from_le_bytes(score),
            (2, _) => return Err(message.wrong("a score that is no f32")),
            (3, _) => {
                let number = message.number(value)?;
                let kind = i64::try_from(number).ok().and_then(Kind::numbered);
                piece.2 = kind.ok_or_else(|| message.wrong(format!("the type {number}, 1 to 6 are accepted,")))?;
            }
            _ => {}
        }
    }
    Ok(piece)
}

fn read_trainer<'a>(mut message: Message<'a>, trainer: &mut Trainer<'a>) -> Result<(), Error> {
    while let Some((field, value, _)) = message.next()? {
        match field {
            3 => trainer.model = message.number(value)?,
            24 => trainer.suffix = message.number(value)? != 0,
            35 => trainer.byte_fallback = message.number(value)? != 0,
            44 => trainer.unknown = message.text(value)?,
            46 => trainer.bos = message.text(value)?,
            47 => trainer.eos = message.text(value)?,
            _ => {}
        }
    }
    Ok(())
}

fn read_normalizer<'a>(mut message: Message<'a>, normalizer: &mut Normalizer<'a>) -> Result<(), Error> {
    while let Some((field, value, _)) = message.next()? {
        match field {
            1 => normalizer.name = message.text(value)?,
            2 => normalizer.rules = !message.bytes(value)?.is_empty(),
            3 => normalizer.dummy_prefix = message.number(value)? != 0,
            4 => normalizer.remove_spaces = message.number(value)? != 0,
            5 => normalizer.escape_spaces = message.number(value)? != 0,
            _ => {}
        }
    }
    Ok(())
}

fn refusal(what: &str, accepted: &str) -> Error {
    Error::new(format!("the SentencePiece model's {what}; only {accepted} is read"))
}

/// Everything must be as in the family's models.
fn check(trainer: &Trainer<'_>, normalizer: &Normalizer<'_>) -> Result<(), Error> {
    if trainer.model != 2 {
        let name = match trainer.model {
            1 => "UNIGRAM",
            3 => "WORD",
            4 => "CHAR",
            _ => "unknown",
        };
        return Err(refusal(&format!("model_type is {} ({name})", trainer.model), "2 (BPE)"));
    }
    if normalizer.rules {
        return Err(refusal(
            &format!("normalization rule is {:?}", normalizer.name),
            "\"identity\", one without rules,",
        ));
    }
    for (name, found, accepted) in [
        ("treat_whitespace_as_suffix", trainer.suffix, false),
        ("add_dummy_prefix", normalizer.dummy_prefix, false),
        ("remove_extra_whitespaces", normalizer.remove_spaces, false),
        ("escape_whitespaces", normalizer.escape_spaces, true),
    ] {
        if found != accepted {
            return Err(refusal(&format!("{name} is {found}"), &accepted.to_string()));
        }
    }
    Ok(())
}

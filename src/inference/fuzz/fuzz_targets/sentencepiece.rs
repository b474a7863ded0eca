//! Any bytes as a SentencePiece model: an error or a tokenizer that runs, never a panic. The first byte says whether the rest are
//! the model or edits of a sound one.

#![no_main]

mod edits;

use edits::edited;
use engram_inference::Tokenizer;
use libfuzzer_sys::fuzz_target;

const SOUND: &[u8] = include_bytes!("../../../../tests/models/tokenizer.model");

fuzz_target!(|input: &[u8]| {
    let (whole, bytes) = input.split_first().unwrap_or((&0, &[]));
    let model = if whole % 2 == 1 { bytes.to_vec() } else { edited(SOUND, bytes) };
    let tokenizer = match Tokenizer::from_sentencepiece(&model) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return assert!(bytes.len() > 3, "{error}"),
    };
    let text = "The  capital of\n\n\nBrelin <end_of_turn> 서울 é 🦜";
    let _ = tokenizer.decode(&tokenizer.encode(&text.repeat(3)));
    let _ = tokenizer.encode_with_control(text);
    let _ = tokenizer.encode(&String::from_utf8_lossy(bytes));
});

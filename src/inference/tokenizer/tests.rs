use super::*;
use candle_core::quantized::gguf_file::{self, Content, Value};
use proptest::prelude::*;
use std::collections::HashMap;

/// A small vocabulary laid out as Gemma's: control pieces, user-defined runs, bytes, then ordinary pieces by score.
fn vocabulary() -> Vocabulary {
    let mut pieces: Vec<(String, f32, Kind)> = Vec::new();
    for piece in ["<pad>", "<eos>", "<bos>"] {
        pieces.push((piece.into(), 0.0, Kind::Control));
    }
    pieces.push(("<unk>".into(), 0.0, Kind::Unknown));
    for piece in ["<start_of_turn>", "<end_of_turn>"] {
        pieces.push((piece.into(), 0.0, Kind::Control));
    }
    for piece in ["\n", "\n\n", "\n\n\n", "▁▁", "  \u{20} "] {
        pieces.push((piece.into(), 0.0, Kind::UserDefined));
    }
    for byte in 0..=255 {
        pieces.push((format!("<0x{byte:02X}>"), 0.0, Kind::Byte));
    }
    let normal = [
        "▁t", "he", "in", "▁the", "ab", "bc", "abc", "aa", "aaa", "▁a", "er", "▁th", "<e", "nd", "▁", "a", "b", "c",
        "d", "e", "h", "i", "n", "r", "t", "<", ">", "_", "o", "f", "u", "é", "한",
    ];
    for (rank, piece) in normal.iter().enumerate() {
        pieces.push(((*piece).into(), -(rank as f32), Kind::Normal));
    }
    Vocabulary { pieces, bos: Some(2), eos: Some(1) }
}

fn tokenizer() -> Tokenizer {
    Tokenizer::new(vocabulary()).unwrap()
}

/// The tokenizer of a file with this metadata.
fn from_metadata(metadata: &HashMap<String, Value>) -> Result<Tokenizer, Error> {
    let pairs: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &pairs, &[]).unwrap();
    let file = crate::gguf::tests::file_of(bytes.get_ref());
    Tokenizer::from_gguf(&crate::gguf::Gguf::open(file.path()).unwrap())
}

fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|id| tokenizer.piece(*id).unwrap().to_owned()).collect()
}

/// The same rules without a heap: look at every pair, merge the best, again. Quadratic and obvious.
fn encode_slowly(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let scores: Vec<f32> = vocabulary().pieces.iter().map(|(_, score, _)| *score).collect();
    let text = text.replace(' ', "▁");
    let defined: Vec<(String, u32)> = (0..tokenizer.vocabulary_size() as u32)
        .filter(|id| tokenizer.kind(*id) == Some(Kind::UserDefined))
        .map(|id| (tokenizer.piece(id).unwrap().to_owned(), id))
        .collect();
    let mut symbols: Vec<(String, Option<u32>)> = Vec::new();
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let best = defined.iter().filter(|(piece, _)| rest.starts_with(piece)).max_by_key(|(piece, _)| piece.len());
        let symbol = best.map_or((first.to_string(), None), |(piece, id)| (piece.clone(), Some(*id)));
        rest = &rest[symbol.0.len()..];
        symbols.push(symbol);
    }
    let mergeable = |piece: &str| {
        tokenizer.token_id(piece).filter(|id| matches!(tokenizer.kind(*id), Some(Kind::Normal | Kind::UserDefined)))
    };
    loop {
        let mut best: Option<(f32, usize)> = None;
        for at in 0..symbols.len().saturating_sub(1) {
            if symbols[at].1.is_some() || symbols[at + 1].1.is_some() {
                continue;
            }
            if let Some(id) = mergeable(&(symbols[at].0.clone() + &symbols[at + 1].0)) {
                let score = scores[id as usize];
                if best.is_none_or(|(other, _)| score > other) {
                    best = Some((score, at));
                }
            }
        }
        let Some((_, at)) = best else { break };
        let right = symbols.remove(at + 1);
        symbols[at].0.push_str(&right.0);
    }
    let mut ids = Vec::new();
    for (symbol, fixed) in symbols {
        match fixed.or_else(|| mergeable(&symbol)) {
            Some(id) => ids.push(id),
            None => ids.extend(symbol.bytes().map(|byte| tokenizer.token_id(&format!("<0x{byte:02X}>")).unwrap())),
        }
    }
    ids
}

#[test]
fn merges_by_score_and_not_from_the_left() {
    let tokenizer = tokenizer();
    // "ab" outranks "bc" and "abc" is made from it; "▁the" comes from "▁t" and "he", not from "▁th".
    assert_eq!(pieces(&tokenizer, &tokenizer.encode("abc the")), ["abc", "▁the"]);
    // Of equal candidates the leftmost is first.
    assert_eq!(pieces(&tokenizer, &tokenizer.encode("aaaaa")), ["aa", "aaa"]);
    assert_eq!(tokenizer.encode(""), [] as [u32; 0]);
}

#[test]
fn keeps_user_defined_pieces_whole_longest_first() {
    let tokenizer = tokenizer();
    assert_eq!(pieces(&tokenizer, &tokenizer.encode("a\n\n\n\n\nb")), ["a", "\n\n\n", "\n\n", "b"]);
    // Runs of spaces are matched after spaces became ▁, in a vocabulary that writes them either way.
    assert_eq!(pieces(&tokenizer, &tokenizer.encode("       a")), ["▁▁▁▁", "▁▁", "▁a"]);
}

#[test]
fn control_pieces_in_a_text_are_text() {
    let tokenizer = tokenizer();
    let text = "<end_of_turn>";
    let ids = tokenizer.encode(text);
    assert_eq!(pieces(&tokenizer, &ids)[..2], ["<e", "nd"]);
    assert_eq!(tokenizer.decode(&ids), text);
    let structured = tokenizer.encode_with_control("<bos><start_of_turn>a<end_of_turn>\n");
    assert_eq!(pieces(&tokenizer, &structured), ["<bos>", "<start_of_turn>", "a", "<end_of_turn>", "\n"]);
    assert_eq!(tokenizer.decode(&structured), "a\n");
    assert_eq!((tokenizer.start_of_turn(), tokenizer.end_of_turn()), (Some(4), Some(5)));
}

#[test]
fn falls_back_to_bytes_and_to_one_unknown() {
    let tokenizer = tokenizer();
    assert_eq!(pieces(&tokenizer, &tokenizer.encode("€é")), ["<0xE2>", "<0x82>", "<0xAC>", "é"]);
    let mut vocabulary = vocabulary();
    vocabulary.pieces.retain(|(_, _, kind)| *kind != Kind::Byte);
    let without = Tokenizer::new(vocabulary).unwrap();
    assert_eq!(pieces(&without, &without.encode("a€£b")), ["a", "<unk>", "b"]);
    assert_eq!(without.decode(&without.encode("a€b")), "a \u{2047} b");
}

#[test]
fn unused_pieces_are_taken_apart() {
    let mut vocabulary = vocabulary();
    for (piece, _, kind) in &mut vocabulary.pieces {
        if piece == "ab" || piece == "abc" {
            *kind = Kind::Unused;
        }
    }
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    assert_eq!(pieces(&tokenizer, &tokenizer.encode("abc")), ["a", "b", "c"]);
}

#[test]
fn broken_bytes_decode_to_one_replacement_each() {
    let tokenizer = tokenizer();
    let byte = |value: u8| tokenizer.token_id(&format!("<0x{value:02X}>")).unwrap();
    let a = tokenizer.token_id("a").unwrap();
    assert_eq!(tokenizer.decode(&[byte(0xE2), byte(0x82), a]), "\u{FFFD}\u{FFFD}a");
    assert_eq!(tokenizer.decode(&[byte(0xE2), byte(0xE2), byte(0x82), byte(0xAC)]), "\u{FFFD}€");
    let mut streaming = Detokenizer::default();
    let parts: Vec<String> = [0xE2, 0x82, 0xAC].map(|value| streaming.push(&tokenizer, byte(value))).to_vec();
    assert_eq!(parts, ["", "", "€"]);
    assert_eq!(streaming.push(&tokenizer, byte(0xF0)), "");
    assert_eq!(streaming.finish(), "\u{FFFD}");
}

#[test]
fn a_broken_vocabulary_is_refused_with_a_reason() {
    let refusal = |change: fn(&mut Vocabulary)| {
        let mut vocabulary = vocabulary();
        change(&mut vocabulary);
        Tokenizer::new(vocabulary).err().unwrap().to_string()
    };
    assert!(refusal(|v| v.pieces.clear()).contains("0 pieces"));
    assert!(refusal(|v| v.pieces[20].1 = f32::NAN).contains("score of the tokenizer's piece 20"));
    assert!(refusal(|v| v.pieces[20].0 = "<0xG0>".into()).contains("<0xG0>"));
    assert!(refusal(|v| drop(v.pieces.remove(20))).contains("lacks <0x09>"));
    assert!(refusal(|v| v.bos = Some(100_000)).contains("bos id is 100000"));
    assert!(refusal(|v| v.pieces.retain(|p| p.2 == Kind::Normal)).contains("neither byte pieces nor an unknown"));
}

fn metadata() -> HashMap<String, Value> {
    let vocabulary = vocabulary();
    let number = |kind: Kind| match kind {
        Kind::Normal => 1,
        Kind::Unknown => 2,
        Kind::Control => 3,
        Kind::UserDefined => 4,
        Kind::Unused => 5,
        Kind::Byte => 6,
    };
    let column = |value: fn(&(String, f32, Kind)) -> Value| Value::Array(vocabulary.pieces.iter().map(value).collect());
    HashMap::from([
        ("tokenizer.ggml.model".into(), Value::String("llama".into())),
        ("tokenizer.ggml.tokens".into(), column(|p| Value::String(p.0.clone()))),
        ("tokenizer.ggml.scores".into(), column(|p| Value::F32(p.1))),
        (
            "tokenizer.ggml.token_type".into(),
            Value::Array(vocabulary.pieces.iter().map(|p| Value::I32(number(p.2))).collect()),
        ),
        ("tokenizer.ggml.bos_token_id".into(), Value::U32(2)),
        ("tokenizer.ggml.eos_token_id".into(), Value::U32(1)),
        ("tokenizer.ggml.add_space_prefix".into(), Value::Bool(false)),
    ])
}

/// The vocabulary as a `tokenizer.json` in the form that Gemma's has, merges listed by the score of what they make.
fn json() -> serde_json::Value {
    let vocabulary = vocabulary();
    let known: HashMap<&str, usize> =
        vocabulary.pieces.iter().enumerate().map(|(id, (piece, ..))| (piece.as_str(), id)).collect();
    let mut merges = Vec::new();
    for (piece, _, kind) in &vocabulary.pieces {
        if *kind == Kind::Normal {
            for (cut, _) in piece.char_indices().skip(1) {
                let (left, right) = piece.split_at(cut);
                if known.contains_key(left) && known.contains_key(right) {
                    merges.push(serde_json::json!([left, right]));
                }
            }
        }
    }
    let added: Vec<_> = vocabulary
        .pieces
        .iter()
        .enumerate()
        .filter(|(_, (_, _, kind))| matches!(kind, Kind::Control | Kind::UserDefined | Kind::Unknown))
        .map(|(id, (piece, _, kind))| {
            serde_json::json!({"id": id, "content": piece, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind != Kind::UserDefined})
        })
        .collect();
    serde_json::json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": known, "merges": merges},
    })
}

fn from_json(json: &serde_json::Value) -> Result<Tokenizer, Error> {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(json.to_string().as_bytes()).unwrap();
    Tokenizer::from_file(file.path())
}

const SAMPLE: &str = "the abc\n\n\n aaaa   <end_of_turn> 한 é 🦜 in the end";

#[test]
fn gguf_and_json_give_the_same_tokenizer() {
    let direct = tokenizer();
    let gguf = from_metadata(&metadata()).unwrap();
    let json = from_json(&json()).unwrap();
    for other in [&gguf, &json] {
        assert_eq!(other.encode(SAMPLE), direct.encode(SAMPLE));
        assert_eq!(other.encode_with_control(SAMPLE), direct.encode_with_control(SAMPLE));
        assert_eq!((other.bos(), other.eos(), other.end_of_turn()), (Some(2), Some(1), Some(5)));
        assert_eq!(other.vocabulary_size(), direct.vocabulary_size());
    }
}

#[test]
fn gguf_keys_are_checked() {
    let refusal = |key: &str, value: Option<Value>| {
        let mut metadata = metadata();
        let key = format!("tokenizer.ggml.{key}");
        match value {
            Some(value) => metadata.insert(key, value),
            None => metadata.remove(&key),
        };
        from_metadata(&metadata).err().unwrap().to_string()
    };
    assert!(refusal("tokens", None).contains("tokenizer.ggml.tokens is missing"));
    assert!(refusal("scores", Some(Value::U8(1))).contains("scores is not an array"));
    assert!(refusal("scores", Some(Value::Array(vec![]))).contains("0 scores"));
    assert!(refusal("model", Some(Value::String("gpt2".into()))).contains("gpt2"));
    assert!(refusal("add_space_prefix", Some(Value::Bool(true))).contains("add_space_prefix"));
    assert!(refusal("bos_token_id", Some(Value::F32(1.0))).contains("bos_token_id is not a token id"));
    assert!(refusal("eos_token_id", Some(Value::U32(1 << 30))).contains("eos id"));
    let Some(Value::Array(mut kinds)) = metadata().remove("tokenizer.ggml.token_type") else { panic!() };
    kinds[3] = Value::I32(7);
    assert!(refusal("token_type", Some(Value::Array(kinds))).contains("entry 3"));
}

#[test]
fn json_parts_are_checked() {
    let refusal = |pointer: &str, value: serde_json::Value| {
        let mut json = json();
        *json.pointer_mut(pointer).unwrap() = value;
        from_json(&json).err().unwrap().to_string()
    };
    assert!(refusal("/model/type", "WordPiece".into()).contains("WordPiece"));
    assert!(refusal("/normalizer", serde_json::Value::Null).contains("normalizer is null"));
    assert!(refusal("/pre_tokenizer/type", "ByteLevel".into()).contains("pre_tokenizer"));
    assert!(refusal("/model/vocab/ab", 4_000_000.into()).contains("id 4000000"));
    assert!(refusal("/model/vocab/ab", 20.into()).contains("both have id 20"));
    assert!(refusal("/model/merges/0", "a b c".into()).contains("a merge"));
    assert!(refusal("/added_tokens/0/lstrip", true.into()).contains("<pad>"));
    let missing = Tokenizer::from_file("/nonexistent/tokenizer.json".as_ref()).err().unwrap().to_string();
    assert!(missing.contains("/nonexistent/tokenizer.json"), "{missing}");
}

#[test]
fn equals_sentencepiece_on_the_hard_set() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let file = crate::gguf::Gguf::open(&root.join("tests/models/random-f32.gguf")).unwrap();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let model = Tokenizer::from_file(&root.join("tests/models/tokenizer.model")).unwrap();
    assert_eq!((model.bos(), model.eos(), model.end_of_turn()), (Some(2), Some(1), Some(5)));
    let golden = std::fs::read_to_string(root.join("tests/golden/tokenizer.json")).unwrap();
    let golden: Vec<serde_json::Value> = serde_json::from_str(&golden).unwrap();
    assert!(golden.len() >= 250);
    for (entry, tokenizer) in golden.iter().flat_map(|entry| [(entry, &tokenizer), (entry, &model)]) {
        let text = entry["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(entry["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text), ids, "{text:?}: {:?}", pieces(tokenizer, &tokenizer.encode(text)));
        // Only where SentencePiece does not give the text back does the file say what it gives.
        assert_eq!(tokenizer.decode(&ids), entry["decoded"].as_str().unwrap_or(text), "{text:?}");
    }
}

#[test]
fn a_vocabulary_of_gemmas_size_gives_a_text_back() {
    let mut vocabulary = vocabulary();
    let letters: Vec<char> = ('a'..='z').collect();
    for number in 0..262_144 - vocabulary.pieces.len() {
        let piece = (0..5).map(|digit| letters[number / 26usize.pow(digit) % 26]).collect();
        vocabulary.pieces.push((piece, -(number as f32) - 100.0, Kind::Normal));
    }
    let tokenizer = Tokenizer::new(vocabulary).unwrap();
    // Ends only in good time if nothing here is quadratic in the text.
    let text = "the handler binds a bread in there\n".repeat(3_000) + &"ab".repeat(500_000) + &" ".repeat(1_000_000);
    assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), text);
}

/// The small vocabulary made as Gemma 4's.
fn fourth() -> HashMap<String, Value> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut file = std::fs::File::open(root.join("tests/models/gemma4-vocabulary.gguf")).unwrap();
    Content::read(&mut file).unwrap().metadata
}

fn strings(metadata: &HashMap<String, Value>, key: &str) -> Vec<String> {
    let Some(Value::Array(values)) = metadata.get(&format!("tokenizer.ggml.{key}")) else { panic!() };
    values.iter().map(|value| value.to_string().unwrap().clone()).collect()
}

/// The vocabulary as the `tokenizer.json` from which a converter would make it.
fn fourth_json() -> serde_json::Value {
    let metadata = fourth();
    let tokenizer = from_metadata(&metadata).unwrap();
    let vocabulary: serde_json::Map<_, _> =
        strings(&metadata, "tokens").into_iter().enumerate().map(|(id, piece)| (piece, id.into())).collect();
    let controls = (0..tokenizer.vocabulary_size() as u32).filter(|id| tokenizer.kind(*id) == Some(Kind::Control));
    let added: Vec<_> = controls
        .map(|id| serde_json::json!({"id": id, "content": tokenizer.piece(id).unwrap(), "special": true}))
        .collect();
    serde_json::json!({
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": vocabulary,
            "merges": strings(&metadata, "merges")},
    })
}

#[test]
fn equals_the_reference_in_a_vocabulary_as_gemma_4s() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let golden = std::fs::read_to_string(root.join("tests/golden/tokenizer_gemma4.json")).unwrap();
    let golden: Vec<serde_json::Value> = serde_json::from_str(&golden).unwrap();
    assert!(golden.len() >= 250);
    for tokenizer in [from_metadata(&fourth()).unwrap(), from_json(&fourth_json()).unwrap()] {
        for entry in &golden {
            let text = entry["text"].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(entry["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(text), ids, "{text:?}: {:?}", pieces(&tokenizer, &tokenizer.encode(text)));
            assert_eq!(tokenizer.decode(&ids).replace('▁', " "), text.replace('▁', " "));
        }
        let [start, end] = [tokenizer.start_of_turn().unwrap(), tokenizer.end_of_turn().unwrap()];
        assert_eq!(pieces(&tokenizer, &[start, end]), ["<|turn>", "<turn|>"]);
        assert_eq!(pieces(&tokenizer, tokenizer.ends()), ["<eos>", "<turn|>", "<|tool_response>"]);
        // What converters mark as visible is structure all the same.
        assert_eq!(tokenizer.kind(tokenizer.control("<|channel>").unwrap()), Some(Kind::Control));
        let prompt = tokenizer.encode_with_control("<|turn>model\n<|channel>thought\n<channel|>");
        assert_eq!(prompt.iter().filter(|id| tokenizer.kind(**id) == Some(Kind::Control)).count(), 3);
        assert_eq!(tokenizer.decode(&prompt), "model\nthought\n");
        assert!(tokenizer.lines_are_apart());
    }
}

#[test]
fn merges_are_checked() {
    let refusal = |merges: Option<Vec<Value>>| {
        let mut metadata = fourth();
        match merges {
            Some(merges) => metadata.insert("tokenizer.ggml.merges".into(), Value::Array(merges)),
            None => metadata.remove("tokenizer.ggml.merges"),
        };
        from_metadata(&metadata).err().unwrap().to_string()
    };
    assert!(refusal(None).contains("tokenizer.ggml.merges is missing"));
    let text = |text: &str| Value::String(text.into());
    assert!(refusal(Some(vec![Value::U8(1)])).contains("entry 0 of GGUF key tokenizer.ggml.merges"));
    assert!(refusal(Some(vec![text("\n 🦜")])).contains("merge 0"));
    assert!(refusal(Some(vec![text("\n \n"), text("ab")])).contains("entry 1 of GGUF key tokenizer.ggml.merges"));
    // Nor do merges make control pieces.
    assert!(refusal(Some(vec![text("<|turn >")])).contains("merge 0"));
}

/// A field of a message: its number, and its value as the format writes it.
fn field(number: u64, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(number << 3 | 2, &mut out);
    varint(value.len() as u64, &mut out);
    out.extend(value);
    out
}

fn number(number: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(number << 3, &mut out);
    varint(value, &mut out);
    out
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The vocabulary as a SentencePiece model file, with more fields of the trainer's and the normaliser's options at the end.
fn model_file(trainer: &[Vec<u8>], normalizer: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (piece, score, kind) in vocabulary().pieces {
        let mut one = field(1, piece.as_bytes());
        one.push(2 << 3 | 5);
        one.extend(score.to_le_bytes());
        if kind != Kind::Normal {
            one.extend(number(3, kind as u64 + 1));
        }
        out.extend(field(1, &one));
    }
    let options = [number(3, 2), number(35, 1), field(46, b"<bos>"), field(47, b"<eos>")];
    out.extend(field(2, &[options.concat(), trainer.concat()].concat()));
    let options = [field(1, b"identity"), number(3, 0), number(4, 0)];
    out.extend(field(3, &[options.concat(), normalizer.concat()].concat()));
    out
}

#[test]
fn a_sentencepiece_model_is_read_by_content_and_by_name() {
    use std::io::Write;
    let direct = tokenizer();
    let bytes = model_file(&[field(44, b"?")], &[]);
    for suffix in [".model", ".spm", ""] {
        let mut file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let read = Tokenizer::from_file(file.path()).unwrap();
        assert_eq!(read.encode(SAMPLE), direct.encode(SAMPLE));
        assert_eq!(read.encode_with_control(SAMPLE), direct.encode_with_control(SAMPLE));
        assert_eq!((read.bos(), read.eos(), read.ends()), (Some(2), Some(1), direct.ends()));
        assert_eq!(read.decode(&[3]), "?");
    }
    let mut file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let message = Tokenizer::from_file(file.path()).err().unwrap().to_string();
    assert!(message.contains("tokenizer.json"), "{message}");
}

#[test]
fn options_that_change_ids_are_refused_by_name() {
    let refusal = |trainer: &[Vec<u8>], normalizer: &[Vec<u8>]| {
        Tokenizer::from_sentencepiece(&model_file(trainer, normalizer)).err().unwrap().to_string()
    };
    assert!(refusal(&[number(3, 1)], &[]).contains("model_type is 1 (UNIGRAM); only 2 (BPE)"));
    assert!(refusal(&[number(24, 1)], &[]).contains("treat_whitespace_as_suffix is true; only false"));
    assert!(refusal(&[number(35, 0)], &[]).contains("byte_fallback is false"));
    assert!(refusal(&[], &[number(3, 1)]).contains("add_dummy_prefix is true; only false"));
    assert!(refusal(&[], &[number(4, 1)]).contains("remove_extra_whitespaces is true; only false"));
    assert!(refusal(&[], &[number(5, 0)]).contains("escape_whitespaces is false; only true"));
    assert!(refusal(&[], &[field(1, b"nmt_nfkc"), field(2, b"x")]).contains("rule is \"nmt_nfkc\"; only \"identity\""));
    let with = |more: &[u8]| {
        Tokenizer::from_sentencepiece(&[&model_file(&[], &[]), more].concat()).map(|_| ()).map_err(|e| e.to_string())
    };
    assert!(with(&field(5, &field(2, b"x"))).unwrap_err().contains("denormalizer_spec"));
    // What does not concern the reader is passed over, whatever its type.
    assert_eq!(with(&[field(4, b"x"), number(77, 1), vec![78 << 3 & 0x7f | 0x80 | 5, 4, 0, 0, 0, 0]].concat()), Ok(()));
    // Broken at its very end.
    for (more, why) in [
        (&[0x0a, 5, 1][..], "a field of 5 bytes"),
        (&[0x0b], "wire type 3"),
        (&[2, 0], "number 0"),
        (&[0x80], "the end of the message"),
        (&[0xff; 10], "more than 64 bits"),
        (&[0x08, 1], "something else where a text or a message"),
        (&[0x0a, 3, 0x0a, 1, 0xff], "not UTF-8"),
        (&[0x0a, 2, 0x18, 7], "the type 7"),
        (&[0x0a, 2, 0x10, 7], "no f32"),
        (&[0x0a, 5, 0x15, 0, 0, 0xc0, 0x7f], "is not a number"),
    ] {
        let message = with(more).unwrap_err();
        assert!(message.contains(why), "{message} for {more:?}");
    }
    assert!(Tokenizer::from_sentencepiece(b"").err().unwrap().to_string().contains("no piece"));
}

/// Merging by a list without a tree of ranks, a table or a cut but at newlines: look at every pair, merge the best, again.
fn merge_slowly(metadata: &HashMap<String, Value>, tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, merge) in strings(metadata, "merges").into_iter().enumerate() {
        ranks.entry(merge).or_insert(rank);
    }
    let mut symbols: Vec<String> = text.replace(' ', "▁").chars().map(String::from).collect();
    loop {
        let of = |at: usize| ranks.get(&format!("{} {}", symbols[at], symbols[at + 1])).map(|rank| (*rank, at));
        let Some((_, at)) = (0..symbols.len().saturating_sub(1)).filter_map(of).min() else { break };
        let right = symbols.remove(at + 1);
        symbols[at].push_str(&right);
    }
    let id = |piece: &str| tokenizer.token_id(piece);
    let bytes = |symbol: &String| symbol.bytes().map(|byte| id(&format!("<0x{byte:02X}>")).unwrap()).collect();
    symbols.iter().flat_map(|symbol| id(symbol).map_or_else(|| bytes(symbol), |id| vec![id])).collect()
}

proptest! {
    #[test]
    fn where_no_piece_mixes_them_lines_are_apart(text in "(\\PC|[\n\n abc<>])*") {
        let tokenizer = tokenizer();
        prop_assert!(tokenizer.lines_are_apart());
        let mut lines: Vec<String> = Vec::new();
        for char in text.chars() {
            match lines.last_mut().filter(|line| char == '\n' || !line.ends_with('\n')) {
                Some(line) => line.push(char),
                None => lines.push(char.to_string()),
            }
        }
        let apart: Vec<u32> = lines.iter().flat_map(|line| tokenizer.encode(line)).collect();
        prop_assert_eq!(tokenizer.encode(&text), apart);
    }

    #[test]
    fn equals_the_obvious_algorithm(text in "[abctheindr<>_\n ▁é한€🦜]{0,40}|[abchet <]{20,90}") {
        let tokenizer = tokenizer();
        prop_assert_eq!(tokenizer.encode(&text), encode_slowly(&tokenizer, &text));
    }

    #[test]
    fn a_list_of_merges_equals_the_obvious_algorithm(text in "(\\PC|[\n\t ▁a-z]){0,20}|[aeinot ]{0,120}|(the|ing|er| |▁|\n|é){0,40}") {
        let metadata = fourth();
        let tokenizer = from_metadata(&metadata).unwrap();
        let expected = merge_slowly(&metadata, &tokenizer, &text);
        // The second time what comes out of itself is known.
        prop_assert_eq!(&tokenizer.encode(&text), &expected);
        prop_assert_eq!(&tokenizer.encode(&text), &expected);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0usize..4), 0..6),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = model_file(&[], &[]);
        for (at, byte, go) in edits {
            let at = at.index(bytes.len());
            bytes.splice(at..(at + go).min(bytes.len()), [byte]);
        }
        if cut {
            bytes.truncate(end.index(bytes.len()));
        }
        if let Ok(tokenizer) = Tokenizer::from_sentencepiece(&bytes) {
            let _ = tokenizer.decode(&tokenizer.encode_with_control(SAMPLE));
        }
    }

    #[test]
    fn decoding_gives_the_text_back_and_no_control_piece(text in "\\PC{0,40}|[ \n<>a-e_]{0,40}|(<bos>|<end_of_turn>|a){0,8}") {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode(&text);
        prop_assert_eq!(tokenizer.decode(&ids), text.replace('▁', " "));
        prop_assert!(ids.iter().all(|id| tokenizer.kind(*id) != Some(Kind::Control)));
    }

    #[test]
    fn streaming_decodes_like_decoding_at_once(ids in prop::collection::vec(0u32..310, 0..40)) {
        let tokenizer = tokenizer();
        let mut streaming = Detokenizer::default();
        let mut text: String = ids.iter().map(|id| streaming.push(&tokenizer, *id)).collect();
        text.push_str(&streaming.finish());
        prop_assert_eq!(text, tokenizer.decode(&ids));
    }
}

/// The vectors of a Gemma 4 vocabulary, where `ENGRAM_GEMMA4_VOCAB` names a folder with `vocab.gguf`, `vectors.inp` (texts, each but the last followed by
/// a line of its own, `__ggml_vocab_test__`) and `vectors.out` (a line of ids for each).
#[test]
#[ignore = "needs a vocabulary that is not in the repository, in the folder that ENGRAM_GEMMA4_VOCAB names"]
fn equals_the_vectors_of_a_real_vocabulary() {
    let folder = std::path::PathBuf::from(std::env::var_os("ENGRAM_GEMMA4_VOCAB").unwrap());
    let gguf = crate::gguf::Gguf::open(&folder.join("vocab.gguf")).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let inputs = std::fs::read_to_string(folder.join("vectors.inp")).unwrap();
    let outputs = std::fs::read_to_string(folder.join("vectors.out")).unwrap();
    let (inputs, outputs): (Vec<_>, Vec<_>) =
        (inputs.split("\n__ggml_vocab_test__\n").collect(), outputs.lines().collect());
    assert!(inputs.len() > 40);
    assert_eq!(inputs.len(), outputs.len());
    for (text, ids) in inputs.iter().zip(outputs) {
        let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(tokenizer.encode(text), ids, "{text:?}: {:?}", pieces(&tokenizer, &tokenizer.encode(text)));
        assert_eq!(tokenizer.decode(&ids), *text);
    }
    assert!(tokenizer.lines_are_apart());
    assert_eq!((tokenizer.start_of_turn(), tokenizer.end_of_turn()), (Some(105), Some(106)));
    assert_eq!(tokenizer.ends(), [1, 106, 50]);
    assert_eq!(tokenizer.control("<|channel>"), Some(100));
    let spelled = tokenizer.encode("<|channel>thought\n<channel|><turn|>");
    assert!(spelled.iter().all(|id| tokenizer.kind(*id) == Some(Kind::Normal)));
}

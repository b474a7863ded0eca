//! Hostile and broken files: an error each, never a panic.

use std::sync::LazyLock;

use candle_core::quantized::gguf_file::{self, Content};
use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::*;
use crate::gemma::tests::tests_dir;
use crate::gemma::{Gemma, LoadOptions, Progress};

/// A file with these bytes, removed when dropped.
pub(crate) fn file_of(bytes: &[u8]) -> NamedTempFile {
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn open(bytes: &[u8]) -> Result<Gguf, Error> {
    Gguf::open(file_of(bytes).path())
}

fn message(bytes: &[u8]) -> String {
    open(bytes).map(|_| ()).unwrap_err().to_string()
}

fn small_model() -> Vec<u8> {
    std::fs::read(tests_dir().join("models/random-q4_0.gguf")).unwrap()
}

/// A GGUF header, piece by piece.
#[derive(Clone, Default)]
struct Header {
    pairs: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
}

fn string(s: &[u8]) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s].concat()
}

impl Header {
    fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Header {
        self.pairs.push([&string(key.as_bytes())[..], &kind.to_le_bytes(), value].concat());
        self
    }

    fn tensor(mut self, name: &str, sizes: &[u64], kind: u32, offset: u64) -> Header {
        let mut bytes = string(name.as_bytes());
        bytes.extend((sizes.len() as u32).to_le_bytes());
        bytes.extend(sizes.iter().flat_map(|s| s.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        self.tensors.push(bytes);
        self
    }

    /// The file with these bytes of data.
    fn file(&self, data: &[u8]) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        out.extend(self.pairs.concat());
        out.extend(self.tensors.concat());
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }
}

fn loader() -> Loader<'static> {
    static PROGRESS: LazyLock<Progress> = LazyLock::new(Progress::default);
    Loader::new(1 << 12, &PROGRESS, None).unwrap()
}

#[test]
fn reads_values_of_every_kind() {
    let header = Header::default()
        .pair("text", 8, &string(b"hello"))
        .pair("small", 0, &[7])
        .pair("negative", 5, &(-7i32).to_le_bytes())
        .pair("float", 6, &1.5f32.to_le_bytes())
        .pair("list", 9, &[&4u32.to_le_bytes()[..], &1u64.to_le_bytes(), &9u32.to_le_bytes()].concat())
        .tensor("t", &[2, 3], 0, 0)
        .tensor("v", &[2], 1, 32);
    let data: Vec<u8> = [1f32, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let gguf = open(&header.file(&[&data[..], &0x3c00u16.to_le_bytes(), &0xc000u16.to_le_bytes()].concat())).unwrap();
    assert_eq!(gguf.text("text"), Ok(Some("hello")));
    assert_eq!(gguf.text("none"), Ok(None));
    assert_eq!(gguf.count("small"), Ok(Some(7)));
    assert_eq!(gguf.number("small"), Ok(Some(7.0)));
    assert_eq!(gguf.number("float"), Ok(Some(1.5)));
    let says = |e: Error, what: &str| assert!(e.to_string().contains(what), "{e}");
    says(gguf.count("negative").unwrap_err(), "metadata negative is I32(-7), expected a whole number of at least 0");
    says(gguf.text("list").unwrap_err(), "metadata list is an array of 1, expected a string");
    assert_eq!(gguf.shape("t"), Ok((3, 2)));
    assert_eq!(gguf.parameters(), 8);
    let mut row = [0.0; 2];
    gguf.matrix("t", 3, 2, &loader()).unwrap().row(1, &mut row).unwrap();
    assert_eq!(row, [3.0, 4.0]);
    assert_eq!(gguf.vector("v", 2).unwrap()[..], [1.0, -2.0]);
    says(gguf.matrix("t", 2, 3, &loader()).map(|_| ()).unwrap_err(), "tensor t has shape [3, 2], expected [2, 3]");
    says(gguf.vector("w", 2).map(|_| ()).unwrap_err(), "tensor w is missing");
}

/// Whether candle's reader has read the same value.
fn same(ours: Value, candles: &gguf_file::Value) -> bool {
    use gguf_file::Value as Candle;
    match (ours, candles) {
        (Value::U8(a), Candle::U8(b)) => a == *b,
        (Value::I8(a), Candle::I8(b)) => a == *b,
        (Value::U16(a), Candle::U16(b)) => a == *b,
        (Value::I16(a), Candle::I16(b)) => a == *b,
        (Value::U32(a), Candle::U32(b)) => a == *b,
        (Value::I32(a), Candle::I32(b)) => a == *b,
        (Value::U64(a), Candle::U64(b)) => a == *b,
        (Value::I64(a), Candle::I64(b)) => a == *b,
        (Value::F32(a), Candle::F32(b)) => a.to_bits() == b.to_bits(),
        (Value::F64(a), Candle::F64(b)) => a.to_bits() == b.to_bits(),
        (Value::Bool(a), Candle::Bool(b)) => a == *b,
        (Value::Text(a), Candle::String(b)) => a == b,
        (Value::List(a), Candle::Array(b)) => {
            let all: Vec<Value> = a.iter().collect();
            (all.len(), a.len()) == (b.len(), b.len()) && all.iter().zip(b).all(|(a, b)| same(*a, b))
        }
        _ => false,
    }
}

/// That candle's reader and ours make the same of a file.
fn reads_as_candle(bytes: &[u8]) {
    let gguf = open(bytes).unwrap();
    let content = Content::read(&mut std::io::Cursor::new(bytes)).unwrap();
    assert_eq!(gguf.header.metadata.len(), content.metadata.len());
    for (key, value) in &content.metadata {
        assert!(same(gguf.get(key).unwrap(), value), "{key}: {value:?}");
    }
    assert_eq!((gguf.header.tensors.len(), gguf.header.data), (content.tensor_infos.len(), content.tensor_data_offset));
    for (name, info) in &content.tensor_infos {
        let tensor = &gguf.header.tensors[name.as_str()];
        assert_eq!((&tensor.sizes[..], tensor.offset), (info.shape.dims(), info.offset), "{name}");
        if let Ok(format) = gguf.format(name) {
            assert_eq!(format.name().replace('_', ""), format!("{:?}", info.ggml_dtype).replace('_', ""), "{name}");
        }
    }
}

#[test]
fn models_are_read_as_candle_reads_them() {
    let mut files = 0;
    for entry in std::fs::read_dir(tests_dir().join("models")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "gguf") {
            reads_as_candle(&std::fs::read(path).unwrap());
            files += 1;
        }
    }
    assert!(files >= 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Values and arrays of every type, tensors of any shape and format, any alignment.
    #[test]
    fn headers_are_read_as_candle_reads_them(
        pairs in prop::collection::vec((0..13u32, any::<bool>(), prop::collection::vec(any::<[u8; 8]>(), 0..6), ".{0,9}"), 0..12),
        tensors in prop::collection::vec((prop::collection::vec(1..300u64, 1..5), prop::sample::select(vec![0u32, 1, 2, 8, 12, 14, 15, 30])), 0..6),
        alignment in prop::option::of(0..9u32),
    ) {
        let mut header = Header::default();
        for (n, (kind, list, values, text)) in pairs.into_iter().enumerate() {
            let element = |bytes: &[u8; 8]| match kind {
                0 | 1 => bytes[..1].to_vec(),
                2 | 3 => bytes[..2].to_vec(),
                4..=6 => bytes[..4].to_vec(),
                7 => vec![bytes[0] & 1],
                8 | 9 => string(format!("{text}{bytes:?}").as_bytes()),
                _ => bytes.to_vec(),
            };
            // An array holds no arrays: texts in their place.
            let of = if kind == 9 { 8 } else { kind };
            let key = format!("{n}{text}");
            header = match values.first() {
                Some(first) if !list && kind != 9 => header.pair(&key, kind, &element(first)),
                _ => {
                    let items: Vec<u8> = values.iter().flat_map(element).collect();
                    let start = [&of.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
                    header.pair(&key, 9, &[start, items].concat())
                }
            };
        }
        let alignment = alignment.map(|bits| 1u32 << bits);
        if let Some(alignment) = alignment {
            header = header.pair("general.alignment", 4, &alignment.to_le_bytes());
        }
        for (n, (sizes, kind)) in tensors.into_iter().enumerate() {
            header = header.tensor(&format!("t{n}"), &sizes, kind, n as u64 * u64::from(alignment.unwrap_or(32)));
        }
        reads_as_candle(&header.file(&[0; 512]));
    }
}

#[test]
fn broken_headers_are_named() {
    let ok = Header::default();
    assert!(open(&ok.file(&[])).is_ok());
    assert!(message(b"").contains("does not begin with the letters GGUF"), "{}", message(b""));
    assert!(message(b"{\"json\": true}").contains("does not begin with the letters GGUF"));
    assert!(message(b"GGUF\x01\0\0\0").contains("version 1 is not supported"));
    assert!(message(b"GGUF\x03\0\0\0\0").contains("the file ends within tensor count"));
    let mut many = ok.file(&[]);
    many[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(message(&many).contains("more than the 65536 accepted"));
    let mut many = ok.file(&[]);
    many[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(message(&many).contains("metadata entries are more"));
    let array = |kind: u32, len: u64| [&kind.to_le_bytes()[..], &len.to_le_bytes()].concat();
    for (header, expected) in [
        (ok.clone().pair("a", 0, &[1]).pair("a", 0, &[1]), "metadata a occurs twice"),
        (ok.clone().pair("a", 99, &[1]), "metadata a has the unknown type 99"),
        (ok.clone().pair("a", 7, &[2]), "a bool of 2"),
        (ok.clone().pair("a", 9, &[&array(7, 2)[..], &[1, 3]].concat()), "a bool of 3"),
        (ok.clone().pair("a", 9, &[&array(8, 1)[..], &string(b"\xff")].concat()), "is not valid UTF-8"),
        (ok.clone().pair("a", 9, &[&array(8, 2)[..], &string(b"x")].concat()), "the file ends within a"),
        (ok.clone().pair("a", 8, &string(b"\xff")), "is not valid UTF-8"),
        (ok.clone().pair("a", 8, &u64::MAX.to_le_bytes()), "the file ends within a"),
        (ok.clone().pair("a", 9, &array(0, u64::MAX)), "arrays of more than 6291456 elements"),
        (ok.clone().pair("a", 9, &array(0, 6 << 20)), "the file ends within a"),
        (ok.clone().pair("a", 9, &array(9, 1)), "an array of arrays"),
        (ok.clone().pair("a", 9, &array(77, 1)), "unknown type 77"),
        (ok.clone().pair("general.alignment", 4, &[0; 4]), "must be a u32 and a power of two"),
        (ok.clone().pair("general.alignment", 4, &48u32.to_le_bytes()), "power of two"),
        (ok.clone().pair("general.alignment", 0, &[32]), "must be a u32"),
        (ok.clone().tensor("t", &[1], 0, 0).tensor("t", &[1], 0, 0), "tensor t occurs twice"),
        (ok.clone().tensor("t", &[], 0, 0), "0 dimensions"),
        (ok.clone().tensor("t", &[1; 5], 0, 0), "5 dimensions"),
        (ok.clone().tensor("t", &[0], 0, 0), "has a size of 0"),
        (ok.clone().tensor("t", &[1 << 40, 1 << 40], 0, 0), "has a size of 1099511627776"),
        (ok.clone().tensor("t", &[1], 39, 0), "GGML format number 39; accepted are F32"),
        (ok.clone().tensor("t", &[1], 0, 7), "no multiple of 32"),
    ] {
        let message = message(&header.file(&[]));
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn tensors_must_lie_in_the_file_in_an_accepted_format() {
    let says = |header: Header, data: usize, expected: &str| {
        let gguf = open(&header.file(&vec![0; data])).unwrap();
        let message = gguf.matrix("t", 2, 32, &loader()).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    let tensor = |sizes: &[u64], kind, offset| Header::default().tensor("t", sizes, kind, offset);
    assert!(open(&tensor(&[32, 2], 0, 0).file(&[0; 256])).unwrap().matrix("t", 2, 32, &loader()).is_ok());
    says(tensor(&[32, 2], 0, 0), 255, "needs 256 bytes at offset 0");
    says(tensor(&[32, 2], 0, 32), 256, "the file is cut off");
    says(tensor(&[32, 2], 0, u64::MAX - 31), 256, "the file is cut off");
    says(tensor(&[32, 2], 10, 0), 256, "is in format Q2_K; accepted are F32, F16, BF16, Q8_0, Q4_0");
    let gguf = open(&tensor(&[33, 2], 8, 0).file(&[0; 256])).unwrap();
    let message = gguf.matrix("t", 2, 33, &loader()).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("whole blocks of 32 numbers, found 33"), "{message}");
}

#[test]
fn a_model_cut_off_anywhere_is_an_error() {
    let bytes = small_model();
    let load = |bytes: &[u8]| {
        let file = file_of(bytes);
        Gemma::load(file.path(), &LoadOptions::default(), &Progress::default())
    };
    assert!(load(&bytes).is_ok());
    for part in 0..64 {
        let cut = bytes.len() * part / 64;
        let message = load(&bytes[..cut]).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(".gguf: "), "{message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Bytes of the header changed at random: it loads or it does not, and if it does it can be run.
    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((0..3usize, any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = small_model();
        let header = open(&bytes).unwrap().header.data as usize;
        // Most of the header is the vocabulary; counts and shapes are before it, tensors behind it.
        let zones = [0..1500, header - 6000..header, 0..header];
        for (zone, at, value) in changes {
            let zone = zones[zone].clone();
            bytes[zone.start + at.index(zone.len())] = value;
        }
        let file = file_of(&bytes);
        if let Ok(model) = Gemma::load(file.path(), &LoadOptions::default(), &Progress::default()) {
            let model = std::sync::Arc::new(model);
            let ids = model.tokenizer().encode("Hello there");
            let mut sequence = crate::gemma::Sequence::new(Arc::clone(&model), 64).unwrap();
            let mut work = crate::gemma::Workspace::new(model).unwrap();
            if !ids.is_empty() {
                let part = crate::gemma::Part { sequence: &mut sequence, tokens: &ids, logits: 1, exact: true };
                let _ = work.append(&mut [part], &crate::team::Lead::alone(), &|| {});
            }
        }
    }
}

//! Writes GGUFs of the Gemma 3 text architecture with random weights: real shapes, and so real speed, without anybody's weights.
//!
//! Matrices are uniform noise with the deviation 1/√columns, so that activations keep the size that training starts with; norms are near one, or two behind
//! a block. Blocks are written as they are in the file: random bytes are as good as quantised random numbers, and take no time. The vocabulary has as many
//! pieces as the real one and its control pieces, lines and bytes at the real ids; the words are made up. llama.cpp and our own loader both read the files.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use half::f16;

use crate::Outcome;
use crate::texts::Random;

/// The shape of a model.
pub struct Shape {
    /// Its size, as people call it.
    pub name: &'static str,
    layers: u32,
    width: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    feed_forward: u32,
    vocabulary: u32,
    window: u32,
}

/// Gemma 3 270M: from its published configuration.
pub const GEMMA_3_270M: Shape = Shape {
    name: "270m",
    layers: 18,
    width: 640,
    heads: 4,
    kv_heads: 1,
    head_dim: 256,
    feed_forward: 2048,
    vocabulary: 262_144,
    window: 512,
};

/// Gemma 3 1B: from its published configuration.
pub const GEMMA_3_1B: Shape = Shape { name: "1b", layers: 26, width: 1152, feed_forward: 6912, ..GEMMA_3_270M };

/// How numbers are stored; the value is GGUF's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q8_0 = 8,
}

/// How the matrices of a file are stored.
#[derive(Clone, Copy)]
pub struct Format {
    /// Its name in the file's.
    pub name: &'static str,
    layers: Kind,
    embedding: Kind,
    /// GGUF's number of it.
    file_type: u32,
}

/// All the formats that are written here.
pub const FORMATS: [Format; 4] = [F16, Q8_0, Q4_0, Q4_0_HEAD8];

/// Every matrix in half precision: what quantisers start from.
pub const F16: Format = Format { name: "f16", layers: Kind::F16, embedding: Kind::F16, file_type: 1 };

/// Every matrix in Q8_0.
pub const Q8_0: Format = Format { name: "q8_0", layers: Kind::Q8_0, embedding: Kind::Q8_0, file_type: 7 };

/// Every matrix in Q4_0, the embedding too: what `llama-quantize --pure` makes.
pub const Q4_0: Format = Format { name: "q4_0", layers: Kind::Q4_0, embedding: Kind::Q4_0, file_type: 2 };

/// Q4_0 with the embedding, which is the output matrix too, in Q8_0: what `llama-quantize` makes of these shapes by default.
pub const Q4_0_HEAD8: Format = Format { embedding: Kind::Q8_0, name: "q4_0-head8", ..Q4_0 };

const ALIGNMENT: u64 = 32;
/// Numbers per block of Q8_0 and Q4_0.
const BLOCK: u64 = 32;

struct Tensor {
    name: String,
    dims: Vec<u64>,
    kind: Kind,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        let numbers: u64 = self.dims.iter().product();
        match self.kind {
            Kind::F32 => numbers * 4,
            Kind::F16 => numbers * 2,
            // A half-precision scale, and 32 signed bytes or 16 bytes of two numbers from 0 to 15, less 8.
            Kind::Q8_0 => numbers / BLOCK * 34,
            Kind::Q4_0 => numbers / BLOCK * 18,
        }
    }

    fn write(&self, to: &mut impl Write, random: &mut Random) -> std::io::Result<()> {
        let numbers: u64 = self.dims.iter().product();
        let deviation = 1.0 / (self.dims[0] as f32).sqrt();
        match self.kind {
            Kind::F32 => {
                // What a layer adds weighs twice what it is made of. Without that the token before stays the largest part of the last layer's result, and
                // since the output matrix is the embedding, the most likely next token is the same one for ever.
                let mean = if self.name.contains(".post_") { 2.0 } else { 1.0 };
                for _ in 0..numbers {
                    to.write_all(&(mean + 0.05 * random.normal()).to_le_bytes())?;
                }
            }
            Kind::F16 => {
                // Uniform from −a to a has the deviation a/√3.
                let scale = deviation * 3f32.sqrt() / 32_768.0;
                for _ in 0..numbers / 4 {
                    let bits = random.next();
                    for part in 0..4 {
                        let value = f32::from((bits >> (16 * part)) as i16) * scale;
                        to.write_all(&f16::from_f32(value).to_le_bytes())?;
                    }
                }
            }
            Kind::Q8_0 => {
                // Uniform signed bytes have a deviation of 74. A quantiser never writes −128.
                let scale = f16::from_f32(deviation / 74.0).to_le_bytes();
                for _ in 0..numbers / BLOCK {
                    to.write_all(&scale)?;
                    for _ in 0..4 {
                        let bytes = random.next().to_le_bytes();
                        to.write_all(&bytes.map(|b| if b == 0x80 { 0 } else { b }))?;
                    }
                }
            }
            Kind::Q4_0 => {
                // Uniform numbers from −8 to 7 have a deviation of 4.61.
                let scale = f16::from_f32(deviation / 4.61).to_le_bytes();
                for _ in 0..numbers / BLOCK {
                    to.write_all(&scale)?;
                    to.write_all(&random.next().to_le_bytes())?;
                    to.write_all(&random.next().to_le_bytes())?;
                }
            }
        }
        Ok(())
    }
}

/// Metadata in the making: a count and the bytes.
#[derive(Default)]
struct Metadata(u64, Vec<u8>);

impl Metadata {
    fn key(&mut self, name: &str, kind: u32) {
        self.0 += 1;
        string(&mut self.1, name);
        self.1.extend(kind.to_le_bytes());
    }

    fn u32(&mut self, name: &str, value: u32) {
        self.key(name, 4);
        self.1.extend(value.to_le_bytes());
    }

    fn f32(&mut self, name: &str, value: f32) {
        self.key(name, 6);
        self.1.extend(value.to_le_bytes());
    }

    fn bool(&mut self, name: &str, value: bool) {
        self.key(name, 7);
        self.1.push(u8::from(value));
    }

    fn text(&mut self, name: &str, value: &str) {
        self.key(name, 8);
        string(&mut self.1, value);
    }

    fn array(&mut self, name: &str, kind: u32, len: usize) -> &mut Vec<u8> {
        self.key(name, 9);
        self.1.extend(kind.to_le_bytes());
        self.1.extend((len as u64).to_le_bytes());
        &mut self.1
    }
}

fn string(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.as_bytes());
}

/// The file of this shape and format in `folder`, made if it is not there.
pub fn cached(folder: &Path, shape: &Shape, format: &Format) -> Outcome<PathBuf> {
    let path = folder.join(format!("{}-{}.gguf", shape.name, format.name));
    if !path.is_file() {
        std::fs::create_dir_all(folder)?;
        // Renamed last, so a file that was cut off is made again.
        let unfinished = path.with_extension("unfinished");
        write(&unfinished, shape, format)?;
        std::fs::rename(&unfinished, &path)?;
    }
    Ok(path)
}

/// Writes the file.
pub fn write(path: &Path, shape: &Shape, format: &Format) -> Outcome<()> {
    let tensors = tensors(shape, format);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&header(shape, format, &tensors))?;
    let mut random = Random::new(1);
    for tensor in &tensors {
        tensor.write(&mut file, &mut random)?;
        let bytes = tensor.bytes();
        file.write_all(&vec![0u8; (bytes.next_multiple_of(ALIGNMENT) - bytes) as usize])?;
    }
    file.flush()?;
    Ok(())
}

/// What stands before the weights in a file of this shape and format.
fn header(shape: &Shape, format: &Format, tensors: &[Tensor]) -> Vec<u8> {
    let metadata = metadata(shape, format);
    let mut header = Vec::new();
    header.extend(b"GGUF");
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend(metadata.0.to_le_bytes());
    header.extend(metadata.1);
    let mut offset = 0u64;
    for tensor in tensors {
        string(&mut header, &tensor.name);
        header.extend((tensor.dims.len() as u32).to_le_bytes());
        tensor.dims.iter().for_each(|d| header.extend(d.to_le_bytes()));
        header.extend((tensor.kind as u32).to_le_bytes());
        header.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
    header
}

/// How many bytes of a file of this shape are weights, all of which one step of one stream reads: whatever quantiser made it, the rest is the header.
pub fn weights(path: &Path, shape: &Shape) -> Outcome<u64> {
    let header = header(shape, &F16, &tensors(shape, &F16)).len() as u64;
    Ok(std::fs::metadata(path)?.len().saturating_sub(header))
}

fn tensors(s: &Shape, format: &Format) -> Vec<Tensor> {
    let mut all = Vec::new();
    let mut add = |name: String, dims: &[u32], kind: Kind| {
        all.push(Tensor { name, dims: dims.iter().map(|d| u64::from(*d)).collect(), kind })
    };
    add("token_embd.weight".into(), &[s.width, s.vocabulary], format.embedding);
    add("output_norm.weight".into(), &[s.width], Kind::F32);
    let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    for i in 0..s.layers {
        for (name, len) in [
            ("attn_norm", s.width),
            ("attn_q_norm", s.head_dim),
            ("attn_k_norm", s.head_dim),
            ("post_attention_norm", s.width),
            ("ffn_norm", s.width),
            ("post_ffw_norm", s.width),
        ] {
            add(format!("blk.{i}.{name}.weight"), &[len], Kind::F32);
        }
        for (name, cols, rows) in [
            ("attn_q", s.width, q),
            ("attn_k", s.width, kv),
            ("attn_v", s.width, kv),
            ("attn_output", q, s.width),
            ("ffn_gate", s.width, s.feed_forward),
            ("ffn_up", s.width, s.feed_forward),
            ("ffn_down", s.feed_forward, s.width),
        ] {
            add(format!("blk.{i}.{name}.weight"), &[cols, rows], format.layers);
        }
    }
    all
}

fn metadata(s: &Shape, format: &Format) -> Metadata {
    let mut m = Metadata::default();
    m.text("general.architecture", "gemma3");
    m.text("general.name", &format!("random weights in the shape of Gemma 3 {}", s.name.to_uppercase()));
    m.u32("general.file_type", format.file_type);
    m.u32("gemma3.context_length", 32_768);
    m.u32("gemma3.embedding_length", s.width);
    m.u32("gemma3.block_count", s.layers);
    m.u32("gemma3.feed_forward_length", s.feed_forward);
    m.u32("gemma3.attention.head_count", s.heads);
    m.u32("gemma3.attention.head_count_kv", s.kv_heads);
    m.u32("gemma3.attention.key_length", s.head_dim);
    m.u32("gemma3.attention.value_length", s.head_dim);
    m.f32("gemma3.attention.layer_norm_rms_epsilon", 1e-6);
    m.f32("gemma3.rope.freq_base", 1e6);
    m.u32("gemma3.attention.sliding_window", s.window);
    m.text("tokenizer.ggml.model", "llama");
    m.text("tokenizer.ggml.pre", "default");
    let pieces = pieces(s.vocabulary as usize);
    let to = m.array("tokenizer.ggml.tokens", 8, pieces.len());
    pieces.iter().for_each(|(piece, _)| string(to, piece));
    let to = m.array("tokenizer.ggml.scores", 6, pieces.len());
    (0..pieces.len()).for_each(|i| to.extend((-(i as f32)).to_le_bytes()));
    let to = m.array("tokenizer.ggml.token_type", 5, pieces.len());
    pieces.iter().for_each(|(_, kind)| to.extend(kind.to_le_bytes()));
    m.u32("tokenizer.ggml.padding_token_id", 0);
    m.u32("tokenizer.ggml.eos_token_id", 1);
    m.u32("tokenizer.ggml.bos_token_id", 2);
    m.u32("tokenizer.ggml.unknown_token_id", 3);
    m.bool("tokenizer.ggml.add_bos_token", true);
    m.bool("tokenizer.ggml.add_space_prefix", false);
    m
}

/// Pieces laid out as Gemma's, as many as asked for, with their kinds as GGUF numbers them: controls, turns, lines, runs of spaces, tags, bytes and letters,
/// then made-up words. Scores fall with the id.
fn pieces(count: usize) -> Vec<(String, u32)> {
    let (normal, unknown, control, defined, byte) = (1, 2, 3, 4, 6);
    let mut all: Vec<(String, u32)> = Vec::with_capacity(count);
    all.extend(["<pad>", "<eos>", "<bos>"].map(|p| (p.to_owned(), control)));
    all.push(("<unk>".to_owned(), unknown));
    all.extend(["<mask>", "[multimodal]"].map(|p| (p.to_owned(), defined)));
    all.extend((0..99).map(|i| (format!("<unused{i}>"), defined)));
    all.extend(["<start_of_turn>", "<end_of_turn>"].map(|p| (p.to_owned(), control)));
    all.extend((1..=31).map(|n| ("\n".repeat(n), defined)));
    all.extend((2..=31).map(|n| ("▁".repeat(n), defined)));
    let tags = FIRST_BYTE - all.len();
    all.extend((0..tags).map(|i| (format!("<tag{i}>"), defined)));
    all.extend((0..=255u8).map(|b| (format!("<0x{b:02X}>"), byte)));
    all.push(("▁".to_owned(), normal));
    all.extend((' '..='~').skip(1).map(|c| (c.to_string(), normal)));
    let rest = count.saturating_sub(all.len());
    all.extend((0..rest).map(|i| (format!("▁word{i}"), normal)));
    all
}

/// The id of the piece for the byte 0.
const FIRST_BYTE: usize = 238;

#[cfg(test)]
mod tests {
    use super::*;
    use engram_inference::gemma::{Gemma, LoadOptions, Progress};

    #[test]
    fn pieces_lie_where_gemma_has_them() {
        let pieces = pieces(1_000);
        for (id, piece) in [
            (0, "<pad>"),
            (1, "<eos>"),
            (2, "<bos>"),
            (3, "<unk>"),
            (6, "<unused0>"),
            (105, "<start_of_turn>"),
            (106, "<end_of_turn>"),
            (107, "\n"),
            (138, "▁▁"),
            (238, "<0x00>"),
            (493, "<0xFF>"),
        ] {
            assert_eq!(pieces[id].0, piece, "piece {id}");
        }
        assert_eq!(pieces.len(), 1_000);
        assert_eq!(pieces.iter().map(|(piece, _)| piece).collect::<std::collections::HashSet<_>>().len(), 1_000);
    }

    #[test]
    fn every_format_loads_and_its_weights_are_what_is_not_header() -> Outcome<()> {
        let small = Shape {
            name: "small",
            layers: 2,
            width: 64,
            head_dim: 32,
            feed_forward: 96,
            vocabulary: 700,
            ..GEMMA_3_270M
        };
        let folder = tempfile::tempdir()?;
        for format in FORMATS {
            let path = cached(folder.path(), &small, &format)?;
            let model = Gemma::load(&path, &LoadOptions::default(), &Progress::default())?;
            assert_eq!((model.info().layers, model.info().vocabulary), (2, 700), "{}", format.name);
            let tensors = tensors(&small, &format);
            let bytes: u64 = tensors.iter().map(|t| t.bytes().next_multiple_of(ALIGNMENT)).sum();
            assert_eq!(weights(&path, &small)?, bytes, "{}", format.name);
        }
        Ok(())
    }
}

//! Writes a GGUF of the Gemma 3 text architecture with random weights in Q8_0: real shapes, and so real speed, without anybody's weights.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::Outcome;
use crate::texts::Random;

/// The shape of a model.
pub struct Shape {
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
    layers: 18,
    width: 640,
    heads: 4,
    kv_heads: 1,
    head_dim: 256,
    feed_forward: 2048,
    vocabulary: 262_144,
    window: 512,
};

const F32: u32 = 0;
const Q8_0: u32 = 8;
const ALIGNMENT: u64 = 32;
/// Numbers per block of Q8_0, and its bytes: a half-precision scale and 32 signed bytes.
const BLOCK: u64 = 32;
const BLOCK_BYTES: u64 = 34;

struct Tensor {
    name: String,
    dims: Vec<u64>,
    kind: u32,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        let numbers: u64 = self.dims.iter().product();
        if self.kind == F32 { numbers * 4 } else { numbers / BLOCK * BLOCK_BYTES }
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

/// Writes the file.
pub fn write(path: &Path, shape: &Shape) -> Outcome<()> {
    let tensors = tensors(shape);
    let metadata = metadata(shape);
    let mut header = Vec::new();
    header.extend(b"GGUF");
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend(metadata.0.to_le_bytes());
    header.extend(metadata.1);
    let mut offset = 0u64;
    for tensor in &tensors {
        string(&mut header, &tensor.name);
        header.extend((tensor.dims.len() as u32).to_le_bytes());
        tensor.dims.iter().for_each(|d| header.extend(d.to_le_bytes()));
        header.extend(tensor.kind.to_le_bytes());
        header.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&header)?;
    let mut random = Random::new(1);
    for tensor in &tensors {
        let bytes = tensor.bytes();
        if tensor.kind == F32 {
            for _ in 0..bytes / 4 {
                file.write_all(&(1.0 + 0.05 * random.normal()).to_le_bytes())?;
            }
        } else {
            // Uniform signed bytes have a deviation of 74: the scale makes that one over the root of the width of a row, as training starts with.
            let scale = 1.0 / (74.0 * (tensor.dims[0] as f32).sqrt());
            let scale = half_bits(scale).to_le_bytes();
            for _ in 0..bytes / BLOCK_BYTES {
                file.write_all(&scale)?;
                for _ in 0..4 {
                    file.write_all(&random.next().to_le_bytes())?;
                }
            }
        }
        file.write_all(&vec![0u8; (bytes.next_multiple_of(ALIGNMENT) - bytes) as usize])?;
    }
    file.flush()?;
    Ok(())
}

/// A small positive normal number in half precision, cut off: the exponent is rebiased from 127 to 15.
fn half_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let exponent = (bits >> 23) as i32 - 127 + 15;
    // Scales of these shapes lie near 0.0005, well within the normal numbers of the format.
    ((exponent.clamp(1, 30) as u16) << 10) | ((bits >> 13) & 0x3ff) as u16
}

fn tensors(s: &Shape) -> Vec<Tensor> {
    let mut all = Vec::new();
    let mut add = |name: String, dims: &[u32], kind: u32| {
        all.push(Tensor { name, dims: dims.iter().map(|d| u64::from(*d)).collect(), kind })
    };
    add("token_embd.weight".into(), &[s.width, s.vocabulary], Q8_0);
    add("output_norm.weight".into(), &[s.width], F32);
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
            add(format!("blk.{i}.{name}.weight"), &[len], F32);
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
            add(format!("blk.{i}.{name}.weight"), &[cols, rows], Q8_0);
        }
    }
    all
}

fn metadata(s: &Shape) -> Metadata {
    let mut m = Metadata::default();
    m.text("general.architecture", "gemma3");
    m.text("general.name", "random weights in the shape of Gemma 3 270M");
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

/// Control pieces, bytes, letters, and as many made-up words as are missing; kinds as GGUF numbers them.
fn pieces(count: usize) -> Vec<(String, u32)> {
    let (normal, unknown, control, byte) = (1, 2, 3, 6);
    let mut all: Vec<(String, u32)> =
        ["<pad>", "<eos>", "<bos>"].into_iter().map(|p| (p.to_owned(), control)).collect();
    all.push(("<unk>".to_owned(), unknown));
    all.extend(["<start_of_turn>", "<end_of_turn>"].map(|p| (p.to_owned(), control)));
    all.extend((0..=255u8).map(|b| (format!("<0x{b:02X}>"), byte)));
    all.push(("▁".to_owned(), normal));
    all.extend((' '..='~').skip(1).map(|c| (c.to_string(), normal)));
    let rest = count.saturating_sub(all.len());
    all.extend((0..rest).map(|i| (format!("▁word{i}"), normal)));
    all
}

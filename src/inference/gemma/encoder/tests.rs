//! The encoder against sentence-transformers and against itself.

use super::*;
use crate::gemma::tests::{golden, ids, tests_dir};
use crate::gguf::tests::file_of;

const SOURCES: [&str; 2] = ["embeddinggemma", "embeddinggemma.gguf"];

fn load(name: &str, dim: Option<usize>) -> Encoder {
    Encoder::load(&tests_dir().join("models").join(name), dim, None).unwrap()
}

fn floats(value: &serde_json::Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    assert_eq!(a.len(), b.len());
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn bits(vector: &[f32]) -> Vec<u32> {
    vector.iter().map(|x| x.to_bits()).collect()
}

/// A text of several windows.
fn long(words: usize) -> String {
    (0..words).map(|n| ["the ladder ", "is in the old bakery, ", "code X7-2041 ", "and ß→語 "][n % 4]).collect()
}

#[test]
fn vectors_agree_with_sentence_transformers() {
    let golden = golden("embeddinggemma.json");
    for name in SOURCES {
        let path = tests_dir().join("models").join(name);
        let plain = Prompts { document: String::new(), query: String::new() };
        for (dim, prompts) in [(64, None), (32, None), (16, None), (64, Some(plain))] {
            let with_prompts = prompts.is_none();
            let encoder = Encoder::load(&path, Some(dim), prompts).unwrap();
            let mut scratch = encoder.scratch().unwrap();
            let mut worst = 1.0f64;
            for entry in golden.as_array().unwrap() {
                let purpose = match entry["kind"].as_str().unwrap() {
                    "query" => Purpose::Query,
                    "document" => Purpose::Document,
                    _ if with_prompts => continue,
                    _ => Purpose::Document,
                };
                let text = entry["text"].as_str().unwrap();
                if !with_prompts && entry["kind"] != "none" {
                    continue;
                }
                let windows = encoder.windows(text, purpose);
                assert_eq!(windows.len(), 1);
                assert_eq!(windows[0].tokens(), ids(&entry["tokens"]), "{text}");
                let encoded = encoder.encode(&windows[0], true, &mut scratch).unwrap();
                let want = if dim == 64 { &entry["vector"] } else { &entry["cut"][dim.to_string()] };
                worst = worst.min(cosine(&encoded.vector, &floats(want)));
                let norm = encoded.vector.iter().map(|x| x * x).sum::<f32>();
                assert!((norm - 1.0).abs() < 1e-5, "{norm}");
                // What the tokens' vectors are on average is the text's.
                let mut mean = vec![0.0; dim];
                for token in encoded.tokens.chunks_exact(dim) {
                    mean.iter_mut().zip(token).for_each(|(sum, x)| *sum += x);
                }
                assert_eq!(encoded.tokens.len(), windows[0].tokens().len() * dim);
                assert!(cosine(&mean, &encoded.vector) > 0.999_999, "{text}");
                // And the mean of the rows, before the linear layers.
                let rows = scratch.work.whole(windows[0].tokens(), &mut scratch.cache).unwrap();
                let (mut sum, mut normed) = (vec![0.0f32; 64], vec![0.0f32; 64]);
                for row in rows.chunks_exact(64) {
                    kernels().rms_norm(row, encoder.model.output_norm(), encoder.model.config().epsilon, &mut normed);
                    kernels().add(&mut sum, &normed);
                }
                worst = worst.min(cosine(&sum, &floats(&entry["mean"])));
            }
            println!("{name} {dim}: {worst:.8}");
            assert!(worst >= 0.9999, "{name} {dim}: {worst}");
        }
    }
}

#[test]
fn every_position_sees_what_is_before_and_behind_it_and_local_layers_only_so_far() {
    // The first token alone of a text decides nothing here: what changes the last token must change the first one's row.
    let encoder = load(SOURCES[0], None);
    let mut scratch = encoder.scratch().unwrap();
    let (short, window) = (vec![20u32; 70], encoder.model.config().shapes[0].window.unwrap());
    let mut other = short.clone();
    *other.last_mut().unwrap() = 21;
    let first =
        |tokens: &[u32], scratch: &mut Scratch| scratch.work.whole(tokens, &mut scratch.cache).unwrap()[..64].to_vec();
    assert!(window < 20);
    assert_ne!(first(&short, &mut scratch), first(&other, &mut scratch), "through the global layer");
}

#[test]
fn a_vector_does_not_depend_on_what_was_encoded_before_or_beside_it() {
    for name in SOURCES {
        let encoder = load(name, None);
        let texts = [long(1), long(400), long(30), String::new(), long(9), "a".repeat(3000)];
        let windows: Vec<Window> = texts.iter().flat_map(|text| encoder.windows(text, Purpose::Document)).collect();
        let alone: Vec<Vec<u32>> = windows
            .iter()
            .map(|window| bits(&encoder.encode(window, false, &mut encoder.scratch().unwrap()).unwrap().vector))
            .collect();
        std::thread::scope(|scope| {
            for shift in 0..2 {
                let (encoder, windows, alone) = (&encoder, &windows, &alone);
                scope.spawn(move || {
                    let mut scratch = encoder.scratch().unwrap();
                    for n in 0..2 * windows.len() {
                        let n = (n * 5 + shift) % windows.len();
                        let got = encoder.encode(&windows[n], n % 2 == 0, &mut scratch).unwrap().vector;
                        assert!(bits(&got) == alone[n], "window {n}");
                    }
                });
            }
        });
    }
}

#[test]
fn numbers_that_are_none_do_not_stay_in_the_buffers() {
    let encoder = load(SOURCES[0], None);
    let window = &encoder.windows("a ladder", Purpose::Query)[0];
    let mut scratch = encoder.scratch().unwrap();
    let before = bits(&encoder.encode(window, false, &mut scratch).unwrap().vector);
    // As if a text of 64 positions had had infinite keys and values everywhere.
    scratch.cache.restart(64).unwrap();
    let places = scratch.cache.places();
    for at in 0..64 {
        let huge = [f32::INFINITY; 32];
        // SAFETY: the positions were reserved, and nobody else has the cache.
        unsafe { encoder.model.layout().write(&places, 0, 0, at, &huge, &huge) };
    }
    assert!(bits(&encoder.encode(window, false, &mut scratch).unwrap().vector) == before);
}

#[test]
fn long_texts_are_cut_where_words_begin_and_begin_with_their_prompt() {
    let encoder = load(SOURCES[0], None);
    let tokenizer = encoder.model.tokenizer();
    for (text, purpose) in
        [(long(700), Purpose::Document), (long(500), Purpose::Query), ("a".repeat(9000), Purpose::Query)]
    {
        let windows = encoder.windows(&text, purpose);
        assert!(windows.len() > 2);
        let prompt = encoder.prompt(purpose).trim_end();
        let (mut words, mut whole) = (0, String::new());
        for window in &windows {
            let tokens = window.tokens();
            assert!(tokens.len() <= encoder.window());
            assert_eq!((tokens[0], *tokens.last().unwrap()), (tokenizer.bos().unwrap(), tokenizer.eos().unwrap()));
            let written = tokenizer.decode(tokens);
            let part = written.trim_start().strip_prefix(prompt).unwrap_or_else(|| panic!("{written:?}"));
            words += usize::from(part.starts_with(' '));
            whole.push_str(part);
        }
        assert_eq!(whole.trim_start(), text);
        assert!(words == windows.len() || text.starts_with("aa"));
    }
    // A text that fits is one window, with one more word it is two.
    let fits = |n: usize| encoder.windows(&"a ".repeat(n), Purpose::Document).len();
    let most = (1..).find(|n| fits(n + 1) > 1).unwrap();
    assert_eq!(encoder.windows(&"a ".repeat(most), Purpose::Document).len(), 1);
}

#[test]
fn spans_are_the_bytes_of_the_tokens() {
    let encoder = load(SOURCES[1], None);
    let mut texts = vec![String::new(), " a".into(), "a  b\n\nc ▁x ▁ y".into(), "ß→語😀".into(), long(300)];
    let (mut seed, alphabet) = (7u64, ["a", " ", "▁", "\n", "the", "語", "😀", "<eos>", "é", "x7"]);
    for _ in 0..200 {
        let mut text = String::new();
        for _ in 0..12 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.push_str(alphabet[(seed >> 33) as usize % alphabet.len()]);
        }
        texts.push(text);
    }
    for text in texts {
        let with_spans = encoder.windows_with_spans(&text, Purpose::Document);
        let windows: Vec<Window> = with_spans.iter().map(|(window, _)| window.clone()).collect();
        assert_eq!(windows, encoder.windows(&text, Purpose::Document), "{text:?}");
        let mut end = 0;
        for (window, spans) in &with_spans {
            assert_eq!(window.tokens().len(), spans.len());
            assert!(spans.first().unwrap().is_empty() && spans.last().unwrap().is_empty());
            for (id, span) in window.tokens().iter().zip(spans).filter(|(_, span)| !span.is_empty()) {
                assert_eq!(span.start, end, "{text:?}");
                end = span.end;
                let written = encoder.model.tokenizer().written(*id).unwrap_or_default();
                if let (Ok(written), Some(part)) = (String::from_utf8(written), text.get(span.clone())) {
                    // The first one may hold the space before the text.
                    assert_eq!(
                        written.trim_start_matches(' '),
                        part.replace('▁', " ").trim_start_matches(' '),
                        "{text:?}"
                    );
                }
            }
        }
        assert_eq!(end, text.len(), "{text:?}");
    }
}

#[test]
fn prompts_come_with_the_model() {
    for name in SOURCES {
        assert_eq!(load(name, None).prompt(Purpose::Query), "task: search result | query: ");
        assert_eq!(load(name, None).prompt(Purpose::Document), "title: none | text: ");
    }
    let folder = copy_of_folder();
    let put = |text: &str| std::fs::write(folder.path().join("config_sentence_transformers.json"), text).unwrap();
    let load = || Encoder::load(folder.path(), None, None);
    put(r#"{"prompts":{"query":"q: ","STS":"x","document":""},"default_prompt_name":null}"#);
    assert_eq!(load().unwrap().prompts, Prompts { document: String::new(), query: "q: ".into() });
    put(r#"{"similarity_fn_name":"cosine"}"#);
    assert_eq!(load().unwrap().prompts, Prompts::default());
    put(r#"{"prompts":{"query":7}}"#);
    assert!(load().map(|_| ()).unwrap_err().to_string().contains("config_sentence_transformers.json"));
    put(&format!(r#"{{"prompts":{{"query":"{}"}}}}"#, "a query ".repeat(400)));
    assert!(load().map(|_| ()).unwrap_err().to_string().contains("of which a prompt takes"));
    put("{}");
    std::fs::write(folder.path().join("sentence_bert_config.json"), r#"{"max_seq_length":100}"#).unwrap();
    assert_eq!(load().unwrap().window(), 100);
    std::fs::write(folder.path().join("3_Dense/model.safetensors"), [0; 9]).unwrap();
    assert!(load().map(|_| ()).unwrap_err().to_string().contains("3_Dense"));
}

/// The model's folder, to be changed.
fn copy_of_folder() -> tempfile::TempDir {
    let (from, to) = (tests_dir().join("models/embeddinggemma"), tempfile::tempdir().unwrap());
    for sub in ["1_Pooling", "2_Dense", "3_Dense"] {
        std::fs::create_dir(to.path().join(sub)).unwrap();
    }
    let files = "config.json model.safetensors modules.json sentence_bert_config.json tokenizer.json 1_Pooling/config.json \
                 2_Dense/config.json 2_Dense/model.safetensors 3_Dense/config.json 3_Dense/model.safetensors";
    for file in files.split_whitespace() {
        std::fs::copy(from.join(file), to.path().join(file)).unwrap();
    }
    to
}

#[test]
fn a_file_without_the_linear_layers_is_refused_and_why() {
    let bytes = std::fs::read(tests_dir().join("models/embeddinggemma.gguf")).unwrap();
    let key = b"dense_2_feat_out";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap();
    let mut changed = bytes;
    changed[at] = b'x';
    let file = file_of(&changed);
    let message = Encoder::load(file.path(), None, None).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("--sentence-transformers-dense-modules"), "{message}");
}

//! Texts of cold memories: compressed by zstd with a dictionary that is trained on the space.
//!
//! A turn of a conversation has a hundred bytes or two, of which a compressor that begins with nothing saves next to none: what repeats, repeats
//! from one text to the next. So a space trains a [`Dictionary`] on a sample of its own texts, and each text is a frame of its own that refers to it: half the bytes on
//! real conversations, packed in two to six microseconds and read in half of one. A frame has neither magic nor length nor checksum; the record
//! that holds it knows its length, and nothing that comes from outside is ever unpacked.
//!
//! A dictionary is as large as it is worth: one byte for [`SHARE`] bytes of text. When the space has grown to [`GROWN`] times the text that the last one was
//! trained on, another follows it; what was packed by an older one stays, which is why a space keeps all it has had (at most
//! [`limits::DICTIONARIES`]). They are data of the space and travel with it. The compressed bytes are not: whoever loads a cold memory packs its text itself.
//!
//! What zstd builds of a dictionary takes several times its bytes (tables for finding matches: 100 KiB and more), so no space keeps any: each thread
//! has the tables of the dictionary that it used last.
//!
//! Rejected: blocks of many texts (a text is read alone, so a block would be unpacked for each), LZ4 with a dictionary (a third more bytes), FSST (no better than
//! zstd with a dictionary on short texts, and code of our own), levels above the default (a tenth of the packed bytes for ten times the time).

use crate::{Error, Result, limits};
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, DParameter, FrameFormat};

/// The level of compression: the fastest that finds most of what there is to find.
const LEVEL: i32 = 3;
/// Bytes of text for each byte of a dictionary.
const SHARE: usize = 16;
/// The least bytes of a dictionary: one trained on less text would not earn its keep.
const LEAST: usize = 1024;
/// Bytes of text that a dictionary is trained on, in its own size: more makes it no better.
const SAMPLE: usize = 64;
/// A text of fewer bytes stays plain.
const SHORT: usize = 24;
/// A text of more bytes stays plain: packing it would take longer than the main thread has at once.
const LONG: usize = 64 * 1024;
/// How many times the bytes of the last dictionary a new one must be worth.
pub(crate) const GROWN: usize = 4;

/// What the texts of a space have in common.
pub(crate) struct Dictionary {
    bytes: Box<[u8]>,
    /// Tells it from all others of this process.
    serial: u64,
}

impl std::fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a dictionary of {} bytes", self.bytes.len())
    }
}

/// How many bytes a dictionary for so many bytes of text has; None if there is too little of it.
pub(crate) fn worth(text: usize) -> Option<usize> {
    let size = (text / SHARE).min(limits::DICTIONARY_BYTES);
    (size >= LEAST).then_some(size)
}

/// One in how many texts is enough of a sample to train a dictionary on.
pub(crate) fn sparseness(text: usize) -> usize {
    text.div_ceil((worth(text).unwrap_or(0) * SAMPLE).max(1)).max(1)
}

/// Trains a dictionary for `text` bytes of text on some of it, which `sample` gives; None where nothing comes of it. For a thread of its own: some
/// ten milliseconds.
pub(crate) fn train<'a>(text: usize, sample: impl Iterator<Item = std::borrow::Cow<'a, str>>) -> Option<Vec<u8>> {
    let size = worth(text)?;
    let (mut bytes, mut sizes) = (Vec::new(), Vec::new());
    for text in sample {
        if bytes.len() + text.len() > size * SAMPLE {
            break;
        }
        bytes.extend_from_slice(text.as_bytes());
        sizes.push(text.len());
    }
    let dictionary = zstd::dict::from_continuous(&bytes, &sizes, size).ok()?;
    Dictionary::new(&dictionary).is_ok().then_some(dictionary)
}

impl Dictionary {
    /// From bytes, which may be anyone's.
    pub(crate) fn new(bytes: &[u8]) -> Result<Dictionary> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        if bytes.is_empty() || bytes.len() > limits::DICTIONARY_BYTES {
            return Err(Error::new(format!("a dictionary has 1 to {} bytes", limits::DICTIONARY_BYTES)));
        }
        let dictionary = Dictionary { bytes: bytes.into(), serial: SERIAL.fetch_add(1, Ordering::Relaxed) };
        // What zstd does not take as a dictionary it refuses at the first use.
        let packed = dictionary.with_compressor(|compressor| compressor.compress(&[b'a'; SHORT]).ok());
        let packed = packed.ok_or_else(|| Error::new("bytes that are no dictionary"))?;
        match dictionary.unpack(&packed, SHORT) {
            Some(text) if text.bytes().all(|byte| byte == b'a') => Ok(dictionary),
            _ => Err(Error::new("bytes that are no dictionary")),
        }
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A text in fewer bytes; None if there are not fewer.
    pub(crate) fn pack(&self, text: &str) -> Option<Vec<u8>> {
        if !(SHORT..=LONG).contains(&text.len()) {
            return None;
        }
        // What it costs to say that it is packed.
        const HEAD: usize = 4;
        let packed = self.with_compressor(|compressor| compressor.compress(text.as_bytes()).ok())?;
        (packed.len() + HEAD < text.len()).then_some(packed)
    }

    /// The text of `len` bytes that was packed; None if that is not what it is.
    pub(crate) fn unpack(&self, packed: &[u8], len: usize) -> Option<String> {
        let text = DECOMPRESSOR.with_borrow_mut(|kept| {
            if kept.as_ref().is_none_or(|(serial, _)| *serial != self.serial) {
                let mut decompressor = Decompressor::with_dictionary(&self.bytes).ok()?;
                decompressor.set_parameter(DParameter::Format(FrameFormat::Magicless)).ok()?;
                *kept = Some((self.serial, decompressor));
            }
            kept.as_mut()?.1.decompress(packed, len).ok()
        })?;
        String::from_utf8(text).ok().filter(|text| text.len() == len)
    }

    fn with_compressor<T>(&self, f: impl FnOnce(&mut Compressor<'static>) -> Option<T>) -> Option<T> {
        COMPRESSOR.with_borrow_mut(|kept| {
            if kept.as_ref().is_none_or(|(serial, _)| *serial != self.serial) {
                let mut compressor = Compressor::with_dictionary(LEVEL, &self.bytes).ok()?;
                for parameter in [
                    CParameter::Format(FrameFormat::Magicless),
                    CParameter::ContentSizeFlag(false),
                    CParameter::ChecksumFlag(false),
                    CParameter::DictIdFlag(false),
                ] {
                    compressor.set_parameter(parameter).ok()?;
                }
                *kept = Some((self.serial, compressor));
            }
            f(&mut kept.as_mut()?.1)
        })
    }
}

thread_local! {
    /// With the dictionary that this thread used last.
    static COMPRESSOR: RefCell<Option<(u64, Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<(u64, Decompressor<'static>)>> = const { RefCell::new(None) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    fn texts() -> impl Iterator<Item = Cow<'static, str>> {
        (0..3000).map(|n| {
            Cow::Owned(format!("Melanie: we went to the lake with the kids on day {} and it was lovely, {n}!", n % 31))
        })
    }

    #[test]
    fn texts_come_back() {
        let bytes = train(200_000, texts()).unwrap();
        assert!((LEAST..=limits::DICTIONARY_BYTES).contains(&bytes.len()), "{}", bytes.len());
        let (dictionary, other) = (Dictionary::new(&bytes).unwrap(), Dictionary::new(&bytes).unwrap());
        for text in texts().take(100) {
            let packed = dictionary.pack(&text).unwrap();
            assert!(packed.len() * 2 < text.len(), "{} of {}", packed.len(), text.len());
            assert_eq!(dictionary.unpack(&packed, text.len()).as_deref(), Some(&*text));
            assert_eq!(other.pack(&text), Some(packed.clone()), "the same dictionary packs the same");
            assert_eq!(dictionary.unpack(&packed, text.len() + 1), None);
            assert_eq!(dictionary.unpack(packed.get(1..).unwrap(), text.len()), None);
        }
        assert_eq!(dictionary.pack("short"), None);
        assert_eq!(dictionary.pack(&"x".repeat(LONG + 1)), None);
        assert_eq!(dictionary.pack("q7$Zk!9vB@x2#mW%e5^Lr&8*"), None, "what gets no smaller stays plain");
    }

    #[test]
    fn what_is_no_dictionary_is_refused() {
        let good = train(200_000, texts()).unwrap();
        assert!(Dictionary::new(&[]).is_err() && Dictionary::new(&vec![0; limits::DICTIONARY_BYTES + 1]).is_err());
        // With the magic of a dictionary and nothing behind it; without, any bytes are texts to refer to.
        assert!(Dictionary::new(good.get(..12).unwrap()).is_err());
        assert!(Dictionary::new(b"some text that others may begin with").is_ok());
        assert_eq!(train(100, texts()), None);
        assert_eq!(train(200_000, std::iter::empty()), None);
    }
}

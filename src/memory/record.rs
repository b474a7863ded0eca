//! The texts of one memory as bytes: what `texts` keeps and the columns do not hold.
//!
//! A bit set says which fields there are; then come the content and those fields, each text and list with its length in front
//! (LEB128). The content of a cold memory may be packed: its length, which dictionary, and the packed bytes stand in its place; what else there is is short and
//! asked for by filters and searches all the time, so it stays plain. The bytes are our own: whatever reads them trusts the form, and gets an empty record where it does not hold.

use crate::MemoryId;
use crate::codec::{KIND, has, put, put_id, put_passage, put_text};
use crate::entry::{Entry, Meta, Passage};
use crate::packing::Dictionary;
use std::borrow::Cow;
use std::sync::Arc;

/// The bit that says that the content is packed: one of a field that no record has.
const PACKED: u64 = has::IMPORTANCE;

/// The content of a memory as it lies there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content<'a> {
    /// As it is.
    Plain(&'a str),
    /// Packed.
    Packed {
        /// The bytes of the text.
        len: usize,
        /// What it was packed by.
        dictionary: &'a Dictionary,
        /// The packed bytes.
        bytes: &'a [u8],
    },
}

impl Default for Content<'_> {
    fn default() -> Self {
        Content::Plain("")
    }
}

impl<'a> Content<'a> {
    /// The text.
    pub(crate) fn text(&self) -> Cow<'a, str> {
        match *self {
            Content::Plain(text) => Cow::Borrowed(text),
            Content::Packed { len, dictionary, bytes } => Cow::Owned(dictionary.unpack(bytes, len).unwrap_or_default()),
        }
    }

    /// The bytes of the text.
    pub(crate) fn len(&self) -> usize {
        match self {
            Content::Plain(text) => text.len(),
            Content::Packed { len, .. } => *len,
        }
    }

    /// Whether it is packed.
    pub(crate) fn is_packed(&self) -> bool {
        matches!(self, Content::Packed { .. })
    }
}

/// The texts of a memory, borrowed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Record<'a> {
    pub content: Content<'a>,
    pub kind: &'a str,
    pub outcome: Option<&'a str>,
    pub session: Option<&'a str>,
    pub speaker: Option<&'a str>,
    pub role: Option<&'a str>,
    pub source: Option<&'a str>,
    pub doc: Option<&'a str>,
    pub tokens: u32,
    pub supersedes: Option<MemoryId>,
    pub superseded_by: Option<MemoryId>,
    from: List<'a>,
    tags: List<'a>,
    meta: Option<&'a str>,
    place: [u64; 4],
    /// Bytes of the record.
    pub len: usize,
}

/// A list that is read when it is walked.
#[derive(Debug, Clone, Copy, Default)]
struct List<'a> {
    items: usize,
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads the record at the beginning of `bytes`; what is packed in it was packed by one of the dictionaries.
    pub(crate) fn read(bytes: &'a [u8], dictionaries: &'a [Arc<Dictionary>]) -> Record<'a> {
        Record::try_read(bytes, dictionaries).unwrap_or_default()
    }

    fn try_read(bytes: &'a [u8], dictionaries: &'a [Arc<Dictionary>]) -> Option<Record<'a>> {
        let mut reader = Reader { bytes };
        let fields = reader.number()?;
        let content = if fields & PACKED == 0 {
            Content::Plain(reader.text()?)
        } else {
            let len = usize::try_from(reader.number()?).ok()?;
            let dictionary = dictionaries.get(usize::try_from(reader.number()?).ok()?)?;
            let packed = usize::try_from(reader.number()?).ok()?;
            let (bytes, rest) = reader.bytes.split_at_checked(packed)?;
            reader.bytes = rest;
            Content::Packed { len, dictionary, bytes }
        };
        let mut text = |field: u64| if fields & field == 0 { Some(None) } else { reader.text().map(Some) };
        let kind = text(has::KIND)?.unwrap_or(KIND);
        let (outcome, session, speaker) = (text(has::OUTCOME)?, text(has::SESSION)?, text(has::SPEAKER)?);
        let (role, source, meta) = (text(has::ROLE)?, text(has::SOURCE)?, text(has::META)?);
        let from = if fields & has::FROM == 0 { List::default() } else { reader.list(|r| r.id().map(drop))? };
        let tags = if fields & has::TAGS == 0 { List::default() } else { reader.list(|r| r.text().map(drop))? };
        let mut id = |field: u64| if fields & field == 0 { Some(None) } else { reader.id().map(Some) };
        let (supersedes, superseded_by) = (id(has::SUPERSEDES)?, id(has::SUPERSEDED)?);
        let (mut doc, mut place) = (None, [0; 4]);
        if fields & has::PASSAGE != 0 {
            doc = Some(reader.text()?);
            for number in &mut place {
                *number = reader.number()?;
            }
        }
        let tokens = if fields & has::TOKENS == 0 { 0 } else { reader.number()? as u32 };
        let len = bytes.len() - reader.bytes.len();
        Some(Record {
            content,
            kind,
            outcome,
            session,
            speaker,
            role,
            source,
            doc,
            tokens,
            supersedes,
            superseded_by,
            from,
            tags,
            meta,
            place,
            len,
        })
    }

    /// TAGS.
    pub(crate) fn tags(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut reader = Reader { bytes: self.tags.bytes };
        (0..self.tags.items).map_while(move |_| reader.text())
    }

    /// FROM.
    pub(crate) fn from(&self) -> impl Iterator<Item = MemoryId> + use<'a> {
        let mut reader = Reader { bytes: self.from.bytes };
        (0..self.from.items).map_while(move |_| reader.id())
    }

    /// Where it stands in a document.
    pub(crate) fn passage(&self) -> Option<Passage> {
        let [position, total, start, end] = self.place;
        Some(Passage { doc: self.doc?.into(), position: position as u32, total: total as u32, start, end })
    }

    /// META, parsed.
    pub(crate) fn meta(&self) -> Option<Meta> {
        serde_json::from_str(self.meta?).ok()
    }
}

/// Writes the texts of a memory; the content packed by the last of the dictionaries if there is one and it becomes shorter.
pub(crate) fn write(entry: &Entry, dictionaries: &[Arc<Dictionary>], out: &mut Vec<u8>) {
    let packed = dictionaries.last().and_then(|dictionary| dictionary.pack(&entry.content));
    let superseded_by = entry.superseded.map(|superseded| superseded.by);
    let optional: [(u64, Option<&str>); 6] = [
        (has::KIND, Some(&*entry.kind).filter(|kind| *kind != KIND)),
        (has::OUTCOME, entry.outcome.as_deref()),
        (has::SESSION, entry.session.as_deref()),
        (has::SPEAKER, entry.speaker.as_deref()),
        (has::ROLE, entry.role.as_deref()),
        (has::SOURCE, entry.source.as_deref()),
    ];
    let others = [
        (has::FROM, !entry.from.is_empty()),
        (has::TAGS, !entry.tags.is_empty()),
        (has::META, entry.meta.is_some()),
        (has::SUPERSEDES, entry.supersedes.is_some()),
        (has::SUPERSEDED, superseded_by.is_some()),
        (has::PASSAGE, entry.passage.is_some()),
        (has::TOKENS, entry.tokens > 0),
        (PACKED, packed.is_some()),
    ];
    let texts = optional.iter().filter(|(_, text)| text.is_some()).map(|(bit, _)| bit);
    put(out, texts.chain(others.iter().filter(|(_, there)| *there).map(|(bit, _)| bit)).sum());
    match packed {
        Some(packed) => {
            put(out, entry.content.len() as u64);
            put(out, dictionaries.len() as u64 - 1);
            put(out, packed.len() as u64);
            out.extend_from_slice(&packed);
        }
        None => put_text(out, &entry.content),
    }
    optional.iter().filter_map(|(_, text)| *text).for_each(|text| put_text(out, text));
    if let Some(meta) = &entry.meta {
        // A JSON map with text keys always has a text.
        put_text(out, &serde_json::to_string(meta).unwrap_or_else(|_| "{}".into()));
    }
    if !entry.from.is_empty() {
        put(out, entry.from.len() as u64);
        entry.from.iter().for_each(|id| put_id(out, *id));
    }
    if !entry.tags.is_empty() {
        put(out, entry.tags.len() as u64);
        entry.tags.iter().for_each(|tag| put_text(out, tag));
    }
    [entry.supersedes, superseded_by].iter().flatten().for_each(|id| put_id(out, *id));
    if let Some(passage) = &entry.passage {
        put_passage(out, passage);
    }
    if entry.tokens > 0 {
        put(out, entry.tokens.into());
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        std::str::from_utf8(text).ok()
    }

    fn id(&mut self) -> Option<MemoryId> {
        Some(MemoryId { ms: self.number()?, seq: self.number()? })
    }

    fn list(&mut self, mut pass: impl FnMut(&mut Self) -> Option<()>) -> Option<List<'a>> {
        let items = usize::try_from(self.number()?).ok()?;
        let bytes = self.bytes;
        for _ in 0..items {
            pass(self)?;
        }
        Some(List { items, bytes: bytes.get(..bytes.len() - self.bytes.len())? })
    }
}

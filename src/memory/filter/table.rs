//! Memories laid out as columns by the plainest means: what the property tests scan.

use super::{Chunk, Field, FieldSource, MetaColumn};
use crate::columns::{Cell, Column, Tags};
use crate::entry::Entry;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A chunk of memories. A column that is taken away is one that only the records know.
#[derive(Debug, Default)]
pub(super) struct Part {
    entries: Vec<Arc<Entry>>,
    pub columns: Vec<(Field, Column)>,
    pub tags: Option<Tags>,
    pub meta: BTreeMap<Box<str>, Column>,
    /// Fields of META that have no column, but that memories have.
    pub hidden: Vec<Box<str>>,
}

impl Part {
    pub fn new(entries: &[Arc<Entry>], text_cell: fn(&str) -> Cell) -> Part {
        let mut part = Part { entries: entries.to_vec(), ..Part::default() };
        for field in super::BUILT_IN.iter().map(|built_in| built_in.field) {
            // The others are asked from the records.
            if matches!(field, Field::Id | Field::Content | Field::Tags) {
                continue;
            }
            let cells: Vec<Cell> = entries.iter().map(|entry| entry.field(field).cell_by(text_cell)).collect();
            part.columns.push((field, Column::of(&cells)));
        }
        let mut tags = Tags::default();
        for (row, entry) in entries.iter().enumerate() {
            tags.set(row, entry.tags.iter().map(|tag| text_cell(tag)));
        }
        part.tags = Some(tags);
        for name in entries.iter().filter_map(|entry| entry.meta.as_ref()).flat_map(|meta| meta.keys()) {
            if !part.meta.contains_key(name.as_str()) {
                let cells: Vec<Cell> =
                    entries.iter().map(|entry| FieldSource::meta(&**entry, name).cell_by(text_cell)).collect();
                part.meta.insert(name.as_str().into(), Column::of(&cells));
            }
        }
        part
    }
}

impl Chunk for Part {
    fn rows(&self) -> usize {
        self.entries.len()
    }

    fn column(&self, field: Field) -> Option<Cow<'_, Column>> {
        self.columns.iter().find(|(of, _)| *of == field).map(|(_, column)| Cow::Borrowed(column))
    }

    fn tags(&self) -> Option<&Tags> {
        self.tags.as_ref()
    }

    fn meta(&self, name: &str) -> MetaColumn<'_> {
        match self.meta.get(name) {
            Some(column) => MetaColumn::Column(column),
            None if self.hidden.iter().any(|hidden| **hidden == *name) => MetaColumn::Unknown,
            None => MetaColumn::Absent,
        }
    }

    fn record(&self, row: usize) -> Option<impl FieldSource + '_> {
        self.entries.get(row).map(|entry| &**entry)
    }
}

//! Whether a memory passes a filter: the plain evaluator, which reads one record.
//!
//! It is what the language means. A scan over columns decides most rows without it (see `scan`), gives it those that columns
//! cannot decide, and must agree with it everywhere.

use super::{Arithmetic, Comparison, Field, Literal, Node};
use crate::columns::Cell;
use crate::entry::Entry;
use serde_json::Value as Json;
use std::borrow::Cow;
use std::cmp::Ordering;

/// What has fields: a memory, however it is kept.
pub(crate) trait FieldSource {
    /// A built-in field.
    fn field(&self, field: Field) -> Value<'_>;
    /// A field at the top level of META.
    fn meta(&self, name: &str) -> Value<'_>;
}

/// What an expression is worth for one memory; borrowed from the filter or the memory, but for an id's text.
#[derive(Clone)]
pub(crate) enum Value<'a> {
    Missing,
    Null,
    Bool(bool),
    Number(f64),
    Text(Cow<'a, str>),
    List(&'a dyn List),
    Object,
}

/// A list of values.
pub(crate) trait List {
    /// How many items it has.
    fn len(&self) -> usize;
    /// An item; missing behind the last.
    fn item(&self, n: usize) -> Value<'_>;
}

impl List for Vec<Literal> {
    fn len(&self) -> usize {
        self.len()
    }

    fn item(&self, n: usize) -> Value<'_> {
        self.get(n).map_or(Value::Missing, from_literal)
    }
}

impl List for Vec<Json> {
    fn len(&self) -> usize {
        self.len()
    }

    fn item(&self, n: usize) -> Value<'_> {
        self.get(n).map_or(Value::Missing, Value::json)
    }
}

impl List for Vec<Box<str>> {
    fn len(&self) -> usize {
        self.len()
    }

    fn item(&self, n: usize) -> Value<'_> {
        self.get(n).map_or(Value::Missing, |text| Value::text(text))
    }
}

pub(super) fn matches(node: &Node, source: &impl FieldSource) -> bool {
    match node {
        Node::All(nodes) => nodes.iter().all(|node| matches(node, source)),
        Node::Any(nodes) => nodes.iter().any(|node| matches(node, source)),
        Node::Not(node) => !matches(node, source),
        Node::Compare(comparison, a, b) => compare(*comparison, &value(a, source), &value(b, source)),
        _ => match value(node, source) {
            Value::Missing | Value::Null => false,
            Value::Bool(b) => b,
            Value::Number(n) => n != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::Object => true,
            Value::List(list) => list.len() > 0,
        },
    }
}

pub(super) fn value<'a>(node: &'a Node, source: &'a impl FieldSource) -> Value<'a> {
    match node {
        Node::Literal(literal) => from_literal(literal),
        Node::List(items) => Value::List(items),
        Node::Field(field) => source.field(*field),
        Node::Meta(name) => source.meta(name),
        Node::Negate(node) => number(-value(node, source).number().unwrap_or(f64::NAN)),
        Node::Calculate(op, a, b) => match (value(a, source).number(), value(b, source).number()) {
            (Some(a), Some(b)) => number(op.of(a, b)),
            _ => Value::Missing,
        },
        Node::Compare(..) | Node::Not(_) | Node::All(_) | Node::Any(_) => Value::Bool(matches(node, source)),
    }
}

impl Arithmetic {
    /// The result, which need not be finite.
    pub(super) fn of(self, a: f64, b: f64) -> f64 {
        match self {
            Arithmetic::Add => a + b,
            Arithmetic::Subtract => a - b,
            Arithmetic::Multiply => a * b,
            Arithmetic::Divide => a / b,
            Arithmetic::Remainder => a % b,
            Arithmetic::Power => a.powf(b),
        }
    }
}

fn number<'a>(number: f64) -> Value<'a> {
    if number.is_finite() { Value::Number(number) } else { Value::Missing }
}

fn from_literal(literal: &Literal) -> Value<'_> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Number(n) => Value::Number(*n),
        Literal::Text(text) => Value::Text(Cow::Borrowed(text)),
    }
}

impl FieldSource for Entry {
    fn field(&self, field: Field) -> Value<'_> {
        match field {
            Field::Id => Value::Text(Cow::Owned(self.id.to_string())),
            Field::Tier => Value::text(self.tier.name()),
            Field::Kind => Value::text(&self.kind),
            Field::Content => Value::text(&self.content),
            Field::Importance => Value::Number(self.importance),
            Field::Confidence => Value::Number(self.confidence),
            Field::Outcome => Value::optional(self.outcome.as_deref()),
            Field::At => Value::Number(self.at as f64),
            Field::Created => Value::Number(self.created as f64),
            Field::Accessed => Value::Number(self.accessed as f64),
            Field::Uses => Value::Number(f64::from(self.uses)),
            Field::Expires => self.expires.map_or(Value::Missing, |expires| Value::Number(expires as f64)),
            Field::Pinned => Value::Bool(self.pinned),
            Field::Session => Value::optional(self.session.as_deref()),
            Field::Speaker => Value::optional(self.speaker.as_deref()),
            Field::Role => Value::optional(self.role.as_deref()),
            Field::Source => Value::optional(self.source.as_deref()),
            Field::Tags => Value::List(&self.tags),
            Field::Superseded => {
                self.superseded.map_or(Value::Missing, |superseded| Value::Number(superseded.at as f64))
            }
            Field::Doc => Value::optional(self.passage.as_deref().map(|passage| &*passage.doc)),
            Field::Position => Value::whole(self.passage.as_deref().map(|passage| passage.position)),
            Field::Total => Value::whole(self.passage.as_deref().map(|passage| passage.total)),
            Field::Heat => Value::text(self.heat.name()),
        }
    }

    fn meta(&self, name: &str) -> Value<'_> {
        self.meta.as_ref().and_then(|meta| meta.get(name)).map_or(Value::Missing, Value::json)
    }
}

impl<S: FieldSource> FieldSource for &S {
    fn field(&self, field: Field) -> Value<'_> {
        (**self).field(field)
    }

    fn meta(&self, name: &str) -> Value<'_> {
        (**self).meta(name)
    }
}

impl<'a> Value<'a> {
    /// A text.
    pub(crate) fn text(text: &'a str) -> Value<'a> {
        Value::Text(Cow::Borrowed(text))
    }

    /// A number that a memory need not have.
    fn whole(number: Option<u32>) -> Value<'a> {
        number.map_or(Value::Missing, |number| Value::Number(number.into()))
    }

    /// A text that a memory need not have.
    pub(crate) fn optional(text: Option<&'a str>) -> Value<'a> {
        text.map_or(Value::Missing, Value::text)
    }

    /// A value of META.
    pub(crate) fn json(json: &'a Json) -> Value<'a> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => n.as_f64().map_or(Value::Missing, Value::Number),
            Json::String(text) => Value::text(text),
            Json::Array(items) => Value::List(items),
            Json::Object(_) => Value::Object,
        }
    }

    /// What a column keeps of it.
    pub(crate) fn cell(&self) -> Cell {
        self.cell_by(Cell::text)
    }

    /// The same with another way from a text to its cell.
    pub(super) fn cell_by(&self, text_cell: fn(&str) -> Cell) -> Cell {
        match self {
            Value::Missing => Cell::MISSING,
            Value::Null => Cell::NULL,
            Value::Bool(b) => Cell::bool(*b),
            Value::Number(n) => Cell::number(*n),
            Value::Text(text) => text_cell(text),
            Value::List(list) => Cell::list((0..list.len()).map(|n| list.item(n).cell_by(text_cell))),
            Value::Object => Cell::OTHER,
        }
    }

    /// The number that it counts as.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Value::Number(n) => Some(*n),
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            _ => None,
        }
    }
}

fn compare(comparison: Comparison, a: &Value, b: &Value) -> bool {
    if matches!(a, Value::Missing) || matches!(b, Value::Missing) {
        return false;
    }
    let order = || match (a, b) {
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        _ => a.number()?.partial_cmp(&b.number()?),
    };
    match comparison {
        Comparison::Equal => equal(a, b),
        Comparison::NotEqual => !equal(a, b),
        Comparison::Less => order() == Some(Ordering::Less),
        Comparison::LessOrEqual => matches!(order(), Some(Ordering::Less | Ordering::Equal)),
        Comparison::Greater => order() == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => matches!(order(), Some(Ordering::Greater | Ordering::Equal)),
        Comparison::In => match (a, b) {
            (_, Value::List(list)) => (0..list.len()).any(|n| equal(a, &list.item(n))),
            (Value::Text(part), Value::Text(whole)) => whole.contains(&**part),
            _ => false,
        },
    }
}

/// Lists are compared item by item; an item may be a list in turn, as deep as META may nest.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Text(a), Value::Text(b)) => a == b,
        (Value::List(a), Value::List(b)) => a.len() == b.len() && (0..a.len()).all(|n| equal(&a.item(n), &b.item(n))),
        _ => match (a.number(), b.number()) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        },
    }
}

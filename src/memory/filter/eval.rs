//! Whether a memory passes a filter.

use super::{Arithmetic, Comparison, Field, Literal, Node};
use crate::entry::Entry;
use serde_json::Value as Json;
use std::borrow::Cow;
use std::cmp::Ordering;

/// What an expression is worth for one memory; borrowed from the filter or the memory, but for an id's text.
#[derive(Clone)]
enum Value<'a> {
    Missing,
    Null,
    Bool(bool),
    Number(f64),
    Text(Cow<'a, str>),
    Literals(&'a [Literal]),
    Tags(&'a [Box<str>]),
    Array(&'a [Json]),
    Object,
}

pub(super) fn matches(node: &Node, entry: &Entry) -> bool {
    match node {
        Node::All(nodes) => nodes.iter().all(|node| matches(node, entry)),
        Node::Any(nodes) => nodes.iter().any(|node| matches(node, entry)),
        Node::Not(node) => !matches(node, entry),
        Node::Compare(comparison, a, b) => compare(*comparison, &value(a, entry), &value(b, entry)),
        _ => match value(node, entry) {
            Value::Missing | Value::Null => false,
            Value::Bool(b) => b,
            Value::Number(n) => n != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::Object => true,
            list => list.len() != Some(0),
        },
    }
}

fn value<'a>(node: &'a Node, entry: &'a Entry) -> Value<'a> {
    match node {
        Node::Literal(literal) => from_literal(literal),
        Node::List(items) => Value::Literals(items),
        Node::Field(field) => from_field(*field, entry),
        Node::Meta(name) => entry.meta.as_ref().and_then(|meta| meta.get(&**name)).map_or(Value::Missing, from_json),
        Node::Negate(node) => number(-value(node, entry).number().unwrap_or(f64::NAN)),
        Node::Calculate(op, a, b) => match (value(a, entry).number(), value(b, entry).number()) {
            (Some(a), Some(b)) => number(match op {
                Arithmetic::Add => a + b,
                Arithmetic::Subtract => a - b,
                Arithmetic::Multiply => a * b,
                Arithmetic::Divide => a / b,
                Arithmetic::Remainder => a % b,
                Arithmetic::Power => a.powf(b),
            }),
            _ => Value::Missing,
        },
        Node::Compare(..) | Node::Not(_) | Node::All(_) | Node::Any(_) => Value::Bool(matches(node, entry)),
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

fn from_json(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => n.as_f64().map_or(Value::Missing, Value::Number),
        Json::String(text) => Value::Text(Cow::Borrowed(text)),
        Json::Array(items) => Value::Array(items),
        Json::Object(_) => Value::Object,
    }
}

fn from_field(field: Field, entry: &Entry) -> Value<'_> {
    let text = |text: &'static str| Value::Text(Cow::Borrowed(text));
    match field {
        Field::Id => Value::Text(Cow::Owned(entry.id.to_string())),
        Field::Tier => text(entry.tier.name()),
        Field::Kind => Value::Text(Cow::Borrowed(&entry.kind)),
        Field::Content => Value::Text(Cow::Borrowed(&entry.content)),
        Field::Importance => Value::Number(entry.importance),
        Field::Confidence => Value::Number(entry.confidence),
        Field::Outcome => optional(&entry.outcome),
        Field::At => Value::Number(entry.at as f64),
        Field::Created => Value::Number(entry.created as f64),
        Field::Accessed => Value::Number(entry.accessed() as f64),
        Field::Uses => Value::Number(f64::from(entry.uses())),
        Field::Expires => entry.expires.map_or(Value::Missing, |expires| Value::Number(expires as f64)),
        Field::Pinned => Value::Bool(entry.pinned),
        Field::Session => optional(&entry.session),
        Field::Speaker => optional(&entry.speaker),
        Field::Role => optional(&entry.role),
        Field::Source => optional(&entry.source),
        Field::Tags => Value::Tags(&entry.tags),
    }
}

fn optional(text: &Option<Box<str>>) -> Value<'_> {
    text.as_deref().map_or(Value::Missing, |text| Value::Text(Cow::Borrowed(text)))
}

impl<'a> Value<'a> {
    fn number(&self) -> Option<f64> {
        match self {
            Value::Number(n) => Some(*n),
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            _ => None,
        }
    }

    fn len(&self) -> Option<usize> {
        match self {
            Value::Literals(items) => Some(items.len()),
            Value::Tags(items) => Some(items.len()),
            Value::Array(items) => Some(items.len()),
            _ => None,
        }
    }

    fn item(&self, n: usize) -> Value<'a> {
        match self {
            Value::Literals(items) => items.get(n).map_or(Value::Missing, from_literal),
            Value::Tags(items) => items.get(n).map_or(Value::Missing, |tag| Value::Text(Cow::Borrowed(&**tag))),
            Value::Array(items) => items.get(n).map_or(Value::Missing, from_json),
            _ => Value::Missing,
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
        Comparison::In => match (a, b, b.len()) {
            (_, _, Some(len)) => (0..len).any(|n| equal(a, &b.item(n))),
            (Value::Text(part), Value::Text(whole), None) => whole.contains(&**part),
            _ => false,
        },
    }
}

/// Lists are compared item by item; an item may be a list in turn, as deep as META may nest.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Text(a), Value::Text(b)) => a == b,
        _ => match ((a.number(), b.number()), (a.len(), b.len())) {
            ((Some(a), Some(b)), _) => a == b,
            (_, (Some(a_len), Some(b_len))) => a_len == b_len && (0..a_len).all(|n| equal(&a.item(n), &b.item(n))),
            _ => false,
        },
    }
}

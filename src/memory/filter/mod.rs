//! The filter language.
//!
//! It is the one that Redis users know from VSIM:
//! `.importance >= 0.5 and .tier in ["long_term", "semantic"] and not (.outcome == "distracted")`.
//!
//! * **Fields** begin with a dot: a built-in name, or the name of a field at the top level of META (letters, digits, `_` and
//!   `-`, so a minus needs a space before it). Built-in fields that a memory does not have (no session, no expiry) are
//!   missing, like META fields.
//! * **Values**: numbers (`1`, `-0.5`, `.5`, `1e3`), strings in single or double quotes with backslash escapes, `true`,
//!   `false`, `null`, and lists of those in brackets. `true` and `false` compare with numbers as 1 and 0.
//! * **Operators**, weakest first: `or` `||`; `and` `&&`; `not` `!`; one of `==` `!=` `<` `<=` `>` `>=` `in`; `+` `-`;
//!   `*` `/` `%`; unary `-`; `**`. Parentheses group. Comparisons do not chain. Words are read in any case.
//! * **`in`**: an element of a list, of TAGS or of an array in META; a substring of a string (`"x" in .content`), by exact
//!   characters.
//! * **Types**: `<` and its kin order two numbers or two strings (by code point) and are false between others; `==` between
//!   different types is false and `!=` true. Arithmetic takes numbers; anything else, and a result that is not finite, is
//!   missing.
//! * **Missing**: every comparison with a missing field is false, `!=` too; so `not (.x == 1)` takes memories without `x` and
//!   `.x != 1` does not.
//! * **A bare value** holds if it is true, a number but 0, or a text or list that is not empty.
//!
//! Text is read by a recursive-descent parser into a tree whose depth is bounded. The tree is evaluated per memory without
//! allocation (`eval`: what the language means, for one record), and made into a plan that runs over columns (`plan`, `scan`:
//! what many memories are asked with). Rejected: compiling to a stack program as VSIM does: for one memory the tree is as quick
//! at these sizes and shorter, for many a column beats both.

mod build;
mod eval;
mod parse;
mod plan;
mod scan;
#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;

pub(crate) use eval::FieldSource;
pub(crate) use eval::{List, Value};
pub(crate) use scan::{Chunk, MetaColumn, Words};

use crate::columns::Cell;
use crate::entry::Entry;
use crate::{Error, Result};
use std::sync::Arc;

/// A parsed filter, cheap to clone and to send to another thread.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    parsed: Arc<Parsed>,
}

#[derive(Debug, PartialEq)]
struct Parsed {
    root: Node,
    plan: plan::Plan,
}

impl Filter {
    /// Reads a filter. Names are taken as they are; [`crate::Space::filter`] also checks that something bears them.
    pub fn parse(text: &str) -> Result<Filter> {
        Filter::parse_with(text, Cell::text)
    }

    /// The same for columns that have their texts from another function.
    fn parse_with(text: &str, text_cell: fn(&str) -> Cell) -> Result<Filter> {
        let root = parse::parse(text)?;
        let plan = plan::Plan::new(&root, text_cell);
        Ok(Filter { parsed: Arc::new(Parsed { root, plan }) })
    }

    /// Whether a memory passes.
    pub fn matches(&self, entry: &Entry) -> bool {
        self.accepts(entry)
    }

    /// Whether a memory passes, in whatever form it is.
    pub(crate) fn accepts(&self, source: &impl FieldSource) -> bool {
        eval::matches(&self.parsed.root, source)
    }

    /// Leaves of the rows `alive` of a chunk those that pass. Unless `exact`, two texts with one hash count as equal: see
    /// [`Filter::is_exact`].
    pub(crate) fn scan(&self, chunk: &impl Chunk, alive: &mut Words, exact: bool) {
        scan::scan(&self.parsed.plan, &self.parsed.root, chunk, alive, exact);
    }

    /// Whether a scan rests on no hash of a text, so that it is exact without being asked to be. Otherwise what a scan that is
    /// not exact lets pass has to be asked for with [`Filter::accepts`] before anybody sees it.
    pub(crate) fn is_exact(&self) -> bool {
        !self.parsed.plan.hashed
    }

    /// The META fields that it names.
    pub fn meta_names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.parsed.root.visit(&mut |node| {
            if let Node::Meta(name) = node {
                names.push(name.as_ref());
            }
        });
        names
    }
}

/// A name of the language's closed set.
pub(crate) struct BuiltIn {
    pub name: &'static str,
    field: Field,
    /// What to use instead of a META field of this name.
    pub instead: &'static str,
}

const fn built_in(name: &'static str, field: Field, instead: &'static str) -> BuiltIn {
    BuiltIn { name, field, instead }
}

const SET_BY_THE_SPACE: &str = "the space keeps it itself; for a value of your own use another name";

/// Every built-in name.
pub(crate) const BUILT_IN: [BuiltIn; 23] = [
    built_in("id", Field::Id, "use the option ID, or another name such as ref"),
    built_in("tier", Field::Tier, "use the option TIER"),
    built_in("type", Field::Kind, "use the option TYPE"),
    built_in("content", Field::Content, "the content is the text stored; use another name"),
    built_in("importance", Field::Importance, "use the option IMPORTANCE"),
    built_in("confidence", Field::Confidence, "use the option CONFIDENCE"),
    built_in("outcome", Field::Outcome, "use the option OUTCOME"),
    built_in("at", Field::At, "use the option AT"),
    built_in("created", Field::Created, SET_BY_THE_SPACE),
    built_in("accessed", Field::Accessed, SET_BY_THE_SPACE),
    built_in("uses", Field::Uses, SET_BY_THE_SPACE),
    built_in("expires", Field::Expires, "use the option TTL"),
    built_in("pinned", Field::Pinned, "use the option PIN"),
    built_in("session", Field::Session, "use the option SESSION"),
    built_in("speaker", Field::Speaker, "use the option SPEAKER"),
    built_in("role", Field::Role, "use SPEAKER, or another name"),
    built_in("source", Field::Source, "use the option SOURCE"),
    built_in("tags", Field::Tags, "use the option TAGS"),
    built_in("doc", Field::Doc, "use the option SOURCE"),
    built_in("position", Field::Position, "use another name"),
    built_in("total", Field::Total, "use another name"),
    built_in("heat", Field::Heat, SET_BY_THE_SPACE),
    built_in("superseded", Field::Superseded, "use the option SUPERSEDES"),
];

/// The built-in names that a filter can use.
pub(crate) fn field_names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|built_in| built_in.name)
}

/// A built-in field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Field {
    Id,
    Tier,
    Kind,
    Content,
    Importance,
    Confidence,
    Outcome,
    At,
    Created,
    Accessed,
    Uses,
    Expires,
    Pinned,
    Session,
    Speaker,
    Role,
    Source,
    Tags,
    /// The AT of what superseded it.
    Superseded,
    /// The document that it is a chunk of, which of its chunks, and of how many.
    Doc,
    Position,
    Total,
    /// How readily it lies.
    Heat,
}

/// A value written in the filter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Number(f64),
    Text(Box<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Power,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Literal(Literal),
    List(Vec<Literal>),
    Field(Field),
    Meta(Box<str>),
    Negate(Box<Node>),
    Calculate(Arithmetic, Box<Node>, Box<Node>),
    Compare(Comparison, Box<Node>, Box<Node>),
    Not(Box<Node>),
    All(Vec<Node>),
    Any(Vec<Node>),
}

impl Node {
    fn visit<'a>(&'a self, f: &mut impl FnMut(&'a Node)) {
        f(self);
        match self {
            Node::Literal(_) | Node::List(_) | Node::Field(_) | Node::Meta(_) => {}
            Node::Negate(a) | Node::Not(a) => a.visit(f),
            Node::Calculate(_, a, b) | Node::Compare(_, a, b) => {
                a.visit(f);
                b.visit(f);
            }
            Node::All(nodes) | Node::Any(nodes) => nodes.iter().for_each(|node| node.visit(f)),
        }
    }
}

/// The error for a name that no memory bears.
pub(crate) fn unknown_field<'a>(name: &str, meta_names: impl Iterator<Item = &'a str>) -> Error {
    let built_in = field_names().map(|name| -> &'a str { name });
    match crate::error::nearest(name, built_in.chain(meta_names)) {
        Some(near) => Error::new(format!("FILTER: no memory has a field '{name}': did you mean .{near}?")),
        None => Error::new(format!(
            "FILTER: no memory has a field '{name}': the built-in fields are {}, the others are those of META",
            field_names().collect::<Vec<_>>().join(", ")
        )),
    }
}

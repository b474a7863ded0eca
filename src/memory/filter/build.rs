//! Filters that the engine itself asks for, so that one mechanism admits memories, whoever restricts them.

use super::plan::Plan;
use super::{Comparison, Field, Filter, Literal, Node, Parsed};
use crate::columns::Cell;
use crate::{Millis, Tier};
use std::sync::Arc;

fn compare(field: Field, comparison: Comparison, value: Literal) -> Node {
    Node::Compare(comparison, Box::new(Node::Field(field)), Box::new(Node::Literal(value)))
}

fn time(field: Field, comparison: Comparison, at: Millis) -> Node {
    compare(field, comparison, Literal::Number(at as f64))
}

/// The value of an optional text, or its absence: a text that there is is never empty, so `!=` holds for every one but a missing one.
fn optional(field: Field, text: Option<&str>) -> Node {
    match text {
        Some(text) => compare(field, Comparison::Equal, Literal::Text(text.into())),
        None => Node::Not(Box::new(compare(field, Comparison::NotEqual, Literal::Text("".into())))),
    }
}

impl From<Node> for Filter {
    fn from(root: Node) -> Filter {
        let plan = Plan::new(&root, Cell::text);
        Filter { parsed: Arc::new(Parsed { root, plan }) }
    }
}

impl Filter {
    /// What passes all of these; everything, if there is none.
    pub(crate) fn all(filters: Vec<Filter>) -> Filter {
        Node::All(filters.into_iter().map(|filter| Node::clone(&filter.parsed.root)).collect()).into()
    }

    /// What has not expired at `now`.
    pub(crate) fn unexpired(now: Millis) -> Filter {
        Node::Not(Box::new(time(Field::Expires, Comparison::LessOrEqual, now))).into()
    }

    /// What nothing has superseded.
    pub(crate) fn current() -> Filter {
        Node::Not(Box::new(time(Field::Superseded, Comparison::GreaterOrEqual, 0))).into()
    }

    /// What had happened by `ms` and nothing that had happened by then had superseded.
    pub(crate) fn as_of(ms: Millis) -> Filter {
        let happened = time(Field::At, Comparison::LessOrEqual, ms);
        Node::All(vec![happened, Node::Not(Box::new(time(Field::Superseded, Comparison::LessOrEqual, ms)))]).into()
    }

    /// What happened from `since` until `until`, both included.
    pub(crate) fn between(since: Option<Millis>, until: Option<Millis>) -> Filter {
        let since = since.map(|at| time(Field::At, Comparison::GreaterOrEqual, at));
        let until = until.map(|at| time(Field::At, Comparison::LessOrEqual, at));
        Node::All(since.into_iter().chain(until).collect()).into()
    }

    /// The memories of tiers.
    pub(crate) fn tiers(tiers: &[Tier]) -> Filter {
        let names = tiers.iter().map(|tier| Literal::Text(tier.name().into())).collect();
        Node::Compare(Comparison::In, Box::new(Node::Field(Field::Tier)), Box::new(Node::List(names))).into()
    }

    /// The memories of a session.
    pub(crate) fn session(session: &str) -> Filter {
        optional(Field::Session, Some(session)).into()
    }

    /// The memories of a session and a speaker, None being those without.
    pub(crate) fn owner(session: Option<&str>, speaker: Option<&str>) -> Filter {
        Node::All(vec![optional(Field::Session, session), optional(Field::Speaker, speaker)]).into()
    }
}

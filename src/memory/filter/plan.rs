//! From tree to plan: what a scan runs, made once per filter.
//!
//! Whatever names no field is worked out here. A comparison of an expression with a constant becomes a [`Test`], a set of
//! cells, which a scan can look for in all forms of columns; one of two expressions is left to [`relate`]. What a column
//! cannot decide is *open*: the order of two texts, what is in a text or an object, and, where certainty is asked for, whether
//! two texts of one hash are equal. Truth has therefore three values, and `and`, `or` and `not` are Kleene's: a row that some
//! other part of the filter decides is never looked up.

use super::eval::{self, FieldSource, Value};
use super::{Arithmetic, Comparison, Field, Node};
use crate::Tier;
use crate::columns::Cell;

/// What a predicate is worth for one row, as far as cells tell. Two texts with one hash are equal, or open if it has to be
/// exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Truth {
    No,
    Yes,
    Open,
}

impl From<bool> for Truth {
    fn from(yes: bool) -> Truth {
        if yes { Truth::Yes } else { Truth::No }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub root: Predicate,
    /// Whether some result may rest on equal hashes.
    pub hashed: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Predicate {
    Always(bool),
    Test(Expression, Test),
    /// Whether a text is among the tags; the test is for chunks that have them only as lists.
    Tagged(Cell, Test),
    Relate(Comparison, Expression, Expression),
    Not(Box<Predicate>),
    /// The cheapest first.
    All(Vec<Predicate>),
    Any(Vec<Predicate>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    Constant(Cell),
    Field(Field),
    Meta(Box<str>),
    Negate(Box<Expression>),
    Calculate(Arithmetic, Box<Expression>, Box<Expression>),
    Predicate(Box<Predicate>),
}

/// A set of cells: those for which a comparison with a constant holds, those for which it stays open.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Test {
    /// Numbers from `low` to `high` are in it, both included.
    pub low: f64,
    pub high: f64,
    pub cells: Cells,
    /// Texts that are equal if their hash says the truth.
    pub hashed: Cells,
    /// Every text by its hash is open.
    pub texts: bool,
    /// Lists with these bits, and the mark of a list, are open.
    pub lists: Option<u64>,
    /// [`Cell::OTHER`] is open.
    pub other: bool,
    /// Holds for the rest instead, but never for a missing value.
    pub negated: bool,
}

/// Cells to look for: a few one by one, many by bisection behind a small Bloom filter.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Cells {
    sorted: Vec<Cell>,
    sieve: Vec<u64>,
}

/// Words of the sieve: 4,096 bits for at most 2,048 cells.
const SIEVE: usize = 64;
/// How many cells are few.
pub(super) const FEW: usize = 8;

impl Cells {
    pub fn push(&mut self, cell: Cell) {
        let Err(at) = self.sorted.binary_search(&cell) else { return };
        self.sorted.insert(at, cell);
        if self.sieve.is_empty() && self.sorted.len() > FEW {
            self.sieve = vec![0; SIEVE];
            (0..self.sorted.len()).for_each(|n| self.sift(n));
        } else {
            self.sift(at);
        }
    }

    fn sift(&mut self, n: usize) {
        if let Some((word, bit)) = self.sorted.get(n).map(|cell| sieve_place(*cell))
            && let Some(word) = self.sieve.get_mut(word)
        {
            *word |= bit;
        }
    }

    #[inline]
    pub fn contains(&self, cell: Cell) -> bool {
        if self.len() <= FEW {
            return self.sorted.iter().fold(false, |found, other| found | (*other == cell));
        }
        let (word, bit) = sieve_place(cell);
        self.sieve.get(word).is_some_and(|word| word & bit != 0) && self.sorted.binary_search(&cell).is_ok()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Cell> {
        self.sorted.iter().copied()
    }
}

fn sieve_place(cell: Cell) -> (usize, u64) {
    let mixed = cell.bits().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 58) as usize, 1 << ((mixed >> 52) & 63))
}

impl Test {
    fn none() -> Test {
        Test {
            low: f64::INFINITY,
            high: f64::NEG_INFINITY,
            cells: Cells::default(),
            hashed: Cells::default(),
            texts: false,
            lists: None,
            other: false,
            negated: false,
        }
    }

    /// Cells for which a bare value holds: everything but these.
    fn bare() -> Test {
        let mut test = Test { other: true, negated: true, ..Test::none() };
        for cell in [Cell::NULL, Cell::FALSE, Cell::number(0.0), Cell::EMPTY_TEXT, Cell::EMPTY_LIST] {
            test.cells.push(cell);
        }
        test
    }

    /// Adds the cells that equal a value.
    fn equal(&mut self, value: &Value, cell: Cell, certain: bool) {
        match value {
            Value::Missing | Value::Object => {}
            Value::Null => self.cells.push(cell),
            Value::Bool(_) | Value::Number(_) => self.number(value.number().unwrap_or(f64::NAN)),
            Value::Text(text) => {
                self.other = true;
                if certain || text.is_empty() { self.cells.push(cell) } else { self.hashed.push(cell) }
            }
            Value::List(list) => {
                self.other = true;
                // Equal lists have equal items and so the same bits; to look for these bits, and maybe more, is enough.
                if list.len() == 0 { self.cells.push(cell) } else { self.lists = Some(cell.bits()) }
            }
        }
    }

    /// Adds a number, and the boolean that counts as it.
    fn number(&mut self, number: f64) {
        self.cells.push(Cell::number(number));
        for (counts, cell) in [(0.0, Cell::FALSE), (1.0, Cell::TRUE)] {
            if counts == number {
                self.cells.push(cell);
            }
        }
    }

    /// The cells that stand in an order to a value.
    fn ordered(comparison: Comparison, value: &Value) -> Test {
        let mut test = Test::none();
        if let Value::Text(_) = value {
            (test.texts, test.other) = (true, true);
        }
        let Some(number) = value.number() else { return test };
        (test.low, test.high) = match comparison {
            Comparison::Less => (f64::MIN, number.next_down()),
            Comparison::LessOrEqual => (f64::MIN, number),
            Comparison::Greater => (number.next_up(), f64::MAX),
            _ => (number, f64::MAX),
        };
        for (counts, cell) in [(0.0, Cell::FALSE), (1.0, Cell::TRUE)] {
            if (test.low..=test.high).contains(&counts) {
                test.cells.push(cell);
            }
        }
        test
    }

    /// The cells of the texts, lists and objects that a value may be in.
    fn containing(value: &Value, cell: Cell) -> Test {
        let texts = matches!(value, Value::Text(_));
        Test { texts, lists: Some(crate::columns::LIST | cell.bloom()), other: true, ..Test::none() }
    }

    /// What it is worth for a cell.
    #[inline]
    pub fn on(&self, cell: Cell, exact: bool) -> Truth {
        if cell == Cell::MISSING {
            return Truth::No;
        }
        let inside = if let Some(number) = cell.as_number() {
            ((self.low <= number && number <= self.high) || self.cells.contains(cell)).into()
        } else if self.cells.contains(cell) {
            Truth::Yes
        } else if self.hashed.contains(cell) {
            if exact { Truth::Open } else { Truth::Yes }
        } else if cell == Cell::UNREAD
            || (self.other && cell == Cell::OTHER)
            || (self.texts && cell.is_text())
            || self.lists.is_some_and(|bits| cell.is_list() && cell.bits() & bits == bits)
        {
            Truth::Open
        } else {
            Truth::No
        };
        match inside {
            Truth::No if self.negated => Truth::Yes,
            Truth::Yes if self.negated => Truth::No,
            inside => inside,
        }
    }
}

/// What a comparison of two cells is worth.
pub(super) fn relate(comparison: Comparison, a: Cell, b: Cell, exact: bool) -> Truth {
    if a == Cell::MISSING || b == Cell::MISSING {
        return Truth::No;
    }
    if a == Cell::UNREAD || b == Cell::UNREAD {
        return Truth::Open;
    }
    let may_be_text = |cell: Cell| cell.is_text() || cell == Cell::OTHER;
    let may_be_list = |cell: Cell| cell.is_list() || cell == Cell::OTHER;
    match comparison {
        Comparison::Equal | Comparison::NotEqual => {
            let equal = match (number(a), number(b)) {
                (Some(a), Some(b)) => (a == b).into(),
                _ if a.is_text() && a == b => {
                    if exact && a != Cell::EMPTY_TEXT {
                        Truth::Open
                    } else {
                        Truth::Yes
                    }
                }
                _ if a == Cell::NULL && b == Cell::NULL => Truth::Yes,
                _ if a.is_text() && b.is_text() => Truth::No,
                _ if a.is_list() && b.is_list() && a != b => Truth::No,
                _ if (may_be_text(a) && may_be_text(b)) || (may_be_list(a) && may_be_list(b)) => Truth::Open,
                _ => Truth::No,
            };
            match equal {
                Truth::Yes if comparison == Comparison::NotEqual => Truth::No,
                Truth::No if comparison == Comparison::NotEqual => Truth::Yes,
                equal => equal,
            }
        }
        Comparison::In => {
            let bits = a.bloom();
            match b {
                Cell::OTHER => Truth::Open,
                b if b.is_text() && may_be_text(a) => Truth::Open,
                // What is other may be a text, whose bits are not known.
                b if b.is_list() && b != Cell::EMPTY_LIST && (a == Cell::OTHER || b.bits() & bits == bits) => {
                    Truth::Open
                }
                _ => Truth::No,
            }
        }
        _ => match (number(a), number(b)) {
            (Some(a), Some(b)) => match comparison {
                Comparison::Less => a < b,
                Comparison::LessOrEqual => a <= b,
                Comparison::Greater => a > b,
                _ => a >= b,
            }
            .into(),
            _ if may_be_text(a) && may_be_text(b) => Truth::Open,
            _ => Truth::No,
        },
    }
}

/// The number that a cell counts as in comparisons and sums.
pub(super) fn number(cell: Cell) -> Option<f64> {
    match cell {
        Cell::FALSE => Some(0.0),
        Cell::TRUE => Some(1.0),
        cell => cell.as_number(),
    }
}

/// A memory without fields, in which constants are worked out.
struct Nothing;

impl FieldSource for Nothing {
    fn field(&self, _: Field) -> Value<'_> {
        Value::Missing
    }

    fn meta(&self, _: &str) -> Value<'_> {
        Value::Missing
    }
}

impl Plan {
    /// The plan of a filter, whose columns got their texts by the same `text_cell`.
    pub fn new(root: &Node, text_cell: fn(&str) -> Cell) -> Plan {
        let mut planner = Planner { text_cell, hashed: false };
        let root = planner.predicate(root);
        Plan { root, hashed: planner.hashed }
    }
}

struct Planner {
    text_cell: fn(&str) -> Cell,
    hashed: bool,
}

impl Planner {
    fn predicate(&mut self, node: &Node) -> Predicate {
        if is_constant(node) {
            return Predicate::Always(eval::matches(node, &Nothing));
        }
        match node {
            Node::Compare(comparison, a, b) => self.compare(*comparison, a, b),
            Node::Not(node) => Predicate::Not(Box::new(self.predicate(node))),
            Node::All(nodes) => Predicate::All(self.cheapest_first(nodes)),
            Node::Any(nodes) => Predicate::Any(self.cheapest_first(nodes)),
            _ => Predicate::Test(self.expression(node), Test::bare()),
        }
    }

    fn cheapest_first(&mut self, nodes: &[Node]) -> Vec<Predicate> {
        let mut predicates: Vec<Predicate> = nodes.iter().map(|node| self.predicate(node)).collect();
        predicates.sort_by_key(Predicate::cost);
        predicates
    }

    fn compare(&mut self, comparison: Comparison, a: &Node, b: &Node) -> Predicate {
        use Comparison::{Equal, Greater, GreaterOrEqual, In, Less, LessOrEqual, NotEqual};
        match (is_constant(a), is_constant(b)) {
            (false, true) => {
                let value = eval::value(b, &Nothing);
                let test = self.test(comparison, a, &value);
                Predicate::Test(self.expression(a), test)
            }
            (true, false) => {
                let value = eval::value(a, &Nothing);
                let cell = value.cell_by(self.text_cell);
                if let (In, Node::Field(Field::Tags), Value::Text(_)) = (comparison, b, &value) {
                    self.hashed = true;
                    return Predicate::Tagged(cell, Test::containing(&value, cell));
                }
                let test = match comparison {
                    In if matches!(value, Value::Missing) => Test::none(),
                    In => Test::containing(&value, cell),
                    Equal | NotEqual => self.test(comparison, b, &value),
                    Less => self.test(Greater, b, &value),
                    LessOrEqual => self.test(GreaterOrEqual, b, &value),
                    Greater => self.test(Less, b, &value),
                    GreaterOrEqual => self.test(LessOrEqual, b, &value),
                };
                Predicate::Test(self.expression(b), test)
            }
            _ => {
                let (a, b) = (self.expression(a), self.expression(b));
                self.hashed |= matches!(comparison, Equal | NotEqual) && a.may_be_text() && b.may_be_text();
                Predicate::Relate(comparison, a, b)
            }
        }
    }

    /// A comparison of an expression, on the left, with a constant.
    fn test(&mut self, comparison: Comparison, node: &Node, value: &Value) -> Test {
        let mut test = Test::none();
        match (comparison, value) {
            (_, Value::Missing) => {}
            (Comparison::Equal, _) => self.equal(&mut test, node, value),
            (Comparison::NotEqual, _) => {
                self.equal(&mut test, node, value);
                test.negated = true;
            }
            (Comparison::In, Value::List(list)) => {
                (0..list.len()).for_each(|n| self.equal(&mut test, node, &list.item(n)));
            }
            (Comparison::In, Value::Text(_)) => (test.texts, test.other) = (true, true),
            (Comparison::In, _) => {}
            _ => test = Test::ordered(comparison, value),
        }
        test
    }

    fn equal(&mut self, test: &mut Test, node: &Node, value: &Value) {
        let cell = value.cell_by(self.text_cell);
        // The tiers are known, so it is known whether one of them has the hash of a text without being it.
        let certain = *node == Node::Field(Field::Tier)
            && matches!(value, Value::Text(text)
                if Tier::ALL.iter().all(|tier| (self.text_cell)(tier.name()) != cell || tier.name() == text));
        test.equal(value, cell, certain);
        self.hashed |= test.hashed.len() > 0;
    }

    fn expression(&mut self, node: &Node) -> Expression {
        if is_constant(node) {
            return Expression::Constant(eval::value(node, &Nothing).cell_by(self.text_cell));
        }
        match node {
            // Never in a column, and never a number.
            Node::Field(Field::Id | Field::Content) => Expression::Constant(Cell::OTHER),
            Node::Field(field) => Expression::Field(*field),
            Node::Meta(name) => Expression::Meta(name.clone()),
            Node::Negate(a) => Expression::Negate(Box::new(self.expression(a))),
            Node::Calculate(op, a, b) => {
                Expression::Calculate(*op, Box::new(self.expression(a)), Box::new(self.expression(b)))
            }
            _ => Expression::Predicate(Box::new(self.predicate(node))),
        }
    }
}

/// Whether a tree names no field.
fn is_constant(node: &Node) -> bool {
    let mut constant = true;
    node.visit(&mut |node| constant &= !matches!(node, Node::Field(_) | Node::Meta(_)));
    constant
}

impl Predicate {
    /// The time that it takes, in tenths of a nanosecond per row, nearly.
    fn cost(&self) -> usize {
        match self {
            Predicate::Always(_) => 0,
            Predicate::Test(expression, test) => {
                expression.cost() + if test.cells.len() + test.hashed.len() > FEW { 20 } else { 3 }
            }
            Predicate::Tagged(..) => 5,
            Predicate::Relate(_, a, b) => 30 + a.cost() + b.cost(),
            Predicate::Not(predicate) => predicate.cost(),
            Predicate::All(predicates) | Predicate::Any(predicates) => predicates.iter().map(Predicate::cost).sum(),
        }
    }
}

impl Expression {
    fn cost(&self) -> usize {
        match self {
            Expression::Constant(_) | Expression::Field(_) | Expression::Meta(_) => 0,
            Expression::Negate(a) => 20 + a.cost(),
            Expression::Calculate(Arithmetic::Power | Arithmetic::Remainder, a, b) => 200 + a.cost() + b.cost(),
            Expression::Calculate(_, a, b) => 20 + a.cost() + b.cost(),
            Expression::Predicate(predicate) => 20 + predicate.cost(),
        }
    }

    fn may_be_text(&self) -> bool {
        match self {
            Expression::Field(_) | Expression::Meta(_) => true,
            Expression::Constant(cell) => cell.is_text(),
            _ => false,
        }
    }
}

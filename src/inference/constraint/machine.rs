//! What may follow, byte by byte: a pushdown machine over the alternatives of a schema, and the short way to the end from wherever it is.
//!
//! A [`Thread`] is one reading of the text so far: the innermost value under way and, linked, what waits for it to end. Where a text can be read in several
//! ways (`anyOf`), several threads run side by side, and equal ones are one. Links are shared, so a step costs a copy of the innermost state.
//!
//! Every state that is reachable can reach the end: an alternative is entered only if it can be written within the levels that are left, which a table
//! says that is filled level by level. So a recursive schema ends, at level [`DEEPEST`] at the latest, and no step leads into a dead end.

use std::rc::Rc;
use std::sync::Arc;

use super::number::{Number, Written};
use super::schema::{self, Alternative, Document, Id, NOTHING};
use crate::Error;

/// Levels of arrays and objects in a text.
pub const DEEPEST: usize = 32;
/// Readings that are followed side by side; beyond, what only later ones allow is not written.
const MOST_THREADS: usize = 256;
/// Bytes of a member's name that no schema spells out.
const LONGEST_NAME: usize = 48;
/// Bytes of the shortest text that a schema may have.
const LONGEST_SHORTEST: u32 = 1 << 20;

/// What is written after what has no value: it cannot be written.
const NEVER: u32 = u32::MAX;

enum Shape {
    Scalars(Vec<Box<[u8]>>),
    Text { least: u32, most: u32 },
    Number(Number),
    Array { prefix: Vec<Id>, rest: Option<Id>, least: u32, most: u32 },
    Object { members: Vec<Member>, rest: Option<Id>, least: u32, most: u32 },
}

struct Member {
    /// As it is written, with its quotes.
    key: Box<[u8]>,
    schema: Id,
    required: bool,
    /// How many members from this one on are required.
    still: u32,
}

/// A compiled schema: immutable, shared by all generations that use it.
pub(super) struct Machine {
    shapes: Vec<Shape>,
    /// The shapes of schema `id` are `shapes[starts[id]..starts[id + 1]]`.
    starts: Vec<u32>,
    /// Bytes of a short text of a shape, by levels left and shape.
    costs: Vec<u32>,
    root: Id,
}

/// One reading of the text so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Thread {
    state: State,
    above: Option<Arc<Frame>>,
}

/// What goes on when the value within has ended.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    state: State,
    above: Option<Arc<Frame>>,
    /// How many frames this and those above are.
    depth: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// A value comes, after a space if one may stand here.
    Value {
        schema: Id,
        space: bool,
    },
    /// So far `at` bytes of this scalar, and of those beside it that begin alike.
    Scalar {
        shape: u32,
        scalar: u32,
        at: u32,
    },
    Number {
        shape: u32,
        written: Written,
    },
    Text {
        shape: u32,
        count: u32,
        lex: Lex,
    },
    Array {
        shape: u32,
        count: u32,
    },
    Object {
        object: Place,
        stage: Stage,
    },
    /// The text is complete and nothing may follow.
    End,
}

/// Where in an object: how many members it has, from which declared one on there may be more, and the undeclared ones that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    shape: u32,
    next: u32,
    count: u32,
    used: Option<Arc<Used>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// After `{` or a member.
    Between,
    /// After a comma, and after a space if it is not to come.
    Comma { space: bool },
    /// In the key of a declared member.
    Key { member: u32, at: u32 },
    /// In the key of another member.
    Name { name: Name, lex: Lex },
    /// After a key.
    Colon { schema: Id },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    bytes: [u8; LONGEST_NAME],
    len: u8,
}

#[derive(Debug, PartialEq, Eq)]
struct Used {
    name: Name,
    before: Option<Arc<Used>>,
}

impl Drop for Used {
    fn drop(&mut self) {
        // One by one: a long list must not take a stack as long.
        let mut next = self.before.take();
        while let Some(mut entry) = next.and_then(Arc::into_inner) {
            next = entry.before.take();
        }
    }
}

/// Where in a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lex {
    /// Between characters.
    Plain,
    /// After a backslash.
    Escape,
    /// After `\u`, with so many digits to come. `high` after a D: a surrogate may not follow.
    Hex { left: u8, high: bool },
    /// In a character, with so many bytes to come, the next of them from `low` to `high`.
    Utf8 { left: u8, low: u8, high: u8 },
}

/// How many characters a string may still take wherever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Not between the characters of a string.
    None,
    Characters(u32),
    Bytes(usize),
}

impl Name {
    const EMPTY: Name = Name { bytes: [0; LONGEST_NAME], len: 0 };

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn with(mut self, byte: u8) -> Option<Name> {
        *self.bytes.get_mut(usize::from(self.len))? = byte;
        self.len += 1;
        Some(self)
    }
}

impl Lex {
    /// The next byte within a string. `Err(())` = not possible; `Ok(None)` = the quote that ends it; else where it is now, and whether a character has
    /// begun.
    fn step(self, byte: u8, escapes: bool) -> Result<Option<(Lex, bool)>, ()> {
        let plain = Ok(Some((Lex::Plain, false)));
        let utf8 = |left, low, high| Ok(Some((Lex::Utf8 { left, low, high }, true)));
        match (self, byte) {
            (Lex::Plain, b'"') => Ok(None),
            (Lex::Plain, b'\\') if escapes => Ok(Some((Lex::Escape, true))),
            (Lex::Plain, b'\\' | 0..=0x1f) => Err(()),
            (Lex::Plain, 0x20..=0x7f) => Ok(Some((Lex::Plain, true))),
            (Lex::Plain, 0xc2..=0xdf) => utf8(1, 0x80, 0xbf),
            (Lex::Plain, 0xe0) => utf8(2, 0xa0, 0xbf),
            (Lex::Plain, 0xed) => utf8(2, 0x80, 0x9f),
            (Lex::Plain, 0xe1..=0xef) => utf8(2, 0x80, 0xbf),
            (Lex::Plain, 0xf0) => utf8(3, 0x90, 0xbf),
            (Lex::Plain, 0xf1..=0xf3) => utf8(3, 0x80, 0xbf),
            (Lex::Plain, 0xf4) => utf8(3, 0x80, 0x8f),
            (Lex::Plain, _) => Err(()),
            (Lex::Escape, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => plain,
            (Lex::Escape, b'u') => Ok(Some((Lex::Hex { left: 4, high: false }, false))),
            (Lex::Escape, _) => Err(()),
            (Lex::Hex { left, high }, _) => {
                if !byte.is_ascii_hexdigit() || high && left == 3 && !matches!(byte, b'0'..=b'7') {
                    Err(())
                } else if left == 1 {
                    plain
                } else {
                    Ok(Some((Lex::Hex { left: left - 1, high: left == 4 && matches!(byte, b'd' | b'D') }, false)))
                }
            }
            (Lex::Utf8 { left, low, high }, _) if (low..=high).contains(&byte) => {
                if left == 1 {
                    plain
                } else {
                    Ok(Some((Lex::Utf8 { left: left - 1, low: 0x80, high: 0xbf }, false)))
                }
            }
            (Lex::Utf8 { .. }, _) => Err(()),
        }
    }

    /// Ends the character.
    fn finish(self, out: &mut Vec<u8>) {
        match self {
            Lex::Plain => {}
            Lex::Escape => out.push(b'n'),
            Lex::Hex { left, .. } => out.extend(std::iter::repeat_n(b'0', usize::from(left))),
            Lex::Utf8 { left, low, .. } => {
                out.push(low);
                out.extend(std::iter::repeat_n(0x80, usize::from(left - 1)));
            }
        }
    }
}

/// The bytes of two texts, or of none where one cannot be.
fn plus(a: u32, b: u32) -> u32 {
    if a == NEVER || b == NEVER { NEVER } else { a.saturating_add(b).min(NEVER - 1) }
}

/// Levels that are left below these frames.
fn levels(above: &Option<Arc<Frame>>) -> usize {
    DEEPEST.saturating_sub(above.as_ref().map_or(0, |frame| frame.depth as usize))
}

/// These frames with one more below.
fn pushed(state: State, above: &Option<Arc<Frame>>) -> Option<Arc<Frame>> {
    let depth = above.as_ref().map_or(0, |frame| frame.depth) + 1;
    Some(Arc::new(Frame { state, above: above.clone(), depth }))
}

/// What goes on after a value.
fn popped(above: &Option<Arc<Frame>>) -> Thread {
    match above {
        None => Thread { state: State::End, above: None },
        Some(frame) => Thread { state: frame.state.clone(), above: frame.above.clone() },
    }
}

impl Machine {
    pub(super) fn new(document: &Document) -> Result<Machine, Error> {
        let (mut shapes, mut starts) = (Vec::new(), vec![0]);
        for alternatives in &document.schemas {
            shapes.extend(alternatives.iter().map(shape));
            starts.push(u32::try_from(shapes.len()).unwrap_or(u32::MAX));
        }
        let mut machine = Machine { shapes, starts, costs: Vec::new(), root: document.root };
        for level in 0..=DEEPEST {
            for shape in 0..machine.shapes.len() {
                let cost = machine.measure(shape, level);
                machine.costs.push(cost);
            }
        }
        match machine.cost(document.root, DEEPEST) {
            NEVER => Err(machine.nothing(document)),
            cost if cost > LONGEST_SHORTEST => Err(Error::new(format!(
                "the shortest text that the schema allows has more than {LONGEST_SHORTEST} bytes"
            ))),
            _ => Ok(machine),
        }
    }

    /// The error for a schema that nothing satisfies: where the contradiction is.
    fn nothing(&self, document: &Document) -> Error {
        let (mut at, mut level) = (document.root, DEEPEST);
        loop {
            let place = document.places.get(at as usize).map_or("#", Rc::as_ref);
            let shapes = self.range(at);
            if shapes.is_empty() {
                return Error::new(format!("the schema is contradictory: nothing satisfies it at {place}"));
            }
            let wanted = shapes.filter_map(|shape| self.shapes.get(shape)).find_map(|shape| match shape {
                Shape::Object { members, .. } => {
                    let stuck = |m: &&Member| m.required && self.cost(m.schema, level.saturating_sub(1)) == NEVER;
                    members.iter().find(stuck).map(|m| m.schema)
                }
                Shape::Array { prefix, rest, least, .. } => (0..*least as usize)
                    .map(|i| prefix.get(i).copied().or(*rest).unwrap_or(NOTHING))
                    .find(|item| self.cost(*item, level.saturating_sub(1)) == NEVER),
                _ => None,
            });
            match wanted {
                Some(next) if level > 0 => (at, level) = (next, level - 1),
                Some(_) => {
                    return Error::new(format!(
                        "the schema needs values within values without end or deeper than {DEEPEST} levels, at {place}"
                    ));
                }
                None => {
                    return Error::new(format!(
                        "the schema is contradictory: nothing has as many items or properties as it asks for at {place}"
                    ));
                }
            }
        }
    }

    pub(super) fn start(&self) -> Thread {
        Thread { state: State::Value { schema: self.root, space: false }, above: None }
    }

    fn range(&self, schema: Id) -> std::ops::Range<usize> {
        let bound = |i: usize| self.starts.get(i).map_or(0, |&start| start as usize);
        bound(schema as usize)..bound(schema as usize + 1)
    }

    fn shape_cost(&self, shape: usize, level: usize) -> u32 {
        self.costs.get(level * self.shapes.len() + shape).copied().unwrap_or(NEVER)
    }

    /// Bytes of a short text of this schema within so many levels.
    fn cost(&self, schema: Id, level: usize) -> u32 {
        self.range(schema).map(|shape| self.shape_cost(shape, level)).min().unwrap_or(NEVER)
    }

    fn possible(&self, schema: Id, level: usize) -> bool {
        self.cost(schema, level) != NEVER
    }

    /// Bytes of a short text of a shape, from the costs of the level below.
    fn measure(&self, shape: usize, level: usize) -> u32 {
        let Some(shape) = self.shapes.get(shape) else { return NEVER };
        match shape {
            Shape::Scalars(texts) => texts.iter().map(|t| t.len() as u32).min().unwrap_or(NEVER),
            Shape::Text { least, .. } => least.saturating_add(2),
            Shape::Number(number) => number.shortest().map_or(NEVER, |text| text.len() as u32),
            Shape::Array { .. } | Shape::Object { .. } if level == 0 => NEVER,
            Shape::Array { prefix, rest, least, .. } => {
                let item = |item: Id| plus(self.cost(item, level - 1), 1);
                let start = prefix.iter().take(*least as usize).fold(2, |sum, id| plus(sum, item(*id)));
                match (least.saturating_sub(prefix.len() as u32), item(rest.unwrap_or(NOTHING))) {
                    (0, _) => start,
                    (_, NEVER) => NEVER,
                    (more, each) => plus(start, each.saturating_mul(more).min(NEVER - 1)),
                }
            }
            Shape::Object { members, rest, least, most } => {
                let place = Place { shape: 0, next: 0, count: 0, used: None };
                let Some(wanted) = self.missing(members, *rest, *least, *most, &place, level) else { return NEVER };
                wanted.into_iter().fold(2, |sum, (member, schema)| {
                    let key = member.map_or(8, |member| member.key.len() as u32);
                    plus(sum, plus(self.cost(schema, level - 1), key.saturating_add(2)))
                })
            }
        }
    }

    /// The members that an object at `place` still needs, in order; undeclared ones without a member. None if it cannot have them.
    fn missing<'m>(
        &self,
        members: &'m [Member],
        rest: Option<Id>,
        least: u32,
        most: u32,
        place: &Place,
        level: usize,
    ) -> Option<Vec<(Option<&'m Member>, Id)>> {
        let left = members.get(place.next as usize..).unwrap_or_default();
        let required = left.first().map_or(0, |member| member.still);
        let mut spare = least.saturating_sub(place.count.saturating_add(required));
        let mut wanted = Vec::new();
        for member in left {
            let possible = self.possible(member.schema, level.checked_sub(1)?);
            if member.required {
                wanted.push((Some(member), possible.then_some(member.schema)?));
            } else if spare > 0 && possible {
                spare -= 1;
                wanted.push((Some(member), member.schema));
            }
        }
        if spare > 0 {
            let rest = rest.filter(|rest| level > 0 && self.possible(*rest, level - 1))?;
            wanted.extend(std::iter::repeat_n((None, rest), spare as usize));
        }
        (place.count as usize + wanted.len() <= most as usize).then_some(wanted)
    }

    /// All readings of the text so far and one more byte.
    pub(super) fn step(&self, threads: &[Thread], byte: u8, out: &mut Vec<Thread>) {
        out.clear();
        for thread in threads {
            self.advance(thread, byte, out);
        }
        if out.len() > 1 {
            let mut kept = 0;
            for i in 0..out.len() {
                if !out[..kept].contains(&out[i]) {
                    out.swap(kept, i);
                    kept += 1;
                }
            }
            out.truncate(kept.min(MOST_THREADS));
        }
    }

    fn advance(&self, thread: &Thread, byte: u8, out: &mut Vec<Thread>) {
        let above = &thread.above;
        match &thread.state {
            State::End => {}
            State::Value { schema, space } => {
                if byte == b' ' && *space {
                    out.push(Thread { state: State::Value { schema: *schema, space: false }, above: above.clone() });
                } else {
                    self.open(*schema, byte, above, out);
                }
            }
            State::Scalar { shape, scalar, at } => {
                let Some(Shape::Scalars(texts)) = self.shapes.get(*shape as usize) else { return };
                self.scalar(texts, *shape, *scalar as usize, *at as usize, byte, above, out);
                if texts.get(*scalar as usize).is_some_and(|text| text.len() == *at as usize) {
                    self.advance(&popped(above), byte, out);
                }
            }
            State::Number { shape, written } => {
                let Some(Shape::Number(number)) = self.shapes.get(*shape as usize) else { return };
                if let Some(written) = number.step(*written, byte) {
                    out.push(Thread { state: State::Number { shape: *shape, written }, above: above.clone() });
                } else if number.complete(*written) {
                    self.advance(&popped(above), byte, out);
                }
            }
            State::Text { shape, count, lex } => {
                let Some(Shape::Text { least, most }) = self.shapes.get(*shape as usize) else { return };
                match lex.step(byte, true) {
                    Ok(None) if count >= least => out.push(popped(above)),
                    Ok(Some((lex, begun))) if !begun || count < most => {
                        let count = count.saturating_add(u32::from(begun));
                        out.push(Thread { state: State::Text { shape: *shape, count, lex }, above: above.clone() });
                    }
                    _ => {}
                }
            }
            State::Array { shape, count } => {
                let Some(Shape::Array { prefix, rest, least, most }) = self.shapes.get(*shape as usize) else { return };
                if byte == b']' {
                    if count >= least {
                        out.push(popped(above));
                    }
                    return;
                }
                let item = prefix.get(*count as usize).copied().or(*rest).filter(|_| count < most);
                let Some(item) = item.filter(|item| self.possible(*item, levels(above).saturating_sub(1))) else {
                    return;
                };
                if *count > 0 && byte != b',' {
                    return;
                }
                let frame = pushed(State::Array { shape: *shape, count: count.saturating_add(1) }, above);
                if *count > 0 {
                    out.push(Thread { state: State::Value { schema: item, space: true }, above: frame });
                } else {
                    self.open(item, byte, &frame, out);
                }
            }
            State::Object { object, stage } => self.object(object, stage, byte, above, out),
        }
    }

    /// The first byte of a value.
    fn open(&self, schema: Id, byte: u8, above: &Option<Arc<Frame>>, out: &mut Vec<Thread>) {
        let level = levels(above);
        for index in self.range(schema) {
            if self.shape_cost(index, level) == NEVER {
                continue;
            }
            let shape = index as u32;
            let state = match (&self.shapes[index], byte) {
                (Shape::Scalars(texts), _) => {
                    self.scalar(texts, shape, 0, 0, byte, above, out);
                    continue;
                }
                (Shape::Number(number), _) => match number.step(Written::default(), byte) {
                    Some(written) => State::Number { shape, written },
                    None => continue,
                },
                (Shape::Text { .. }, b'"') => State::Text { shape, count: 0, lex: Lex::Plain },
                (Shape::Array { .. }, b'[') => State::Array { shape, count: 0 },
                (Shape::Object { .. }, b'{') => {
                    let object = Place { shape, next: 0, count: 0, used: None };
                    State::Object { object, stage: Stage::Between }
                }
                _ => continue,
            };
            out.push(Thread { state, above: above.clone() });
        }
    }

    /// One more byte of a scalar: the texts are in order, so those that begin alike stand together.
    #[expect(
        clippy::too_many_arguments,
        reason = "the fields of the frame that it is called for, taken apart by the match"
    )]
    fn scalar(
        &self,
        texts: &[Box<[u8]>],
        shape: u32,
        scalar: usize,
        at: usize,
        byte: u8,
        above: &Option<Arc<Frame>>,
        out: &mut Vec<Thread>,
    ) {
        let begun = texts.get(scalar).and_then(|text| text.get(..at)).unwrap_or_default();
        let alike = |text: &[u8]| text.starts_with(begun) && text.get(at) == Some(&byte);
        let from = texts.partition_point(|text| {
            text.get(..at.min(text.len())).unwrap_or_default() < begun
                || text.starts_with(begun) && text.get(at).is_none_or(|b| *b < byte)
        });
        let Some(found) = texts.get(from).filter(|text| alike(text)) else { return };
        let alone = !texts.get(from + 1).is_some_and(|next| next.starts_with(found));
        if found.len() == at + 1 && alone {
            out.push(popped(above));
        } else {
            let state = State::Scalar { shape, scalar: from as u32, at: at as u32 + 1 };
            out.push(Thread { state, above: above.clone() });
        }
    }

    fn object(&self, object: &Place, stage: &Stage, byte: u8, above: &Option<Arc<Frame>>, out: &mut Vec<Thread>) {
        let Some(Shape::Object { members, rest, least, most }) = self.shapes.get(object.shape as usize) else { return };
        let level = levels(above);
        let below = level.saturating_sub(1);
        let still = members.get(object.next as usize).map_or(0, |member| member.still);
        // The declared members that may come next: up to the first required one, if the rest can still be had after them.
        let fits = |next: u32, count: u32| {
            let with_required = count + members.get(next as usize).map_or(0, |member| member.still);
            with_required <= *most
                && (with_required >= *least || {
                    let place = Place { shape: object.shape, next, count, used: None };
                    self.missing(members, *rest, *least, *most, &place, level).is_some()
                })
        };
        let candidates = || {
            let mut open = object.count < *most;
            members
                .iter()
                .enumerate()
                .skip(object.next as usize)
                .take_while(move |(_, member)| {
                    let before = open;
                    open &= !member.required;
                    before
                })
                .filter(move |(i, member)| self.possible(member.schema, below) && fits(*i as u32 + 1, object.count + 1))
        };
        let other = || rest.filter(|rest| still == 0 && object.count < *most && self.possible(*rest, below));
        let mut push = |stage: Stage| {
            let state = State::Object { object: object.clone(), stage };
            out.push(Thread { state, above: above.clone() });
        };
        match stage {
            Stage::Between | Stage::Comma { .. } if byte == b'"' && (object.count == 0 || *stage != Stage::Between) => {
                if let Some((member, _)) = candidates().next() {
                    push(Stage::Key { member: member as u32, at: 1 });
                }
                if other().is_some() {
                    push(Stage::Name { name: Name::EMPTY, lex: Lex::Plain });
                }
            }
            Stage::Between => match byte {
                b'}' if still == 0 && object.count >= *least => out.push(popped(above)),
                b',' if object.count > 0 && (other().is_some() || candidates().next().is_some()) => {
                    push(Stage::Comma { space: true });
                }
                _ => {}
            },
            Stage::Comma { space } => {
                if byte == b' ' && *space {
                    push(Stage::Comma { space: false });
                }
            }
            Stage::Key { member, at } => {
                let at = *at as usize;
                let begun = members.get(*member as usize).and_then(|m| m.key.get(..at)).unwrap_or_default();
                let next = candidates().find(|(_, m)| m.key.get(at) == Some(&byte) && m.key.starts_with(begun));
                let Some((index, found)) = next else { return };
                if found.key.len() == at + 1 {
                    let (next, count) = (index as u32 + 1, object.count + 1);
                    let object = Place { next, count, ..object.clone() };
                    let state = State::Object { object, stage: Stage::Colon { schema: found.schema } };
                    out.push(Thread { state, above: above.clone() });
                } else {
                    push(Stage::Key { member: index as u32, at: at as u32 + 1 });
                }
            }
            Stage::Name { name, lex } => match lex.step(byte, false) {
                Ok(None) if !self.taken(members, object, name.as_bytes()) => {
                    let Some(schema) = other() else { return };
                    let used = Some(Arc::new(Used { name: *name, before: object.used.clone() }));
                    let object =
                        Place { next: members.len() as u32, count: object.count + 1, used, shape: object.shape };
                    let state = State::Object { object, stage: Stage::Colon { schema } };
                    out.push(Thread { state, above: above.clone() });
                }
                Ok(Some((lex, _))) => {
                    let Some(name) = name.with(byte) else { return };
                    let left = if let Lex::Utf8 { left, .. } = lex { usize::from(left) } else { 0 };
                    let len = usize::from(name.len);
                    // A name that can grow no more must be one that may end.
                    if len + left < LONGEST_NAME || left == 0 && !self.taken(members, object, name.as_bytes()) {
                        push(Stage::Name { name, lex });
                    }
                }
                _ => {}
            },
            Stage::Colon { schema } => {
                if byte == b':' {
                    let state = State::Object { object: object.clone(), stage: Stage::Between };
                    let above = pushed(state, above);
                    out.push(Thread { state: State::Value { schema: *schema, space: true }, above });
                }
            }
        }
    }

    /// Whether an object cannot have an undeclared member of this name: it is empty, declared, or there already.
    fn taken(&self, members: &[Member], object: &Place, name: &[u8]) -> bool {
        let mut used = object.used.as_ref();
        while let Some(entry) = used {
            if entry.name.as_bytes() == name {
                return true;
            }
            used = entry.before.as_ref();
        }
        // Such a name has nothing that JSON escapes, so a declared one that equals it is written alike.
        name.is_empty() || members.iter().any(|m| m.key.get(1..m.key.len() - 1) == Some(name))
    }

    /// Whether the text may end here.
    pub(super) fn complete(&self, thread: &Thread) -> bool {
        thread.above.is_none()
            && match &thread.state {
                State::End => true,
                State::Number { shape, written } => {
                    matches!(self.shapes.get(*shape as usize), Some(Shape::Number(n)) if n.complete(*written))
                }
                State::Scalar { shape, scalar, at } => match self.shapes.get(*shape as usize) {
                    Some(Shape::Scalars(texts)) => texts.get(*scalar as usize).is_some_and(|t| t.len() == *at as usize),
                    _ => false,
                },
                _ => false,
            }
    }

    /// Whether nothing may follow.
    pub(super) fn ended(thread: &Thread) -> bool {
        thread.state == State::End
    }

    /// Between the characters of a string any text without a quote, a backslash and control characters may follow, so far as there is room.
    pub(super) fn room(&self, thread: &Thread) -> Room {
        match &thread.state {
            State::Text { shape, count, lex: Lex::Plain } => match self.shapes.get(*shape as usize) {
                Some(Shape::Text { most, .. }) => Room::Characters(most.saturating_sub(*count)),
                _ => Room::None,
            },
            State::Object { stage: Stage::Name { name, lex: Lex::Plain }, .. } => {
                // The last byte is not any: see `object`.
                Room::Bytes((LONGEST_NAME - 1).saturating_sub(usize::from(name.len)))
            }
            _ => Room::None,
        }
    }

    /// Appends a short text that completes this reading.
    pub(super) fn finish(&self, thread: &Thread, out: &mut Vec<u8>) {
        let (mut state, mut above) = (&thread.state, &thread.above);
        loop {
            self.finish_state(state, levels(above), out);
            let Some(frame) = above else { return };
            (state, above) = (&frame.state, &frame.above);
        }
    }

    fn finish_state(&self, state: &State, level: usize, out: &mut Vec<u8>) {
        match state {
            State::End => {}
            State::Value { schema, .. } => self.write(*schema, level, out),
            State::Scalar { shape, scalar, at } => {
                if let Some(Shape::Scalars(texts)) = self.shapes.get(*shape as usize) {
                    out.extend(
                        texts.get(*scalar as usize).and_then(|text| text.get(*at as usize..)).unwrap_or_default(),
                    );
                }
            }
            State::Number { shape, written } => {
                if let Some(Shape::Number(number)) = self.shapes.get(*shape as usize) {
                    number.finish(*written, out);
                }
            }
            State::Text { shape, count, lex } => {
                if let Some(Shape::Text { least, .. }) = self.shapes.get(*shape as usize) {
                    lex.finish(out);
                    out.extend(std::iter::repeat_n(b'.', least.saturating_sub(*count) as usize));
                    out.push(b'"');
                }
            }
            State::Array { shape, count } => {
                if let Some(Shape::Array { prefix, rest, least, .. }) = self.shapes.get(*shape as usize) {
                    for i in *count..*least {
                        if i > 0 {
                            out.push(b',');
                        }
                        let item = prefix.get(i as usize).copied().or(*rest).unwrap_or(NOTHING);
                        self.write(item, level.saturating_sub(1), out);
                    }
                    out.push(b']');
                }
            }
            State::Object { object, stage } => self.finish_object(object, stage, level, out),
        }
    }

    fn finish_object(&self, object: &Place, stage: &Stage, level: usize, out: &mut Vec<u8>) {
        let Some(Shape::Object { members, rest, least, most }) = self.shapes.get(object.shape as usize) else { return };
        let (mut object, mut least) = (object.clone(), *least);
        let below = level.saturating_sub(1);
        let mut comma = object.count > 0;
        match stage {
            Stage::Between => {}
            // It has promised a member.
            Stage::Comma { .. } => (comma, least) = (false, least.max(object.count + 1)),
            Stage::Key { member, at } => {
                if let Some(found) = members.get(*member as usize) {
                    out.extend(found.key.get(*at as usize..).unwrap_or_default());
                    out.push(b':');
                    self.write(found.schema, below, out);
                }
                (object.next, object.count, comma) = (*member + 1, object.count + 1, true);
            }
            Stage::Name { name, lex } => {
                let before = out.len();
                lex.finish(out);
                let mut whole = *name;
                for byte in out.split_off(before) {
                    whole = whole.with(byte).unwrap_or(whole);
                    out.push(byte);
                }
                self.write_name(members, &mut object, whole, out);
                out.push(b':');
                self.write(rest.unwrap_or(NOTHING), below, out);
                (object.next, object.count, comma) = (members.len() as u32, object.count + 1, true);
            }
            Stage::Colon { schema } => {
                out.push(b':');
                self.write(*schema, below, out);
                comma = true;
            }
        }
        let wanted = self.missing(members, *rest, least, *most, &object, level).unwrap_or_default();
        for (member, schema) in wanted {
            if std::mem::replace(&mut comma, true) {
                out.push(b',');
            }
            match member {
                Some(member) => out.extend(&*member.key),
                None => {
                    out.push(b'"');
                    self.write_name(members, &mut object, Name::EMPTY, out);
                }
            }
            out.push(b':');
            self.write(schema, below, out);
        }
        out.push(b'}');
    }

    /// Writes the rest of a key that is not taken and its closing quote, and takes it.
    fn write_name(&self, members: &[Member], object: &mut Place, begun: Name, out: &mut Vec<u8>) {
        let endings = std::iter::once(String::new()).chain((0u32..).map(|n| n.to_string()));
        for ending in endings.take(1 << 16) {
            let Some(name) = ending.bytes().try_fold(begun, Name::with) else { break };
            if !self.taken(members, object, name.as_bytes()) {
                out.extend(ending.as_bytes());
                object.used = Some(Arc::new(Used { name, before: object.used.take() }));
                break;
            }
        }
        out.push(b'"');
    }

    /// Writes a short value of a schema.
    fn write(&self, schema: Id, level: usize, out: &mut Vec<u8>) {
        let Some(shape) = self.range(schema).min_by_key(|shape| self.shape_cost(*shape, level)) else { return };
        let state = match self.shapes.get(shape) {
            Some(Shape::Scalars(texts)) => {
                out.extend(texts.iter().min_by_key(|text| text.len()).map(|text| &**text).unwrap_or_default());
                return;
            }
            Some(Shape::Number(number)) => {
                out.extend(number.shortest().unwrap_or_default());
                return;
            }
            Some(Shape::Text { .. }) => {
                out.push(b'"');
                State::Text { shape: shape as u32, count: 0, lex: Lex::Plain }
            }
            Some(Shape::Array { .. }) => {
                out.push(b'[');
                State::Array { shape: shape as u32, count: 0 }
            }
            Some(Shape::Object { .. }) => {
                out.push(b'{');
                let object = Place { shape: shape as u32, next: 0, count: 0, used: None };
                State::Object { object, stage: Stage::Between }
            }
            None => return,
        };
        self.finish_state(&state, level, out);
    }
}

fn shape(alternative: &Alternative) -> Shape {
    match alternative {
        Alternative::Scalars(values) => Shape::Scalars(values.iter().map(|v| v.text.clone()).collect()),
        Alternative::Text { least, most } => Shape::Text { least: *least, most: *most },
        Alternative::Number(number) => Shape::Number(*number),
        Alternative::Array(schema::Array { prefix, rest, open, least, most }) => Shape::Array {
            prefix: prefix.clone(),
            rest: open.then_some(*rest).filter(|rest| *rest != NOTHING),
            least: *least,
            most: *most,
        },
        Alternative::Object(schema::Object { members, rest, open, least, most }) => {
            let mut made: Vec<Member> = members
                .iter()
                .map(|m| {
                    let key = serde_json::Value::from(&*m.name).to_string().into_bytes().into();
                    Member { key, schema: m.schema, required: m.required, still: 0 }
                })
                .collect();
            let mut still = 0;
            for member in made.iter_mut().rev() {
                still += u32::from(member.required);
                member.still = still;
            }
            let rest = open.then_some(*rest).filter(|rest| *rest != NOTHING);
            Shape::Object { members: made, rest, least: *least, most: *most }
        }
    }
}

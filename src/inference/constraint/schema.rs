//! JSON Schema, normalised: what kinds of values each schema allows, with every `$ref`, `allOf`, `anyOf` and sibling keyword resolved.
//!
//! Reading is in two passes. The first turns every schema of the document into a [`Node`] by its own keywords and queues what `$ref` names, so that
//! recursion ends and nothing of the document is read twice. The second makes a list of alternatives of each node that the root can reach: a union
//! concatenates, a conjunction intersects pair by pair. The conjunction of two schemas is known by the set of schemas in it, so a recursive conjunction
//! ends as well.
//!
//! Nothing is ignored: a keyword that is not in [`ACCEPTED`] or [`ANNOTATIONS`] is an error, because a text that breaks it would pass for valid.

use std::collections::HashMap;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::number::{self, Number};
use crate::Error;

/// The keywords that constrain what is written.
pub const ACCEPTED: &[&str] = &[
    "type",
    "enum",
    "const",
    "properties",
    "required",
    "additionalProperties",
    "minProperties",
    "maxProperties",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "$defs",
    "definitions",
];

/// Keywords that say something about a schema and constrain nothing.
pub const ANNOTATIONS: &[&str] =
    &["$schema", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"];

/// Keywords of one type: they say nothing about values of others.
const OF_ONE_TYPE: &[&str] = &[
    "properties",
    "required",
    "additionalProperties",
    "minProperties",
    "maxProperties",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
];

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// Schemas that one document may have, those that conjunctions make included.
const MOST_SCHEMAS: usize = 10_000;
/// Alternatives and members that all of it may take.
const MOST_WORK: usize = 200_000;
/// Schemas within schemas, and references to references.
const DEEPEST: usize = 64;
/// Alternatives of one schema that are not plain values of an enum.
const MOST_ALTERNATIVES: usize = 64;
/// The most that `minItems` may ask for.
const MOST_ITEMS: u32 = 4_096;
/// The most that `minProperties` may ask for.
const MOST_MEMBERS: u32 = 256;
/// The most that `minLength` may ask for.
const MOST_CHARACTERS: u32 = 1 << 16;

/// The number of a schema.
pub(super) type Id = u32;
/// The schema that everything satisfies.
pub(super) const ANY: Id = 0;
/// The schema that nothing satisfies.
pub(super) const NOTHING: Id = 1;

/// Values of one type that a schema allows.
#[derive(Clone, Debug)]
pub(super) enum Alternative {
    /// Strings, numbers, booleans and null word for word, in the order of their bytes.
    Scalars(Vec<Scalar>),
    /// Strings by their number of characters.
    Text { least: u32, most: u32 },
    /// Numbers by their range.
    Number(Number),
    /// Arrays.
    Array(Array),
    /// Objects.
    Object(Object),
}

/// One value, as it is written.
#[derive(Clone, Debug)]
pub(super) struct Scalar {
    pub text: Box<[u8]>,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) struct Array {
    pub prefix: Vec<Id>,
    /// Of the items after the prefix.
    pub rest: Id,
    /// Whether items after the prefix are written at all.
    pub open: bool,
    pub least: u32,
    pub most: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Object {
    /// In the order they are written in.
    pub members: Vec<Member>,
    /// Of members by other names.
    pub rest: Id,
    /// Whether members by other names are written at all.
    pub open: bool,
    pub least: u32,
    pub most: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub name: Rc<str>,
    pub schema: Id,
    pub required: bool,
}

/// A schema before it is normalised.
enum Node {
    Alternatives(Rc<Vec<Alternative>>),
    All(Vec<Id>),
    Either(Vec<Id>),
    /// A reference that is not read yet.
    Awaited,
}

/// A normalised document.
pub(super) struct Document {
    pub root: Id,
    /// By [`Id`]; empty for what the root cannot reach.
    pub schemas: Vec<Rc<Vec<Alternative>>>,
    /// Where each comes from, for messages.
    pub places: Vec<Rc<str>>,
}

/// Reads a schema.
pub(super) fn read(root: &Value) -> Result<Document, Error> {
    let mut reader = Reader::new(root);
    let start = reader.reference("#", "#")?;
    while let Some((id, value, place)) = reader.queue.pop() {
        let read = reader.schema(value, &place, 0)?;
        reader.set(id, Node::All(vec![read]));
    }
    reader.finish(start)
}

/// The schema of any value, and of any object or array at the top.
pub(super) fn anything() -> Result<Document, Error> {
    let mut reader = Reader::new(&Value::Null);
    let any = reader.alternatives_of(ANY, 0)?;
    let containers = any.iter().filter(|a| matches!(a, Alternative::Array(_) | Alternative::Object(_)));
    let containers = containers.cloned().collect();
    let root = reader.push(Node::Alternatives(Rc::new(containers)), "#")?;
    reader.finish(root)
}

struct Reader<'a> {
    root: &'a Value,
    nodes: Vec<Node>,
    places: Vec<Rc<str>>,
    references: HashMap<String, Id>,
    queue: Vec<(Id, &'a Value, String)>,
    /// The conjunctions that intersecting made, by what is in them, and back.
    conjunctions: HashMap<Vec<Id>, Id>,
    parts: HashMap<Id, Vec<Id>>,
    /// `oneOf`: its alternatives and where it stands.
    exclusive: Vec<(Vec<Id>, String)>,
    normal: HashMap<Id, Rc<Vec<Alternative>>>,
    under_way: Vec<Id>,
    work: usize,
}

fn at(place: &str, what: impl std::fmt::Display) -> Error {
    Error::new(format!("the schema at {place}: {what}"))
}

impl<'a> Reader<'a> {
    fn new(root: &'a Value) -> Reader<'a> {
        let anything = vec![
            scalars([Value::Null, Value::Bool(false), Value::Bool(true)]),
            Alternative::Text { least: 0, most: u32::MAX },
            Alternative::Number(Number::any(false)),
            Alternative::Array(Array { prefix: Vec::new(), rest: ANY, open: true, least: 0, most: u32::MAX }),
            Alternative::Object(Object { members: Vec::new(), rest: ANY, open: true, least: 0, most: u32::MAX }),
        ];
        Reader {
            root,
            nodes: vec![Node::Alternatives(Rc::new(anything)), Node::Alternatives(Rc::default())],
            places: vec!["true".into(), "false".into()],
            references: HashMap::new(),
            queue: Vec::new(),
            conjunctions: HashMap::new(),
            parts: HashMap::new(),
            exclusive: Vec::new(),
            normal: HashMap::new(),
            under_way: Vec::new(),
            work: 0,
        }
    }

    fn push(&mut self, node: Node, place: &str) -> Result<Id, Error> {
        if self.nodes.len() >= MOST_SCHEMAS {
            return Err(Error::new(format!("the schema has more than {MOST_SCHEMAS} parts")));
        }
        self.nodes.push(node);
        self.places.push(place.into());
        // Below MOST_SCHEMAS.
        Ok((self.nodes.len() - 1) as Id)
    }

    fn set(&mut self, id: Id, node: Node) {
        if let Some(slot) = self.nodes.get_mut(id as usize) {
            *slot = node;
        }
    }

    fn place(&self, id: Id) -> Rc<str> {
        self.places.get(id as usize).cloned().unwrap_or_else(|| "#".into())
    }

    /// Counts what normalising makes: conjunctions of unions multiply.
    fn spend(&mut self, work: usize) -> Result<(), Error> {
        self.work += work;
        if self.work > MOST_WORK {
            return Err(Error::new("the schema is too large once allOf, anyOf and $ref are resolved"));
        }
        Ok(())
    }

    // ---- The first pass: keywords.

    /// The schema that a `$ref` at `place` names; it is read later.
    fn reference(&mut self, pointer: &str, place: &str) -> Result<Id, Error> {
        if let Some(&id) = self.references.get(pointer) {
            return Ok(id);
        }
        let path =
            pointer.strip_prefix('#').filter(|path| path.is_empty() || path.starts_with('/')).ok_or_else(|| {
                at(
                    place,
                    format!("$ref is {pointer:?}; accepted are references within the schema, such as \"#/$defs/name\""),
                )
            })?;
        let Some(value) = self.root.pointer(path) else {
            return Err(at(place, format!("$ref names {pointer:?}, and there is nothing")));
        };
        let id = self.push(Node::Awaited, pointer)?;
        self.references.insert(pointer.to_owned(), id);
        self.queue.push((id, value, pointer.to_owned()));
        Ok(id)
    }

    fn schema(&mut self, value: &'a Value, place: &str, depth: usize) -> Result<Id, Error> {
        let keywords = match value {
            Value::Bool(true) => return Ok(ANY),
            Value::Bool(false) => return Ok(NOTHING),
            Value::Object(keywords) => keywords,
            _ => return Err(at(place, format!("is {}; a schema is an object, true or false", kind(value)))),
        };
        if depth >= DEEPEST {
            return Err(at(place, format!("is nested deeper than {DEEPEST}")));
        }
        if let Some(unknown) = keywords.keys().find(|k| {
            let known = ACCEPTED.contains(&k.as_str()) || ANNOTATIONS.contains(&k.as_str());
            // An identifier matters to references only, and those of the whole document are what is read here.
            !(known || place == "#" && k.as_str() == "$id")
        }) {
            let accepted = ACCEPTED.join(", ");
            return Err(at(
                place,
                format!(
                    "the keyword {unknown:?} is not supported (accepted: {accepted}; without effect: {})",
                    ANNOTATIONS.join(", ")
                ),
            ));
        }
        let mut parts = Vec::new();
        if keywords.keys().any(|k| k == "type" || OF_ONE_TYPE.contains(&k.as_str())) {
            let alternatives = self.typed(keywords, place, depth)?;
            parts.push(self.push(Node::Alternatives(Rc::new(alternatives)), place)?);
        }
        if let Some(value) = keywords.get("const") {
            parts.push(self.exactly(std::slice::from_ref(value), place, depth)?);
        }
        if let Some(values) = keywords.get("enum") {
            let values = list(values, "enum", place)?;
            parts.push(self.exactly(values, place, depth)?);
        }
        if let Some(pointer) = keywords.get("$ref") {
            let pointer = pointer.as_str().ok_or_else(|| at(place, "$ref must be a string"))?;
            parts.push(self.reference(pointer, place)?);
        }
        for word in ["allOf", "anyOf", "oneOf"] {
            let Some(schemas) = keywords.get(word) else { continue };
            let mut ids = Vec::new();
            for (i, schema) in list(schemas, word, place)?.iter().enumerate() {
                ids.push(self.schema(schema, &format!("{place}/{word}/{i}"), depth + 1)?);
            }
            match word {
                "allOf" => parts.extend(ids),
                "anyOf" => parts.push(self.push(Node::Either(ids), place)?),
                _ => {
                    self.exclusive.push((ids.clone(), format!("{place}/oneOf")));
                    parts.push(self.push(Node::Either(ids), place)?);
                }
            }
        }
        match parts[..] {
            [] => Ok(ANY),
            [only] => Ok(only),
            _ => self.push(Node::All(parts), place),
        }
    }

    /// What `type` and the keywords of single types allow.
    fn typed(
        &mut self,
        keywords: &'a Map<String, Value>,
        place: &str,
        depth: usize,
    ) -> Result<Vec<Alternative>, Error> {
        let names: Vec<&str> = match keywords.get("type") {
            None => TYPES.to_vec(),
            Some(Value::String(name)) => vec![name],
            Some(Value::Array(names)) => names.iter().map(|name| name.as_str().unwrap_or("?")).collect(),
            Some(other) => {
                return Err(at(place, format!("type is {}; a name or a list of names is accepted", kind(other))));
            }
        };
        if names.is_empty() {
            return Err(at(place, "type is an empty list, which nothing satisfies"));
        }
        if let Some(unknown) = names.iter().find(|name| !TYPES.contains(name)) {
            return Err(at(place, format!("the type {unknown:?} is unknown (accepted: {})", TYPES.join(", "))));
        }
        // All are read, so that a mistake in one is found even where another type is asked for.
        let (array, object) = (self.array(keywords, place, depth)?, self.object(keywords, place, depth)?);
        let (text_least, text_most) = counts(keywords, "minLength", "maxLength", MOST_CHARACTERS, place)?;
        let has = |name: &str| names.contains(&name);
        let mut plain = Vec::new();
        if has("null") {
            plain.push(Value::Null);
        }
        if has("boolean") {
            plain.extend([Value::Bool(false), Value::Bool(true)]);
        }
        let mut alternatives = Vec::new();
        if !plain.is_empty() {
            alternatives.push(scalars(plain));
        }
        if has("string") {
            alternatives.push(Alternative::Text { least: text_least, most: text_most });
        }
        let number = Number::any(!has("number"));
        let number = number::bounded(number, keywords).map_err(|what| at(place, what))?;
        if has("number") || has("integer") {
            alternatives.push(Alternative::Number(number));
        }
        if has("array") {
            alternatives.push(Alternative::Array(array));
        }
        if has("object") {
            alternatives.push(Alternative::Object(object));
        }
        Ok(alternatives)
    }

    fn array(&mut self, keywords: &'a Map<String, Value>, place: &str, depth: usize) -> Result<Array, Error> {
        let (least, most) = counts(keywords, "minItems", "maxItems", MOST_ITEMS, place)?;
        let mut prefix = Vec::new();
        if let Some(schemas) = keywords.get("prefixItems") {
            for (i, schema) in list(schemas, "prefixItems", place)?.iter().enumerate() {
                prefix.push(self.schema(schema, &format!("{place}/prefixItems/{i}"), depth + 1)?);
            }
        }
        let items = keywords.get("items");
        if let Some(Value::Array(_)) = items {
            return Err(at(place, "items is a list; one schema is accepted, and prefixItems for a list"));
        }
        let rest = match items {
            Some(schema) => self.schema(schema, &format!("{place}/items"), depth + 1)?,
            None => ANY,
        };
        let open = items.is_some() || prefix.is_empty() || least as usize > prefix.len();
        Ok(Array { prefix, rest, open, least, most })
    }

    fn object(&mut self, keywords: &'a Map<String, Value>, place: &str, depth: usize) -> Result<Object, Error> {
        let (least, most) = counts(keywords, "minProperties", "maxProperties", MOST_MEMBERS, place)?;
        let mut members: Vec<Member> = Vec::new();
        let properties = keywords.get("properties");
        if let Some(properties) = properties {
            let properties = properties.as_object().ok_or_else(|| at(place, "properties must be an object"))?;
            for (name, schema) in properties {
                let schema = self.schema(schema, &format!("{place}/properties/{}", escaped(name)), depth + 1)?;
                members.push(Member { name: name.as_str().into(), schema, required: false });
            }
        }
        let additional = keywords.get("additionalProperties");
        let rest = match additional {
            Some(schema) => self.schema(schema, &format!("{place}/additionalProperties"), depth + 1)?,
            None => ANY,
        };
        if let Some(required) = keywords.get("required") {
            let mut by_name: HashMap<Rc<str>, usize> =
                members.iter().enumerate().map(|(i, member)| (Rc::clone(&member.name), i)).collect();
            for name in required.as_array().ok_or_else(|| at(place, "required must be a list of names"))? {
                let name = name.as_str().ok_or_else(|| at(place, "required must be a list of names"))?;
                let index = *by_name.entry(name.into()).or_insert(members.len());
                match members.get_mut(index) {
                    Some(member) => member.required = true,
                    None => members.push(Member { name: name.into(), schema: rest, required: true }),
                }
            }
        }
        self.spend(members.len())?;
        let open = additional.is_some() || properties.is_none() || least as usize > members.len();
        Ok(Object { members, rest, open, least, most })
    }

    /// These values and no others.
    fn exactly(&mut self, values: &'a [Value], place: &str, depth: usize) -> Result<Id, Error> {
        if depth >= DEEPEST {
            return Err(at(place, format!("is nested deeper than {DEEPEST}")));
        }
        let plain = values.iter().filter(|value| !value.is_array() && !value.is_object());
        let mut alternatives = vec![scalars(plain.cloned())];
        for value in values {
            let next = depth + 1;
            match value {
                Value::Array(items) => {
                    let prefix = items.iter().map(|item| self.exactly(std::slice::from_ref(item), place, next));
                    let prefix = prefix.collect::<Result<Vec<_>, _>>()?;
                    let len = u32::try_from(prefix.len()).unwrap_or(u32::MAX);
                    let array = Array { prefix, rest: NOTHING, open: false, least: len, most: len };
                    alternatives.push(Alternative::Array(array));
                }
                Value::Object(object) => {
                    let mut members = Vec::new();
                    for (name, value) in object {
                        let schema = self.exactly(std::slice::from_ref(value), place, next)?;
                        members.push(Member { name: name.as_str().into(), schema, required: true });
                    }
                    let len = u32::try_from(members.len()).unwrap_or(u32::MAX);
                    let object = Object { members, rest: NOTHING, open: false, least: len, most: len };
                    alternatives.push(Alternative::Object(object));
                }
                _ => {}
            }
        }
        self.spend(values.len())?;
        self.push(Node::Alternatives(Rc::new(alternatives)), place)
    }

    // ---- The second pass: alternatives.

    fn alternatives_of(&mut self, id: Id, depth: usize) -> Result<Rc<Vec<Alternative>>, Error> {
        if let Some(known) = self.normal.get(&id) {
            return Ok(Rc::clone(known));
        }
        let place = self.place(id);
        if depth > DEEPEST {
            return Err(at(&place, format!("refers to others through more than {DEEPEST} steps")));
        }
        if self.under_way.contains(&id) {
            return Err(at(&place, "refers to itself without an array or object between"));
        }
        self.under_way.push(id);
        let made = match self.nodes.get(id as usize) {
            Some(Node::Alternatives(own)) => tidy(own),
            Some(Node::All(ids)) => {
                let ids = ids.clone();
                let mut all: Option<Rc<Vec<Alternative>>> = None;
                for other in ids {
                    let other = self.alternatives_of(other, depth + 1)?;
                    all = Some(match all {
                        None => other,
                        Some(all) => Rc::new(self.intersection(&all, &other)?),
                    });
                }
                all.map(|all| tidy(&all)).unwrap_or_default()
            }
            Some(Node::Either(ids)) => {
                let ids = ids.clone();
                let mut either = Vec::new();
                for id in ids {
                    let more = self.alternatives_of(id, depth + 1)?;
                    self.spend(more.iter().map(weight).sum())?;
                    either.extend(more.iter().cloned());
                }
                tidy(&either)
            }
            Some(Node::Awaited) | None => return Err(at(&place, "is not there")),
        };
        self.under_way.pop();
        if made.len() > MOST_ALTERNATIVES {
            return Err(at(
                &place,
                format!("has {} alternatives; at most {MOST_ALTERNATIVES} are accepted", made.len()),
            ));
        }
        let made = Rc::new(made);
        self.normal.insert(id, Rc::clone(&made));
        Ok(made)
    }

    fn intersection(&mut self, a: &[Alternative], b: &[Alternative]) -> Result<Vec<Alternative>, Error> {
        let mut made = Vec::new();
        for a in a {
            for b in b {
                self.spend(weight(a) + weight(b))?;
                made.extend(self.both(a, b)?);
            }
        }
        Ok(made)
    }

    fn both(&mut self, a: &Alternative, b: &Alternative) -> Result<Option<Alternative>, Error> {
        use Alternative::{Array as A, Number as N, Object as O, Scalars as S, Text as T};
        Ok(match (a, b) {
            (S(values), other) | (other, S(values)) => {
                let kept: Vec<Scalar> = values.iter().filter(|v| takes(other, &v.value)).cloned().collect();
                (!kept.is_empty()).then_some(S(kept))
            }
            (T { least: a, most: x }, T { least: b, most: y }) => {
                let (least, most) = (*a.max(b), *x.min(y));
                (least <= most).then_some(T { least, most })
            }
            (N(a), N(b)) => a.and(*b).map(N),
            (A(a), A(b)) => {
                let mut prefix = Vec::new();
                for i in 0..a.prefix.len().max(b.prefix.len()) {
                    let of = |array: &Array| array.prefix.get(i).copied().unwrap_or(array.rest);
                    prefix.push(self.conjunction(of(a), of(b))?);
                }
                let (least, most) = (a.least.max(b.least), a.most.min(b.most));
                let open = a.open && b.open || least as usize > prefix.len();
                let rest = self.conjunction(a.rest, b.rest)?;
                (least <= most).then_some(A(Array { prefix, rest, open, least, most }))
            }
            (O(a), O(b)) => {
                let of_b: HashMap<&str, &Member> = b.members.iter().map(|m| (&*m.name, m)).collect();
                let of_a: HashMap<&str, ()> = a.members.iter().map(|m| (&*m.name, ())).collect();
                let mut members = Vec::new();
                for member in &a.members {
                    let other = of_b.get(&*member.name);
                    let schema = self.conjunction(member.schema, other.map_or(b.rest, |m| m.schema))?;
                    let required = member.required || other.is_some_and(|m| m.required);
                    members.push(Member { name: Rc::clone(&member.name), schema, required });
                }
                for member in b.members.iter().filter(|m| !of_a.contains_key(&*m.name)) {
                    let schema = self.conjunction(a.rest, member.schema)?;
                    members.push(Member { name: Rc::clone(&member.name), schema, required: member.required });
                }
                let (least, most) = (a.least.max(b.least), a.most.min(b.most));
                let open = a.open && b.open || least as usize > members.len();
                let rest = self.conjunction(a.rest, b.rest)?;
                (least <= most).then_some(O(Object { members, rest, open, least, most }))
            }
            _ => None,
        })
    }

    /// The schema of what satisfies both, made once for each set.
    fn conjunction(&mut self, a: Id, b: Id) -> Result<Id, Error> {
        match (a, b) {
            _ if a == b => return Ok(a),
            (NOTHING, _) | (_, NOTHING) => return Ok(NOTHING),
            (ANY, other) | (other, ANY) => return Ok(other),
            _ => {}
        }
        let parts = |id: Id| self.parts.get(&id).cloned().unwrap_or_else(|| vec![id]);
        let mut set = parts(a);
        set.extend(parts(b));
        set.sort_unstable();
        set.dedup();
        if let Some(&known) = self.conjunctions.get(&set) {
            return Ok(known);
        }
        let place = self.place(a);
        let id = self.push(Node::All(set.clone()), &place)?;
        self.spend(set.len())?;
        self.conjunctions.insert(set.clone(), id);
        self.parts.insert(id, set);
        Ok(id)
    }

    fn finish(mut self, root: Id) -> Result<Document, Error> {
        let mut reached = vec![root];
        let mut seen = std::collections::HashSet::from([root]);
        while let Some(id) = reached.pop() {
            let alternatives = self.alternatives_of(id, 0)?;
            let mut children = Vec::new();
            for alternative in alternatives.iter() {
                match alternative {
                    Alternative::Array(array) => children.extend(array.prefix.iter().copied().chain([array.rest])),
                    Alternative::Object(object) => {
                        children.extend(object.members.iter().map(|m| m.schema).chain([object.rest]));
                    }
                    _ => {}
                }
            }
            reached.extend(children.into_iter().filter(|id| seen.insert(*id)));
        }
        for (ids, place) in std::mem::take(&mut self.exclusive) {
            self.check_exclusive(&ids, &place)?;
        }
        let schemas = (0..self.nodes.len() as Id).map(|id| self.normal.get(&id).cloned().unwrap_or_default()).collect();
        Ok(Document { root, schemas, places: self.places })
    }

    /// `oneOf` is read as `anyOf`, which is only right where nothing that is written for one alternative satisfies another.
    fn check_exclusive(&mut self, ids: &[Id], place: &str) -> Result<(), Error> {
        for (i, &a) in ids.iter().enumerate() {
            for (j, &b) in ids.iter().enumerate().filter(|(j, _)| *j != i) {
                if !self.never(a, b, 8)? {
                    return Err(at(
                        place,
                        format!(
                            "something may satisfy both alternative {i} and {j}; make them exclusive (different types, or a required property whose const differs), or use anyOf"
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether nothing that is written for `written` can satisfy `other`. When in doubt, false.
    fn never(&mut self, written: Id, other: Id, depth: usize) -> Result<bool, Error> {
        let (a, b) = (self.alternatives_of(written, 0)?, self.alternatives_of(other, 0)?);
        for a in a.iter() {
            for b in b.iter() {
                self.spend(weight(a) + weight(b))?;
                if !self.apart(a, b, depth)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn apart(&mut self, written: &Alternative, other: &Alternative, depth: usize) -> Result<bool, Error> {
        use Alternative::{Array as A, Number as N, Object as O, Scalars as S, Text as T};
        Ok(match (written, other) {
            (S(values), alternative) | (alternative, S(values)) => !values.iter().any(|v| takes(alternative, &v.value)),
            (T { least: a, most: x }, T { least: b, most: y }) => a.max(b) > x.min(y),
            (N(a), N(b)) => a.and(*b).is_none(),
            (A(a), A(b)) => {
                if a.least.max(b.least) > a.most.min(b.most) {
                    return Ok(true);
                }
                let of = |array: &Array, i: usize| array.prefix.get(i).copied().unwrap_or(array.rest);
                for i in 0..if depth == 0 { 0 } else { (a.least as usize).min(DEEPEST) } {
                    if self.never(of(a, i), of(b, i), depth - 1)? {
                        return Ok(true);
                    }
                }
                false
            }
            (O(a), O(b)) => {
                if a.least.max(b.least) > a.most.min(b.most) {
                    return Ok(true);
                }
                let of_a: HashMap<&str, &Member> = a.members.iter().map(|m| (&*m.name, m)).collect();
                if !a.open && b.members.iter().any(|m| m.required && !of_a.contains_key(&*m.name)) {
                    return Ok(true);
                }
                let of_b: HashMap<&str, &Member> = b.members.iter().map(|m| (&*m.name, m)).collect();
                for member in a.members.iter().filter(|m| m.required && depth > 0) {
                    let other = of_b.get(&*member.name).map_or(b.rest, |m| m.schema);
                    if self.never(member.schema, other, depth - 1)? {
                        return Ok(true);
                    }
                }
                false
            }
            _ => true,
        })
    }
}

/// How much work an alternative is.
fn weight(alternative: &Alternative) -> usize {
    1 + match alternative {
        Alternative::Scalars(values) => values.len(),
        Alternative::Array(array) => array.prefix.len(),
        Alternative::Object(object) => object.members.len(),
        Alternative::Text { .. } | Alternative::Number(_) => 0,
    }
}

/// Scalars as one alternative, equals once.
fn scalars(values: impl IntoIterator<Item = Value>) -> Alternative {
    let texts = values.into_iter().map(|value| Scalar { text: value.to_string().into_bytes().into(), value });
    let mut texts: Vec<Scalar> = texts.collect();
    texts.sort_by(|a, b| a.text.cmp(&b.text));
    texts.dedup_by(|a, b| a.text == b.text);
    Alternative::Scalars(texts)
}

/// The same alternatives with all scalars in one, and without empty ones.
fn tidy(alternatives: &[Alternative]) -> Vec<Alternative> {
    let (mut plain, mut made) = (Vec::new(), Vec::new());
    for alternative in alternatives {
        match alternative {
            Alternative::Scalars(values) => plain.extend(values.iter().map(|v| v.value.clone())),
            other => made.push(other.clone()),
        }
    }
    if !plain.is_empty() {
        made.insert(0, scalars(plain));
    }
    made
}

/// Whether a scalar is among the values of an alternative.
fn takes(alternative: &Alternative, value: &Value) -> bool {
    match (alternative, value) {
        (Alternative::Scalars(values), _) => values.iter().any(|v| equal(&v.value, value)),
        (Alternative::Text { least, most }, Value::String(text)) => {
            (u64::from(*least)..=u64::from(*most)).contains(&(text.chars().count() as u64))
        }
        (Alternative::Number(number), Value::Number(value)) => number.takes(value),
        _ => false,
    }
}

/// JSON Schema's equality of scalars: numbers by value.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => x == y,
            _ => x.as_f64() == y.as_f64(),
        },
        _ => a == b,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A name within a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn list<'a>(value: &'a Value, word: &str, place: &str) -> Result<&'a [Value], Error> {
    match value {
        Value::Array(values) if !values.is_empty() => Ok(values),
        Value::Array(_) => Err(at(place, format!("{word} is an empty list, which nothing satisfies"))),
        _ => Err(at(place, format!("{word} is {}; a list is accepted", kind(value)))),
    }
}

/// A pair of bounds on a number of things.
fn counts(
    keywords: &Map<String, Value>,
    least: &str,
    most: &str,
    most_least: u32,
    place: &str,
) -> Result<(u32, u32), Error> {
    let get = |word: &str, missing: u32| match keywords.get(word) {
        None => Ok(missing),
        Some(value) => match value.as_f64() {
            Some(n) if n >= 0.0 && n.fract() == 0.0 => Ok(if n < f64::from(u32::MAX) { n as u32 } else { u32::MAX }),
            _ => Err(at(place, format!("{word} is {value}; an integer of 0 or more is accepted"))),
        },
    };
    let (low, high) = (get(least, 0)?, get(most, u32::MAX)?);
    if low > high {
        return Err(at(place, format!("{least} {low} is above {most} {high}: nothing satisfies it")));
    }
    if low > most_least {
        return Err(at(place, format!("{least} is {low}; at most {most_least} is accepted")));
    }
    Ok((low, high))
}

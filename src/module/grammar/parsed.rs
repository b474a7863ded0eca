//! The arguments of one call, by name.

use std::hash::Hasher;
use std::ops::Bound;

use engram_memory::MemoryId;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::Command;
use super::value::{Item, Object};
use crate::reply::Error;

/// An argument that was given.
#[derive(Debug)]
pub(super) struct Given<'a> {
    pub(super) item: Item<'a>,
    /// Its values are arguments `from..to`; of an option that repeats, from those of the first to those of the last.
    pub(super) from: usize,
    pub(super) to: usize,
}

/// The arguments of one call, by name. The accessors answer with nothing for what was not given; for what the grammar makes sure of (a required
/// argument) the plain accessors are meant, for the rest the ones with `opt_`.
#[derive(Debug)]
pub struct Parsed<'a> {
    command: &'static Command,
    argv: Vec<&'a [u8]>,
    /// As long as the command's list of arguments.
    given: Vec<Option<Given<'a>>>,
}

impl<'a> Parsed<'a> {
    /// Checks what must, or must not, stand together.
    pub(super) fn new(
        command: &'static Command,
        argv: &[&'a [u8]],
        given: Vec<Option<Given<'a>>>,
    ) -> Result<Parsed<'a>, Error> {
        let parsed = Parsed { command, argv: argv.to_vec(), given };
        parsed.check_together()?;
        Ok(parsed)
    }

    /// What must, or must not, stand together.
    fn check_together(&self) -> Result<(), Error> {
        let command = self.command;
        let labels = |names: &[&str]| -> Vec<String> {
            let mut labels: Vec<String> = Vec::new();
            for arg in command.args.iter().filter(|a| names.contains(&a.name)) {
                labels.push(arg.label());
            }
            labels
        };
        for group in command.one_of {
            let given: Vec<&str> = group.names.iter().copied().filter(|name| self.given(name)).collect();
            if let [first, second, ..] = given[..] {
                let (first, second) = (self.label(first), self.label(second));
                return Err(command.error(format_args!("{first} and {second} exclude each other: give one of them")));
            }
            if group.required && given.is_empty() {
                let list = labels(group.names).join(", ");
                let needed = if group.names.len() > 1 { format!("one of {list}") } else { list };
                return Err(command.error(format_args!("{needed} is needed; usage: {}", command.usage())));
            }
        }
        for arg in command.args {
            if let Some(needed) = arg.requires
                && self.given(arg.name)
                && !self.given(needed)
            {
                let needed = labels(&[needed]).join("");
                return Err(command.error(format_args!("{} is only possible together with {needed}", arg.label())));
            }
        }
        Ok(())
    }

    /// As a sentence names the argument that was given under this name.
    fn label(&self, name: &str) -> String {
        let mut named = self.command.args.iter().zip(&self.given).filter(|(a, _)| a.name == name);
        named.find(|(_, given)| given.is_some()).map(|(a, _)| a.label()).unwrap_or_default()
    }

    fn find(&self, name: &str) -> Option<&Given<'a>> {
        debug_assert!(crate::table::has_argument(name), "no command has an argument '{name}'");
        self.command.args.iter().zip(&self.given).find_map(|(a, given)| given.as_ref().filter(|_| a.name == name))
    }

    fn item(&self, name: &str) -> Option<&Item<'a>> {
        self.find(name).map(|given| &given.item)
    }

    /// The command.
    pub fn command(&self) -> &'static Command {
        self.command
    }

    /// Whether this argument was given.
    pub fn given(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Whether this flag was given.
    pub fn flag(&self, name: &str) -> bool {
        self.given(name)
    }

    /// The number, in the call, of the first value of this argument.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.find(name).map(|given| given.from)
    }

    /// A key that is always there.
    pub fn key(&self, name: &str) -> &'a [u8] {
        self.opt_key(name).unwrap_or_default()
    }

    /// A key after an option.
    pub fn opt_key(&self, name: &str) -> Option<&'a [u8]> {
        match self.item(name)? {
            Item::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Bytes that are always there.
    pub fn blob(&self, name: &str) -> &'a [u8] {
        self.key(name)
    }

    /// Text that is always there.
    pub fn text(&self, name: &str) -> &'a str {
        self.opt_text(name).unwrap_or_default()
    }

    /// Text, or a choice in the table's spelling.
    pub fn opt_text(&self, name: &str) -> Option<&'a str> {
        match self.item(name)? {
            Item::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Several texts.
    pub fn list(&self, name: &str) -> &[&'a str] {
        match self.item(name) {
            Some(Item::Texts(texts)) => texts,
            _ => &[],
        }
    }

    /// Pairs of name and value.
    pub fn pairs(&self, name: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.list(name).as_chunks::<2>().0.iter().map(|[name, value]| (*name, *value))
    }

    /// An integer.
    pub fn opt_i64(&self, name: &str) -> Option<i64> {
        match self.item(name)? {
            Item::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// An integer that the table allows no negative values for.
    pub fn opt_u64(&self, name: &str) -> Option<u64> {
        self.opt_i64(name).and_then(|n| u64::try_from(n).ok())
    }

    /// An integer that the table allows no negative values for.
    pub fn opt_usize(&self, name: &str) -> Option<usize> {
        self.opt_i64(name).and_then(|n| usize::try_from(n).ok())
    }

    /// A number.
    pub fn opt_f64(&self, name: &str) -> Option<f64> {
        match self.item(name)? {
            Item::Float(f) => Some(*f),
            _ => None,
        }
    }

    /// Several numbers, each with a meaning of its own.
    pub fn opt_numbers<const N: usize>(&self, name: &str) -> Option<[f64; N]> {
        let Item::Row(row) = self.item(name)? else { return None };
        let numbers: Vec<f64> =
            row.iter().filter_map(|item| if let Item::Float(f) = item { Some(*f) } else { None }).collect();
        numbers.try_into().ok()
    }

    /// Texts, each with a number.
    pub fn weighted(&self, name: &str) -> Vec<(&'a str, f64)> {
        let Some(Item::Rows(rows)) = self.item(name) else { return Vec::new() };
        let weighted = rows.iter().filter_map(|row| match row.as_slice() {
            [Item::Text(text), Item::Float(weight)] => Some((*text, *weight)),
            _ => None,
        });
        weighted.collect()
    }

    /// An id, or a cursor, that is always there.
    pub fn id(&self, name: &str) -> MemoryId {
        self.opt_id(name).unwrap_or(MemoryId::ZERO)
    }

    /// An id.
    pub fn opt_id(&self, name: &str) -> Option<MemoryId> {
        match self.item(name)? {
            Item::Id(id) => Some(*id),
            _ => None,
        }
    }

    /// Several ids.
    pub fn ids(&self, name: &str) -> &[MemoryId] {
        match self.item(name) {
            Some(Item::Ids(ids)) => ids,
            _ => &[],
        }
    }

    /// An end of a range of times, in Unix milliseconds: `-` is the smallest, `+` the largest.
    pub fn bound(&self, name: &str) -> Bound<u64> {
        match self.item(name) {
            Some(Item::Bound(bound)) => *bound,
            _ => Bound::Unbounded,
        }
    }

    /// The vector given with VECTOR or VALUES.
    pub fn vector(&self) -> Option<&[f32]> {
        match self.item("vector").or_else(|| self.item("values"))? {
            Item::Vector(vector) => Some(vector),
            _ => None,
        }
    }

    /// A JSON object.
    pub fn object(&self, name: &str) -> Option<&Object> {
        match self.item(name)? {
            Item::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Several JSON objects.
    pub fn objects(&self, name: &str) -> &[Object] {
        match self.item(name) {
            Some(Item::Objects(objects)) => objects,
            _ => &[],
        }
    }

    /// The arguments as they came, to be parsed again later.
    pub fn owned(&self) -> Vec<Vec<u8>> {
        self.argv.iter().map(|word| word.to_vec()).collect()
    }

    /// A fingerprint of what is asked for: command and arguments, but not the job's name and whether the client waits.
    pub fn fingerprint(&self) -> u128 {
        let mut hasher = SipHasher13::new();
        let mut add = |bytes: &[u8]| {
            hasher.write_usize(bytes.len());
            hasher.write(bytes);
        };
        add(self.command.name.as_bytes());
        for (arg, given) in self.command.args.iter().zip(&self.given) {
            if let Some(given) = given
                && !matches!(arg.name, "job" | "nowait")
            {
                add(arg.name.as_bytes());
                self.argv.get(given.from..given.to).unwrap_or_default().iter().for_each(|word| add(word));
            }
        }
        hasher.finish128().as_u128()
    }
}

//! The grammar of commands: how a row of the command table is written down, and the one parser that reads arguments by it.
//!
//! The shape is Redis's own: positional arguments first, then options in any order, keywords in any case. Parsing is pure and total: it looks at nothing
//! but the table and the arguments, so the answer to a keys-position request and the command itself always agree on what is a key.
//!
//! Whatever does not fit gets a sentence that names the command, the argument, what was given (shortened, printable) and what is accepted. Values are
//! converted once, here; handlers ask [`Parsed`] by name, and a name no command has is caught by a debug assertion.

mod parsed;
mod value;

use std::fmt::Write as _;

use crate::reply::Error;

use parsed::Given;
pub use parsed::Parsed;
use value::{Item, convert, is_token, nearest};
pub use value::{Kind, Object, accepted, printable};

/// How many values an argument has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// One (none for a flag).
    One,
    /// One to this many, up to the first option token or the end.
    Rest(usize),
    /// A count from 1 to this, then that many values.
    Counted(usize),
    /// One to this many pairs of name and value, to the end.
    Pairs(usize),
    /// These, each with its placeholder and what it takes.
    Each(&'static [(&'static str, Kind)]),
    /// The same, and the option up to so many times.
    EachTimes(&'static [(&'static str, Kind)], usize),
}

/// One argument of a command.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// What the handler asks for: for an option the token in lower case.
    pub name: &'static str,
    /// The keyword of an option; None for a positional argument.
    pub token: Option<&'static str>,
    /// What it takes.
    pub kind: Kind,
    /// How many of them.
    pub shape: Shape,
    /// Whether it may be left out. Options may always.
    pub optional: bool,
    /// The option without which this one makes no sense.
    pub requires: Option<&'static str>,
    /// The placeholder in syntax and documentation.
    pub value: &'static str,
    /// One sentence.
    pub summary: &'static str,
}

impl Arg {
    /// A positional argument.
    pub const fn positional(name: &'static str, kind: Kind, summary: &'static str) -> Arg {
        Arg { name, token: None, kind, shape: Shape::One, optional: false, requires: None, value: name, summary }
    }

    /// An option with a value, shown as `value`.
    pub const fn option(
        name: &'static str,
        token: &'static str,
        value: &'static str,
        kind: Kind,
        summary: &'static str,
    ) -> Arg {
        Arg { name, token: Some(token), kind, shape: Shape::One, optional: true, requires: None, value, summary }
    }

    /// An option without a value.
    pub const fn flag(name: &'static str, token: &'static str, summary: &'static str) -> Arg {
        Arg::option(name, token, "", Kind::Flag, summary)
    }

    /// The same with another shape.
    pub const fn shaped(mut self, shape: Shape) -> Arg {
        self.shape = shape;
        self
    }

    /// The same, but it may be left out.
    pub const fn or_none(mut self) -> Arg {
        self.optional = true;
        self
    }

    /// The same, but only together with another option.
    pub const fn with(mut self, name: &'static str) -> Arg {
        self.requires = Some(name);
        self
    }

    /// As a sentence names it.
    fn label(&self) -> String {
        self.token.map_or_else(|| format!("<{}>", self.value), str::to_owned)
    }
}

/// Arguments of which at most one may be given; or a single option that must be.
#[derive(Clone, Copy, Debug)]
pub struct OneOf {
    /// Their names.
    pub names: &'static [&'static str],
    /// Whether one must be.
    pub required: bool,
}

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this argument.
    Index(i32),
    /// After the keyword of the option of this name.
    Option(&'static str),
}

/// What a command does to a key; decides what an ACL user needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Adds to it.
    Insert,
    /// Changes it, returning nothing of it.
    Update,
    /// Changes it and returns some of it.
    ReadUpdate,
    /// Removes from it and returns some of it.
    ReadDelete,
}

/// Where a command has a key and what it does to it.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec {
    /// Where.
    pub place: Place,
    /// What.
    pub access: Access,
}

/// One row of the command table.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// In lower case; a subcommand as `container|name`.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Section of the reference page.
    pub group: &'static str,
    /// Time complexity.
    pub complexity: &'static str,
    /// What it replies.
    pub reply: &'static str,
    /// Flags as `RM_CreateCommand` takes them.
    pub flags: &'static str,
    /// ACL categories on servers where a module can set them.
    pub categories: &'static str,
    /// Command tips for clients and proxies.
    pub tips: &'static str,
    /// Its keys.
    pub keys: &'static [KeySpec],
    /// Its arguments, positional ones first.
    pub args: &'static [Arg],
    /// Which exclude each other.
    pub one_of: &'static [OneOf],
    /// The subcommands of a container, which has nothing else.
    pub subcommands: &'static [Command],
}

impl Command {
    /// As a user writes it: `MEM.CONFIG SET`.
    pub fn title(&self) -> String {
        self.name.to_ascii_uppercase().replace('|', " ")
    }

    /// How many words its name has.
    pub fn words(&self) -> usize {
        1 + usize::from(self.name.contains('|'))
    }

    /// Whether it may change something.
    pub fn writes(&self) -> bool {
        self.flags.split(' ').any(|flag| flag == "write")
    }

    /// The argument of this name; the one with a token where a positional one has the same name.
    pub fn option(&self, name: &str) -> Option<&'static Arg> {
        self.args.iter().find(|a| a.name == name && a.token.is_some())
    }

    /// The group that `arg` belongs to, if any.
    pub fn group_of(&self, name: &str) -> Option<&'static OneOf> {
        self.one_of.iter().find(|group| group.names.contains(&name))
    }

    /// The positional part of the syntax.
    fn usage(&self) -> String {
        let mut usage = self.title();
        for arg in self.args.iter().filter(|a| a.token.is_none()) {
            let value = arg.value;
            let shown = match arg.shape {
                Shape::One => value.to_owned(),
                Shape::Rest(_) => format!("{value} [{value} ...]"),
                Shape::Counted(_) => format!("n {value} [{value} ...]"),
                Shape::Pairs(_) => format!("{value} value [{value} value ...]"),
                Shape::Each(values) | Shape::EachTimes(values, _) => {
                    values.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
                }
            };
            let _ = if arg.optional { write!(usage, " [{shown}]") } else { write!(usage, " {shown}") };
        }
        if self.args.iter().any(|a| a.token.is_some()) {
            usage.push_str(" [option ...]");
        }
        usage
    }

    /// An error that begins with the command's title.
    fn error(&self, sentence: std::fmt::Arguments) -> Error {
        Error::err(format!("{}: {sentence}", self.title()))
    }
}

/// Reads the arguments of `command`; `argv` is what the server hands over, with the command's name.
pub fn parse<'a>(command: &'static Command, argv: &[&'a [u8]]) -> Result<Parsed<'a>, Error> {
    let mut reader = Reader { command, argv, at: command.words(), given: command.args.iter().map(|_| None).collect() };
    for (i, arg) in command.args.iter().enumerate().filter(|(_, a)| a.token.is_none()) {
        // No object is a keyword, so before a list of objects options may stand as well as behind it.
        while arg.kind == Kind::Object && matches!(arg.shape, Shape::Rest(_)) && reader.take_option()? {}
        if !(arg.optional && reader.is_left_out(arg)) {
            reader.take(i, arg)?;
        }
    }
    while reader.take_option()? {}
    if let Some(word) = reader.peek() {
        return Err(reader.unknown(word));
    }
    Parsed::new(command, argv, reader.given)
}

struct Reader<'r, 'a> {
    command: &'static Command,
    argv: &'r [&'a [u8]],
    at: usize,
    given: Vec<Option<Given<'a>>>,
}

impl<'a> Reader<'_, 'a> {
    fn peek(&self) -> Option<&'a [u8]> {
        self.argv.get(self.at).copied()
    }

    /// Whether the next argument cannot be this optional positional one: there is none, or it is the keyword of an alternative, or for a list any keyword.
    fn is_left_out(&self, arg: &Arg) -> bool {
        let Some(word) = self.peek() else { return true };
        let any = matches!(arg.shape, Shape::Rest(_));
        let names = self.command.group_of(arg.name).map_or(&[][..], |group| group.names);
        let alternatives = self.command.args.iter().filter(|a| any || names.contains(&a.name));
        alternatives.filter_map(|a| a.token).any(|token| is_token(token, word))
    }

    /// Takes an option, if the next argument is the keyword of one.
    fn take_option(&mut self) -> Result<bool, Error> {
        let Some(word) = self.peek() else { return Ok(false) };
        let found = self.command.args.iter().enumerate().find(|(_, a)| a.token.is_some_and(|t| is_token(t, word)));
        let Some((i, arg)) = found else { return Ok(false) };
        let repeats = matches!(arg.shape, Shape::EachTimes(..));
        if self.command.args.iter().zip(&self.given).any(|(a, given)| a.name == arg.name && given.is_some() && !repeats)
        {
            return Err(self.command.error(format_args!("{} is given twice", arg.label())));
        }
        self.at += 1;
        self.take(i, arg)?;
        Ok(true)
    }

    fn take(&mut self, index: usize, arg: &'static Arg) -> Result<(), Error> {
        let from;
        let item = match arg.shape {
            Shape::One if arg.kind == Kind::Flag => {
                from = self.at;
                Item::Flag
            }
            Shape::One => {
                from = self.at;
                let word = self.peek().ok_or_else(|| self.missing(arg))?;
                self.at += 1;
                convert(arg.kind, word).map_err(|reason| self.refused(arg, None, &reason))?
            }
            Shape::Rest(max) => {
                let left = self.argv.get(self.at..).unwrap_or_default();
                let is_option =
                    |word: &&[u8]| self.command.args.iter().any(|a| a.token.is_some_and(|t| is_token(t, word)));
                let n = left.iter().position(is_option).unwrap_or(left.len());
                from = self.at;
                self.many(arg, n, max)?
            }
            Shape::Counted(max) => {
                let word = self.peek().ok_or_else(|| self.missing(arg))?;
                let count = match convert(Kind::Int(1, i64::try_from(max).unwrap_or(i64::MAX)), word) {
                    Ok(Item::Int(n)) => usize::try_from(n).unwrap_or(usize::MAX),
                    Ok(_) => 0,
                    Err(reason) => {
                        let label = arg.label();
                        return Err(self.command.error(format_args!("the count of {label} is {reason}")));
                    }
                };
                self.at += 1;
                from = self.at;
                let left = self.argv.len() - self.at;
                if left < count {
                    let (label, value) = (arg.label(), arg.value);
                    return Err(self
                        .command
                        .error(format_args!("{label} announces {count} values ({value}), but only {left} follow")));
                }
                self.many(arg, count, max)?
            }
            Shape::Pairs(max) => {
                from = self.at;
                let left = self.argv.len() - self.at;
                if left % 2 == 1 {
                    let last = self.argv.last().copied().unwrap_or_default();
                    return Err(self.command.error(format_args!(
                        "'{}' has no value; usage: {}",
                        printable(last),
                        self.command.usage()
                    )));
                }
                self.many(arg, left, max.saturating_mul(2))?
            }
            Shape::Each(values) => {
                from = self.at;
                Item::Row(self.row(arg, values)?)
            }
            Shape::EachTimes(values, max) => {
                let before = self.given.get_mut(index).and_then(Option::take);
                let row = self.row(arg, values)?;
                let (first, mut rows) = match before {
                    Some(Given { item: Item::Rows(rows), from, .. }) => (from, rows),
                    _ => (self.at - row.len(), Vec::new()),
                };
                if rows.len() >= max {
                    let label = arg.label();
                    return Err(self.command.error(format_args!("{label} is given more than {max} times")));
                }
                rows.push(row);
                from = first;
                Item::Rows(rows)
            }
        };
        self.given[index] = Some(Given { item, from, to: self.at });
        Ok(())
    }

    /// The next arguments, one for each of these values.
    fn row(&mut self, arg: &'static Arg, values: &'static [(&'static str, Kind)]) -> Result<Vec<Item<'a>>, Error> {
        let mut row = Vec::with_capacity(values.len());
        for (name, kind) in values {
            let word = self.peek().ok_or_else(|| self.missing(arg))?;
            self.at += 1;
            let label = arg.label();
            row.push(
                convert(*kind, word)
                    .map_err(|reason| self.command.error(format_args!("the {name} of {label} is {reason}")))?,
            );
        }
        Ok(row)
    }

    /// The next `n` arguments as values of one kind.
    fn many(&mut self, arg: &'static Arg, n: usize, max: usize) -> Result<Item<'a>, Error> {
        if n == 0 {
            return Err(self.missing(arg));
        }
        if n > max {
            return Err(self.command.error(format_args!("{n} values for {} are too many: at most {max}", arg.label())));
        }
        let words = &self.argv[self.at..self.at + n];
        self.at += n;
        let mut all = match arg.kind {
            Kind::Component => Item::Vector(Vec::with_capacity(n)),
            Kind::Id => Item::Ids(Vec::with_capacity(n)),
            Kind::Object => Item::Objects(Vec::with_capacity(n)),
            _ => Item::Texts(Vec::with_capacity(n)),
        };
        for (i, word) in words.iter().enumerate() {
            let item = convert(arg.kind, word).map_err(|reason| self.refused(arg, Some((i + 1, n)), &reason))?;
            match (&mut all, item) {
                // Components have been checked to be finite 32-bit floats.
                (Item::Vector(all), Item::Float(f)) => all.push(f as f32),
                (Item::Ids(all), Item::Id(id)) => all.push(id),
                (Item::Objects(all), Item::Object(object)) => all.push(object),
                (Item::Texts(all), Item::Text(text)) => all.push(text),
                _ => debug_assert!(false, "{} has a kind that cannot repeat", arg.name),
            }
        }
        Ok(all)
    }

    fn missing(&self, arg: &Arg) -> Error {
        let accepted = accepted(arg.kind);
        match arg.token {
            Some(token) => match arg.shape {
                Shape::Counted(max) => self
                    .command
                    .error(format_args!("{token} needs a count from 1 to {max} and that many values, each {accepted}")),
                Shape::Each(values) | Shape::EachTimes(values, _) => {
                    let values: Vec<String> =
                        values.iter().map(|(name, kind)| format!("{name} ({})", self::accepted(*kind))).collect();
                    self.command.error(format_args!("{token} needs {} values: {}", values.len(), values.join(", ")))
                }
                _ => self.command.error(format_args!("{token} needs a value: {accepted}")),
            },
            None => {
                let usage = self.command.usage();
                self.command.error(format_args!("<{}> is missing ({accepted}); usage: {usage}", arg.value))
            }
        }
    }

    fn refused(&self, arg: &Arg, place: Option<(usize, usize)>, reason: &str) -> Error {
        let label = arg.label();
        match place {
            Some((i, n)) if n > 1 => self.command.error(format_args!("value {i} of {n} of {label} is {reason}")),
            _ => self.command.error(format_args!("{label} is {reason}")),
        }
    }

    fn unknown(&self, word: &[u8]) -> Error {
        let shown = printable(word);
        let tokens: Vec<&str> = self.command.args.iter().filter_map(|a| a.token).collect();
        if tokens.is_empty() {
            let usage = self.command.usage();
            return self.command.error(format_args!("'{shown}' is one argument too many; usage: {usage}"));
        }
        let hint = nearest(&String::from_utf8_lossy(word).to_ascii_uppercase(), &tokens)
            .map(|token| format!(", did you mean {token}?"))
            .unwrap_or_default();
        let list = tokens.join(", ");
        self.command.error(format_args!("unknown option '{shown}'{hint} (accepted: {list})"))
    }
}

#[cfg(test)]
mod tests;

//! From text to tree.

use super::{Arithmetic, BUILT_IN, Comparison, Literal, Node};
use crate::{Error, Result, limits};

pub(super) fn parse(text: &str) -> Result<Node> {
    if text.len() > limits::FILTER_BYTES {
        return Err(Error::new(format!("FILTER: {} bytes, at most {} are accepted", text.len(), limits::FILTER_BYTES)));
    }
    let mut parser = Parser { text, at: 0, start: 0, token: Token::End, nodes: 0 };
    parser.advance()?;
    let tree = parser.any(0)?;
    match parser.token {
        Token::End => Ok(tree.node),
        _ => Err(parser.unexpected("an operator such as and, or, ==, in")),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    End,
    Number(f64),
    Text(Box<str>),
    Name(Box<str>),
    /// An operator, bracket, comma or word, in lower case.
    Sign(&'static str),
}

/// Longer signs first, so that `<=` is not read as `<`.
const SIGNS: [&str; 22] = [
    "**", "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "+", "-", "*", "/", "%", "(", ")", "[", "]", ",", "=", "&",
];
const WORDS: [&str; 7] = ["and", "or", "not", "in", "true", "false", "null"];

/// A node and the depth of its tree: what the evaluator will recurse into.
struct Tree {
    node: Node,
    depth: usize,
}

struct Parser<'a> {
    text: &'a str,
    /// Where the next token begins.
    at: usize,
    /// Where the current token began.
    start: usize,
    token: Token,
    nodes: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn error(&self, at: usize, what: &str) -> Error {
        let shown: String = self.text.get(at..).unwrap_or("").chars().take(24).collect();
        let place = self.text.get(..at).map_or(0, |before| before.chars().count()) + 1;
        if shown.is_empty() {
            Error::new(format!("FILTER: {what}, at the end"))
        } else {
            Error::new(format!("FILTER: {what}, at character {place}: '{shown}'"))
        }
    }

    fn unexpected(&self, wanted: &str) -> Error {
        self.error(self.start, &format!("expected {wanted}"))
    }

    fn advance(&mut self) -> Result<()> {
        self.at = self.text.len() - self.rest().trim_start().len();
        self.start = self.at;
        self.token = self.read()?;
        Ok(())
    }

    fn read(&mut self) -> Result<Token> {
        let rest = self.rest();
        let mut chars = rest.chars();
        let Some(first) = chars.next() else { return Ok(Token::End) };
        let second = chars.next();
        if first.is_ascii_digit() || (first == '.' && second.is_some_and(|c| c.is_ascii_digit())) {
            return self.number();
        }
        if first == '"' || first == '\'' {
            return self.string(first);
        }
        if first == '.' {
            let name: String = rest.chars().skip(1).take_while(|c| is_name(*c)).collect();
            if name.is_empty() {
                return Err(self.error(self.at, "a dot needs the name of a field behind it"));
            }
            self.at += 1 + name.len();
            return Ok(Token::Name(name.into()));
        }
        if is_name(first) && first != '-' {
            let word: String = rest.chars().take_while(|c| is_name(*c)).collect();
            let known = WORDS.into_iter().find(|known| known.eq_ignore_ascii_case(&word));
            let known = known.ok_or_else(|| {
                self.error(
                    self.at,
                    &format!("'{word}' is not a word of the language (a field is .{word}, a text \"{word}\")"),
                )
            })?;
            self.at += word.len();
            return Ok(Token::Sign(known));
        }
        match SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            Some("=") => Err(self.error(self.at, "equality is written ==")),
            Some("&") => Err(self.error(self.at, "'and' is written and or &&")),
            Some(sign) => {
                self.at += sign.len();
                Ok(Token::Sign(sign))
            }
            None => Err(self.error(self.at, &format!("'{first}' is not part of the language"))),
        }
    }

    fn number(&mut self) -> Result<Token> {
        let rest = self.rest();
        let mut end = 0;
        let mut before = ' ';
        for c in rest.chars() {
            let exponent_sign = matches!(c, '+' | '-') && matches!(before, 'e' | 'E');
            if !(c.is_ascii_alphanumeric() || c == '.' || c == '_' || exponent_sign) {
                break;
            }
            before = c;
            end += c.len_utf8();
        }
        let written = rest.get(..end).unwrap_or("");
        match written.parse::<f64>() {
            Ok(number) if number.is_finite() => {
                self.at += end;
                Ok(Token::Number(number))
            }
            _ => Err(self.error(self.at, &format!("'{written}' is not a number"))),
        }
    }

    fn string(&mut self, quote: char) -> Result<Token> {
        let mut out = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.at += at + 1;
                    return Ok(Token::Text(out.into()));
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, 't')) => out.push('\t'),
                    Some((_, 'r')) => out.push('\r'),
                    Some((_, c @ ('\\' | '"' | '\''))) => out.push(c),
                    Some((at, _)) => {
                        let place = self.at + at;
                        return Err(self.error(place, "an escape is \\\\, \\\", \\', \\n, \\r or \\t"));
                    }
                    None => break,
                },
                c => out.push(c),
            }
        }
        Err(self.error(self.at, "a text without its closing quote"))
    }

    fn takes(&mut self, signs: &[&str]) -> Result<Option<&'static str>> {
        match self.token {
            Token::Sign(sign) if signs.contains(&sign) => {
                self.advance()?;
                Ok(Some(sign))
            }
            _ => Ok(None),
        }
    }

    fn tree(&mut self, node: Node, depth: usize) -> Result<Tree> {
        self.nodes += 1;
        if self.nodes > limits::FILTER_NODES {
            return Err(Error::new(format!("FILTER: more than {} operators, names and values", limits::FILTER_NODES)));
        }
        if depth > limits::FILTER_DEPTH {
            return Err(self.too_deep());
        }
        Ok(Tree { node, depth })
    }

    fn too_deep(&self) -> Error {
        self.error(self.start, &format!("nested deeper than {} levels", limits::FILTER_DEPTH))
    }

    /// `level` counts the recursion of the parser itself: parentheses and signs before a value.
    fn any(&mut self, level: usize) -> Result<Tree> {
        if level > limits::FILTER_DEPTH {
            return Err(self.too_deep());
        }
        self.chain(level, &["or", "||"], Parser::all, Node::Any)
    }

    fn all(&mut self, level: usize) -> Result<Tree> {
        self.chain(level, &["and", "&&"], Parser::not, Node::All)
    }

    /// Chains of `and` and `or` become one node each, so that long ones are not deep.
    fn chain(
        &mut self,
        level: usize,
        signs: &[&str],
        operand: fn(&mut Self, usize) -> Result<Tree>,
        join: fn(Vec<Node>) -> Node,
    ) -> Result<Tree> {
        let first = operand(self, level)?;
        let (mut nodes, mut depth) = (vec![first.node], first.depth);
        while self.takes(signs)?.is_some() {
            let next = operand(self, level)?;
            depth = depth.max(next.depth);
            nodes.push(next.node);
        }
        if nodes.len() == 1
            && let Some(node) = nodes.pop()
        {
            return Ok(Tree { node, depth });
        }
        self.tree(join(nodes), depth + 1)
    }

    fn not(&mut self, level: usize) -> Result<Tree> {
        if level > limits::FILTER_DEPTH {
            return Err(self.too_deep());
        }
        if self.takes(&["not", "!"])?.is_none() {
            return self.comparison(level);
        }
        let inner = self.not(level + 1)?;
        self.tree(Node::Not(Box::new(inner.node)), inner.depth + 1)
    }

    fn comparison(&mut self, level: usize) -> Result<Tree> {
        const COMPARISONS: [&str; 7] = ["==", "!=", "<", "<=", ">", ">=", "in"];
        let left = self.sum(level)?;
        let Some(sign) = self.takes(&COMPARISONS)? else { return Ok(left) };
        let comparison = match sign {
            "==" => Comparison::Equal,
            "!=" => Comparison::NotEqual,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            _ => Comparison::In,
        };
        let right = self.sum(level)?;
        if matches!(self.token, Token::Sign(sign) if COMPARISONS.contains(&sign)) {
            return Err(self.error(self.start, "comparisons do not chain: join two of them with and"));
        }
        let depth = left.depth.max(right.depth) + 1;
        self.tree(Node::Compare(comparison, Box::new(left.node), Box::new(right.node)), depth)
    }

    fn sum(&mut self, level: usize) -> Result<Tree> {
        let mut left = self.product(level)?;
        while let Some(sign) = self.takes(&["+", "-"])? {
            let right = self.product(level)?;
            let op = if sign == "+" { Arithmetic::Add } else { Arithmetic::Subtract };
            left = self.calculate(op, left, right)?;
        }
        Ok(left)
    }

    fn product(&mut self, level: usize) -> Result<Tree> {
        let mut left = self.signed(level)?;
        while let Some(sign) = self.takes(&["*", "/", "%"])? {
            let right = self.signed(level)?;
            let op = match sign {
                "*" => Arithmetic::Multiply,
                "/" => Arithmetic::Divide,
                _ => Arithmetic::Remainder,
            };
            left = self.calculate(op, left, right)?;
        }
        Ok(left)
    }

    fn calculate(&mut self, op: Arithmetic, left: Tree, right: Tree) -> Result<Tree> {
        let depth = left.depth.max(right.depth) + 1;
        self.tree(Node::Calculate(op, Box::new(left.node), Box::new(right.node)), depth)
    }

    fn signed(&mut self, level: usize) -> Result<Tree> {
        if level > limits::FILTER_DEPTH {
            return Err(self.too_deep());
        }
        if self.takes(&["-"])?.is_some() {
            let inner = self.signed(level + 1)?;
            return self.tree(Node::Negate(Box::new(inner.node)), inner.depth + 1);
        }
        let base = self.operand(level)?;
        if self.takes(&["**"])?.is_some() {
            // To the right: 2 ** 3 ** 2 is 2 ** 9.
            let exponent = self.signed(level + 1)?;
            return self.calculate(Arithmetic::Power, base, exponent);
        }
        Ok(base)
    }

    fn operand(&mut self, level: usize) -> Result<Tree> {
        let node = match std::mem::replace(&mut self.token, Token::End) {
            Token::Sign("(") => {
                self.advance()?;
                let inner = self.any(level + 1)?;
                return match self.takes(&[")"])? {
                    Some(_) => Ok(inner),
                    None => Err(self.unexpected("a closing parenthesis")),
                };
            }
            Token::Sign("[") => return self.list(),
            Token::Name(name) => match BUILT_IN.iter().find(|built_in| *built_in.name == *name) {
                Some(built_in) => Node::Field(built_in.field),
                None => Node::Meta(name),
            },
            token => match literal(&token) {
                Some(literal) => Node::Literal(literal),
                None => {
                    self.token = token;
                    return Err(
                        self.unexpected("a field such as .importance, a number, a text, a list or a parenthesis")
                    );
                }
            },
        };
        self.advance()?;
        self.tree(node, 1)
    }

    fn list(&mut self) -> Result<Tree> {
        self.advance()?;
        let mut items = Vec::new();
        if self.takes(&["]"])?.is_some() {
            return self.tree(Node::List(items), 1);
        }
        loop {
            let negative = self.takes(&["-"])?.is_some();
            let item = match (literal(&self.token), negative) {
                (Some(Literal::Number(number)), true) => Literal::Number(-number),
                (Some(item), false) => item,
                _ => return Err(self.unexpected("a number, a text, true, false or null in the list")),
            };
            self.advance()?;
            self.nodes += 1;
            items.push(item);
            if self.takes(&[","])?.is_none() {
                break;
            }
        }
        match self.takes(&["]"])? {
            Some(_) => self.tree(Node::List(items), 1),
            None => Err(self.unexpected("a comma or the closing bracket of the list")),
        }
    }
}

fn literal(token: &Token) -> Option<Literal> {
    Some(match token {
        Token::Number(number) => Literal::Number(*number),
        Token::Text(text) => Literal::Text(text.clone()),
        Token::Sign("true") => Literal::Bool(true),
        Token::Sign("false") => Literal::Bool(false),
        Token::Sign("null") => Literal::Null,
        _ => return None,
    })
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

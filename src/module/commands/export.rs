//! MEM.EXPORT and MEM.IMPORT: a whole space as lines of JSON, and back. What a line is, and how the walk goes, is described in the engine's `export`, what an import
//! does with lines in its `import`.

use engram_memory::Imported;

use super::read::answer;
use super::{Outcome, check_size, read, write};
use crate::commit::Needs;
use crate::datatype::{self, Found};
use crate::ffi::{self, Ctx, Key, Mode, Str};
use crate::fill;
use crate::grammar::Parsed;
use crate::reply::{Error, Value};

/// Lines of a page.
const COUNT: usize = 100;
/// Lines, and their bytes, that are written out on the main thread at most: about a tenth of a millisecond.
const INLINE_LINES: usize = 16;
const INLINE_BYTES: usize = 32 * 1024;

/// `MEM.EXPORT key cursor [COUNT n]`
pub fn export(ctx: Ctx, args: &Parsed) -> Outcome {
    let (now, cursor) = (ffi::now(), args.text("cursor"));
    let count = args.opt_usize("count").unwrap_or(COUNT);
    let page = read(ctx, args.key("key"), |held| Ok(held.space.export(now, cursor, count)?))?;
    let Some(page) = page else {
        return Ok(Value::Array(vec![Value::from("0"), Value::Array(Vec::new())]).into());
    };
    let inline = page.len() <= INLINE_LINES && page.bytes() <= INLINE_BYTES;
    answer(ctx, inline, move || {
        let next = Value::from(page.next());
        Ok(Value::Array(vec![next, Value::Array(page.lines().into_iter().map(Value::from).collect())]))
    })
}

/// `MEM.IMPORT key [REPLACE] json [json ...]`
pub fn import(ctx: Ctx, args: &Parsed) -> Outcome {
    let lines = args.objects("json");
    for (n, line) in lines.iter().enumerate() {
        for memory in line.values() {
            let content = memory.get("content").and_then(|content| content.as_str()).unwrap_or_default();
            check_size(content, "content")
                .map_err(|error| Error::new(error.code, format!("line {}: {}", n + 1, error.message)))?;
        }
    }
    let Imported { written, unchanged } =
        write(ctx, args.key("key"), Needs::STORE, |space, now| Ok(space.import(now, lines, args.flag("replace"))?))?;
    let name = Str::new(args.key("key"));
    if let Found::Space(held) = datatype::find(&mut Key::open(ctx, &name, Mode::Peek)) {
        fill::begin(held, ctx.db(), args.key("key"));
    }
    Ok(Value::map(vec![("written", Value::from(written)), ("unchanged", Value::from(unchanged))]).into())
}

//! Commands about models and jobs: LOAD, UNLOAD, MODELS, EMBED, TOKENIZE, JOBS, RESULT, CANCEL.

use super::{Flow, Outcome, check_size};
use crate::ffi::Ctx;
use crate::grammar::Parsed;
use crate::jobs::{self, Place, Waiter};
use crate::models::{self, Embedded, Text};
use crate::reply::{Error, Value};
use engram_inference::Embedder;
use engram_inference::gemma::{Gemma, KvFormat};
use std::sync::Arc;

/// `GEMMA.LOAD name path [TOKENIZER path] [CONTEXT n] [KV bf16|q8] [EMBEDDING [DIM n]]`: answers when the model is loaded; GEMMA.MODELS shows how far it is.
pub fn load(ctx: Ctx, args: &Parsed) -> Outcome {
    if ctx.must_not_block() {
        return Err(Error::err("GEMMA.LOAD waits for the model, so it is refused inside MULTI, scripts and functions"));
    }
    let (name, path) = (args.text("name"), args.text("path"));
    // The client is blocked only once the load has been accepted; the loader's thread then finds it here.
    let (send, receive) = std::sync::mpsc::sync_channel::<Waiter>(1);
    let answer = move |result: Result<(), Error>| {
        if let Ok(waiter) = receive.recv() {
            waiter.answer(result.map(|()| Value::Ok));
        }
    };
    let (tokenizer, context, dim) = (args.opt_text("tokenizer"), args.opt_usize("context"), args.opt_usize("dim"));
    let kv = args.opt_text("kv").and_then(KvFormat::of);
    if args.flag("embedding") {
        if tokenizer.is_some() || context.is_some() || kv.is_some() {
            return Err(Error::err(
                "TOKENIZER, CONTEXT and KV are for models that make text: an encoder brings what it needs, leave them out",
            ));
        }
        models::load_named_embedder(name, path, dim, answer)?;
    } else {
        if dim.is_some() {
            return Err(Error::err("DIM is the length of vectors: it needs EMBEDDING"));
        }
        models::load_gemma(name, path, tokenizer, context, kv, move |result| answer(result.map(drop)))?;
    }
    // Loading goes on if the client leaves: the next one finds the model there.
    let _ = send.send(Waiter::block(ctx, 0, || {}));
    Ok(Flow::Later)
}

/// `GEMMA.UNLOAD name`
pub fn unload(_ctx: Ctx, args: &Parsed) -> Outcome {
    models::unload(args.text("name"))?;
    Ok(Value::Ok.into())
}

/// `GEMMA.MODELS`
pub fn models(_ctx: Ctx, _args: &Parsed) -> Outcome {
    Ok(models::describe().into())
}

/// `GEMMA.EMBED n text... [MODEL name] [QUERY] [BLOB]`: per text one vector for each of its windows.
pub fn embed(ctx: Ctx, args: &Parsed) -> Outcome {
    let texts = args.list("text");
    texts.iter().try_for_each(|text| check_size(text, "a text"))?;
    models::expect_embedder()?;
    if let Some(wanted) = args.opt_text("model") {
        let (name, state, _) = models::embedder_state();
        if name != wanted {
            return Err(Error::new(
                "NOMODEL",
                format!("no encoder '{wanted}'; the encoder of this server is '{name}' ({state})"),
            ));
        }
    }
    let blob = args.flag("blob");
    let query = args.flag("query");
    let texts: Vec<Text> =
        texts.iter().map(|text| if query { Text::query(*text) } else { Text::document(*text) }).collect();
    if ctx.must_not_block() {
        return Ok(vectors(models::embed_inline(ctx, &texts)?, blob).into());
    }
    if let Some(embedded) = models::all_cached(&texts) {
        return Ok(vectors(embedded, blob).into());
    }
    let place = Place::take()?;
    models::embed_in_background(texts, Waiter::block(ctx, 0, || {}), move |embedded, waiter| {
        waiter.answer(embedded.map(|e| vectors(e, blob)));
        drop(place);
    });
    Ok(Flow::Later)
}

fn vectors(embedded: Embedded, blob: bool) -> Value {
    let vector = |v: &Vec<f32>| {
        if blob {
            Value::Bytes(v.iter().flat_map(|f| f.to_le_bytes()).collect())
        } else {
            Value::Array(v.iter().map(|f| Value::Double(f64::from(*f))).collect())
        }
    };
    Value::Array(embedded.texts.iter().map(|text| Value::Array(text.windows.iter().map(vector).collect())).collect())
}

/// `GEMMA.TOKENIZE text [MODEL name] [COUNT]`: by the named or default Gemma model; without one by the encoder.
pub fn tokenize(ctx: Ctx, args: &Parsed) -> Outcome {
    let text = args.text("text");
    check_size(text, "the text")?;
    let wanted = args.opt_text("model");
    let model = match models::gemma(wanted) {
        Ok((_, gemma)) => Tokens::Gemma(gemma),
        Err(error) => match models::embedder() {
            Ok(encoder) if wanted.is_none_or(|w| w == encoder.name()) => Tokens::Encoder(encoder),
            _ => return Err(error),
        },
    };
    let count = args.flag("count");
    if ctx.must_not_block() && text.len() > TOKENIZE_IN_PLACE {
        return Err(Error::new(
            "INLINELIMIT",
            format!(
                "inside MULTI, scripts and functions at most {TOKENIZE_IN_PLACE} bytes are tokenised: call it outside"
            ),
        ));
    }
    if text.len() <= TOKENIZE_INLINE || ctx.must_not_block() {
        return Ok(model.reply(text, count).into());
    }
    let place = Place::take()?;
    let (waiter, text) = (Waiter::block(ctx, 0, || {}), text.to_owned());
    models::spawn_once(move || {
        waiter.work_begins();
        let reply = model.reply(&text, count);
        waiter.work_ends();
        waiter.answer(Ok(reply));
        drop(place);
    });
    Ok(Flow::Later)
}

/// Bytes of a text that are tokenised on the main thread: some tens of microseconds.
const TOKENIZE_INLINE: usize = 2_048;

/// Bytes of a text that are tokenised where nothing may block: about a millisecond.
const TOKENIZE_IN_PLACE: usize = 32_768;

/// Whose tokens.
enum Tokens {
    Gemma(Arc<Gemma>),
    Encoder(Arc<Embedder>),
}

impl Tokens {
    fn reply(&self, text: &str, count: bool) -> Value {
        let ids = match self {
            Tokens::Gemma(gemma) => gemma.tokenizer().encode(text),
            Tokens::Encoder(encoder) => encoder.tokens(text),
        };
        if count {
            return Value::from(ids.len());
        }
        Value::Array(ids.into_iter().map(|id| Value::from(u64::from(id))).collect())
    }
}

/// `GEMMA.JOBS`
pub fn jobs(ctx: Ctx, _args: &Parsed) -> Outcome {
    Ok(jobs::list(ctx).into())
}

/// `GEMMA.RESULT job [TIMEOUT ms]`: waits for the job; null if it has not ended in time, or where waiting is not possible.
pub fn result(ctx: Ctx, args: &Parsed) -> Outcome {
    let job = jobs::find(ctx, args.text("job"))?;
    if ctx.must_not_block() && !job.is_finished() {
        return Ok(Value::Null.into());
    }
    match job.wait(ctx, args.opt_u64("timeout").unwrap_or(0)) {
        Some(outcome) => outcome.map(Flow::from),
        None => Ok(Flow::Later),
    }
}

/// `GEMMA.CANCEL job`: 1 if it was still at work, 0 if it had ended.
pub fn cancel(ctx: Ctx, args: &Parsed) -> Outcome {
    let job = jobs::find(ctx, args.text("job"))?;
    let was_running = !job.is_finished();
    job.cancel();
    Ok(Value::from(i64::from(was_running)).into())
}

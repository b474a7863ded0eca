//! One completion by a language model that the module itself asks for: a summary, an insight, facts.

use std::sync::Arc;

use engram_inference::engine::{Engine, Owner, Request};
use engram_inference::generation::{Finish, Generation, Step};

use crate::commands::generate::LOW;
use crate::ffi::{self, Level};
use crate::reply::Error;

/// What a model is to complete.
pub struct Question {
    /// The model.
    pub engine: Arc<Engine>,
    /// The prompt and how it is sampled.
    pub generation: Generation,
}

/// Asks, behind what callers wait for. `tenant` is the user for whom it is, `scope` what the keys and values of the prompt are kept under. While it runs `goes_on` is asked
/// before each step; when it is over, whatever happened, `done` is called, once, on the model's thread.
pub fn ask(
    question: Question,
    tenant: String,
    scope: Option<String>,
    goes_on: impl Fn() -> bool + Send + 'static,
    done: impl FnOnce(Result<(String, Finish), Error>) + Send + 'static,
) {
    let Question { engine, generation } = question;
    let owner = Box::new(Asked { goes_on, done: Some(done) });
    engine.submit(Request { generation, tenant, scope, priority: LOW, owner });
}

struct Asked<G, D> {
    goes_on: G,
    done: Option<D>,
}

impl<G, D: FnOnce(Result<(String, Finish), Error>)> Asked<G, D> {
    fn end(&mut self, outcome: Result<(String, Finish), Error>) {
        if let Some(done) = self.done.take() {
            done(outcome);
        }
    }
}

impl<G, D> Owner for Asked<G, D>
where
    G: Fn() -> bool + Send,
    D: FnOnce(Result<(String, Finish), Error>) + Send,
{
    fn goes_on(&mut self, _: &mut Generation) -> bool {
        let goes_on = (self.goes_on)();
        if !goes_on {
            self.end(Err(Error::new("CANCELLED", "cancelled")));
        }
        goes_on
    }

    fn stepped(&mut self, generation: &mut Generation, step: Result<Step, engram_inference::Error>) {
        match step {
            Ok(Step::Running) => {}
            Ok(Step::Done(finish)) => {
                let text = generation.text().to_owned();
                self.end(Ok((text, finish)));
            }
            Err(error) => self.end(Err(Error::err(format!("generation failed: {error}")))),
        }
    }

    fn panicked(&mut self, message: &str) {
        ffi::log(Level::Warning, &format!("engram: a panic while a model wrote ({message}); please report it"));
        self.end(Err(Error::err("generation failed with an internal error; the server's log has more")));
    }
}

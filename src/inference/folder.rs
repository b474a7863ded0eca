//! A model's folder as it is published: small JSON files beside the weights. Everything is read with limits, because the
//! folder may come from anyone.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// No configuration file comes near this many bytes.
const MAX_JSON: u64 = 4 << 20;

/// Reads and parses a JSON file; errors name it.
pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    serde_json::from_slice(&read(path, MAX_JSON)?).map_err(|error| Error::new(error.to_string()).at(place(path)))
}

/// Reads a file that has at most `limit` bytes; errors name it.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let fail = |error: std::io::Error| Error::new(format!("cannot be read: {error}")).at(place(path));
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > limit {
        return Err(Error::new(format!("has {size} bytes; at most {limit} are accepted")).at(place(path)));
    }
    std::fs::read(path).map_err(fail)
}

fn place(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether a path in a file of the folder names something in it, and nothing outside.
pub(crate) fn stays_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// The steps of a sentence-transformers model, in the order of `modules.json`: what each is and its folder.
pub(crate) fn modules(dir: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    #[derive(Deserialize)]
    struct Module {
        path: String,
        #[serde(rename = "type")]
        kind: String,
    }
    let modules: Vec<Module> = json(&dir.join("modules.json"))?;
    let step = |module: Module| {
        if !stays_inside(Path::new(&module.path)) {
            return Err(Error::new(format!("modules.json: the path {:?} does not stay in the folder", module.path)));
        }
        let kind = module.kind.rsplit('.').next().unwrap_or_default().to_owned();
        Ok((kind, dir.join(&module.path)))
    };
    modules.into_iter().map(step).collect()
}

/// The program, in Jinja, that writes a model's prompts: `chat_template.jinja`, or in older folders a string of `tokenizer_config.json`.
pub(crate) fn chat_template(dir: &Path) -> Result<Option<String>, Error> {
    #[derive(Deserialize)]
    struct Config {
        chat_template: Option<serde_json::Value>,
    }
    let (own, config) = (dir.join("chat_template.jinja"), dir.join("tokenizer_config.json"));
    if own.exists() {
        return Ok(Some(String::from_utf8_lossy(&read(&own, MAX_JSON)?).into_owned()));
    }
    if !config.exists() {
        return Ok(None);
    }
    let config: Config = json(&config)?;
    Ok(config.chat_template.and_then(|text| text.as_str().map(str::to_owned)))
}

/// Which pooling a configuration turns on: its keys `pooling_mode_…` that are true.
pub(crate) fn pooling_modes(path: &Path) -> Result<Vec<String>, Error> {
    let config: serde_json::Map<String, serde_json::Value> = json(path)?;
    let modes = config.iter().filter_map(|(key, value)| key.strip_prefix("pooling_mode_").zip(value.as_bool()));
    Ok(modes.filter(|(_, on)| *on).map(|(mode, _)| mode.to_owned()).collect())
}

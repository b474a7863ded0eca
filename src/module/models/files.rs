//! What may be loaded, and under which names.

use std::path::{Component, Path, PathBuf};

use crate::config;
use crate::reply::Error;

/// The file or folder `name` inside `engram.model-dir`. A name that leads out of it is refused; a link inside it is the administrator's.
pub(super) fn path_of(name: &str) -> Result<PathBuf, Error> {
    let path = Path::new(name);
    if name.is_empty() || name.contains('\0') || !path.components().all(|c| matches!(c, Component::Normal(_))) {
        return Err(Error::err(format!(
            "'{name}' is not a path inside engram.model-dir: give the name of a file or folder below it, without '..' and without a leading '/'"
        )));
    }
    Ok(Path::new(&config::model_dir()).join(path))
}

/// A file or folder that is there.
pub(super) fn existing(path: &str) -> Result<PathBuf, Error> {
    let file = path_of(path)?;
    if !file.exists() {
        return Err(Error::new(
            "NOMODEL",
            format!("there is no file or folder '{path}' in engram.model-dir ('{}')", config::model_dir()),
        ));
    }
    Ok(file)
}

/// Whether a model may have this name.
pub(super) fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > 128 || name.contains(char::is_whitespace) || name.contains(char::is_control) {
        return Err(Error::err("a model's name has 1 to 128 characters, without spaces"));
    }
    Ok(())
}

/// The length of vectors that are cut stands behind the name of their encoder.
pub(super) fn check_embedder_name(name: &str) -> Result<(), Error> {
    check_name(name)?;
    if name.contains(':') {
        return Err(Error::err("a text encoder's name has no ':', behind which the length of its vectors stands"));
    }
    Ok(())
}

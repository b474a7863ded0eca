//! The sentence encoder by itself, beside onnxruntime: a script of its own runs it (the peers are Python's), and its figures are taken into this report.

use std::path::Path;
use std::process::Command;

use crate::Outcome;
use crate::report::Report;

/// Runs `scripts/bench-embedding`.
pub fn embedding(report: &mut Report, root: &Path, scratch: &Path) -> Outcome<()> {
    const AIM: &str = "≥ 1.3 × onnxruntime f32 at 8 and 32 tokens, ≥ 1.15 × at 256";
    let script = root.join("scripts/bench-embedding");
    std::fs::create_dir_all(scratch)?;
    let file = scratch.join("embedding.json");
    let ran = if script.is_file() {
        let status = Command::new(script).arg("--json").arg(&file).status()?;
        status.success().then_some(()).ok_or_else(|| format!("scripts/bench-embedding: {status}, see above"))
    } else {
        Err("there is no scripts/bench-embedding".to_owned())
    };
    match ran {
        Ok(()) => report.include(&serde_json::from_str(&std::fs::read_to_string(&file)?)?),
        Err(why) => {
            report.unmeasured("embedding, one thread, single and batch", AIM, "not measured");
            report.skipped(format!("the encoder beside onnxruntime: {why}"));
        }
    }
    Ok(())
}

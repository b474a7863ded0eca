//! What the figures were measured on.

use std::process::Command;

/// The processor and what of it is visible here.
pub fn describe() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| info.lines().find_map(|l| l.strip_prefix(name)?.split(':').nth(1)).map(str::trim);
    let flags = field("flags").unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|f| f == flag);
    let simd = match () {
        () if has("avx512_vnni") => "AVX-512 with VNNI",
        () if has("avx512f") => "AVX-512",
        () if has("avx2") => "AVX2",
        () if cfg!(target_arch = "aarch64") => "NEON",
        () => "no AVX2",
    };
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory =
        memory.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    format!(
        "{} ({}, {simd}), {} cores visible, {:.0} GiB",
        field("model name").unwrap_or("unknown processor"),
        std::env::consts::ARCH,
        crate::dataset::threads(),
        memory.unwrap_or(f64::NAN) / (1 << 20) as f64
    )
}

/// The first line that a program prints.
pub fn first_line(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output
        .ok()
        .and_then(|o| String::from_utf8(o.stdout).ok())
        .and_then(|o| o.lines().next().map(str::to_owned))
        .unwrap_or_else(|| "unknown".to_owned())
}

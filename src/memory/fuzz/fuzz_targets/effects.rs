//! Any bytes are read as effects or refused; what is read is applied or refused; what comes of it is sound, and saves and loads.
#![no_main]

mod sound;

use engram_memory::VERSION;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| sound::check(&[&[VERSION], bytes].concat()));

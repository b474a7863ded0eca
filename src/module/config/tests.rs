use super::*;

fn refused(args: &[&str]) -> String {
    let args: Vec<&[u8]> = args.iter().map(|a| a.as_bytes()).collect();
    Arguments::parse(&args).unwrap_err().message
}

#[test]
fn arguments_take_the_settings_names_with_and_without_prefix() {
    let args: Vec<&[u8]> = vec![b"model-dir", b"/x", b"engram.threads", b"2", b"max-content-bytes", b"64kb"];
    let args = Arguments::parse(&args).unwrap();
    assert_eq!(args.of(c"model-dir"), Some("/x"));
    assert_eq!(args.of(c"threads"), Some("2"));
    assert_eq!(args.of(c"embedder"), None);
    assert_eq!(Arguments::parse(&[]).unwrap(), Arguments::default());
}

#[test]
fn a_bad_argument_is_a_sentence() {
    assert!(
        refused(&["thread", "2"]).starts_with("unknown module argument 'thread' (accepted: threads, queue-limit, ")
    );
    assert_eq!(refused(&["threads", "0"]), "the module argument threads is '0': an integer from 1 to 256 is accepted");
    assert_eq!(
        refused(&["threads", "2k"]),
        "the module argument threads is '2k': an integer from 1 to 256 is accepted"
    );
    assert_eq!(refused(&["threads"]), "the module argument 'threads' has no value");
    assert_eq!(refused(&["threads", "1", "engram.threads", "2"]), "the module argument engram.threads is given twice");
    assert!(refused(&["model-dir", ""]).contains("a folder's path is accepted"));
    assert!(refused(&["model", "a b=a.gguf x=a.gguf a.gguf"]).contains("the name 'a' is there twice"));
    assert!(Arguments::parse(&[b"embedder", b"\xff"]).unwrap_err().message.contains("not valid UTF-8"));
}

#[test]
fn models_are_names_and_files() {
    let parsed = parse_models(" gemma-3-270m-it.gguf  big=sub/gemma-4b.gguf tiny sub/deep ").unwrap();
    let expected = [
        ("gemma-3-270m-it", "gemma-3-270m-it.gguf"),
        ("big", "sub/gemma-4b.gguf"),
        ("tiny", "tiny.gguf"),
        ("deep", "sub/deep.gguf"),
    ];
    assert_eq!(parsed, expected.map(|(n, f)| (n.to_owned(), f.to_owned())));
    assert_eq!(parse_models("").unwrap(), []);
    for bad in ["=a.gguf", "a=", ".gguf", "a=.gguf"] {
        assert!(parse_models(bad).unwrap_err().contains("neither"), "{bad}");
    }
}

#[test]
fn models_of_profiles_are_pairs() {
    let pair = |profile: &str, model: &str| (profile.to_owned(), model.to_owned());
    let parsed = parse_profile_models(" speed=small  quality=big/one ").unwrap();
    assert_eq!(parsed, [pair("speed", "small"), pair("quality", "big/one")]);
    assert_eq!(parse_profile_models("").unwrap(), []);
    for bad in ["speed", "speed=", "fast=small", "=small"] {
        assert!(parse_profile_models(bad).unwrap_err().contains("speed, balanced, quality, research"), "{bad}");
    }
    assert!(parse_profile_models("speed=a speed=b").unwrap_err().contains("twice"));
}

#[test]
fn numbers_with_units() {
    assert_eq!(parse_number("1mb", true), Some(1 << 20));
    assert_eq!(parse_number("2K", true), Some(2_000));
    assert_eq!(parse_number("1mb", false), None);
    assert_eq!(parse_number("mb", true), None);
    assert_eq!(parse_number("1xb", true), None);
    assert_eq!(parse_number("99999999999gb", true), None);
}

#[test]
fn the_defaults_are_within_bounds() {
    for n in NUMBERS {
        assert!((n.min..=n.max).contains(&default_of(n)), "{:?}", n.name);
    }
    for t in TEXTS {
        assert_eq!((t.check)(t.default), Ok(()));
    }
    assert!(threads() >= 1);
    assert_eq!(max_content_bytes(), 1 << 20);
    assert_eq!(model_dir(), "models");
}

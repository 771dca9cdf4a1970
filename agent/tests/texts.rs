//! Texts to tokens as transformers has them, odd Unicode included.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

mod tiny;

use backlot_agent::infer::models::tokenizer::{Added, TEXT_BYTES_MAX, Tokenizer};
use proptest::prelude::*;
use tiny::fixtures;

fn tokenizer() -> Tokenizer {
    Tokenizer::read(&fixtures().join("sd15/tokenizer")).unwrap()
}

#[test]
fn every_text_becomes_the_tokens_that_transformers_makes_of_it() {
    let (tokenizer, lists) = (tokenizer(), tiny::json(&fixtures().join("lists.json")));
    let texts = lists["texts"].as_array().unwrap();
    assert!(texts.len() >= 9);
    for (text, ids) in texts.iter().zip(lists["tokens"].as_array().unwrap()) {
        let text = text.as_str().unwrap();
        let theirs: Vec<u32> = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(tokenizer.encode(text, 77).unwrap().ids, theirs, "{text:?}");
    }
}

#[test]
fn a_long_text_is_cut_and_says_by_how_much() {
    let short = tokenizer().encode("a photo of a castle", 77).unwrap();
    assert_eq!(short.cut, 0);
    let long = tokenizer().encode(&"castle ".repeat(100), 77).unwrap();
    assert_eq!((long.ids.len(), long.end), (77, 76));
    assert!(long.cut > 0);
    let error = tokenizer().encode(&"a".repeat(100_000), 77).unwrap_err();
    assert!(error.contains("100000") && error.contains(&TEXT_BYTES_MAX.to_string()), "{error}");
}

#[test]
fn the_padding_is_what_the_model_says() {
    let other = Tokenizer::read(&fixtures().join("sd21/tokenizer")).unwrap();
    let tokens = other.encode("moon", 77).unwrap();
    assert!(tokens.ids[tokens.end + 1..].iter().all(|id| *id == 0), "{:?}", tokens.ids);
}

#[test]
fn an_added_word_is_found_as_it_is_written_and_the_longest_first() {
    let mut with = tokenizer();
    with.add(Added { word: "<cat>".into(), ids: vec![900] });
    with.add(Added { word: "<cat>-2".into(), ids: vec![901, 902] });
    let plain = tokenizer();
    let ids = |tokenizer: &Tokenizer, text: &str| {
        let tokens = tokenizer.encode(text, 77).unwrap();
        tokens.ids[1..tokens.end].to_vec()
    };
    let wanted = [ids(&plain, "a "), vec![901, 902], ids(&plain, " and "), vec![900], ids(&plain, "!")].concat();
    assert_eq!(ids(&with, "a <cat>-2 and <cat>!"), wanted);
}

#[test]
fn a_folder_that_is_no_tokenizer_is_refused_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let refused = || match Tokenizer::read(dir.path()) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    assert!(refused().contains("vocab.json"));
    write("vocab.json", r#"{"a": 0}"#);
    assert!(refused().contains("merges.txt"));
    write("merges.txt", "#version: 0.2\na b c\n");
    assert!(refused().contains("line 2"));
    write("merges.txt", "#version: 0.2\n");
    assert!(refused().contains("<|startoftext|>"));
    write("vocab.json", r#"{"<|startoftext|>": 0, "<|endoftext|>": 1}"#);
    write("merges.txt", "a b\n");
    assert!(refused().contains("vocab.json"), "a merge of unknown parts");
}

proptest! {
    #[test]
    fn no_text_panics_or_makes_more_tokens_than_places(text in "\\PC{0,200}|.{0,80}", length in 2usize..100) {
        let tokens = tokenizer().encode(&text, length).unwrap();
        prop_assert_eq!(tokens.ids.len(), length);
        prop_assert!(tokens.end < length);
    }
}

//! What is there is never ruled out, what is not nearly always, and bytes that are no filter rule nothing out.

use std::ops::Bound;

use proptest::prelude::*;

use super::*;

const NAMES: Names = &["trace", "span"];

fn written(dir: &Path, covers: Covers, terms: &[(Kind, String)]) -> Filter {
    let mut bits = Bits::for_terms(terms.len() as u64);
    terms.iter().for_each(|(kind, term)| bits.put(*kind, term.as_bytes()));
    bits.into_made(covers).write(dir).unwrap();
    Filter::open(dir, NAMES).unwrap()
}

fn traces(values: impl IntoIterator<Item = String>) -> Vec<(Kind, String)> {
    values.into_iter().map(|value| (Kind::Term, keyword_term("trace", &value))).collect()
}

fn any_number(name: &str) -> Query {
    Query::Number { name: name.into(), from: Bound::Unbounded, to: Bound::Unbounded }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_in_it_is_never_ruled_out(values in prop::collection::vec(".{0,40}", 1..200), words: bool) {
        let dir = tempfile::tempdir().unwrap();
        let mut terms = traces(values.iter().cloned());
        let covers = if words { Covers::TermsAndWords } else { Covers::Names(NAMES) };
        terms.extend(values.iter().map(|value| (Kind::Word, format!("body\0{value}"))));
        let filter = written(dir.path(), covers, &terms);
        for value in &values {
            let (term, word) = (Query::keyword("trace", value), vec![value.clone()]);
            let word = Query::Words { name: "body".into(), words: word };
            prop_assert!(filter.may_answer(&term) && filter.may_answer(&word));
        }
    }

    #[test]
    fn bytes_that_are_no_filter_are_taken_for_none(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), &bytes).unwrap();
        prop_assert!(Filter::open(dir.path(), NAMES).is_none());
    }
}

#[test]
fn what_is_not_in_it_is_nearly_always_ruled_out() {
    let dir = tempfile::tempdir().unwrap();
    let id = |number: u32| format!("{number:032x}");
    let filter = written(dir.path(), Covers::Names(NAMES), &traces((0..20_000).map(id)));
    let may_have = |number: u32| filter.may_have(Kind::Term, &keyword_term("trace", &id(number)));
    let wrong = (20_000..60_000).filter(|number| may_have(*number)).count();
    assert!(wrong < 600, "{wrong} of 40,000");
    let is_word =
        (0..20_000).filter(|number| filter.may_have(Kind::Word, &keyword_term("trace", &id(*number)))).count();
    assert!(is_word < 300, "words are told from terms: {is_word} of 20,000");
    let of = |number: u32| Query::keyword("trace", &id(number));
    let absent = (20_000..).find(|number| !may_have(*number)).unwrap();
    assert!(!filter.may_answer(&Query::And(vec![of(7), of(absent), Query::All])));
    assert!(filter.may_answer(&Query::Or(vec![of(7), of(absent)])));
}

#[test]
fn a_question_is_ruled_out_only_by_what_is_covered_and_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let terms = || {
        vec![
            (Kind::Term, keyword_term("level", "error")),
            (Kind::Term, number_term("gpu")),
            (Kind::Word, "body\0frame".to_owned()),
        ]
    };
    let (yes, no) = (Query::keyword("level", "error"), Query::keyword("level", "info"));
    let not = |query: &Query| Query::Not(Box::new(query.clone()));

    let of_names = written(dir.path(), Covers::Names(NAMES), &terms());
    for query in [&no, &not(&yes), &any_number("cpu"), &Query::text("body", "shot"), &Query::All] {
        assert!(of_names.may_answer(query), "it is of other names: {query:?}");
    }
    assert!(!of_names.may_answer(&Query::keyword("trace", "x")) && !of_names.may_answer(&Query::Nothing));
    assert!(!asks_for(&not(&Query::keyword("trace", "x")), NAMES) && !asks_for(&no, NAMES));

    let of_terms = written(dir.path(), Covers::Terms, &terms());
    assert!(of_terms.may_answer(&yes) && !of_terms.may_answer(&no));
    assert!(of_terms.may_answer(&any_number("gpu")) && !of_terms.may_answer(&any_number("cpu")));
    assert!(of_terms.may_answer(&Query::text("body", "shot")), "words are not in it");
    assert!(of_terms.may_answer(&not(&no)));
    assert!(of_terms.may_answer(&Query::And(Vec::new())) && !of_terms.may_answer(&Query::Or(Vec::new())));

    let of_words = written(dir.path(), Covers::TermsAndWords, &terms());
    assert!(of_words.may_answer(&Query::text("body", "frame")) && !of_words.may_answer(&Query::text("body", "shot")));
    assert!(!of_words.may_answer(&no));
}

#[test]
fn a_damaged_block_rules_nothing_out_and_other_names_have_no_filter() {
    let dir = tempfile::tempdir().unwrap();
    let two = keyword_term("trace", "two");
    let filter = written(dir.path(), Covers::Names(NAMES), &traces(["one".to_owned()]));
    assert!(!filter.may_have(Kind::Term, &two));
    let path = dir.path().join(FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[HEADER_BYTES + 3] ^= 4;
    std::fs::write(&path, &bytes).unwrap();
    assert!(Filter::open(dir.path(), NAMES).unwrap().may_have(Kind::Term, &two));
    assert!(Filter::open(dir.path(), &["trace"]).is_none());
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(Filter::open(dir.path(), NAMES).is_none());
}

#[test]
fn the_places_of_bits_do_not_change() {
    let bits = |kind| Place::of(kind, b"level\0kerror", 1000).bits().collect::<Vec<_>>();
    assert_eq!(bits(Kind::Term), [59, 350, 161, 452, 262, 73, 364]);
    assert_eq!(bits(Kind::Word), [224, 112, 1, 369, 257, 146, 34]);
}

//! How a question is put to an index: what the index answers exactly, and where it finds more than that, so that the sources
//! have the last word.
//!
//! What a plan finds is never too little. Phrases (where words have no positions), stretches of text, regular expressions and ids
//! are narrowed down by the terms they must have; what is then excluded by a NOT cannot be narrowed down.

use std::collections::BTreeSet;
use std::ops::Bound;

use tantivy::query::{
    AllQuery, BooleanQuery, EmptyQuery, InvertedIndexRangeQuery, Occur, PhraseQuery, RangeQuery, TermQuery,
    TermSetQuery,
};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{Searcher, Term};

use crate::document::{keyword_key, word_key};
use crate::excluded::Excluded;
use crate::index::{Fields, IndexFault, column, id_term, keyword_term, number_term, text_term};
use crate::pattern::inner_words;
use crate::query::{Query, has_within};
use crate::seqs::OfSeqs;
use crate::walk::Fault;
use crate::windows::Cancel;

/// Most terms of a dictionary that stand for one part of a question; where more would, the sources are looked at.
const TERMS_MAX: usize = 4096;
/// Terms of a dictionary between two looks at the cancel flag.
const CANCEL_EVERY: usize = 65_536;

/// A question as an index is asked it.
pub(crate) struct Plan {
    pub(crate) query: Box<dyn tantivy::query::Query>,
    /// What it finds is what was asked for. Otherwise it is that and more.
    pub(crate) exact: bool,
}

impl Plan {
    pub(crate) fn of(searcher: &Searcher, fields: &Fields, query: &Query, cancel: &Cancel) -> Result<Self, Fault> {
        Planner { searcher, fields, cancel }.plan(query)
    }

    fn exact(query: impl tantivy::query::Query) -> Self {
        Self { query: Box::new(query), exact: true }
    }

    fn inexact(query: impl tantivy::query::Query) -> Self {
        Self { query: Box::new(query), exact: false }
    }
}

struct Planner<'a> {
    searcher: &'a Searcher,
    fields: &'a Fields,
    cancel: &'a Cancel,
}

impl Planner<'_> {
    fn plan(&self, query: &Query) -> Result<Plan, Fault> {
        let Fields { term, word, .. } = *self.fields;
        Ok(match query {
            Query::All => Plan::exact(AllQuery),
            Query::Nothing => Plan::exact(EmptyQuery),
            Query::Keyword { name, value } => Plan::exact(one(term, &keyword_term(name, value))),
            Query::KeywordPrefix { name, prefix } => {
                Plan::exact(beginning(term, &format!("{name}\0k{}", keyword_key(prefix))))
            }
            Query::Id { name, begin, whole: true } => Plan::inexact(one(term, &id_term(name, begin))),
            Query::Id { name, begin, whole: false } => Plan::inexact(beginning(term, &id_term(name, begin))),
            Query::Words { name, words } => self.phrase(name, words),
            Query::WordPrefix { name, prefix } => {
                Plan::exact(beginning(word, &format!("{name}\0{}", word_key(prefix))))
            }
            Query::WordInfix { name, part } => {
                let key = word_key(part).into_owned();
                match self.terms(word, &format!("{name}\0"), |word| has_within(word, &key))? {
                    Some(words) => Plan::exact(set(word, words)),
                    None => Plan::inexact(one(term, &text_term(name))),
                }
            }
            Query::Contains { name, text } => self.containing(name, text)?,
            Query::Matches { name, pattern } => {
                let keywords = self.terms(term, &format!("{name}\0k"), |value| pattern.is_match(value))?;
                let texts = all(pattern.required().iter().map(|key| self.word(name, key)));
                self.strings(name, keywords, Some(texts))
            }
            Query::Number { name, from, to } => Plan::exact(self.numbers(name, *from, *to)),
            Query::Time { from_ns, to_ns } => {
                let at = |ns| Bound::Included(Term::from_field_i64(self.fields.time, ns));
                Plan::exact(RangeQuery::new(at(*from_ns), at(*to_ns)))
            }
            Query::Exists { name } => Plan::exact(any([
                beginning(term, &format!("{name}\0k")),
                beginning(term, &format!("{name}\0i")),
                one(term, &number_term(name)),
                one(term, &text_term(name)),
            ])),
            Query::Seqs(seqs) => Plan::exact(OfSeqs(seqs.clone())),
            Query::And(all) => self.and(all)?,
            Query::Or(some) => {
                let plans = some.iter().map(|query| self.plan(query)).collect::<Result<Vec<_>, _>>()?;
                let exact = plans.iter().all(|plan| plan.exact);
                Plan { query: any(plans.into_iter().map(|plan| plan.query)), exact }
            }
            Query::Not(query) => self.and(&[Query::Not(query.clone())])?,
        })
    }

    fn and(&self, all: &[Query]) -> Result<Plan, Fault> {
        let mut clauses: Vec<(Occur, Box<dyn tantivy::query::Query>)> = Vec::with_capacity(all.len() + 1);
        let mut exact = true;
        for query in all {
            if let Query::Not(query) = query {
                let plan = self.plan(query)?;
                exact &= plan.exact;
                if plan.exact {
                    clauses.push((Occur::MustNot, Box::new(Excluded(plan.query))));
                }
            } else {
                let plan = self.plan(query)?;
                exact &= plan.exact;
                clauses.push((Occur::Must, plan.query));
            }
        }
        if clauses.iter().all(|(occur, _)| *occur == Occur::MustNot) {
            clauses.push((Occur::Must, Box::new(AllQuery))); // nothing but exclusions would match nothing
        }
        Ok(Plan { query: Box::new(BooleanQuery::new(clauses)), exact })
    }

    fn word(&self, name: &str, key: &str) -> Box<dyn tantivy::query::Query> {
        one(self.fields.word, &format!("{name}\0{key}"))
    }

    fn phrase(&self, name: &str, words: &[String]) -> Plan {
        match words {
            [] => Plan::exact(EmptyQuery),
            [only] => Plan::exact(self.word(name, only)),
            words if self.fields.positions => {
                let term = |key| Term::from_field_text(self.fields.word, &format!("{name}\0{key}"));
                Plan::exact(PhraseQuery::new(words.iter().map(term).collect()))
            }
            words => Plan::inexact(all(words.iter().map(|key| self.word(name, key)))),
        }
    }

    /// A stretch of letters and digits lies within one word, so the words that have it in them are the answer.
    fn containing(&self, name: &str, text: &str) -> Result<Plan, Fault> {
        let Fields { term, word, .. } = *self.fields;
        let keywords = self.terms(term, &format!("{name}\0k"), |value| value.contains(text))?;
        let texts = if text.is_empty() {
            None
        } else if text.chars().all(char::is_alphanumeric) {
            let key = word_key(text).into_owned();
            let words = self.terms(word, &format!("{name}\0"), |word| has_within(word, &key))?;
            words.map(|words| Box::new(set(word, words)) as Box<dyn tantivy::query::Query>)
        } else {
            Some(all(inner_words(text).iter().map(|key| self.word(name, key))))
        };
        Ok(self.strings(name, keywords, texts))
    }

    /// Keywords, ids and texts of a name. `None`: too many to name them.
    fn strings(
        &self,
        name: &str,
        keywords: Option<BTreeSet<String>>,
        texts: Option<Box<dyn tantivy::query::Query>>,
    ) -> Plan {
        let term = self.fields.term;
        let (has_ids, has_texts) = (self.has(&format!("{name}\0i"), false), self.has(&text_term(name), true));
        let mut some: Vec<Box<dyn tantivy::query::Query>> = Vec::new();
        let exact = keywords.is_some() && !has_ids && !has_texts;
        match keywords {
            Some(keywords) if keywords.is_empty() => {}
            Some(keywords) => some.push(Box::new(set(term, keywords))),
            None => some.push(beginning(term, &format!("{name}\0k"))),
        }
        if has_ids {
            some.push(beginning(term, &format!("{name}\0i")));
        }
        if has_texts {
            let there = one(term, &text_term(name));
            some.push(match texts {
                Some(texts) => all([there, texts].into_iter()),
                None => there,
            });
        }
        Plan { query: any(some), exact }
    }

    /// Whether any document has a term that is `text` or, unless the `whole` is meant, begins so.
    fn has(&self, text: &str, whole: bool) -> bool {
        self.searcher.segment_readers().iter().any(|reader| {
            let Ok(inverted) = reader.inverted_index(self.fields.term) else { return true };
            if whole {
                return inverted.terms().get(text.as_bytes()).map_or(true, |found| found.is_some());
            }
            match inverted.terms().range().ge(text.as_bytes()).into_stream() {
                Ok(mut stream) => stream.advance() && stream.key().starts_with(text.as_bytes()),
                Err(_) => true,
            }
        })
    }

    /// The terms that begin with `begin` and whose rest passes `test`; `None` when they are too many.
    fn terms(&self, field: Field, begin: &str, test: impl Fn(&str) -> bool) -> Result<Option<BTreeSet<String>>, Fault> {
        let mut found = BTreeSet::new();
        let mut seen = 0_usize;
        for reader in self.searcher.segment_readers() {
            let inverted = reader.inverted_index(field)?;
            let stream = inverted.terms().range().ge(begin.as_bytes()).into_stream();
            let mut stream = stream.map_err(|error| IndexFault { problem: error.to_string(), is_damage: false })?;
            while stream.advance() && stream.key().starts_with(begin.as_bytes()) {
                let Ok(text) = std::str::from_utf8(stream.key()) else { continue };
                if test(&text[begin.len()..]) {
                    found.insert(text.to_owned());
                    if found.len() > TERMS_MAX {
                        return Ok(None);
                    }
                }
                seen += 1;
                if seen.is_multiple_of(CANCEL_EVERY) && self.cancel.is_cancelled() {
                    return Err(Fault::Cancelled);
                }
            }
        }
        Ok(Some(found))
    }

    fn numbers(&self, name: &str, from: Bound<f64>, to: Bound<f64>) -> RangeQuery {
        let at = |number: f64| {
            let mut term = Term::from_field_json_path(self.fields.number, &column(name), false);
            term.append_type_and_fast_value(number + 0.0); // -0.0 + 0.0 is 0.0
            term
        };
        // A range without ends would ask for every document, with a number or without.
        let (from, to) = match (from, to) {
            (Bound::Unbounded, Bound::Unbounded) => (Bound::Included(f64::NEG_INFINITY), Bound::Unbounded),
            bounds => bounds,
        };
        RangeQuery::new(from.map(at), to.map(at))
    }
}

fn one(field: Field, text: &str) -> Box<dyn tantivy::query::Query> {
    Box::new(TermQuery::new(Term::from_field_text(field, text), IndexRecordOption::Basic))
}

fn set(field: Field, texts: BTreeSet<String>) -> TermSetQuery {
    TermSetQuery::new(texts.iter().map(|text| Term::from_field_text(field, text)))
}

fn any(queries: impl IntoIterator<Item = Box<dyn tantivy::query::Query>>) -> Box<dyn tantivy::query::Query> {
    let clauses: Vec<_> = queries.into_iter().map(|query| (Occur::Should, query)).collect();
    if clauses.is_empty() { Box::new(EmptyQuery) } else { Box::new(BooleanQuery::new(clauses)) }
}

/// Of none, everything.
fn all(queries: impl Iterator<Item = Box<dyn tantivy::query::Query>>) -> Box<dyn tantivy::query::Query> {
    let clauses: Vec<_> = queries.map(|query| (Occur::Must, query)).collect();
    if clauses.is_empty() { Box::new(AllQuery) } else { Box::new(BooleanQuery::new(clauses)) }
}

/// All terms that begin with `prefix`, which is not empty.
fn beginning(field: Field, prefix: &str) -> Box<dyn tantivy::query::Query> {
    let mut after = prefix.as_bytes().to_vec();
    if let Some(last) = after.last_mut() {
        *last += 1; // UTF-8 has no byte 0xFF, so the next greater string of bytes ends with the last one plus one
    }
    let bound = |bytes: &[u8]| Term::from_field_bytes(field, bytes);
    let (lower, upper) = (Bound::Included(bound(prefix.as_bytes())), Bound::Excluded(bound(&after)));
    Box::new(InvertedIndexRangeQuery::new(lower, upper))
}

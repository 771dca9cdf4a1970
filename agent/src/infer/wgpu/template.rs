//! Shader texts with choices: the little that WGSL lacks to write one kernel for many shapes.
//!
//! A line that begins with `#` steers, all others are text:
//!
//! | line | meaning |
//! | --- | --- |
//! | `#if NAME`, `#if !NAME`, `#else`, `#end` | text for a name that is defined, or is not |
//! | `#for i in N`, `#end` | the text `N` times, `$i` counting from 0: loops over registers must be unrolled, because an array that is indexed by a variable lives in memory |
//!
//! `$NAME` or `${NAME}` is replaced by the value of a definition, in the name of an `#if` as well. There are no expressions: what a kernel needs to know is
//! computed by its caller. A mistake in a text is found by the test that expands every kernel.

use std::collections::BTreeMap;

/// Most lines that a text may expand to.
const LINES_MAX: usize = 20_000;

/// Names with their values; a flag has an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Definitions(BTreeMap<&'static str, String>);

impl Definitions {
    pub(crate) fn set(mut self, name: &'static str, value: impl ToString) -> Self {
        self.0.insert(name, value.to_string());
        self
    }

    pub(crate) fn flag(self, name: &'static str, is_set: bool) -> Self {
        if is_set { self.set(name, "") } else { self }
    }
}

/// Why a text does not expand: a mistake in this crate.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(crate) struct TemplateError {
    line: usize,
    problem: String,
}

/// Expands `text`.
///
/// # Errors
/// [`TemplateError`] with the line of a directive that is not closed, or of a name that nobody defined.
pub(crate) fn expand(text: &str, definitions: &Definitions) -> Result<String, TemplateError> {
    let lines: Vec<(usize, &str)> = text.lines().enumerate().map(|(i, line)| (i + 1, line)).collect();
    let mut expander =
        Expander { names: definitions.0.iter().map(|(n, v)| (*n, v.clone())).collect(), made: Vec::new() };
    expander.block(&lines)?;
    Ok(expander.made.join("\n"))
}

struct Expander<'a> {
    names: BTreeMap<&'a str, String>,
    made: Vec<String>,
}

impl<'a> Expander<'a> {
    fn block(&mut self, lines: &[(usize, &'a str)]) -> Result<(), TemplateError> {
        let mut at = 0;
        while at < lines.len() {
            let (line, text) = lines[at];
            let error = |problem: String| TemplateError { line, problem };
            let Some(directive) = text.trim_start().strip_prefix('#') else {
                let made = self.replaced(text).map_err(error)?;
                if self.made.len() >= LINES_MAX {
                    return Err(error(format!("the text becomes longer than {LINES_MAX} lines")));
                }
                self.made.push(made);
                at += 1;
                continue;
            };
            let (otherwise, end) = inside(&lines[at..]).ok_or_else(|| error(format!("`#{directive}` has no end")))?;
            let (first, second) =
                (&lines[at + 1..at + otherwise], &lines[(at + otherwise + 1).min(at + end)..at + end]);
            let words: Vec<&str> = directive.split_whitespace().collect();
            match words.as_slice() {
                ["if", name] => {
                    let name = self.replaced(name).map_err(error)?;
                    let holds = match name.strip_prefix('!') {
                        Some(name) => !self.names.contains_key(name),
                        None => self.names.contains_key(name.as_str()),
                    };
                    self.block(if holds { first } else { second })?;
                }
                ["for", variable, "in", times] => {
                    let times = self.names.get(times).map_or(*times, String::as_str).parse::<usize>();
                    let times = times.map_err(|_| error(format!("`{directive}` has no number")))?;
                    let before = self.names.get(variable).cloned();
                    for i in 0..times {
                        self.names.insert(variable, i.to_string());
                        self.block(first)?;
                    }
                    match before {
                        Some(before) => self.names.insert(variable, before),
                        None => self.names.remove(variable),
                    };
                }
                _ => return Err(error(format!("`#{directive}` is no directive"))),
            }
            at += end + 1;
        }
        Ok(())
    }

    fn replaced(&self, text: &str) -> Result<String, String> {
        let mut parts = text.split('$');
        let mut made = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = match part.strip_prefix('{').and_then(|part| part.split_once('}')) {
                Some(cut) => cut,
                None => {
                    part.split_at(part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len()))
                }
            };
            made.push_str(self.names.get(name).ok_or_else(|| format!("`${name}` is not defined"))?);
            made.push_str(rest);
        }
        Ok(made)
    }
}

/// Where the `#else` (or else the end) and the `#end` of the directive in the first line are.
fn inside(lines: &[(usize, &str)]) -> Option<(usize, usize)> {
    let (mut depth, mut otherwise) = (0, None);
    for (at, (_, text)) in lines.iter().enumerate() {
        match text.trim_start() {
            text if text.starts_with("#if") || text.starts_with("#for") => depth += 1,
            "#else" if depth == 1 => otherwise = Some(at),
            "#end" => {
                depth -= 1;
                if depth == 0 {
                    return Some((otherwise.unwrap_or(at), at));
                }
            }
            _ => {}
        }
        if depth == 0 {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str, definitions: Definitions) -> String {
        expand(text, &definitions).unwrap()
    }

    #[test]
    fn choices_and_loops_nest() {
        let text =
            "a\n#for i in N\n#if wi$d\nx$i = ${i}u + $step;\n#for j in 2\n y$j$i\n#end\n#else\nnarrow\n#end\n#end\nb";
        let wide = Definitions::default().set("N", 2).set("step", 4).set("d", "de").flag("wide", true);
        assert_eq!(expanded(text, wide), "a\nx0 = 0u + 4;\n y00\n y10\nx1 = 1u + 4;\n y01\n y11\nb");
        let narrow = Definitions::default().set("N", 1).set("d", "de").flag("wide", false);
        assert_eq!(expanded(text, narrow), "a\nnarrow\nb");
        assert_eq!(expanded("#if !odd\neven\n#end", Definitions::default()), "even");
    }

    #[test]
    fn a_mistake_is_found_with_its_line() {
        for (text, line, words) in [
            ("a\n$odd", 2, "`$odd` is not defined"),
            ("#if odd\n", 1, "has no end"),
            ("#end", 1, "has no end"),
            ("a\n#for i in N\nb\n#end", 2, "has no number"),
            ("#for i in 999999999\nb\n#end", 2, "longer than"),
        ] {
            let error = expand(text, &Definitions::default()).unwrap_err();
            assert_eq!((error.line, error.problem.contains(words)), (line, true), "{error}");
        }
    }
}

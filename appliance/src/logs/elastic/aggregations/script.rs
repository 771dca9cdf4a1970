//! Arithmetic of `bucket_script`: numbers, `params.x`, `+ - * / %`, parentheses, and a few functions of `Math`. No more of Painless than that.

/// Longest script, and deepest nesting.
const BYTES_MAX: usize = 1024;
const DEPTH_MAX: usize = 32;

/// A script as it is run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Script(Node);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Number(f64),
    Variable(String),
    Negated(Box<Node>),
    Both(char, Box<Node>, Box<Node>),
    Call(Function, Vec<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    Abs,
    Ceil,
    Floor,
    Round,
    Sqrt,
    Log,
    Log10,
    Max,
    Min,
    Pow,
}

impl Function {
    const ALL: [(&'static str, Self, usize); 10] = [
        ("abs", Self::Abs, 1),
        ("ceil", Self::Ceil, 1),
        ("floor", Self::Floor, 1),
        ("round", Self::Round, 1),
        ("sqrt", Self::Sqrt, 1),
        ("log", Self::Log, 1),
        ("log10", Self::Log10, 1),
        ("max", Self::Max, 2),
        ("min", Self::Min, 2),
        ("pow", Self::Pow, 2),
    ];

    fn of(self, of: &[f64]) -> f64 {
        let (a, b) = (of.first().copied().unwrap_or(f64::NAN), of.get(1).copied().unwrap_or(f64::NAN));
        match self {
            Self::Abs => a.abs(),
            Self::Ceil => a.ceil(),
            Self::Floor => a.floor(),
            Self::Round => (a + 0.5).floor(), // as Java rounds
            Self::Sqrt => a.sqrt(),
            Self::Log => a.ln(),
            Self::Log10 => a.log10(),
            Self::Max => a.max(b),
            Self::Min => a.min(b),
            Self::Pow => a.powf(b),
        }
    }
}

impl Script {
    /// Reads a script, or says what is wrong with it.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("a script has at most {BYTES_MAX} bytes here"));
        }
        let text = text.trim();
        let text = text.strip_prefix("return ").unwrap_or(text).trim_end_matches(';');
        let mut reader = Reader { text, at: 0 };
        let node = reader.sum(0)?;
        reader.space();
        if reader.at < text.len() { Err(reader.wrong()) } else { Ok(Self(node)) }
    }

    /// What its variables are called, without `params.`.
    pub(super) fn variables(&self) -> impl Iterator<Item = &str> {
        let mut found = Vec::new();
        self.0.variables(&mut found);
        found.into_iter()
    }

    pub(super) fn run(&self, value: &dyn Fn(&str) -> f64) -> f64 {
        self.0.run(value)
    }
}

impl Node {
    fn variables<'a>(&'a self, found: &mut Vec<&'a str>) {
        match self {
            Self::Number(_) => {}
            Self::Variable(name) => found.push(name),
            Self::Negated(node) => node.variables(found),
            Self::Both(_, a, b) => {
                a.variables(found);
                b.variables(found);
            }
            Self::Call(_, nodes) => nodes.iter().for_each(|node| node.variables(found)),
        }
    }

    fn run(&self, value: &dyn Fn(&str) -> f64) -> f64 {
        match self {
            Self::Number(number) => *number,
            Self::Variable(name) => value(name),
            Self::Negated(node) => -node.run(value),
            Self::Both(sign, a, b) => {
                let (a, b) = (a.run(value), b.run(value));
                match sign {
                    '+' => a + b,
                    '-' => a - b,
                    '*' => a * b,
                    '/' => a / b,
                    _ => a % b,
                }
            }
            Self::Call(function, of) => function.of(&of.iter().map(|node| node.run(value)).collect::<Vec<_>>()),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn takes(&mut self, signs: &[char]) -> Option<char> {
        self.space();
        let sign = self.rest().chars().next().filter(|c| signs.contains(c))?;
        self.at += sign.len_utf8();
        Some(sign)
    }

    fn wrong(&self) -> String {
        format!("the script is wrong at character {}: arithmetic with params.NAME is read here", self.at + 1)
    }

    fn sum(&mut self, depth: usize) -> Result<Node, String> {
        let mut node = self.product(depth)?;
        while let Some(sign) = self.takes(&['+', '-']) {
            node = Node::Both(sign, Box::new(node), Box::new(self.product(depth)?));
        }
        Ok(node)
    }

    fn product(&mut self, depth: usize) -> Result<Node, String> {
        let mut node = self.one(depth)?;
        while let Some(sign) = self.takes(&['*', '/', '%']) {
            node = Node::Both(sign, Box::new(node), Box::new(self.one(depth)?));
        }
        Ok(node)
    }

    fn one(&mut self, depth: usize) -> Result<Node, String> {
        if depth > DEPTH_MAX {
            return Err(format!("the script is nested deeper than {DEPTH_MAX}"));
        }
        if self.takes(&['-']).is_some() {
            return Ok(Node::Negated(Box::new(self.one(depth + 1)?)));
        }
        if self.takes(&['(']).is_some() {
            let node = self.sum(depth + 1)?;
            return self.takes(&[')']).map(|_| node).ok_or_else(|| self.wrong());
        }
        self.space();
        let begin = self.at;
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        let length = self.rest().find(|c| !is_part(c)).unwrap_or(self.rest().len());
        let word = &self.text[begin..begin + length];
        if word.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            self.at += length;
            return word.parse().map(Node::Number).map_err(|_| self.wrong());
        }
        if let Some(name) = word.strip_prefix("params.").filter(|name| !name.is_empty()) {
            let node = Node::Variable(name.to_owned());
            self.at += length;
            return Ok(node);
        }
        let named = word.strip_prefix("Math.").and_then(|name| Function::ALL.iter().find(|(known, ..)| *known == name));
        let Some((_, function, count)) = named else { return Err(self.wrong()) };
        self.at += length;
        self.takes(&['(']).ok_or_else(|| self.wrong())?;
        let mut of = vec![self.sum(depth + 1)?];
        while self.takes(&[',']).is_some() && of.len() < *count {
            of.push(self.sum(depth + 1)?);
        }
        if of.len() != *count || self.takes(&[')']).is_none() {
            return Err(self.wrong());
        }
        Ok(Node::Call(*function, of))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn scripts_reckon_as_they_are_written() {
        let of = |name: &str| if name == "a" { 7.0 } else { 2.0 };
        for (text, value) in [
            ("params.a / params.b", 3.5),
            ("params.a - params.b - 1 * 3", 2.0),
            ("-(params.a + 1) % 3", -2.0),
            ("Math.max(params.a, 10) * 1.5;", 15.0),
            ("return Math.round(params.a / 2)", 4.0),
        ] {
            let script = Script::read(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
            assert_eq!(script.run(&of).to_bits(), f64::to_bits(value), "{text}");
        }
        for wrong in
            ["", "params.", "params.a +", "1 2", "Math.max(1)", "Math.exit(1)", "doc['x'].value", "(1", "é", "1..2"]
        {
            assert!(Script::read(wrong).is_err(), "{wrong}");
        }
        assert!(Script::read(&"(".repeat(1000)).is_err() && Script::read(&"-".repeat(1000)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-+*/%()., a-zé0-9]{0,40}|(params\\.[ab] [-+*/] ?){0,9}1") {
            if let Ok(script) = Script::read(&text) {
                script.run(&|_| 1.0);
            }
        }
    }
}

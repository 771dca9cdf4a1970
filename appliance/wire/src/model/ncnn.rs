//! The text of an ncnn pair, as far as it can be checked without knowing each layer: the magic number, and as many layers as
//! it says, each with its inputs and outputs.

/// Longest text, in bytes.
pub const PARAM_BYTES_MAX: u64 = 16 << 20;
const MAGIC: &str = "7767517";

/// Checks the text of a `.param` file. Gives the number of its layers.
///
/// # Errors
/// A sentence that names the line.
pub fn check_param(param: &[u8]) -> Result<usize, String> {
    let text = std::str::from_utf8(param).map_err(|_| "it is not text".to_owned())?;
    let mut lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
    if lines.next().is_none_or(|(_, line)| line != MAGIC) {
        return Err(format!("line 1 is not ncnn's magic number {MAGIC}"));
    }
    let counts = lines.next().map(|(_, line)| line).unwrap_or_default();
    let layers: Option<usize> = counts.split_whitespace().next().and_then(|count| count.parse().ok());
    let layers = layers.ok_or("line 2 does not say how many layers there are")?;
    let mut found = 0;
    for (at, line) in lines {
        let mut words = line.split_whitespace().skip(2);
        let mut count = || words.next().and_then(|word| word.parse::<usize>().ok());
        let (Some(inputs), Some(outputs)) = (count(), count()) else {
            return Err(format!("line {} does not say how many inputs and outputs its layer has", at + 1));
        };
        if words.count() < inputs.saturating_add(outputs) {
            return Err(format!("line {} has fewer than {inputs} inputs and {outputs} outputs", at + 1));
        }
        found += 1;
    }
    if found != layers {
        return Err(format!("it has {found} layers, line 2 says {layers}"));
    }
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "7767517\n2 2\nInput data 0 1 data\nConvolution c 1 1 data out 0=3 1=3\n";

    #[test]
    fn a_text_has_its_magic_number_and_its_layers() {
        assert_eq!(check_param(GOOD.as_bytes()), Ok(2));
        for (from, to, words) in [
            ("7767517", "7767516", "magic"),
            ("2 2", "two", "line 2"),
            ("2 2", "3 2", "has 2 layers"),
            ("1 1 data out", "9 1 data out", "line 4"),
            ("1 1 data out", "x", "line 4"),
        ] {
            let error = check_param(GOOD.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert!(check_param(b"\xff").is_err() && check_param(b"").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(7767517\n)?[0-9 \n a-z=-]{0,60}") {
            let _ = check_param(text.as_bytes());
        }
    }
}

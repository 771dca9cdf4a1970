//! Reader for ncnn's pair of files: `.param`, a text with one layer a line, and `.bin`, the weights of those layers
//! one after another without names or lengths. Which weights a layer has follows from its line, so that both are
//! read together, and a file that is too short or too long is found out.
//!
//! Read are layers with weights of the kinds `Convolution` and `PReLU`; a layer of another kind is passed on without
//! weights, and whoever builds a graph from it decides. Quantised weights (int8, 256 levels) are refused.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Stored, WeightError, Weights};

const MAGIC: &str = "7767517";
const PARAM_BYTES_MAX: usize = 16 << 20;
const LAYERS_MAX: usize = 20_000;
/// Most inputs or outputs of a layer, and most values of an array.
const LIST_MAX: usize = 1_024;

const TAG_F32: u32 = 0;
const TAG_RAW_F32: u32 = 0x0002_C056;
const TAG_F16: u32 = 0x0130_6B47;

/// One line of a `.param` file.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// In the file, from 1.
    pub line: usize,
    pub kind: String,
    pub name: String,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    /// Numbers by key; one value, or those of an array (whose key, -233xx, is given as xx).
    params: BTreeMap<i32, Vec<f64>>,
}

impl Layer {
    /// An error at this layer's line.
    pub fn wrong(&self, problem: impl std::fmt::Display) -> WeightError {
        WeightError::Line { line: self.line, problem: format!("{} `{}` {problem}", self.kind, self.name) }
    }

    /// The number under `key`, or `default` where the line has none.
    ///
    /// # Errors
    /// When an array stands there.
    pub fn number(&self, key: i32, default: f64) -> Result<f64, WeightError> {
        match self.params.get(&key).map(Vec::as_slice) {
            None => Ok(default),
            Some([value]) => Ok(*value),
            Some(_) => Err(self.wrong(format!("has a list where parameter {key} is one number"))),
        }
    }

    /// Like [`Layer::number`], a whole number from 0 to 2^31.
    ///
    /// # Errors
    /// When it is none.
    pub fn whole(&self, key: i32, default: u32) -> Result<usize, WeightError> {
        let value = self.number(key, f64::from(default))?;
        if value.fract() == 0.0 && (0.0..=f64::from(i32::MAX)).contains(&value) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "just checked")]
            let whole = value as usize;
            Ok(whole)
        } else {
            Err(self.wrong(format!("has parameter {key}={value}, which is no whole number from 0")))
        }
    }

    #[must_use]
    pub fn list(&self, key: i32) -> &[f64] {
        self.params.get(&key).map_or(&[], Vec::as_slice)
    }
}

/// Reads both files. Weights are named `<layer>.weight`, `<layer>.bias`, `<layer>.slopes`.
///
/// # Errors
/// [`WeightError::Line`] in the text, [`WeightError::Offset`] in the weights.
pub fn read(param: &[u8], bin: &Bytes) -> Result<(Vec<Layer>, Weights), WeightError> {
    let layers = read_param(param)?;
    let mut cursor = Cursor { file: bin, offset: 0 };
    let mut weights = Weights::default();
    for layer in &layers {
        let mut add = |name: &str, shape: Vec<usize>, (stored, data)| {
            weights.insert(format!("{}.{name}", layer.name), shape, stored, data)
        };
        match layer.kind.as_str() {
            "Convolution" => {
                let (shape, bias) = convolution_shape(layer)?;
                let (outputs, count) = (shape[0], shape.iter().product());
                add("weight", shape, cursor.tagged(layer, count)?)?;
                if bias {
                    add("bias", vec![outputs], cursor.raw(layer, outputs)?)?;
                }
            }
            "PReLU" => {
                let count = layer.whole(0, 0)?;
                add("slopes", vec![count], cursor.raw(layer, count)?)?;
            }
            _ => {}
        }
    }
    if cursor.offset != bin.len() {
        let problem = format!("{} bytes are left after the last layer", bin.len() - cursor.offset);
        return Err(WeightError::Offset { offset: cursor.offset, problem });
    }
    Ok((layers, weights))
}

/// `[outputs, inputs, height, width]` of a convolution's weight, and whether it has a bias.
///
/// # Errors
/// When the numbers of its line contradict each other.
pub fn convolution_shape(layer: &Layer) -> Result<(Vec<usize>, bool), WeightError> {
    let (outputs, width) = (layer.whole(0, 0)?, layer.whole(1, 0)?);
    let height = match layer.params.contains_key(&11) {
        true => layer.whole(11, 0)?,
        false => width,
    };
    let count = layer.whole(6, 0)?;
    let group = outputs.checked_mul(width).and_then(|n| n.checked_mul(height)).filter(|n| *n > 0);
    match group {
        Some(group) if count > 0 && count.is_multiple_of(group) => {
            Ok((vec![outputs, count / group, height, width], layer.whole(5, 0)? != 0))
        }
        _ => Err(layer.wrong(format!("has {count} weights for {outputs} outputs of {width}x{height}"))),
    }
}

/// Reads the text.
///
/// # Errors
/// [`WeightError::Line`].
pub fn read_param(param: &[u8]) -> Result<Vec<Layer>, WeightError> {
    let at = |line, problem: String| WeightError::Line { line, problem };
    if param.len() > PARAM_BYTES_MAX {
        return Err(at(1, format!("the file has {} bytes, more than {PARAM_BYTES_MAX}", param.len())));
    }
    let text = std::str::from_utf8(param).map_err(|error| {
        let line = param[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        at(line, "is not UTF-8".to_owned())
    })?;
    let mut lines = text.lines().enumerate().map(|(i, text)| (i + 1, text.trim()));
    if lines.next().map(|(_, text)| text) != Some(MAGIC) {
        return Err(at(1, format!("does not begin with {MAGIC}")));
    }
    let announced: Option<(usize, usize)> = lines.next().and_then(|(_, text)| {
        let (layers, blobs) = text.split_once(' ')?;
        Some((layers.trim().parse().ok()?, blobs.trim().parse().ok()?))
    });
    let Some((announced, _)) = announced.filter(|(layers, _)| *layers <= LAYERS_MAX) else {
        return Err(at(2, format!("is not a count of at most {LAYERS_MAX} layers and one of blobs")));
    };
    // The announced count only has to agree: nothing is allocated from it.
    let mut layers = Vec::new();
    for (line, text) in lines.filter(|(_, text)| !text.is_empty()) {
        if layers.len() == announced {
            return Err(at(line, format!("is one layer more than the {announced} announced")));
        }
        layers.push(read_layer(line, text).map_err(|problem| at(line, problem))?);
    }
    if layers.len() != announced {
        let problem = format!("{announced} layers are announced, {} are there", layers.len());
        return Err(at(2, problem));
    }
    Ok(layers)
}

fn read_layer(line: usize, text: &str) -> Result<Layer, String> {
    let mut words = text.split_whitespace();
    let mut next = |what: &str| words.next().map(str::to_owned).ok_or_else(|| format!("ends before its {what}"));
    let (kind, name) = (next("kind")?, next("name")?);
    let mut count = |what: &str| {
        let word = next(what)?;
        word.parse().ok().filter(|n: &usize| *n <= LIST_MAX).ok_or_else(|| format!("has `{word}` as {what}"))
    };
    let (inputs, outputs) = (count("number of inputs")?, count("number of outputs")?);
    let inputs = (0..inputs).map(|_| next("inputs")).collect::<Result<Vec<_>, _>>()?;
    let outputs = (0..outputs).map(|_| next("outputs")).collect::<Result<Vec<_>, _>>()?;
    let mut params = BTreeMap::new();
    for word in words {
        let wrong = || format!("has `{}` where key=value should be", word.chars().take(80).collect::<String>());
        let (key, value) = word.split_once('=').ok_or_else(wrong)?;
        let key: i32 = key.parse().map_err(|_| wrong())?;
        let numbers: Vec<f64> = value
            .split(',')
            .take(LIST_MAX + 2)
            .map(|number| number.parse().ok().filter(|n: &f64| n.is_finite()))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        let (key, numbers) = match key {
            -23399..=-23300 => match numbers.split_first() {
                Some((count, rest)) if rest.len() <= LIST_MAX && rest.len() as f64 == *count => {
                    (-23300 - key, rest.to_vec())
                }
                _ => return Err(wrong()),
            },
            0..=99 if numbers.len() == 1 => (key, numbers),
            _ => return Err(wrong()),
        };
        if params.insert(key, numbers).is_some() {
            return Err(format!("has parameter {key} twice"));
        }
    }
    Ok(Layer { line, kind, name, inputs, outputs, params })
}

struct Cursor<'a> {
    file: &'a Bytes,
    offset: usize,
}

impl Cursor<'_> {
    /// A weight with a tag in front that says how it is kept.
    fn tagged(&mut self, layer: &Layer, count: usize) -> Result<(Stored, Bytes), WeightError> {
        let offset = self.offset;
        let tag = self.take(layer, 4)?;
        match u32::from_le_bytes([tag[0], tag[1], tag[2], tag[3]]) {
            TAG_F32 | TAG_RAW_F32 => self.raw(layer, count),
            TAG_F16 => {
                let data = self.take(layer, count.saturating_mul(2))?;
                self.take(layer, data.len().next_multiple_of(4) - data.len())?;
                Ok((Stored::F16, data))
            }
            tag => Err(WeightError::Offset {
                offset,
                problem: format!("`{}` has weights of kind {tag:#010x}; f32 and f16 are read", layer.name),
            }),
        }
    }

    fn raw(&mut self, layer: &Layer, count: usize) -> Result<(Stored, Bytes), WeightError> {
        Ok((Stored::F32, self.take(layer, count.saturating_mul(4))?))
    }

    fn take(&mut self, layer: &Layer, bytes: usize) -> Result<Bytes, WeightError> {
        let left = self.file.len() - self.offset;
        if bytes > left {
            let problem = format!("`{}` needs {bytes} bytes, {left} are left", layer.name);
            return Err(WeightError::Offset { offset: self.offset, problem });
        }
        let taken = self.file.slice(self.offset..self.offset + bytes);
        self.offset += bytes;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARAM: &str = "7767517\n3 3\nInput in 0 1 data\n\
        Convolution c 1 1 data x 0=1 1=1 5=1 6=3 -23310=1,2.0e-01\nPReLU p 1 1 x y 0=1\n";

    fn bin() -> Vec<u8> {
        let mut bin = TAG_F16.to_le_bytes().to_vec();
        bin.extend([0, 0x3c, 0, 0x40, 0, 0x44, 0, 0]); // 1, 2, 4 and two bytes of padding
        bin.extend(0.5_f32.to_le_bytes());
        bin.extend(0.25_f32.to_le_bytes());
        bin
    }

    #[test]
    fn layers_and_their_weights_are_read_together() {
        let (layers, weights) = read(PARAM.as_bytes(), &bin().into()).unwrap();
        assert_eq!((layers.len(), layers[1].list(10)), (3, &[0.2][..]));
        assert_eq!(weights.values("c.weight", &[1, 3, 1, 1]).unwrap(), [1.0, 2.0, 4.0]);
        assert_eq!(weights.values("c.bias", &[1]).unwrap(), [0.5]);
        assert_eq!(weights.values("p.slopes", &[1]).unwrap(), [0.25]);
    }

    #[test]
    fn an_error_names_its_line_or_offset() {
        let param = |text: &str| read(text.as_bytes(), &Bytes::new()).unwrap_err().to_string();
        for (text, words) in [
            ("", "line 1: does not begin"),
            ("7767517\n", "line 2"),
            ("7767517\n99999999999 1\n", "line 2"),
            ("7767517\n2 1\nInput in 0 1 data\n", "2 layers are announced, 1 are there"),
            ("7767517\n1 1\nInput in 0 1 data\nInput in 0 1 data\n", "line 4: is one layer more"),
            ("7767517\n1 1\nInput in 0 1000000000 data\n", "line 3: has `1000000000`"),
            ("7767517\n1 1\nInput in 0 3 data\n", "line 3: ends before its outputs"),
            ("7767517\n1 1\nInput in 0 1 data x=3\n", "line 3: has `x=3`"),
            ("7767517\n1 1\nInput in 0 1 data 0=nan\n", "line 3: has `0=nan`"),
            ("7767517\n1 1\nInput in 0 1 data 0=1 0=2\n", "parameter 0 twice"),
            ("7767517\n1 1\nInput in 0 1 data -23300=5,1\n", "-23300=5,1"),
            ("7767517\n1 1\nConvolution c 1 1 a b 0=64 1=3 6=7\n", "line 3: Convolution `c` has 7 weights"),
            ("7767517\n1 1\nConvolution c 1 1 a b 0=1 1=1 6=2000000000\n", "offset 0: `c` needs 4 bytes, 0 are left"),
        ] {
            let error = param(text);
            assert!(error.contains(words), "{text:?}: {error}");
        }
        for (cut, words) in [(3, "offset 0"), (8, "offset 4: `c` needs 6"), (17, "`p` needs 4 bytes, 1 are left")] {
            let error = read(PARAM.as_bytes(), &bin()[..cut].to_vec().into()).unwrap_err().to_string();
            assert!(error.contains(words), "{cut}: {error}");
        }
        let long = [bin(), vec![0]].concat();
        assert!(read(PARAM.as_bytes(), &long.into()).unwrap_err().to_string().contains("1 bytes are left"));
        let int8 = [0x000D_4B38_u32.to_le_bytes().to_vec(), bin()].concat();
        assert!(read(PARAM.as_bytes(), &int8.into()).unwrap_err().to_string().contains("0x000d4b38"));
    }

    proptest! {
        #[test]
        fn no_text_and_no_bytes_make_it_panic(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(text.as_bytes(), &bytes.clone().into());
            let _ = read(&bytes, &bytes.clone().into());
            let _ = read(PARAM.as_bytes(), &bytes.into());
        }

        #[test]
        fn a_good_file_with_bytes_changed_does_not_make_it_panic(
            changes in prop::collection::vec((0usize..200, any::<u8>()), 1..6), cut in 0usize..200,
        ) {
            let (mut param, mut bin) = (PARAM.as_bytes().to_vec(), bin());
            for (at, byte) in changes {
                let (param_len, bin_len) = (param.len(), bin.len());
                param[at % param_len] = byte;
                bin[at % bin_len] = byte;
            }
            param.truncate(cut.max(20));
            let _ = read(&param, &bin.into());
        }
    }
}

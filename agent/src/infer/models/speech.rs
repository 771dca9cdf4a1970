//! silero-vad (16 kHz): how likely it is that somebody speaks in a window of 32 ms.
//!
//! A window goes through a Fourier transform and four convolutions over its four moments, and then through an LSTM that remembers
//! what was before. The transform and the convolutions know nothing of each other's windows, so they are two graphs over many windows at
//! once; a convolution over four moments is written as the matrix that it is. The root between them and the LSTM's steps are
//! computed here: the IR has neither, on purpose, and a step of the LSTM is 65,000 multiplications that wait for the step before.
//! All of it is 0.7 million multiplications for 32 ms of sound: it runs on the CPU, whatever GPU there is.

use std::sync::atomic::AtomicBool;

use crate::infer::executor::{ExecError, Executor, Input, Program};
use crate::infer::graph::{Activation, Graph, Op, ValueId};
use crate::infer::weights::{Stored, Tensor, WeightError, Weights};
use crate::sound::speech::WINDOW;

/// The file in the folder of models.
pub const FILE: &str = "silero_vad_16k.safetensors";
/// What it is called among the models.
pub const NAME: &str = "silero-vad";

/// Samples of the window before that a window begins with.
const CONTEXT: usize = 64;
/// Samples at the end that are mirrored behind it.
const MIRRORED: usize = 64;
const TRANSFORM: usize = 256;
const HOP: usize = 128;
/// Moments of a window.
const MOMENTS: usize = 4;
const BANDS: usize = TRANSFORM / 2 + 1;
/// Values that the LSTM remembers.
const STATE: usize = 128;
const GATES: usize = 4 * STATE;
/// Windows that go through the graphs at once: four seconds.
pub const BATCH: usize = 128;

/// Name, outputs, inputs, stride.
const CONVOLUTIONS: [(&str, usize, usize, usize); 4] =
    [("conv1", 128, BANDS, 1), ("conv2", 64, 128, 2), ("conv3", 64, 64, 2), ("conv4", 128, 64, 1)];

/// The network with what it remembers of the sound.
pub struct Vad {
    /// Frames to the squares of their spectra.
    spectrum: Box<dyn Program>,
    /// Spectra of a window to what goes into the gates.
    encoder: Box<dyn Program>,
    recurrent: Vec<f32>,
    last: Vec<f32>,
    last_bias: f32,
    memory: Memory,
}

struct Memory {
    hidden: [f32; STATE],
    cell: [f32; STATE],
    context: [f32; CONTEXT],
}

impl Memory {
    fn empty() -> Self {
        Self { hidden: [0.0; STATE], cell: [0.0; STATE], context: [0.0; CONTEXT] }
    }
}

impl Vad {
    /// # Errors
    /// [`ExecError::Weights`] when a weight is missing or unfit.
    pub fn load(weights: &Weights, executor: &dyn Executor) -> Result<Self, ExecError> {
        let (graph, packed) = spectrum(weights)?;
        let spectrum = executor.load(graph, &packed)?;
        let (graph, packed) = encoder(weights)?;
        let encoder = executor.load(graph, &packed)?;
        Ok(Self {
            spectrum,
            encoder,
            recurrent: weights.values("lstm_cell.weight_hh", &[GATES, STATE])?,
            last: weights.values("final_conv.weight", &[1, STATE, 1])?,
            last_bias: weights.values("final_conv.bias", &[1])?.first().copied().unwrap_or_default(),
            memory: Memory::empty(),
        })
    }

    /// Forgets the sound.
    pub fn begin(&mut self) {
        self.memory = Memory::empty();
    }

    /// Takes whole windows, which go on from the last ones, and appends a probability for each.
    ///
    /// # Errors
    /// [`ExecError::Cancelled`], or a fault of the executor.
    pub fn push(&mut self, samples: &[f32], cancel: &AtomicBool, to: &mut Vec<f32>) -> Result<(), ExecError> {
        for samples in samples.chunks(BATCH * WINDOW) {
            let windows = samples.len() / WINDOW;
            let frames = self.frames(samples);
            let shape = [windows * MOMENTS, TRANSFORM];
            let input = Input { shape: &shape, data: &frames };
            let squares = self.spectrum.run(&[input], cancel, &mut |_, _| {})?;
            let spectra: Vec<f32> = squares[0].data.iter().map(|square| square.sqrt()).collect();
            let shape = [windows, MOMENTS * BANDS];
            let input = Input { shape: &shape, data: &spectra };
            let gates = self.encoder.run(&[input], cancel, &mut |_, _| {})?;
            for gates in gates[0].data.chunks_exact(GATES) {
                to.push(step(&mut self.memory, &self.recurrent, &self.last, self.last_bias, gates));
            }
        }
        Ok(())
    }

    /// The frames of each window: its context before it, its end mirrored behind it.
    fn frames(&mut self, samples: &[f32]) -> Vec<f32> {
        let mut frames = Vec::with_capacity(samples.len() / WINDOW * MOMENTS * TRANSFORM);
        let mut window = [0.0; CONTEXT + WINDOW + MIRRORED];
        for own in samples.chunks_exact(WINDOW) {
            window[..CONTEXT].copy_from_slice(&self.memory.context);
            window[CONTEXT..CONTEXT + WINDOW].copy_from_slice(own);
            for back in 0..MIRRORED {
                window[CONTEXT + WINDOW + back] = own[WINDOW - 2 - back];
            }
            for moment in 0..MOMENTS {
                frames.extend_from_slice(&window[moment * HOP..][..TRANSFORM]);
            }
            self.memory.context.copy_from_slice(&own[WINDOW - CONTEXT..]);
        }
        frames
    }
}

/// One step of the LSTM and the probability after it. `gates` is what the window gives; input, forget, cell, output.
fn step(memory: &mut Memory, recurrent: &[f32], last: &[f32], bias: f32, gates: &[f32]) -> f32 {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    let mut all = [0.0; GATES];
    for ((sum, row), own) in all.iter_mut().zip(recurrent.chunks_exact(STATE)).zip(gates) {
        *sum = own + row.iter().zip(&memory.hidden).map(|(weight, value)| weight * value).sum::<f32>();
    }
    let mut said = bias;
    for at in 0..STATE {
        let cell = sigmoid(all[STATE + at]) * memory.cell[at] + sigmoid(all[at]) * all[2 * STATE + at].tanh();
        memory.cell[at] = cell;
        memory.hidden[at] = sigmoid(all[3 * STATE + at]) * cell.tanh();
        said += last[at] * memory.hidden[at].max(0.0);
    }
    sigmoid(said)
}

fn spectrum(weights: &Weights) -> Result<(Graph, Weights), WeightError> {
    let mut graph = Graph::new();
    let mut packed = Weights::default();
    let frames = graph.input();
    let values = weights.values("stft_conv.weight", &[2 * BANDS, 1, TRANSFORM])?;
    let both = linear(&mut graph, &mut packed, "stft_conv", frames, (2 * BANDS, TRANSFORM), &values, None);
    let parts = graph.split("parts", both, 1, &[BANDS, BANDS]);
    let squares: Vec<ValueId> = parts.iter().map(|part| graph.push("square", Op::Mul, &[*part, *part])).collect();
    let sum = graph.push("power", Op::Add, &squares);
    graph.output(sum);
    Ok((graph, packed))
}

fn encoder(weights: &Weights) -> Result<(Graph, Weights), WeightError> {
    let mut graph = Graph::new();
    let mut packed = Weights::default();
    let mut value = graph.input();
    let mut moments = MOMENTS;
    for (name, outputs, inputs, stride) in CONVOLUTIONS {
        let kernel = weights.values(&format!("{name}.weight"), &[outputs, inputs, 3])?;
        let bias = weights.values(&format!("{name}.bias"), &[outputs])?;
        let (matrix, after) = as_matrix(&kernel, (outputs, inputs), moments, stride);
        let size = (after * outputs, moments * inputs);
        value = linear(&mut graph, &mut packed, name, value, size, &matrix, Some(&bias.repeat(after)));
        value = graph.push(format!("{name} relu"), Op::Activate(Activation::Relu), &[value]);
        moments = after;
    }
    let matrix = weights.values("lstm_cell.weight_ih", &[GATES, STATE])?;
    let own = weights.values("lstm_cell.bias_ih", &[GATES])?;
    let recurrent = weights.values("lstm_cell.bias_hh", &[GATES])?;
    let bias: Vec<f32> = own.iter().zip(&recurrent).map(|(a, b)| a + b).collect();
    value = linear(&mut graph, &mut packed, "lstm_cell", value, (GATES, STATE), &matrix, Some(&bias));
    graph.output(value);
    Ok((graph, packed))
}

fn linear(
    graph: &mut Graph,
    packed: &mut Weights,
    name: &str,
    input: ValueId,
    (outputs, inputs): (usize, usize),
    matrix: &[f32],
    bias: Option<&[f32]>,
) -> ValueId {
    let mut keep = |part: &str, shape: &[usize], values: &[f32]| {
        let name = format!("{name}.{part}");
        packed.put(name.clone(), Tensor::stored_as(Stored::F32, shape, values));
        graph.weight(name, shape)
    };
    let weight = keep("weight", &[outputs, inputs], matrix);
    let bias = bias.map(|bias| keep("bias", &[outputs], bias));
    graph.push(name, Op::Linear { weight, bias }, &[input])
}

/// A convolution of three taps with a zero on each side, over so many moments, as a matrix over all of them; and how many moments
/// come out. Values of one moment stand together.
fn as_matrix(kernel: &[f32], (outputs, inputs): (usize, usize), moments: usize, stride: usize) -> (Vec<f32>, usize) {
    let after = moments.div_ceil(stride);
    let width = moments * inputs;
    let mut matrix = vec![0.0; after * outputs * width];
    for to in 0..after {
        for tap in 0..3 {
            let Some(from) = (to * stride + tap).checked_sub(1).filter(|from| *from < moments) else { continue };
            for output in 0..outputs {
                let row = &mut matrix[(to * outputs + output) * width + from * inputs..][..inputs];
                for (input, value) in row.iter_mut().enumerate() {
                    *value = kernel[(output * inputs + input) * 3 + tap];
                }
            }
        }
    }
    (matrix, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_convolution_as_a_matrix_is_that_convolution() {
        // One channel, taps 1 2 3, over 4 moments.
        let (matrix, after) = as_matrix(&[1.0, 2.0, 3.0], (1, 1), 4, 1);
        assert_eq!(after, 4);
        assert_eq!(matrix, [2., 3., 0., 0., 1., 2., 3., 0., 0., 1., 2., 3., 0., 0., 1., 2.]);
        let (matrix, after) = as_matrix(&[1.0, 2.0, 3.0], (1, 1), 4, 2);
        assert_eq!((after, matrix), (2, vec![2., 3., 0., 0., 0., 1., 2., 3.]));
        let (matrix, after) = as_matrix(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (1, 2), 1, 1);
        assert_eq!((after, matrix), (1, vec![2.0, 5.0]));
    }

    #[test]
    fn a_file_that_is_no_such_network_is_refused_by_the_name_of_a_weight() {
        let cpu = crate::infer::cpu::Cpu::new(1, 1 << 20).unwrap();
        let error = Vad::load(&Weights::default(), &cpu).err().unwrap().to_string();
        assert!(error.contains("stft_conv.weight") && error.contains("missing"), "{error}");
    }
}

//! What each operation means, in the plainest loops and in f64. Slow on purpose.

use backlot_agent::infer::graph::{Activation, Op, Pad, WeightId};

use super::{Case, Tensor};

/// The first output of the case; `None` for what other tests hold against candle (moves, resizes, casts). Of two nodes the
/// second adds the second input.
pub(crate) fn output(case: &Case) -> Option<Tensor> {
    let made = first(case)?;
    Some(match case.graph.nodes() {
        [_, _] => each(&made, |at, value| value + f64::from(case.inputs[1].data[at])),
        _ => made,
    })
}

fn first(case: &Case) -> Option<Tensor> {
    let x = &case.inputs[0];
    let weight = |id: WeightId| {
        let decl = case.graph.weight_decl(id);
        case.weights.values(&decl.name, &decl.shape).unwrap()
    };
    let last = *x.shape.last().unwrap();
    Some(match &case.graph.nodes()[0].op {
        Op::Conv2d { weight: w, bias, stride, pad, .. } => {
            let shape = case.graph.weight_decl(*w).shape.clone();
            let bias = bias.map_or_else(|| vec![0.0; shape[0]], weight);
            convolution(x, &weight(*w), &shape, &bias, *stride, *pad)
        }
        Op::Linear { weight: w, bias } => {
            let outputs = case.graph.weight_decl(*w).shape[0];
            let (w, bias) = (weight(*w), bias.map_or_else(|| vec![0.0; outputs], weight));
            let rows = x.data.chunks(last);
            let data = rows.flat_map(|row| {
                (0..outputs).map(|o| (dot(row, &w[o * last..][..last]) + f64::from(bias[o])) as f32).collect::<Vec<_>>()
            });
            Tensor { data: data.collect(), shape: [&x.shape[..x.shape.len() - 1], &[outputs]].concat() }
        }
        Op::Activate(activation) => {
            let slopes = if let Activation::Prelu { slopes } = activation { weight(*slopes) } else { vec![0.0; last] };
            each(x, |at, value| activate(*activation, f64::from(slopes[at % last]), value))
        }
        Op::Add => each(x, |at, _| case.inputs.iter().map(|t| f64::from(t.data[at])).sum()),
        Op::Mul => each(x, |at, _| case.inputs.iter().map(|t| f64::from(t.data[at])).product()),
        Op::Scale { factor } => each(x, |_, value| value * f64::from(*factor)),
        Op::GroupNorm { groups, weight: w, bias, epsilon, silu } => {
            let (w, bias) = (weight(*w), weight(*bias));
            let (batch, in_group) = (x.shape[0], last / groups);
            let picture = x.data.len() / batch;
            each(x, |at, value| {
                let group = |at: usize| (at / picture, at % last / in_group);
                let of_group: Vec<f64> = (0..x.data.len())
                    .filter(|other| group(*other) == group(at))
                    .map(|i| f64::from(x.data[i]))
                    .collect();
                let made = normal(value, &of_group, *epsilon) * f64::from(w[at % last]) + f64::from(bias[at % last]);
                if *silu { activate(Activation::Silu, 0.0, made) } else { made }
            })
        }
        Op::LayerNorm { weight: w, bias, epsilon } => {
            let (w, bias) = (weight(*w), weight(*bias));
            each(x, |at, value| {
                let row: Vec<f64> = x.data[at / last * last..][..last].iter().map(|x| f64::from(*x)).collect();
                normal(value, &row, *epsilon) * f64::from(w[at % last]) + f64::from(bias[at % last])
            })
        }
        Op::Geglu => {
            let half = last / 2;
            let made = x.data.chunks(last).flat_map(|row| {
                (0..half)
                    .map(|i| (f64::from(row[i]) * activate(Activation::Gelu, 0.0, f64::from(row[half + i]))) as f32)
            });
            Tensor { data: made.collect(), shape: [&x.shape[..x.shape.len() - 1], &[half]].concat() }
        }
        Op::Attention { heads, causal } => attention(&case.inputs, *heads, *causal),
        Op::Embedding { weight: w } => {
            let (rows, width) = (weight(*w), case.graph.weight_decl(*w).shape[1]);
            let data = x.data.iter().flat_map(|n| rows[*n as usize * width..][..width].to_vec()).collect();
            Tensor { data, shape: [&x.shape[..], &[width]].concat() }
        }
        Op::TimeEmbedding { channels, flip, shift } => {
            let half = channels / 2;
            let data = x.data.iter().flat_map(|moment| {
                (0..*channels).map(move |c| {
                    let (at, second) = (c % half, c >= half);
                    let frequency = (-(10_000_f64.ln()) * at as f64 / (half as f64 - f64::from(*shift))).exp();
                    let angle = f64::from(*moment) * frequency;
                    (if second == *flip { angle.sin() } else { angle.cos() }) as f32
                })
            });
            Tensor { data: data.collect(), shape: vec![x.shape[0], *channels] }
        }
        Op::AddChannels => {
            let part = x.data.len() / case.inputs[1].shape[0];
            each(x, |at, value| value + f64::from(case.inputs[1].data[at / part * last + at % last]))
        }
        _ => return None,
    })
}

fn each(x: &Tensor, f: impl Fn(usize, f64) -> f64) -> Tensor {
    let data = x.data.iter().enumerate().map(|(at, value)| f(at, f64::from(*value)) as f32).collect();
    Tensor { data, shape: x.shape.clone() }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn normal(value: f64, of: &[f64], epsilon: f32) -> f64 {
    let mean = of.iter().sum::<f64>() / of.len() as f64;
    let variance = of.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / of.len() as f64;
    (value - mean) / (variance + f64::from(epsilon)).sqrt()
}

fn activate(activation: Activation, slope: f64, x: f64) -> f64 {
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::LeakyRelu { slope } => {
            if x < 0.0 {
                x * f64::from(slope)
            } else {
                x
            }
        }
        Activation::Prelu { .. } => {
            if x < 0.0 {
                x * slope
            } else {
                x
            }
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        // Φ by its integral: Simpson's rule over [0, x].
        Activation::Gelu => {
            let (steps, width) = (2000, x / 2000.0);
            let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let weight = |i: u32| {
                if i == 0 || i == steps {
                    1.0
                } else if i % 2 == 1 {
                    4.0
                } else {
                    2.0
                }
            };
            let area: f64 = (0..=steps).map(|i| weight(i) * density(f64::from(i) * width)).sum();
            x * (0.5 + area * width / 3.0)
        }
    }
}

fn attention(inputs: &[Tensor], heads: usize, causal: bool) -> Tensor {
    let [q, k, v] = inputs else { panic!("three inputs") };
    let (n, width) = (q.shape[0], *q.shape.last().unwrap());
    let (l, s) = (q.data.len() / n / width, k.data.len() / n / width);
    let size = width / heads;
    let mut data = vec![0.0; q.data.len()];
    for (batch, query, head) in (0..n).flat_map(|b| (0..l).flat_map(move |q| (0..heads).map(move |h| (b, q, h)))) {
        let part = |tensor: &Tensor, row: usize, rows: usize| {
            tensor.data[(batch * rows + row) * width + head * size..][..size].to_vec()
        };
        let seen = if causal { query + 1 } else { s };
        let query_row = part(q, query, l);
        let scores: Vec<f64> =
            (0..seen).map(|key| (dot(&query_row, &part(k, key, s)) / (size as f64).sqrt()).exp()).collect();
        let total: f64 = scores.iter().sum();
        for i in 0..size {
            let sum: f64 = (0..seen).map(|key| scores[key] * f64::from(part(v, key, s)[i])).sum();
            data[(batch * l + query) * width + head * size + i] = (sum / total) as f32;
        }
    }
    Tensor { data, shape: q.shape.clone() }
}

fn convolution(x: &Tensor, w: &[f32], shape: &[usize], bias: &[f32], stride: usize, pad: Pad) -> Tensor {
    let (&[n, height, width, c], &[outputs, _, lines, columns]) = (x.shape.as_slice(), shape) else {
        panic!("{shape:?}")
    };
    let [above, before] = if pad == Pad::Same { [lines / 2, columns / 2] } else { [0, 0] };
    let side = |length: usize| if pad == Pad::Same { length.div_ceil(stride) } else { length / stride };
    let (h, wide) = (side(height), side(width));
    let mut data = Vec::with_capacity(n * h * wide * outputs);
    for at in 0..n * h * wide * outputs {
        let (o, column, row, batch) =
            (at % outputs, at / outputs % wide, at / outputs / wide % h, at / outputs / wide / h);
        let mut sum = f64::from(bias[o]);
        for (dy, dx) in (0..lines).flat_map(|dy| (0..columns).map(move |dx| (dy, dx))) {
            let y = (row * stride + dy).checked_sub(above).filter(|y| *y < height);
            let x_at = (column * stride + dx).checked_sub(before).filter(|x| *x < width);
            if let (Some(y), Some(x_at)) = (y, x_at) {
                for i in 0..c {
                    let value = x.data[((batch * height + y) * width + x_at) * c + i];
                    sum += f64::from(value) * f64::from(w[((o * c + i) * lines + dy) * columns + dx]);
                }
            }
        }
        data.push(sum as f32);
    }
    Tensor { data, shape: vec![n, h, wide, outputs] }
}

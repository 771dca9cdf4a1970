//! A graph's weights on the GPU.

use half::f16;
use wgpu::{Buffer, BufferUsages};

use super::device::{ALIGN_BYTES, Gpu};
use super::pack::{self, Packing};
use crate::infer::executor::ExecError;
use crate::infer::graph::Graph;
use crate::infer::weights::{WeightError, Weights};

/// Weights that are on their way to the GPU at one time.
const UPLOAD_BYTES: usize = 64 << 20;

/// Weights lie in buffers of about this size: one of many gigabytes may find no room where several do.
const BUFFER_BYTES: u64 = 1 << 30;

/// Where a weight lies.
#[derive(Clone, Copy)]
struct Place {
    buffer: usize,
    offset: u64,
    bytes: u64,
}

pub(crate) struct Store {
    buffers: Vec<Buffer>,
    /// Of each node, as it binds them.
    places: Vec<Vec<Place>>,
}

impl Store {
    /// Packs and uploads all weights of `graph`, in f16 where told.
    ///
    /// # Errors
    /// [`ExecError::Weights`] names a weight that is missing, that f16 cannot hold, or that no shader could see.
    pub(crate) fn load(gpu: &Gpu, graph: &Graph, weights: &Weights, is_f16: bool) -> Result<Self, ExecError> {
        let width = if is_f16 { 2 } else { 4 };
        let packings: Vec<Vec<Packing>> =
            graph.nodes().iter().map(|node| pack::of_node(graph, node)).collect::<Result<_, _>>()?;
        let bytes = |packing: &Packing| ((packing.len() * width) as u64).next_multiple_of(ALIGN_BYTES);
        // First where everything goes, so that each buffer is made as large as it has to be.
        let (mut sizes, mut places) = (vec![0_u64], Vec::with_capacity(packings.len()));
        for of_node in &packings {
            let mut of_this = Vec::with_capacity(of_node.len());
            for packing in of_node {
                let needed = bytes(packing);
                if needed > gpu.binding_bytes_max() {
                    let problem = format!(
                        "takes {needed} bytes on the GPU; {} shows a shader {} at most",
                        gpu.adapter.name,
                        gpu.binding_bytes_max()
                    );
                    return Err(WeightError::Tensor { name: packing.name(graph).to_owned(), problem }.into());
                }
                let mut buffer = sizes.len() - 1;
                if sizes[buffer] > 0 && sizes[buffer] + needed > BUFFER_BYTES.min(gpu.limits.max_buffer_size) {
                    sizes.push(0);
                    buffer += 1;
                }
                of_this.push(Place { buffer, offset: sizes[buffer], bytes: needed });
                sizes[buffer] += needed;
            }
            places.push(of_this);
        }
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        let buffers: Vec<Buffer> =
            sizes.iter().map(|size| gpu.buffer("weights", *size, usage)).collect::<Result<_, _>>()?;
        let mut on_the_way = 0;
        for (packing, place) in packings.iter().flatten().zip(places.iter().flatten()) {
            let values = packing.values(graph, weights)?;
            if is_f16 && let Some(value) = values.iter().find(|value| value.abs() > f16::MAX.to_f32()) {
                let problem = format!("has the value {value}, which f16 cannot hold");
                return Err(WeightError::Tensor { name: packing.name(graph).to_owned(), problem }.into());
            }
            let data = pack::bytes(&values, is_f16);
            on_the_way += data.len();
            gpu.write(&buffers[place.buffer], place.offset, &data)?;
            if on_the_way > UPLOAD_BYTES {
                gpu.wait(gpu.submit("weights", |_| {})?)?;
                on_the_way = 0;
            }
        }
        gpu.wait(gpu.submit("weights", |_| {})?)?;
        Ok(Self { buffers, places })
    }

    /// The part of a buffer that holds the weight at `slot` of a node.
    pub(crate) fn binding(&self, node: usize, slot: usize) -> Option<wgpu::BufferBinding<'_>> {
        let place = self.places.get(node)?.get(slot)?;
        let (buffer, size) = (self.buffers.get(place.buffer)?, wgpu::BufferSize::new(place.bytes));
        Some(wgpu::BufferBinding { buffer, offset: place.offset, size })
    }
}

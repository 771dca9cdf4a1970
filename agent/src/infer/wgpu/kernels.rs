//! Kernels: a shader's text with its choices made, compiled once and kept.

use std::collections::HashMap;

use wgpu::{
    BindGroupLayout, BindGroupLayoutDescriptor, BindGroupLayoutEntry, BindingType, BufferBindingType, ComputePipeline,
    ShaderStages,
};

use super::device::{Gpu, GpuError};
use super::template::{Definitions, expand};

/// A text of `shaders/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

const HEADER: &str = include_str!("shaders/header.wgsl");

/// What one pipeline is made of. Shapes are no part of it: they are numbers that a dispatch brings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kernel {
    pub(crate) source: Source,
    pub(crate) definitions: Definitions,
    /// What stands at bindings 1, 2 and so on; the numbers stand at 0. True: read only.
    pub(crate) bindings: Vec<bool>,
}

impl Kernel {
    /// The WGSL of it.
    pub(crate) fn text(&self) -> Result<String, GpuError> {
        let expanded = |text| expand(text, &self.definitions);
        match (expanded(HEADER), expanded(self.source.text)) {
            (Ok(header), Ok(body)) => Ok(format!("{header}\n{body}\n")),
            (Err(error), _) => Err(GpuError::Refused(format!("header.wgsl: {error}"))),
            (_, Err(error)) => Err(GpuError::Refused(format!("{}.wgsl: {error}", self.source.name))),
        }
    }
}

pub(crate) struct Pipeline {
    pub(crate) pipeline: ComputePipeline,
    pub(crate) layout: BindGroupLayout,
}

/// Compiled kernels of one device.
#[derive(Default)]
pub(crate) struct Pipelines {
    made: HashMap<Kernel, Pipeline>,
}

impl Pipelines {
    /// Compiles `kernel`, if it is the first to ask for it.
    pub(crate) fn get(&mut self, gpu: &Gpu, kernel: &Kernel) -> Result<&Pipeline, GpuError> {
        if !self.made.contains_key(kernel) {
            self.made.insert(kernel.clone(), compile(gpu, kernel)?);
        }
        self.made.get(kernel).ok_or_else(|| GpuError::Refused("a pipeline is gone".to_owned()))
    }

    pub(crate) fn len(&self) -> usize {
        self.made.len()
    }
}

fn compile(gpu: &Gpu, kernel: &Kernel) -> Result<Pipeline, GpuError> {
    let label = Some(kernel.source.name);
    let text = kernel.text()?;
    let entry = |(binding, ty): (usize, BufferBindingType)| BindGroupLayoutEntry {
        binding: u32::try_from(binding).unwrap_or(u32::MAX),
        visibility: ShaderStages::COMPUTE,
        ty: BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    let storage = kernel.bindings.iter().map(|read_only| BufferBindingType::Storage { read_only: *read_only });
    let entries: Vec<_> = std::iter::once(BufferBindingType::Uniform).chain(storage).enumerate().map(entry).collect();
    gpu.guarded(0, || {
        let layout = gpu.device.create_bind_group_layout(&BindGroupLayoutDescriptor { label, entries: &entries });
        let of_pipeline = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label,
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&of_pipeline),
            module: &module,
            entry_point: Some("main"),
            // Kernels write to workgroup memory before they read it.
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        Pipeline { pipeline, layout }
    })
    .map_err(|error| match error {
        GpuError::Refused(problem) => GpuError::Refused(format!("shader {}: {problem}", kernel.source.name)),
        other => other,
    })
}

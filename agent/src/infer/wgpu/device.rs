//! A GPU behind wgpu: which adapter, what it can do, and what it says when something goes wrong.
//!
//! wgpu panics on an error that nobody catches. Nothing here leaves one uncaught: what may fail runs between
//! [`Gpu::guarded`]'s scopes, what fails outside of them and a lost device end up in [`Gpu::check`], and a wait has an
//! end. After a lost device every call fails with the reason; whoever holds it makes a new one.

use std::sync::Arc;
use std::time::Duration;

use futures::executor::block_on;
use parking_lot::Mutex;
use serde::Serialize;
use wgpu::{Buffer, BufferUsages, DeviceType, ErrorFilter, Features};

/// Where bytes may begin in a buffer, for every adapter there is.
pub(crate) const ALIGN_BYTES: u64 = 256;
/// A GPU that has not ended a submission of a few hundred milliseconds after this long has hung.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// Why a GPU did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    #[error("no adapter: {0}")]
    None(String),
    #[error("the GPU has no {needed_bytes} bytes of memory to give: {problem}")]
    Memory { needed_bytes: u64, problem: String },
    #[error("the GPU is lost: {0}")]
    Lost(String),
    /// A shader or a call that the driver does not take: a mistake in this crate, or in the driver.
    #[error("the GPU's driver refused: {0}")]
    Refused(String),
}

/// An adapter, as wgpu sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Adapter {
    pub name: String,
    /// `DiscreteGpu`, `IntegratedGpu`, `Cpu` for a software driver.
    pub kind: String,
    pub driver: String,
}

impl Adapter {
    fn of(info: &wgpu::AdapterInfo) -> Self {
        Self { name: info.name.clone(), kind: format!("{:?}", info.device_type), driver: info.driver.clone() }
    }

    /// Real silicon, not a driver that computes on the CPU.
    #[must_use]
    pub fn is_gpu(&self) -> bool {
        self.kind != "Cpu"
    }
}

/// Which adapter is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The best real GPU.
    Gpu,
    /// A software driver. For tests, and for trying things out without a GPU: it is slower than the CPU executor.
    Software,
}

#[derive(Default)]
struct Heard {
    lost: Option<String>,
    refused: Option<String>,
}

/// An opened device.
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) adapter: Adapter,
    pub(crate) limits: wgpu::Limits,
    /// Storage and arithmetic in f16.
    pub(crate) has_f16: bool,
    pub(crate) has_subgroups: bool,
    heard: Arc<Mutex<Heard>>,
}

fn instance() -> wgpu::Instance {
    let mut options = wgpu::InstanceDescriptor::new_without_display_handle();
    options.backends = wgpu::Backends::VULKAN;
    // Where the driver says how much is free, running out is an error before it is a crawl.
    options.memory_budget_thresholds.for_resource_creation = Some(97);
    wgpu::Instance::new(options)
}

/// Every adapter of this host; none where there is no Vulkan.
pub async fn adapters() -> Vec<Adapter> {
    let found = instance().enumerate_adapters(wgpu::Backends::VULKAN).await;
    found.iter().map(|adapter| Adapter::of(&adapter.get_info())).collect()
}

impl Gpu {
    /// Opens the wanted adapter with everything it offers, the `which`-th of the best ones in the order of their addresses.
    ///
    /// # Errors
    /// [`GpuError::None`] with what there is instead.
    pub(crate) fn open(wanted: Wanted, which: usize) -> Result<Self, GpuError> {
        let mut found = block_on(instance().enumerate_adapters(wgpu::Backends::VULKAN));
        let seen: Vec<String> = found.iter().map(|adapter| adapter.get_info().name).collect();
        let rank = |adapter: &wgpu::Adapter| match (wanted, adapter.get_info().device_type) {
            (Wanted::Software, DeviceType::Cpu) | (Wanted::Gpu, DeviceType::DiscreteGpu) => Some(0),
            (Wanted::Gpu, DeviceType::IntegratedGpu) => Some(1),
            (Wanted::Gpu, DeviceType::VirtualGpu) => Some(2),
            (Wanted::Gpu, DeviceType::Other) => Some(3),
            _ => None,
        };
        let best = found.iter().filter_map(rank).min();
        found.retain(|adapter| best.is_some() && rank(adapter) == best);
        found.sort_by_key(|adapter| adapter.get_info().device_pci_bus_id);
        let count = found.len().max(1);
        let adapter = found.into_iter().nth(which % count).ok_or_else(|| {
            let kind = if wanted == Wanted::Gpu { "Vulkan GPU" } else { "software Vulkan driver" };
            let seen = if seen.is_empty() { "nothing".to_owned() } else { seen.join(", ") };
            GpuError::None(format!("no {kind} on this host; found {seen}"))
        })?;
        let has = |feature| adapter.features().contains(feature);
        let (has_f16, has_subgroups) = (has(Features::SHADER_F16), has(Features::SUBGROUP));
        let mut required_features = Features::empty();
        required_features.set(Features::SHADER_F16, has_f16);
        required_features.set(Features::SUBGROUP, has_subgroups);
        let limits = adapter.limits();
        let (device, queue) = block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("backlot"),
            required_features,
            required_limits: limits.clone(),
            ..Default::default()
        }))
        .map_err(|error| GpuError::None(format!("{} does not open: {error}", adapter.get_info().name)))?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let listener = Arc::clone(&heard);
        device.set_device_lost_callback(move |reason, message| {
            listener.lock().lost = Some(format!("{message} ({reason:?})"));
        });
        let listener = Arc::clone(&heard);
        device.on_uncaptured_error(Arc::new(move |error| {
            listener.lock().refused.get_or_insert_with(|| error.to_string());
        }));
        let adapter = Adapter::of(&adapter.get_info());
        Ok(Self { device, queue, adapter, limits, has_f16, has_subgroups, heard })
    }

    /// Most bytes of one buffer that a shader can see at once.
    pub(crate) fn binding_bytes_max(&self) -> u64 {
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size)
    }

    /// Workgroups along two axes, since one alone does not hold as many.
    pub(crate) fn grid(&self, groups: usize) -> [u32; 2] {
        let groups = u32::try_from(groups).unwrap_or(u32::MAX);
        let across = groups.min(self.limits.max_compute_workgroups_per_dimension).max(1);
        [across, groups.div_ceil(across)]
    }

    /// # Errors
    /// What was heard since the last call: a lost device stays lost.
    pub(crate) fn check(&self) -> Result<(), GpuError> {
        let mut heard = self.heard.lock();
        if let Some(reason) = &heard.lost {
            return Err(GpuError::Lost(reason.clone()));
        }
        heard.refused.take().map_or(Ok(()), |problem| Err(GpuError::Refused(problem)))
    }

    /// Does what may fail, and says whether and why it did. `needed_bytes` is what an error of memory tells.
    pub(crate) fn guarded<T>(&self, needed_bytes: u64, act: impl FnOnce() -> T) -> Result<T, GpuError> {
        let scopes = [ErrorFilter::OutOfMemory, ErrorFilter::Validation, ErrorFilter::Internal]
            .map(|filter| self.device.push_error_scope(filter));
        let made = act();
        let mut failed = None;
        for scope in scopes.into_iter().rev() {
            match block_on(scope.pop()) {
                Some(error @ wgpu::Error::OutOfMemory { .. }) => {
                    failed = Some(GpuError::Memory { needed_bytes, problem: error.to_string() });
                }
                Some(error) => failed = failed.or(Some(GpuError::Refused(error.to_string()))),
                None => {}
            }
        }
        self.check()?;
        match failed {
            Some(error) => Err(error),
            None => Ok(made),
        }
    }

    pub(crate) fn buffer(&self, label: &str, bytes: u64, usage: BufferUsages) -> Result<Buffer, GpuError> {
        let size = bytes.max(ALIGN_BYTES).next_multiple_of(ALIGN_BYTES);
        if size > self.limits.max_buffer_size {
            let problem =
                format!("a buffer of {} has {} bytes at most", self.adapter.name, self.limits.max_buffer_size);
            return Err(GpuError::Memory { needed_bytes: size, problem });
        }
        self.guarded(size, || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation: false,
            })
        })
    }

    /// Writes `data`, whose length divides by four, into `buffer`.
    pub(crate) fn write(&self, buffer: &Buffer, offset: u64, data: &[u8]) -> Result<(), GpuError> {
        self.guarded(data.len() as u64, || self.queue.write_buffer(buffer, offset, data))
    }

    /// Hands in what `record` says. The GPU begins with it at once.
    pub(crate) fn submit(
        &self,
        label: &str,
        record: impl FnOnce(&mut wgpu::CommandEncoder),
    ) -> Result<wgpu::SubmissionIndex, GpuError> {
        self.guarded(0, || {
            let mut encoder =
                self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(label) });
            record(&mut encoder);
            self.queue.submit([encoder.finish()])
        })
    }

    /// Waits until that submission, and so everything before it, has ended.
    pub(crate) fn wait(&self, submission: wgpu::SubmissionIndex) -> Result<(), GpuError> {
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: Some(ANSWER_MAX) };
        let polled = self.device.poll(wait);
        self.check()?;
        match polled {
            Ok(_) => Ok(()),
            Err(wgpu::PollError::Timeout) => {
                Err(GpuError::Lost(format!("it has not answered for {} s", ANSWER_MAX.as_secs())))
            }
            Err(error) => Err(GpuError::Refused(error.to_string())),
        }
    }

    /// Copies parts of `from` (begin and length in bytes, both multiples of four) to `staging` one after the other, and
    /// hands them to `take`.
    pub(crate) fn read(
        &self,
        from: &Buffer,
        parts: &[(u64, u64)],
        staging: &Buffer,
        take: impl FnOnce(&[u8]),
    ) -> Result<(), GpuError> {
        let all: u64 = parts.iter().map(|(_, length)| length).sum();
        let submission = self.submit("read back", |encoder| {
            let mut at = 0;
            for (offset, length) in parts {
                encoder.copy_buffer_to_buffer(from, *offset, staging, at, *length);
                at += length;
            }
        })?;
        let mapped = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&mapped);
        let slice = staging.slice(..all);
        self.guarded(all, || slice.map_async(wgpu::MapMode::Read, move |result| *tell.lock() = Some(result)))?;
        self.wait(submission)?;
        if !matches!(*mapped.lock(), Some(Ok(()))) {
            // The callback comes with the wait for the copy; without it the mapping was never made.
            return Err(GpuError::Refused("what was computed cannot be read back".to_owned()));
        }
        let view = slice.get_mapped_range().map_err(|error| GpuError::Refused(error.to_string()))?;
        take(&view);
        drop(view);
        staging.unmap();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(test: &str) -> Option<Gpu> {
        let opened = Gpu::open(Wanted::Software, 0).or_else(|_| Gpu::open(Wanted::Gpu, 0));
        opened.inspect_err(|error| println!("SKIPPED {test}: {error}")).ok()
    }

    #[test]
    fn a_call_that_the_driver_refuses_is_an_error_and_harms_nothing() {
        let Some(gpu) = open("a_call_that_the_driver_refuses_is_an_error_and_harms_nothing") else { return };
        let buffer = gpu.buffer("small", 256, BufferUsages::COPY_DST).unwrap();
        let error = gpu.write(&buffer, 1024, &[0; 4]).unwrap_err();
        assert!(matches!(error, GpuError::Refused(_)), "{error}");
        // Outside of any scope as well, where wgpu would panic.
        gpu.queue.write_buffer(&buffer, 1024, &[0; 4]);
        assert!(matches!(gpu.check(), Err(GpuError::Refused(_))));
        gpu.check().unwrap();
        gpu.write(&buffer, 0, &[0; 4]).unwrap();
    }

    #[test]
    fn a_buffer_that_no_adapter_holds_is_refused_with_the_bytes() {
        let Some(gpu) = open("a_buffer_that_no_adapter_holds_is_refused_with_the_bytes") else { return };
        let error = gpu.buffer("huge", 1 << 60, BufferUsages::STORAGE).unwrap_err();
        assert!(matches!(error, GpuError::Memory { needed_bytes, .. } if needed_bytes == 1 << 60), "{error}");
    }

    #[test]
    fn a_lost_device_says_so_on_every_call() {
        let Some(gpu) = open("a_lost_device_says_so_on_every_call") else { return };
        let buffer = gpu.buffer("small", 256, BufferUsages::COPY_DST).unwrap();
        gpu.device.destroy();
        let _ = gpu.device.poll(wgpu::PollType::Poll);
        for _ in 0..2 {
            let error = gpu.write(&buffer, 0, &[0; 4]).unwrap_err();
            assert!(matches!(error, GpuError::Lost(_)), "{error}");
        }
        assert!(matches!(gpu.submit("nothing", |_| {}), Err(GpuError::Lost(_))));
    }
}

//! The real device: NVIDIA's driver, through cudarc's bindings that open it at run time.
//!
//! Two streams: one computes, one carries data through two pinned pieces of host memory, so that one is filled while
//! the other travels. All of it is behind one lock. cudarc panics where a library or a function of it is missing; so
//! the libraries are looked for and the driver's version compared before anything is called.
//!
//! After a fault that CUDA calls sticky every call fails: [`Fault::Lost`] says so, and the process has to end.

#![allow(unsafe_code, reason = "each call into the driver; there is no safe way to launch a kernel")]

mod search;

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError, event, graph, module, stream};
use cudarc::driver::sys;
use parking_lot::Mutex;

use super::blaslt::BlasLt;
use super::device::{Arg, Command, Device, DeviceError, HostMemory, Launch, Memory, Recorded};
use super::dnn::Dnn;
use super::faults::{failed, request};
use super::ptx;

/// Of each of the two pinned pieces.
const STAGE_BYTES: usize = 8 << 20;
/// For the libraries' own use while they compute.
const WORKSPACE_BYTES: usize = 64 << 20;
/// CUDA 12.4, which the kernels were compiled with: the R550 drivers.
const VERSION_LOWEST: c_int = 12_040;
/// Runs of each way when a convolution is timed.
const TRIALS: u32 = 3;

/// One GPU, opened.
pub struct Driver {
    inner: Arc<Mutex<Inner>>,
    described: String,
    multiprocessors: usize,
}

/// A pinned piece and the event that says that it has travelled.
struct Stage {
    at: *mut u8,
    travelled: sys::CUevent,
}

struct Inner {
    context: sys::CUcontext,
    architecture: u32,
    compute: sys::CUstream,
    transfer: sys::CUstream,
    /// One stream waits for the other by these.
    uploaded: sys::CUevent,
    computed: sys::CUevent,
    stages: [Stage; 2],
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<&'static str, sys::CUfunction>,
    workspace: sys::CUdeviceptr,
    blas: BlasLt,
    dnn: Option<Dnn>,
    /// By shape: whether the library's convolution was the faster one.
    chosen: HashMap<Choice, bool>,
}

/// What a convolution's speed depends on.
type Choice = ([usize; 4], [usize; 4], [usize; 4], [bool; 3]);

// SAFETY: CUDA's handles may be used from any thread; `Driver` lets one thread at a time near them.
unsafe impl Send for Inner {}

impl Driver {
    /// Opens the GPU with this number.
    ///
    /// # Errors
    /// Which library is not there, by the package that brings it; a driver that is too old; a GPU before Turing.
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        missing_library()?;
        let driver = result::init().and_then(|()| version());
        let version = driver.map_err(|error| failed("start the driver", error))?;
        if version < VERSION_LOWEST {
            let (major, minor) = (version / 1000, version % 1000 / 10);
            return Err(request(format!("the NVIDIA driver is for CUDA {major}.{minor}; 12.4 (R550) is needed")));
        }
        let count = result::device::get_count().map_err(|error| failed("count GPUs", error))?;
        let ordinal = c_int::try_from(ordinal).ok().filter(|ordinal| *ordinal < count);
        let ordinal = ordinal.ok_or_else(|| request(format!("there are {count} GPUs, none with this number")))?;
        let device = result::device::get(ordinal).map_err(|error| failed("find the GPU", error))?;
        let name = result::device::get_name(device).unwrap_or_else(|_| "unnamed GPU".to_owned());
        let ask = |what| {
            // SAFETY: the device was given by the driver a moment ago.
            unsafe { result::device::get_attribute(device, what) }.map_err(|error| failed("ask the GPU", error))
        };
        use sys::CUdevice_attribute_enum as Ask;
        let major = ask(Ask::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = ask(Ask::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let architecture = u32::try_from(major * 10 + minor).unwrap_or(0);
        if architecture < ptx::LOWEST {
            return Err(request(format!("{name} is sm_{architecture}; the kernels need sm_{} or later", ptx::LOWEST)));
        }
        let multiprocessors = usize::try_from(ask(Ask::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?).unwrap_or(1);
        let inner = Inner::open(device, architecture)?;
        let dnn = if inner.dnn.is_some() { "with cuDNN" } else { "without cuDNN" };
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
            described: format!("{name}, sm_{architecture}, {dnn}"),
            multiprocessors,
        })
    }

    /// Uses our own convolution even where cuDNN is there, for tests and comparisons.
    pub fn without_cudnn(&self) {
        self.inner.lock().dnn = None;
    }
}

/// The libraries that must be there before the first call.
fn missing_library() -> Result<(), DeviceError> {
    // SAFETY: these open a library by its name and close it again; its initialisers run as at the first use.
    let (driver, blas) = unsafe { (sys::is_culib_present(), cudarc::cublaslt::sys::is_culib_present()) };
    if !driver {
        return Err(request("libcuda.so is not there: no NVIDIA driver is installed".to_owned()));
    }
    if !blas {
        let packages = "libcublas-12-4 from NVIDIA's repository, or nvidia-cublas-cu12 from PyPI";
        return Err(request(format!("libcublasLt.so is not there: install {packages}")));
    }
    Ok(())
}

fn version() -> Result<c_int, DriverError> {
    let mut version = 0;
    // SAFETY: writes one number.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(version)
}

impl Inner {
    fn open(device: sys::CUdevice, architecture: u32) -> Result<Self, DeviceError> {
        let opened = |error| failed("open the GPU", error);
        // SAFETY: the device exists; the context is kept until the process ends.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(opened)?;
        // SAFETY: the context was retained a moment ago.
        unsafe { result::ctx::set_current(context) }.map_err(opened)?;
        let stream = || stream::create(stream::StreamKind::NonBlocking).map_err(opened);
        let event = || event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(opened);
        let stage = || -> Result<Stage, DeviceError> {
            // SAFETY: memory that is freed with the process, as is the context.
            let at = unsafe { result::malloc_host(STAGE_BYTES, 0) }.map_err(opened)?;
            Ok(Stage { at: at.cast(), travelled: event()? })
        };
        // SAFETY: as above.
        let workspace = unsafe { result::malloc_sync(WORKSPACE_BYTES) }.map_err(opened)?;
        let compute = stream()?;
        Ok(Self {
            context,
            architecture,
            compute,
            transfer: stream()?,
            uploaded: event()?,
            computed: event()?,
            stages: [stage()?, stage()?],
            modules: HashMap::new(),
            functions: HashMap::new(),
            workspace,
            blas: BlasLt::open()?,
            dnn: Dnn::open(compute),
            chosen: HashMap::new(),
        })
    }

    /// The context belongs to a thread; every door begins with this.
    fn enter(&self) -> Result<(), DeviceError> {
        // SAFETY: the context lives as long as the process.
        unsafe { result::ctx::set_current(self.context) }.map_err(|error| failed("enter the context", error))
    }

    fn function(&mut self, kernel: &'static str) -> Result<sys::CUfunction, DeviceError> {
        if let Some(known) = self.functions.get(kernel) {
            return Ok(*known);
        }
        let name = ptx::module_of(kernel);
        let module = match self.modules.get(name) {
            Some(known) => *known,
            None => {
                let text = ptx::text(name, self.architecture)
                    .and_then(|text| CString::new(text).ok())
                    .ok_or_else(|| request(format!("there is no PTX of `{name}` for sm_{}", self.architecture)))?;
                // SAFETY: the text ends with a zero and outlives the call.
                let loaded = unsafe { module::load_data(text.as_ptr().cast()) };
                let loaded = loaded.map_err(|error| failed(&format!("load the kernels `{name}`"), error))?;
                self.modules.insert(name, loaded);
                loaded
            }
        };
        let c_name = CString::new(kernel).map_err(|_| request("a kernel's name holds a zero".to_owned()))?;
        // SAFETY: the module is loaded and is never unloaded.
        let found = unsafe { module::get_function(module, c_name) };
        let found = found.map_err(|error| failed(&format!("find the kernel `{kernel}`"), error))?;
        self.functions.insert(kernel, found);
        Ok(found)
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        let function = self.function(launch.kernel)?;
        // Each parameter in eight bytes of its own; the driver reads as many of them as the kernel declares.
        let mut slots: Vec<u64> = launch.args.iter().map(Arg::slot).collect();
        let mut pointers: Vec<*mut c_void> = slots.iter_mut().map(|slot| ptr::from_mut(slot).cast()).collect();
        let [x, y, z] = launch.grid;
        let (block, shared) = ((launch.threads, 1, 1), launch.shared_bytes);
        // SAFETY: the lowering gives each kernel the parameters that it declares (a test compares them with the PTX),
        // and addresses inside of memory that the program holds until the stream is done.
        unsafe { result::launch_kernel(function, (x, y, z), block, shared, self.compute, &mut pointers) }
            .map_err(|error| failed(launch.kernel, error))
    }

    fn submit(&mut self, command: &Command) -> Result<(), DeviceError> {
        match command {
            Command::Launch(launch) => self.launch(launch),
            Command::Gemm(gemm) => {
                self.find_fastest(gemm)?;
                self.blas.multiply(gemm, self.workspace, WORKSPACE_BYTES, self.compute)
            }
            Command::Convolution(convolution) => {
                if self.is_library_faster(convolution)?
                    && let Some(dnn) = &mut self.dnn
                {
                    dnn.convolve(convolution, self.workspace, WORKSPACE_BYTES)
                } else {
                    self.launch(&convolution.own)
                }
            }
            Command::Copy { from, to, bytes } => {
                // SAFETY: both lie in memory that the program holds, and the plan keeps them apart.
                unsafe { result::memcpy_dtod_async(*to, *from, *bytes, self.compute) }
                    .map_err(|error| failed("copy", error))
            }
        }
    }

    fn is_recording(&self) -> Result<bool, DeviceError> {
        // SAFETY: the stream lives as long as the process.
        let status = unsafe { stream::is_capturing(self.compute) }.map_err(|error| failed("ask the stream", error))?;
        Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    fn finish(&self) -> Result<(), DeviceError> {
        // SAFETY: both streams live as long as the process.
        unsafe { stream::synchronize(self.compute).and_then(|()| stream::synchronize(self.transfer)) }
            .map_err(|error| failed("finish", error))
    }

    fn upload(&self, from: &[u8], to: u64) -> Result<(), DeviceError> {
        let mut at = to;
        for (index, piece) in from.chunks(STAGE_BYTES).enumerate() {
            let stage = &self.stages[index % 2];
            // SAFETY: the stage is as long as a piece, and has travelled when its event is reached (one that was never
            // recorded counts as reached). The device's memory is the caller's, and large enough by its word.
            let sent = unsafe {
                event::synchronize(stage.travelled).and_then(|()| {
                    ptr::copy_nonoverlapping(piece.as_ptr(), stage.at, piece.len());
                    let staged = std::slice::from_raw_parts(stage.at, piece.len());
                    result::memcpy_htod_async(at, staged, self.transfer)?;
                    event::record(stage.travelled, self.transfer)
                })
            };
            sent.map_err(|error| failed("upload", error))?;
            at += piece.len() as u64;
        }
        // SAFETY: events and streams live as long as the process.
        unsafe { event::record(self.uploaded, self.transfer).and_then(|()| self.wait(self.compute, self.uploaded)) }
            .map_err(|error| failed("upload", error))
    }

    fn download(&self, from: u64, to: &mut [f32]) -> Result<(), DeviceError> {
        // SAFETY: the device's memory is the caller's; `to` is not touched until the stream is done, in this call.
        unsafe {
            event::record(self.computed, self.compute)
                .and_then(|()| self.wait(self.transfer, self.computed))
                .and_then(|()| result::memcpy_dtoh_async(to, from, self.transfer))
                .and_then(|()| stream::synchronize(self.transfer))
        }
        .map_err(|error| failed("download", error))
    }

    /// # Safety
    /// Stream and event exist.
    unsafe fn wait(&self, waits: sys::CUstream, event: sys::CUevent) -> Result<(), DriverError> {
        // SAFETY: as the caller says.
        unsafe { stream::wait_event(waits, event, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
    }

    fn record(&mut self, commands: &mut dyn Iterator<Item = &Command>) -> Result<sys::CUgraphExec, DeviceError> {
        let wrong = |error| failed("record the run", error);
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as the process and captures nothing yet.
        unsafe { stream::begin_capture(self.compute, mode) }.map_err(wrong)?;
        let mut commands = commands;
        let submitted = Iterator::try_for_each(&mut commands, |command| self.submit(command));
        // SAFETY: the capture that began above ends here, whatever happened in it.
        let captured = unsafe { stream::end_capture(self.compute) };
        submitted?;
        let captured = captured.map_err(wrong)?;
        if captured.is_null() {
            return Err(request("the driver recorded nothing".to_owned()));
        }
        // SAFETY: the graph was captured a moment ago, and is needed only until it is instantiated.
        let executable = unsafe {
            let executable = graph::instantiate(captured, sys::CUgraphInstantiate_flags_enum(0));
            let _ = graph::destroy(captured);
            executable
        };
        executable.map_err(wrong)
    }
}

impl Device for Driver {
    fn describe(&self) -> String {
        self.described.clone()
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn memory(&self) -> Result<Memory, DeviceError> {
        self.inner.lock().enter()?;
        let (free_bytes, total_bytes) = result::mem_get_info().map_err(|error| failed("ask for memory", error))?;
        Ok(Memory { free_bytes, total_bytes })
    }

    fn largest_piece_bytes(&self) -> usize {
        let Ok(Memory { free_bytes, .. }) = self.memory() else { return 0 };
        let (mut had, mut not) = (0, free_bytes + 1);
        // To one part in a hundred, which is what a person wants to know.
        while not - had > free_bytes / 100 + (1 << 20) {
            let middle = had + (not - had) / 2;
            match self.allocate(middle) {
                Ok(at) => {
                    self.free(at);
                    had = middle;
                }
                Err(_) => not = middle,
            }
        }
        had
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        self.inner.lock().enter()?;
        // SAFETY: the memory belongs to whoever asked; nobody reads it before somebody has written it.
        unsafe { result::malloc_sync(bytes.max(1)) }.map_err(|error| failed("allocate memory", error))
    }

    fn free(&self, at: u64) {
        let inner = self.inner.lock();
        // SAFETY: it came from `allocate`, and the streams are done with it.
        let freed = inner.enter().and_then(|()| inner.finish()).map(|()| unsafe { result::free_sync(at) });
        // On a device that is lost nothing can be freed, and nothing has to be.
        drop(freed);
    }

    fn host_memory(&self, values: usize) -> Result<Box<dyn HostMemory>, DeviceError> {
        self.inner.lock().enter()?;
        let bytes = values.max(1) * size_of::<f32>();
        // SAFETY: freed when dropped.
        let at = unsafe { result::malloc_host(bytes, 0) }.map_err(|error| failed("pin memory", error))?;
        // SAFETY: so many bytes were allocated; zeros are floats.
        unsafe { ptr::write_bytes(at.cast::<u8>(), 0, bytes) };
        Ok(Box::new(Pinned { inner: Arc::clone(&self.inner), at: at.cast(), values }))
    }

    fn upload(&self, from: &[u8], to: u64) -> Result<(), DeviceError> {
        let inner = self.inner.lock();
        inner.enter()?;
        inner.upload(from, to)
    }

    fn download(&self, from: u64, to: &mut dyn HostMemory) -> Result<(), DeviceError> {
        let inner = self.inner.lock();
        inner.enter()?;
        inner.download(from, to.values_mut())
    }

    fn submit(&self, command: &Command) -> Result<(), DeviceError> {
        let mut inner = self.inner.lock();
        inner.enter()?;
        inner.submit(command)
    }

    fn finish(&self) -> Result<(), DeviceError> {
        let inner = self.inner.lock();
        inner.enter()?;
        inner.finish()
    }

    fn record(&self, commands: &mut dyn Iterator<Item = &Command>) -> Result<Option<Box<dyn Recorded>>, DeviceError> {
        let mut inner = self.inner.lock();
        inner.enter()?;
        let executable = inner.record(commands)?;
        Ok(Some(Box::new(Run { inner: Arc::clone(&self.inner), executable })))
    }
}

/// Pinned floats.
struct Pinned {
    inner: Arc<Mutex<Inner>>,
    at: *mut f32,
    values: usize,
}

// SAFETY: plain memory that this alone points to.
unsafe impl Send for Pinned {}

impl HostMemory for Pinned {
    fn values(&self) -> &[f32] {
        // SAFETY: so many were allocated and set to zero; no stream writes them but inside of `download`.
        unsafe { std::slice::from_raw_parts(self.at, self.values) }
    }

    fn values_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.values) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.inner.lock().enter().is_ok() {
            // SAFETY: it came from `malloc_host`; no copy into it is under way.
            let _ = unsafe { result::free_host(self.at.cast()) };
        }
    }
}

/// A recorded run.
struct Run {
    inner: Arc<Mutex<Inner>>,
    executable: sys::CUgraphExec,
}

// SAFETY: as `Inner`, whose lock is taken before the handle is used.
unsafe impl Send for Run {}

impl Recorded for Run {
    fn run(&self) -> Result<(), DeviceError> {
        let inner = self.inner.lock();
        inner.enter()?;
        // SAFETY: it was instantiated and is destroyed only when this is dropped.
        unsafe { graph::launch(self.executable, inner.compute) }.map_err(|error| failed("launch the run", error))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let inner = self.inner.lock();
        if inner.enter().and_then(|()| inner.finish()).is_ok() {
            // SAFETY: nothing runs it any more.
            let _ = unsafe { graph::exec_destroy(self.executable) };
        }
    }
}

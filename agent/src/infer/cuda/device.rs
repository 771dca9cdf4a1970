//! What the executor asks of a GPU, in words that need none: memory, kernels, matrix products, copies.
//!
//! [`Driver`](super::driver::Driver) is the real one. The tests have another that runs the same kernels on a CPU, so
//! that everything above this door is proven where there is no GPU. Work is asked for in order and done in order;
//! [`Device::finish`] waits for it.

use std::sync::Arc;

use super::super::graph::Element;

/// A parameter of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    Pointer(u64),
    Int(i32),
    Long(u64),
    Float(f32),
}

impl Arg {
    /// As the bytes that a launch copies: as many of the eight as the kernel declares, from the lowest on.
    #[must_use]
    pub fn slot(&self) -> u64 {
        match self {
            Self::Pointer(at) | Self::Long(at) => *at,
            Self::Int(number) => u64::from(number.cast_unsigned()),
            Self::Float(number) => u64::from(number.to_bits()),
        }
    }
}

/// A kernel's run.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// In a block.
    pub threads: u32,
    /// Beside what the kernel declares itself.
    pub shared_bytes: u32,
    pub args: Vec<Arg>,
}

/// Rows in memory; lengths in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    pub at: u64,
    /// From one row to the next.
    pub row: usize,
    /// From one matrix of the batch to the next.
    pub batch: usize,
}

/// `to = left · right + bias + plus`, for each of a batch. Sums are f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Gemm {
    /// Of both factors and of the bias.
    pub element: Element,
    pub to_element: Element,
    pub batch: usize,
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    /// `[rows, depth]`.
    pub left: Matrix,
    /// `[columns, depth]` when `by_columns`, else `[depth, columns]`.
    pub right: Matrix,
    pub by_columns: bool,
    /// One for each column.
    pub bias: Option<u64>,
    /// Where a matrix of `to`'s layout and element lies.
    pub plus: Option<u64>,
    pub to: Matrix,
}

/// A convolution that a library may do; where none does, `own` is launched.
#[derive(Clone, Debug, PartialEq)]
pub struct Convolution {
    pub element: Element,
    /// `[pictures, height, width, channels]`.
    pub input: u64,
    pub input_shape: [usize; 4],
    /// `[outputs, lines, columns, channels]`.
    pub weights: u64,
    /// Lines and columns.
    pub kernel: [usize; 2],
    pub stride: usize,
    /// Zeros before the first line and before the first column; behind the last as many as are read.
    pub pad: [usize; 2],
    /// One for each output, as `element`.
    pub bias: Option<u64>,
    pub relu: bool,
    /// What is added at the end, of the result's shape; never together with `relu`.
    pub plus: Option<u64>,
    pub to: u64,
    pub to_shape: [usize; 4],
    pub own: Launch,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Launch(Launch),
    Gemm(Gemm),
    Convolution(Box<Convolution>),
    Copy { from: u64, to: u64, bytes: usize },
}

/// Why the device did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct DeviceError {
    pub problem: String,
    pub kind: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Asked for something impossible; the device goes on.
    Request,
    /// There is not so much memory; the device goes on.
    Memory,
    /// Nothing works on this device any more until the process is another.
    Lost,
}

/// Free and whole memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub free_bytes: usize,
    pub total_bytes: usize,
}

/// Memory of the host that the device reads and writes by itself.
pub trait HostMemory: Send {
    fn values(&self) -> &[f32];
    fn values_mut(&mut self) -> &mut [f32];
}

/// Commands that were recorded once and run again as one.
pub trait Recorded: Send {
    /// # Errors
    /// [`DeviceError`].
    fn run(&self) -> Result<(), DeviceError>;
}

pub trait Device: Send + Sync {
    /// For people: name and architecture.
    fn describe(&self) -> String;

    /// How many blocks run side by side, roughly: what decides between large tiles and many.
    fn multiprocessors(&self) -> usize;

    /// # Errors
    /// [`DeviceError`].
    fn memory(&self) -> Result<Memory, DeviceError>;

    /// The largest piece that could be had now, found by trying.
    fn largest_piece_bytes(&self) -> usize;

    /// Memory that begins at a multiple of 256 bytes; its content is anything.
    ///
    /// # Errors
    /// [`Fault::Memory`] when there is not so much.
    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError>;

    /// Gives back what [`Self::allocate`] gave. Nothing that was asked for may still use it.
    fn free(&self, at: u64);

    /// # Errors
    /// [`DeviceError`].
    fn host_memory(&self, values: usize) -> Result<Box<dyn HostMemory>, DeviceError>;

    /// Copies to the device. What is asked for later sees it; `from` may change after the call.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn upload(&self, from: &[u8], to: u64) -> Result<(), DeviceError>;

    /// Copies back what all that was asked for before has made, and waits for it.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn download(&self, from: u64, to: &mut dyn HostMemory) -> Result<(), DeviceError>;

    /// # Errors
    /// [`DeviceError`]; one of an earlier command may show here.
    fn submit(&self, command: &Command) -> Result<(), DeviceError>;

    /// Waits until all is done.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn finish(&self) -> Result<(), DeviceError>;

    /// Records commands that have been submitted once before, without running them. `None`: this device cannot.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn record(&self, commands: &mut dyn Iterator<Item = &Command>) -> Result<Option<Box<dyn Recorded>>, DeviceError>;
}

/// Memory on a device, given back when dropped.
pub(super) struct Allocation {
    device: Arc<dyn Device>,
    pub(super) at: u64,
    pub(super) bytes: usize,
}

impl Allocation {
    pub(super) fn new(device: &Arc<dyn Device>, bytes: usize) -> Result<Self, DeviceError> {
        Ok(Self { device: Arc::clone(device), at: device.allocate(bytes)?, bytes })
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.device.free(self.at);
    }
}

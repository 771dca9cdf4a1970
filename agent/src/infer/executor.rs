//! What an executor is: the door between models and what computes them.
//!
//! An [`Executor`] loads a graph with its weights once and gives a [`Program`]; a program runs many times, with
//! inputs of any shape that suits the graph. A program plans a shape when it first sees it and keeps the plan and
//! the arena of the last one, so that equal shapes in a row allocate nothing large.

use std::sync::atomic::AtomicBool;

use super::graph::{Graph, GraphError, Plan, TensorType};
use super::weights::{WeightError, Weights};

pub trait Executor: Send {
    /// `cpu`, for a start.
    fn name(&self) -> &'static str;

    /// Values and weights are kept in f32 where the graph [needs it](Graph::needs_f32).
    ///
    /// # Errors
    /// [`ExecError::Weights`] when a weight is missing or unfit.
    fn load(&self, graph: Graph, weights: &Weights) -> Result<Box<dyn Program>, ExecError>;
}

pub trait Program: Send {
    /// What a run with inputs of these types takes, without running it.
    ///
    /// # Errors
    /// [`GraphError`] when they do not suit the graph.
    fn plan(&self, inputs: &[TensorType]) -> Result<Plan, GraphError>;

    /// The same, and whether this executor has room for it: a run of these inputs is not refused for its size.
    ///
    /// # Errors
    /// [`ExecError::Memory`] with the numbers.
    fn check(&self, inputs: &[TensorType]) -> Result<Plan, ExecError> {
        Ok(self.plan(inputs)?)
    }

    /// Runs the graph. `progress` hears of finished nodes and their number; `cancel` is looked at between nodes.
    ///
    /// # Errors
    /// [`ExecError`]. After an error the program can run again.
    fn run(
        &mut self,
        inputs: &[Input<'_>],
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Output<'_>>, ExecError>;
}

/// An f32 tensor that goes in, channels-last.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub shape: &'a [usize],
    pub data: &'a [f32],
}

/// A tensor that came out. It lies in the program's arena until the next run.
#[derive(Debug)]
pub struct Output<'a> {
    pub shape: Vec<usize>,
    pub data: &'a [f32],
}

/// What a device has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    pub bytes: usize,
    /// In one piece.
    pub largest_bytes: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("cancelled")]
    Cancelled,
    #[error("the values between layers need {needed_bytes} bytes of memory, {allowed_bytes} are allowed")]
    Memory { needed_bytes: usize, allowed_bytes: usize },
    /// Nothing is wrong with the shape; others hold the memory.
    #[error("the device has no {needed_bytes} bytes of memory to give: {problem}")]
    DeviceMemory { needed_bytes: usize, free: Option<Free>, problem: String },
    /// What was loaded on it is of no more use.
    #[error("the device failed: {0}")]
    Device(String),
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Weights(#[from] WeightError),
    #[error("node `{node}`: {problem}")]
    Compute { node: String, problem: String },
}

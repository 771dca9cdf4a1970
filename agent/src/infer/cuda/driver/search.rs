//! The short searches: a product or a convolution whose shape is first seen is run in each way there is, and the fastest
//! way is kept for as long as the process lives. Nothing is searched while commands are recorded: they have run before.

use super::super::device::{Convolution, DeviceError, Fault, Gemm};
use super::super::faults::request;
use super::{Inner, TRIALS, WORKSPACE_BYTES};

impl Inner {
    /// Runs a product in several ways when its shape is first seen, and has the fastest kept. Each makes the same.
    pub(super) fn find_fastest(&mut self, gemm: &Gemm) -> Result<(), DeviceError> {
        if self.blas.knows(gemm) || self.is_recording()? {
            return Ok(());
        }
        let mut fastest = None;
        for algorithm in self.blas.candidates(gemm, WORKSPACE_BYTES)? {
            let run = |inner: &mut Self| {
                inner.blas.multiply_by(&algorithm, gemm, inner.workspace, WORKSPACE_BYTES, inner.compute)
            };
            match self.time(run) {
                Ok(took) if fastest.as_ref().is_none_or(|(least, _)| took < *least) => {
                    fastest = Some((took, algorithm))
                }
                Ok(_) => {}
                Err(error) if error.kind == Fault::Lost => return Err(error),
                Err(error) => tracing::debug!("an algorithm for a product is left out: {error}"),
            }
        }
        if let Some((_, algorithm)) = fastest {
            self.blas.choose(gemm, algorithm);
        }
        Ok(())
    }

    /// Runs a convolution both ways when its shape is first seen, and remembers which was faster.
    pub(super) fn is_library_faster(&mut self, convolution: &Convolution) -> Result<bool, DeviceError> {
        let c = convolution;
        let choice = (
            c.input_shape,
            c.to_shape,
            [c.kernel[0], c.kernel[1], c.stride, c.element.bytes()],
            [c.relu, c.bias.is_some(), c.plus.is_some()],
        );
        if self.dnn.is_none() || self.is_recording()? {
            return Ok(self.chosen.get(&choice).copied().unwrap_or(false));
        }
        if let Some(known) = self.chosen.get(&choice) {
            return Ok(*known);
        }
        let own = self.time(|inner| inner.launch(&c.own))?;
        let library = self.time(|inner| match &mut inner.dnn {
            Some(dnn) => dnn.convolve(c, inner.workspace, WORKSPACE_BYTES),
            None => Err(request("there is no cuDNN".to_owned())),
        });
        let faster = match library {
            Ok(library) => library < own,
            Err(error) if error.kind == Fault::Lost => return Err(error),
            Err(error) => {
                tracing::debug!(shape = ?c.input_shape, "cuDNN does not take this convolution: {error}");
                false
            }
        };
        self.chosen.insert(choice, faster);
        Ok(faster)
    }

    #[allow(clippy::disallowed_methods, reason = "compares two kernels; no job's time depends on it")]
    fn time(
        &mut self,
        mut run: impl FnMut(&mut Self) -> Result<(), DeviceError>,
    ) -> Result<std::time::Duration, DeviceError> {
        run(self)?; // loads what is loaded at first use
        self.finish()?;
        let begin = std::time::Instant::now();
        for _ in 0..TRIALS {
            run(self)?;
        }
        self.finish()?;
        Ok(begin.elapsed())
    }
}

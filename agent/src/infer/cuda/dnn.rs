//! Convolutions by cuDNN, where the library is installed: channels-last, bias and ReLU fused.
//!
//! The calls that versions 8 and 9 share. One algorithm is asked for (the implicit product with precomputed indices): it
//! is the only one that the fused call takes without ReLU, and channels-last knows few others. Whether it beats our own
//! kernel is measured for each shape by whoever calls.

#![allow(unsafe_code, reason = "calls into cuDNN")]

use std::ffi::{c_int, c_void};
use std::ptr;

use cudarc::cudnn::result::{self, CudnnError};
use cudarc::cudnn::sys;
use cudarc::driver::sys::CUstream;

use super::super::graph::Element;
use super::device::{Convolution, DeviceError, Fault};

const ALGORITHM: sys::cudnnConvolutionFwdAlgo_t =
    sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
const LAST: sys::cudnnTensorFormat_t = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;

pub(super) struct Dnn {
    handle: sys::cudnnHandle_t,
}

/// A descriptor with what destroys it.
struct Owned<T: Copy>(T, unsafe fn(T) -> Result<(), CudnnError>);

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: made by its constructor and destroyed once.
        let _ = unsafe { self.1(self.0) };
    }
}

impl Dnn {
    /// `None` where the library is not there or does not start; the context is current.
    pub(super) fn open(stream: CUstream) -> Option<Self> {
        // SAFETY: opens the library by its name and closes it again.
        if !unsafe { sys::is_culib_present() } {
            return None;
        }
        let opened = result::create_handle().and_then(|handle| {
            // SAFETY: the handle is new, the stream lives as long as the process.
            unsafe { result::set_stream(handle, stream.cast()) }?;
            Ok(handle)
        });
        match opened {
            Ok(handle) => Some(Self { handle }),
            Err(error) => {
                tracing::warn!("cuDNN is there and does not start, so our own convolution is used: {error:?}");
                None
            }
        }
    }

    pub(super) fn convolve(
        &mut self,
        convolution: &Convolution,
        workspace: u64,
        workspace_bytes: usize,
    ) -> Result<(), DeviceError> {
        self.try_convolve(convolution, workspace, workspace_bytes).map_err(|error| DeviceError {
            problem: format!("cuDNN, {:?} to {:?}: {:?}", convolution.input_shape, convolution.to_shape, error.0),
            kind: match error.0 {
                sys::cudnnStatus_t::CUDNN_STATUS_EXECUTION_FAILED => Fault::Lost,
                _ => Fault::Request,
            },
        })
    }

    fn try_convolve(&mut self, c: &Convolution, workspace: u64, workspace_bytes: usize) -> Result<(), CudnnError> {
        let data = match c.element {
            Element::F16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
            Element::F32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        };
        let (outputs, channels) = (c.to_shape[3], c.input_shape[3]);
        let from = tensor(data, c.input_shape)?;
        let to = tensor(data, c.to_shape)?;
        let weights = Owned(result::create_filter_descriptor()?, result::destroy_filter_descriptor);
        let sides = [outputs, channels, c.kernel[0], c.kernel[1]].map(int);
        // SAFETY: the descriptor is new.
        unsafe { result::set_filter4d_descriptor(weights.0, data, LAST, sides) }?;
        let way = self.way(c)?;
        // SAFETY: all descriptors are set.
        let needed = unsafe {
            result::get_convolution_forward_workspace_size(self.handle, from.0, weights.0, way.0, to.0, ALGORITHM)
        }?;
        if needed > workspace_bytes {
            return Err(CudnnError(sys::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED));
        }
        let (one, zero) = (1.0_f32, 0.0_f32);
        let (one, zero) = (ptr::from_ref(&one).cast::<c_void>(), ptr::from_ref(&zero).cast::<c_void>());
        let pointer = |at: u64| at as *mut c_void;
        let Some(bias) = c.bias else {
            if c.relu || c.plus.is_some() {
                return Err(CudnnError(sys::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED));
            }
            // SAFETY: the addresses are memory that the program holds until the stream is done, of these shapes.
            return unsafe {
                result::convolution_forward(
                    self.handle,
                    one,
                    from.0,
                    pointer(c.input),
                    weights.0,
                    pointer(c.weights),
                    way.0,
                    ALGORITHM,
                    pointer(workspace),
                    workspace_bytes,
                    zero,
                    to.0,
                    pointer(c.to),
                )
            };
        };
        let of_bias = tensor(data, [1, 1, 1, outputs])?;
        let bend = Owned(result::create_activation_descriptor()?, destroy_activation);
        let mode = if c.relu {
            sys::cudnnActivationMode_t::CUDNN_ACTIVATION_RELU
        } else {
            sys::cudnnActivationMode_t::CUDNN_ACTIVATION_IDENTITY
        };
        let nan = sys::cudnnNanPropagation_t::CUDNN_PROPAGATE_NAN;
        // SAFETY: the descriptor is new.
        unsafe { result::set_activation_descriptor(bend.0, mode, nan, 0.0) }?;
        // SAFETY: as above. Where nothing is added, the tensor for that has the factor zero and is the output's own memory,
        // as the manual allows.
        unsafe {
            result::convolution_bias_activation_forward(
                self.handle,
                one,
                from.0,
                pointer(c.input),
                weights.0,
                pointer(c.weights),
                way.0,
                ALGORITHM,
                pointer(workspace),
                workspace_bytes,
                if c.plus.is_some() { one } else { zero },
                to.0,
                pointer(c.plus.unwrap_or(c.to)),
                of_bias.0,
                pointer(bias),
                bend.0,
                to.0,
                pointer(c.to),
            )
        }
    }

    fn way(&self, c: &Convolution) -> Result<Owned<sys::cudnnConvolutionDescriptor_t>, CudnnError> {
        let way = Owned(result::create_convolution_descriptor()?, result::destroy_convolution_descriptor);
        let ([pad_y, pad_x], stride) = (c.pad.map(int), int(c.stride));
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let sums = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
        // Floats are asked for where halves do not do: no rounding to fewer bits then.
        let math = match c.element {
            Element::F16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
            Element::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        };
        // SAFETY: the descriptor is new.
        unsafe {
            result::set_convolution2d_descriptor(way.0, pad_y, pad_x, stride, stride, 1, 1, mode, sums)?;
            result::set_convolution_math_type(way.0, math)?;
        }
        Ok(way)
    }
}

/// `[n, h, w, c]`, as it lies.
fn tensor(
    data: sys::cudnnDataType_t,
    [n, h, w, c]: [usize; 4],
) -> Result<Owned<sys::cudnnTensorDescriptor_t>, CudnnError> {
    let made = Owned(result::create_tensor_descriptor()?, result::destroy_tensor_descriptor);
    // SAFETY: the descriptor is new.
    unsafe { result::set_tensor4d_descriptor(made.0, LAST, data, [n, c, h, w].map(int)) }?;
    Ok(made)
}

/// # Safety
/// The descriptor exists and is not used again.
unsafe fn destroy_activation(descriptor: sys::cudnnActivationDescriptor_t) -> Result<(), CudnnError> {
    // SAFETY: as the caller says.
    unsafe { sys::cudnnDestroyActivationDescriptor(descriptor) }.result()
}

/// The lowering has refused what does not fit.
fn int(number: usize) -> c_int {
    c_int::try_from(number).unwrap_or(c_int::MAX)
}

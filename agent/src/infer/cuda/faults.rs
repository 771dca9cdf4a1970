//! The driver's errors in words, and what each of them leaves behind.

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUresult;

use super::device::{DeviceError, Fault};

/// What was asked for cannot be had; nothing is lost by it.
pub(super) fn request(problem: String) -> DeviceError {
    DeviceError { problem, kind: Fault::Request }
}

/// What was being done, and the driver's error.
pub(super) fn failed(what: &str, error: DriverError) -> DeviceError {
    let text = |found: Result<&std::ffi::CStr, DriverError>| {
        found.map_or_else(|_| format!("{:?}", error.0), |text| text.to_string_lossy().into_owned())
    };
    let problem = format!("{what}: {} ({})", text(error.error_string()), text(error.error_name()));
    DeviceError { problem, kind: kind(error.0) }
}

/// What CUDA's manual says of an error: sticky ones leave the context, and with it the process, unusable.
fn kind(error: CUresult) -> Fault {
    match error {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Fault::Memory,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
        | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUresult::CUDA_ERROR_INVALID_PC
        | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUresult::CUDA_ERROR_ASSERT
        | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
        | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUresult::CUDA_ERROR_DEINITIALIZED
        | CUresult::CUDA_ERROR_UNKNOWN => Fault::Lost,
        _ => Fault::Request,
    }
}

//! Matrix products by cuBLASLt, bias included.
//!
//! The library counts columns first. Our row-major `left · rightᵀ` is, read that way, `rightᵀ' · left'`: so our
//! right factor is its A, our left factor its B, and a bias for each of our columns is one for each of its rows. What its
//! heuristics choose for a shape is kept.

#![allow(unsafe_code, reason = "calls into cuBLASLt")]

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::sys::CUstream;

use super::super::graph::Element;
use super::device::{DeviceError, Fault, Gemm, Matrix};

/// What the choice of an algorithm depends on: the product without its addresses, and how they are aligned.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    elements: [usize; 2],
    sizes: [usize; 4],
    rows: [usize; 3],
    batches: [usize; 3],
    alignments: [u32; 3],
    by_columns: bool,
    bias: bool,
}

pub(super) struct BlasLt {
    handle: sys::cublasLtHandle_t,
    chosen: HashMap<Key, sys::cublasLtMatmulAlgo_t>,
}

/// A descriptor with what destroys it.
struct Owned<T: Copy>(T, unsafe fn(T) -> Result<(), CublasError>);

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: made by its constructor and destroyed once.
        let _ = unsafe { self.1(self.0) };
    }
}

impl BlasLt {
    /// The context is current, and the library is there.
    pub(super) fn open() -> Result<Self, DeviceError> {
        let handle = result::create_handle().map_err(|error| failed("open", error))?;
        Ok(Self { handle, chosen: HashMap::new() })
    }

    pub(super) fn multiply(
        &mut self,
        gemm: &Gemm,
        workspace: u64,
        workspace_bytes: usize,
        stream: CUstream,
    ) -> Result<(), DeviceError> {
        self.try_multiply(gemm, workspace, workspace_bytes, stream).map_err(|error| {
            failed(&format!("{} x {} x {} of {}", gemm.rows, gemm.columns, gemm.depth, gemm.batch), error)
        })
    }

    fn try_multiply(
        &mut self,
        gemm: &Gemm,
        workspace: u64,
        workspace_bytes: usize,
        stream: CUstream,
    ) -> Result<(), CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Of;
        let scale = sys::cudaDataType::CUDA_R_32F;
        let product = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, scale)?;
        let product = Owned(product, result::destroy_matmul_desc);
        let transposed = cudarc::cublas::sys::cublasOperation_t::CUBLAS_OP_T;
        if gemm.by_columns {
            set(&product, Of::CUBLASLT_MATMUL_DESC_TRANSA, &transposed)?;
        }
        if let Some(bias) = gemm.bias {
            set(&product, Of::CUBLASLT_MATMUL_DESC_EPILOGUE, &sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS)?;
            set(&product, Of::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        let Gemm { rows, columns, depth, batch, .. } = *gemm;
        // Its rows are what lies side by side in memory.
        let right = if gemm.by_columns { (depth, columns) } else { (columns, depth) };
        let a = layout(gemm.element, right, gemm.right, batch)?;
        let b = layout(gemm.element, (depth, rows), gemm.left, batch)?;
        let d = layout(gemm.to_element, (columns, rows), gemm.to, batch)?;
        let algorithm = self.algorithm(gemm, &product, [&a, &b, &d], workspace_bytes)?;
        let (one, zero) = (1.0_f32, 0.0_f32);
        let pointer = |at: u64| at as *mut c_void;
        // SAFETY: descriptors and factors outlive the call; the addresses are memory that the program holds until the
        // stream is done, as large as the layouts say by the lowering's word.
        unsafe {
            result::matmul(
                self.handle,
                product.0,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                pointer(gemm.right.at),
                a.0,
                pointer(gemm.left.at),
                b.0,
                pointer(gemm.to.at),
                d.0,
                pointer(gemm.to.at),
                d.0,
                &raw const algorithm,
                pointer(workspace),
                workspace_bytes,
                stream.cast(),
            )
        }
    }

    fn algorithm(
        &mut self,
        gemm: &Gemm,
        product: &Owned<sys::cublasLtMatmulDesc_t>,
        [a, b, d]: [&Owned<sys::cublasLtMatrixLayout_t>; 3],
        workspace_bytes: usize,
    ) -> Result<sys::cublasLtMatmulAlgo_t, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Of;
        let matrices = [gemm.right, gemm.left, gemm.to];
        let key = Key {
            elements: [gemm.element.bytes(), gemm.to_element.bytes()],
            sizes: [gemm.rows, gemm.columns, gemm.depth, gemm.batch],
            rows: matrices.map(|matrix| matrix.row),
            batches: matrices.map(|matrix| matrix.batch),
            alignments: [
                alignment(gemm.right, gemm.element),
                alignment(gemm.left, gemm.element),
                alignment(gemm.to, gemm.to_element),
            ],
            by_columns: gemm.by_columns,
            bias: gemm.bias.is_some(),
        };
        if let Some(known) = self.chosen.get(&key) {
            return Ok(*known);
        }
        let wishes = Owned(result::create_matmul_pref()?, result::destroy_matmul_pref);
        wish(&wishes, Of::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes)?;
        // Unsaid, it would count on 256 bytes, which the head in the middle of a row does not have.
        let [of_a, of_b, of_d] = key.alignments;
        for (which, bytes) in [
            (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, of_a),
            (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, of_b),
            (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, of_d),
            (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, of_d),
        ] {
            wish(&wishes, which, &bytes)?;
        }
        // SAFETY: all descriptors are alive.
        let found = unsafe { result::get_matmul_algo_heuristic(self.handle, product.0, a.0, b.0, d.0, d.0, wishes.0) }?;
        self.chosen.insert(key, found.algo);
        Ok(found.algo)
    }
}

/// The largest power of two, up to 256, that divides the begin of every matrix of the batch.
fn alignment(matrix: Matrix, element: Element) -> u32 {
    let all = matrix.at | (matrix.batch * element.bytes()) as u64 | 256;
    1 << all.trailing_zeros()
}

/// `shape` is (what lies side by side, how many of those).
fn layout(
    element: Element,
    shape: (usize, usize),
    matrix: Matrix,
    batch: usize,
) -> Result<Owned<sys::cublasLtMatrixLayout_t>, CublasError> {
    use sys::cublasLtMatrixLayoutAttribute_t as Of;
    let data = match element {
        Element::F16 => sys::cudaDataType::CUDA_R_16F,
        Element::F32 => sys::cudaDataType::CUDA_R_32F,
    };
    let made = result::create_matrix_layout(data, shape.0 as u64, shape.1 as u64, matrix.row as i64)?;
    let made = Owned(made, result::destroy_matrix_layout);
    if batch > 1 {
        let (count, offset) = (i32::try_from(batch).unwrap_or(i32::MAX), matrix.batch as i64);
        // SAFETY: the layout is alive; the attributes have these types in NVIDIA's manual.
        unsafe {
            let (count_at, offset_at) = (ptr::from_ref(&count).cast(), ptr::from_ref(&offset).cast());
            result::set_matrix_layout_attribute(made.0, Of::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, count_at, 4)?;
            let which = Of::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
            result::set_matrix_layout_attribute(made.0, which, offset_at, 8)?;
        }
    }
    Ok(made)
}

fn set<T>(
    product: &Owned<sys::cublasLtMatmulDesc_t>,
    which: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Result<(), CublasError> {
    // SAFETY: the descriptor is alive, and each caller gives the type that NVIDIA documents for the attribute.
    unsafe { result::set_matmul_desc_attribute(product.0, which, ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn wish<T>(
    wishes: &Owned<sys::cublasLtMatmulPreference_t>,
    which: sys::cublasLtMatmulPreferenceAttributes_t,
    value: &T,
) -> Result<(), CublasError> {
    // SAFETY: as in `set`.
    unsafe { result::set_matmul_pref_attribute(wishes.0, which, ptr::from_ref(value).cast(), size_of::<T>()) }
}

fn failed(what: &str, error: CublasError) -> DeviceError {
    use sys::cublasStatus_t as Status;
    let kind = match error.0 {
        Status::CUBLAS_STATUS_ALLOC_FAILED => Fault::Memory,
        // "Often caused by a previous kernel", and the driver's next word is about that.
        Status::CUBLAS_STATUS_EXECUTION_FAILED | Status::CUBLAS_STATUS_INTERNAL_ERROR => Fault::Lost,
        _ => Fault::Request,
    };
    DeviceError { problem: format!("cuBLASLt, {what}: {:?}", error.0), kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_is_that_of_the_worst_matrix_of_a_batch() {
        let of = |at, batch| alignment(Matrix { at, row: 0, batch }, Element::F16);
        assert_eq!(of(4096, 0), 256);
        assert_eq!(of(4096, 40), 16); // a head of 40 halves
        assert_eq!(of(4096 + 2, 0), 2);
        assert_eq!(of(4096, 77 * 77), 2);
    }
}

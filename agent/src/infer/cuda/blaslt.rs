//! Matrix products by cuBLASLt, bias included.
//!
//! The library counts columns first. Our row-major `left · rightᵀ` is, read that way, `rightᵀ' · left'`: so our
//! right factor is its A, our left factor its B, and a bias for each of our columns is one for each of its rows. Of what its
//! heuristics put first for a shape, whoever calls measures a few and has the fastest kept.

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
    /// Of right, left, what is added, and the result.
    alignments: [u32; 4],
    by_columns: bool,
    bias: bool,
    plus: bool,
}

/// How the library does a product.
pub(super) type Algorithm = sys::cublasLtMatmulAlgo_t;

/// As many algorithms are worth measuring: behind these the library's own estimates fall off.
const CANDIDATES: usize = 6;

pub(super) struct BlasLt {
    handle: sys::cublasLtHandle_t,
    chosen: HashMap<Key, Algorithm>,
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

    /// Whether an algorithm is held for such a product.
    pub(super) fn knows(&self, gemm: &Gemm) -> bool {
        self.chosen.contains_key(&Key::of(gemm))
    }

    /// The algorithms that the library's heuristics put first, the best by its word before the others.
    pub(super) fn candidates(&self, gemm: &Gemm, workspace_bytes: usize) -> Result<Vec<Algorithm>, DeviceError> {
        let parts = Parts::of(gemm).map_err(|error| of_product(gemm, error))?;
        self.try_candidates(gemm, &parts, workspace_bytes).map_err(|error| of_product(gemm, error))
    }

    /// Keeps the algorithm that such products are done by from now on.
    pub(super) fn choose(&mut self, gemm: &Gemm, algorithm: Algorithm) {
        self.chosen.insert(Key::of(gemm), algorithm);
    }

    /// By the algorithm that is held, or the first candidate.
    pub(super) fn multiply(
        &mut self,
        gemm: &Gemm,
        workspace: u64,
        workspace_bytes: usize,
        stream: CUstream,
    ) -> Result<(), DeviceError> {
        let algorithm = match self.chosen.get(&Key::of(gemm)) {
            Some(known) => *known,
            None => {
                let first = self.candidates(gemm, workspace_bytes)?[0]; // there is one, or that was an error
                self.choose(gemm, first);
                first
            }
        };
        self.multiply_by(&algorithm, gemm, workspace, workspace_bytes, stream)
    }

    pub(super) fn multiply_by(
        &self,
        algorithm: &Algorithm,
        gemm: &Gemm,
        workspace: u64,
        workspace_bytes: usize,
        stream: CUstream,
    ) -> Result<(), DeviceError> {
        let parts = Parts::of(gemm).map_err(|error| of_product(gemm, error))?;
        // What is added is the library's C, laid out as its D.
        let (one, share) = (1.0_f32, if gemm.plus.is_some() { 1.0_f32 } else { 0.0 });
        let pointer = |at: u64| at as *mut c_void;
        // SAFETY: descriptors and factors outlive the call; the addresses are memory that the program holds until the
        // stream is done, as large as the layouts say by the lowering's word.
        let done = unsafe {
            result::matmul(
                self.handle,
                parts.product.0,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&share).cast(),
                pointer(gemm.right.at),
                parts.a.0,
                pointer(gemm.left.at),
                parts.b.0,
                pointer(gemm.plus.unwrap_or(gemm.to.at)),
                parts.d.0,
                pointer(gemm.to.at),
                parts.d.0,
                ptr::from_ref(algorithm),
                pointer(workspace),
                workspace_bytes,
                stream.cast(),
            )
        };
        done.map_err(|error| of_product(gemm, error))
    }

    fn try_candidates(
        &self,
        gemm: &Gemm,
        parts: &Parts,
        workspace_bytes: usize,
    ) -> Result<Vec<Algorithm>, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Of;
        let wishes = Owned(result::create_matmul_pref()?, result::destroy_matmul_pref);
        wish(&wishes, Of::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes)?;
        // Unsaid, it would count on 256 bytes, which the head in the middle of a row does not have.
        let [of_a, of_b, of_c, of_d] = Key::of(gemm).alignments;
        for (which, bytes) in [
            (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, of_a),
            (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, of_b),
            (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, of_c),
            (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, of_d),
        ] {
            wish(&wishes, which, &bytes)?;
        }
        let mut found: Vec<sys::cublasLtMatmulHeuristicResult_t> = Vec::with_capacity(CANDIDATES);
        let mut count = 0;
        // SAFETY: all descriptors are alive; there is room for as many results as are asked for, and the library has
        // written as many as it says.
        unsafe {
            let Parts { product, a, b, d } = parts;
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                product.0,
                a.0,
                b.0,
                d.0,
                d.0,
                wishes.0,
                CANDIDATES as i32,
                found.as_mut_ptr(),
                &raw mut count,
            )
            .result()?;
            found.set_len(usize::try_from(count).unwrap_or(0).min(CANDIDATES));
        }
        found.retain(|result| result.state.result().is_ok());
        if found.is_empty() {
            return Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED));
        }
        Ok(found.into_iter().map(|result| result.algo).collect())
    }
}

/// A product as the library describes it.
struct Parts {
    product: Owned<sys::cublasLtMatmulDesc_t>,
    a: Owned<sys::cublasLtMatrixLayout_t>,
    b: Owned<sys::cublasLtMatrixLayout_t>,
    d: Owned<sys::cublasLtMatrixLayout_t>,
}

impl Parts {
    fn of(gemm: &Gemm) -> Result<Self, CublasError> {
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
        Ok(Self {
            product,
            a: layout(gemm.element, right, gemm.right, batch)?,
            b: layout(gemm.element, (depth, rows), gemm.left, batch)?,
            d: layout(gemm.to_element, (columns, rows), gemm.to, batch)?,
        })
    }
}

impl Key {
    fn of(gemm: &Gemm) -> Self {
        let matrices = [gemm.right, gemm.left, gemm.to];
        let plus = gemm.plus.map_or(gemm.to, |at| Matrix { at, ..gemm.to });
        Self {
            elements: [gemm.element.bytes(), gemm.to_element.bytes()],
            sizes: [gemm.rows, gemm.columns, gemm.depth, gemm.batch],
            rows: matrices.map(|matrix| matrix.row),
            batches: matrices.map(|matrix| matrix.batch),
            alignments: [
                alignment(gemm.right, gemm.element),
                alignment(gemm.left, gemm.element),
                alignment(plus, gemm.to_element),
                alignment(gemm.to, gemm.to_element),
            ],
            by_columns: gemm.by_columns,
            bias: gemm.bias.is_some(),
            plus: gemm.plus.is_some(),
        }
    }
}

fn of_product(gemm: &Gemm, error: CublasError) -> DeviceError {
    failed(&format!("{} x {} x {} of {}", gemm.rows, gemm.columns, gemm.depth, gemm.batch), error)
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

//! NVIDIA's run-time compiler, which needs no GPU and no toolkit: CUDA C++ in, PTX out.
//!
//! The six functions that are used, out of the library of a wheel. Absent on purpose: headers. The kernels need none.

#![allow(unsafe_code, reason = "calls into a C library that is opened at run time")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use libloading::Library;

type Handle = *mut c_void;
type SizeOf = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
type Read = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;

pub(crate) struct Nvrtc {
    library: Library,
    /// Opened first, so that the compiler finds it wherever it lies.
    _builtins: Library,
}

/// A program under compilation, destroyed when dropped.
struct Program<'a> {
    nvrtc: &'a Nvrtc,
    handle: Handle,
}

impl Nvrtc {
    /// # Errors
    /// When the libraries cannot be opened.
    pub(crate) fn open(library: &Path, builtins: &Path) -> Result<Self, String> {
        // SAFETY: these are the pinned libraries of NVIDIA's wheel, whose checksum was compared. Their initialisers
        // only set up memory.
        let open = |path: &Path| unsafe { Library::new(path) }.map_err(|error| error.to_string());
        let builtins = open(builtins)?;
        Ok(Self { library: open(library)?, _builtins: builtins })
    }

    /// Compiles `source`, which may include `headers` by name, for `compute_<architecture>`.
    ///
    /// # Errors
    /// The compiler's own words.
    pub(crate) fn compile(
        &self,
        name: &str,
        source: &str,
        headers: &[(&str, &str)],
        architecture: u32,
    ) -> Result<String, String> {
        let text = |text: &str| CString::new(text).map_err(|_| format!("{name} holds a zero byte"));
        let program = self.create(&text(name)?, &text(source)?, headers)?;
        let options =
            [text(&format!("--gpu-architecture=compute_{architecture}"))?, text("--std=c++17")?, text("--fmad=true")?];
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(options.len()).unwrap_or_default();
        type Compile = unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int;
        // SAFETY: the program is alive, the options are as many as said and outlive the call.
        let code = unsafe { self.function::<Compile>("nvrtcCompileProgram")?(program.handle, count, options.as_ptr()) };
        if code != 0 {
            let log = program.text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?;
            return Err(format!("{name} for compute_{architecture}:\n{log}"));
        }
        program.text("nvrtcGetPTXSize", "nvrtcGetPTX")
    }

    fn create(&self, name: &CStr, source: &CStr, headers: &[(&str, &str)]) -> Result<Program<'_>, String> {
        let strings = |pick: fn(&(&str, &str)) -> String| -> Result<Vec<CString>, String> {
            headers
                .iter()
                .map(|header| CString::new(pick(header)).map_err(|_| "a header holds a zero byte".to_owned()))
                .collect()
        };
        let (names, texts) = (strings(|header| header.0.to_owned())?, strings(|header| header.1.to_owned())?);
        let pointers = |strings: &[CString]| strings.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
        let (names_at, texts_at) = (pointers(&names), pointers(&texts));
        type Create = unsafe extern "C" fn(
            *mut Handle,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        let mut handle = ptr::null_mut();
        let count = c_int::try_from(headers.len()).unwrap_or_default();
        // SAFETY: all texts end with a zero and outlive the call, and the library copies them.
        let code = unsafe {
            self.function::<Create>("nvrtcCreateProgram")?(
                &raw mut handle,
                source.as_ptr(),
                name.as_ptr(),
                count,
                texts_at.as_ptr(),
                names_at.as_ptr(),
            )
        };
        if code == 0 { Ok(Program { nvrtc: self, handle }) } else { Err(format!("NVRTC fails with code {code}")) }
    }

    fn function<T: Copy>(&self, name: &str) -> Result<T, String> {
        // SAFETY: each caller asks for the type that NVIDIA documents for this name.
        unsafe { self.library.get::<T>(name.as_bytes()) }.map(|found| *found).map_err(|error| error.to_string())
    }
}

impl Program<'_> {
    /// A text of the program: the function that says its size, the zero at the end included, and the one that gives it.
    fn text(&self, size: &str, read: &str) -> Result<String, String> {
        let (size, read) = (self.nvrtc.function::<SizeOf>(size)?, self.nvrtc.function::<Read>(read)?);
        let mut bytes = 0;
        // SAFETY: the program is alive; the size goes into a variable of that type.
        let code = unsafe { size(self.handle, &raw mut bytes) };
        let mut text = vec![0_u8; bytes];
        // SAFETY: the buffer is as long as the library asked for.
        let code = if code == 0 { unsafe { read(self.handle, text.as_mut_ptr().cast()) } } else { code };
        text.pop();
        match (code, String::from_utf8(text)) {
            (0, Ok(text)) => Ok(text),
            (code, _) => Err(format!("NVRTC gives no text (code {code})")),
        }
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        type Destroy = unsafe extern "C" fn(*mut Handle) -> c_int;
        if let Ok(destroy) = self.nvrtc.function::<Destroy>("nvrtcDestroyProgram") {
            // SAFETY: the handle came from `nvrtcCreateProgram` and is destroyed once.
            unsafe { destroy(&raw mut self.handle) };
        }
    }
}

//! A device of the CUDA executor that is this CPU: the kernels as C++ (`../../emulator`), memory with fences around it,
//! and the plainest matrix product.

#![allow(unsafe_code, reason = "runs kernels, which are given addresses")]

use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Arc;

use backlot_agent::infer::cuda::device::{
    Arg, Command, Device, DeviceError, Fault, Gemm, HostMemory, Launch, Memory, Recorded,
};
use backlot_agent::infer::graph::Element;
use half::f16;
use libloading::Library;
use parking_lot::Mutex;

const MODULES: [&str; 5] = ["pointwise", "moves", "norms", "attention", "conv"];
/// Around each allocation, filled with a pattern that is looked at when it is freed.
const FENCE_BYTES: usize = 4096;
const FENCE: u8 = 0xa5;

type Emulate = unsafe extern "C" fn(*const i8, *const u32, u32, u32, *const u64, *const i8) -> i32;

/// One kernel runs at a time: the emulator has one block, however often its library is opened.
static RUNNING: Mutex<()> = Mutex::new(());

pub(crate) struct Emulated {
    shared: Arc<Shared>,
    total_bytes: usize,
    multiprocessors: usize,
}

struct Shared {
    kernels: Library,
    held: Mutex<HashMap<u64, usize>>,
}

impl Emulated {
    /// A device with so much memory whose kernels are built as for `architecture` (750 or 800).
    pub(crate) fn new(architecture: u32, total_bytes: usize) -> Self {
        // SAFETY: our own library, compiled from the sources of this repository.
        let kernels = unsafe { Library::new(build(architecture)) }.unwrap();
        Self { shared: Arc::new(Shared { kernels, held: Mutex::default() }), total_bytes, multiprocessors: 1 }
    }

    /// The same that says to have so many: many make small tiles of large pictures.
    pub(crate) fn with_multiprocessors(self, multiprocessors: usize) -> Self {
        Self { multiprocessors, ..self }
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.shared.held.lock().values().sum()
    }
}

/// Compiles the kernels for this CPU, with the checks of undefined behaviour on, unless that was done before.
fn build(architecture: u32) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _alone = BUILDING.lock();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (kernels, emulator) = (here.join("../src/infer/cuda/kernels"), here.join("emulator"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("emulated-{architecture}"));
    fs::create_dir_all(&folder).unwrap();
    let library = folder.join("libemulated.so");
    let mut sources = vec![kernels.join("device.cuh"), emulator.join("emulated.h"), emulator.join("emulator.cpp")];
    sources.extend(MODULES.map(|module| kernels.join(format!("{module}.cu"))));
    let changed = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    let newest = sources.iter().map(|source| changed(source).unwrap()).max();
    if changed(&library).is_some_and(|made| Some(made) > newest) {
        return library;
    }
    let flags = [
        "-std=c++17",
        "-O1",
        "-fPIC",
        "-U_FORTIFY_SOURCE",
        "-fsanitize=undefined",
        "-fno-sanitize-recover=all",
        "-Wall",
        "-Wno-unknown-pragmas",
        "-DBACKLOT_EMULATED",
    ];
    let compile = |source: &Path, object: &Path| {
        let made = Process::new("c++")
            .args(flags)
            .arg(format!("-D__CUDA_ARCH__={architecture}"))
            .arg("-I")
            .arg(&kernels)
            .arg("-I")
            .arg(&emulator)
            .arg("-c")
            .arg(source)
            .arg("-o")
            .arg(object)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        object.to_owned()
    };
    let mut objects = vec![compile(&emulator.join("emulator.cpp"), &folder.join("emulator.o"))];
    for module in MODULES {
        let text = fs::read_to_string(kernels.join(format!("{module}.cu"))).unwrap();
        let mut table = format!("#include \"{module}.cu\"\nusing emulated::Call;\n");
        for kernel in kernels_of(&text) {
            table.push_str(&format!(
                "static const emulated::Register r_{kernel}(\"{kernel}\", Call<{kernel}>::kinds, Call<{kernel}>::run);\n"
            ));
        }
        let source = folder.join(format!("{module}.cpp"));
        fs::write(&source, table).unwrap();
        objects.push(compile(&source, &folder.join(format!("{module}.o"))));
    }
    let linked = Process::new("c++")
        .args(["-shared", "-fsanitize=undefined", "-o"])
        .arg(&library)
        .args(&objects)
        .output()
        .unwrap();
    assert!(linked.status.success(), "{}", String::from_utf8_lossy(&linked.stderr));
    library
}

/// Names behind `KERNEL`, with or without `BOUNDS(…)` between.
pub(crate) fn kernels_of(source: &str) -> Vec<String> {
    let lines = source.lines().filter_map(|line| line.strip_prefix("KERNEL "));
    let names = lines.filter_map(|line| {
        let line = match line.strip_prefix("BOUNDS") {
            Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
            Some(rest) => rest.trim_start(),
            None => line,
        };
        line.split('(').next().map(str::to_owned)
    });
    names.collect()
}

fn request(problem: String) -> DeviceError {
    DeviceError { problem, kind: Fault::Request }
}

impl Shared {
    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        let name = CString::new(launch.kernel).unwrap();
        let kinds: String = launch
            .args
            .iter()
            .map(|arg| match arg {
                Arg::Pointer(_) => 'p',
                Arg::Int(_) => 'i',
                Arg::Long(_) => 'l',
                Arg::Float(_) => 'f',
            })
            .collect();
        let slots: Vec<u64> = launch.args.iter().map(Arg::slot).collect();
        let kinds = CString::new(kinds).unwrap();
        let _alone = RUNNING.lock();
        // SAFETY: the library is ours and has this function.
        let emulate = unsafe { self.kernels.get::<Emulate>(b"emulate") }.unwrap();
        // SAFETY: the parameters' kinds are compared with the kernel's; what they point to is the matter of this test.
        let code = unsafe {
            emulate(
                name.as_ptr(),
                launch.grid.as_ptr(),
                launch.threads,
                launch.shared_bytes,
                slots.as_ptr(),
                kinds.as_ptr(),
            )
        };
        match code {
            0 => Ok(()),
            1 => Err(request(format!("there is no kernel `{}`", launch.kernel))),
            2 => Err(request(format!("`{}` does not take {kinds:?}", launch.kernel))),
            _ => Err(request(format!("`{}` does not run over {:?}", launch.kernel, launch.grid))),
        }
    }

    fn run(&self, command: &Command) -> Result<(), DeviceError> {
        match command {
            Command::Launch(launch) => self.launch(launch),
            Command::Convolution(convolution) => self.launch(&convolution.own),
            Command::Gemm(gemm) => {
                multiply(gemm);
                Ok(())
            }
            Command::Copy { from, to, bytes } => {
                // SAFETY: two places of one allocation, which the plan keeps apart.
                unsafe { std::ptr::copy_nonoverlapping(*from as *const u8, *to as *mut u8, *bytes) };
                Ok(())
            }
        }
    }
}

fn read(at: u64, index: usize, element: Element) -> f32 {
    // SAFETY: inside of what the lowering has planned; a fault here is a fault of the test.
    unsafe {
        match element {
            Element::F32 => *(at as *const f32).add(index),
            Element::F16 => (*(at as *const f16).add(index)).to_f32(),
        }
    }
}

fn multiply(gemm: &Gemm) {
    for batch in 0..gemm.batch {
        let start = |matrix: backlot_agent::infer::cuda::device::Matrix| batch * matrix.batch;
        for row in 0..gemm.rows {
            for column in 0..gemm.columns {
                let mut sum = gemm.bias.map_or(0.0, |bias| read(bias, column, gemm.element));
                for k in 0..gemm.depth {
                    let left = read(gemm.left.at, start(gemm.left) + row * gemm.left.row + k, gemm.element);
                    let right = if gemm.by_columns { column * gemm.right.row + k } else { k * gemm.right.row + column };
                    sum += left * read(gemm.right.at, start(gemm.right) + right, gemm.element);
                }
                let index = start(gemm.to) + row * gemm.to.row + column;
                sum += gemm.plus.map_or(0.0, |plus| read(plus, index, gemm.to_element));
                // SAFETY: as in `read`.
                unsafe {
                    match gemm.to_element {
                        Element::F32 => *(gemm.to.at as *mut f32).add(index) = sum,
                        Element::F16 => *(gemm.to.at as *mut f16).add(index) = f16::from_f32(sum),
                    }
                }
            }
        }
    }
}

struct Floats(Vec<f32>);

impl HostMemory for Floats {
    fn values(&self) -> &[f32] {
        &self.0
    }

    fn values_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

struct Replay {
    shared: Arc<Shared>,
    commands: Vec<Command>,
}

impl Recorded for Replay {
    fn run(&self) -> Result<(), DeviceError> {
        self.commands.iter().try_for_each(|command| self.shared.run(command))
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes + 2 * FENCE_BYTES, 256).unwrap()
}

impl Device for Emulated {
    fn describe(&self) -> String {
        "a CPU that plays a GPU".to_owned()
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn memory(&self) -> Result<Memory, DeviceError> {
        Ok(Memory { free_bytes: self.total_bytes - self.held_bytes(), total_bytes: self.total_bytes })
    }

    fn largest_piece_bytes(&self) -> usize {
        self.total_bytes - self.held_bytes()
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        if bytes > self.total_bytes - self.held_bytes() {
            return Err(DeviceError { problem: "no more memory".to_owned(), kind: Fault::Memory });
        }
        // SAFETY: the layout has a size; both fences and what is between them are inside of it. All ones are
        // not-a-numbers in both formats, so what nobody wrote is seen where it is read.
        unsafe {
            let begin = alloc(layout(bytes));
            begin.write_bytes(FENCE, bytes + 2 * FENCE_BYTES);
            begin.add(FENCE_BYTES).write_bytes(0xff, bytes);
            let at = begin.add(FENCE_BYTES) as u64;
            self.shared.held.lock().insert(at, bytes);
            Ok(at)
        }
    }

    fn free(&self, at: u64) {
        let bytes = self.shared.held.lock().remove(&at).expect("memory that was allocated here");
        // SAFETY: as `allocate` laid it out.
        unsafe {
            let begin = (at as *mut u8).sub(FENCE_BYTES);
            let fences = [begin, begin.add(FENCE_BYTES + bytes)];
            let whole = fences.iter().all(|fence| (0..FENCE_BYTES).all(|i| *fence.add(i) == FENCE));
            dealloc(begin, layout(bytes));
            assert!(whole || std::thread::panicking(), "a kernel wrote outside of its memory");
        }
    }

    fn host_memory(&self, values: usize) -> Result<Box<dyn HostMemory>, DeviceError> {
        Ok(Box::new(Floats(vec![0.0; values])))
    }

    fn upload(&self, from: &[u8], to: u64) -> Result<(), DeviceError> {
        // SAFETY: inside of an allocation, by the program's plan.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    fn download(&self, from: u64, to: &mut dyn HostMemory) -> Result<(), DeviceError> {
        let to = to.values_mut();
        // SAFETY: as in `upload`.
        unsafe { std::ptr::copy_nonoverlapping(from as *const f32, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn submit(&self, command: &Command) -> Result<(), DeviceError> {
        self.shared.run(command)
    }

    fn finish(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn record(&self, commands: &mut dyn Iterator<Item = &Command>) -> Result<Option<Box<dyn Recorded>>, DeviceError> {
        let commands = commands.cloned().collect();
        Ok(Some(Box::new(Replay { shared: Arc::clone(&self.shared), commands })))
    }
}

//! `backlot-agent probe`: what this host has, which executor it would use and why.
//!
//! Nothing is loaded that is not there: cudarc panics where a library is missing, so each library is looked for
//! before it is touched, and no function of it is called here.

use std::path::Path;
use std::process::{Command, Stdio};

use backlot_wire::GpuInfo;
use serde::Serialize;

use crate::config::Config;
use crate::host::{self, Gpus};
use crate::infer::audio::SEGMENTS;
use crate::infer::choice::{Choice, choose};
use crate::infer::cuda::ptx;
use crate::infer::models::{Table, folder, motion, speech, svd};
use crate::infer::needs_model;
use crate::infer::wgpu::device::{Adapter, adapters};
use crate::worker::manifest::{self, Program};

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Probe {
    pub host: String,
    pub cpu: Cpu,
    pub gpus: Vec<GpuInfo>,
    /// The NVIDIA driver's version, or why NVML says nothing.
    pub nvidia_driver: Result<String, String>,
    pub cuda: CudaLibraries,
    pub vulkan: Vec<Adapter>,
    /// First line of `ffmpeg -version`, where there is an ffmpeg.
    pub ffmpeg: Option<String>,
    /// Models whose files are in the folder of models.
    pub models: Vec<String>,
    pub types: Vec<String>,
    /// Programs that are not offered, with what the host lacks.
    pub not_offered: Vec<(String, String)>,
    pub executor: Choice,
}

#[derive(Clone, Debug, Serialize)]
pub struct Cpu {
    pub model: String,
    pub threads: usize,
    pub memory_bytes: u64,
}

/// Which of NVIDIA's libraries can be loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CudaLibraries {
    pub driver: bool,
    pub cublas: bool,
    pub cublaslt: bool,
    pub cudnn: bool,
    pub nvrtc: bool,
}

/// Looks at everything. Takes some hundred milliseconds where there is a Vulkan driver.
pub async fn look(config: &Config, programs: &[Program]) -> Probe {
    let gpus = Gpus::open();
    let cuda = cuda_libraries();
    let vulkan = adapters().await;
    let found = gpus.list("cpu");
    let (types, models, not_offered) = offer(config, programs, &found);
    Probe {
        host: crate::config::host_name(),
        cpu: Cpu {
            model: cpu_model().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: host::memory_bytes().map_or(0, |(_, all)| all),
        },
        nvidia_driver: gpus.driver().ok_or_else(|| gpus.absent().unwrap_or("NVML names no version").to_owned()),
        executor: choose(config.executor, has_cuda(&found, cuda), &vulkan),
        gpus: found,
        cuda,
        vulkan,
        ffmpeg: ffmpeg(),
        models,
        types,
        not_offered,
    }
}

/// What this agent offers: types, models, and the programs that it cannot offer with the reason.
#[must_use]
pub fn offer(
    config: &Config,
    programs: &[Program],
    gpus: &[GpuInfo],
) -> (Vec<String>, Vec<String>, Vec<(String, String)>) {
    let mut types: Vec<String> = Vec::new();
    let mut models = models_in(&config.models);
    let mut not_offered = Vec::new();
    let ffmpeg = ffmpeg();
    let fetches = !config.models_bucket.is_empty();
    let generators = folder::list(&config.models);
    let (animators, painters): (Vec<&String>, _) =
        generators.iter().partition(|name| svd::is_one(&config.models.join(name)));
    for kind in crate::infer::KINDS {
        let lack = match kind {
            // Its jobs name no model, so nobody fetches it.
            SEGMENTS if !config.models.join(speech::FILE).is_file() => {
                Some(format!("no {} in {}", speech::FILE, config.models.display()))
            }
            // What the folder lacks is fetched when a job names it.
            _ if fetches && needs_model(kind) => {
                let lacks_ffmpeg = !kind.starts_with("image.") && ffmpeg.is_none();
                lacks_ffmpeg.then(|| "there is no ffmpeg".to_owned())
            }
            "image.generate" if painters.is_empty() => {
                Some(format!("no diffusion model in {}", config.models.display()))
            }
            "image.generate" => None,
            "video.generate" if generators.is_empty() => {
                Some(format!("no diffusion model in {}", config.models.display()))
            }
            "video.generate" if animators.is_empty() && motion::list(&config.models).is_empty() => {
                Some(format!("no motion modules in {}/motion", config.models.display()))
            }
            _ if (kind.starts_with("audio.") || kind.starts_with("video.")) && ffmpeg.is_none() => {
                Some("there is no ffmpeg".to_owned())
            }
            "video.generate" | SEGMENTS => None,
            _ if models.is_empty() && needs_model(kind) => {
                Some(format!("no model of this build in {}", config.models.display()))
            }
            _ => None,
        };
        match lack {
            Some(lack) => not_offered.push((kind.to_owned(), lack)),
            None => types.push(kind.to_owned()),
        }
    }
    models.extend(generators);
    models.extend(types.iter().any(|kind| kind == SEGMENTS).then(|| speech::NAME.to_owned()));
    for program in programs {
        match manifest::lacks(&program.requirements, gpus, &config.label_map()) {
            Some(lack) => not_offered.push((program.name.clone(), lack)),
            None => {
                types.extend(program.types.iter().cloned());
                models.extend(program.models.iter().cloned());
            }
        }
    }
    (types, models, not_offered)
}

/// Whether the CUDA executor would open: a GPU that its kernels are made for, and the libraries that it cannot do without.
fn has_cuda(gpus: &[GpuInfo], cuda: CudaLibraries) -> bool {
    cuda.driver && cuda.cublaslt && gpus.iter().any(|gpu| gpu.sm.is_none_or(|sm| sm >= ptx::LOWEST))
}

#[allow(unsafe_code, reason = "cudarc offers no safe question whether a library is there")]
fn cuda_libraries() -> CudaLibraries {
    // SAFETY: `is_culib_present` loads the shared library by its name and drops it again. Its initialisers run, as
    // they would at the first use; no function of it is called.
    unsafe {
        CudaLibraries {
            driver: cudarc::driver::sys::is_culib_present(),
            cublas: cudarc::cublas::sys::is_culib_present(),
            cublaslt: cudarc::cublaslt::sys::is_culib_present(),
            cudnn: cudarc::cudnn::sys::is_culib_present(),
            nvrtc: cudarc::nvrtc::sys::is_culib_present(),
        }
    }
}

fn cpu_model() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Both programs are needed for clips; they come together.
fn ffmpeg() -> Option<String> {
    let version = |program: &str| {
        let output = Command::new(program).arg("-version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned))?
    };
    version("ffprobe")?;
    version("ffmpeg")
}

/// Models of this build of which `folder` has the files of at least one scale.
#[must_use]
pub fn models_in(folder: &Path) -> Vec<String> {
    let Ok(table) = Table::of_this_build() else { return Vec::new() };
    let has = |files: &str| ["param", "bin"].iter().all(|ending| folder.join(format!("{files}.{ending}")).is_file());
    let here = table.models.into_iter().filter(|model| model.scales.iter().any(|scale| has(&scale.files)));
    here.map(|model| model.name).collect()
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gib = |bytes: u64| bytes >> 30;
        writeln!(f, "host      {}", self.host)?;
        writeln!(f, "cpu       {}, {} threads, {} GiB", self.cpu.model, self.cpu.threads, gib(self.cpu.memory_bytes))?;
        match &self.nvidia_driver {
            Ok(version) => writeln!(f, "nvidia    driver {version}")?,
            Err(reason) => writeln!(f, "nvidia    none ({reason})")?,
        }
        for gpu in &self.gpus {
            let sm = gpu.sm.map_or_else(String::new, |sm| format!(", sm_{sm}"));
            writeln!(f, "gpu       {}, {} GiB{sm}", gpu.name, gib(gpu.vram_bytes))?;
        }
        let word = |there: bool| if there { "found" } else { "absent" };
        let cuda = &self.cuda;
        writeln!(
            f,
            "cuda      driver {}, cublas {}, cublaslt {}, cudnn {}, nvrtc {}",
            word(cuda.driver),
            word(cuda.cublas),
            word(cuda.cublaslt),
            word(cuda.cudnn),
            word(cuda.nvrtc)
        )?;
        if self.vulkan.is_empty() {
            writeln!(f, "vulkan    no adapter")?;
        }
        for adapter in &self.vulkan {
            writeln!(f, "vulkan    {} ({}, {})", adapter.name, adapter.kind, adapter.driver)?;
        }
        writeln!(f, "ffmpeg    {}", self.ffmpeg.as_deref().unwrap_or("none: clips cannot be worked on"))?;
        writeln!(f, "models    {}", list(&self.models))?;
        writeln!(f, "types     {}", list(&self.types))?;
        for (what, lack) in &self.not_offered {
            writeln!(f, "          not {what}: {lack}")?;
        }
        write!(f, "executor  {}: {}", self.executor.executor, self.executor.why)
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_without_a_gpu_is_probed_without_a_fault_and_says_what_it_would_use() {
        let probe = look(&Config::default(), &[]).await;
        let has_gpu = probe.vulkan.iter().any(Adapter::is_gpu);
        assert_eq!(probe.executor.executor, if has_gpu { "wgpu" } else { "cpu" });
        let text = probe.to_string();
        for word in ["cpu ", "nvidia", "cuda", "vulkan", "ffmpeg", "models", "executor"] {
            assert!(text.contains(word), "{text}");
        }
        assert!(serde_json::to_value(&probe).unwrap()["cuda"]["driver"].is_boolean());
    }

    #[test]
    fn built_in_types_are_offered_only_with_a_model() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { models: dir.path().to_owned(), models_bucket: String::new(), ..Config::default() };
        let (types, _, not_offered) = offer(&config, &[], &[]);
        assert!(!types.contains(&"image.upscale".to_owned()) && types.contains(&"image.process".to_owned()));
        assert!(not_offered.iter().any(|(kind, _)| kind == "image.upscale"));
        std::fs::write(dir.path().join("realesr-animevideov3-x2.param"), "").unwrap();
        assert!(!offer(&config, &[], &[]).0.contains(&"image.upscale".to_owned()), "half a model is none");
        std::fs::write(dir.path().join("realesr-animevideov3-x2.bin"), "").unwrap();
        let (types, models, _) = offer(&config, &[], &[]);
        assert!(types.contains(&"image.upscale".to_owned()));
        assert_eq!(models, ["realesr-animevideov3"]);
        assert!(!types.contains(&"image.generate".to_owned()));
        for part in ["model_index.json", "unet/config.json"] {
            let file = dir.path().join("sdxl").join(part);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "{}").unwrap();
        }
        let (types, models, _) = offer(&config, &[], &[]);
        assert!(types.contains(&"image.generate".to_owned()) && models.contains(&"sdxl".to_owned()));
        assert!(!types.contains(&"video.generate".to_owned()));
        let class = r#"{"_class_name": "StableVideoDiffusionPipeline"}"#;
        std::fs::write(dir.path().join("sdxl/model_index.json"), class).unwrap();
        let (types, ..) = offer(&config, &[], &[]);
        assert!(!types.contains(&"image.generate".to_owned()), "it makes clips alone");
        assert_eq!(types.contains(&"video.generate".to_owned()), ffmpeg().is_some(), "of a picture, without modules");
        std::fs::write(dir.path().join("sdxl/model_index.json"), "{}").unwrap();
        std::fs::create_dir(dir.path().join("motion")).unwrap();
        std::fs::write(dir.path().join("motion/mm.safetensors"), "").unwrap();
        assert_eq!(offer(&config, &[], &[]).0.contains(&"video.generate".to_owned()), ffmpeg().is_some());
        let fetches = Config { models: dir.path().join("none"), ..Config::default() };
        let (types, models, _) = offer(&fetches, &[], &[]);
        assert!(
            types.contains(&"image.generate".to_owned()) && models.is_empty(),
            "the store may have what a job names"
        );
    }
}

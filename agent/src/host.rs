//! What the host is doing: CPU and memory from `/proc`, GPUs from NVML where it is there.

use std::sync::Arc;

use backlot_wire::GpuInfo;
use nvml_wrapper::Nvml;
use parking_lot::Mutex;
use serde::Serialize;

/// One NVIDIA GPU at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GpuSample {
    pub index: u32,
    /// 0 to 1.
    pub utilisation: f64,
    pub memory_used_bytes: u64,
}

/// The host's NVIDIA GPUs; there are none where NVML is not installed. Cheap to clone.
#[derive(Clone)]
pub struct Gpus {
    nvml: Option<Arc<Nvml>>,
    absent: Option<String>,
}

impl Gpus {
    #[must_use]
    pub fn open() -> Self {
        match Nvml::init() {
            Ok(nvml) => Self { nvml: Some(Arc::new(nvml)), absent: None },
            Err(error) => Self { nvml: None, absent: Some(error.to_string()) },
        }
    }

    /// Why no GPU can be seen through NVML.
    #[must_use]
    pub fn absent(&self) -> Option<&str> {
        self.absent.as_deref()
    }

    #[must_use]
    pub fn driver(&self) -> Option<String> {
        self.nvml.as_ref()?.sys_driver_version().ok()
    }

    /// Each GPU, in NVML's order. `executor` is the one that would run on it.
    #[must_use]
    pub fn list(&self, executor: &str) -> Vec<GpuInfo> {
        let Some(nvml) = &self.nvml else { return Vec::new() };
        let device = |index| {
            let device = nvml.device_by_index(index).ok()?;
            let sm = device.cuda_compute_capability().ok();
            Some(GpuInfo {
                name: device.name().unwrap_or_else(|_| format!("GPU {index}")),
                vram_bytes: device.memory_info().map(|memory| memory.total).unwrap_or_default(),
                sm: sm.and_then(|cc| u32::try_from(cc.major * 10 + cc.minor).ok()),
                executor: executor.to_owned(),
            })
        };
        (0..nvml.device_count().unwrap_or(0)).filter_map(device).collect()
    }

    #[must_use]
    pub fn sample(&self) -> Vec<GpuSample> {
        let Some(nvml) = &self.nvml else { return Vec::new() };
        let one = |index| {
            let device = nvml.device_by_index(index).ok()?;
            Some(GpuSample {
                index,
                utilisation: f64::from(device.utilization_rates().ok()?.gpu) / 100.0,
                memory_used_bytes: device.memory_info().ok()?.used,
            })
        };
        (0..nvml.device_count().unwrap_or(0)).filter_map(one).collect()
    }
}

/// CPU time of the whole host since its start, in clock ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CpuTicks {
    busy: u64,
    all: u64,
}

/// Share of the host's CPU time that was in use between two looks.
#[derive(Debug, Default)]
pub struct CpuMeter {
    last: Mutex<CpuTicks>,
}

impl CpuMeter {
    /// 0 to 1 since the last call; since the host's start at the first one. `None` where `/proc/stat` is not as expected.
    pub fn utilisation(&self) -> Option<f64> {
        let now = cpu_ticks(&std::fs::read_to_string("/proc/stat").ok()?)?;
        let last = std::mem::replace(&mut *self.last.lock(), now);
        let all = now.all.saturating_sub(last.all);
        #[allow(clippy::cast_precision_loss, reason = "a share needs no more than f64 holds")]
        (all > 0).then(|| (now.busy.saturating_sub(last.busy) as f64 / all as f64).min(1.0))
    }
}

fn cpu_ticks(stat: &str) -> Option<CpuTicks> {
    let ticks: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is inside of user time.
    let all = ticks.iter().take(8).sum();
    let idle = ticks.get(3)? + ticks.get(4).unwrap_or(&0);
    Some(CpuTicks { busy: all - idle, all })
}

/// Memory of the host: (in use, all), in bytes.
#[must_use]
pub fn memory_bytes() -> Option<(u64, u64)> {
    memory_of(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn memory_of(meminfo: &str) -> Option<(u64, u64)> {
    let kib = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let (all, available) = (kib("MemTotal")?, kib("MemAvailable")?);
    Some((all.saturating_sub(available) * 1024, all * 1024))
}

/// Times the kernel has killed a process for memory since the host's start.
#[must_use]
pub fn oom_kills() -> Option<u64> {
    let vmstat = std::fs::read_to_string("/proc/vmstat").ok()?;
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_time_is_not_busy() {
        let ticks = cpu_ticks("cpu  100 10 40 700 100 20 20 10 0 0\ncpu0 1 2 3 4\n").unwrap();
        assert_eq!(ticks, CpuTicks { busy: 200, all: 1000 });
        assert_eq!(cpu_ticks("intr 1 2 3"), None);
    }

    #[test]
    fn memory_in_use_is_what_is_not_available() {
        let text = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    400 kB\n";
        assert_eq!(memory_of(text), Some((600 * 1024, 1000 * 1024)));
        assert_eq!(memory_of("MemTotal: x kB"), None);
    }

    #[test]
    fn this_host_has_a_cpu_and_memory() {
        assert!((0.0..=1.0).contains(&CpuMeter::default().utilisation().unwrap()));
        let (used, all) = memory_bytes().unwrap();
        assert!(used > 0 && used < all);
    }
}

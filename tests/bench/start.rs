//! The binary itself: its size, how soon it is ready on an empty folder and on one it has used, what it keeps resident when
//! nobody asks anything of it.

use std::time::Duration;

use crate::Settings;
use crate::appliance::Appliance;
use crate::client::Failure;

const STARTS: usize = 7;

#[allow(clippy::disallowed_methods, reason = "a measurement")]
pub(crate) fn run(settings: &Settings) -> Result<(), Failure> {
    let program = std::env::current_exe()?.with_file_name("backlot");
    println!("{:>12.1} MB is the size of {}", std::fs::metadata(&program)?.len() as f64 / 1e6, program.display());
    let (mut empty, mut used) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let dir = tempfile::tempdir_in(&settings.dir)?;
        empty.push(Appliance::start(&dir.path().join("data"), &dir.path().join("log"))?.ready);
        used.push(Appliance::start(&dir.path().join("data"), &dir.path().join("log"))?.ready);
    }
    println!("{:>12.0} ms to ready on an empty folder (median of {STARTS})", median_ms(empty));
    println!("{:>12.0} ms to ready after kill -9", median_ms(used));
    let dir = tempfile::tempdir_in(&settings.dir)?;
    let appliance = Appliance::start(&dir.path().join("data"), &dir.path().join("log"))?;
    let mut after = Duration::ZERO;
    for at_s in [5, 60, 300] {
        let at = Duration::from_secs(at_s);
        if at_s > 5 && at_s > settings.seconds {
            break;
        }
        std::thread::sleep(at - after);
        after = at;
        println!("{:>12.0} MiB resident after {at_s} s of idling", appliance.resident_mib()?);
    }
    Ok(())
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

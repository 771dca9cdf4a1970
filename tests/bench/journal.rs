//! The journal's group commit, beside a loop that does nothing but write and sync groups of the same sizes.

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use backlot_journal::{Class, Journal, Lsn, Options};

use crate::Settings;

const RECORD_BYTES: usize = 1024;

pub(crate) fn run(settings: &Settings) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let time = Duration::from_secs(settings.seconds);
    println!("records of {RECORD_BYTES} bytes; callers wait for each record to be durable before they send the next");
    println!("{:>8} {:>12} {:>14} {:>14} {:>12}", "callers", "appends/s", "records/group", "groups/s", "raw groups/s");
    for callers in [1_usize, 16, 128] {
        let dir = tempfile::tempdir_in(&settings.dir)?;
        let raw = raw_groups(dir.path(), callers, time)?;
        let (journal, _) = Journal::open(Options::new(dir.path().join("journal")))?;
        let took = runtime.block_on(append(&journal, callers, time));
        let stats = journal.stats();
        let per_s = |count: u64| count as f64 / took.as_secs_f64();
        println!(
            "{callers:>8} {:>12.0} {:>14.1} {:>14.0} {raw:>12.0}",
            per_s(stats.records),
            stats.records as f64 / stats.groups as f64,
            per_s(stats.groups),
        );
        if callers == 128 {
            reopen(journal, dir.path())?;
        }
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "a measurement")]
async fn append(journal: &Journal, callers: usize, time: Duration) -> Duration {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..callers {
        let journal = journal.clone();
        tasks.spawn(async move {
            let record = [caller as u8; RECORD_BYTES];
            while began.elapsed() < time {
                let permit = journal.reserve(record.len(), Class::Growing).await?;
                permit.submit(&[&record]).durable().await?;
            }
            Ok::<_, backlot_journal::JournalError>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("append: {error}"),
            Err(error) => eprintln!("append: {error}"),
        }
    }
    began.elapsed()
}

/// Groups of `records` written and synced one after the other into a file whose room is taken, in groups per second.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
fn raw_groups(dir: &std::path::Path, records: usize, time: Duration) -> Result<f64, Box<dyn Error>> {
    let file = File::create(dir.join("raw"))?;
    let bytes = vec![7_u8; records * RECORD_BYTES];
    let (began, mut groups, mut offset) = (Instant::now(), 0_u64, 0_u64);
    while began.elapsed() < time {
        if groups.is_multiple_of(1024) {
            allocate(&file, offset + 1024 * bytes.len() as u64)?;
        }
        file.write_all_at(&bytes, offset)?;
        file.sync_data()?;
        offset += bytes.len() as u64;
        groups += 1;
    }
    let per_s = groups as f64 / began.elapsed().as_secs_f64();
    drop(file);
    std::fs::remove_file(dir.join("raw"))?;
    Ok(per_s)
}

#[allow(unsafe_code, reason = "the same preallocation as the journal's, without its crate")]
fn allocate(file: &File, bytes: u64) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: an open descriptor and two numbers.
    match unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as libc::off_t) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[allow(clippy::disallowed_methods, reason = "a measurement")]
fn reopen(journal: Journal, dir: &std::path::Path) -> Result<(), Box<dyn Error>> {
    drop(journal);
    let began = Instant::now();
    let (journal, opened) = Journal::open(Options::new(dir.join("journal")))?;
    let opening = began.elapsed();
    let mut records = 0_u64;
    journal.scan(Lsn(0), &mut |_, _| {
        records += 1;
        true
    })?;
    let all = began.elapsed();
    println!("reopened {} MiB in {opening:.2?}, all {records} records read by {all:.2?}", opened.bytes >> 20);
    Ok(())
}

//! Which search a thread reads for. tantivy's calls carry nothing along, so what a read must know (whether anybody still waits) and what it must
//! tell (that the store did not answer, which tantivy wraps, swallows or panics about) stands beside the thread while a step lasts.

use std::cell::RefCell;
use std::io;

use super::FarError;
use crate::Cancel;

thread_local! {
    static STEP: RefCell<Option<Step>> = const { RefCell::new(None) };
}

struct Step {
    cancel: Cancel,
    fault: Option<FarError>,
}

/// Does a step of a search; tells beside its outcome the first thing that went wrong far away, whatever became of it.
pub(crate) fn during<T>(cancel: &Cancel, step: impl FnOnce() -> T) -> (T, Option<FarError>) {
    let outer = STEP.replace(Some(Step { cancel: cancel.clone(), fault: None }));
    let done = step();
    let inner = STEP.replace(outer);
    (done, inner.and_then(|step| step.fault))
}

/// Whom a read is for, before it asks far away.
///
/// # Errors
/// What went wrong in this step before: it is over, even if whoever reads has not noticed.
pub(super) fn begin() -> Result<Cancel, FarError> {
    let cancel = STEP.with_borrow(|step| match step {
        None => Ok(Cancel::default()),
        Some(Step { fault: Some(fault), .. }) => Err(fault.clone()),
        Some(Step { cancel, .. }) => Ok(cancel.clone()),
    })?;
    cancel.before_far()?;
    Ok(cancel)
}

/// Notes what went wrong.
pub(super) fn failed(fault: FarError) -> io::Error {
    let error = io::Error::other(fault.to_string());
    STEP.with_borrow_mut(|step| {
        if let Some(step) = step {
            step.fault.get_or_insert(fault);
        }
    });
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fault_of_a_step_is_told_and_ends_its_further_reads() {
        let (done, fault) = during(&Cancel::default(), || {
            assert!(begin().is_ok());
            let _ = failed(FarError::Missing);
            let _ = failed(FarError::Away("later".into()));
            begin().is_err()
        });
        assert!(done);
        assert_eq!(fault, Some(FarError::Missing));
        assert!(during(&Cancel::default(), begin).0.is_ok(), "the next step begins anew");
    }
}

#![allow(unsafe_code, reason = "defines and calls a C function: the only way to take a symbol's place at link time")]
//! Makes sled's flush durable.
//!
//! sled 0.34 on Linux ends each write of its log with `sync_file_range`, which writes pages but neither the file's
//! metadata nor the disk's own cache: after a power cut, what `flush` had answered was gone, or the files did not open.
//! Where the kernel answers ENOSYS, sled calls `fsync` instead, and nothing is lost. So this program defines
//! the symbol itself and answers just that. Nothing else in the program uses it.

use std::ffi::{c_int, c_uint};

/// Takes the place of the C library's function, for the whole program. Never syncs, always ENOSYS.
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(_fd: c_int, _offset: i64, _bytes: i64, _flags: c_uint) -> c_int {
    // SAFETY: the C library's errno of this thread, which it gives out for writing.
    unsafe { *libc::__errno_location() = libc::ENOSYS };
    -1
}

/// Whether calls reach the function above. The C library's would find that the descriptor is bad.
pub(super) fn flush_reaches_the_disk() -> bool {
    // SAFETY: no memory is passed; a bad descriptor is answered by an error.
    let answer = unsafe { libc::sync_file_range(-1, 0, 0, 0) };
    answer == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS)
}

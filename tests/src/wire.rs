//! A wire between two servers that a test cuts, mutes and mends.

use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Passes bytes on, until it is cut.
pub struct Wire {
    pub endpoint: String,
    is_cut: Arc<AtomicBool>,
    is_mute: Arc<AtomicBool>,
    /// Bytes that come back over a connection before it breaks.
    bytes_max: Arc<AtomicU64>,
    /// Connections that were passed on so far.
    pub passed: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    #[must_use]
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a wire");
        let endpoint = format!("http://{}", listener.local_addr().expect("a wire"));
        let (is_cut, is_mute) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let bytes_max = Arc::new(AtomicU64::new(u64::MAX));
        let (passed, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let wire = Self {
            endpoint,
            is_cut: Arc::clone(&is_cut),
            is_mute: Arc::clone(&is_mute),
            bytes_max: Arc::clone(&bytes_max),
            passed: Arc::clone(&passed),
            open: Arc::clone(&open),
        };
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if is_cut.load(Ordering::SeqCst) {
                    continue; // closed at once
                }
                if is_mute.load(Ordering::SeqCst) {
                    open.lock().expect("a wire").push(near);
                    continue;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                passed.fetch_add(1, Ordering::SeqCst);
                let ends = [near.try_clone().expect("a wire"), far.try_clone().expect("a wire")];
                open.lock().expect("a wire").extend(ends);
                let there = (near.try_clone().expect("a wire"), far.try_clone().expect("a wire"), u64::MAX);
                for (source, mut sink, bytes_max) in [there, (far, near, bytes_max.load(Ordering::SeqCst))] {
                    std::thread::spawn(move || {
                        let copied = std::io::copy(&mut (&source).take(bytes_max), &mut sink);
                        let _ = match copied {
                            Ok(bytes) if bytes == bytes_max => {
                                source.shutdown(Shutdown::Both).and(sink.shutdown(Shutdown::Both))
                            }
                            _ => sink.shutdown(Shutdown::Write),
                        };
                    });
                }
            }
        });
        wire
    }

    /// Ends every connection, and takes no others.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.break_off();
    }

    /// Takes connections from here on, and passes nothing on.
    pub fn mute(&self) {
        self.is_mute.store(true, Ordering::SeqCst);
        self.is_cut.store(false, Ordering::SeqCst);
        self.break_off();
    }

    /// Ends every connection there is, and each that comes when so many bytes have come back over it.
    pub fn break_after(&self, bytes: u64) {
        self.bytes_max.store(bytes, Ordering::SeqCst);
        self.break_off();
    }

    /// Ends every connection there is.
    pub fn break_off(&self) {
        for end in self.open.lock().expect("a wire").drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
        self.is_mute.store(false, Ordering::SeqCst);
    }
}

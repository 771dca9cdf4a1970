//! Ports that stay a test's own, also while nobody listens on them.

use tokio::net::TcpSocket;

/// A port of 127.0.0.1 that no other process is given as long as this lives.
///
/// It is bound, and never listened on: whoever connects is refused until a server listens beside it, which one that sets `SO_REUSEADDR`
/// may do, as the appliance, Python's servers and the standard library's listeners do. To those that ask for any port, and to connections on their
/// way out, Linux gives only ports that nobody has bound. A port that was merely free a moment ago may be somebody else's by now.
pub struct Port {
    pub number: u16,
    _held: TcpSocket,
}

impl Port {
    /// Any port that is free.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn hold() -> Self {
        let held = TcpSocket::new_v4().expect("a socket");
        held.set_reuseaddr(true).expect("a port that a server may share");
        held.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        Self { number: held.local_addr().expect("a port").port(), _held: held }
    }

    /// As `127.0.0.1:number`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::Port;

    #[test]
    fn a_held_port_is_refused_until_one_listens_and_is_given_to_nobody_else() {
        let port = Port::hold();
        for _ in 0..2 {
            assert_eq!(TcpStream::connect(port.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            let server = TcpListener::bind(port.address()).expect("a server listens beside it");
            TcpStream::connect(port.address()).expect("and is reached");
            drop(server);
        }
        let others: Vec<TcpListener> = (0..500).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        assert!(others.iter().all(|other| other.local_addr().expect("a port").port() != port.number));
    }
}

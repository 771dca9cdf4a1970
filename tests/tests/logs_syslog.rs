//! Syslog over real sockets, and from Debian's rsyslog over TCP, TLS and UDP, in both formats, over a kill -9 of the appliance.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use backlot_tests::{Appliance, Port, Process, eventually};
use serde_json::{Value, json};

const ANY: &str = "127.0.0.1:0";

fn found(appliance: &Appliance, query: &str) -> Vec<Value> {
    let query: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let page = appliance.json("GET", &format!("/v1/logs?limit=1000&query={query}"), None);
    page["records"].as_array().unwrap().clone()
}

/// The records that answer, once there are as many.
fn wait_for(appliance: &Appliance, query: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{count} records for {query}"), || {
        let records = found(appliance, query);
        (records.len() >= count).then_some(records)
    })
}

#[test]
fn what_comes_over_tcp_and_udp_is_found_with_its_fields_and_is_bounded() {
    let appliance = Appliance::start_with(&[
        ("BACKLOT_SYSLOG_TCP", ANY),
        ("BACKLOT_SYSLOG_UDP", ANY),
        ("BACKLOT_SYSLOG_LINE_BYTES_MAX", "1024"),
        ("BACKLOT_SYSLOG_CONNECTIONS_MAX", "2"),
        ("BACKLOT_SYSLOG_IDLE_S", "2"),
    ]);
    let address = appliance.addresses.syslog_tcp.clone().unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    let modern = r#"<27>1 2025-11-22T12:00:00.5Z gpu-7 nvidia 71 XID [gpu@1 index="3"] Xid 79: fallen off the bus"#;
    let long = format!("<14>Nov 22 12:00:00 gpu-7 dump: {}\n", "x".repeat(3000));
    let json = "<14>Nov 22 12:00:00 gpu-7 render[9]: {\"msg\":\"slow frame\",\"level\":\"warn\",\"gpu\":3}\n";
    stream.write_all(format!("{} {modern}{long}{json}", modern.len()).as_bytes()).unwrap();
    let record = wait_for(&appliance, "service:nvidia", 1).remove(0);
    let told = ["time", "host", "level", "body"].map(|name| record[name].as_str().unwrap());
    assert_eq!(told, ["2025-11-22T12:00:00.500000000Z", "gpu-7", "error", "Xid 79: fallen off the bus"]);
    let attributes =
        json!({"syslog.facility": "daemon", "syslog.procid": "71", "syslog.msgid": "XID", "syslog.gpu@1.index": "3"});
    assert_eq!(record["attributes"], attributes);
    let record = wait_for(&appliance, "service:dump", 1).remove(0);
    assert!(record["attributes"]["syslog.truncated"] == true && record["body"].as_str().unwrap().len() < 1024);
    let record = wait_for(&appliance, "service:render level:warn gpu:3", 1).remove(0);
    assert_eq!(record["body"], "slow frame");

    let socket = UdpSocket::bind(ANY).unwrap();
    let udp = appliance.addresses.syslog_udp.clone().unwrap();
    for text in ["<30>ffmpeg: by datagram", "\u{1}\u{2} not a header"] {
        socket.send_to(text.as_bytes(), &udp).unwrap();
    }
    assert_eq!(wait_for(&appliance, "service:ffmpeg", 1)[0]["host"], "127.0.0.1");
    wait_for(&appliance, "\"not a header\"", 1);

    // A third connection is closed at once, and one that says nothing after a while.
    let _second = TcpStream::connect(&address).unwrap();
    eventually("a third connection is closed", || {
        let mut third = TcpStream::connect(&address).ok()?;
        let _ = third.write_all(b"<13>third: hello\n");
        matches!(third.read(&mut [0; 1]), Ok(0) | Err(_)).then_some(())
    });
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "an idle connection is closed");
    let metrics = appliance.http("GET", "/metrics", None).1;
    assert!(metrics.contains("backlot_syslog_messages_total") && metrics.contains(r#"outcome="cut""#), "{metrics}");
}

/// A certificate for this machine, signed by itself. False where there is no openssl.
fn make_certificate(dir: &Path) -> bool {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir)
        .stderr(Stdio::null())
        .status();
    made.is_ok_and(|status| status.success())
}

/// Whether rsyslog and its TLS driver are installed.
fn rsyslog() -> Option<(&'static str, bool)> {
    let program = ["/usr/sbin/rsyslogd", "/usr/bin/rsyslogd"].into_iter().find(|path| Path::new(path).exists())?;
    let libraries = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"];
    Some((program, libraries.iter().any(|folder| Path::new(folder).join("rsyslog/lmnsd_gtls.so").exists())))
}

#[test]
fn rsyslog_sends_both_formats_and_a_kill_9_loses_nothing_that_it_still_had() {
    let Some((program, has_gtls)) = rsyslog() else {
        eprintln!(
            "SKIPPED rsyslog_sends_both_formats_and_a_kill_9_loses_nothing_that_it_still_had: rsyslogd is not installed"
        );
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let has_tls = has_gtls && make_certificate(dir.path());
    let (tcp, tls) = (Port::hold(), Port::hold()); // rsyslog comes back to them
    let mut settings = vec![("BACKLOT_SYSLOG_TCP", tcp.address()), ("BACKLOT_SYSLOG_UDP", ANY.to_owned())];
    if has_tls {
        settings.extend([
            ("BACKLOT_SYSLOG_TLS", tls.address()),
            ("BACKLOT_SYSLOG_CERTIFICATE", file("cert.pem")),
            ("BACKLOT_SYSLOG_PRIVATE_KEY", file("key.pem")),
        ]);
    } else {
        eprintln!("SKIPPED the part over TLS: rsyslog-gnutls or openssl is not installed");
    }
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut appliance = Appliance::start_with(&settings);

    // Each program's messages go another way.
    let udp = appliance.addresses.syslog_udp.clone().unwrap();
    let (tcp, tls, udp) = (tcp.number, tls.number, udp.rsplit(':').next().unwrap());
    let (modern, old) = ("RSYSLOG_SyslogProtocol23Format", "RSYSLOG_TraditionalForwardFormat");
    let mut ways = vec![
        ("counted5424", format!(r#"protocol="tcp" port="{tcp}" TCP_Framing="octet-counted" template="{modern}""#)),
        ("lines3164", format!(r#"protocol="tcp" port="{tcp}" template="{old}""#)),
        ("udp5424", format!(r#"protocol="udp" port="{udp}" template="{modern}""#)),
        ("udp3164", format!(r#"protocol="udp" port="{udp}" template="{old}""#)),
    ];
    if has_tls {
        let driver = r#"StreamDriver="gtls" StreamDriverMode="1" StreamDriverAuthMode="x509/certvalid""#;
        ways.push(("tls5424", format!(r#"protocol="tcp" port="{tls}" {driver} template="{modern}""#)));
    }
    let mut configuration = format!(
        "global(workDirectory=\"{}\" DefaultNetstreamDriverCAFile=\"{}\" preserveFQDN=\"off\")\n\
         module(load=\"imuxsock\" SysSock.Use=\"off\")\ninput(type=\"imuxsock\" Socket=\"{}\")\n",
        dir.path().display(),
        file("cert.pem"),
        file("log.sock"),
    );
    for (name, way) in &ways {
        configuration.push_str(&format!(
            "if $programname == '{name}' then action(type=\"omfwd\" target=\"127.0.0.1\" {way} \
             queue.type=\"LinkedList\" action.resumeRetryCount=\"-1\" action.resumeInterval=\"1\")\n",
        ));
    }
    std::fs::write(dir.path().join("rsyslog.conf"), configuration).unwrap();
    let mut command = Command::new(program);
    command.args(["-n", "-f", &file("rsyslog.conf"), "-i", &file("rsyslog.pid")]);
    let sender = Process::start(&mut command, dir.path(), "rsyslogd");
    let socket = UnixDatagram::unbound().unwrap();
    let send = |name: &str, number: usize| {
        let text = format!("<27>Nov 22 12:00:00 {name}[7]: frame number {number} failed");
        eventually("rsyslog takes a message", || socket.send_to(text.as_bytes(), dir.path().join("log.sock")).ok());
    };
    let missing = |appliance: &Appliance, name: &str, count: usize| {
        let records = found(appliance, &format!("service:{name}"));
        let bodies: BTreeSet<_> = records.iter().filter_map(|record| record["body"].as_str()).map(str::trim).collect();
        (0..count).find(|number| !bodies.contains(format!("frame number {number} failed").as_str()))
    };
    let all_there = |appliance: &Appliance, names: &[&str], count: usize| {
        for name in names {
            eventually(&format!("{count} messages of {name}; rsyslog says: {}", sender.log()), || {
                missing(appliance, name, count).is_none().then_some(())
            });
        }
    };
    let all: Vec<_> = ways.iter().map(|(name, _)| *name).collect();
    for number in 0..100 {
        all.iter().for_each(|name| send(name, number));
        if number % 20 == 19 {
            // No more datagrams at once than the socket has room for, however busy who reads it is.
            all_there(&appliance, &["udp5424", "udp3164"], number + 1);
        }
    }
    all_there(&appliance, &all, 100);
    for name in &all {
        let record = &found(&appliance, &format!("service:{name}"))[0];
        assert_eq!((record["level"].as_str(), &record["attributes"]["syslog.procid"]), (Some("error"), &json!("7")));
        assert_eq!(record["attributes"]["syslog.facility"], "daemon", "{name}");
        assert!(record["host"].as_str().is_some_and(|host| !host.is_empty()), "{name}");
    }

    // What UDP sends to nobody is lost. What was there is there; what rsyslog keeps comes.
    let kept: Vec<_> = all.iter().copied().filter(|name| !name.starts_with("udp")).collect();
    appliance.kill();
    for number in 100..200 {
        kept.iter().for_each(|name| send(name, number));
    }
    appliance.start_again();
    for number in 200..210 {
        kept.iter().for_each(|name| send(name, number));
    }
    all_there(&appliance, &kept, 210);
    all_there(&appliance, &all, 100);
}

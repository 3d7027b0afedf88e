//! The link against a server that echoes.

use std::net::Shutdown;

use super::direction::BUFFER;
use super::*;

/// A server that sends back what it gets, until its value goes away.
struct Echo {
    port: u16,
}

impl Echo {
    fn start() -> Result<Echo> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).at("cannot listen", "echo")?;
        let port = listener.local_addr().at("cannot look at", "echo")?.port();
        // The thread ends with the test process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut reader = &client;
                    let mut writer = &client;
                    let _ = io::copy(&mut reader, &mut writer);
                    let _ = client.shutdown(Shutdown::Write);
                });
            }
        });
        Ok(Echo { port })
    }
}

fn connect(link: &Link) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, link.port()))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

fn exchange(mut stream: &TcpStream, text: &str) -> io::Result<String> {
    stream.write_all(text.as_bytes())?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// That nothing arrives can only be seen by waiting for a while.
fn stays_silent(mut stream: &TcpStream) -> io::Result<bool> {
    stream.set_read_timeout(Some(Duration::from_millis(150)))?;
    let outcome = stream.read(&mut [0]);
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(outcome.is_err_and(|error| error.kind() == ErrorKind::WouldBlock))
}

fn open() -> Result<(Echo, Link)> {
    let echo = Echo::start()?;
    let link = Link::open("echo", echo.port)?;
    Ok((echo, link))
}

#[test]
fn forwards_both_ways_and_ends_orderly() -> Result<()> {
    let (_echo, link) = open()?;
    let stream = connect(&link).at("cannot connect to", "link")?;
    let text = "x".repeat(3 * BUFFER);
    // Written by another thread, as it is more than the buffers hold.
    let writer = stream.try_clone().at("cannot clone", "stream")?;
    let sent = text.clone();
    let sender = thread::spawn(move || {
        (&writer).write_all(sent.as_bytes())?;
        writer.shutdown(Shutdown::Write)
    });
    let mut answer = String::new();
    (&stream).read_to_string(&mut answer).at("cannot read from", "link")?;
    assert!(sender.join().is_ok_and(|sent| sent.is_ok()));
    assert!(answer == text);
    assert_eq!(link.forwarded(), 2 * text.len() as u64);
    crate::wait::wait_until("the connection's end", CHANGE_TIMEOUT, || {
        (link.connections() == 0).then_some(())
    })
}

#[test]
fn a_cut_resets_and_refuses_until_healed() -> Result<()> {
    let (_echo, link) = open()?;
    let stream = connect(&link).at("cannot connect to", "link")?;
    assert_eq!(exchange(&stream, "one").ok().as_deref(), Some("one"));

    link.cut()?;
    assert_eq!(link.connections(), 0);
    let seen = (&stream).read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(seen, Err(ErrorKind::ConnectionReset));
    let refused = connect(&link).map_err(|error| error.kind()).err();
    assert_eq!(refused, Some(ErrorKind::ConnectionRefused));

    link.heal()?;
    let stream = connect(&link).at("cannot connect to", "link")?;
    assert_eq!(exchange(&stream, "two").ok().as_deref(), Some("two"));
    Ok(())
}

#[test]
fn a_frozen_link_is_silent_and_loses_nothing() -> Result<()> {
    let (_echo, link) = open()?;
    let old = connect(&link).at("cannot connect to", "link")?;
    assert_eq!(exchange(&old, "one").ok().as_deref(), Some("one"));

    link.freeze()?;
    let new = connect(&link).at("cannot connect to", "link")?;
    for stream in [&old, &new] {
        let mut writer = stream;
        writer.write_all(b"late").at("cannot write to", "link")?;
        assert!(stays_silent(stream).at("cannot read from", "link")?);
    }

    link.heal()?;
    for stream in [&old, &new] {
        let mut answer = [0; 4];
        let mut reader = stream;
        reader.read_exact(&mut answer).at("cannot read from", "link")?;
        assert_eq!(&answer, b"late");
    }
    Ok(())
}

#[test]
fn a_frozen_link_can_be_cut() -> Result<()> {
    let (_echo, link) = open()?;
    let old = connect(&link).at("cannot connect to", "link")?;
    assert_eq!(exchange(&old, "one").ok().as_deref(), Some("one"));
    link.freeze()?;
    let new = connect(&link).at("cannot connect to", "link")?;
    link.cut()?;
    for mut stream in [&old, &new] {
        let seen = stream.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(seen, Err(ErrorKind::ConnectionReset));
    }
    Ok(())
}

#[test]
fn a_delay_holds_for_each_direction() -> Result<()> {
    let (_echo, link) = open()?;
    let stream = connect(&link).at("cannot connect to", "link")?;
    link.delay(Duration::from_millis(120))?;
    let begin = Instant::now();
    assert_eq!(exchange(&stream, "slow").ok().as_deref(), Some("slow"));
    assert!(begin.elapsed() >= Duration::from_millis(240));

    link.heal()?;
    let begin = Instant::now();
    assert_eq!(exchange(&stream, "fast").ok().as_deref(), Some("fast"));
    assert!(begin.elapsed() < Duration::from_millis(120));
    Ok(())
}

#[test]
fn a_server_that_refuses_is_seen_as_a_reset() -> Result<()> {
    let nobody = PortLease::take()?;
    let link = Link::open("nobody", nobody.port())?;
    let mut stream = connect(&link).at("cannot connect to", "link")?;
    let seen = stream.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(seen, Err(ErrorKind::ConnectionReset));
    Ok(())
}

#[test]
fn a_link_that_goes_away_frees_its_port() -> Result<()> {
    let (_echo, link) = open()?;
    let port = link.port();
    let _open = connect(&link).at("cannot connect to", "link")?;
    drop(link);
    assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
    Ok(())
}

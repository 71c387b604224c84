//! A client that can also do what no proper client does.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than anything here takes: a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// `message`, `type` and `code` of an error; panics where it is none.
    pub fn error(&self) -> (u16, String, String, Option<String>) {
        let value = self.json();
        let text = |name: &str| value["error"][name].as_str().map(str::to_owned);
        (self.status, text("message").unwrap(), text("type").unwrap(), text("code"))
    }

    /// The JSON of every event; panics where the stream does not end as it should.
    pub fn events(&self) -> Vec<Value> {
        let mut data: Vec<&str> =
            self.text().lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{}", self.text());
        data.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The head of a request with a body of so many bytes.
pub fn head(method: &str, path: &str, headers: &[(&str, &str)], length: Option<usize>) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head += "host: localhost\r\n";
    }
    if let Some(length) = length {
        head += &format!("content-length: {length}\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            head += "content-type: application/json\r\n";
        }
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head + "connection: close\r\n\r\n"
}

pub fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Reply {
    let mut stream = connect(address);
    stream.write_all(head(method, path, headers, body.map(<[u8]>::len)).as_bytes()).unwrap();
    // A server that refuses by the head may have closed already.
    let _ = stream.write_all(body.unwrap_or_default());
    read(&mut stream)
}

pub fn get(address: SocketAddr, path: &str) -> Reply {
    send(address, "GET", path, &[], None)
}

pub fn post(address: SocketAddr, path: &str, body: &Value) -> Reply {
    send(address, "POST", path, &[], Some(body.to_string().as_bytes()))
}

pub fn read(stream: &mut impl Read) -> Reply {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    let mut next = |reader: &mut BufReader<_>| {
        line.clear();
        reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    let first = next(&mut reader);
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status in {first:?}"));
    let mut headers = Vec::new();
    loop {
        let line = next(&mut reader);
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut reply = Reply { status, headers, body: Vec::new() };
    if reply.header("transfer-encoding") == Some("chunked") {
        loop {
            let size = usize::from_str_radix(&next(&mut reader), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).unwrap();
            reply.body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return reply;
            }
        }
    }
    let length = reply.header("content-length").and_then(|length| length.parse().ok());
    reply.body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut reply.body).unwrap();
    reply
}

//! The real binary: start, stop, start again, and what it refuses.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Against hanging for ever; no test depends on how long something takes.
const SILENCE: Duration = Duration::from_secs(60);

fn basalt(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
    command.arg("--data-dir").arg(data_dir).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OS_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG");
    for option in [
        "DEFAULT__OSAPI_VOLUME_LISTEN_PORT",
        "IMAGE_API__BIND_PORT",
        "DEV_IDENTITY__BIND_PORT",
    ] {
        command.env(format!("OS_{option}"), "0");
    }
    command
}

/// A running server and what it said at the start.
struct Server {
    child: Child,
    text: Vec<String>,
}

impl Server {
    /// Returns when the server says that it is ready.
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut text = Vec::new();
        while !text.iter().any(|line: &String| line.contains("--os-cloud")) {
            text.push(
                lines
                    .next()
                    .expect("the server ended before it was ready")
                    .unwrap(),
            );
        }
        Server { child, text }
    }

    /// `host:port` of the line that starts with this label.
    fn address(&self, label: &str) -> String {
        let line = self
            .text
            .iter()
            .find(|line| line.trim_start().starts_with(label))
            .unwrap();
        let url = line.split("http://").nth(1).unwrap();
        url.split('/').next().unwrap().trim().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of a request.
fn request(address: &str, head: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    write!(
        stream,
        "{head} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n"
    )
    .unwrap();
    write!(
        stream,
        "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    (parent, data)
}

/// One line on stderr, exit status 1, no panic.
fn refused(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn starts_answers_stops_and_starts_again() {
    let (_parent, data) = folder();
    let server = Server::start(&mut basalt(&data));
    for (label, path) in [("Volumes", "/"), ("Images", "/"), ("Identity", "/v3")] {
        let (status, body) = request(&server.address(label), &format!("GET {path}"), "");
        assert!(status == 200 || status == 300, "{label}: {status} {body}");
        assert!(
            body.contains("\"v3\"") || body.contains("v3.") || body.contains("v2."),
            "{label}: {body}"
        );
    }
    for label in ["Volumes", "Images"] {
        assert_eq!(
            request(&server.address(label), "GET /healthcheck", "").0,
            200,
            "{label}"
        );
    }
    assert_eq!(mode(&data), 0o700);
    for name in ["clouds.yaml", "secrets.json"] {
        assert_eq!(mode(&data.join(name)), 0o600, "{name}");
    }
    let secrets = std::fs::read(data.join("secrets.json")).unwrap();
    let shown = server.text.join("\n");
    assert!(
        !shown.contains(secret(&data, "admin_password").as_str()),
        "a password is printed"
    );
    assert!(data.join("nbd.sock").exists());
    assert_eq!(server.stop().code(), Some(0));
    assert!(!data.join("nbd.sock").exists());

    let server = Server::start(basalt(&data).arg("serve"));
    assert_eq!(std::fs::read(data.join("secrets.json")).unwrap(), secrets);
    assert_eq!(server.stop().code(), Some(0));
}

fn secret(data: &Path, name: &str) -> String {
    let text = std::fs::read(data.join("secrets.json")).unwrap();
    let secrets: serde_json::Value = serde_json::from_slice(&text).unwrap();
    secrets[name].as_str().unwrap().to_owned()
}

#[test]
fn the_password_of_clouds_yaml_logs_in_and_the_catalogue_has_the_real_ports() {
    let (_parent, data) = folder();
    let server = Server::start(&mut basalt(&data));
    let clouds = std::fs::read_to_string(data.join("clouds.yaml")).unwrap();
    let password = secret(&data, "admin_password");
    assert!(clouds.contains(&password));
    assert!(clouds.contains(&format!("http://{}/v3", server.address("Identity"))));
    let login = |password: &str| {
        let body = serde_json::json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": "admin", "domain": {"id": "default"}, "password": password}}},
            "scope": {"project": {"name": "admin", "domain": {"id": "default"}}},
        }});
        request(
            &server.address("Identity"),
            "POST /v3/auth/tokens",
            &body.to_string(),
        )
    };
    assert_eq!(login("wrong").0, 401);
    let (status, body) = login(&password);
    assert_eq!(status, 201, "{body}");
    for label in ["Volumes", "Images", "Identity"] {
        assert!(body.contains(&server.address(label)), "{label}: {body}");
    }
}

#[test]
fn a_second_process_on_the_same_data_is_refused_also_after_a_kill() {
    let (_parent, data) = folder();
    let server = Server::start(&mut basalt(&data));
    let text = refused(&basalt(&data).output().unwrap());
    assert!(text.contains("another basalt process"), "{text}");
    server.signal(Signal::KILL);
    drop(server);
    assert_eq!(Server::start(&mut basalt(&data)).stop().code(), Some(0));
}

#[test]
fn a_port_in_use_names_the_port_and_the_option() {
    let (_parent, data) = folder();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = basalt(&data)
        .env("OS_IMAGE_API__BIND_PORT", &port)
        .output()
        .unwrap();
    let text = refused(&output);
    assert!(
        text.contains(&port) && text.contains("[image_api] bind_port"),
        "{text}"
    );
}

#[test]
fn what_cannot_start_says_why_in_one_line() {
    let (parent, data) = folder();
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    let text = refused(&basalt(&file.join("data")).output().unwrap());
    assert!(text.contains("data folder"), "{text}");

    let read_only = parent.path().join("read-only");
    std::fs::create_dir(&read_only).unwrap();
    std::fs::set_permissions(&read_only, std::fs::Permissions::from_mode(0o500)).unwrap();
    // Root may write anywhere: then there is nothing to see here.
    if std::fs::write(read_only.join("probe"), "").is_err() {
        let text = refused(&basalt(&read_only).output().unwrap());
        assert!(text.contains("permission denied"), "{text}");
    }

    let output = basalt(&data)
        .env("OS_DEFAULT__QUOTA_VOLUMES", "many")
        .output()
        .unwrap();
    let text = refused(&output);
    assert!(
        text.contains("[DEFAULT] quota_volumes") && text.contains("whole number"),
        "{text}"
    );

    let text = refused(
        &basalt(&data)
            .args(["--config-file", "/nonexistent"])
            .output()
            .unwrap(),
    );
    assert!(text.contains("/nonexistent"), "{text}");
    assert!(!data.exists(), "a refused start leaves nothing behind");

    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("secrets.json"), "{").unwrap();
    assert!(refused(&basalt(&data).output().unwrap()).contains("secrets.json"));
}

#[test]
fn operators_commands_work_beside_a_running_server_and_without_one() {
    let (_parent, data) = folder();
    let text = refused(&basalt(&data).arg("flows").output().unwrap());
    assert!(text.contains("no data of basalt"), "{text}");
    assert!(!data.exists());

    let server = Server::start(&mut basalt(&data));
    let run = |arguments: &[&str]| basalt(&data).args(arguments).output().unwrap();
    for arguments in [
        &["flows", "--all"][..],
        &["flows", "--json"],
        &["db", "status"],
    ] {
        let output = run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
    let unknown = refused(&run(&[
        "flow",
        "show",
        "00000000-0000-0000-0000-000000000000",
    ]));
    assert!(unknown.contains("no flow"), "{unknown}");
    let busy = refused(&run(&["store", "check"]));
    assert!(busy.contains("another basalt process"), "{busy}");
    for arguments in [
        &["store", "du"][..],
        &["store", "scrub", "--rate-mib", "0"],
        &["store", "du", "--json"],
    ] {
        let output = run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
    let missing = refused(&run(&["store", "defragment", "volumes/none"]));
    assert!(missing.contains("does not exist"), "{missing}");
    assert_eq!(server.stop().code(), Some(0));

    let output = run(&["store", "du", "--json"]);
    let usage: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (
            usage["used_bytes"].as_u64(),
            usage["images"].as_array().unwrap().len()
        ),
        (Some(0), 0)
    );
    assert!(run(&["store", "check"]).status.success());
    assert_eq!(run(&["no-such-command"]).status.code(), Some(2));
}

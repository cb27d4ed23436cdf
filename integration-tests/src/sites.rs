//! What servers of the fake internet answer under the names of real ones: an index of packages, a
//! registry, repositories, the weather.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::internet::Internet;

/// The commit that every repository has last.
pub const SUBJECT: &str = "Say hello";

impl Internet {
    /// Lays down an answer, head and all, to requests for a target at a host.
    pub fn answers(&self, host: &str, target: &str, answer: &[u8]) {
        let name: String = target.bytes().map(escaped).collect();
        let path = self.site(host).join(name);
        fs::write(path, answer).expect("it is ours");
    }

    /// The same with this status, type and body.
    pub fn serves(&self, host: &str, target: &str, status: &str, kind: &str, body: &[u8]) {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n"
        );
        self.answers(host, target, &[head.as_bytes(), body].concat());
    }

    /// The same with JSON.
    pub fn serves_json(&self, host: &str, target: &str, body: &Value) {
        let body = body.to_string();
        self.serves(host, target, "200 OK", "application/json", body.as_bytes());
    }

    /// The same with a redirect.
    pub fn redirects(&self, host: &str, target: &str, to: &str) {
        let answer = format!(
            "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        self.answers(host, target, answer.as_bytes());
    }

    /// Serves `OWNER/demo.git` at a host: two commits, a hook, and a submodule of another host.
    pub fn serves_repository(&self, host: &str) {
        let repository = self.site(host).join("repositories/owner/demo.git");
        fs::create_dir_all(&repository).expect("it is ours");
        let script = include_str!("../programs/served-repository.sh");
        run(Command::new("/bin/sh")
            .args(["-c", script, "sh", SUBJECT])
            .arg(&repository));
    }

    /// Serves a wheel and a source archive on the Python Package Index.
    pub fn serves_python_packages(&self) {
        let directory = self.directory.path().join("packages");
        let script = include_str!("../programs/python_packages.py");
        run(Command::new("/usr/bin/python3")
            .args(["-I", "-c", script])
            .arg(&directory));
        for (project, file) in [
            ("demo-wheel", "demo_wheel-1.0-py3-none-any.whl"),
            ("demo-source", "demo_source-1.0.tar.gz"),
        ] {
            let target = format!("/packages/{file}");
            let page = format!(
                "<!DOCTYPE html><html><body>\
                 <a href=\"https://files.pythonhosted.org{target}\">{file}</a></body></html>"
            );
            let index = format!("/simple/{project}/");
            self.serves("pypi.org", &index, "200 OK", "text/html", page.as_bytes());
            let body = fs::read(directory.join(file)).expect("it was made");
            let kind = "application/octet-stream";
            self.serves("files.pythonhosted.org", &target, "200 OK", kind, &body);
        }
    }

    /// Serves a package with an install script on the npm registry.
    pub fn serves_node_packages(&self) {
        let directory = self.directory.path().join("node/package");
        fs::create_dir_all(&directory).expect("it is ours");
        let scripts = json!({ "postinstall": "touch /work/ran" });
        let about = json!({ "name": "demo-node", "version": "1.0.0", "scripts": scripts });
        let write = |name: &str, text: &str| {
            fs::write(directory.join(name), text).expect("it is ours");
        };
        write("package.json", &about.to_string());
        write("index.js", "module.exports = 42\n");
        let archive = self.directory.path().join("node/demo.tgz");
        run(Command::new("/bin/tar")
            .arg("-czf")
            .arg(&archive)
            .arg("-C")
            .arg(self.directory.path().join("node"))
            .arg("package"));
        let (host, target) = ("registry.npmjs.org", "/demo-node/-/demo-node-1.0.0.tgz");
        let archive = fs::read(archive).expect("it was made");
        self.serves(host, target, "200 OK", "application/octet-stream", &archive);
        let mut version = about;
        version["dist"] = json!({ "tarball": format!("https://{host}{target}") });
        version["hasInstallScript"] = json!(true);
        let document = json!({
            "name": "demo-node",
            "dist-tags": { "latest": "1.0.0" },
            "versions": { "1.0.0": version },
        });
        self.serves_json(host, "/demo-node", &document);
    }

    /// Serves the weather of one place and one state.
    pub fn serves_weather(&self) {
        let host = "api.weather.gov";
        let alert = json!({
            "event": "Flood Warning", "severity": "Severe", "urgency": "Immediate",
            "areaDesc": "Sonoma, CA", "onset": null, "effective": "2026-11-27T03:00:00-08:00",
            "ends": null, "expires": "2026-11-27T09:00:00-08:00",
            "headline": "Flood Warning issued November 27",
            "description": "The river is high.", "instruction": "Stay away from it.",
        });
        let alerts = json!({ "features": [{ "properties": alert }] });
        self.serves_json(host, "/alerts/active/area/CA", &alerts);
        let forecast = "/gridpoints/OKX/33,35/forecast";
        let near = json!({ "properties": { "city": "Hoboken", "state": "NJ" } });
        let point = json!({ "properties": {
            "forecast": format!("https://{host}{forecast}"), "relativeLocation": near,
        } });
        self.serves_json(host, "/points/40.7128,-74.006", &point);
        let period = json!({
            "name": "Tonight", "temperature": 31, "temperatureUnit": "F", "windSpeed": "5 mph",
            "windDirection": "NW", "probabilityOfPrecipitation": { "value": 20 },
            "shortForecast": "Clear", "detailedForecast": "Clear, with a low around 31.",
        });
        let periods = json!({ "properties": { "periods": [period] } });
        self.serves_json(host, forecast, &periods);
    }

    fn site(&self, host: &str) -> PathBuf {
        let directory = self.directory.path().join("sites").join(host);
        fs::create_dir_all(&directory).expect("it is ours");
        directory
    }
}

/// A byte of a target as a file's name has it.
fn escaped(byte: u8) -> String {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {output:#?}");
}

/// The directory of a named workspace of the local caller, as the host sees it.
#[must_use]
pub fn workspace(state: &Path, name: &str) -> Option<PathBuf> {
    let callers = fs::read_dir(state.join("workspaces")).ok()?;
    let mut found = callers
        .flatten()
        .map(|caller| caller.path().join(name))
        .filter(|path| path.is_dir());
    found.next()
}

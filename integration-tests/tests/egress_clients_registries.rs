//! Package managers and git in cells, as their users type them: against registries under the names that
//! the programs know by themselves. Beside each that succeeds is the same without one of its hosts.

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::clients::{http_python, npm};
use harness::internet::assert_denied;
use harness::programs::{host, told};
use harness::websites::Sites;
use harness::{World, skip};
use serde_json::{Value, json};

/// Asserts that a program succeeded, and that nothing of the network was denied.
#[track_caller]
fn assert_reached(world: &World, outcome: &Value) {
    assert_eq!(outcome["exit_code"], 0, "{:?} {outcome:#}", world.who);
    let denials = outcome["denials"].as_array().expect("a list");
    let network = denials.iter().find(|denial| denial["kind"] == "network");
    assert_eq!(network, None, "{:?} {outcome:#}", world.who);
}

/// Asserts that a program failed for want of this name.
#[track_caller]
fn assert_missed(outcome: &Value, name: &str) {
    assert_ne!(outcome["exit_code"], 0, "{outcome:#}");
    let allow = format!("network.allow = [\"{name}\"]");
    let rule = "no entry of `network.allow` covers it";
    assert_denied(outcome, &format!("look up {name}"), rule, &allow);
}

fn allow(hosts: &[&str]) -> String {
    format!("[network]\nallow = {}", json!(hosts))
}

/// Runs a command of the host's that prepares something.
#[track_caller]
fn make(program: &str, arguments: &[&str]) {
    let _ = host(program, arguments);
}

fn path(path: &Path) -> &str {
    path.to_str().expect("its name is plain")
}

#[test]
fn git_clones_and_pulls_over_smart_http() {
    Sites::everyone(&["/usr/bin/git"], |sites, world| {
        let origin = sites.file("git/someone/sample.git");
        let origin = path(&origin);
        let made = world.workspace().join("made");
        let made = path(&made);
        make("/usr/bin/git", &["init", "--quiet", "-b", "main", made]);
        fs::write(Path::new(made).join("README"), "a sample\n").expect("it is ours");
        make("/usr/bin/git", &["-C", made, "add", "README"]);
        let commit = "-c user.name=A -c user.email=a@example.org commit --quiet -m one";
        let mut arguments = vec!["-C", made];
        arguments.extend(commit.split(' '));
        make("/usr/bin/git", &arguments);
        make(
            "/usr/bin/git",
            &["clone", "--quiet", "--bare", made, origin],
        );

        let script = "git clone --quiet https://github.com/someone/sample && cd sample && git pull --quiet && cat README";
        let command = ["/bin/sh", "-c", script];
        let missed = sites.run(world, &allow(&["www.example.net"]), &command);
        assert_missed(&missed, "github.com");
        assert_eq!(sites.requests(), [""; 0]);

        let outcome = sites.run(world, &allow(&["github.com:443"]), &command);
        assert_reached(world, &outcome);
        assert_eq!(outcome["stdout"]["text"], "a sample\n", "{outcome:#}");
        let request = "HTTP/2.0 POST github.com/someone/sample/git-upload-pack";
        sites.assert_arrived(request, &["github.com"]);
    });
}

#[test]
fn pip_installs_from_its_index() {
    let Some(python) = http_python() else {
        return;
    };
    Sites::everyone(&["/usr/bin/python3"], |sites, world| {
        let file = "toolcell_sample-1.0-py3-none-any.whl";
        let wheel = sites.file(&format!("files.pythonhosted.org/packages/{file}"));
        let pack = "import sys, zipfile\n\
             with zipfile.ZipFile(sys.argv[1], 'w') as wheel:\n\
             \x20   about = 'toolcell_sample-1.0.dist-info'\n\
             \x20   wheel.writestr('toolcell_sample.py', 'SAID = 42\\n')\n\
             \x20   wheel.writestr(about + '/METADATA', 'Metadata-Version: 2.1\\nName: toolcell-sample\\nVersion: 1.0\\n')\n\
             \x20   wheel.writestr(about + '/WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
             \x20   wheel.writestr(about + '/RECORD', '')\n";
        make("/usr/bin/python3", &["-I", "-c", pack, path(&wheel)]);
        let link = format!("<a href=\"https://files.pythonhosted.org/packages/{file}\">{file}</a>");
        sites.put(
            "pypi.org/simple/toolcell-sample/index.html",
            format!("<!DOCTYPE html><html><body>{link}</body></html>"),
        );

        let environment = path(&python);
        let more =
            format!("[files]\nread = [\"{environment}\"]\n[run]\npass_env = [\"PIP_CERT\"]\n");
        let script = format!(
            "{environment}/bin/python3 -m pip install --no-cache-dir --retries 0 --disable-pip-version-check --target packages toolcell-sample \
             && PYTHONPATH=packages python3 -c 'import toolcell_sample; print(toolcell_sample.SAID)'"
        );
        let command = ["/bin/sh", "-c", &script];
        let missed = sites.run(world, &(more.clone() + &allow(&["pypi.org:443"])), &command);
        assert_missed(&missed, "files.pythonhosted.org");
        sites.assert_arrived(
            "HTTP/1.1 GET pypi.org/simple/toolcell-sample/",
            &["pypi.org"],
        );

        let hosts = ["pypi.org", "files.pythonhosted.org"];
        let outcome = sites.run(world, &(more + &allow(&hosts)), &command);
        assert_reached(world, &outcome);
        let said = outcome["stdout"]["text"].as_str().expect("it is text");
        assert!(said.ends_with("\n42\n"), "{outcome:#}");
        sites.assert_arrived("HTTP/1.1 GET files.pythonhosted.org/packages/", &hosts);
    });
}

#[test]
fn npm_installs_from_its_registry() {
    let Some(node) = npm() else {
        return;
    };
    Sites::everyone(&["/usr/bin/tar"], |sites, world| {
        let about = json!({ "name": "toolcell-sample", "version": "1.0.0", "main": "index.js" });
        world.write("packed/package/package.json", &about.to_string());
        world.write("packed/package/index.js", "module.exports = 42;\n");
        let registry = "registry.npmjs.org/toolcell-sample";
        let tarball = sites.file(&format!("{registry}/-/toolcell-sample-1.0.0.tgz"));
        let packed = world.path("packed");
        make(
            "/usr/bin/tar",
            &["-czf", path(&tarball), "-C", path(&packed), "package"],
        );
        let mut version = about;
        version["dist"] =
            json!({ "tarball": format!("https://{registry}/-/toolcell-sample-1.0.0.tgz") });
        let packument = json!({
            "name": "toolcell-sample",
            "dist-tags": { "latest": "1.0.0" },
            "versions": { "1.0.0": version },
        });
        sites.put(&format!("{registry}/index.html"), packument.to_string());
        world.write("workspace/package.json", "{}");

        let node = path(&node);
        let more =
            format!("[files]\nexec = [\"{node}\"]\n[run]\npass_env = [\"NODE_EXTRA_CA_CERTS\"]\n");
        let script = format!(
            "export PATH={node}/bin:$PATH; \
             node {node}/lib/node_modules/npm/bin/npm-cli.js install --fetch-retries=0 --no-audit toolcell-sample && \
             node -p 'require(\"toolcell-sample\")'"
        );
        let command = ["/bin/sh", "-c", &script];
        let missed = sites.run(world, &(more.clone() + &allow(&["pypi.org"])), &command);
        assert_missed(&missed, "registry.npmjs.org");
        assert_eq!(sites.requests(), [""; 0]);

        let outcome = sites.run(world, &(more + &allow(&["registry.npmjs.org"])), &command);
        assert_reached(world, &outcome);
        let said = outcome["stdout"]["text"].as_str().expect("it is text");
        assert!(said.ends_with("\n42\n"), "{outcome:#}");
        let request = format!("HTTP/1.1 GET {registry}/-/toolcell-sample-1.0.0.tgz");
        sites.assert_arrived(&request, &["registry.npmjs.org"]);
    });
}

#[test]
fn apt_updates_and_downloads() {
    let programs = [
        "/usr/bin/apt-get",
        "/usr/bin/dpkg-deb",
        "/usr/bin/sha256sum",
    ];
    Sites::everyone(&programs, |sites, world| {
        let about = "Package: toolcell-sample\nVersion: 1.0\nArchitecture: all\n\
                     Maintainer: A <a@example.org>\nDescription: a sample\n";
        world.write("packed/DEBIAN/control", about);
        let deb = sites.file("deb.debian.org/debian/sample.deb");
        let packed = world.path("packed");
        make(
            "/usr/bin/dpkg-deb",
            &["--root-owner-group", "--build", path(&packed), path(&deb)],
        );
        let hash = |file: &Path| host("/usr/bin/sha256sum", &[path(file)])[..64].to_owned();
        let size = |file: &Path| fs::metadata(file).expect("it was made").len();
        let entry = format!(
            "{about}Filename: ./sample.deb\nSize: {}\nSHA256: {}\n",
            size(&deb),
            hash(&deb)
        );
        sites.put("deb.debian.org/debian/Packages", entry);
        let index = sites.file("deb.debian.org/debian/Packages");
        let release = format!(
            "Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {} {} Packages\n",
            hash(&index),
            size(&index)
        );
        sites.put("deb.debian.org/debian/Release", release);

        world.write(
            "workspace/sources.list",
            "deb [trusted=yes] http://deb.debian.org/debian ./\n",
        );
        world.write("workspace/status", "");
        // Files of its own, and no other user: a cell has one.
        let config = "Dir::State \"/work/state\";\nDir::State::status \"/work/status\";\n\
             Dir::Cache \"/work/cache\";\nDir::Etc::sourcelist \"/work/sources.list\";\n\
             Dir::Etc::sourceparts \"/nonexistent\";\nAPT::Sandbox::User \"\";\n\
             Acquire::Retries \"0\";\nAPT::Update::Error-Mode \"any\";\n";
        world.write("workspace/apt.conf", config);
        let script = "export APT_CONFIG=/work/apt.conf; mkdir -p state/lists/partial cache/archives/partial; \
                      apt-get update && apt-get download toolcell-sample && ls toolcell-sample*";
        let command = ["/bin/sh", "-c", script];
        let missed = sites.run(world, &allow(&["pypi.org"]), &command);
        assert_missed(&missed, "deb.debian.org");
        assert_eq!(sites.requests(), [""; 0]);

        let outcome = sites.run(world, &allow(&["deb.debian.org:80"]), &command);
        assert_eq!(outcome["exit_code"], 0, "{:?} {outcome:#}", world.who);
        let said = outcome["stdout"]["text"].as_str().expect("it is text");
        assert!(
            said.ends_with("\ntoolcell-sample_1.0_all.deb\n"),
            "{outcome:#}"
        );
        let request = "HTTP/1.1 GET deb.debian.org/debian/./sample.deb";
        sites.assert_arrived(request, &["deb.debian.org"]);
        assert_reached(world, &outcome);
    });
}

/// Puts what fetching takes of the toolchain where everybody can read it.
fn toolchain(sites: &Sites) -> Option<()> {
    let found = told(Command::new("rustc").args(["--print", "sysroot"]));
    let Ok(sysroot) = found else {
        skip("cargo", "there is no Rust toolchain");
        return None;
    };
    let sysroot = Path::new(sysroot.trim());
    let libraries = fs::read_dir(sysroot.join("lib")).ok()?.flatten();
    let names = libraries.filter_map(|entry| Some(format!("lib/{}", entry.file_name().to_str()?)));
    let libraries: Vec<_> = names.filter(|name| name.contains(".so")).collect();
    for name in libraries
        .iter()
        .map(String::as_str)
        .chain(["bin/cargo", "bin/rustc"])
    {
        let (from, to) = (sysroot.join(name), sites.file(&format!("toolchain/{name}")));
        if fs::hard_link(&from, &to).is_err() && fs::copy(&from, &to).is_err() {
            skip("cargo", "its toolchain is not a plain directory");
            return None;
        }
    }
    Some(())
}

#[test]
fn cargo_fetches_from_its_index() {
    let programs = ["/usr/bin/tar", "/usr/bin/sha256sum"];
    Sites::everyone(&programs, |sites, world| {
        if toolchain(sites).is_none() {
            return;
        }
        let manifest =
            "[package]\nname = \"toolcell-sample\"\nversion = \"1.0.0\"\nedition = \"2021\"\n";
        world.write("packed/toolcell-sample-1.0.0/Cargo.toml", manifest);
        world.write("packed/toolcell-sample-1.0.0/src/lib.rs", "");
        let krate = sites.file("static.crates.io/crates/toolcell-sample/1.0.0/download");
        let packed = world.path("packed");
        make(
            "/usr/bin/tar",
            &[
                "-czf",
                path(&krate),
                "-C",
                path(&packed),
                "toolcell-sample-1.0.0",
            ],
        );
        let hash = &host("/usr/bin/sha256sum", &[path(&krate)])[..64];
        let entry = json!({ "name": "toolcell-sample", "vers": "1.0.0", "deps": [], "cksum": hash, "features": {}, "yanked": false });
        sites.put(
            "index.crates.io/to/ol/toolcell-sample",
            format!("{entry}\n"),
        );
        let config = json!({ "dl": "https://static.crates.io/crates", "api": "https://crates.io" });
        sites.put("index.crates.io/config.json", config.to_string());
        let user = "[package]\nname = \"user\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[dependencies]\ntoolcell-sample = \"1\"\n";
        world.write("workspace/Cargo.toml", user);
        world.write("workspace/src/lib.rs", "");

        let bin = sites.file("toolchain/bin/cargo");
        let toolchain = bin
            .parent()
            .and_then(Path::parent)
            .expect("it is two beneath");
        let toolchain = path(toolchain);
        let more = format!("[files]\nexec = [\"{toolchain}\"]\n");
        let script = format!(
            "export CARGO_HOME=/work/home CARGO_NET_RETRY=0 PATH={toolchain}/bin:$PATH; \
             cargo fetch && ls home/registry/src/*/"
        );
        let command = ["/bin/sh", "-c", &script];
        let missed = sites.run(
            world,
            &(more.clone() + &allow(&["index.crates.io:443"])),
            &command,
        );
        assert_missed(&missed, "static.crates.io");
        sites.assert_arrived(
            "HTTP/2.0 GET index.crates.io/to/ol/toolcell-sample",
            &["index.crates.io"],
        );

        let hosts = ["index.crates.io", "static.crates.io"];
        let outcome = sites.run(world, &(more + &allow(&hosts)), &command);
        assert_reached(world, &outcome);
        assert_eq!(
            outcome["stdout"]["text"], "toolcell-sample-1.0.0\n",
            "{outcome:#}"
        );
        sites.assert_arrived("HTTP/2.0 GET static.crates.io/crates/", &hosts);
    });
}

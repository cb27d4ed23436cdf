//! A profile as somebody wrote it.

use profiles::{Diagnostics, Library, SourceFile};
use runner::spec::SPEC_BYTES_MAX;
use runner::wire;

/// Longest text of all diagnostics together that anybody should have to read, for one profile.
const SAID_BYTES_MAX: usize = 1 << 20;

/// Reads, resolves and compiles it.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut library = Library::builtin();
    let file = SourceFile {
        name: "fuzz.toml".to_owned(),
        text: text.to_owned(),
    };
    let name = match library.add(file) {
        Ok(name) => name,
        Err(found) => return explained(&found),
    };
    let resolved = match crate::resolve(&library, &name) {
        Ok(resolved) => resolved,
        Err(found) => return explained(&found),
    };
    assert_eq!(resolved.name, name);
    assert_eq!(
        crate::resolve(&library, &name).ok().as_ref(),
        Some(&resolved)
    );
    let compiled = match crate::compile(&resolved) {
        Ok(compiled) => compiled,
        Err(found) => return explained(&found),
    };
    let template = wire::encode(&compiled.template).expect("plain data can be encoded");
    assert!(
        template.len() <= SPEC_BYTES_MAX,
        "a template of {} bytes",
        template.len()
    );
    let again = crate::compile(&resolved).expect("it compiled before");
    assert_eq!(again.digest, compiled.digest);
    assert!(
        again.template == compiled.template,
        "compiling is no pure function"
    );
}

/// An error says something, and not without end.
fn explained(found: &Diagnostics) {
    assert!(!found.0.is_empty());
    let said = found.to_string();
    assert!(!said.trim().is_empty());
    assert!(
        said.len() <= SAID_BYTES_MAX,
        "{} bytes of diagnostics",
        said.len()
    );
}

/// The profiles that are shipped, and what they leave out.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let library = Library::builtin();
    let shipped = crate::shipped();
    let mut seeds: Vec<_> = shipped
        .iter()
        .filter_map(|name| library.source(name))
        .map(|file| file.text.clone().into_bytes())
        .collect();
    seeds.push(EVERYTHING.as_bytes().to_vec());
    seeds
}

/// Keys that no shipped profile has.
const EVERYTHING: &str = r#"
format = 1
name = "everything"
title = "Everything"
description = "Every key."
tags = ["a"]
extends = ["standard"]
[input]
type = "object"
required = ["path"]
properties.path = { type = "string", maxLength = 10 }
properties.count = { type = "integer", minimum = 1, default = 3 }
properties.words = { type = "array", items = { type = "string" } }
[roots]
docs = "/srv/docs"
[paths.path]
beneath = "{roots.docs}"
kind = "file"
create = true
[run]
argv = ["/usr/bin/env", "--", "{path}", { arg = "count", flag = "-n" }, "{words}", "{{literal}}"]
stdin = "{path}"
cwd = "/work"
env = { LANG = "C.UTF-8", WHAT = "{path}" }
pass_env = ["TZ"]
[files]
read = ["{path}", { path = "/opt", if_present = true, why = "a test" }]
write = ["/work"]
deny = ["/usr/bin/su"]
protect = [".git/hooks"]
workspace = { kind = "named", name = "notes" }
[network]
allow = []
[syscalls]
allow = [{ name = "ptrace", why = "a test" }]
deny = ["mincore"]
[limits]
memory = "1 GiB"
swap = "0 B"
cpu = 1.5
pids = 10
wall = "1 min 30 s"
cpu_time = "500 ms"
idle = "5 s"
grace = "1 s"
output = "1 MB"
inline = "1 KiB"
disk = "1 MiB"
tmp = "1 MiB"
shm = "1 MiB"
open_files = 64
file_size = "1 MiB"
concurrency = 2
rate = "10/min"
[explain]
paths = true
"#;

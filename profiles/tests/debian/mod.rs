//! A Debian 12 machine that exists on paper only, so that what is compiled for it is the same
//! wherever the tests run.

#![allow(dead_code)] // each test file uses a part of it

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use profiles::{
    Arch, Compiled, Diagnostics, Host, Library, Overrides, PathFact, Resolved, SourceFile, Tier,
    compile,
};

/// What `lstat(2)` would find.
#[allow(clippy::too_many_lines)] // A table.
pub fn look(arch: Arch, path: &Path) -> PathFact {
    let multiarch = match arch {
        Arch::X86_64 => "x86_64-linux-gnu",
        Arch::Aarch64 => "aarch64-linux-gnu",
    };
    let link = |link: &str, canonical: &str| PathFact::Symlink {
        link: link.into(),
        canonical: canonical.into(),
    };
    let text = path.to_str().expect("the paper machine has UTF-8 paths");
    match (arch, text) {
        (_, "/bin" | "/sbin" | "/lib") => link(&format!("usr{text}"), &format!("/usr{text}")),
        (Arch::X86_64, "/lib64") => link("usr/lib64", "/usr/lib64"),
        (Arch::X86_64, "/lib64/ld-linux-x86-64.so.2") => link(
            "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
            "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        ),
        (Arch::Aarch64, "/lib/ld-linux-aarch64.so.1") => link(
            "aarch64-linux-gnu/ld-linux-aarch64.so.1",
            "/usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
        ),
        (_, "/bin/sh" | "/usr/bin/sh") => link("dash", "/usr/bin/dash"),
        (_, "/usr/bin/python3") => link("python3.11", "/usr/bin/python3.11"),
        (_, "/usr/bin/vi") => link("/etc/alternatives/vi", "/usr/bin/vim.tiny"),
        (_, "/etc/localtime") => link("/usr/share/zoneinfo/Etc/UTC", "/usr/share/zoneinfo/Etc/UTC"),
        (_, "/srv/current") => link("docs", "/srv/docs"),
        (
            _,
            "/etc/alternatives"
            | "/etc/fonts"
            | "/etc/java-17-openjdk"
            | "/etc/ssl"
            | "/etc/ssl/certs"
            | "/etc/ssl/private"
            | "/etc"
            | "/usr"
            | "/usr/bin"
            | "/usr/lib"
            | "/usr/lib64"
            | "/usr/share"
            | "/usr/share/dict"
            | "/opt"
            | "/opt/data"
            | "/srv"
            | "/srv/docs"
            | "/srv/docs/private"
            | "/srv/repo"
            | "/srv/work"
            | "/sys"
            | "/sys/devices"
            | "/sys/devices/system"
            | "/sys/devices/system/cpu"
            | "/usr/lib/git-core"
            | "/usr/share/ca-certificates"
            | "/usr/share/nodejs"
            | "/run"
            | "/run/postgresql"
            | "/var/run/postgresql"
            | "/var"
            | "/tmp"
            | "/tmp/docs",
        ) => PathFact::Directory,
        (
            _,
            "/usr/bin/cat"
            | "/usr/bin/dash"
            | "/usr/bin/git"
            | "/usr/bin/node"
            | "/usr/bin/npm"
            | "/usr/bin/rg"
            | "/usr/bin/python3.11"
            | "/usr/bin/sqlite3"
            | "/usr/bin/vim.tiny"
            | "/opt/data/run",
        ) => PathFact::File { executable: true },
        (
            _,
            "/etc/ld.so.cache"
            | "/etc/ssl/certs/ca.pem"
            | "/opt/data/notes"
            | "/srv/docs/ca.pem"
            | "/usr/share/zoneinfo/Etc/UTC",
        ) => PathFact::File { executable: false },
        (
            _,
            "/dev/null" | "/dev/zero" | "/dev/full" | "/dev/random" | "/dev/urandom" | "/dev/tty",
        ) => PathFact::Other,
        (
            _,
            "/run/some.sock"
            | "/run/postgresql/.s.PGSQL.5432"
            | "/var/run/postgresql/.s.PGSQL.5432"
            | "/srv/docs/some.sock"
            | "/srv/work/some.sock",
        ) => PathFact::Socket,
        (_, "/var/run") => link("/run", "/run"),
        (_, "/etc/ssl/cert.pem") => link("certs/ca.pem", "/etc/ssl/certs/ca.pem"),
        (_, "/srv/work/ca.pem") => link("/srv/docs/ca.pem", "/srv/docs/ca.pem"),
        (_, loader) if loader.starts_with(&format!("/usr/lib/{multiarch}/ld-linux")) => {
            PathFact::File { executable: true }
        }
        _ => PathFact::Absent,
    }
}

/// The machine with one kernel, as far as a profile wants to know it.
pub fn host(resolved: &Resolved, arch: Arch, landlock_abi: u32) -> Host {
    Host {
        arch,
        landlock_abi,
        notify: true,
        tier: Tier::Full,
        secrets: ["openai".to_owned()].into(),
        paths: Host::gather(&resolved.paths(), |path| look(arch, path)),
    }
}

/// Compiles a profile for the machine with the newest kernel.
pub fn compile_here(resolved: &Resolved) -> Result<Compiled, Diagnostics> {
    compile(resolved, &host(resolved, Arch::X86_64, 9))
}

/// Every root, and hosts, that a built-in profile asks for.
pub fn overrides() -> Overrides {
    let roots = [
        ("databases", "/srv/docs"),
        ("docs", "/srv/docs"),
        ("files", "/srv/docs"),
        ("repository", "/srv/repo"),
        ("writable", "/srv/work"),
    ];
    Overrides {
        roots: roots
            .map(|(name, path)| (name.to_owned(), PathBuf::from(path)))
            .into(),
        hosts: [("http_fetch".to_owned(), "example.org".to_owned())].into(),
        ..Overrides::default()
    }
}

/// A library with one more file, which must be readable.
pub fn library_with(text: &str) -> (Library, String) {
    let mut library = Library::builtin();
    let name = library
        .add(file(text))
        .unwrap_or_else(|error| panic!("{error}"));
    (library, name)
}

/// A profile's text as a file.
pub fn file(text: &str) -> SourceFile {
    SourceFile {
        name: "profiles/tool.toml".to_owned(),
        text: text.to_owned(),
    }
}

/// Resolves a profile of one file.
pub fn resolve(text: &str) -> Result<Resolved, Diagnostics> {
    let mut library = Library::builtin();
    let name = library.add(file(text))?;
    library.resolve(&name, &overrides())
}

/// Resolves and compiles a profile of one file.
pub fn compiled(text: &str) -> Result<Compiled, Diagnostics> {
    compile_here(&resolve(text)?)
}

/// The supervisor's environment.
pub fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

//! Hosts with musl: nothing of a cell depends on files of glibc's.

use std::path::Path;

use profiles::{Arch, Host, Library, PathFact, Tier, compile};

use super::debian;

const LOADER: &str = "/lib/ld-musl-x86_64.so.1";

/// Alpine without a merged `/usr`: no `ld-linux`, no `ld.so.cache`, no `/lib64`.
fn alpine(path: &Path) -> PathFact {
    match path.to_str().expect("the paper machine has UTF-8 paths") {
        "/" | "/bin" | "/sbin" | "/lib" | "/usr" | "/usr/bin" | "/usr/lib" | "/etc"
        | "/etc/ssl" | "/etc/ssl/certs" | "/tmp" | "/srv" | "/srv/docs" | "/srv/work"
        | "/srv/repo" => PathFact::Directory,
        LOADER | "/bin/busybox" | "/usr/bin/python3" => PathFact::File { executable: true },
        "/bin/sh" => PathFact::Symlink {
            link: "/bin/busybox".into(),
            canonical: "/bin/busybox".into(),
        },
        "/dev/null" | "/dev/zero" | "/dev/full" | "/dev/random" | "/dev/urandom" | "/dev/tty" => {
            PathFact::Other
        }
        _ => PathFact::Absent,
    }
}

#[test]
fn the_bases_compile_without_a_file_of_glibcs() {
    let library = Library::builtin();
    for base in ["minimal", "readonly", "standard", "privileged"] {
        let resolved = library.resolve(base, &debian::overrides()).unwrap();
        let host = Host {
            arch: Arch::X86_64,
            landlock_abi: 7,
            notify: true,
            tier: Tier::Full,
            secrets: std::collections::BTreeSet::new(),
            paths: Host::gather(&resolved.paths(), alpine),
        };
        let compiled = compile(&resolved, &host).unwrap_or_else(|error| panic!("{base}: {error}"));
        let mounted = format!("{:?}", compiled.template.mounts);
        assert!(!mounted.contains("ld-linux"), "{base}: {mounted}");
        if base != "minimal" {
            for program in [LOADER, "/bin/busybox", "/usr/bin/python3"] {
                assert!(
                    compiled.may_execute(Path::new(program)),
                    "{base}: {program}"
                );
            }
        }
    }
}

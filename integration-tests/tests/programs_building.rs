//! What developers run: compilers, make, Git, archivers.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use harness::programs::{ROOMY, host, installed, roomy_with_exec, script};
use harness::{World, everyone};

/// Programs look up users by way of nscd's socket first, which a workspace of the host denies.
const LOOKS_FOR_NSCD: &[&str] = &["socket(AF_UNIX"];

#[test]
fn gcc_optimises_across_files_at_link_time() {
    if !installed(&["/usr/bin/gcc", "/usr/include/stdio.h"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        world.write(
            "workspace/main.c",
            "int part(int);\nint main(void) { return part(40); }\n",
        );
        world.write("workspace/part.c", "int part(int n) { return n + 2; }\n");
        let script = "gcc -O2 -flto=2 -c main.c part.c && gcc -O2 -flto=2 -o built main.o part.o \
                     && { ./built; test $? = 42; }";
        let outcome = world.run_in_workspace(&roomy_with_exec(), &["/bin/sh", "-c", script]);
        world.assert_unbroken(&outcome, LOOKS_FOR_NSCD);
        let built = fs::metadata(world.workspace().join("built")).expect("it was built");
        assert_eq!(built.permissions().mode() & 0o111, 0o111);
        let workspace = fs::metadata(world.workspace()).expect("it exists");
        assert_eq!(
            built.uid(),
            workspace.uid(),
            "files belong to who asked for them"
        );
    }
}

#[test]
fn what_is_built_cannot_be_run_unless_the_profile_says_so() {
    if !installed(&["/usr/bin/gcc", "/usr/include/stdio.h"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        world.write("workspace/main.c", "int main(void) { return 0; }\n");
        let build = "gcc -o built main.c && ./built";
        let allowed = world.run_in_workspace(&roomy_with_exec(), &["/bin/sh", "-c", build]);
        world.assert_unbroken(&allowed, LOOKS_FOR_NSCD);
        let denied = world.run_in_workspace(ROOMY, &["/bin/sh", "-c", build]);
        assert_eq!(denied["exit_code"], 126, "{who:?}: {denied:#}");
    }
}

#[test]
fn address_sanitizer_finds_an_overflow() {
    if !installed(&["/usr/bin/gcc", "/usr/include/stdio.h"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        world.write("workspace/overflow.c", &script("overflow.c"));
        // Its search for leaks stops all threads by ptrace, which only `privileged` allows.
        let build = "gcc -fsanitize=address,undefined -g -o checked overflow.c \
                     && export ASAN_OPTIONS=detect_leaks=0 && ./checked \
                     && ! ./checked x 2> report";
        let outcome = world.run_in_workspace(&roomy_with_exec(), &["/bin/sh", "-c", build]);
        world.assert_unbroken(&outcome, LOOKS_FOR_NSCD);
        assert_eq!(outcome["stdout"]["text"], "42\n");
        let report = fs::read_to_string(world.workspace().join("report")).expect("it was written");
        assert!(report.contains("stack-buffer-overflow"), "{report}");
    }
}

#[test]
fn leak_sanitizer_works_where_the_profile_allows_ptrace() {
    if !installed(&["/usr/bin/gcc", "/usr/include/stdio.h"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let leak = "#include <stdlib.h>\nint main(void) { return !malloc(42); }\n";
        let build = "printf %s \"$1\" > leak.c && gcc -fsanitize=address -g -o checked leak.c \
                     && ./checked";
        let outcome = world.run("privileged", &["/bin/sh", "-c", build, "sh", leak]);
        let report = outcome["stderr"]["text"].as_str().expect("it is text");
        assert!(report.contains("42 byte(s) leaked"), "{who:?}: {outcome:#}");
    }
}

#[test]
fn make_runs_jobs_in_parallel() {
    if !installed(&["/usr/bin/make"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let rules = "parts := $(addprefix part-,$(shell seq 20))\n\
                     all: $(parts)\n\tcat $(sort $^) > all\n\
                     part-%:\n\techo $* > $@\n";
        world.write("workspace/Makefile", rules);
        let outcome = world.run_in_workspace(ROOMY, &["/usr/bin/make", "-j8", "-s"]);
        world.assert_unbroken(&outcome, LOOKS_FOR_NSCD);
        let all = fs::read_to_string(world.workspace().join("all")).expect("it was made");
        assert_eq!(all.lines().count(), 20, "{all}");
    }
}

#[test]
fn git_commits_clones_and_collects_garbage() {
    if !installed(&["/usr/bin/git"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let outcome = world.run_in_workspace(ROOMY, &["/bin/sh", "-c", &script("repository.sh")]);
        world.assert_unbroken(&outcome, LOOKS_FOR_NSCD);
        let copy = world.workspace().join("copy");
        let git = |arguments: &[&str]| {
            let place = [
                "-c",
                "safe.directory=*",
                "-C",
                copy.to_str().expect("a plain path"),
            ];
            host("/usr/bin/git", &[&place, arguments].concat())
        };
        git(&["fsck", "--full", "--strict"]);
        assert_eq!(git(&["rev-list", "--count", "HEAD"]), "7\n");
        assert_eq!(git(&["describe", "HEAD"]), "v1\n");
        let packs = fs::read_dir(copy.join(".git/objects/pack")).expect("objects are packed");
        let packed = packs.flatten().filter(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "pack")
        });
        assert_eq!(packed.count(), 1);
    }
}

#[test]
fn tar_and_xz_pack_and_unpack() {
    if !installed(&["/usr/bin/xz", "/bin/tar"]) {
        return;
    }
    for who in everyone() {
        let world = World::new(who);
        let pack = "mkdir -p tree/deep && seq 100000 > tree/deep/numbers \
                    && ln -s deep/numbers tree/link && ln tree/deep/numbers tree/hard \
                    && chmod 640 tree/deep/numbers && tar -cf - tree | xz -T2 -9 > tree.tar.xz \
                    && mkdir again && tar -xJf tree.tar.xz -C again && diff -r tree again/tree";
        let outcome = world.run_in_workspace(ROOMY, &["/bin/sh", "-c", pack]);
        world.assert_unbroken(&outcome, LOOKS_FOR_NSCD);
        let archive = world.workspace().join("tree.tar.xz");
        let listed = host(
            "/bin/tar",
            &["-tJf", archive.to_str().expect("a plain path")],
        );
        assert_eq!(listed.lines().count(), 5, "{listed}");
        let unpacked = fs::metadata(world.workspace().join("again/tree/deep/numbers"));
        let unpacked = unpacked.expect("it was unpacked");
        assert_eq!(unpacked.permissions().mode() & 0o777, 0o640);
        assert_eq!(unpacked.nlink(), 2);
    }
}

//! What belongs to files of the host and is not their contents: modes, owners, times, attributes.
//!
//! Landlock stops none of it (at the ABIs that are out), and an ordinary user's cells run as that
//! user, to whom the files belong: so it is the read-only mounts alone that hold here. The test looks
//! at the file on the host. The positive control is the same attempt in a directory that the profile
//! lets the tool write, where it goes through.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use harness::ground::{Ground, Said};
use harness::{Who, everyone, skip};

/// Everything that a file has beside its contents.
fn metadata(path: &Path) -> [i64; 7] {
    let metadata = std::fs::symlink_metadata(path).expect("the host has it");
    [
        i64::from(metadata.mode()),
        i64::from(metadata.uid()),
        i64::from(metadata.gid()),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ]
}

const ATTEMPTS: [&[&str]; 7] = [
    &["chmod", "PATH", "600"],
    &["fchmod", "PATH", "600"],
    &["fchmodat2", "PATH", "600"],
    &["utimes", "PATH"],
    &["setxattr", "PATH", "user.toolcell", "x"],
    &["flags", "PATH"],
    &["truncate", "PATH"],
];

/// Whether the kernel is one before 6.6, which has no `fchmodat2`; said loudly.
fn lacks(said: &Said, attempt: &[&str]) -> bool {
    let lacks = attempt[0] == "fchmodat2" && *said == "ENOSYS";
    if lacks {
        skip("fchmodat2", "this kernel does not know it");
    }
    lacks
}

fn words(attempt: &[&str], path: &Path) -> Vec<String> {
    let path = path.display().to_string();
    attempt
        .iter()
        .map(|word| word.replace("PATH", &path))
        .collect()
}

#[test]
fn nothing_about_a_file_that_may_be_read_is_changed() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("listed");
        let file = ground.file("listed/file", "contents");
        let profile = ground.profile(&format!("read = [\"{}\"]", ground.text("listed")), "");
        let before = metadata(&file);
        for attempt in ATTEMPTS {
            let said = ground.attempt(&profile, &words(attempt, &file));
            if lacks(&said, attempt) {
                continue;
            }
            let expected = if attempt[0] == "truncate" {
                "EACCES"
            } else {
                "EROFS"
            };
            // Landlock is asked about truncation first; about the rest it is not asked at all.
            assert!(
                said == "EROFS" || said == expected,
                "{who:?} {attempt:?}: {said:#?}"
            );
            assert_eq!(metadata(&file), before, "{who:?} {attempt:?}");
        }
        assert_eq!(
            std::fs::read(&file).expect("the host has it"),
            b"contents",
            "{who:?}"
        );
    }
}

#[test]
fn the_same_attempts_change_a_file_that_may_be_written() {
    // The cells of an ordinary user's run as the owner, so nothing but the profile is in the way.
    let ground = Ground::new(Who::User);
    ground.directory("listed");
    let profile = ground.profile(&format!("write = [\"{}\"]", ground.text("listed")), "");
    for (index, attempt) in ATTEMPTS.into_iter().enumerate() {
        let file = ground.file(&format!("listed/{index}"), "contents");
        let before = metadata(&file);
        let said = ground.attempt(&profile, &words(attempt, &file));
        if lacks(&said, attempt) {
            continue;
        }
        assert!(said.succeeded(), "{attempt:?}: {said:#?}");
        assert_ne!(metadata(&file), before, "{attempt:?}");
    }
}

#[test]
fn nothing_about_a_directory_that_may_be_read_is_changed() {
    for who in everyone() {
        let ground = Ground::new(who);
        let listed = ground.directory("listed");
        let profile = ground.profile(&format!("read = [\"{}\"]", listed.display()), "");
        let before = metadata(&listed);
        for attempt in &ATTEMPTS[..5] {
            let said = ground.attempt(&profile, &words(attempt, &listed));
            if lacks(&said, attempt) {
                continue;
            }
            assert_eq!(said, "EROFS", "{who:?} {attempt:?}");
            assert_eq!(metadata(&listed), before, "{who:?} {attempt:?}");
        }
    }
}

#[test]
fn nothing_about_the_hosts_device_nodes_is_changed() {
    for who in everyone() {
        let ground = Ground::new(who);
        let profile = ground.profile("", "");
        for device in ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/tty"] {
            let path = Path::new(device);
            let before = &metadata(path)[..3];
            for attempt in [
                &["chmod", "PATH", "600"][..],
                &["chown", "PATH", "1000", "1000"],
                &["utimes", "PATH"],
                &["setxattr", "PATH", "user.toolcell", "x"],
            ] {
                let said = ground.attempt(&profile, &words(attempt, path));
                assert_eq!(said, "EROFS", "{who:?} {attempt:?} {device}");
            }
            assert_eq!(&metadata(path)[..3], before, "{who:?} {device}");
        }
        // What the mounts must not stop: the device still works.
        let said = ground.attempt(&profile, &["append", "/dev/null", "x"]);
        assert!(said.succeeded(), "{who:?}: {said:#?}");
    }
}

#[test]
fn no_file_of_the_host_changes_its_owner() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("listed");
        let file = ground.file("listed/file", "contents");
        let profile = ground.profile(&format!("write = [\"{}\"]", ground.text("listed")), "");
        let before = metadata(&file);
        for id in ["0", "1", "1001", "65534"] {
            let said = ground.attempt(
                &profile,
                &[
                    "chown".to_owned(),
                    ground.text("listed/file"),
                    id.to_owned(),
                    id.to_owned(),
                ],
            );
            // Ids that the cell's user namespace does not map are invalid.
            assert!(
                ["EPERM", "EINVAL"].contains(&said.answer.as_str()),
                "{who:?} {id}: {said:#?}"
            );
        }
        assert_eq!(metadata(&file), before, "{who:?}");
    }
}

/// A program with a set-id bit, left in a directory of the host, would run there with the rights of
/// the cell's host user, whoever starts it (bubblewrap's CVE-2020-5291).
#[test]
fn no_program_with_a_set_id_bit_is_left_in_a_workspace_of_the_host() {
    for who in everyone() {
        let ground = Ground::new(who);
        let workspace = ground.workspace("workspace");
        let plain = ground.file("workspace/program", "#!/bin/sh\n");
        ground.ordinary(&plain);
        let options = [
            "--workspace",
            workspace.to_str().expect("temporary names are text"),
        ];
        let profile = ground.profile("", "");
        for attempt in [
            &["chmod", "/work/program", "4755"][..],
            &["chmod", "/work/program", "2755"],
            &["fchmod", "/work/program", "4755"],
            &["fchmodat2", "/work/program", "4755"],
            &["create_mode", "/work/new", "4755"],
            &["create_mode", "/work/new", "2755"],
            &[
                "setxattr",
                "/work/program",
                "security.capability",
                "capability",
            ],
        ] {
            let said = ground.attempt_with(&profile, &options, attempt);
            assert_eq!(said, "EPERM", "{who:?} {attempt:?}");
            assert_eq!(metadata(&plain)[0] & 0o6000, 0, "{who:?} {attempt:?}");
            assert!(!workspace.join("new").exists(), "{who:?} {attempt:?}");
        }
        for attempt in [
            &["chmod", "/work/program", "755"][..],
            &["create_mode", "/work/new", "755"],
        ] {
            let said = ground.attempt_with(&profile, &options, attempt);
            assert!(
                said.succeeded(),
                "the control of {who:?} {attempt:?}: {said:#?}"
            );
        }
        let path = ground.text("workspace/program");
        if who == Who::User {
            // Outside, its owner may.
            let said = ground.outside(&["chmod", &path, "4755"]);
            assert!(said.succeeded(), "the control of {who:?}: {said:#?}");
        }
    }
}

#[test]
fn no_device_node_or_whiteout_is_made_in_a_workspace_of_the_host() {
    for who in everyone() {
        let ground = Ground::new(who);
        let workspace = ground.workspace("workspace");
        let file = ground.file("workspace/file", "contents");
        ground.ordinary(&file);
        let options = [
            "--workspace",
            workspace.to_str().expect("temporary names are text"),
        ];
        let profile = ground.profile("", "");
        for attempt in [
            &["node", "/work/node", "c", "1", "3"][..],
            &["node", "/work/node", "b", "7", "0"],
            // By device 0:0 overlays hide files.
            &["node", "/work/node", "c", "0", "0"],
            &["whiteout", "/work/file", "/work/node"],
            // A process outside may run into these and wait for ever.
            &["fifo", "/work/node"],
        ] {
            let said = ground.attempt_with(&profile, &options, attempt);
            assert!(
                ["EPERM", "EACCES", "EINVAL"].contains(&said.answer.as_str()),
                "{who:?} {attempt:?}: {said:#?}"
            );
            let left = std::fs::read_dir(&workspace)
                .expect("the host has it")
                .count();
            assert_eq!(left, 1, "{who:?} {attempt:?}");
        }
        let path = ground.text("workspace/node");
        assert!(
            ground.outside(&["fifo", &path]).succeeded(),
            "the control of {who:?}"
        );
        // Within the cell's own directories a FIFO harms nobody.
        let said = ground.attempt(&profile, &["fifo", "/tmp/fifo"]);
        assert!(said.succeeded(), "the control of {who:?}: {said:#?}");
    }
}

/// Also where a directory of the host lies beneath one of the cell's own, to whose rights Landlock
/// looks up.
#[test]
fn no_fifo_is_made_in_a_directory_of_the_host_beneath_the_cells_own() {
    for who in everyone() {
        let ground = Ground::new(who);
        let readable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(ground.world.directory.path(), readable).expect("it is ours");
        let listed = ground.world.path("listed");
        std::fs::create_dir(&listed).expect("it is ours");
        ground.ordinary(&listed);
        assert!(listed.starts_with("/tmp"), "this test is about /tmp");
        let everyone = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&listed, everyone).expect("it is ours");
        let path = listed.join("new").display().to_string();
        let profile = ground.profile(&format!("write = [\"{}\"]", listed.display()), "");
        assert_eq!(
            ground.attempt(&profile, &["fifo", &path]),
            "EACCES",
            "{who:?}"
        );
        assert!(!listed.join("new").exists(), "{who:?}");
        let said = ground.attempt(&profile, &["create", &path, "x"]);
        assert!(said.succeeded(), "the control of {who:?}: {said:#?}");
        let said = ground.attempt(&ground.profile("", ""), &["fifo", "/tmp/new"]);
        assert!(said.succeeded(), "the control of {who:?}: {said:#?}");
    }
}

/// A directory of root's is shown by a mount that maps its owner: what a tool makes in it is root's on
/// the host, so a set-id bit would be worth the most there.
#[test]
fn nothing_dangerous_is_left_in_a_workspace_of_roots() {
    if !everyone().contains(&Who::Root) {
        return skip(
            "a workspace of root's",
            "the tests were not started by root",
        );
    }
    let ground = Ground::new(Who::Root);
    let workspace = ground.directory("workspace");
    let file = ground.file("workspace/program", "#!/bin/sh\n");
    let options = [
        "--workspace",
        workspace.to_str().expect("temporary names are text"),
    ];
    let profile = ground.profile("", "");
    for attempt in [
        &["chmod", "/work/program", "4755"][..],
        &["fchmod", "/work/program", "6755"],
        &["fchmodat2", "/work/program", "4755"],
        &["create_mode", "/work/new", "4755"],
        &[
            "setxattr",
            "/work/program",
            "security.capability",
            "capability",
        ],
        &["chown", "/work/program", "0", "0"],
        &["node", "/work/new", "c", "1", "3"],
        &["node", "/work/new", "b", "7", "0"],
        &["whiteout", "/work/program", "/work/new"],
        &["fifo", "/work/new"],
    ] {
        let before = metadata(&file);
        let said = ground.attempt_with(&profile, &options, attempt);
        let refused = ["EPERM", "EACCES", "EINVAL"].contains(&said.answer.as_str());
        assert!(refused, "{attempt:?}: {said:#?}");
        assert_eq!(metadata(&file), before, "{attempt:?}");
        assert!(!workspace.join("new").exists(), "{attempt:?}");
    }
    let said = ground.attempt_with(&profile, &options, &["create", "/work/new", "x"]);
    assert!(said.succeeded(), "the control: {said:#?}");
    let [mode, user, ..] = metadata(&workspace.join("new"));
    assert_eq!((mode & 0o7000, user), (0, 0), "the control: it is root's");
}

/// Whether anything was read is nobody's business either.
#[test]
fn reading_leaves_no_trace_on_the_host() {
    for who in everyone() {
        let ground = Ground::new(who);
        ground.directory("listed");
        let file = ground.file("listed/file", "contents");
        let epoch = std::fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH);
        let opened = std::fs::File::open(&file).expect("the host has it");
        opened.set_times(epoch).expect("it is ours");
        let profile = ground.profile(&format!("read = [\"{}\"]", ground.text("listed")), "");
        let said = ground.attempt(&profile, &["read".to_owned(), ground.text("listed/file")]);
        assert_eq!(said.detail(), "contents", "{who:?}");
        let accessed = std::fs::metadata(&file).expect("the host has it").atime();
        assert_eq!(accessed, 0, "{who:?}");
    }
}

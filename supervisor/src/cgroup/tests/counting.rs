//! What a group limits and counts.

use super::*;

#[tokio::test]
async fn limits_read_back_as_they_were_asked_for() {
    let group = some_or_skip!(group("limits_read_back_as_they_were_asked_for", LIMITS));
    let lines = group.read_back();
    let (memory, pids) = match group.entry() {
        CgroupEntry::V2 => ("memory.max = 67108864", "pids.max = 65"),
        _ => ("memory.limit_in_bytes = 67108864", "pids.max = 65"),
    };
    assert!(lines.iter().any(|line| line == memory), "{lines:?}");
    assert!(lines.iter().any(|line| line == pids), "{lines:?}");
    let gone = paths(&group);
    group.remove().await.unwrap();
    assert_gone(&gone);
}

#[test]
fn a_group_that_exists_is_not_taken_over() {
    let name = "a_group_that_exists_is_not_taken_over";
    let held = some_or_skip!(group(name, LIMITS));
    let again = cgroups(name).unwrap().create(name, &LIMITS);
    assert!(matches!(again, Err(CgroupError::Make { .. })), "{again:?}");
    assert!(held.directories.paths().iter().all(|path| path.exists()));
}

#[test]
fn nothing_is_left_when_a_limit_is_refused() {
    let name = "nothing_is_left_when_a_limit_is_refused";
    let cgroups = some_or_skip!(cgroups(name));
    let impossible = CellLimits {
        pids: u32::MAX,
        ..LIMITS
    };
    let refused = cgroups.create(name, &impossible);
    assert!(refused.is_err(), "{refused:?}");
    for parent in cgroups.parents() {
        let left: Vec<_> = directories::children(parent)
            .into_iter()
            .filter(|path| path.to_string_lossy().ends_with(name))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn every_entry_descriptor_leads_into_the_group() {
    let name = "every_entry_descriptor_leads_into_the_group";
    let group = some_or_skip!(group(name, LIMITS));
    let CgroupEntry::V1(count) = group.entry() else {
        skip(name, "v1 only; see tests/cgroup_entry.rs for v2");
        return;
    };
    let descriptors = group.entry_descriptors();
    assert_eq!(descriptors.len(), usize::from(count));
    for descriptor in descriptors {
        let file = std::fs::File::from(descriptor.try_clone_to_owned().unwrap());
        // "0" is the writing process.
        let output = Command::new("/bin/sh")
            .args(["-c", "echo 0; cat /proc/self/cgroup >&2"])
            .stdout(file)
            .output()
            .unwrap();
        let within = String::from_utf8(output.stderr).unwrap();
        assert!(within.contains(name), "{within}");
    }
}

#[test]
fn out_of_memory_is_told_from_a_plain_kill() {
    let name = "out_of_memory_is_told_from_a_plain_kill";
    let hungry = some_or_skip!(group(name, LIMITS));
    let status = run(
        &hungry,
        "head -c 300000000 /dev/zero | exec tail > /dev/null",
    );
    assert!(!status.success());
    assert!(hungry.events().unwrap().oom_kills >= 1);
    drop(hungry);

    let killed = group(name, LIMITS).unwrap();
    let status = run(&killed, "kill -9 $$");
    assert_eq!(status.signal(), Some(9));
    assert_eq!(killed.events().unwrap(), Events::default());
}

#[test]
fn out_of_memory_of_a_grandchild_is_seen_however_the_tool_ends() {
    let name = "out_of_memory_of_a_grandchild_is_seen_however_the_tool_ends";
    let group = some_or_skip!(group(name, LIMITS));
    let status = run(&group, &format!("( ({HOG}) & wait ); exit 0"));
    match group.entry() {
        // The whole cell went.
        CgroupEntry::V2 => assert_eq!(status.signal(), Some(9)),
        _ => assert_eq!(status.code(), Some(0)),
    }
    assert!(group.events().unwrap().oom_kills >= 1);
}

#[test]
fn files_in_memory_count_as_memory() {
    let name = "files_in_memory_count_as_memory";
    let group = some_or_skip!(group(name, LIMITS));
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    let script = format!("head -c 300000000 /dev/zero > {}", file.path().display());
    assert!(!run(&group, &script).success());
    assert!(group.events().unwrap().oom_kills >= 1);
}

#[tokio::test]
async fn a_wait_resolves_when_memory_runs_out() {
    let name = "a_wait_resolves_when_memory_runs_out";
    let group = some_or_skip!(group(name, LIMITS));
    let mut child = started(&group, HOG);
    timeout(LONG, group.event()).await.expect("no event");
    assert!(group.notice.is_told(), "the kernel does not tell");
    assert!(group.events().unwrap().oom_kills >= 1);
    child.wait().unwrap();
}

#[tokio::test]
async fn a_wait_resolves_when_a_fork_is_refused() {
    let name = "a_wait_resolves_when_a_fork_is_refused";
    let group = some_or_skip!(group(name, CellLimits { pids: 2, ..LIMITS }));
    let mut child = started(&group, "sleep 60 & sleep 60 & sleep 60 & sleep 60 & wait");
    timeout(LONG, group.event()).await.expect("no event");
    assert!(group.events().unwrap().pids_denied >= 1);
    group.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_wait_that_was_given_up_loses_nothing() {
    let name = "a_wait_that_was_given_up_loses_nothing";
    let group = some_or_skip!(group(name, CellLimits { pids: 2, ..LIMITS }));
    // The control: work that runs into no limit is no event.
    let status = run(&group, "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done");
    assert!(status.success());
    let early = timeout(Duration::from_millis(200), group.event()).await;
    assert!(early.is_err(), "an event without a reason");
    let _ = run(&group, "sleep 0 & sleep 0 & sleep 0 & sleep 0 & wait");
    assert!(group.events().unwrap().pids_denied >= 1);
    timeout(LONG, group.event()).await.expect("no event");
}

#[test]
fn a_refused_fork_is_counted_and_a_granted_one_is_not() {
    let name = "a_refused_fork_is_counted_and_a_granted_one_is_not";
    let script = "sleep 0 & sleep 0 & sleep 0 & wait";
    let tight = some_or_skip!(group(name, CellLimits { pids: 1, ..LIMITS }));
    assert!(!run(&tight, script).success());
    assert!(tight.events().unwrap().pids_denied >= 1);
    drop(tight);
    let roomy = group(name, LIMITS).unwrap();
    assert!(run(&roomy, script).success());
    assert_eq!(roomy.events().unwrap().pids_denied, 0);
}

#[test]
fn cpu_time_of_all_processes_is_counted() {
    let name = "cpu_time_of_all_processes_is_counted";
    let group = some_or_skip!(group(name, LIMITS));
    let before = group.cpu_micros().unwrap();
    let busy = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    assert!(run(&group, &format!("({busy}) & {busy}; wait")).success());
    let used = group.cpu_micros().unwrap() - before;
    assert!(used > 10_000, "{used} microseconds");
    let usage = group.usage();
    let sum = usage.user_micros + usage.system_micros;
    assert!(sum.abs_diff(group.cpu_micros().unwrap()) <= 2, "{usage:?}");
    assert!(
        usage.memory_peak_bytes.is_none_or(|peak| peak > 100_000),
        "{usage:?}"
    );
    // Two shells, of which one has the room of the cell's own process.
    assert!(usage.pids_peak.is_none_or(|peak| peak == 1), "{usage:?}");
}

#[test]
fn the_cpu_limit_holds_for_all_processes_together() {
    /// What may be used up at once beyond the share: a slice of 5 ms on each CPU.
    const SLACK_MICROS: u128 = 50_000;
    let name = "the_cpu_limit_holds_for_all_processes_together";
    // So little that it is felt on a busy machine too.
    let group = some_or_skip!(group(
        name,
        CellLimits {
            cpu: 0.02,
            ..LIMITS
        }
    ));
    let throttled = || {
        let mut files = group
            .directories
            .paths()
            .iter()
            .map(|path| path.join("cpu.stat"));
        let path = files.find(|path| path.exists()).unwrap();
        file::keyed(&path, &file::read(&path).unwrap(), "nr_throttled").unwrap()
    };
    let since = Instant::now();
    let mut child = started(&group, "(while :; do :; done) & while :; do :; done");
    while throttled() < 5 {
        assert!(since.elapsed() < LONG, "it is not held up");
        std::thread::yield_now();
    }
    let used = u128::from(group.cpu_micros().unwrap());
    let share = since.elapsed().as_micros() / 50;
    assert!(
        used <= share + SLACK_MICROS,
        "{used} of {share} microseconds"
    );

    // The control: once the limit is lifted, nothing holds the same work up.
    group.unthrottle();
    let (before, from) = (throttled(), group.cpu_micros().unwrap());
    while group.cpu_micros().unwrap() - from < 100_000 {
        assert!(since.elapsed() < 2 * LONG, "it does not run at all");
        std::thread::yield_now();
    }
    assert!(throttled() <= before + 1, "still held up");
    group.kill().unwrap();
    child.wait().unwrap();
}

//! How everything in a group ends, and the group with it.

use super::*;

#[test]
fn forks_that_a_kill_refuses_are_not_counted() {
    let name = "forks_that_a_kill_refuses_are_not_counted";
    let group = some_or_skip!(group(name, LIMITS));
    let forking = "while :; do /bin/true & /bin/true & wait; done";
    let mut child = started(&group, &format!("({forking}) & ({forking}) & {forking}"));
    group.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(group.events().unwrap().pids_denied, 0);
}

#[tokio::test]
async fn daemons_stopped_and_forking_processes_all_end() {
    let name = "daemons_stopped_and_forking_processes_all_end";
    let group = some_or_skip!(group(name, LIMITS));
    let script = "trap '' TERM HUP INT; setsid sleep 600 & setsid sh -c 'kill -STOP $$' & \
                  (while :; do /bin/true & wait; done) & sleep 600";
    let mut child = started(&group, script);
    assert!(!group.is_empty());
    group.kill().unwrap();
    let gone = paths(&group);
    group.remove().await.unwrap();
    assert_gone(&gone);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[tokio::test]
async fn a_fork_bomb_ends() {
    let name = "a_fork_bomb_ends";
    let group = some_or_skip!(group(
        name,
        CellLimits {
            pids: 200,
            ..LIMITS
        }
    ));
    let mut child = started(&group, "f() { f & f & wait; }; f");
    timeout(LONG, group.event())
        .await
        .expect("it never hit its limit");
    let gone = paths(&group);
    group.remove().await.unwrap();
    assert_gone(&gone);
    child.wait().unwrap();
}

#[tokio::test]
async fn a_throttled_group_ends_at_once() {
    let name = "a_throttled_group_ends_at_once";
    let group = some_or_skip!(group(
        name,
        CellLimits {
            cpu: 0.01,
            ..LIMITS
        }
    ));
    let busy = "(while :; do :; done) & ".repeat(8);
    let mut child = started(&group, &format!("{busy} wait"));
    let since = Instant::now();
    group.kill().unwrap();
    group.remove().await.unwrap();
    assert!(
        since.elapsed() < Duration::from_secs(3),
        "{:?}",
        since.elapsed()
    );
    child.wait().unwrap();
}

#[tokio::test]
async fn a_zombie_that_nobody_reaps_does_not_hold_a_group() {
    let name = "a_zombie_that_nobody_reaps_does_not_hold_a_group";
    let group = some_or_skip!(group(name, LIMITS));
    let mut child = started(&group, "exit 7");
    // Dead, and not waited for.
    let end = timeout(LONG, async {
        while !group.is_empty() {
            tokio::task::yield_now().await;
        }
    });
    end.await.expect("it never ended");
    let gone = paths(&group);
    group.remove().await.unwrap();
    assert_gone(&gone);
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[tokio::test]
async fn a_group_within_the_group_goes_too() {
    let name = "a_group_within_the_group_goes_too";
    let group = some_or_skip!(group(name, LIMITS));
    // Processes may only be in leaves where v2 controllers are handed down: here none are.
    for path in group.directories.paths() {
        std::fs::create_dir(path.join("inner")).unwrap();
    }
    let inner =
        r#"for group do echo $$ > "$group/inner/cgroup.procs"; done; echo in; exec sleep 600"#;
    let mut child = shell(&group, inner).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(!group.is_empty());
    let gone = paths(&group);
    group.remove().await.unwrap();
    assert_gone(&gone);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_dropped_group_is_killed_and_removed() {
    let name = "a_dropped_group_is_killed_and_removed";
    let group = some_or_skip!(group(name, LIMITS));
    let mut child = started(&group, "exec sleep 600");
    let gone = paths(&group);
    drop(group);
    assert_gone(&gone);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

/// Not a property but a part in other tests': a supervisor with one busy cell, until it is killed.
#[test]
fn role_supervisor() {
    if !plays("supervisor") {
        return;
    }
    let group = group("supervised", LIMITS).unwrap();
    let mut child = started(&group, "exec sleep 600");
    let first = group.directories.paths()[0].display().to_string();
    println!("\nrole {} {first}", child.id());
    child.wait().unwrap();
}

#[test]
fn a_sweep_takes_the_dead_and_leaves_the_living() {
    let name = "a_sweep_takes_the_dead_and_leaves_the_living";
    let mine = some_or_skip!(group(name, LIMITS));
    let mut supervisor = role("ending", "supervisor")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(supervisor.stdout.take().unwrap()).lines();
    let line = lines
        .map(Result::unwrap)
        .find(|line| line.starts_with("role "));
    let line = line.expect("the supervisor did not start");
    let (pid, theirs) = line["role ".len()..].split_once(' ').unwrap();
    let (process, theirs) = (Path::new("/proc").join(pid), Path::new(theirs));

    let cgroups = cgroups(name).unwrap();
    let _ = cgroups.sweep();
    assert!(theirs.exists() && process.exists(), "the living were swept");
    assert!(mine.directories.paths().iter().all(|path| path.exists()));

    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    assert!(theirs.exists(), "there is nothing to sweep");
    // Another test's sweep may come first, and hold the lock for a moment.
    let since = Instant::now();
    while theirs.exists() {
        assert!(since.elapsed() < LONG, "the dead were left");
        let _ = cgroups.sweep();
    }
    // Since Linux 6.19 a group can be removed a moment before its last process is done exiting.
    let alive = || {
        let stat = std::fs::read_to_string(process.join("stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    while alive() {
        assert!(since.elapsed() < LONG, "its process lives on");
        std::thread::yield_now();
    }
    assert!(mine.directories.paths().iter().all(|path| path.exists()));
}

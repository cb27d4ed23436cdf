//! The supervisor's own confinement, tried from within, in a fresh process each time since it is
//! for good: everything works before, what is to be refused is refused after, and what the
//! supervisor lives on still works.
//!
//! Without a test harness, because only a process with a single thread confines itself.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use rustix::process::{PidfdFlags, pidfd_open};
use supervisor::cgroup::{CellLimits, Cgroups, Detection, Options, detect};
use supervisor::confinement::{Confined, Places, ROOT_KEEPS, confine};

/// Set in the process that confines itself: the scratch directory.
const INSIDE: &str = "TOOLCELL_TEST_CONFINED_IN";
/// An ordinary user: nobody.
const USER: u32 = 65_534;
/// Begins a line of it about what could not be tried.
const SKIPPED: &str = "SKIPPED confinement: ";
/// The last line of a process that came to its end.
const DONE: &str = "done";

/// Set in one that has sockets to accept connections from.
const LISTENS: &str = "TOOLCELL_TEST_LISTENS";

const TESTS: [(&str, fn()); 4] = [
    ("a_confined_supervisor_of_roots", || as_user(0, false)),
    ("a_confined_supervisor_of_an_ordinary_users", || {
        as_user(USER, false);
    }),
    ("a_confined_supervisor_of_roots_that_listens", || {
        as_user(0, true);
    }),
    (
        "a_confined_supervisor_of_an_ordinary_users_that_listens",
        || {
            as_user(USER, true);
        },
    ),
];

fn main() {
    if let Some(scratch) = std::env::var_os(INSIDE) {
        inside(Path::new(&scratch));
        println!("{DONE}");
        return;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        // As cargo-nextest asks every test binary.
        for (name, _) in TESTS.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return;
    }
    let named = arguments.iter().find(|word| !word.starts_with('-'));
    let wanted = |name: &str| named.is_none_or(|named| name.contains(named.as_str()));
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        test();
        println!("test {name} ... ok");
    }
}

/// Says that something is not tested, and why; the process outside passes it on.
fn skip(what: &str, why: &str) {
    println!("{SKIPPED}{what}: {why}");
}

/// Says it loudly, where `make test` counts it.
fn pass_on(line: &str) {
    eprintln!("{line}");
    let list = std::env::current_exe()
        .ok()
        .filter(|_| std::env::var_os("CARGO").is_some())
        .and_then(|path| Some(path.ancestors().nth(3)?.join("skipped.txt")));
    if let Some(list) = list {
        let file = File::options().create(true).append(true).open(list);
        file.and_then(|mut file| writeln!(file, "{line}"))
            .expect("the list of skips");
    }
}

/// Runs this executable again as that user.
#[allow(clippy::disallowed_methods)] // a test's process
fn as_user(uid: u32, listens: bool) {
    let root = nix::unistd::geteuid().is_root();
    if uid == 0 && !root {
        return pass_on(&format!(
            "{SKIPPED}root's: the tests were not started by root"
        ));
    }
    let scratch = tempfile::tempdir_in("/var/tmp").expect("a scratch directory");
    let executable = std::env::current_exe().expect("an executable");
    let mut command = if root && uid != 0 {
        std::os::unix::fs::chown(scratch.path(), Some(uid), Some(uid)).expect("root may chown");
        // Where it was built may be shut to that user.
        let copy = scratch.path().join("confinement");
        fs::copy(&executable, &copy).expect("a copy");
        let uid = uid.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]);
        command.arg(copy);
        command
    } else {
        Command::new(executable)
    };
    if listens {
        command.env(LISTENS, "1");
    }
    let output = command.env(INSIDE, scratch.path()).output();
    let output = output.expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = String::from_utf8_lossy(&output.stderr).into_owned();
    for line in said.lines().filter(|line| line.starts_with(SKIPPED)) {
        pass_on(line);
    }
    let done = output.status.success() && said.lines().last() == Some(DONE);
    assert!(done, "{:?}\n{said}\n{failed}", output.status);
    print!("{said}");
}

/// What is tried before and after.
struct Ground {
    /// The supervisor's state directory.
    state: PathBuf,
    /// The directory that files of a tool's are written into (`--out`).
    out: PathBuf,
    /// A directory of the same user's that is not for the supervisor.
    outside: PathBuf,
    tcp: TcpListener,
    unix: PathBuf,
    _unix: UnixListener,
    /// A process that was started before, and has its own PID in its memory.
    child: Child,
    cgroups: Option<Cgroups>,
}

impl Ground {
    #[allow(clippy::disallowed_methods)] // a test's process
    fn new(scratch: &Path) -> Self {
        let (state, outside) = (scratch.join("state"), scratch.join("outside"));
        let out = scratch.join("out");
        for directory in [&state, &outside, &out] {
            fs::create_dir(directory).expect("a directory");
        }
        fs::write(outside.join("file"), "text").expect("a file");
        fs::write(out.join("file"), "text").expect("a file");
        let unix = outside.join("socket");
        let cgroups = match detect(&Options::default()) {
            Detection::Usable(cgroups) => Some(cgroups),
            Detection::Unusable { reason, .. } => {
                skip("cgroups of a confined supervisor", &reason);
                None
            }
        };
        Self {
            _unix: UnixListener::bind(&unix).expect("a listener"),
            tcp: {
                let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
                listener.set_nonblocking(true).expect("it is set");
                listener
            },
            child: Command::new("/bin/cat")
                .stdin(Stdio::piped())
                .spawn()
                .expect("cat starts"),
            state,
            out,
            outside,
            unix,
            cgroups,
        }
    }
}

type Tried = std::io::Result<()>;
type Act = (&'static str, fn(&Ground) -> Tried);

/// What works before and must not after. Each undoes what it did.
const REFUSED: [Act; 24] = [
    ("start a program", start_program),
    ("write a file outside", |ground| {
        File::options()
            .write(true)
            .open(ground.outside.join("file"))
            .map(drop)
    }),
    ("cut a file outside", |ground| {
        let file = File::options()
            .write(true)
            .truncate(true)
            .open(ground.outside.join("file"));
        file?.write_all(b"text")
    }),
    ("cut a file outside by its name", |ground| {
        Ok(nix::unistd::truncate(&ground.outside.join("file"), 4)?)
    }),
    ("make a file outside", |ground| {
        File::create_new(ground.outside.join("new"))?;
        fs::remove_file(ground.outside.join("new"))
    }),
    ("make a nameless file outside", |ground| {
        tempfile::tempfile_in(&ground.outside).map(drop)
    }),
    ("make a directory outside", |ground| {
        fs::create_dir(ground.outside.join("new"))?;
        fs::remove_dir(ground.outside.join("new"))
    }),
    ("rename outside", |ground| {
        fs::rename(ground.outside.join("file"), ground.outside.join("other"))?;
        fs::rename(ground.outside.join("other"), ground.outside.join("file"))
    }),
    ("carry a file in from outside", |ground| {
        fs::rename(ground.outside.join("file"), ground.state.join("file"))?;
        fs::rename(ground.state.join("file"), ground.outside.join("file"))
    }),
    ("link a file in from outside", |ground| {
        fs::hard_link(ground.outside.join("file"), ground.state.join("file"))?;
        fs::remove_file(ground.state.join("file"))
    }),
    ("rename where a tool's files go", |ground| {
        fs::rename(ground.out.join("file"), ground.out.join("other"))?;
        fs::rename(ground.out.join("other"), ground.out.join("file"))
    }),
    ("remove where a tool's files go", |ground| {
        fs::remove_file(ground.out.join("file"))?;
        fs::write(ground.out.join("file"), "text")
    }),
    ("make a symbolic link", |ground| {
        std::os::unix::fs::symlink("file", ground.state.join("link"))?;
        fs::remove_file(ground.state.join("link"))
    }),
    ("change a mode outside", |ground| {
        let file = ground.outside.join("file");
        fs::set_permissions(&file, fs::metadata(&file)?.permissions())
    }),
    ("change an owner outside", |ground| {
        std::os::unix::fs::chown(
            ground.outside.join("file"),
            Some(nix::unistd::geteuid().as_raw()),
            None,
        )
    }),
    ("change a time outside", |ground| {
        let now = nix::sys::time::TimeVal::new(1, 0);
        Ok(nix::sys::stat::utimes(
            &ground.outside.join("file"),
            &now,
            &now,
        )?)
    }),
    ("set an extended attribute outside", |ground| {
        let file = ground.outside.join("file");
        let flags = rustix::fs::XattrFlags::empty();
        Ok(rustix::fs::setxattr(file, "user.toolcell", b"1", flags)?)
    }),
    ("connect over TCP", |ground| {
        TcpStream::connect(ground.tcp.local_addr()?).map(drop)
    }),
    ("listen over TCP", |_| {
        TcpListener::bind("127.0.0.1:0").map(drop)
    }),
    ("send over UDP", |ground| {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.send_to(b".", ground.tcp.local_addr()?).map(drop)
    }),
    ("connect to a Unix socket", |ground| {
        UnixStream::connect(&ground.unix).map(drop)
    }),
    ("look into a process outside", |ground| {
        File::open(format!("/proc/{}/root/etc", ground.child.id())).map(drop)
    }),
    ("read the environment of a process outside", |ground| {
        fs::read(format!("/proc/{}/environ", ground.child.id())).map(drop)
    }),
    ("open a terminal of its own", |_| {
        File::options()
            .read(true)
            .write(true)
            .open("/dev/ptmx")
            .map(drop)
    }),
];

/// What only one that listens goes on to do.
const ACCEPT: [Act; 1] = [("accept a connection", |ground| match ground.tcp.accept() {
    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
    accepted => accepted.map(drop),
})];

/// What only root can do before, too.
const REFUSED_TO_ROOT: [Act; 4] = [
    ("mount", |ground| {
        let flags = nix::mount::MsFlags::empty();
        let none = None::<&str>;
        nix::mount::mount(Some("none"), &ground.outside, Some("tmpfs"), flags, none)?;
        Ok(nix::mount::umount(&ground.outside)?)
    }),
    ("make a namespace", |_| {
        Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS)?)
    }),
    ("enter a namespace", |ground| {
        let namespace = File::open(format!("/proc/{}/ns/uts", ground.child.id()))?;
        Ok(nix::sched::setns(
            namespace,
            nix::sched::CloneFlags::CLONE_NEWUTS,
        )?)
    }),
    (
        "say what the kernel runs when a cgroup is empty",
        |ground| {
            let cgroups = ground.cgroups.iter().flat_map(Cgroups::parents);
            let mut agents = cgroups.map(|path| path.join("release_agent"));
            let Some(agent) = agents.find(|agent| agent.exists()) else {
                skip(
                    "release_agent",
                    "no cgroup v1 hierarchy's root is the place",
                );
                return Err(std::io::ErrorKind::Unsupported.into());
            };
            // The same again.
            fs::write(&agent, fs::read(&agent)?)
        },
    ),
];

/// What goes on working.
const WORKS: [Act; 10] = [
    ("read outside", |ground| {
        fs::read(ground.outside.join("file"))?;
        fs::read_dir("/usr/bin").map(drop)
    }),
    ("work in the state directory", |ground| {
        let (old, new) = (ground.state.join("old"), ground.state.join("new"));
        fs::write(&old, "text")?;
        fs::write(&old, "cut")?;
        fs::rename(&old, &new)?;
        File::options().append(true).open(&new)?.set_len(1)?;
        fs::remove_file(&new)?;
        let directory = ground.state.join("directory");
        fs::create_dir(&directory)?;
        tempfile::tempfile_in(&directory)?.write_all(b"text")?;
        fs::remove_dir(&directory)
    }),
    ("make what is new where a tool's files go", |ground| {
        fs::create_dir(ground.out.join("new"))?;
        File::create_new(ground.out.join("new/file"))?.write_all(b"text")
    }),
    ("lock in the state directory", |ground| {
        let file = File::create(ground.state.join("lock"))?;
        file.lock()
    }),
    ("make a cell's cgroup", make_cgroup),
    ("have threads", |_| {
        let thread = std::thread::spawn(|| 7);
        assert_eq!(thread.join().expect("it ends"), 7);
        Ok(())
    }),
    ("have a runtime", |ground| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let signals = tokio::signal::unix::SignalKind::user_defined1();
            drop(tokio::signal::unix::signal(signals)?);
            tokio::fs::read(ground.outside.join("file")).await.map(drop)
        })
    }),
    ("have a memory file that cannot be executed", |_| {
        Ok(runner::sys::memfd_without_exec(c"test", false).map(drop)?)
    }),
    ("pass descriptors over a pair of sockets", |ground| {
        let (one, other) = UnixStream::pair()?;
        runner::sys::send(one.as_fd(), b".", &[ground.tcp.as_fd()])?;
        let (_, descriptors) = runner::sys::receive(other.as_fd(), &mut [0; 1])?;
        assert_eq!(descriptors.len(), 1);
        Ok(())
    }),
    ("see what a process outside uses", |ground| {
        fs::read(format!("/proc/{}/stat", ground.child.id()))?;
        fs::read(format!("/proc/{}/status", ground.child.id())).map(drop)
    }),
];

#[allow(clippy::disallowed_methods)] // a test's process
fn start_program(_: &Ground) -> Tried {
    Command::new("/bin/true").status().map(drop)
}

fn make_cgroup(ground: &Ground) -> Tried {
    let Some(cgroups) = &ground.cgroups else {
        return Ok(());
    };
    let limits = CellLimits {
        memory: 64 << 20,
        swap: 0,
        cpu: 1.0,
        pids: 1,
    };
    let group = cgroups.create("confined", &limits);
    let group = group.map_err(std::io::Error::other)?;
    drop(group);
    Ok(())
}

/// In the process that confines itself.
fn inside(scratch: &Path) {
    let mut ground = Ground::new(scratch);
    let root = nix::unistd::geteuid().is_root();
    let privileged = REFUSED_TO_ROOT.iter().filter(|_| root);
    let listens = std::env::var_os(LISTENS).is_some();
    let accept = ACCEPT.iter().filter(|_| !listens);
    let all = || {
        REFUSED
            .iter()
            .chain(privileged.clone())
            .chain(accept.clone())
    };

    let lacking: Vec<_> = all()
        .filter_map(|(what, act)| Some((*what, act(&ground).err()?)))
        .collect();
    let lacks = |what: &str| lacking.iter().any(|(lacking, _)| *lacking == what);
    for (what, error) in &lacking {
        // Not everything can be had everywhere, but hardly anything is missing.
        skip(&format!("control: {what}"), &error.to_string());
    }
    assert!(lacking.len() <= 3, "{lacking:?}");

    let places = Places {
        state: Some(ground.state.clone()),
        out: Some(ground.out.clone()),
        cgroups: ground
            .cgroups
            .iter()
            .flat_map(Cgroups::parents)
            .map(Path::to_owned)
            .collect(),
        seen: Some(ground.child.id()),
        journal: None,
        listens,
    };
    let begun = std::time::Instant::now();
    let confined = confine(&places).expect("it can be confined");
    println!("confined in {:?}", begun.elapsed());
    let Confined { capabilities, .. } = confined;
    assert_eq!(capabilities, if root { ROOT_KEEPS } else { 0 });

    for (what, act) in all().filter(|(what, _)| !lacks(what)) {
        let refused = act(&ground).expect_err(what);
        let errno = refused.raw_os_error().map(Errno::from_raw);
        // Landlock says EXDEV where a file would change its directory.
        let expected = [Errno::EPERM, Errno::EACCES, Errno::EXDEV];
        assert!(
            errno.is_some_and(|errno| expected.contains(&errno)),
            "{what}: {refused}"
        );
    }
    let accept = ACCEPT.iter().filter(|_| listens);
    for (what, act) in WORKS.iter().chain(accept) {
        act(&ground).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let again = confine(&places).expect_err("what confines is out of reach, too");
    assert!(again.to_string().contains("threads") || again.to_string().contains("canary"));
    kill(&mut ground.child);
    // Were it not refused, this process would say no more.
    let environment: [&std::ffi::CStr; 0] = [];
    let executed = nix::unistd::execve(c"/bin/true", &[c"true"], &environment);
    assert_eq!(executed, Err(Errno::EPERM));
}

/// Signals reach processes outside of the domain.
fn kill(child: &mut Child) {
    let pid = i32::try_from(child.id()).expect("a PID fits");
    let pid = rustix::process::Pid::from_raw(pid).expect("it is not 0");
    let process: OwnedFd = pidfd_open(pid, PidfdFlags::empty()).expect("a pidfd");
    runner::sys::signal_process(process.as_fd(), Signal::SIGKILL).expect("it is ours to kill");
    let status = child.wait().expect("it ends");
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
}

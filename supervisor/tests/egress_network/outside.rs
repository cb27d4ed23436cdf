//! Starts cells through a launcher, and holds the other end of their sockets.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IoSlice, IoSliceMut, PipeReader, PipeWriter, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg,
};
use profiles::compile::{CallFacts, Compiled};
use profiles::diagnostics::SourceFile;
use profiles::host::Tier;
use profiles::library::Library;
use profiles::resolve::Overrides;
use runner::report::{End, Report};
use runner::spec::{Call, LandlockRule, Mount, Network, Template};
use runner::wire::CgroupEntry;
use supervisor::egress::watcher::{self, Attempt, Sign};
use supervisor::ids::{Assigned, HostIds};
use supervisor::launch::{Cell, FirstProcess, Grounds, Launcher, Streams};

use super::client;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where the tool is in the cell.
const TOOL: &str = "/client";

/// Says loudly that nothing was tested, where `make test` counts it.
pub fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED {test}: {why}\n");
    eprint!("{line}");
    let list = std::env::current_exe()
        .ok()
        .filter(|_| std::env::var_os("CARGO").is_some())
        .and_then(|path| Some(path.ancestors().nth(3)?.join("skipped.txt")));
    if let Some(list) = list {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(list);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the list of skips");
    }
}

/// How many sockets a process has.
pub fn sockets_of(pid: i32) -> usize {
    let numbers = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let links = numbers.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().starts_with("socket:"))
        .count()
}

/// A cell whose tool waits for orders.
pub struct Running {
    /// The resolver's sockets, over UDP and over TCP.
    pub resolver: Vec<OwnedFd>,
    /// The watchers.
    pub watchers: Vec<OwnedFd>,
    /// The template's sockets.
    pub network: Vec<OwnedFd>,
    /// PID of its first process.
    pub pid: i32,
    orders: PipeWriter,
    answers: BufReader<PipeReader>,
    cell: Cell,
    first: FirstProcess,
    runtime: tokio::runtime::Runtime,
    _launcher: Launcher,
    _assigned: Assigned,
}

/// Starts one.
pub fn start(network: Network) -> Running {
    let (compiled, assigned) = (compile(), assign());
    let (template, call) = orders(&compiled, &assigned, network);
    // Before the runtime has any thread.
    let started = supervisor::launch::start(reader()).expect("a launcher");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (theirs, orders, answers) = streams();
    let (launcher, cell, first, pid, network) = runtime.block_on(async {
        let launcher = Launcher::new(started).expect("a launcher");
        let mut cell = launch(&launcher, "digest", &template, call, theirs).await;
        let (pid, pidfd, network) = confined(&mut cell).await;
        let first = FirstProcess::new(pid, pidfd).expect("a pidfd");
        (launcher, cell, first, pid, network)
    });
    let [resolver, watchers, network] = network;
    Running {
        resolver,
        watchers,
        network,
        pid,
        orders,
        answers: BufReader::new(answers),
        cell,
        first,
        runtime,
        _launcher: launcher,
        _assigned: assigned,
    }
}

fn compile() -> Compiled {
    let source = "format = 1\nname = \"egress\"\ntitle = \"T\"\ndescription = \"T\"\n\
                  extends = [\"standard\"]\n[network]\nloopback = true\n";
    let mut library = Library::builtin();
    let file = SourceFile::from_bytes("egress.toml", source.into()).expect("text");
    library.add(file).expect("a profile");
    let resolved = library.resolve("egress", &Overrides::default());
    // Nobody here would answer a notification.
    let mut host = supervisor::probe::host(Tier::Full).expect("a host that has cells");
    host.notify = false;
    host.paths = BTreeMap::new();
    let resolved = resolved.expect("a profile");
    supervisor::catalog::compile(&resolved, &host).expect("it compiles here")
}

fn assign() -> Assigned {
    let ids = HostIds::detect().and_then(|ids| ids.assign());
    ids.expect("users for cells")
}

/// Orders for a cell in which this executable is the tool.
fn orders(compiled: &Compiled, assigned: &Assigned, network: Network) -> (Template, Call) {
    let argv = vec![TOOL.to_owned(), client::ARGUMENT.to_owned()];
    let plan = compiled.fill_command(argv, &BTreeMap::new());
    let facts = CallFacts {
        host: assigned.ids,
        workspace: None,
        shown: vec![],
        sockets: vec![],
        authority: None,
        grants: vec![],
        protect: vec![],
    };
    let call = compiled.call(&plan.expect("a command"), &facts);
    let mut template = compiled.template.clone();
    template.network = network;
    let executable = std::env::current_exe().expect("this is one");
    template.mounts.push(Mount::Bind {
        source: executable.canonicalize().expect("it is there"),
        target: Path::new(TOOL).to_owned(),
        directory: false,
        writable: false,
        exec: true,
        identity: None,
        owner: None,
    });
    // `LANDLOCK_ACCESS_FS_EXECUTE` and `_READ_FILE`.
    template.landlock.rules.push(LandlockRule {
        path: Path::new(TOOL).to_owned(),
        access: 1 | 4,
    });
    (template, call.expect("orders"))
}

fn reader() -> runner::spec::Filter {
    supervisor::confinement::reader_filter().expect("a filter for this processor")
}

fn streams() -> (Streams, PipeWriter, PipeReader) {
    let (stdin, orders) = std::io::pipe().expect("a pipe");
    let (answers, stdout) = std::io::pipe().expect("a pipe");
    let stderr = std::io::stderr().as_fd().try_clone_to_owned();
    let theirs = Streams {
        stdin: stdin.into(),
        stdout: stdout.into(),
        stderr: stderr.expect("a duplicate"),
    };
    (theirs, orders, answers)
}

async fn launch(
    launcher: &Launcher,
    digest: &str,
    template: &Template,
    call: Call,
    streams: Streams,
) -> Cell {
    let grounds = Grounds {
        cgroup: CgroupEntry::None,
        descriptors: vec![],
        directories: vec![],
    };
    let cell = launcher.start(digest, template, call, grounds, streams);
    cell.await.expect("a cell")
}

async fn next(cell: &mut Cell) -> Option<(Report, Vec<OwnedFd>)> {
    let report = tokio::time::timeout(PATIENCE, cell.report()).await;
    report.expect("a report in time").expect("a report")
}

/// Waits until the tool is about to be executed; returns its first process and its sockets.
async fn confined(cell: &mut Cell) -> (i32, OwnedFd, [Vec<OwnedFd>; 3]) {
    let (mut first, mut network) = (None, [vec![], vec![], vec![]]);
    loop {
        match next(cell).await.expect("it is confined first") {
            (Report::Started { pid }, pidfd) => {
                first = pidfd.into_iter().next().map(|fd| (pid, fd));
            }
            (Report::Network { watchers }, mut sockets) => {
                let mut others = sockets.split_off(2);
                let rest = others.split_off(watchers.into());
                network = [sockets, others, rest];
            }
            (Report::Built, _) => {}
            (Report::Confined(confirmed), _) => {
                assert!(confirmed.network && confirmed.no_capabilities);
                let (pid, pidfd) = first.expect("it was started");
                return (pid, pidfd, network);
            }
            (other, _) => panic!("{other:?}"),
        }
    }
}

impl Running {
    /// Tells the tool to do something.
    pub fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("the tool listens");
    }

    /// What came of it. The tool waits for nothing longer than it has patience.
    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the tool answers");
        line.trim_end().to_owned()
    }

    /// Both.
    pub fn ask(&mut self, order: &str) -> String {
        self.order(order);
        self.answer()
    }

    /// Accepts a connection on a socket that was handed out, and sends a text; its two ends.
    pub fn accept(&self, index: usize, text: &str) -> (SocketAddr, SocketAddr) {
        accept(&self.network[index], text)
    }

    /// The same on the resolver's.
    pub fn accept_query(&self, text: &str) -> (SocketAddr, SocketAddr) {
        accept(&self.resolver[1], text)
    }

    /// Whether nobody waits to be accepted.
    pub fn has_none_waiting(&self, index: usize) -> bool {
        let listener = TcpListener::from(self.network[index].try_clone().expect("a duplicate"));
        let accepted = listener.accept();
        accepted.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// The next datagram that the resolver gets, the address it was sent to, and who sent it.
    pub fn query(&self) -> (String, IpAddr, SocketAddr) {
        wait_for(&self.resolver[0]);
        let mut buffer = [0; 64];
        let mut control = nix::cmsg_space!(libc::in_pktinfo);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let socket = self.resolver[0].as_raw_fd();
        let flags = MsgFlags::empty();
        let message = recvmsg::<SockaddrIn>(socket, &mut parts, Some(&mut control), flags);
        let message = message.expect("a datagram");
        let peer = message.address.expect("somebody sent it");
        let to = message
            .cmsgs()
            .expect("it is whole")
            .find_map(|part| match part {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    Some(info.ipi_addr.s_addr.to_ne_bytes())
                }
                _ => None,
            });
        let length = message.bytes;
        let to = IpAddr::from(to.expect("IP_PKTINFO is on"));
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        (text, to, SocketAddr::from((peer.ip(), peer.port())))
    }

    /// Answers a datagram from an address.
    pub fn reply(&self, text: &str, from: IpAddr, to: SocketAddr) {
        let (IpAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
            panic!("the resolver speaks IPv4");
        };
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr {
                s_addr: u32::from_ne_bytes(from.octets()),
            },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let parts = [IoSlice::new(text.as_bytes())];
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        let socket = self.resolver[0].as_raw_fd();
        let to = SockaddrIn::from(to);
        sendmsg(socket, &parts, &control, MsgFlags::empty(), Some(&to)).expect("it is sent");
    }

    /// What the watchers have seen since. A refusal is there before the tool knows of it.
    pub fn attempt(&self) -> Option<Attempt> {
        for (index, watcher) in self.watchers.iter().enumerate() {
            loop {
                match watcher::receive(watcher, Sign::of(index)) {
                    Ok(None) => {}
                    Ok(attempt) => return attempt,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        None
    }

    /// Has the tool end, and sees that nothing of the cell is left.
    pub fn end(mut self) {
        drop(self.orders);
        self.runtime.block_on(async {
            let (report, _) = next(&mut self.cell).await.expect("its last word");
            let well = End::Exited(0);
            assert!(
                matches!(report, Report::Ended { end, .. } if end == well),
                "{report:?}"
            );
            assert!(next(&mut self.cell).await.is_none());
            tokio::time::timeout(PATIENCE, self.first.ended())
                .await
                .expect("it ends");
        });
    }
}

fn accept(socket: &OwnedFd, text: &str) -> (SocketAddr, SocketAddr) {
    wait_for(socket);
    let listener = TcpListener::from(socket.try_clone().expect("a duplicate"));
    let (mut stream, peer) = listener.accept().expect("a connection");
    let local = stream.local_addr().expect("it is connected");
    stream.write_all(text.as_bytes()).expect("the tool reads");
    (local, peer)
}

fn wait_for(socket: &OwnedFd) {
    let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE).expect("it is short");
    let ready = poll(&mut ready, patience).expect("a socket");
    assert_eq!(ready, 1, "nothing came");
}

/// Microseconds from the launch to the exec, in turns: the first quartile and the median.
pub fn quartiles<'a>(cases: &[(&'a str, Network)], rounds: usize) -> Vec<(&'a str, [u128; 2])> {
    let (compiled, assigned) = (compile(), assign());
    let started = supervisor::launch::start(reader()).expect("a launcher");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let launcher = Launcher::new(started).expect("a launcher");
        let mut times = vec![vec![]; cases.len()];
        for _ in 0..rounds {
            for (index, (digest, network)) in cases.iter().enumerate() {
                let (template, call) = orders(&compiled, &assigned, network.clone());
                let (theirs, order, _answers) = streams();
                drop(order);
                let begun = Instant::now();
                let mut cell = launch(&launcher, digest, &template, call, theirs).await;
                let _held = confined(&mut cell).await;
                times[index].push(begun.elapsed().as_micros());
                while next(&mut cell).await.is_some() {}
            }
        }
        for times in &mut times {
            times.sort_unstable();
        }
        let quartile = |times: &Vec<u128>| [4, 2].map(|part| times[times.len() / part]);
        let quartiles = times.iter().map(quartile);
        cases.iter().map(|case| case.0).zip(quartiles).collect()
    })
}

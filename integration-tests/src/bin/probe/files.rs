//! Files by name: reading, writing, and everything that can be changed about them.

use std::fs::{File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags};
use nix::libc;
use nix::sys::stat::{Mode, SFlag};

use crate::raw::syscall;
use crate::{Attempt, Found, argument, errno, names, number};

pub const ATTEMPTS: &[Attempt] = &[
    ("read", read),
    ("open", open),
    ("append", append),
    ("create", create),
    ("truncate", truncate),
    ("stat", stat),
    ("list", list),
    ("readlink", readlink),
    ("chdir", chdir),
    ("chmod", chmod),
    ("fchmod", fchmod),
    ("fchmodat2", fchmodat2),
    ("create_mode", create_mode),
    ("chown", chown),
    ("utimes", utimes),
    ("setxattr", setxattr),
    ("listxattr", listxattr),
    ("flags", flags),
    ("unlink", unlink),
    ("rmdir", rmdir),
    ("mkdir", mkdir),
    ("rename", rename),
    ("exchange", exchange),
    ("whiteout", whiteout),
    ("link", link),
    ("link_open", link_open),
    ("link_nameless", link_nameless),
    ("symlink", symlink),
    ("fifo", fifo),
    ("node", node),
];

type Io<T> = std::io::Result<T>;

fn done<T>(result: Io<T>) -> Found {
    result.map(|_| String::new()).map_err(|error| errno(&error))
}

/// `read PATH`: its first line.
fn read(arguments: &[String]) -> Found {
    let mut bytes = vec![0; 256];
    let result = File::open(argument(arguments, 0)).and_then(|mut file| file.read(&mut bytes));
    let length = result.map_err(|error| errno(&error))?;
    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// `open PATH FLAGS`: without doing anything with it.
fn open(arguments: &[String]) -> Found {
    let flags = OFlag::from_bits_retain(number(arguments, 1));
    nix::fcntl::open(
        argument(arguments, 0),
        flags,
        Mode::from_bits_truncate(0o644),
    )?;
    Ok(String::new())
}

/// `append PATH TEXT`: to what exists.
fn append(arguments: &[String]) -> Found {
    let file = File::options().append(true).open(argument(arguments, 0));
    done(file.and_then(|mut file| file.write_all(argument(arguments, 1).as_bytes())))
}

/// `create PATH TEXT`: or overwrites it.
fn create(arguments: &[String]) -> Found {
    done(std::fs::write(
        argument(arguments, 0),
        argument(arguments, 1),
    ))
}

/// `truncate PATH`, without opening it.
fn truncate(arguments: &[String]) -> Found {
    nix::unistd::truncate(argument(arguments, 0), 0)?;
    Ok(String::new())
}

/// `stat PATH`
fn stat(arguments: &[String]) -> Found {
    let metadata = std::fs::symlink_metadata(argument(arguments, 0));
    metadata
        .map(|metadata| format!("{:o}", metadata.mode()))
        .map_err(|error| errno(&error))
}

/// `list PATH`: names, sorted.
fn list(arguments: &[String]) -> Found {
    let entries = std::fs::read_dir(argument(arguments, 0)).map_err(|error| errno(&error))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names.join(","))
}

/// `readlink PATH`
fn readlink(arguments: &[String]) -> Found {
    let target = std::fs::read_link(argument(arguments, 0)).map_err(|error| errno(&error))?;
    Ok(target.display().to_string())
}

/// `chdir PATH`
fn chdir(arguments: &[String]) -> Found {
    nix::unistd::chdir(argument(arguments, 0))?;
    Ok(String::new())
}

/// `chmod PATH MODE`, octal as everywhere here.
fn chmod(arguments: &[String]) -> Found {
    done(std::fs::set_permissions(
        argument(arguments, 0),
        Permissions::from_mode(mode(arguments)),
    ))
}

fn mode(arguments: &[String]) -> u32 {
    u32::from_str_radix(argument(arguments, 1), 8).expect("an octal mode")
}

/// `fchmod PATH MODE`: by a descriptor that only reads.
fn fchmod(arguments: &[String]) -> Found {
    let file = File::open(argument(arguments, 0));
    done(file.and_then(|file| file.set_permissions(Permissions::from_mode(mode(arguments)))))
}

/// `fchmodat2 PATH MODE`
fn fchmodat2(arguments: &[String]) -> Found {
    // Not in every C library's headers.
    const NUMBER: i64 = 452;
    let path = names::text(argument(arguments, 0));
    syscall!(NUMBER, libc::AT_FDCWD, path.as_c_str(), mode(arguments), 0)?;
    Ok(String::new())
}

/// `create_mode PATH MODE`: with that mode from the start.
fn create_mode(arguments: &[String]) -> Found {
    nix::sys::stat::umask(Mode::empty());
    let mut options = File::options();
    options.write(true).create_new(true).mode(mode(arguments));
    done(options.open(argument(arguments, 0)))
}

/// `chown PATH USER GROUP`
fn chown(arguments: &[String]) -> Found {
    let (user, group) = (number(arguments, 1), number(arguments, 2));
    done(std::os::unix::fs::lchown(
        argument(arguments, 0),
        Some(user),
        Some(group),
    ))
}

/// `utimes PATH`: to the epoch.
fn utimes(arguments: &[String]) -> Found {
    let path = names::text(argument(arguments, 0));
    let epoch = [1_i64, 0, 1, 0].map(i64::to_ne_bytes).concat();
    syscall!(
        libc::SYS_utimensat,
        libc::AT_FDCWD,
        path.as_c_str(),
        &epoch[..],
        0
    )?;
    Ok(String::new())
}

/// `setxattr PATH NAME VALUE`
fn setxattr(arguments: &[String]) -> Found {
    let [path, name] = [0, 1].map(|index| names::text(argument(arguments, index)));
    let value = match argument(arguments, 2) {
        // A capability set in a file, version 2: CAP_SETUID, effective.
        "capability" => [0x0200_0001_u32, 1 << 7, 0, 0, 0]
            .map(u32::to_ne_bytes)
            .concat(),
        value => value.as_bytes().to_vec(),
    };
    syscall!(
        libc::SYS_setxattr,
        path.as_c_str(),
        name.as_c_str(),
        &value[..],
        value.len(),
        0
    )?;
    Ok(String::new())
}

/// `listxattr PATH`: the names of its extended attributes.
fn listxattr(arguments: &[String]) -> Found {
    let path = names::text(argument(arguments, 0));
    let mut list = vec![0_u8; 4096];
    let capacity = list.len();
    let length = syscall!(
        libc::SYS_llistxattr,
        path.as_c_str(),
        &mut list[..],
        capacity
    )?;
    list.truncate(usize::try_from(length).expect("a length"));
    Ok(String::from_utf8_lossy(&list)
        .trim_end_matches('\0')
        .replace('\0', ","))
}

/// `flags PATH`: marks it as not to be dumped, as `chattr +d` does.
fn flags(arguments: &[String]) -> Found {
    const FS_IOC_SETFLAGS: u64 = 0x4008_6602;
    const FS_NODUMP: u64 = 0x40;
    let file = File::open(argument(arguments, 0)).map_err(|error| errno(&error))?;
    let flags = FS_NODUMP.to_ne_bytes();
    syscall!(
        libc::SYS_ioctl,
        file.as_raw_fd(),
        FS_IOC_SETFLAGS,
        &flags[..]
    )?;
    Ok(String::new())
}

/// `unlink PATH`
fn unlink(arguments: &[String]) -> Found {
    done(std::fs::remove_file(argument(arguments, 0)))
}

/// `rmdir PATH`
fn rmdir(arguments: &[String]) -> Found {
    done(std::fs::remove_dir(argument(arguments, 0)))
}

/// `mkdir PATH`
fn mkdir(arguments: &[String]) -> Found {
    done(std::fs::create_dir(argument(arguments, 0)))
}

/// `rename FROM TO`
fn rename(arguments: &[String]) -> Found {
    done(std::fs::rename(
        argument(arguments, 0),
        argument(arguments, 1),
    ))
}

fn renamed(arguments: &[String], flags: RenameFlags) -> Found {
    let (from, to) = (argument(arguments, 0), argument(arguments, 1));
    nix::fcntl::renameat2(AT_FDCWD, from, AT_FDCWD, to, flags)?;
    Ok(String::new())
}

/// `exchange ONE OTHER`
fn exchange(arguments: &[String]) -> Found {
    renamed(arguments, RenameFlags::RENAME_EXCHANGE)
}

/// `whiteout FROM TO`: leaves the mark behind by which overlays hide files.
fn whiteout(arguments: &[String]) -> Found {
    renamed(arguments, RenameFlags::RENAME_WHITEOUT)
}

/// `link FROM TO`
fn link(arguments: &[String]) -> Found {
    done(std::fs::hard_link(
        argument(arguments, 0),
        argument(arguments, 1),
    ))
}

/// `link_open FROM TO`: links what is open, by its name in /proc.
fn link_open(arguments: &[String]) -> Found {
    let file = File::open(argument(arguments, 0)).map_err(|error| errno(&error))?;
    link_descriptor(&file, argument(arguments, 1))
}

/// `link_nameless DIRECTORY TO`: gives a name to a file that had none.
fn link_nameless(arguments: &[String]) -> Found {
    let mut options = File::options();
    options
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o644);
    let file = options
        .open(argument(arguments, 0))
        .map_err(|error| errno(&error))?;
    link_descriptor(&file, argument(arguments, 1))
}

fn link_descriptor(file: &File, to: &str) -> Found {
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    nix::unistd::linkat(
        AT_FDCWD,
        from.as_str(),
        AT_FDCWD,
        to,
        AtFlags::AT_SYMLINK_FOLLOW,
    )?;
    Ok(String::new())
}

/// `symlink TARGET PATH`
fn symlink(arguments: &[String]) -> Found {
    done(std::os::unix::fs::symlink(
        argument(arguments, 0),
        argument(arguments, 1),
    ))
}

/// `fifo PATH`
fn fifo(arguments: &[String]) -> Found {
    nix::unistd::mkfifo(argument(arguments, 0), Mode::from_bits_truncate(0o666))?;
    Ok(String::new())
}

/// `node PATH c|b MAJOR MINOR`
fn node(arguments: &[String]) -> Found {
    let kind = match argument(arguments, 1) {
        "c" => SFlag::S_IFCHR,
        "b" => SFlag::S_IFBLK,
        kind => panic!("`{kind}` is no kind of node"),
    };
    let device = libc::makedev(number(arguments, 2), number(arguments, 3));
    nix::sys::stat::mknod(
        argument(arguments, 0),
        kind,
        Mode::from_bits_truncate(0o666),
        device,
    )?;
    Ok(String::new())
}

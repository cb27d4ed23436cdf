//! The size of programs, and snapshots of what is decided.

use super::*;
use crate::filter::evaluate::check;
use crate::filter::proofs::every_facts;

/// Most instructions of a program for a profile that says nothing about system calls.
const PLAIN_INSTRUCTIONS_MAX: usize = 640;

#[test]
fn the_program_stays_short_whatever_a_profile_denies() {
    let unchecked = |syscall: &&Syscall| {
        let decision = arguments::check(&syscall.name, X86_64);
        syscall.group.action == GroupAction::Allow && !syscall.vital && decision.is_none()
    };
    let odd = |syscall: &&Syscall| syscall.number(Arch::X86_64).is_some_and(|nr| nr % 2 == 1);
    let every_other: Vec<&str> = syscalls::all()
        .filter(unchecked)
        .filter(odd)
        .map(|syscall| syscall.name.as_str())
        .collect();
    for facts in every_facts() {
        let plain = policy(facts).assemble().unwrap();
        check(&plain.program).unwrap();
        assert_eq!(plain.notifies, facts.notify);
        let ragged = Policy::new(&rules(&[], &every_other), &facts)
            .unwrap()
            .assemble()
            .unwrap();
        check(&ragged.program).unwrap();
        assert!(ragged.program.len() > plain.program.len());
        assert!(
            plain.program.len() <= PLAIN_INSTRUCTIONS_MAX,
            "{}",
            plain.program.len()
        );
    }
}

/// The decisions as a table: ranges of numbers, what is answered, and the names.
fn table(facts: FilterFacts) -> String {
    let policy = policy(facts);
    let mut lines: Vec<(u32, u32, String, Vec<String>)> = Vec::new();
    for (&number, decision) in &policy.decisions {
        let name = syscalls::by_number(facts.arch, number)
            .unwrap()
            .name
            .clone();
        let mut answer = format!("{:?}", decision.otherwise);
        for case in decision.cases.iter().rev() {
            let conditions: Vec<String> = case
                .conditions
                .iter()
                .map(|condition| {
                    let (argument, value) = (condition.argument, condition.value);
                    match condition.mask {
                        0xffff_ffff => format!("[{argument}] = {value:#x}"),
                        u64::MAX => format!("[{argument}] = {value:#x} in 64 bits"),
                        mask => format!("[{argument}] & {mask:#x} = {value:#x}"),
                    }
                })
                .collect();
            answer = format!(
                "{:?} if {}\n    else {answer}",
                case.action,
                conditions.join(", ")
            );
        }
        match lines.last_mut() {
            Some((_, last, same, names)) if *same == answer && *last + 1 == number => {
                *last = number;
                names.push(name);
            }
            _ => lines.push((number, number, answer, vec![name])),
        }
    }
    let size = policy.assemble().unwrap().program.len();
    let lines = lines.into_iter().map(|(first, last, answer, names)| {
        format!("{first}..={last} {}\n    {answer}", names.join(" "))
    });
    format!(
        "{size} instructions\n{}",
        lines.collect::<Vec<_>>().join("\n")
    )
}

#[test]
fn decisions_on_x86_64() {
    insta::assert_snapshot!(table(X86_64));
}

#[test]
fn decisions_on_aarch64() {
    insta::assert_snapshot!(table(FilterFacts {
        arch: Arch::Aarch64,
        ..X86_64
    }));
}

#[test]
fn decisions_on_x86_64_with_writes_explained_and_neither_unix_sockets_nor_memfd() {
    insta::assert_snapshot!(table(FilterFacts {
        unix_sockets: false,
        explain_paths: PathNotify::Writes,
        ..X86_64
    }));
}

#[test]
fn decisions_on_x86_64_with_addresses_explained() {
    let plain = table(X86_64);
    let explained = table(FilterFacts {
        explain_network: AddressNotify::On,
        ..X86_64
    });
    let plain: Vec<&str> = plain.lines().collect();
    let changed: Vec<&str> = explained
        .lines()
        .filter(|line| !plain.contains(line))
        .collect();
    insta::assert_snapshot!(changed.join("\n"));
}

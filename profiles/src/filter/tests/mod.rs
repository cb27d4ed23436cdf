//! What the filter answers, property by property; each denial has a positive control beside it.

mod calls;
mod files;
mod profile;
mod sockets;
mod table;

use super::evaluate::{Data, run};
use super::*;

const DENIED: Action = Action::Deny(Errno::NotPermitted);
const X86_64: FilterFacts = FilterFacts {
    arch: Arch::X86_64,
    notify: true,
    unix_sockets: true,
    tcp_sockets: true,
    memfd_exec: false,
    explain_paths: PathNotify::Off,
    explain_network: AddressNotify::Off,
};

fn policy(facts: FilterFacts) -> Policy {
    Policy::new(&SyscallRules::default(), &facts).unwrap()
}

fn rules(allow: &[&str], deny: &[&str]) -> SyscallRules {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    SyscallRules {
        allow: owned(allow),
        deny: owned(deny),
    }
}

/// What a policy and its program answer, held equal; arguments that are not given are 0.
fn answer_of<const N: usize>(policy: &Policy, name: &str, given: [u64; N]) -> Action {
    let number = syscalls::by_name(name)
        .unwrap()
        .number(policy.facts.arch)
        .unwrap();
    let mut arguments = [0; 6];
    arguments[..N].copy_from_slice(&given);
    let action = policy.decide(number, &arguments);
    let arch = dispatch::audit_arch(policy.facts.arch);
    let program = policy.assemble().unwrap().program;
    let data = Data {
        number,
        arch,
        pointer: 0,
        arguments,
    };
    let returned = run(&program, &data).unwrap().returned;
    assert_eq!(
        returned,
        dispatch::return_value(action, policy.facts),
        "{name} {given:x?}"
    );
    action
}

fn answer<const N: usize>(name: &str, given: [u64; N]) -> Action {
    answer_of(&policy(X86_64), name, given)
}

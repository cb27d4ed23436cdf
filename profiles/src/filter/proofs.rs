//! The assembled program decides as the rules do: read directly, and by `seccompiler`'s own program.
//!
//! All three are asked about every number up to 1023, numbers with the x32 bit, other architectures,
//! and for each argument check the values at its edges, with the high halves clear and set.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch};

use super::arguments::Decision;
use super::dispatch::{self, audit_arch, return_value};
use super::evaluate::{Data, check, instructions, run};
use super::{Action, FilterFacts, PathNotify, Policy, SyscallRules, UNKNOWN, own};
use crate::host::Arch;
use crate::syscalls::{self, GroupAction};
use runner::spec::Instruction;

/// Numbers that are asked about; Linux 7.0 ends at 471.
const NUMBERS_END: u32 = 1024;
/// `__X32_SYSCALL_BIT`.
const X32: u32 = 0x4000_0000;
/// Most instructions that one system call may execute, argument check and all.
const EXECUTED_MAX: usize = 48;
/// Most instructions that a system call without an argument check may execute.
const EXECUTED_UNCHECKED_MAX: usize = 17;

/// Every combination of facts that makes a filter.
pub(super) fn every_facts() -> Vec<FilterFacts> {
    let mut all = Vec::new();
    for arch in [Arch::X86_64, Arch::Aarch64] {
        for bits in 0..16_u8 {
            let [notify, unix_sockets, memfd_exec, explain_network] =
                [1, 2, 4, 8].map(|bit| bits & bit != 0);
            for explain_paths in [PathNotify::Off, PathNotify::Writes, PathNotify::All] {
                if notify || explain_paths == PathNotify::Off {
                    let facts = FilterFacts {
                        arch,
                        notify,
                        unix_sockets,
                        memfd_exec,
                        explain_paths,
                        explain_network: explain_network.into(),
                    };
                    all.push(facts);
                }
            }
        }
    }
    all
}

/// Arguments that tell the cases of a decision apart: for each condition a value that it holds for,
/// its neighbours and one flip of each bit of the mask, combined over the arguments that the decision
/// looks at, with all other bits clear and all set.
fn telling(decision: &Decision, combinations_max: usize) -> Vec<[u64; 6]> {
    let mut values: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    for condition in decision.cases.iter().flat_map(|case| &case.conditions) {
        let values = values.entry(condition.argument.into()).or_default();
        let (mask, value) = (condition.mask, condition.value);
        // Every condition's own value, with nothing, everything or the high half beside it.
        values.extend([value, value | !mask, value | 0xffff_ffff_0000_0000]);
        values.extend([
            value.wrapping_add(1),
            value.wrapping_sub(1),
            !value,
            0,
            u64::MAX,
        ]);
        if mask != u64::from(u32::MAX) && mask != u64::MAX {
            values.extend((0..64).map(|bit| 1 << bit).filter(|bit| mask & bit != 0));
            values.extend((0..64).map(|bit| value ^ (1 << bit)).take(32));
        }
    }
    let mut combined = vec![[0; 6], [u64::MAX; 6]];
    for (argument, values) in values {
        combined = combined
            .iter()
            .flat_map(|arguments| {
                values.iter().map(move |value| {
                    let mut arguments = *arguments;
                    arguments[argument] = *value;
                    arguments
                })
            })
            .collect();
        // An odd step passes through all values of the argument that was added last.
        let step = combined.len().div_ceil(combinations_max) | 1;
        combined = combined.into_iter().step_by(step).collect();
    }
    combined
}

/// Every number with the arguments that are telling for it.
fn questions(policy: &Policy, combinations_max: usize) -> Vec<(u32, Vec<[u64; 6]>)> {
    let unknown = Decision::always(UNKNOWN);
    let numbers = (0..NUMBERS_END).chain((0..NUMBERS_END).map(|number| number | X32));
    numbers
        .chain([0x7fff_ffff, 0x8000_0000, u32::MAX])
        .map(|number| {
            let decision = policy.decisions.get(&number).unwrap_or(&unknown);
            (number, telling(decision, combinations_max))
        })
        .collect()
}

/// The same rules as `seccompiler` itself compiles them: since a program of its knows one answer
/// besides the default, one program for each step of the decisions and each action.
struct Linear {
    programs: Vec<(Action, Vec<Instruction>)>,
}

impl Linear {
    fn new(facts: FilterFacts, decisions: &BTreeMap<u32, Decision>) -> Self {
        let mut rules: BTreeMap<(usize, Action), BTreeMap<i64, Vec<SeccompRule>>> = BTreeMap::new();
        for (&number, decision) in decisions {
            for (step, case) in decision.cases.iter().enumerate() {
                let rule = dispatch::rule(case).unwrap();
                let calls = rules.entry((step, case.action)).or_default();
                calls.entry(number.into()).or_default().push(rule);
            }
            let calls = rules
                .entry((decision.cases.len(), decision.otherwise))
                .or_default();
            calls.insert(number.into(), Vec::new());
        }
        let arch = match facts.arch {
            Arch::X86_64 => TargetArch::x86_64,
            Arch::Aarch64 => TargetArch::aarch64,
        };
        let compile = |rules| {
            let filter =
                SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, arch).unwrap();
            instructions(&BpfProgram::try_from(filter).unwrap())
        };
        Self {
            programs: rules
                .into_iter()
                .map(|((_, action), rules)| (action, compile(rules)))
                .collect(),
        }
    }

    /// The action of the first program that matches.
    ///
    /// Programs of one step can be asked in any order: a call is in one of them.
    fn decide(&self, data: &Data) -> Action {
        self.programs
            .iter()
            .find(|(_, program)| run(program, data).unwrap().returned == dispatch::RET_ALLOW)
            .map_or(UNKNOWN, |(action, _)| *action)
    }
}

fn data(facts: FilterFacts, number: u32, arguments: [u64; 6]) -> Data {
    Data {
        number,
        arch: audit_arch(facts.arch),
        pointer: u64::MAX,
        arguments,
    }
}

/// Holds the three equal; the linear programs only where they are given and then for fewer arguments,
/// since they are slow.
fn prove(policy: &Policy, linear: Option<&Linear>) {
    let facts = policy.facts;
    let program = policy.assemble().unwrap().program;
    check(&program).unwrap();
    let combinations_max = if linear.is_some() { 1 << 11 } else { 1 << 17 };
    for (number, questions) in questions(policy, combinations_max) {
        for arguments in questions {
            let data = data(facts, number, arguments);
            let action = policy.decide(number, &arguments);
            let run = run(&program, &data).unwrap();
            let expected = return_value(action, facts);
            assert_eq!(run.returned, expected, "{number} {arguments:x?} {facts:?}");
            assert!(
                run.executed <= EXECUTED_MAX,
                "{number} takes {} instructions",
                run.executed
            );
            if policy
                .decisions
                .get(&number)
                .is_none_or(|decision| decision.cases.is_empty())
            {
                assert!(run.cacheable, "{number}");
                assert!(
                    run.executed <= EXECUTED_UNCHECKED_MAX,
                    "{number}: {}",
                    run.executed
                );
            }
            if let Some(linear) = linear {
                assert_eq!(
                    linear.decide(&data),
                    action,
                    "{number} {arguments:x?} {facts:?}"
                );
            }
        }
    }
}

#[test]
fn the_program_decides_as_the_rules_for_every_number_and_all_facts() {
    for facts in every_facts() {
        prove(
            &Policy::new(&SyscallRules::default(), &facts).unwrap(),
            None,
        );
    }
}

#[test]
fn the_program_decides_as_seccompilers_own_for_every_number() {
    for facts in every_facts() {
        let policy = Policy::new(&SyscallRules::default(), &facts).unwrap();
        let linear = Linear::new(facts, &policy.decisions);
        prove(&policy, Some(&linear));
    }
}

#[test]
fn the_programs_of_our_own_processes_decide_as_their_rules() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        for process in [
            own::Process::Supervisor,
            own::Process::Listener,
            own::Process::Reader,
            own::Process::Gateway,
        ] {
            let policy = own::policy(process, arch).unwrap();
            let linear = Linear::new(policy.facts, &policy.decisions);
            prove(&policy, None);
            prove(&policy, Some(&linear));
        }
    }
}

#[test]
fn every_other_architecture_gets_enosys() {
    /// `AUDIT_ARCH_*` of i386, arm, both of ours, riscv64, s390x, big-endian arm64, and no one's.
    const ARCHES: [u32; 8] = [
        0x4000_0003,
        0x4000_0028,
        0xc000_003e,
        0xc000_00b7,
        0xc000_00f3,
        0x8000_0016,
        0x8000_00b7,
        0,
    ];
    for facts in every_facts() {
        let program = super::assemble(&SyscallRules::default(), &facts)
            .unwrap()
            .program;
        for arch in ARCHES
            .into_iter()
            .filter(|arch| *arch != audit_arch(facts.arch))
        {
            for number in (0..NUMBERS_END).chain([0xb | X32, u32::MAX]) {
                let data = Data {
                    arch,
                    ..data(facts, number, [0; 6])
                };
                let returned = run(&program, &data).unwrap().returned;
                assert_eq!(
                    returned,
                    return_value(UNKNOWN, facts),
                    "{number} of {arch:#x}"
                );
            }
        }
    }
}

#[test]
fn every_x32_number_gets_enosys() {
    for facts in every_facts()
        .into_iter()
        .filter(|facts| facts.arch == Arch::X86_64)
    {
        let program = super::assemble(&SyscallRules::default(), &facts)
            .unwrap()
            .program;
        let control = run(&program, &data(facts, 0, [0; 6])).unwrap().returned;
        assert_eq!(control, dispatch::RET_ALLOW, "read(2) itself is allowed");
        for number in 0..NUMBERS_END {
            let returned = run(&program, &data(facts, number | X32, [0; 6]))
                .unwrap()
                .returned;
            assert_eq!(returned, return_value(UNKNOWN, facts), "{number}");
        }
    }
}

/// A profile's rules: any names that may stand there.
fn any_rules() -> impl Strategy<Value = SyscallRules> {
    let allowable = |syscall: &&'static syscalls::Syscall| {
        syscall.allowable && syscall.group.action != GroupAction::Allow
    };
    let names = |names: Vec<&'static str>| {
        let most = names.len();
        proptest::sample::subsequence(names, 0..=most)
            .prop_map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let allow = syscalls::all()
        .filter(allowable)
        .map(|syscall| syscall.name.as_str())
        .collect();
    let deny = syscalls::all()
        .filter(|syscall| !syscall.vital)
        .map(|syscall| syscall.name.as_str());
    (names(allow), names(deny.collect())).prop_map(|(allow, deny)| SyscallRules { allow, deny })
}

fn any_facts() -> impl Strategy<Value = FilterFacts> {
    proptest::sample::select(every_facts())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_program_decides_as_the_rules_whatever_a_profile_says(
        rules in any_rules(),
        facts in any_facts(),
    ) {
        let policy = Policy::new(&rules, &facts).unwrap();
        prove(&policy, None);
    }

    #[test]
    fn the_program_decides_as_seccompilers_own_for_any_arguments(
        rules in any_rules(),
        facts in any_facts(),
        arguments in proptest::collection::vec(any::<[u64; 6]>(), 16),
    ) {
        let policy = Policy::new(&rules, &facts).unwrap();
        let linear = Linear::new(facts, &policy.decisions);
        let program = policy.assemble().unwrap().program;
        for number in 0..NUMBERS_END / 2 {
            for arguments in &arguments {
                let data = data(facts, number, *arguments);
                let action = linear.decide(&data);
                prop_assert_eq!(action, policy.decide(number, arguments));
                let returned = run(&program, &data).unwrap().returned;
                prop_assert_eq!(returned, return_value(action, facts));
            }
        }
    }
}

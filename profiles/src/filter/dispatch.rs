//! From decisions to a BPF program: a search by ranges of numbers, with argument checks at its ends.
//!
//! Neighbouring numbers with the same decision make a range, and a balanced tree of comparisons
//! finds a call's range. A leaf holds its code itself instead of jumping to it. So every piece of the
//! program is reached only by falling into it or by one forward jump over its left neighbour, every
//! offset is relative, and pieces can be put together without fixing anything up afterwards.

use std::collections::BTreeMap;

use runner::spec::Instruction;
use seccompiler::{
    BpfProgram, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule, sock_filter,
};

use super::arguments::{Case, Condition, Decision, Width};
use super::{Action, FilterError, FilterFacts, UNKNOWN};
use crate::host::Arch;

/// `BPF_LD | BPF_W | BPF_ABS`: loads a word of `struct seccomp_data`.
pub(super) const LOAD: u16 = 0x20;
/// `BPF_JMP | BPF_JA`: jumps by the operand.
pub(super) const JUMP: u16 = 0x05;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
pub(super) const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGE | BPF_K`.
pub(super) const JUMP_IF_AT_LEAST: u16 = 0x35;
/// `BPF_RET | BPF_K`.
pub(super) const RETURN: u16 = 0x06;

/// Offset of `nr` in `struct seccomp_data`.
const DATA_NUMBER: u32 = 0;
/// Offset of `arch` in `struct seccomp_data`.
const DATA_ARCH: u32 = 4;

/// `SECCOMP_RET_ALLOW`.
pub(super) const RET_ALLOW: u32 = 0x7fff_0000;
/// `SECCOMP_RET_USER_NOTIF`.
pub(super) const RET_NOTIFY: u32 = 0x7fc0_0000;
/// `SECCOMP_RET_ERRNO`; the error number is in the low 16 bits.
pub(super) const RET_ERRNO: u32 = 0x0005_0000;

/// The `AUDIT_ARCH_*` value of an architecture.
pub(super) fn audit_arch(arch: Arch) -> u32 {
    match arch {
        Arch::X86_64 => 0xc000_003e,
        Arch::Aarch64 => 0xc000_00b7,
    }
}

/// What the program returns for an action.
pub(super) fn return_value(action: Action, facts: FilterFacts) -> u32 {
    match action {
        Action::Allow => RET_ALLOW,
        // Error number 0: the call returns 0 and has not been made (seccomp(2)).
        Action::Pretend => RET_ERRNO,
        Action::Refuse(errno) => RET_ERRNO | u32::from(errno.number()),
        Action::Deny(errno) if !facts.notify => RET_ERRNO | u32::from(errno.number()),
        Action::Deny(_) | Action::Inspect | Action::InspectAddress | Action::SealedMemfd => {
            RET_NOTIFY
        }
    }
}

/// Assembles the program.
///
/// System calls of another architecture (`int 0x80` on x86_64) get `ENOSYS`. So do x32's: their
/// numbers have bit 30 set and lie in the last range, above every number that there is.
pub(super) fn program(
    facts: FilterFacts,
    decisions: &BTreeMap<u32, Decision>,
) -> Result<Vec<Instruction>, FilterError> {
    let mut program = vec![
        statement(LOAD, DATA_ARCH),
        jump(JUMP_IF_EQUAL, audit_arch(facts.arch), 1, 0),
        statement(RETURN, return_value(UNKNOWN, facts)),
        statement(LOAD, DATA_NUMBER),
    ];
    let leaves = ranges(decisions)
        .into_iter()
        .map(|(start, decision)| Ok((start, leaf(&decision, facts)?)))
        .collect::<Result<Vec<_>, FilterError>>()?;
    program.extend(tree(&merged(leaves)));
    Ok(program)
}

/// The decisions as ranges, each by its first number; the first range starts at 0, and the last one
/// goes on to the largest number there can be.
fn ranges(decisions: &BTreeMap<u32, Decision>) -> Vec<(u32, Decision)> {
    let unknown = Decision::always(UNKNOWN);
    let mut ranges = vec![(0, unknown.clone())];
    let mut push = |start: u32, decision: &Decision| match ranges.last_mut() {
        Some((last, previous)) if *last == start => *previous = decision.clone(),
        _ => ranges.push((start, decision.clone())),
    };
    for (&number, decision) in decisions {
        push(number, decision);
        // The next number overwrites this if it is known.
        push(number + 1, &unknown);
    }
    ranges
}

/// The ranges without those that have the same code as the one before.
fn merged(leaves: Vec<(u32, Vec<Instruction>)>) -> Vec<(u32, Vec<Instruction>)> {
    let mut merged: Vec<(u32, Vec<Instruction>)> = Vec::with_capacity(leaves.len());
    for (start, code) in leaves {
        if merged.last().is_none_or(|(_, previous)| *previous != code) {
            merged.push((start, code));
        }
    }
    merged
}

/// The code that finds a number's leaf; the accumulator holds the number.
fn tree(leaves: &[(u32, Vec<Instruction>)]) -> Vec<Instruction> {
    let (below, above) = leaves.split_at(leaves.len() / 2);
    let Some((pivot, _)) = above.first() else {
        return Vec::new();
    };
    if below.is_empty() {
        return above.iter().flat_map(|(_, code)| code.clone()).collect();
    }
    let (below, above) = (tree(below), tree(above));
    let mut code = if let Ok(over) = u8::try_from(below.len()) {
        vec![jump(JUMP_IF_AT_LEAST, *pivot, over, 0)]
    } else {
        // A conditional jump reaches 255 instructions; the unconditional one reaches all of them.
        let over = u32::try_from(below.len()).unwrap_or(u32::MAX);
        vec![jump(JUMP_IF_AT_LEAST, *pivot, 0, 1), statement(JUMP, over)]
    };
    code.extend(below);
    code.extend(above);
    code
}

/// The code of one decision: each case as `seccompiler` compiles its rule, then what is left.
fn leaf(decision: &Decision, facts: FilterFacts) -> Result<Vec<Instruction>, FilterError> {
    let mut code = Vec::new();
    for case in &decision.cases {
        code.extend(conditions(case)?);
        code.push(statement(RETURN, return_value(case.action, facts)));
    }
    code.push(statement(RETURN, return_value(decision.otherwise, facts)));
    Ok(code)
}

/// Tests that fall through if all of them hold and jump over one more instruction if one does not.
///
/// A rule as `seccompiler` compiles it begins with two jumps that belong to its own linear search:
/// one into the rule and one past it. What follows is position-independent and has exactly this form.
fn conditions(case: &Case) -> Result<Vec<Instruction>, FilterError> {
    let compiled = BpfProgram::from(rule(case)?);
    let [enter, leave, tests @ ..] = compiled.as_slice() else {
        return Err(FilterError::Check(
            "the compiled rule is too short".to_owned(),
        ));
    };
    let over = u32::try_from(tests.len())
        .unwrap_or(u32::MAX)
        .saturating_add(2);
    let as_expected = *enter
        == sock_filter {
            code: JUMP,
            jt: 0,
            jf: 0,
            k: 1,
        }
        && *leave
            == sock_filter {
                code: JUMP,
                jt: 0,
                jf: 0,
                k: over,
            }
        && !tests
            .iter()
            .any(|test| test.code == JUMP || test.code == RETURN);
    if !as_expected {
        return Err(FilterError::Check(format!(
            "the compiled rule begins {enter:?}, {leave:?}"
        )));
    }
    Ok(tests
        .iter()
        .map(|test| Instruction {
            code: test.code,
            jt: test.jt,
            jf: test.jf,
            k: test.k,
        })
        .collect())
}

/// A case in the form that `seccompiler` takes.
pub(super) fn rule(case: &Case) -> Result<SeccompRule, FilterError> {
    let conditions = case
        .conditions
        .iter()
        .map(
            |&Condition {
                 argument,
                 width,
                 mask,
                 value,
             }| {
                let (len, all) = match width {
                    Width::Low => (SeccompCmpArgLen::Dword, u64::from(u32::MAX)),
                    Width::Whole => (SeccompCmpArgLen::Qword, u64::MAX),
                };
                let op = if mask == all {
                    SeccompCmpOp::Eq
                } else {
                    SeccompCmpOp::MaskedEq(mask)
                };
                SeccompCondition::new(argument, len, op, value)
            },
        )
        .collect::<Result<Vec<_>, _>>()
        .and_then(SeccompRule::new);
    conditions.map_err(|error| FilterError::Check(error.to_string()))
}

fn statement(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

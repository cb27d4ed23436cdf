//! Runs classic BPF programs over `struct seccomp_data` as the kernel does, for the tests.
//!
//! It knows the instructions that the kernel lets a seccomp filter have, as far as `seccompiler` and
//! this crate write them, and refuses what the kernel's checker refuses: jumps out of the program,
//! loads beside the data, an end without a return.

use runner::spec::Instruction;
use seccompiler::BpfProgram;

/// `struct seccomp_data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Data {
    pub number: u32,
    pub arch: u32,
    pub pointer: u64,
    pub arguments: [u64; 6],
}

/// What came of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The value that the program returned.
    pub returned: u32,
    /// How many instructions were executed.
    pub executed: usize,
    /// Whether anything besides `nr` and `arch` was loaded: if not, and if the value is
    /// `SECCOMP_RET_ALLOW`, the kernel remembers so and never runs the filter for this number.
    pub cacheable: bool,
}

/// Why the kernel would not take the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    UnknownInstruction(usize),
    JumpOut(usize),
    LoadBeside(usize),
    NoReturn,
    Length(usize),
}

/// `BPF_ALU | BPF_AND | BPF_K`.
const AND: u16 = 0x54;
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP_IF_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

/// Size of `struct seccomp_data`.
const DATA_BYTES: u32 = 64;

impl Data {
    /// The 32-bit word at an offset.
    fn word(&self, offset: u32) -> Option<u32> {
        let half = |value: u64, high: bool| {
            u32::try_from(if high {
                value >> 32
            } else {
                value & u64::from(u32::MAX)
            })
            .unwrap()
        };
        if !offset.is_multiple_of(4) || offset >= DATA_BYTES {
            return None;
        }
        let high = offset % 8 == 4;
        Some(match offset {
            0 => self.number,
            4 => self.arch,
            8 | 12 => half(self.pointer, high),
            _ => half(
                self.arguments[usize::try_from(offset / 8 - 2).unwrap()],
                high,
            ),
        })
    }
}

/// What the kernel checks when a filter is installed (`bpf_check_classic`, `seccomp_check_filter`).
pub(crate) fn check(program: &[Instruction]) -> Result<(), Fault> {
    const INSTRUCTIONS_MAX: usize = 4096;
    if program.is_empty() || program.len() > INSTRUCTIONS_MAX {
        return Err(Fault::Length(program.len()));
    }
    for (at, instruction) in program.iter().enumerate() {
        let inside = |over: u32| at + 1 + (over as usize) < program.len();
        match instruction.code {
            LOAD if !instruction.k.is_multiple_of(4) || instruction.k >= DATA_BYTES => {
                return Err(Fault::LoadBeside(at));
            }
            JUMP if !inside(instruction.k) => return Err(Fault::JumpOut(at)),
            JUMP_IF_EQUAL | JUMP_IF_GREATER | JUMP_IF_AT_LEAST | JUMP_IF_SET
                if !inside(instruction.jt.into()) || !inside(instruction.jf.into()) =>
            {
                return Err(Fault::JumpOut(at));
            }
            LOAD | AND | JUMP | JUMP_IF_EQUAL | JUMP_IF_GREATER | JUMP_IF_AT_LEAST
            | JUMP_IF_SET | RETURN => {}
            _ => return Err(Fault::UnknownInstruction(at)),
        }
    }
    if program.last().is_none_or(|last| last.code != RETURN) {
        return Err(Fault::NoReturn);
    }
    Ok(())
}

/// Runs a program.
pub(crate) fn run(program: &[Instruction], data: &Data) -> Result<Run, Fault> {
    let (mut at, mut accumulator, mut executed, mut cacheable) = (0, 0_u32, 0, true);
    loop {
        let Some(&Instruction { code, jt, jf, k }) = program.get(at) else {
            return Err(Fault::JumpOut(at));
        };
        executed += 1;
        let branch = |taken: bool| usize::from(if taken { jt } else { jf });
        at += 1 + match code {
            LOAD => {
                accumulator = data.word(k).ok_or(Fault::LoadBeside(at))?;
                cacheable &= k < 8;
                0
            }
            AND => {
                accumulator &= k;
                0
            }
            JUMP => k as usize,
            JUMP_IF_EQUAL => branch(accumulator == k),
            JUMP_IF_GREATER => branch(accumulator > k),
            JUMP_IF_AT_LEAST => branch(accumulator >= k),
            JUMP_IF_SET => branch(accumulator & k != 0),
            RETURN => {
                return Ok(Run {
                    returned: k,
                    executed,
                    cacheable,
                });
            }
            _ => return Err(Fault::UnknownInstruction(at)),
        };
    }
}

/// A program of `seccompiler` in the form that is run here.
pub(crate) fn instructions(program: &BpfProgram) -> Vec<Instruction> {
    let instruction = |from: &seccompiler::sock_filter| Instruction {
        code: from.code,
        jt: from.jt,
        jf: from.jf,
        k: from.k,
    };
    program.iter().map(instruction).collect()
}

#[test]
fn a_jump_out_of_the_program_is_refused() {
    let over = Instruction {
        code: JUMP,
        jt: 0,
        jf: 0,
        k: 1,
    };
    let end = Instruction {
        code: RETURN,
        jt: 0,
        jf: 0,
        k: 0,
    };
    assert_eq!(check(&[over, end]), Err(Fault::JumpOut(0)));
    assert_eq!(check(&[Instruction { k: 0, ..over }, end]), Ok(()));
}

#[test]
fn words_of_the_data_lie_as_on_a_little_endian_machine() {
    let data = Data {
        number: 1,
        arch: 2,
        pointer: 0x4_0000_0003,
        arguments: [0x6_0000_0005; 6],
    };
    let words: Vec<_> = (0..8).map(|word| data.word(word * 4).unwrap()).collect();
    assert_eq!(words, [1, 2, 3, 4, 5, 6, 5, 6]);
    assert_eq!(
        (data.word(60), data.word(64), data.word(2)),
        (Some(6), None, None)
    );
}

//! Which devices a container may open or make: lines for version 1, a small kernel program for version 2.

#![allow(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// Kind of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// Both.
    All,
    /// Character.
    Char,
    /// Block.
    Block,
}

/// What may be done with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Read from it.
    pub read: bool,
    /// Write to it.
    pub write: bool,
    /// Make its node.
    pub mknod: bool,
}

impl Access {
    /// Everything.
    pub const ALL: Self = Self { read: true, write: true, mknod: true };

    /// Parses a form such as `rwm`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.chars().all(|c| "rwm".contains(c)).then(|| Self {
            read: text.contains('r'),
            write: text.contains('w'),
            mknod: text.contains('m'),
        })
    }
}

/// A rule; the last one that fits counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Allow or deny.
    pub allow: bool,
    /// Kind.
    pub kind: DeviceKind,
    /// Major number; `None` for all.
    pub major: Option<u32>,
    /// Minor number; `None` for all.
    pub minor: Option<u32>,
    /// For what.
    pub access: Access,
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            // The kernel takes "a" for everything, whatever stands behind it.
            DeviceKind::All if self.major.is_none() && self.minor.is_none() => return f.write_str("a"),
            DeviceKind::All | DeviceKind::Char => 'c',
            DeviceKind::Block => 'b',
        };
        let part = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        write!(f, "{kind} {}:{} ", part(self.major), part(self.minor))?;
        for (on, letter) in [(self.access.read, 'r'), (self.access.write, 'w'), (self.access.mknod, 'm')] {
            if on {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// Deny everything but making nodes, and null, zero, full, random, urandom, tty, console, ptmx and terminals.
#[must_use]
pub fn default_rules() -> Vec<DeviceRule> {
    let rule = |allow, kind, major, minor, access| DeviceRule { allow, kind, major, minor, access };
    let mknod = Access { read: false, write: false, mknod: true };
    let mut rules = vec![
        rule(false, DeviceKind::All, None, None, Access::ALL),
        rule(true, DeviceKind::Char, None, None, mknod),
        rule(true, DeviceKind::Block, None, None, mknod),
    ];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule(true, DeviceKind::Char, Some(major), Some(minor), Access::ALL));
    }
    rules.push(rule(true, DeviceKind::Char, Some(136), None, Access::ALL));
    rules
}

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn op(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: (source << 4) | destination, offset, immediate }
}

/// The program of `BPF_PROG_TYPE_CGROUP_DEVICE`: rules from the last to the first, the first that fits decides.
///
/// Context: `u32 access_type` (kind in the lower half, access in the upper), `u32 major`, `u32 minor`.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    const LOAD_WORD: u8 = 0x61;
    const MOVE_REGISTER: u8 = 0xbf;
    const MOVE_NUMBER: u8 = 0xb7;
    const AND_NUMBER: u8 = 0x57;
    const SHIFT_RIGHT: u8 = 0x77;
    const JUMP_UNEQUAL_NUMBER: u8 = 0x55;
    const JUMP_UNEQUAL_REGISTER: u8 = 0x5d;
    const EXIT: u8 = 0x95;
    // r2: kind, r3: access, r4: major, r5: minor.
    let mut code = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE_REGISTER, 3, 2, 0, 0),
        op(AND_NUMBER, 2, 0, 0, 0xffff),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let mut tests = Vec::new();
        match rule.kind {
            DeviceKind::All => {}
            DeviceKind::Block => tests.push(op(JUMP_UNEQUAL_NUMBER, 2, 0, 0, 1)),
            DeviceKind::Char => tests.push(op(JUMP_UNEQUAL_NUMBER, 2, 0, 0, 2)),
        }
        // Making is 1, reading 2, writing 4. The rule fits when all that is asked is in it.
        let mask = i32::from(rule.access.mknod) | i32::from(rule.access.read) << 1 | i32::from(rule.access.write) << 2;
        if mask != 7 {
            tests.push(op(MOVE_REGISTER, 6, 3, 0, 0));
            tests.push(op(AND_NUMBER, 6, 0, 0, mask));
            tests.push(op(JUMP_UNEQUAL_REGISTER, 6, 3, 0, 0));
        }
        for (register, wanted) in [(4, rule.major), (5, rule.minor)] {
            if let Some(wanted) = wanted {
                tests.push(op(JUMP_UNEQUAL_NUMBER, register, 0, 0, i32::try_from(wanted).unwrap_or(i32::MAX)));
            }
        }
        let length = tests.len();
        for (at, mut test) in tests.into_iter().enumerate() {
            if test.code == JUMP_UNEQUAL_NUMBER || test.code == JUMP_UNEQUAL_REGISTER {
                // Over the rest of the tests and the two instructions of the verdict.
                test.offset = i16::try_from(length - at - 1 + 2).unwrap_or(i16::MAX);
            }
            code.push(test);
        }
        code.push(op(MOVE_NUMBER, 0, 0, 0, i32::from(rule.allow)));
        code.push(op(EXIT, 0, 0, 0, 0));
        if length == 0 {
            // The rule fits everything, and the kernel refuses programs with code that is never reached.
            return code;
        }
    }
    code.push(op(MOVE_NUMBER, 0, 0, 0, 0));
    code.push(op(EXIT, 0, 0, 0, 0));
    code
}

/// Loads the program and makes it the cgroup's.
pub(crate) fn attach(directory: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    const PROG_LOAD: libc::c_long = 5;
    const PROG_ATTACH: libc::c_long = 8;
    const CGROUP_DEVICE: u32 = 15;
    const ATTACH_DEVICE: u32 = 6;
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        rest: [u64; 12],
    }
    #[repr(C)]
    #[derive(Default)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
        rest: [u64; 2],
    }
    let instructions = program(rules);
    let license = c"Apache-2.0";
    let load = Load {
        kind: CGROUP_DEVICE,
        count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        rest: [0; 12],
    };
    // SAFETY: the structure is the kernel's `union bpf_attr` for this command, zero beyond what is set, and what it
    // points to outlives the call.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    if loaded < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let loaded = unsafe { OwnedFd::from_raw_fd(i32::try_from(loaded).map_err(io::Error::other)?) };
    let cgroup = fs::File::open(directory)?;
    let attach = Attach {
        target: u32::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?,
        program: u32::try_from(loaded.as_raw_fd()).map_err(io::Error::other)?,
        kind: ATTACH_DEVICE,
        flags: 0,
        rest: [0; 2],
    };
    // SAFETY: as above; without flags, attaching replaces the program that was there.
    let attached = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    if attached < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// Runs the program on the instructions it uses.
    fn run(code: &[Instruction], kind: u64, access: u64, major: u64, minor: u64) -> u64 {
        let mut registers = [0_u64; 11];
        let context = [kind | access << 16, major, minor];
        let mut at = 0_usize;
        loop {
            let step = code[at];
            let (destination, source) = (usize::from(step.registers & 15), usize::from(step.registers >> 4));
            let number = i64::from(step.immediate).cast_unsigned();
            let mut jump = 0;
            match step.code {
                0x61 => registers[destination] = context[usize::try_from(step.offset).unwrap_or(0) / 4],
                0xbf => registers[destination] = registers[source],
                0xb7 => registers[destination] = number,
                0x57 => registers[destination] &= number,
                0x77 => registers[destination] >>= number,
                0x55 if registers[destination] != number => jump = step.offset,
                0x5d if registers[destination] != registers[source] => jump = step.offset,
                0x55 | 0x5d => {}
                0x95 => return registers[0],
                other => panic!("instruction {other:#x}"),
            }
            at += 1 + usize::try_from(jump).unwrap_or(0);
        }
    }

    /// Whether every instruction can be reached, as the kernel demands.
    fn whole(code: &[Instruction]) -> bool {
        let mut reached = vec![false; code.len()];
        let mut open = vec![0];
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut reached[at], true) {
                continue;
            }
            match code[at].code {
                0x95 => {}
                0x55 | 0x5d => open.extend([at + 1, at + 1 + usize::try_from(code[at].offset).unwrap()]),
                _ => open.push(at + 1),
            }
        }
        reached.into_iter().all(|reached| reached)
    }

    fn allowed(rules: &[DeviceRule], kind: u64, access: u64, major: u64, minor: u64) -> bool {
        rules
            .iter()
            .rev()
            .find_map(|rule| {
                let of_kind = match rule.kind {
                    DeviceKind::All => true,
                    DeviceKind::Block => kind == 1,
                    DeviceKind::Char => kind == 2,
                };
                let mask =
                    u64::from(rule.access.mknod) | u64::from(rule.access.read) << 1 | u64::from(rule.access.write) << 2;
                let fits = of_kind
                    && access & !mask == 0
                    && rule.major.is_none_or(|m| u64::from(m) == major)
                    && rule.minor.is_none_or(|m| u64::from(m) == minor);
                fits.then_some(rule.allow)
            })
            .unwrap_or(false)
    }

    #[test]
    fn the_default_opens_null_and_nothing_of_the_hosts() {
        let code = program(&default_rules());
        assert_eq!(run(&code, 2, 6, 1, 3), 1, "null");
        assert_eq!(run(&code, 2, 1, 8, 0), 1, "mknod");
        assert_eq!(run(&code, 1, 2, 8, 0), 0, "the host's disk");
        assert_eq!(run(&code, 2, 2, 1, 1), 0, "memory");
        assert!(whole(&code));
    }

    #[test]
    fn lines_are_the_kernels() {
        let lines: Vec<String> = default_rules().iter().map(ToString::to_string).collect();
        assert_eq!(lines[..4], ["a", "c *:* m", "b *:* m", "c 1:3 rwm"]);
    }

    fn rule() -> impl Strategy<Value = DeviceRule> {
        let kind = prop_oneof![Just(DeviceKind::All), Just(DeviceKind::Char), Just(DeviceKind::Block)];
        let number = proptest::option::of(0_u32..3);
        (any::<bool>(), kind, number.clone(), number, any::<[bool; 3]>()).prop_map(
            |(allow, kind, major, minor, [read, write, mknod])| DeviceRule {
                allow,
                kind,
                major,
                minor,
                access: Access { read, write, mknod },
            },
        )
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_rules_read(
            rules in proptest::collection::vec(rule(), 0..12), kind in 1_u64..=2, access in 0_u64..8, major in 0_u64..4, minor in 0_u64..4,
        ) {
            prop_assert!(whole(&program(&rules)));
            prop_assert_eq!(run(&program(&rules), kind, access, major, minor) == 1, allowed(&rules, kind, access, major, minor));
        }
    }
}

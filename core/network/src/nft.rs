//! The words of nftables as netlink messages: tables, chains, sets, maps, rules. Pure.

use crate::netlink::{CREATE, Message};

const SUBSYSTEM: u16 = 10 << 8;
/// Rules for IPv4 and IPv6 in one table.
const INET: u8 = 1;

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;
const LIST_ELEM: u16 = 1;
const APPEND: u16 = 0x800;

/// A register of 32 bits. The kernel has 16 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register(pub(crate) u32);

impl Register {
    fn number(self) -> u32 {
        8 + self.0
    }
}

/// A set or map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) key: &'static [Type],
    pub(crate) value: Option<&'static [Type]>,
    pub(crate) interval: bool,
}

impl Set {
    pub(crate) const fn of(name: &'static str, key: &'static [Type]) -> Self {
        Self { name, key, value: None, interval: false }
    }

    pub(crate) const fn of_ranges(name: &'static str, key: &'static [Type]) -> Self {
        Self { name, key, value: None, interval: true }
    }

    pub(crate) const fn map(name: &'static str, key: &'static [Type], value: &'static [Type]) -> Self {
        Self { name, key, value: Some(value), interval: false }
    }
}

/// Types of keys and values, with the numbers by which `nft` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Ipv4,
    Ipv6,
    Protocol,
    Port,
    Interface,
    Verdict,
}

impl Type {
    fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Interface => 41,
            Self::Verdict => 0xffff_ff00,
        }
    }

    fn length(self) -> u32 {
        match self {
            Self::Ipv4 | Self::Protocol | Self::Port => 4,
            Self::Ipv6 | Self::Interface | Self::Verdict => 16,
        }
    }
}

/// The lone type or the chain of six-bit numbers, and the length.
fn shape(types: &[Type]) -> (u32, u32) {
    match types {
        // A lone field is as long as it is, parts of a chain fill words.
        [Type::Port] => (Type::Port.number(), 2),
        [Type::Protocol] => (Type::Protocol.number(), 1),
        [one] => (one.number(), one.length()),
        many => {
            (many.iter().fold(0, |all, part| (all << 6) | part.number()), many.iter().map(|part| part.length()).sum())
        }
    }
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Drop,
    Accept,
    Return,
}

impl Verdict {
    fn code(self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Return => -5,
        }
    }
}

/// Facts about a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meta {
    InName,
    OutName,
    /// 2 is IPv4, 10 is IPv6.
    Family,
    Protocol,
}

/// A part of a rule. Values are bytes as they lie in registers.
#[derive(Debug, Clone)]
pub(crate) enum Expr {
    Meta(Meta, Register),
    /// Bytes of the network header.
    Network {
        offset: u32,
        length: u32,
        to: Register,
    },
    /// Bytes of the transport header.
    Transport {
        offset: u32,
        length: u32,
        to: Register,
    },
    Mask {
        at: Register,
        mask: Vec<u8>,
    },
    Equal(Register, Vec<u8>),
    Differs(Register, Vec<u8>),
    InSet {
        set: &'static str,
        from: Register,
    },
    NotInSet {
        set: &'static str,
        from: Register,
    },
    /// The value goes to a register; without an entry the rule ends.
    Map {
        map: &'static str,
        from: Register,
        to: Register,
    },
    /// The value is what happens.
    VerdictMap {
        map: &'static str,
        from: Register,
    },
    /// Whether the destination is the host's (2), as a word.
    DestinationType(Register),
    ConnectionState(Register),
    ConnectionStatus(Register),
    Then(Verdict),
    DestinationNat {
        v4: bool,
        address: Register,
        port: Register,
    },
    Masquerade,
}

/// Where a base chain hooks in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hook {
    Prerouting = 0,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// A key with its value, or an end of an interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Value>,
    pub(crate) end: bool,
}

/// What a map says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Bytes(Vec<u8>),
    Verdict(Verdict),
}

impl Element {
    pub(crate) fn key(key: Vec<u8>) -> Self {
        Self { key, value: None, end: false }
    }
}

/// One table's messages.
#[derive(Debug)]
pub(crate) struct Table {
    name: String,
    batch: Vec<Message>,
}

impl Table {
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), batch: Vec::new() }
    }

    pub(crate) fn finish(self) -> Vec<Message> {
        self.batch
    }

    fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Message, &str)) {
        let mut message = Message::new(SUBSYSTEM | kind, flags, &[INET, 0, 0, 0]);
        fill(&mut message, &self.name);
        self.batch.push(message);
    }

    pub(crate) fn create(&mut self) {
        self.message(NEWTABLE, CREATE, |message, table| {
            message.put_text(1, table).put_be32(2, 0);
        });
    }

    pub(crate) fn delete(&mut self) {
        self.message(DELTABLE, 0, |message, table| {
            message.put_text(1, table);
        });
    }

    pub(crate) fn set(&mut self, set: &Set, id: u32) {
        const INTERVAL: u32 = 4;
        const MAP: u32 = 8;
        self.message(NEWSET, CREATE, |message, table| {
            let mut flags = if set.interval { INTERVAL } else { 0 };
            let (key, key_length) = shape(set.key);
            message.put_text(1, table).put_text(2, set.name);
            if let Some(value) = set.value {
                flags |= MAP;
                let (value, length) = shape(value);
                message.put_be32(6, value);
                if value != Type::Verdict.number() {
                    message.put_be32(7, length);
                }
            }
            message.put_be32(3, flags).put_be32(4, key).put_be32(5, key_length).put_be32(10, id);
            if set.key == [Type::Interface] {
                // For those who list the table: the key's bytes are in the host's order, as names are.
                message.put(13, &[0, 4, 1, 0, 0, 0]);
            }
        });
    }

    /// A chain that sees every packet at its hook.
    pub(crate) fn chain(&mut self, name: &str, kind: &str, hook: Hook, priority: i32) {
        self.message(NEWCHAIN, CREATE, |message, table| {
            message.put_text(1, table).put_text(3, name);
            message.nest(4, |at| {
                at.put_be32(1, hook as u32).put(2, &priority.to_be_bytes());
            });
            message.put(5, &Verdict::Accept.code().to_be_bytes()).put_text(7, kind);
        });
    }

    pub(crate) fn rule(&mut self, chain: &str, parts: &[Expr]) {
        self.message(NEWRULE, CREATE | APPEND, |message, table| {
            message.put_text(1, table).put_text(2, chain);
            message.nest(4, |list| parts.iter().for_each(|part| expression(list, part)));
        });
    }

    pub(crate) fn add(&mut self, set: &Set, elements: &[Element]) {
        self.elements(NEWSETELEM, CREATE, set, elements);
    }

    pub(crate) fn remove(&mut self, set: &Set, elements: &[Element]) {
        self.elements(DELSETELEM, 0, set, elements);
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &Set, elements: &[Element]) {
        // An attribute holds 64 KiB.
        for some in elements.chunks(400) {
            self.message(kind, flags, |message, table| {
                message.put_text(1, table).put_text(2, set.name);
                message.nest(3, |list| some.iter().for_each(|element| put_element(list, element)));
            });
        }
    }
}

fn put_element(list: &mut Message, element: &Element) {
    const INTERVAL_END: u32 = 1;
    list.nest(LIST_ELEM, |entry| {
        entry.nest(1, |key| {
            key.put(1, &element.key);
        });
        match &element.value {
            Some(Value::Bytes(bytes)) => {
                entry.nest(2, |data| {
                    data.put(1, bytes);
                });
            }
            Some(Value::Verdict(verdict)) => {
                entry.nest(2, |data| put_verdict(data, *verdict));
            }
            None => {}
        }
        if element.end {
            entry.put_be32(3, INTERVAL_END);
        }
    });
}

fn put_verdict(data: &mut Message, verdict: Verdict) {
    data.nest(2, |inner| {
        inner.put(1, &verdict.code().to_be_bytes());
    });
}

fn expression(list: &mut Message, part: &Expr) {
    let mut named = |name: &str, fill: &dyn Fn(&mut Message)| {
        list.nest(LIST_ELEM, |entry| {
            entry.put_text(1, name).nest(2, |data| fill(data));
        });
    };
    let compare = |op: u32, from: Register, value: &[u8]| {
        let value = value.to_vec();
        move |data: &mut Message| {
            data.put_be32(1, from.number()).put_be32(2, op).nest(3, |inner| {
                inner.put(1, &value);
            });
        }
    };
    let payload = |base: u32, offset: u32, length: u32, to: Register| {
        move |data: &mut Message| {
            data.put_be32(1, to.number()).put_be32(2, base).put_be32(3, offset).put_be32(4, length);
        }
    };
    match part {
        Expr::Meta(key, to) => named("meta", &|data| {
            let key = match key {
                Meta::InName => 6,
                Meta::OutName => 7,
                Meta::Family => 15,
                Meta::Protocol => 16,
            };
            data.put_be32(1, to.number()).put_be32(2, key);
        }),
        Expr::Network { offset, length, to } => named("payload", &payload(1, *offset, *length, *to)),
        Expr::Transport { offset, length, to } => named("payload", &payload(2, *offset, *length, *to)),
        Expr::Mask { at, mask } => named("bitwise", &|data| {
            let length = u32::try_from(mask.len()).unwrap_or_default();
            data.put_be32(1, at.number()).put_be32(2, at.number()).put_be32(3, length);
            data.nest(4, |inner| {
                inner.put(1, mask);
            });
            data.nest(5, |inner| {
                inner.put(1, &vec![0; mask.len()]);
            });
        }),
        Expr::Equal(from, value) => named("cmp", &compare(0, *from, value)),
        Expr::Differs(from, value) => named("cmp", &compare(1, *from, value)),
        Expr::InSet { set, from } => named("lookup", &|data| {
            data.put_text(1, set).put_be32(2, from.number());
        }),
        Expr::NotInSet { set, from } => named("lookup", &|data| {
            data.put_text(1, set).put_be32(2, from.number()).put_be32(5, 1);
        }),
        Expr::Map { map, from, to } => named("lookup", &|data| {
            data.put_text(1, map).put_be32(2, from.number()).put_be32(3, to.number());
        }),
        Expr::VerdictMap { map, from } => named("lookup", &|data| {
            data.put_text(1, map).put_be32(2, from.number()).put_be32(3, 0);
        }),
        Expr::DestinationType(to) => named("fib", &|data| {
            data.put_be32(1, to.number()).put_be32(2, 3).put_be32(3, 2);
        }),
        Expr::ConnectionState(to) => named("ct", &|data| {
            data.put_be32(1, to.number()).put_be32(2, 0);
        }),
        Expr::ConnectionStatus(to) => named("ct", &|data| {
            data.put_be32(1, to.number()).put_be32(2, 2);
        }),
        Expr::Then(verdict) => named("immediate", &|data| {
            data.put_be32(1, 0).nest(2, |inner| put_verdict(inner, *verdict));
        }),
        Expr::DestinationNat { v4, address, port } => named("nat", &|data| {
            let family = if *v4 { libc::AF_INET } else { libc::AF_INET6 };
            data.put_be32(1, 1).put(2, &family.to_be_bytes()).put_be32(3, address.number()).put_be32(5, port.number());
        }),
        Expr::Masquerade => named("masq", &|_| {}),
    }
}

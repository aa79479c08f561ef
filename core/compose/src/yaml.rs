//! YAML text to [`Node`]s: bounded in depth and in what aliases expand to, duplicate keys refused, `<<` applied.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use crate::node::{At, Entry, MergeTag, Node, Value};
use crate::session::Session;

/// Deepest nesting accepted; aliases count with what they stand for.
const DEPTH: usize = 100;

/// The documents of a text. None after an error was reported.
///
/// `own` says whether the file is one of the project's, not one that another file names.
pub(crate) fn parse(
    session: &mut Session<'_>,
    path: &Path,
    base: &Path,
    own: bool,
    bytes: Vec<u8>,
) -> Option<Vec<Node>> {
    let (text, broken) = match String::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            (String::from_utf8_lossy(error.as_bytes()).into_owned(), Some(valid))
        }
    };
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    let file = session.add_source(path, base, own, text.clone());
    if session.too_many_sources() {
        return None;
    }
    if let Some(valid) = broken {
        let line = text.bytes().take(valid).filter(|b| *b == b'\n').count() + 1;
        session.error(At { file, line: small(line), column: 1 }, "this is not UTF-8 text");
        return None;
    }
    let mut builder = Builder { session, file, anchors: HashMap::new() };
    let mut parser = Parser::new_from_str(&text);
    let mut documents = Vec::new();
    loop {
        match parser.next_event() {
            None | Some(Ok((Event::StreamEnd, _))) => return Some(documents),
            Some(Ok((Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _))) => {}
            Some(Ok((event, span))) => documents.push(builder.node(&mut parser, event, span, 0)?.0),
            Some(Err(error)) => {
                builder.scan_error(&error);
                return None;
            }
        }
    }
}

fn small(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

type Source<'i> = Parser<'i, saphyr_parser::StrInput<'i>>;

struct Builder<'s, 'a> {
    session: &'s mut Session<'a>,
    file: u32,
    /// Finished anchors with the depth and the weight of what they stand for.
    anchors: HashMap<usize, (Node, usize, usize)>,
}

impl Builder<'_, '_> {
    fn at(&self, span: Span) -> At {
        At { file: self.file, line: small(span.start.line()), column: small(span.start.col() + 1) }
    }

    fn scan_error(&mut self, error: &saphyr_parser::ScanError) {
        let mark = error.marker();
        let at = At { file: self.file, line: small(mark.line()), column: small(mark.col() + 1) };
        let line = self.session.text(self.file).split('\n').nth(mark.line().saturating_sub(1)).unwrap_or_default();
        let indent = line.len() - line.trim_start().len();
        if line.get(..indent).is_some_and(|space| space.contains('\t')) {
            self.session.error_help(at, format!("this is not YAML: {}", error.info()), "indent with spaces, not tabs");
        } else {
            self.session.error(at, format!("this is not YAML: {}", error.info()));
        }
    }

    fn next<'i>(&mut self, parser: &mut Source<'i>) -> Option<(Event<'i>, Span)> {
        match parser.next_event()? {
            Ok(next) => Some(next),
            Err(error) => {
                self.scan_error(&error);
                None
            }
        }
    }

    /// The node that starts with `event`, and its height.
    fn node<'i>(
        &mut self,
        parser: &mut Source<'i>,
        event: Event<'i>,
        span: Span,
        depth: usize,
    ) -> Option<(Node, usize)> {
        let at = self.at(span);
        if depth > DEPTH {
            self.session.error(at, format!("nested deeper than {DEPTH} levels"));
            return None;
        }
        let Some(left) = self.session.node_budget.checked_sub(1) else {
            self.session.error(at, "the files hold too many values");
            return None;
        };
        self.session.node_budget = left;
        let (value, tag, anchor, height) = match event {
            Event::Alias(id) => return self.alias(at, id, depth),
            Event::Scalar(text, style, anchor, tag) => {
                let (tag, wanted) = self.tag(at, tag.as_deref())?;
                let value = match scalar(&text, style, wanted) {
                    // As the reference has it, a scalar with a tag of its own is a text: `!override 010` keeps its digits.
                    typed if tag == MergeTag::Merge || typed == Value::Null => typed,
                    _ => Value::Str(text.into_owned()),
                };
                (value, tag, anchor, 0)
            }
            Event::SequenceStart(anchor, tag) => {
                let (tag, _) = self.tag(at, tag.as_deref())?;
                let (items, height) = self.sequence(parser, depth)?;
                (Value::Seq(items), tag, anchor, height + 1)
            }
            Event::MappingStart(anchor, tag) => {
                let (tag, _) = self.tag(at, tag.as_deref())?;
                let (entries, height) = self.mapping(parser, depth)?;
                (Value::Map(entries), tag, anchor, height + 1)
            }
            _ => {
                self.session.error(at, "this is not YAML: a value was expected");
                return None;
            }
        };
        let node = Node { at, tag, value };
        if anchor > 0 {
            let weight = node.weight();
            self.spend(at, weight)?;
            self.anchors.insert(anchor, (node.clone(), height, weight));
        }
        Some((node, height))
    }

    fn spend(&mut self, at: At, weight: usize) -> Option<()> {
        let Some(left) = self.session.alias_budget.checked_sub(weight) else {
            self.session.error(at, "the aliases of this file expand to too much");
            return None;
        };
        self.session.alias_budget = left;
        Some(())
    }

    fn alias(&mut self, at: At, id: usize, depth: usize) -> Option<(Node, usize)> {
        let Some((_, height, weight)) = self.anchors.get(&id) else {
            self.session.error(at, "an alias inside what it stands for");
            return None;
        };
        let (height, weight) = (*height, *weight);
        if depth + height > DEPTH {
            self.session.error(at, format!("nested deeper than {DEPTH} levels"));
            return None;
        }
        self.spend(at, weight)?;
        let node = self.anchors.get(&id).map(|(node, ..)| node.clone())?;
        Some((node, height))
    }

    fn sequence<'i>(&mut self, parser: &mut Source<'i>, depth: usize) -> Option<(Vec<Node>, usize)> {
        let mut items = Vec::new();
        let mut height = 0;
        loop {
            let (event, span) = self.next(parser)?;
            if matches!(event, Event::SequenceEnd) {
                return Some((items, height));
            }
            let (item, item_height) = self.node(parser, event, span, depth + 1)?;
            height = height.max(item_height);
            // An item has no key by which what it was laid over could be found: it only goes itself.
            if item.tag != MergeTag::Reset {
                items.push(item);
            }
        }
    }

    fn mapping<'i>(&mut self, parser: &mut Source<'i>, depth: usize) -> Option<(Vec<Entry>, usize)> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: HashMap<String, At> = HashMap::new();
        let mut merges = Vec::new();
        let mut height = 0;
        loop {
            let (event, span) = self.next(parser)?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let plain = matches!(event, Event::Scalar(_, ScalarStyle::Plain, ..));
            let (key_node, _) = self.node(parser, event, span, depth + 1)?;
            let Some(key) = key_node.scalar_text() else {
                self.session.error(key_node.at, format!("a key must be a string, this one is {}", key_node.kind()));
                return None;
            };
            let (event, span) = self.next(parser)?;
            let (value, value_height) = self.node(parser, event, span, depth + 1)?;
            height = height.max(value_height);
            if let Some(first) = seen.insert(key.clone(), key_node.at) {
                let message = format!("`{key}` is given twice; the first is at line {}", first.line);
                self.session.error(key_node.at, message);
                continue;
            }
            if key == "<<" && plain {
                merges.push(value);
            } else {
                entries.push(Entry { key, at: key_node.at, value });
            }
        }
        for merge in merges {
            self.merge(&mut entries, merge);
        }
        Some((entries, height))
    }

    /// `<<`: the keys of the mapping, or of each mapping in the list, that are not there yet.
    fn merge(&mut self, entries: &mut Vec<Entry>, from: Node) {
        let maps = match from.value {
            Value::Map(map) => vec![map],
            Value::Seq(items) if items.iter().all(|item| matches!(item.value, Value::Map(_))) => items
                .into_iter()
                .filter_map(|item| if let Value::Map(map) = item.value { Some(map) } else { None })
                .collect(),
            _ => {
                self.session.error(from.at, "`<<` takes a mapping or a list of mappings");
                return;
            }
        };
        let mut known: HashSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
        for entry in maps.into_iter().flatten() {
            if known.insert(entry.key.clone()) {
                entries.push(entry);
            }
        }
    }

    fn tag(&mut self, at: At, tag: Option<&Tag>) -> Option<(MergeTag, Option<String>)> {
        let Some(tag) = tag else { return Some((MergeTag::Merge, None)) };
        if tag.is_yaml_core_schema() {
            return Some((MergeTag::Merge, Some(tag.suffix.clone())));
        }
        match (tag.handle.as_str(), tag.suffix.as_str()) {
            ("!", "reset") => Some((MergeTag::Reset, None)),
            ("!", "override") => Some((MergeTag::Override, None)),
            ("!" | "", "" | "!") => Some((MergeTag::Merge, Some("str".to_owned()))),
            _ => {
                self.session.error_help(at, format!("unknown tag `{tag}`"), "tags known here are !reset and !override");
                None
            }
        }
    }
}

/// A scalar by YAML's core schema, with the older number forms the reference accepts.
fn scalar(text: &str, style: ScalarStyle, wanted: Option<String>) -> Value {
    match wanted.as_deref() {
        Some("str") => return Value::Str(text.to_owned()),
        Some("float") => {
            if let Some(value) = float(text) {
                return Value::Float(value);
            }
        }
        _ if style == ScalarStyle::Plain || wanted.is_some() => {}
        _ => return Value::Str(text.to_owned()),
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    // A key of `1` and a value of `-` are common; most scalars end here.
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) {
        return Value::Str(text.to_owned());
    }
    if let Some(value) = integer(text) {
        return Value::Int(value);
    }
    match float(text) {
        Some(value) => Value::Float(value),
        None => Value::Str(text.to_owned()),
    }
}

/// Whether a text written without quotes would be read as something else than itself.
pub(crate) fn is_typed(text: &str) -> bool {
    !matches!(scalar(text, ScalarStyle::Plain, None), Value::Str(_))
}

fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let plain = digits.replace('_', "");
    let (radix, body) = match plain.get(..2) {
        Some("0x" | "0X") => (16, plain.get(2..)?),
        Some("0o" | "0O") => (8, plain.get(2..)?),
        Some("0b" | "0B") => (2, plain.get(2..)?),
        Some(head) if head.starts_with('0') => (8, plain.get(1..)?),
        _ => (10, plain.as_str()),
    };
    if !body.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    let value = i128::from_str_radix(body, radix).ok()?;
    if negative && value == 0 {
        // Kept apart from 0, as a float.
        return None;
    }
    i64::try_from(if negative { -value } else { value }).ok()
}

fn float(text: &str) -> Option<f64> {
    match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Some(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Some(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        _ => {}
    }
    let text = text.replace('_', "");
    let ok = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && text.bytes().any(|b| b.is_ascii_digit());
    // Whole numbers too large for an integer keep their digits as text.
    let whole = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    (ok && !whole).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Value {
        scalar(text, ScalarStyle::Plain, None)
    }

    #[test]
    fn scalars_are_what_the_reference_takes_them_for() {
        for (text, value) in [
            ("", Value::Null),
            ("~", Value::Null),
            ("TRUE", Value::Bool(true)),
            ("yes", Value::Str("yes".into())),
            ("010", Value::Int(8)),
            ("0o10", Value::Int(8)),
            ("0x10", Value::Int(16)),
            ("-0b11", Value::Int(-3)),
            ("1_000", Value::Int(1000)),
            ("08", Value::Float(8.0)),
            ("1e3", Value::Float(1000.0)),
            (".5", Value::Float(0.5)),
            ("-", Value::Str("-".into())),
            ("1.2.3", Value::Str("1.2.3".into())),
            ("22:22", Value::Str("22:22".into())),
            ("99999999999999999999", Value::Str("99999999999999999999".into())),
        ] {
            assert_eq!(read(text), value, "{text:?}");
        }
        assert_eq!(scalar("5", ScalarStyle::DoubleQuoted, None), Value::Str("5".into()));
        assert_eq!(scalar("5", ScalarStyle::Plain, Some("str".into())), Value::Str("5".into()));
        assert_eq!(scalar("5", ScalarStyle::DoubleQuoted, Some("int".into())), Value::Int(5));
    }
}

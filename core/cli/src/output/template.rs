//! Go's `text/template`, as far as `--format` is used: fields, pipelines, functions, `if`, `range`, `with`, variables.
//!
//! Values are JSON. A field that no such object has is an error; one that is left out when empty is not.

use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write as _;

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    nodes: Vec<Node>,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Show(Pipeline),
    If(Vec<(Option<Pipeline>, Vec<Node>)>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range { key: Option<String>, item: Option<String>, over: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
    Set(String, Pipeline),
}

type Pipeline = Vec<Command>;
type Command = Vec<Operand>;

#[derive(Debug, Clone)]
enum Operand {
    /// `.`, `.A.B`, `$.A`, `$x.A`: the variable (`None` for the dot) and the fields.
    Path(Option<String>, Vec<String>),
    Literal(Value),
    Function(String),
    Group(Pipeline, Vec<String>),
}

/// Nesting that a template may have; deeper ones are not written by people.
const DEPTH: usize = 50;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Literal(Value),
    Open,
    Close(String),
    Pipe,
    Comma,
    Assign,
}

impl Template {
    /// Parses a template; the error says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = split(text)?.into_iter().peekable();
        let (nodes, ended) = block(&mut pieces, 0)?;
        match ended {
            None => Ok(Self { nodes }),
            Some(word) => Err(format!("template parsing error: unexpected {{{{{word}}}}}")),
        }
    }

    /// Fills the template from a value.
    pub fn render(&self, root: &Value) -> Result<String, String> {
        let mut scope = Scope { root, variables: vec![HashMap::new()] };
        let mut out = String::new();
        scope.nodes(&self.nodes, root, &mut out)?;
        Ok(out)
    }
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Action(Vec<Token>),
}

fn split(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    while let Some(start) = rest.find("{{") {
        let mut before = &rest[..start];
        let mut inner = &rest[start + 2..];
        if trim_next {
            before = before.trim_start();
        }
        if let Some(after) = inner.strip_prefix("- ") {
            before = before.trim_end();
            inner = after;
        }
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        let end = close(inner).ok_or_else(|| format!("template parsing error: unclosed action: {{{{{inner}"))?;
        let action = &inner[..end];
        trim_next = action.ends_with(" -");
        let action = if trim_next { &action[..action.len() - 2] } else { action };
        if !action.trim_start().starts_with("/*") {
            pieces.push(Piece::Action(tokens(action)?));
        }
        rest = &inner[end + 2..];
    }
    let rest = if trim_next { rest.trim_start() } else { rest };
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// Where `}}` stands outside of strings.
fn close(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut at = 0;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            (None, byte @ (b'"' | b'`' | b'\'')) => quote = Some(byte),
            (Some(b'"'), b'\\') => at += 1,
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
        at += 1;
    }
    None
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let used = match first {
            '(' => {
                found.push(Token::Open);
                1
            }
            ')' => {
                // Fields may follow a group: `(index .A 0).B`.
                let fields: String =
                    rest[1..].chars().take_while(|c| *c == '.' || c.is_alphanumeric() || *c == '_').collect();
                let used = 1 + fields.len();
                found.push(Token::Close(fields));
                used
            }
            '|' => {
                found.push(Token::Pipe);
                1
            }
            ',' => {
                found.push(Token::Comma);
                1
            }
            ':' if rest.starts_with(":=") => {
                found.push(Token::Assign);
                2
            }
            '=' => {
                found.push(Token::Assign);
                1
            }
            '"' => {
                let (value, used) = quoted(rest)?;
                found.push(Token::Literal(Value::String(value)));
                used
            }
            '`' => {
                let end = rest[1..].find('`').ok_or("template parsing error: unterminated raw string")?;
                found.push(Token::Literal(Value::String(rest[1..=end].to_owned())));
                end + 2
            }
            _ => {
                let word: String =
                    rest.chars().take_while(|c| !c.is_whitespace() && !"()|,=`\"".contains(*c)).collect();
                let word = word.strip_suffix(':').map_or(word.clone(), str::to_owned);
                if word.is_empty() {
                    return Err(format!("template parsing error: unexpected {first:?}"));
                }
                let used = word.len();
                found.push(match word.as_str() {
                    "true" => Token::Literal(Value::Bool(true)),
                    "false" => Token::Literal(Value::Bool(false)),
                    "nil" => Token::Literal(Value::Null),
                    number => match number.parse::<i64>() {
                        Ok(number) => Token::Literal(Value::from(number)),
                        Err(_) => Token::Word(word),
                    },
                });
                used
            }
        };
        rest = rest[used..].trim_start();
    }
    Ok(found)
}

fn quoted(text: &str) -> Result<(String, usize), String> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                let raw = &text[..=at];
                let value =
                    serde_json::from_str(raw).map_err(|_| format!("template parsing error: bad string {raw}"))?;
                return Ok((value, at + 1));
            }
            _ => {}
        }
    }
    Err("template parsing error: unterminated quoted string".to_owned())
}

type Pieces = std::iter::Peekable<std::vec::IntoIter<Piece>>;

/// Nodes up to `end` or `else`; the word that ended them, with the condition of an `else if`.
fn block(pieces: &mut Pieces, depth: usize) -> Result<(Vec<Node>, Option<String>), String> {
    if depth > DEPTH {
        return Err("template parsing error: nested too deeply".to_owned());
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let tokens = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(tokens) => tokens,
        };
        let word = match tokens.first() {
            Some(Token::Word(word)) => word.clone(),
            Some(_) => String::new(),
            None => return Err("template parsing error: missing value for command".to_owned()),
        };
        match word.as_str() {
            "end" => return Ok((nodes, Some("end".to_owned()))),
            "else" => {
                if tokens.len() > 1 {
                    // `else if x`: read on as if the rest were an action of its own, one level down.
                    let nested = conditional(&tokens[1..], pieces, depth)?;
                    return Ok((nodes, Some("else-done".to_owned()))).map(|(mut nodes, word)| {
                        nodes.push(Node::Set(String::new(), Vec::new()));
                        nodes.push(nested);
                        (nodes, word)
                    });
                }
                return Ok((nodes, Some("else".to_owned())));
            }
            "if" | "with" | "range" => nodes.push(conditional(&tokens, pieces, depth)?),
            _ => nodes.push(statement(&tokens)?),
        }
    }
    Ok((nodes, None))
}

fn statement(tokens: &[Token]) -> Result<Node, String> {
    if let [Token::Word(name), Token::Assign, rest @ ..] = tokens
        && let Some(name) = name.strip_prefix('$')
    {
        return Ok(Node::Set(name.to_owned(), pipeline(rest)?));
    }
    Ok(Node::Show(pipeline(tokens)?))
}

/// Splits what an `else if` left behind a mark into the branch before and the one after it.
fn branches(mut nodes: Vec<Node>) -> (Vec<Node>, Option<Node>) {
    let marked = matches!(nodes.get(nodes.len().wrapping_sub(2)), Some(Node::Set(name, over)) if name.is_empty() && over.is_empty());
    if !marked {
        return (nodes, None);
    }
    let nested = nodes.pop();
    nodes.pop();
    (nodes, nested)
}

fn conditional(tokens: &[Token], pieces: &mut Pieces, depth: usize) -> Result<Node, String> {
    let Some(Token::Word(word)) = tokens.first() else {
        return Err("template parsing error: expected if, with or range".to_owned());
    };
    let word = word.clone();
    let rest = &tokens[1..];
    let (body, ended) = block(pieces, depth + 1)?;
    let (body, nested) = branches(body);
    let otherwise = match (ended.as_deref(), nested) {
        (Some("end"), _) => Vec::new(),
        (Some("else-done"), Some(nested)) => vec![nested],
        (Some("else"), _) => {
            let (otherwise, ended) = block(pieces, depth + 1)?;
            if ended.as_deref() != Some("end") {
                return Err(format!("template parsing error: {{{{{word}}}}} has no {{{{end}}}}"));
            }
            otherwise
        }
        _ => return Err(format!("template parsing error: {{{{{word}}}}} has no {{{{end}}}}")),
    };
    match word.as_str() {
        "if" => Ok(Node::If(vec![(Some(pipeline(rest)?), body), (None, otherwise)])),
        "with" => Ok(Node::With(pipeline(rest)?, body, otherwise)),
        "range" => {
            let (key, item, over) = match rest {
                [Token::Word(key), Token::Comma, Token::Word(item), Token::Assign, over @ ..] => {
                    (Some(key), Some(item), over)
                }
                [Token::Word(item), Token::Assign, over @ ..] => (None, Some(item), over),
                over => (None, None, over),
            };
            let name = |word: &String| word.trim_start_matches('$').to_owned();
            Ok(Node::Range { key: key.map(name), item: item.map(name), over: pipeline(over)?, body, otherwise })
        }
        other => Err(format!("template parsing error: unexpected {other}")),
    }
}

fn pipeline(tokens: &[Token]) -> Result<Pipeline, String> {
    let mut at = 0;
    let parsed = commands(tokens, &mut at, 0)?;
    if at < tokens.len() {
        return Err("template parsing error: unexpected \")\"".to_owned());
    }
    Ok(parsed)
}

fn commands(tokens: &[Token], at: &mut usize, depth: usize) -> Result<Pipeline, String> {
    if depth > DEPTH {
        return Err("template parsing error: nested too deeply".to_owned());
    }
    let mut all = Vec::new();
    let mut current = Vec::new();
    while let Some(token) = tokens.get(*at) {
        match token {
            Token::Close(_) => break,
            Token::Pipe => {
                if current.is_empty() {
                    return Err("template parsing error: missing value for command".to_owned());
                }
                all.push(std::mem::take(&mut current));
            }
            Token::Open => {
                *at += 1;
                let inner = commands(tokens, at, depth + 1)?;
                let Some(Token::Close(fields)) = tokens.get(*at) else {
                    return Err("template parsing error: unclosed left paren".to_owned());
                };
                current.push(Operand::Group(
                    inner,
                    fields.split('.').filter(|f| !f.is_empty()).map(str::to_owned).collect(),
                ));
            }
            Token::Literal(value) => current.push(Operand::Literal(value.clone())),
            Token::Word(word) => current.push(operand(word)?),
            Token::Comma | Token::Assign => return Err("template parsing error: unexpected operator".to_owned()),
        }
        *at += 1;
    }
    if current.is_empty() {
        return Err("template parsing error: missing value for command".to_owned());
    }
    all.push(current);
    Ok(all)
}

const FUNCTIONS: [&str; 25] = [
    "json",
    "len",
    "index",
    "join",
    "lower",
    "upper",
    "title",
    "split",
    "println",
    "print",
    "printf",
    "truncate",
    "pad",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "and",
    "or",
    "not",
    "slice",
    "html",
    "prettyjson",
];

fn operand(word: &str) -> Result<Operand, String> {
    let fields = |path: &str| path.split('.').filter(|field| !field.is_empty()).map(str::to_owned).collect();
    if let Some(path) = word.strip_prefix('.') {
        Ok(Operand::Path(None, fields(path)))
    } else if let Some(rest) = word.strip_prefix('$') {
        let (name, path) = rest.split_once('.').unwrap_or((rest, ""));
        Ok(Operand::Path(Some(name.to_owned()), fields(path)))
    } else if FUNCTIONS.contains(&word) {
        Ok(Operand::Function(word.to_owned()))
    } else {
        Err(format!("template parsing error: function \"{word}\" not defined"))
    }
}

struct Scope<'a> {
    root: &'a Value,
    variables: Vec<HashMap<String, Value>>,
}

impl Scope<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value, out: &mut String) -> Result<(), String> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Show(pipeline) => match (self.pipeline(pipeline, dot)?, shown_field(pipeline)) {
                    (Value::Null, Some(name)) if LISTS.contains(&name) => out.push_str("[]"),
                    (Value::Null, Some(name)) if OPTIONAL.contains(&name) => out.push_str("<nil>"),
                    (value, _) => out.push_str(&show(&value)),
                },
                Node::Set(name, pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if let Some(scope) = self.variables.last_mut() {
                        scope.insert(name.clone(), value);
                    }
                }
                Node::If(branches) => {
                    for (condition, body) in branches {
                        let holds = match condition {
                            Some(condition) => truth(&self.pipeline(condition, dot)?),
                            None => true,
                        };
                        if holds {
                            self.nested(body, dot, [], out)?;
                            break;
                        }
                    }
                }
                Node::With(over, body, otherwise) => {
                    let value = self.pipeline(over, dot)?;
                    if truth(&value) {
                        self.nested(body, &value, [], out)?;
                    } else {
                        self.nested(otherwise, dot, [], out)?;
                    }
                }
                Node::Range { key, item, over, body, otherwise } => {
                    let items = entries(self.pipeline(over, dot)?);
                    if items.is_empty() {
                        self.nested(otherwise, dot, [], out)?;
                    }
                    for (found_key, value) in items {
                        let bound = [(key.clone(), found_key), (item.clone(), value.clone())];
                        self.nested(body, &value, bound, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn nested<const N: usize>(
        &mut self,
        nodes: &[Node],
        dot: &Value,
        bound: [(Option<String>, Value); N],
        out: &mut String,
    ) -> Result<(), String> {
        let scope = bound.into_iter().filter_map(|(name, value)| name.map(|name| (name, value))).collect();
        self.variables.push(scope);
        let result = self.nodes(nodes, dot, out);
        self.variables.pop();
        result
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut carried: Option<Value> = None;
        for command in pipeline {
            carried = Some(self.command(command, dot, carried)?);
        }
        Ok(carried.unwrap_or(Value::Null))
    }

    fn command(&self, command: &Command, dot: &Value, carried: Option<Value>) -> Result<Value, String> {
        let Some((first, rest)) = command.split_first() else { return Ok(Value::Null) };
        if let Operand::Function(name) = first {
            let mut arguments = rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>, _>>()?;
            arguments.extend(carried);
            return call(name, &arguments);
        }
        // The one method that templates call: `{{.Label "name"}}`.
        if let (Operand::Path(None, fields), [name]) = (first, rest)
            && let [field] = fields.as_slice()
            && field == "Label"
        {
            let name = show(&self.operand(name, dot)?);
            return Ok(dot[super::table::LABELS].get(&name).cloned().unwrap_or_else(|| Value::String(String::new())));
        }
        if !rest.is_empty() || carried.is_some() {
            return Err("template: can't give argument to non-function".to_owned());
        }
        self.operand(first, dot)
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Path(None, fields) => walk(dot, fields),
            Operand::Path(Some(name), fields) if name.is_empty() => walk(self.root, fields),
            Operand::Path(Some(name), fields) => {
                let value = self.variables.iter().rev().find_map(|scope| scope.get(name));
                walk(value.ok_or_else(|| format!("template: undefined variable \"${name}\""))?, fields)
            }
            Operand::Group(pipeline, fields) => walk(&self.pipeline(pipeline, dot)?, fields),
            Operand::Function(name) => call(name, &[]),
        }
    }
}

/// Maps whose keys are anybody's: a key that is not there is no mistake.
const FREE: [&str; 14] = [
    "Labels",
    "Attributes",
    "Options",
    "DriverOpts",
    "ExposedPorts",
    "Volumes",
    "Networks",
    "Ports",
    "PortBindings",
    "Sysctls",
    "Annotations",
    "Tmpfs",
    "Containers",
    "Data",
];

/// Fields that the daemon leaves out when there is nothing to say.
const OPTIONAL: [&str; 40] = [
    "Health",
    "Healthcheck",
    "StopSignal",
    "StopTimeout",
    "Shell",
    "ArgsEscaped",
    "NetworkDisabled",
    "MacAddress",
    "SizeRw",
    "SizeRootFs",
    "Mounts",
    "Init",
    "Runtime",
    "StorageOpt",
    "Node",
    "GraphDriver",
    "ImageManifestDescriptor",
    "Variant",
    "OsVersion",
    "Peers",
    "Services",
    "Status",
    "UsageData",
    "CreatedAt",
    "Name",
    "Driver",
    "BindOptions",
    "VolumeOptions",
    "TmpfsOptions",
    "ReadOnly",
    "IPAMConfig",
    "Config",
    "Warnings",
    "Error",
    "OnBuild",
    "Author",
    "Comment",
    "DockerVersion",
    "Platform",
    "Descriptor",
];

/// Lists, which Go prints as `[]` when they are null.
const LISTS: [&str; 22] = [
    "Binds",
    "Cmd",
    "Entrypoint",
    "Env",
    "OnBuild",
    "Shell",
    "CapAdd",
    "CapDrop",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "SecurityOpt",
    "Devices",
    "DeviceRequests",
    "DeviceCgroupRules",
    "Ulimits",
    "VolumesFrom",
    "ExecIDs",
    "Aliases",
];

/// Follows field names; `Id` finds `ID` and the reverse, since the daemon's JSON and Go's fields differ in case there.
fn walk(value: &Value, fields: &[String]) -> Result<Value, String> {
    let mut current = value;
    for (at, field) in fields.iter().enumerate() {
        current = match current {
            Value::Object(map) => match map
                .get(field)
                .or_else(|| map.iter().find(|(name, _)| name.eq_ignore_ascii_case(field)).map(|(_, value)| value))
            {
                Some(found) => found,
                None if OPTIONAL.contains(&field.as_str()) || LISTS.contains(&field.as_str()) => {
                    return Ok(Value::Null);
                }
                None if at > 0 && FREE.contains(&fields[at - 1].as_str()) => return Ok(Value::Null),
                None => {
                    let path = fields.join(".");
                    return Err(format!(
                        "template parsing error: template: executing at <.{path}>: map has no entry for key {field:?}"
                    ));
                }
            },
            Value::Null => return Ok(Value::Null),
            _ => {
                return Err(format!(
                    "template parsing error: template: can't evaluate field {field} in a value that has no fields"
                ));
            }
        };
    }
    Ok(current.clone())
}

/// The name of the field that a pipeline shows, when it does nothing else.
fn shown_field(pipeline: &Pipeline) -> Option<&str> {
    match pipeline.as_slice() {
        [command] => match command.as_slice() {
            [Operand::Path(_, fields)] => fields.last().map(String::as_str),
            _ => None,
        },
        _ => None,
    }
}

fn entries(value: Value) -> Vec<(Value, Value)> {
    match value {
        Value::Array(items) => items.into_iter().enumerate().map(|(at, item)| (Value::from(at), item)).collect(),
        Value::Object(map) => {
            let mut items: Vec<_> = map.into_iter().collect();
            // Go ranges over maps in the order of their keys.
            items.sort_by(|a, b| a.0.cmp(&b.0));
            items.into_iter().map(|(key, value)| (Value::String(key), value)).collect()
        }
        _ => Vec::new(),
    }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// As Go's `fmt.Print` writes a value.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
        Value::Object(_) => {
            let mut out = "map[".to_owned();
            for (at, (key, value)) in entries(value.clone()).iter().enumerate() {
                let _ = write!(out, "{}{}:{}", if at > 0 { " " } else { "" }, show(key), show(value));
            }
            out + "]"
        }
        other => other.to_string(),
    }
}

fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let wrong = || format!("template: wrong number or kind of arguments for {name}");
    let text = |at: usize| arguments.get(at).map(show).ok_or_else(wrong);
    let first = || arguments.first().ok_or_else(wrong);
    Ok(match name {
        "json" => {
            let mut value = first()?.clone();
            if let Value::Object(map) = &mut value {
                map.shift_remove(super::table::LABELS);
            }
            Value::String(value.to_string())
        }
        "prettyjson" => Value::String(serde_json::to_string_pretty(first()?).map_err(|error| error.to_string())?),
        "len" => Value::from(match first()? {
            Value::String(text) => text.len(),
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            Value::Null => 0,
            _ => return Err(wrong()),
        }),
        "index" => index(arguments)?,
        "join" => {
            let Value::Array(items) = first()? else { return Err(wrong()) };
            Value::String(items.iter().map(show).collect::<Vec<_>>().join(&text(1)?))
        }
        "split" => Value::Array(text(0)?.split(&text(1)?).map(Value::from).collect()),
        "lower" => Value::String(text(0)?.to_lowercase()),
        "upper" => Value::String(text(0)?.to_uppercase()),
        "title" => {
            let word = text(0)?;
            let mut letters = word.chars();
            Value::String(letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect()))
        }
        "html" => Value::String(text(0)?.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")),
        "print" => Value::String(arguments.iter().map(show).collect()),
        "println" => Value::String(arguments.iter().map(show).collect::<Vec<_>>().join(" ") + "\n"),
        "printf" => Value::String(printf(&text(0)?, &arguments[1..])),
        "truncate" => {
            let limit = arguments.get(1).and_then(Value::as_u64).ok_or_else(wrong)?;
            Value::String(text(0)?.chars().take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
        }
        "pad" => {
            let side = |at: usize| arguments.get(at).and_then(Value::as_u64).unwrap_or(0).min(1000);
            let spaces = |count: u64| " ".repeat(usize::try_from(count).unwrap_or(0));
            Value::String(spaces(side(1)) + &text(0)? + &spaces(side(2)))
        }
        "slice" => {
            let from = arguments.get(1).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            let word: Vec<char> = text(0)?.chars().collect();
            let to =
                arguments.get(2).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(word.len());
            Value::String(word.get(from..to).ok_or_else(wrong)?.iter().collect())
        }
        "not" => Value::Bool(!truth(first()?)),
        "and" => arguments.iter().find(|value| !truth(value)).or(arguments.last()).cloned().ok_or_else(wrong)?,
        "or" => arguments.iter().find(|value| truth(value)).or(arguments.last()).cloned().ok_or_else(wrong)?,
        "eq" => Value::Bool(arguments.len() > 1 && arguments[1..].iter().any(|other| *other == arguments[0])),
        "ne" => Value::Bool(first()? != arguments.get(1).ok_or_else(wrong)?),
        "lt" | "le" | "gt" | "ge" => {
            let ordering = compare(first()?, arguments.get(1).ok_or_else(wrong)?).ok_or_else(wrong)?;
            Value::Bool(match name {
                "lt" => ordering.is_lt(),
                "le" => ordering.is_le(),
                "gt" => ordering.is_gt(),
                _ => ordering.is_ge(),
            })
        }
        other => return Err(format!("template: function \"{other}\" not defined")),
    })
}

fn compare(a: &Value, b: &Value) -> Option<std::cmp::Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

static EMPTY: Value = Value::String(String::new());

fn index(arguments: &[Value]) -> Result<Value, String> {
    let Some((first, keys)) = arguments.split_first() else {
        return Err("template: wrong number of arguments for index".to_owned());
    };
    let mut current = first;
    for key in keys {
        current = match (current, key) {
            (Value::Object(map), Value::String(key)) => match map.get(key) {
                Some(found) => found,
                // Go gives the empty value of what the map holds.
                None if map.values().all(Value::is_string) => &EMPTY,
                None => &Value::Null,
            },
            (Value::Array(items), Value::Number(at)) => {
                let found = at.as_u64().and_then(|at| usize::try_from(at).ok()).and_then(|at| items.get(at));
                found.ok_or_else(|| format!("template: error calling index: index out of range: {at}"))?
            }
            (Value::Null, _) => &Value::Null,
            _ => return Err("template: error calling index: cannot index this value".to_owned()),
        };
    }
    Ok(current.clone())
}

fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut width = String::new();
        while let Some(next) = letters.next_if(|c| c.is_ascii_digit() || matches!(c, '-' | '.')) {
            width.push(next);
        }
        match letters.next() {
            Some('%') => out.push('%'),
            Some(verb) => {
                let value = arguments.next().map_or_else(
                    || format!("%!{verb}(MISSING)"),
                    |value| match verb {
                        'q' => serde_json::to_string(&show(value)).unwrap_or_default(),
                        _ => show(value),
                    },
                );
                let left = width.starts_with('-');
                let columns = width.trim_start_matches('-').split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0);
                let columns = usize::min(columns, 1000);
                let _ = if left { write!(out, "{value:<columns$}") } else { write!(out, "{value:>columns$}") };
            }
            None => out.push('%'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn filled(template: &str) -> String {
        let value = json!({
            "Id": "abc", "State": {"Running": true, "Pid": 7, "Health": null},
            "Ports": {"80/tcp": [{"HostPort": "8080"}], "90/udp": null},
            "Args": ["-c", "echo"], "Empty": [], "Config": {"Labels": {"a": "b"}, "Entrypoint": null},
        });
        Template::parse(template).unwrap().render(&value).unwrap()
    }

    #[test]
    fn what_people_write_renders_as_in_go() {
        for (template, expected) in [
            ("{{.Id}}:{{.State.Pid}}", "abc:7"),
            ("{{.ID}}", "abc"),
            ("{{json .Args}}", r#"["-c","echo"]"#),
            ("{{.Args}}", "[-c echo]"),
            ("{{.Config.Labels.none}}", "<no value>"),
            ("{{index .Config.Labels \"none\"}}|", "|"),
            ("{{.Config.Entrypoint}}", "[]"),
            ("{{.State.Health}}{{if .State.Health}}x{{end}}", "<nil>"),
            ("{{json .State.Health}}", "null"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{if .State.Health}}{{.State.Health.Status}}{{else if .Empty}}e{{else}}none{{end}}", "none"),
            ("{{range .Args}}<{{.}}>{{end}}", "<-c><echo>"),
            (
                "{{range $p, $conf := .Ports}}{{$p}}={{if $conf}}{{(index $conf 0).HostPort}}{{end}};{{end}}",
                "80/tcp=8080;90/udp=;",
            ),
            (r#"{{(index (index .Ports "80/tcp") 0).HostPort}}"#, "8080"),
            (r#"{{join .Args " "}}"#, "-c echo"),
            ("{{.Id | upper | printf \"%-5s|\"}}", "ABC  |"),
            ("{{range .Empty}}x{{else}}nothing{{end}}", "nothing"),
            ("{{with .State}}{{.Pid}}{{$.Id}}{{end}}", "7abc"),
            ("{{eq .Id \"abc\"}} {{len .Args}} {{not .Empty}}", "true 2 true"),
            ("a {{- .Id -}} b", "aabcb"),
            ("{{$x := .Id}}{{$x}}", "abc"),
            ("{{range .Args}}{{println .}}{{end}}", "-c\necho\n"),
        ] {
            assert_eq!(filled(template), expected, "{template}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (template, part) in [
            ("{{.Id", "unclosed action"),
            ("{{frob .Id}}", "function \"frob\" not defined"),
            ("{{if .Id}}x", "no {{end}}"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{}}", "missing value"),
            ("{{(.Id}}", "unclosed left paren"),
        ] {
            let error = Template::parse(template).unwrap_err();
            assert!(error.contains(part), "{template}: {error}");
        }
    }

    #[test]
    fn a_field_that_is_not_there_is_a_mistake() {
        let error = Template::parse("{{.State.Foo}}").unwrap().render(&json!({"State": {}})).unwrap_err();
        assert!(error.contains("map has no entry for key \"Foo\""), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[{}.$|()\"a-z :=0-9-]{0,60}") {
            if let Ok(template) = Template::parse(&text) {
                let _ = template.render(&json!({"a": [1, {"b": "c"}]}));
            }
        }
    }
}

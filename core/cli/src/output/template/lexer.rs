//! From text to pieces: what stands outside of `{{…}}`, and the tokens of what stands inside.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Word(String),
    Literal(Value),
    Open,
    Close(String),
    Pipe,
    Comma,
    Assign,
}

#[derive(Debug)]
pub(super) enum Piece {
    Text(String),
    Action(Vec<Token>),
}

pub(super) fn split(text: &str) -> Result<Vec<Piece>, String> {
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

//! From pieces to nodes.

use super::functions::FUNCTIONS;
use super::lexer::{Piece, Token};
use super::{DEPTH, Node, Operand, Pipeline};

pub(super) type Pieces = std::iter::Peekable<std::vec::IntoIter<Piece>>;

/// Nodes up to `end` or `else`; the word that ended them, with the condition of an `else if`.
pub(super) fn block(pieces: &mut Pieces, depth: usize) -> Result<(Vec<Node>, Option<String>), String> {
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

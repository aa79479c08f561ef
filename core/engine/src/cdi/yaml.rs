//! YAML as specifications have it, as the JSON that it stands for: bounded, without anchors and tags.

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};
use serde_json::{Map, Number, Value};

const DEPTH: usize = 16;
const NODES: usize = 200_000;

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    left: usize,
}

/// The one document of a text.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut reader = Reader { parser: Parser::new_from_str(text), left: NODES };
    let mut found = None;
    loop {
        match reader.event()? {
            Event::StreamEnd => return found.ok_or_else(|| "there is nothing in it".to_owned()),
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            _ if found.is_some() => return Err("it has more than one document".to_owned()),
            event => found = Some(reader.value(event, 0)?),
        }
    }
}

impl<'t> Reader<'t> {
    fn event(&mut self) -> Result<Event<'t>, String> {
        match self.parser.next_event() {
            Some(Ok((event, _))) => Ok(event),
            Some(Err(error)) => Err(format!("line {}: {}", error.marker().line(), error.info())),
            None => Ok(Event::StreamEnd),
        }
    }

    fn value(&mut self, event: Event<'t>, depth: usize) -> Result<Value, String> {
        self.left = self.left.checked_sub(1).ok_or("it holds too many values")?;
        if depth > DEPTH {
            return Err(format!("it is nested deeper than {DEPTH} levels"));
        }
        match event {
            Event::Scalar(_, _, anchor, tag) if anchor > 0 || tag.is_some() => Err(plain_only()),
            Event::SequenceStart(anchor, tag) if anchor > 0 || tag.is_some() => Err(plain_only()),
            Event::MappingStart(anchor, tag) if anchor > 0 || tag.is_some() => Err(plain_only()),
            Event::Scalar(text, ScalarStyle::Plain, ..) => Ok(scalar(&text)),
            Event::Scalar(text, ..) => Ok(Value::String(text.into_owned())),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.event()? {
                        Event::SequenceEnd => return Ok(Value::Array(items)),
                        Event::StreamEnd => return Err("it ends inside a list".to_owned()),
                        event => items.push(self.value(event, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut map = Map::new();
                loop {
                    let key = match self.event()? {
                        Event::MappingEnd => return Ok(Value::Object(map)),
                        Event::Scalar(text, ..) => text.into_owned(),
                        _ => return Err("a key is not a word".to_owned()),
                    };
                    let event = self.event()?;
                    let value = self.value(event, depth + 1)?;
                    if map.insert(key.clone(), value).is_some() {
                        return Err(format!("the key {key:?} is there twice"));
                    }
                }
            }
            Event::Alias(_) => Err(plain_only()),
            _ => Err("it is not a value".to_owned()),
        }
    }
}

fn plain_only() -> String {
    "anchors, aliases and tags have no place in a specification".to_owned()
}

/// A scalar without quotes.
fn scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let octal = text.strip_prefix("0o").or_else(|| text.strip_prefix('0').filter(|rest| !rest.is_empty()));
    let number = match octal {
        Some(digits) => i64::from_str_radix(digits, 8).ok(),
        None => text.parse::<i64>().ok().filter(|_| !text.starts_with('+')),
    };
    match number {
        Some(number) => Value::Number(Number::from(number)),
        None => Value::String(text.to_owned()),
    }
}

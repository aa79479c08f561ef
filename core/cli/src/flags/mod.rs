//! From the values of flags to fields of the API's bodies: pure functions, an error being the sentence to show.

pub mod device;
pub mod env;
pub mod health;
pub mod mounts;
pub mod network;
pub mod ports;
pub mod quantity;
pub mod restart;
pub mod security;
pub mod time;
pub mod ulimit;

use std::collections::HashMap;

/// A flag's value, or what is wrong with it.
pub type Parsed<T> = Result<T, String>;

/// `key=value` texts as a map; a text without `=` has an empty value, as `docker` takes it.
pub fn map(texts: &[String]) -> HashMap<String, String> {
    texts
        .iter()
        .map(|text| text.split_once('=').unwrap_or((text, "")))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// One record of comma separated values, with double quotes around those that contain commas.
pub fn csv(text: &str) -> Parsed<Vec<String>> {
    let mut fields = Vec::new();
    let mut letters = text.chars().peekable();
    loop {
        let mut field = String::new();
        let quoted = letters.next_if_eq(&'"').is_some();
        loop {
            match letters.next() {
                None if quoted => return Err(format!("unterminated quote in {text:?}")),
                None => {
                    fields.push(field);
                    return Ok(fields);
                }
                Some('"') if quoted => {
                    if letters.next_if_eq(&'"').is_some() {
                        field.push('"');
                        continue;
                    }
                    match letters.next() {
                        None => {
                            fields.push(field);
                            return Ok(fields);
                        }
                        Some(',') => break,
                        Some(other) => return Err(format!("unexpected {other:?} after a quote in {text:?}")),
                    }
                }
                Some(',') if !quoted => break,
                Some(letter) => field.push(letter),
            }
        }
        fields.push(field);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records_split_at_commas_outside_of_quotes() {
        assert_eq!(csv("a=1,b").unwrap(), ["a=1", "b"]);
        assert_eq!(csv(r#"a,"b=x,y","c""d""#).unwrap(), ["a", "b=x,y", "c\"d"]);
        assert_eq!(csv("").unwrap(), [""]);
        assert!(csv("\"a").is_err() && csv("\"a\"b").is_err());
    }

    #[test]
    fn maps_take_values_with_signs() {
        let found = map(&["a=b=c".into(), "d".into()]);
        assert_eq!((found["a"].as_str(), found["d"].as_str()), ("b=c", ""));
    }
}

//! Splitting a command line into words, as a shell would without expanding anything.
//!
//! As in the reference, `\n` and `\t` are a newline and a tab outside single quotes.

/// The words of a line.
///
/// # Errors
/// A quote that is not closed.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let text = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('\'') => break,
                        Some(c) => text.push(c),
                        None => return Err("a single quote is not closed".to_owned()),
                    }
                }
            }
            '"' => {
                let text = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('"') => break,
                        Some('\\') => text.extend(escaped(&mut characters)?),
                        Some(c) => text.push(c),
                        None => return Err("a double quote is not closed".to_owned()),
                    }
                }
            }
            '\\' => {
                if let Some(c) = escaped(&mut characters)? {
                    word.get_or_insert_default().push(c);
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// The character after a backslash; none for a line that goes on.
fn escaped(characters: &mut std::str::Chars<'_>) -> Result<Option<char>, String> {
    match characters.next() {
        Some('\n') => Ok(None),
        Some('n') => Ok(Some('\n')),
        Some('t') => Ok(Some('\t')),
        Some(c) => Ok(Some(c)),
        None => Err("a backslash ends the line".to_owned()),
    }
}

/// A word that only a shell would give a meaning.
pub(crate) fn operator(words: &[String]) -> Option<&str> {
    let known = ["&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1"];
    words.iter().map(String::as_str).find(|word| known.contains(word))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_are_split_as_the_reference_does() {
        for (line, words) in [
            (r"a  b\tc", vec!["a", "b\tc"]),
            (r#"sh -c "echo 'x' \"y\"" 'a "b"'"#, vec!["sh", "-c", r#"echo 'x' "y""#, r#"a "b""#]),
            (r#"a '' """#, vec!["a", "", ""]),
            (r"a\ b 'c\d'", vec!["a b", r"c\d"]),
            (r#"x="1 2"y"#, vec!["x=1 2y"]),
            ("a\tb\n c", vec!["a", "b", "c"]),
            ("   ", vec![]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
        for line in ["'a", "\"a", r"a\"] {
            assert!(split(line).is_err(), "{line}");
        }
        assert_eq!(operator(&split("a && b").unwrap()), Some("&&"));
        assert_eq!(operator(&split("a 'x && b'").unwrap()), None);
    }
}

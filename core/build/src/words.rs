//! How an instruction's text falls into words, flags and arrays. Quotes and escapes stay: expansion removes them.

/// A word and where it starts in its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word<'a> {
    /// The word, quotes included.
    pub text: &'a str,
    /// Its offset.
    pub at: usize,
}

/// Splits off the first word.
#[must_use]
pub fn keyword(text: &str) -> (&str, &str) {
    text.find(char::is_whitespace).map_or((text, ""), |at| text.split_at(at))
}

/// Words between white space that is neither quoted nor escaped.
#[must_use]
pub fn split(text: &str, escape: char) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c.is_whitespace() && quote.is_none() {
            if let Some(from) = start.take() {
                words.push(Word { text: &text[from..at], at: from });
            }
            continue;
        }
        start.get_or_insert(at);
        match quote {
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if c == open => quote = None,
            // Between single quotes nothing is escaped.
            _ if c == escape && quote != Some('\'') => {
                chars.next();
            }
            _ => {}
        }
    }
    if let Some(from) = start {
        words.push(Word { text: &text[from..], at: from });
    }
    words
}

/// Words between white space, whatever the quotes.
#[must_use]
pub fn plain(text: &str) -> Vec<Word<'_>> {
    text.split_whitespace()
        .map(|word| Word { text: word, at: word.as_ptr() as usize - text.as_ptr() as usize })
        .collect()
}

/// The leading `--flags` of an instruction and the rest of its text, with the rest's offset.
#[must_use]
pub fn flags(text: &str, escape: char) -> (Vec<Word<'_>>, &str, usize) {
    let mut found = Vec::new();
    let mut at = text.len() - text.trim_start().len();
    while text[at..].starts_with("--") {
        let Some(word) = split(&text[at..], escape).into_iter().next() else { break };
        let end = at + word.text.len();
        if word.text != "--" {
            found.push(Word { text: word.text, at });
        }
        at = end + (text[end..].len() - text[end..].trim_start().len());
        if word.text == "--" {
            break;
        }
    }
    (found, &text[at..], at)
}

/// The text after its flags.
#[must_use]
pub fn after_flags(text: &str) -> &str {
    flags(text, '\\').1
}

/// Removes quotes and escapes, as flags and `name=value` keys need it.
#[must_use]
pub fn unquote(word: &str, escape: char) -> String {
    let mut out = String::with_capacity(word.len());
    let mut quote = None;
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape && quote != Some('\'') => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
    out
}

/// Why a text is not the exec form.
#[derive(Debug, PartialEq, Eq)]
pub enum NotArray {
    /// Not JSON, or not an array: the shell form is meant.
    Text,
    /// An array of something else than strings.
    NotStrings,
}

/// Reads the exec form.
pub fn json_array(text: &str) -> Result<Vec<String>, NotArray> {
    let text = text.trim();
    if !text.starts_with('[') {
        return Err(NotArray::Text);
    }
    let items: Vec<serde_json::Value> = serde_json::from_str(text).map_err(|_| NotArray::Text)?;
    items
        .into_iter()
        .map(|item| match item {
            serde_json::Value::String(text) => Ok(text),
            _ => Err(NotArray::NotStrings),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<&str> {
        split(text, '\\').into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn quotes_and_escapes_hold_words_together() {
        assert_eq!(texts(r#"a="b c" d='e f' g\ h i"#), [r#"a="b c""#, "d='e f'", r"g\ h", "i"]);
        assert_eq!(texts(r"a='b\' c"), [r"a='b\'", "c"]);
        assert_eq!(texts("  "), Vec::<&str>::new());
        assert_eq!(texts(r"end\"), [r"end\"]);
    }

    #[test]
    fn flags_end_at_the_first_other_word() {
        let (found, rest, at) = flags(" --a=b --c -- --d e", '\\');
        assert_eq!(found.iter().map(|word| word.text).collect::<Vec<_>>(), ["--a=b", "--c"]);
        assert_eq!((rest, at), ("--d e", 14));
    }

    #[test]
    fn the_exec_form_is_an_array_of_strings() {
        assert_eq!(json_array(r#" ["a", "b"] "#), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(json_array("[ -e x ]"), Err(NotArray::Text));
        assert_eq!(json_array("[1]"), Err(NotArray::NotStrings));
    }
}

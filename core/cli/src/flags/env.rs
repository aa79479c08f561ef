//! `-e`, `--env-file`, `-l`, `--label-file`.

use std::collections::HashMap;
use std::path::Path;

use super::Parsed;

/// The environment: files first, then what was given by name, where a name alone takes the client's value.
pub fn environment(files: &[String], given: &[String], own: impl Fn(&str) -> Option<String>) -> Parsed<Vec<String>> {
    let mut all = Vec::new();
    for path in files {
        for line in read(path, "environment file")? {
            if line.contains('=') {
                all.push(line);
            } else if let Some(value) = own(&line) {
                all.push(format!("{line}={value}"));
            }
        }
    }
    for text in given {
        if text.is_empty() || text.starts_with('=') {
            return Err(format!("invalid environment variable: {text}"));
        }
        match own(text).filter(|_| !text.contains('=')) {
            Some(value) => all.push(format!("{text}={value}")),
            // Without a value anywhere, the name alone asks the engine to leave the image's out.
            None => all.push(text.clone()),
        }
    }
    Ok(all)
}

/// Labels: files first, then what was given by name.
pub fn labels(files: &[String], given: &[String]) -> Parsed<HashMap<String, String>> {
    let mut all = Vec::new();
    for path in files {
        all.extend(read(path, "label file")?);
    }
    for text in given {
        if text.is_empty() || text.starts_with('=') {
            return Err(format!("invalid label format: {text:?}"));
        }
        all.push(text.clone());
    }
    Ok(super::map(&all))
}

fn read(path: &str, what: &str) -> Parsed<Vec<String>> {
    let bytes = std::fs::read(Path::new(path)).map_err(|error| format!("read the {what} {path}: {}", plain(&error)))?;
    lines(&bytes, path)
}

/// An error of the operating system without its number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// The lines of a file of variables: no comments, no empty ones.
fn lines(bytes: &[u8], path: &str) -> Parsed<Vec<String>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut found = Vec::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let wrong = |why: String| format!("invalid env file ({path}): line {}: {why}", at + 1);
        let line = std::str::from_utf8(line).map_err(|_| wrong("not UTF-8".to_owned()))?;
        let line = line.strip_suffix('\r').unwrap_or(line).trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() {
            return Err(wrong(format!("no variable name on line '{line}'")));
        }
        let trimmed = if line.contains('=') { name } else { name.trim_end() };
        if trimmed.contains(char::is_whitespace) {
            return Err(wrong(format!("variable '{name}' contains whitespaces")));
        }
        found.push(if line.contains('=') { line.to_owned() } else { trimmed.to_owned() });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_come_first_and_names_take_own_values() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\u{feff}# c\n\nA=1 2 \r\n  B=\nHOME\nUNSET\nC=#no\n").unwrap();
        let own = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        let files = [file.path().to_str().unwrap().to_owned()];
        let given = ["HOME".to_owned(), "GONE".to_owned(), "X=a=b".to_owned()];
        assert_eq!(
            environment(&files, &given, own).unwrap(),
            ["A=1 2 ", "B=", "HOME=/root", "C=#no", "HOME=/root", "GONE", "X=a=b"]
        );
    }

    #[test]
    fn mistakes_name_file_and_line() {
        assert_eq!(
            lines(b"A=1\nB C=2", "f").unwrap_err(),
            "invalid env file (f): line 2: variable 'B C' contains whitespaces"
        );
        assert!(lines(b"=1", "f").unwrap_err().contains("no variable name"));
        assert!(lines(b"\xff=1", "f").unwrap_err().contains("not UTF-8"));
        assert!(environment(&["/no/such".into()], &[], |_| None).unwrap_err().contains("/no/such: No such file"));
        assert!(environment(&[], &["=x".into()], |_| None).is_err());
    }

    #[test]
    fn labels_may_lack_a_value() {
        let found = labels(&[], &["a=b".into(), "c".into()]).unwrap();
        assert_eq!((found["a"].as_str(), found["c"].as_str()), ("b", ""));
        assert!(labels(&[], &["=c".into()]).is_err());
    }
}

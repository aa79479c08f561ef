//! Lists of objects: a table, quiet ids, JSON, or a template for each row.

use serde_json::{Map, Value};
use std::io::{self, Write};

use crate::failure::{Failure, Outcome};
use crate::output::template::Template;

/// A row's fields under the names that templates use.
pub type Row = Map<String, Value>;

/// The field that holds the labels one by one, for `{{.Label "name"}}`; it is not shown itself.
pub const LABELS: &str = "_labels";

/// Makes a row.
pub fn row<const N: usize>(fields: [(&str, Value); N]) -> Row {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A column: its heading and the field it shows.
pub type Column = (&'static str, &'static str);

/// Prints rows as `--format` says: empty or `table` for the columns given, `table {{…}}` for others, `json`, or a template.
pub fn print(rows: &[Row], columns: &[Column], format: Option<&str>) -> Outcome {
    let mut out = String::new();
    render(&mut out, rows, columns, format)?;
    write_all(&out)
}

/// Writes to standard output; a reader that went away ends the program quietly.
pub fn write_all(text: &str) -> Outcome {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::exit(0)),
        other => other.map_err(Failure::from),
    }
}

fn render(out: &mut String, rows: &[Row], columns: &[Column], format: Option<&str>) -> Outcome {
    match format.unwrap_or("table") {
        "table" | "" => {
            let headings: Vec<String> = columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
            let lines = rows
                .iter()
                .map(|row| columns.iter().map(|(_, field)| text(row.get(*field).unwrap_or(&Value::Null))).collect());
            align(out, std::iter::once(headings).chain(lines).collect(), COLUMN);
        }
        "json" => {
            for row in rows {
                let mut fields: Vec<_> = row.iter().filter(|(name, _)| *name != LABELS).collect();
                fields.sort_by_key(|(name, _)| *name);
                let sorted: Map<String, Value> =
                    fields.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect();
                out.push_str(&serde_json::to_string(&sorted).map_err(|error| Failure::new(error.to_string()))?);
                out.push('\n');
            }
        }
        format => {
            if let Some(template) = format.strip_prefix("table") {
                let template = parse(template.trim_start())?;
                let headings = headings(format, columns);
                let mut lines = vec![cells(&template, &Value::Object(headings))?];
                for row in rows {
                    lines.push(cells(&template, &Value::Object(row.clone()))?);
                }
                align(out, lines, COLUMN);
            } else {
                let template = parse(format)?;
                for row in rows {
                    out.push_str(&template.render(&Value::Object(row.clone())).map_err(Failure::new)?);
                    out.push('\n');
                }
            }
        }
    }
    Ok(())
}

/// The headings of all fields that a format names: a column's own, else the field's words (`CreatedAt`: `CREATED AT`).
fn headings(format: &str, columns: &[Column]) -> Row {
    let mut all: Row = columns.iter().map(|(heading, field)| ((*field).to_owned(), Value::from(*heading))).collect();
    for part in format.split('.').skip(1) {
        let name: String = part.chars().take_while(|letter| letter.is_alphanumeric()).collect();
        if !name.is_empty() && !all.contains_key(&name) {
            let words = words(&name);
            all.insert(name, Value::String(words));
        }
    }
    all
}

fn words(name: &str) -> String {
    let mut out = String::new();
    let mut before = ' ';
    for letter in name.chars() {
        if letter.is_uppercase() && before.is_lowercase() {
            out.push(' ');
        }
        out.extend(letter.to_uppercase());
        before = letter;
    }
    out
}

fn cells(template: &Template, value: &Value) -> Outcome<Vec<String>> {
    Ok(template.render(value).map_err(Failure::new)?.split('\t').map(str::to_owned).collect())
}

/// A template, with the escapes that shells leave as they are (`\t`, `\n`).
pub fn parse(text: &str) -> Outcome<Template> {
    Template::parse(&text.replace("\\t", "\t").replace("\\n", "\n")).map_err(Failure::usage)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Prints lines of cells, aligned, with the wide columns of `top`.
pub fn print_lines(lines: Vec<Vec<String>>) -> Outcome {
    let mut out = String::new();
    align(&mut out, lines, 20);
    write_all(&out)
}

/// Lines of cells, aligned as Docker's tables are.
pub fn aligned(lines: Vec<Vec<String>>) -> String {
    let mut out = String::new();
    align(&mut out, lines, COLUMN);
    out
}

/// The least width of a column with the space behind it.
const COLUMN: usize = 10;

/// Three spaces between columns at least, as Docker's tables have them.
fn align(out: &mut String, lines: Vec<Vec<String>>, least: usize) {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    for line in lines {
        let mut written = String::new();
        for (column, cell) in line.iter().enumerate() {
            written.push_str(cell);
            if column + 1 < line.len() {
                written.extend(std::iter::repeat_n(' ', (widths[column] + 3).max(least) - cell.chars().count()));
            }
        }
        out.push_str(written.trim_end());
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn shown(format: Option<&str>) -> String {
        let rows = [
            row([("ID", json!("abc")), ("Names", json!("web"))]),
            row([("ID", json!("de")), ("Names", json!("a-longer-name"))]),
        ];
        let mut out = String::new();
        render(&mut out, &rows, &[("CONTAINER ID", "ID"), ("NAMES", "Names")], format).unwrap();
        out
    }

    #[test]
    fn tables_align_and_templates_render_rows() {
        assert_eq!(shown(None), "CONTAINER ID   NAMES\nabc            web\nde             a-longer-name\n");
        assert_eq!(shown(Some("{{.Names}}")), "web\na-longer-name\n");
        assert_eq!(
            shown(Some("table {{.Names}}\\t{{.ID}}")),
            "NAMES           CONTAINER ID\nweb             abc\na-longer-name   de\n"
        );
        let labels = headings("{{.Names}} {{.CreatedAt}}", &[("NAMES", "Names")]);
        assert_eq!((&labels["Names"], &labels["CreatedAt"]), (&json!("NAMES"), &json!("CREATED AT")));
        assert_eq!(shown(Some("json")).lines().next().unwrap(), r#"{"ID":"abc","Names":"web"}"#);
    }
}

//! What the build cache holds: `builder du`.

use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::human;
use crate::output::say;
use crate::output::table::{self, Column, Row};

/// Options of `builder du`.
#[derive(Debug, clap::Args)]
pub struct UsageArgs {
    /// Provide filter values ("id=…", "type=…", "description=…", "inuse", "shared", "private")
    #[arg(long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Format output using a Go template, or json
    #[arg(long)]
    pub format: Option<String>,
    /// Provide a more verbose output
    #[arg(long)]
    pub verbose: bool,
}

const COLUMNS: [Column; 4] =
    [("ID", "ID"), ("RECLAIMABLE", "Reclaimable"), ("SIZE", "Size"), ("LAST ACCESSED", "LastUsedAt")];

/// `builder du`
pub async fn usage(context: Context, args: UsageArgs) -> Outcome {
    let found: Value = context.client.get("/system/df?type=build-cache").await?;
    let mut records: Vec<&Value> = found["BuildCache"].as_array().into_iter().flatten().collect();
    for filter in &args.filter {
        let wanted = Wanted::parse(filter)?;
        records.retain(|record| wanted.takes(record));
    }
    let size = |record: &Value| record["Size"].as_u64().unwrap_or(0);
    records.sort_by_key(|record| std::cmp::Reverse(size(record)));
    if args.verbose {
        for record in &records {
            for (name, value) in fields(record) {
                say!("{:<14} {}", format!("{name}:"), value.as_str().map_or_else(|| value.to_string(), str::to_owned))?;
            }
            say!("")?;
        }
    } else {
        let rows: Vec<Row> = records.iter().map(|record| fields(record)).collect();
        table::print(&rows, &COLUMNS, args.format.as_deref())?;
    }
    if args.format.is_none() {
        let sum = |wanted: &dyn Fn(&Value) -> bool| {
            human::size(records.iter().filter(|record| wanted(record)).map(|record| size(record)).sum())
        };
        say!("Shared:\t\t{}", sum(&|record| record["Shared"] == true))?;
        say!("Private:\t{}", sum(&|record| record["Shared"] != true))?;
        say!("Reclaimable:\t{}", sum(&|record| record["InUse"] != true))?;
        say!("Total:\t\t{}", sum(&|_| true))?;
    }
    Ok(())
}

fn fields(record: &Value) -> Row {
    let used = record["LastUsedAt"].as_str().and_then(human::unix_seconds).unwrap_or(0);
    table::row([
        ("ID", record["ID"].clone()),
        ("Type", record["Type"].clone()),
        ("Description", record["Description"].clone()),
        ("Reclaimable", json!((record["InUse"] != true).to_string())),
        ("Shared", json!((record["Shared"] == true).to_string())),
        ("Size", json!(human::size(record["Size"].as_u64().unwrap_or(0)))),
        ("LastUsedAt", json!(human::ago(used))),
        ("UsageCount", record["UsageCount"].clone()),
    ])
}

/// One `--filter`.
#[derive(Debug, PartialEq, Eq)]
enum Wanted<'a> {
    Id(&'a str),
    Kind(&'a str),
    Description(&'a str),
    InUse(bool),
    Shared(bool),
}

impl<'a> Wanted<'a> {
    fn parse(text: &'a str) -> Outcome<Self> {
        let (key, value) = text.split_once('=').unwrap_or((text, "true"));
        let truth = || match value {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(Failure::usage(format!("--filter {text}: expected true or false"))),
        };
        match key {
            "id" => Ok(Self::Id(value)),
            "type" => Ok(Self::Kind(value)),
            "description" => Ok(Self::Description(value)),
            "inuse" => truth().map(Self::InUse),
            "shared" => truth().map(Self::Shared),
            "private" => truth().map(|private| Self::Shared(!private)),
            _ => Err(Failure::usage(format!(
                "--filter {text}: id, type, description, inuse, shared and private are known"
            ))),
        }
    }

    fn takes(&self, record: &Value) -> bool {
        let text = |key: &str| record[key].as_str().unwrap_or_default();
        match self {
            Self::Id(start) => text("ID").starts_with(start),
            Self::Kind(kind) => text("Type") == *kind,
            Self::Description(part) => text("Description").contains(part),
            Self::InUse(wanted) => (record["InUse"] == true) == *wanted,
            Self::Shared(wanted) => (record["Shared"] == true) == *wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records_are_filtered_and_shown() {
        let record = json!({"ID": "abc", "Type": "regular", "Description": "RUN make", "InUse": false, "Shared": true, "Size": 1500, "UsageCount": 2});
        for (filter, takes) in [
            ("id=ab", true),
            ("id=b", false),
            ("type=regular", true),
            ("description=make", true),
            ("inuse", false),
            ("private", false),
            ("shared=true", true),
        ] {
            assert_eq!(Wanted::parse(filter).unwrap().takes(&record), takes, "{filter}");
        }
        assert!(Wanted::parse("colour=red").unwrap_err().message.contains("id, type"));
        let row = fields(&record);
        assert_eq!((&row["Size"], &row["Reclaimable"]), (&json!("1.5kB"), &json!("true")));
    }
}

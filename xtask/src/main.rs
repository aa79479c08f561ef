//! Building, testing, showing and measuring Sampan: `cargo xtask help`.

mod drivers;

use std::path::PathBuf;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?.to_owned();
    drivers::build(&root, &root.join("target/debug/drivers"))
}

//! Measuring.

use std::path::Path;

use anyhow::Result;

/// Placeholder until the first figures.
pub fn run(_root: &Path, _options: &[&str]) -> Result<()> {
    Ok(())
}

//! `version`.

use crate::context::Context;
use crate::failure::Outcome;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Format output using a custom template
    #[arg(short, long)]
    pub format: Option<String>,
}

pub async fn run(_context: Context, _args: Args) -> Outcome {
    println!("Client:\n Version:           {}", env!("CARGO_PKG_VERSION"));
    Ok(())
}

//! `logs`.

use super::{LogOptions, Logs};
use crate::Engine;
use crate::error::{Error, Result};

impl Engine {
    /// `logs`.
    pub async fn logs(&self, _id: &str, _options: LogOptions) -> Result<Logs> {
        Err(Error::unsupported("logs are not there yet"))
    }
}

//! `attach` and `resize`.

use super::{AttachOptions, Attached};
use crate::Engine;
use crate::error::{Error, Result};

impl Engine {
    /// `attach`.
    pub async fn attach(&self, _id: &str, _options: AttachOptions) -> Result<Attached> {
        Err(Error::unsupported("attach is not there yet"))
    }

    /// Sets the size of a container's terminal.
    pub async fn resize(&self, _id: &str, _rows: u16, _columns: u16) -> Result<()> {
        Err(Error::unsupported("attach is not there yet"))
    }
}

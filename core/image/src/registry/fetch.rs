//! A file by its URL, for builds: the same connections and trust as for registries, no credentials.

use std::time::UNIX_EPOCH;

use http::header::{LAST_MODIFIED, LOCATION, USER_AGENT};
use http::{Request, StatusCode, Uri};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::RegistryClient;
use super::client::{join, next_piece};
use super::transport::full;

/// How many redirects are followed.
const REDIRECTS: usize = 10;

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
#[error("fetch {url}: {why}")]
pub struct FetchError {
    /// Without query and credentials.
    pub url: String,
    /// The reason.
    pub why: String,
}

impl RegistryClient {
    /// Writes what a URL (`http` or `https`) leads to, at most `limit` bytes. The server's time of the file, in seconds
    /// since 1970.
    pub async fn fetch<W: AsyncWrite + Unpin>(
        &self,
        url: &str,
        limit: u64,
        out: &mut W,
    ) -> Result<Option<i64>, FetchError> {
        let shown = url.split(['?', '#']).next().unwrap_or_default().to_owned();
        let fault = |why: String| FetchError { url: shown.clone(), why };
        let mut at = url.split('#').next().unwrap_or_default().to_owned();
        for _ in 0..=REDIRECTS {
            let uri: Uri = at.parse().map_err(|error| fault(format!("not a URL: {error}")))?;
            if !matches!(uri.scheme_str(), Some("http" | "https")) {
                return Err(fault("the server leads to an address that is neither http nor https".to_owned()));
            }
            let request = Request::get(uri)
                .header(USER_AGENT, concat!("sampan/", env!("CARGO_PKG_VERSION")))
                .body(full(Vec::new()))
                .map_err(|error| fault(error.to_string()))?;
            let response = self.transport.send(request).await.map_err(|error| fault(error.to_string()))?;
            let status = response.status();
            let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                let next = header(LOCATION).ok_or_else(|| fault("a redirect to nowhere".to_owned()))?;
                at = join(&at, next);
                continue;
            }
            if !status.is_success() {
                return Err(fault(format!("the server answered {status}")));
            }
            let modified = header(LAST_MODIFIED).and_then(http_date);
            let mut body = response.into_body();
            let mut total = 0_u64;
            while let Some(piece) =
                next_piece(&mut body, self.config.patience).await.map_err(|error| fault(error.to_string()))?
            {
                total += piece.len() as u64;
                if total > limit {
                    return Err(fault(format!("longer than {limit} bytes")));
                }
                out.write_all(&piece).await.map_err(|error| fault(format!("write the file: {error}")))?;
            }
            out.flush().await.map_err(|error| fault(format!("write the file: {error}")))?;
            return Ok(modified);
        }
        Err(fault(format!("more than {REDIRECTS} redirects")))
    }
}

/// `Wed, 21 Oct 2015 07:28:00 GMT`, in seconds since 1970.
fn http_date(text: &str) -> Option<i64> {
    let since = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_servers() {
        assert_eq!(http_date("Wed, 21 Oct 2015 07:28:00 GMT"), Some(1_445_412_480));
        assert_eq!(http_date("yesterday"), None);
    }
}

//! `--restart`.

use bollard_stubs::models::{RestartPolicy, RestartPolicyNameEnum};

use super::Parsed;

/// `no`, `always`, `unless-stopped`, `on-failure[:max]`.
pub fn policy(text: &str) -> Parsed<RestartPolicy> {
    let (name, count) = text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
    let count = match count {
        None => None,
        Some(count) => Some(
            count
                .parse::<i64>()
                .map_err(|_| "invalid restart policy format: maximum retry count must be an integer".to_owned())?,
        ),
    };
    let name = match name {
        "" if count.is_some() => {
            return Err("invalid restart policy format: no policy provided before colon".to_owned());
        }
        "" | "no" => RestartPolicyNameEnum::NO,
        "always" => RestartPolicyNameEnum::ALWAYS,
        "unless-stopped" => RestartPolicyNameEnum::UNLESS_STOPPED,
        "on-failure" => RestartPolicyNameEnum::ON_FAILURE,
        other => {
            return Err(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            ));
        }
    };
    match count {
        Some(count) if count < 0 => Err("invalid restart policy: maximum retry count cannot be negative".to_owned()),
        Some(count) if count > 0 && name != RestartPolicyNameEnum::ON_FAILURE => {
            Err("invalid restart policy: maximum retry count can only be used with 'on-failure'".to_owned())
        }
        count => Ok(RestartPolicy { name: Some(name), maximum_retry_count: count }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn policies() {
        assert_eq!(policy("always").unwrap().name, Some(RestartPolicyNameEnum::ALWAYS));
        assert_eq!(policy("no").unwrap().name, Some(RestartPolicyNameEnum::NO));
        assert_eq!(policy("on-failure:3").unwrap().maximum_retry_count, Some(3));
        for (text, part) in [
            ("frob", "unknown policy 'frob'"),
            ("on-failure:x", "must be an integer"),
            ("always:3", "can only be used with 'on-failure'"),
            ("on-failure:-1", "cannot be negative"),
            (":3", "no policy provided"),
        ] {
            assert!(policy(text).unwrap_err().contains(part), "{text}");
        }
    }
}

//! The key that is Sampan's own: `x-sampan` of a service.

use std::time::Duration;

use serde_json::Value;

use super::Service;
use super::units::parse_duration;

pub(crate) const KEY: &str = "x-sampan";

/// When a container whose health check fails is restarted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestartUnhealthy {
    /// How long it may be unhealthy first.
    pub after: Duration,
    /// Restarts in a row, after which it is left alone; none for no end.
    pub max: Option<u32>,
}

impl Service {
    /// `x-sampan: { restart_unhealthy: true }`, or `{ after: 30s, max: 5 }` in the place of `true`.
    #[must_use]
    pub fn restart_unhealthy(&self) -> Option<RestartUnhealthy> {
        read(self.extensions.get(KEY)?).ok().flatten()
    }
}

/// Reads the key, or says what is wrong with it.
pub(crate) fn read(value: &Value) -> Result<Option<RestartUnhealthy>, String> {
    let keys = match value {
        Value::Null => return Ok(None),
        Value::Object(keys) => keys,
        _ => return Err(format!("`{KEY}` is a mapping with the key `restart_unhealthy`")),
    };
    if let Some(other) = keys.keys().find(|key| *key != "restart_unhealthy") {
        return Err(format!("`{KEY}`: unknown key `{other}`; there is `restart_unhealthy`"));
    }
    match keys.get("restart_unhealthy") {
        None | Some(Value::Null | Value::Bool(false)) => Ok(None),
        Some(Value::Bool(true)) => Ok(Some(RestartUnhealthy::default())),
        Some(Value::Object(settings)) => settings.iter().try_fold(RestartUnhealthy::default(), setting).map(Some),
        Some(_) => Err(format!("`{KEY}`: `restart_unhealthy` is true, false, or a mapping with `after` and `max`")),
    }
}

fn setting(mut all: RestartUnhealthy, (key, value): (&String, &Value)) -> Result<RestartUnhealthy, String> {
    let wrong = |what: &str| format!("`{KEY}`: `restart_unhealthy`: `{key}`: {what}");
    match key.as_str() {
        "after" => {
            let text = value.as_str().ok_or_else(|| wrong("a duration such as `30s` is expected"))?;
            all.after = parse_duration(text).map_err(|message| wrong(&message))?;
        }
        "max" => {
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
            all.max = Some(number.ok_or_else(|| wrong("a number from 1 on is expected"))?);
        }
        _ => return Err(wrong("unknown key; there are `after` and `max`")),
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_is_read_or_refused_clearly() {
        let of = |value: Value| read(&json!({ "restart_unhealthy": value }));
        assert_eq!(of(json!(true)), Ok(Some(RestartUnhealthy::default())));
        assert_eq!(of(json!(false)), Ok(None));
        let some = RestartUnhealthy { after: Duration::from_secs(30), max: Some(5) };
        assert_eq!(of(json!({ "after": "30s", "max": 5 })), Ok(Some(some)));
        for (value, part) in [
            (json!("yes"), "is true, false, or a mapping"),
            (json!({ "after": "soon" }), "`after`"),
            (json!({ "max": 0 }), "from 1 on"),
            (json!({ "often": 1 }), "unknown key"),
        ] {
            assert!(of(value.clone()).is_err_and(|message| message.contains(part)), "{value}");
        }
        assert!(read(&json!({ "restart_unhealty": true })).is_err_and(|text| text.contains("restart_unhealthy")));
        assert!(read(&json!([])).is_err());
    }
}

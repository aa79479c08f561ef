//! `--ulimit`, `--blkio-weight-device`, `--device-*-bps` and `-iops`.

use bollard_stubs::models::{ResourcesBlkioWeightDevice, ResourcesUlimits, ThrottleDevice};

use super::{Parsed, quantity};

const NAMES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `nofile=1024:2048`: name, soft and hard limit; `-1` is none.
pub fn ulimit(text: &str) -> Parsed<ResourcesUlimits> {
    let wrong = || format!("invalid ulimit argument: {text}");
    let (name, limits) = text.split_once('=').ok_or_else(wrong)?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (quantity::integer(soft).map_err(|_| wrong())?, quantity::integer(hard).map_err(|_| wrong())?);
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok(ResourcesUlimits { name: Some(name.to_owned()), soft: Some(soft), hard: Some(hard) })
}

/// `/dev/sda:10mb` or, where `iops`, `/dev/sda:1000`.
pub fn throttle(text: &str, iops: bool) -> Parsed<ThrottleDevice> {
    let (path, rate) = text.split_once(':').ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    let unit = if iops {
        "Number must be a positive integer"
    } else {
        "Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
    };
    let wrong = || format!("invalid rate for device: {text}. The correct format is <device-path>:<number>. {unit}");
    let rate = if iops {
        quantity::integer(rate).map_err(|_| wrong())?
    } else {
        quantity::bytes(rate).map_err(|_| wrong())?
    };
    if rate < 0 {
        return Err(wrong());
    }
    Ok(ThrottleDevice { path: Some(path.to_owned()), rate: Some(rate) })
}

/// `/dev/sda:500`, 10 to 1000 or 0.
pub fn weight(text: &str) -> Parsed<ResourcesBlkioWeightDevice> {
    let (path, weight) = text.split_once(':').ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    match weight.parse::<usize>() {
        Ok(number) if number == 0 || (10..=1000).contains(&number) => {
            Ok(ResourcesBlkioWeightDevice { path: Some(path.to_owned()), weight: Some(number) })
        }
        _ => Err(format!("invalid weight for device: {text}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn limits() {
        let found = ulimit("nofile=1024:2048").unwrap();
        assert_eq!((found.name.as_deref(), found.soft, found.hard), (Some("nofile"), Some(1024), Some(2048)));
        assert_eq!(ulimit("core=0").unwrap().hard, Some(0));
        assert_eq!(ulimit("memlock=-1:-1").unwrap().soft, Some(-1));
        for (text, part) in [
            ("nofile", "invalid ulimit argument"),
            ("frob=1", "invalid ulimit type: frob"),
            ("nofile=a", "invalid ulimit argument"),
            ("nofile=3:2", "3 > 2"),
            ("nofile=-1:2", "-1 > 2"),
        ] {
            assert!(ulimit(text).unwrap_err().contains(part), "{text}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!(throttle("/dev/sda:1mb", false).unwrap().rate, Some(1 << 20));
        assert_eq!(throttle("/dev/sda:100", true).unwrap().rate, Some(100));
        assert!(
            throttle("/dev/sda", false).is_err()
                && throttle("sda:1", false).is_err()
                && throttle("/dev/a:x", true).is_err()
        );
        assert_eq!(weight("/dev/sda:500").unwrap().weight, Some(500));
        assert!(weight("/dev/sda:5").is_err());
    }
}

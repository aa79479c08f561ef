//! Docker's `local` volumes: a directory of their own, or a bind, tmpfs or NFS mount by `type`, `o` and `device`.

use sampan_driver_sdk::volume::{
    Directory, Failure, Guest, HostFacts, Mount, Mounted, Object, OptionValue, Place, Remote, Step,
};

struct Local;

enum Kind {
    Plain,
    Bind { device: String, options: Vec<String> },
    Tmpfs { options: Vec<String> },
    Nfs { fstype: String, device: String, options: Vec<String> },
}

fn kind(options: &[OptionValue]) -> Result<Kind, Failure> {
    let value = |name: &str| {
        options
            .iter()
            .find(|option| option.key == name)
            .map(|option| option.value.as_str())
            .filter(|value| !value.is_empty())
    };
    let (fstype, o, device) = (value("type"), value("o"), value("device"));
    if fstype.is_none() && o.is_none() && device.is_none() {
        return Ok(Kind::Plain);
    }
    let words: Vec<String> =
        o.unwrap_or_default().split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let is_bind = words.iter().any(|word| word == "bind" || word == "rbind");
    let rest =
        |words: Vec<String>| words.into_iter().filter(|word| word != "bind" && word != "rbind").collect::<Vec<_>>();
    match (fstype, device) {
        (None | Some("none" | "bind"), Some(device)) if is_bind => {
            if !device.starts_with('/') {
                return Err(Failure::Invalid(format!("option device: {device:?} is not an absolute path")));
            }
            Ok(Kind::Bind { device: device.to_owned(), options: rest(words) })
        }
        (Some("tmpfs"), _) => Ok(Kind::Tmpfs { options: words }),
        (Some(fstype @ ("nfs" | "nfs4")), Some(device)) => {
            if !words.iter().any(|word| word.starts_with("addr=")) {
                return Err(Failure::Invalid("an NFS volume needs addr=SERVER in option o".into()));
            }
            Ok(Kind::Nfs { fstype: fstype.to_owned(), device: device.to_owned(), options: words })
        }
        (_, None) => Err(Failure::Invalid("option device is missing: say what to mount".into())),
        (Some(other), _) => Err(Failure::Invalid(format!(
            "option type: {other:?} is not supported (none with o=bind, tmpfs, nfs, nfs4)"
        ))),
        (None, _) => Err(Failure::Invalid("option type is missing: none with o=bind, tmpfs, nfs or nfs4".into())),
    }
}

fn data(volume: &Object) -> Place {
    Place::Tree(format!("{}/_data", volume.name))
}

fn directories(volume: &Object) -> Vec<Step> {
    let directory = |at, mode| Step::Directory(Directory { at, mode, uid: 0, gid: 0 });
    vec![directory(Place::Tree(volume.name.clone()), 0o701), directory(data(volume), 0o755)]
}

impl Guest for Local {
    fn create(_: HostFacts, volume: Object, options: Vec<OptionValue>) -> Result<Vec<Step>, Failure> {
        kind(&options)?;
        Ok(directories(&volume))
    }

    fn mount(_: HostFacts, volume: Object, options: Vec<OptionValue>) -> Result<Mounted, Failure> {
        let mut plan = directories(&volume);
        match kind(&options)? {
            Kind::Plain => {}
            Kind::Bind { device, options } => plan.push(Step::Bind((device, data(&volume), options))),
            Kind::Tmpfs { options } => {
                plan.push(Step::Mount(Mount {
                    fstype: "tmpfs".into(),
                    source: None,
                    target: data(&volume),
                    options,
                    places: Vec::new(),
                }));
            }
            Kind::Nfs { fstype, device, options } => {
                plan.push(Step::Remote(Remote { fstype, device, target: data(&volume), options }));
            }
        }
        Ok(Mounted { plan, at: data(&volume) })
    }

    fn unmount(volume: Object, options: Vec<OptionValue>) -> Result<Vec<Step>, Failure> {
        Ok(match kind(&options)? {
            Kind::Plain => Vec::new(),
            _ => vec![Step::Unmount(data(&volume))],
        })
    }

    fn remove(volume: Object, options: Vec<OptionValue>) -> Result<Vec<Step>, Failure> {
        let mut plan = Vec::new();
        if !matches!(kind(&options), Ok(Kind::Plain)) {
            plan.push(Step::Unmount(data(&volume)));
        }
        plan.push(Step::Remove(Place::Tree(volume.name)));
        Ok(plan)
    }
}

sampan_driver_sdk::volume::export!(Local with_types_in sampan_driver_sdk::volume::bindings);

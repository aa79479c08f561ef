//! The border between drivers and the host. Pure.

use crate::plan::{Place, Step};

/// What a plan may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// How many places were given.
    pub given: u32,
    /// The directory that the user named as the volume's device, if the plan may bind or mount it.
    pub device: Option<&'a str>,
    /// Whether mounts of other hosts may be made: volumes only.
    pub remote: bool,
}

/// A plan that was checked whole.
#[derive(Debug, Clone)]
pub struct Validated(pub(crate) Vec<Step>);

/// Why a plan is refused: which step breaks which rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the plan is refused: step {step}: {rule}: {detail}")]
pub struct Refusal {
    /// Counted from 1.
    pub step: usize,
    /// The rule.
    pub rule: &'static str,
    /// What broke it.
    pub detail: String,
}

/// Steps that a plan may have.
const STEPS: usize = 1000;
/// Layers that one mount may join; the kernel's own bound.
const LOWER: usize = 500;

/// Checks every step before the first one is taken.
pub fn validate(steps: Vec<Step>, rules: &Rules<'_>) -> Result<Validated, Refusal> {
    if steps.len() > STEPS {
        return Err(Refusal {
            step: STEPS + 1,
            rule: "a plan has at most 1,000 steps",
            detail: steps.len().to_string(),
        });
    }
    for (at, step) in steps.iter().enumerate() {
        check(step, rules).map_err(|(rule, detail)| Refusal { step: at + 1, rule, detail })?;
    }
    Ok(Validated(steps))
}

type Broken = (&'static str, String);

fn check(step: &Step, rules: &Rules<'_>) -> Result<(), Broken> {
    match step {
        Step::Directory { at, mode, .. } => {
            place(at, rules)?;
            if *mode > 0o1777 {
                return Err(("a directory's mode has no set-id bits", format!("{mode:o}")));
            }
            Ok(())
        }
        Step::Remove(at) => own_tree(at, "only the driver's own tree is removed"),
        Step::Unmount(at) => place(at, rules),
        Step::Copy { from, to } => {
            place(from, rules)?;
            own_tree(to, "a copy goes into the driver's own tree")
        }
        Step::Mount { fstype, source, target, options: list, places } => {
            place(target, rules)?;
            if let Some(source) = source {
                place(source, rules)?;
            }
            for (_, at) in places {
                place(at, rules)?;
            }
            mount(fstype, source.is_some(), list, places)
        }
        Step::Remote { fstype, device, target, options: list } => {
            place(target, rules)?;
            if !rules.remote || !matches!(fstype.as_str(), "nfs" | "nfs4") {
                return Err(("only volumes mount other hosts, by nfs or nfs4", fstype.clone()));
            }
            if rules.device != Some(device.as_str()) {
                return Err(("only the device that the user named is mounted", device.clone()));
            }
            options(list, |word| {
                let name = word.split('=').next().unwrap_or(word);
                [
                    "addr",
                    "vers",
                    "nfsvers",
                    "proto",
                    "port",
                    "mountport",
                    "mountproto",
                    "timeo",
                    "retrans",
                    "rsize",
                    "wsize",
                    "soft",
                    "hard",
                    "nolock",
                    "lock",
                    "sec",
                    "ro",
                    "rw",
                    "noatime",
                    "intr",
                    "nointr",
                    "tcp",
                    "udp",
                    "clientaddr",
                ]
                .contains(&name)
            })
        }
        Step::Bind { device, target, options: list } => {
            own_tree(target, "a bind goes into the driver's own tree")?;
            if rules.device != Some(device.as_str()) || !device.starts_with('/') {
                return Err(("only the directory that the user named is bound", device.clone()));
            }
            options(list, |word| {
                matches!(word, "ro" | "rw" | "noexec" | "nosuid" | "nodev" | "noatime" | "rbind" | "bind")
            })
        }
    }
}

fn mount(fstype: &str, has_source: bool, list: &[String], places: &[(String, Place)]) -> Result<(), Broken> {
    match fstype {
        "overlay" => {
            let count = |name: &str| places.iter().filter(|(found, _)| found == name).count();
            if count("upperdir") > 1
                || count("workdir") != count("upperdir")
                || count("lowerdir") == 0
                || count("lowerdir") > LOWER
            {
                return Err((
                    "an overlay has 1 to 500 lowerdir, and one upperdir with one workdir or neither",
                    format!("{places:?}"),
                ));
            }
            if let Some((name, _)) =
                places.iter().find(|(name, _)| !matches!(name.as_str(), "lowerdir" | "upperdir" | "workdir"))
            {
                return Err(("an overlay's directories are lowerdir, upperdir and workdir", name.clone()));
            }
            options(list, |word| {
                matches!(
                    word,
                    "metacopy=on"
                        | "metacopy=off"
                        | "volatile"
                        | "index=off"
                        | "index=on"
                        | "xino=off"
                        | "userxattr"
                        | "ro"
                        | "noatime"
                        | "redirect_dir=on"
                        | "redirect_dir=off"
                )
            })
        }
        "tmpfs" if places.is_empty() && !has_source => options(list, |word| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "size" | "nr_inodes" | "nr_blocks" => {
                    !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'%')
                }
                "mode" | "uid" | "gid" => value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty(),
                "ro" | "rw" | "noexec" | "nosuid" | "nodev" | "noatime" | "exec" => value.is_empty(),
                _ => false,
            }
        }),
        "bind" if places.is_empty() && has_source => {
            options(list, |word| matches!(word, "ro" | "noexec" | "nosuid" | "nodev" | "noatime"))
        }
        other => {
            Err(("mounts are overlay (with places), tmpfs (without source) or bind (with a source)", other.to_owned()))
        }
    }
}

fn options(list: &[String], allowed: impl Fn(&str) -> bool) -> Result<(), Broken> {
    match list.iter().find(|word| word.contains([',', '\0', '\n']) || !allowed(word)) {
        Some(word) => Err(("mount options come from the list of the type", format!("{word:?}"))),
        None => Ok(()),
    }
}

fn place(at: &Place, rules: &Rules<'_>) -> Result<(), Broken> {
    match at {
        Place::Given(number) if *number < rules.given => Ok(()),
        Place::Given(number) => Err(("only places that were given are used", format!("given({number})"))),
        Place::Tree(path) => relative(path),
    }
}

fn own_tree(at: &Place, rule: &'static str) -> Result<(), Broken> {
    match at {
        Place::Tree(path) => relative(path),
        Place::Given(number) => Err((rule, format!("given({number})"))),
    }
}

fn relative(path: &str) -> Result<(), Broken> {
    let rule = "a place in the tree is a relative path without . and .., of at most 255 bytes a part";
    let good = !path.is_empty()
        && path.len() < 4096
        && !path.contains('\0')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= 255);
    if good { Ok(()) } else { Err((rule, format!("{path:?}"))) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    const RULES: Rules<'static> = Rules { given: 1, device: Some("/srv/data"), remote: true };

    #[test]
    fn a_plan_that_reaches_out_is_refused_by_step_and_rule() {
        let tree = |path: &str| Place::Tree(path.into());
        let refused = |step: Step| {
            let fine = Step::Directory { at: tree("fine"), mode: 0o755, uid: 0, gid: 0 };
            validate(vec![fine, step], &RULES).unwrap_err()
        };
        for step in [
            Step::Remove(tree("../other")),
            Step::Remove(Place::Given(0)),
            Step::Directory { at: tree("/etc"), mode: 0o755, uid: 0, gid: 0 },
            Step::Directory { at: tree("x"), mode: 0o4755, uid: 0, gid: 0 },
            Step::Copy { from: Place::Given(1), to: tree("x") },
            Step::Bind { device: "/etc".into(), target: tree("x"), options: vec![] },
            Step::Remote { fstype: "cifs".into(), device: "/srv/data".into(), target: tree("x"), options: vec![] },
            Step::Mount { fstype: "proc".into(), source: None, target: tree("x"), options: vec![], places: vec![] },
            Step::Mount {
                fstype: "tmpfs".into(),
                source: None,
                target: tree("x"),
                options: vec!["suid".into()],
                places: vec![],
            },
            Step::Mount {
                fstype: "overlay".into(),
                source: None,
                target: tree("x"),
                options: vec![],
                places: vec![("upperdir".into(), tree("u"))],
            },
            Step::Mount {
                fstype: "overlay".into(),
                source: None,
                target: tree("x"),
                options: vec!["upperdir=/etc".into()],
                places: vec![("lowerdir".into(), tree("l"))],
            },
        ] {
            let shown = format!("{step:?}");
            let refusal = refused(step);
            assert_eq!(refusal.step, 2, "{shown}");
        }
        assert_eq!(
            refused(Step::Remove(tree("a/../b"))).to_string(),
            "the plan is refused: step 2: a place in the tree is a relative path without . and .., of at most 255 bytes a part: \"a/../b\""
        );
    }

    proptest! {
        #[test]
        fn whatever_passes_stays_inside(path in "[a-z./\\x00]{0,20}") {
            if validate(vec![Step::Remove(Place::Tree(path.clone()))], &RULES).is_ok() {
                prop_assert!(Path::new(&path).components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert!(Path::new(&path).components().count() > 0);
            }
        }

        #[test]
        fn no_option_smuggles_another(word in "[a-z=,/0-9]{0,20}") {
            let step = Step::Mount { fstype: "tmpfs".into(), source: None, target: Place::Tree("x".into()), options: vec![word.clone()], places: vec![] };
            if validate(vec![step], &RULES).is_ok() {
                prop_assert!(!word.contains(',') && !word.contains('/'));
            }
        }
    }
}

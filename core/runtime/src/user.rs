//! Users and groups of an image, read from its own files by an own parser: the engine loads no library of the image.

use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::sys;

/// How much of `/etc/passwd` and `/etc/group` is read.
const LIMIT: u64 = 4 << 20;

/// Who a program runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The home directory, where the files name one.
    pub home: Option<String>,
}

/// Finds out who `user[:group]` is, with names or numbers, as Docker does.
pub fn lookup(root: BorrowedFd<'_>, user: &str, further: &[String]) -> Result<Identity, String> {
    let passwd = read(root, "etc/passwd");
    let group = read(root, "etc/group");
    resolve(&passwd, &group, user, further)
}

fn read(root: BorrowedFd<'_>, path: &str) -> String {
    let Ok(file) = sys::open_in_root(root, Path::new(path), libc::O_RDONLY | libc::O_NONBLOCK, 0) else {
        return String::new();
    };
    let file = std::fs::File::from(file);
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return String::new();
    }
    let mut bytes = Vec::new();
    let _ = file.take(LIMIT).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// As [`lookup`], from the files' text.
pub fn resolve(passwd: &str, group: &str, user: &str, further: &[String]) -> Result<Identity, String> {
    let (user, group_part) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number: Option<u32> = user.parse().ok();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 6 && (fields[0] == user || number.is_some_and(|number| fields[2].parse() == Ok(number)))
    });
    let mut identity = match (&entry, number) {
        (Some(fields), _) => Identity {
            uid: fields[2].parse().map_err(|_| format!("user {user}: /etc/passwd has no number for it"))?,
            gid: fields[3].parse().unwrap_or(0),
            groups: Vec::new(),
            home: Some(fields[5].to_owned()),
        },
        (None, Some(uid)) => Identity { uid, ..Identity::default() },
        (None, None) => return Err(format!("unable to find user {user}: no matching entries in passwd file")),
    };
    let groups: Vec<Vec<&str>> =
        group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|f| f.len() >= 3).collect();
    let find_group = |name: &str| -> Result<u32, String> {
        let by_name = groups.iter().find(|fields| fields[0] == name).and_then(|fields| fields[2].parse().ok());
        by_name
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("unable to find group {name}: no matching entries in group file"))
    };
    match group_part {
        Some(name) => identity.gid = find_group(name)?,
        None => {
            if let Some(fields) = &entry {
                let member = |list: &str| list.split(',').any(|name| name == fields[0]);
                identity.groups.extend(
                    groups
                        .iter()
                        .filter(|g| g.get(3).is_some_and(|list| member(list)))
                        .filter_map(|g| g[2].parse::<u32>().ok()),
                );
            }
        }
    }
    for name in further {
        identity.groups.push(find_group(name)?);
    }
    identity.groups.sort_unstable();
    identity.groups.dedup();
    Ok(identity)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbad line\nweb:x:101:102:Web:/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\naudio:x:29:web,other\nweb:x:102:\n";

    fn of(user: &str) -> Result<Identity, String> {
        resolve(PASSWD, GROUP, user, &[])
    }

    #[test]
    fn names_numbers_and_groups_resolve_as_dockers() {
        assert_eq!(of("").unwrap().home.as_deref(), Some("/root"));
        assert_eq!(of("web").unwrap(), Identity { uid: 101, gid: 102, groups: vec![29], home: Some("/srv".into()) });
        assert_eq!(of("101").unwrap().gid, 102);
        assert_eq!(of("web:audio").unwrap(), Identity { uid: 101, gid: 29, groups: vec![], home: Some("/srv".into()) });
        assert_eq!(of("4000:5000").unwrap(), Identity { uid: 4000, gid: 5000, groups: vec![], home: None });
        assert_eq!(resolve(PASSWD, GROUP, "0", &["audio".into(), "77".into()]).unwrap().groups, [29, 77]);
        assert!(of("nobody").unwrap_err().contains("unable to find user nobody"));
        assert!(of("web:nogroup").unwrap_err().contains("unable to find group nogroup"));
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(passwd in "[a-z:0-9\n]{0,80}", user in "[a-z:0-9]{0,8}") {
            let _ = resolve(&passwd, &passwd, &user, &[]);
        }
    }
}

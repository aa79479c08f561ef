//! The short identity of a data root, which marks everything that the engine makes in the kernel.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

/// Six hexadecimal digits, made once for a data root.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Instance(String);

impl Instance {
    /// Reads the identity of a data root, or makes one for a new root.
    pub fn of(root: &Path) -> io::Result<Self> {
        let file = root.join("instance");
        match fs::read_to_string(&file) {
            Ok(text) => {
                let text = text.trim();
                if text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Ok(Self(text.to_owned()));
                }
                Err(io::Error::other(format!(
                    "{}: {text:?} is not an instance id of six hexadecimal digits",
                    file.display()
                )))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0_u8; 3];
                getrandom::fill(&mut bytes).map_err(io::Error::other)?;
                let id = format!("{:02x}{:02x}{:02x}", bytes[0], bytes[1], bytes[2]);
                let temporary = root.join("instance.tmp");
                fs::write(&temporary, &id)?;
                fs::File::open(&temporary)?.sync_all()?;
                fs::rename(temporary, file)?;
                Ok(Self(id))
            }
            Err(error) => Err(error),
        }
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parent of the containers' cgroups, such as `/sampan-ab12cd`.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        format!("/sampan-{}", self.0)
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_root_keeps_its_identity_and_a_broken_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let first = Instance::of(folder.path()).unwrap();
        assert_eq!(Instance::of(folder.path()).unwrap(), first);
        fs::write(folder.path().join("instance"), "../../etc").unwrap();
        assert!(Instance::of(folder.path()).unwrap_err().to_string().contains("instance id"));
    }
}

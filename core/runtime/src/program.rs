//! The last step: finding the program and becoming it.

use std::ffi::{CString, OsStr};
use std::io;
use std::path::Path;

use oci_spec::runtime::Process;

use crate::{Failure, sys};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes the program; returns only when that fails.
pub fn run(process: &Process, environment: &[String]) -> Failure {
    let arguments = process.args().clone().unwrap_or_default();
    let Some(name) = arguments.first().filter(|name| !name.is_empty()) else {
        return Failure { step: "exec".into(), cause: "no command specified".into(), code: 125 };
    };
    let strings = |list: &[String]| list.iter().map(|item| CString::new(item.as_str())).collect::<Result<Vec<_>, _>>();
    let (Ok(argv), Ok(envp)) = (strings(&arguments), strings(environment)) else {
        return Failure { step: "exec".into(), cause: "an argument or a variable has a NUL byte".into(), code: 125 };
    };
    let failure = |error: io::Error, searched: bool| {
        let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        let cause = match error.raw_os_error() {
            Some(libc::ENOENT) if searched => "executable file not found in $PATH".to_owned(),
            Some(libc::ENOENT) => "no such file or directory".to_owned(),
            Some(libc::EACCES) => "permission denied".to_owned(),
            Some(libc::ENOEXEC) => "exec format error".to_owned(),
            _ => error.to_string(),
        };
        Failure { step: format!("exec: {name:?}"), cause, code }
    };
    if name.contains('/') {
        let error = attempt(Path::new(name), &argv, &envp);
        return failure(error, false);
    }
    let path = environment.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut last = io::Error::from_raw_os_error(libc::ENOENT);
    for folder in path.split(':') {
        let folder = if folder.is_empty() { "." } else { folder };
        let error = attempt(&Path::new(folder).join(name), &argv, &envp);
        // A file that is there but cannot be run tells more than those that are not there.
        if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) {
            last = error;
        }
    }
    failure(last, true)
}

fn attempt(path: &Path, argv: &[CString], envp: &[CString]) -> io::Error {
    match sys::c_string(OsStr::new(path)) {
        Ok(path) => sys::execve(&path, argv, envp),
        Err(error) => error,
    }
}

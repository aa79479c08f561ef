//! Notes on cgroups about who made them: extended attributes, which go with the directory.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const NAME: &std::ffi::CStr = c"trusted.sampan.owner";
/// The longest note that is read.
const LONGEST: usize = 64;

/// Notes the owner; where the kernel does not keep such notes, nobody's directory is removed.
pub(crate) fn set(directory: &Path, owner: &str) {
    let Ok(path) = CString::new(directory.as_os_str().as_bytes()) else { return };
    // SAFETY: the three pointers are valid for the lengths that go with them, and the kernel keeps none.
    let _ = unsafe { libc::setxattr(path.as_ptr(), NAME.as_ptr(), owner.as_ptr().cast(), owner.len(), 0) };
}

/// Whether the owner is noted.
pub(crate) fn is(directory: &Path, owner: &str) -> bool {
    let Ok(path) = CString::new(directory.as_os_str().as_bytes()) else { return false };
    let mut found = [0_u8; LONGEST];
    // SAFETY: the buffer is valid for its length, the names end in NUL, and the kernel keeps no pointer.
    let length = unsafe { libc::getxattr(path.as_ptr(), NAME.as_ptr(), found.as_mut_ptr().cast(), found.len()) };
    usize::try_from(length).ok().and_then(|length| found.get(..length)) == Some(owner.as_bytes())
}

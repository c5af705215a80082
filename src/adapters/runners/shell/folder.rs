//! The folder that an attempt has for itself.
//!
//! **Invariant:** made new, for this user alone, and removed with all that is in it.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::domain::pod::Life;

const PREFIX: &str = "ow-step-";

/// A name that no other attempt has.
pub fn name(life: Option<&Life>) -> String {
    let own = life.map_or_else(String::new, |life| format!("{life}-"));
    format!("{PREFIX}{own}{}", Uuid::new_v4())
}

/// Removes what processes before the one of this `life` have left in `base`.
///
/// # Errors
///
/// What could not be removed last; the others are.
pub fn remove_before(life: &Life, base: &Path) -> io::Result<()> {
    let is_left = |name: &str| {
        let (own, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
        Some(life.comes_after(&own.parse().ok()?))
    };
    let mut removed = Ok(());
    for entry in fs::read_dir(base)?.flatten() {
        if entry.file_name().to_str().and_then(is_left) == Some(true) {
            removed = remove(&entry.path()).and(removed);
        }
    }
    removed
}

/// Removed when dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    pub fn create(path: &Path) -> io::Result<Self> {
        if let Some(base) = path.parent() {
            fs::create_dir_all(base)?;
        }
        DirBuilder::new().mode(0o700).create(path)?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Removes `path` and what is in it, write-protected folders too. That it is gone is no error.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Lets the owner change every folder below `path`; Go's module cache needs it, for one.
fn open_up(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_private_and_leaves_with_its_protected_contents() {
        let base = tempfile::tempdir().expect("a folder");
        let path = base.path().join("new/step");
        let folder = Folder::create(&path).expect("created");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let inner = path.join("mod/cache");
        fs::create_dir_all(&inner).expect("created");
        fs::write(inner.join("file"), "x").expect("written");
        fs::set_permissions(&inner, Permissions::from_mode(0o500)).expect("protected");
        open_up(&path).expect("opened up");
        let mode = fs::metadata(&inner).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "what root may remove, its owner may too");
        drop(folder);
        assert!(!path.exists());
        remove(&path).expect("gone already");
    }

    #[test]
    fn only_the_folders_of_processes_before_this_one_are_removed() {
        let base = tempfile::tempdir().expect("a folder");
        let life: Life = "00000007.2".parse().expect("a life");
        let before = ["00000007.1"].map(|it| name(it.parse().ok().as_ref()));
        let others = ["00000007.2", "00000007.3", "00000008.1", "", "x"];
        let others = others.map(|it| name(it.parse().ok().as_ref())).into_iter();
        let others: Vec<_> = others.chain(["00000007.1-x".into(), "ow-step-".into()]).collect();
        for name in before.iter().chain(&others) {
            fs::create_dir_all(base.path().join(name).join("x")).expect("made");
        }
        remove_before(&life, base.path()).expect("removed");
        assert!(before.iter().all(|name| !base.path().join(name).exists()));
        assert!(others.iter().all(|name| base.path().join(name).exists()), "{others:?}");
    }

    #[test]
    fn a_folder_that_exists_is_not_taken() {
        let base = tempfile::tempdir().expect("a folder");
        assert!(Folder::create(base.path()).is_err());
    }
}

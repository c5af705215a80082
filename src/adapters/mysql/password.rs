//! The password of the MySQL user in a file, which somebody exchanges now and then.
//!
//! **Invariant:** the file is read at each use, so that a new password needs no restart; no sentence
//! made here holds any of what it holds.

use std::{
    io,
    path::{Path, PathBuf},
};

use secrecy::SecretString;
use tokio::{fs, io::AsyncReadExt};

/// Longer than any password: something else was named.
const MOST: u64 = 4096;

/// A file with a password and, perhaps, an end of line.
#[derive(Clone, Debug)]
pub struct PasswordFile(PathBuf);

/// Why a password file cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("the password file {path} (database.password_file) {problem}")]
pub struct PasswordFileError {
    path: String,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot be read ({0}); put it there, or let this process's user read it")]
    Unreadable(io::Error),
    /// Of a pipe nothing would be left for the next connection.
    #[error("is no regular file; name one that can be read again")]
    Irregular,
    #[error("is empty; write the MySQL user's password into it")]
    Empty,
    #[error(
        "is longer than {MOST} bytes; write the MySQL user's password and nothing else into it"
    )]
    TooLong,
    #[error("holds a NUL byte; write the MySQL user's password as plain text into it")]
    Nul,
    #[error("is not UTF-8; write the MySQL user's password as plain text into it")]
    NotText,
}

impl PasswordFile {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The password that stands in it now.
    pub async fn read(&self) -> Result<SecretString, PasswordFileError> {
        let bytes = self.bytes().await;
        bytes
            .and_then(password)
            .map_err(|problem| PasswordFileError { path: self.0.display().to_string(), problem })
    }

    async fn bytes(&self) -> Result<Vec<u8>, Problem> {
        // Asked before it is opened: opening a pipe waits for its writer.
        if !fs::metadata(&self.0).await.map_err(Problem::Unreadable)?.is_file() {
            return Err(Problem::Irregular);
        }
        let file = fs::File::open(&self.0).await.map_err(Problem::Unreadable)?;
        let mut bytes = Vec::new();
        file.take(MOST + 1).read_to_end(&mut bytes).await.map_err(Problem::Unreadable)?;
        Ok(bytes)
    }
}

fn password(bytes: Vec<u8>) -> Result<SecretString, Problem> {
    if bytes.len() as u64 > MOST {
        return Err(Problem::TooLong);
    }
    let text = String::from_utf8(bytes).map_err(|_| Problem::NotText)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(Problem::Empty),
        text if text.contains('\0') => Err(Problem::Nul),
        text => Ok(SecretString::from(text)),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_password_is_all_that_stands_in_the_file_but_the_end_of_its_line() {
        for (bytes, expected) in [
            ("hush", "hush"),
            ("hush\n", "hush"),
            ("hush\r\n", "hush"),
            (" p@s: s\t\n", " p@s: s\t"),
            ("two\nlines\n", "two\nlines"),
        ] {
            let password = password(bytes.into()).expect("a password");
            assert_eq!(password.expose_secret(), expected, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_file_that_holds_no_password_is_refused_without_telling_what_it_holds() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("password");
        let refusal = async || {
            let error = PasswordFile::new(&path).read().await.expect_err("it is refused");
            let begin = format!("the password file {} (database.password_file) ", path.display());
            let error = error.to_string();
            error.strip_prefix(&begin).unwrap_or_else(|| panic!("{error}")).to_owned()
        };
        let put_there = "; put it there, or let this process's user read it";
        assert_eq!(
            refusal().await,
            format!("cannot be read (No such file or directory (os error 2)){put_there}")
        );
        let long = vec![b'x'; 4097];
        for (bytes, begins) in [
            (&b""[..], "is empty; "),
            (b"\r\n\n", "is empty; "),
            (b"hu\0sh", "holds a NUL byte; "),
            (b"hu\xffsh", "is not UTF-8; "),
            (&long, "is longer than 4096 bytes; "),
        ] {
            fs::write(&path, bytes).await.expect("it can be written");
            let refusal = refusal().await;
            assert!(refusal.starts_with(begins) && !refusal.contains("hu"), "{refusal}");
        }
        fs::remove_file(&path).await.expect("it is there");
        fs::create_dir(&path).await.expect("a folder can be made");
        assert!(refusal().await.starts_with("is no regular file; "));
    }
}

//! What a failure says about the work: one classification for the bus, the store and every stage; and the text of an error's
//! causes.

use std::{error::Error, io, iter};

/// What a failure says about the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// Something the work needs is away, full or taken for a while. It passes by itself and says nothing about the work:
    /// wait, and never count it as a try.
    Outage,
    /// The work itself went wrong and may go well another time: try again, a limited number of times.
    Fault,
    /// It will never go well.
    Reject,
}

/// The error, what caused it, what caused that, and so on.
pub fn error_causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

/// The texts of [`error_causes`] in one line, for types whose own text is only its first part.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    error_causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The text of the last of [`error_causes`], for types whose own text only repeats what was tried.
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    error_causes(error).last().map(ToString::to_string).unwrap_or_default()
}

/// What somebody can do about a file or folder that can't be used, without a full stop.
pub fn io_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "let the user that runs this read and write it, or run this as its owner"
        }
        io::ErrorKind::ReadOnlyFilesystem => "mount its disk so that it can be written",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on its disk",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "move the file away that is where a folder should be"
        }
        io::ErrorKind::IsADirectory => "move the folder away that is where a file should be",
        io::ErrorKind::NotFound => "look whether its path is spelled right and its disk is mounted",
        _ => "look at its disk and at the log of the system",
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt, num::ParseIntError};

    use super::*;

    #[derive(Debug)]
    struct Outer(ParseIntError);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("no number")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn causes_are_listed_from_the_outermost_to_the_root() {
        let error = Outer("x".parse::<u8>().unwrap_err());
        assert_eq!(error_chain(&error), "no number: invalid digit found in string");
        assert_eq!(root_cause(&error), "invalid digit found in string");
        assert_eq!(error_chain(&error.0), root_cause(&error.0));
    }
}

//! Errors as gRPC statuses: what and where first, then a line `hint: ...` for each thing to do.

use cassy_control::{OperationError, OperationErrorKind};
use tonic::{Code, Status};
use uuid::Uuid;

/// The text travels percent-encoded in a header, and clients take at least 8 KiB of headers, not more.
const ENCODED_BYTES: usize = 6 << 10;

/// The status for the client. What the client must not see, or cannot take, goes to the log under an id it is told.
pub(crate) fn from_error(method: &str, error: &OperationError) -> Status {
    if error.kind == OperationErrorKind::Internal {
        return internal(method, &text(error));
    }
    let whole = text(error);
    Status::new(code(error.kind), shortened(method, whole))
}

/// The status for a defect of ours; `details` is for the log alone.
pub(crate) fn internal(method: &str, details: &str) -> Status {
    let request_id = Uuid::new_v4();
    tracing::error!(%request_id, method, details, "internal error in a request");
    Status::internal(format!(
        "internal error, request id {request_id}\nhint: The server's log has the details under this id; please report them."
    ))
}

fn code(kind: OperationErrorKind) -> Code {
    match kind {
        OperationErrorKind::InvalidArgument => Code::InvalidArgument,
        OperationErrorKind::NotFound => Code::NotFound,
        OperationErrorKind::FailedPrecondition => Code::FailedPrecondition,
        OperationErrorKind::Unavailable => Code::Unavailable,
        OperationErrorKind::Unimplemented => Code::Unimplemented,
        OperationErrorKind::Exhausted => Code::ResourceExhausted,
        OperationErrorKind::Internal => Code::Internal,
    }
}

fn text(error: &OperationError) -> String {
    error.hints.iter().fold(error.message.clone(), |text, hint| format!("{text}\nhint: {hint}"))
}

fn shortened(method: &str, whole: String) -> String {
    let mut encoded = 0;
    let start: String = whole
        .chars()
        .take_while(|c| {
            encoded += encoded_bytes(*c);
            encoded <= ENCODED_BYTES
        })
        .collect();
    if start.len() == whole.len() {
        return whole;
    }
    let request_id = Uuid::new_v4();
    tracing::info!(%request_id, method, message = whole, "an error too long for its client");
    format!(
        "{start}\n... cut short, request id {request_id}\nhint: The server's log has all of it under this id."
    )
}

/// At most: every byte that is not plain becomes `%XX`.
fn encoded_bytes(c: char) -> usize {
    if c.is_ascii_alphanumeric() || c == ' ' { 1 } else { 3 * c.len_utf8() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_further_lines() {
        let error = OperationError::new(OperationErrorKind::NotFound, "no such backup")
            .hint("List them.")
            .hint("Again.");
        let status = from_error("RestoreBackup", &error);
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, "no such backup\nhint: List them.\nhint: Again.")
        );
    }

    #[test]
    fn a_defect_is_named_by_an_id_alone() {
        let error =
            OperationError::new(OperationErrorKind::Internal, "row 7 of /var/lib/cassy.db").hint("secret");
        let status = from_error("ListBackups", &error);
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().starts_with("internal error, request id "), "{status:?}");
        assert!(!status.message().contains("cassy.db") && !status.message().contains("secret"), "{status:?}");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        for letter in ["x", "\u{1f980}", "\n"] {
            let error = OperationError::new(OperationErrorKind::FailedPrecondition, letter.repeat(100_000));
            let status = from_error("RestoreBackup", &error);
            assert!(status.message().contains("cut short, request id "), "{letter}");
            assert!(status.message().chars().map(encoded_bytes).sum::<usize>() < 7 << 10, "{letter}");
        }
    }
}

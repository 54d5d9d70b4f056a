//! What the answer to a request for a copy means.
//!
//! S3 may begin an answer with status 200 before it has copied, and then end it with an error in the body (AWS docs,
//! "UploadPartCopy"): only a body with an entity tag is a success.

use serde::Deserialize;

/// What a store says about one copy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CopyVerdict {
    /// Made; its entity tag.
    Copied(String),
    /// The store makes no copies.
    RefusedByStore(String),
    /// It does not make this one. The reason may be what it would also say to who reads the object, and is found out so.
    RefusedHere(String),
    /// It does not know the multipart upload.
    UnknownMultipart,
    /// Nothing was wrong with the request; another try may succeed.
    Temporary(String),
    /// Nobody can do anything now: credentials or the clock are wrong.
    Failed(String),
}

/// The body of an answer, as AWS writes it.
#[derive(Debug, Deserialize)]
enum CopyAnswer {
    CopyPartResult {
        #[serde(rename = "ETag")]
        entity_tag: Option<String>,
    },
    Error {
        #[serde(rename = "Code", default)]
        code: String,
    },
}

/// Judges an answer by its status and its body; `None` when the body is too long to be read.
pub(crate) fn judge_answer(status: u16, body: Option<&[u8]>) -> CopyVerdict {
    let is_success = (200..300).contains(&status);
    let code = match body.map(read_body) {
        Some(Ok(CopyAnswer::CopyPartResult { entity_tag: Some(tag) })) if is_success && !tag.is_empty() => {
            return CopyVerdict::Copied(tag);
        }
        Some(Ok(CopyAnswer::Error { code })) => code,
        // The part of a store that does not look at the source: it was sent, and is empty.
        Some(_) if is_success && body.is_some_and(<[u8]>::is_empty) => {
            return CopyVerdict::RefusedByStore("the source was ignored".to_owned());
        }
        _ => String::new(),
    };
    let reason = format!("status {status} {code}").trim_end().to_owned();
    // AWS docs, "List of error codes".
    match (status, code.as_str()) {
        (_, "NoSuchUpload") => CopyVerdict::UnknownMultipart,
        (
            _,
            "ExpiredToken" | "InvalidAccessKeyId" | "InvalidToken" | "RequestTimeTooSkewed"
            | "TokenRefreshRequired",
        ) => CopyVerdict::Failed(reason),
        (_, "NotImplemented" | "MethodNotAllowed") | (405 | 501, _) => CopyVerdict::RefusedByStore(reason),
        (
            _,
            "InternalError" | "OperationAborted" | "RequestTimeout" | "ServiceUnavailable" | "SlowDown"
            | "Throttling",
        )
        // With a status of success: an error that is not known, or a body that was cut off.
        | (200..=299 | 408 | 409 | 429 | 500.., _) => CopyVerdict::Temporary(reason),
        _ => CopyVerdict::RefusedHere(reason),
    }
}

fn read_body(body: &[u8]) -> Result<CopyAnswer, quick_xml::DeError> {
    quick_xml::de::from_reader(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str) -> String {
        format!("<?xml version=\"1.0\"?>\n  <Error><Code>{code}</Code><Message>m</Message></Error>")
    }

    #[test]
    fn only_an_entity_tag_is_a_success() {
        let made = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n \n<CopyPartResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                    <LastModified>2026-01-01T00:00:00Z</LastModified><ETag>&quot;9b&quot;</ETag></CopyPartResult>";
        assert_eq!(judge_answer(200, Some(made.as_bytes())), CopyVerdict::Copied("\"9b\"".into()));
        let is_temporary = |body: &str| {
            let found = judge_answer(200, Some(body.as_bytes()));
            assert!(matches!(found, CopyVerdict::Temporary(_)), "{body}: {found:?}");
        };
        is_temporary(&error("InternalError"));
        is_temporary(&error("SomethingNew"));
        is_temporary("<CopyPartResult><ETag>\"9b");
        is_temporary("<CopyPartResult></CopyPartResult>");
        assert!(matches!(judge_answer(200, None), CopyVerdict::Temporary(_)));
        assert!(matches!(judge_answer(200, Some(b"")), CopyVerdict::RefusedByStore(_)));
        assert!(matches!(judge_answer(500, Some(made.as_bytes())), CopyVerdict::Temporary(_)));
    }

    #[test]
    fn what_passes_is_not_taken_for_what_a_store_cannot() {
        for (status, code) in [(500, ""), (503, "SlowDown"), (504, ""), (429, ""), (409, "OperationAborted")]
        {
            let found = judge_answer(status, Some(error(code).as_bytes()));
            assert!(matches!(found, CopyVerdict::Temporary(_)), "{status} {code}: {found:?}");
        }
        for (status, code) in [(501, ""), (405, ""), (400, "NotImplemented"), (501, "NotImplemented")] {
            let found = judge_answer(status, Some(error(code).as_bytes()));
            assert!(matches!(found, CopyVerdict::RefusedByStore(_)), "{status} {code}: {found:?}");
        }
        for (status, code) in [(400, "InvalidRequest"), (416, "InvalidRange"), (404, "NoSuchKey"), (403, "")]
        {
            let found = judge_answer(status, Some(error(code).as_bytes()));
            assert!(matches!(found, CopyVerdict::RefusedHere(_)), "{status} {code}: {found:?}");
        }
        for (status, code) in [(403, "RequestTimeTooSkewed"), (400, "ExpiredToken")] {
            let found = judge_answer(status, Some(error(code).as_bytes()));
            assert!(matches!(found, CopyVerdict::Failed(_)), "{status} {code}: {found:?}");
        }
        let gone = judge_answer(404, Some(error("NoSuchUpload").as_bytes()));
        assert_eq!(gone, CopyVerdict::UnknownMultipart);
    }
}

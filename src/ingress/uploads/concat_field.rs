//! `Upload-Concat` (tus 1.0, concatenation): what it asks for.

use schemas::{ids::UploadId, upload::UploadConcat};

use super::refusal::UploadRefusal;

/// Most parts of one upload.
pub(super) const PARTS_MAX: usize = 128;

/// What `Upload-Concat` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConcatRequest {
    /// Some bytes of a whole.
    Partial,
    /// The whole of these, with the header as it came.
    Final { part_ids: Vec<UploadId>, header: String },
}

impl ConcatRequest {
    /// Reads the header: `partial`, or `final;` and the addresses of the parts, absolute or not.
    pub(super) fn parse(text: &str) -> Result<Self, UploadRefusal> {
        if text == "partial" {
            return Ok(Self::Partial);
        }
        let addresses = text
            .strip_prefix("final;")
            .ok_or_else(|| Self::refusal("is partial, or final; and addresses"))?;
        let part_ids: Vec<UploadId> = addresses
            .split_ascii_whitespace()
            .take(PARTS_MAX + 1)
            .map(|address| {
                parse_address(address).ok_or_else(|| Self::refusal("names what is no upload of this service"))
            })
            .collect::<Result<_, _>>()?;
        match part_ids.len() {
            0 => Err(Self::refusal("names no part")),
            count if count > PARTS_MAX => Err(Self::refusal("names more than 128 parts")),
            _ => Ok(Self::Final { part_ids, header: text.to_owned() }),
        }
    }

    /// What is wrong with the header, or with an upload that it names.
    pub(super) const fn refusal(why: &'static str) -> UploadRefusal {
        UploadRefusal::Header { name: "Upload-Concat", why }
    }

    /// What the record keeps of it.
    pub(super) fn to_record(&self) -> UploadConcat {
        match self {
            Self::Partial => UploadConcat::Partial { final_upload_id: None },
            Self::Final { part_ids, header } => {
                UploadConcat::Final { part_ids: part_ids.clone(), header: header.clone() }
            }
        }
    }
}

/// The id in `/v1/uploads/{id}`. The host in front is whatever the client reaches us by.
fn parse_address(address: &str) -> Option<UploadId> {
    let (folder, id) = address.trim_end_matches('/').rsplit_once('/')?;
    folder.ends_with("/v1/uploads").then(|| id.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_absolute_or_not() {
        let id = UploadId::from_bytes([7; 16]);
        for (text, wanted) in [
            ("partial".to_owned(), Some(ConcatRequest::Partial)),
            (format!("final;/v1/uploads/{id}"), Some(vec![id])).map_final(),
            (format!("final;http://h:1/v1/uploads/{id} /v1/uploads/{id}/"), Some(vec![id, id])).map_final(),
            (format!("final; https://h/below/v1/uploads/{id}"), Some(vec![id])).map_final(),
            ("final;".into(), None),
            ("final".into(), None),
            ("Partial".into(), None),
            ("final;/v1/uploads/../x".into(), None),
            (format!("final;/v1/media/{id}"), None),
            (format!("final;{id}"), None),
            (format!("final;{}", format!("/v1/uploads/{id} ").repeat(PARTS_MAX + 1)), None),
        ] {
            assert_eq!(ConcatRequest::parse(&text).ok(), wanted, "{text}");
        }
    }

    trait MapFinal {
        fn map_final(self) -> (String, Option<ConcatRequest>);
    }

    impl MapFinal for (String, Option<Vec<UploadId>>) {
        fn map_final(self) -> (String, Option<ConcatRequest>) {
            let wanted = self.1.map(|part_ids| ConcatRequest::Final { part_ids, header: self.0.clone() });
            (self.0, wanted)
        }
    }
}

//! Why a file is rejected: every code, what it means, and what to do about it.
//!
//! This is the one place where they stand: the upload stage rejects with these, `/openapi.json` lists them as `x-rejections`, `/docs`
//! has an entry for each, and the command line says their advice.

use std::fmt;

/// What can be uploaded, by content, whatever the name says.
pub const TAKEN_FORMATS: &str = "MP4, MOV, MKV, WebM, MPEG-TS, MPEG-PS, AVI, FLV, MXF, Ogg and WMV; MP3, AAC, FLAC, WAV, AIFF, CAF and \
                                 WMA; GIF, PNG, APNG, JPEG and WebP";

macro_rules! rejection_codes {
    ($($name:ident $code:literal $title:literal $advice:literal;)*) => {
        /// Why a file was rejected. A code keeps its meaning for ever; readers take one that they don't know for a rejection all the same.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum RejectionCode {
            $(#[doc = $title] $name,)*
        }

        impl RejectionCode {
            /// All of them, by code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable code, such as `unsupported_type`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The same for people.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What to do about it, in sentences.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$name => $advice,)* }
            }
        }
    };
}

rejection_codes! {
    BrokerRefused "broker_refused" "The broker refused the verdict"
        "Ask the operator: the log of the upload stage has the broker's words; `streamgate dead redrive` tries again.";
    DigestMismatch "digest_mismatch" "The bytes do not have the digest that was declared"
        "Upload the file again, with the digest of what is sent.";
    EmbeddedArchive "embedded_archive" "The file is an archive as well"
        "Upload the medium without what is packed behind it.";
    Empty "empty" "The file has no bytes"
        "Upload a file that has some.";
    MediaChildCrashed "media_child_crashed" "Looking inside the file ended the media child each time"
        "Convert the file with another program, such as FFmpeg, and upload the result.";
    MediaChildFailed "media_child_failed" "The media child failed each time"
        "Ask the operator to look at its memory and log; `streamgate dead redrive` tries again.";
    MediaChildProtocol "media_child_protocol" "The media child broke its protocol each time"
        "Ask the operator whether streamgate and streamgate-media are of one version; `streamgate dead redrive` tries again.";
    MediaChildStalled "media_child_stalled" "Looking inside the file took too long each time"
        "Convert the file with another program, such as FFmpeg, and upload the result.";
    MediaCorrupt "media_corrupt" "The structure of the file contradicts itself"
        "Export or convert the file anew, and upload the result.";
    MediaEmpty "media_empty" "The file has no bytes"
        "Upload a file that has some.";
    MediaEncrypted "media_encrypted" "A track is encrypted, and its key is not here"
        "Upload the medium without protection (DRM).";
    MediaNoFrames "media_no_frames" "Nothing in the file could be decoded"
        "See whether it plays elsewhere; convert it with the program that does, and upload the result.";
    MediaNoStreams "media_no_streams" "The file has no picture and no sound"
        "Upload a file with a video, audio or image track.";
    MediaSpecMismatch "media_spec_mismatch" "A track that was seen before is not there any more"
        "Upload the file again.";
    MediaTooLong "media_too_long" "The medium is longer than is taken here"
        "Upload it in parts, or ask the operator to raise `media.limits.duration_max`.";
    MediaTooManyPackets "media_too_many_packets" "The file has more packets than are taken here"
        "Upload it in parts, or ask the operator to raise `media.limits.packets_max`.";
    MediaTooManyPixels "media_too_many_pixels" "The picture is larger than is taken here"
        "Make it smaller, or ask the operator to raise the limits of pixels in `media.limits`.";
    MediaTooManyStreams "media_too_many_streams" "The file has more tracks than are taken here"
        "Leave some out, or ask the operator to raise `media.limits.streams_max`.";
    MediaTruncated "media_truncated" "The file ends before anything of it can be played"
        "Upload the whole file: compare its size with that of the original.";
    MediaUnsupportedCodec "media_unsupported_codec" "The file is of a kind that is taken, but no decoder for its tracks is here"
        "Convert it, to H.264 and AAC for instance, and upload the result.";
    MediaUnsupportedFormat "media_unsupported_format" "The file is of no kind that is taken here"
        "Convert it, and upload the result.";
    MessageUndecodable "message_undecodable" "What was noted of the upload can't be read"
        "Upload the file again; the operator finds the message by `streamgate dead ls`.";
    ObjectNotFound "object_not_found" "The store does not have the file any more"
        "Upload the file again.";
    SizeMismatch "size_mismatch" "The store has another number of bytes than were received"
        "Upload the file again; the operator should look at the store.";
    SourceUnreadable "source_unreadable" "The file could not be read from the store"
        "Ask the operator to look at the store; `streamgate dead redrive` tries again.";
    TrailingData "trailing_data" "Something that is no part of the medium follows behind it"
        "Upload the medium without it: `detail` says where it begins.";
    Truncated "truncated" "The file ends inside its structure"
        "Upload the whole file: compare its size with that of the original.";
    UnsupportedType "unsupported_type" "The content is of no kind that is taken here"
        "Convert it, and upload the result.";
    Unverified "unverified" "The file could not be verified in several attempts"
        "Ask the operator: the log of the upload stage has the cause; `streamgate dead redrive` tries again.";
    UploadBytesLost "upload_bytes_lost" "The store lost bytes of the upload"
        "Upload the file again; the operator should look at the store.";
}

impl RejectionCode {
    /// The code that is spelled so.
    pub fn find(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.as_str() == code)
    }

    /// What to do about it where no file is at hand whose `detail` says what is taken: for the description of all codes.
    pub fn published_advice(self) -> String {
        match self {
            Self::UnsupportedType | Self::MediaUnsupportedFormat => {
                format!("{} Taken are, by content whatever the name says: {TAKEN_FORMATS}.", self.advice())
            }
            _ => self.advice().to_owned(),
        }
    }
}

impl fmt::Display for RejectionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq<str> for RejectionCode {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for RejectionCode {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_distinct_and_says_what_to_do() {
        let mut codes: Vec<&str> = RejectionCode::ALL.iter().map(|code| code.as_str()).collect();
        assert!(codes.is_sorted(), "{codes:?}");
        codes.dedup();
        assert_eq!(codes.len(), RejectionCode::ALL.len());
        for code in RejectionCode::ALL {
            assert!(code.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code}");
            assert!(!code.title().ends_with('.') && code.published_advice().ends_with('.'), "{code}");
            assert_eq!(RejectionCode::find(code.as_str()), Some(*code));
        }
        assert_eq!(RejectionCode::find("unknown"), None);
    }
}

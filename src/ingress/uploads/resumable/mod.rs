//! Resumable Uploads for HTTP (draft-ietf-httpbis-resumable-upload), on the addresses of tus: interop versions 3 to 8, of which
//! Apple's URLSession sends 3 (iOS 17), 5, 6 or 8 (iOS 26), and tus-js-client 5 or 6.
//!
//! A request without `Tus-Resumable` that names one of its fields is taken for one of these; an upload goes on in the protocol that
//! it was opened by. Versions differ in names and not in what happens: 3 says `Upload-Incomplete` for the opposite of
//! `Upload-Complete`, and up to 5 an append has no media type of its own.
//!
//! Interim responses (104) go to clients of HTTP/1.1 that name a version spoken here: others may take them for the answer.

mod answer;
mod fields;
mod requests;

pub(super) use answer::{ProgressSender, ResumableRequest, insert_offer};
pub(super) use requests::{append, create, read_offset};

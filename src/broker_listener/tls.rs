//! The certificate that programs see, read again when its file changes.
//!
//! Limits: the file is looked at once in [`LOOK_PERIOD`] at most.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    },
};

/// How often the file of the certificate is looked at, at most.
pub(super) const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Why a certificate can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A file can't be read, or is no PEM file of what it should hold.
    #[error("{} can't be used: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// There is no certificate in the file.
    #[error("{} holds no certificate", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// Certificate and key are not of each other, or the library does not know their kind.
    #[error("the certificate in {} and the key in {} can't be used together: {source}", certificate.display(), key.display())]
    Mismatch {
        /// File of the certificate.
        certificate: PathBuf,
        /// File of the key.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// A certificate, its key, and what connections are accepted with.
pub(super) struct TlsIdentity {
    certificate_file: PathBuf,
    key_file: PathBuf,
    pub(super) look_period: Duration,
    current: Mutex<CurrentIdentity>,
}

/// What was read last.
struct CurrentIdentity {
    changed_at: Option<SystemTime>,
    looked_at: Instant,
    acceptor: TlsAcceptor,
}

impl TlsIdentity {
    pub(super) fn open(certificate_file: &Path, key_file: &Path) -> Result<Self, CertificateError> {
        let changed_at = read_change_time(certificate_file);
        let acceptor = read_acceptor(certificate_file, key_file)?;
        Ok(Self {
            certificate_file: certificate_file.to_owned(),
            key_file: key_file.to_owned(),
            look_period: LOOK_PERIOD,
            current: Mutex::new(CurrentIdentity { changed_at, looked_at: Instant::now(), acceptor }),
        })
    }

    /// What the next connection is accepted with. A renewed certificate that can't be used leaves the last one in place.
    pub(super) async fn acceptor(self: Arc<Self>) -> TlsAcceptor {
        let last = {
            let mut current = self.current.lock();
            if current.looked_at.elapsed() < self.look_period {
                return current.acceptor.clone();
            }
            current.looked_at = Instant::now();
            current.acceptor.clone()
        };
        // Files may be on a disk that does not answer.
        tokio::task::spawn_blocking(move || self.look()).await.unwrap_or(last)
    }

    /// Reads the files again when the certificate has changed.
    fn look(&self) -> TlsAcceptor {
        let changed_at = read_change_time(&self.certificate_file);
        if changed_at.is_some() && changed_at != self.current.lock().changed_at {
            match read_acceptor(&self.certificate_file, &self.key_file) {
                Ok(acceptor) => {
                    tracing::info!(file = %self.certificate_file.display(), "the broker's certificate was renewed");
                    let mut current = self.current.lock();
                    (current.changed_at, current.acceptor) = (changed_at, acceptor);
                }
                // Its key may be written a moment later: a later connection looks again.
                Err(error) => tracing::warn!(%error, "the broker's renewed certificate can't be used"),
            }
        }
        self.current.lock().acceptor.clone()
    }
}

fn read_change_time(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

fn read_acceptor(certificate_file: &Path, key_file: &Path) -> Result<TlsAcceptor, CertificateError> {
    let file_error = |path: &Path, source| CertificateError::File { path: path.to_owned(), source };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate_file)
        .and_then(Iterator::collect)
        .map_err(|source| file_error(certificate_file, source))?;
    if certificates.is_empty() {
        return Err(CertificateError::Empty { path: certificate_file.to_owned() });
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|source| file_error(key_file, source))?;
    let mismatch = |source| CertificateError::Mismatch {
        certificate: certificate_file.to_owned(),
        key: key_file.to_owned(),
        source,
    };
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(mismatch)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Bytes between a program and the broker, encrypted or not.
pub(super) trait ByteStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> ByteStream for T {}

pub(super) async fn accept(
    acceptor: Option<TlsAcceptor>,
    stream: tokio::net::TcpStream,
) -> io::Result<Box<dyn ByteStream>> {
    match acceptor {
        Some(acceptor) => Ok(Box::new(acceptor.accept(stream).await?)),
        None => Ok(Box::new(stream)),
    }
}

//! A real S3 server (s3s-fs) in process, on a random port of the loopback, gone with its guard; stores that belong to no
//! installation.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    path::Path,
    sync::Arc,
};

use futures::future::BoxFuture;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use schemas::ids::StoreId;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::OnceCell, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;

use crate::{Config, Error, Identify, PART_BYTES_FLOOR, Root, Store};

const ACCESS_KEY: &str = "test-access-key";
const SECRET_KEY: &str = "test-secret-key";
const BUCKET: &str = "streamgate";

/// A running S3 server with one empty bucket.
#[derive(Debug)]
pub struct S3 {
    root: TempDir,
    endpoint: String,
    _server: AbortOnDropHandle<()>,
}

impl S3 {
    /// Starts the server; fails when no port or temporary folder can be had.
    pub async fn start() -> io::Result<Self> {
        let root = tempfile::tempdir()?;
        std::fs::create_dir(root.path().join(BUCKET))?;
        let files = FileSystem::new(root.path()).map_err(|e| io::Error::other(format!("{e:?}")))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let server = tokio::task::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                connections.spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // A client that goes away is no error of the server.
                    builder.serve_connection(TokioIo::new(socket), service).await.ok();
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { root, endpoint, _server: AbortOnDropHandle::new(server) })
    }

    /// URL of the bucket.
    pub fn url(&self) -> String {
        format!("s3://{BUCKET}")
    }

    /// Options to reach it.
    pub fn options(&self) -> BTreeMap<String, String> {
        [
            ("aws_endpoint", self.endpoint.as_str()),
            ("aws_access_key_id", ACCESS_KEY),
            ("aws_secret_access_key", SECRET_KEY),
            ("aws_region", "us-east-1"),
            ("aws_virtual_hosted_style_request", "false"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
    }

    /// Settings of a store in the bucket, with the smallest parts S3 allows.
    pub fn config(&self) -> Config {
        Config { options: self.options(), part_bytes_min: PART_BYTES_FLOOR, ..Config::at(self.url()) }
    }

    /// Files of multipart uploads that were neither completed nor aborted.
    pub fn multipart_files(&self) -> io::Result<usize> {
        let mut found = 0;
        for entry in std::fs::read_dir(self.root.path())? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            found += usize::from(name.starts_with(".upload_id-") || name.starts_with(".upload-"));
        }
        Ok(found)
    }

    /// Folder of the bucket on this host, to damage objects in tests.
    pub fn bucket_folder(&self) -> std::path::PathBuf {
        Path::new(self.root.path()).join(BUCKET)
    }
}

/// Opens a store for the one its marker says; one that has none is made and marked at its first use, and never again.
///
/// Fails as [`Store::open`].
pub fn open(config: Config) -> Result<Store, Error> {
    Store::open(config, Arc::new(Found::default()))
}

#[derive(Debug, Default)]
struct Found {
    store_id: OnceCell<StoreId>,
}

impl Identify for Found {
    fn identify<'a>(&'a self, store: &'a Store) -> BoxFuture<'a, Result<StoreId, Error>> {
        let found = async move {
            if let Some(found) = store.marker().await? {
                return Ok(found);
            }
            let fresh = StoreId::from_bytes(std::array::from_fn(|_| {
                RandomState::new().build_hasher().finish().to_le_bytes()[0]
            }));
            store.mark(fresh, Root::Make).await?;
            Ok(fresh)
        };
        Box::pin(async move { self.store_id.get_or_try_init(|| found).await.copied() })
    }
}
